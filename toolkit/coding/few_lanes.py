"""A few rANS stacks as Python's integers, one symbol at a time: quicker than tensors of so few elements.

The same words as `Message` makes: what a file holds does not tell which of the two wrote it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import torch
from torch import Tensor

from toolkit.coding.ans import LOW, MASK, WORD, Message

MOST, MOST_COMPILED = 128, 16  # lanes up to which this is quicker than eager and than compiled tensors


class FewLanes:
    """The stacks of a small `Message`."""

    def __init__(self, message: Message) -> None:
        self.heads = message.head.tolist()
        sizes = message.size.tolist()
        self.words = [[w & MASK for w in row[:n]] for row, n in zip(message.tail.tolist(), sizes, strict=True)]

    def message(self) -> Message:
        """The stacks as tensors."""
        sizes = [len(words) for words in self.words]
        tail = torch.tensor([words + [0] * (max(sizes) - len(words)) for words in self.words], dtype=torch.int64)
        message = Message.empty(len(sizes), small=True)
        message.head, message.size = torch.tensor(self.heads), torch.tensor(sizes)
        message.tail = tail.view(len(sizes), -1).to(torch.int32)
        return message

    def empty(self) -> bool:
        """Whether nothing is left."""
        return not any(self.heads) and not any(self.words)

    def push(self, start: Tensor, freq: Tensor, precision: int) -> None:
        """Push symbols of intervals int64 [symbols] each, the last first; symbol i on lane i mod lanes."""
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

    def pop(self, which: Tensor, tables: Sequence[Sequence[int]], precision: int) -> Tensor:
        """Pop int64 [symbols]; tables[which[i]] holds the starts of all symbols of the i-th, and 2**precision."""
        heads, words, lanes = self.heads, self.words, len(self.heads)
        mask, symbols = (1 << precision) - 1, []
        for i, row in enumerate(which.tolist()):
            lane, starts = i % lanes, tables[row]
            head = heads[lane]
            u = head & mask
            x = bisect_right(starts, u) - 1
            start = starts[x]
            head = (starts[x + 1] - start) * (head >> precision) + u - start
            if head < LOW and words[lane]:
                head = head << WORD | words[lane].pop()
            heads[lane] = head
            symbols.append(x)
        return torch.tensor(symbols, dtype=torch.int64)
