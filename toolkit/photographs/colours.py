"""Lossless pictures of few colours: screenshots, drawings, palettes. A pixel is one of the colours that were seen among
the same neighbours before, or a new one, told by its channels' errors of prediction.

Every yes or no is coded with a probability that is mixed from adaptive counters while coding. Integers only, so that
the bytes are the same on every processor.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# Numba's functions have the types that they are called with.

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.coding import binary

ORDERS = 8  # contexts that remember colours
STATES = 129  # of a remembered context: how long its colour held, and how that ended before; the last: not found
FIRST = ORDERS + 5  # inputs of a decision among colours
NEW = 13
INPUTS = 20
COLOURS = 12  # most that are tried
PAD = 8  # pixels left and right of a row, and three rows above
SPAN = 3072  # logits in 256ths: -SPAN to SPAN - 1
STEP = 50  # entries of a refinement
BASE, EXTRA, RAMP = 10, 20, 512

_ROLES = STATES * 8
_SIX = ORDERS * _ROLES  # patterns of six neighbours
_MANY = _SIX + 720 * 16  # of twelve, hashed
_NEAR = _MANY + (1 << 16)  # which neighbours have this colour
_MATCH = _NEAR + 1024
_BIAS = _MATCH + 2048  # a multiple of 32, as all
_FARS = _BIAS + 64  # of a new colour's channels: by how far the guesses are
_HASHED = _FARS + (1 << 18)  # likewise: by the colours around, in rows of a check and 15 counters
_GAPS = np.uint64((1 << 18) - 64)

_EVEN = np.uint32(1 << 31)  # a counter: 22 bits of probability, 10 of count


@functools.cache
def _tables() -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Logit to probability, in 65536ths; probability, in 4096ths, to logit; 65536 / (n + 1.5)."""
    one, root = 1 << 80, (1 << 80) * 256
    growth = term = one  # exp(1 / 256), by its series
    for n in range(1, 12):
        term = term * one // (root * n)
        growth += term
    powers = [one]
    for _ in range(SPAN):
        powers.append(powers[-1] * growth // one)
    squash = np.empty(2 * SPAN, np.int32)
    for x in range(SPAN + 1):
        down = max(1, (one << 16) // (one + powers[x]))
        squash[SPAN - x] = down
        if 0 < x < SPAN:
            squash[SPAN + x] = 65536 - down
    squash[SPAN] = 32768
    stretch = (np.searchsorted(squash, np.arange(4096) * 16 + 8) - SPAN).astype(np.int32)
    rates = (2 * 65536 // (2 * np.arange(1024) + 3)).astype(np.int32)
    return squash, stretch, rates


@binary.inline
def _hash(h, value):
    h = (h + np.uint64(value) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    return h ^ h >> np.uint64(29)


@binary.inline
def _bit(coder, buffer, bit, decoding, n, index, x, counters, limit, weights, a, b, fine, ra, rb, tables):
    """Code a bit: mix the counters at index[:n] by the sum of two sets of weights, refine, and learn."""
    squash, stretch, rates = tables
    a *= INPUTS
    b *= INPUTS
    total = 0
    for j in range(n):
        s = stretch[counters[index[j]] >> np.uint32(20)]
        x[j] = s
        total += s * np.int64(weights[a + j] + weights[b + j])
    total = min(max(total >> 16, -SPAN + 1), SPAN - 1)
    mixed = np.int64(squash[total + SPAN])
    part = (total + SPAN) & 127
    left = ra * STEP + ((total + SPAN) >> 7)
    right = rb * STEP + ((total + SPAN) >> 7)
    pa = (fine[left] * (128 - part) + fine[left + 1] * part) >> 7
    pb = (fine[right] * (128 - part) + fine[right + 1] * part) >> 7
    p = (2 * mixed + pa + pb) >> 2
    bit = binary.code(coder, buffer, bit, p, decoding)
    goal = np.int64(65535) if bit else np.int64(0)
    near = part >> 6
    fine[left + near] += (goal - fine[left + near]) >> 6
    fine[right + near] += (goal - fine[right + near]) >> 6
    seen = weights[a + INPUTS - 1]
    weights[a + INPUTS - 1] = min(seen + 1, RAMP)
    error = (goal - mixed) * (BASE + EXTRA * (RAMP - np.int64(seen)) // RAMP)
    for j in range(n):
        change = (np.int64(x[j]) * error + (1 << 19)) >> 20
        weights[a + j] += change
        weights[b + j] += change
    for j in range(n):
        v = np.int64(counters[index[j]])
        count = v & 1023
        p = v >> 10
        p += (((bit << 22) - bit - p) * rates[count]) >> 16
        counters[index[j]] = (p << 10) | min(count + 1, limit)
    return bit


@binary.inline
def _long(run):
    """0 to 7 from how often a colour came in a row."""
    if run < 4:
        return run
    return 4 + (run > 7) + (run > 15) + (run > 39)


@binary.inline
def _channel(pixel, channel):
    return (pixel >> (8 * channel)) & 255


@binary.inline
def _near(difference):
    """-4 to 4 from a difference, as 0 to 8."""
    size = abs(difference)
    size = (size > 0) + (size > 2) + (size > 8) + (size > 24)
    return 4 + size if difference > 0 else 4 - size


@binary.inline
def _median(w, n, nw):
    return min(max(w + n - nw, min(w, n)), max(w, n))


@binary.inline
def _far(difference):
    """-26 to 26 from a difference, as 0 to 52."""
    size = abs(difference)
    size = size if size < 12 else 12 + ((size - 12) >> 2) if size < 44 else min(20 + ((size - 44) >> 5), 26)
    return 26 + size if difference > 0 else 26 - size


@binary.inline
def _nibble(counters, key, mask):
    """Where the 15 counters of half a byte in this context are, which begin anew if another context had the place."""
    at = np.int64(key & mask) + _HASHED
    check = np.uint32(key >> np.uint64(32))
    if counters[at] != check:
        other = at ^ 16
        if counters[other] == check:
            return other
        if counters[other + 1] & np.uint32(1023) < counters[at + 1] & np.uint32(1023):
            at = other
        counters[at] = check
        for j in range(1, 16):
            counters[at + j] = _EVEN
    return at


@binary.inline
def _new(coder, buffer, pixel, decoding, c, w, n, nw, ne, ww, nn, nww, nnw, index, x, counters, mask, weights, fine, taps, tables):
    """Code a colour bit by bit, the second channel (green) first, then the first, the third and the fourth."""
    known = 0  # channels done
    e1 = e2 = 0
    for turn in range(c):
        channel = turn
        if c > 2:
            channel = 1 if turn == 0 else 0 if turn == 1 else turn
        cw, cn, cnw, cne = _channel(w, channel), _channel(n, channel), _channel(nw, channel), _channel(ne, channel)
        cww, cnn, cnww, cnnw = _channel(ww, channel), _channel(nn, channel), _channel(nww, channel), _channel(nnw, channel)
        plain = _median(cw, cn, cnw)
        ew, en = cw - _median(cww, cnw, cnww), cn - _median(cnw, cnn, cnnw)
        shift = e1 if turn != 3 else 0
        guess = min(max(plain + shift, 0), 255)
        plane = cw + cn - cnw + shift
        side = ((cw + cne) >> 1) + shift
        before = _channel(w, 2) if turn == 0 else _channel(w, 2) if turn == 1 else _channel(known, 1)
        behind = _channel(w, 1) if turn == 0 else _channel(known, 1) if turn == 1 else _channel(known, 0)
        value = _channel(pixel, channel)
        busy = abs(cw - cnw) + abs(cn - cnw) + abs(cn - cne) + abs(cw - cww)
        quiet = (busy > 0) + (busy > 3) + (busy > 8) + (busy > 20) + (busy > 40) + (busy > 80) + (busy > 160)
        base = np.uint64(turn)
        h0 = _hash(base, known)
        h1 = _hash(h0, w)
        h2 = _hash(h0, n + (1 << 40))
        h3 = _hash(h1, n)
        h5 = _hash(base, quiet + (1 << 42))
        h6 = _hash(base, 1 << 43)
        h7 = _hash(base, e1 + 512 + (1 << 44))
        h8 = _hash(base, _near(ew) * 9 + _near(en) + (1 << 45))
        h9 = _hash(base, 1 << 46)
        h10 = _hash(base, 1 << 47)
        h12 = _hash(base, 1 << 49)
        t = turn * 32
        taps[t], taps[t + 1], taps[t + 2], taps[t + 3] = cn - cw, cnw - cw, cne - cw, cww - cw
        taps[t + 4], taps[t + 5], taps[t + 6], taps[t + 7] = cnn - cw, cnww - cw, cnnw - cw, 0
        m = 7
        for j in range(min(turn, 2)):
            other = 1 if j == 0 else 0
            kw = _channel(w, other)
            taps[t + m], taps[t + m + 1] = _channel(known, other) - kw, _channel(n, other) - kw
            taps[t + m + 2], taps[t + m + 3] = _channel(nw, other) - kw, _channel(ne, other) - kw
            m += 4
        total, energy = np.int64(0), np.int64(64)
        for j in range(m):
            total += taps[t + j] * taps[t + 16 + j]
            energy += taps[t + j] * taps[t + j]
        learned = min(max(cw + (total >> 16), 0), 255)
        h13 = _hash(base, quiet + (1 << 50))
        h14 = _hash(base, 1 << 51)
        prefix, local = 1, 1
        p0 = p1 = p2 = p3 = np.int64(0)
        for k in range(8):
            if k % 4 == 0:
                p0 = _nibble(counters, _hash(h0, prefix), mask)
                p1 = _nibble(counters, _hash(h1, prefix), mask)
                p2 = _nibble(counters, _hash(h2, prefix), mask)
                p3 = _nibble(counters, _hash(h3, prefix), mask)
                local = 1
            middle = (2 * prefix + 1) << (7 - k) & 255
            fg, fn = _far(guess - middle), _far(cn - middle)
            index[0], index[1], index[2], index[3] = p0 + local, p1 + local, p2 + local, p3 + local
            index[5] = np.int64(_hash(h5, k) & _GAPS) + _FARS + fg
            index[6] = np.int64(_hash(h6, _far(cw - middle) * 8 + k) & _GAPS) + _FARS + fn
            index[7] = np.int64(_hash(h7, k) & _GAPS) + _FARS + fg
            index[8] = np.int64(_hash(h8, k) & _GAPS) + _FARS + fg
            index[9] = np.int64(_hash(h9, _far(plane - middle) * 8 + k) & _GAPS) + _FARS + _far(side - middle)
            index[10] = np.int64(_hash(h10, _far(before - middle) * 8 + k) & _GAPS) + _FARS + _far(behind - middle)
            fl = _far(learned - middle)
            index[4] = np.int64(_hash(h13, k) & _GAPS) + _FARS + fl
            index[11] = np.int64(_hash(h14, fg * 8 + k) & _GAPS) + _FARS + fl
            index[12] = np.int64(_hash(h12, (_far(cw + shift - middle) * 64 + _far(cn + shift - middle)) * 8 + k) & _GAPS) + _FARS + _far(cne + shift - middle)
            bit = _bit(
                coder, buffer, (value >> (7 - k)) & 1, decoding, NEW, index, x, counters, 80, weights,
                512 + turn * 8 + k, 544 + turn * 8 + quiet, fine,
                1024 + (turn * 8 + k) * 64 + fg, 3072 + turn * 8 + quiet, tables,
            )  # fmt: skip
            prefix = 2 * prefix + bit
            local = 2 * local + bit
        value = prefix & 255
        known |= value << (8 * channel)
        e2, e1 = e1, value - plain
        miss = ((value - cw << 16) - total) // (energy << 7)
        for j in range(m):
            taps[t + 16 + j] = min(max(taps[t + 16 + j] + miss * taps[t + j], -(1 << 20)), 1 << 20)
    return known


@binary.jit
def _run(
    coder, buffer, pixels, h, w, c, decoding, slots, bits, counters, mask, matches, weights, fine, scratch, tables
):
    """Code all pixels, or decode them; the number of bytes."""
    index, x, place, state, roles, colours, scores, taps = scratch
    binary.start(coder, buffer, decoding)
    stride = w + 2 * PAD
    shift = np.uint64(64 - bits)
    pointer, length, missed = 0, 0, 0
    for row in range(h):
        start = (row + 3) * stride + PAD
        for j in range(PAD):
            pixels[start - 1 - j] = pixels[start - stride]
            pixels[start - stride + w + j] = pixels[start - stride + w - 1]
        for i in range(start, start + w):
            up, top = i - stride, i - 2 * stride
            pw, pn, pnw, pne = (
                np.int64(pixels[i - 1]),
                np.int64(pixels[up]),
                np.int64(pixels[up - 1]),
                np.int64(pixels[up + 1]),
            )
            pww, pnn = np.int64(pixels[i - 2]), np.int64(pixels[top])
            pnee, pnww = np.int64(pixels[up + 2]), np.int64(pixels[up - 2])
            pnne, pnnw, pwww, pnnn = (
                np.int64(pixels[top + 1]),
                np.int64(pixels[top - 1]),
                np.int64(pixels[i - 3]),
                np.int64(pixels[top - stride]),
            )

            # contexts
            h1 = _hash(np.uint64(1), pw)
            h2 = _hash(h1, pn)
            h4 = _hash(_hash(h2, pnw), pne)
            h6 = _hash(_hash(h4, pww), pnn)
            h9 = _hash(_hash(_hash(h6, pnww), pnee), pnne)
            h14 = _hash(_hash(_hash(_hash(h9, pnnw), pwww), pnnn), pixels[i - 4])
            h14 = _hash(_hash(h14, pixels[up + 3]), pixels[top + 2])
            line = _hash(_hash(_hash(_hash(_hash(np.uint64(7), pw), pww), pwww), pixels[i - 4]), pixels[i - 5])
            above = _hash(_hash(_hash(_hash(_hash(np.uint64(8), pn), pnn), pnnn), pne), pnee)
            count = 0
            for k in range(ORDERS):
                key = h1
                if k == 1:
                    key = h2
                elif k == 2:
                    key = h4
                elif k == 3:
                    key = h6
                elif k == 4:
                    key = h9
                elif k == 5:
                    key = h14
                elif k == 6:
                    key = line
                elif k == 7:
                    key = above
                key = _hash(key, k)
                at = np.int64(key >> shift)
                check = np.int64(key & np.uint64(0xFFFF))
                found = STATES - 1
                for way in range(2):
                    slot = (at ^ way) * 4
                    meta = np.int64(slots[slot + 3])
                    if meta >> 16 == check and meta & 1:
                        found = _long((meta >> 1) & 63) | ((meta >> 4) & 120)
                        at ^= way
                        break
                if found == STATES - 1:
                    slot = at * 4
                    other = (at ^ 1) * 4
                    if (np.int64(slots[slot + 3]) & 127) > (np.int64(slots[other + 3]) & 127):
                        at ^= 1
                place[k] = (at << 16) | check
                state[k] = found
                if found < STATES - 1:
                    slot = at * 4
                    for j in range(3):
                        colour = np.int64(slots[slot + j])
                        if j > 0 and colour == np.int64(slots[slot]):
                            break
                        score = np.int64(counters[k * _ROLES + found * 8 + j * 2] >> np.uint32(16))
                        u = 0
                        while u < count and colours[u] != colour:
                            u += 1
                        if u == count:
                            if count == COLOURS:
                                continue
                            count += 1
                            colours[u] = colour
                            scores[u] = 0
                            for m in range(ORDERS):
                                roles[u * ORDERS + m] = 3
                        roles[u * ORDERS + k] = j
                        scores[u] = max(scores[u], score)
            for j in range(3):
                colour = pw if j == 0 else pn if j == 1 else np.int64(pixels[pointer])
                if j == 2 and pointer == 0:
                    break
                score = 3000 if j < 2 else 20000 + 2500 * min(length, 16)
                u = 0
                while u < count and colours[u] != colour:
                    u += 1
                if u == count:
                    if count == COLOURS:
                        continue
                    count += 1
                    colours[u] = colour
                    scores[u] = 0
                    for m in range(ORDERS):
                        roles[u * ORDERS + m] = 3
                scores[u] = max(scores[u], score)

            # patterns
            q1 = np.int64(pn != pw)
            q2 = 0 if pnw == pw else 1 if pnw == pn else 2
            q3 = 0 if pne == pw else 1 if pne == pn else 2 if pne == pnw else 3
            q4 = 0 if pww == pw else 1 if pww == pn else 2 if pww == pnw else 3 if pww == pne else 4
            q5 = (
                0 if pnn == pw else 1 if pnn == pn else 2 if pnn == pnw else 3 if pnn == pne else 4 if pnn == pww else 5
            )
            six = (((q1 * 3 + q2) * 4 + q3) * 5 + q4) * 6 + q5
            r = 0 if pnww == pw else 1 if pnww == pn else 2 if pnww == pnw else 3 if pnww == pww else 4
            r = r * 5 + (0 if pnee == pw else 1 if pnee == pn else 2 if pnee == pne else 3 if pnee == pnn else 4)
            r = r * 5 + (0 if pnne == pw else 1 if pnne == pn else 2 if pnne == pne else 3 if pnne == pnn else 4)
            r = r * 5 + (0 if pnnw == pw else 1 if pnnw == pn else 2 if pnnw == pnw else 3 if pnnw == pnn else 4)
            r = r * 4 + (0 if pwww == pw else 1 if pwww == pn else 2 if pwww == pww else 3)
            r = r * 4 + (0 if pnnn == pw else 1 if pnnn == pn else 2 if pnnn == pnn else 3)
            many = _hash(np.uint64(six), r)
            expected = np.int64(pixels[pointer]) if pointer else np.int64(-1)
            held = 0
            if pointer:
                held = min(length, 15) if length < 16 else min(16 + (length >> 4), 31)
                held = held * 4 + missed
                held = (
                    held * 4
                    + (np.int64(pixels[pointer - stride]) == pn) * 2
                    + (np.int64(pixels[pointer - stride + 1]) == pne)
                )

            actual = np.int64(pixels[i])
            tried, done = 0, False
            while tried < count:
                best = tried
                for u in range(tried + 1, count):
                    if scores[u] > scores[best]:
                        best = u
                if tried and scores[best] < 600:
                    break
                colour = colours[best]
                if best != tried:
                    colours[best] = colours[tried]
                    scores[best] = scores[tried]
                    for k in range(ORDERS):
                        other_role = roles[best * ORDERS + k]
                        roles[best * ORDERS + k] = roles[tried * ORDERS + k]
                        roles[tried * ORDERS + k] = other_role
                later = np.int64(tried > 0)
                agree = 0
                for k in range(ORDERS):
                    role = roles[tried * ORDERS + k]
                    agree += role == 0
                    index[k] = k * _ROLES + state[k] * 8 + role * 2 + later
                which = (
                    0
                    if colour == pw
                    else 1
                    if colour == pn
                    else 2
                    if colour == pnw
                    else 3
                    if colour == pne
                    else 4
                    if colour == pww
                    else 5
                    if colour == pnn
                    else 6
                )
                same = (colour == pw) + 2 * (colour == pn) + 4 * (colour == pnw) + 8 * (colour == pne)
                near = (
                    same + 16 * (colour == pww) + 32 * (colour == pnn) + 64 * (colour == pnww) + 128 * (colour == pnee)
                )
                index[8] = _SIX + six * 16 + which * 2 + later
                index[9] = _MANY + np.int64(_hash(many, which * 2 + later) & np.uint64(0xFFFF))
                index[10] = _NEAR + near * 2 + later
                index[11] = _MATCH + held * 4 + (colour == expected) * 2 + later if pointer else _BIAS + 1
                index[12] = _BIAS + 2 + min(tried, 7)
                rank = min(tried, 3)
                yes = _bit(
                    coder, buffer, np.int64(colour == actual), decoding, FIRST, index, x, counters, 500, weights,
                    rank * 16 + agree, 64 + rank * 16 + same, fine,
                    rank * 256 + state[3], rank * 16 + same + 3120, tables,
                )  # fmt: skip
                tried += 1
                if yes:
                    actual = colour
                    done = True
                    break
            if not done:
                actual = _new(
                    coder,
                    buffer,
                    actual,
                    decoding,
                    c,
                    pw,
                    pn,
                    pnw,
                    pne,
                    pww,
                    pnn,
                    pnww,
                    pnnw,
                    index,
                    x,
                    counters,
                    mask,
                    weights,
                    fine,
                    taps,
                    tables,
                )
            pixels[i] = actual

            # learn
            for k in range(ORDERS):
                slot = (place[k] >> 16) * 4
                check = place[k] & 0xFFFF
                if state[k] == STATES - 1:
                    slots[slot] = slots[slot + 1] = slots[slot + 2] = actual
                    slots[slot + 3] = check << 16 | 1
                    continue
                meta = np.int64(slots[slot + 3])
                run = (meta >> 1) & 63
                first = np.int64(slots[slot])
                if actual == first:
                    if run < 63:
                        slots[slot + 3] = meta + 2
                    continue
                second = np.int64(slots[slot + 1])
                end = 3
                if actual == second:
                    end = 1
                else:
                    end = 2 if actual == np.int64(slots[slot + 2]) else 3
                    slots[slot + 2] = second if second != first else actual
                slots[slot + 1] = first
                slots[slot] = actual
                before = (run > 0) + (run > 2) + (run > 12)
                slots[slot + 3] = check << 16 | end << 9 | before << 7 | 1
            recent = np.int64(_hash(_hash(line, pn), np.int64(pixels[i])) & np.uint64(len(matches) - 1))
            if pointer:
                if expected == actual:
                    length += 1
                    if length > 15:
                        missed = 0
                else:
                    length = 0
                    missed += 1
                pointer += 1
                if missed > 3:
                    pointer = 0
            if length == 0:
                candidate = np.int64(matches[recent])
                if candidate:
                    known = 0
                    while known < 24 and pixels[candidate - known] == pixels[i - known]:
                        known += 1
                    if known > 5:
                        pointer, length, missed = candidate + 1, known - 5, 0
            matches[recent] = i
        if pointer and row + 1 < h:  # over the edge to the next row
            pointer, length, missed = 0, 0, 0
    return 0 if decoding else binary.finish(coder, buffer)


def _code(data: NDArray[np.uint8], pixels: NDArray[np.uint32], h: int, w: int, c: int, decoding: bool) -> int:
    """Code or decode all pixels; the number of bytes, or -1 if they do not fit."""
    count = h * w
    bits = min(max((count - 1).bit_length() + 1, 8), 19)
    hashed = min(max((count - 1).bit_length() + 3, 14), 20)
    matches = np.zeros(1 << min(max((count - 1).bit_length(), 8), 18), np.int32)
    counters = np.full(_HASHED + (1 << hashed), _EVEN, np.uint32)
    weights = np.full((700, INPUTS), 65536 // 11, np.int32)
    weights[:, -1] = 0
    weights = weights.reshape(-1)
    squash, stretch, rates = _tables()
    fine = np.tile(squash[np.minimum(np.arange(STEP) * 128, 2 * SPAN - 1)], 3200)
    scratch = (
        np.zeros(INPUTS, np.int64),
        np.zeros(INPUTS, np.int32),
        np.zeros(ORDERS, np.int64),
        np.zeros(ORDERS, np.int64),
        np.zeros(ORDERS * COLOURS, np.int64),
        np.zeros(COLOURS, np.int64),
        np.zeros(COLOURS, np.int64),
        np.zeros(128, np.int64),
    )
    coder = np.zeros(binary.SIZE, np.int64)
    slots = np.zeros(4 << bits, np.uint32)
    mask = np.uint64((1 << hashed) - 16)
    tables = (squash, stretch, rates)
    size = _run(
        coder, data, pixels, h, w, c, decoding, slots, bits, counters, mask, matches, weights, fine, scratch, tables
    )
    return -1 if coder[binary.FULL] else int(size)


def encode(picture: NDArray[np.uint8]) -> bytes:
    """The picture's pixels, told one after another.

    `picture`: uint8 [h, w, c], 1 to 4 channels. ValueError: another shape or dtype.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or not 1 <= picture.shape[2] <= 4:
        raise ValueError(f"a picture is uint8 [h, w, 1 to 4], not {picture.dtype} {list(picture.shape)}")
    h, w, c = picture.shape
    if h * w == 0:
        return b""
    pixels = np.zeros((h + 3, w + 2 * PAD), np.uint32)
    for channel in range(c):
        pixels[3:, PAD : PAD + w] |= picture[:, :, channel].astype(np.uint32) << np.uint32(8 * channel)
    room = 1024 + h * w * c
    while True:
        data = np.zeros(room, np.uint8)
        size = _code(data, pixels.reshape(-1), h, w, c, False)
        if size >= 0:
            return data[:size].tobytes()
        room *= 2


def decode(data: bytes, h: int, w: int, c: int) -> NDArray[np.uint8]:
    """The picture, uint8 [h, w, c], that `encode` made `data` of; some other picture from bytes that it did not make."""
    pixels = np.zeros((h + 3, w + 2 * PAD), np.uint32)
    if h * w:
        _code(np.frombuffer(data, np.uint8).copy(), pixels.reshape(-1), h, w, c, True)
    inner = pixels[3:, PAD : PAD + w]
    return np.stack([(inner >> np.uint32(8 * channel)).astype(np.uint8) for channel in range(c)], 2)
