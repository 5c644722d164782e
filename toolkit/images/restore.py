"""Pictures and arrays back from a .tkc file: all, one, or what damage has left; interrupted, it goes on later."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from toolkit.chunks.chained import Coder, rows_crc
from toolkit.chunks.separate import AloneCoder
from toolkit.container import ContainerError, DamagedFile, Reader
from toolkit.images import arrays, files
from toolkit.images.archive import Contents, MakeCoder, contents
from toolkit.images.files import CHANNELS, Item

ON_DAMAGE = ("error", "skip")
GREY = 128  # of the tiles that are lost in a picture that is not
MARK = "about.txt"  # of the folder of an interrupted run: which file it is for


class Report(NamedTuple):
    """What `decompress` did. Pictures are named; of an array, images are numbered from 0."""

    restored: int  # pictures
    partly: list[str]  # those with lost tiles, and the name that each was written to
    lost: list[str]  # those of which nothing is left
    damage: list[str]  # what is wrong with the file: an error for each chunk that is lost


def decompress(
    path: str | Path, output: str | Path, make_coder: MakeCoder, identity: dict[str, Any], only: str | None = None,
    on_damage: str = "error", progress: bool = True,
) -> Report:  # fmt: skip
    """Restore the pictures of a .tkc file below the new folder `output`, or its array as that file.

    only: the name of one picture; just the chunks that hold it are decoded. on_damage: "skip" restores what is in
    sound chunks, instead of raising for the first that is not. An interrupted run leaves OUTPUT.partial, from which the
    next one goes on; an error leaves nothing. Raises ContainerError for damage, ValueError for another model or a name
    that is not in the file.
    """
    if on_damage not in ON_DAMAGE:
        raise ValueError(f"expected on_damage to be one of {', '.join(ON_DAMAGE)}, got {on_damage!r}")
    with Reader(path, salvage=on_damage == "skip") as reader:
        about = contents(reader, identity)
        which = range(len(about.items)) if only is None else [_wanted(about, only)]
        coder = make_coder(max((chunk.rows for chunk in reader.found.values()), default=1), about.settings)
        shape: Any = coder.module.shape
        if tuple(shape) != about.shape:
            raise DamagedFile(f"{path}: expected rows of {list(shape)}, got {list(about.shape)}; do not trust the file")
        state = f"{only!r} {on_damage} {reader.header} {list(reader.found.values())}".encode(errors="surrogatepass")
        target = new_folder(output) if about.array is None else _new_array(Path(output), about.array)
        with work(target, hashlib.sha256(state).hexdigest()) as (result, resumed):
            sink = _array(result, about.array) if about.array else pictures(result, about.items)
            with sink as (read, write):
                return _restore(reader, coder, about, which, read if resumed else None, write, on_damage, progress)


Read = Callable[[int], Tensor | None]  # number of a picture -> uint8 [c, h, w], if an earlier run has written it
Write = Callable[[int, Tensor, bool], str]  # number, uint8 [c, h, w], whether it is whole -> the name that it gets


def _restore(
    reader: Reader, coder: Coder, about: Contents, which: Any, read: Read | None, write: Write, on_damage: str,
    progress: bool,
) -> Report:  # fmt: skip
    report = Report(0, [], [], [str(reader.damage)] if reader.damage else [])
    first, last = (about.rows(which[0])[0], about.rows(which[-1])[1]) if len(which) else (0, 0)
    decoded = _rows(reader, coder, about, first, last, read, report.damage if on_damage == "skip" else None, progress)
    for i in which:
        first, last = about.rows(i)
        rows = [next(decoded) for _ in range(last - first)]
        name = about.items[i].name if about.array is None else str(i)
        there = [row for row in rows if row is not None]
        if not there:
            report.lost.append(name)
            continue
        blank = torch.full(about.shape, GREY, dtype=torch.uint8)
        image = files.untile(
            torch.stack([blank if row is None else row for row in rows]), about.items[i], about.shape[0], about.size
        )
        written = write(i, image, len(there) == len(rows))
        if len(there) < len(rows):
            report.partly.append(f"{name} -> {written}")
    return report._replace(restored=len(which) - len(report.partly) - len(report.lost))


def _rows(
    reader: Reader, coder: Coder, about: Contents, first: int, last: int, read: Read | None,
    damage: list[str] | None, progress: bool,
) -> Iterator[Tensor | None]:  # fmt: skip
    """The decoded rows [first, last) one by one, None for those of a chunk that is lost; other chunks are not read.

    damage: receives what is wrong with each lost chunk; None: raise it.
    """
    with tqdm(total=last - first, unit="row", disable=not progress) as bar:
        for i in range(first // about.chunk_rows, -(-last // about.chunk_rows)):
            begin, end = about.chunk(i)
            low, high = max(first, begin) - begin, min(last, end) - begin
            found = _again(reader, about, i, read) if read else None
            if found is None:
                try:
                    found = _decode(reader, coder, about, i, low, high, bar.update)
                except ContainerError as error:
                    if damage is None:
                        raise
                    damage.append(str(error))
                    yield from [None] * (high - low)
                    continue
            yield from found[low:high]


def _decode(
    reader: Reader, coder: Coder, about: Contents, i: int, low: int, high: int, update: Callable[[int], Any]
) -> Tensor:
    """Chunk i, checked: uint8 [rows, c, h, w]. Where rows are coded alone, only those from low to high are decoded."""
    payload, rows, where = reader.read(i), reader.found[i].rows, f"{reader.path}: chunk {i} of {about.chunk_count}"
    valid = _valid(about, i)
    try:
        if isinstance(coder, AloneCoder) and about.exact and high - low < rows:
            # Just these rows: exact networks make no mistake. Floats on another machine may, and of the wrong rows
            # about one in a hundred ends as it began, so that only the checksum of the whole chunk would tell.
            decoded = torch.zeros(valid.shape, dtype=torch.uint8)
            decoded[low:high] = coder.decode_range(payload, valid[low:high], low, rows)
            return decoded
        decoded = coder.decode(payload, valid, progress=update)
    except ValueError as error:
        raise DamagedFile(f"{where} does not decode: {error}") from error
    crc, expected = rows_crc(decoded, valid), reader.found[i].rows_crc
    if crc != expected:
        raise DamagedFile(
            f"{where} decodes to other rows than were encoded (CRC-32 expected {expected:08x}, got {crc:08x}); its "
            "bytes are intact, so the networks computed other numbers: decode with the device and library versions "
            "that encoded it"
        )
    return decoded


def _again(reader: Reader, about: Contents, i: int, read: Read) -> Tensor | None:
    """Chunk i from the pictures that an earlier run has written, if they are all there and have its checksum."""
    begin, end = about.chunk(i)
    low = bisect_right(about.ends, begin)
    parts = []
    for j in range(low, bisect_right(about.ends, end - 1) + 1):
        item = about.items[j]
        image = read(j)
        if image is None or list(image.shape) != [CHANNELS[item.mode], item.height, item.width]:
            return None
        parts.append(files.tiles(image, about.shape[0], about.size)[0])
    skip = begin - about.rows(low)[0]
    rows = torch.cat(parts)[skip : skip + end - begin]
    sound = i in reader.found and rows_crc(rows, _valid(about, i)) == reader.found[i].rows_crc
    return rows if sound else None


def _valid(about: Contents, i: int) -> Tensor:
    """Which values of chunk i are coded: bool [rows, c, h, w]."""
    begin, end = about.chunk(i)
    low, high = bisect_right(about.ends, begin), bisect_right(about.ends, end - 1)
    kinds = [item[1:] for item in about.items[low : high + 1]]  # without names: of an array's images, all the same
    masks = {kind: files.valid_of(Item("", *kind), about.shape[0], about.size) for kind in set(kinds)}
    skip = begin - about.rows(low)[0]
    return torch.cat([masks[kind] for kind in kinds])[skip : skip + end - begin]


def _wanted(about: Contents, only: str) -> int:
    if about.array:
        raise ValueError(
            "expected only= for a file of pictures, got one of an array; leave only= out and index the array"
        )
    names = [item.name for item in about.items]
    if only not in names:
        raise ValueError(f"expected only= to be a name in the file, got {only!r}; names are, for instance, {names[:3]}")
    return names.index(only)


def new_folder(output: str | Path) -> Path:
    """The path of a folder that can be made; a link is followed. Raises FileExistsError or FileNotFoundError."""
    target = _below_a_folder(output)
    if target.exists():
        raise FileExistsError(f"{output}: expected a new folder, got one that exists; give another name")
    return target


def _below_a_folder(output: str | Path) -> Path:
    target = Path(os.path.realpath(output))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{output}: expected an existing folder, got {target.parent}; make the folder first")
    return target


def _new_array(output: Path, array: arrays.Array) -> Path:
    target = _below_a_folder(output)
    if target.exists() and not target.is_file():
        raise ValueError(f"{output}: expected a file or a new name, got a folder or device; give a file name")
    if target.suffix.lower() != f".{array.format}":
        raise ValueError(
            f"expected output= to end in .{array.format}, as the compressed array's name did, got {output}"
        )
    return target


@contextlib.contextmanager
def work(target: Path, state: str) -> Iterator[tuple[Path, bool]]:
    """Yield a path that becomes `target` at the end, and whether a run of the same state has left something there.

    It lies in the folder TARGET.partial, which stays if the block is interrupted, and is deleted if it fails.
    """
    folder = target.with_name(f"{target.name}.partial")
    mark, result = folder / MARK, folder / f"result{target.suffix}"
    text = f"Left by an interrupted toolkit.decompress, which goes on from here, of {state}\n"
    resumed = os.path.lexists(folder)
    if resumed:
        plain = folder.is_dir() and not folder.is_symlink() and mark.is_file() and not mark.is_symlink()
        if not plain or result.is_symlink() or mark.stat().st_size != len(text) or mark.read_text() != text:
            raise FileExistsError(
                f"{folder}: expected no such folder, or one that this very command left when it was interrupted, got "
                "another; remove it, or give another output="
            )
    else:
        folder.mkdir()
        mark.write_text(text)
    try:
        yield result, resumed
        if result.is_file():
            with open(result, "r+b") as file:  # without it, a crash can leave the new name with no bytes behind it
                os.fsync(file.fileno())
        os.replace(result, target)
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def pictures(folder: Path, items: Sequence[Item]) -> Iterator[tuple[Read, Write]]:
    """Read and write pictures below a folder."""
    taken: set[str] = set()
    names = files.output_names(items, taken)
    folder.mkdir(exist_ok=True)

    def place(name: str, make: bool) -> Path:
        """The path of a picture; no link is followed on the way, so that it lies below the folder indeed."""
        path = folder
        for part in PurePosixPath(name).parts[:-1]:
            path = path / part
            if make and not path.is_symlink():
                path.mkdir(exist_ok=True)
            if path.is_symlink():
                raise FileExistsError(f"{path}: expected a folder of this command, got a link; remove it")
        return path / PurePosixPath(name).name

    def read(i: int) -> Tensor | None:
        path = place(names[i], False)
        if path.is_symlink() or not path.is_file():
            return None
        try:
            return torch.from_numpy(files.read_image(path))
        except ValueError:  # it was cut short
            return None

    def write(i: int, image: Tensor, whole: bool) -> str:
        name = names[i] if whole else files.new_name(items[i].name, taken, ".damaged.png")
        # Under its name only when it is complete, whatever happens in between.
        part = folder.with_name("picture.png")
        part.unlink(missing_ok=True)
        files.write_image(part, image.numpy())
        os.replace(part, place(name, True))
        return name

    yield read, write


@contextlib.contextmanager
def _array(path: Path, array: arrays.Array) -> Iterator[tuple[Read, Write]]:
    """Read and write the images of one array file."""
    values: np.ndarray | None = None
    if path.is_file():
        with contextlib.suppress(ValueError):
            values, there = arrays.open_array(path, array.name)
            values = values if there == array else None

    def read(i: int) -> Tensor | None:
        return None if values is None else arrays.one_image(values, array, i)

    with arrays.writer(path, array, resume=values is not None) as put:

        def write(i: int, image: Tensor, whole: bool) -> str:
            put(i, image)
            return "grey where it is lost"

        yield read, write
