"""Fit the tables of `toolkit.coding.lattice.codec` to coefficients: predictors of magnitudes, then frequencies."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from toolkit.coding.frequencies import of_counts
from toolkit.coding.lattice import codec as lattice
from toolkit.coding.lattice.codec import TOKEN_BITS, TOKENS, Tables
from toolkit.coding.lattice.context import CLASSES, FRACTION, State, classes, passes

SAMPLES = 24_576  # places that a predictor is fitted to
FLOOR = 1e-4  # least predicted magnitude
LARGEST = 1 << 22  # of a weight: sums of CLAMP times all of them stay exact
MOST_INPUTS = 67  # of a predictor, the rate's three among them: with all, up to 771, files are no smaller


def blank(bands: Sequence[int], deep: int) -> Tables:
    """Tables before any fit: no prediction, and frequencies that fall by half for each step of magnitude."""
    count = lattice.weight_count(bands, deep)
    r = lattice.coefficients(torch.arange(TOKENS), torch.zeros(TOKENS, dtype=torch.int64)).abs()
    share = torch.exp2(-r.clamp(max=30).double()).expand(len(bands) * CLASSES, -1)
    return Tables(torch.full((count,), 16, dtype=torch.int32), frequencies(share))


def fit(
    bands: Sequence[int], deep: int, k: Tensor, rate: Tensor, before: Tables | None = None, steps: int = 150
) -> Tables:
    """Tables for int64 [rows, channels, h, w] coefficients at int64 [rows] rates.

    before: tables whose weights the fit begins with; steps: of the fit of each pass, 0 keeps the weights.
    """
    generator = torch.Generator().manual_seed(0)
    rows, channels, height, width = k.shape
    state = State(rows, channels, sum(bands[:deep]), height, width, rate)
    counts = torch.zeros(len(bands) * CLASSES, TOKENS, dtype=torch.int64)
    found, at = [], 0
    for p in passes(bands, deep):
        n = p.last - p.first
        inputs = p.inputs
        weights = before.weights[at : at + n * inputs].view(n, inputs) if before else None
        at += n * inputs
        here = p.of(k)
        if not here.numel():
            found.append(torch.full((n * inputs,), 16, dtype=torch.int32) if weights is None else weights.flatten())
            continue
        shift = state.shift(p)
        r = here if shift is None else here - shift
        features = state.all_inputs(p)
        x = features.movedim(1, 2).reshape(-1, inputs)
        y = r.flatten(2).movedim(1, 2).reshape(-1, n).abs().clamp(max=lattice.LIMIT).float()
        if weights is None or steps:
            weights = _predictor(x, y, weights, steps, generator)
        symbol = lattice.tokens(r.clamp(-lattice.LIMIT, lattice.LIMIT).flatten(2))
        table = classes(weights.double() @ features.double()) + p.band * CLASSES
        counts += torch.bincount((table * TOKENS + symbol).flatten(), minlength=counts.numel()).view(counts.shape)
        found.append(weights.flatten())
        state.set(p, r, here)
    return Tables(torch.cat(found).int(), frequencies(_smooth(counts)))


def _predictor(x: Tensor, y: Tensor, start: Tensor | None, steps: int, generator: torch.Generator) -> Tensor:
    """Integer weights [outputs, inputs] >= 0 under which magnitudes y [n, outputs] are cheap, given x [n, inputs].

    The cost is that of a geometric distribution whose mean is the prediction.
    """
    chosen = torch.randperm(len(x), generator=generator)[:SAMPLES]
    x, y = x[chosen].float(), y[chosen]
    inputs = x.shape[1]
    used = x.any(0).nonzero()[:, 0]  # the others keep weights that say nothing
    x = x[:, used]
    if start is None:
        scale = x.mean(0).clamp(min=0.05)
        w = 0.5 / len(scale) * (y.mean(0)[:, None] + 0.01) / scale
    else:
        w = (start[:, used].float() / (1 << FRACTION)).clamp(min=1e-6)
    # Multiplicative steps (Lee, Seung 1999, doi:10.1038/44565), each of which lowers the cost: its gradient is the
    # difference of two positive parts, and weights change by their ratio.
    for i in range(steps):
        if i == steps // 4:  # by now it is seen which inputs add most to the predictions
            share = w.sum(0) * x.mean(0)
            share[used >= inputs - 3] = math.inf  # the rate
            most = share.topk(min(MOST_INPUTS, len(used))).indices.sort().values
            x, w, used = x[:, most], w[:, most], used[most]
        s = x @ w.T + FLOOR
        falls, rises = (y / s).T @ x, ((1 + y) / (1 + s)).T @ x
        w = w * (falls / rises.clamp(min=1e-9)).clamp(0.2, 5)
    found = torch.zeros(len(w), inputs)
    found[:, used] = w
    return (found * (1 << FRACTION)).round().clamp(max=LARGEST).int()


def _smooth(counts: Tensor) -> Tensor:
    """Counts [bands * classes, tokens] with some of those of all bands added; both signs alike far from zero."""
    by_class = counts.view(-1, CLASSES, TOKENS).double()
    flipped = by_class.clone()
    flipped[..., 1:] = by_class[..., 1:].unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    even = 0.5 * (by_class + flipped)
    r = lattice.coefficients(torch.arange(TOKENS), torch.zeros(TOKENS, dtype=torch.int64)).abs().double()
    centre = torch.tensor([0.0015 * 1.5**i for i in range(CLASSES)])[:, None]
    guess = (-(r + 1).log() - r / (centre * 4 + 0.3)).exp()  # of a class without any counts
    pooled = even.sum(0) + 2 * guess / guess.sum(1, keepdim=True)
    pooled = pooled / pooled.sum(1, keepdim=True)
    return (even + 20 * pooled).flatten(0, 1)


def frequencies(share: Tensor) -> Tensor:
    """Shares float [tables, tokens] to int32 frequencies, at least 1 each, rows that sum to 2**TOKEN_BITS."""
    share = share / share.sum(1, keepdim=True)
    return of_counts((share * (1 << 38)).long(), TOKEN_BITS).int()
