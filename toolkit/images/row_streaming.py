"""Pictures that come one after another as rows of a model, in chunks: see `toolkit.images.streaming`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toolkit.chunks.model import ChunkCoder, rows_crc
from toolkit.images.files import MOST_VALUES, Item
from toolkit.images.row_archive import MakeCoder, RowContents
from toolkit.images.streaming import Listed, Payload
from toolkit.images.tiles import tiles

Rows = tuple[Tensor, Tensor]  # uint8 and bool [n, c, th, tw]: values, and which are coded


class RowEncoder:
    """Rows of pictures, so many a chunk: see `Encoder`. The bytes are those of `row_archive.compress`.

    shape_of: of the rows, by the first picture; chunk_rows_of: rows of a chunk, by their shape; before: the file that
    it goes on with. A last chunk that is not full is decoded, and coded again with what comes.
    """

    def __init__(
        self, make_coder: MakeCoder, identity: dict[str, Any], shape_of: Callable[[Item], tuple[int, ...]],
        chunk_rows_of: Callable[[tuple[int, ...]], int], before: RowContents | None = None,
    ) -> None:  # fmt: skip
        self._make_coder, self._identity = make_coder, identity
        self._shape_of, self._chunk_rows_of = shape_of, chunk_rows_of
        self._listed, self.kept = Listed(before.reader if before else None, before.array if before else None), 0
        self._shape: tuple[int, ...] = ()
        self._chunk_rows, self._coder = 0, None if before is None else before.coder
        self._pending, self._waiting = list[Rows](), 0
        if before is not None:
            self._continue(before)

    def _continue(self, before: RowContents) -> None:
        header = before.header
        self._shape, self._chunk_rows, last = header.shape, header.chunk_rows, header.chunk_count - 1
        first, end = header.chunk(last)
        self.kept = header.chunk_count
        if last == 0:  # its only chunk may be smaller than others should be
            self._coder, self._chunk_rows = None, self._chunk_rows_of(self._shape)
        if last == 0 or end - first < self._chunk_rows:
            self.kept = last
            self._add(*before.chunk_of(last))

    def picture(self, item: Item, pixels: np.ndarray) -> Iterator[Payload]:
        """See `Encoder`."""
        self._listed.add(item, False)
        return self._tiled(item, pixels[None])

    def images(self, values: np.ndarray) -> Iterator[Payload]:
        """See `Encoder`."""
        images = self._listed.extend(values)
        assert self._listed.array is not None
        return self._tiled(self._listed.array.item, images)

    def _tiled(self, item: Item, images: np.ndarray) -> Iterator[Payload]:
        if not self._shape:
            self._shape = tuple(self._shape_of(item))
            self._chunk_rows = self._chunk_rows_of(self._shape)
            if self._chunk_rows * math.prod(self._shape) > MOST_VALUES:
                most = MOST_VALUES // math.prod(self._shape)
                raise ValueError(f"expected chunk_rows of at most {most}, got {self._chunk_rows}; give a smaller one")
        if images.shape[1:] == self._shape:  # each is a row: no cutting
            rows = torch.from_numpy(np.ascontiguousarray(images))
            self._add(rows.clone(), torch.ones(rows.shape, dtype=torch.bool))
            yield from self._full()
            return
        for image in images:
            size = self._shape[1], self._shape[2]
            self._add(*tiles(torch.from_numpy(np.ascontiguousarray(image)), self._shape[0], size))
            yield from self._full()

    def finish(self) -> Iterator[Payload]:
        """See `Encoder`."""
        if self._waiting:
            self._chunk_rows = self._chunk_rows if self._coder else min(self._chunk_rows, self._waiting)
            yield from self._full()
        if self._waiting:
            yield self._encoded(*self._taken(self._waiting))

    def header(self) -> dict[str, Any]:
        """See `Encoder`."""
        listed = self._listed
        if self._coder is None:
            raise ValueError("expected at least one picture, got none; add some")
        return {
            **self._identity, "kind": "array" if listed.array else "images", "values": listed.values,
            **listed.kept_metadata(), "rows": list(self._shape), "chunk_rows": self._chunk_rows,
            "settings": self._coder.settings._asdict(), **listed.described(),
        }  # fmt: skip

    def close(self) -> None:
        """See `Encoder`."""

    def _add(self, rows: Tensor, valid: Tensor) -> None:
        self._pending.append((rows, valid))
        self._waiting += len(rows)

    def _full(self) -> Iterator[Payload]:
        while self._waiting >= self._chunk_rows:
            yield self._encoded(*self._taken(self._chunk_rows))

    def _taken(self, count: int) -> Rows:
        """The first rows that wait."""
        many = len(self._pending) > 1
        rows, valid = (torch.cat(part) for part in zip(*self._pending, strict=True)) if many else self._pending[0]
        self._waiting -= count
        self._pending = [(rows[count:], valid[count:])] if self._waiting else []
        return rows[:count], valid[:count]

    def _encoded(self, rows: Tensor, valid: Tensor) -> Payload:
        coder: ChunkCoder = self._coder or self._make_coder(self._chunk_rows, None, self._shape)
        self._coder = coder
        payload, _ = coder.encode(rows, valid)
        return Payload(payload, len(rows), rows_crc(rows, valid))
