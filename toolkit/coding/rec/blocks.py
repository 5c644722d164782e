"""Relative entropy coding of blocks of Gaussian dimensions: one index for many latents, so one overhead for all.

About 2.2 bits a block, where coding each dimension by itself costs 1.4 to 1.8 bits each; but the search goes through
2^(KL + t) candidates, and a small t biases the samples.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from toolkit.coding.hashing import Keys
from toolkit.coding.rec.gaussian import Target, mass, quantile
from toolkit.coding.rec.search import Choice, checked, fast_quantile

MAX_BITS = 24  # log2 of the candidates of a block
_NOISE, _COINS = 2, 3  # streams
_CHUNK = 1 << 12  # candidates scored at a time
_RANK_BITS = 24


class Blocks(NamedTuple):
    """Latents in groups that share an index each; made by `blocks`."""

    members: list[Tensor]  # int64, the latents of each block
    bits: list[int]  # log2 of the candidates of each block

    def targets(self, target: Target, latents: int) -> list[Target]:
        """Of rows x latents, row by row, those of each block."""
        wide = [x.view(-1, latents) for x in target]
        return [Target(*(x[:, some].flatten() for x in wide)) for some in self.members]

    def keys(self, seed: int) -> list[Keys]:
        """One set of candidates a block, which all rows share."""
        return [Keys.of(seed, torch.zeros((), dtype=torch.int64, device=s.device), s) for s in self.members]

    def rebuild(self, node: Tensor, seed: int) -> Tensor:
        """The samples of all blocks: int64 [rows, blocks] -> float64 [rows, latents]."""
        z = torch.empty(len(node), sum(map(len, self.members)), dtype=torch.float64, device=node.device)
        for some, keys, number in zip(self.members, self.keys(seed), node.T, strict=True):
            z[:, some] = rebuild_block(number, keys)
        return z


def blocks(kl: Tensor, most: float, margin: int = 5) -> Blocks:
    """Group latents into blocks of at most `most` bits of KL, each with `margin` more bits of candidates.

    kl: float [latents], the mean KL of each in bits. First fit, the fullest first; a latent with more than `most` has
    a block of its own. The same on every machine if the KLs are multiples of 1/64.
    """
    order = torch.argsort(kl.double(), descending=True, stable=True).tolist()
    members, sums = list[list[int]](), list[float]()
    for latent in order:
        need = float(kl[latent])
        fits = (i for i, total in enumerate(sums) if total + need <= most)
        i = next(fits, len(sums))
        if i == len(sums):
            members.append([])
            sums.append(0.0)
        members[i].append(latent)
        sums[i] += need
    bits = [min(math.ceil(total) + margin, MAX_BITS) for total in sums]
    return Blocks([torch.tensor(sorted(some), device=kl.device) for some in members], bits)


class Partitioned(NamedTuple):
    """What `partitioned` found for each of some rows."""

    rank: Tensor  # int64 [rows], at least 1: of the candidate among those of its bin
    bin: Tensor  # int64 [rows], in [0, 2**sum(splits)), equally likely beforehand
    visited: Tensor  # int64 [rows]


def ordered_random(target: Target, keys: Keys, bits: int) -> Choice:
    """Ordered random coding: the best of N = 2**bits candidates that all rows share; Choice.node is its number.

    Scores each candidate of the whole block with noise that grows with its number, so that small numbers are likelier
    than large ones while the sample's law stays that of N exponentially raced candidates (Theis, Yosri 2022,
    arXiv:2110.12805). target: of rows x m latents, row by row; keys: of the m latents, the row among them one for all.
    bits: the block's KL and 2 to 6 more; the law approaches the target's as it grows. Rebuild with `rebuild_block`.
    """
    m = len(keys.latent)
    rows = len(target.loc) // m
    if not 0 <= bits <= MAX_BITS or rows * m != len(target.loc):
        raise ValueError(
            f"ordered_random: expected bits from 0 to {MAX_BITS} and whole rows of {m} latents, got {bits} and "
            f"{len(target.loc)} targets; make smaller blocks"
        )
    loc, y = (x.view(rows, m) for x in target)
    # log r = constant + x (e^y D) + x^2 (1 - e^y) / 2, a product of matrices; in float32 where its terms stay small.
    precise = float(y.max()) > 7 if y.numel() else False
    kind = torch.float64 if precise else torch.float32
    constant = 0.5 * (y - torch.exp(y) * loc**2).sum(1)
    weight = torch.cat([torch.exp(y) * loc, -0.5 * torch.expm1(y)], 1).to(kind)
    best = torch.full((rows,), torch.inf, dtype=torch.float64, device=loc.device)
    node = torch.ones(rows, dtype=torch.int64, device=loc.device)
    arrivals = _arrivals(keys, bits)
    for first in range(0, 1 << bits, _CHUNK):
        number = torch.arange(first, min(first + _CHUNK, 1 << bits), device=loc.device) + 1
        x = _candidates(keys, number)
        features = torch.cat([x, x * x], 1).to(kind)
        score = torch.addmm(torch.log(arrivals[first : first + _CHUNK]).to(kind), weight, features.T, alpha=-1)
        least, where = score.min(1)
        found = least.double() - constant
        better = found < best
        best, node = torch.where(better, found, best), torch.where(better, number[where], node)
    return Choice(node, torch.full_like(node, 1 << bits))


def rebuild_block(node: Tensor, keys: Keys) -> Tensor:
    """The samples of a block: int64 [rows] -> float64 [rows, m]; only the candidates themselves are drawn."""
    return _candidates(keys, checked(node), exact=True)


def partitioned(target: Target, keys: Keys, splits: Tensor, bits: int) -> Partitioned:
    """Space partitioning: candidates are drawn near the target, each named by its bin and its rank in the bin.

    Dimension d is cut into 2**splits[d] bins of equal mass under P; candidates come from the mixture that has Q's mass
    in each bin and P's shape inside, so a block needs sum(splits) fewer doublings of candidates, and pays about a bit
    more overhead (He, Flamich, Hernandez-Lobato 2024, arXiv:2405.12203). target: of rows x m latents; keys: of the m
    latents; splits: int64 [m], about the mean KL of each in bits. Rebuild with `rebuild_partitioned`.
    """
    m = len(keys.latent)
    rows = len(target.loc) // m
    if int(splits.sum()) + _RANK_BITS > 60 or not 0 <= bits <= MAX_BITS or rows * m != len(target.loc):
        raise ValueError(
            f"partitioned: expected splits that sum to at most {60 - _RANK_BITS}, bits to at most {MAX_BITS}, and "
            f"whole rows of {m} latents, got {int(splits.sum())}, {bits} and {len(target.loc)} targets; make "
            "smaller blocks"
        )
    count = 1 << bits
    cells = torch.ones_like(splits) << splits
    arrivals = torch.log(_arrivals(keys, bits))
    numbers = torch.arange(count, device=splits.device) + 1
    found = []
    for i in range(rows):
        mine = Target(*(x.view(rows, m)[i] for x in target))
        # The bin of a draw from Q has Q's mass; only the bin is used, the position in it is drawn again from P.
        coins = Keys(keys.seed, (keys.row * 0 + i).repeat(count), keys.latent.repeat(count))
        u, _ = coins.uniforms(numbers.repeat_interleave(m), _COINS)
        draw = mine.loc + mine.scale * fast_quantile(u, 1 - u).view(count, m)
        place = torch.minimum((torch.special.ndtr(draw) * cells).long(), cells - 1)  # int64 [count, m]
        name = _joined(place, splits)
        rank = _rank(name)
        x = _in_bins(keys, rank, name, place, cells)
        edges = (fast_quantile((place + k) / cells, 1 - (place + k) / cells) for k in (0, 1))
        low, high = ((e - mine.loc) / mine.scale for e in edges)
        correction = torch.log(mass(low, high).clamp(min=1e-300) * cells)
        score = arrivals - (mine.log_ratio(x) - correction).sum(1)
        found.append(score.argmin())
        found[-1] = torch.stack([rank[found[-1]], name[found[-1]]])
    rank, name = torch.stack(found, 1) if found else numbers.new_zeros(2, 0)
    return Partitioned(rank, name, torch.full_like(rank, count))


def rebuild_partitioned(rank: Tensor, name: Tensor, keys: Keys, splits: Tensor) -> Tensor:
    """The samples of a block from ranks and bins: int64 [rows] twice -> float64 [rows, m]."""
    shift = splits.flip(0).cumsum(0).flip(0) - splits
    cells = torch.ones_like(splits) << splits
    return _in_bins(keys, rank, name, (name[:, None] >> shift) & (cells - 1), cells, exact=True)


def _candidates(keys: Keys, number: Tensor, exact: bool = False) -> Tensor:
    """Draws from P: int64 [k] -> float64 [k, m]."""
    m, k = len(keys.latent), len(number)
    wide = Keys(keys.seed, keys.row.repeat(k), keys.latent.repeat(k))
    u, _ = wide.uniforms(number.repeat_interleave(m))
    return (quantile if exact else fast_quantile)(u, 1 - u).view(k, m)


def _arrivals(keys: Keys, bits: int) -> Tensor:
    """Noise of ordered random coding: the ordered version of 2**bits exponential variables of one rate, float64."""
    count = 1 << bits
    number = torch.arange(count, device=keys.latent.device)
    one = Keys(keys.seed, keys.row[:1].expand(count), keys.latent[:1].expand(count))
    _, v = one.uniforms(number + 1, _NOISE)
    return (-torch.log(v) * count / (count - number)).cumsum(0)


def _joined(place: Tensor, splits: Tensor) -> Tensor:
    """One number for the bins of all dimensions: int64 [k, m] -> int64 [k]."""
    return (place << (splits.flip(0).cumsum(0).flip(0) - splits)).sum(1)


def _rank(name: Tensor) -> Tensor:
    """1 for the first of each name, 2 for the second, ...: int64 [k] -> int64 [k]."""
    order = torch.argsort(name, stable=True)
    ordered = name[order]
    start = torch.searchsorted(ordered, ordered)  # first place of the same name
    rank = torch.empty_like(name)
    rank[order] = torch.arange(len(name), device=name.device) - start + 1
    return rank


def _in_bins(keys: Keys, rank: Tensor, name: Tensor, place: Tensor, cells: Tensor, exact: bool = False) -> Tensor:
    """Draws from P inside of bins: int64 [k], [k], [k, m], [m] -> float64 [k, m]."""
    k, m = place.shape
    wide = Keys(keys.seed, keys.row.repeat(k), keys.latent.repeat(k))
    u, _ = wide.uniforms(((name << _RANK_BITS) + rank).repeat_interleave(m))
    u = u.view(k, m)
    return (quantile if exact else fast_quantile)((place + u) / cells, (cells - 1 - place + (1 - u)) / cells)
