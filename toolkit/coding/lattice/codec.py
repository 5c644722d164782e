"""Integer coefficients on a lattice, coded in parallel passes whose tables are chosen by what is already known.

Channels are coded band by band, each band in passes over finer and finer lattices. An integer network of one layer
predicts each coefficient's magnitude from those of its neighbours, in its own and all earlier bands
(`toolkit.coding.lattice.context`); the prediction picks a table (context coding by magnitudes: Wu 1997,
doi:10.1109/ACSSC.1997.680622). Everything that a decoder computes is an integer, so that files decode alike everywhere.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit.coding.codecs import Codec
from toolkit.coding.codecs import raw as raw_codec
from toolkit.coding.exactness import exact_products
from toolkit.coding.lattice.context import CLASSES, LEAST, Pass, Predictor, State, classes, passes
from toolkit.coding.message import Message
from toolkit.coding.tables import tables as ready

RADIUS = 15  # magnitudes with a symbol of their own
OCTAVES = 14  # of larger ones: a symbol for each octave, and raw bits
TOKENS = 2 * RADIUS + 1 + 2 * OCTAVES
FIRST_FAR = 2 * RADIUS + 3  # the first symbol that raw bits follow
LIMIT = RADIUS + (1 << OCTAVES) - 1  # largest magnitude of a coefficient
TOKEN_BITS = 20  # bits of a frequency: most coefficients are 0 and cost a few hundredths of a bit
ALLOWED_REGRET = 0.01  # of a file's bits: what leaving out the likely zeros may cost, in the objective
EXTRA_PRECISION = 16  # of raw bits


class Tables(NamedTuple):
    """What encoder and decoder share, integers all."""

    weights: Tensor  # int32 [n], of all passes, one after the other: see `Predictor`
    freqs: Tensor  # int32 [bands * CLASSES, TOKENS], rows that sum to 2**TOKEN_BITS, each at least 1


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
    """The symbol of each coefficient: int [...] in [-LIMIT, LIMIT] -> int64 [...]."""
    return _symbols()[0].take(r.long() + LIMIT)


def raw(r: Tensor) -> Tensor:
    """The raw bits behind the symbol of each coefficient."""
    return _symbols()[1].take(r.long() + LIMIT)


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


SIGNED = coefficients(torch.arange(TOKENS), torch.zeros(TOKENS, dtype=torch.int64)).to(torch.int16)  # without raw bits


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
        if bool((self.freqs.sum(1) != 1 << TOKEN_BITS).any()) or int(self.freqs.min()) < 1:
            raise ValueError(
                f"expected frequencies of at least 1 that sum to {1 << TOKEN_BITS}, got others; fit the tables first"
            )
        self.predictors = [Predictor(p, w) for p, w in zip(self.passes, self.weights.split(sizes), strict=True)]
        self.coder = ready(self.freqs, TOKEN_BITS)
        extra = raw_bits(torch.arange(TOKENS))
        self.costs = (TOKEN_BITS - self.freqs.double().log2() + extra).float()  # bits [tables, TOKENS]

    def tables(self, p: Pass, sums: Tensor) -> Tensor:
        """The rows of `freqs` for coefficients of a pass whose predicted magnitudes are `sums`: int64."""
        return classes(sums).add_(p.band * CLASSES)


def weight_count(bands: Sequence[int], deep: int) -> int:
    return sum(p.inputs * (p.last - p.first) for p in passes(bands, deep))


class Known(NamedTuple):
    """What is known of the coefficients of a pass before they are coded."""

    shift: Tensor | None  # int16 [places of all channels], their predicted means; None: 0
    sums: Tensor  # float [places of all channels], their predicted magnitudes
    coded: Tensor | None  # int64, rising: the places that are coded; None: all


class Coded(NamedTuple):
    """Coefficients and what they cost."""

    k: Tensor  # int16 [rows, channels, height, width]
    bits: Tensor  # float64 [rows], by the tables' frequencies
    channel_bits: Tensor  # float64 [rows, channels]
    symbols: list[tuple[Tensor, Tensor, Tensor]]  # of each pass: symbol and table, where coded; raw bits, where any
    silent: bool  # see `walk`


# Says the coefficients of a pass, given the tables of those that are coded: int16 [places of all channels], differences
# from the shift, 0 where not coded.
Choose = Callable[[Pass, Known, Tensor], Tensor]


def walk(model: Model, choose: Choose, rate: Tensor, size: tuple[int, int], silent: bool) -> Tensor:
    """Go through all passes of some lattices of one size; `choose` says the coefficients of each.

    rate: int64 [rows] in [0, RATE_STEPS]; silent: coefficients of the lowest class are not coded and equal their
    shift. Returns int16 [rows, channels, height, width].
    """
    state = State(len(rate), model.channels, model.deep, *size, rate)
    k = torch.zeros(len(rate), model.channels, *size, dtype=torch.int16)
    with exact_products(threads=1):
        for p, predictor in zip(model.passes, model.predictors, strict=True):
            known = _known(p, predictor, state, silent)
            table = model.tables(p, known.sums if known.coded is None else known.sums.take(known.coded))
            place = p.of(k)
            r = choose(p, known, table).view(place.shape)
            place.copy_(r if known.shift is None else r + known.shift.view(place.shape))
            state.set(p, r, place)
    return k


def _known(p: Pass, predictor: Predictor, state: State, silent: bool) -> Known:
    if not math.prod(state.size(p)):  # a small lattice
        return Known(None, torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    shift, sums = state.shift(p), predictor.sums(p, state).flatten()
    coded = (sums >= LEAST).nonzero()[:, 0] if silent else None
    return Known(None if shift is None else shift.flatten(), sums, coded)


def _coded(model: Model, choose: Choose, rate: Tensor, size: tuple[int, int], silent: bool) -> Coded:
    """`walk`, with what the coefficients cost."""
    rows = len(rate)
    bits = torch.zeros(rows, model.channels, dtype=torch.float64)
    symbols = []

    def record(p: Pass, known: Known, table: Tensor) -> Tensor:
        r = choose(p, known, table)
        some = r if known.coded is None else r.take(known.coded)
        at = some.nonzero()[:, 0]
        some = some.take(at)
        symbol = torch.zeros_like(table).index_copy_(0, at, tokens(some))
        symbols.append((symbol, raw(some[some.abs() > RADIUS + 1]), table))
        # Of each channel by differences of running sums: coded places rise, channel after channel.
        cost = F.pad(model.costs.take(table * TOKENS + symbol).double().cumsum(0), (1, 0))
        n = rows * (p.last - p.first)
        ends = torch.arange(n + 1) * (len(r) // n)
        ends = ends if known.coded is None else torch.searchsorted(known.coded, ends)
        bits[:, p.first : p.last] += cost[ends].diff().view(rows, -1)
        return r

    k = walk(model, record, rate, size, silent)
    return Coded(k, bits.sum(1), bits, symbols, silent)


def search(model: Model, mu: Tensor, sigma: Tensor, precision: Tensor, rate: Tensor, rounding: bool = False) -> Coded:
    """The coefficients near float [rows, channels, h, w] mu of least precision (k - mu)^2 / sigma^2 + bits.

    mu in steps; sigma: float, the shape of mu, in any unit; precision: float [rows], bits for sigma of one and a miss
    of one step. The rate is the tables' own, pass by pass, given what was chosen before. rounding: the nearest integers
    instead. Coefficients of the lowest class are left out unless that costs more than it saves, as for patterns that
    training never showed.
    """
    height, width = mu.shape[2:]
    mu, sigma, nearest = mu.contiguous(), sigma.contiguous(), torch.empty_like(mu, dtype=torch.int16)
    # Of each place of a plane, by pass, where it stands in the plane.
    grid = torch.arange(height * width).view(1, 1, height, width)
    regret = torch.zeros(())

    def choose(p: Pass, known: Known, table: Tensor) -> Tensor:
        nonlocal regret
        if not (p.x or p.y):  # the first pass of a band
            nearest[:, p.first : p.last] = mu[:, p.first : p.last].round()
        r = p.of(nearest).flatten()
        r = r if known.shift is None else r - known.shift
        at = r.nonzero()[:, 0]  # elsewhere the nearest costs least
        places = grid[0, 0, p.y :: p.stride, p.x :: p.stride].flatten()
        plane = at // len(places)
        row = plane // (p.last - p.first)
        where = places.take(at - plane * len(places))
        where += (plane + row * (model.channels - p.last + p.first) + p.first) * (height * width)
        m, low = mu.take(where), r.take(at).float()
        m = m if known.shift is None else m - known.shift.take(at)
        w = sigma.take(where).square_().reciprocal_().mul_(precision.take(row))
        tried = torch.stack([low, low - low.sign(), low - 2 * low.sign(), torch.zeros_like(low)])
        which = model.tables(p, known.sums.take(at))
        distortion = w * (tried - m).square()
        tried = tried.to(torch.int16).clamp_(-LIMIT, LIMIT)
        costs = distortion + model.costs.take(which * TOKENS + tokens(tried))
        least, best = costs.min(0) if not rounding else (costs[0], torch.zeros_like(which))
        quiet = which == p.band * CLASSES
        regret = regret + ((costs[3] - least) * quiet).clamp_(min=0).sum()
        found = tried.gather(0, best[None])[0]
        r[at] = found if known.coded is None else found.masked_fill_(quiet, 0)
        return r

    coded = _coded(model, choose, rate, (height, width), silent=True)
    if float(regret) > ALLOWED_REGRET * float(coded.bits.sum()) + 64:
        coded = _coded(model, choose, rate, (height, width), silent=False)
    return coded


def given(model: Model, k: Tensor, rate: Tensor, silent: bool = False) -> Coded:
    """What int [rows, channels, h, w] coefficients cost."""

    def choose(p: Pass, known: Known, table: Tensor) -> Tensor:
        r = p.of(k).flatten() - (0 if known.shift is None else known.shift)
        r = r.clamp(-LIMIT, LIMIT).to(torch.int16)
        return r if known.coded is None else torch.zeros_like(r).index_copy_(0, known.coded, r.take(known.coded))

    return _coded(model, choose, rate, (k.shape[2], k.shape[3]), silent)


def encode(model: Model, coded: Coded, lanes: int) -> Message:
    """One of `search`'s results, of one row, on so many lanes."""
    message = Message.empty(lanes, first=0)
    for symbol, rest, table in reversed(coded.symbols):
        if len(rest):
            _rest(symbol[symbol >= FIRST_FAR]).push(message, rest)
        model.coder.codec(table, torch.ones_like(table, dtype=torch.bool)).push(message, symbol)
    return message


def decode(model: Model, message: Message, rate: Tensor, size: tuple[int, int], silent: bool) -> Tensor | None:
    """What `encode` was given, int16 [1, channels, height, width]; None if the message holds more: it was damaged."""

    def choose(p: Pass, known: Known, table: Tensor) -> Tensor:
        symbol = model.coder.codec(table, torch.ones_like(table, dtype=torch.bool)).pop(message)
        r = SIGNED.take(symbol)
        at = (symbol >= FIRST_FAR).nonzero()[:, 0]
        if len(at):
            far = symbol.take(at)
            r[at] = coefficients(far, _rest(far).pop(message)).to(torch.int16)
        return (
            r if known.coded is None else torch.zeros(len(known.sums), dtype=torch.int16).index_copy_(0, known.coded, r)
        )

    k = walk(model, choose, rate, size, silent)
    return k if bool(message.ended().all()) else None


def _rest(symbol: Tensor) -> Codec:
    """Codec of the raw bits behind symbols that have some."""
    return raw_codec(raw_bits(symbol), torch.ones_like(symbol, dtype=torch.bool), EXTRA_PRECISION)
