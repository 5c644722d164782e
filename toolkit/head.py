"""A trained module and its head as a codec of many rows: blocks, chunks, accounting, and the model's fingerprint."""

from __future__ import annotations

import hashlib
import json
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from lightning import LightningModule
from torch import Tensor

from toolkit.coding.ans import EmptyMessage, Message
from toolkit.coding.codecs import Codec

# (trained module, valid: bool [rows, ...]) -> codec of a block of int64 rows of that shape
CompressionHead = Callable[..., Codec]


class Settings(NamedTuple):
    """What encoder and decoder must agree on beside the model; stored in the header of a file."""

    batch: int  # rows a network call; fixed, because another batch size gives other floats
    lanes: int  # independent ANS stacks
    seed: int  # of the bits that bits-back coding starts from


@dataclass
class Account:
    """Where the bits of a chunk went; all in bits, for the whole chunk."""

    file: int = 0  # the payload
    net: float = 0.0  # what pushing the rows added
    initial: float = 0.0  # seed bits that the first rows needed and the payload holds
    seconds: float = 0.0  # in all
    coder_seconds: float = 0.0  # of the entropy coder alone, without the networks
    latents: list[list[Tensor]] = field(default_factory=list)  # of each block, int64 bins [rows, ...]; if asked for

    @property
    def lanes(self) -> float:
        """Bits that storing many stacks costs: rounding heads to bytes, and their index."""
        return self.file - self.net - self.initial


def choose_lanes(symbols: int) -> int:
    """Stacks for so many coded symbols: more code faster, each costs about ten bytes."""
    return min(max(1 << max(symbols // (1 << 16), 1).bit_length() - 1, 16), 512)


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

    module: in evaluation mode, on its device; head: see `CompressionHead`; settings: stored with the data.
    """

    def __init__(
        self, module: LightningModule, head: CompressionHead, settings: Settings, compiled: bool = False
    ) -> None:
        self.module, self.head, self.settings, self.compiled = module, head, settings, compiled
        self._growth: float | None = None
        self.coder_seconds = 0.0  # of the entropy coder alone, in the last `decode`

    def _start(self, words: int) -> Message:
        return Message.random(self.settings.lanes, words, self.settings.seed, self.module.device, self.compiled)

    @torch.inference_mode()
    def encode(
        self, rows: Tensor, valid: Tensor, trace: bool = False, progress: Callable[[int], Any] | None = None
    ) -> tuple[bytes, Account]:
        """uint8 [rows, c, h, w] and bool of the same shape -> the payload of a chunk, and where its bits went.

        trace: keep the coded latents in the account; progress: called with the number of rows after each block.
        """
        began = time.perf_counter()
        if self._growth is None:
            self._growth = self._measure_growth(rows[:1], valid[:1])
        ranges = list(blocks(len(rows), self.settings.batch, self._growth))
        message, before, latents = self._push(rows, valid, ranges, trace, progress)
        payload = struct.pack("<H", round(self._growth * 1000)) + message.to_bytes()
        account = Account(8 * len(payload), message.bits() - before, self._initial(message), latents=latents)
        account.seconds, account.coder_seconds = time.perf_counter() - began, message.seconds
        return payload, account

    def _push(
        self, rows: Tensor, valid: Tensor, ranges: list[tuple[int, int]], trace: bool = False,
        progress: Callable[[int], Any] | None = None,
    ) -> tuple[Message, float, list[list[Tensor]]]:  # fmt: skip
        """The message with all rows, the bits that it held before, and the latents of each block."""
        # Seed words that are not popped are not stored, so there may be plenty; more only if the model wants more.
        words = 4 + 2 * max(last - first for first, last in ranges) * rows[0].numel() // self.settings.lanes
        while True:
            message, latents = self._start(words), []
            before = message.bits()
            try:
                for first, last in ranges:
                    drawn: list[Tensor] = []
                    x, ok = self._block(rows[first:last]), self._block(valid[first:last])
                    self.head(self.module, ok, **({"trace": drawn} if trace else {})).push(message, x.long())
                    latents.append([z[: last - first] for z in drawn])
                    if progress:
                        progress(last - first)
                return message, before, latents
            except EmptyMessage:
                words *= 4
                if progress:
                    progress(-sum(len(z[0]) for z in latents) if trace else -first)

    def _block(self, x: Tensor) -> Tensor:
        """Always a full batch for the networks: rows that are not there have no valid places and cost nothing."""
        short = self.settings.batch - x.shape[0]
        x = x.to(self.module.device)
        return torch.cat([x, x.new_zeros(short, *x.shape[1:])]) if short else x

    def _initial(self, message: Message) -> float:
        """Seed bits that the message must keep: the words that were popped, and the seed bits of the heads."""
        start = self._start(0)
        return 32.0 * message.taken + float(start.head.double().log2().sum())

    @torch.inference_mode()
    def decode(self, payload: bytes, valid: Tensor, progress: Callable[[int], Any] | None = None) -> Tensor:
        """The payload of a chunk -> uint8 rows of the shape of `valid`. Raises ValueError if it is damaged."""
        if len(payload) < 2:
            raise ValueError(f"expected at least 2 bytes, got {len(payload)}; the data are damaged")
        growth = struct.unpack_from("<H", payload)[0] / 1000
        message = Message.from_bytes(payload[2:], self.module.device, self.compiled)
        if message.lanes != self.settings.lanes:
            raise ValueError(f"expected {self.settings.lanes} lanes, got {message.lanes}; the data are damaged")
        rows = torch.zeros(valid.shape, dtype=torch.uint8)
        for first, last in reversed(list(blocks(len(valid), self.settings.batch, growth))):
            x = self.head(self.module, self._block(valid[first:last])).pop(message)
            rows[first:last] = x[: last - first].to(torch.uint8).cpu()
            if progress:
                progress(last - first)
        self.coder_seconds = message.seconds
        if not message.is_random(self.settings.seed):
            raise ValueError(
                "the message does not end in the bits that it started from, so the rows are wrong: decode with the "
                "device, library versions and settings that encoded it"
            )
        return rows

    def _measure_growth(self, row: Tensor, valid: Tensor) -> float:
        """Code one row, and allow one more row in parallel for each time its net bits cover its initial bits."""
        message, before, _ = self._push(row, valid, [(0, 1)])
        ratio = (message.bits() - before) / max(32.0 * message.taken, 1.0)
        return min(max(round(0.8 * ratio, 3), 0.001), 60.0)


def fingerprint(module: LightningModule, settings: dict[str, Any]) -> str:
    """Identity of a model: SHA-256, in hex, over its weights (names, dtypes, shapes, values) and its configuration."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def rows_crc(rows: Tensor, valid: Tensor) -> int:
    """CRC-32 of the coded values of rows: uint8 and bool, both [rows, ...]; values that are not coded do not count."""
    return zlib.crc32(rows[valid].cpu().numpy().tobytes())
