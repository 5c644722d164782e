"""Images: a LightningDataModule over integer tensors of images, whatever their source."""

from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

# Every source of images under one name, toolkit.data.images.NAME, as configs/data/*.yaml call them.
from toolkit.data.embedded import digits, photos
from toolkit.data.own import array, folder
from toolkit.data.published import cifar10, fashion_mnist, imagenet32, mnist
from toolkit.data.splits import Splits, check

__all__ = [
    "Batches",
    "Images",
    "Splits",
    "array",
    "cifar10",
    "digits",
    "fashion_mnist",
    "folder",
    "imagenet32",
    "mnist",
    "photos",
]


class Resumable:
    """A loader for a Trainer, whose position in the epoch a checkpoint keeps: a resumed run sees the same rows.

    current_epoch: gives the number of the epoch.
    """

    batch_sampler = None  # Lightning asks for it where there is a sampler

    def __init__(self, current_epoch: Callable[[], int]) -> None:
        self.current_epoch = current_epoch
        self.state = {"epoch": 0, "batch": 0}  # batches of this epoch already handed out
        self.resume = {"epoch": 0, "batch": 0}  # batches to skip in that epoch

    def state_dict(self) -> dict[str, int]:
        """Say how far the epoch is: Lightning stores it in a checkpoint."""
        return dict(self.state)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Skip what a checkpoint's run has seen of its last epoch, if the next iteration is of that epoch."""
        self.resume = dict(state)

    def begin(self) -> tuple[int, int]:
        """Number of the epoch that begins, and of the first batch to hand out."""
        epoch = self.current_epoch()
        first = self.resume["batch"] if self.resume["epoch"] == epoch else 0
        self.resume = {"epoch": 0, "batch": 0}
        return epoch, first


class Batches(Resumable):
    """Batches uint8 [batch, c, h, w] cut out of rows uint8 [n, c, h, w]; what a Lightning Trainer takes as a loader.

    Not a torch DataLoader: that one picks rows one by one and collates them, 100 times slower than one indexing of the
    whole batch, and Lightning would advise workers for it, which a tensor in memory has no use for, and would replace
    its sampler in distributed training. Lightning takes any iterable with a length as it is, so there is no warning to
    silence, and the share of each process (`rank` of `world`) is cut here.

    `shuffle`: a new order each epoch, a function of `seed` and `current_epoch()` alone; incomplete batches are dropped,
    so that all processes make the same number of steps. Otherwise: all rows in order, the last batch smaller.
    """

    def __init__(
        self,
        rows: Tensor,  # uint8 [n, c, h, w]
        batch_size: int,
        shuffle: bool = False,
        flip: bool = False,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        current_epoch: Callable[[], int] = lambda: 0,
    ) -> None:
        self.rows, self.batch_size, self.shuffle, self.flip, self.seed = rows, batch_size, shuffle, flip, seed
        super().__init__(current_epoch)
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        if self.shuffle:
            return len(self.rows) // self.world // self.batch_size
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        # A generator on purpose: when a run is resumed, Lightning calls iter() before it knows the epoch, but nothing
        # below runs before the first next().
        if not self.shuffle:
            yield from torch.split(self.rows, self.batch_size)
            return
        epoch, first = self.begin()
        entropy = np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(entropy[0]))
        # The same order in every process, of which each takes every world-th row.
        order = torch.randperm(len(self.rows), generator=generator).numpy()[self.rank :: self.world]
        mirrored = (torch.rand(len(self.rows), generator=generator) < 0.5).numpy()[self.rank :: self.world]
        # numpy, because torch hands even so small a copy to all its threads: on two busy cores 70 times slower.
        rows = self.rows.numpy()
        for i in range(first, len(self)):
            self.state = {"epoch": epoch, "batch": i + 1}
            part = slice(i * self.batch_size, (i + 1) * self.batch_size)
            batch = rows[order[part]]
            if self.flip:
                batch[mirrored[part]] = batch[mirrored[part], :, :, ::-1]
            yield torch.from_numpy(batch)


class Images(L.LightningDataModule):
    """Images of one source in batches; `splits` is a function without arguments, called once, when first needed.

    After `setup()`: `train`, `validation`, `test` uint8 [rows, c, h, w], `shape` (c, h, w), and `name`.

    `batch_size`: rows in a batch, of each process. `flip`: mirror a training row left to right with probability 1/2.
    `seed`: of order and mirroring. In distributed training each process trains on rows of its own, and all processes
    validate and test on all rows: their figures then count each row once, where Lightning's own way repeats rows to
    make the shares equal. Raises ValueError for wrong arguments, for splits that are not uint8 rows of one shape, and
    for fewer training rows than one batch.
    """

    name: str

    def __init__(self, splits: Callable[[], Splits], batch_size: int, flip: bool = False, seed: int = 0) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"expected batch_size of at least 1, got {batch_size}; do: set data.batch_size")
        if seed < 0:
            raise ValueError(f"expected seed of at least 0, got {seed}; do: set data.seed")
        self.splits, self.batch_size, self.flip, self.seed = splits, batch_size, flip, seed
        self.loaded: Splits | None = None
        self.train: Tensor  # uint8 [rows, c, h, w], these three
        self.validation: Tensor
        self.test: Tensor
        self.shape: tuple[int, int, int]

    def prepare_data(self) -> None:
        """Load, in one process of a machine only: this is where a download happens."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Load the splits, the first time."""
        if self.loaded is not None:
            return
        loaded = check(self.splits())
        if len(loaded.train) < self.batch_size:
            raise ValueError(
                f"expected at least batch_size = {self.batch_size} training rows in {loaded.name}, "
                f"got {len(loaded.train)}; do: set data.batch_size to at most {len(loaded.train)}"
            )
        self.loaded = loaded
        self.train, self.validation, self.test, self.name = loaded
        channels, height, width = loaded.train.shape[1:]
        self.shape = (channels, height, width)

    def summary(self) -> str:
        """How much there is, for people."""
        return (
            f"{len(self.train)} training rows of {list(self.shape)}, {len(self.validation)} validation, "
            f"{len(self.test)} test"
        )

    def train_dataloader(self) -> Any:
        """Batches of the training rows, shuffled anew each epoch; incomplete ones are dropped."""
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        if len(self.train) < self.batch_size * world:
            raise ValueError(
                f"expected at least batch_size = {self.batch_size} training rows for each of {world} processes, "
                f"got {len(self.train)} in all; do: set data.batch_size to at most {len(self.train) // world}"
            )
        return Batches(
            self.train,
            self.batch_size,
            shuffle=not getattr(trainer, "overfit_batches", 0),  # to overfit some batches, they must stay the same
            flip=self.flip,
            seed=self.seed,
            rank=rank,
            world=world,
            current_epoch=lambda: trainer.current_epoch if trainer else 0,
        )

    def val_dataloader(self) -> Any:
        """Batches of the validation rows, in order, the last one smaller."""
        return Batches(self.validation, self.batch_size)

    def test_dataloader(self) -> Any:
        """Batches of the test rows, in order, the last one smaller."""
        return Batches(self.test, self.batch_size)
