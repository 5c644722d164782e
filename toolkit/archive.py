"""Image files in a .tkc container: pictures or arrays -> tiles -> chunks of coded rows, and back, in bounded memory.

The header's keys are described in docs/format.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from toolkit.alone import AloneCoder
from toolkit.container import ContainerError, DamagedFile, Reader, Writer, atomic_folder, atomic_path
from toolkit.data import arrays, files
from toolkit.data.files import CHANNELS, Item
from toolkit.head import Coder, Settings, rows_crc

ARRAYS = (".npy", ".pt")
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
    items = [files.describe(file, file.relative_to(root).as_posix()) for file in found]
    return Source(items, lambda i: torch.from_numpy(files.read_image(found[i])), None)


def compress(
    origin: Source, output: str | Path, make_coder: MakeCoder, shape: tuple[int, int, int], identity: dict[str, Any],
    chunk_rows: int, progress: bool = True,
) -> int:  # fmt: skip
    """Write the pictures of `origin` to a .tkc file; returns its size in bytes.

    shape: (channels, height, width) of the model's rows; identity: what the header says about recipe and model;
    chunk_rows: rows coded together, which is also what has to be decoded to get at one picture.
    """
    channels, size = shape[0], shape[1:]
    counts = [files.count_tiles(item, channels, size) for item in origin.items]
    coder = make_coder(min(sum(counts), chunk_rows), None)
    header = {
        **identity,
        "kind": "array" if origin.array else "images",
        "values": sum(CHANNELS[item.mode] * item.height * item.width for item in origin.items),
        "rows": list(shape),
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


def decompress(
    path: str | Path, output: str | Path, make_coder: MakeCoder, identity: dict[str, Any], only: str | None = None,
    progress: bool = True,
) -> int:  # fmt: skip
    """Restore the pictures of a .tkc file below the new folder `output`, or its array as that file; returns how many.

    only: the name of one picture; just the chunks that hold it are decoded. Nothing is left behind on an error.
    Raises ContainerError for damage, ValueError for another model or a name that is not in the file.
    """
    with Reader(path) as reader, ExitStack() as stack:
        checked_header(reader, identity)
        shape, settings, array, items = _described_in(reader)
        channels, size = shape[0], shape[1:]
        counts = np.array([files.count_tiles(item, channels, size) for item in items])
        if counts.sum() != sum(chunk.rows for chunk in reader.chunks):
            raise DamagedFile(
                f"{path}: expected {counts.sum()} rows, got {sum(c.rows for c in reader.chunks)} in chunks"
            )
        wanted = _wanted(items, array, only)
        coder = make_coder(max((c.rows for c in reader.chunks), default=1), settings)
        write = (_array_sink if array else _folder_sink)(stack, Path(output), items, array)
        ends = counts.cumsum()
        first_row, last_row = (
            (0, int(ends[-1])) if wanted is None else (int(ends[wanted] - counts[wanted]), int(ends[wanted]))
        )
        decoded = _rows(reader, coder, items, counts, shape, first_row, last_row, progress)
        which = range(len(items)) if wanted is None else [wanted]
        for i in which:
            rows = torch.stack([next(decoded) for _ in range(counts[i])])
            write(i, files.untile(rows, items[i], channels, size))
        return len(which)


def checked_header(reader: Reader, identity: dict[str, Any]) -> dict[str, Any]:
    """The header, if this model wrote it and it has the keys that a file of images has."""
    header = reader.header
    if header.get("recipe") != identity["recipe"] or header.get("model") != identity["model"]:
        raise ValueError(
            f"{reader.path}: expected a file of the model {identity['recipe']} {str(identity['model'])[:12]} that run= "
            f"names, got one of {header.get('recipe')} {str(header.get('model'))[:12]}; give the run that compressed it"
        )
    return header


def _rows(
    reader: Reader, coder: Coder, items: list[Item], counts: np.ndarray, shape: tuple[int, ...], first: int, last: int,
    progress: bool,
) -> Iterator[Tensor]:  # fmt: skip
    """The decoded rows [first, last) one by one; only the chunks that hold some are read."""
    ends = counts.cumsum()
    begin = 0
    with tqdm(total=last - first, unit="row", disable=not progress) as bar:
        for i, chunk in enumerate(reader.chunks):
            end = begin + chunk.rows
            if begin < last and end > first:
                low, high = np.searchsorted(ends, (begin, end - 1), side="right")
                masks = [files.valid_of(items[j], shape[0], (shape[1], shape[2])) for j in range(low, high + 1)]
                skip = begin - int(ends[low] - counts[low])
                valid = torch.cat(masks)[skip : skip + chunk.rows]
                span = slice(max(first - begin, 0), min(last - begin, chunk.rows))
                try:
                    if isinstance(coder, AloneCoder) and span.stop - span.start < chunk.rows:
                        # Just these rows; the checksum is that of the whole chunk, but each row must end as it began.
                        yield from coder.decode_range(reader.read(i), valid[span], span.start)
                        begin = end
                        continue
                    rows = coder.decode(reader.read(i), valid, progress=bar.update)
                except ContainerError:
                    raise
                except ValueError as error:
                    raise DamagedFile(
                        f"{reader.path}: chunk {i} of {len(reader.chunks)} does not decode: {error}"
                    ) from error
                crc = rows_crc(rows, valid)
                if crc != chunk.rows_crc:
                    raise DamagedFile(
                        f"{reader.path}: chunk {i} of {len(reader.chunks)} decodes to other rows than were encoded "
                        f"(CRC-32 expected {chunk.rows_crc:08x}, got {crc:08x}); its bytes are intact, so the "
                        "networks computed other numbers: decode with the device and library versions that encoded it"
                    )
                yield from rows[span]
            begin = end


def _wanted(items: list[Item], array: arrays.Array | None, only: str | None) -> int | None:
    if only is None:
        return None
    if array:
        raise ValueError(
            "expected only= for a file of pictures, got one of an array; leave only= out and index the array"
        )
    names = [item.name for item in items]
    if only not in names:
        raise ValueError(f"expected only= to be a name in the file, got {only!r}; names are, for instance, {names[:3]}")
    return names.index(only)


def _folder_sink(
    stack: ExitStack, output: Path, items: list[Item], array: arrays.Array | None
) -> Callable[[int, Tensor], None]:
    """A folder that appears under its name when all pictures are written."""
    taken: set[str] = set()
    names = [files.output_name(item, taken) for item in items]
    part = stack.enter_context(atomic_folder(output))
    return lambda i, image: files.write_image(part / names[i], image.numpy())


def _array_sink(
    stack: ExitStack, output: Path, items: list[Item], array: arrays.Array | None
) -> Callable[[int, Tensor], None]:
    assert array is not None
    if output.suffix.lower() != f".{array.format}":
        raise ValueError(
            f"expected output= to end in .{array.format}, as the compressed array's name did, got {output}"
        )
    return stack.enter_context(arrays.writer(stack.enter_context(atomic_path(output)), array))


def _described(array: arrays.Array) -> dict[str, Any]:
    return {**array._asdict(), "shape": list(array.shape)}


def _described_in(reader: Reader) -> tuple[tuple[int, int, int], Settings, arrays.Array | None, list[Item]]:
    """Shape of the rows, settings of the coder, the array and the pictures that a header names."""
    header = reader.header
    if header.get("kind") not in ("images", "array"):
        raise DamagedFile(
            f"{reader.path}: expected kind images or array, got {header.get('kind')!r}; update this toolkit"
        )
    try:
        channels, height, width = header["rows"]
        settings = Settings(**header["settings"])
        if min(channels, height, width, settings.batch, settings.lanes) < 1:
            raise ValueError("a size below 1")
        if header["kind"] == "images":
            return (channels, height, width), settings, None, [Item(*item) for item in header["items"]]
        array = arrays.Array(**{**header["array"], "shape": tuple(header["array"]["shape"])})
        return (channels, height, width), settings, array, [array.item] * array.images[0]
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFile(
            f"{reader.path}: expected rows, settings, and items or array in the header, got {header.get('rows')}, "
            f"{header.get('settings')} and {type(error).__name__}: {error}; update this toolkit"
        ) from error
