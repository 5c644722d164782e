"""Integer coefficients on a lattice, coded in parallel passes whose tables are chosen by what is already known.

Channels are coded band by band, each band in passes over finer and finer lattices. An integer network of one layer
predicts each coefficient's magnitude from those of its neighbours, in its own and all earlier bands
(`toolkit.coding.lattice_context`); the prediction picks a table (context coding by magnitudes: Wu 1997,
doi:10.1109/ACSSC.1997.680622). Everything that a decoder computes is an integer, so that files decode alike everywhere.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit.coding.ans import Message
from toolkit.coding.codecs import Codec, bisect, interval_codec
from toolkit.coding.lanes import pack, unpack
from toolkit.coding.lattice_context import CLASSES, Pass, Predictor, State, exact_products, passes

RADIUS = 15  # magnitudes with a symbol of their own
OCTAVES = 14  # of larger ones: a symbol for each octave, and raw bits
TOKENS = 2 * RADIUS + 1 + 2 * OCTAVES
FIRST_FAR = 2 * RADIUS + 3  # the first symbol that raw bits follow
LIMIT = RADIUS + (1 << OCTAVES) - 1  # largest magnitude of a coefficient
PRECISION = 20  # bits of a frequency: most coefficients are 0 and cost a few hundredths of a bit
CELLS = 11  # log2 of the cells of a table, each of which knows its first symbol
ALLOWED_REGRET = 0.01  # of a file's bits: what leaving out the likely zeros may cost, in the objective
EXTRA_PRECISION = 16  # of raw bits


class Tables(NamedTuple):
    """What encoder and decoder share, integers all."""

    weights: Tensor  # int32 [n], of all passes, one after the other: see `Model.matrix`
    freqs: Tensor  # int32 [bands * CLASSES, TOKENS], rows that sum to 2**PRECISION, each at least 1


@functools.cache
def _symbols() -> tuple[Tensor, Tensor]:
    """Symbol and raw bits of each r in [-LIMIT, LIMIT]: int64 [2 LIMIT + 1] each. 0, 1, -1, 2, ...; then octaves."""
    r = torch.arange(-LIMIT, LIMIT + 1)
    excess = (r.abs() - RADIUS).clamp(min=0)
    bits = torch.bucketize(excess, 1 << torch.arange(1, OCTAVES), right=True)  # floor(log2)
    far = excess > 0
    symbol = torch.where(far, 2 * RADIUS + 1 + 2 * bits + (r < 0), 2 * r.abs() - (r > 0).long())
    return symbol, torch.where(far, excess - (1 << bits), 0)


def tokens(r: Tensor) -> Tensor:
    """The symbol of each coefficient: int64 [...] in [-LIMIT, LIMIT] -> int64 [...]."""
    return _symbols()[0][r + LIMIT]


def raw(r: Tensor) -> Tensor:
    """The raw bits behind the symbol of each coefficient."""
    return _symbols()[1][r + LIMIT]


def coefficients(symbol: Tensor, raw: Tensor) -> Tensor:
    """Undo `tokens` and `raw`."""
    octave = (symbol - 2 * RADIUS - 1) >> 1
    far = symbol > 2 * RADIUS
    magnitude = RADIUS + (1 << octave.clamp(min=0)) + raw
    sign = 1 - 2 * ((symbol - 2 * RADIUS - 1) & 1)
    near = ((symbol + 1) >> 1) * (2 * (symbol & 1) - 1)
    return torch.where(far, sign * magnitude, near)


def raw_bits(symbol: Tensor) -> Tensor:
    """Number of raw bits behind each symbol."""
    return torch.where(symbol > 2 * RADIUS, (symbol - 2 * RADIUS - 1) >> 1, 0)


SIGNED = coefficients(torch.arange(TOKENS), torch.zeros(TOKENS, dtype=torch.int64)).int()  # without raw bits


class Model:
    """The passes of a lattice and the tables that code them."""

    def __init__(self, bands: Sequence[int], deep: int, tables: Tables) -> None:
        self.passes = passes(bands, deep)
        self.channels, self.bands = sum(bands), len(bands)
        self.deep = sum(bands[:deep])
        self.weights, self.freqs = tables.weights, tables.freqs.long()
        sizes = [p.inputs * (p.last - p.first) for p in self.passes]
        if self.weights.shape != (sum(sizes),) or self.freqs.shape != (self.bands * CLASSES, TOKENS):
            raise ValueError(
                f"expected {sum(sizes)} weights and frequencies [{self.bands * CLASSES}, {TOKENS}], got "
                f"{list(self.weights.shape)} and {list(self.freqs.shape)}; the tables are of other bands"
            )
        if bool((self.freqs.sum(1) != 1 << PRECISION).any()) or int(self.freqs.min()) < 1:
            raise ValueError(
                f"expected frequencies of at least 1 that sum to {1 << PRECISION}, got others; fit the tables first"
            )
        self.predictors = [Predictor(p, w) for p, w in zip(self.passes, self.weights.split(sizes), strict=True)]
        self.starts = F.pad(self.freqs.cumsum(1), (1, 0))
        firsts = torch.arange(1 << CELLS) << (PRECISION - CELLS)
        self.places = torch.stack([torch.bucketize(firsts, row[1:], right=True) for row in self.starts])
        extra = raw_bits(torch.arange(TOKENS))
        self.costs = (PRECISION - self.freqs.double().log2() + extra).float()  # bits [tables, TOKENS]


def weight_count(bands: Sequence[int], deep: int) -> int:
    return sum(p.inputs * (p.last - p.first) for p in passes(bands, deep))


class Coded(NamedTuple):
    """Coefficients and what they cost."""

    k: Tensor  # int64 [rows, channels, height, width]
    bits: Tensor  # float64 [rows], by the tables' frequencies
    band_bits: Tensor  # float64 [rows, bands]
    symbols: list[tuple[Tensor, Tensor, Tensor]]  # of each pass: symbol and table, where coded; raw bits, where any
    silent: bool  # see `walk`


# (pass, shift int32 [rows, channels, h, w], class of each, places that are coded or None for all) -> differences from
# the shift, int32 as it; 0 where not coded
Choose = Callable[[Pass, Tensor, Tensor, Tensor | None], Tensor]


def walk(model: Model, choose: Choose, rate: Tensor, size: tuple[int, int], silent: bool) -> Tensor:
    """Go through all passes; `choose` says the coefficients of each. Returns int64 [rows, channels, height, width].

    rate: int64 [rows] in [0, RATE_STEPS]. silent: coefficients of the lowest class are not coded and equal their shift.
    """
    rows = len(rate)
    state = State(rows, model.channels, model.deep, *size, rate)
    k = torch.zeros(rows, model.channels, *size, dtype=torch.int32)
    with exact_products():
        for p, predictor in zip(model.passes, model.predictors, strict=True):
            shift = state.shift(p).int()
            if not shift.numel():
                continue
            group = predictor.classes(p, state).view(shift.shape)
            coded = group.flatten().nonzero()[:, 0] if silent else None
            r = choose(p, shift, group, coded)
            here = p.of(k)
            torch.add(r, shift, out=here) if p.around else here.copy_(r)
            state.set(p, r, here)
    return k.long()


def _coded(model: Model, choose: Choose, rate: Tensor, size: tuple[int, int], silent: bool) -> Coded:
    """`walk`, with what the coefficients cost."""
    rows = len(rate)
    bits = torch.zeros(rows, model.bands, dtype=torch.float64)
    symbols = []

    def record(p: Pass, shift: Tensor, group: Tensor, coded: Tensor | None) -> Tensor:
        r = choose(p, shift, group, coded)
        some, which = (r.flatten(), group.flatten()) if coded is None else (r.take(coded), group.take(coded))
        symbol, table = tokens(some), which.long() + p.band * CLASSES
        symbols.append((symbol, raw(some[symbol >= FIRST_FAR]), table))
        cost = model.costs.take(table * TOKENS + symbol).double()
        row = torch.arange(rows).repeat_interleave(r[0].numel()) if coded is None else coded // r[0].numel()
        bits[:, p.band] += torch.bincount(row, cost, rows)
        return r

    k = walk(model, record, rate, size, silent)
    return Coded(k, bits.sum(1), bits, symbols, silent)


def search(model: Model, mu: Tensor, weight: Tensor, rate: Tensor, rounding: bool = False) -> Coded:
    """The coefficients near float [rows, channels, h, w] mu (in steps) of least weight (k - mu)^2 + bits.

    weight: float, the shape of mu, bits for a squared step. The rate is the tables' own, pass by pass, given what was
    chosen before. rounding: the nearest integers instead. Coefficients of the lowest class are left out unless that
    costs more than it saves, as for patterns that training never showed.
    """
    regret = torch.zeros(())

    def choose(p: Pass, shift: Tensor, group: Tensor, coded: Tensor | None) -> Tensor:
        nonlocal regret
        m = p.of(mu)
        r = (m.round() - shift).int().flatten()
        at = r.nonzero()[:, 0]  # elsewhere the nearest costs least
        m, w, low, group = m.take(at) - shift.take(at), p.of(weight).take(at), r.take(at), group.take(at)
        tried = torch.stack([low, low - low.sign(), low - 2 * low.sign(), torch.zeros_like(low)])
        table = (group + p.band * CLASSES).long()
        costs = w * (tried - m).square() + model.costs.take(table * TOKENS + tokens(tried.clamp_(-LIMIT, LIMIT)))
        least, best = costs.min(0) if not rounding else (costs[0], torch.zeros_like(table))
        regret = regret + ((costs[3] - least) * (group == 0)).clamp_(min=0).sum()
        found = tried.gather(0, best[None])[0]
        if coded is not None:
            found = found * (group > 0)
        r[at] = found
        return r.view(shift.shape)

    size = mu.shape[2], mu.shape[3]
    coded = _coded(model, choose, rate, size, silent=True)
    if float(regret) > ALLOWED_REGRET * float(coded.bits.sum()) + 64:
        coded = _coded(model, choose, rate, size, silent=False)
    return coded


def given(model: Model, k: Tensor, rate: Tensor, silent: bool = False) -> Coded:
    """What int64 [rows, channels, h, w] coefficients cost."""

    def choose(p: Pass, shift: Tensor, group: Tensor, coded: Tensor | None) -> Tensor:
        r = (p.of(k) - shift).clamp(-LIMIT, LIMIT).int()
        return r if coded is None else r * (group > 0)

    return _coded(model, choose, rate, (k.shape[2], k.shape[3]), silent)


def encode(model: Model, coded: Coded, lanes: int, compiled: bool = False) -> bytes:
    """The bytes of `search`'s result of one row."""
    message = Message.empty(lanes, compiled=compiled, small=True)
    for symbol, rest, table in reversed(coded.symbols):
        if len(rest):
            _raw_codec(raw_bits(symbol[symbol >= FIRST_FAR])).push(message, rest)
        if len(symbol):
            _symbol_codec(model, table).push(message, symbol)
    return pack(message)


def decode(
    model: Model, payload: bytes, rate: Tensor, size: tuple[int, int], silent: bool, compiled: bool = False
) -> Tensor:
    """int64 [1, channels, height, width] that `encode` was given. Raises ValueError for damaged bytes."""
    message = unpack(payload, compiled)

    def choose(p: Pass, shift: Tensor, group: Tensor, coded: Tensor | None) -> Tensor:
        table = (group.flatten() if coded is None else group.take(coded)).long() + p.band * CLASSES
        if not len(table):
            return torch.zeros_like(shift)
        symbol = _symbol_codec(model, table).pop(message)
        r = SIGNED.take(symbol)
        far = (symbol >= FIRST_FAR).nonzero()[:, 0]
        if len(far):
            symbol = symbol[far]
            r[far] = coefficients(symbol, _raw_codec(raw_bits(symbol)).pop(message)).int()
        if coded is None:
            return r.view(shift.shape)
        return torch.zeros(shift.numel(), dtype=torch.int32).index_copy_(0, coded, r).view(shift.shape)

    k = walk(model, choose, rate, size, silent)
    if bool((message.head != 0).any() or (message.size != 0).any()):
        raise ValueError("expected nothing left after the last coefficient, got more; the data are damaged")
    return k


def _symbol_codec(model: Model, table: Tensor) -> Codec:
    valid = torch.ones_like(table, dtype=torch.bool)
    tables = [model.starts.flatten(), model.places.flatten()]
    return interval_codec(_interval, _find, [table], tables, TOKENS, valid, PRECISION, sure=_surely)


def _interval(x: Tensor, table: Tensor, starts: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    low = starts[table * (TOKENS + 1) + x]
    return low, starts[table * (TOKENS + 1) + x + 1] - low


def _find(u: Tensor, table: Tensor, starts: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The symbol at the start of u's cell, or one of the two after it: misses where rare symbols share a cell."""
    x = places[(table << CELLS) + (u >> (PRECISION - CELLS))]
    for _ in range(2):
        x = (x + (starts[table * (TOKENS + 1) + x + 1] <= u)).clamp(max=TOKENS - 1)
    return x, *_interval(x, table, starts, places)


def _surely(u: Tensor, table: Tensor, starts: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return bisect(u, TOKENS, lambda x: starts[table * (TOKENS + 1) + x], PRECISION)


def _raw_codec(bits: Tensor) -> Codec:
    valid = torch.ones_like(bits, dtype=torch.bool)
    return interval_codec(_raw_interval, _find_raw, [bits], [], 1 << OCTAVES, valid, EXTRA_PRECISION)


def _raw_interval(x: Tensor, bits: Tensor) -> tuple[Tensor, Tensor]:
    freq = 1 << (EXTRA_PRECISION - bits)
    return x * freq, freq


def _find_raw(u: Tensor, bits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x = u >> (EXTRA_PRECISION - bits)
    return x, *_raw_interval(x, bits)
