"""Chunks of rows chained on one message: each block of rows is coded with the bits of those before it."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from toolkit.chunks.model import FIRST_LANES, Account, NetworkClock, RowCodec, RowModel, Settings
from toolkit.coding.codecs import Codec
from toolkit.coding.message import EmptyMessage, Message

MOST_WORDS = 1 << 22  # seed words a lane; a codec that finds them too few would find any number too few
GROWTH = struct.Struct("<HB")  # growth in 1/1000, number of doublings; then u32 block at which each happens


def blocks(rows: int, batch: int, growth: float) -> Iterator[tuple[int, int]]:
    """Ranges of rows coded in parallel: few at first, more as the message fills, so that initial bits are paid once.

    Coding b rows in parallel pops b times the latents of one before the first push, so a chunk that began with a full
    batch would pay the initial bits of a whole batch. growth: rows that each row on the message allows for.
    """
    first = 0
    while first < rows:
        last = min(rows, first + min(batch, 1 + int(first * growth)))
        yield first, last
        first = last


class Coder:
    """Encodes and decodes chunks of rows with a trained module.

    module: in evaluation mode, on its device; codec: see `RowCodec`; settings: stored with the data. Raises ValueError
    for settings out of range.
    """

    def __init__(self, module: RowModel, codec: RowCodec, settings: Settings) -> None:
        self.module, self.codec, self.settings = module, codec, settings.check()
        self._began, self._networks = 0.0, NetworkClock(module.device)
        self.first_lanes = min(max(FIRST_LANES, settings.lanes // 16), settings.lanes)
        self.coder_seconds = 0.0  # of all that is no network, in the last `decode`

    @torch.inference_mode()
    def encode(
        self, rows: Tensor, valid: Tensor, trace: bool = False, progress: Callable[[int], Any] | None = None
    ) -> tuple[bytes, Account]:
        """See `ChunkCoder.encode`."""
        with self._timed():
            growth, demand = self._try_one(rows[:1], valid[:1])
            ranges = list(blocks(len(rows), self.settings.batch, growth))
            # Seed words that are not popped are not stored, so there may be plenty; more only if the model wants more.
            words = 4 + 2 * rows[0].numel() // self.first_lanes
            while True:
                account, message = Account(), self._start(words)
                start = message.bits() + 31 * message.lanes
                doublings: list[int] = []
                try:
                    for i, (first, last) in enumerate(ranges):
                        while self._can_widen(message, (last - first) * demand):
                            message.widen()
                            doublings.append(i)
                        before, drawn = message.bits(), list[Tensor]()
                        codec = self._codec(valid[first:last], **({"trace": drawn} if trace else {}))
                        codec.push(message, self._block(rows[first:last]).long())
                        account.net += message.bits() - before
                        account.latents.append([z[: last - first] for z in drawn])
                        if progress:
                            progress(last - first)
                    break
                except EmptyMessage:  # the first row was not like the others: begin again, with more caution
                    if words > MOST_WORDS:
                        raise
                    if message.lanes > self.first_lanes:
                        demand *= 4  # new lanes have no seed words: what helps them is to come later
                    else:
                        words *= 4
                    growth = max(round(0.5 * growth, 3), 0.001)  # as the payload stores it
                    ranges = list(blocks(len(rows), self.settings.batch, growth))
                    if progress:
                        progress(-first)
            payload = GROWTH.pack(round(growth * 1000), len(doublings)) + struct.pack(f"<{len(doublings)}I", *doublings)
            payload += message.to_bytes()
            account.initial = start - 32.0 * (message.seeded - message.taken)
        return payload, self._accounted(account, payload)

    def needed(self, only: slice, rows: int) -> slice:
        """See `ChunkCoder.needed`: all, as each row decodes with the bits of others."""
        return slice(0, rows)

    @torch.inference_mode()
    def decode(
        self, payload: bytes, valid: Tensor, only: slice | None = None, progress: Callable[[int], Any] | None = None
    ) -> Tensor:
        """See `ChunkCoder.decode`."""
        with self._timed():
            rows = self._decode(payload, valid, only or slice(0, len(valid)), progress)
        self.coder_seconds = self._spent()
        return rows

    def _decode(self, payload: bytes, valid: Tensor, only: slice, progress: Callable[[int], Any] | None) -> Tensor:
        growth, doublings, at = self._preamble(payload)
        message = Message.from_bytes(payload[at:], self.module.device)
        first_lanes = message.lanes >> len(doublings)
        if first_lanes << len(doublings) != message.lanes or not 1 <= message.lanes <= self.settings.lanes:
            raise ValueError(
                f"expected lanes that doubled {len(doublings)} times to {self.settings.lanes} or fewer, got "
                f"{message.lanes}; the data are damaged"
            )
        rows = torch.zeros(valid.shape, dtype=torch.uint8)
        ranges = list(enumerate(blocks(len(valid), self.settings.batch, growth)))
        for i, (first, last) in reversed(ranges):
            rows[first:last] = self._codec(valid[first:last]).pop(message)[: last - first].to(rows.dtype).cpu()
            for _ in range(doublings.count(i)):
                message.narrow()
            if progress:
                progress(last - first)
        if message.lanes != first_lanes or not message.is_random(self.settings.seed):
            raise ValueError(
                "the message does not end in the bits that it started from, so the rows are wrong: decode with the "
                "device, library versions and settings that encoded it"
            )
        return rows[only]

    def _start(self, words: int) -> Message:
        return Message.random(self.first_lanes, words, self.settings.seed, self.module.device)

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        """Around what encodes or decodes: notes what it takes, and what networks take of it."""
        self._began = time.perf_counter()
        with NetworkClock(self.module.device) as self._networks:
            yield

    def _accounted(self, account: Account, payload: bytes) -> Account:
        """The account of a payload, with its size and what it took."""
        account.file = 8 * len(payload)
        account.seconds, account.coder_seconds = time.perf_counter() - self._began, self._spent()
        return account

    def _spent(self) -> float:
        return time.perf_counter() - self._began - self._networks.seconds

    def _codec(self, valid: Tensor, **options: Any) -> Codec:
        return self.codec(self.module, self._block(valid), **options)

    def _block(self, x: Tensor) -> Tensor:
        """Rows for the networks, filled up to a power of two or the batch: few shapes, the same when decoding.

        Rows that are not there have no valid places and cost nothing.
        """
        short = min(1 << (x.shape[0] - 1).bit_length(), self.settings.batch) - x.shape[0]
        x = x.to(self.module.device)
        return torch.cat([x, x.new_zeros(short, *x.shape[1:])]) if short else x

    def _can_widen(self, message: Message, demand: float) -> bool:
        """Whether each of twice as many lanes could pop its share of `demand` bits, and half as much again."""
        lanes = 2 * message.lanes
        if lanes > self.settings.lanes:
            return False
        return int((message.size - message.floor).min()) // 2 >= 8 + 1.5 * demand / 32 / lanes

    def _try_one(self, row: Tensor, valid: Tensor) -> tuple[float, float]:
        """Code one row: how many rows in parallel each coded row allows for, and the bits that a row pops first."""
        words = 4 + 2 * row[0].numel() // self.first_lanes
        while True:
            message = self._start(words)
            before = message.bits()
            try:
                self._codec(valid).push(message, self._block(row).long())
            except EmptyMessage:
                if words > MOST_WORDS:
                    raise
                words *= 4
                continue
            demand = max(32.0 * message.taken, 1.0)
            return min(max(round(0.5 * (message.bits() - before) / demand, 3), 0.001), 60.0), demand

    def _preamble(self, payload: bytes) -> tuple[float, list[int], int]:
        """Growth, the blocks before which lanes double, and where the message begins."""
        if len(payload) < GROWTH.size:
            raise ValueError(f"expected at least {GROWTH.size} bytes, got {len(payload)}; the data are damaged")
        growth, count = GROWTH.unpack_from(payload)
        end = GROWTH.size + 4 * count
        if growth == 0 or 1 << count > self.settings.lanes or end > len(payload):
            raise ValueError(
                f"expected a growth above 0 and few doublings, got {growth} and {count}; the data are damaged"
            )
        return growth / 1000, list(struct.unpack_from(f"<{count}I", payload, GROWTH.size)), end
