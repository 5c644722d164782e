"""Rows coded each alone: any one of a chunk is decoded by itself, for models that need no chain of rows.

A payload is a message with a lane for each row: see `coding.wire`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from toolkit.chunks.chained import Account, Coder, NetworkClock
from toolkit.coding import wire
from toolkit.coding.codecs import Codec
from toolkit.coding.message import Message

FIRST = 1  # head of a lane that holds nothing: a row costs as many bits as its lane has


class AloneCoder(Coder):
    """Encodes and decodes chunks of rows, each row a stream of its own, with a head that codes one row a lane.

    head(module, valid, number, trace) -> codec of int64 [rows, ...]; number: int64 [rows], of the rows in the chunk.
    The networks always see whole batches with each row at its own place, so that a row decoded alone meets the same
    arithmetic as one that is decoded with the others; exact networks, to whom that is one, see no more than is decoded.
    """

    def _encode(
        self, rows: Tensor, valid: Tensor, trace: bool, progress: Callable[[int], Any] | None
    ) -> tuple[bytes, Account]:
        account, parts = Account(), list[Message]()
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
        account.file = 8 * len(payload)
        return payload, account

    def _decode(self, payload: bytes, valid: Tensor, progress: Callable[[int], Any] | None) -> Tensor:
        return self._decode_range(payload, valid, 0, len(valid), progress)

    @torch.inference_mode()
    def decode_range(self, payload: bytes, valid: Tensor, first: int, count: int) -> Tensor:
        """Rows first, first + 1, ... of a chunk of `count`, as many as `valid` (bool [rows, c, h, w]) has; no others.

        Raises ValueError if the payload is damaged, or has another number of rows.
        """
        began = time.perf_counter()
        with NetworkClock(self.module.device) as networks:
            rows = self._decode_range(payload, valid, first, count, None)
        self.coder_seconds = time.perf_counter() - began - networks.seconds
        return rows

    def _decode_range(
        self, payload: bytes, valid: Tensor, first: int, count: int, progress: Callable[[int], Any] | None
    ) -> Tensor:  # fmt: skip
        if first + len(valid) > count:
            raise ValueError(f"expected rows {first} to {first + len(valid)} of a chunk, got one of {count}")
        where = wire.index(payload)
        if len(where.size) != count:
            raise ValueError(f"expected {count} rows, got {len(where.size)}; the data are damaged")
        rows = torch.zeros(valid.shape, dtype=torch.uint8)
        batch, device = self.settings.batch, self.module.device
        for begin in range(first - first % batch, first + len(valid), batch):
            low, high = max(begin, first), min(begin + batch, first + len(valid))
            here = slice(low - first, high - first)
            before, after = self._around(low, high - low)
            codec = self._alone(valid[here], low)
            mine = Message.of(wire.unpack(payload, low, high, where), device, FIRST)
            parts = [Message.empty(before, device, FIRST), mine, Message.empty(after, device, FIRST)]
            message = Message.joined(parts)
            rows[here] = codec.pop(message)[before : before + high - low].to(torch.uint8).cpu()
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
        return self.head(self.module, valid, number=number, **options)

    def _around(self, first: int, count: int) -> tuple[int, int]:
        """Rows that the networks see before and after `count` rows of a batch, from row `first` of the chunk on."""
        if getattr(self.module.net, "is_exact", False):
            return 0, 0
        before = first % self.settings.batch
        return before, self.settings.batch - before - count

    def _whole(self, x: Tensor, first: int = 0) -> Tensor:
        before, after = self._around(first, len(x))
        x = x.to(self.module.device)
        return torch.cat([x.new_zeros(before, *x.shape[1:]), x, x.new_zeros(after, *x.shape[1:])])
