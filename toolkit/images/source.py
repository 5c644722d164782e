"""What a person gives to be compressed: an image, a folder of images, or an array file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from toolkit.images import arrays, files, folder, metadata
from toolkit.images.files import CHANNELS, Item, item_of
from toolkit.images.folder import LeftOut

ARRAYS = (".npy", ".pt")
ON_BAD = ("error", "skip")
JPEG = ("skip", "pixels")


def coded(name: str) -> bool:
    """Whether a file of this name may be coded; of others, which are left out, the name is enough."""
    suffix = Path(name).suffix.lower()
    return suffix in ARRAYS or suffix in folder.SUFFIXES


class Source(NamedTuple):
    """A person's input: what each picture is, before its pixels are read, and how to read picture i."""

    items: list[Item]
    read: Callable[[int], np.ndarray]  # uint8 or uint16 [c, h, w]
    array: arrays.Array | None  # the one array that all items come from
    left_out: Sequence[LeftOut] = ()  # files that are not coded, or not all of them
    metadata: Sequence[dict[str, Any]] = ()  # of each picture, see `toolkit.images.metadata`
    sizes: Sequence[int] = ()  # bytes of each file that is coded
    kinds: Sequence[str] = ()  # of these files, see `files.kind_of`; empty for an array

    @property
    def header(self) -> dict[str, Any]:
        """What a file's header says of the metadata."""
        return {"metadata": list(self.metadata)} if any(self.metadata) else {}

    @property
    def values(self) -> int:
        """Numbers in all pictures together."""
        return sum(map(self.values_of, range(len(self.items))))

    def values_of(self, i: int) -> int:
        """Numbers in picture i."""
        item = self.items[i]
        return CHANNELS[item.mode] * item.height * item.width

    def picture(self, i: int) -> np.ndarray:
        """Picture i, uint8 or uint16 [c, h, w]. Raises ValueError if it is not as it was when it was looked at."""
        found, item = self.read(i), self.items[i]
        if item_of(item.name, found) != item:
            raise ValueError(f"{item.name}: changed while it was compressed; compress again")
        return found


def source(
    path: str | Path, on_bad: str = "error", keep: str = "all", jpeg: str = "pixels", every: bool = False
) -> Source:  # fmt: skip
    """An image, a folder of images, or an array file.

    on_bad: "skip" leaves out what cannot be coded losslessly, instead of raising ValueError that lists it; keep: of
    metadata, see `metadata.KEEP`; jpeg: "skip" leaves out JPEG files, by their content; every: pictures with
    transparency or of 16 bits, too. Raises ValueError if nothing is left then.
    """
    for name, value, known in (("on_bad", on_bad, ON_BAD), ("metadata", keep, metadata.KEEP), ("jpeg", jpeg, JPEG)):
        if value not in known:
            raise ValueError(f"expected {name} to be one of {', '.join(known)}, got {value!r}; give one of them")
    path = Path(path)
    if path.suffix.lower() in ARRAYS:
        values, array = arrays.open_array(path)
        return Source(
            [array.item] * array.images[0], lambda i: arrays.one_image(values, array, i), array,
            sizes=[path.stat().st_size],
        )  # fmt: skip
    found = folder.look(path)
    root = path if path.is_dir() else path.parent
    good, items, about, bad, left_out = list[Path](), list[Item](), list[dict[str, Any]](), list[str](), found.left_out
    sizes, kinds, skipped = list[int](), list[str](), list[int]()
    for file in found.images:
        try:
            size, kind = file.stat().st_size, files.kind_of(file)
            if kind == "JPEG" and jpeg == "skip":
                why = "a JPEG file, whose pixels may take more bytes than it has; jpeg=pixels keeps them"
                left_out.append(LeftOut(file, why, "jpeg"))
                skipped.append(size)
                continue
            item, entry, rest = files.describe(file, files.check_name(file.relative_to(root).as_posix()), keep, every)
            files.check_restorable([item])
        except (ValueError, OSError) as error:
            bad.append(str(error))
            why = str(error).removeprefix(f"{file}: ").removesuffix(", or leave it out")
            left_out.append(LeftOut(file, f"cannot be coded: {why}", "on_bad"))
            continue
        kinds.append(kind)
        good.append(file)
        sizes.append(size)
        items.append(item)
        about.append(entry)
        if rest:
            left_out.append(LeftOut(file, rest))
    if bad and (on_bad == "error" or not items):
        if len(bad) == 1:
            raise ValueError(bad[0] + ", by on_bad=skip" * (len(found.images) > 1))
        lines = "\n  ".join(bad)
        raise ValueError(
            f"{len(bad)} of {len(found.images)} pictures cannot be coded:\n  {lines}\ncorrect them, or leave them out "
            "by on_bad=skip"
        )
    if not items:
        got = f"{len(skipped)} JPEG file{'s' * (len(skipped) != 1)}, {sum(skipped)} bytes"
        raise ValueError(
            f"expected pictures that are no JPEG files in {path}, got {got}; jpeg=pixels keeps every pixel, but their "
            "file may become larger than they are; or make them smaller with a lossy model"
        )
    files.check_restorable(items)
    return Source(
        items, lambda i: files.read_image(good[i], every), None, left_out, about, sizes, kinds
    )  # fmt: skip


def left_out(given: Source, asked: dict[str, str]) -> tuple[list[str], int]:
    """Lines that say what is left out of a source, and a command's exit status: 2 if pictures are and nobody asked.

    asked: the command's arguments; on_bad=skip and jpeg=skip ask for it.
    """
    found = sorted(given.left_out, key=lambda one: one.path.as_posix())
    lines = [f"left out: {path}: {why}" for path, why, _ in found]
    missing = [one.by for one in given.left_out if one.by]
    if not missing:
        return lines, 0
    unasked = sorted({f"{by}=skip" for by in missing if asked.get(by) != "skip"})
    last = f"{len(missing)} of {len(given.items) + len(missing)} pictures left out, listed above"
    if unasked:
        last += f"; exit status 2, as nothing asked for that; {' and '.join(unasked)} would, and the status be 0"
    return [*lines, last], 2 if unasked else 0
