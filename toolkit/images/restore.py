"""Pictures and arrays back from a .tkc file of any kind: all, one, or what damage has left; interrupted, it goes on."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

import numpy as np
from tqdm import tqdm

from toolkit.container import Reader, check_new, temporary_of
from toolkit.images import arrays, files, metadata
from toolkit.images.files import Earlier, Item

ON_DAMAGE = ("error", "skip")
MARK = "about.txt"  # of the folder of an interrupted run: which file it is for
Write = Callable[[int, np.ndarray, dict[str, Any]], None]  # number, [c, h, w], its metadata


class Contents(Protocol):
    """The pictures of a file, or the images of its array, its header checked: `RowContents`,
    `PictureContents`, `RateContents`.
    """

    @property
    def items(self) -> Sequence[Item]:
        """What each picture is."""

    @property
    def array(self) -> arrays.Array | None:
        """The array that all are images of; None: they are pictures."""

    @property
    def unit(self) -> str:
        """Of work, for the progress bar."""

    def serve(self) -> None:
        """Of processes that torchrun started all but the first decode for that one and end in here: `ranks.ordered`."""

    def select(self, which: Sequence[int]) -> int:
        """These pictures will be asked for, in this order. Returns how many units of work that is."""

    def together(self) -> list[range]:
        """Numbers of pictures that share chunks, in order."""

    def picture(
        self, i: int, damage: list[str] | None, earlier: Earlier, progress: Callable[[int], Any]
    ) -> tuple[np.ndarray | None, bool]:
        """Picture i, uint8 or uint16 [c, h, w], grey where it is lost, or None if all is; and whether it is whole.

        damage: receives what is wrong with each part of the file that is lost; None: raise it. earlier: what an earlier
        run has restored, to be taken where it is sound.
        """


class Report(NamedTuple):
    """What `decompress` did. Pictures are named; of an array, images are numbered from 0."""

    restored: int  # pictures
    partly: list[str]  # those with lost tiles, and the name that each was written to
    lost: list[str]  # those of which nothing is left
    damage: list[str]  # what is wrong with the file: an error for each chunk that is lost
    notes: list[str]  # what else a person wants to know: other names, metadata that are left out


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
    overwrite: bool = False, progress: bool = True,
) -> Report:  # fmt: skip
    """Restore the pictures of a .tkc file below the new folder `output`, or its array, or one picture, as that file.

    only: the name of one picture; just what holds it is decoded. on_damage: "skip" restores what is sound, instead of
    raising for the first that is not; then `reader` salvages. overwrite: a file that is there may go. An interrupted
    run leaves OUTPUT.partial, and so does one that the system stops, on a full disk say; the next one goes on from
    there. Other errors leave nothing. Raises ContainerError for damage, ValueError for a name that is not in
    the file.
    """
    if on_damage not in ON_DAMAGE:
        raise ValueError(f"expected on_damage to be one of {', '.join(ON_DAMAGE)}, got {on_damage!r}")
    items, array = contents.items, contents.array
    taken: set[str] = set()
    names = files.output_names(items, taken) if array is None else []
    which = range(len(items)) if only is None else [_wanted(contents, names, only)]
    files.check_lengths([names[i] for i in which] if array is None else [])
    about = metadata.described(reader.header, len(items)) if array is None else []
    report = Report(0, [], [], [str(reader.damage)] if reader.damage else [], [])
    state = f"{only!r} {on_damage} {reader.header} {list(reader.found.values())}".encode(errors="surrogatepass")
    single = array is None and Path(output).suffix.lower() == ".png"
    if single and len(which) != 1:
        raise ValueError(
            f"{output}: expected a new folder for the {len(which)} pictures of the file, got the name of one; give a "
            "folder, or only=NAME"
        )
    if array is None and not single and Path(output).suffix.lower() in files.SUFFIXES.values():
        raise ValueError(f"{output}: expected a name that ends in .png, or a folder; pictures come back as PNG files")
    done = hashlib.sha256(state).hexdigest()
    clear(Path(os.path.realpath(output)), done)
    if array or single:
        check_new(output, overwrite, [f".{array.format}" if array else ".png"], [str(reader.path)])
        target = Path(os.path.realpath(output))
    else:
        target = new_folder(output)
    with (
        work(target, done) as (result, resumed),
        _array(result, array) if array else _picture(result) if single else pictures(result, names) as (read, write),
        tqdm(total=contents.select(which), unit=contents.unit, disable=not progress) as bar,
    ):
        kept: dict[int, np.ndarray | None] = {}

        def earlier(i: int) -> np.ndarray | None:
            kept[i] = read(i) if resumed else None
            return kept[i]

        for i in which:
            picture, whole = contents.picture(i, report.damage if on_damage == "skip" else None, earlier, bar.update)
            name = items[i].name if array is None else str(i)
            if picture is None:
                report.lost.append(name)
                continue
            if not whole and not single and array is None:
                names[i] = files.new_name(name, taken, ".damaged.png")
            if picture is not kept.pop(i, None):
                entry = about[i] if array is None else {}
                if entry is None:
                    report.notes.append(f"{name}: its metadata are not what this toolkit knows, and left out")
                write(i, picture, entry or {})
            place = "the array, grey where it is lost" if array else str(output) if single else names[i]
            if not whole:
                report.partly.append(f"{name} -> {place}")
            elif not single and array is None and place != str(PurePosixPath(name).with_suffix(".png")):
                report.notes.append(f"{name} -> {place}, as another has its name")
    return report._replace(restored=len(which) - len(report.partly) - len(report.lost))


def _wanted(contents: Contents, names: Sequence[str], only: str) -> int:
    """The picture of a name, that in the file or the one that it gets."""
    if contents.array:
        raise ValueError(
            "expected only= for a file of pictures, got one of an array; leave only= out and index the array"
        )
    known = [item.name for item in contents.items]
    for found in (known, names):
        if only in found:
            return found.index(only)
    raise ValueError(f"expected only= to be a name in the file, got {only!r}; names are, for instance, {known[:3]}")


def new_folder(output: str | Path) -> Path:
    """The path of a folder that can be made; a link is followed. Raises FileExistsError or FileNotFoundError."""
    target = Path(os.path.realpath(output))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{output}: expected an existing folder, got {target.parent}; make the folder first")
    if target.exists():
        raise FileExistsError(f"{output}: expected a new folder, got one that exists; give another name")
    return target


def _mark(state: str) -> str:
    return f"Left by an interrupted toolkit.decompress, which goes on from here, of {state}\n"


def _left_of(target: Path, state: str) -> tuple[Path, bool]:
    """The folder of an interrupted run, and whether one of this very state is there. FileExistsError for another."""
    folder = target.with_name(f"{target.name}.partial")
    if not os.path.lexists(folder):
        return folder, False
    mark, text = folder / MARK, _mark(state)
    plain = folder.is_dir() and not folder.is_symlink() and mark.is_file() and not mark.is_symlink()
    if not plain or mark.stat().st_size != len(text) or mark.read_text() != text:
        raise FileExistsError(
            f"{folder}: expected no such folder, or one that this very command left when it was interrupted, got "
            "another; remove it, or give another output="
        )
    return folder, True


def clear(target: Path, state: str) -> None:
    """Delete the folder of a run that was killed when its result had its name already."""
    with contextlib.suppress(FileExistsError):
        folder, there = _left_of(target, state)
        if there and target.exists() and not os.path.lexists(folder / f"result{target.suffix}"):
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def work(target: Path, state: str) -> Iterator[tuple[Path, bool]]:
    """Yield a path that becomes `target` at the end, and whether a run of the same state has left something there.

    It lies in the folder TARGET.partial, which stays if the block is interrupted or stopped by the system, and is
    deleted if it fails.
    """
    folder, resumed = _left_of(target, state)
    result = folder / f"result{target.suffix}"
    if result.is_symlink():
        raise FileExistsError(f"{result}: expected a file or folder of this command, got a link; remove it")
    if not resumed:
        # With its mark from the beginning: without, it would not be known again.
        made = temporary_of(folder)
        try:
            made.mkdir()
            (made / MARK).write_text(_mark(state))
            made.rename(folder)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
    try:
        yield result, resumed
        if result.is_file():
            with open(result, "r+b") as file:  # without it, a crash can leave the new name with no bytes behind it
                os.fsync(file.fileno())
        if os.path.lexists(result):  # else nothing is left of the one picture
            os.replace(result, target)
    except OSError as error:  # a full disk, most often
        if isinstance(error, FileExistsError):
            raise
        remedy = "make room, and " * (error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
        raise OSError(
            f"{error.strerror or error}; what is restored is kept in {folder}: {remedy}give the same command again"
        ) from error
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def pictures(folder: Path, names: Sequence[str]) -> Iterator[tuple[Earlier, Write]]:
    """Read and write pictures below a folder, under their names, which may change before they are written."""
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

    def write(i: int, image: np.ndarray, about: dict[str, Any]) -> None:
        # Under its name only when it is complete, whatever happens in between.
        part = folder.with_name("picture.png")
        part.unlink(missing_ok=True)
        files.write_image(part, image, about)
        os.replace(part, place(names[i], True))

    yield lambda i: _sound(place(names[i], False)), write


@contextlib.contextmanager
def _picture(path: Path) -> Iterator[tuple[Earlier, Write]]:
    """Write one picture as a file."""
    yield lambda i: None, lambda i, image, about: files.write_image(path, image, about)


def _sound(path: Path) -> np.ndarray | None:
    """A picture that an earlier run has written."""
    if path.is_symlink() or not path.is_file():
        return None
    try:
        return files.read_image(path, every=True)
    except ValueError:  # it was cut short
        return None


@contextlib.contextmanager
def _array(path: Path, array: arrays.Array) -> Iterator[tuple[Earlier, Write]]:
    """Read and write the images of one array file."""
    values: np.ndarray | None = None
    if path.is_file():
        with contextlib.suppress(ValueError):
            values, there = arrays.open_array(path, array.name)
            values = values if there == array else None

    def read(i: int) -> np.ndarray | None:
        return None if values is None else arrays.one_image(values, array, i)

    with arrays.writer(path, array, resume=values is not None) as put:
        yield read, lambda i, image, about: put(i, image)
