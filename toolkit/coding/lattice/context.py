"""What is known around coefficients on a lattice while it is coded, and the integer networks that predict from it.

Bands of channels are coded one after the other, each in passes over finer and finer lattices (interlaced passes:
Howard, Vitter 1993). The inputs of a prediction are sums of neighbours' magnitudes; those from earlier bands are
computed once for all bands that follow.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from toolkit.coding.exactness import TRUSTED

FRACTION = 16  # bits after the point of weights
CLASSES = 24  # tables of a band, by predicted magnitude
CLAMP = 31  # magnitudes count so much at most in predictions
RATE_STEPS = 96  # a coder knows the rate as an integer in [0, RATE_STEPS]
BORDER = 16  # places around the lattice: how far predictions can look
# Kinds of neighbours whose magnitudes are summed: the place itself, left and right, above and below, the corners.
AROUND = [[(0, 0)], [(0, -1), (0, 1)], [(-1, 0), (1, 0)], [(-1, -1), (-1, 1), (1, -1), (1, 1)]]
PHASES = ((0, 0), (0, 1), (1, 0), (1, 1))  # (y, x) modulo 2
EXACT_BELOW = 1 << 24  # sums of integers below are exact in float32, in any order


class Pass(NamedTuple):
    """Coefficients that are coded at once: of some channels, every `stride`-th from (y, x) on."""

    band: int
    first: int  # channels
    last: int
    stride: int
    y: int
    x: int
    reach: int  # distance of the neighbours in the band itself
    around: str  # the neighbours that a mean is predicted from: "", "corners" or "edges"

    @property
    def inputs(self) -> int:
        """Inputs of the predictor: four of each channel, and three of the rate."""
        return 4 * self.last + 3

    @property
    def known(self) -> list[int]:
        """The kinds of neighbours in its own band, of `AROUND`, that are coded before it."""
        return [[], [1, 2], [1, 2, 3], [3]][2 * (self.y > 0) + (self.x > 0)]

    def of(self, plane: Tensor) -> Tensor:
        """Its places in [rows, channels, h, w] of all channels; a view."""
        return plane[:, self.first : self.last, self.y :: self.stride, self.x :: self.stride]


def passes(bands: Sequence[int], deep: int) -> list[Pass]:
    """The order of coding for bands of so many channels; the first `deep` have four levels, and means predicted."""
    found, first = [], 0
    for band, n in enumerate(bands):
        span = band, first, first + n
        depth = 4 if band < deep else 1
        found.append(Pass(*span, 1 << depth, 0, 0, 1, ""))
        for level in reversed(range(depth)):
            h = 1 << level
            corners, edges = ("corners", "edges") if band < deep else ("", "")
            found += [Pass(*span, 2 * h, h, h, h, corners), Pass(*span, 2 * h, 0, h, h, edges)]
            found += [Pass(*span, 2 * h, h, 0, h, edges)]
        first += n
    return found


# Predicted magnitudes, times 2**FRACTION, at which the classes change: int64 [CLASSES - 1].
THRESHOLDS = torch.tensor([round((1 << FRACTION) * 0.0015 * 1.5**i) for i in range(CLASSES - 1)])
LEAST = int(THRESHOLDS[0])  # predictions below are of class 0
_KINDS = {torch.float32: (torch.int32, 23), torch.float64: (torch.int64, 52)}  # bits of a float, and of its fraction


@functools.cache
def _class_tables(dtype: torch.dtype) -> tuple[Tensor, Tensor, int]:
    """By the upper bits of a float: the class of the least such float, the next threshold, and how far bits shift."""
    whole, fraction = _KINDS[dtype]
    shift = fraction - 3  # eighths of an octave, each of which holds one threshold at most
    least = torch.arange(int(torch.tensor(2.0**64, dtype=dtype).view(whole)) >> shift).to(whole) << shift
    low = torch.bucketize(least.view(dtype), THRESHOLDS.to(dtype), right=True)
    return low, torch.cat([THRESHOLDS.to(dtype), torch.tensor([math.inf], dtype=dtype)])[low], shift


def classes(sums: Tensor) -> Tensor:
    """The class of each prediction, the number of thresholds that do not exceed it: int64.

    sums: float32 or float64, integers from 0 to 2**53.
    """
    low, edge, shift = _class_tables(sums.dtype)
    index = (sums.view(_KINDS[sums.dtype][0]) >> shift).long()
    return low.take(index).add_(sums >= edge.take(index))


class Predictor:
    """The integer network of a pass: float32 where all of its sums stay exact, else float64."""

    def __init__(self, p: Pass, weights: Tensor) -> None:
        """weights: int [outputs * inputs]; inputs are the four kinds of all earlier channels, of its own, the rate."""
        n = p.last - p.first
        earlier, own, rate = weights.view(n, -1).double().split([4 * p.first, 4 * n, 3], 1)
        earlier = earlier.view(n, 4, p.first).mT.flatten(1)  # as in `State.inputs`: a channel's four together
        own = own.view(n, 4, n)[:, p.known].flatten(1)
        most = CLAMP * torch.tensor([len(places) for places in AROUND]).double()
        bound = earlier.abs() @ most.repeat(p.first) + own.abs() @ most[p.known].repeat_interleave(n)
        bound = bound + rate.abs() @ torch.tensor([16.0, RATE_STEPS, RATE_STEPS]).double()
        dtype = torch.float32 if TRUSTED and float(bound.max()) < EXACT_BELOW else torch.float64
        weights = torch.cat([earlier, own], 1)
        self.used = weights.any(0).nonzero()[:, 0]  # most inputs have no weight in any output
        self.weights, self.rate = weights[:, self.used].to(dtype), rate.to(dtype)

    def sums(self, p: Pass, state: State) -> Tensor:
        """The predicted magnitude of each coefficient of pass p: float [rows, channels, places], integers."""
        rows, dtype = len(state.rate), self.rate.dtype
        found = self.rate @ state.rate.to(dtype)  # [rows, outputs, 1]
        if not len(self.used):
            return found.expand(-1, -1, math.prod(state.size(p))).contiguous()
        return torch.baddbmm(found, self.weights.expand(rows, -1, -1), state.inputs(p, p.known, self.used).to(dtype))


class State:
    """What is known of some lattices while they are coded: planes with a border of zeros, integers all."""

    def __init__(self, rows: int, channels: int, deep: int, height: int, width: int, rate: Tensor) -> None:
        self.height, self.width, self.deep = height, width, deep
        # Of the first channels, whose passes have many strides:
        shape = rows, deep, height + 2 * BORDER, width + 2 * BORDER
        self.magnitude = torch.zeros(shape, dtype=torch.uint8)
        self.value = torch.zeros(shape, dtype=torch.float64)
        self.rate = torch.stack([torch.full_like(rate, 16), rate, RATE_STEPS - rate], 1)[..., None]
        # Of all channels, the four phases of a lattice of stride 2 apart, so that what is coded together is together in
        # memory; and sums around the places of each phase, of the channels below `finished`.
        shape = rows, channels, (height + 1) // 2 + 2, (width + 1) // 2 + 2
        self.phases = {phase: torch.zeros(shape, dtype=torch.uint8) for phase in PHASES}
        self.finished = 0
        self.summed = {
            (y, x): torch.empty(rows, channels, 4, (height - y + 1) // 2, (width - x + 1) // 2, dtype=torch.uint8)
            for y, x in PHASES
        }

    def size(self, p: Pass) -> tuple[int, int]:
        """Places of one channel of a pass, down and across."""
        return len(range(p.y, self.height, p.stride)), len(range(p.x, self.width, p.stride))

    def whole(self, plane: Tensor, p: Pass, first: int, last: int, dy: int = 0, dx: int = 0) -> Tensor:
        """The places of a pass, shifted by (dy, dx), in some channels of a plane of all places; a view."""
        return _window(plane, first, last, BORDER + p.y + dy, BORDER + p.x + dx, p.stride, self.size(p))

    def phase(self, p: Pass, first: int, last: int, dy: int = 0, dx: int = 0) -> Tensor:
        """As `whole`, of a pass of stride 2, in the planes of phases."""
        y, x = p.y + dy, p.x + dx
        return _window(self.phases[y & 1, x & 1], first, last, 1 + (y >> 1), 1 + (x >> 1), 1, self.size(p))

    def near(self, p: Pass, first: int, last: int, r: int, kind: int) -> Tensor:
        """Sums of some channels' magnitudes at distance r around the places of a pass: uint8 [rows, channels, h, w]."""
        if p.first < self.deep:
            parts = [self.whole(self.magnitude, p, first, last, r * dy, r * dx) for dy, dx in AROUND[kind]]
        else:
            parts = [self.phase(p, first, last, dy, dx) for dy, dx in AROUND[kind]]
        return functools.reduce(torch.add, parts)

    def inputs(self, p: Pass, kinds: Sequence[int], used: Tensor) -> Tensor:
        """Some inputs of a pass: uint8 [rows, used, places].

        used: int64, rising, of: four of each earlier channel, a channel's together; then those of its own band, kind
        after kind of `kinds`.
        """
        if p.first < self.deep:
            around = [self.near(p, 0, p.first, 1, kind) for kind in range(4)]
            earlier = torch.stack(around, 2).flatten(3).flatten(1, 2)
        else:
            self._finish(p.first)
            earlier = self.summed[p.y, p.x][:, : p.first].flatten(3).flatten(1, 2)
        border = int((used < 4 * p.first).sum())
        parts = [earlier.index_select(1, used[:border])] if border else []
        if kinds and border < len(used):
            own = torch.cat([self.near(p, p.first, p.last, p.reach, kind) for kind in kinds], 1).flatten(2)
            parts.append(own.index_select(1, used[border:] - 4 * p.first))
        return torch.cat(parts, 1)

    def _finish(self, last: int) -> None:
        """Sums around all places of the channels below `last`, which are known now."""
        first, self.finished = self.finished, max(self.finished, last)
        if first == self.finished:
            return
        passes = [Pass(0, self.deep, last, 2, y, x, 1, "") for y, x in PHASES]
        if first < self.deep:
            for p in passes:
                self.phase(p, 0, self.deep).copy_(self.whole(self.magnitude, p, 0, self.deep))
        for p in passes:
            for kind in range(4):
                self.summed[p.y, p.x][:, first:last, kind] = self.near(p, first, last, 1, kind)

    def all_inputs(self, p: Pass) -> Tensor:
        """All inputs of a pass, in the order of its weights: float32 [rows, inputs, places]."""
        n = p.last - p.first
        found = self.inputs(p, range(4), torch.arange(4 * p.last)).float()
        earlier, own = found.split([4 * p.first, 4 * n], 1)
        earlier = earlier.unflatten(1, (p.first, 4)).transpose(1, 2).flatten(1, 2)
        return torch.cat([earlier, own, self.rate.float().expand(-1, -1, own.shape[2])], 1)

    def shift(self, p: Pass) -> Tensor | None:
        """The rounded mean of the known neighbours: int16 [rows, channels, h, w]; None for passes without one."""
        if not p.around:
            return None
        around = AROUND[3] if p.around == "corners" else AROUND[1] + AROUND[2]
        parts = [self.whole(self.value, p, p.first, p.last, p.reach * dy, p.reach * dx) for dy, dx in around]
        # Exact: quotients of small integers, the same on every machine.
        mean = functools.reduce(torch.add, parts) / _inside(p, self.height, self.width)
        return torch.floor(mean + 0.5).to(torch.int16)

    def set(self, p: Pass, r: Tensor, k: Tensor) -> None:
        """Record coded differences r and coefficients k, int16 [rows, channels, h, w]."""
        size = r.abs().clamp_(max=CLAMP)
        if p.first < self.deep:
            self.whole(self.magnitude, p, p.first, p.last).copy_(size)
            self.whole(self.value, p, p.first, p.last).copy_(k)
        else:
            self.phase(p, p.first, p.last).copy_(size)


def _window(plane: Tensor, first: int, last: int, y: int, x: int, step: int, size: tuple[int, int]) -> Tensor:
    """Every step-th place from (y, x) on of some channels: in one call, as many small views cost more than the sums."""
    row, channel, down, across = plane.stride()
    start = first * channel + y * down + x * across
    return plane.as_strided((len(plane), last - first, *size), (row, channel, step * down, step * across), start)


@functools.lru_cache(64)
def _inside(p: Pass, height: int, width: int) -> Tensor:
    """How many of the neighbours that a mean is predicted from lie in the lattice, 1 for none: float64 [h, w]."""
    y, x = torch.arange(p.y, height, p.stride)[:, None], torch.arange(p.x, width, p.stride)
    down, across = ((at >= p.reach).double() + (at + p.reach < n) for at, n in ((y, height), (x, width)))
    return (down * across if p.around == "corners" else down + across).clamp(min=1)
