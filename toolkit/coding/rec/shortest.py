"""Nodes that are no samples but make lossless codes short: the least sum of a node's name and what it leaves to say.

If Q is the posterior of a latent given x, then -log2 p(x | z) is -log2 r(z) and a constant, so the node with the least
bits - log2 r is the one with which node and x together are shortest. What an encoder chooses is its own affair: any
node decodes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from toolkit.coding.hashing import Keys
from toolkit.coding.rec.blocks import rebuild_block
from toolkit.coding.rec.gaussian import Target
from toolkit.coding.rec.index import DEPTH_BITS
from toolkit.coding.rec.search import MAX_DEPTH, between, depth_of, rebuild_dyadic

_BELOW, _BESIDE = 5, 1  # what `shortest` tries: levels below the KL, cells on each side of the mean's
_ROWS = 64  # searched at a time


def shortest(target: Target, keys: Keys, freqs: Tensor, which: Tensor) -> Tensor:
    """Nodes of the dyadic tree with the least `node_bits` - log2 r, of those tried.

    At each depth the nodes about Q's mean are tried. which: int64 [n], as in `node_codec`; returns
    int64 [n]; rebuild with `rebuild_dyadic`.
    """
    last = min(MAX_DEPTH, int(target.kl().max().clamp(min=0)) + _BELOW) if target.loc.numel() else 0
    best = torch.full_like(target.loc, torch.inf)
    node = torch.ones_like(which)
    for depth in range(last + 1):
        count = 1 << depth
        centre = (torch.special.ndtr(target.loc) * count).long()
        for step in range(-_BESIDE, _BESIDE + 1) if depth else (0,):
            offset = (centre + step).clamp(0, count - 1)
            u, _ = keys.uniforms(count + offset)
            x = between(offset + u, count - offset - u, 1 / count)
            bits = depth + DEPTH_BITS - freqs[which, depth].double().log2()
            cost = bits - target.log_ratio(x) / math.log(2)
            better = cost < best
            best, node = torch.where(better, cost, best), torch.where(better, count + offset, node)
    return node


def shortest_shared(target: Target, seed: int, freqs: Tensor) -> Tensor:
    """As `shortest`, for points that all rows share and the cost of `codebook`: every node is tried.

    target: of rows x latents, row by row; freqs: int64 [latents, nodes]; returns int64 [rows * latents]; rebuild with
    `rebuild_dyadic` and keys whose rows are 0.
    """
    latents, size = freqs.shape
    number = torch.arange(size, device=freqs.device).clamp(min=1)
    row = torch.zeros((), dtype=torch.int64, device=freqs.device)
    keys = Keys.of(seed, row, torch.arange(latents, device=freqs.device)[:, None])
    wide = Keys(seed, keys.row.repeat_interleave(size), keys.latent.repeat_interleave(size))
    x = rebuild_dyadic(number.repeat(latents), wide).view(latents, size)
    bits = DEPTH_BITS - freqs.double().log2()
    bits[:, 0] = torch.inf  # there is no node 0
    found = [torch.zeros(0, dtype=torch.int64, device=freqs.device)]
    for loc, y in zip(*(part.view(-1, latents, 1).split(_ROWS) for part in target), strict=True):
        found.append((bits - Target(loc, y).log_ratio(x) / math.log(2)).argmin(2).flatten())
    return torch.cat(found)


def shortest_block(target: Target, keys: Keys, freqs: Tensor, bits: int, count: int = 1) -> Tensor:
    """As `shortest`, for a block of latents that share an index: the `count` best of 2**bits candidates, best first.

    target: of rows x m latents, row by row; keys: of the m latents, the row among them one for all; freqs:
    int64 [DEPTHS], of the block's indices; returns int64 [rows, count]; rebuild with `rebuild_block`.
    """
    loc, y = (x.view(-1, len(keys.latent)) for x in target)
    number = torch.arange(1 << bits, device=loc.device) + 1
    x = rebuild_block(number, keys)
    depth = depth_of(number)
    cost = (depth + DEPTH_BITS - freqs[depth].double().log2()) * math.log(2)
    # log r = constant + x (e^y D) + x^2 (1 - e^y) / 2: see `ordered_random`.
    weight = torch.cat([torch.exp(y) * loc, -0.5 * torch.expm1(y)], 1)
    features = torch.cat([x, x * x], 1)
    precise = float(y.max()) > 7 if y.numel() else False
    kind = torch.float64 if precise else torch.float32
    cost, weight, features = cost.to(kind), weight.to(kind), features.to(kind)
    found = [torch.zeros(0, count, dtype=torch.int64, device=loc.device)]
    for part in weight.split(_ROWS):
        score = torch.addmm(cost, part, features.T, alpha=-1)
        found.append(number[score.topk(min(count, len(number)), 1, largest=False).indices])
    return torch.cat(found)
