"""A data set that stays compressed: the pictures of a .tkc file, decoded as training asks for them."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, distributed
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from toolkit.archive import Archive

Transform = Callable[[Tensor], Any]


def open_file(path: str, run: str | None, device: str = "cpu") -> Archive:
    """Open a file that leaves torch's random numbers, of which making a model draws, as they were."""
    with torch.random.fork_rng(devices=[]):
        return Archive(path, run, device)


class _File:
    """A .tkc file that each process opens for itself, when it first wants something of it."""

    def __init__(self, path: str | os.PathLike[str], run: str | os.PathLike[str] | None, device: str) -> None:
        self.path, self.run, self.device = os.fspath(path), None if run is None else os.fspath(run), device
        self._opened: tuple[int, Archive] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def __call__(self) -> Archive:
        if self._opened is None or self._opened[0] != os.getpid():  # a fork would share its place in the file
            self._opened = os.getpid(), open_file(self.path, self.run, self.device)
        return self._opened[1]


class TkcDataset(Dataset[Any]):
    """The pictures of a .tkc file, or the images of its array, by number: a map-style data set.

    dataset[i]: transform(picture i), a tensor uint8 or uint16 [c, h, w]. path, run, device: as of `toolkit.open`. Each
    worker of a DataLoader opens the file for itself. In files of models of rows many pictures are decoded together, and
    the last such chunk is kept: any order but that of the file decodes far more than it asks for, which
    `TkcIterableDataset` does not.
    """

    def __init__(
        self, path: str | os.PathLike[str], run: str | os.PathLike[str] | None = None,
        transform: Transform | None = None, device: str = "cpu",
    ) -> None:  # fmt: skip
        self._file, self.transform = _File(path, run, device), transform
        self._length = len(self._file())

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> Any:
        i = range(self._length)[i]  # IndexError
        picture = torch.from_numpy(self._file().part(range(i, i + 1))[0])
        return picture if self.transform is None else self.transform(picture)


class Window(NamedTuple):
    """Pictures that are in memory at a time, and in which order they are given."""

    parts: list[range]  # of pictures that are decoded together, rising
    order: np.ndarray  # int64 [n], places in these
    mirrored: np.ndarray  # bool [n]


class TkcIterableDataset(IterableDataset[Any]):
    """The pictures of a .tkc file, each decoded once an epoch, in a new order each epoch; of a small file, once in all.

    shuffle: parts of the file that are decoded together come in an order of `seed` and epoch, and pictures are mixed in
    a window of at least `window` of them, which is what is in memory. batch_size: of batches, uint8 [batch, c, h, w] of
    pictures of one size, for DataLoader(..., batch_size=None); None: single pictures [c, h, w]. transform: of what is
    given. rank, world: of the processes that share each epoch equally, None: those of torch.distributed. A worker of a
    DataLoader takes a part of its process's share, so that the order depends on the number of workers, the number of
    batches does not. Incomplete batches, and what no equal share is, are left out of an epoch. rows: the first of the
    pictures that are used, and the one behind the last; flip: mirror a picture left to right with probability 1/2.

    Before an epoch call `set_epoch`. A file that fits into one window, read by one process and at most one worker,
    gives the batches that `toolkit.data.images.Batches` makes of its array, and that process keeps it decoded.
    """

    def __init__(
        self, path: str | os.PathLike[str], run: str | os.PathLike[str] | None = None,
        batch_size: int | None = None, shuffle: bool = True, seed: int = 0, window: int = 32768,
        transform: Transform | None = None, rank: int | None = None, world: int | None = None,
        rows: tuple[int, int] | None = None, flip: bool = False, device: str = "cpu",
    ) -> None:  # fmt: skip
        if (batch_size is not None and batch_size < 1) or window < 1 or seed < 0:
            raise ValueError(
                f"expected batch_size and window of at least 1, seed of at least 0, got {batch_size}, {window}, {seed}"
            )
        if (rank is None) != (world is None) or (rank is not None and world is not None and not 0 <= rank < world):
            raise ValueError(f"expected 0 <= rank < world, or neither, got rank={rank}, world={world}; give both")
        self._file, self.batch_size, self.shuffle, self.seed = _File(path, run, device), batch_size, shuffle, seed
        self.window, self.transform, self.flip, self._share = window, transform, flip, (rank, world)
        self._parts = _within(self._file().together(), *(rows or (0, len(self._file()))))
        self.rows = sum(map(len, self._parts))
        if self.rows < (batch_size or 1) * self.processes()[1]:
            raise ValueError(
                f"expected at least batch_size = {batch_size or 1} pictures for each of {self.processes()[1]} "
                f"processes, got {self.rows} in all; make batch_size smaller"
            )
        kinds = sorted({item[1:] for part in self._parts for item in self._file().items[part.start : part.stop]})
        if batch_size is not None and len(kinds) > 1:
            raise ValueError(
                f"{self._file.path}: expected pictures of one size and mode for batches, got {len(kinds)} kinds, for "
                f"instance {kinds[:2]}; leave batch_size out, or compress crops of one size"
            )
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # workers that persist see it change
        self._kept: np.ndarray | None = None  # all pictures, where a window holds them: later epochs decode nothing
        self.skip = 0  # batches of an epoch that are left out, for a training that goes on

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration is."""
        self._epoch[0] = epoch

    def processes(self) -> tuple[int, int]:
        """Rank and number of the processes that share the file."""
        rank, world = self._share
        if rank is None or world is None:
            known = distributed.is_available() and distributed.is_initialized()
            return (distributed.get_rank(), distributed.get_world_size()) if known else (0, 1)
        return rank, world

    def __getstate__(self) -> dict[str, Any]:
        # A worker that is spawned knows no process group.
        return {**self.__dict__, "_share": self.processes(), "_kept": None}

    def __len__(self) -> int:
        """Batches, or pictures, of an epoch in this process."""
        return self.rows // self.processes()[1] // (self.batch_size or 1)

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        batch = self.batch_size or 1
        skip = (self.skip // count) * batch
        rest: Tensor | None = None  # what makes no batch yet
        for window in self.windows(number, count, skip):
            found = self._pictures(window)
            if self.batch_size is None:
                yield from (found[i] if self.transform is None else self.transform(found[i]) for i in range(len(found)))
                continue
            assert isinstance(found, Tensor)
            rows = found if rest is None else torch.cat([rest, found])
            del found  # so that the next window is decoded beside no more than a batch
            whole = len(rows) - len(rows) % batch
            for first in range(0, whole, batch):  # none where a window is smaller than a batch
                part = rows[first : first + batch]
                yield part if self.transform is None else self.transform(part)
                del part
            rest = rows[whole:].clone()
            del rows

    def windows(self, worker: int, workers: int, skip: int) -> Iterator[Window]:
        """What one of so many workers of this process decodes in this epoch, in order, but for the first pictures."""
        (rank, world), epoch, batch = self.processes(), int(self._epoch[0]), self.batch_size or 1
        parts = self._parts
        if self.shuffle:
            order = torch.randperm(len(parts), generator=_generator(self.seed, epoch, 1, 0, 0)).tolist()
            parts = [parts[i] for i in order]
        batches = len(self)
        share = self.rows // world
        begin, end = (rank * share + batch * (batches * w // workers) for w in (worker, worker + 1))
        if worker + 1 == workers:  # with what makes no batch: it has its part in the mixing
            end = (rank + 1) * share
        pending, count = list[range](), 0
        for part in _cut(parts, begin, end):
            pending.append(part)
            count += len(part)
            left = end - begin - count
            if left and (count < self.window or left < self.window // 2):  # little that is left joins the last window
                continue
            if skip >= count:
                skip -= count
            else:
                window = self._window(pending, count, (rank, worker, begin), epoch)
                yield window._replace(order=window.order[skip:], mirrored=window.mirrored[skip:])
                skip = 0
            begin, pending, count = begin + count, [], 0

    def _window(self, parts: list[range], count: int, where: tuple[int, int, int], epoch: int) -> Window:
        if not self.shuffle:
            return Window(parts, np.arange(count), np.zeros(count, bool))
        # The first window draws what `Batches` does.
        generator = _generator(self.seed, epoch, *([2, *where] if any(where) else []))
        order = torch.randperm(count, generator=generator).numpy()
        mirrored = (torch.rand(count, generator=generator) < 0.5).numpy() & self.flip
        return Window(sorted(parts, key=lambda part: part.start), order, mirrored)

    def _pictures(self, window: Window) -> Tensor | list[Tensor]:
        """Pictures of a window in their order: [n, c, h, w] if all have one size."""
        whole = sum(map(len, window.parts)) == self.rows
        if whole and self._kept is not None:
            return self._mixed(self._kept[window.order], window)
        pictures = [picture for part in window.parts for picture in self._file().part(part)]
        if any(picture.shape != pictures[0].shape for picture in pictures):
            found = [torch.from_numpy(np.ascontiguousarray(pictures[i])) for i in window.order]
            return [x.flip(-1) if turned else x for x, turned in zip(found, window.mirrored, strict=True)]
        if whole:
            self._kept = np.stack(pictures)
            del pictures
            return self._mixed(self._kept[window.order], window)
        return self._mixed(np.stack([pictures[i] for i in window.order]), window)

    @staticmethod
    def _mixed(together: np.ndarray, window: Window) -> Tensor:
        """Pictures in the order of a window, with those mirrored that are to be."""
        if window.mirrored.any():
            together[window.mirrored] = together[window.mirrored, ..., ::-1]
        return torch.from_numpy(together)


def _generator(*entropy: int) -> torch.Generator:
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def _within(parts: Sequence[range], first: int, last: int) -> list[range]:
    """Parts of numbers from first to last - 1. Raises ValueError if there are none."""
    found = [range(max(part.start, first), min(part.stop, last)) for part in parts]
    found = [part for part in found if len(part)]
    if not found:
        raise ValueError(f"expected pictures to train on, got none from {first} to {last}; give another file or rows")
    return found


def _cut(parts: Sequence[range], begin: int, end: int) -> list[range]:
    """What lies at places begin to end - 1 of all parts one after the other."""
    ends = [*accumulate(map(len, parts))]
    found = list[range]()
    for i in range(bisect_right(ends, begin), len(parts)):
        first = ends[i] - len(parts[i])
        if first >= end:
            break
        found.append(parts[i][max(begin - first, 0) : end - first])
    return found
