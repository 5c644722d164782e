"""A batch of asymmetric numeral system (rANS) stacks, pushed and popped in blocks of steps that Inductor fuses.

Each lane is an independent last-in-first-out stack of bits: a 63-bit head and a tail of 32-bit words
(Duda 2009, arXiv:0902.0271; Giesen 2014, arXiv:1402.3392). Nothing crosses lanes inside a step, so a block of steps
is one pointwise kernel.
"""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toolkit.coding.fuse import repeated
from toolkit.coding.hashing import philox
from toolkit.coding.integers import divide, multiply
from toolkit.coding.packing import LOW, pack, unpack

WORD = 32  # bits a tail word; heads stay in [LOW, LOW << WORD) = [2**31, 2**63)
MASK = (1 << WORD) - 1
STEPS = 2  # steps a block of pops: more are faster where lanes are few, and take as much longer to compile
PUSH_STEPS = 4  # of pushes, which have no search in them
TOGETHER = 16  # blocks of pops after which is asked whether a search missed
MAX_PRECISION = 28  # above it, head // freq has too few bits left for exact rates

_HEAD_PARTS = (16, 15)  # bits of a fresh head, 31, in parts that one symbol can have

Interval = Callable[..., tuple[Tensor, Tensor]]
Find = Callable[..., tuple[Tensor, Tensor, Tensor]]


class EmptyMessage(ValueError):
    """A pop wanted more bits than the message holds."""


class NoFrequency(ValueError):
    """A push met a symbol without frequency; the message is as it was."""


@dataclass(eq=False)
class Message:
    """A batch of bit stacks; `random` starts one with seed bits for bits-back coding, `empty` one without.

    `floor` is the lowest size that each lane has had: words below it were never touched, so a file need not hold them.
    """

    head: Tensor  # int64 [lanes], in [2**31, 2**63)
    tail: Tensor  # int32 [lanes, capacity], bits of unsigned words; at and above size: garbage
    size: Tensor  # int64 [lanes], words in use
    floor: Tensor  # int64 [lanes], least size so far
    seeded: int = 0  # words that it started with, all lanes together
    bound: int = 1 << 62  # at least the largest size; kept on the host, because asking a GPU once a block stalls it
    compiled: bool = False  # run blocks of steps compiled (see `fuse`); the same words either way
    small: bool = False  # a lane without words may have a head below 2**31, down to 0; it is never empty

    @staticmethod
    def empty(lanes: int, device: torch.device | str = "cpu", compiled: bool = False, small: bool = False) -> Message:
        """A message of `lanes` stacks that hold no bits; every head is 2**31.

        small: every head is 0 instead, so that a lane costs as many bytes as it has significant ones, and popping below
        its start gives what zeros decode to. For many short lanes; `widen` and `to_bytes` are not for these.
        """
        head = torch.full((lanes,), 0 if small else LOW, dtype=torch.int64, device=device)
        size = torch.zeros(lanes, dtype=torch.int64, device=device)
        tail = torch.zeros(lanes, 0, dtype=torch.int32, device=device)
        return Message(head, tail, size, size.clone(), compiled=compiled, small=small)

    @staticmethod
    def random(
        lanes: int, words: int, seed: int, device: torch.device | str = "cpu", compiled: bool = False
    ) -> Message:
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
        return Message(head.to(device), tail, size, size.clone(), words * lanes, compiled=compiled)

    def is_random(self, seed: int) -> bool:
        """Whether this is what is left of a `random` message of this seed when all that was pushed is popped."""
        words = int(self.size.max())
        fresh = Message.random(self.lanes, words, seed, self.head.device)
        depth = torch.arange(1, words + 1, device=self.head.device)  # from the top of each lane
        mine = self.tail.gather(1, (self.size[:, None] - depth).clamp(min=0)) if words else fresh.tail
        same = (mine == fresh.tail.flip(1)) | (depth > self.size[:, None])
        return bool((self.head == fresh.head).all() and same.all())

    @property
    def lanes(self) -> int:
        return self.head.shape[0]

    @property
    def taken(self) -> int:
        """Words that the message started with and that were popped: they stay part of what a decoder needs."""
        return self.seeded - int(self.floor.sum())

    def bits(self) -> float:
        """Bits on the message: 32 a word in use and log2(head / 2**31) for each head, so that `empty` has none."""
        return float(self.size.sum()) * WORD + float((self.head.double() / LOW).log2().sum())

    def push(self, start: Tensor, freq: Tensor, precision: int, steps: int | None = None) -> None:
        """Push symbols, the last step first, so that `pop` returns them in order.

        start, freq: int64 [n, lanes], an interval [start, start + freq) within [0, 2**precision), freq at least 1.
        A symbol with start 0 and freq 2**precision costs nothing and leaves the message as it is. Raises NoFrequency
        for a freq below 1.
        """
        steps = PUSH_STEPS if steps is None else steps
        _check(precision, steps)
        if start.shape != freq.shape or start.dim() != 2 or start.shape[1] != self.lanes:
            raise ValueError(
                f"push: expected start and freq of shape [n, {self.lanes}], got {list(start.shape)} and "
                f"{list(freq.shape)}; arrange the symbols in lanes first (codecs.to_lanes)"
            )
        self.push_found(_given, [start, _whole(freq, steps, 1 << precision)], (), precision, steps)

    def push_found(
        self, interval: Interval, params: Sequence[Tensor], tables: Sequence[Tensor], precision: int,
        steps: int | None = None,
    ) -> None:  # fmt: skip
        """`push` of the intervals that interval(*(p[..., step, :] for p in params), *tables) -> (start, freq) finds.

        Found in the block that pushes them, they are never written to memory: for intervals that cost little. params:
        tensors [..., n, lanes]; a step of zeros must cost nothing, as the last block is filled up with them.
        """
        steps = PUSH_STEPS if steps is None else steps
        _check(precision, steps)
        params = [_whole(p, steps, 0) for p in params]
        firsts = _firsts(params[0].shape[-2], steps, self.head.device)
        self._reserve(most := _most_words(steps, precision) * len(firsts))
        self.bound += most
        push = _specialised(_push, interval=interval, steps=steps, precision=precision)
        state = self.head, self.size
        last = deque(repeated(push, self.compiled, state, reversed(firsts), self._words, params, tables), maxlen=1)
        head, size = last.pop() if last else state
        # Asked once a push, not once a block: on a GPU each question to the device stalls it.
        if self.lanes and int(head.min()) < 0:
            raise NoFrequency("push: expected symbols with frequencies of at least 1, got others")
        self.head, self.size = head, size

    def pop(
        self, valid: Tensor, find: Find, params: Sequence[Tensor], tables: Sequence[Tensor], precision: int,
        steps: int | None = None, sure: Find | None = None, out: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Pop int64 [n, lanes] symbols, the first step first, so that it undoes `push`.

        valid: bool or int32 [n, lanes]; where it is 0 nothing is popped and the symbol returned is 0. out: int64, where
        they go, with n rounded up to whole blocks.
        find(u, *(p[..., step, :] for p in params), *tables) -> (symbol, start, freq): int64 [lanes] each, with
        start <= u < start + freq for any u in [0, 2**precision). params: tensors [..., n, lanes]. sure: for a `find`
        that may miss, one that does not; it does again the few lanes of a block in which `find` missed.
        Raises EmptyMessage if a lane has too few words.
        """
        steps = STEPS if steps is None else steps
        _check(precision, steps)
        if valid.dim() != 2 or valid.shape[1] != self.lanes:
            raise ValueError(
                f"pop: expected valid of shape [n, {self.lanes}], got {list(valid.shape)}; arrange it in lanes first "
                "(codecs.to_lanes)"
            )
        n = valid.shape[0]
        # Compiled code reads and writes bools one by one.
        valid, params = _whole(valid.int(), steps, 0), [_whole(p, steps, 0) for p in params]
        symbols = valid.new_empty(valid.shape, dtype=torch.int64) if out is None else out
        if self.tail.shape[1] < 2:
            self._reserve(2)  # something to read where nothing is left
        fixed: dict[str, Any] = {"steps": steps, "precision": precision, "small": self.small}
        pop, firsts = _specialised(_pop, find=find, **fixed), _firsts(valid.shape[0], steps, self.head.device)
        none, done = torch.zeros_like(self.head, dtype=torch.int32), 0
        head, size = self.head, self.size
        while done < len(firsts):
            # To ask after each block whether `find` missed takes as long as a small block.
            here = firsts[done : done + TOGETHER] if sure else firsts
            states: deque[Any] = deque([(head, size, none)], maxlen=None if sure else 1)
            states.extend(repeated(pop, self.compiled, states[0], here, self._words, symbols, valid, params, tables))
            head, size, missed = states[-1]
            done += len(here)
            if not sure or not np.count_nonzero(missed.numpy()):
                continue
            # Back to the first block in which it did; those after it are done again.
            i = next(i for i, (_, _, missed) in enumerate(states) if np.count_nonzero(missed.numpy()))
            (before, words, _), (head, size, missed), first = states[i - 1], states[i], here[i - 1]
            done -= len(here) - i
            at = missed.nonzero()[:, 0]
            below = (words[at] - steps).clamp(min=0)  # words that the block can not reach
            top = below[:, None] + torch.arange(steps)
            reached = self.tail[at[:, None], top.clamp(max=self.tail.shape[1] - 1)]
            found, some = symbols[:, at], [p[..., at] for p in params]
            head[at], above, _ = _pop(
                before[at], words[at] - below, none[at], first, reached.flatten(), found, valid[:, at], some, tables,
                find=sure, **fixed,
            )  # fmt: skip
            size[at], symbols[:, at] = below + above, found
        self.head, self.size = head, size
        torch.minimum(self.floor, self.size, out=self.floor)
        if self.lanes and int(self.floor.min()) < 0:
            lane = int(self.floor.argmin())
            raise EmptyMessage(
                f"pop: lane {lane} of {self.lanes} needs {-int(self.floor[lane])} more words than it holds; start from "
                "Message.random with more words, or push more before popping"
            )
        return symbols[:n]

    def widen(self) -> None:
        """Double the lanes: each gives half of its own words and 31 bits, as a head, to a new one. `narrow` undoes it.

        No bits are lost or invented, so a message may begin with few lanes, whose initial bits are few, and code with
        many once there is something to share. Raises EmptyMessage if a lane has no word to give.
        """
        bits = torch.zeros_like(self.head)
        with self._eager():
            for width in _HEAD_PARTS:
                one = torch.ones(1, self.lanes, dtype=torch.bool, device=self.head.device)
                bits = (bits << width) | self.pop(one, _identity, (), (), width)[0]
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
        self.head, self.tail, self.size, self.floor = (x[:half] for x in (self.head, self.tail, self.size, self.floor))
        self.bound = int(self.size.max())
        self._reserve(int(count.max()) + 1)
        column = torch.arange(words.shape[1], device=self.head.device)
        # Words above `count` go to the last column, which `_reserve` keeps free.
        index = torch.where(column < count[:, None], self.size[:, None] + column, self.tail.shape[1] - 1)
        self.tail = self.tail.scatter(1, index, words)
        self.size = self.size + count
        self.bound = int(self.size.max())
        bits = head - LOW
        with self._eager():
            for width in reversed(_HEAD_PARTS):
                part = bits & ((1 << width) - 1)
                self.push(part[None], torch.ones_like(part)[None], width)
                bits = bits >> width

    @contextlib.contextmanager
    def _eager(self) -> Iterator[None]:
        """Do without compiling for what is done a few times in all."""
        compiled, self.compiled = self.compiled, False
        try:
            yield
        finally:
            self.compiled = compiled

    @property
    def _words(self) -> Tensor:
        """The tail of all lanes, one after the other."""
        return self.tail.view(-1)

    def _reserve(self, words: int) -> None:
        """Make room for so many more words in every lane."""
        if self.bound + words > self.tail.shape[1]:
            self.bound = int(self.size.max()) if self.lanes else 0
        if self.bound + words > self.tail.shape[1]:
            capacity = max(2 * self.tail.shape[1], self.bound + words, 64)  # doubling keeps growth linear
            grown = self.tail.new_empty(self.lanes, capacity)
            grown[:, : self.tail.shape[1]] = self.tail
            self.tail = grown

    def to_bytes(self) -> bytes:
        """The message without the words below `floor`, the bits that a decoder needs: see `packing.pack`."""
        size, low = self.size.cpu().numpy(), self.floor.cpu().numpy()[:, None]
        tail = self.tail[:, : int(size.max(initial=0))].cpu().numpy()  # what is garbage in all lanes costs time
        column = np.arange(tail.shape[1])
        words = tail[(column >= low) & (column < size[:, None])]
        return pack(self.head.cpu().numpy(), size - low[:, 0], words)

    @staticmethod
    def from_bytes(data: bytes, device: torch.device | str = "cpu", compiled: bool = False) -> Message:
        """The message that `to_bytes` wrote. Raises ValueError if the bytes are not exactly one message."""
        head, size, tail = (torch.from_numpy(x).to(device) for x in unpack(data))
        return Message(head, tail, size, size.clone(), int(size.sum()), compiled=compiled)


def _identity(u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return u, u, torch.ones_like(u)


def _check(precision: int, steps: int) -> None:
    if not 1 <= precision <= MAX_PRECISION or steps < 1:
        raise ValueError(f"expected 1 <= precision <= {MAX_PRECISION} and steps >= 1, got {precision} and {steps}")


def _whole(x: Tensor, steps: int, fill: int) -> Tensor:
    """Lengthen [..., n, lanes] to a multiple of `steps`, so that every block has the one shape that is compiled."""
    short = -x.shape[-2] % steps
    return x if short == 0 else torch.cat([x, x.new_full((*x.shape[:-2], short, x.shape[-1]), fill)], -2)


@functools.lru_cache(1024)
def _firsts(n: int, steps: int, device: torch.device) -> tuple[Tensor, ...]:
    """The first step of each block: int64 [1]."""
    return torch.arange(0, n, steps, device=device).split(1) if n else ()


@functools.cache
def _specialised(function: Callable[..., Any], **fixed: Any) -> Callable[..., Any]:
    """One function for `repeated`, compiled once for any number of lanes; what is fixed is none of its arguments."""
    return lambda *arguments: function(*arguments, **fixed)


def _given(start: Tensor, freq: Tensor) -> tuple[Tensor, Tensor]:
    return start, freq


def _most_words(steps: int, precision: int) -> int:
    """Each step adds at most `precision` bits, so no more words can spill than this."""
    return min(steps, steps * precision // WORD + 1)


def _push(
    head: Tensor, size: Tensor, first: Tensor, tail: Tensor, params: Sequence[Tensor], tables: Sequence[Tensor],
    *, interval: Interval, steps: int, precision: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One block of pushes: the new head and size; words go to the tail, of all lanes, one after the other.

    A head becomes and stays negative where a frequency is below 1. The tail must have room for `_most_words` more.
    """
    here = first + torch.arange(steps, device=head.device)
    params = [p.index_select(-2, here) for p in params]
    count, wrong = torch.zeros_like(head), head < 0
    most, eager = _most_words(steps, precision), not torch.compiler.is_compiling()
    slots = [torch.zeros_like(head, dtype=torch.int32)] * most
    words = head.new_zeros(steps + 1, head.shape[0], dtype=torch.int32) if eager else None
    for i in range(steps - 1, -1, -1):
        start, freq = interval(*(p[..., i, :] for p in params), *tables)
        wrong = wrong | (freq < 1)
        freq = freq.clamp(min=1)
        spill = (head >> (63 - precision)) >= freq
        word = head.to(torch.int32)
        # What is written above the real words is overwritten by the next, so whether it spilled need not be asked.
        if words is not None:
            words.scatter_(0, count[None], word[None])
        else:  # compiled, slots stay in registers; the steps before this one filled so many at most
            reach = _most_words(steps - 1 - i, precision)
            slots = [torch.where(count == j, word, x) if j <= reach else x for j, x in enumerate(slots)]
        count = count + spill
        head = torch.where(spill, head >> WORD, head)
        quotient, rest = divide(head, freq, 63 - precision)
        head = (quotient << precision) + rest + start
    # Those that did not spill are garbage above the others.
    found = torch.stack(slots) if words is None else words[:most]
    tail[_begin(head, tail) + size + torch.arange(most, device=head.device)[:, None]] = found
    return torch.where(wrong, -1, head), size + count


def _begin(head: Tensor, tail: Tensor) -> Tensor:
    """Where each lane's words begin."""
    lanes = head.shape[0]
    return torch.arange(lanes, device=head.device) * (tail.shape[0] // lanes)


def _pop(
    head: Tensor, size: Tensor, missed: Tensor, first: Tensor, tail: Tensor, symbols: Tensor, valid: Tensor,
    params: Sequence[Tensor], tables: Sequence[Tensor], *, find: Find, steps: int, precision: int, small: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """One block of pops into `symbols`: the new head and size, and `missed`, with 1 where `find` missed.

    tail: of all lanes, one after the other. small: a lane may run out of words, and its head sinks below 2**31 then.
    """
    here = first + torch.arange(steps, device=head.device)
    coded, params = valid.index_select(0, here) != 0, [p.index_select(-2, here) for p in params]
    used, begin = torch.zeros_like(head), _begin(head, tail)
    found = []
    for i in range(steps):
        u = head & ((1 << precision) - 1)
        symbol, start, freq = find(u, *(p[..., i, :] for p in params), *tables)
        missed = torch.where(coded[i] & ((start > u) | (u - start >= freq)), 1, missed)
        start = torch.where(coded[i], start, 0)
        freq = torch.where(coded[i], freq, 1 << precision)
        head = multiply(head >> precision, freq, 63 - precision) + u - start
        refill = (head < LOW) & (used < size) if small else head < LOW
        word = tail[begin + (size - used - 1).clamp(min=0)].to(torch.int64) & MASK
        head = torch.where(refill, (head << WORD) | word, head)
        used = used + refill
        found.append(torch.where(coded[i], symbol, 0))
    symbols[here] = torch.stack(found)
    return head, size - used, missed
