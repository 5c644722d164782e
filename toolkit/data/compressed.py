"""Rows in a .tkc file as a LightningDataModule: they are decoded, a window at a time, as training asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from toolkit import places
from toolkit.archive import Archive
from toolkit.data.images import Batches, Resumable
from toolkit.data.tkc import TkcIterableDataset, open_file

SAMPLE = 4096  # training rows that heads look at, to calibrate networks say


class CompressedBatches(Resumable):
    """Batches uint8 [batch, c, h, w] of a `TkcIterableDataset`, for a Trainer, as `toolkit.data.images.Batches` are.

    workers: processes that decode.
    """

    def __init__(self, rows: TkcIterableDataset, workers: int, current_epoch: Callable[[], int]) -> None:
        super().__init__(current_epoch)
        self.rows, self.workers = rows, workers

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Tensor]:
        epoch, first = self.begin()
        self.rows.set_epoch(epoch)
        self.rows.skip = first
        loader: Any = DataLoader(self.rows, batch_size=None, num_workers=self.workers) if self.workers else self.rows
        # Workers have left out whole rounds of theirs.
        for i, batch in enumerate(islice(loader, first % max(1, self.workers), None), first):
            self.state = {"epoch": epoch, "batch": i + 1}
            yield batch


class Compressed(L.LightningDataModule):
    """Training rows in a .tkc file of pictures of one size, or of an array.

    train, run, validation, test: files, and the run that wrote them, see configs/data/tkc.yaml. After `setup()`:
    `validation` and `test` uint8 [rows, c, h, w]; `train`, the first rows of those to train on, for who wants a sample;
    `shape` (c, h, w); `name`. Raises ValueError for wrong arguments, and for pictures of several sizes or of 16 bits.
    """

    def __init__(
        self, train: str, run: str | None = None, validation: str | None = None, test: str | None = None,
        validation_rows: int = 5000, window: int = 32768, workers: int = 0, batch_size: int = 64, flip: bool = False,
        seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        if min(batch_size, window) < 1 or min(workers, seed) < 0:
            raise ValueError(
                "expected data.batch_size and data.window of at least 1, data.workers and data.seed of at least 0, got "
                f"{batch_size}, {window}, {workers} and {seed}"
            )
        for path in (train, run, validation, test):
            places.check_plain(path or "")
        self.file, self.run, self.files, self.validation_rows = train, run, (validation, test), validation_rows
        self.window, self.workers, self.batch_size, self.flip, self.seed = window, workers, batch_size, flip, seed
        self.count = 0  # of training rows
        self.name = str(places.named(train)).rpartition("/")[2].removesuffix(".tkc") or "tkc"

    def prepare_data(self) -> None:
        """Nothing is downloaded."""

    def setup(self, stage: str | None = None) -> None:
        """Open the files, the first time, and decode what validates and tests."""
        if self.count:
            return
        with open_file(self.file, self.run) as archive:
            kinds = sorted({item[1:] for item in archive.items})
            if len(kinds) != 1 or ";" in kinds[0][0]:
                raise ValueError(
                    f"{self.file}: expected pictures of one size and mode, 8 bits a value, got {len(kinds)} kinds, for "
                    f"instance {kinds[:2]}; compress crops of one size"
                )
            held_out = self.validation_rows if self.files[0] is None else 0
            if self.files[0] is None and not 1 <= held_out < len(archive):
                raise ValueError(
                    f"expected validation_rows from 1 to {len(archive) - 1} (the file has {len(archive)} rows), got "
                    f"{held_out}; do: set data.validation_rows, or data.validation to another file"
                )
            count = len(archive) - held_out
            self.train = _rows(archive, range(min(count, SAMPLE)))
            last = _rows(archive, range(count, len(archive))) if held_out else self.train[:0]
        validation, test = self.files
        self.validation = last if validation is None else self._of(validation)
        self.test = self.validation if test is None else self._of(test)
        self.shape = tuple(self.train.shape[1:])
        for part in (self.validation, self.test):
            if tuple(part.shape[1:]) != self.shape:
                raise ValueError(f"expected rows of {list(self.shape)} as in train, got {list(part.shape[1:])}")
        self.count = count

    def _of(self, path: str) -> Tensor:
        with open_file(path, self.run) as archive:
            return _rows(archive, range(len(archive)))

    def summary(self) -> str:
        """How much there is, for people."""
        return (
            f"{self.count} compressed training rows of {list(self.shape)}, {len(self.validation)} validation, "
            f"{len(self.test)} test"
        )

    def train_dataloader(self) -> Any:
        """Batches of the training rows, in a new order each epoch; incomplete ones are dropped."""
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        rows = TkcIterableDataset(
            self.file, self.run, self.batch_size, not getattr(trainer, "overfit_batches", 0), self.seed, self.window,
            rank=rank, world=world, rows=(0, self.count), flip=self.flip,
        )  # fmt: skip
        return CompressedBatches(rows, self.workers, lambda: trainer.current_epoch if trainer else 0)

    def val_dataloader(self) -> Any:
        """Batches of the validation rows, in order, the last one smaller."""
        return Batches(self.validation, self.batch_size)

    def test_dataloader(self) -> Any:
        """Batches of the test rows, in order, the last one smaller."""
        return Batches(self.test, self.batch_size)


def _rows(archive: Archive, which: range) -> Tensor:  # uint8 [n, c, h, w]
    return torch.from_numpy(np.stack(archive.part(which)))
