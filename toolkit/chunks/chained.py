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
from torch import Tensor

from toolkit.coding.codecs import Codec
from toolkit.coding.message import EmptyMessage, Message
from toolkit.model import Model

# (trained module, valid: bool [rows, ...]) -> codec of a block of int64 rows of that shape
CompressionHead = Callable[..., Codec]


FIRST_LANES = 4  # a chunk begins with so many, or 1/16 of its last; their heads are part of its initial bits
MOST_BATCH, MOST_LANES = 1 << 12, 1 << 16  # of settings, so that those of a hostile file cannot ask for all memory
MOST_WORDS = 1 << 22  # seed words a lane; a codec that finds them too few would find any number too few
PREAMBLE = struct.Struct("<HB")  # growth in 1/1000, number of doublings; then u32 block at which each happens


class Settings(NamedTuple):
    """What encoder and decoder must agree on beside the model; stored in the header of a file."""

    batch: int  # most rows a network call; the same on both sides, because another number gives other floats
    lanes: int  # independent ANS stacks once the message holds enough, a power of two
    seed: int  # of the bits that bits-back coding starts from

    def check(self) -> Settings:
        """Itself. Raises ValueError for a value that is no integer or out of range."""
        for name, low, high in (("batch", 1, MOST_BATCH), ("lanes", 1, MOST_LANES), ("seed", 0, 2**63 - 1)):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"expected {name} to be a whole number from {low} to {high}, got {value!r}; change it")
        return self


@dataclass
class Account:
    """Where the bits of a chunk went; all in bits, for the whole chunk."""

    file: int = 0  # the payload
    net: float = 0.0  # what pushing the rows added
    initial: float = 0.0  # seed bits that the first rows needed and the payload holds
    seconds: float = 0.0  # in all
    coder_seconds: float = 0.0  # of all that is no network
    latents: list[list[Tensor]] = field(default_factory=list)  # of each block, int64 bins [rows, ...]; if asked for

    @property
    def lanes(self) -> float:
        """Bits that storing many stacks costs: rounding heads to bytes, and their index."""
        return self.file - self.net - self.initial


class NetworkClock:
    """Seconds spent inside calls of modules while the block runs; the rest of its time is the coder's."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.seconds, self._depth, self._began = 0.0, 0, 0.0
        self._device = torch.device(device)

    def __enter__(self) -> NetworkClock:
        hooks = torch.nn.modules.module
        self._handles = [
            hooks.register_module_forward_pre_hook(self._enter),
            hooks.register_module_forward_hook(self._leave, always_call=True),
        ]
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _enter(self, module: torch.nn.Module, arguments: Any) -> None:
        if self._depth == 0:
            self._began = self._now()
        self._depth += 1

    def _leave(self, module: torch.nn.Module, arguments: Any, output: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.seconds += self._now() - self._began

    def _now(self) -> float:
        if self._device.type == "cuda":  # which is given work, and not done with it
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def choose_lanes(symbols: int) -> int:
    """Stacks for so many coded symbols, a power of two: a GPU wants many; each costs about ten bits."""
    return min(max(1 << max(symbols >> 12, 1).bit_length() - 1, FIRST_LANES), MOST_LANES)


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

    module: in evaluation mode, on its device; head: see `CompressionHead`; settings: stored with the data. Raises
    ValueError for settings out of range.
    """

    def __init__(self, module: Model, head: CompressionHead, settings: Settings) -> None:
        self.module, self.head, self.settings = module, head, settings.check()
        self._began, self._networks = 0.0, NetworkClock(module.device)
        self.first_lanes = min(max(FIRST_LANES, settings.lanes // 16), settings.lanes)
        self.coder_seconds = 0.0  # of all that is no network, in the last `decode`

    @torch.inference_mode()
    def encode(
        self, rows: Tensor, valid: Tensor, trace: bool = False, progress: Callable[[int], Any] | None = None
    ) -> tuple[bytes, Account]:
        """uint8 [rows, c, h, w] and bool of the same shape -> the payload of a chunk, and where its bits went.

        trace: keep the coded latents in the account; progress: called with the number of rows after each block.
        """
        self._began = time.perf_counter()
        with NetworkClock(self.module.device) as self._networks:
            payload, account = self._encode(rows, valid, trace, progress)
        account.seconds = time.perf_counter() - self._began
        account.coder_seconds = self._spent()
        return payload, account

    def _encode(
        self, rows: Tensor, valid: Tensor, trace: bool, progress: Callable[[int], Any] | None
    ) -> tuple[bytes, Account]:
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
        payload = PREAMBLE.pack(round(growth * 1000), len(doublings)) + struct.pack(f"<{len(doublings)}I", *doublings)
        payload += message.to_bytes()
        account.file = 8 * len(payload)
        account.initial = start - 32.0 * (message.seeded - message.taken)
        return payload, account

    @torch.inference_mode()
    def decode(self, payload: bytes, valid: Tensor, progress: Callable[[int], Any] | None = None) -> Tensor:
        """The payload of a chunk -> uint8 rows of the shape of `valid`. Raises ValueError if it is damaged."""
        self._began = time.perf_counter()
        with NetworkClock(self.module.device) as self._networks:
            rows = self._decode(payload, valid, progress)
        self.coder_seconds = self._spent()
        return rows

    def _decode(self, payload: bytes, valid: Tensor, progress: Callable[[int], Any] | None) -> Tensor:
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
            rows[first:last] = self._codec(valid[first:last]).pop(message)[: last - first].to(torch.uint8).cpu()
            for _ in range(doublings.count(i)):
                message.narrow()
            if progress:
                progress(last - first)
        if message.lanes != first_lanes or not message.is_random(self.settings.seed):
            raise ValueError(
                "the message does not end in the bits that it started from, so the rows are wrong: decode with the "
                "device, library versions and settings that encoded it"
            )
        return rows

    def _start(self, words: int) -> Message:
        return Message.random(self.first_lanes, words, self.settings.seed, self.module.device)

    def _spent(self) -> float:
        return time.perf_counter() - self._began - self._networks.seconds

    def _codec(self, valid: Tensor, **options: Any) -> Codec:
        return self.head(self.module, self._block(valid), **options)

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
        if len(payload) < PREAMBLE.size:
            raise ValueError(f"expected at least {PREAMBLE.size} bytes, got {len(payload)}; the data are damaged")
        growth, count = PREAMBLE.unpack_from(payload)
        end = PREAMBLE.size + 4 * count
        if growth == 0 or 1 << count > self.settings.lanes or end > len(payload):
            raise ValueError(
                f"expected a growth above 0 and few doublings, got {growth} and {count}; the data are damaged"
            )
        return growth / 1000, list(struct.unpack_from(f"<{count}I", payload, PREAMBLE.size)), end


def fingerprint(module: Model, settings: dict[str, Any]) -> str:
    """Identity of a model: SHA-256, in hex, over its weights (names, dtypes, shapes, values) and its configuration."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        # As bytes, because numpy does not know bfloat16.
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def rows_crc(rows: Tensor, valid: Tensor) -> int:
    """CRC-32 of the coded values of rows: uint8 and bool, both [rows, ...]; values that are not coded do not count."""
    return zlib.crc32(rows[valid].cpu().numpy().tobytes())
