"""Image files in a .tkc container: pictures or arrays -> tiles -> chunks of coded rows, and what a header says of them.

`toolkit.images.restore` is the way back. The header's keys are described in docs/format.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from toolkit.chunks.chained import Coder, Settings, rows_crc
from toolkit.container import DamagedFile, Reader, Writer
from toolkit.images import arrays, files
from toolkit.images.files import CHANNELS, Item

ARRAYS = (".npy", ".pt")
MOST_VALUES = 1 << 30  # in a chunk: what its decoder holds in memory
CHEAPEST = 1 << 19  # values a byte that a file may declare; entropy coders leave each value some 2**-16 bits at least
MakeCoder = Callable[[int, Settings | None], Coder]  # (rows a chunk, settings of the file that is decoded)


class Source(NamedTuple):
    """A person's input: what each picture is, before its pixels are read, and how to read picture i."""

    items: list[Item]
    read: Callable[[int], Tensor]  # uint8 [c, h, w]
    array: arrays.Array | None  # the one array that all items come from


def source(path: str | Path) -> Source:
    """An image, a folder of images, or an array file. Raises ValueError for what cannot be coded losslessly."""
    path = Path(path)
    if path.suffix.lower() in ARRAYS:
        values, array = arrays.open_array(path)
        return Source([array.item] * array.images[0], lambda i: arrays.one_image(values, array, i), array)
    found = files.find(path)
    root = path if path.is_dir() else path.parent
    items = [files.describe(file, files.check_name(file.relative_to(root).as_posix())) for file in found]
    return Source(items, lambda i: torch.from_numpy(files.read_image(found[i])), None)


def compress(
    origin: Source, output: str | Path, make_coder: MakeCoder, shape: tuple[int, int, int], identity: dict[str, Any],
    chunk_rows: int, progress: bool = True,
) -> int:  # fmt: skip
    """Write the pictures of `origin` to a .tkc file; returns its size in bytes.

    shape: (channels, height, width) of the model's rows; identity: what the header says about recipe and model;
    chunk_rows: rows coded together, which is also what has to be decoded to get at one picture. Raises ValueError for
    more than a decoder would take.
    """
    channels, size = shape[0], shape[1:]
    counts = [files.count_tiles(item, channels, size) for item in origin.items]
    chunk_rows = min(chunk_rows, sum(counts))
    if chunk_rows * math.prod(shape) > MOST_VALUES:
        raise ValueError(
            f"expected chunk_rows of at most {MOST_VALUES // math.prod(shape)} for rows of {list(shape)}, got "
            f"{chunk_rows}; give a smaller one"
        )
    coder = make_coder(chunk_rows, None)
    header = {
        **identity,
        "kind": "array" if origin.array else "images",
        "values": sum(CHANNELS[item.mode] * item.height * item.width for item in origin.items),
        "rows": list(shape),
        "chunk_rows": chunk_rows,
        "settings": coder.settings._asdict(),
        **({"array": _described(origin.array)} if origin.array else {"items": [list(item) for item in origin.items]}),
    }
    pending_rows: list[Tensor] = []
    pending_valid: list[Tensor] = []
    with Writer(output, header) as writer, tqdm(total=sum(counts), unit="row", disable=not progress) as bar:

        def flush(n: int) -> None:
            rows, valid = torch.cat(pending_rows), torch.cat(pending_valid)
            payload, _ = coder.encode(rows[:n], valid[:n], progress=bar.update)
            writer.write(payload, n, rows_crc(rows[:n], valid[:n]))
            pending_rows[:], pending_valid[:] = [rows[n:]], [valid[n:]]

        for i in range(len(origin.items)):
            rows, valid = files.tiles(origin.read(i), channels, size)
            if len(rows) != counts[i]:
                raise ValueError(f"{origin.items[i].name}: changed while it was compressed; compress again")
            pending_rows.append(rows)
            pending_valid.append(valid)
            while sum(map(len, pending_rows)) >= chunk_rows:
                flush(chunk_rows)
        if sum(map(len, pending_rows)):
            flush(sum(map(len, pending_rows)))
    return writer.size


class Contents(NamedTuple):
    """What the header of an image file says, all of it checked against the file's chunks and its size."""

    shape: tuple[int, int, int]  # of a row: channels, height, width
    settings: Settings
    exact: bool  # whether its networks compute the same numbers everywhere
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


def contents(reader: Reader, identity: dict[str, Any]) -> Contents:
    """Read the header of a file that the model of `identity` wrote.

    Nothing is allocated by a size in the header before it is compared with what the file holds. Raises ValueError for
    another model, DamagedFile for a header that does not fit the chunks or is no such header.
    """
    header = reader.header
    if header.get("recipe") != identity["recipe"] or header.get("model") != identity["model"]:
        raise ValueError(
            f"{reader.path}: expected a file of the model {identity['recipe']} {str(identity['model'])[:12]} that run= "
            f"names, got one of {str(header.get('recipe'))[:40]} {str(header.get('model'))[:12]}; give the run that "
            "compressed it"
        )
    if header.get("kind") not in ("images", "array"):
        raise DamagedFile(
            f"{reader.path}: expected kind images or array, got {str(header.get('kind'))[:40]!r}; update this toolkit"
        )
    try:
        return _contents(reader, header)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DamagedFile(
            f"{reader.path}: expected rows, chunk_rows, settings, and items or array that fit the file, got "
            f"{type(error).__name__}: {str(error)[:300]}; copy the file again, or update this toolkit"
        ) from error


def _contents(reader: Reader, header: dict[str, Any]) -> Contents:
    shape = _whole(header["rows"], 3)
    [chunk_rows] = _whole([header["chunk_rows"]], 1)
    settings = Settings(**header["settings"]).check()
    exact = header["exact"]
    if type(exact) is not bool:
        raise ValueError(f"expected exact to be true or false, got {str(exact)[:40]!r}")
    array = None if header["kind"] == "images" else arrays.described(**header["array"])
    items = [array.item] if array else [files.described(*fields) for fields in header["items"]]
    per_item = [files.count_tiles(item, shape[0], shape[1:]) for item in items]
    number = array.images[0] if array else 1  # of each item
    rows, values = number * sum(per_item), math.prod(shape)
    if not reader.damage and rows != sum(chunk.rows for chunk in reader.chunks):
        raise ValueError(f"expected {rows} rows, got {sum(chunk.rows for chunk in reader.chunks)} in chunks")
    if rows * values > CHEAPEST * reader.size or min(rows, chunk_rows) * values > MOST_VALUES:
        raise ValueError(f"{rows} rows of {shape}, {chunk_rows} a chunk, in a file of {reader.size} bytes")
    ends = range(per_item[0], rows + 1, per_item[0]) if array else list(accumulate(per_item))
    about = Contents(shape, settings, exact, array, items * number, ends, chunk_rows)
    for i, chunk in reader.found.items():
        first, last = about.chunk(i)
        if chunk.rows != last - first:
            raise ValueError(f"expected {max(last - first, 0)} rows in chunk {i}, got {chunk.rows}")
    if not reader.damage and len(reader.found) != about.chunk_count:
        raise ValueError(f"expected {about.chunk_count} chunks, got {len(reader.found)}")
    return about


def _whole(values: Any, count: int) -> Any:
    """A list of so many whole numbers from 1 to 2**31 - 1, as a tuple."""
    if not isinstance(values, list) or len(values) != count or not all(
        type(value) is int and 0 < value < 1 << 31 for value in values
    ):  # fmt: skip
        raise ValueError(f"expected {count} whole numbers above 0, got {str(values)[:100]}")
    return tuple(values)


def _described(array: arrays.Array) -> dict[str, Any]:
    return {**array._asdict(), "shape": list(array.shape)}
