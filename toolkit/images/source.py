"""What a person gives to be compressed: an image, a folder of images, or an array file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from toolkit.images import arrays, files
from toolkit.images.files import CHANNELS, Item

ARRAYS = (".npy", ".pt")


class Source(NamedTuple):
    """A person's input: what each picture is, before its pixels are read, and how to read picture i."""

    items: list[Item]
    read: Callable[[int], Tensor]  # uint8 [c, h, w]
    array: arrays.Array | None  # the one array that all items come from
    left_out: Sequence[Path] = ()  # files of the folder that are no images

    @property
    def values(self) -> int:
        """Numbers in all pictures together."""
        return sum(CHANNELS[item.mode] * item.height * item.width for item in self.items)

    def picture(self, i: int) -> Tensor:
        """Picture i, uint8 [c, h, w]. Raises ValueError if it is not as it was when the source was looked at."""
        found, item = self.read(i), self.items[i]
        if tuple(found.shape) != (CHANNELS[item.mode], item.height, item.width):
            raise ValueError(f"{item.name}: changed while it was compressed; compress again")
        return found


def source(path: str | Path) -> Source:
    """An image, a folder of images, or an array file. Raises ValueError for what cannot be coded losslessly."""
    path = Path(path)
    if path.suffix.lower() in ARRAYS:
        values, array = arrays.open_array(path)
        return Source([array.item] * array.images[0], lambda i: arrays.one_image(values, array, i), array)
    found = files.find(path)
    root = path if path.is_dir() else path.parent
    items = [files.describe(file, files.check_name(file.relative_to(root).as_posix())) for file in found]
    return Source(items, lambda i: torch.from_numpy(files.read_image(found[i])), None, files.left_out(path))


def pictures(given: Source | None, folder: Path) -> Source:
    """The pictures that are given. Raises ValueError if there are none, of a run that codes pictures."""
    if given is None:
        raise ValueError(
            f"expected a run of word vectors, got {folder}, whose model codes pictures; use python -m toolkit.compress "
            f"run={folder} input=PICTURES"
        )
    return given
