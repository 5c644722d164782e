"""The bytes of a message: few long stacks, whose lengths and heads take no more bits than they must."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np

PREAMBLE = struct.Struct("<IIB")  # lanes, least words of one, how lengths are stored
LOW = 1 << 31  # of heads
PACKED = 64  # how lengths are stored: PACKED + bits of a length; 1, 2, 4 or 8: bytes of one, as older files have it
ROOM = 1 << 26  # words of a table of lanes that is always allowed; see `check_room`

Array = np.ndarray[Any, Any]


def pack(head: Array, size: Array, words: Array) -> bytes:
    """Stacks as bytes: int64 heads in [2**31, 2**63), int64 words of each, int32 words of all, stack after stack.

    Little-endian: u32 lanes, u32 least size, u8 64 + b; a string of bits, the lowest of a byte first: a length of b
    bits for each lane, 32 (size - least) + (bits of the head - 32), then each head without its highest bit, then zeros
    to a whole byte; the words.
    """
    head_bits = bit_length(head)
    least = int(size.min()) if len(size) else 0
    width, packed = pack_heads(32 * (size - least) + head_bits - 32, head, head_bits)
    return PREAMBLE.pack(len(size), least, PACKED + width) + packed + words.astype("<i4").tobytes()


def pack_heads(length: Array, head: Array, head_bits: Array) -> tuple[int, bytes]:
    """The least b that holds all lengths, and as bytes: b bits of each length; each head without its highest bit."""
    width = int(length.max(initial=0)).bit_length()
    bits = [_bits(length, np.full(len(length), width)), _bits(head, np.maximum(head_bits - 1, 0))]
    return width, np.packbits(np.concatenate(bits), bitorder="little").tobytes()


def unpack_heads(
    data: bytes, at: int, lanes: int, width: int, shortest: int, split: Callable[[Array], tuple[Array, Array]]
) -> tuple[Array, Array, int]:
    """Heads, sizes, and where the bytes of `pack_heads` end, which begin at `at`.

    shortest: bits that a head takes at least; split: of lengths, the sizes and the bits of the heads.
    """
    if lanes == 0 or width > 48 or 8 * at + lanes * (width + shortest) > 8 * len(data):
        raise _not_fitting(lanes, f"{width} bits", data)
    bits = np.frombuffer(data, np.uint8, -(-lanes * width // 8), at)
    length = _numbers(np.unpackbits(bits, count=lanes * width, bitorder="little"), np.full(lanes, width))
    size, head_bits = split(length)
    stored = np.maximum(head_bits - 1, 0)
    ends = lanes * width + int(stored.sum())
    end = at - (-ends // 8)
    if end > len(data):
        raise _not_fitting(lanes, f"{width} bits", data)
    bits = np.unpackbits(np.frombuffer(data, np.uint8, end - at, at), bitorder="little")
    if bits[ends:].any():
        raise ValueError("message: expected zero bits before its words; the data are damaged")
    head = _numbers(bits[lanes * width : ends], stored) + np.where(head_bits > 0, np.int64(1) << stored, 0)
    return head, size, end


def unpack(data: bytes) -> tuple[Array, Array, Array]:
    """Heads, sizes and a table of words, int32 [lanes, longest], of what `pack` wrote.

    Raises ValueError if the bytes are not exactly that, and takes no more memory than `check_room` allows, whatever
    sizes they declare.
    """
    if len(data) < PREAMBLE.size:
        raise ValueError(f"message: expected at least {PREAMBLE.size} bytes, got {len(data)}; the data are cut short")
    lanes, least, kind = PREAMBLE.unpack_from(data)
    if kind >= PACKED:
        head, size, at = unpack_heads(
            data, PREAMBLE.size, lanes, kind - PACKED, 31, lambda length: (least + length // 32, 32 + length % 32)
        )
    else:
        head, size, at = _in_bytes(data, lanes, least, kind)
    total = int(size.sum())
    if (size < 0).any() or (size > len(data)).any() or at + 4 * total != len(data):
        raise ValueError(f"message: expected {at + 4 * total} bytes, got {len(data)}; the data are damaged")
    if (head < LOW).any():
        raise ValueError(f"message: a head is below 2**31 ({int(head.min())}); the data are damaged")
    check_room(lanes, int(size.max()), total)
    tail = np.zeros((lanes, int(size.max())), "<i4")
    tail[np.arange(tail.shape[1]) < size[:, None]] = np.frombuffer(data, "<i4", -1, at)
    return head, size, tail


def _in_bytes(data: bytes, lanes: int, least: int, width: int) -> tuple[Array, Array, int]:
    """The same of older files: a code of `width` bytes a lane, 8 (size - least) + bytes of the head - 4; the heads."""
    at = PREAMBLE.size + lanes * width
    if width not in (1, 2, 4, 8) or lanes == 0 or at + 4 * lanes > len(data):
        raise _not_fitting(lanes, f"{width} bytes", data)
    code = np.frombuffer(data, f"<u{width}", lanes, PREAMBLE.size).astype(np.int64)
    size, head_bytes = least + code // 8, 4 + code % 8
    if (head_bytes > 8).any() or at + int(head_bytes.sum()) > len(data):
        raise _not_fitting(lanes, f"{width} bytes", data)
    raw = np.zeros((lanes, 8), np.uint8)
    raw[np.arange(8) < head_bytes[:, None]] = np.frombuffer(data, np.uint8, int(head_bytes.sum()), at)
    return raw.view("<i8")[:, 0].copy(), size, at + int(head_bytes.sum())


def _not_fitting(lanes: int, width: str, data: bytes) -> ValueError:
    return ValueError(
        f"message: {lanes} lanes with lengths of {width} do not fit {len(data)} bytes; the data are damaged"
    )


def bit_length(x: Array) -> Array:
    """Bits of int64 numbers that are not negative; 0 has none."""
    bits = np.frexp(x.astype(np.float64))[1].astype(np.int64)  # one too many where the float was rounded up
    return bits - ((x >> np.clip(bits - 1, 0, 63) == 0) & (x > 0))


def _bits(x: Array, width: Array) -> Array:
    """The low width[i] bits of each x[i], the lowest first, one after the other: uint8 0 or 1."""
    column = np.arange(64)
    table = np.unpackbits(x.astype("<i8").view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
    return table[column < width[:, None]]


def _numbers(bits: Array, width: Array) -> Array:
    """The inverse of `_bits`."""
    table = np.zeros((len(width), 64), np.uint8)
    table[np.arange(64) < width[:, None]] = bits
    return np.packbits(table, axis=1, bitorder="little").view("<i8")[:, 0].astype(np.int64)


def check_room(lanes: int, longest: int, total: int) -> None:
    """Raise ValueError if a table of `lanes` x `longest` words would be much larger than the `total` words in it.

    Lanes of one message are about equally long; a damaged or hostile file may say that one of very many is not.
    """
    if lanes * longest > max(64 * total, ROOM):
        raise ValueError(
            f"expected lanes of about equal lengths, got {lanes}, of which one has {longest} of all {total} words; the "
            "data are damaged"
        )
