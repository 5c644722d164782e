"""Probabilities of bits by logistic mixing of adaptive counters, refined by adaptive maps, for `binary`'s coder.

Compiled into the caller's loop, whose cache on disk does not see changes here: touch the caller after them. Integers
only: the same bytes on every processor. The caller's model is a NamedTuple with, beside what it needs itself:

    decoding                   bool
    coder, data                `binary`'s state and bytes
    counters   uint32          22 bits of probability, 10 of count; EVEN at first
    weights    int32           from `first_weights`
    maps       int32           from `first_maps`
    index      int64 [INPUTS]  which counters a bit is coded by
    inputs     int32 [INPUTS]  their logits
    squash, stretch, rates     from `tables`
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# Numba's functions have the types that they are called with.

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from toolkit.coding import binary
from toolkit.coding.compiled import inline

EVEN = np.uint32(1 << 31)
SPAN = 3072  # logits in 256ths: -SPAN to SPAN - 1
STEP = 50  # entries of a map
INPUTS = 16  # a set of weights: at most 15, and how often it was used
MOST = 1 << 22  # of a weight, in 65536ths
BASE, EXTRA, RAMP = 10, 20, 512  # rates of learning of a set of weights, at last and more at first; uses between


def first_weights(sets: int) -> NDArray[np.int32]:
    """Weights of which a bit takes two sets: int32 [sets * INPUTS]."""
    weights = np.full((sets, INPUTS), 65536 // 11, np.int32)
    weights[:, -1] = 0
    return weights.reshape(-1)


def first_maps(count: int) -> NDArray[np.int32]:
    """Maps that refine nothing yet: int32 [count * STEP]."""
    return np.tile(tables()[0][np.minimum(np.arange(STEP) * 128, 2 * SPAN - 1)], count)


@functools.cache
def tables() -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """From logit to probability in 65536ths; from probability in 4096ths to logit; 65536 / (count + 1.5).

    int32 [2 * SPAN], [4096], [1024].
    """
    one = 1 << 80
    growth = term = one  # exp(1 / 256), by its series
    for n in range(1, 12):
        term //= 256 * n
        growth += term
    squash, power = np.full(2 * SPAN, 32768, np.int32), one
    for x in range(1, SPAN):
        power = power * growth >> 80
        squash[SPAN - x] = max(1, (one << 16) // (one + power))
        squash[SPAN + x] = 65536 - squash[SPAN - x]
    squash[0] = squash[1]
    stretch = np.searchsorted(squash, np.arange(4096) * 16 + 8) - SPAN
    return squash, stretch.astype(np.int32), (2 * 65536 // (2 * np.arange(1024) + 3)).astype(np.int32)


@inline
def hashed(h, value):
    """A number mixed into a hash, uint64."""
    h = (h + np.uint64(value) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    return h ^ h >> np.uint64(29)


@inline
def bit(m, value, n, limit, a, b, ra, rb):
    """Code a bit, or decode it and return it, by the first n counters of the index, weights a and b, maps ra and rb.

    All of them learn: counters by 1 / (count + 1.5), with counts up to `limit`, at most 1023.
    """
    a, b = a * INPUTS, b * INPUTS
    total = 0
    for j in range(n):
        s = m.stretch[m.counters[m.index[j]] >> np.uint32(20)]
        m.inputs[j] = s
        total += s * np.int64(m.weights[a + j] + m.weights[b + j])
    total = min(max(total >> 16, 1 - SPAN), SPAN - 1) + SPAN
    mixed = np.int64(m.squash[total])
    part = total & 127
    left, right = ra * STEP + (total >> 7), rb * STEP + (total >> 7)
    pa = (m.maps[left] * (128 - part) + m.maps[left + 1] * part) >> 7
    pb = (m.maps[right] * (128 - part) + m.maps[right + 1] * part) >> 7
    value = binary.code(m.coder, m.data, value, (2 * mixed + pa + pb) >> 2, m.decoding)
    goal = np.int64(65535) if value else np.int64(0)
    left, right = left + (part >> 6), right + (part >> 6)
    m.maps[left] += (goal - m.maps[left]) >> 6
    m.maps[right] += (goal - m.maps[right]) >> 6
    used = np.int64(m.weights[a + INPUTS - 1])
    m.weights[a + INPUTS - 1] = min(used + 1, RAMP)
    error = (goal - mixed) * (BASE + EXTRA * (RAMP - used) // RAMP)
    for j in range(n):
        change = (m.inputs[j] * error + (1 << 19)) >> 20
        m.weights[a + j] = min(max(m.weights[a + j] + change, -MOST), MOST)
        m.weights[b + j] = min(max(m.weights[b + j] + change, -MOST), MOST)
    for j in range(n):
        v = np.int64(m.counters[m.index[j]])
        p, count = v >> 10, v & 1023
        p += (((value << 22) - value - p) * m.rates[count]) >> 16
        m.counters[m.index[j]] = (p << 10) | min(count + 1, limit)
    return value
