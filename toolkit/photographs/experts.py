"""The loop that codes a plane of a photograph: predictors that learn at each pixel, and mixed binary decisions.

For each value there are predictions by least squares. Some learn from all pixels so far: one for all, one for each
class of gradients, one for each pattern of signs (recursive least squares). Others learn from the pixels near by, on
both sides: sums of products that fade with distance, solved by a few steps of conjugate gradients from the solution of
the pixel before. The value is then coded by binary decisions: above or below, further or not. A decision's probability
is a mixture, in the logistic domain, of what logistic distributions at the predictions say and of counters in contexts.

All of it is float32 arithmetic of +, -, x, / and square roots in a fixed order, and one table: the same on all
processors. No number becomes subnormal, as programs may have these set to zero. Sources: Wu and Memon 1997 (CALIC:
contexts, errors fed back); Wu, Barthel and Zhang 1998 (least squares near by); Meyer and Tischer 2001 (TMW: predictors
are mixed); Mahoney 2005 (PAQ: mixing in the logistic domain).
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment, index, misc, call-arg, var-annotated"
# Numba's functions have the types that they are called with.

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from toolkit.coding import binary
from toolkit.coding.binary import code
from toolkit.coding.compiled import inline, jit
from toolkit.coding.vectors import (
    bits,
    exp2,
    first,
    least,
    load,
    load8,
    log2,
    most,
    splat,
    store,
    total,
)
from toolkit.photographs.least_squares import add, dot, faded, follow, learn, sideways, solve

f4 = np.float32
Array = Any
PAD = 4  # columns and rows around a plane
GLOBAL, LOCAL = 3, 2  # predictors of all pixels so far; of pixels near by
PREDICTORS = GLOBAL + LOCAL
CLASSES = 1 + 24 + 64
EXPERTS = PREDICTORS + 7  # distributions in the mixture
COUNTERS = 8
LANES = 16  # room for experts, and for counters and a constant
NODES = 64  # kinds of decisions
SETS = 24  # of weights, for each kind of decision
ENERGIES = 40
CELLS = 1024  # contexts of a counter
BLOCK = 8  # columns that share their sums of products
LOG2E = 1.4426950408889634
# Of 1 to 2, for `_log2`. Any C library's float64 logarithms give these float32 numbers: the nearest border between two
# of them is 30,000 units in the last place of float64 away.
LOG = np.log2(1 + (np.arange(4096) + 0.5) / 4096).astype(f4)
# Where these stand in `Work.numbers`: a plane's bounds, then `Settings`.
LOWEST, HIGHEST, KEEP, RATE, LIMIT, RIDGE, STEPS, ACROSS, DOWN, ALONG, EVERY = 0, 1, 2, 5, 6, 7, 8, 9, 11, 13, 15


class Settings(NamedTuple):
    """What an effort computes. Files depend on each number."""

    keep: tuple[float, float, float]  # forgetting factors of the recursive least squares; without steps: NLMS's rates
    rate: float  # of learning the mixture's weights
    limit: float  # of a counter's number of decisions, after which it forgets
    ridge: float  # of the local least squares
    steps: float  # of conjugate gradients at a pixel; 0: no local least squares, and NLMS for the others
    # Of each local predictor: the share of a sum of products that counts BLOCK columns away; that is left a row further
    # down; that is left, of a row's own sum, a column further on.
    across: tuple[float, float]
    down: tuple[float, float]
    along: tuple[float, float]
    every: float  # 1: both predictors of classes learn at each pixel; 0: in turn

    @property
    def numbers(self) -> tuple[float, ...]:
        """All in the order of the fields."""
        one = self.rate, self.limit, self.ridge, self.steps
        return (*self.keep, *one, *self.across, *self.down, *self.along, self.every)


class Learned(NamedTuple):
    """What is known before the first pixel, and better after the last one; all float32, of one plane."""

    weights: Array  # [3, SETS * NODES * 2 * LANES]
    sizes: Array  # [3, ENERGIES * 64, 2] sums of errors' sizes in contexts, and their number
    apart: Array  # [ENERGIES * 16 * LANES] likewise, of each expert apart; their number in the last lane
    bias: Array  # [2, 4096, 2] sums of errors in contexts, and their number
    scale: Array  # [LANES] the regression for the logarithm of an error's size


class Work(NamedTuple):
    """A plane that is coded: pixels, errors, and what learns within it."""

    counters: Array  # float32 [COUNTERS, CELLS * NODES, 2] chances of a one, and how often each was seen
    pixels: Array  # float32 [planes * height * stride], padded; all planes, this one and those before it
    errors: Array  # float32, likewise
    misses: Array  # float32 [PREDICTORS, 3 * stride] errors' sizes of each predictor, of three rows
    offsets: Array  # int64 [n] where each feature is, from the pixel on
    base: Array  # int64 [n] plane whose mean of neighbours is taken from it: 0 this one, 1 and 2 those before it
    starts: Array  # int64 [3] where this plane and those before it begin, from this one on
    inverse: Array  # float32 [CLASSES * n * n] of recursive least squares
    growth: Array  # float32 [CLASSES] what the inverse grows by at a step
    seen: Array  # int64 [CLASSES] steps
    global_weights: Array  # float32 [CLASSES * n]
    sums: Array  # float32 [LOCAL, blocks, (n + 1) * n] sums of products in the columns above
    around: Array  # float32 [LOCAL, blocks, (n + 1) * n] likewise, faded to both sides
    left: Array  # float32 [LOCAL, (n + 1) * n] of this row, so far
    local_weights: Array  # float32 [LOCAL * n]
    matrix: Array  # float32 [(n + 1) * n]
    vectors: Array  # float32 [8, n]: 0 to 4 of `solve`, 5 of `learn`, 6 the features, 7 weights of the first predictor
    places: Array  # int64 [COUNTERS]
    means: Array  # float32 [LANES]
    widths: Array  # float32 [LANES]
    chances: Array  # float32 [LANES] counters
    counts: Array  # float32 [LANES]
    ln2: Array  # float32 [2, LANES] natural logarithm of 2 for experts, for counters; 0 in lanes without one
    features: Array  # float32 [LANES] of the size of an error
    rates: Array  # float32 [LANES] of learning their weights
    predictions: Array  # float32 [PREDICTORS]
    log: Array  # float32 [4096] see `LOG`
    numbers: Array  # float32 [16] see `LOWEST`
    state: Array  # int64 of the binary coder
    buffer: Array  # uint8


@inline
def _log2(x, table):
    b = bits(x)
    return f4((b >> 23) - 127) + table[(b >> 11) & 4095]


@inline
def _power(x):
    """2 ** x, as `vectors.exp2` computes it, for x from -126 to 127."""
    return first(exp2(splat(x)))


@inline
def _signed(d):
    """A difference in nine classes."""
    a = abs(d)
    m = 0
    if a > f4(1):
        m = 1
    if a > f4(3):
        m = 2
    if a > f4(8):
        m = 3
    if a > f4(20):
        m = 4
    return 4 + m if d > f4(0) else 4 - m


@inline
def _flushed(x):
    """Without what is too small to matter, which could become subnormal."""
    return (x + f4(16)) - f4(16)


@inline
def _counted(table, i, error, most):
    """Add to a sum and its count; both are halved when there are many."""
    table[i, 0] += error
    table[i, 1] += f4(1)
    if table[i, 1] > most:
        table[i, 0] = _flushed(table[i, 0] * f4(0.5))
        table[i, 1] *= f4(0.5)


@jit
def start(state, buffer, decoding):
    """See `toolkit.coding.binary.start`."""
    binary.start(state, buffer, decoding)


@jit
def finish(state, buffer):
    """See `toolkit.coding.binary.finish`."""
    return binary.finish(state, buffer)


class Contexts(NamedTuple):
    """Places in tables, for one pixel."""

    energy: Any  # the expected size of the error, in classes; then texture, and other planes' errors
    texture: Any
    others: Any
    size0: Any  # in `Learned.sizes`
    size1: Any
    size2: Any
    apart: Any  # in `Learned.apart`
    bias0: Any  # in `Learned.bias`
    bias1: Any
    signs: Any  # which of six neighbours are above the prediction


@inline
def _edges(work, row, y, width, stride):
    """What lies beside a row: its left side as above it, and the right side of the row before as its last pixel."""
    X, E = work.pixels, work.errors
    for q in range(1, PAD + 1):
        X[row - q] = X[row - stride]
        E[row - q] = E[row - stride]
    for q in range(PAD):
        X[row - stride + width + q] = X[row - stride + width - 1]
        E[row - stride + width + q] = E[row - stride + width - 1]
    here, above = y % 3 * stride + PAD, (y + 2) % 3 * stride + PAD
    for r in range(PREDICTORS):
        A = work.misses[r]
        for q in range(1, PAD + 1):
            A[here - q] = A[above]
        for q in range(PAD):
            A[above + width + q] = A[above + width - 1]


@inline
def _faded_rows(parts, work, blocks):
    """Sums of products before a row: faded downwards, and gathered from both sides."""
    for el in range(LOCAL):
        sideways(parts, work.sums[el], work.around[el], blocks, work.numbers[ACROSS + el])
        for q in range(blocks):
            faded(parts, work.sums[el, q], work.numbers[DOWN + el])
        work.left[el, :] = f4(0)


@inline
def _neighbours(parts, work, o, stride, before):
    """Features into `vectors[6]`: neighbours in each plane, less the mean of two of them. The mean in this plane."""
    X, x, one, two = work.pixels, work.vectors[6], work.starts[1], work.starts[2]
    base = f4(0.5) * (X[o - 1] + X[o - stride])
    base1, base2 = f4(0), f4(0)
    if before > 0:
        base1 = f4(0.5) * (X[o + one - 1] + X[o + one - stride])
    if before > 1:
        base2 = f4(0.5) * (X[o + two - 1] + X[o + two - stride])
    for i in range(8 * len(parts)):
        b = work.base[i]
        x[i] = X[o + work.offsets[i]] - (base if b == 0 else (base1 if b == 1 else base2))
    return base


@inline
def _classes(x, log):
    """Of a neighbourhood: flat, or steeper in one direction; the class of its gradients; that of its signs."""
    dh = abs(x[0] - x[4]) + abs(x[1] - x[2]) + abs(x[3] - x[1])
    dv = abs(x[0] - x[2]) + abs(x[1] - x[5]) + abs(x[3] - x[7])
    direction = 1 if dh > f4(1.6) * dv else (2 if dv > f4(1.6) * dh else 0)
    signs = 0
    for i in range(6):
        if x[i] > f4(0):
            signs |= 1 << i
    return direction, 1 + direction * 8 + min(7, int(f4(1.3) * _log2(f4(1) + dh + dv, log))), 25 + signs


@inline
def _energy(E, o, stride):
    """The mean size of the errors next to a pixel."""
    eW, eN, eNW = abs(E[o - 1]), abs(E[o - stride]), abs(E[o - stride - 1])
    eNE, eWW, eNN = abs(E[o - stride + 1]), abs(E[o - 2]), abs(E[o - 2 * stride])
    return (f4(2) * (eW + eN) + eNW + eNE + f4(0.5) * (eWW + eNN)) * f4(1 / 7)


@inline
def _predict(parts, work, base, class1, class2, block):
    """What each predictor says, into `predictions`."""
    n = 8 * len(parts)
    x, w0, pr, steps = work.vectors[6], work.vectors[7], work.predictions, int(work.numbers[STEPS])
    for b in range(0, n, 8):
        store(w0, b, load8(work.global_weights, b))
    pr[0] = base + dot(parts, work.global_weights, 0, x)
    pr[1] = base + dot(parts, work.global_weights, class1 * n, x)
    pr[2] = base + dot(parts, work.global_weights, class2 * n, x)
    if steps == 0:
        pr[GLOBAL] = base + f4(0.25) * (x[3] - x[2])
        pr[GLOBAL + 1] = f4(0.5) * (pr[0] + pr[1])
    else:
        for el in range(LOCAL):
            solve(
                parts, work.matrix, work.around[el, block], work.left[el], work.local_weights, el * n, w0,
                work.numbers[RIDGE], steps, work.vectors,
            )  # fmt: skip
            pr[GLOBAL + el] = base + dot(parts, work.local_weights, el * n, x)


@inline
def _blended(work, y, column, stride):
    """The mean of the predictions, each weighed by the fourth power of how near it was at the pixels around."""
    here, above, higher = y % 3 * stride + PAD, (y + 2) % 3 * stride + PAD, (y + 1) % 3 * stride + PAD
    pr, c = work.predictions, column
    weighted, weight = f4(0), f4(0)
    for r in range(PREDICTORS):
        pr[r] = min(max(pr[r], work.numbers[LOWEST]), work.numbers[HIGHEST])
        A = work.misses[r]
        e = f4(0.01) + A[here + c - 1] + A[above + c] + A[above + c - 1] + A[above + c + 1]
        e = e + A[here + c - 2] + A[higher + c]
        e *= e
        g = f4(1) / (e * e)
        weighted += g * pr[r]
        weight += g
    return weighted / weight


@inline
def _sizes(work, blend, energy, o, stride, before):
    """Logarithms of what tells the size of the error, into `features`."""
    E, x, features = work.errors, work.vectors[6], work.features
    texture = f4(0)
    for i in range(6):
        texture += abs(x[i])
    texture *= f4(1 / 6)
    corner = abs(x[0] - x[2]) + abs(x[1] - x[2])
    spread = f4(0)
    for r in range(PREDICTORS):
        spread += abs(work.predictions[r] - blend)
    spread *= f4(1 / PREDICTORS)
    up2, up3 = o - 2 * stride, o - 3 * stride
    wide = abs(E[o - 3]) + abs(E[o - stride - 2]) + abs(E[o - stride + 2]) + abs(E[o - stride + 3])
    wide += abs(E[up2 - 2]) + abs(E[up2 - 1]) + abs(E[up2 + 1]) + abs(E[up2 + 2]) + abs(E[up3])
    wide *= f4(1 / 9)
    others = f4(0)
    for plane in range(1, before + 1):
        q = o + work.starts[plane]
        others += abs(E[q]) * f4(2) + f4(0.5) * (abs(E[q + 1]) + abs(E[q + stride]))
    features[0], features[1], features[2], features[3] = (
        f4(2),
        f4(0.3) + energy,
        f4(0.3) + texture,
        f4(0.3) + others,
    )
    features[4], features[5] = f4(0.3) + f4(0.5) * (abs(E[o - 1]) + abs(E[o - stride])), f4(0.3) + corner
    features[6], features[7] = f4(0.1) + spread, f4(0.3) + wide
    features[8], features[9] = f4(1) + f4(4) * texture, f4(1) + f4(2) * others
    store(features, 0, log2(load(features, 0)))


@inline
def _signs_of_errors(work, o, stride, before):
    """Errors at the left, above, and here in the other planes, in nine classes each."""
    E = work.errors
    n2 = _signed(E[o + work.starts[1]]) if before > 0 else 4
    n3 = _signed(E[o + work.starts[2]]) if before > 1 else 4
    return _signed(E[o - 1]), _signed(E[o - stride]), n2, n3


@inline
def _contexts(work, size, base, blend, error_signs, north_east, before):
    """Where the tables of sizes, means and biases are looked up. error_signs: see `_signs_of_errors`."""
    features, x = work.features, work.vectors[6]
    q1 = min(ENERGIES - 1, max(0, int(f4(4) * (size + f4(2.5)))))
    q2 = min(ENERGIES - 1, max(0, int(f4(4) * features[8])))
    q3 = min(ENERGIES - 1, max(0, int(f4(4) * features[9])))
    signs = 0
    for i in range(6):
        if x[i] + base > blend:
            signs |= 1 << i
    n0, n1, n2, n3 = error_signs
    bj = (n2 * 9 + n3) * 9 + n0 if before > 0 else (n0 * 9 + n1) * 9 + north_east
    return Contexts(
        q1, q2, q3, q1 * 64 + min(15, q2 >> 1), q1 * 64 + min(15, q3 >> 1), q2 * 64 + min(31, q3),
        q1 * 16 + min(15, q2 >> 1), signs * 32 + min(31, q1), bj, signs,
    )  # fmt: skip


@inline
def _distributions(work, learned, o, stride, blend, b0, b1, mu, at):
    """Means and widths of the experts. b0, b1: biases; mu: the mean without them."""
    X, pr, means = work.pixels, work.predictions, work.means
    size0, size1, size2 = learned.sizes[0], learned.sizes[1], learned.sizes[2]
    means[0] = means[1] = mu
    for r in range(PREDICTORS):
        means[2 + r] = pr[r]
    means[PREDICTORS + 2], means[PREDICTORS + 3] = blend + b0, blend + b1
    west, north, west_north = X[o - 1], X[o - stride], X[o - stride - 1]
    low, high = min(west, north), max(west, north)
    means[PREDICTORS + 4] = min(max(west + north - west_north, low), high)
    means[PREDICTORS + 5] = f4(0.5) * (pr[GLOBAL] + pr[GLOBAL + 1])
    means[PREDICTORS + 6] = f4(0.5) * (blend + pr[2])
    own = load(learned.apart, at.apart * LANES)
    store(work.widths, 0, most(own / splat(learned.apart[at.apart * LANES + LANES - 1]), splat(f4(0.02))))
    work.widths[0] = max(f4(0.02), size0[at.size0, 0] / size0[at.size0, 1])
    both = size1[at.size1, 0] / size1[at.size1, 1] + size2[at.size2, 0] / size2[at.size2, 1]
    work.widths[1] = max(f4(0.02), f4(0.5) * both)


@inline
def _counters(work, o, stride, mu, error_signs, at):
    """Contexts of the counters, into `places`."""
    X, pr, ci = work.pixels, work.predictions, work.places
    n0, n1, n2, n3 = error_signs
    few = at.energy >> 2
    ci[0] = at.energy * 4 + min(3, int((mu - np.floor(mu)) * f4(4)))
    ci[1] = at.signs * 10 + few
    ci[2] = (n0 * 9 + n1) * 10 + few
    ci[3] = (n2 * 9 + n3) * 10 + few
    ci[4] = (_signed(f4(2) * (pr[0] - mu)) * 9 + _signed(f4(2) * (pr[PREDICTORS - 1] - mu))) * 10 + few
    ci[5] = (_signed(X[o - 1] - mu) * 9 + _signed(X[o - stride] - mu)) * 10 + few
    ci[6] = ((int(mu) >> 2) & 63) * 10 + few
    ci[7] = min(31, max(0, int((work.features[6] + f4(3.4)) * f4(3.5)))) * 32 + min(31, at.energy)
    for i in range(COUNTERS):
        ci[i] *= NODES


@inline
def _decision(experts_only, work, learned, sets, node, odds, bit, decoding):
    """Code a decision by the experts' odds (base 2) and the counters; learn from it; return it."""
    wa, wb, wc = learned.weights[0], learned.weights[1], learned.weights[2]
    chances, counts, ci, counters = work.chances, work.counts, work.places, work.counters
    vs = most(least(odds * load(work.ln2[0], 0), splat(f4(12))), splat(f4(-12)))
    if len(experts_only) == 0:
        for i in range(COUNTERS):
            chances[i] = counters[i, ci[i] + node, 0]
            counts[i] = counters[i, ci[i] + node, 1]
        chance, count = load(chances, 0), load(counts, 0)
        vt = (log2(chance) - log2(splat(f4(1)) - chance)) * load(work.ln2[1], 0)
    i1, i2, i3 = (sets[0] + node) * 2 * LANES, (sets[1] + node) * 2 * LANES, (sets[2] + node) * 2 * LANES
    va, vb, vc = load(wa, i1), load(wb, i2), load(wc, i3)
    weighed = (va + vb + vc) * vs
    if len(experts_only) == 0:
        da, db, dc = load(wa, i1 + LANES), load(wb, i2 + LANES), load(wc, i3 + LANES)
        weighed = weighed + (da + db + dc) * vt
    p = f4(1) / (f4(1) + _power(min(max(total(weighed), f4(-12)), f4(12)) * f4(-LOG2E)))
    bit = code(work.state, work.buffer, bit, min(max(int(p * f4(65536)), 4), 65532), decoding)
    step = splat((f4(bit) - p) * work.numbers[RATE])
    store(wa, i1, va + step * vs)
    store(wb, i2, vb + step * vs)
    store(wc, i3, vc + step * vs)
    if len(experts_only) == 0:
        store(wa, i1 + LANES, da + step * vt)
        store(wb, i2 + LANES, db + step * vt)
        store(wc, i3 + LANES, dc + step * vt)
        goal = splat(f4(0.9999) if bit else f4(0.0001))
        store(chances, 0, chance + (goal - chance) / (count + splat(f4(1.6))))
        store(counts, 0, least(count + splat(f4(1)), splat(work.numbers[LIMIT])))
        for i in range(COUNTERS):
            counters[i, ci[i] + node, 0] = chances[i]
            counters[i, ci[i] + node, 1] = counts[i]
    return bit


@inline
def _value(experts_only, work, learned, value, mu, sets, decoding):
    """Code a value by decisions: above the mean or not; further than steps that grow; where within the last step.

    Those whose outcome is sure, by the plane's lowest and highest value, are left out.
    """
    lowest, highest = work.numbers[LOWEST], work.numbers[HIGHEST]
    tiny, ones, nothing = splat(f4(1e-7)), splat(f4(1)), splat(f4(0))
    centre, narrow = load(work.means, 0), splat(f4(LOG2E / 0.72)) / load(work.widths, 0)
    floor = np.floor(mu)
    unit = max(1, int(work.widths[0] + f4(0.25)))
    up = value > floor
    d = int(value - floor) - 1 if up else int(floor - value)
    most_far, begin, end = 0, 0, unit
    steps_out, level, stage, side = 0, 0, 0, 0
    above, below = ones, nothing
    while True:
        if stage == 0:
            edge, node = 0, 0
            certain = floor >= highest
            bit = 1 if up else 0
            z = centre - splat(floor + f4(0.5))
        else:
            if stage == 1:
                edge = end
                node = 1 + side * 12 + min(steps_out, 11)
            else:
                edge = (begin + end) >> 1
                node = 25 + side * 16 + min(steps_out, 1) * 8 + min(level, 7)
            certain = edge > most_far
            bit = 1 if d >= edge else 0
            z = centre - splat(floor + f4(0.5) + f4(edge)) if side == 1 else splat(floor + f4(0.5) - f4(edge)) - centre
        z = most(least(z * narrow, splat(f4(24))), splat(f4(-24)))
        here = ones / (ones + exp2(nothing - z))
        if certain:
            bit = 0
        else:
            odds = log2(most(here - below, tiny)) - log2(most(above - here, tiny))
            bit = _decision(experts_only, work, learned, sets, node, odds, bit, decoding)
        if stage == 0:
            side = bit
            most_far = int(highest - floor) - 1 if side else int(floor - lowest)
            above = here if side == 1 else ones - here
            stage = 1
            continue
        if bit:
            above = here
            begin = edge
        else:
            below = here
            end = edge
        if stage == 1:
            if bit:
                steps_out += 1
                if steps_out >= 4:
                    unit *= 2
                end = begin + unit
                continue
            stage = 2
        else:
            level += 1
        if end - begin <= 1:
            break
    return floor + f4(1 + begin) if side else floor - f4(begin)


@inline
def _sizes_learn(work, learned, value, mu, blend, size, at):
    """Tables of sizes and biases, and the regression for the size, after a value."""
    size0, size1, size2 = learned.sizes[0], learned.sizes[1], learned.sizes[2]
    bias0, bias1 = learned.bias[0], learned.bias[1]
    size_now = abs(value - mu)
    step = _log2(f4(0.25) + size_now, work.log) - size + f4(0.45)
    step = splat(min(max(step, f4(-3)), f4(3)))
    weights = load(learned.scale, 0) + step * load(work.rates, 0) * load(work.features, 0)
    store(learned.scale, 0, most(least(weights, splat(f4(8))), splat(f4(-8))))
    _counted(size0, at.size0, size_now, f4(256))
    _counted(size1, at.size1, size_now, f4(256))
    _counted(size2, at.size2, size_now, f4(256))
    errors = load(work.means, 0) - splat(value)
    own = load(learned.apart, at.apart * LANES) + most(errors, splat(f4(0)) - errors)
    number = learned.apart[at.apart * LANES + LANES - 1] + f4(1)
    if number > f4(256):
        own = (own * splat(f4(0.5)) + splat(f4(16))) - splat(f4(16))
        number *= f4(0.5)
    store(learned.apart, at.apart * LANES, own)
    learned.apart[at.apart * LANES + LANES - 1] = number
    _counted(bias0, at.bias0, (value - blend) * f4(0.6), f4(64))
    _counted(bias1, at.bias1, (value - blend) * f4(0.8), f4(64))


@inline
def _predictors_learn(parts, work, value, base, class1, class2, energy, column):
    """The predictors, after a value: the two of classes at every second pixel in turn, or both at all."""
    x, pr = work.vectors[6], work.predictions
    keep0, keep1, keep2 = work.numbers[KEEP], work.numbers[KEEP + 1], work.numbers[KEEP + 2]
    if int(work.numbers[STEPS]) == 0:
        follow(parts, work, 0, x, value - pr[0], keep0)
        follow(parts, work, class1, x, value - pr[1], keep1)
        follow(parts, work, class2, x, value - pr[2], keep2)
    else:
        every, block = work.numbers[EVERY] > f4(0), column // BLOCK
        noise = (f4(0.5) + energy) * (f4(0.5) + energy)
        for el in range(LOCAL):
            add(parts, work.sums[el, block], work.left[el], x, value - base, f4(1) / noise, work.numbers[ALONG + el])
        if column % BLOCK == BLOCK - 1:
            for el in range(LOCAL):
                faded(parts, work.left[el], f4(1))
        learn(parts, work, 0, x, value - pr[0], noise, keep0)
        if every or column & 1 == 1:
            learn(parts, work, class1, x, value - pr[1], noise, keep1)
        if every or column & 1 == 0:
            learn(parts, work, class2, x, value - pr[2], noise, keep2)


@jit
def loop(parts, experts_only, work, learned, before, first, last, width, stride, decoding, origin):
    """Code rows `first` to `last` - 1 of a plane, after those above them; decoding fills `work.pixels`.

    parts: tuple of n / 8 numbers. experts_only: tuple, empty if counters take part, too. before: planes that it looks
    at, 0 to 2, decoded to two rows below `last`. width: of a row; stride: with its padding, width + 2 PAD. origin:
    where the plane begins in the arrays.
    """
    X, E = work.pixels, work.errors
    lowest, highest, steps = work.numbers[LOWEST], work.numbers[HIGHEST], int(work.numbers[STEPS])
    bias0, bias1 = learned.bias[0], learned.bias[1]
    for y in range(first, last):
        row, now = origin + (y + PAD) * stride + PAD, y % 3 * stride + PAD
        _edges(work, row, y, width, stride)
        if steps > 0:
            _faded_rows(parts, work, (width + BLOCK - 1) // BLOCK)
        for column in range(width):
            o = row + column
            base = _neighbours(parts, work, o, stride, before)
            direction, class1, class2 = _classes(work.vectors[6], work.log)
            energy = _energy(E, o, stride)
            _predict(parts, work, base, class1, class2, column // BLOCK)
            blend = _blended(work, y, column, stride)
            _sizes(work, blend, energy, o, stride, before)
            size = min(max(total(load(learned.scale, 0) * load(work.features, 0)), f4(-4)), f4(8))
            error_signs = _signs_of_errors(work, o, stride, before)
            at = _contexts(work, size, base, blend, error_signs, _signed(E[o - stride + 1]), before)
            b0, b1 = bias0[at.bias0, 0] / bias0[at.bias0, 1], bias1[at.bias1, 0] / bias1[at.bias1, 1]
            mu = min(max(blend + f4(0.5) * (b0 + b1), lowest), highest)
            _distributions(work, learned, o, stride, blend, b0, b1, mu, at)
            _counters(work, o, stride, mu, error_signs, at)
            sets = (
                min(SETS - 1, at.energy) * NODES,
                min(SETS - 1, (at.others if before > 0 else at.texture) >> 1) * NODES,
                ((at.signs & 7) * 3 + direction) * NODES,
            )
            value = _value(experts_only, work, learned, X[o], mu, sets, decoding)
            X[o] = value
            E[o] = value - mu
            for r in range(PREDICTORS):
                work.misses[r, now + column] = abs(value - work.predictions[r])
            _sizes_learn(work, learned, value, mu, blend, size, at)
            _predictors_learn(parts, work, value, base, class1, class2, energy, column)
