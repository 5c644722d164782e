"""What stands in a person's folder: the pictures to code, and all that is left out, each with its reason."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".pnm",
    ".tga",
)  # fmt: skip
# Images that are not read.
OTHERS = (
    ".arw", ".avif", ".cr2", ".cr3", ".dng", ".eps", ".exr", ".hdr", ".heic", ".heif", ".ico", ".j2k", ".jp2", ".jxl",
    ".nef", ".orf", ".pcx", ".pfm", ".psd", ".raf", ".raw", ".rw2", ".svg", ".xcf",
)  # fmt: skip


class LeftOut(NamedTuple):
    """A file that is not coded, or not all of it."""

    path: Path
    why: str
    by: str | None = None  # of a picture: the option that asks for it, as in on_bad=skip; None: what is no picture


class Found(NamedTuple):
    """What a path holds."""

    images: list[Path]  # sorted by relative path
    left_out: list[LeftOut]


def look(path: str | Path) -> Found:
    """The pictures of a folder and its sub-folders, links followed, or a single picture.

    A picture is what ends in one of SUFFIXES. Raises FileNotFoundError for a path that does not exist, PermissionError
    for a folder that cannot be read, ValueError if there is no picture.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"expected a folder or an image, got {path}, which does not exist; do: check the path")
    files = [(path, "")] if path.is_file() else sorted(_walk(path), key=lambda found: found[0].as_posix())
    found = Found([], [])
    for file, why in files:
        suffix = file.suffix.lower()
        if not why and suffix in OTHERS:
            found.left_out.append(LeftOut(file, "an image of a kind that is not read: convert it to PNG", "on_bad"))
        elif why or suffix not in SUFFIXES:
            found.left_out.append(LeftOut(file, why or "not an image"))
        else:
            found.images.append(file)
    if not found.images:
        reasons = "; ".join(f"{file.name}: {why}" for file, why, _ in found.left_out[:3])
        raise ValueError(
            f"expected images ({' '.join(SUFFIXES)}) in {path}, found none{f' ({reasons})' if reasons else ''}; "
            "do: convert them to PNG; give arrays (.npy, .pt) by their own path, and word vectors to toolkit "
            "export_embeddings"
        )
    return found


def find(path: str | Path) -> list[Path]:
    """The pictures of `look`."""
    return look(path).images


def _walk(top: Path) -> Iterator[tuple[Path, str]]:
    """Files below a folder, and why they are left out, "" if not."""
    seen, folders = set[tuple[int, int]](), [top]
    while folders:
        folder = folders.pop()
        here = os.stat(folder)
        if (here.st_dev, here.st_ino) in seen:
            yield folder, "a link to a folder that is there already"
            continue
        seen.add((here.st_dev, here.st_ino))
        with os.scandir(folder) as entries:  # raises where nothing may be read
            found = sorted(entry.name for entry in entries)
        for name in found:
            path = folder / name
            if name.startswith("."):
                yield path, "hidden: its name begins with a dot"
                continue
            try:
                mode = os.stat(path).st_mode
            except PermissionError:
                raise
            except OSError:
                yield path, "a link to nothing"
                continue
            if stat.S_ISDIR(mode):
                # Links last, so that a folder is found under its own name.
                folders.insert(0 if path.is_symlink() else len(folders), path)
            else:
                yield path, "" if stat.S_ISREG(mode) else "a pipe or device"
