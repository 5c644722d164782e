"""The bytes of many short rANS stacks, a few for each: what `Message.to_bytes` is for few long ones."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import torch

from toolkit.coding.ans import WORD, Message
from toolkit.coding.packing import LOW, PACKED, bit_length, check_room, pack_heads, unpack_heads

PREAMBLE = struct.Struct("<HIB")  # lanes, least bits of one, how bits above it are stored


def pack(message: Message) -> bytes:
    """A message of small lanes, whose lengths and heads take no more bits than they must.

    u16 lanes, u32 least bits of one, u8 64 + b; a string of bits, the lowest of a byte first: of each lane its bits
    above the least, in b bits, then each head without its highest bit, then zeros to a whole byte; the words, oldest
    first, lane after lane.
    """
    head, size = message.head.cpu().numpy(), message.size.cpu().numpy()
    tail = message.tail[:, : int(size.max(initial=0))].cpu().numpy()
    head_bits = bit_length(head)
    total = WORD * size + head_bits
    least = int(total.min())
    width, packed = pack_heads(total - least, head, head_bits)
    words = tail[np.arange(tail.shape[1]) < size[:, None]]
    return PREAMBLE.pack(len(size), least, PACKED + width) + packed + words.astype("<i4").tobytes()


def unpack(data: bytes, compiled: bool = False, device: torch.device | str = "cpu") -> Message:
    """The message that `pack` wrote, now or in older files. Raises ValueError for other bytes."""
    if len(data) < PREAMBLE.size:
        raise ValueError(f"expected at least {PREAMBLE.size} bytes, got {len(data)}; the data are damaged")
    lanes, least, kind = PREAMBLE.unpack_from(data)
    if kind < PACKED:
        return _unpack_bytes(data, lanes, least, kind, compiled, device)

    def split(length: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        total = least + length
        size = np.maximum(total // WORD - 1, 0)  # where there are words, a head has 32 to 63 bits
        return size, total - WORD * size

    head, size, at = unpack_heads(data, PREAMBLE.size, lanes, kind - PACKED, 0, split)
    total = int(size.sum())
    if (size > len(data)).any() or at + 4 * total != len(data):
        raise ValueError(f"expected lanes of {4 * total} bytes, got {len(data) - at}; the data are damaged")
    check_room(lanes, int(size.max()), total)
    tail = np.zeros((lanes, int(size.max())), np.int32)
    tail[np.arange(tail.shape[1]) < size[:, None]] = np.frombuffer(data, "<i4", -1, at)
    return _message(head, size, tail, compiled, device)


def _unpack_bytes(
    data: bytes, lanes: int, least: int, width: int, compiled: bool, device: torch.device | str
) -> Message:
    """The same of files before version 3: u32 least size in bytes, u8 bytes of each size above it; sizes, lanes."""
    at = PREAMBLE.size + lanes * width
    if lanes < 1 or width not in (1, 2, 4) or at > len(data):
        raise ValueError(f"expected sizes of {lanes} lanes in {len(data)} bytes; the data are damaged")
    sizes = least + np.frombuffer(data, f"<u{width}", lanes, PREAMBLE.size).astype(np.int64)
    if int(sizes.sum()) != len(data) - at:
        raise ValueError(f"expected lanes of {int(sizes.sum())} bytes, got {len(data) - at}; the data are damaged")
    return unpack_lanes([sizes], [data[at:]], compiled, device)


def _message(
    head: np.ndarray[Any, Any], size: np.ndarray[Any, Any], tail: np.ndarray[Any, Any], compiled: bool,
    device: torch.device | str,
) -> Message:  # fmt: skip
    left, bound = torch.from_numpy(size).to(device), int(size.max(initial=0))
    heads, tails = torch.from_numpy(head).to(device), torch.from_numpy(tail).to(device)
    return Message(heads, tails, left, left.clone(), 0, bound, compiled=compiled, small=True)


def pack_lanes(message: Message) -> tuple[np.ndarray[Any, Any], bytes]:
    """The bytes of each lane: int64 [lanes] sizes, and all lanes: words, oldest first, then the head's bytes.

    A head of 8 significant bytes gives its low word to the others, so that the size alone tells where it begins.
    """
    head, size = message.head.cpu().numpy().copy(), message.size.cpu().numpy().copy()
    tail = message.tail[:, : int(size.max(initial=0))].cpu().numpy()  # what is garbage in all lanes costs time
    tail = np.concatenate([tail, np.zeros((len(head), 1), np.int32)], 1)
    long = head >= 1 << 56
    tail[long, size[long]] = (head[long] & 0xFFFFFFFF).astype(np.uint32).view(np.int32)
    head[long] >>= WORD
    size += long
    head_bytes = sum((head >> (8 * i) > 0).astype(np.int64) for i in range(7))
    sizes = 4 * size + head_bytes
    width = 4 * tail.shape[1] + 8
    lanes = np.zeros((len(head), width), np.uint8)
    lanes[:, : 4 * tail.shape[1]] = np.ascontiguousarray(tail.astype("<i4")).view(np.uint8)
    column = np.arange(8)
    np.put_along_axis(lanes, 4 * size[:, None] + column, head.astype("<i8").view(np.uint8).reshape(-1, 8), 1)
    return sizes, lanes[np.arange(width) < sizes[:, None]].tobytes()


def _split(size: int) -> tuple[int, int]:
    """Words and head bytes of a lane of so many bytes: where there are words, a head has 4 to 7 bytes."""
    return (0, size) if size < 8 else ((size - 4) // 4, 4 + size % 4)


def read_lane(data: bytes) -> tuple[int, list[int]]:
    """Head and words, the top last, of the bytes of one lane."""
    count, _ = _split(len(data))
    words = list(struct.unpack_from(f"<{count}I", data))
    head = int.from_bytes(data[4 * count :], "little")
    if head < LOW and words:
        head = head << WORD | words.pop()
    return head, words


def unpack_lanes(
    sizes: list[np.ndarray[Any, Any]], bodies: list[bytes], compiled: bool, device: torch.device | str = "cpu"
) -> Message:
    """The message that `pack_lanes` wrote, of several groups side by side."""
    size = np.concatenate(sizes)
    data = np.frombuffer(b"".join(bodies), np.uint8)
    check_room(len(size), int(size.max() // 4 + 2), int(size.sum() // 4))
    width = 4 * int(size.max() // 4 + 2)
    lanes = np.zeros((len(size), width), np.uint8)
    lanes[np.arange(width) < size[:, None]] = data
    count = np.where(size < 8, 0, (size - 4) // 4)
    raw = np.take_along_axis(lanes, np.minimum(4 * count[:, None] + np.arange(8), width - 1), 1)
    raw[np.arange(8) >= (size - 4 * count)[:, None]] = 0
    head = np.ascontiguousarray(raw).view("<i8")[:, 0].astype(np.int64)
    tail = lanes.view("<i4").astype(np.int32)
    spilled = (head < LOW) & (count > 0)
    count = count - spilled
    low = np.take_along_axis(tail, count[:, None], 1)[:, 0].astype(np.int64) & 0xFFFFFFFF
    head = np.where(spilled, head << WORD | low, head)
    if (head < 0).any():
        raise ValueError("a head above 2**63")
    return _message(head, count, tail, compiled, device)
