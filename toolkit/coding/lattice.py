"""Integer coefficients on a lattice, coded in parallel passes whose tables are chosen by what is already known.

Channels are coded band by band, each band in passes over finer and finer lattices. An integer network of one layer
predicts each coefficient's magnitude from those of its neighbours, in its own and all earlier bands; the prediction
picks a table (context coding by magnitudes: Wu 1997, doi:10.1109/ACSSC.1997.680622; interlaced passes: Howard, Vitter
1993). Everything that a decoder computes is an integer, so files decode alike on every machine.
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

RADIUS = 15  # magnitudes with a symbol of their own
OCTAVES = 14  # of larger ones: a symbol for each octave, and raw bits
TOKENS = 2 * RADIUS + 1 + 2 * OCTAVES
LIMIT = RADIUS + (1 << OCTAVES) - 1  # largest magnitude of a coefficient
PRECISION = 20  # bits of a frequency: most coefficients are 0 and cost a few hundredths of a bit
CELLS = 11  # log2 of the cells of a table, each of which knows its first symbol
FRACTION = 16  # bits after the point of weights
CLASSES = 24  # tables of a band, by predicted magnitude
CLAMP = 31  # magnitudes count so much at most in predictions
ALLOWED_REGRET = 0.01  # of a file's bits: what leaving out the likely zeros may cost, in the objective
EXTRA_PRECISION = 16  # of raw bits
RATE_STEPS = 96  # a coder knows the rate as an integer in [0, RATE_STEPS]
BORDER = 16  # places around the lattice: how far predictions can look


class Pass(NamedTuple):
    """Coefficients that are coded at once: of some channels, every `stride`-th from (y, x) on."""

    band: int
    first: int  # channels
    last: int
    stride: int
    y: int
    x: int
    reach: int  # distance of the neighbours in the band itself
    around: str  # the neighbours that a mean is predicted from: "", "corners" or "edges"


def passes(bands: Sequence[int], deep: int) -> list[Pass]:
    """The order of coding for bands of so many channels; the first `deep` have four levels, and means predicted."""
    found, first = [], 0
    for band, n in enumerate(bands):
        span = band, first, first + n
        depth = 4 if band < deep else 1
        found.append(Pass(*span, 1 << depth, 0, 0, 1, ""))
        for level in reversed(range(depth)):
            h = 1 << level
            corners, edges = ("corners", "edges") if band < deep else ("", "")
            found += [Pass(*span, 2 * h, h, h, h, corners), Pass(*span, 2 * h, 0, h, h, edges)]
            found += [Pass(*span, 2 * h, h, 0, h, edges)]
        first += n
    return found


class Tables(NamedTuple):
    """What encoder and decoder share, integers all."""

    weights: Tensor  # int32 [n], of all passes, one after the other: see `Model.matrix`
    freqs: Tensor  # int32 [bands * CLASSES, TOKENS], rows that sum to 2**PRECISION, each at least 1


def thresholds() -> Tensor:
    """Predicted magnitudes, times 2**FRACTION, at which the classes change: int64 [CLASSES - 1]."""
    return torch.tensor([round((1 << FRACTION) * 0.0015 * 1.5**i) for i in range(CLASSES - 1)])


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


class Model:
    """The passes of a lattice and the tables that code them."""

    def __init__(self, bands: Sequence[int], deep: int, tables: Tables) -> None:
        self.passes = passes(bands, deep)
        self.channels, self.bands = sum(bands), len(bands)
        self.deep = sum(bands[:deep])
        self.weights, self.freqs = tables.weights, tables.freqs.long()
        sizes = [self.inputs(p) * (p.last - p.first) for p in self.passes]
        if self.weights.shape != (sum(sizes),) or self.freqs.shape != (self.bands * CLASSES, TOKENS):
            raise ValueError(
                f"expected {sum(sizes)} weights and frequencies [{self.bands * CLASSES}, {TOKENS}], got "
                f"{list(self.weights.shape)} and {list(self.freqs.shape)}; the tables are of other bands"
            )
        if bool((self.freqs.sum(1) != 1 << PRECISION).any()) or int(self.freqs.min()) < 1:
            raise ValueError(
                f"expected frequencies of at least 1 that sum to {1 << PRECISION}, got others; fit the tables first"
            )
        self._split = self.weights.split(sizes)
        self.starts = F.pad(self.freqs.cumsum(1), (1, 0))
        firsts = torch.arange(1 << CELLS) << (PRECISION - CELLS)
        self.places = torch.stack([torch.bucketize(firsts, row[1:], right=True) for row in self.starts])
        extra = raw_bits(torch.arange(TOKENS))
        self.costs = (PRECISION - self.freqs.double().log2() + extra).float()  # bits [tables, TOKENS]
        self.thresholds = thresholds()

    @staticmethod
    def inputs(p: Pass) -> int:
        """Inputs of a pass's predictor: four of each channel, and three of the rate."""
        return 4 * p.last + 3

    @staticmethod
    def weight_count(bands: Sequence[int], deep: int) -> int:
        return sum(Model.inputs(p) * (p.last - p.first) for p in passes(bands, deep))

    def matrix(self, i: int) -> Tensor:
        """Weights of pass i: float64 [outputs, inputs], integers all."""
        p = self.passes[i]
        return self._split[i].view(p.last - p.first, -1).double()


class State:
    """What is known of some lattices while they are coded: float64 planes with a border of zeros, integers all."""

    def __init__(self, rows: int, channels: int, deep: int, height: int, width: int, rate: Tensor) -> None:
        self.height, self.width, self.rate = height, width, rate
        shape = height + 2 * BORDER, width + 2 * BORDER
        self.magnitude = torch.zeros(rows, channels, *shape, dtype=torch.float64)
        self.value = torch.zeros(rows, deep, *shape, dtype=torch.float64)
        self.inside = torch.zeros(1, 1, *shape, dtype=torch.float64)
        self.inside[..., BORDER : BORDER + height, BORDER : BORDER + width] = 1

    def at(self, plane: Tensor, p: Pass, dy: int = 0, dx: int = 0) -> Tensor:
        """The places of a pass, shifted by (dy, dx), in a plane with a border; a view."""
        rows = slice(BORDER + p.y + dy, BORDER + self.height + dy, p.stride)
        return plane[..., rows, slice(BORDER + p.x + dx, BORDER + self.width + dx, p.stride)]

    def features(self, p: Pass) -> Tensor:
        """Magnitudes known around each place: float64 [rows, inputs, places]."""
        parts = []
        for plane, r in ((self.magnitude[:, : p.first], 1), (self.magnitude[:, p.first : p.last], p.reach)):
            parts += [
                self.at(plane, p),
                self.at(plane, p, 0, -r) + self.at(plane, p, 0, r),
                self.at(plane, p, -r, 0) + self.at(plane, p, r, 0),
                self.at(plane, p, -r, -r) + self.at(plane, p, -r, r) + self.at(plane, p, r, -r)
                + self.at(plane, p, r, r),
            ]  # fmt: skip
        rate = torch.stack([torch.full_like(self.rate, 16), self.rate, RATE_STEPS - self.rate], 1).double()
        places = parts[0].shape[-2:]
        parts.append(rate[:, :, None, None].expand(-1, -1, *places))
        return torch.cat(parts, 1).flatten(2)

    def shift(self, p: Pass) -> Tensor:
        """The rounded mean of the known neighbours: float64 [rows, channels, h, w], integers."""
        plane = self.value[:, p.first : p.last]
        if not p.around:
            return torch.zeros_like(self.at(self.magnitude[:, p.first : p.last], p))
        r = p.reach
        corners, edges = [(-r, -r), (-r, r), (r, -r), (r, r)], [(0, -r), (0, r), (-r, 0), (r, 0)]
        around = corners if p.around == "corners" else edges
        total = sum(self.at(plane, p, *d) for d in around)
        known = sum(self.at(self.inside, p, *d) for d in around).clamp(min=1)  # type: ignore[union-attr]
        # Exact: quotients of small integers, the same on every machine.
        return torch.floor(total / known + 0.5)

    def set(self, p: Pass, r: Tensor, k: Tensor) -> None:
        """Record coded differences r and coefficients k, int64 [rows, channels, h, w]."""
        self.at(self.magnitude[:, p.first : p.last], p).copy_(r.abs().clamp(max=CLAMP))
        if p.last <= self.value.shape[1]:
            self.at(self.value[:, p.first : p.last], p).copy_(k)


def classes(model: Model, state: State, i: int) -> Tensor:
    """The class of each coefficient of pass i: int64 [rows, channels, places]."""
    found = model.matrix(i) @ state.features(model.passes[i])  # exact: integers far below 2**53
    return torch.bucketize(found, model.thresholds.double(), right=True)


class Coded(NamedTuple):
    """Coefficients and what they cost."""

    k: Tensor  # int64 [rows, channels, height, width]
    bits: Tensor  # float64 [rows], by the tables' frequencies
    band_bits: Tensor  # float64 [rows, bands]
    symbols: list[tuple[Tensor, Tensor, Tensor]]  # of each pass: symbol, raw bits, table; where coded
    silent: bool  # see `walk`


Choose = Callable[[Pass, Tensor, Tensor], Tensor]  # (pass, shift, costs of each symbol's table) -> coefficients


def walk(model: Model, choose: Choose, rate: Tensor, size: tuple[int, int], silent: bool) -> Coded:
    """Go through all passes; `choose` says the coefficients of each, from the search or from what is given.

    rate: int64 [rows] in [0, RATE_STEPS]. silent: coefficients of the lowest class are not coded and equal their shift.
    """
    rows = len(rate)
    state = State(rows, model.channels, model.deep, *size, rate)
    k = torch.zeros(rows, model.channels, *size, dtype=torch.int64)
    bits = torch.zeros(rows, model.bands, dtype=torch.float64)
    symbols = []
    for i, p in enumerate(model.passes):
        shift = state.shift(p).long()
        if not shift.numel():
            symbols.append((shift.flatten(), shift.flatten(), shift.flatten()))
            continue
        group = classes(model, state, i).view(shift.shape)
        table = group + p.band * CLASSES
        chosen = choose(p, shift, table)
        if silent:
            chosen = torch.where(group == 0, shift, chosen)
        r = (chosen - shift).clamp(-LIMIT, LIMIT)
        chosen = shift + r
        symbol = tokens(r)
        cost = model.costs[table, symbol]
        if silent:
            coded = group > 0
            cost = cost * coded
            symbols.append((symbol[coded], raw(r[coded]), table[coded]))
        else:
            symbols.append((symbol.flatten(), raw(r).flatten(), table.flatten()))
        bits[:, p.band] += cost.double().sum((1, 2, 3))
        k[:, p.first : p.last, p.y :: p.stride, p.x :: p.stride] = chosen
        state.set(p, r, chosen)
    return Coded(k, bits.sum(1), bits, symbols, silent)


def search(model: Model, mu: Tensor, weight: Tensor, rate: Tensor, rounding: bool = False) -> Coded:
    """The coefficients near float [rows, channels, h, w] mu (in steps) of least weight (k - mu)^2 + bits.

    weight: float, the shape of mu, bits for a squared step. The rate is the tables' own, pass by pass, given what was
    chosen before. rounding: the nearest integers instead. Coefficients of the lowest class are left out unless that
    costs more than it saves, as for patterns that training never showed.
    """
    regret = torch.zeros(())

    def choose(p: Pass, shift: Tensor, table: Tensor) -> Tensor:
        nonlocal regret
        place = (slice(None), slice(p.first, p.last), slice(p.y, None, p.stride), slice(p.x, None, p.stride))
        m, w = mu[place], weight[place]
        near = m.round().long()
        tried = [near, near + (shift - near).sign(), near + 2 * (shift - near).sign(), shift]
        costs = []
        for candidate in tried:
            symbol = tokens((candidate - shift).clamp(-LIMIT, LIMIT))
            costs.append(w * (candidate - m).square() + model.costs[table, symbol])
        least, best = torch.stack(costs).min(0)
        if rounding:
            least, best = costs[0], torch.zeros_like(best)
        regret = regret + ((costs[3] - least) * (table == p.band * CLASSES)).clamp(min=0).sum()
        return torch.stack(tried).gather(0, best[None])[0]

    size = mu.shape[2], mu.shape[3]
    coded = walk(model, choose, rate, size, silent=True)
    if float(regret) > ALLOWED_REGRET * float(coded.bits.sum()) + 64:
        coded = walk(model, choose, rate, size, silent=False)
    return coded


def given(model: Model, k: Tensor, rate: Tensor, silent: bool = False) -> Coded:
    """What int64 [rows, channels, h, w] coefficients cost."""

    def choose(p: Pass, shift: Tensor, table: Tensor) -> Tensor:
        return k[:, p.first : p.last, p.y :: p.stride, p.x :: p.stride]

    return walk(model, choose, rate, (k.shape[2], k.shape[3]), silent)


def encode(model: Model, coded: Coded, lanes: int, compiled: bool = False) -> bytes:
    """The bytes of `search`'s result of one row."""
    message = Message.empty(lanes, compiled=compiled, small=True)
    for symbol, rest, table in reversed(coded.symbols):
        bits = raw_bits(symbol)
        far = bits > 0
        if bool(far.any()):
            _raw_codec(bits[far]).push(message, rest[far])
        if len(symbol):
            _symbol_codec(model, table).push(message, symbol)
    return pack(message)


def decode(
    model: Model, payload: bytes, rate: Tensor, size: tuple[int, int], silent: bool, compiled: bool = False
) -> Tensor:
    """int64 [1, channels, height, width] that `encode` was given. Raises ValueError for damaged bytes."""
    message = unpack(payload, compiled)

    def choose(p: Pass, shift: Tensor, table: Tensor) -> Tensor:
        coded = table != p.band * CLASSES if silent else torch.ones_like(table, dtype=torch.bool)
        r = torch.zeros_like(shift)
        which = table[coded]
        if len(which):
            symbol = _symbol_codec(model, which).pop(message)
            bits = raw_bits(symbol)
            far, rest = bits > 0, torch.zeros_like(symbol)
            if bool(far.any()):
                rest[far] = _raw_codec(bits[far]).pop(message)
            r[coded] = coefficients(symbol, rest)
        return shift + r

    k = walk(model, choose, rate, size, silent).k
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
