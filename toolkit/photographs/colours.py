"""Lossless pictures of few colours: screenshots, drawings, palettes. A pixel is one of the colours that were seen among
the same neighbours before, most probable first, or a new one, told bit by bit.

Every yes or no has a probability that is mixed from adaptive counters while coding: a logistic mixture of two sets of
weights, refined by two adaptive maps. Integers only: the same bytes on every processor. Any other bytes decode to some
picture, in the same time.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment"
# Numba's functions have the types that they are called with.

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from toolkit.coding import binary, mixing
from toolkit.coding.compiled import inline, jit
from toolkit.coding.mixing import EVEN, INPUTS, hashed
from toolkit.coding.threads import check

PAD = 8  # pixels left and right of a row; three rows lie above the first
STRIP = 1 << 16  # pixels that are coded in one go: in less than a second
MOST = 9 << 27  # pixels with these: 2^30, and an eighth more
NEAR = 16  # neighbours: W, N, NW, NE, WW, NN, NWW, NEE, NNE, NNW, WWW, NNN, and further ones
ORDERS = 8  # contexts that remember colours
NONE = 128  # of a context that was not seen yet; states below: how long its colour has held, how the one before ended
ROLES = 4  # a colour is a context's last, its last but one, the one before, or none of them
COLOURS = 12  # most that are tried for a pixel
DECIDING, TELLING = ORDERS + 5, 11  # counters that are mixed: is it this colour? what is this bit of a new one?

# Counters lie in one array. These begin:
_SIX = ORDERS * (NONE + 1) * ROLES * 2  # after those of contexts: patterns of six neighbours
_TWELVE = _SIX + 720 * 16  # of twelve, hashed
_SAME = _TWELVE + (1 << 16)  # which neighbours have the colour
_MATCH = _SAME + 512  # a match's length and misses
_PLAIN = _MATCH + 2048  # by nothing else
_FAR = _PLAIN + 64  # of a new colour's bits: how far guesses are, hashed in rows of 64
_ROWS = _FAR + (1 << 18)  # likewise: the colours around, in rows of a check and 15 counters
_FAR_MASK = np.uint64((1 << 18) - 64)

Array = Any  # numpy arrays, in a NamedTuple that Numba types


class Model(NamedTuple):
    decoding: bool
    coder: Array  # int64: binary's state
    data: Array  # uint8: the bytes
    pixels: Array  # uint32 [(h + 3) * (w + 2 * PAD)]
    slots: Array  # uint32 [4 n]: of a context, three colours, the last first; check (16 bits), state, run, 1
    counters: Array  # uint32
    matches: Array  # int32: where a hash of pixels was seen last
    weights: Array  # int32 [sets * INPUTS], the last of a set: how often it was used
    maps: Array  # int32 [maps * STEP]
    taps: Array  # int64 [128]: of each channel, 16 inputs and 16 weights of a linear prediction
    squash: Array  # int32 [2 SPAN]: logit to probability in 65536ths
    stretch: Array  # int32 [4096]: probability in 4096ths to logit
    rates: Array  # int32 [1024]: 65536 / (count + 1.5)
    index: Array  # int64 [INPUTS]: counters of a decision
    inputs: Array  # int32 [INPUTS]: their logits
    near: Array  # int64 [NEAR] colours of the neighbours
    keys: Array  # uint64 [ORDERS]
    place: Array  # int64 [ORDERS]: slots
    state: Array  # int64 [ORDERS]
    colours: Array  # int64 [COLOURS]
    scores: Array  # int64 [COLOURS]
    roles: Array  # int64 [COLOURS * ORDERS]


# --- a new colour


@inline
def _channel(pixel, channel):
    return (pixel >> (8 * channel)) & 255


@inline
def _median(w, n, nw):
    return min(max(w + n - nw, min(w, n)), max(w, n))


@inline
def _coarse(difference):
    """-4 to 4 from a difference, as 0 to 8."""
    size = abs(difference)
    size = (size > 0) + (size > 2) + (size > 8) + (size > 24)
    return 4 + size if difference > 0 else 4 - size


@inline
def _far(difference):
    """-26 to 26 from a difference, as 0 to 52."""
    size = abs(difference)
    size = size if size < 12 else 12 + ((size - 12) >> 2) if size < 44 else min(20 + ((size - 44) >> 5), 26)
    return 26 + size if difference > 0 else 26 - size


@inline
def _by(key, k, far):
    """The counter of bit k in a context, and of how far the middle of the values left is from a guess."""
    return _FAR + np.int64(hashed(key, k) & _FAR_MASK) + far


@inline
def _row(counters, key):
    """The 15 counters for half a byte in a context: its own row of two, or the less used one, which begins anew."""
    at = _ROWS + np.int64(key & np.uint64(len(counters) - _ROWS - 16))
    check = np.uint32(key >> np.uint64(32))
    if counters[at] == check:
        return at
    other = at ^ 16
    if counters[other] == check:
        return other
    if counters[other + 1] & np.uint32(1023) < counters[at + 1] & np.uint32(1023):
        at = other
    counters[at] = check
    for j in range(1, 16):
        counters[at + j] = EVEN
    return at


@inline
def _new(m, pixel, c):
    """Code a colour bit by bit, the second channel (green) first, then the first, the third and the fourth."""
    w, n, nw, ne, ww, nn = m.near[0], m.near[1], m.near[2], m.near[3], m.near[4], m.near[5]
    known, drift = 0, 0  # channels done; how far the last lies from its guess
    for turn in range(c):
        channel = 1 - turn if c > 2 and turn < 2 else turn
        cw, cn, cnw, cne = _channel(w, channel), _channel(n, channel), _channel(nw, channel), _channel(ne, channel)
        cww, cnn = _channel(ww, channel), _channel(nn, channel)
        cnww, cnnw = _channel(m.near[6], channel), _channel(m.near[9], channel)
        plain = _median(cw, cn, cnw)
        shift = drift if turn < 3 else 0
        guess = min(max(plain + shift, 0), 255)
        before = _channel(w, 2) if turn < 2 else _channel(known, 1)  # the values that lie left of it on a screen
        behind = _channel(w, 1) if turn == 0 else _channel(known, 1) if turn == 1 else _channel(known, 0)
        errors = _coarse(cw - _median(cww, cnw, cnww)) * 9 + _coarse(cn - _median(cnw, cnn, cnnw))
        busy = abs(cw - cnw) + abs(cn - cnw) + abs(cn - cne) + abs(cw - cww)
        busy = (busy > 0) + (busy > 3) + (busy > 8) + (busy > 20) + (busy > 40) + (busy > 80) + (busy > 160)

        # a linear prediction that learns: from neighbours, and from channels known, all less the left neighbour's
        t, taps = turn * 32, m.taps
        taps[t], taps[t + 1], taps[t + 2], taps[t + 3] = cn - cw, cnw - cw, cne - cw, cww - cw
        taps[t + 4], taps[t + 5], taps[t + 6] = cnn - cw, cnww - cw, cnnw - cw
        count = t + 7
        for other in range(1, 1 - min(turn, 2), -1):
            left = _channel(w, other)
            taps[count], taps[count + 1] = _channel(known, other) - left, _channel(n, other) - left
            taps[count + 2], taps[count + 3] = _channel(nw, other) - left, _channel(ne, other) - left
            count += 4
        total, energy = np.int64(0), np.int64(64)
        for j in range(t, count):
            total += taps[j] * taps[j + 16]
            energy += taps[j] * taps[j]
        learned = min(max(cw + (total >> 16), 0), 255)

        base = np.uint64(turn)
        h0 = hashed(base, known)
        h1, h2 = hashed(h0, w), hashed(h0, n + (1 << 40))
        h3 = hashed(h1, n)
        g0, g1, g2 = hashed(base, busy + (1 << 42)), hashed(base, errors + (3 << 42)), hashed(base, busy + (5 << 42))
        g3, g4, g5, g6 = hashed(base, 13 << 42), hashed(base, 7 << 42), hashed(base, 9 << 42), hashed(base, 11 << 42)
        value = _channel(pixel, channel)
        prefix = local = 1
        r0 = r1 = r2 = r3 = np.int64(0)
        for k in range(8):
            if k % 4 == 0:
                r0, r1 = _row(m.counters, hashed(h0, prefix)), _row(m.counters, hashed(h1, prefix))
                r2, r3 = _row(m.counters, hashed(h2, prefix)), _row(m.counters, hashed(h3, prefix))
                local = 1
            middle = (2 * prefix + 1) << (7 - k) & 255  # of the values left
            fg, fl = _far(guess - middle), _far(learned - middle)
            m.index[0], m.index[1], m.index[2], m.index[3] = r0 + local, r1 + local, r2 + local, r3 + local
            m.index[4], m.index[5], m.index[6] = _by(g0, k, fg), _by(g1, k, fg), _by(g2, k, fl)
            m.index[7] = _by(g3, fg * 8 + k, fl)
            m.index[8] = _by(g4, _far(cw - middle) * 8 + k, _far(cn - middle))
            m.index[9] = _by(g5, _far(before - middle) * 8 + k, _far(behind - middle))
            both = _far(cw + shift - middle) * 64 + _far(cn + shift - middle)
            m.index[10] = _by(g6, both * 8 + k, _far(cne + shift - middle))
            a, ra = 128 + turn * 8 + k, 1024 + (turn * 8 + k) * 64 + fl
            bit = (value >> (7 - k)) & 1
            bit = mixing.bit(m, bit, TELLING, 80, a, 160 + turn * 8 + busy, ra, 3072 + turn * 8 + busy)
            prefix, local = 2 * prefix + bit, 2 * local + bit
        value = prefix & 255
        known |= value << (8 * channel)
        drift = value - plain
        miss = (((value - cw) << 16) - total) // (energy << 7)
        for j in range(t, count):
            taps[j + 16] = min(max(taps[j + 16] + miss * taps[j], -1 << 20), 1 << 20)
    return known


# --- a colour seen before


@inline
def _remember(m, k, shift):
    """Find a context's slot, or the one that it may take, and its state."""
    at, check = np.int64(m.keys[k] >> shift), np.int64(m.keys[k] & np.uint64(0xFFFF))
    m.state[k] = NONE
    for slot in (at, at ^ 1):
        entry = np.int64(m.slots[4 * slot + 3])
        if entry >> 16 == check and entry & 1:
            run = (entry >> 1) & 63
            run = run if run < 4 else 4 + (run > 7) + (run > 15) + (run > 39)
            m.state[k] = run | ((entry >> 4) & 120)
            at = slot
            break
    if m.state[k] == NONE and np.int64(m.slots[4 * at + 3]) & 127 > np.int64(m.slots[4 * (at ^ 1) + 3]) & 127:
        at ^= 1
    m.place[k] = 4 * at


@inline
def _learn(m, k, colour):
    """Put the colour first in a context's slot."""
    slot = m.place[k]
    if m.state[k] == NONE:
        m.slots[slot] = m.slots[slot + 1] = m.slots[slot + 2] = colour
        m.slots[slot + 3] = np.int64(m.keys[k] & np.uint64(0xFFFF)) << 16 | 1
        return
    entry = np.int64(m.slots[slot + 3])
    run = (entry >> 1) & 63
    first, second = np.int64(m.slots[slot]), np.int64(m.slots[slot + 1])
    if colour == first:
        m.slots[slot + 3] = entry + 2 if run < 63 else entry
        return
    end = 1
    if colour != second:
        end = 2 if colour == np.int64(m.slots[slot + 2]) else 3
        m.slots[slot + 2] = second if second != first else colour
    m.slots[slot], m.slots[slot + 1] = colour, first
    m.slots[slot + 3] = (entry >> 16 << 16) | end << 9 | ((run > 0) + (run > 2) + (run > 12)) << 7 | 1


@inline
def _add(m, count, colour, score):
    """The colour's place among those to try, `count` or above if it is new, COLOURS if there is no room."""
    u = 0
    while u < count and m.colours[u] != colour:
        u += 1
    if u == count and u < COLOURS:
        m.colours[u] = colour
        m.scores[u] = 0
        for k in range(ORDERS):
            m.roles[u * ORDERS + k] = ROLES - 1
    if u < COLOURS:
        m.scores[u] = max(m.scores[u], score)
    return u


@inline
def _first(near, j):
    """The first of the neighbours that has the j-th one's colour."""
    i = 0
    while near[i] != near[j]:
        i += 1
    return i


@inline
def _look(m, i, stride):
    """Fetch the neighbours of a pixel; the keys of its contexts; the pattern of six neighbours, and of twelve."""
    up, top, near, keys = i - stride, i - 2 * stride, m.near, m.keys
    p = m.pixels
    near[0], near[1], near[2], near[3] = p[i - 1], p[up], p[up - 1], p[up + 1]
    near[4], near[5], near[6], near[7] = p[i - 2], p[top], p[up - 2], p[up + 2]
    near[8], near[9], near[10], near[11] = p[top + 1], p[top - 1], p[i - 3], p[top - stride]
    near[12], near[13], near[14], near[15] = p[i - 4], p[up + 3], p[top + 2], p[i - 5]
    keys[0] = hashed(hashed(np.uint64(2), near[0]), near[3])
    keys[1] = hashed(hashed(np.uint64(1), near[0]), near[1])
    keys[2] = hashed(hashed(keys[1], near[2]), near[3])
    keys[3] = hashed(hashed(keys[2], near[4]), near[5])
    keys[4] = hashed(hashed(hashed(keys[3], near[6]), near[7]), near[8])
    keys[5] = hashed(hashed(hashed(keys[4], near[9]), near[10]), near[11])
    keys[5] = hashed(hashed(hashed(keys[5], near[12]), near[13]), near[14])
    keys[6] = hashed(hashed(hashed(hashed(hashed(np.uint64(7), near[0]), near[4]), near[10]), near[12]), near[15])
    keys[7] = hashed(hashed(hashed(hashed(hashed(np.uint64(8), near[1]), near[5]), near[11]), near[3]), near[7])
    six = _first(near, 1)
    for j in range(2, 6):
        six = six * (j + 1) + _first(near, j)
    twelve = np.uint64(six)
    for j in range(6, 12):
        twelve = hashed(twelve, _first(near, j))
    return six, twelve


@jit
def _rows(m, first, last, h, w, c):
    """Code rows, or decode them: all of a picture's, one after another. After the last, the number of bytes."""
    if first == 0:
        binary.start(m.coder, m.data, m.decoding)
    pixels, near, index, colours, scores = m.pixels, m.near, m.index, m.colours, m.scores
    stride, slots = w + 2 * PAD, len(m.slots) // 4
    shift = np.uint64(64)
    while slots > 1:
        slots >>= 1
        shift -= np.uint64(1)
    for row in range(first, last):
        start = (row + 3) * stride + PAD
        for j in range(PAD):
            pixels[start - 1 - j] = pixels[start - stride]
            pixels[start - stride + w + j] = pixels[start - stride + w - 1]
        pointer, length, missed = 0, 0, 0  # where a match goes on, since how many pixels, with how many misses
        for i in range(start, start + w):
            six, twelve = _look(m, i, stride)
            recent = np.int64(hashed(m.keys[6], near[1]) & np.uint64(len(m.matches) - 1))
            if length == 0 and i > start:
                before = np.int64(m.matches[recent])
                known = 0
                while before and known < 24 and pixels[before - 1 - known] == pixels[i - 1 - known]:
                    known += 1
                if known > 5:
                    pointer, length, missed = before, known - 5, 0
            m.matches[recent] = i

            count = 0
            for k in range(ORDERS):
                _remember(m, k, shift)
                for role in range(3 if m.state[k] < NONE else 0):
                    colour = np.int64(m.slots[m.place[k] + role])
                    if role and colour == np.int64(m.slots[m.place[k]]):
                        break
                    score = m.counters[((k * (NONE + 1) + m.state[k]) * ROLES + role) * 2] >> np.uint32(16)
                    u = _add(m, count, colour, np.int64(score))
                    if u < COLOURS:
                        m.roles[u * ORDERS + k] = role
                        count = max(count, u + 1)
            for j in range(2):
                count = max(count, min(_add(m, count, near[j], 3000) + 1, COLOURS))
            expected, held = np.int64(-1), 0
            if pointer:
                expected = np.int64(pixels[pointer])
                count = max(count, min(_add(m, count, expected, 20000 + 2500 * min(length, 16)) + 1, COLOURS))
                held = (min(length, 15) if length < 16 else min(16 + (length >> 4), 31)) * 4 + missed
                above = np.int64(pixels[pointer - stride]) == near[1]
                held = held * 4 + above * 2 + (np.int64(pixels[pointer - stride + 1]) == near[3])

            actual, found = np.int64(pixels[i]), np.int64(0)
            for tried in range(count):
                best = tried
                for u in range(tried + 1, count):
                    if scores[u] > scores[best]:
                        best = u
                if tried and scores[best] < 600:
                    break
                colour, later, agree = colours[best], np.int64(tried > 0), 0
                colours[best], scores[best] = colours[tried], scores[tried]
                for k in range(ORDERS):
                    role = m.roles[best * ORDERS + k]
                    m.roles[best * ORDERS + k] = m.roles[tried * ORDERS + k]
                    agree += role == 0
                    index[k] = ((k * (NONE + 1) + m.state[k]) * ROLES + role) * 2 + later
                which, same = 6, 0
                for j in range(7, -1, -1):
                    if near[j] == colour:
                        same |= 1 << j
                        which = min(j, 6)
                index[ORDERS] = _SIX + (six * 8 + which) * 2 + later
                index[ORDERS + 1] = _TWELVE + np.int64(hashed(twelve, which * 2 + later) & np.uint64(0xFFFF))
                index[ORDERS + 2] = _SAME + same * 2 + later
                index[ORDERS + 3] = _MATCH + held * 4 + (colour == expected) * 2 + later if pointer else _PLAIN
                index[ORDERS + 4] = _PLAIN + 1 + min(tried, 7)
                rank = min(tried, 3) * 16
                b, ra = 64 + rank + (same & 15), rank * 16 + m.state[3]
                same_map = 3120 + rank + (same & 15)
                found = mixing.bit(m, np.int64(colour == actual), DECIDING, 500, rank + agree, b, ra, same_map)
                if found:
                    actual = colour
                    break
            if not found:
                actual = _new(m, actual, c)
            pixels[i] = actual

            for k in range(ORDERS):
                _learn(m, k, actual)
            if pointer:
                pointer += 1
                if expected == actual:
                    length += 1
                    missed = missed if length < 16 else 0
                else:
                    length = 0
                    missed += 1
                    pointer = pointer if missed < 4 else 0
    return 0 if m.decoding or last < h else binary.finish(m.coder, m.data)


def _code(data: NDArray[np.uint8], pixels: NDArray[np.uint32], h: int, w: int, c: int, decoding: bool) -> int:
    """Code or decode all pixels; the number of bytes, or -1 if they do not fit."""
    size = int(h * w - 1).bit_length()
    numbers = [np.zeros(n, np.int64) for n in (INPUTS, NEAR, ORDERS, ORDERS, COLOURS, COLOURS, COLOURS * ORDERS)]
    model = Model(
        decoding,
        np.zeros(binary.SIZE, np.int64),
        data,
        pixels.reshape(-1),
        np.zeros(4 << min(max(size + 1, 8), 19), np.uint32),
        np.full(_ROWS + (1 << min(max(size + 3, 14), 20)), EVEN, np.uint32),
        np.zeros(1 << min(max(size, 8), 18), np.int32),
        mixing.first_weights(192),
        mixing.first_maps(3200),
        np.zeros(128, np.int64),
        *mixing.tables(),
        numbers[0],
        np.zeros(INPUTS, np.int32),
        numbers[1],
        np.zeros(ORDERS, np.uint64),
        *numbers[2:],
    )
    count, rows = 0, max(1, STRIP // w)
    for first in range(0, h, rows):
        check()
        count = int(_rows(model, first, min(first + rows, h), h, w, c))
    return -1 if model.coder[binary.FULL] else count


def encode(picture: NDArray[np.uint8]) -> bytes:
    """The picture in few bytes.

    picture: uint8 [c, h, w], of 1 to 4 channels. Raises ValueError for another shape or dtype, and as `decode` does.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or not 1 <= len(picture) <= 4:
        raise ValueError(f"a picture is uint8 [1 to 4, h, w], not {picture.dtype} {list(picture.shape)}")
    c, h, w = picture.shape
    if h * w == 0:
        return b""
    pixels = _with_border(h, w)
    inner = pixels[3:, PAD : PAD + w]
    for rows, channel in _strips(h, c):
        inner[rows] |= picture[channel, rows].astype(np.uint32) << np.uint32(8 * channel)
    room = 1024 + picture.size
    while True:
        data = np.zeros(room, np.uint8)
        size = _code(data, pixels, h, w, c, False)
        if size >= 0:
            return data[:size].tobytes()
        room *= 2


def decode(data: bytes, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The picture of a shape that `encode` made `data` of, or some other one if it did not: uint8 [c, h, w].

    Raises ValueError for a picture so narrow that its border takes too much memory.
    """
    c, h, w = shape
    pixels = _with_border(h, w)
    if h * w:
        _code(np.frombuffer(data, np.uint8).copy(), pixels, h, w, c, True)
    inner, found = pixels[3:, PAD : PAD + w], np.empty(shape, np.uint8)
    for rows, channel in _strips(h, c):
        found[channel, rows] = (inner[rows] >> np.uint32(8 * channel)).astype(np.uint8)
    return found


def _with_border(h: int, w: int) -> NDArray[np.uint32]:
    """Room for all pixels. A narrow picture's border takes many times as much as the picture: of 2^30 rows, 68 GiB."""
    if (size := (h + 3) * (w + 2 * PAD)) > MOST:
        raise ValueError(
            f"expected at most {MOST} pixels with a border of {PAD} at each side, got {size} of {w} x {h}; cut the "
            "picture into parts, or do not trust the file"
        )
    return np.zeros((h + 3, w + 2 * PAD), np.uint32)


def _strips(h: int, c: int) -> list[tuple[slice, int]]:
    """Some rows of a channel at a time: all of them, in 32 bits, would be larger than the picture."""
    return [(slice(y, y + 64), channel) for y in range(0, h, 64) for channel in range(c)]
