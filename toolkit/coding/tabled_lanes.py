"""Pushes and pops of some hundred rANS stacks by tables, step by step, in Python's integers or in NumPy.

The words are those of `Message` with the codec `tabled`: what a file holds does not tell which of them wrote it. Steps
of so few lanes take less time than calls of tensor operations do, compiled or not, and nothing needs compiling.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toolkit.coding.ans import MASK, WORD, Message
from toolkit.coding.packing import LOW

FEW = 16  # lanes up to which a loop over symbols is quicker than one over steps
CELLS = 11  # log2 of the cells of a table, each of which knows its first symbol


class Tables:
    """Tables of frequencies, int64 [tables, symbols], at least 1 each, rows that sum to 2**precision."""

    def __init__(self, freqs: Tensor, precision: int) -> None:
        self.precision, self.shift = precision, max(precision - CELLS, 0)
        count, symbols = freqs.shape
        ends = freqs.cumsum(1)
        self.starts, self.freqs = (ends - freqs).flatten(), freqs.flatten()
        self.rows = torch.cat([ends - freqs, ends[:, -1:]], 1).tolist()
        # Of each table and cell, the place in `starts` of the first symbol that may be in it.
        cells = torch.arange(1 << (precision - self.shift)) << self.shift
        first = torch.stack([torch.bucketize(cells, row, right=True) for row in ends])
        self.symbols, self.cells = symbols, first.shape[1]
        self.first = (first + torch.arange(count)[:, None] * symbols).flatten().numpy()
        self.low, self.high = self.starts.numpy(), ends.flatten().numpy()

    def interval(self, which: Tensor, symbol: Tensor) -> tuple[Tensor, Tensor]:
        """Start and frequency of symbols int64 [n] in tables int64 [n]: int64 [n] each."""
        at = which * self.symbols + symbol
        return self.starts.take(at), self.freqs.take(at)


def raw_interval(x: Tensor, bits: Tensor, precision: int) -> tuple[Tensor, Tensor]:
    """Start and frequency of x in [0, 2**bits), all equally likely; int64 [n] each."""
    freq = 1 << (precision - bits)
    return x * freq, freq


def stacks(message: Message) -> FewLanes | ManyLanes:
    """The lanes of a small message."""
    return (FewLanes if message.lanes <= FEW else ManyLanes)(message)


class FewLanes:
    """Stacks as Python's integers; symbol i is on lane i mod lanes."""

    def __init__(self, message: Message) -> None:
        self.heads = message.head.tolist()
        sizes = message.size.tolist()
        self.words = [[w & MASK for w in row[:n]] for row, n in zip(message.tail.tolist(), sizes, strict=True)]

    def message(self) -> Message:
        """The stacks as tensors."""
        sizes = [len(words) for words in self.words]
        tail = [words + [0] * (max(sizes) - len(words)) for words in self.words]
        return _message(torch.tensor(self.heads), torch.tensor(tail, dtype=torch.int64), torch.tensor(sizes))

    def empty(self) -> bool:
        """Whether nothing is left."""
        return not any(self.heads) and not any(self.words)

    def push(self, start: Tensor, freq: Tensor, precision: int) -> None:
        """Push symbols of intervals int64 [symbols] each, the last one first."""
        heads, words, lanes = self.heads, self.words, len(self.heads)
        starts, freqs = start.tolist(), freq.tolist()
        for i in range(len(starts) - 1, -1, -1):
            lane, f = i % lanes, freqs[i]
            head = heads[lane]
            if head >> (63 - precision) >= f:
                words[lane].append(head & MASK)
                head >>= WORD
            quotient, rest = divmod(head, f)
            heads[lane] = (quotient << precision) + rest + starts[i]

    def pop(self, which: Tensor, tables: Tables) -> Tensor:
        """Pop int64 [symbols], each of a table of its own."""
        lanes, precision, symbols = len(self.heads), tables.precision, []
        mask, rows = (1 << precision) - 1, tables.rows
        for i, row in enumerate(which.tolist()):
            lane, starts = i % lanes, rows[row]
            head = self.heads[lane]
            u = head & mask
            x = bisect_right(starts, u) - 1
            start = starts[x]
            self._set(lane, (starts[x + 1] - start) * (head >> precision) + u - start)
            symbols.append(x)
        return torch.tensor(symbols, dtype=torch.int64)

    def pop_raw(self, bits: Tensor, precision: int) -> Tensor:
        """Undo pushes of `raw_interval`."""
        lanes, found = len(self.heads), []
        for i, n in enumerate(bits.tolist()):
            head, rest = self.heads[i % lanes], precision - n
            u = head & ((1 << precision) - 1)
            self._set(i % lanes, (head >> precision << rest) + (u & ((1 << rest) - 1)))
            found.append(u >> rest)
        return torch.tensor(found, dtype=torch.int64)

    def _set(self, lane: int, head: int) -> None:
        words = self.words[lane]
        self.heads[lane] = head << WORD | words.pop() if head < LOW and words else head


class ManyLanes:
    """Stacks in NumPy, a step of all lanes at a time; symbol i is on lane i mod lanes, at step i div lanes."""

    def __init__(self, message: Message) -> None:
        self.head, self.size = message.head.numpy().copy(), message.size.numpy().copy()
        self.words = message.tail.numpy().astype(np.int64) & MASK

    def message(self) -> Message:
        """The stacks as tensors."""
        return _message(*map(torch.from_numpy, (self.head, self.words, self.size)))

    def empty(self) -> bool:
        """Whether nothing is left."""
        return not self.head.any() and not self.size.any()

    def push(self, start: Tensor, freq: Tensor, precision: int) -> None:
        """Push symbols of intervals int64 [symbols] each, the last one first."""
        n, lanes = len(start), len(self.head)
        # Each step adds `precision` bits to a lane at most.
        room = int(self.size.max()) + -(-n // lanes) * precision // WORD + 2
        self.words = np.pad(self.words, ((0, 0), (0, max(0, room - self.words.shape[1]))))
        starts, freqs, rest = start.numpy(), freq.numpy(), ((1 << precision) - freq).numpy()
        most = ((freq << (63 - precision)) - 1).numpy()  # wraps to the largest integer for a freq of 2**precision
        quotients = np.empty_like(self.head)
        for i in range((n - 1) // lanes * lanes, -1, -lanes):
            here = slice(i, i + lanes)
            head, quotient = self.head, quotients
            if i + lanes > n:
                head, quotient = head[: n - i], quotient[: n - i]
            full = (head > most[here]).nonzero()[0]
            if len(full):
                spilled = head[full]
                self.words[full, self.size[full]] = spilled & MASK
                self.size[full] += 1
                head[full] = spilled >> WORD
            # quotient 2**precision + remainder + start
            np.floor_divide(head, freqs[here], quotient)
            np.multiply(quotient, rest[here], quotient)
            np.add(head, quotient, head)
            np.add(head, starts[here], head)

    def pop(self, which: Tensor, tables: Tables) -> Tensor:
        """Pop int64 [symbols], each of a table of its own."""
        cells = (which * tables.cells).numpy()
        first, low, high = tables.first.take, tables.low.take, tables.high.take
        found = np.empty_like(cells)
        # Arrays, which NumPy works with quicker than with numbers.
        numbers = [np.full(len(self.head), n) for n in ((1 << tables.precision) - 1, tables.shift, tables.precision)]
        for head, here in self._steps(len(cells)):
            if len(head) < len(numbers[0]):  # the last step
                numbers = [n[: len(head)] for n in numbers]
            mask, shift, precision = numbers
            u = np.bitwise_and(head, mask)
            place = np.right_shift(u, shift)
            place = first(np.add(place, cells[here], place))
            end = high(place)
            beyond = np.less_equal(end, u)
            while np.count_nonzero(beyond):  # where symbols share a cell
                np.add(place, beyond, place)
                end = high(place)
                np.less_equal(end, u, beyond)
            found[here] = place
            start = low(place)
            np.right_shift(head, precision, head)
            np.multiply(head, np.subtract(end, start, end), head)
            np.add(head, np.subtract(u, start, u), head)
            self._refill(head)
        return torch.from_numpy(found).sub_(which, alpha=tables.symbols)

    def pop_raw(self, bits: Tensor, precision: int) -> Tensor:
        """Undo pushes of `raw_interval`."""
        rest = (precision - bits).numpy()
        found = np.empty_like(rest)
        for head, here in self._steps(len(rest)):
            u = head & ((1 << precision) - 1)
            found[here] = u >> rest[here]
            head[:] = (head >> precision << rest[here]) + (u & ((1 << rest[here]) - 1))
            self._refill(head)
        return torch.from_numpy(found)

    def _steps(self, n: int) -> Iterator[tuple[Any, slice]]:
        """Of each step, the heads of its lanes and its symbols."""
        lanes = len(self.head)
        for i in range(0, n - lanes + 1, lanes):
            yield self.head, slice(i, i + lanes)
        if n % lanes:
            yield self.head[: n % lanes], slice(n - n % lanes, n)

    def _refill(self, head: Any) -> None:
        few = (head < LOW).nonzero()[0]
        if len(few):
            few = few[self.size[few] > 0]
            self.size[few] -= 1
            head[few] = head[few] << WORD | self.words[few, self.size[few]]


def _message(head: Tensor, words: Tensor, size: Tensor) -> Message:
    message = Message.empty(len(head), small=True)
    message.head, message.size, message.tail = head, size, words.view(len(head), -1).to(torch.int32)
    return message
