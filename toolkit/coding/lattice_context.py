"""What is known around coefficients on a lattice while it is coded, and the integer networks that predict from it.

Bands of channels are coded one after the other, each in passes over finer and finer lattices (interlaced passes:
Howard, Vitter 1993). The inputs of a prediction are sums of neighbours' magnitudes; those from earlier bands are
computed once for all bands that follow.
"""

from __future__ import annotations

import contextlib
import functools
import platform
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

FRACTION = 16  # bits after the point of weights
CLASSES = 24  # tables of a band, by predicted magnitude
CLAMP = 31  # magnitudes count so much at most in predictions
RATE_STEPS = 96  # a coder knows the rate as an integer in [0, RATE_STEPS]
BORDER = 16  # places around the lattice: how far predictions can look
# Kinds of neighbours whose magnitudes are summed: the place itself, left and right, above and below, the corners.
AROUND = [[(0, 0)], [(0, -1), (0, 1)], [(-1, 0), (1, 0)], [(-1, -1), (-1, 1), (1, -1), (1, 1)]]
EXACT = 1 << 24  # sums of integers below are exact in float32, in any order
# Where products of float32 can be trusted to be products of float32; elsewhere libraries may shorten them.
TRUSTED = platform.machine().lower() in ("x86_64", "amd64")


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


def thresholds() -> Tensor:
    """Predicted magnitudes, times 2**FRACTION, at which the classes change: int64 [CLASSES - 1]."""
    return torch.tensor([round((1 << FRACTION) * 0.0015 * 1.5**i) for i in range(CLASSES - 1)])


class Predictor:
    """The integer network of a pass: float32 where all of its sums stay exact, else float64."""

    def __init__(self, p: Pass, weights: Tensor) -> None:
        """weights: int [outputs * inputs]; inputs are the four kinds of all earlier channels, of its own, the rate."""
        n = p.last - p.first
        earlier, own, rate = weights.view(n, -1).double().split([4 * p.first, 4 * n, 3], 1)
        earlier = earlier.view(n, 4, p.first)
        own = own.view(n, 4, n)[:, p.known]
        most = CLAMP * torch.tensor([len(places) for places in AROUND]).double()[:, None]
        bound = (earlier.abs() * most).sum((1, 2)) + (own.abs() * most[p.known]).sum((1, 2))
        bound = bound + rate.abs() @ torch.tensor([16.0, RATE_STEPS, RATE_STEPS]).double()
        dtype = torch.float32 if TRUSTED and float(bound.max()) < EXACT else torch.float64
        self.earlier = earlier.mT.flatten(1).to(dtype).contiguous()  # as in `State.earlier`: a channel's four together
        self.own, self.rate = own.flatten(1).to(dtype), rate.to(dtype)
        self.edges = thresholds().to(dtype)

    def classes(self, p: Pass, state: State) -> Tensor:
        """The class of each coefficient of pass p: int32 [rows, channels, places]."""
        rows, dtype = len(state.rate), self.rate.dtype
        found = self.rate @ state.rate.to(dtype)  # [rows, outputs, 1]
        if p.first:
            found = torch.baddbmm(found, self.earlier.expand(rows, -1, -1), state.earlier(p).to(dtype))
        if p.known:
            found = torch.baddbmm(found, self.own.expand(rows, -1, -1), state.own(p, p.known).to(dtype))
        places = len(range(p.y, state.height, p.stride)) * len(range(p.x, state.width, p.stride))
        return torch.bucketize(found, self.edges, right=True, out_int32=True).expand(-1, -1, places)


class State:
    """What is known of some lattices while they are coded: planes with a border of zeros, integers all."""

    def __init__(self, rows: int, channels: int, deep: int, height: int, width: int, rate: Tensor) -> None:
        self.height, self.width = height, width
        shape = height + 2 * BORDER, width + 2 * BORDER
        self.magnitude = torch.zeros(rows, channels, *shape, dtype=torch.uint8)
        self.value = torch.zeros(rows, deep, *shape, dtype=torch.float64)
        self.inside = torch.zeros(1, 1, *shape, dtype=torch.float64)
        self.inside[..., BORDER : BORDER + height, BORDER : BORDER + width] = 1
        self.rate = torch.stack([torch.full_like(rate, 16), rate, RATE_STEPS - rate], 1)[..., None]
        # Inputs of passes of stride 2, by (y, x), from the channels below `finished`: [rows, channels, 4, h, w].
        self.finished = 0
        self.phases = {
            (y, x): torch.empty(rows, channels, 4, (height - y + 1) // 2, (width - x + 1) // 2)
            for y, x in ((0, 0), (1, 1), (0, 1), (1, 0))
        }

    def at(self, plane: Tensor, p: Pass, dy: int = 0, dx: int = 0) -> Tensor:
        """The places of a pass, shifted by (dy, dx), in a plane with a border; a view."""
        rows = slice(BORDER + p.y + dy, BORDER + self.height + dy, p.stride)
        return plane[..., rows, slice(BORDER + p.x + dx, BORDER + self.width + dx, p.stride)]

    def near(self, plane: Tensor, p: Pass, r: int, kind: int) -> Tensor:
        """Sums of a plane's magnitudes at distance r around the places of a pass: uint8 [rows, channels, h, w]."""
        return functools.reduce(torch.add, [self.at(plane, p, r * dy, r * dx) for dy, dx in AROUND[kind]])

    def earlier(self, p: Pass) -> Tensor:
        """Inputs of a pass from earlier bands, a channel's four together: float32 [rows, 4 * channels, places]."""
        if p.stride > 2:
            plane = self.magnitude[:, : p.first]
            return torch.stack([self.near(plane, p, 1, kind) for kind in range(4)], 2).flatten(1, 2).flatten(2).float()
        if self.finished < p.first:
            new = slice(self.finished, p.first)
            plane = self.magnitude[:, new]
            across, down = torch.zeros_like(plane), torch.zeros_like(plane)
            across[..., 1:-1] = plane[..., :-2] + plane[..., 2:]
            down[..., 1:-1, :] = plane[..., :-2, :] + plane[..., 2:, :]
            corners = torch.zeros_like(plane)
            corners[..., 1:-1, :] = across[..., :-2, :] + across[..., 2:, :]
            for (y, x), phase in self.phases.items():
                for kind, sums in enumerate((plane, across, down, corners)):
                    phase[:, new, kind] = self.at(sums, p._replace(y=y, x=x))
            self.finished = p.first
        return self.phases[p.y, p.x][:, : p.first].flatten(1, 2).flatten(2)

    def own(self, p: Pass, kinds: Sequence[int]) -> Tensor:
        """Inputs of a pass from its own band, kind after kind: float32 [rows, kinds * channels, places]."""
        plane = self.magnitude[:, p.first : p.last]
        return torch.cat([self.near(plane, p, p.reach, kind) for kind in kinds], 1).flatten(2).float()

    def inputs(self, p: Pass) -> Tensor:
        """All inputs of a pass, in the order of its weights: float32 [rows, inputs, places]."""
        earlier = self.earlier(p).unflatten(1, (p.first, 4)).transpose(1, 2).flatten(1, 2)
        own = self.own(p, range(4))
        return torch.cat([earlier, own, self.rate.float().expand(-1, -1, own.shape[2])], 1)

    def shift(self, p: Pass) -> Tensor:
        """The rounded mean of the known neighbours: float64 [rows, channels, h, w], integers."""
        plane = self.value[:, p.first : p.last]
        if not p.around:
            places = self.at(self.magnitude[:, p.first : p.last], p)
            return self.value.new_zeros(()).expand(places.shape)
        r = p.reach
        around = AROUND[3] if p.around == "corners" else AROUND[1] + AROUND[2]
        total, known = (
            functools.reduce(torch.add, [self.at(x, p, r * dy, r * dx) for dy, dx in around])
            for x in (plane, self.inside)
        )
        # Exact: quotients of small integers, the same on every machine.
        return torch.floor(total / known.clamp(min=1) + 0.5)

    def set(self, p: Pass, r: Tensor, k: Tensor) -> None:
        """Record coded differences r and coefficients k, int [rows, channels, h, w]."""
        self.at(self.magnitude[:, p.first : p.last], p).copy_(r.abs().clamp_(max=CLAMP))
        if p.last <= self.value.shape[1]:
            self.at(self.value[:, p.first : p.last], p).copy_(k)


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """Products of float32 stay products of float32 while the block runs, whatever a program asked for."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
