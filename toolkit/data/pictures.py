"""Whole pictures, of any size each: a LightningDataModule whose batches are one picture."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from toolkit.data.embedded import TEST, TRAIN, VALIDATION, whole
from toolkit.data.splits import by_hash, downsample
from toolkit.images.files import read_image
from toolkit.images.folder import find


class Lazy(Dataset[Tensor]):
    """Pictures uint8 [c, h, w], each read when it is asked for."""

    def __init__(self, readers: Sequence[Callable[[], Tensor]]) -> None:
        self.readers = readers

    def __len__(self) -> int:
        return len(self.readers)

    def __getitem__(self, i: int) -> Tensor:
        return self.readers[i]()


class Pictures(L.LightningDataModule):
    """Photographs to train on, one after another, in a new order each epoch.

    folder: of pictures; None: those of `embedded`. What was a JPEG file comes at half size, which removes its traces.
    held_out: so many of the folder's pictures validate, and as many test; of those that validate, the middle of a
    megapixel. Without any, and without a folder, one embedded photograph each does.

    After `setup()`: `train`, `validation`, `test`, which are `Lazy`; `shape` (3,), as sizes differ; `name`. Raises
    FileNotFoundError or ValueError for a folder that is not there, has too few pictures, or one that cannot be read.
    """

    def __init__(self, folder: str | None = None, seed: int = 0, held_out: int = 0) -> None:
        super().__init__()
        if min(seed, held_out) < 0:
            raise ValueError(
                f"expected seed and held_out of at least 0, got {seed} and {held_out}; do: set data.seed, data.held_out"
            )
        self.folder, self.seed, self.held_out, self.shape = folder, seed, held_out, (3,)
        self.name = "photographs" if folder is None else Path(folder).name or "folder"
        self.validation, self.test = (Lazy([functools.partial(whole, photo)]) for photo in (VALIDATION, TEST))
        self.train, self.found = Lazy([functools.partial(whole, photo) for photo in TRAIN]), False

    def prepare_data(self) -> None:
        """Nothing is downloaded."""

    def setup(self, stage: str | None = None) -> None:
        """Find the pictures, the first time, and read each once, so that a broken one is told at once.

        stage: "test" needs none of them.
        """
        if self.folder is None or self.found or (stage == "test" and not self.held_out):
            return
        n, files = self.held_out, find(self.folder)
        if len(files) <= 2 * n:
            raise ValueError(
                f"expected more than {2 * n} pictures in {self.folder}, of which {n} validate and {n} test, got "
                f"{len(files)}; add some, or set data.held_out=0, which takes embedded photographs for these"
            )
        if n:
            files = by_hash(files, Path(self.folder))
            self.validation = Lazy([functools.partial(middle, file) for file in files[:n]])
            self.test = Lazy([functools.partial(own, file) for file in files[n : 2 * n]])
        self.train, self.found = Lazy([functools.partial(own, file) for file in files[2 * n :]]), True
        for part in (self.test,) if stage == "test" else (self.train, self.validation, self.test):
            for i in range(len(part)):
                part[i]

    def summary(self) -> str:
        """How much there is, for people."""
        return f"{len(self.train)} pictures to train on, {len(self.validation)} to validate, {len(self.test)} to test"

    def train_dataloader(self) -> Any:
        """A picture uint8 [1, c, h, w] each."""
        return DataLoader(self.train, shuffle=True, generator=torch.Generator().manual_seed(self.seed))

    def val_dataloader(self) -> Any:
        """As above, in order."""
        return DataLoader(self.validation)


def own(file: Path) -> Tensor:
    """A picture of a person, uint8 [c, h, w]; at half size if it is a JPEG file."""
    pixels = torch.from_numpy(read_image(file))
    with Image.open(file) as image:
        traces = image.format in ("JPEG", "MPO")
    return downsample(pixels, 2) if traces and min(pixels.shape[1:]) > 1 else pixels


def middle(file: Path) -> Tensor:
    """A megapixel at most from the middle of `own`, as validation codes it again and again."""
    pixels = own(file)
    h, w = (min(n, 1024) for n in pixels.shape[1:])
    y, x = ((n - m) // 2 for n, m in zip(pixels.shape[1:], (h, w), strict=True))
    return pixels[:, y : y + h, x : x + w].contiguous()
