"""Codes for the nodes of relative entropy coding: learned histograms of depths, zeta, fixed length, and paths.

A node at depth d is one of 2^d that are about equally likely beforehand: its name is d, and then d raw bits. Saying d
is where the overhead of the literature's zeta codes lies; a learned histogram says it in 1.4 to 3.2 bits.
"""

from __future__ import annotations

from decimal import Decimal, localcontext

import torch
from torch import Tensor

from toolkit.coding import frequencies
from toolkit.coding.codecs import Codec, bernoulli, raw
from toolkit.coding.hashing import Keys
from toolkit.coding.message import Message
from toolkit.coding.rec.search import MAX_DEPTH, depth_of, walk
from toolkit.coding.tables import tables

DEPTHS = MAX_DEPTH + 1
DEPTH_BITS = 16  # bits of a depth's frequency: one count for each of 57 depths costs 0.001 bits
_CHUNK = 16  # raw bits a symbol
_PATH = 24  # bits of the probability of a turn


def count_depths(node: Tensor) -> Tensor:
    """How often each depth occurs for each latent: int64 [rows, latents] >= 1 -> int64 [latents, DEPTHS]."""
    latents = node.shape[1]
    place = depth_of(node) + DEPTHS * torch.arange(latents, device=node.device)
    return torch.bincount(place.flatten(), minlength=DEPTHS * latents).view(latents, DEPTHS)


def learned(counts: Tensor) -> Tensor:
    """Frequencies of depths from counts: int64 [latents, DEPTHS] >= 0 -> int64, each row summing to 2**DEPTH_BITS.

    No depth has less than one count. Counts must stay below 2**40.
    """
    if counts.dim() != 2 or counts.shape[1] != DEPTHS or counts.is_floating_point():
        raise ValueError(
            f"learned: expected int64 counts of shape [latents, {DEPTHS}], got {counts.dtype} {list(counts.shape)}; "
            "make them with count_depths"
        )
    return frequencies.of_counts(
        16 * counts.long() + 1, DEPTH_BITS
    )  # 1/16 of an occurrence for depths that did not occur


def learned_nodes(counts: Tensor) -> Tensor:
    """Frequencies of the nodes of shallow trees from counts: int64 [latents, 2**(depth + 1)] -> int64 of that shape."""
    size = counts.shape[-1]
    if counts.dim() != 2 or counts.is_floating_point() or not 2 <= size <= 1 << (DEPTH_BITS - 2):
        raise ValueError(
            f"learned_nodes: expected int64 counts [latents, nodes] of at most {1 << (DEPTH_BITS - 2)} nodes, got "
            f"{counts.dtype} {list(counts.shape)}; use a smaller depth"
        )
    return frequencies.of_counts(16 * counts.long() + 1, DEPTH_BITS)


def zeta(exponent: float, latents: int = 1, device: torch.device | str = "cpu") -> Tensor:
    """Frequencies of depths by p(d) ~ (d + 1)^-exponent, the literature's code: int64 [latents, DEPTHS].

    exponent: above 1; 1 + 1 / (KL + log2(e) / e + 1) for KL in bits in Li, El Gamal 2018, arXiv:1701.02827.
    """
    if not exponent > 1:
        raise ValueError(f"zeta: expected an exponent above 1, got {exponent}; the sum of a zeta code diverges at 1")
    with localcontext() as context:  # decimals, because pow of floats is not the same everywhere
        context.prec = 40
        mass = [round(Decimal(d + 1) ** -Decimal(exponent) * (1 << 38)) for d in range(DEPTHS)]
    return frequencies.of_counts(torch.tensor(mass, device=device)[None], DEPTH_BITS).expand(latents, DEPTHS)


def node_bits(node: Tensor, freqs: Tensor, which: Tensor) -> Tensor:
    """What `node_codec` spends on each node, in bits: int64 [...] -> float64 [...]."""
    depth = depth_of(node)
    return depth + DEPTH_BITS - freqs[which, depth].double().log2()


def node_codec(freqs: Tensor, which: Tensor, valid: Tensor | None = None) -> Codec:
    """Codec of nodes with a table of depths for each latent: the depth under its table, then that many raw bits.

    freqs: int64 [tables, DEPTHS] of `learned` or `zeta`; which: int64, the table of each node, in the nodes' shape;
    valid: bool, the same shape; where False nothing is coded, and pop returns node 1.
    """
    valid = torch.ones_like(which, dtype=torch.bool) if valid is None else valid
    if int(freqs.min()) < 1 or bool((freqs.sum(1) != 1 << DEPTH_BITS).any()) or freqs.shape[1] != DEPTHS:
        raise ValueError(
            f"node_codec: expected [tables, {DEPTHS}] frequencies of at least 1 that sum to {1 << DEPTH_BITS}, got "
            f"shape {list(freqs.shape)}, least {int(freqs.min())}; make them with learned or zeta"
        )
    depths = tables(freqs, DEPTH_BITS).codec(which, valid)

    def push(message: Message, node: Tensor) -> None:
        _check(node, valid, 1 << DEPTHS)
        node = torch.where(valid, node, 1)
        depth = depth_of(node)
        _raw(depth, valid).push(message, node - (torch.ones_like(node) << depth))
        depths.push(message, depth)

    def pop(message: Message) -> Tensor:
        depth = depths.pop(message)
        return _raw(depth, valid).pop(message) + (torch.ones_like(depth) << depth)

    return Codec(push, pop)


def codebook(freqs: Tensor, which: Tensor, valid: Tensor | None = None) -> Codec:
    """Codec of nodes of shallow trees under a table of the nodes themselves, for points that all rows share.

    freqs: int64 [tables, 2**(depth + 1)] of `learned_nodes`; which, valid: as in `node_codec`.
    """
    valid = torch.ones_like(which, dtype=torch.bool) if valid is None else valid
    inner = tables(freqs, DEPTH_BITS).codec(which, valid)

    def push(message: Message, node: Tensor) -> None:
        _check(node, valid, freqs.shape[1])
        inner.push(message, node)

    return Codec(push, lambda message: torch.where(valid, inner.pop(message), 1))


def fixed_length(depth: int, like: Tensor, valid: Tensor | None = None) -> Codec:
    """Codec of nodes of a tree of limited depth (DAD*) in depth + 1 bits each; like: any tensor of the nodes' shape."""
    if not 0 <= depth <= MAX_DEPTH:
        raise ValueError(f"fixed_length: expected a depth from 0 to {MAX_DEPTH}, got {depth}")
    valid = torch.ones(like.shape, dtype=torch.bool, device=like.device) if valid is None else valid
    codec = _raw(torch.full(like.shape, depth + 1, device=like.device), valid)

    def push(message: Message, node: Tensor) -> None:
        _check(node, valid, 2 << depth)
        codec.push(message, torch.where(valid, node, 0))

    def pop(message: Message) -> Tensor:
        return torch.where(valid, codec.pop(message), 1)

    return Codec(push, pop)


def path_codec(freqs: Tensor, which: Tensor, keys: Keys) -> Codec:
    """Codec of nodes of trees that split cells at their points: the depth, then each turn with P's share of that side.

    freqs, which: as in `node_codec`; keys: of the search, in the order of the nodes, flattened.
    """
    valid = torch.ones_like(which, dtype=torch.bool)
    depths = tables(freqs, DEPTH_BITS).codec(which, valid)

    def push(message: Message, node: Tensor) -> None:
        _check(node, valid, 1 << DEPTHS)
        node = node.flatten()
        depth = depth_of(node)
        _, shares = walk(node, keys)
        for level in reversed(range(len(shares))):
            bit = (node >> (depth - level - 1).clamp(min=0)) & 1
            _turn(shares[level], level < depth).push(message, torch.where(level < depth, bit, 0))
        depths.push(message, depth.reshape(which.shape))

    def pop(message: Message) -> Tensor:
        depth = depths.pop(message).flatten()
        node = torch.ones_like(depth)
        for level in range(int(depth.max()) if depth.numel() else 0):
            # Whatever lies below, the share of a node depends on its own number alone.
            share, _ = keys.uniforms(node)
            bit = _turn(share, level < depth).pop(message)
            node = torch.where(level < depth, 2 * node + bit, node)
        return node.reshape(which.shape)

    return Codec(push, pop)


def path_bits(node: Tensor, freqs: Tensor, which: Tensor, keys: Keys) -> Tensor:
    """What `path_codec` spends on each node, in bits, but for rounding: int64 [...] -> float64 [...]."""
    flat = node.flatten()
    depth = depth_of(flat)
    bits = DEPTH_BITS - freqs[which.flatten(), depth].double().log2()
    for level, share in enumerate(walk(flat, keys)[1]):
        right = (flat >> (depth - level - 1).clamp(min=0)) & 1 == 1
        bits = bits - torch.where(level < depth, torch.where(right, 1 - share, share), 1).log2()
    return bits.reshape(node.shape)


def _raw(bits: Tensor, valid: Tensor) -> Codec:
    """Codec of equally likely int64 symbols in [0, 2**bits), each with its own number of bits."""
    parts = range(-(-int(bits.max()) // _CHUNK) if bits.numel() else 0)

    def part(i: int) -> Codec:
        return raw((bits - _CHUNK * i).clamp(0, _CHUNK), valid, _CHUNK)

    def push(message: Message, x: Tensor) -> None:
        for i in reversed(parts):
            part(i).push(message, (x >> (_CHUNK * i)) & ((1 << _CHUNK) - 1))

    def pop(message: Message) -> Tensor:
        x = torch.zeros_like(bits)
        for i in parts:
            x = x | part(i).pop(message) << (_CHUNK * i)
        return x

    return Codec(push, pop)


def _turn(share: Tensor, valid: Tensor) -> Codec:
    """Codec of 0 with probability `share`, else 1: float64 [n] in (0, 1)."""
    total = 1 << _PATH
    left = 1 + (share * (total - 2)).floor().long()
    return bernoulli(total - left, _PATH, valid)


def _check(node: Tensor, valid: Tensor, end: int) -> None:
    if node.shape != valid.shape:
        raise ValueError(f"push: expected nodes of shape {list(valid.shape)}, got {list(node.shape)}")
    coded = node[valid]
    if coded.numel() and (int(coded.min()) < 1 or int(coded.max()) >= end):
        raise ValueError(
            f"push: expected nodes in [1, {end}), got {int(coded.min())} to {int(coded.max())}; limit the search's "
            "depth or use node_codec"
        )
