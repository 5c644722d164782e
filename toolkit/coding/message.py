"""A batch of asymmetric numeral system (rANS) stacks, and the tensor program that pushes and pops one step of them.

Each lane is an independent last-in-first-out stack of bits: a 63-bit head and a tail of 32-bit words
(Duda 2009, arXiv:0902.0271; Giesen 2014, arXiv:1402.3392). What is here is the readable reference. `kernels` has the
same arithmetic as loops, which write the same words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from toolkit.coding import wire
from toolkit.coding.hashing import philox
from toolkit.coding.wire import LOW

WORD = 32  # bits a tail word; full heads stay in [LOW, LOW << WORD) = [2**31, 2**63)
MASK = (1 << WORD) - 1
MAX_PRECISION = 28  # above it, head // freq has too few bits left for exact rates
FIRSTS = (LOW, 0, 1)  # heads that a lane can begin with

_HEAD_PARTS = (16, 15)  # bits of a fresh head, 31, in parts that one symbol can have


class EmptyMessage(ValueError):
    """A pop wanted more bits than the message holds."""


class NoFrequency(ValueError):
    """A push met a symbol without frequency; the message is as it was."""


@dataclass(eq=False)
class Message:
    """A batch of bit stacks; `random` starts one with seed bits for bits-back coding, `empty` one without.

    `floor` is the lowest size that each lane has had: words below it were never touched, so a file need not hold them.
    `first` is the head that an empty lane has. With 2**31 popping an empty lane is an error. With 0 or 1 a lane costs
    as many bits as it has significant ones, and popping below its start gives what zeros decode to: for short lanes.
    """

    head: Tensor  # int64 [lanes], in [2**31, 2**63); with first=0 or 1 smaller where there are no words
    tail: Tensor  # int32 [lanes, capacity], bits of unsigned words; at and above size: garbage
    size: Tensor  # int64 [lanes], words in use
    floor: Tensor  # int64 [lanes], least size so far
    seeded: int = 0  # words that it started with, all lanes together
    bound: int = 1 << 62  # at least the largest size; kept on the host, because asking a GPU stalls it
    first: int = LOW
    faults: Tensor | None = None  # int32 [1], what compiled code could not raise; see `check`

    @staticmethod
    def empty(lanes: int, device: torch.device | str = "cpu", first: int = LOW) -> Message:
        """A message of `lanes` stacks that hold no bits. first: 2**31, 0 or 1, see the class."""
        if first not in FIRSTS:
            raise ValueError(f"expected a first head of 2**31, 0 or 1, got {first}")
        head = torch.full((lanes,), first, dtype=torch.int64, device=device)
        size = torch.zeros(lanes, dtype=torch.int64, device=device)
        tail = torch.zeros(lanes, 0, dtype=torch.int32, device=device)
        return Message(head, tail, size, size.clone(), bound=0, first=first)

    @staticmethod
    def random(lanes: int, words: int, seed: int, device: torch.device | str = "cpu") -> Message:
        """A message of `lanes` stacks, each with `words` words of seed bits below a head with 31 more.

        All bits of the head are random: with zero low bits the first pop would always return the same tail symbol. The
        bits are Philox's (docs/format.md), as no library's own generator may be part of a file. seed: in [0, 2**64).
        """
        lane, block = torch.arange(lanes)[None], torch.arange(-(-words // 4))[:, None]

        def bits(block: Tensor, kind: int) -> Tensor:  # int64 [len(block), 4, lanes], in [0, 2**32)
            counter = [x.expand(len(block), lanes) for x in (block, lane, torch.tensor(kind), torch.tensor(0))]
            return torch.stack(philox(counter, (seed & MASK, seed >> WORD)), 1)

        head = LOW + (bits(torch.zeros(1, 1, dtype=torch.int64), 1)[0, 0] >> 1)
        # From the top of the stack downwards: more words leave those above them as they are.
        tail = bits(block, 0).reshape(-1, lanes)[:words].flip(0).T.to(torch.int32).contiguous().to(device)
        size = torch.full((lanes,), words, dtype=torch.int64, device=device)
        return Message(head.to(device), tail, size, size.clone(), words * lanes, words)

    def is_random(self, seed: int) -> bool:
        """Whether this is what is left of a `random` message of this seed when all that was pushed is popped."""
        words = int(self.size.max())
        fresh = Message.random(self.lanes, words, seed, self.head.device)
        depth = torch.arange(1, words + 1, device=self.head.device)  # from the top of each lane
        mine = self.tail.gather(1, (self.size[:, None] - depth).clamp(min=0)) if words else fresh.tail
        same = (mine == fresh.tail.flip(1)) | (depth > self.size[:, None])
        return bool((self.head == fresh.head).all() and same.all())

    def ended(self) -> Tensor:
        """Whether each lane is as `empty` makes it, as it must be when all that was pushed is popped: bool [lanes]."""
        return (self.head == self.first) & (self.size == 0)

    @property
    def lanes(self) -> int:
        return self.head.shape[0]

    @property
    def taken(self) -> int:
        """Words that the message started with and that were popped: they stay part of what a decoder needs."""
        return self.seeded - int(self.floor.sum())

    def bits(self) -> float:
        """Bits on the message, all lanes together; see `lane_bits`."""
        return float(self.lane_bits().sum())

    def lane_bits(self) -> Tensor:
        """Float64 [lanes]: 32 bits a word in use, and log2 of what a head is above the first one."""
        heads = (self.head.clamp(min=1).double() / max(self.first, 1)).log2()
        return self.size * WORD + heads

    def push(self, start: Tensor, freq: Tensor, precision: int) -> None:
        """Push a symbol on each of the first lanes: int64 [n], intervals [start, start + freq) of [0, 2**precision).

        A symbol with start 0 and freq 2**precision costs nothing and leaves its lane as it is. Raises NoFrequency for a
        freq below 1.
        """
        n = len(start)
        if n > self.lanes or start.shape != freq.shape or start.dim() != 1:
            raise ValueError(
                f"push: expected start and freq of one shape [n], n at most {self.lanes}, got {list(start.shape)} and "
                f"{list(freq.shape)}; push a step at a time"
            )
        if bool((freq < 1).any()):
            raise NoFrequency("push: expected symbols with frequencies of at least 1, got others")
        self.reserve(1)
        self.bound += 1
        head, size = self.head[:n], self.size[:n]
        spill = (head >> (63 - precision)) >= freq
        lane = torch.arange(n, device=head.device)
        # Where nothing spills, what is written above the real words is overwritten by the next.
        self.tail[lane, size] = head.to(torch.int32)
        size += spill
        kept = torch.where(spill, head >> WORD, head)
        quotient = kept // freq
        head.copy_((quotient << precision) + (kept - quotient * freq) + start)

    def slots(self, n: int, precision: int) -> Tensor:
        """The place in [0, 2**precision) that the next symbol of each of the first n lanes has: int64 [n]."""
        return self.head[:n] & ((1 << precision) - 1)

    def take(self, start: Tensor, freq: Tensor, precision: int) -> None:
        """Take the symbols off whose intervals hold `slots`: int64 [n] each. Undoes `push`.

        Raises EmptyMessage if a lane of a message with first=2**31 has too few words.
        """
        n = len(start)
        head, size = self.head[:n], self.size[:n]
        left = freq * (head >> precision) + (head & ((1 << precision) - 1)) - start
        refill = (left < LOW) & ((size > 0) | (self.first == LOW))
        if not self.tail.shape[1]:
            self.reserve(1)  # something to read where nothing is left
        word = self.tail[torch.arange(n, device=head.device), (size - 1).clamp(min=0)].long() & MASK
        head.copy_(torch.where(refill, (left << WORD) | word, left))
        size -= refill.long()
        torch.minimum(self.floor, self.size, out=self.floor)
        self.check_floor()

    def check(self) -> None:
        """Raise what code compiled by torch.compile could not: EmptyMessage or NoFrequency."""
        if self.faults is not None and int(self.faults) & 2:
            raise NoFrequency("push: expected symbols with frequencies of at least 1, got others; the message is lost")
        self.check_floor()

    def check_floor(self) -> None:
        """Raise EmptyMessage if more words were popped from a lane than it had."""
        if self.lanes and int(self.floor.min()) < 0:
            lane = int(self.floor.argmin())
            raise EmptyMessage(
                f"pop: lane {lane} of {self.lanes} needs {-int(self.floor[lane])} more words than it holds; start from "
                "Message.random with more words, or push more before popping"
            )

    def widen(self) -> None:
        """Double the lanes: each gives half of its own words and 31 bits, as a head, to a new one. `narrow` undoes it.

        No bits are lost or invented, so a message may begin with few lanes, whose initial bits are few, and code with
        many once there is something to share. Raises EmptyMessage if a lane has no word to give.
        """
        bits, one = torch.zeros_like(self.head), torch.ones_like(self.head)
        for width in _HEAD_PARTS:
            part = self.slots(self.lanes, width)
            self.take(part, one, width)
            bits = (bits << width) | part
        given = (self.size - self.floor) // 2
        column = torch.arange(self.tail.shape[1], device=self.head.device)
        index = (self.size - given)[:, None] + column
        words = self.tail.gather(1, index.clamp(max=max(self.tail.shape[1] - 1, 0)))
        self.head, self.tail = torch.cat([self.head, LOW + bits]), torch.cat([self.tail, words])
        self.size = torch.cat([self.size - given, given])
        self.floor = torch.cat([self.floor, torch.zeros_like(given)])  # what it was given is no seed: keep all of it

    def narrow(self) -> None:
        """Undo `widen`. Raises ValueError if the upper half of the lanes is not as `widen` makes it."""
        half = self.lanes // 2
        head, words, count = self.head[half:], self.tail[half:], self.size[half:]
        if 2 * half != self.lanes or bool((head >= 2 * LOW).any()):
            raise ValueError("narrow: the upper lanes are not as widen left them; the data are damaged")
        self.head, self.tail, self.size, self.floor = (
            x[:half].clone() for x in (self.head, self.tail, self.size, self.floor)
        )
        self.bound = int(self.size.max())
        self.reserve(int(count.max()) + 1)
        column = torch.arange(words.shape[1], device=self.head.device)
        # Words above `count` go to the last column, which `reserve` keeps free.
        index = torch.where(column < count[:, None], self.size[:, None] + column, self.tail.shape[1] - 1)
        self.tail = self.tail.scatter(1, index, words)
        self.size = self.size + count
        self.bound = int(self.size.max())
        bits = head - LOW
        for width in reversed(_HEAD_PARTS):
            part = bits & ((1 << width) - 1)
            self.push(part, torch.ones_like(part), width)
            bits = bits >> width

    def part(self, first: int, last: int) -> Message:
        """Lanes [first, last) as a message of their own, without seed bits; memory is shared."""
        here = slice(first, last)
        size = self.size[here]
        bound = int(size.max()) if len(size) else 0
        return Message(self.head[here], self.tail[here], size, self.floor[here], 0, bound, self.first)

    @staticmethod
    def joined(parts: Sequence[Message]) -> Message:
        """Messages of one first head side by side; they hold no seed bits that were not popped."""
        width = max(part.bound for part in parts)
        tails = [pad(part.tail[:, :width], (0, width - min(width, part.tail.shape[1]))) for part in parts]
        head, size, floor = (torch.cat([getattr(part, name) for part in parts]) for name in ("head", "size", "floor"))
        return Message(head, torch.cat(tails), size, floor, 0, width, parts[0].first)

    def reserve(self, words: int) -> None:
        """Make room for so many more words in every lane, and one."""
        if self.bound + words >= self.tail.shape[1] and not torch.compiler.is_compiling():
            self.bound = int(self.size.max()) if self.lanes else 0
        if self.bound + words >= self.tail.shape[1]:
            capacity = max(2 * self.tail.shape[1], self.bound + words + 1, 64)  # doubling keeps growth linear
            if self.tail.is_cpu:
                grown = self.tail.new_empty(self.lanes, capacity)
            else:  # neighbouring lanes write side by side
                grown = self.tail.new_empty(capacity, self.lanes).T
            grown[:, : self.tail.shape[1]] = self.tail
            self.tail = grown

    def to_bytes(self) -> bytes:
        """The message without the words below `floor`, the bits that a decoder needs: see `wire.pack`."""
        self.check()
        size, low = self.size.cpu().numpy(), self.floor.cpu().numpy()
        most = int(size.max(initial=0))  # what is garbage in all lanes costs time
        tail = self.tail[:, :most].contiguous().cpu().numpy()
        return wire.pack(self.head.cpu().numpy(), size, tail, low)

    @staticmethod
    def from_bytes(data: bytes, device: torch.device | str = "cpu", first: int = LOW) -> Message:
        """The message that `to_bytes` wrote. Raises ValueError if the bytes are not exactly one message.

        Its words count as seed bits, which `to_bytes` leaves out until they were popped: it is for decoding.
        """
        return Message.of(wire.unpack(data), device, first)

    @staticmethod
    def of(parts: wire.Stacks, device: torch.device | str = "cpu", first: int = LOW) -> Message:
        """The message of heads, words and sizes that were read. Raises ValueError for heads that no message has."""
        wrong = (parts.head < LOW) & ((parts.size > 0) | (first == LOW))
        if wrong.any():
            raise ValueError(
                f"message: expected heads of at least 2**31, got {int(parts.head[wrong][0])}; the data are damaged"
            )
        head, tail, size = (torch.from_numpy(x).to(device) for x in parts)
        return Message(head, tail, size, size.clone(), int(size.sum()), int(parts.size.max(initial=0)), first)
