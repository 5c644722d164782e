"""Greedy rejection coding and greedy Poisson rejection sampling: exact, and their time does not grow with D_inf.

One chain of nodes for each latent, all latents a step at a time. Nodes are named as in `rec_search`, so the same
functions rebuild the samples. The coins that accept a point or choose a side are the encoder's own; they come from the
same keys so that encoding is reproducible.
"""

from __future__ import annotations

import torch
from torch import Tensor

from toolkit.coding.hashing import Keys
from toolkit.coding.rec.gaussian import Target, mass
from toolkit.coding.rec.search import MAX_DEPTH, Cell, Choice, between, fast_quantile

_POINTS = 512  # of the table of `stretch`
_COINS = 1  # the stream of the coins


def greedy_dyadic(target: Target, keys: Keys) -> Choice:
    """Greedy rejection coding that splits at P's quantiles; rebuild with `rebuild_dyadic`.

    Flamich, Markou, Hernandez-Lobato 2023, arXiv:2309.15746 (GRCD); the undivided form is of Harsha et al. 2010.
    """
    return _greedy(target, keys, dyadic=True)


def greedy_path(target: Target, keys: Keys) -> Choice:
    """Greedy rejection coding that splits cells at their points (GRCS); rebuild with `rebuild_path`."""
    return _greedy(target, keys, dyadic=False)


def gprs_path(target: Target, keys: Keys) -> Choice:
    """Greedy Poisson rejection sampling that splits cells at their points; rebuild with `rebuild_path`.

    The first arrival (T, X) with T < sigma(r(X)) is a sample of Q; of two halves only the one with the mode of r can
    hold it (Flamich 2023, arXiv:2305.15313).
    """
    chain = _Chain(target, keys)
    # In parts, as the table of all latents may not fit into the memory.
    parts = [stretch(Target(*part)) for part in zip(*(x.split(4096) for x in target), strict=True)]
    log_r, log_sigma = (torch.cat(tables) for tables in zip(*parts, strict=True))
    time = torch.zeros_like(target.loc)
    mode, _ = target.peak()
    for _ in range(MAX_DEPTH + 1):
        u, v = chain.keys.uniforms(chain.node)
        lower, upper = chain.cell.split(u)
        x = fast_quantile(lower, upper)
        time = time - torch.log(v) / chain.cell.width()
        accepted = torch.log(time) < _interpolate(chain.target.log_ratio(x), log_r, log_sigma)
        keep = chain.stop(accepted)
        log_r, log_sigma, time, mode = log_r[keep], log_sigma[keep], time[keep], mode[keep]
        lower, upper, x = lower[keep], upper[keep], x[keep]
        if not keep.numel():
            return chain.finish()
        right = mode > x
        chain.cell = _half(chain.cell, lower, upper, right)
        chain.node = 2 * chain.node + right.long()
    raise chain.endless("gprs_path")


def stretch(target: Target) -> tuple[Tensor, Tensor]:
    """log r and log sigma(r) at `_POINTS` points for each target: float64 [n, points] each, ascending, in nats.

    sigma(h) is the integral from 0 to h of 1 / (Q(r >= eta) - eta P(r >= eta)) d eta (arXiv:2305.15313).
    """
    mode, top = (x[:, None] for x in target.peak())
    gap = torch.logspace(torch.tensor(60.0).log10().item(), -7, _POINTS, dtype=torch.float64).to(target.loc.device)
    reached = target.log_ratio(target.mode())[:, None]  # below the peak where that lies beyond the reach
    level = reached - gap  # log eta
    everywhere = torch.full_like(level, torch.inf)
    spread = Target(target.loc[:, None], target.log_precision[:, None])
    slope = 1 / _residual(spread, mode, top, level, -everywhere, everywhere)
    # In eta, whose steps are eta (exp(step) - 1); divided by the last eta, or it could overflow.
    eta = torch.exp(-gap)
    steps = 0.5 * (slope[:, 1:] + slope[:, :-1]) * (eta[1:] - eta[:-1])
    total = torch.cat([eta[0] * slope[:, :1], steps], 1).cumsum(1)
    return level, torch.log(total) + reached


def _interpolate(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """Linear, for each row its own table: float64 [n], [n, points] twice -> [n]; beyond the end infinite."""
    i = torch.searchsorted(xs, x[:, None]).clamp(1, xs.shape[1] - 1)
    x0, x1, y0, y1 = (t.gather(1, j)[:, 0] for t in (xs, ys) for j in (i - 1, i))
    y = y0 + (x - x0) * (y1 - y0) / (x1 - x0)
    return torch.where(x >= xs[:, -1], torch.inf, y)


def _greedy(target: Target, keys: Keys, dyadic: bool) -> Choice:
    chain = _Chain(target, keys)
    mode, top = target.peak()
    log_level = torch.full_like(target.loc, -torch.inf)
    low, high = torch.full_like(target.loc, -torch.inf), torch.full_like(target.loc, torch.inf)
    left = _residual(target, mode, top, log_level, low, high)
    for d in range(MAX_DEPTH + 1):
        u, _ = chain.keys.uniforms(chain.node)
        coin, side = chain.keys.uniforms(chain.node, _COINS)
        if dyadic:
            offset = chain.node - (1 << d)
            width = torch.full_like(low, 2.0**-d)
            lower = upper = width  # not used
            x = between(offset + u, (1 << d) - offset - u, 2.0**-d)
        else:
            width = chain.cell.width()
            lower, upper = chain.cell.split(u)
            x = fast_quantile(lower, upper)
        beta = (torch.exp(chain.target.log_ratio(x)) - torch.exp(log_level)) * width / left.clamp(min=1e-300)
        keep = chain.stop(coin < beta)
        if not keep.numel():
            return chain.finish()
        log_level = torch.logaddexp(log_level, torch.log(left / width))[keep]
        low, high, mode, top, x, side = low[keep], high[keep], mode[keep], top[keep], x[keep], side[keep]
        if dyadic:
            edge = 2 * (chain.node - (1 << d)) + 1
            x = between(edge.double(), ((2 << d) - edge).double(), 0.5 * 2.0**-d)
        first = _residual(chain.target, mode, top, log_level, low, x)
        second = _residual(chain.target, mode, top, log_level, x, high)
        right = side * (first + second) < second
        left = torch.where(right, second, first)
        low, high = torch.where(right, x, low), torch.where(right, high, x)
        if not dyadic:
            chain.cell = _half(chain.cell, lower[keep], upper[keep], right)
        chain.node = 2 * chain.node + right.long()
    raise chain.endless("greedy_dyadic" if dyadic else "greedy_path")


def _residual(target: Target, mode: Tensor, top: Tensor, log_level: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """tau_l(S) = Q(S and r > l) - l P(S and r > l) for S = [low, high]: what is left of Q above the level l."""
    half = torch.sqrt(2 * (top - log_level).clamp(min=0) / torch.expm1(target.log_precision.clamp(min=1e-290)))
    # At level 0 of a target that is its own proposal, half is inf; inf - inf would be no number.
    low = torch.maximum(low, torch.where(half.isinf(), -half, mode - half))
    high = torch.minimum(high, torch.where(half.isinf(), half, mode + half))
    scale = target.scale
    under_q = mass((low - target.loc) / scale, (high - target.loc) / scale)
    found = under_q - torch.where(log_level == -torch.inf, 0, torch.exp(log_level) * mass(low, high))
    return torch.where(low < high, found, 0).clamp(min=0)


def _half(cell: Cell, lower: Tensor, upper: Tensor, right: Tensor) -> Cell:
    return Cell(
        torch.where(right, lower, cell.low), torch.where(right, cell.high, lower),
        torch.where(right, upper, cell.above_low), torch.where(right, cell.above_high, upper),
    )  # fmt: skip


class _Chain:
    """The latents that are still undecided, and the answers of the others."""

    def __init__(self, target: Target, keys: Keys) -> None:
        self.target, self.keys = target, keys
        self.active = torch.arange(len(target.loc), device=target.loc.device)
        self.node = torch.ones_like(self.active)
        self.cell = Cell.whole(target.loc)
        self.found, self.visited = torch.ones_like(self.active), torch.zeros_like(self.active)

    def stop(self, accepted: Tensor) -> Tensor:
        """Enter one step and the answers of the accepted; returns the places that go on, int64."""
        self.visited[self.active] += 1
        self.found[self.active[accepted]] = self.node[accepted]
        keep = (~accepted).nonzero()[:, 0]
        self.active, self.node, self.cell = self.active[keep], self.node[keep], Cell(*(x[keep] for x in self.cell))
        self.target, self.keys = self.target.take(keep), self.keys.take(keep)
        return keep

    def finish(self) -> Choice:
        return Choice(self.found, self.visited)

    def endless(self, name: str) -> ValueError:
        return ValueError(
            f"{name}: expected an end within {MAX_DEPTH} steps, got none for {len(self.active)} latents; lower the "
            "KL of the targets"
        )
