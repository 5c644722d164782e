"""A batch of short rANS streams, one an image, each of which ends within a byte or two of its information.

`Message` shares what ends cost among many symbols; an image that must be decoded alone cannot. Here a head starts at 1
instead of 2**31, so nothing is paid for an empty stream, and a stream's own length says how its bytes are split.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from toolkit.coding.ans import MASK, MAX_PRECISION, STEPS, WORD, Find
from toolkit.coding.packing import LOW, check_room


class Streams:
    """Bit stacks, one a lane, of which codecs use push and pop as of a `Message`; bits-back codecs have no use for it.

    The first symbols meet small heads: the first that does not start at 0 costs up to `precision` bits, so a precision
    of 16 to 18 bits is better here than the 24 of long messages.
    """

    def __init__(self, lanes: int, device: torch.device | str = "cpu") -> None:
        self.head = torch.ones(lanes, dtype=torch.int64, device=device)  # in [1, 2**63); below LOW without words only
        self.tail = torch.zeros(lanes, 0, dtype=torch.int64, device=device)  # words; at and above size: garbage
        self.size = torch.zeros(lanes, dtype=torch.int64, device=device)
        self.compiled = False  # blocks of steps are too short to pay for compiling

    @property
    def lanes(self) -> int:
        return self.head.shape[0]

    def bits(self) -> Tensor:
        """Bits of each stream: float64 [lanes]."""
        return self.head.double().log2() + WORD * self.size

    def push(self, start: Tensor, freq: Tensor, precision: int, steps: int = STEPS) -> None:
        """As `Message.push`: int64 [n, lanes] each, the last step first."""
        if not 1 <= precision <= MAX_PRECISION or start.shape != freq.shape or start.shape[1:] != self.head.shape:
            raise ValueError(
                f"push: expected start and freq of shape [n, {self.lanes}] and at most {MAX_PRECISION} bits, got "
                f"{list(start.shape)}, {list(freq.shape)} and {precision}; give each image a lane of its own"
            )
        self.tail = torch.cat([self.tail, self.tail.new_zeros(self.lanes, start.shape[0])], 1)
        head = self.head
        for i in range(start.shape[0] - 1, -1, -1):
            spill = ((head >> (63 - precision)) >= freq[i]).nonzero()[:, 0]
            if spill.numel():
                self.tail[spill, self.size[spill]] = head[spill] & MASK
                self.size[spill] += 1
                head[spill] = head[spill] >> WORD
            quotient = head // freq[i]
            head = (quotient << precision) + (head - quotient * freq[i]) + start[i]
        self.head = head
        self.tail = self.tail[:, : int(self.size.max())].contiguous()

    def pop(
        self, valid: Tensor, find: Find, params: Sequence[Tensor], tables: Sequence[Tensor], precision: int,
        steps: int = STEPS, sure: Find | None = None, out: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """As `Message.pop`, but a stream without words left keeps a head below 2**31: it began so."""
        symbols = valid.new_empty(valid.shape, dtype=torch.int64) if out is None else out
        valid = valid.bool()
        for i in range(valid.shape[0]):
            u = self.head & ((1 << precision) - 1)
            symbol, start, freq = find(u, *(p[..., i, :] for p in params), *tables)
            missed = (valid[i] & ((start > u) | (u - start >= freq))).nonzero()[:, 0]
            if sure and missed.numel():
                again = sure(u[missed], *(p[..., i, missed] for p in params), *tables)
                symbol[missed], start[missed], freq[missed] = again
            head = torch.where(valid[i], freq * (self.head >> precision) + u - start, self.head)
            refill = ((head < LOW) & (self.size > 0)).nonzero()[:, 0]
            if refill.numel():
                self.size[refill] -= 1
                head[refill] = (head[refill] << WORD) | self.tail[refill, self.size[refill]]
            self.head = head
            symbols[i] = torch.where(valid[i], symbol, 0)
        return symbols[: len(valid)]

    def ended(self) -> Tensor:
        """Whether each stream is as it began, as it must be when all that was pushed is popped: bool [lanes]."""
        return (self.head == 1) & (self.size == 0)

    def to_bytes(self) -> list[bytes]:
        """Each stream: its head, little-endian, 5 to 8 bytes if words follow, else as few as it has; then the words."""
        found = []
        for head, size, tail in zip(self.head.tolist(), self.size.tolist(), self.tail.tolist(), strict=True):
            least = 5 if size else 0 if head == 1 else (head.bit_length() + 7) // 8
            data = head.to_bytes(max(least, (head.bit_length() + 7) // 8), "little") if least else b""
            found.append(data + b"".join(word.to_bytes(4, "little") for word in tail[:size][::-1]))
        return found

    @staticmethod
    def from_bytes(data: Sequence[bytes], device: torch.device | str = "cpu") -> Streams:
        """The streams that `to_bytes` wrote. Raises ValueError for bytes that are no stream."""
        streams = Streams(len(data))
        heads, words = [], []
        for i, stream in enumerate(data):
            split = len(stream) if len(stream) <= 8 else 5 + (len(stream) - 5) % 4
            head = int.from_bytes(stream[:split], "little") if stream else 1
            words.append([int.from_bytes(stream[j : j + 4], "little") for j in range(split, len(stream), 4)][::-1])
            if not 1 <= head < 1 << 63 or (words[-1] and head < LOW):
                raise ValueError(f"stream {i} of {len(data)}: expected a head in [2**31, 2**63), got {head}: damaged")
            heads.append(head)
        streams.size = torch.tensor([len(w) for w in words], dtype=torch.int64).to(device)
        width = max(map(len, words), default=0)
        check_room(len(words), width, sum(map(len, words)))
        streams.tail = torch.tensor([w + [0] * (width - len(w)) for w in words], dtype=torch.int64).to(device)
        streams.head = torch.tensor(heads, dtype=torch.int64).to(device)
        return streams


class Tally:
    """What codecs would push on each lane, in bits, without a stream: for an encoder that compares choices."""

    def __init__(self, lanes: int, device: torch.device | str = "cpu") -> None:
        self.bits = torch.zeros(lanes, dtype=torch.float64, device=device)
        self.head = self.size = self.bits  # what codecs put back after an error
        self.compiled = False

    @property
    def lanes(self) -> int:
        return self.bits.shape[0]

    def push(self, start: Tensor, freq: Tensor, precision: int, steps: int = STEPS) -> None:
        """As `Streams.push`: int64 [n, lanes] each."""
        self.bits = self.bits + (precision - freq.double().log2()).sum(0)
