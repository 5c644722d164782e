"""Searches for the symbol whose interval holds a number, of distributions that are evaluated where the search asks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from toolkit.coding import frequencies
from toolkit.coding.integers import to_float64, to_int64

Function = Callable[..., Any]


def bisect(
    u: Tensor, bins: int, start: Callable[[Tensor], Tensor], total: int | Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The largest x in [0, bins) with start(x) <= u, start(x), and start(x + 1) - start(x).

    start: non-decreasing, 0 at 0 and `total` at bins. A fixed number of rounds and no question to the device.
    """
    x, low, high = torch.zeros_like(u), torch.zeros_like(u), torch.zeros_like(u) + total
    for bit in reversed(range((bins - 1).bit_length())):
        y = (x + (1 << bit)).clamp(max=bins)
        edge = start(y)
        ahead = (edge <= u) & (y < bins)
        x, low, high = torch.where(ahead, y, x), torch.where(ahead, edge, low), torch.where(ahead, high, edge)
    return x, low, high - low


def _integers(found: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    x, low, freq = map(to_int64, found)
    return x, low, freq


@functools.cache  # the same functions for the same kind, so that they are compiled once
def search_functions(kind: str, bins: int, least: int, precision: int) -> tuple[Function, Function, Function, Function]:
    """Intervals of symbols, and three searches that find the same symbol: by bisection, by a guess, and among all.

    Arguments after the first: loc, scale [symbols], or weight, loc, scale [k, symbols], then tables of `frequencies`.
    """
    total = (1 << precision) - least * bins

    def starts_of(*params: Tensor) -> Function:
        """Where the intervals of symbols begin: integers in float64, of integers in float64."""
        *weights, loc, scale, table, inverses = params
        at, inverse = to_float64(loc), inverses[scale]
        weight = [to_float64(row) for row in weights[0]] if weights else []

        def starts(x: Tensor) -> Tensor:
            if not weight:
                y = frequencies.cdf(kind, x, at, inverse, bins, table)
            else:
                # Unrolled, all components stay in registers of one kernel.
                parts = (frequencies.cdf(kind, x, *each, bins, table) for each in zip(at, inverse, strict=True))
                y = frequencies.mix(weight, parts)
            return frequencies.start(y, x, bins, precision, least)

        return starts

    def interval(x: Tensor, *params: Tensor) -> tuple[Tensor, Tensor]:
        starts, y = starts_of(*params), to_float64(x)
        low = starts(y)
        return to_int64(low), to_int64(starts(y + 1) - low)

    def bisection(u: Tensor, *params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _integers(bisect(to_float64(u), bins, starts_of(*params), 1 << precision))

    def guess(u: Tensor, loc: Tensor, scale: Tensor, *tables: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A guess in floats, which integers confirm or move by one bin; it misses about once in 10^5 symbols."""
        starts, wanted, u = starts_of(loc, scale, *tables), to_float64(u), u.int()
        centre, width = loc.float() / frequencies.LOC_STEPS, frequencies.scale_of(scale, torch.float32)
        x = centre.clamp(0, bins - 1)
        for _ in range(1 + least):  # the second round takes off the counts that symbols below x have for nothing
            count = u - x.int() if least else u
            below = (count.float() + 0.5).clamp(0.25, total - 0.25)
            above = ((total - count).float() - 0.5).clamp(0.25, total - 0.25)
            x = (centre + width * frequencies.quantile(kind, below, above) + 0.5).clamp(0, bins - 1)
        if least and kind == "logistic":
            # Far out these counts outweigh the distribution, and only Newton's steps towards start(x) = u converge.
            for _ in range(2):
                t = (x - 0.5 - centre) / width
                e = torch.exp(-t.abs())
                tail = total * e / (1 + e)
                gap = x + torch.where(t < 0, tail - u.float(), (total - u).float() - tail)
                step = gap / (tail / ((1 + e) * width) + 1)
                x = torch.where(width > 1, (x - step).clamp(0, bins - 1), x)
        found = x.int()
        if least:  # x counts lie below start(x), and as many as x + total at most
            found = torch.minimum(torch.maximum(found, u - total), u)
        y = to_float64(found)
        low, high = starts(y), starts(y + 1)
        up, down = high <= wanted, low > wanted
        # The bin beside it shares an edge with it.
        edge = starts(torch.where(up, y + 2, y - 1))
        y = torch.where(up, y + 1, torch.where(down, y - 1, y))
        low, high = (
            torch.where(up, high, torch.where(down, edge, low)),
            torch.where(up, edge, torch.where(down, low, high)),
        )
        return _integers((y, low, high - low))

    stride = 1 << (bins - 1).bit_length() // 2

    def sure(u: Tensor, *params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Among bins far apart, then among those between two of them: a quarter of the operations of `guess`."""
        starts, wanted = starts_of(*params), to_float64(u)
        first = torch.zeros_like(wanted)
        for step, count in ((stride, -(-bins // stride)), (1, stride)):
            x = (first + step * torch.arange(count + 1, device=u.device)[:, None]).clamp(max=bins)
            start = starts(x)
            at = (start <= wanted).sum(0, keepdim=True) - 1
            first = x.gather(0, at)[0]
        low, high = start.gather(0, torch.cat([at, at + 1]))
        return _integers((first, low, high - low))

    return interval, bisection, guess, sure
