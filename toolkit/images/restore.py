"""Pictures and arrays back from a .tkc file of any kind: all, one, or what damage has left; interrupted, it goes on."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from toolkit.container import Reader
from toolkit.images import arrays, files
from toolkit.images.files import Earlier, Item

ON_DAMAGE = ("error", "skip")
MARK = "about.txt"  # of the folder of an interrupted run: which file it is for
Write = Callable[[int, Tensor, bool], str]  # number, uint8 [c, h, w], whether it is whole -> the name that it gets


class Contents(Protocol):
    """The pictures of a file, or the images of its array, its header checked: `RowContents`, `RateContents`."""

    @property
    def items(self) -> Sequence[Item]:
        """What each picture is."""

    @property
    def array(self) -> arrays.Array | None:
        """The array that all are images of; None: they are pictures."""

    @property
    def unit(self) -> str:
        """Of work, for the progress bar."""

    def select(self, which: Sequence[int]) -> int:
        """These pictures will be asked for, in this order. Returns how many units of work that is."""

    def picture(
        self, i: int, damage: list[str] | None, earlier: Earlier, progress: Callable[[int], Any]
    ) -> tuple[Tensor | None, bool]:
        """Picture i, uint8 [c, h, w], grey where it is lost, or None if all is; and whether it is whole.

        damage: receives what is wrong with each part of the file that is lost; None: raise it. earlier: what an earlier
        run has restored, to be taken where it is sound.
        """


class Report(NamedTuple):
    """What `decompress` did. Pictures are named; of an array, images are numbered from 0."""

    restored: int  # pictures
    partly: list[str]  # those with lost tiles, and the name that each was written to
    lost: list[str]  # those of which nothing is left
    damage: list[str]  # what is wrong with the file: an error for each chunk that is lost


def check_model(reader: Reader, identity: dict[str, Any]) -> None:
    """Raise ValueError unless the model of `identity` wrote a file."""
    wrote = [str(reader.header.get(key)) for key in ("recipe", "model")]
    mine = [str(identity[key]) for key in ("recipe", "model")]
    if wrote != mine:
        raise ValueError(
            f"{reader.path}: expected a file of the model {mine[0]} {mine[1][:16]} that run= names, got one of "
            f"{wrote[0][:40]} {wrote[1][:16]}; give the run that compressed it"
        )


def restore(
    reader: Reader, contents: Contents, output: str | Path, only: str | None = None, on_damage: str = "error",
    progress: bool = True,
) -> Report:  # fmt: skip
    """Restore the pictures of a .tkc file below the new folder `output`, or its array as that file.

    only: the name of one picture; just what holds it is decoded. on_damage: "skip" restores what is sound, instead of
    raising for the first that is not; then `reader` salvages. An interrupted run leaves OUTPUT.partial, from which the
    next one goes on; an error leaves nothing. Raises ContainerError for damage, ValueError for a name that is not in
    the file.
    """
    if on_damage not in ON_DAMAGE:
        raise ValueError(f"expected on_damage to be one of {', '.join(ON_DAMAGE)}, got {on_damage!r}")
    which = range(len(contents.items)) if only is None else [_wanted(contents, only)]
    report = Report(0, [], [], [str(reader.damage)] if reader.damage else [])
    state = f"{only!r} {on_damage} {reader.header} {list(reader.found.values())}".encode(errors="surrogatepass")
    array = contents.array
    target = new_folder(output) if array is None else _new_array(Path(output), array)
    with (
        work(target, hashlib.sha256(state).hexdigest()) as (result, resumed),
        _array(result, array) if array else pictures(result, contents.items) as (read, write),
        tqdm(total=contents.select(which), unit=contents.unit, disable=not progress) as bar,
    ):
        earlier = read if resumed else lambda i: None
        for i in which:
            picture, whole = contents.picture(i, report.damage if on_damage == "skip" else None, earlier, bar.update)
            name = contents.items[i].name if array is None else str(i)
            if picture is None:
                report.lost.append(name)
                continue
            written = write(i, picture, whole)
            if not whole:
                report.partly.append(f"{name} -> {written}")
    return report._replace(restored=len(which) - len(report.partly) - len(report.lost))


def _wanted(contents: Contents, only: str) -> int:
    if contents.array:
        raise ValueError(
            "expected only= for a file of pictures, got one of an array; leave only= out and index the array"
        )
    names = [item.name for item in contents.items]
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
def pictures(folder: Path, items: Sequence[Item]) -> Iterator[tuple[Earlier, Write]]:
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
def _array(path: Path, array: arrays.Array) -> Iterator[tuple[Earlier, Write]]:
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
