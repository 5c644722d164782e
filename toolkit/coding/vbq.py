"""Variational Bayesian quantisation (VBQ): code points on a dyadic grid, a rate-distortion search, tables for ANS.

A value with a Gaussian posterior is moved to a code point nearby that is cheap to name: as far as the posterior allows
(Yang, Bamler, Mandt 2020, arXiv:2002.08158). `plain` does as published; `refined` learns its points. The decoder needs
neither posterior nor lambda nor any distribution function in floats: code points and integer frequencies travel in the
file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit.coding import frequencies
from toolkit.coding.codecs import Codec
from toolkit.coding.kernels import Order
from toolkit.coding.tables import tables as ready

DEPTH = 10  # longest code of a grid's point, bits; 2047 points
CODE_BITS = 14  # bits of a frequency: 16384 counts for the few tens of points that a context uses
CHUNK = 1 << 14  # values searched at once: the distances to all code points stay in cache
ENTRY_BITS = 40.0  # of a code point in the file: 32 of its value, about 8 of its frequency
TABLE_BITS = 10.0  # of each further frequency in the file
START = 0.5  # distance of the code points that refinement begins with, of the best at a high rate: some will die out
LEARN_VALUES = 1 << 18  # from which code points and tables are learnt, of more
LAST_ROUNDS = 2  # of refinement, with all values

Quantile = Callable[[Tensor], Tensor]  # float64 [points] in (0, 1) -> float [points] or [channels, points]


def gaussian(std: float, mean: float = 0.0) -> Quantile:
    """Quantile function of a Gaussian. Raises ValueError for a std that is not above 0."""
    if not std > 0 or not math.isfinite(std + mean):
        raise ValueError(f"expected a finite mean and a std above 0, got {mean} and {std}; are all values the same?")
    return lambda xi: mean + std * torch.special.ndtri(xi)


def empirical(values: Tensor) -> Quantile:
    """Quantile function of float [n] values, or of each channel of [channels, n], linear between order statistics."""
    ordered = values.double().sort(-1).values
    n = ordered.shape[-1]

    def quantile(xi: Tensor) -> Tensor:
        place = (xi.to(ordered.device) * n - 0.5).clamp(0, n - 1)
        low = place.floor().long()
        below, above = ordered[..., low], ordered[..., (low + 1).clamp(max=n - 1)]
        return below + (above - below) * (place - low)

    return quantile


def dyadic_grid(quantile: Quantile, depth: int = DEPTH) -> Tensor:
    """Code points F^-1((2k + 1) / 2^(l + 1)) of lengths l = 0 .. depth as a tree: children of n are 2n + 1, 2n + 2.

    Returns float32 [..., 2^(depth + 1) - 1], breadth first (section 3 of the paper). Raises ValueError if the points
    are not finite, or not in order: `quantile` must be non-decreasing.
    """
    levels = [(2 * torch.arange(1 << n, dtype=torch.float64) + 1) / (2 << n) for n in range(depth + 1)]
    points = quantile(torch.cat(levels)).float()
    ordered = points[..., torch.cat(levels).argsort().to(points.device)]
    if not bool(points.isfinite().all()) or bool((ordered.diff(dim=-1) < 0).any()):
        raise ValueError("expected a quantile function with finite, non-decreasing values, got another; check its data")
    return points


def lengths(depth: int = DEPTH, device: torch.device | str = "cpu") -> Tensor:
    """Code length in bits of each point of a grid: int64 [2^(depth + 1) - 1]."""
    return torch.cat([torch.full((1 << n,), n, device=device) for n in range(depth + 1)])


def search(mu: Tensor, sigma: Tensor, grid: Tensor, lam: float, costs: Tensor | None = None) -> Tensor:
    """The point n that minimises (grid[n] - mu)^2 / (2 sigma^2) + lam * costs[length of n], exactly.

    mu, sigma: float [...], with grid float [points]; or [channels, ...] with [channels, points]. costs: float
    [depth + 1] bits of each length (default: the length itself), of any order. Returns int64, the shape of mu; of
    equal points the first in the tree. Raises ValueError for a negative lam, a sigma that is not above 0, or values
    that are not finite.

    Only the two points of each length on either side of mu can be best. Where costs do not fall with the length one is
    enough, the point that the bisection for mu visits: the other lies behind a shorter point.
    """
    check(mu, sigma, lam)
    depth = (grid.shape[-1] + 1).bit_length() - 2
    if grid.shape[-1] != (2 << depth) - 1 or grid.dim() > 2 or (grid.dim() == 2 and grid.shape[0] != mu.shape[0]):
        raise ValueError(
            f"search: expected a grid of [2^(depth + 1) - 1] points, or of as many for each of mu's first axis, got "
            f"{list(grid.shape)} for mu of {list(mu.shape)}"
        )
    costs = torch.arange(depth + 1.0) if costs is None else costs.float().cpu()
    if costs.shape != (depth + 1,):
        raise ValueError(f"search: expected costs of {depth + 1} lengths, got shape {list(costs.shape)}")
    both_sides = bool((costs.diff() < 0).any())
    base = torch.zeros(mu.shape, dtype=torch.int64, device=mu.device)
    if grid.dim() == 2:
        base += (torch.arange(len(mu), device=mu.device) * grid.shape[1]).view(-1, *[1] * (mu.dim() - 1))
    size = min(4 * CHUNK, max(mu.numel(), 1))
    short = -mu.numel() % size
    m, b = (F.pad(x.flatten(), (0, short)).view(-1, size) for x in (mu, base))
    s = F.pad(sigma.expand_as(mu).flatten(), (0, short), value=1.0).view(-1, size)
    points, prices = grid.flatten(), (lam * costs).to(mu.device)
    found = [_walk(m[i], s[i], b[i], points, prices, depth, both_sides) for i in range(len(m))]
    return torch.cat([*found, base.new_zeros(0)])[: mu.numel()].view(mu.shape)


def _walk(
    mu: Tensor, sigma: Tensor, base: Tensor, grid: Tensor, prices: Tensor, depth: int, both_sides: bool
) -> Tensor:
    weight = 0.5 / sigma.square()
    node = torch.zeros_like(base)
    pick = torch.zeros_like(base)
    best = torch.full_like(mu, math.inf)
    for n in range(depth + 1):
        point = grid[base + node]
        right = mu > point
        candidates = [node]
        if both_sides:
            side = (node + 2 * right - 1).clamp((1 << n) - 1, (2 << n) - 2)
            candidates = [torch.minimum(node, side), torch.maximum(node, side)]
        for candidate in candidates:
            cost = (grid[base + candidate] - mu).square() * weight + prices[n]
            better = cost < best  # strict: of equal costs the first stays
            best = torch.where(better, cost, best)
            pick = torch.where(better, candidate, pick)
        node = 2 * node + 1 + right
    return pick


class Codebook(NamedTuple):
    """What a decoder of one group of rows needs: code points, which table each dimension uses, and the tables."""

    points: Tensor  # float32 [m]
    context: Tensor  # int64 [d], the table of each dimension
    freqs: (
        Tensor  # int64 [tables, m], each row sums to 2**CODE_BITS; 0 for points that the table's dimensions never use
    )

    @property
    def coded(self) -> Tensor:
        """The dimensions whose table has more than one symbol, int64 [k]: the others take no bits."""
        return ((self.freqs > 0).sum(1) > 1)[self.context].nonzero()[:, 0]

    def bits(self, symbols: Tensor) -> float:
        """What int64 [n, d] symbols cost under the integer frequencies, bits."""
        used = torch.stack([count(symbols[:, self.context == t], len(self.points)) for t in range(len(self.freqs))])
        return float(-(used * (self.freqs.clamp(min=1).double() / (1 << CODE_BITS)).log2()).sum())

    def codec(self, context: Tensor, valid: Tensor, order: Order = Order.SIDE_BY_SIDE) -> Codec:
        """Codec of symbols under the tables that `context` names; see `tables.Tables.codec`."""
        return ready(self.freqs, CODE_BITS).codec(context, valid, order)


def plain(mu: Tensor, sigma: Tensor, lam: float) -> tuple[Codebook, Tensor]:
    """VBQ of float [n, d] as published for words: a global Gaussian prior of mean 0, one static table.

    Returns the codebook and int64 [n, d] symbols. Section 4.2 of the paper: std = sqrt(mean(mu^2)).
    """
    grid = dyadic_grid(gaussian(float(mu.double().square().mean().sqrt()))).to(mu.device)
    points, symbols = used(grid, search(mu, sigma, grid, lam))
    context = torch.zeros(mu.shape[1], dtype=torch.int64, device=mu.device)
    return Codebook(points, context, tables(count(symbols, len(points))[None])), symbols


def refined(
    mu: Tensor,
    sigma: Tensor,
    lam: float,
    rounds: int = 8,
    contexts: int = 16,
    times: float = 1.0,
) -> tuple[Codebook, Tensor]:
    """Iterated rate-distortion quantisation of float [n, d] with the true rate -log2 p(point | dimension).

    Starts from `evenly`. Each round moves code points to the centroids of their values, weighted by 1 / sigma^2, lets
    dimensions that use them alike share a table, and chooses the best point for each value anew; points that do not
    pay for their entries in the tables die out. Of many rows all but the last rounds see a part, evenly spread. At most
    `contexts` tables. times: rows that each row stands for, where the rows are themselves a part. Returns the codebook
    and int64 [n, d] symbols. Entropy-constrained quantisation: Chou, Lookabaugh, Gray 1989, doi:10.1109/29.17498.
    """
    step = max(1, mu.numel() // LEARN_VALUES) if rounds > LAST_ROUNDS else 1
    weight = 0.5 / sigma.square()
    part, part_weight, scale = mu[::step], weight[::step], times * len(mu) / len(mu[::step])
    points, symbols = evenly(part, sigma[::step], lam)
    for left in reversed(range(rounds)):
        points = _centroids(part, part_weight, symbols, points)
        histogram = scale * _histograms(symbols, len(points)).double()
        context = _share(histogram, contexts)
        if left == LAST_ROUNDS - 1:
            part, part_weight, scale = mu, weight, times
        symbols = _nearest(part, part_weight, points, context, _pool(histogram, context), lam)
        points, symbols = _drop_unused(points, symbols)
    histogram = _histograms(symbols, len(points))
    context = _share(times * histogram, contexts)
    # Points last: moving them changes no symbol's rate, and brings each nearer to what it stands for.
    points = _centroids(mu, weight, symbols, points)
    return Codebook(points, context, tables(_pool(histogram, context))), symbols


def evenly(mu: Tensor, sigma: Tensor, lam: float) -> tuple[Tensor, Tensor]:
    """Multiples of a step as code points, and the nearest of each value; or what `search` finds if they are too many.

    The step is START of that with s^2 / (24 sigma^2) = lam / (2 ln 2): the distortion of step s, where a bit more saves
    2 ln 2 of it and costs lam (high rate, Gish, Pierce 1968, doi:10.1109/TIT.1968.1054193).
    """
    step = START * math.sqrt(24 * lam / (2 * math.log(2)) / float(sigma.double().pow(-2).mean()))
    low, high = float(mu.min()), float(mu.max())
    if not high - low < step * (2 << DEPTH):
        grid = dyadic_grid(empirical(mu.flatten()))
        return used(grid, search(mu, sigma, grid, lam))
    symbols = (mu / step).round().long()
    first, last = int(symbols.min()), int(symbols.max())
    return _drop_unused(torch.arange(first, last + 1, device=mu.device) * step, symbols - first)


def used(grid: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
    """The points of a grid [points] that int64 nodes name, increasing, and the nodes as numbers of these."""
    return _drop_unused(*_ordered(grid, nodes))


def _ordered(grid: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
    points, inverse = torch.unique(grid, return_inverse=True)  # ties of an empirical grid become one point
    return points, inverse[nodes]


def _drop_unused(points: Tensor, symbols: Tensor) -> tuple[Tensor, Tensor]:
    alive = count(symbols, len(points)) > 0
    return points[alive], (alive.cumsum(0) - 1)[symbols]


def count(symbols: Tensor, m: int) -> Tensor:
    """How often each of m symbols occurs: int64 [m]."""
    return torch.bincount(symbols.flatten(), minlength=m)


def _histograms(symbols: Tensor, m: int) -> Tensor:
    """How often each dimension uses each of m points: int64 [d, m]."""
    d = symbols.shape[1]
    return count(symbols + m * torch.arange(d, device=symbols.device), d * m).view(d, m)


def _centroids(mu: Tensor, weight: Tensor, symbols: Tensor, points: Tensor) -> Tensor:
    """The weighted mean of the values of each point; float32 [m]; points without values stay."""
    flat = symbols.flatten()
    mass = torch.zeros_like(points, dtype=torch.float64).index_add(0, flat, weight.double().flatten())
    moment = torch.zeros_like(mass).index_add(0, flat, (weight.double() * mu).flatten())
    return torch.where(mass > 0, moment / mass.clamp(min=1e-300), points.double()).float()


def _share(histogram: Tensor, contexts: int) -> Tensor:
    """The table of each dimension, at most `contexts` in all, so that symbols and tables cost least: int64 [d].

    Lloyd's algorithm on histograms int64 [d, m], where the distance is code length, from dimensions in the order of
    their entropies; for each number of tables that halves the one before.
    """
    p = histogram.double()
    order = -(p * (p / p.sum(1, keepdim=True)).clamp(min=1e-12).log2()).sum(1)
    best, least = order.new_zeros(len(p), dtype=torch.int64), math.inf
    k = min(contexts, len(p))
    while k:
        context = torch.empty_like(best)
        context[order.argsort()] = torch.arange(len(p), device=p.device) * k // len(p)
        for _ in range(4):
            counts = _pool(p, context)
            smooth = counts + 0.5 * p.sum(0) / p.sum()  # a point new to a table is dear, not impossible
            cost = -p @ (smooth / smooth.sum(1, keepdim=True)).log2().T  # [d, tables] bits
            context = torch.unique(cost.argmin(1), return_inverse=True)[1]
        counts = _pool(p, context)
        entropy = -(counts * (counts / counts.sum(1, keepdim=True)).clamp(min=1e-12).log2()).sum()
        bits = float(entropy) + TABLE_BITS * float((counts > 0).sum())
        if bits < least:
            best, least = context, bits
        k //= 2
    return best


def _pool(histogram: Tensor, context: Tensor) -> Tensor:
    """The histograms [d, m], of any dtype, of the dimensions of each table, added up: [tables, m]."""
    pooled = histogram.new_zeros(int(context.max()) + 1, histogram.shape[1])
    return pooled.index_add(0, context, histogram)


def _nearest(mu: Tensor, weight: Tensor, points: Tensor, context: Tensor, counts: Tensor, lam: float) -> Tensor:
    """The point of least weight (point - mu)^2 + lam (-log2 p) for each value, among those its table knows."""
    symbols = torch.empty(mu.shape, dtype=torch.int64, device=mu.device)
    for t in range(len(counts)):
        columns = (context == t).nonzero()[:, 0]
        alive = counts[t].nonzero()[:, 0]
        if not len(columns):
            continue
        share = counts[t][alive].double()
        rate = -(share / share.sum()).log2() + ENTRY_BITS / share
        z = points[alive]
        # Divided by the weight, the cost is z^2 - 2 mu z + (lam / weight) rate + terms without z: a matrix product.
        right = torch.stack([z.double().square(), z.double(), rate]).float()
        m, w = mu[:, columns].flatten(), weight[:, columns].flatten()
        found = []
        for x, y in zip(m.split(CHUNK), w.split(CHUNK), strict=True):
            left = torch.stack([torch.ones_like(x), -2 * x, lam / y], 1)
            found.append((left @ right).argmin(1))
        symbols[:, columns] = alive[torch.cat(found)].view(-1, len(columns))
    return symbols


def tables(counts: Tensor) -> Tensor:
    """Integer frequencies of int64 [tables, m] counts: each row sums to 2**CODE_BITS, and is 0 where the count is 0."""
    return frequencies.of_counts(counts, CODE_BITS, 0)


def check(mu: Tensor, sigma: Tensor, lam: float) -> None:
    """Raise ValueError unless lam is at least 0, mu and sigma are finite and sigma is above 0."""
    if not (lam >= 0 and math.isfinite(lam)):
        raise ValueError(f"expected lambda to be at least 0, got {lam}; 0 keeps most, larger values give smaller files")
    if not bool(mu.isfinite().all()):
        bad = int((~mu.isfinite()).sum())
        raise ValueError(f"expected finite values, got {bad} infinite or NaN of {mu.numel()}; remove their rows")
    if not bool((sigma > 0).all() and sigma.isfinite().all()):
        raise ValueError("expected each sigma finite and above 0, got another; clamp it to a small number")
