"""A* coding: exact samples of Gaussian targets as numbers of nodes in a tree of shared random points.

The points of a Poisson process over (position, time) are visited in a tree; the one with the least log t - log r(x)
is a sample of Q (Li, El Gamal 2018, arXiv:1701.02827), and its number in the tree is all that a decoder needs (Flamich,
Markou, Hernandez-Lobato 2022, arXiv:2201.12857). The variants choose the same law and differ in how a point is named:
`global_astar` by its rank in time, `as_star` by a path that splits cells at their points, `ad_star` by a node of the
dyadic tree of P's quantiles, which needs no path to be rebuilt. All go level by level over all latents at once; any
order of visits is exact, as a cell is left out only when its bound says that it cannot hold the answer.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from toolkit.coding.hashing import Keys
from toolkit.coding.rec.gaussian import REACH, Target, quantile

MAX_DEPTH = 56  # of a tree; targets of at most MAX_KL bits end long before
MAX_STEPS = 1 << 26  # of the global search, whose mean is 2**D_inf


class Choice(NamedTuple):
    """What a search found for each of n latents."""

    node: Tensor  # int64 [n], at least 1: the number that a decoder needs
    visited: Tensor  # int64 [n], points that were scored


def ad_star(target: Target, keys: Keys, depth: int | None = None) -> Choice:
    """AD* coding: split at P's quantiles; with `depth`, DAD*: the best of the nodes down to that depth, approximate.

    Node h at depth d = floor(log2 h) covers the quantiles [h - 2^d, h - 2^d + 1) / 2^d. Rebuild with `rebuild_dyadic`.
    """
    if depth is not None and not 0 <= depth <= MAX_DEPTH:
        raise ValueError(
            f"ad_star: expected a depth from 0 to {MAX_DEPTH}, got {depth}; KL in bits and one more will do"
        )
    last = MAX_DEPTH if depth is None else depth
    tree = _Frontier(target, keys)
    offset = torch.zeros_like(tree.pair)
    low, high = (torch.full_like(target.loc, edge) for edge in (-REACH, REACH))
    for d in range(last + 1):
        tree.score(between(offset + tree.uniform, (1 << d) - offset - tree.uniform, 2.0**-d), (1 << d) + offset)
        if d == last:
            break
        middle = 2 * offset + 1
        edge = between(middle.double(), ((2 << d) - middle).double(), 0.5 * 2.0**-d)
        offset = torch.cat([2 * offset, middle])
        low, high = torch.cat([low, edge]), torch.cat([edge, high])
        offset, low, high = tree.descend(
            (2 << d) + offset, torch.full_like(low, 2.0 ** -(d + 1)), low, high, (offset, low, high)
        )
        if not tree.pair.numel():
            break
    return tree.finish("ad_star", depth is not None)


def as_star(target: Target, keys: Keys) -> Choice:
    """AS* coding: split each cell at its own point. Node 2h is left of the point of h, 2h + 1 right; the root is 1.

    Rebuild with `rebuild_path`, which redraws the points on the way from the root.
    """
    tree = _Frontier(target, keys)
    node = torch.ones_like(tree.pair)
    cell = Cell.whole(target.loc)
    low, high = (torch.full_like(target.loc, edge) for edge in (-REACH, REACH))
    for d in range(MAX_DEPTH + 1):
        lower, upper = cell.split(tree.uniform)
        x = fast_quantile(lower, upper)
        tree.score(x, node)
        if d == MAX_DEPTH:
            break
        cell = cell.children(lower, upper)
        node = torch.cat([2 * node, 2 * node + 1])
        low, high = torch.cat([low, x]), torch.cat([x, high])
        node, low, high, *parts = tree.descend(node, cell.width(), low, high, (node, low, high, *cell))
        cell = Cell(*parts)
        if not tree.pair.numel():
            break
    return tree.finish("as_star", False)


def global_astar(target: Target, keys: Keys) -> Choice:
    """A* coding with one bound for all, also called Poisson functional representation: the rank of the point in time.

    2**D_inf points on average: for small KL only; ValueError beyond 20 bits. Rebuild with `rebuild_rank`.
    """
    worst = float(target.divergence().max()) if target.loc.numel() else 0.0
    if worst > 20:
        raise ValueError(
            f"global_astar: expected D_inf of at most 20 bits, got {worst:.4g}: it takes 2**D_inf points; use ad_star"
        )
    active = torch.arange(len(target.loc), device=target.loc.device)
    best = torch.full_like(target.loc, torch.inf)
    node = torch.ones_like(active)
    visited = torch.zeros_like(active)
    time = torch.zeros_like(target.loc)
    bound = target.log_ratio(target.mode())
    for n in range(1, MAX_STEPS):
        u, v = keys.uniforms(torch.full_like(active, n))
        time = time - torch.log(v)
        score = torch.log(time) - target.log_ratio(fast_quantile(u, 1 - u))
        better = score < best
        best = torch.where(better, score, best)
        node[active[better]] = n
        visited[active] = n
        keep = torch.log(time) - bound < best
        if not bool(keep.all()):
            active, best, time, bound = active[keep], best[keep], time[keep], bound[keep]
            target, keys = target.take(keep), keys.take(keep)
            if not active.numel():
                return Choice(node, visited)
    raise ValueError(f"global_astar: expected an end within {MAX_STEPS} points, got none; use ad_star")


def depth_of(node: Tensor) -> Tensor:
    """floor(log2 node), exact: int64 [...] >= 1 -> int64 [...]."""
    depth = torch.frexp(node.double()).exponent.long() - 1
    return depth - ((torch.ones_like(node) << depth) > node).long()  # float64 may have rounded up to a power of two


def rebuild_dyadic(node: Tensor, keys: Keys) -> Tensor:
    """The sample of a node of the dyadic tree, in units of P: int64 [n] -> float64 [n]; no other node is looked at."""
    d = depth_of(checked(node))
    u, _ = keys.uniforms(node)
    count = torch.ones_like(node) << d
    offset = node - count
    scale = (1023 - d << 52).view(torch.float64)  # 2^-d by its bits: a library's pow may round
    return quantile((offset + u) * scale, (count - 1 - offset + (1 - u)) * scale)


def rebuild_path(node: Tensor, keys: Keys) -> Tensor:
    """The sample of a node whose tree splits cells at their points: int64 [n] -> float64 [n]."""
    return quantile(*walk(node, keys)[0])


def rebuild_rank(node: Tensor, keys: Keys) -> Tensor:
    """The sample of that number in a plain sequence of draws from P: int64 [n] -> float64 [n]."""
    u, _ = keys.uniforms(checked(node))
    return quantile(u, 1 - u)


def walk(node: Tensor, keys: Keys) -> tuple[tuple[Tensor, Tensor], list[Tensor]]:
    """Follow paths from the root: masses below and above each node's point, and P(left child) at each level.

    node: int64 [n] -> (float64 [n], float64 [n]) and a list of float64 [n], the share of the left half of the cell at
    levels 0 .. max depth - 1; arbitrary below a node's own depth.
    """
    d = depth_of(checked(node))
    cell = Cell.whole(node.double())
    found = lower, upper = torch.zeros_like(cell.low), torch.zeros_like(cell.low)
    shares = []
    deepest = int(d.max()) if d.numel() else 0
    for level in range(deepest + 1):
        u, _ = keys.uniforms(node >> (d - level).clamp(min=0))
        lower, upper = cell.split(u)
        here = d == level
        found = torch.where(here, lower, found[0]), torch.where(here, upper, found[1])
        if level < deepest:
            shares.append(u)
            right = (node >> (d - level - 1).clamp(min=0)) & 1 == 1
            cell = Cell(
                torch.where(right, lower, cell.low), torch.where(right, cell.high, lower),
                torch.where(right, upper, cell.above_low), torch.where(right, cell.above_high, upper),
            )  # fmt: skip
    return found, shares


class Cell(NamedTuple):
    """Intervals of P's quantiles, from below and from above, so that neither tail loses its digits; float64 [n]."""

    low: Tensor  # P's mass below the lower edge
    high: Tensor  # below the upper edge
    above_low: Tensor  # above the lower edge
    above_high: Tensor

    @staticmethod
    def whole(like: Tensor) -> Cell:
        zero, one = torch.zeros_like(like), torch.ones_like(like)
        return Cell(zero, one, one, zero)

    def width(self) -> Tensor:
        return torch.where(self.low > 0.5, self.above_low - self.above_high, self.high - self.low)

    def split(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Masses below and above the point at the uniform position u in the cell."""
        width = self.width()
        return self.low + width * u, self.above_high + width * (1 - u)

    def children(self, lower: Tensor, upper: Tensor) -> Cell:
        """All left halves, then all right ones."""
        return Cell(
            torch.cat([self.low, lower]), torch.cat([lower, self.high]),
            torch.cat([self.above_low, upper]), torch.cat([upper, self.above_high]),
        )  # fmt: skip


class _Frontier:
    """The nodes of one level that may still hold the answer, of all latents together, and the best found so far."""

    def __init__(self, target: Target, keys: Keys) -> None:
        self.all, self.keys, self.modes = target, keys, target.mode()
        self.pair = torch.arange(len(target.loc), device=target.loc.device)  # int64: the latent that a node belongs to
        self.target, self.mode = target, self.modes
        self.best = torch.full_like(target.loc, torch.inf)
        self.node = torch.ones_like(self.pair)
        self.visited = torch.zeros_like(self.pair)
        self.uniform, other = keys.uniforms(self.node)
        self.time = -torch.log(other)  # arrival times, of rate 1

    def score(self, x: Tensor, node: Tensor) -> None:
        """Enter the points of the frontier; they are float64 and int64, of its length."""
        score = torch.log(self.time) - self.target.log_ratio(x)
        self.visited.index_add_(0, self.pair, torch.ones_like(self.pair))
        self.best.scatter_reduce_(0, self.pair, score, "amin")
        won = score == self.best[self.pair]
        self.node[self.pair[won]] = node[won]

    def descend(
        self, node: Tensor, width: Tensor, low: Tensor, high: Tensor, parts: tuple[Tensor, ...]
    ) -> list[Tensor]:  # fmt: skip
        """Go to those children whose bound beats the best point; the first half are left ones, the second right ones.

        node: int64 names; width: P's mass of each; low, high: edges; returns what is left of `parts`.
        """
        pair, mode, time = (torch.cat([x, x]) for x in (self.pair, self.mode, self.time))
        target = Target(*(torch.cat([x, x]) for x in self.target))
        bound = target.log_ratio(torch.minimum(torch.maximum(mode, low), high))
        limit = torch.exp(self.best[pair] + bound)  # children that arrive later than this cannot win
        # First without random numbers: a child arrives after its parent.
        keep = (time < limit).nonzero()[:, 0]
        pair, node, limit, width = pair[keep], node[keep], limit[keep], width[keep]
        uniform, other = self.keys.take(pair).uniforms(node)
        time = time[keep] - torch.log(other) / width
        second = (time < limit).nonzero()[:, 0]
        self.pair, self.uniform, self.time = pair[second], uniform[second], time[second]
        keep = keep[second]
        self.target, self.mode = target.take(keep), mode[keep]
        return [part[keep] for part in parts]

    def finish(self, name: str, limited: bool) -> Choice:
        if self.pair.numel() and not limited:
            raise ValueError(
                f"{name}: expected an end within {MAX_DEPTH} levels, got none for {self.pair.numel()} nodes; lower the "
                "KL of the targets, or give a depth limit"
            )
        return Choice(self.node, self.visited)


def between(lower: Tensor, upper: Tensor, scale: float) -> Tensor:
    return fast_quantile(lower * scale, upper * scale)


def fast_quantile(lower: Tensor, upper: Tensor) -> Tensor:
    """`quantile` by the library, which may differ in its last bits: for the encoder, whose nodes are what is sent."""
    x = torch.special.ndtri(torch.minimum(lower, upper))
    return torch.where(lower < upper, x, -x).clamp_(-REACH, REACH)


def checked(node: Tensor) -> Tensor:
    if node.numel() and (int(node.min()) < 1 or int(node.max()) >= 1 << (MAX_DEPTH + 1)):
        raise ValueError(
            f"expected nodes in [1, 2**{MAX_DEPTH + 1}), got {int(node.min())} to {int(node.max())}; the data are "
            "damaged"
        )
    return node
