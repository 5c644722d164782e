"""Photographs into bytes and back: planes of brightness and colour, each coded by experts that learn on the way."""

from __future__ import annotations

import functools
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from toolkit.coding import binary
from toolkit.coding.threads import Room, check, processors, return_memory, together
from toolkit.photographs import colours, experts
from toolkit.photographs.experts import PAD, Learned, Settings, Work

f4 = np.float32
T = TypeVar("T")
EFFORTS = 0, 1, 2
# A payload's first byte: these, or from _EXPERTS on, three efforts for each of ORDERS; others are `deep`'s.
_COLOURS, _HALVES, _EXPERTS = 3, 12, 16
GREEN = 1
# Of three channels: which one is coded first; second, less the first; third, less green.
ORDERS = (1, 0, 2), (1, 2, 0), (0, 1, 2), (2, 1, 0)
SAMPLE = 16  # rows, of eight times as many, that tell which way of coding is better
# What tells the best order at effort 1: patches of so many rows and columns, at least and at most so many, a
# share of the picture; and how much smaller an order must make them than the first.
PATCH, FEWEST, MOST_PATCHES, PATCHED, CLEARLY = (32, 96), 6, 64, 1 / 50, 0.995
FLAT = 0.3, 0.9  # share of pixels equal to a neighbour: below, if there are more colours than FEW a pixel, a photograph
FEW = 1 / 32
# Of few colours, but more than so many bits a pixel, and of so many pixels: coded as two halves, in two threads. These
# take some percent more; of what takes fewer bits, halves would take up to 50 % more, and a thread does 5 MB/s.
BUSY, LARGE = 0.5, 1 << 18
MOST_PIXELS, MOST_WIDTH = 1 << 21, 8192  # of a part that is coded alone
ROOM = Room(1 << 29)  # bytes that all such parts take that are in work: four of the largest, of three planes
ROWS, AHEAD = 16, 3  # rows that are coded at a time; rows that a plane must be ahead of the next
_PLANE = struct.Struct("<hhI")  # lowest value, highest, bytes
_SIZE = struct.Struct("<I")  # of the first half
REST = 32  # samples of a mean that are carried over to the next picture
ROLES = 3  # brightness, and two differences of colours, each predicted from those before it

_OWN = [
    (0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0), (-1, 2), (-2, 1), (-2, -1), (-1, -2), (-2, 2), (0, -3),
    (-3, 0), (-2, -2), (-1, 3), (-3, 1), (-3, -1), (-1, -3), (0, -4), (-2, 3), (-2, -3), (-3, 2), (-3, -2), (-4, 0),
]  # fmt: skip
_OTHER = [
    (0, 0), (0, -1), (-1, 0), (0, 1), (1, 0), (-1, -1), (-1, 1), (1, 1), (1, -1), (0, -2), (0, 2), (-2, 0), (2, 0),
    (-1, 2), (-1, -2), (1, 2), (1, -2), (-2, 1), (-2, -1), (2, 1),
]  # fmt: skip
# For each role: how many features are its own neighbours, those of the plane before, of the one before that.
_FEW, _MANY = [(16, 0, 0), (14, 10, 0), (10, 7, 7)], [(24, 0, 0), (24, 16, 0), (16, 12, 12)]
_COUNTS = {0: _FEW, 1: _FEW, 2: _MANY}
_ONE = Settings(
    keep=(0.9998, 0.9995, 0.9995), rate=0.001, limit=120, ridge=1, steps=3, across=(0.06, 0.4), down=(0.7, 0.88),
    along=(0.7, 0.9), every=0,
)  # fmt: skip
SETTINGS = {
    0: _ONE._replace(keep=(0.02, 0.02, 0.02), steps=0),
    1: _ONE,
    2: _ONE._replace(steps=6, across=(0.2, 0.6), down=(0.85, 0.94), along=(0.85, 0.95), every=1),
}


def initial() -> dict[str, np.ndarray]:
    """What the experts know before they have seen anything: float16 arrays by name, of three roles each."""
    e = experts
    weights = np.zeros((3, e.SETS * e.NODES, 2, e.LANES), f4)
    weights[:2, :, 0, : e.EXPERTS] = 0.5 / e.EXPERTS

    def pairs(first: float, second: float, *shape: int) -> np.ndarray:
        return np.tile(np.array([first, second], f4), (*shape, 1))

    apart = np.full((e.ENERGIES * 16, e.LANES), 2, f4)
    apart[:, -1] = 1
    scale = np.zeros(e.LANES, f4)
    scale[[0, 1, 7]] = -0.3, 0.5, 0.5
    one = Learned(
        weights.reshape(3, -1), pairs(2, 1, 3, e.ENERGIES * 64), apart.ravel(),
        pairs(0, 1, 2, 4096), scale,
    )  # fmt: skip
    return {name: np.stack([value] * ROLES).astype(np.float16) for name, value in one._asdict().items()}


def _work(
    pixels: np.ndarray, errors: np.ndarray, role: int, tile: Tile, bounds: tuple[int, int], buffer: np.ndarray,
    effort: int,
) -> Work:  # fmt: skip
    """A plane before its first row; pixels and errors hold all planes."""
    stride, size = tile.width + 2 * PAD, (tile.height + 2 * PAD) * (tile.width + 2 * PAD)
    counts = _COUNTS[effort][role]
    n = sum(counts)
    offsets, base = [], []
    for plane, (count, places) in enumerate(zip(counts, (_OWN, _OTHER, _OTHER), strict=True)):
        offsets += [dy * stride + dx - plane * size for dy, dx in places[:count]]
        base += [plane] * count
    blocks, system = -(-tile.width // experts.BLOCK), (n + 1) * n

    def zeros(*shape: int) -> np.ndarray:
        return np.zeros(shape, f4)

    weights, local = zeros(experts.CLASSES, n), zeros(experts.LOCAL, n)
    weights[:, :2] = local[:, :2] = 0.5
    lanes = experts.LANES
    ln2 = zeros(2, lanes)
    ln2[0, : experts.EXPERTS] = ln2[1, : experts.COUNTERS] = np.log(2)
    rates = zeros(lanes)
    rates[0], rates[1:8] = 0.002, 0.0003
    contexts = experts.CELLS * experts.NODES if effort else 1
    counters = np.tile(np.array([0.5, 0], f4), (experts.COUNTERS, contexts, 1))
    return Work(
        counters, pixels, errors, zeros(experts.PREDICTORS, 3 * stride), np.array(offsets), np.array(base),
        np.array([0, -size, -2 * size]), np.tile(np.eye(n, dtype=f4).ravel() * f4(0.01), experts.CLASSES),
        np.ones(experts.CLASSES, f4), np.zeros(experts.CLASSES, np.int64), weights.ravel(),
        zeros(experts.LOCAL, blocks, system), zeros(experts.LOCAL, blocks, system), zeros(experts.LOCAL, system),
        local.ravel(), zeros(system), zeros(8, n), np.zeros(experts.COUNTERS, np.int64), zeros(lanes),
        np.ones(lanes, f4), np.full(lanes, 0.5, f4), zeros(lanes), ln2, np.ones(lanes, f4), rates,
        zeros(experts.PREDICTORS), experts.LOG, np.array([*bounds, *SETTINGS[effort].numbers], f4),
        np.zeros(binary.SIZE, np.int64), buffer,
    )  # fmt: skip


class Tile(NamedTuple):
    """A part of a picture that is coded alone."""

    y: int
    x: int
    height: int
    width: int


def tiles(height: int, width: int) -> list[Tile]:
    """The parts of a picture, from top to bottom: of at most MOST_WIDTH columns and about MOST_PIXELS pixels."""
    across = -(-width // MOST_WIDTH)
    columns = -(-width // across)
    down = -(-height * columns // MOST_PIXELS)
    rows = -(-height // down)
    return [
        Tile(y, x, min(rows, height - y), min(columns, width - x))
        for y in range(0, height, rows)
        for x in range(0, width, columns)
    ]


class _Planes:
    """Planes of a tile that are coded at the same time, each a few rows behind the one before it."""

    def __init__(self, tile: Tile, count: int) -> None:
        self.tile, self.count = tile, count
        self.stride, self.size = tile.width + 2 * PAD, (tile.height + 2 * PAD) * (tile.width + 2 * PAD)
        self.pixels, self.errors = np.zeros(count * self.size, f4), np.full(count * self.size, 4, f4)
        self.done, self.failed, self.changed = [0] * count, False, threading.Condition()
        for i in range(count):
            self.view(i, 0)[:PAD] = 128 if i % ROLES == 0 else 0

    def view(self, i: int, pad: int = PAD) -> np.ndarray:
        """Plane i, float32 [height, width], with its padding if `pad` is 0."""
        shape = self.tile.height + 2 * PAD, self.stride
        found = self.pixels[i * self.size : (i + 1) * self.size].reshape(shape)
        return found[pad : shape[0] - pad, pad : shape[1] - pad]

    def code(self, i: int, work: Work, learned: Learned, effort: int, decoding: bool) -> None:
        """Code plane i, from its first row to its last. What it needs of other planes is waited for."""
        role, height = i % ROLES, self.tile.height
        parts, experts_only = (0,) * (len(work.base) // 8), () if effort else (0,)
        for first in range(0, height, ROWS):
            check()
            last = min(first + ROWS, height)
            if role:
                needed = min(last + AHEAD, height)
                with self.changed:
                    self.changed.wait_for(functools.partial(self._ready, i, needed))
                if self.failed:
                    return
            experts.loop(
                parts,
                experts_only,
                work,
                learned,
                role,
                first,
                last,
                self.tile.width,
                self.stride,
                decoding,
                i * self.size,
            )
            with self.changed:
                self.done[i] = last
                self.changed.notify_all()

    def _ready(self, i: int, rows: int) -> bool:
        # All planes before: one of a single value is done at once, however far those before it are.
        return self.failed or min(self.done[i - i % ROLES : i]) >= rows

    def run(self, each: Callable[[int], Any]) -> list[Any]:
        """What a function of each plane's number returns, all at the same time. If one fails, no other waits for it."""

        def one(i: int) -> Any:
            try:
                return each(i)
            except BaseException:
                with self.changed:
                    self.failed = True
                    self.changed.notify_all()
                raise

        return together(self.count, one, range(self.count))


def encoded(planes: np.ndarray, tile: Tile, learned: Sequence[Learned], effort: int) -> bytes:
    """A tile's planes, int16 [planes, height, width], each coded with its bounds and its length in front.

    learned: of each plane; it is what is known after the tile then. Raises ValueError for what does not compress.
    """
    work = _Planes(tile, len(planes))
    bounds = [(int(plane.min()), int(plane.max())) for plane in planes]

    def one(i: int) -> bytes:
        low, high = bounds[i]
        work.view(i)[:] = planes[i]
        filled[i].set()
        for other in filled[i - i % ROLES : i]:
            other.wait()
        if low == high:  # nothing is coded, but others look at it
            _constant(work, i, low)
            return _PLANE.pack(low, high, 0)
        buffer = np.zeros(2 * planes[i].size + 64, np.uint8)
        state = _work(work.pixels, work.errors, i % ROLES, tile, bounds[i], buffer, effort)
        experts.start(state.state, buffer, False)
        work.code(i, state, learned[i], effort, False)
        size = experts.finish(state.state, buffer)
        if state.state[binary.FULL]:
            raise ValueError("expected a plane that compresses, got one that takes more than two bytes a value")
        return _PLANE.pack(low, high, size) + buffer[:size].tobytes()

    filled = [threading.Event() for _ in planes]
    return b"".join(work.run(one))


def _constant(work: _Planes, i: int, value: int) -> None:
    work.view(i, 0)[:] = value
    work.errors[i * work.size : (i + 1) * work.size] = 0
    with work.changed:
        work.done[i] = work.tile.height
        work.changed.notify_all()


def decoded(
    parts: Sequence[tuple[int, int, memoryview]], tile: Tile, learned: Sequence[Learned], effort: int
) -> np.ndarray:
    """The planes of a tile, int16 [planes, height, width], of bounds and bytes as `plane_at` reads them."""
    work = _Planes(tile, len(parts))

    def one(i: int) -> None:
        low, high, data = parts[i]
        if low == high:
            _constant(work, i, low)
            return
        buffer = np.frombuffer(data, np.uint8).copy() if len(data) else np.zeros(1, np.uint8)
        state = _work(work.pixels, work.errors, i % ROLES, tile, (low, high), buffer, effort)
        experts.start(state.state, buffer, True)
        work.code(i, state, learned[i], effort, True)

    work.run(one)
    return np.stack([work.view(i) for i in range(len(parts))]).astype(np.int16)


def learned_of(state: dict[str, np.ndarray], planes: int) -> list[Learned]:
    """What is known of each plane before its first pixel: copies. A fourth plane is known as the first is."""
    return [Learned(*(state[name][i % ROLES].astype(f4) for name in Learned._fields)) for i in range(planes)]


def encode(picture: np.ndarray, state: dict[str, np.ndarray], effort: int = 1) -> bytes:
    """Code a picture, uint8 [c, h, w], c from 1 to 4: grey or RGB, the last of 2 or 4 an opacity.

    state: what the experts know before the first pixel. Pictures with many equal neighbours, such as screenshots, are
    coded by `colours` where that is smaller. Raises ValueError for another effort than 0, 1 or 2.
    """
    if effort not in EFFORTS:
        raise ValueError(f"expected effort to be 0, 1 or 2, got {effort}; give one of these")
    sample = _sample(picture)
    if pieces := _few_colours(sample, state, effort):
        return _by_colours(picture, pieces if picture[0].size >= LARGE else 1)
    return _by_experts(picture, state, effort, _order(picture, sample, state, effort))


def _order(picture: np.ndarray, sample: np.ndarray, state: dict[str, np.ndarray], effort: int) -> int:
    """The order of channels that makes the picture smallest, judged by parts of it that are coded in each.

    Effort 1 tries it on patches, in 3 % of the time: the first order stays unless another one is clearly better, and
    where there are fewer than FEWEST. Effort 0 has no time for enough patches to choose well.
    """
    if effort == 0 or len(picture) < 3:
        return 0
    if effort == 2:
        return min(range(len(ORDERS)), key=lambda i: len(_by_experts(sample, state, 1, i)))
    patches = _patches(picture)
    if patches is None:
        return 0
    sizes = [len(_by_experts(patches, state, 0, i)) for i in range(len(ORDERS))]
    best = int(np.argmin(sizes))
    return best if sizes[best] < CLEARLY * sizes[0] else 0


def _patches(picture: np.ndarray) -> np.ndarray | None:
    """PATCHED of a picture, as patches from all over it, one below the other; None if they are fewer than FEWEST."""
    (height, width), (rows, columns) = picture.shape[1:], PATCH
    count = min(int(PATCHED * height * width / (rows * columns)), MOST_PATCHES)
    if count < FEWEST or height < rows or width < columns:
        return None
    ys = [(height - rows) * i // (count - 1) for i in range(count)]
    xs = [(width - columns) * (i * 34 % 55) // 54 for i in range(count)]  # 34 / 55: as evenly as can be
    return np.concatenate([picture[:, y : y + rows, x : x + columns] for y, x in zip(ys, xs, strict=True)], 1)


def _by_colours(picture: np.ndarray, pieces: int = 1) -> bytes:
    """By `colours`, in one piece or two: the upper rows and the others."""
    if pieces == 1:
        return bytes([_COLOURS]) + colours.encode(picture)
    middle = picture.shape[1] // 2
    first, second = together(2, colours.encode, (picture[:, :middle], picture[:, middle:]))
    return bytes([_HALVES]) + _SIZE.pack(len(first)) + first + second


def _by_experts(picture: np.ndarray, state: dict[str, np.ndarray], effort: int, order: int) -> bytes:
    def one(i: int, tile: Tile) -> bytes:
        return encoded(planes_of(part(picture, tile), order), tile, learned_of(state, len(picture)), effort)

    parts = each(tiles(*picture.shape[1:]), len(picture), effort, one)
    return b"".join([bytes([_EXPERTS + 3 * order + effort]), *parts])


def each(every: Sequence[Tile], planes: int, effort: int, one: Callable[[int, Tile], T]) -> list[T]:
    """What a function makes of each tile, several at a time: planes of a tile keep two processors busy."""

    def within(i: int, tile: Tile) -> T:
        with ROOM.taken(memory(tile, planes, effort)):
            return one(i, tile)

    threads = min(len(every), processors() // 2)
    if threads < 2:
        return [within(i, tile) for i, tile in enumerate(every)]
    return_memory()
    return together(threads, within, range(len(every)), every)


def memory(tile: Tile, planes: int, effort: int) -> int:
    """Bytes that a tile takes while it is coded, about."""
    n = max(map(sum, _COUNTS[effort]))
    products = 2 * experts.LOCAL * -(-tile.width // experts.BLOCK) * (n + 1) * n
    tables = (1 << 18) + (1 << 20) * (effort > 0) + experts.CLASSES * n * n  # what is learned, counters, inverses
    size = (tile.height + 2 * PAD) * (tile.width + 2 * PAD)
    return planes * (16 * size + 4 * (products + tables))


def _sample(picture: np.ndarray) -> np.ndarray:
    """Some of the rows, that tell which way of coding is better."""
    if picture.shape[1] <= 2 * SAMPLE:
        return picture
    return np.concatenate([picture[:, y : y + SAMPLE] for y in range(0, picture.shape[1], 8 * SAMPLE)], 1)


def _few_colours(rows: np.ndarray, state: dict[str, np.ndarray], effort: int) -> int:
    """Whether `colours` codes a picture in fewer bytes, and then in how many pieces: 0, 1 or 2.

    That is seen at once in some rows of it, or by coding these in both ways.
    """
    flat = flatness(rows)
    one = sum(channel.astype(np.uint32) << 8 * i for i, channel in enumerate(rows))
    few = len(np.unique(one)) / one.size
    if flat < FLAT[0] and few > FEW:
        return 0
    if flat > FLAT[1]:
        return 1
    size = len(_by_colours(rows))
    if size >= len(_by_experts(rows, state, min(effort, 1), 0)):
        return 0
    return 2 if 8 * size > BUSY * one.size else 1


def flatness(rows: np.ndarray) -> float:
    """The share of pixels [c, h, w] that are equal to a neighbour."""
    left, above = (rows[:, 1:, 1:] == other for other in (rows[:, 1:, :-1], rows[:, :-1, 1:]))
    return float((left.all(0) | above.all(0)).mean()) if left.size else 1.0


def plane_at(data: memoryview, at: int, lowest: int, highest: int) -> tuple[tuple[int, int, memoryview], int]:
    """A plane's bounds, within others, and its bytes; and where it ends. Raises ValueError for others."""
    if len(data) < at + _PLANE.size:
        raise ValueError("expected a plane, got the end; copy the file again")
    low, high, size = _PLANE.unpack_from(data, at)
    at += _PLANE.size
    if not lowest <= low <= high <= highest or len(data) < at + size or (low == high and size):
        raise ValueError("expected a plane's bounds and length, got others; copy the file again")
    return (low, high, data[at : at + size]), at + size


def decode(data: bytes, shape: tuple[int, int, int], state: dict[str, np.ndarray]) -> np.ndarray:
    """The picture of a shape that `encode` coded with a state: uint8 [c, h, w]. Raises ValueError for other data."""
    channels, height, width = shape
    if not data or data[0] not in (_COLOURS, _HALVES, *range(_EXPERTS, _EXPERTS + 3 * len(ORDERS))):
        raise ValueError("expected the bytes of a picture, got none or others; copy the file again")
    if data[0] == _COLOURS:
        return colours.decode(data[1:], shape)
    if data[0] == _HALVES:
        return _from_halves(data[1:], shape)
    every, at, view = tiles(height, width), 1, memoryview(data)
    planes = []  # of all parts, before any is decoded
    for i in range(channels * len(every)):
        bounds = (0, 255) if i % channels in (0, 3) or channels < 3 else (-255, 255)
        plane, at = plane_at(view, at, *bounds)
        planes.append(plane)
    if at != len(data):
        raise ValueError("expected the end of a picture, got more; copy the file again")
    order, effort = divmod(data[0] - _EXPERTS, 3)
    found = np.empty(shape, np.uint8)

    def one(i: int, tile: Tile) -> None:
        parts = planes[i * channels : (i + 1) * channels]
        part(found, tile)[:] = colours_of(decoded(parts, tile, learned_of(state, channels), effort), order)

    each(every, channels, effort, one)
    return found


def _from_halves(data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """What `_by_colours` made of two pieces."""
    channels, height, width = shape
    at = _SIZE.size + (_SIZE.unpack_from(data)[0] if len(data) >= _SIZE.size else 0)
    if not _SIZE.size < at < len(data) or height < 2:
        raise ValueError("expected two halves of a picture, got others; copy the file again")
    found, middle = np.empty(shape, np.uint8), height // 2

    def one(half: bytes, rows: np.ndarray) -> None:
        rows[:] = colours.decode(half, (channels, rows.shape[1], width))

    together(2, one, (data[_SIZE.size : at], data[at:]), (found[:, :middle], found[:, middle:]))
    return found


def learn(picture: np.ndarray, state: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], float]:
    """What is known after a picture, uint8 [c, h, w], c 1 or 3, and the bits that it took."""
    count = 0
    for tile in tiles(*picture.shape[1:]):
        known = learned_of(state, len(picture))
        count += len(encoded(planes_of(part(picture, tile), 0), tile, known, 1))
        rested = [_rested(one) for one in known]
        state = {
            name: np.stack([*(getattr(one, name) for one in rested), *state[name][len(known) :]]).astype(np.float16)
            for name in Learned._fields
        }
    return state, 8.0 * count


def _rested(known: Learned) -> Learned:
    """What is kept for other pictures: sums of fewer samples, so that they learn fast, and fit into float16."""

    def fewer(pairs: np.ndarray, last: int) -> np.ndarray:
        table = pairs.reshape(-1, last)
        return (table * np.minimum(1, f4(REST) / np.maximum(table[:, -1:], 1))).reshape(pairs.shape)

    return known._replace(
        sizes=fewer(known.sizes, 2), apart=fewer(known.apart, experts.LANES), bias=fewer(known.bias, 2)
    )


def part(planes: np.ndarray, tile: Tile) -> np.ndarray:
    return planes[:, tile.y : tile.y + tile.height, tile.x : tile.x + tile.width]


def planes_of(picture: np.ndarray, order: int, kind: type[np.signedinteger[Any]] = np.int16) -> np.ndarray:
    """A channel, and differences of the others, of the first three channels: int16, or of another kind.

    order: of `ORDERS`. Linear predictors miss the halves that YCoCg-R rounds off: it makes most files larger.
    """
    x = picture.astype(kind)
    if len(x) < 3:
        return x
    i, j, k = ORDERS[order]
    return np.stack([x[i], x[j] - x[i], x[k] - x[GREEN], *x[3:]])


def colours_of(planes: np.ndarray, order: int) -> np.ndarray:
    """Undo `planes_of`; of the same kind."""
    if len(planes) < 3:
        return planes
    i, j, k = ORDERS[order]
    found = planes.copy()
    found[i] = planes[0]
    found[j] = planes[1] + found[i]
    found[k] = planes[2] + found[GREEN]
    return found
