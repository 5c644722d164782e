"""The loop that codes coefficients: binary decisions whose probabilities learn while they code.

Channel after channel, row by row. Two sums over what is known, with integer weights of the model, predict each
coefficient: its mean, from signed neighbours, and its magnitude, from theirs (context coding by magnitudes: Wu 1997,
doi:10.1109/ACSSC.1997.680622). Then decisions are coded: zero or not, which sign, larger or not. The probability of a
decision is mixed in the logistic domain (Mahoney 2005) from counters in contexts of predictions and neighbours;
counters and weights of the mixture start from what training left, and go on learning. Where little is expected, one
decision says that a whole part of a row is zero, or one counter alone whether a coefficient is.

Integers, and float32 arithmetic of +, -, x and / in a fixed order: the same bytes on all processors. No number becomes
subnormal, as programs may have these set to zero.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment, index, misc, call-arg, arg-type, operator"
# Numba's functions have the types that they are called with.

from __future__ import annotations

from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from toolkit.coding import binary
from toolkit.coding.binary import code
from toolkit.coding.compiled import inline, jit
from toolkit.coding.vectors import bits, exp2, first, gather, least, load, log2, most, scatter, splat, store, total

f4 = np.float32
Array = Any
PAD = 2  # places around a plane
CLAMP = 63  # a magnitude counts so much at most in predictions
FRACTION = 12  # bits after the point of predictions
KINDS = 3  # of sums of magnitudes: the place itself, its four neighbours, the corners
OWN = ((0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0))  # known neighbours in the channel itself: down, across
NEAR = 3  # channels whose coefficients at the place are contexts
LANES = 16  # counters of a decision, at most 15, and a constant
SIZES, MEANS, COUNTS = 64, 16, 16  # classes of predicted magnitudes, of predicted means, and of counts
UNARY = 14  # magnitudes up to here have a decision each
OCTAVES = 14  # of larger ones: a decision for each, and raw bits
STEPS = 32  # room for both
LIMIT = UNARY + (1 << OCTAVES) - 1  # largest magnitude
FARTHEST = 1 << 14  # largest predicted mean that is subtracted
RATES = 24  # a coder knows the rate as an integer in [0, RATES)
SEGMENT = 16  # places of a row that one decision calls zero
BUSY = 30  # class of the magnitude expected in a segment from which on there is no such decision
QUIET = 14  # class below which a coefficient has one counter
LEAST_MEAN = 0.05  # of a magnitude, from which on is foreseen what another one costs
FORESIGHT = 1.0  # how much of it counts
INNER = 4.0  # bits that a coefficient is thought to cost in a segment that is not zero
SURE = 2e-5  # least probability of a counter

# Counters of each kind of context, for each channel (True) or band of channels.
FAMILIES = (
    # zero or not
    (True, SIZES), (True, MEANS * 8), (False, 32 * MEANS), (False, 256), (True, 16), (False, 512), (True, COUNTS),
    (False, COUNTS * COUNTS), (True, RATES), (False, 8 * MEANS * 4),
    # the sign
    (True, MEANS), (False, MEANS * 16), (False, 9 * MEANS), (True, 27), (False, 9 * MEANS),
    # larger or not
    (False, STEPS * 32), (False, STEPS * 128), (False, STEPS * 16), (False, STEPS * 64), (True, 4 * 32),
    # one counter alone: of a coefficient; of a segment
    (True, SIZES), (False, SIZES * 8),
)  # fmt: skip
ZERO, SIGN, STEP, QUIETLY, SEGMENTS = 0, 10, 15, 20, 21  # where those of a decision begin
# Sets of weights of the mixture, likewise; a decision takes two.
WEIGHTS = ((True, 1), (None, SIZES), (True, 1), (None, MEANS), (False, STEPS), (None, STEPS * 8))


class Model(NamedTuple):
    """What encoder and decoder share."""

    bands: Array  # int64 [channels] band of each channel
    deep: int  # channels, the first, that are coded as differences from their predicted means
    near: Array  # int64 [channels, NEAR] earlier channels; the channel itself where there is none
    mean_inputs: Array  # int64 [n, 3] channel, down, across
    mean_ends: Array  # int64 [channels + 1]
    mean_weights: Array  # int32 [n]
    size_inputs: Array  # int64 [m] channel
    size_ends: Array  # int64 [channels + 1]
    size_weights: Array  # int32 [m, KINDS]
    own: Array  # int32 [channels, 2, len(OWN)] weights of a mean, and of a magnitude
    base: Array  # int32 [channels, 2] magnitude that rises with the rate, and that falls
    counters: Array  # int64 [families + 1] where each family's begin
    sets: Array  # int64 [kinds + 1] likewise, of weights of the mixture
    cells: Array  # float32 [cells, 2] chances of a one, and how often each was seen; the loop changes them
    mixing: Array  # float32 [sets * LANES]; the loop changes them


class Work(NamedTuple):
    """A grid that is coded, and room to compute in; zeros at first."""

    k: Array  # int16 [channels, height + 2 PAD, width + 2 PAD]
    size: Array  # uint8, the same shape: magnitudes, for others
    sums: Array  # uint8 [KINDS, channels, height, width] of magnitudes around
    busy: Array  # bool [channels, height + 2 PAD] rows with a coefficient that is not zero
    active: Array  # int16 [height + 2 PAD, width + 2 PAD] channels so far that are not zero
    mean_row: Array  # int32 [width]
    size_row: Array  # int32 [width]
    places: Array  # int64 [LANES]
    chances: Array  # float32 [LANES]
    logits: Array  # float32 [LANES]
    constant: Array  # float32 [LANES]
    state: Array  # int64 of the binary coder
    buffer: Array  # uint8
    cost: Array  # float32 [65537] bits of a chance in 65536ths
    spent: Array  # float64 [channels] bits
    settings: Array  # float32 [2] rate of learning of the mixture, most that a counter counts


COST = np.append(f4(32), -np.log2(np.arange(1, 65537) / 65536)).astype(f4)


def starts(parts: Any, channels: int, bands: int) -> Any:
    """Where families of counters, or kinds of weights, begin: int64 [parts + 1]."""
    sizes = (n * (1 if each is None else channels if each else bands) for each, n in parts)
    return np.array([0, *accumulate(sizes)], np.int64)


def work(size: tuple[int, int, int], buffer: Any, rate: float, most_counted: float) -> Work:
    channels, height, width = size
    shape, places = (channels, height + 2 * PAD, width + 2 * PAD), np.zeros(LANES, np.int64)
    chances, logits, constant = np.zeros((3, LANES), f4)
    constant[-1] = 1
    return Work(
        np.zeros(shape, np.int16), np.zeros(shape, np.uint8), np.zeros((KINDS, channels, height, width), np.uint8),
        np.zeros(shape[:2], np.bool_), np.zeros(shape[1:], np.int16), np.zeros(width, np.int32),
        np.zeros(width, np.int32), places, chances, logits, constant, np.zeros(binary.SIZE, np.int64), buffer, COST,
        np.zeros(channels), np.array([rate, most_counted], f4),
    )  # fmt: skip


@inline
def _quarter(x):
    """The class of a predicted magnitude: quarters of octaves from 2**-10 on."""
    return min(SIZES - 1, max(0, np.int64(bits(f4(x + 4)) >> 21) - (129 << 2)))


@inline
def _half(x):
    """The class of the size of a predicted mean: half octaves from 2**-4 on."""
    return min(MEANS - 1, np.int64(bits(f4(x + 256)) >> 22) - (135 << 1))


@inline
def _few(n):
    """The class of a count."""
    if n < 6:
        return n
    return min(COUNTS - 1, 6 + np.int64(bits(f4(n - 2)) >> 22) - (129 << 1))


@inline
def _sign(x, turned):
    """0, 1 where x points to where it is expected, 2 where it does not."""
    if x == 0:
        return 0
    return 2 if (x < 0) != turned else 1


@inline
def _whole(p):
    return min(max(np.int64(p * f4(65536)), 2), 65534)


def _mixer(n):
    """Functions for decisions by n counters at `places`: the chance of a one; and what they learn from the decision."""
    found, written = gather(n), scatter(n)

    @inline
    def chance(m, w, a, b):
        one: Any = splat(f4(1))
        chances = found(m.cells, 0, w.places)
        logits = log2(chances) - log2(one - chances) + load(w.constant, 0)
        store(w.chances, 0, chances)
        store(w.logits, 0, logits)
        mixed = total((load(m.mixing, a * LANES) + load(m.mixing, b * LANES)) * logits)
        return f4(1) / (f4(1) + first(exp2(splat(min(max(-mixed, f4(-17)), f4(17))))))

    @inline
    def learn(m, w, a, b, p, bit):
        step: Any = splat((f4(bit) - p) * w.settings[0]) * load(w.logits, 0)
        for at in (a * LANES, b * LANES):
            store(m.mixing, at, most(least(load(m.mixing, at) + step, splat(f4(8))), splat(f4(-8))))
        chances, counts = load(w.chances, 0), found(m.cells, 1, w.places)
        goal = splat(f4(1 - SURE) if bit else f4(SURE))
        written(m.cells, 0, w.places, chances + (goal - chances) / (counts + splat(f4(1.6))))
        written(m.cells, 1, w.places, least(counts + splat(f4(1)), splat(w.settings[1])))

    return chance, learn


_zero_chance, _zero_learn = _mixer(SIGN - ZERO)
_chance, _learn = _mixer(5)  # of signs and magnitudes


@inline
def _code(w, c, bit, p, decoding):
    p = _whole(p)
    bit = code(w.state, w.buffer, bit, p, decoding)
    w.spent[c] += w.cost[p] if bit else w.cost[65536 - p]
    return bit


@inline
def _alone(m, w, c, at, bit, decoding):
    """Code a bit by one counter."""
    p, n = m.cells[at, 0], m.cells[at, 1]
    bit = _code(w, c, bit, p, decoding)
    m.cells[at, 0] = p + ((f4(1 - SURE) if bit else f4(SURE)) - p) / (n + f4(1.6))
    m.cells[at, 1] = min(n + f4(1), w.settings[1])
    return bit


@inline
def _zero_places(m, w, c, g, q, h, sW, sN, sNW, sNE, n0, n1, n2, active, around, edges, rate):
    """Contexts of the decision whether a coefficient is zero."""
    ci, at = w.places, m.counters
    beside = 2 * (sW + sN) + sNW + sNE
    ci[0] = at[0] + c * SIZES + q
    ci[1] = at[1] + (c * MEANS + h) * 8 + (q >> 3)
    ci[2] = at[2] + (g * 32 + (q >> 1)) * MEANS + h
    ci[3] = at[3] + (((g * 4 + min(sW, 3)) * 4 + min(sN, 3)) * 4 + min(sNW, 3)) * 4 + min(sNE, 3)
    ci[4] = at[4] + c * 16 + min(beside, 15)
    ci[5] = at[5] + (((g * 4 + min(n0, 3)) * 4 + min(n1, 3)) * 4 + min(n2, 3)) * 8 + (q >> 3)
    ci[6] = at[6] + c * COUNTS + active
    ci[7] = at[7] + (g * COUNTS + active) * COUNTS + around
    ci[8] = at[8] + c * RATES + rate
    ci[9] = at[9] + ((g * 8 + min(beside, 7)) * MEANS + h) * 4 + min(edges, 3)


@inline
def _sign_places(m, w, c, g, h, q, west, north, k0, k1):
    """Contexts of the decision whether a coefficient has another sign than its mean; of signs as `_sign` has them."""
    ci, at = w.places, m.counters
    ci[0] = at[SIGN] + c * MEANS + h
    ci[1] = at[SIGN + 1] + (g * MEANS + h) * 16 + (q >> 2)
    ci[2] = at[SIGN + 2] + ((g * 3 + west) * 3 + north) * MEANS + h
    ci[3] = at[SIGN + 3] + ((c * 3 + k0) * 3 + k1) * 3 + west
    ci[4] = at[SIGN + 4] + ((g * 3 + k0) * 3 + k1) * MEANS + h


@inline
def _step_places(m, w, c, g, n, q, mean, beside, n0, n1):
    """Contexts of the decision whether a magnitude is above n, or in a higher octave; mean: towards its sign."""
    ci, at = w.places, m.counters
    ahead = min(15, max(0, ((mean - (n << FRACTION)) >> (FRACTION - 1)) + 8))
    ci[0] = at[STEP] + (g * STEPS + n) * 32 + (q >> 1)
    ci[1] = at[STEP + 1] + ((g * STEPS + n) * 16 + ahead) * 8 + (q >> 3)
    ci[2] = at[STEP + 2] + (g * STEPS + n) * 16 + min(beside, 15)
    ci[3] = at[STEP + 3] + (g * STEPS + n) * 64 + min(n0, 7) * 8 + min(n1, 7)
    ci[4] = at[STEP + 4] + (c * 4 + min(n - 1, 3)) * 32 + (q >> 1)


@inline
def _rows(m, w, c, y, rate, width):
    """What earlier channels predict of the means and magnitudes of a row."""
    mean_row, size_row = w.mean_row, w.size_row
    start = m.base[c, 0] * rate + m.base[c, 1] * (RATES - rate)
    for x in range(width):
        mean_row[x] = 0
        size_row[x] = start
    for j in range(m.mean_ends[c], m.mean_ends[c + 1]):
        e, line, across = m.mean_inputs[j, 0], y + PAD + m.mean_inputs[j, 1], PAD + m.mean_inputs[j, 2]
        if w.busy[e, line]:
            weight, source = m.mean_weights[j], w.k[e, line]
            for x in range(width):
                mean_row[x] += weight * np.int32(source[across + x])
    for j in range(m.size_ends[c], m.size_ends[c + 1]):
        e = m.size_inputs[j]
        here, beside = w.busy[e, y + PAD], w.busy[e, y + PAD - 1] or w.busy[e, y + PAD + 1]
        for kind in range(KINDS):
            weight = m.size_weights[j, kind]
            if weight != 0 and (here if kind == 0 else beside if kind == 2 else here or beside):
                sums = w.sums[kind, e, y]
                for x in range(width):
                    size_row[x] += weight * np.int32(sums[x])


@inline
def _finished(w, c, height, width):
    """Sums around all places of a channel, for those that follow."""
    t0, t1, t2 = w.sums[0, c], w.sums[1, c], w.sums[2, c]
    for y in range(height):
        line = y + PAD
        if w.busy[c, line - 1] or w.busy[c, line] or w.busy[c, line + 1]:
            above, here, below = w.size[c, line - 1], w.size[c, line], w.size[c, line + 1]
            for x in range(width):
                o = x + PAD
                t0[y, x] = here[o]
                t1[y, x] = above[o] + below[o] + here[o - 1] + here[o + 1]
                t2[y, x] = above[o - 1] + above[o + 1] + below[o - 1] + below[o + 1]


@jit
def foreseen(m, w, rate, found, slope):
    """What one more in a magnitude costs those that are predicted from it, in bits, added to zeros in `found`.

    found: float32, the shape of `w.k`; slope: float32 zeros for a channel of it. The coefficients are in `w`, as `loop`
    left them. Of a magnitude q with a geometric distribution of mean s, bits change with s by (s - q) / (s (1 + s)) /
    ln 2; s is a weighted sum of magnitudes.
    """
    channels, height, width = w.sums.shape[1], w.sums.shape[2], w.sums.shape[3]
    size_row, unit = w.size_row, f4(1 / (1 << FRACTION))
    for c in range(channels):
        S, of_size = w.size[c], m.own[c, 1]
        for y in range(height):
            _rows(m, w, c, y, rate, width)
            line = y + PAD
            for x in range(width):
                o = x + PAD
                s = np.int64(size_row[x]) + (
                    of_size[0] * np.int64(S[line, o - 1]) + of_size[1] * np.int64(S[line - 1, o])
                    + of_size[2] * np.int64(S[line - 1, o - 1]) + of_size[3] * np.int64(S[line - 1, o + 1])
                    + of_size[4] * np.int64(S[line, o - 2]) + of_size[5] * np.int64(S[line - 2, o])
                )  # fmt: skip
                mean = max(f4(s) * unit, f4(LEAST_MEAN))
                slope[line, o] = (mean - f4(S[line, o])) / (mean * (f4(1) + mean)) * f4(1.442695) * unit
        for y in range(height):
            line = y + PAD
            for x in range(width):
                o = x + PAD
                each = slope[line, o]
                found[c, line, o - 1] += each * of_size[0]
                found[c, line - 1, o] += each * of_size[1]
                found[c, line - 1, o - 1] += each * of_size[2]
                found[c, line - 1, o + 1] += each * of_size[3]
                found[c, line, o - 2] += each * of_size[4]
                found[c, line - 2, o] += each * of_size[5]
        for j in range(m.size_ends[c], m.size_ends[c + 1]):
            e = m.size_inputs[j]
            a, b, d = f4(m.size_weights[j, 0]), f4(m.size_weights[j, 1]), f4(m.size_weights[j, 2])
            if a == 0 and b == 0 and d == 0:
                continue
            for line in range(PAD, height + PAD):
                above, here, below, to = slope[line - 1], slope[line], slope[line + 1], found[e, line]
                for o in range(PAD, width + PAD):
                    to[o] += (
                        a * here[o] + b * (above[o] + below[o] + here[o - 1] + here[o + 1])
                        + d * (above[o - 1] + above[o + 1] + below[o - 1] + below[o + 1])
                    )  # fmt: skip


@jit
def loop(m, w, wanted, weight, given, ahead, decoding, searching, rate):
    """Code all coefficients of a grid into the buffer, or decode them from it; returns the bytes written: int64.

    wanted, weight: float32 [channels, height, width], for the search of those of least weight (k - wanted)^2 + bits,
    one after the other; given: int16 of that shape, otherwise, where they are not decoded. ahead: float32 of
    `foreseen`, for a search after another one, whose result is given, too. rate: int64 in [0, RATES). They are in
    `w.k` at the end. Where the buffer was too short, w.state[FULL] is 1.
    """
    again = ahead.shape[0] > 1
    channels, height, width = w.sums.shape[1], w.sums.shape[2], w.sums.shape[3]
    stride = width + 2 * PAD
    size_row, at, cost = w.size_row, m.counters, w.cost
    zero_a, zero_b, sign_a, sign_b, step_a, step_b = m.sets[0], m.sets[1], m.sets[2], m.sets[3], m.sets[4], m.sets[5]
    binary.start(w.state, w.buffer, decoding)
    for c in range(channels):
        g, deep = m.bands[c], c < m.deep
        K, S, A = w.k[c].reshape(-1), w.size[c].reshape(-1), w.active.reshape(-1)
        near = m.near[c]
        S0, S1, S2 = w.size[near[0]].reshape(-1), w.size[near[1]].reshape(-1), w.size[near[2]].reshape(-1)
        K0, K1, around0 = w.k[near[0]].reshape(-1), w.k[near[1]].reshape(-1), w.sums[1, near[0]]
        of_mean, of_size = m.own[c, 0], m.own[c, 1]
        for y in range(height):
            row = (y + PAD) * stride + PAD
            _rows(m, w, c, y, rate, width)
            full, some = True, False
            for x in range(width):
                o = row + x
                if x % SEGMENT == 0 and not deep:
                    last = min(x + SEGMENT, width)
                    expected = np.int64(0)
                    for i in range(x, last):
                        expected += size_row[i] + of_size[1] * np.int64(S[row - stride + i])
                    expected = _quarter(expected)
                    full = True
                    if expected < BUSY:
                        n = (1 if S[o - 1] > 0 else 0) + (2 if some else 0)
                        some = False
                        for i in range(row - stride + x, row - stride + last):
                            some = some or S[i] > 0
                        n += 4 if some else 0
                        some = False
                        place = at[SEGMENTS] + (g * SIZES + expected) * 8 + n
                        if searching:
                            gain, p = f4(0), _whole(m.cells[place, 0])
                            for i in range(x, last):
                                some = some or (again and given[c, y, i] != 0)
                                gain += max(f4(0), weight[c, y, i] * (abs(wanted[c, y, i]) * f4(2) - f4(1)) - f4(INNER))
                            some = some or gain > cost[p] - cost[65536 - p]
                        elif not decoding:
                            for i in range(x, last):
                                some = some or given[c, y, i] != 0
                        full = _alone(m, w, c, place, 1 if some else 0, decoding) == 1
                    some = full
                if not full:
                    continue
                # predictions
                sW, sN = np.int64(S[o - 1]), np.int64(S[o - stride])
                sNW, sNE = np.int64(S[o - stride - 1]), np.int64(S[o - stride + 1])
                mean = np.int64(w.mean_row[x]) + (
                    of_mean[0] * np.int64(K[o - 1]) + of_mean[1] * np.int64(K[o - stride])
                    + of_mean[2] * np.int64(K[o - stride - 1]) + of_mean[3] * np.int64(K[o - stride + 1])
                    + of_mean[4] * np.int64(K[o - 2]) + of_mean[5] * np.int64(K[o - 2 * stride])
                )  # fmt: skip
                size = np.int64(size_row[x]) + (
                    of_size[0] * sW + of_size[1] * sN + of_size[2] * sNW + of_size[3] * sNE
                    + of_size[4] * np.int64(S[o - 2]) + of_size[5] * np.int64(S[o - 2 * stride])
                )  # fmt: skip
                q = _quarter(size)
                shift = np.int64(0)
                if deep:
                    shift = min(max((mean + (1 << FRACTION - 1)) >> FRACTION, -FARTHEST), FARTHEST)
                    mean -= shift << FRACTION
                # what is coded, where it is known: with the search, the nearest
                value, want, weigh = np.int64(0), f4(0), f4(0)
                if searching:
                    want, weigh = wanted[c, y, x] - f4(shift), weight[c, y, x]
                    value = np.int64(np.floor(abs(want) + f4(0.5)))
                    value = min(-value if want < 0 else value, LIMIT)
                elif not decoding:
                    value = np.int64(given[c, y, x]) - shift
                value = min(max(value, -LIMIT), LIMIT)
                quiet = q < QUIET
                place = at[QUIETLY] + c * SIZES + q
                bit = np.int64(1 if value != 0 else 0)
                if quiet and (decoding or bit == 0):
                    bit = _alone(m, w, c, place, bit, decoding)
                if quiet and bit == 0:
                    K[o] = shift
                    w.busy[c, y + PAD] = w.busy[c, y + PAD] or shift != 0
                    continue
                turned = mean < 0
                far = -mean if turned else mean
                h = _half(far)
                active, edges = _few(np.int64(A[o])), np.int64(around0[y, x])
                around = _few((np.int64(A[o - 1]) + A[o + 1] + A[o - stride] + A[o + stride]) >> 1)
                n0, n1, n2 = np.int64(S0[o]), np.int64(S1[o]), np.int64(S2[o])
                west, north = _sign(K[o - 1], turned), _sign(K[o - stride], turned)
                k0, k1 = _sign(K0[o], turned), _sign(K1[o], turned)
                if searching and bit == 1:
                    # Magnitudes down from the nearest, and zero, by what they cost now; others are not tried.
                    flips, nearest, want = (value < 0) != turned, abs(value), abs(want)
                    if quiet:
                        p = _whole(m.cells[place, 0])
                    else:
                        _zero_places(m, w, c, g, q, h, sW, sN, sNW, sNE, n0, n1, n2, active, around, edges, rate)
                        p = _whole(_zero_chance(m, w, zero_a + c, zero_b + q))
                    best, found, so_far = weigh * want * want + cost[65536 - p], np.int64(0), cost[p]
                    later = ahead[c, y + PAD, x + PAD] * f4(FORESIGHT) if again else f4(0)
                    _sign_places(m, w, c, g, h, q, west, north, k0, k1)
                    p = _whole(_chance(m, w, sign_a + c, sign_b + h))
                    so_far += cost[p] if flips else cost[65536 - p]
                    for n in range(1, min(nearest, UNARY) + 1):
                        _step_places(m, w, c, g, n, q, -far if flips else far, sW + sN, n0, n1)
                        p = _whole(_chance(m, w, step_a + g * STEPS + n, step_b + n * 8 + (q >> 3)))
                        miss = want - f4(n)
                        objective = weigh * miss * miss + so_far + cost[65536 - p] + later * f4(n)
                        if objective < best:
                            best, found = objective, np.int64(n)
                        so_far += cost[p]
                    if nearest <= UNARY:
                        value = -found if value < 0 else found
                        bit = np.int64(1 if value != 0 else 0)
                if not quiet:
                    _zero_places(m, w, c, g, q, h, sW, sN, sNW, sNE, n0, n1, n2, active, around, edges, rate)
                    p = _zero_chance(m, w, zero_a + c, zero_b + q)
                    bit = _code(w, c, bit, p, decoding)
                    _zero_learn(m, w, zero_a + c, zero_b + q, p, bit)
                elif not decoding:
                    bit = _alone(m, w, c, place, bit, decoding)
                if bit:
                    _sign_places(m, w, c, g, h, q, west, north, k0, k1)
                    p = _chance(m, w, sign_a + c, sign_b + h)
                    flip = _code(w, c, np.int64(1 if (value < 0) != turned else 0), p, decoding)
                    _learn(m, w, sign_a + c, sign_b + h, p, flip)
                    size = abs(value)
                    above, n = np.int64(1), np.int64(0)
                    while above == 1 and n < UNARY + OCTAVES - 1:
                        n += 1
                        _step_places(m, w, c, g, n, q, -far if flip else far, sW + sN, n0, n1)
                        p = _chance(m, w, step_a + g * STEPS + n, step_b + n * 8 + (q >> 3))
                        beyond = size > n if n <= UNARY else size - UNARY >= 1 << n - UNARY
                        above = _code(w, c, np.int64(1 if beyond else 0), p, decoding)
                        _learn(m, w, step_a + g * STEPS + n, step_b + n * 8 + (q >> 3), p, above)
                    if n > UNARY:
                        octave = n - UNARY - 1 + above
                        rest = np.int64(1)
                        for i in range(octave - 1, -1, -1):
                            rest = 2 * rest + code(w.state, w.buffer, size - UNARY >> i & 1, 32768, decoding)
                        w.spent[c] += octave
                        n = UNARY + rest
                    value = -n if (flip == 1) != turned else n
                    S[o] = min(CLAMP, n)
                    A[o] += 1
                else:
                    value = np.int64(0)
                K[o] = value + shift
                w.busy[c, y + PAD] = w.busy[c, y + PAD] or value != 0 or shift != 0
        _finished(w, c, height, width)
    return 0 if decoding else binary.finish(w.state, w.buffer)
