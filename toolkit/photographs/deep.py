"""Pictures of 16 bits a value: high bits by the experts, low ones as they are; few values, or few colours, by a table.

The lowest bits of a photograph of 16 bits are noise that no expert foresees. How many of them are stored as they are is
said for each plane, so that the errors that are left have the sizes that the experts know from 8 bits.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

from toolkit.photographs import codec, colours
from toolkit.photographs.codec import Tile

VALUES, COLOURS, PLANES = 4, 5, 9  # a payload's first byte; PLANES and its effort
_KINDS = range(PLANES, PLANES + len(codec.EFFORTS))
_SIZE, _PLANE = struct.Struct("<I"), struct.Struct("<iB")  # offset, low bits
MOST_LOW, MOST_OFFSET = 16, 1 << 24
MOST_COLOURS = 1 << 16
FEW = 1 / 4, 1 / 8  # colours a pixel: above, in every eighth row or in all, no table of colours is tried
ROWS = 64  # that are counted at a time
SMALL = 1 << 15  # of a plane that the experts code
Known = dict[str, np.ndarray]


def encode(picture: np.ndarray, state: Known, effort: int = 1) -> bytes:
    """Code a picture, uint8 or uint16 [c, h, w]; see `codec.encode`, which does it for uint8."""
    if picture.dtype == np.uint8:
        return codec.encode(picture, state, effort)
    if effort not in codec.EFFORTS:
        raise ValueError(f"expected effort to be 0, 1 or 2, got {effort}; give one of these")
    counts = np.zeros(1 << 16, np.int64)
    for y in range(0, picture.shape[1], ROWS):  # not at once: as int64, all would take four times as much
        counts += np.bincount(picture[:, y : y + ROWS].reshape(-1), minlength=1 << 16)
    values = np.flatnonzero(counts)
    table = _packed(np.diff(values, prepend=0)[None])
    reach = int(values[-1] - values[0]) + 1
    saved = picture.size * np.log2(reach / len(values)) / 8
    ranks = np.cumsum(counts > 0).astype(np.uint16) - np.uint16(1)  # of each value
    if len(values) <= 256:
        return bytes([VALUES]) + table + codec.encode(ranks.astype(np.uint8)[picture], state, effort)
    if reach >= 2 * len(values) and saved > 2 * len(table):
        found = bytes([VALUES]) + table + _planes(ranks[picture], state, effort)
    else:
        found = _planes(picture, state, effort)
    few = _few(picture) if len(np.unique(_one(picture[:, ::8]))) < FEW[0] * picture[0, ::8].size else b""
    return few if few and len(few) < len(found) else found


def decode(data: bytes, shape: tuple[int, int, int], state: Known) -> np.ndarray:
    """The picture of a shape that `encode` coded: uint8 or uint16 [c, h, w]. Raises ValueError for other data."""
    if not data or data[0] not in (VALUES, COLOURS, *_KINDS):
        return codec.decode(data, shape, state)
    if data[0] == VALUES:
        steps, at = _unpacked(data, 1, 1)
        values, kind = np.cumsum(steps[0], dtype=np.int64), data[at] if at < len(data) else VALUES
        if kind in (VALUES, COLOURS) or values[-1] >= 1 << 16 or (kind in _KINDS) == (len(values) <= 256):
            raise ValueError("expected a table of values and a picture of their numbers, got others")
        return _looked_up(values.astype(np.uint16), decode(data[at:], shape, state))
    if data[0] == COLOURS:
        steps, at = _unpacked(data, 1, shape[0])
        table = np.cumsum(steps, axis=1, dtype=np.uint16)
        index = colours.decode(data[at:], (_bytes_of(table.shape[1]), *shape[1:]))
        numbers = index[0].astype(np.uint16)
        if len(index) > 1:
            numbers |= index[1].astype(np.uint16) << 8
        return np.ascontiguousarray(_looked_up(table.T, numbers).transpose(2, 0, 1))
    return _from_planes(data, shape, state)


def _looked_up(table: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    if int(numbers.max()) >= len(table):
        raise ValueError("expected numbers within a table, got higher ones; copy the file again")
    return table[numbers]


def _packed(steps: np.ndarray) -> bytes:
    """Steps from 0 to 65535 [rows, n], with their size in front: all high bytes, then all low ones."""
    data = zlib.compress(np.stack([steps >> 8 & 255, steps & 255]).astype(np.uint8).tobytes(), 9)
    return _SIZE.pack(len(data)) + data


def _unpacked(data: bytes, at: int, rows: int) -> tuple[np.ndarray, int]:
    """What `_packed` made, int64 [rows, n], and where it ends."""
    if len(data) < at + _SIZE.size or len(data) < (end := at + _SIZE.size + _SIZE.unpack_from(data, at)[0]):
        raise ValueError("expected a table, got the end; copy the file again")
    stream, most = zlib.decompressobj(), 2 * rows * MOST_COLOURS
    try:
        found = stream.decompress(data[at + _SIZE.size : end], most + 1)
    except zlib.error as error:
        raise ValueError(f"expected a table, got other bytes ({error}); copy the file again") from error
    if not stream.eof or stream.unused_data or not 0 < len(found) <= most or len(found) % (2 * rows):
        raise ValueError("expected a table, got one of another size; copy the file again")
    high, low = np.frombuffer(found, np.uint8).reshape(2, rows, -1).astype(np.int64)
    return high << 8 | low, end


def _few(picture: np.ndarray) -> bytes:
    """The numbers of a picture's colours in a table, coded by `colours`; nothing if they are many."""
    one = _one(picture)
    table, numbers = np.unique(one, return_inverse=True)
    if len(table) > min(MOST_COLOURS, FEW[1] * one.size):
        return b""
    columns = np.stack([table >> np.uint64(48 - 16 * i) for i in range(len(picture))]).astype(np.int64) & 65535
    parts = [numbers.reshape(one.shape) >> 8 * i & 255 for i in range(_bytes_of(len(table)))]
    coded = colours.encode(np.stack(parts).astype(np.uint8))
    return bytes([COLOURS]) + _packed(np.diff(columns, axis=1, prepend=0)) + coded


def _one(picture: np.ndarray) -> np.ndarray:
    """Each pixel [h, w] as a number, uint64."""
    shifted = [channel.astype(np.uint64) << np.uint64(48 - 16 * i) for i, channel in enumerate(picture)]
    return np.bitwise_or.reduce(shifted)


def _bytes_of(count: int) -> int:
    return 1 if count <= 256 else 2


# Planes


def _halves(plane: np.ndarray, start: int) -> tuple[int, int]:
    """What is taken from a plane's values, and how many of their low bits are stored as they are.

    start: what experts take the values outside of a picture for. Noise is judged by the errors of a simple prediction.
    """
    if min(plane.shape) > 1:
        left, up, corner = plane[1:, :-1], plane[:-1, 1:], plane[:-1, :-1]
        errors = abs(plane[1:, 1:] - np.clip(left + up - corner, np.minimum(left, up), np.maximum(left, up)))
    else:
        errors = abs(np.diff(plane.reshape(-1)))
    least, middle = np.quantile(errors, [0.1, 0.5], method="lower") if errors.size else (0, 0)
    k = max((int(least) // 2).bit_length() - 1, (int(middle) // 512).bit_length() - 1, 0)
    highest, lowest, centre = int(plane.max()), int(plane.min()), int(np.median(plane))
    while highest - (offset := centre - (start << k)) >> k >= SMALL or lowest - offset >> k < -SMALL:
        k += 1
    return offset, k


def _planes(picture: np.ndarray, state: Known, effort: int) -> bytes:
    def one(i: int, tile: Tile) -> bytes:
        planes = codec.planes_of(codec.part(picture, tile), 0, np.int32)
        high, heads, tails = np.empty(planes.shape, np.int16), list[bytes](), list[bytes]()
        for number, plane in enumerate(planes):
            offset, k = _halves(plane, 0 if number % codec.ROLES else 128)
            plane -= offset
            high[number] = plane >> k
            heads.append(_PLANE.pack(offset, k))
            tails += [np.packbits((plane >> bit & 1).astype(bool)).tobytes() for bit in range(k)]
        return b"".join([*heads, codec.encoded(high, tile, codec.learned_of(state, len(planes)), effort), *tails])

    return b"".join([bytes([PLANES + effort]), *codec.each(codec.tiles(*picture.shape[1:]), len(picture), effort, one)])


def _from_planes(data: bytes, shape: tuple[int, int, int], state: Known) -> np.ndarray:
    found, at, view, effort = np.empty(shape, np.uint16), 1, memoryview(data), data[0] - PLANES
    every, halves, high, low = codec.tiles(*shape[1:]), [], [], []  # of all tiles, before any is decoded
    for tile in every:
        if len(data) < at + shape[0] * _PLANE.size:
            raise ValueError("expected a plane, got the end; copy the file again")
        pairs = [_PLANE.unpack_from(data, at + i * _PLANE.size) for i in range(shape[0])]
        if any(abs(offset) > MOST_OFFSET or k > MOST_LOW for offset, k in pairs):
            raise ValueError("expected an offset and a number of bits, got others; copy the file again")
        at += shape[0] * _PLANE.size
        parts = []
        for _ in pairs:
            part, at = codec.plane_at(view, at, -SMALL, SMALL - 1)
            parts.append(part)
        end = at + _bytes_for(tile) * sum(k for _, k in pairs)
        if len(data) < end:
            raise ValueError("expected low bits, got the end; copy the file again")
        halves.append(pairs)
        high.append(parts)
        low.append(view[at:end])
        at = end
    if at != len(data):
        raise ValueError("expected the end of a picture, got more; copy the file again")

    def one(i: int, tile: Tile) -> None:
        planes = codec.decoded(high[i], tile, codec.learned_of(state, shape[0]), effort).astype(np.int32)
        size, place = _bytes_for(tile), 0
        for plane, (offset, k) in zip(planes, halves[i], strict=True):
            plane <<= k
            for bit in range(k):
                bits = np.unpackbits(np.frombuffer(low[i], np.uint8, size, place), count=plane.size)
                plane |= bits.astype(np.int32).reshape(plane.shape) << bit
                place += size
            plane += offset
        values = codec.colours_of(planes, 0)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("expected values from 0 to 65535, got others; copy the file again")
        codec.part(found, tile)[:] = values

    codec.each(every, shape[0], effort, one)
    return found


def _bytes_for(tile: Tile) -> int:
    """Bytes of a bit of each pixel."""
    return -(-tile.height * tile.width // 8)
