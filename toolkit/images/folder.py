"""What stands in a person's folder: the pictures to code, and all that is left out, each with its reason."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".pnm",
    ".tga", ".jp2", ".avif",
)  # fmt: skip
# Images that are not read.
OTHERS = (
    ".arw", ".cr2", ".cr3", ".dng", ".eps", ".exr", ".hdr", ".heic", ".heif", ".ico", ".j2k", ".jxl", ".nef", ".orf",
    ".pcx", ".pfm", ".psd", ".raf", ".raw", ".rw2", ".svg", ".xcf",
)  # fmt: skip


class Found(NamedTuple):
    """What a path holds."""

    images: list[Path]  # sorted by relative path
    left_out: list[tuple[Path, str]]  # and why


def look(path: str | Path) -> Found:
    """The pictures of a folder and its sub-folders, links followed, or a single picture.

    A picture is what ends in one of SUFFIXES. Raises FileNotFoundError for a path that does not exist, PermissionError
    for a folder that cannot be read, ValueError if there is no picture.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"expected a folder or an image, got {path}, which does not exist; do: check the path")
    files = [(path, "")] if path.is_file() else sorted(_walk(path, ()), key=lambda found: found[0].as_posix())
    found = Found([], [])
    for file, why in files:
        suffix = file.suffix.lower()
        if not why and suffix not in SUFFIXES:
            why = "an image of a kind that is not read: convert it to PNG" if suffix in OTHERS else "not an image"
        if why:
            found.left_out.append((file, why))
        else:
            found.images.append(file)
    if not found.images:
        reasons = "; ".join(f"{file.name}: {why}" for file, why in found.left_out[:3])
        raise ValueError(
            f"expected images ({' '.join(SUFFIXES)}) in {path}, found none{f' ({reasons})' if reasons else ''}; "
            "do: convert them to PNG, or give arrays (.npy, .pt) by their own path"
        )
    return found


def find(path: str | Path) -> list[Path]:
    """The pictures of `look`."""
    return look(path).images


def _walk(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[Path, str]]:
    """Files below a folder, and why they are left out, "" if not; above: the numbers of folders that it lies in."""
    here = os.stat(folder)
    if (here.st_dev, here.st_ino) in above:
        yield folder, "a link to a folder that it lies in"
        return
    with os.scandir(folder) as entries:  # raises where nothing may be read
        found = list(entries)
    for entry in found:
        path = folder / entry.name
        if entry.name.startswith("."):
            yield path, "hidden: its name begins with a dot"
            continue
        try:
            mode = os.stat(path).st_mode
        except FileNotFoundError:
            yield path, "a link to nothing"
            continue
        if stat.S_ISDIR(mode):
            yield from _walk(path, (*above, (here.st_dev, here.st_ino)))
        else:
            yield path, "" if stat.S_ISREG(mode) else "a pipe or device"
