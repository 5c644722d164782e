"""Pushes and pops of some hundred rANS stacks by tables, step by step, in Python's integers or in NumPy.

The words are those of `Message` with the codec `tabled`: what a file holds does not tell which of them wrote it. Steps
of so few lanes take less time than calls of tensor operations do, compiled or not, and nothing needs compiling.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
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
        self.low, self.freq = self.starts.numpy(), self.freqs.numpy()

    def interval(self, which: Tensor, symbol: Tensor) -> tuple[Tensor, Tensor]:
        """Start and frequency of symbols int64 [n] in tables int64 [n]: int64 [n] each."""
        at = which * self.symbols + symbol
        return self.starts.take(at), self.freqs.take(at)


def raw_interval(x: Tensor, bits: Tensor, precision: int) -> tuple[Tensor, Tensor]:
    """Start and frequency of x in [0, 2**bits), all equally likely; int64 [n] each."""
    freq = 1 << (precision - bits)
    return x * freq, freq


def stacks(messages: Sequence[Message]) -> FewLanes | ManyLanes:
    """The lanes of some small messages, which are pushed to and popped from together."""
    return (FewLanes if sum(message.lanes for message in messages) <= FEW else ManyLanes)(messages)


class FewLanes:
    """Stacks as Python's integers; symbol i of a message is on its lane i mod lanes."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self.heads = [message.head.tolist() for message in messages]
        self.words = [
            [[w & MASK for w in row[:n]] for row, n in zip(message.tail.tolist(), message.size.tolist(), strict=True)]
            for message in messages
        ]

    def messages(self) -> list[Message]:
        """The stacks as tensors."""
        found = []
        for heads, lanes in zip(self.heads, self.words, strict=True):
            sizes = [len(words) for words in lanes]
            tail = [words + [0] * (max(sizes) - len(words)) for words in lanes]
            found.append(_message(torch.tensor(heads), torch.tensor(tail, dtype=torch.int64), torch.tensor(sizes)))
        return found

    def empty(self) -> list[bool]:
        """Whether nothing is left of each message."""
        return [not any(heads) and not any(words) for heads, words in zip(self.heads, self.words, strict=True)]

    def push(self, intervals: Sequence[tuple[Tensor, Tensor]], precision: int) -> None:
        """Push symbols of each message, of starts and frequencies int64 [symbols] each, the last one first."""
        for (start, freq), heads, words in zip(intervals, self.heads, self.words, strict=True):
            lanes, starts, freqs = len(heads), start.tolist(), freq.tolist()
            for i in range(len(starts) - 1, -1, -1):
                lane, f = i % lanes, freqs[i]
                head = heads[lane]
                if head >> (63 - precision) >= f:
                    words[lane].append(head & MASK)
                    head >>= WORD
                quotient, rest = divmod(head, f)
                heads[lane] = (quotient << precision) + rest + starts[i]

    def pop(self, which: Sequence[Tensor], tables: Tables) -> list[Tensor]:
        """Pop int64 [symbols] of each message, each of a table of its own."""
        precision, rows, found = tables.precision, tables.rows, []
        mask = (1 << precision) - 1
        for numbers, heads, words in zip(which, self.heads, self.words, strict=True):
            lanes, symbols = len(heads), []
            for i, row in enumerate(numbers.tolist()):
                lane, starts = i % lanes, rows[row]
                head = heads[lane]
                u = head & mask
                x = bisect_right(starts, u) - 1
                start = starts[x]
                heads[lane] = _refilled((starts[x + 1] - start) * (head >> precision) + u - start, words[lane])
                symbols.append(x)
            found.append(torch.tensor(symbols, dtype=torch.int64))
        return found

    def pop_raw(self, bits: Sequence[Tensor], precision: int) -> list[Tensor]:
        """Undo pushes of `raw_interval`."""
        found = []
        for numbers, heads, words in zip(bits, self.heads, self.words, strict=True):
            lanes, values = len(heads), []
            for i, n in enumerate(numbers.tolist()):
                head, rest = heads[i % lanes], precision - n
                u = head & ((1 << precision) - 1)
                heads[i % lanes] = _refilled((head >> precision << rest) + (u & ((1 << rest) - 1)), words[i % lanes])
                values.append(u >> rest)
            found.append(torch.tensor(values, dtype=torch.int64))
        return found


def _refilled(head: int, words: list[int]) -> int:
    return head << WORD | words.pop() if head < LOW and words else head


class ManyLanes:
    """Stacks in NumPy, a step of all lanes at a time; symbol i of a message is on its lane i mod lanes."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self.counts = [message.lanes for message in messages]
        self.head, self.size = (
            np.concatenate([getattr(message, name).numpy() for message in messages]) for name in ("head", "size")
        )
        self.words = np.zeros((len(self.head), int(self.size.max())), np.int64)
        for rows, message in zip(self._split(self.words), messages, strict=True):
            width = min(self.words.shape[1], message.tail.shape[1])
            rows[:, :width] = message.tail[:, :width].numpy().astype(np.int64) & MASK
        # Of each lane, its number in its message and how many lanes that has.
        self.lane = np.concatenate([np.arange(n) for n in self.counts])
        self.lanes = np.repeat(self.counts, self.counts)

    def _split(self, rows: Any) -> list[Any]:
        return np.split(rows, np.cumsum(self.counts)[:-1])

    def messages(self) -> list[Message]:
        """The stacks as tensors."""
        parts = zip(*map(self._split, (self.head, self.words, self.size)), strict=True)
        return [_message(*map(torch.from_numpy, part)) for part in parts]

    def empty(self) -> list[bool]:
        """Whether nothing is left of each message."""
        return [not part.any() for part in self._split(self.head | self.size)]

    def push(self, intervals: Sequence[tuple[Tensor, Tensor]], precision: int) -> None:
        """Push symbols of each message, of starts and frequencies int64 [symbols] each, the last one first."""
        steps = Steps(self, [len(start) for start, _ in intervals])
        starts, freqs = (steps.join([part[i] for part in intervals]) for i in range(2))
        # Each step adds `precision` bits to a lane at most.
        room = int(self.size.max()) + len(steps) * precision // WORD + 2
        self.words = np.pad(self.words, ((0, 0), (0, max(0, room - self.words.shape[1]))))
        words, head, size = self.words, self.head.take(steps.rank), self.size.take(steps.rank)
        rest, most = (1 << precision) - freqs, (freqs << (63 - precision)) - 1  # wraps to the largest integer
        for lanes, begin, end in reversed(steps.runs):
            h, quotient = head[:lanes], np.empty(lanes, np.int64)
            for i in range(end - lanes, begin - 1, -lanes):
                here = slice(i, i + lanes)
                full = (h > most[here]).nonzero()[0]
                if len(full):
                    spilled, row = h.take(full), size.take(full)
                    words[steps.rank.take(full), row] = spilled & MASK
                    size[full] = row + 1
                    h[full] = spilled >> WORD
                # quotient 2**precision + remainder + start
                np.floor_divide(h, freqs[here], quotient)
                np.multiply(quotient, rest[here], quotient)
                np.add(h, quotient, h)
                np.add(h, starts[here], h)
        self.head[steps.rank], self.size[steps.rank] = head, size

    def pop(self, which: Sequence[Tensor], tables: Tables) -> list[Tensor]:
        """Pop int64 [symbols] of each message, each of a table of its own."""
        steps = Steps(self, [len(numbers) for numbers in which])
        joined = steps.join(which)
        cells, found = joined * tables.cells, np.empty_like(joined)
        first, low, freq = tables.first.take, tables.low.take, tables.freq.take
        with _Words(self, steps.rank) as words:
            for lanes, begin, end in steps.runs:
                head = words.head[:lanes]
                u, beyond = np.empty(lanes, np.int64), np.empty(lanes, bool)
                # Arrays, which NumPy works with quicker than with numbers.
                mask, shift, precision = (
                    np.full(lanes, n) for n in ((1 << tables.precision) - 1, tables.shift, tables.precision)
                )
                for i in range(begin, end, lanes):
                    here = slice(i, i + lanes)
                    np.bitwise_and(head, mask, u)
                    place = np.right_shift(u, shift)
                    place = first(np.add(place, cells[here], place))
                    above, width = np.subtract(u, low(place)), freq(place)
                    np.greater_equal(above, width, beyond)
                    while np.count_nonzero(beyond):  # where symbols share a cell
                        np.add(place, beyond, place)
                        above, width = np.subtract(u, low(place)), freq(place)
                        np.greater_equal(above, width, beyond)
                    found[here] = place
                    np.right_shift(head, precision, head)
                    np.multiply(head, width, head)
                    np.add(head, above, head)
                    words.refill(head)
        return [torch.from_numpy(part) for part in steps.part(found - joined * tables.symbols)]

    def pop_raw(self, bits: Sequence[Tensor], precision: int) -> list[Tensor]:
        """Undo pushes of `raw_interval`."""
        steps = Steps(self, [len(numbers) for numbers in bits])
        rest = precision - steps.join(bits)
        found = np.empty_like(rest)
        with _Words(self, steps.rank) as words:
            for lanes, begin, end in steps.runs:
                head = words.head[:lanes]
                for i in range(begin, end, lanes):
                    here = slice(i, i + lanes)
                    u = head & ((1 << precision) - 1)
                    found[here] = u >> rest[here]
                    head[:] = (head >> precision << rest[here]) + (u & ((1 << rest[here]) - 1))
                    words.refill(head)
        return [torch.from_numpy(part) for part in steps.part(found)]


class Steps:
    """The order in which symbols of several messages are coded: step by step, in each those of all lanes that go on.

    rank: lanes, those with most symbols first, so that the lanes of a step are the first of them; runs: of steps with
    equally many lanes, that number, and where their symbols begin and end.
    """

    def __init__(self, stacks: ManyLanes, symbols: Sequence[int]) -> None:
        self.symbols = symbols
        left = np.repeat(symbols, stacks.counts) - stacks.lane  # symbols from the first of each lane on
        count = np.maximum(-(-left // stacks.lanes), 0)
        self.rank = np.argsort(-count, kind="stable")
        count = count[self.rank]
        self.length = int(count[0]) if len(count) else 0
        # Lanes of each step, by how many lanes have more symbols than steps before it.
        lanes = np.searchsorted(-count, -np.arange(self.length), side="left")
        changes = np.flatnonzero(np.diff(lanes, prepend=-1, append=-1))
        ends = np.concatenate([[0], lanes.cumsum()])
        self.runs = [(int(lanes[a]), int(ends[a]), int(ends[b])) for a, b in pairwise(changes)]
        self.order = None  # of each symbol, message after message, its place in the order of coding
        if len(symbols) > 1:
            place = np.empty_like(self.rank)
            place[self.rank] = np.arange(len(place))
            parts = zip(symbols, stacks.counts, stacks._split(place), strict=True)
            self.order = np.concatenate([(ends[: -(-n // of), None] + among).ravel()[:n] for n, of, among in parts])

    def __len__(self) -> int:
        return self.length

    def join(self, parts: Sequence[Tensor]) -> Any:
        """Numbers of the symbols of each message, int64 [symbols], in the order of coding."""
        whole = torch.cat(list(parts)).numpy()
        if self.order is None:
            return whole
        ordered = np.empty_like(whole)
        ordered[self.order] = whole
        return ordered

    def part(self, whole: Any) -> list[Any]:
        """Undo `join`."""
        whole = whole if self.order is None else whole.take(self.order)
        return np.split(whole, np.cumsum(self.symbols)[:-1])


class _Words:
    """Heads in the order of some steps, and the words that refill them, while pops last."""

    def __init__(self, stacks: ManyLanes, rank: Any) -> None:
        self.stacks, self.rank = stacks, rank

    def __enter__(self) -> _Words:
        stacks, rank = self.stacks, self.rank
        self.head = stacks.head.take(rank)
        self.words, self.bottom = stacks.words.ravel(), rank * stacks.words.shape[1]
        self.end = self.bottom + stacks.size.take(rank)  # where the words of a lane end
        return self

    def refill(self, head: Any) -> None:
        """Words for heads that are below their interval, of lanes that have any."""
        few = (head < LOW).nonzero()[0]
        if len(few):
            end = self.end.take(few)
            some = end > self.bottom.take(few)
            if np.count_nonzero(some) < len(few):
                few, end = few[some], end[some]
            end -= 1
            head[few] = head.take(few) << WORD | self.words.take(end)
            self.end[few] = end

    def __exit__(self, *error: object) -> None:
        self.stacks.head[self.rank] = self.head
        self.stacks.size[self.rank] = self.end - self.bottom


def _message(head: Tensor, words: Tensor, size: Tensor) -> Message:
    message = Message.empty(len(head), small=True)
    message.head, message.size, message.tail = head, size, words.view(len(head), -1).to(torch.int32)
    return message
