"""rANS on plain Python integers, and random tables and symbols: what the tests of messages compare with."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tests.laws import contents
from toolkit.coding.message import Message


class Stack:
    """One lane of rANS on plain Python integers (Duda 2009, arXiv:0902.0271): 63-bit head, 32-bit words.

    first: the head of an empty lane. With 0 or 1 a lane without words pops on, from what zeros would decode to.
    """

    def __init__(self, head: int = 2**31, words: list[int] | None = None, first: int = 2**31) -> None:
        self.head, self.words, self.first = head, list(words or []), first

    def push(self, start: int, freq: int, precision: int) -> None:
        if (self.head // freq << precision) >= 2**63:
            self.words.append(self.head % 2**32)
            self.head //= 2**32
        self.head = (self.head // freq << precision) + start + self.head % freq

    def pop(self, find: Callable[[int], tuple[int, int, int]], precision: int) -> int:
        u = self.head % 2**precision
        symbol, start, freq = find(u)
        assert start <= u < start + freq
        self.head = self.head // 2**precision * freq + u - start
        if self.head < 2**31 and (self.words or self.first == 2**31):
            self.head = self.head * 2**32 + self.words.pop()
        return symbol


class Symbols(NamedTuple):
    """Random symbols under one table, in steps of lanes, and what push and pop need for them."""

    x: Tensor  # int64 [n, lanes]
    starts: Tensor  # int64 [k + 1]
    precision: int

    @property
    def start(self) -> Tensor:
        return self.starts[self.x]

    @property
    def freq(self) -> Tensor:
        return self.starts[self.x + 1] - self.starts[self.x]

    def bits(self) -> float:
        return float((self.precision - self.freq.double().log2()).sum())


def push(message: Message, symbols: Symbols, valid: Tensor | None = None) -> None:
    """Step after step, the last one first."""
    start, freq = symbols.start, symbols.freq
    if valid is not None:
        start, freq = torch.where(valid, start, 0), torch.where(valid, freq, 1 << symbols.precision)
    for i in reversed(range(len(start))):
        message.push(start[i], freq[i], symbols.precision)


def pop(message: Message, n: int, starts: Tensor, precision: int, valid: Tensor | None = None) -> Tensor:
    """Undo `push`: int64 [n, lanes], 0 where not valid."""
    x = torch.zeros(n, message.lanes, dtype=torch.int64)
    for i in range(n):
        symbol = torch.searchsorted(starts, message.slots(message.lanes, precision), right=True) - 1
        start, freq = starts[symbol], starts[symbol + 1] - starts[symbol]
        if valid is not None:
            start, freq = torch.where(valid[i], start, 0), torch.where(valid[i], freq, 1 << precision)
            symbol = torch.where(valid[i], symbol, 0)
        message.take(start, freq, precision)
        x[i] = symbol
    return x


def find_in(starts: list[int]) -> Callable[[int], tuple[int, int, int]]:
    """The symbol whose interval of a table holds a place, and the interval."""

    def find(u: int) -> tuple[int, int, int]:
        symbol = max(i for i in range(len(starts) - 1) if starts[i] <= u)
        return symbol, starts[symbol], starts[symbol + 1] - starts[symbol]

    return find


def random_table(k: int, precision: int, rng: torch.Generator) -> Tensor:
    """int64 [k + 1] borders of k intervals of [0, 2**precision), each of at least 1."""
    inner: set[int] = set()
    while len(inner) < k - 1:
        inner.add(int(torch.randint(1, 1 << precision, (), generator=rng)))
    return torch.tensor([0, *sorted(inner), 1 << precision])


def spiked_table(k: int, precision: int, spike: int) -> Tensor:
    """The most extreme frequencies: 2**precision - k + 1 for symbol `spike` and 1 for the others."""
    freqs = torch.ones(k, dtype=torch.int64)
    freqs[spike] = (1 << precision) - k + 1
    return torch.cat([torch.zeros(1, dtype=torch.int64), freqs.cumsum(0)])


def random_symbols(starts: Tensor, n: int, lanes: int, precision: int, rng: torch.Generator) -> Symbols:
    """Symbols that follow the table's own probabilities."""
    u = torch.randint(1 << precision, (n, lanes), generator=rng)
    return Symbols(torch.searchsorted(starts, u, right=True) - 1, starts, precision)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def as_stacks(message: Message) -> list[Stack]:
    heads, words = contents(message)
    return [Stack(head, lane, message.first) for head, lane in zip(heads, words, strict=True)]


def push_reference(stacks: list[Stack], symbols: Symbols) -> None:
    for stack, starts, freqs in zip(stacks, symbols.start.T.tolist(), symbols.freq.T.tolist(), strict=True):
        for start, freq in zip(reversed(starts), reversed(freqs), strict=True):
            stack.push(start, freq, symbols.precision)


def of_stacks(stacks: list[Stack]) -> tuple[list[int], list[list[int]]]:
    return [stack.head for stack in stacks], [stack.words for stack in stacks]
