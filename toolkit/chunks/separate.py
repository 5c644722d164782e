"""Rows coded each alone: any one of a chunk is decoded by itself, for models that need no chain of rows.

A payload is a message with a lane for each row: see `coding.wire`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from toolkit.chunks.chained import Coder
from toolkit.chunks.model import Account
from toolkit.coding import wire
from toolkit.coding.codecs import Codec
from toolkit.coding.message import Message

FIRST = 1  # head of a lane that holds nothing: a row costs as many bits as its lane has


class AloneCoder(Coder):
    """Encodes and decodes chunks of rows, each row a stream of its own, with a codec that has one row a lane.

    The networks always see whole batches with each row at its own place, so that a row decoded alone meets the same
    arithmetic as one that is decoded with the others. Exact networks compute the same in any batch, and see no
    more than what is decoded.
    """

    @torch.inference_mode()
    def encode(
        self, rows: Tensor, valid: Tensor, trace: bool = False, progress: Callable[[int], Any] | None = None
    ) -> tuple[bytes, Account]:
        """See `ChunkCoder.encode`."""
        account, parts = Account(), list[Message]()
        with self._timed():
            batch = self.settings.batch
            for first in range(0, len(rows), batch):
                x, drawn = rows[first : first + batch], list[Tensor]()
                whole = self._whole(x).long()
                message = Message.empty(len(whole), self.module.device, FIRST)
                codec = self._alone(valid[first : first + batch], first, **({"trace": drawn} if trace else {}))
                codec.push(message, whole)
                parts.append(message.part(0, len(x)))
                account.net += parts[-1].bits()
                account.latents.append([z[: len(x)] for z in drawn])
                if progress:
                    progress(len(x))
            payload = Message.joined(parts).to_bytes()
        return payload, self._accounted(account, payload)

    def needed(self, only: slice, rows: int) -> slice:
        """See `ChunkCoder.needed`.

        Exact networks make no mistake, so that just these rows will do. Floats on another machine may, and of the wrong
        rows about one in a hundred ends as it began, so that only the checksum of the whole chunk tells.
        """
        return only if self.module.is_exact else slice(0, rows)

    def _decode(self, payload: bytes, valid: Tensor, only: slice, progress: Callable[[int], Any] | None) -> Tensor:
        where = wire.index(payload)
        if len(where.size) != len(valid):
            raise ValueError(f"expected {len(valid)} rows, got {len(where.size)}; the data are damaged")
        rows = torch.zeros(valid[only].shape, dtype=torch.uint8)
        batch, device = self.settings.batch, self.module.device
        for begin in range(only.start - only.start % batch, only.stop, batch):
            low, high = max(begin, only.start), min(begin + batch, only.stop)
            before, after = self._around(low, high - low)
            codec = self._alone(valid[low:high], low)
            mine = Message.of(wire.unpack(payload, low, high, where), device, FIRST)
            parts = [Message.empty(before, device, FIRST), mine, Message.empty(after, device, FIRST)]
            message = Message.joined(parts)
            found = codec.pop(message)[before : before + high - low]
            rows[low - only.start : high - only.start] = found.to(rows.dtype).cpu()
            if not bool(message.ended().all()):
                wrong = low - before + int((~message.ended()).nonzero()[0])
                raise ValueError(
                    f"row {wrong} does not end as it began, so it is wrong: decode with the device, library versions "
                    "and settings that encoded it"
                )
            if progress:
                progress(high - low)
        return rows

    def _alone(self, valid: Tensor, first: int, **options: Any) -> Codec:
        """The head's codec of a batch, in which the rows of `valid` stand from place first % batch on."""
        valid, before = self._whole(valid, first), self._around(first, len(valid))[0]
        number = torch.arange(len(valid), device=self.module.device) + first - before
        return self.codec(self.module, valid, number=number, **options)

    def _around(self, first: int, count: int) -> tuple[int, int]:
        """Rows that the networks see before and after `count` rows of a batch, from row `first` of the chunk on."""
        if self.module.is_exact:
            return 0, 0
        before = first % self.settings.batch
        return before, self.settings.batch - before - count

    def _whole(self, x: Tensor, first: int = 0) -> Tensor:
        before, after = self._around(first, len(x))
        x = x.to(self.module.device)
        return torch.cat([x.new_zeros(before, *x.shape[1:]), x, x.new_zeros(after, *x.shape[1:])])
