"""Codecs of symbols under logistic or Gaussian distributions, each symbol with a location and a scale of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from toolkit.coding import frequencies
from toolkit.coding.codecs import PRECISION, Codec, check_numbers, check_shapes, coded

MOST_BINS = 1 << 24  # as for locations: beyond, a distance times the finest inverse scale would overflow


class LocationScale(NamedTuple):
    """Law of symbols in [0, bins) under a logistic or Gaussian each.

    least: counts that each symbol has, whatever the distribution says, 0 or 1.
    """

    loc: Tensor  # int32 [n], of `frequencies.snap_location`
    scale: Tensor  # int32 [n], of `frequencies.snap_scale`
    kind: int  # number in `frequencies.KINDS`
    bins: int
    least: int
    precision: int

    def parts(self) -> tuple[list[Tensor], list[int]]:
        return [self.loc, self.scale], [self.kind, self.bins, self.least, self.precision]

    def at(self, here: Tensor | slice) -> LocationScale:
        return self._replace(loc=self.loc[here], scale=self.scale[here])

    def starts(self, x: Tensor) -> Tensor:
        """Where the intervals of symbols begin; of `bins`, where the last one ends."""
        y = frequencies.cdf(frequencies.KINDS[self.kind], x, self.loc, self.scale, self.bins)
        return frequencies.start(y, x, self.bins, self.precision, self.least)

    def interval(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low = self.starts(x)
        return low, self.starts(x + 1) - low

    def find(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return bisect(u, self.starts, self.bins)


def bisect(u: Tensor, starts: Callable[[Tensor], Tensor], bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """The last x in [0, bins) whose start is at most u, its start, and its frequency: int64 [n] each."""
    x = torch.zeros_like(u)
    for bit in reversed(range((bins - 1).bit_length())):
        y = (x + (1 << bit)).clamp(max=bins)
        x = torch.where((starts(y) <= u) & (y < bins), y, x)
    low = starts(x)
    return x, low, starts(x + 1) - low


def location_scale(
    kind: str,
    loc: Tensor,
    scale: Tensor,
    bins: int,
    least: int,
    precision: int = PRECISION,
    valid: Tensor | None = None,
) -> Codec:
    """Codec of symbols in [0, bins) under a logistic or Gaussian with its own location and scale for each symbol.

    kind: "logistic" or "gaussian"; loc, scale: int, the shape of the symbols, of `frequencies.snap_location` and
    `snap_scale`; least: 1 keeps a count for each symbol (likelihoods, priors), 0 does not (posteriors); valid: bool.
    """
    valid = torch.ones_like(loc, dtype=torch.bool) if valid is None else valid
    check_bins(bins, least, precision)
    check_shapes(valid.shape, loc=loc, scale=scale)
    check_numbers("levels of scales", scale, frequencies.SCALE_LEVELS)
    check_locations(loc)
    loc, scale = (p.flatten().int().contiguous() for p in (loc, scale))
    law = LocationScale(loc, scale, kind_number(kind), bins, least, precision)
    return coded(law, valid)


def kind_number(kind: str) -> int:
    """The number of "logistic" or "gaussian"."""
    if kind not in frequencies.KINDS:
        raise ValueError(f"expected a kind of {', '.join(frequencies.KINDS)}, got {kind!r}")
    return frequencies.KINDS.index(kind)


def check_locations(loc: Tensor) -> None:
    """Raise ValueError for locations further out than the furthest bin."""
    end = MOST_BINS * frequencies.LOC_STEPS
    check_numbers(f"locations in 1/{frequencies.LOC_STEPS} bin", loc, end, -end)


def check_bins(bins: int, least: int, precision: int) -> None:
    """Raise ValueError unless each bin can have its counts, and integers of 64 bits hold all products."""
    if least not in (0, 1) or bins > MOST_BINS:
        raise ValueError(f"expected at most {MOST_BINS} bins and a least count of 0 or 1, got {bins} and {least}")
    if bins < 1 or least * bins > 1 << precision:
        raise ValueError(
            f"expected between 1 and {1 << precision} bins, got {bins}; with {precision} bits of precision there is no "
            "count left for each symbol"
        )
