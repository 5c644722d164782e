"""The loops of `kernels` on a CUDA device, as Triton kernels: a program takes its lanes through all steps.

The integers are those of the CPU's loops. A lane is latency: each step waits for the one before it. So heads stay in
registers, what a step needs is loaded while the step before it searches, and a program has one warp, which spreads a
few thousand lanes over all multiprocessors. Searches bisect in a fixed number of rounds, as lanes of a warp would wait
for the slowest anyway. A law is three functions: `load` of a symbol's parameters, `interval` of a symbol, and `find` of
a place. TRITON_INTERPRET=1 runs all this on tensors of a CPU.
"""
# ruff: noqa: RUF005
# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment"
# Triton's functions have the types that they are called with.

from __future__ import annotations

import functools
from collections import namedtuple
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from toolkit.coding import frequencies

# Nothing is contracted: a fused product and sum is rounded once, and weights of pixels would differ from the CPU's.
OPTIONS = {"num_warps": 1, "enable_fp_fusion": False}

# Numbers that change from call to call, and are nothing but numbers: one program for all.
SAME = ["row", "column", "n", "lanes", "steps", "across", "along", "small"]

LOW = tl.constexpr(1 << 31)
SCALE_LEVELS = tl.constexpr(frequencies.SCALE_LEVELS)
WORD = tl.constexpr((1 << 32) - 1)

# Laws as kernels see them: pointers, then numbers; k, channels and drawn are constants when a kernel is compiled.
# cells: both ends of each cell of a distribution function, in the high and low half; half: the middle of its axis;
# counts: what the distribution shares out, without the least of each symbol; rounds: of bisection.
Bits = namedtuple("Bits", "bits bins precision")
Bit = namedtuple("Bit", "zeros bins precision")
Given = namedtuple("Given", "start freq bins precision")
Table = namedtuple("Table", "which starts several bins precision rounds")
LocationScale = namedtuple("LocationScale", "loc scale cells inverse shift half bins least counts precision rounds")
Mixture = namedtuple("Mixture", "weight loc scale cells inverse k width shift half bins least counts precision rounds")
Pixels = namedtuple(
    "Pixels",
    "parameters base cells inverse exponentials cosines half_widths k width channels drawn lowest highest shift half "
    "bins least counts precision rounds",
)


# --- stacks


@triton.jit
def divided(h, f):
    """Quotient and remainder of int64 h in [0, 2**63) by f in [1, 2**28]: much less code than a division of int64.

    The reciprocal is right to 40 bits, so the first quotient is wrong by less than 2**22 units, and the second, of what
    is left, by one. Whatever floats do, integers say what is right.
    """
    inverse = (1.0 / f.to(tl.float32)).to(tl.float64)
    inverse = inverse * (2.0 - f.to(tl.float64) * inverse)
    q = (h.to(tl.float64) * inverse).to(tl.int64)
    q += ((h - q * f).to(tl.float64) * inverse).to(tl.int64)
    r = h - q * f
    over, under = r >= f, r < 0
    return q + over.to(tl.int64) - under.to(tl.int64), tl.where(over, r - f, tl.where(under, r + f, r))


@triton.jit
def whole(like, precision):
    """2**precision as int64: the frequency that leaves a lane as it is."""
    return tl.full(like.shape, 1, tl.int64) << precision


@triton.jit
def pushed(head, size, tail, lane, coded, start, freq, precision):
    """The head and size after a push on the lanes where something is coded; tail: words, and their strides."""
    start, freq = tl.where(coded, start, 0), tl.where(coded, freq, whole(head, precision))
    spill = (head >> (63 - precision)) >= freq
    # A size below 0 is of a lane that was empty: its message is lost, its neighbours' words are not.
    tl.store(tail[0] + lane * tail[1] + size * tail[2], head.to(tl.int32), spill & (size >= 0))
    q, r = divided(tl.where(spill, head >> 32, head), freq)
    return (q << precision) + r + start, size + spill.to(tl.int64)


@triton.jit
def top(size, tail, lane):
    """The word that a pop may need, loaded before that is known."""
    word = tl.load(tail[0] + lane * tail[1] + (size - 1) * tail[2], size > 0, 0)
    return word.to(tl.int64) & WORD


@triton.jit
def popped(head, size, floor, faults, word, coded, u, start, freq, precision, small):
    """The head, size, floor and faults after a pop."""
    head = tl.where(coded, freq * (head >> precision) + u - start, head)
    low = coded & (head < LOW)
    refill = low & (size > 0)
    empty = low & (size <= 0) & (small == 0)
    head = tl.where(refill, (head << 32) | word, tl.where(empty, LOW, head))
    size -= (refill | empty).to(tl.int64)
    return head, size, tl.minimum(floor, size), faults | empty.to(tl.int32)


@triton.jit(do_not_specialize=SAME)
def push_kernel(
    head_p, size_p, tail_p, row, column, faults_p, x_p, valid_p, law, n, lanes, steps, across, along,
    LOAD: tl.constexpr, INTERVAL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    lane = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    here, tail = lane < lanes, (tail_p, row, column)
    head, size = tl.load(head_p + lane, here, LOW), tl.load(size_p + lane, here, 0)
    wrong = lane < 0
    i = lane * along + (lane * 0 + (steps - 1)) * across
    ok = here & (i < n)
    coded, x, p = tl.load(valid_p + i, ok, 0), tl.load(x_p + i, ok, 0), LOAD(law, i, n, ok)
    for _ in range(steps):
        i -= across
        ok = here & (i < n) & (i >= 0)
        coming, x_coming, p_coming = tl.load(valid_p + i, ok, 0), tl.load(x_p + i, ok, 0), LOAD(law, i, n, ok)
        fine = coded & (x >= 0) & (x < law.bins)
        start, freq = INTERVAL(law, p, tl.where(fine, x, 0))
        fine = fine & (freq >= 1)
        wrong = wrong | (coded & ~fine)
        head, size = pushed(head, size, tail, lane, fine, start, freq, law.precision)
        coded, x, p = coming, x_coming, p_coming
    tl.store(head_p + lane, head, here)
    tl.store(size_p + lane, size, here)
    tl.atomic_or(faults_p + lane * 0, tl.where(wrong, 2, 0), wrong)


@triton.jit(do_not_specialize=SAME)
def pop_kernel(
    head_p, size_p, floor_p, tail_p, row, column, faults_p, x_p, valid_p, law, n, lanes, steps, across, along, small,
    LOAD: tl.constexpr, FIND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    lane = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    here, tail = lane < lanes, (tail_p, row, column)
    head, size = tl.load(head_p + lane, here, LOW), tl.load(size_p + lane, here, 0)
    floor, faults = tl.load(floor_p + lane, here, 0), (lane * 0).to(tl.int32)
    i = lane * along
    ok = here & (i < n)
    coded, p = tl.load(valid_p + i, ok, 0), LOAD(law, i, n, ok)
    for _ in range(steps):
        after = i + across
        ok_after = here & (after < n)
        coming, p_coming = tl.load(valid_p + after, ok_after, 0), LOAD(law, after, n, ok_after)
        word = top(size, tail, lane)
        u = head & (whole(head, law.precision) - 1)
        x, start, freq = FIND(law, p, u)
        head, size, floor, faults = popped(
            head, size, floor, faults, word, coded, u, start, freq, law.precision, small
        )  # fmt: skip
        tl.store(x_p + i, tl.where(coded, x, 0), ok)
        i, ok, coded, p = after, ok_after, coming, p_coming
    tl.store(head_p + lane, head, here)
    tl.store(size_p + lane, size, here)
    tl.store(floor_p + lane, floor, here)
    tl.atomic_or(faults_p + lane * 0, faults, faults != 0)


# --- laws


@triton.jit
def load_bits(law, i, n, ok):
    return (tl.load(law.bits + i, ok, 0),)


@triton.jit
def interval_bits(law, p, x):
    freq = whole(x, law.precision - p[0])
    return x * freq, tl.where((x >> p[0]) == 0, freq, 0)


@triton.jit
def find_bits(law, p, u):
    shift = law.precision - p[0]
    x = u >> shift
    return x, x << shift, whole(u, shift)


@triton.jit
def load_bit(law, i, n, ok):
    return (tl.load(law.zeros + i, ok, 0),)


@triton.jit
def interval_bit(law, p, x):
    zeros = p[0].to(tl.int64)
    return tl.where(x == 0, 0, zeros), tl.where(x == 0, zeros, whole(x, law.precision) - zeros)


@triton.jit
def find_bit(law, p, u):
    x = (u >= p[0]).to(tl.int64)
    start, freq = interval_bit(law, p, x)
    return x, start, freq


@triton.jit
def load_given(law, i, n, ok):
    return tl.load(law.start + i, ok, 0), tl.load(law.freq + i, ok, 0)


@triton.jit
def interval_given(law, p, x):
    return p[0], p[1]


@triton.jit
def find_given(law, p, u):
    return u * 0, p[0], p[1]


@triton.jit
def bisected(law, p, u, START: tl.constexpr):
    """The last x in [0, bins) whose start is at most u, its start and its frequency."""
    x, low, high, step = u * 0, u * 0, whole(u, law.precision), whole(u, law.rounds)
    for _ in range(law.rounds):
        step = step >> 1
        y = tl.minimum(x + step, law.bins)
        at = START(law, p, y)
        ahead = (at <= u) & (y < law.bins)
        x, low, high = tl.where(ahead, y, x), tl.where(ahead, at, low), tl.where(ahead, high, at)
    return x, low, high - low


@triton.jit
def load_table(law, i, n, ok):
    return (tl.load(law.which + i, ok & (law.several != 0), 0),)


@triton.jit
def table_start(law, p, x):
    return tl.load(law.starts + p[0].to(tl.int64) * (law.bins + 1) + x).to(tl.int64)


@triton.jit
def interval_table(law, p, x):
    start = table_start(law, p, x)
    return start, table_start(law, p, x + 1) - start


@triton.jit
def find_table(law, p, u):
    x, start, freq = bisected(law, p, u, table_start)
    return x, start, freq


@triton.jit
def cdf(law, x, loc, inverse):
    """See `frequencies.cdf`."""
    t = (((x * 64 - 32 - loc) * inverse) >> law.shift) + law.half
    t = tl.minimum(tl.maximum(t, 0), 2 * law.half - 1)
    ends = tl.load(law.cells + (t >> 16))
    low = ends >> 32
    y = low + (((ends & WORD) - low) * (t & 0xFFFF) >> 16)
    return tl.where(x <= 0, 0, tl.where(x >= law.bins, 1 << 30, y))


@triton.jit
def curve_start(law, p, x):
    return (cdf(law, x, p[0], p[1]) * law.counts >> 30) + law.least * x


@triton.jit
def load_curve(law, i, n, ok):
    return tl.load(law.loc + i, ok, 0), tl.load(law.scale + i, ok, 0)


@triton.jit
def interval_curve(law, p, x):
    at = p[0], tl.load(law.inverse + p[1])
    start = curve_start(law, at, x)
    return start, curve_start(law, at, x + 1) - start


@triton.jit
def find_curve(law, p, u):
    at = p[0], tl.load(law.inverse + p[1])
    x, start, freq = bisected(law, at, u, curve_start)
    return x, start, freq


# --- laws of several components, which lie on the second axis of tensors, in a power of two of places


@triton.jit
def components(law):
    return tl.arange(0, law.width)[None, :]


@triton.jit
def mixture_start(law, p, x):
    y = tl.sum(p[0] * cdf(law, x[:, None], p[1], p[2]), 1)
    return ((y >> 16) * law.counts >> 30) + x


@triton.jit
def load_mixture(law, i, n, ok):
    c = components(law)
    at, ok = i[:, None] + c.to(tl.int64) * n, ok[:, None] & (c < law.k)
    return tl.load(law.weight + at, ok, 0), tl.load(law.loc + at, ok, 0), tl.load(law.scale + at, ok, 0)


@triton.jit
def interval_mixture(law, p, x):
    at = p[0], p[1], tl.load(law.inverse + p[2])
    start = mixture_start(law, at, x)
    return start, mixture_start(law, at, x + 1) - start


@triton.jit
def find_mixture(law, p, u):
    at = p[0], p[1], tl.load(law.inverse + p[2])
    x, start, freq = bisected(law, at, u, mixture_start)
    return x, start, freq


@triton.jit
def interval_weighted(law, p, x):
    c = components(law)
    start = tl.sum(tl.where(c < x[:, None], p[0], 0), 1)
    return start.to(tl.int64), chosen(law, p[0], x).to(tl.int64)


@triton.jit
def find_weighted(law, p, u):
    x = tl.sum((tl.cumsum(p[0], 1) <= u[:, None]).to(tl.int32), 1).to(tl.int64)
    start, freq = interval_weighted(law, p, x)
    return x, start, freq


@triton.jit
def chosen(law, values, c):
    """What component c has: [lanes, components] -> [lanes]."""
    return tl.sum(tl.where(components(law) == c[:, None], values, 0), 1)


# --- pixels of several channels: see `mixtures.Pixels`


@triton.jit
def shared(law, mass, prior, POSSIBLE: tl.constexpr, SEEN: tl.constexpr):
    """`frequencies.normalise` and `posterior` after so many channels: int32 weights."""
    c = components(law)
    if SEEN < 1:  # integers below 2**53: their sum is exact in any order
        total = tl.sum(mass, 1)
    else:  # in the order of components; zeros change nothing
        total = tl.sum(tl.where(c == 0, mass, 0.0), 1)
        for one in tl.static_range(1, law.k):
            total += tl.sum(tl.where(c == one, mass, 0.0), 1)
    scale = (65536.0 - law.k if POSSIBLE else 65536.0) / total
    share = (mass * scale[:, None]).to(tl.int32)
    if POSSIBLE:
        share += (prior > 0).to(tl.int32)
    first = tl.min(tl.where(mass == tl.max(mass, 1)[:, None], c, law.width), 1)
    return share + tl.where(c == first[:, None], (65536 - tl.sum(share, 1))[:, None], 0)


@triton.jit
def pixel_of(law, i, ok):
    """Where a pixel's parameters begin, what its locations are relative to, and its prior weights."""
    channels: tl.constexpr = law.channels
    c = components(law)
    row = law.parameters + i[:, None] * (law.k * (1 + 2 * channels + channels * (channels - 1) // 2)) + c
    base = ()
    for j in tl.static_range(channels):
        base = base + (tl.load(law.base + i * channels + j, ok, 0).to(tl.int64),)
    logits = tl.where(c < law.k, tl.load(row, ok[:, None] & (c < law.k), 0), float("-inf"))
    below = tl.minimum(tl.max(logits, 1)[:, None] - logits, 512.0)
    mass = tl.where(c < law.k, tl.load(law.exponentials + below.to(tl.int32)), 0.0)
    return row, base, shared(law, mass, mass, False, 0)


@triton.jit
def places(law, row, base, ok, J: tl.constexpr, x):
    """Locations, inverse scales and their levels of channel J of each component."""
    k: tl.constexpr = law.k
    channels: tl.constexpr = law.channels
    ok = ok[:, None] & (components(law) < k)
    loc = tl.load(row + k * (1 + J), ok, 0)
    level = tl.load(row + k * (1 + channels + J), ok, 0)
    shift = (loc * 0).to(tl.int64)
    for other in tl.static_range(J):
        coupling = tl.load(row + k * (1 + 2 * channels + J * (J - 1) // 2 + other), ok, 0)
        shift += coupling.to(tl.int64) * (x[other] * 64 - base[other])[:, None]
    loc = tl.minimum(tl.maximum(loc, -1048576.0), 1048576.0).to(tl.int64) + base[J][:, None] + (shift >> 8)
    level = tl.minimum(tl.maximum(level, law.lowest * 1.0), law.highest * 1.0).to(tl.int32)
    return loc, tl.load(law.inverse + level), level


@triton.jit
def place(law, at, c):
    return chosen(law, at[0], c), chosen(law, at[1], c)


@triton.jit
def seen(law, mass, at, x, valid):
    """Each component weighed by what it gives to a channel: see `frequencies.odds`; numerators and denominators."""
    x, end, valid = x[:, None], ((x <= 0) | (x >= law.bins - 1))[:, None], valid[:, None]
    rise = cdf(law, x + 1, at[0], at[1]) - cdf(law, x, at[0], at[1]) + 1
    cell = tl.minimum((tl.abs(x * 64 - at[0]) * at[1] + (1 << 26)) >> 27, law.half >> 16)
    sine, half = tl.load(law.half_widths + at[2]), tl.load(law.half_widths + SCALE_LEVELS + at[2])
    above = tl.where(end, rise.to(tl.float64) * 0.5**30, sine)
    below = half + tl.load(law.cosines + cell)
    return tl.where(valid, mass[0] * above, mass[0]), tl.where(valid & ~end, mass[1] * below, mass[1])


@triton.jit
def unseen(prior):
    return prior.to(tl.float64), (prior * 0 + 1).to(tl.float64)


@triton.jit(do_not_specialize=SAME)
def push_pixels(
    head_p, size_p, floor_p, tail_p, row, column, faults_p, x_p, valid_p, law, n, lanes, steps, across, along, small,
    BLOCK: tl.constexpr,
):  # fmt: skip
    channels: tl.constexpr = law.channels
    lane = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    here, tail = lane < lanes, (tail_p, row, column)
    head, size = tl.load(head_p + lane, here, LOW), tl.load(size_p + lane, here, 0)
    floor, faults = tl.load(floor_p + lane, here, 0), (lane * 0).to(tl.int32)
    i = lane * along + (lane * 0 + (steps - 1)) * across
    for _ in range(steps):
        ok = here & (i < n)
        some, fine, x, valid = lane < 0, ok, (), ()
        for j in tl.static_range(channels):
            valid_j = tl.load(valid_p + i * channels + j, ok, 0)
            x_j = tl.load(x_p + i * channels + j, valid_j & ok, 0)  # what is not valid is 0, as `pop` returns it
            some, fine = some | valid_j, fine & (x_j >= 0) & (x_j < law.bins)
            x, valid = x + (x_j,), valid + (valid_j,)
        faults = faults | tl.where(some & ~fine, 2, 0)
        some = some & fine
        from_p, base, prior = pixel_of(law, i, ok)
        mass = unseen(prior)
        # Weights are found forwards, symbols are pushed backwards.
        starts, freqs, all_places = (), (), ()
        for j in tl.static_range(channels):
            at = places(law, from_p, base, ok, j, x)
            if law.drawn:
                all_places = all_places + (at,)
            else:
                mixed = shared(law, mass[0] / mass[1], prior, False, j), at[0], at[1]
                start = mixture_start(law, mixed, x[j])
                starts, freqs = starts + (start,), freqs + (mixture_start(law, mixed, x[j] + 1) - start,)
            mass = seen(law, mass, at, x[j], valid[j])
        c = lane * 0
        if law.drawn:
            word = top(size, tail, lane)
            u = head & 0xFFFF
            c, start, freq = find_weighted(law, (shared(law, mass[0] / mass[1], prior, True, channels),), u)
            head, size, floor, faults = popped(head, size, floor, faults, word, some, u, start, freq, 16, small)
            for j in tl.static_range(channels):
                at = place(law, all_places[j], c)
                start = curve_start(law, at, x[j])
                starts, freqs = starts + (start,), freqs + (curve_start(law, at, x[j] + 1) - start,)
        for back in tl.static_range(1, channels + 1):
            coded, start, freq = some & valid[channels - back], starts[channels - back], freqs[channels - back]
            head, size = pushed(head, size, tail, lane, coded, start, freq, law.precision)
        if law.drawn:
            start, freq = interval_weighted(law, (prior,), c)
            head, size = pushed(head, size, tail, lane, some, start, freq, 16)
            tl.debug_barrier()  # another thread of the lane reads these words
        i -= across
    tl.store(head_p + lane, head, here)
    tl.store(size_p + lane, size, here)
    tl.store(floor_p + lane, floor, here)
    tl.atomic_or(faults_p + lane * 0, faults, faults != 0)


@triton.jit(do_not_specialize=SAME)
def pop_pixels(
    head_p, size_p, floor_p, tail_p, row, column, faults_p, x_p, valid_p, law, n, lanes, steps, across, along, small,
    BLOCK: tl.constexpr,
):  # fmt: skip
    channels: tl.constexpr = law.channels
    lane = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    here, tail = lane < lanes, (tail_p, row, column)
    head, size = tl.load(head_p + lane, here, LOW), tl.load(size_p + lane, here, 0)
    floor, faults = tl.load(floor_p + lane, here, 0), (lane * 0).to(tl.int32)
    i = lane * along
    for _ in range(steps):
        ok = here & (i < n)
        some, x, valid = lane < 0, (), ()
        for j in tl.static_range(channels):
            valid_j = tl.load(valid_p + i * channels + j, ok, 0)
            some, valid = some | valid_j, valid + (valid_j,)
        from_p, base, prior = pixel_of(law, i, ok)
        mass = unseen(prior)
        c = lane * 0
        if law.drawn:
            word = top(size, tail, lane)
            u = head & 0xFFFF
            c, start, freq = find_weighted(law, (prior,), u)
            head, size, floor, faults = popped(head, size, floor, faults, word, some, u, start, freq, 16, small)
        for j in tl.static_range(channels):
            word = top(size, tail, lane)
            u = head & (whole(head, law.precision) - 1)
            at = places(law, from_p, base, ok, j, x)
            if law.drawn:
                x_j, start, freq = bisected(law, place(law, at, c), u, curve_start)
            else:
                mixed = shared(law, mass[0] / mass[1], prior, False, j), at[0], at[1]
                x_j, start, freq = bisected(law, mixed, u, mixture_start)
            head, size, floor, faults = popped(
                head, size, floor, faults, word, valid[j], u, start, freq, law.precision, small
            )  # fmt: skip
            x_j = tl.where(valid[j], x_j, 0)
            tl.store(x_p + i * channels + j, x_j, ok)
            x = x + (x_j,)
            mass = seen(law, mass, at, x_j, valid[j])
        if law.drawn:
            start, freq = interval_weighted(law, (shared(law, mass[0] / mass[1], prior, True, channels),), c)
            head, size = pushed(head, size, tail, lane, some, start, freq, 16)
            tl.debug_barrier()
        i += across
    tl.store(head_p + lane, head, here)
    tl.store(size_p + lane, size, here)
    tl.store(floor_p + lane, floor, here)
    tl.atomic_or(faults_p + lane * 0, faults, faults != 0)


# --- launches

FUNCTIONS = {
    "Bits": (load_bits, interval_bits, find_bits),
    "Bit": (load_bit, interval_bit, find_bit),
    "Given": (load_given, interval_given, find_given),
    "Table": (load_table, interval_table, find_table),
    "LocationScale": (load_curve, interval_curve, find_curve),
    "Mixture": (load_mixture, interval_mixture, find_mixture),
}


def law_of(name: str, tensors: list[Tensor], numbers: list[int]) -> Any:
    """A law as kernels see it, from the parts that `kernels.Symbols.parts` gives."""
    tensors = [x.contiguous() for x in tensors]
    if name in ("Bits", "Bit", "Given"):
        return {"Bits": Bits, "Bit": Bit, "Given": Given}[name](*tensors, *numbers)
    if name == "Table":
        which, starts, _ = tensors
        bins, precision, _ = numbers
        return Table(which, starts, int(len(which) > 0), bins, precision, (bins - 1).bit_length())
    kind = 0
    if name != "Pixels":
        kind, *numbers = numbers
    device, curve = tensors[0].device, frequencies.KINDS[kind]
    axis = _cells(curve, device), frequencies.inverse_scales(device)
    shift, half = frequencies.shift_of(curve), frequencies.REACH[curve] << frequencies.CELLS[curve] + 16
    more: tuple[Any, ...] = ()
    least = 1
    if name == "Pixels":
        k, channels, lowest, highest, bins, precision, drawn = numbers
        shape = tl.constexpr(k), _width(k), tl.constexpr(channels), tl.constexpr(bool(drawn))
        tables = frequencies.exponentials(device), frequencies.cosines(device), frequencies.half_widths(device)
        more = *tables, *shape, lowest, highest
    elif name == "Mixture":
        bins, precision = numbers
        more = len(tensors[0]), _width(len(tensors[0]))
    else:
        bins, least, precision = numbers
    end = shift, half, bins, least, (1 << precision) - least * bins, precision, (bins - 1).bit_length()
    law = {"Pixels": Pixels, "Mixture": Mixture, "LocationScale": LocationScale}[name]
    return law(*tensors, *axis, *more, *end)


def _width(k: int) -> Any:
    return tl.constexpr(triton.next_power_of_2(k))


def block_of(law: Any) -> int:
    """Lanes of a program: a warp's threads are lanes, or components of lanes."""
    return max(1, 32 // law.width.value) if hasattr(law, "width") else 32


@functools.cache
def _cells(kind: str, device: torch.device) -> Tensor:
    table = frequencies.cdf_table(kind, device)
    return table[:-1] << 32 | table[1:]


def _launch(kernel: Any, law: Any, head: Tensor, *arguments: Any, **constants: Any) -> None:
    block = block_of(law)
    with torch.cuda.device_of(head):  # Triton takes the current device, whatever tensors say
        kernel[(triton.cdiv(len(head), block),)](head, *arguments, BLOCK=block, **constants, **OPTIONS)


def _where(n: int, lanes: int, order: int) -> tuple[int, ...]:
    steps = -(-n // max(lanes, 1))
    return n, lanes, steps, *((1, steps) if order else (lanes, 1))


def push(
    head: Tensor, tail: Tensor, size: Tensor, floor: Tensor, x: Tensor, valid: Tensor, tensors: list[Tensor],
    numbers: list[int], law: str, first: int, order: int,
) -> Tensor:  # fmt: skip
    """`toolkit::push`."""
    faults = torch.zeros(1, dtype=torch.int32, device=head.device)
    if not len(head) or not len(x):
        return faults
    given, where, words = law_of(law, tensors, numbers), _where(len(x), len(head), order), (tail, *tail.stride())
    x, valid, small = x.contiguous(), valid.contiguous(), int(first < 1 << 31)
    if law == "Pixels":
        _launch(push_pixels, given, head, size, floor, *words, faults, x, valid, given, *where, small)
    else:
        load, interval, _ = FUNCTIONS[law]
        _launch(push_kernel, given, head, size, *words, faults, x, valid, given, *where, LOAD=load, INTERVAL=interval)
    return faults


def pop(
    head: Tensor, tail: Tensor, size: Tensor, floor: Tensor, valid: Tensor, tensors: list[Tensor],
    numbers: list[int], law: str, first: int, order: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`toolkit::pop`."""
    x = torch.empty(valid.shape, dtype=torch.int64, device=valid.device)
    faults = torch.zeros(1, dtype=torch.int32, device=head.device)
    if not len(head) or not len(x):
        return x, faults
    given, where, words = law_of(law, tensors, numbers), _where(len(x), len(head), order), (tail, *tail.stride())
    state, small = (head, size, floor, *words, faults, x, valid.contiguous(), given, *where), int(first < 1 << 31)
    if law == "Pixels":
        _launch(pop_pixels, given, *state, small)
    else:
        load, _, find = FUNCTIONS[law]
        _launch(pop_kernel, given, *state, small, LOAD=load, FIND=find)
    return x, faults


torch.library.impl("toolkit::push", "CUDA", push)
torch.library.impl("toolkit::pop", "CUDA", pop)


def _try() -> None:
    """Fail where `kernels` can do without, if nothing compiles for this device."""
    x = torch.zeros(1, dtype=torch.int64, device="cuda")
    int(push(x + (1 << 31), x.int()[None], x.clone(), x.clone(), x, x == 0, [x, x + 1], [1, 1], "Given", 0, 0))


if torch.cuda.is_available():
    _try()
