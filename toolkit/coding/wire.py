"""The bytes of a message: its lanes' lengths, heads and words, of which any lane can be read alone.

One layout for all, with little-endian numbers: three numbers of 7 bits a byte, lowest first, the highest bit set where
more bytes follow: lanes, the bits of the shortest lane, and b. Then a string of bits, the lowest of a byte first: what
each lane has more than the shortest, in b bits; each head without its highest bit; zeros to a whole byte. Then the
words, oldest first, lane after lane. A lane's bits are those of its head, and 32 for each word.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

LOW = 1 << 31  # of heads that have words below them
WORD = 32
ROOM = 1 << 26  # words of a table of lanes that is always allowed; see `check_room`
MOST_LANES = 1 << 16  # of a message whose lanes may all be empty
_MOST_WIDTH, _MOST_BITS = 40, 1 << 40

Array = np.ndarray[Any, Any]


class Stacks(NamedTuple):
    """The stacks of a message, as they are read."""

    head: Array  # int64 [lanes], in [0, 2**63)
    words: Array  # int32 [lanes, longest], oldest first
    size: Array  # int64 [lanes]


def pack(head: Array, size: Array, words: Array, floor: Array | None = None) -> bytes:
    """Stacks as bytes: int64 heads, int64 words of each, int32 [lanes, longest] words.

    floor: int64 [lanes], words below are left out. A head of a lane with words must be at least 2**31.
    """
    low = np.zeros_like(size) if floor is None else floor
    column = np.arange(words.shape[1])
    kept = words[(column >= low[:, None]) & (column < size[:, None])]
    head_bits = bit_length(head)
    total = WORD * (size - low) + head_bits
    least = int(total.min(initial=1 << 62)) if len(total) else 0
    above = total - least
    width = int(above.max(initial=0)).bit_length()
    bits = np.concatenate([_bits(above, np.full(len(above), width)), _bits(head, np.maximum(head_bits - 1, 0))])
    start = b"".join(map(_number, (len(head), least, width)))
    return start + np.packbits(bits, bitorder="little").tobytes() + kept.astype("<i4").tobytes()


class Index(NamedTuple):
    """Where the lanes of packed bytes lie."""

    bits: Array  # int64 [lanes], of the heads; 0 for a head of 0
    size: Array  # int64 [lanes], words
    head_ends: Array  # int64 [lanes], where each head's bits end, from the first byte on
    words_at: int  # the byte at which words begin
    word_ends: Array  # int64 [lanes]


def index(data: bytes) -> Index:
    """Where the lanes of what `pack` wrote lie. Raises ValueError if the bytes are not exactly that."""
    lanes, at = _read_number(data, 0)
    least, at = _read_number(data, at)
    width, at = _read_number(data, at)
    fits = 0 < lanes <= max(MOST_LANES, 8 * len(data)) and 8 * at + lanes * width <= 8 * len(data)
    if not fits or width > _MOST_WIDTH or least > _MOST_BITS:
        raise ValueError(
            f"message: {lanes} lanes with lengths of {width} bits do not fit {len(data)} bytes; the data are damaged"
        )
    packed = np.frombuffer(data, np.uint8, -(-lanes * width // 8), at)
    total = least + _numbers(np.unpackbits(packed, count=lanes * width, bitorder="little"), np.full(lanes, width))
    size = np.maximum(total // WORD - 1, 0)  # where there are words, a head has 32 to 63 bits
    bits = total - WORD * size
    ends = 8 * at + lanes * width + np.cumsum(np.maximum(bits - 1, 0))
    words_at = -(-int(ends[-1]) // 8)
    word_ends = np.cumsum(size)
    expected = words_at + 4 * int(word_ends[-1])
    if (size > len(data)).any() or expected != len(data):
        raise ValueError(f"message: expected {expected} bytes, got {len(data)}; the data are damaged")
    last = np.unpackbits(np.frombuffer(data, np.uint8, 1, words_at - 1), bitorder="little")
    if int(ends[-1]) % 8 and last[int(ends[-1]) % 8 :].any():
        raise ValueError("message: expected zero bits before its words; the data are damaged")
    return Index(bits, size, ends, words_at, word_ends)


def unpack(data: bytes, first: int = 0, last: int | None = None, where: Index | None = None) -> Stacks:
    """Lanes [first, last), by default all, of what `pack` wrote; where: their `index`, if it is known.

    Raises ValueError for bytes that are not exactly that, and takes no more memory than `check_room` allows, whatever
    sizes they declare.
    """
    where = where or index(data)
    here = slice(first, len(where.size) if last is None else last)
    bits, size = where.bits[here], where.size[here]
    stored = np.maximum(bits - 1, 0)
    lanes, longest, total = len(size), int(size.max(initial=0)), int(size.sum())
    check_room(lanes, longest, total)
    ends = where.head_ends[here]
    begin, end = int(ends[0] - stored[0]) if lanes else 0, int(ends[-1]) if lanes else 0
    some = np.frombuffer(data, np.uint8, -(-end // 8) - begin // 8, begin // 8)
    flags = np.unpackbits(some, bitorder="little")[begin % 8 :][: end - begin]
    head = _numbers(flags, stored) + np.where(bits > 0, np.int64(1) << stored, 0)
    words = np.zeros((lanes, longest), "<i4")
    at = where.words_at + 4 * (int(where.word_ends[here][0] - size[0]) if lanes else 0)
    words[np.arange(longest) < size[:, None]] = np.frombuffer(data, "<i4", total, at)
    return Stacks(head, words.astype(np.int32, copy=False), size.copy())  # which a message changes as it is popped


def bit_length(x: Array) -> Array:
    """Bits of int64 numbers that are not negative; 0 has none."""
    bits = np.frexp(x.astype(np.float64))[1].astype(np.int64)  # one too many where the float was rounded up
    return bits - ((x >> np.clip(bits - 1, 0, 63) == 0) & (x > 0))


def check_room(lanes: int, longest: int, total: int) -> None:
    """Raise ValueError if a table of `lanes` x `longest` words would be much larger than the `total` words in it.

    Lanes of one message are about equally long; a damaged or hostile file may say that one of very many is not.
    """
    if lanes * longest > max(64 * total, ROOM):
        raise ValueError(
            f"expected lanes of about equal lengths, got {lanes}, of which one has {longest} of all {total} words; the "
            "data are damaged"
        )


def _number(x: int) -> bytes:
    found = bytearray()
    while x >= 128:
        found.append(x & 127 | 128)
        x >>= 7
    return bytes([*found, x])


def _read_number(data: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends."""
    found = 0
    for i, byte in enumerate(data[at : at + 9]):
        found |= (byte & 127) << 7 * i
        if byte < 128:
            if byte == 0 and i:  # one way to write each number
                break
            return found, at + i + 1
    raise ValueError(f"message: expected a number at byte {at} of {len(data)}; the data are damaged")


def _bits(x: Array, width: Array) -> Array:
    """The low width[i] bits of each x[i], the lowest first, one after the other: uint8 0 or 1."""
    table = np.unpackbits(x.astype("<i8").view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
    return table[np.arange(64) < width[:, None]]


def _numbers(bits: Array, width: Array) -> Array:
    """The inverse of `_bits`."""
    table = np.zeros((len(width), 64), np.uint8)
    table[np.arange(64) < width[:, None]] = bits
    return np.packbits(table, axis=1, bitorder="little").view("<i8")[:, 0].astype(np.int64)
