"""Image files in a .tkc container: pictures or arrays -> tiles -> chunks of coded rows, and back.

The header's keys are described in docs/format.md.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from toolkit import ranks
from toolkit.chunks.model import ChunkCoder, Settings, rows_crc
from toolkit.coding import threads
from toolkit.container import ContainerError, DamagedFile, Reader, Writer
from toolkit.images import arrays, files
from toolkit.images.files import CHANNELS, CHEAPEST, MOST_VALUES, Earlier, Item
from toolkit.images.source import Source
from toolkit.images.tiles import count_tiles, tiles, untile, valid_of
from toolkit.images.verify import verify

# (rows a chunk, settings of the file that is decoded, shape of its rows)
MakeCoder = Callable[[int, Settings | None, tuple[int, ...] | None], ChunkCoder]


def compress(
    origin: Source, output: str | Path, make_coder: MakeCoder, identity: dict[str, Any], chunk_rows: int,
    shape: tuple[int, ...] | None = None, progress: bool = True, verified: bool = False,
) -> int:  # fmt: skip
    """Write the pictures of `origin` to a .tkc file; returns its size in bytes.

    identity: what the header says about recipe and model; chunk_rows: rows coded together, which is also what has to be
    decoded to get at one picture; shape: of rows, None: the model's own; verified: decode and compare all before the
    file gets its name. Raises ValueError for more than a decoder would take, and for what does not come back.
    """
    shape = make_coder(1, None, shape).module.shape
    channels, size = shape[0], (shape[1], shape[2])
    ends: Sequence[int]  # row behind the last one of each picture
    if origin.array:  # its images are alike: no list of its length
        each = count_tiles(origin.array.item, channels, size)
        ends = range(each, each * len(origin.items) + 1, each)
    else:
        ends = list(accumulate(count_tiles(item, channels, size) for item in origin.items))
    rows = ends[-1]
    chunk_rows = min(chunk_rows, rows)
    if chunk_rows * math.prod(shape) > MOST_VALUES:
        raise ValueError(
            f"expected chunk_rows of at most {MOST_VALUES // math.prod(shape)} for rows of {list(shape)}, got "
            f"{chunk_rows}; give a smaller one"
        )
    coder = make_coder(chunk_rows, None, shape)
    header = {
        **identity,
        "kind": "array" if origin.array else "images",
        "values": origin.values,
        **origin.header,
        "rows": list(shape),
        "chunk_rows": chunk_rows,
        "settings": coder.settings._asdict(),
        **({"array": _described(origin.array)} if origin.array else {"items": [list(item) for item in origin.items]}),
    }

    def check(file: Path) -> None:
        with Reader(file) as reader:
            verify(RowContents(reader, make_coder), origin, progress)

    cut = functools.lru_cache(1)(lambda i: tiles(torch.from_numpy(origin.picture(i)), channels, size)[0])
    with tqdm(total=rows, unit="row", disable=not (progress and ranks.first())) as bar:

        def coded(begin: int) -> tuple[bytes, int, int]:
            where = _Part(ends, begin, min(begin + chunk_rows, rows))
            found, valid = where.rows(cut), where.valid(origin.items, channels, size)
            step = bar.update if ranks.alone() else _check
            return coder.encode(found, valid, progress=step)[0], len(found), rows_crc(found, valid)

        begins, values = range(0, rows, chunk_rows), chunk_rows * math.prod(shape)
        every: Iterator[tuple[bytes, int, int]] = map(coded, begins)
        if not ranks.alone():
            every = ranks.ordered(
                coded, ((values, begin) for begin in begins), of=(header, origin.sizes), output=output
            )
        with Writer(output, header, check if verified else None) as writer:
            for chunk in every:
                writer.write(*chunk)
                if not ranks.alone():
                    bar.update(chunk[1])
    return writer.size


class _Part(NamedTuple):
    """Some of the rows that pictures become."""

    ends: Sequence[int]  # row behind the last one of each picture
    begin: int
    end: int  # behind the last

    @property
    def pictures(self) -> range:
        """Those that have these rows."""
        return range(bisect_right(self.ends, self.begin), bisect_right(self.ends, self.end - 1) + 1)

    def _of(self, parts: list[Tensor]) -> Tensor:
        """These rows, of what all rows of their pictures are."""
        first = self.pictures.start
        skip = self.begin - (self.ends[first - 1] if first else 0)
        return torch.cat(parts)[skip : skip + self.end - self.begin]

    def rows(self, cut: Callable[[int], Tensor]) -> Tensor:
        """uint8 [rows, c, h, w]; cut: what gives all rows of a picture."""
        return self._of([cut(i) for i in self.pictures])

    def valid(self, items: Sequence[Item], channels: int, size: tuple[int, int]) -> Tensor:
        """Which values are coded: bool [rows, c, h, w]."""
        kinds = [items[i][1:] for i in self.pictures]  # without names: of an array's images, all the same
        masks = {kind: valid_of(Item("", *kind), channels, size) for kind in set(kinds)}
        return self._of([masks[kind] for kind in kinds])


class Header(NamedTuple):
    """What the header of an image file says, all of it checked against the file's chunks and its size."""

    shape: tuple[int, int, int]  # of a row: channels, height, width
    settings: Settings
    array: arrays.Array | None
    items: list[Item]
    ends: Sequence[int]  # row behind the last one of each item
    chunk_rows: int  # rows of each chunk but the last

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a tile."""
        return self.shape[1:]

    @property
    def chunk_count(self) -> int:
        """Number of chunks."""
        return -(-self.ends[-1] // self.chunk_rows) if self.ends else 0

    def chunk(self, i: int) -> tuple[int, int]:
        """First row of chunk i, and the row behind its last."""
        rows = self.ends[-1] if self.ends else 0
        return i * self.chunk_rows, min((i + 1) * self.chunk_rows, rows)

    def rows(self, i: int) -> tuple[int, int]:
        """First row of item i, and the row behind its last."""
        return self.ends[i - 1] if i else 0, self.ends[i]


class RowContents:
    """The pictures of a file of rows, or the images of its array: see `restore.Contents`.

    make_coder: of the model that wrote the file. Raises DamagedFile for a header that does not fit the file or model.
    """

    unit = "row"

    def __init__(self, reader: Reader, make_coder: MakeCoder) -> None:
        self.reader, self.header = reader, read_header(reader)
        self._reader, self._header = self.reader, self.header
        self.items, self.array = self._header.items, self._header.array
        most = max((chunk.rows for chunk in reader.found.values()), default=1)
        try:
            self.coder = self._coder = make_coder(most, self._header.settings, self._header.shape)
        except ValueError as error:
            raise DamagedFile(f"{reader.path}: {error}; do not trust the file") from error
        self._first, self._last = 0, 0  # rows that are asked for
        self._chunk: tuple[int, int, Tensor | None] = -1, 0, None  # the last one: its number, first row, rows
        self._ahead: Generator[tuple[int, Tensor | ContainerError], None, None] | None = None  # those that follow
        self._next = 0  # number of the first of these

    def serve(self) -> None:
        """See `restore.Contents`."""
        self._ordered((), lambda _: None, lambda _: None)

    def select(self, which: Sequence[int]) -> int:
        """See `restore.Contents`: rows to be decoded."""
        header = self._header
        self._ahead = None
        self._first, self._last = (header.rows(which[0])[0], header.rows(which[-1])[1]) if len(which) else (0, 0)
        chunks = range(self._first // header.chunk_rows, -(-self._last // header.chunk_rows))
        number, at, rows = self._chunk
        if rows is not None and number in chunks:  # of what was selected before it may hold a part
            begin, needed = header.chunk(number)[0], self._needed(number)
            if not at <= begin + needed.start <= begin + needed.stop <= at + len(rows):
                self._chunk = -1, 0, None
        return sum(needed.stop - needed.start for needed in map(self._needed, chunks))

    def together(self) -> list[range]:
        """See `restore.Contents`: pictures that begin in one chunk."""
        header = self._header
        inner = (1 + bisect_left(header.ends, i * header.chunk_rows) for i in range(1, header.chunk_count))
        bounds = [0, *(min(bound, len(self.items)) for bound in inner), len(self.items)]
        return [range(begin, end) for begin, end in pairwise(bounds) if end > begin]

    def picture(
        self, i: int, damage: list[str] | None, earlier: Earlier, progress: Callable[[int], Any]
    ) -> tuple[np.ndarray | None, bool]:
        """See `restore.Contents`."""
        header = self._header
        first, last = header.rows(i)
        if last - first == 1:  # a corner of a row, often all of it
            at, rows = self._rows(first // header.chunk_rows, damage, earlier, progress)
            item = self.items[i]
            if rows is None:
                return None, False
            return rows[first - at, : CHANNELS[item.mode], : item.height, : item.width].clone().numpy(), True
        parts, sound = [], 0
        for number in range(first // header.chunk_rows, -(-last // header.chunk_rows)):
            begin, end = header.chunk(number)
            low, high = max(first, begin), min(last, end)
            at, rows = self._rows(number, damage, earlier, progress)
            grey = torch.full((high - low, *header.shape), files.GREY, dtype=torch.uint8)
            parts.append(grey if rows is None else rows[low - at : high - at])
            sound += 0 if rows is None else high - low
        if not sound:
            return None, False
        picture = untile(torch.cat(parts), self.items[i], header.shape[0], header.size)
        return picture.numpy(), sound == last - first

    def chunk_of(self, number: int) -> tuple[Tensor, Tensor]:
        """All rows of a chunk, and which of their values are coded: uint8 and bool [rows, c, h, w]."""
        begin, end = self._header.chunk(number)
        rows = self._decode(number, self._reader.read(number), slice(0, end - begin), lambda _: None)
        return rows, self._valid(number)

    def _needed(self, number: int) -> slice:
        """Rows of a chunk that are decoded, from its first."""
        begin, end = self._header.chunk(number)
        asked = slice(max(self._first, begin) - begin, min(self._last, end) - begin)
        return self._coder.needed(asked, end - begin)

    def _rows(
        self, number: int, damage: list[str] | None, earlier: Earlier, progress: Callable[[int], Any]
    ) -> tuple[int, Tensor | None]:
        """First row of what is decoded of a chunk, and these rows; None if it is damaged."""
        if self._chunk[0] != number:
            if self._ahead is None or number != self._next:
                last = -(-self._last // self._header.chunk_rows)
                self._ahead = self._ordered(range(number, last), earlier, progress)
            at, rows = next(self._ahead)
            self._next = number + 1
            if not ranks.alone():
                needed = self._needed(number)
                progress(needed.stop - needed.start)
            if isinstance(rows, ContainerError):
                if damage is None:
                    self._ahead.close()
                    raise rows
                damage.append(str(rows))
            self._chunk = number, at, None if isinstance(rows, ContainerError) else rows
        return self._chunk[1:]

    def _ordered(
        self, numbers: Sequence[int], earlier: Earlier, progress: Callable[[int], Any]
    ) -> Generator[tuple[int, Tensor | ContainerError], None, None]:
        """Of each chunk the first row that is decoded and the rows from there on, or what is wrong with it.

        The file is read here, and not by other ranks.
        """

        def jobs() -> Iterator[tuple[int, Any]]:
            for number in numbers:
                begin, end = self._header.chunk(number)
                needed, values = self._needed(number), (end - begin) * math.prod(self._header.shape)
                if (there := self._again(number, earlier)) is not None:
                    step(needed.stop - needed.start)
                    yield values, ranks.Done((begin, there))
                    continue
                try:
                    payload = self._reader.read(number)
                except ContainerError as error:
                    yield 0, ranks.Done((begin, error))
                else:
                    yield values, (number, payload, needed)

        step, of = progress if ranks.alone() else _check, (self._reader.header, self._reader.found)
        return ranks.ordered(functools.partial(self._decoded, step), jobs(), of=of)

    def _decoded(
        self, progress: Callable[[int], Any], job: tuple[int, bytes, slice]
    ) -> tuple[int, Tensor | ContainerError]:
        number, payload, needed = job
        try:
            rows: Tensor | ContainerError = self._decode(number, payload, needed, progress)
        except ContainerError as error:
            rows = error
        return self._header.chunk(number)[0] + needed.start, rows

    def _decode(self, number: int, payload: bytes, needed: slice, progress: Callable[[int], Any]) -> Tensor:
        """Rows of a chunk, checked: uint8 [rows, c, h, w]."""
        reader, valid = self._reader, self._valid(number)
        where = f"{reader.path}: chunk {number} of {self._header.chunk_count}"
        try:
            rows = self._coder.decode(payload, valid, needed, progress)
        except ValueError as error:
            raise DamagedFile(f"{where} does not decode: {error}") from error
        if len(rows) == len(valid):
            crc, expected = rows_crc(rows, valid), reader.found[number].rows_crc
            if crc != expected:
                raise DamagedFile(
                    f"{where} decodes to other rows than were encoded (CRC-32 expected {expected:08x}, got {crc:08x}); "
                    "its bytes are intact, so the networks computed other numbers: decode with the device and library "
                    "versions that encoded it"
                )
        return rows

    def _again(self, number: int, earlier: Earlier) -> Tensor | None:
        """A chunk from the pictures that an earlier run has written, if they are all there and have its checksum."""
        header = self._header
        begin, end = header.chunk(number)
        low, parts = bisect_right(header.ends, begin), []
        for j in range(low, bisect_right(header.ends, end - 1) + 1):
            item, image = self.items[j], earlier(j)
            if image is None or list(image.shape) != [CHANNELS[item.mode], item.height, item.width]:
                return None
            parts.append(tiles(torch.from_numpy(image), header.shape[0], header.size)[0])
        skip = begin - header.rows(low)[0]
        rows = torch.cat(parts)[skip : skip + end - begin]
        found = self._reader.found.get(number)
        return rows if found and rows_crc(rows, self._valid(number)) == found.rows_crc else None

    def _valid(self, number: int) -> Tensor:
        """Which values of a chunk are coded: bool [rows, c, h, w]."""
        header = self._header
        return _Part(header.ends, *header.chunk(number)).valid(header.items, header.shape[0], header.size)


def read_header(reader: Reader) -> Header:
    """Read the header of a file of rows.

    Nothing is allocated by a size in the header before it is compared with what the file holds. Raises DamagedFile for
    a header that does not fit the chunks or is no such header.
    """
    header = reader.header
    if header.get("kind") not in ("images", "array"):
        raise DamagedFile(
            f"{reader.path}: expected kind images or array, got {str(header.get('kind'))[:40]!r}; update this toolkit"
        )
    try:
        return _checked(reader, header)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DamagedFile(
            f"{reader.path}: expected rows, chunk_rows, settings, and items or array that fit the file, got "
            f"{type(error).__name__}: {str(error)[:300]}; copy the file again, or update this toolkit"
        ) from error


def _checked(reader: Reader, header: dict[str, Any]) -> Header:
    shape = _whole(header["rows"], 3)
    [chunk_rows] = _whole([header["chunk_rows"]], 1)
    settings = Settings(**header["settings"]).check()
    if type(header["exact"]) is not bool:
        raise ValueError(f"expected exact to be true or false, got {str(header['exact'])[:40]!r}")
    array = None if header["kind"] == "images" else arrays.described(**header["array"])
    items = [array.item] if array else [files.described(*fields) for fields in header["items"]]
    per_item = [count_tiles(item, shape[0], shape[1:]) for item in items]
    number = array.images[0] if array else 1  # of each item
    rows, values = number * sum(per_item), math.prod(shape)
    if not reader.damage and rows != sum(chunk.rows for chunk in reader.chunks):
        raise ValueError(f"expected {rows} rows, got {sum(chunk.rows for chunk in reader.chunks)} in chunks")
    if rows * values > CHEAPEST * reader.size or min(rows, chunk_rows) * values > MOST_VALUES:
        raise ValueError(f"{rows} rows of {shape}, {chunk_rows} a chunk, in a file of {reader.size} bytes")
    ends = range(per_item[0], rows + 1, per_item[0]) if array else list(accumulate(per_item))
    found = Header(shape, settings, array, items * number, ends, chunk_rows)
    for i, chunk in reader.found.items():
        first, last = found.chunk(i)
        if chunk.rows != last - first:
            raise ValueError(f"expected {max(last - first, 0)} rows in chunk {i}, got {chunk.rows}")
    if not reader.damage and len(reader.found) != found.chunk_count:
        raise ValueError(f"expected {found.chunk_count} chunks, got {len(reader.found)}")
    return found


def _whole(values: Any, count: int) -> Any:
    """A list of so many whole numbers from 1 to 2**31 - 1, as a tuple."""
    if not isinstance(values, list) or len(values) != count or not all(
        type(value) is int and 0 < value < 1 << 31 for value in values
    ):  # fmt: skip
        raise ValueError(f"expected {count} whole numbers above 0, got {str(values)[:100]}")
    return tuple(values)


def _check(rows: int) -> None:
    """After some rows in a thread: ends it if nobody waits for them any more."""
    threads.check()


def _described(array: arrays.Array) -> dict[str, Any]:
    return {**array._asdict(), "shape": list(array.shape)}
