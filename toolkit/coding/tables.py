"""Codecs of tables of integer frequencies: one for all symbols, or one for each of several kinds of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from toolkit.coding.codecs import Codec, check_numbers, check_shapes, coded
from toolkit.coding.kernels import Order

MOST_CELLS = 1 << 16  # of the indices of all tables together, which a processor's caches should hold
CELLS_A_SYMBOL = 16  # of the index of one of several tables: more find no symbol sooner


class Table(NamedTuple):
    """Law of symbols in [0, k), each under one of some tables.

    starts: where the symbols' intervals begin, rows that do not fall, from 0 to 2**precision; first: of each cell of
    2**shift places, the last symbol that begins at or before it, and k - 1 at the end, where searches begin.
    """

    which: Tensor  # int32 [n], the table of each symbol; [0]: the first for all
    starts: Tensor  # int32 [tables, k + 1]
    first: Tensor  # int32 [tables, cells + 1]
    precision: int
    shift: int

    @property
    def bins(self) -> int:
        return self.starts.shape[1] - 1

    def parts(self) -> tuple[list[Tensor], list[int]]:
        return [self.which, self.starts, self.first], [self.bins, self.precision, self.shift]

    def at(self, here: Tensor | slice) -> Table:
        return self._replace(which=self.which[here]) if len(self.which) else self

    def _rows(self, like: Tensor) -> Tensor:
        return self.which.long() if len(self.which) else torch.zeros_like(like)

    def interval(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rows = self._rows(x)
        low = self.starts[rows, x].long()
        return low, self.starts[rows, x + 1].long() - low

    def find(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, rows = torch.zeros_like(u), self._rows(u)
        for bit in reversed(range(max(self.bins - 1, 1).bit_length())):
            y = x + (1 << bit)
            x = torch.where((y < self.bins) & (self.starts[rows, y.clamp(max=self.bins)] <= u), y, x)
        return x, *self.interval(x)


class Tables(NamedTuple):
    """Tables that are ready to code with; made by `tables`."""

    starts: Tensor  # int32 [tables, k + 1]
    first: Tensor  # int32 [tables, cells + 1]
    precision: int
    shift: int

    def codec(self, which: Tensor | None, valid: Tensor, order: Order = Order.SIDE_BY_SIDE) -> Codec:
        """Codec of int64 symbols in [0, k), of the shape of valid (bool).

        which: int, the same shape, the table of each; None: the first for all. Where a table has no count for a symbol,
        pushing it raises ValueError.
        """
        if which is not None:
            check_shapes(valid.shape, which=which)
            check_numbers("numbers of tables", which, len(self.starts))
        numbers = torch.zeros(0, dtype=torch.int32, device=valid.device) if which is None else which.flatten().int()
        return coded(Table(numbers.contiguous(), *self), valid, order)


def tables(freqs: Tensor, precision: int) -> Tables:
    """Ready tables of int64 [tables, k] frequencies, at least 0, rows that sum to 2**precision.

    Raises ValueError for others.
    """
    whole = 1 << precision
    wrong = freqs.dim() != 2 or not freqs.numel() or bool(((freqs < 0) | (freqs > whole)).any())
    if wrong or bool((freqs.sum(1) != whole).any()):
        raise ValueError(
            f"expected frequencies [tables, k] of at least 0 whose rows sum to {whole}, got shape "
            f"{list(freqs.shape)}, least {int(freqs.min()) if freqs.numel() else 'none'}; the tables are damaged"
        )
    starts = torch.cat([torch.zeros_like(freqs[:, :1]), freqs.cumsum(1)], 1)
    return of_starts(starts, precision)


def of_starts(starts: Tensor, precision: int) -> Tables:
    """Ready tables of int [tables, k + 1] starts, rows that do not fall, from 0 to 2**precision.

    Raises ValueError for others.
    """
    right = starts.dim() == 2 and len(starts) > 0 and starts.shape[1] > 1 and not bool((starts.diff(dim=1) < 0).any())
    if not right or bool((starts[:, 0] != 0).any()) or bool((starts[:, -1] != 1 << precision).any()):
        raise ValueError(
            f"expected starts [tables, k + 1] whose rows do not fall, from 0 to {1 << precision}, got shape "
            f"{list(starts.shape)}; the tables are damaged"
        )
    count, k = len(starts), starts.shape[1] - 1
    room = MOST_CELLS if count == 1 else max(min(MOST_CELLS // max(count, 1), CELLS_A_SYMBOL * k), 1)
    shift = max(precision - (room.bit_length() - 1), 0)
    cells = torch.arange(1 << (precision - shift), device=starts.device, dtype=torch.int64) << shift
    # Starts that are equal are of symbols without frequency: the last of them is the one.
    first = torch.searchsorted(starts.long().contiguous(), cells.expand(count, -1).contiguous(), right=True) - 1
    end = torch.full((count, 1), k - 1, device=starts.device)
    first = torch.cat([first.clamp(max=k - 1), end], 1)
    return Tables(starts.int().contiguous(), first.int().contiguous(), precision, shift)


def categorical(freqs: Tensor, shape: Sequence[int], precision: int) -> Codec:
    """Codec of symbols with one static table of integer frequencies.

    freqs: int64 [k], summing to 2**precision. Raises ValueError if they do not.
    """
    valid = torch.ones(tuple(shape), dtype=torch.bool, device=freqs.device)
    return tables(freqs[None], precision).codec(None, valid)
