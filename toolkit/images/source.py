"""What a person gives to be compressed: an image, a folder of images, or an array file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from toolkit.images import arrays, files, folder, metadata
from toolkit.images.files import CHANNELS, Item

ARRAYS = (".npy", ".pt")
ON_BAD = ("error", "skip")
JPEG = ("skip", "pixels")


class Source(NamedTuple):
    """A person's input: what each picture is, before its pixels are read, and how to read picture i."""

    items: list[Item]
    read: Callable[[int], Tensor]  # uint8 [c, h, w]
    array: arrays.Array | None  # the one array that all items come from
    left_out: Sequence[tuple[Path, str]] = ()  # files that are not coded, or not all of them, and why
    metadata: Sequence[dict[str, Any]] = ()  # of each picture, see `toolkit.images.metadata`
    sizes: Sequence[int] = ()  # bytes of each file that is coded
    jpegs: Sequence[int] = ()  # numbers of the pictures that were JPEG files

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

    def picture(self, i: int) -> Tensor:
        """Picture i, uint8 [c, h, w]. Raises ValueError if it is not as it was when the source was looked at."""
        found, item = self.read(i), self.items[i]
        if tuple(found.shape) != (CHANNELS[item.mode], item.height, item.width):
            raise ValueError(f"{item.name}: changed while it was compressed; compress again")
        return found


def source(path: str | Path, on_bad: str = "error", keep: str = "all", jpeg: str = "pixels") -> Source:
    """An image, a folder of images, or an array file.

    on_bad: "skip" leaves out what cannot be coded losslessly, instead of raising ValueError that lists it; keep: of
    metadata, see `metadata.KEEP`; jpeg: "skip" leaves out JPEG files, by their content. Raises ValueError if nothing is
    left then.
    """
    for name, value, known in (("on_bad", on_bad, ON_BAD), ("metadata", keep, metadata.KEEP), ("jpeg", jpeg, JPEG)):
        if value not in known:
            raise ValueError(f"expected {name} to be one of {', '.join(known)}, got {value!r}")
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
    sizes, jpegs, skipped = list[int](), list[int](), list[int]()
    for file in found.images:
        try:
            size, is_jpeg = file.stat().st_size, files.is_jpeg(file)
            if is_jpeg and jpeg == "skip":
                left_out.append((file, "a JPEG file, whose pixels may take more bytes than it has: jpeg=pixels"))
                skipped.append(size)
                continue
            item, entry, rest = files.describe(file, files.check_name(file.relative_to(root).as_posix()), keep)
            files.check_restorable([item])
        except (ValueError, OSError) as error:
            bad.append(str(error))
            left_out.append((file, f"cannot be coded: {error}"))
            continue
        if is_jpeg:
            jpegs.append(len(good))
        good.append(file)
        sizes.append(size)
        items.append(item)
        about.append(entry)
        if rest:
            left_out.append((file, rest))
    if bad and (on_bad == "error" or not items):
        if len(bad) == 1:
            raise ValueError(bad[0] + ", by on_bad=skip" * (len(found.images) > 1))
        lines = "\n  ".join(bad)
        raise ValueError(
            f"{len(bad)} of {len(found.images)} pictures cannot be coded:\n  {lines}\ncorrect them, or leave them out "
            "by on_bad=skip"
        )
    if not items:
        raise ValueError(
            f"expected pictures that are no JPEG files in {path}, got {len(skipped)} JPEG files, {sum(skipped)} bytes; "
            "jpeg=pixels keeps every pixel, but their file may become larger than they are; or make them smaller with "
            "a lossy model"
        )
    files.check_restorable(items)
    return Source(
        items, lambda i: torch.from_numpy(files.read_image(good[i])), None, left_out, about, sizes, jpegs
    )  # fmt: skip


def some(given: Source | None, folder: Path) -> Source:
    """The pictures that are given. Raises ValueError if there are none, of a run that codes pictures."""
    if given is None:
        raise ValueError(
            f"expected a run of word vectors, got {folder}, whose model codes pictures; use python -m toolkit.compress "
            f"run={folder} input=PICTURES"
        )
    return given
