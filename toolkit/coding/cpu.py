"""The loops of `kernels` on a CPU, compiled by Numba: a thread takes whole lanes through all steps.

No fast mathematics: sums and products are computed as they stand, so words are those of the tensor program. A law is
two functions, `interval` of a symbol and `find` of a place; `overload` picks them when a loop is compiled for the law's
tuple. All is in one file, as Numba's cache on disk is renewed when the file that holds a loop changes.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment, var-annotated, call-arg"
# Numba's functions have the types that they are called with.

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numba.core import cgutils, types
from numba.extending import intrinsic, overload
from torch import Tensor

from toolkit.coding import frequencies
from toolkit.coding.compiled import OPTIONS, inline, jit

GROUP = 512  # lanes that a thread takes through a step before the next: their heads stay in the first cache
MANY = 16  # lanes that a thread needs before the vectorised loops pay off
FEW = 8  # likewise, where each lane's symbols lie one after the other
PART = 1 << 15  # least symbols of a work item
ALONE = 8192  # below so many symbols, one thread

Array = Any  # numpy arrays, in NamedTuples that Numba types


class Bits(NamedTuple):
    width: Array  # int32 [n]
    bins: int
    precision: int


class Bit(NamedTuple):
    zeros: Array  # int32 [n]
    bins: int
    precision: int


class Given(NamedTuple):
    start: Array  # int64 [n]
    freq: Array  # int64 [n]
    bins: int
    precision: int


class Table(NamedTuple):
    which: Array  # int32 [n], or [0]
    starts: Array  # int32 [tables, k + 1]
    first: Array  # int32 [tables, cells + 1]
    bins: int
    precision: int
    shift: int


class LocationScale(NamedTuple):
    loc: Array  # int32 [n]
    scale: Array  # int32 [n]
    cdf: Array
    inverse: Array
    quantiles: Array
    scales: Array
    shift: int
    bins: int
    least: int
    precision: int


class Mixture(NamedTuple):
    weight: Array  # int32 [k, n]
    loc: Array  # int32 [k, n]
    scale: Array  # int32 [k, n]
    cdf: Array
    inverse: Array
    quantiles: Array
    scales: Array
    shift: int
    bins: int
    precision: int


class Pixels(NamedTuple):
    parameters: Array  # float32 [n, ...]
    base: Array  # int32 [n, c]
    cdf: Array
    inverse: Array
    quantiles: Array
    scales: Array
    exponentials: Array
    cosines: Array
    half_widths: Array  # float64 [2, levels]
    shift: int
    k: int
    channels: int
    lowest: int
    highest: int
    bins: int
    precision: int
    drawn: int


LAWS: dict[str, Any] = {law.__name__: law for law in (Bits, Bit, Given, Table, LocationScale, Mixture, Pixels)}


def interval(law: Any, x: Any, i: Any) -> Any:
    """Start and frequency of symbol x, the i-th: int64 each; a frequency below 1: cannot be coded."""


def find(law: Any, u: Any, i: Any) -> Any:
    """The i-th symbol, whose interval holds u, its start and its frequency: int64 each."""


def guess_many(law: Any, slots: Any, first: Any, count: Any, found: Any, starts: Any, ends: Any) -> Any:
    """For `count` lanes, guess each symbol from its slot; write it, and the start and end of its interval."""


def correct(law: Any, u: Any, i: Any, s: Any, start: Any, end: Any) -> Any:
    """What `find` returns, from a guess and its interval."""


def _of(operation: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Make a function the one that loops call for an operation of the law of this name."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        def choose(law: Any, *arguments: Any) -> Any:
            return function if getattr(law, "instance_class", None) is LAWS[name] else None

        options: Any = {**OPTIONS, "forceinline": True}
        made: Any = overload(operation, strict=False, jit_options=options)
        made(choose)
        return function

    return register


# --- stacks


@inline
def _pushed(head, tail, size, lane, start, freq, precision):
    h, f, p = head[lane], np.uint64(freq), np.uint64(precision)
    if h >> (np.uint64(63) - p) >= f:
        if size[lane] >= 0:  # below after a pop that found no word, whose fault is raised when all is done
            tail[lane, np.uint64(size[lane])] = np.uint32(h & np.uint64(0xFFFFFFFF))
        size[lane] += 1
        h >>= np.uint64(32)
    quotient = h // f
    head[lane] = (quotient << p) + (h - quotient * f) + np.uint64(start)


@inline
def _popped(head, tail, size, floor, lane, u, start, freq, precision, small):
    """Whether there were bits enough."""
    h = np.uint64(freq) * (head[lane] >> np.uint64(precision)) + np.uint64(u - start)
    if h < np.uint64(1 << 31):
        left = size[lane]
        if left > 0:
            h = (h << np.uint64(32)) | np.uint64(tail[lane, np.uint64(left - 1)])
            size[lane] = left - 1
            if left - 1 < floor[lane]:
                floor[lane] = left - 1
        elif not small:
            size[lane] = left - 1
            floor[lane] = min(floor[lane], left - 1)
            head[lane] = (h | np.uint64(1)) << np.uint64(32)  # as if there had been one, so that all are counted
            return False
    head[lane] = h
    return True


@jit
def _push(head, tail, size, floor, x, valid, law, across, along, group, lo, hi, small):
    n, steps, faults = len(x), -(-len(x) // len(head)), 0
    for begin in range(lo, hi, group):
        end = min(begin + group, hi)
        for step in range(steps - 1, -1, -1):
            for lane in range(begin, end):
                at = step * across + lane * along
                i = np.uint64(at)
                if at >= n or not valid[i]:
                    continue
                s = x[i]
                if s < 0 or s >= law.bins:
                    faults |= 2
                    continue
                start, freq = interval(law, s, i)
                if freq < 1:
                    faults |= 2
                    continue
                _pushed(head, tail, size, np.uint64(lane), start, freq, law.precision)
    return faults


@jit
def _pop(head, tail, size, floor, x, valid, law, across, along, group, lo, hi, small):
    n, steps, faults = len(x), -(-len(x) // len(head)), 0
    mask = np.uint64((1 << law.precision) - 1)
    for begin in range(lo, hi, group):
        end = min(begin + group, hi)
        for step in range(steps):
            for place in range(begin, end):
                at = step * across + place * along
                i, lane = np.uint64(at), np.uint64(place)
                if at >= n:
                    continue
                if not valid[i]:
                    x[i] = 0
                    continue
                u = np.int64(head[lane] & mask)
                s, start, freq = find(law, u, i)
                x[i] = s
                if not _popped(head, tail, size, floor, lane, u, start, freq, law.precision, small):
                    faults |= 1
    return faults


# --- laws


@_of(interval, "Given")
def _given(law, x, i):
    return law.start[i], law.freq[i]


@_of(interval, "Bits")
def _bits(law, x, i):
    width = np.int64(law.width[i])
    freq = np.int64(1) << (law.precision - width)
    return x * freq, freq if x >> width == 0 else np.int64(0)


@_of(find, "Bits")
def _find_bits(law, u, i):
    shift = law.precision - np.int64(law.width[i])
    x = u >> shift
    return x, x << shift, np.int64(1) << shift


@_of(interval, "Bit")
def _bit(law, x, i):
    zeros = np.int64(law.zeros[i])
    if x == 0:
        return np.int64(0), zeros
    return zeros, (np.int64(1) << law.precision) - zeros


@_of(find, "Bit")
def _find_bit(law, u, i):
    zeros = np.int64(law.zeros[i])
    if u < zeros:
        return np.int64(0), np.int64(0), zeros
    return np.int64(1), zeros, (np.int64(1) << law.precision) - zeros


@_of(interval, "Table")
def _table(law, x, i):
    row, place = np.uint64(law.which[i] if len(law.which) else 0), np.uint64(x)
    low = np.int64(law.starts[row, place])
    return low, np.int64(law.starts[row, place + np.uint64(1)]) - low


@_of(find, "Table")
def _find_in_table(law, u, i):
    row, cell = np.uint64(law.which[i] if len(law.which) else 0), np.uint64(u >> law.shift)
    low = np.int64(law.first[row, cell])
    left = np.int64(law.first[row, cell + np.uint64(1)]) - low + 1
    while left > 1:  # without branches on what is found, so that the next lanes' searches begin before this one ends
        half = left >> 1
        low += half * np.int64(law.starts[row, np.uint64(low + half)] <= u)
        left -= half
    start = np.int64(law.starts[row, np.uint64(low)])
    return low, start, np.int64(law.starts[row, np.uint64(low + 1)]) - start


@inline
def _inside(law, x, loc, inverse):
    """`frequencies.cdf` where 0 < x < bins: a cell's lower value and what it rises, side by side in one number."""
    half = np.int64(len(law.cdf) >> 1) << 16
    t = min(max(((x * 64 - 32 - loc) * inverse >> law.shift) + half, 0), 2 * half - 1)
    cell = law.cdf[np.uint64(t >> 16)]  # no sign: Numba would look for negative indices
    return (cell >> 22) + ((cell & 0x3FFFFF) * (t & 0xFFFF) >> 16)


@inline
def _cdf(law, x, loc, inverse):
    if x <= 0:
        return np.int64(0)
    if x >= law.bins:
        return np.int64(1 << 30)
    return _inside(law, x, loc, inverse)


@inline
def _start(law, x, loc, inverse, least):
    counts = (np.int64(1) << law.precision) - least * law.bins
    return (_cdf(law, x, loc, inverse) * counts >> 30) + least * x


@inline
def _quantile(law, u):
    bits = law.precision - 14
    return law.quantiles[np.uint64(u >> bits if bits >= 0 else u << -bits)]


@inline
def _find_place(law, u, loc, level, least):
    """A guess in floats, from which integers go on: the result is theirs alone."""
    inverse, at = law.inverse[level], _guess(law, u, loc, level)
    start = _start(law, at, loc, inverse, least)
    end = _start(law, at + 1, loc, inverse, least)
    return _corrected(law, u, loc, inverse, least, at, start, end)


@inline
def _guess(law, u, loc, level):
    guess = np.float32(loc) * np.float32(1 / 64) + law.scales[level] * _quantile(law, u) + np.float32(0.5)
    return np.int64(min(max(guess, np.float32(0)), np.float32(law.bins - 1)))


@inline
def _corrected(law, u, loc, inverse, least, at, start, end):
    """The symbol whose interval holds u, near `at`, whose interval is [start, end)."""
    tries = 3
    while end <= u and tries:
        at, start, tries = at + 1, end, tries - 1
        end = _start(law, at + 1, loc, inverse, least)
    while start > u and tries:
        at, end, tries = at - 1, start, tries - 1
        start = _start(law, at, loc, inverse, least)
    if start <= u < end:
        return at, start, end - start
    return _bisected(law, u, loc, inverse, least)


@numba.njit(**OPTIONS)
def _bisected(law, u, loc, inverse, least):
    """The same where the guess is far away: in the tails of damaged data, or of few counts."""
    low, high = np.int64(0), np.int64(law.bins)
    start, end = np.int64(0), np.int64(1) << law.precision
    while high - low > 1:
        middle = (low + high) >> 1
        found = _start(law, middle, loc, inverse, least)
        if found <= u:
            low, start = middle, found
        else:
            high, end = middle, found
    return low, start, end - start


@_of(interval, "LocationScale")
def _location_scale(law, x, i):
    loc, inverse = np.int64(law.loc[i]), law.inverse[np.uint64(law.scale[i])]
    start = _start(law, x, loc, inverse, law.least)
    return start, _start(law, x + 1, loc, inverse, law.least) - start


@_of(find, "LocationScale")
def _find_location_scale(law, u, i):
    return _find_place(law, u, np.int64(law.loc[i]), np.uint64(law.scale[i]), law.least)


@inline
def _mixture_start(law, x, i):
    y = np.int64(0)
    for k in range(len(law.weight)):
        y += law.weight[k, i] * _cdf(law, x, np.int64(law.loc[k, i]), law.inverse[law.scale[k, i]])
    return ((y >> 16) * ((np.int64(1) << law.precision) - law.bins) >> 30) + x


@_of(interval, "Mixture")
def _mixture(law, x, i):
    start = _mixture_start(law, x, i)
    return start, _mixture_start(law, x + 1, i) - start


@_of(find, "Mixture")
def _find_in_mixture(law, u, i):
    q = _quantile(law, u)
    least, most, mean = np.float32(law.bins), np.float32(0), np.float32(0)
    for k in range(len(law.weight)):
        if law.weight[k, i]:
            guess = law.loc[k, i] * np.float32(1 / 64) + law.scales[law.scale[k, i]] * q
            least, most = min(least, guess), max(most, guess)
            mean += guess * (law.weight[k, i] * np.float32(1 / 65536))
    # The quantile lies between those of the components; whether these are good, integers say.
    at = np.int64(min(max(mean + np.float32(0.5), np.float32(0)), np.float32(law.bins - 1)))
    below = np.int64(max(least - np.float32(1), np.float32(0)))
    above = np.int64(min(max(most + np.float32(2), np.float32(1)), np.float32(law.bins)))
    low, high = np.int64(0), np.int64(law.bins)
    start, end = np.int64(0), np.int64(1) << law.precision
    step = 0
    while high - low > 1:
        at = min(max(at, low + 1), high - 1)
        found = _mixture_start(law, at, i)
        if found <= u:
            low, start = at, found
        else:
            high, end = at, found
        step += 1
        if step == 1:
            at = low + 1 if found <= u else high - 1
        else:
            at = (max(low, below) + min(high, above)) >> 1
            if at <= low or at >= high:
                at = (low + high) >> 1
    return low, start, end - start


# --- vectorised over lanes: first the intervals of a step, which need no stack, then the stacks


@intrinsic  # type: ignore[misc]
def _scratch_on_stack(typing, number):
    """GROUP int64 on the stack. LLVM then knows that no array aliases them, and can vectorise the loop."""

    def generate(context, builder, signature, arguments):
        return cgutils.alloca_once(builder, context.get_value_type(types.int64), GROUP)

    return types.CPointer(types.int64)(number), generate


@inline
def _level(law, i):
    """Level of a scale; within the table, of 2**n levels, also where nothing is coded and it may be anything."""
    return np.uint64(law.scale[i]) & np.uint64(len(law.inverse) - 1)


@jit
def _push_together(head, tail, size, floor, x, valid, law, across, along, group, lo, hi, small):
    starts, freqs = _scratch_on_stack(0), _scratch_on_stack(1)
    n, steps, faults = len(x), -(-len(x) // len(head)), 0
    for begin in range(lo, hi, group):
        for step in range(steps - 1, -1, -1):
            first = step * across + begin
            count = min(min(group, hi - begin), n - first)
            for place in range(count):
                i, here = np.uint64(first + place), np.uint64(place)
                s = min(max(x[i], 0), law.bins - 1)
                loc, inverse = np.int64(law.loc[i]), law.inverse[_level(law, i)]
                start = _start(law, s, loc, inverse, law.least)
                freq = _start(law, s + 1, loc, inverse, law.least) - start
                starts[here], freqs[here] = start, freq if s == x[i] else 0
            for place in range(count):
                here = np.uint64(place)
                if not valid[np.uint64(first + place)]:
                    continue
                if freqs[here] < 1:
                    faults |= 2
                    continue
                _pushed(head, tail, size, np.uint64(begin + place), starts[here], freqs[here], law.precision)
    return faults


@jit
def _pop_together(head, tail, size, floor, x, valid, law, across, along, group, lo, hi, small):
    found, starts, ends, slots = _scratch_on_stack(0), _scratch_on_stack(1), _scratch_on_stack(2), _scratch_on_stack(3)
    n, steps, faults = len(x), -(-len(x) // len(head)), 0
    mask = np.uint64((1 << law.precision) - 1)
    for begin in range(lo, hi, group):
        for step in range(steps):
            first = step * across + begin
            count = min(min(group, hi - begin), n - first)
            for place in range(count):
                slots[np.uint64(place)] = np.int64(head[np.uint64(begin + place)] & mask)
            guess_many(law, slots, first, count, found, starts, ends)
            for place in range(count):
                i, here, lane = np.uint64(first + place), np.uint64(place), np.uint64(begin + place)
                if not valid[i]:
                    x[i] = 0
                    continue
                u = slots[here]
                s, start, freq = correct(law, u, i, found[here], starts[here], ends[here])
                x[i] = s
                if not _popped(head, tail, size, floor, lane, u, start, freq, law.precision, small):
                    faults |= 1
    return faults


@_of(guess_many, "LocationScale")
def _guess_location_scales(law, slots, first, count, found, starts, ends):
    for place in range(count):
        i, here = np.uint64(first + place), np.uint64(place)
        loc, level = np.int64(law.loc[i]), _level(law, i)
        s, inverse = _guess(law, slots[here], loc, level), law.inverse[level]
        found[here] = s
        starts[here] = _start(law, s, loc, inverse, law.least)
        ends[here] = _start(law, s + 1, loc, inverse, law.least)


@_of(correct, "LocationScale")
def _correct_location_scale(law, u, i, s, start, end):
    if start <= u < end:
        return s, start, end - start
    loc, inverse = np.int64(law.loc[i]), law.inverse[np.uint64(law.scale[i])]
    return _corrected(law, u, loc, inverse, law.least, s, start, end)


@_of(guess_many, "Table")
def _guess_in_tables(law, slots, first, count, found, starts, ends):
    """Bisections step by step for all lanes, so that memory is asked for many tables at once."""
    most = np.int64(0)
    for place in range(count):
        here = np.uint64(place)
        row = np.uint64(min(max(law.which[np.uint64(first + place)], 0), len(law.starts) - 1))  # of a hole: any
        cell = np.uint64(slots[here] >> law.shift)
        low = np.int64(law.first[row, cell])
        found[here], starts[here] = low, np.int64(row)
        ends[here] = np.int64(law.first[row, cell + np.uint64(1)]) - low + 1
        most = max(most, ends[here])
    while most > 1:
        for place in range(count):
            here = np.uint64(place)
            half, row = ends[here] >> 1, np.uint64(starts[here])
            found[here] += half * np.int64(law.starts[row, np.uint64(found[here] + half)] <= slots[here])
            ends[here] -= half
        most -= most >> 1
    for place in range(count):
        here = np.uint64(place)
        row, s = np.uint64(starts[here]), np.uint64(found[here])
        starts[here] = law.starts[row, s]
        ends[here] = law.starts[row, s + np.uint64(1)]


@_of(correct, "Table")
def _correct_table(law, u, i, s, start, end):
    return s, start, end - start


# --- pixels of several channels: see `mixtures.Pixels`


@inline
def _share(mass, k, prior, possible, weight):
    """`frequencies.normalise` and `posterior`."""
    total = 0.0
    for c in range(k):
        total += mass[c]
    scale = (65536.0 - k if possible else 65536.0) / total
    rest, largest = np.int64(65536), 0
    for c in range(k):
        w = np.int64(mass[c] * scale)
        if possible and prior[c] > 0:
            w += 1
        weight[c] = w
        rest -= w
        if mass[c] > mass[largest]:
            largest = c
    weight[largest] += rest


@inline
def _prior(law, row, mass, weight):
    """Weights of the components of a pixel whose parameters are `row`."""
    top = row[0]
    for c in range(1, law.k):
        top = max(top, row[c])
    least = np.float32(len(law.exponentials) - 1)
    for c in range(law.k):
        mass[2, c] = law.exponentials[np.uint64(min(top - row[c], least))]
    _share(mass[2], law.k, weight, False, weight)
    for c in range(law.k):
        mass[0, c], mass[1, c] = np.float64(weight[c]), 1.0


@inline
def _place(law, row, base, x, j, c):
    """Location and level of scale of channel j of component c."""
    k = law.k
    at = k * (1 + j) + c
    loc = np.int64(min(max(row[np.uint64(at)], np.float32(-1048576)), np.float32(1048576))) + base[np.uint64(j)]
    at += k * law.channels
    level = np.uint64(min(max(row[np.uint64(at)], np.float32(law.lowest)), np.float32(law.highest)))
    shift = np.int64(0)
    at = k * (1 + 2 * law.channels + j * (j - 1) // 2) + c
    for other in range(np.uint64(j)):
        shift += np.int64(row[np.uint64(at)]) * (x[other] * 64 - base[other])
        at += k
    return loc + (shift >> 8), level


@inline
def _see(law, row, base, x, j, mass):
    """Weigh each component by what it gives to channel j: see `frequencies.odds`."""
    s, last = x[np.uint64(j)], np.int64(len(law.cosines) - 1)
    end = s <= 0 or s >= law.bins - 1
    above, below, sines, halves = mass[0], mass[1], law.half_widths[0], law.half_widths[1]
    for c in range(np.uint64(law.k)):
        loc, level = _place(law, row, base, x, j, np.int64(c))
        inverse = law.inverse[level]
        if end:
            rise = _cdf(law, s + 1, loc, inverse) - _cdf(law, s, loc, inverse) + 1
            above[c] *= np.float64(rise) * 2.0**-30
        else:
            cell = min((abs(s * 64 - loc) * inverse + (np.int64(1) << 26)) >> 27, last)
            above[c] *= sines[level]
            below[c] *= halves[level] + law.cosines[np.uint64(cell)]


@inline
def _weigh(law, mass, prior, possible, weight):
    for c in range(law.k):
        mass[2, c] = mass[0, c] / mass[1, c]
    _share(mass[2], law.k, prior, possible, weight)


@inline
def _draw(weight, u):
    c, low = np.int64(0), np.int64(0)
    while low + weight[c] <= u:
        low += weight[c]
        c += 1
    return c, low


@inline
def _below(weight, c):
    low = np.int64(0)
    for other in range(c):
        low += weight[other]
    return low


@inline
def _mix_start(law, x, weight, locs, inverses):
    y = np.int64(0)
    for c in range(law.k):
        y += weight[c] * _cdf(law, x, locs[c], inverses[c])
    return ((y >> 16) * ((np.int64(1) << law.precision) - law.bins) >> 30) + x


@jit
def _known(x, valid, known, bins):
    """Pixels as `pop` returns them, 0 where nothing is coded, since others' locations see it; whether all can be coded.

    Looked at before anything is coded: what a push of pixels pops first could not be put back.
    """
    fine = True
    for i in range(len(x)):
        for j in range(x.shape[1]):
            s = x[i, j] if valid[i, j] else 0
            known[i, j] = s
            fine &= 0 <= s < bins
    return fine


@jit
def _push_pixels(head, tail, size, floor, x, valid, law, across, along, group, lo, hi, small, mass, scratch):
    n, steps, faults = len(x), -(-len(x) // len(head)), 0
    k, channels = law.k, law.channels
    prior, locs, inverses, weight = scratch[0], scratch[1], scratch[2], scratch[3:]
    for begin in range(lo, hi, group):
        end = min(begin + group, hi)
        for step in range(steps - 1, -1, -1):
            for place in range(begin, end):
                at = step * across + place * along
                i, lane = np.uint64(at), np.uint64(place)
                if at >= n:
                    continue
                some = False
                for j in range(channels):
                    some |= valid[i, np.uint64(j)]
                if not some:
                    continue
                row, base, symbols = law.parameters[i], law.base[i], x[i]
                _prior(law, row, mass, prior)
                if law.drawn:
                    for j in range(channels):
                        if valid[i, np.uint64(j)]:
                            _see(law, row, base, symbols, j, mass)
                    _weigh(law, mass, prior, True, weight[0])
                    u = np.int64(head[lane] & np.uint64(0xFFFF))
                    c, low = _draw(weight[0], u)
                    if not _popped(head, tail, size, floor, lane, u, low, weight[0, c], 16, small):
                        faults |= 1
                    for j in range(channels - 1, -1, -1):
                        if valid[i, np.uint64(j)]:
                            loc, level = _place(law, row, base, symbols, j, c)
                            inverse = law.inverse[level]
                            start = _start(law, x[i, np.uint64(j)], loc, inverse, 1)
                            freq = _start(law, x[i, np.uint64(j)] + 1, loc, inverse, 1) - start
                            _pushed(head, tail, size, lane, start, freq, law.precision)
                    _pushed(head, tail, size, lane, _below(prior, c), prior[c], 16)
                    continue
                for j in range(channels):
                    _weigh(law, mass, prior, False, weight[j])
                    if valid[i, np.uint64(j)] and j + 1 < channels:
                        _see(law, row, base, symbols, j, mass)
                for j in range(channels - 1, -1, -1):
                    if valid[i, np.uint64(j)]:
                        for c in range(k):
                            locs[c], level = _place(law, row, base, symbols, j, c)
                            inverses[c] = law.inverse[level]
                        start = _mix_start(law, x[i, np.uint64(j)], weight[j], locs, inverses)
                        freq = _mix_start(law, x[i, np.uint64(j)] + 1, weight[j], locs, inverses) - start
                        _pushed(head, tail, size, lane, start, freq, law.precision)
    return faults


@jit
def _pop_pixels(head, tail, size, floor, x, valid, law, across, along, group, lo, hi, small, mass, scratch):
    n, steps, faults = len(x), -(-len(x) // len(head)), 0
    k, channels = law.k, law.channels
    prior, locs, inverses, weight = scratch[0], scratch[1], scratch[2], scratch[3]
    mask = np.uint64((1 << law.precision) - 1)
    for begin in range(lo, hi, group):
        end = min(begin + group, hi)
        for step in range(steps):
            for place in range(begin, end):
                at = step * across + place * along
                i, lane = np.uint64(at), np.uint64(place)
                if at >= n:
                    continue
                some = False
                for j in range(channels):
                    some |= valid[i, np.uint64(j)]
                    x[i, np.uint64(j)] = 0
                if not some:
                    continue
                row, base, symbols = law.parameters[i], law.base[i], x[i]
                _prior(law, row, mass, prior)
                c = np.int64(0)
                if law.drawn:
                    u = np.int64(head[lane] & np.uint64(0xFFFF))
                    c, low = _draw(prior, u)
                    if not _popped(head, tail, size, floor, lane, u, low, prior[c], 16, small):
                        faults |= 1
                for j in range(channels):
                    if not valid[i, np.uint64(j)]:
                        continue
                    u = np.int64(head[lane] & mask)
                    if law.drawn:
                        loc, level = _place(law, row, base, symbols, j, c)
                        s, start, freq = _find_place(law, u, loc, level, 1)
                    else:
                        _weigh(law, mass, prior, False, weight)
                        for c in range(k):
                            locs[c], level = _place(law, row, base, symbols, j, c)
                            inverses[c] = law.inverse[level]
                        s, high = np.int64(0), np.int64(law.bins)
                        start, above = np.int64(0), np.int64(1) << law.precision
                        while high - s > 1:
                            middle = (s + high) >> 1
                            found = _mix_start(law, middle, weight, locs, inverses)
                            if found <= u:
                                s, start = middle, found
                            else:
                                high, above = middle, found
                        freq = above - start
                    x[i, np.uint64(j)] = s
                    if not _popped(head, tail, size, floor, lane, u, start, freq, law.precision, small):
                        faults |= 1
                    if law.drawn or j + 1 < channels:
                        _see(law, row, base, symbols, j, mass)
                if law.drawn:
                    _weigh(law, mass, prior, True, weight)
                    _pushed(head, tail, size, lane, _below(weight, c), weight[c], 16)
    return faults


# --- threads: our own, as Numba's end the process where two Python threads or a forked one use them


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), "toolkit-coder")


if hasattr(os, "register_at_fork"):  # a fork has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


def _run(
    loops: tuple[Any, Any], state: tuple[Tensor, ...], x: Tensor, valid: Tensor, law: Any, first: int, order: int
) -> int:
    """All lanes, on as many threads as torch has; the faults of all. loops: scalar, and vectorised over lanes."""
    head, tail, size, floor = (part.numpy() for part in state)
    lanes, n = len(head), len(x)
    steps = -(-n // max(lanes, 1))
    across, along, group = (1, steps, FEW) if order else (lanes, 1, GROUP)
    head = head.view(np.uint64)
    # Unsigned, as words are.
    tail = tail.view(np.uint32)
    given = (head, tail, size, floor, x.numpy(), valid.numpy(), law, across, along, group)
    threads = max(min(torch.get_num_threads(), lanes), 1) if x.numel() >= ALONE else 1
    scalar, vectorised = loops
    loop = vectorised if not order and lanes >= MANY * threads else scalar
    # More parts than threads, where they are long enough: beside other programs the system may pause a thread.
    parts = max(min(x.numel() // PART, 4 * threads, lanes // MANY), threads) if threads > 1 else 1
    edges = [lanes * i // parts for i in range(parts + 1)]
    numbers = itertools.count()

    def work() -> int:
        faults, scratch = 0, _scratch(law)
        while (i := next(numbers)) < parts:
            faults |= int(loop(*given, edges[i], edges[i + 1], first < 1 << 31, *scratch))
        return faults

    others = [_pool().submit(work) for _ in range(1, threads)]
    try:
        faults = work()
    finally:  # nobody writes to the message after this, also when Ctrl-C ends the caller's part
        numbers = itertools.count(parts)
        begun = [other for other in others if not other.cancel()]
        wait(begun)
    for other in begun:
        faults |= other.result()
    return faults


def _scratch(law: Any) -> tuple[Array, ...]:
    """Memory for the components of a pixel: the loops have no run-time to ask for some."""
    if not isinstance(law, Pixels):
        return ()
    return np.empty((3, law.k)), np.empty((law.channels + 4, law.k), np.int64)


def _law(name: str, tensors: list[Tensor], numbers: list[int]) -> Any:
    arrays = [x.numpy() for x in tensors]
    if name in ("LocationScale", "Mixture"):
        kind, *numbers = numbers
        return LAWS[name](*arrays, *_curve(kind), frequencies.shift_of(frequencies.KINDS[kind]), *numbers)
    if name == "Pixels":
        more = [table(torch.device("cpu")).numpy() for table in _OF_PIXELS]
        return LAWS[name](*arrays, *_curve(0), *more, frequencies.shift_of("logistic"), *numbers)
    return LAWS[name](*arrays, *numbers)


_OF_PIXELS = frequencies.exponentials, frequencies.cosines, frequencies.half_widths


@functools.cache
def _curve(kind: int) -> tuple[Array, Array, Array, Array]:
    """Of a number in `frequencies.KINDS`: cdf, inverse, quantiles, scales."""
    name, host = frequencies.KINDS[kind], torch.device("cpu")
    cdf, inverse = frequencies.cdf_table(name, host).numpy(), frequencies.inverse_scales(host).numpy()
    rest = frequencies.quantiles(name, host).numpy(), frequencies.scales(host).numpy()
    return cdf[:-1] << 22 | np.diff(cdf), inverse, *rest


def push(
    head: Tensor, tail: Tensor, size: Tensor, floor: Tensor, x: Tensor, valid: Tensor, tensors: list[Tensor],
    numbers: list[int], law: str, first: int, order: int,
) -> Tensor:  # fmt: skip
    """`toolkit::push` on a CPU."""
    made, loops = _law(law, tensors, numbers), (_push, _push_together if law == "LocationScale" else _push)
    if x.dim() == 2:
        known, loops = torch.empty_like(x), (_push_pixels, _push_pixels)
        if not _known(x.numpy(), valid.numpy(), known.numpy(), made.bins):
            return torch.tensor([2], dtype=torch.int32)
        x = known
    faults = _run(loops, (head, tail, size, floor), x, valid, made, first, order)
    return torch.tensor([faults], dtype=torch.int32)


def pop(
    head: Tensor, tail: Tensor, size: Tensor, floor: Tensor, valid: Tensor, tensors: list[Tensor],
    numbers: list[int], law: str, first: int, order: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`toolkit::pop` on a CPU."""
    x = torch.empty(valid.shape, dtype=torch.int64)
    together = law == "LocationScale" or (law == "Table" and len(tensors[0]) > 0)
    loops = (_pop, _pop_together if together else _pop) if x.dim() == 1 else (_pop_pixels, _pop_pixels)
    faults = _run(loops, (head, tail, size, floor), x, valid, _law(law, tensors, numbers), first, order)
    return x, torch.tensor([faults], dtype=torch.int32)


torch.library.impl("toolkit::push", "CPU", push)
torch.library.impl("toolkit::pop", "CPU", pop)
