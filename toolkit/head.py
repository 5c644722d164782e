"""A trained module and its head as a codec of many rows: blocks, chunks, accounting, and the model's fingerprint."""

from __future__ import annotations

import hashlib
import json
import math
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from lightning import LightningModule
from torch import Tensor

from toolkit.coding.ans import Message
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
    seconds: float = 0.0
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

    def _codec(self, valid: Tensor, **options: Any) -> Codec:
        return self.head(self.module, valid, **options)

    def _padded(self, x: Tensor) -> Tensor:
        """Always a full batch for the networks: rows that are not there have no valid places and cost nothing."""
        short = self.settings.batch - x.shape[0]
        return torch.cat([x, x.new_zeros(short, *x.shape[1:])]) if short else x

    def _start(self, latents_bits: int) -> Message:
        words = math.ceil(latents_bits / 32 / self.settings.lanes) + 4
        return Message.random(self.settings.lanes, words, self.settings.seed, self.module.device, self.compiled)

    @torch.inference_mode()
    def encode(self, rows: Tensor, valid: Tensor, trace: bool = False) -> tuple[bytes, Account]:
        """uint8 [rows, c, h, w] and bool of the same shape -> the payload of a chunk, and where its bits went."""
        began = time.perf_counter()
        growth = self._measure_growth(rows, valid) if self._growth is None else self._growth
        message = self._start(self._seed_bits(rows))
        before = message.bits()
        account = Account()
        for first, last in blocks(len(rows), self.settings.batch, growth):
            x, ok = self._padded(rows[first:last].to(message.head.device)), self._padded(valid[first:last])
            latents: list[Tensor] = []
            self._codec(ok.to(x.device), **({"trace": latents} if trace else {})).push(message, x.long())
            account.latents.append([z[: last - first] for z in latents])
        payload = struct.pack("<H", round(growth * 1000)) + message.to_bytes()
        account.file, account.net = 8 * len(payload), message.bits() - before
        kept = Message(message.head, message.tail, message.size - message.floor, message.floor, False)
        account.initial = kept.bits() + 31 * message.lanes - account.net
        account.seconds = time.perf_counter() - began
        return payload, account

    @torch.inference_mode()
    def decode(self, payload: bytes, valid: Tensor) -> Tensor:
        """The payload of a chunk -> uint8 rows of the shape of `valid`. Raises ValueError if it is damaged."""
        if len(payload) < 2:
            raise ValueError(f"chunk: expected at least 2 bytes, got {len(payload)}; the data are damaged")
        growth = struct.unpack_from("<H", payload)[0] / 1000
        message = Message.from_bytes(payload[2:], self.module.device, self.compiled)
        if message.lanes != self.settings.lanes:
            raise ValueError(f"chunk: expected {self.settings.lanes} lanes, got {message.lanes}; the data are damaged")
        rows = torch.zeros(valid.shape, dtype=torch.uint8)
        for first, last in reversed(list(blocks(len(valid), self.settings.batch, growth))):
            ok = self._padded(valid[first:last]).to(message.head.device)
            rows[first:last] = self._codec(ok).pop(message)[: last - first].to(torch.uint8).cpu()
        if not bool((message.head == self._start(0).head).all()):
            raise ValueError(
                "chunk: the message does not end in the bits that it started from, so the rows are wrong; decode with "
                "the machine, library versions and settings that encoded it"
            )
        return rows

    def _seed_bits(self, rows: Tensor) -> int:
        """Seed bits that no block can use up: every latent pops less than a word; unused ones are not stored."""
        return 64 * self.settings.batch * rows[0].numel()

    def _measure_growth(self, rows: Tensor, valid: Tensor) -> float:
        """Code one row, and allow one more row in parallel for each time its net bits cover its initial bits."""
        self._growth = 0.001
        x, ok = rows[:1], valid[:1]
        message = self._start(self._seed_bits(rows))
        before = message.bits()
        codec = self._codec(self._padded(ok).to(message.head.device))
        codec.push(message, self._padded(x.to(message.head.device)).long())
        net = max(message.bits() - before, 0.0)
        initial = 32.0 * float((message.size.new_tensor(0) + self._start(self._seed_bits(rows)).size - message.floor).sum())
        self._growth = min(60.0, max(0.001, round(0.8 * net / max(initial, 1.0), 3)))
        return self._growth


def fingerprint(module: LightningModule, settings: dict[str, Any]) -> str:
    """Identity of a model: SHA-256, in hex, over its weights (names, dtypes, shapes, values) and its configuration."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def rows_crc(rows: Tensor) -> int:
    """CRC-32 of decoded rows: uint8, any shape."""
    return zlib.crc32(rows.contiguous().cpu().numpy().tobytes())
