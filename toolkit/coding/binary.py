"""Binary arithmetic coder: one bit at a time, with a 16-bit probability of a one; compiled into the caller's loop.

Low and high ends of an interval of 32-bit numbers; a byte is written as soon as both ends share it (no carry). The same
call codes or decodes, so that a model is written once. Integers only. Numba renews a caller's cache on disk when the
caller's file changes, not when this one does: touch the caller after changes here.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# Numba's functions have the types that they are called with.

from __future__ import annotations

from toolkit.coding.compiled import inline

LOW, HIGH, CODE, AT, FULL, SIZE = range(6)  # what the state holds, and how many; CODE: the 32 bits being decoded
_TOP, _ALL = 0xFF000000, 0xFFFFFFFF


@inline
def _next(state, buffer):
    """The decoder's bits, moved on by a byte: zero after the end."""
    at = state[AT]
    byte = buffer[at] if at < len(buffer) else 0
    state[CODE] = (state[CODE] << 8 & _ALL) | byte
    state[AT] = at + 1


@inline
def _put(state, buffer, byte):
    at = state[AT]
    if at < len(buffer):
        buffer[at] = byte
        state[AT] = at + 1
    else:
        state[FULL] = 1


@inline
def start(state, buffer, decoding):
    """Begin to code into a buffer, or to decode from it.

    `state`: int64 [SIZE]; `buffer`: uint8 [n], writable though a decoder only reads it.
    """
    state[LOW] = state[CODE] = state[AT] = state[FULL] = 0
    state[HIGH] = _ALL
    if decoding:
        for _ in range(4):
            _next(state, buffer)


@inline
def code(state, buffer, bit, p, decoding):
    """Code a bit, or decode and return one: int64, 0 or 1.

    `p`: int64, the probability of a one in 65536ths, taken as 1 or 65535 where it lies outside. `bit` is not read when
    decoding. No room in the buffer: state[FULL] is 1. Bytes after the buffer's end are read as zeros.
    """
    low, high = state[LOW], state[HIGH]
    middle = low + ((high - low) * min(max(p, 1), 65535) >> 16)
    if decoding:
        bit = 1 if state[CODE] <= middle else 0
    if bit:
        high = middle
    else:
        low = middle + 1
    while (low ^ high) & _TOP == 0:
        if decoding:
            _next(state, buffer)
        else:
            _put(state, buffer, low >> 24)
        low = low << 8 & _ALL
        high = (high << 8 & _ALL) | 255
    state[LOW], state[HIGH] = low, high
    return bit


@inline
def finish(state, buffer):
    """Write the last bytes, as few as tell the interval from its neighbours, and return the length: int64."""
    count, value = 0, 0
    for n in range(5):
        mask = _ALL >> (8 * n)
        count, value = n, (state[LOW] + mask) & (_ALL ^ mask)
        if value <= state[HIGH] and value >= state[LOW]:
            break
    for n in range(count):
        _put(state, buffer, value >> (24 - 8 * n) & 255)
    size = state[AT]
    while size > 0 and buffer[size - 1] == 0:
        size -= 1
    return size
