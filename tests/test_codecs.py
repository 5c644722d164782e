"""Codecs: the law, exact rates, the two orders of bits-back coding on a chain, and what each codec refuses."""

import itertools
import math
import shutil
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from tests.laws import check_codec, contents
from toolkit.coding import frequencies
from toolkit.coding.ans import EmptyMessage, Message
from toolkit.coding.codecs import (
    PRECISION,
    Codec,
    Layer,
    _search_functions,
    bb_ans,
    bit_swap,
    bits_back,
    categorical,
    location_scale,
    to_lanes,
    uniform,
)
from toolkit.coding.mixtures import coupled_mixture, drawn_mixture, mixture, weighted

CPU = torch.device("cpu")
KINDS = ["logistic", "gaussian"]
FREQS = torch.tensor([1, 500, 3, 20, 4000, 60000, 1012])  # sums to 2**16


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def integers(seed: int, high: int, *shape: int) -> Tensor:
    return torch.randint(high, shape, generator=generator(seed))


def floats(seed: int, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=generator(seed), dtype=torch.float64)


def holes(*shape: int, seed: int = 99) -> Tensor:
    return torch.rand(*shape, generator=generator(seed)) < 0.7


# Parameters, snapped.


def locations(seed: int, bins: int, *shape: int) -> Tensor:
    return frequencies.snap_location(floats(seed, -0.1 * bins, 1.1 * bins, *shape))


def scales(seed: int, *shape: int, low: float = 0.3, high: float = 30) -> Tensor:
    return frequencies.snap_scale(floats(seed, math.log(low), math.log(high), *shape))


class Pixels(NamedTuple):
    """The parameters of a coupled mixture over c channels, snapped."""

    kind: str
    weight: Tensor  # int64 [k, ...]
    loc: Tensor  # int64 [c, k, ...]
    scale: Tensor  # int64 [c, k, ...]
    coupling: Tensor  # int64 [c (c - 1) / 2, k, ...]
    bins: int

    @property
    def _from_middle(self) -> Tensor:
        return self.loc - (self.bins - 1) * frequencies.LOC_STEPS // 2

    def codec(self, valid: Tensor) -> Codec:
        return coupled_mixture(self.kind, self.weight, self._from_middle, self.scale, self.coupling, self.bins, valid)

    def drawn(self, valid: Tensor) -> Codec:
        return drawn_mixture(self.kind, self.weight, self._from_middle, self.scale, self.coupling, self.bins, valid)


def pixels(kind: str, c: int, k: int, *shape: int, bins: int = 64, seed: int = 0) -> Pixels:
    return Pixels(
        kind,
        frequencies.weights(frequencies.snap_logits(floats(seed, -2, 2, k, *shape))),
        locations(seed + 1, bins, c, k, *shape),
        scales(seed + 2, c, k, *shape),
        frequencies.snap_coupling(floats(seed + 3, -1, 1, c * (c - 1) // 2, k, *shape)),
        bins,
    )


# The same integer frequencies in plain Python, one symbol at a time.


def plain_cdf(kind: str, x: int, loc: int, level: int, bins: int) -> int:
    if x == 0:
        return 0
    if x == bins:
        return 2**30
    table, cells = TABLES[kind], {"logistic": 128, "gaussian": 256}[kind]
    # In 1/65536 of a cell: (x - 1/2 - loc / 64) / scale * cells * 65536, from the rounded 2**28 / scale.
    t = (64 * x - 32 - loc) * INVERSES[level] // (2**28 * 64 // (cells * 65536))
    middle = (len(table) - 1) // 2 * 65536
    cell, fraction = divmod(min(max(t, -middle), middle - 1) + middle, 65536)
    return table[cell] + (table[cell + 1] - table[cell]) * fraction // 65536


def borders(kind: str) -> list[int]:
    """The distribution function at the cells' borders, from the packed table."""
    cells = frequencies.cdf_table(kind, CPU).tolist()
    return [cell % 2**32 for cell in cells] + [2**30]


TABLES: dict[str, list[int]] = {kind: borders(kind) for kind in KINDS}
INVERSES: list[int] = frequencies.inverse_scales(CPU).tolist()


def plain_start(y: int, x: int, bins: int, precision: int, least: int) -> int:
    return y * ((1 << precision) - least * bins) // 2**30 + least * x


def plain_mixture_frequency(
    kind: str, weight: list[int], loc: list[int], level: list[int], x: int, bins: int, precision: int
) -> int:
    def start(x: int) -> int:
        components = zip(weight, loc, level, strict=True)
        y = sum(w * plain_cdf(kind, x, at, s, bins) for w, at, s in components) // 65536
        return plain_start(y, x, bins, precision, 1)

    return start(x + 1) - start(x)


def plain_pixel_frequencies(p: Pixels, i: int, x: list[int]) -> list[int]:
    """The frequency of each channel of pixel i, a flat index, under precision PRECISION."""
    weight = p.weight.flatten(1)[:, i].tolist()
    loc, level, coupling = (t.flatten(2)[..., i].tolist() for t in (p.loc, p.scale, p.coupling))
    result = []
    for j in range(len(x)):
        row = j * (j - 1) // 2
        at = [
            loc[j][m] + sum(coupling[row + i][m] * (2 * x[i] - p.bins + 1) for i in range(j)) // 8
            for m in range(len(weight))
        ]
        result.append(plain_mixture_frequency(p.kind, weight, at, level[j], x[j], p.bins, PRECISION))
        mass = [
            plain_cdf(p.kind, x[j] + 1, a, s, p.bins) - plain_cdf(p.kind, x[j], a, s, p.bins)
            for a, s in zip(at, level[j], strict=True)
        ]
        product = [w * (m + 1) for w, m in zip(weight, mass, strict=True)]
        weight = [q * 65536 // sum(product) for q in product]
        weight[product.index(max(product))] += 65536 - sum(weight)
    return result


def information(freqs: list[int], precision: int = PRECISION) -> float:
    return sum(precision - math.log2(freq) for freq in freqs)


def location_scale_bits(
    kind: str, loc: Tensor, scale: Tensor, bins: int, least: int, x: Tensor, valid: Tensor | None = None
) -> float:
    """-log2 of the exact frequencies of x where valid."""
    valid = torch.ones_like(x, dtype=torch.bool) if valid is None else valid
    freqs = []
    for at, level, symbol in zip(loc[valid].tolist(), scale[valid].tolist(), x[valid].tolist(), strict=True):
        low, high = (
            plain_start(plain_cdf(kind, e, at, level, bins), e, bins, PRECISION, least) for e in (symbol, symbol + 1)
        )
        freqs.append(high - low)
    return information(freqs)


def spent(codec: Codec, x: Tensor, message: Message) -> float:
    """Bits that pushing x adds."""
    before = message.bits()
    codec.push(message, x)
    return message.bits() - before


# A toy chain x = z_0 <- z_1 <- ... <- z_L with linear conditionals whose exact posteriors are known: every z_i is
# N(0, 1), and z_i given z_i+1 is N(A R_i z_i+1, 1 - A**2) with R_i a rotation; so z_i+1 given z_i is
# N(A R_i^T z_i, 1 - A**2).

A, SPREAD = 0.8, 0.6  # SPREAD**2 = 1 - A**2
PER_UNIT = (32, 8)  # bins a unit of x and of the latents
BINS = (256, 64)  # so both span [-4, 4)


def chain(depth: int, rows: int, dims: int, kind: str = "gaussian") -> tuple[Codec, list[Layer]]:
    """Prior and layers over symbols [rows, dims]; for logistics the posteriors are no longer exact, which is lawful."""
    rotations = [
        torch.linalg.qr(torch.randn(dims, dims, generator=generator(i), dtype=torch.float64))[0] for i in range(depth)
    ]

    def conditional(mean: Tensor, spread: float, level: int, least: int) -> Codec:
        loc = frequencies.snap_location(mean * PER_UNIT[level] + (BINS[level] - 1) / 2)
        scale = frequencies.snap_scale(torch.full_like(mean, spread * PER_UNIT[level]).log())
        return location_scale(kind, loc, scale, BINS[level], least)

    def units(z: Tensor, level: int) -> Tensor:
        return (z.double() - (BINS[level] - 1) / 2) / PER_UNIT[level]

    def layer(i: int) -> Layer:
        below, rotation = min(i, 1), rotations[i]
        return (
            lambda above: conditional(A * units(above, 1) @ rotation.T, SPREAD, below, 1),
            lambda x: conditional(A * units(x, below) @ rotation, SPREAD, 1, 0),
        )

    prior = conditional(torch.zeros(rows, dims, dtype=torch.float64), 1.0, min(depth, 1), 1)
    return prior, [layer(i) for i in range(depth)]


def data(seed: int, rows: int, dims: int) -> Tensor:
    """Symbols that the chain's x follows, int64 [rows, dims]."""
    normal = torch.randn(rows, dims, generator=generator(seed), dtype=torch.float64)
    return (normal * PER_UNIT[0] + (BINS[0] - 1) / 2).round().clamp(0, BINS[0] - 1).long()


def data_bits(x: Tensor) -> float:
    """-log2 of the probability of x under the chain: a discretised N(0, 1)."""
    edges = (torch.arange(1, BINS[0], dtype=torch.float64) - BINS[0] / 2) / PER_UNIT[0]
    cdf = torch.cat([torch.zeros(1), torch.special.ndtr(edges), torch.ones(1)])
    return -float(cdf.diff()[x].log2().sum())


# The law.


def leaf_codecs() -> dict[str, tuple[Codec, Tensor]]:
    shape, bins = (3, 2, 7), 60
    valid = holes(*shape)
    codecs: dict[str, tuple[Codec, Tensor]] = {
        "uniform": (uniform(shape, 11), integers(0, 2048, *shape)),
        "uniform of 1 bit": (uniform((9,), 1), integers(1, 2, 9)),
        "uniform of 28 bits": (uniform((9,), 28), integers(1, 1 << 28, 9)),
        "uniform of no symbols": (uniform((3, 0), 8), torch.zeros(3, 0, dtype=torch.int64)),
        "uniform of bytes": (uniform((9,), 8), integers(1, 256, 9).to(torch.uint8)),
        "one scalar": (uniform((), 8), torch.tensor(200)),
        "categorical": (categorical(FREQS, shape, 16), integers(2, len(FREQS), *shape)),
        "categorical of one symbol": (
            categorical(torch.tensor([256]), shape, 8),
            torch.zeros(shape, dtype=torch.int64),
        ),
    }
    weight = frequencies.weights(frequencies.snap_logits(floats(7, -3, 3, 4, *shape)))
    codecs["weighted"] = weighted(weight, torch.ones(shape, dtype=torch.bool)), integers(5, 4, *shape)
    codecs["weighted with holes"] = weighted(weight, valid), integers(5, 4, *shape) * valid
    codecs["weighted of one symbol"] = weighted(torch.full((1, 9), 1 << 16), holes(9)), torch.zeros(9).long()
    for kind in KINDS:
        loc, scale, x = locations(3, bins, *shape), scales(4, *shape), integers(5, bins, *shape)
        codecs[kind] = location_scale(kind, loc, scale, bins, 1), x
        codecs[f"{kind} with holes"] = location_scale(kind, loc, scale, bins, 1, valid=valid), x * valid
        codecs[f"{kind} of few bits"] = location_scale(kind, loc, scale, bins, 1, precision=6), x
        codecs[f"{kind} of one bin"] = location_scale(kind, loc, scale, 1, 1), torch.zeros_like(x)
        # Without a floor only what a pop returns can be pushed.
        for name, mask in (("without floor", None), ("without floor, with holes", valid)):
            codec = location_scale(kind, loc, scale, bins, 0, valid=mask)
            codecs[f"{kind} {name}"] = codec, codec.pop(Message.random(3, 20, 6))
        many = weight, locations(8, bins, 4, *shape), scales(9, 4, *shape)
        codecs[f"mixture of {kind}s"] = mixture(kind, *many, bins), x
        codecs[f"mixture of {kind}s with holes"] = mixture(kind, *many, bins, valid=valid), x * valid
        for c in (1, 2, 3):
            mask, x3 = torch.ones(c, 2, 7, dtype=torch.bool), integers(10 + c, 64, c, 2, 7)
            codecs[f"{c} coupled {kind}s"] = pixels(kind, c, 3, 2, 7).codec(mask), x3
            mask = holes(2, 7).expand(c, 2, 7)
            codecs[f"{c} coupled {kind}s with holes"] = pixels(kind, c, 3, 2, 7).codec(mask), x3 * mask
            mask = holes(c, 2, 7)
            codecs[f"{c} coupled {kind}s with holes of each channel"] = pixels(kind, c, 3, 2, 7).codec(mask), x3 * mask
    return codecs


LEAVES = leaf_codecs()


@pytest.mark.parametrize("lanes", [1, 4, 50])
@pytest.mark.parametrize("name", LEAVES)
def test_each_codec_obeys_the_law(name: str, lanes: int) -> None:
    codec, x = LEAVES[name]
    check_codec(codec, x, Message.random(lanes, 60, 0))
    check_codec(codec, x, Message.empty(lanes))


def run_as_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make compiled messages run what torch.compile compiles, without compiling it: it divides in another way."""
    monkeypatch.setattr("toolkit.coding.ans.compiled", lambda block: block)
    monkeypatch.setattr("torch.compiler.is_compiling", lambda: True)


@pytest.mark.parametrize("name", LEAVES)
def test_each_codec_obeys_the_law_as_compiled(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    codec, x = LEAVES[name]
    eager, compiled = Message.random(4, 60, 0), Message.random(4, 60, 0, compiled=True)
    drawn = codec.pop(eager)
    run_as_compiled(monkeypatch)
    check_codec(codec, x, compiled)
    check_codec(codec, x, Message.empty(4, compiled=True))
    assert torch.equal(codec.pop(compiled), drawn)
    assert contents(compiled) == contents(eager)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", [0, 1, 2, 3])
@pytest.mark.parametrize("combine", [bit_swap, bb_ans])
def test_each_order_of_a_chain_obeys_the_law(
    combine: Callable[[Codec, list[Layer]], Codec], depth: int, kind: str
) -> None:
    prior, layers = chain(depth, 3, 5, kind)
    for lanes in (1, 4, 20):
        check_codec(combine(prior, layers), data(0, 3, 5), Message.random(lanes, 60, 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("c", [1, 2, 3])
def test_mixtures_with_drawn_components_obey_the_law(c: int, kind: str) -> None:
    p, x = pixels(kind, c, 3, 2, 7), integers(10 + c, 64, c, 2, 7)
    for valid in (torch.ones(c, 2, 7, dtype=torch.bool), holes(2, 7).expand(c, 2, 7), holes(c, 2, 7)):
        for lanes in (1, 4, 50):
            check_codec(p.drawn(valid), x * valid, Message.random(lanes, 60, 0))


def test_bits_back_obeys_the_law() -> None:
    prior, ((likelihood, posterior),) = chain(1, 4, 6)
    check_codec(bits_back(prior, likelihood, posterior), data(0, 4, 6), Message.random(3, 20, 1))


def test_bits_back_without_initial_bits_is_refused() -> None:
    prior, ((likelihood, posterior),) = chain(1, 4, 6)
    with pytest.raises(EmptyMessage, match=r"start from .* more words, or push more before popping"):
        bits_back(prior, likelihood, posterior).push(Message.empty(3), data(0, 4, 6))


def test_the_law_notices_codecs_that_break_it() -> None:
    codec, x = uniform((8,), 8), integers(0, 255, 8)
    message = Message.random(2, 20, 0)
    broken = Codec(codec.push, lambda message: codec.pop(message) ^ 1)
    with pytest.raises(AssertionError, match="pop did not return what was pushed"):
        check_codec(broken, x, message)
    broken = Codec(lambda message, x: (codec.push(message, x), codec.push(message, x))[0], codec.pop)
    with pytest.raises(AssertionError, match="pop after push changed the message"):
        check_codec(broken, x, Message.random(2, 20, 0))
    # Right for x, which holds nothing above 200, but not for what a pop may draw.
    broken = Codec(lambda message, x: codec.push(message, x.clamp(max=200)), codec.pop)
    with pytest.raises(AssertionError, match="push after pop changed the message"):
        check_codec(broken, x.clamp(max=200), Message.random(2, 20, 0))


def test_symbol_i_is_step_i_over_lanes_of_lane_i_modulo_lanes() -> None:
    arranged = to_lanes(torch.arange(7), 3, fill=-1)
    assert arranged.tolist() == [[0, 1, 2], [3, 4, 5], [6, -1, -1]]
    assert to_lanes(torch.arange(12).reshape(2, 6), 3).tolist() == [[[0, 1, 2], [6, 7, 8]], [[3, 4, 5], [9, 10, 11]]]
    assert to_lanes(torch.zeros(4, 0), 3).shape == (0, 4, 3)
    message, x = Message.empty(3), integers(0, 1 << 28, 7)
    uniform((7,), 28).push(message, x)
    assert (message.head & ((1 << 28) - 1)).tolist() == x[:3].tolist()


# Every symbol has the interval that its frequency says.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("least", [0, 1])
@pytest.mark.parametrize("bins", [1, 2, 3, 100, 128])
@pytest.mark.parametrize("compiled", [False, True])
def test_every_value_of_a_small_precision_is_popped_as_the_symbol_that_owns_it(
    kind: str, least: int, bins: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if compiled:
        run_as_compiled(monkeypatch)
    precision = 10
    for loc, scale in ((bins // 2, 4.0), (-20, 0.1), (bins + 20, 50.0), (3, 0.4)):
        at, level = frequencies.snap_location(torch.tensor(loc)), frequencies.snap_scale(torch.tensor(scale).log())
        message = Message.empty(1 << precision, compiled=compiled)
        message.head = (1 << 60) + torch.arange(1 << precision)
        codec = location_scale(kind, at.expand(1 << precision), level.expand(1 << precision), bins, least, precision)
        x = codec.pop(message)
        starts = [
            plain_start(plain_cdf(kind, e, int(at), int(level), bins), e, bins, precision, least)
            for e in range(bins + 1)
        ]
        assert (starts[0], starts[-1]) == (0, 1 << precision)
        assert torch.equal(x, torch.arange(bins).repeat_interleave(torch.tensor(starts).diff()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("least", [0, 1])
@pytest.mark.parametrize("bins", [1, 2, 100, 256, 1024])
def test_all_searches_find_the_same_symbol(kind: str, least: int, bins: int) -> None:
    n = 20000
    params = locations(1, bins, n), scales(2, n, low=0.07, high=4000)
    tables = frequencies.cdf_table(kind, CPU), frequencies.inverse_scales(CPU)
    interval, bisection, guess, sure = _search_functions(kind, bins, least, PRECISION)
    u = integers(3, 1 << PRECISION, n)
    x, low, freq = bisection(u, *params, *tables)
    assert bool(((low <= u) & (u < low + freq)).all())
    assert all(torch.equal(a, b) for a, b in zip((low, freq), interval(x, *params, *tables), strict=True))
    assert all(torch.equal(a, b) for a, b in zip((x, low, freq), sure(u, *params, *tables), strict=True))
    guessed = guess(u, *params, *tables)
    hit = (guessed[1] <= u) & (u < guessed[1] + guessed[2])
    assert int((~hit).sum()) <= 4  # 1 in 10,000, as it promises, and some
    assert all(torch.equal(a[hit], b[hit]) for a, b in zip(guessed, (x, low, freq), strict=True))


def test_every_value_of_a_small_precision_is_popped_as_its_category() -> None:
    for freqs in (FREQS, torch.tensor([1 << 16]), torch.tensor([1, (1 << 16) - 1]), torch.full((256,), 256)):
        message = Message.empty(1 << 16)
        message.head = (1 << 60) + torch.arange(1 << 16)
        x = categorical(freqs, (1 << 16,), 16).pop(message)
        assert torch.equal(x, torch.arange(len(freqs)).repeat_interleave(freqs))


def test_every_value_of_a_weight_is_popped_as_the_component_that_owns_it() -> None:
    for weight in ([1 << 16], [1, (1 << 16) - 1], [0, 30000, 0, 0, 35536, 0], [5, 0, 65531, 0]):
        message = Message.empty(1 << 16)
        message.head = (1 << 60) + torch.arange(1 << 16)
        table = torch.tensor(weight)
        x = weighted(table[:, None].expand(-1, 1 << 16), torch.ones(1 << 16, dtype=torch.bool)).pop(message)
        assert torch.equal(x, torch.arange(len(weight)).repeat_interleave(table))


# Rate.


@pytest.mark.parametrize("bits", [1, 8, 28])
def test_uniform_symbols_cost_their_bits(bits: int) -> None:
    # With 28 of the head's bits in one symbol, the logarithm of what is left is known to a few thousandths.
    assert spent(uniform((5, 40), bits), integers(0, 1 << bits, 5, 40), Message.random(2, 1, 0)) == pytest.approx(
        200 * bits, abs=0.01
    )


def test_categorical_symbols_cost_the_logarithm_of_their_frequency() -> None:
    x = torch.arange(len(FREQS)).repeat(60)
    bits = spent(categorical(FREQS, x.shape, 16), x, Message.random(2, 1, 0))
    assert bits == pytest.approx(60 * information(FREQS.tolist(), 16), rel=1e-4)


def test_weighted_symbols_cost_the_logarithm_of_their_weight() -> None:
    weight, valid = frequencies.weights(frequencies.snap_logits(floats(0, -3, 3, 5, 200))), holes(200)
    x = integers(1, 5, 200)
    freqs = weight.gather(0, x[None])[0, valid].tolist()
    assert spent(weighted(weight, valid), x, Message.random(4, 1, 2)) == pytest.approx(information(freqs, 16), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("least", [0, 1])
def test_location_scale_symbols_cost_the_logarithm_of_their_frequency(kind: str, least: int) -> None:
    bins, shape = 200, (4, 300)
    loc, scale, valid = locations(0, bins, *shape), scales(1, *shape), holes(*shape)
    codec = location_scale(kind, loc, scale, bins, least, valid=valid)
    x = codec.pop(Message.random(16, 200, 2))
    expected = location_scale_bits(kind, loc, scale, bins, least, x, valid)
    assert expected > 1000
    assert spent(codec, x, Message.random(16, 1, 3)) == pytest.approx(expected, rel=1e-4)
    if least:  # unlikely symbols, too
        x = integers(4, bins, *shape)
        expected = location_scale_bits(kind, loc, scale, bins, least, x, valid)
        assert spent(codec, x, Message.random(16, 1, 3)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_mixture_symbols_cost_the_logarithm_of_their_frequency(kind: str) -> None:
    bins, k, shape = 200, 5, (2, 300)
    weight = frequencies.weights(frequencies.snap_logits(floats(0, -3, 3, k, *shape)))
    loc, scale, valid = locations(1, bins, k, *shape), scales(2, k, *shape), holes(*shape)
    codec = mixture(kind, weight, loc, scale, bins, valid=valid)
    for x in (codec.pop(Message.random(8, 200, 2)), integers(4, bins, *shape)):
        rows = zip(weight[:, valid].T.tolist(), loc[:, valid].T.tolist(), scale[:, valid].T.tolist(), strict=True)
        freqs = [
            plain_mixture_frequency(kind, *row, symbol, bins, PRECISION)
            for row, symbol in zip(rows, x[valid].tolist(), strict=True)
        ]
        assert spent(codec, x, Message.random(8, 1, 3)) == pytest.approx(information(freqs), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("c", [1, 2, 3])
def test_coupled_mixture_symbols_cost_the_logarithm_of_their_frequency(kind: str, c: int) -> None:
    n, bins = 150, 64
    p, valid = pixels(kind, c, 4, n, bins=bins), torch.ones(c, n, dtype=torch.bool)
    for x in (p.codec(valid).pop(Message.random(8, 200, 0)), integers(4, bins, c, n)):
        freqs = [f for i in range(n) for f in plain_pixel_frequencies(p, i, x[:, i].tolist())]
        assert spent(p.codec(valid), x, Message.random(8, 1, 1)) == pytest.approx(information(freqs), rel=1e-4)


def test_holes_cost_nothing_whatever_is_in_them() -> None:
    shape, bins = (3, 40), 64
    valid, nothing, junk = holes(*shape), torch.zeros(shape, dtype=torch.bool), integers(0, 1 << 40, *shape) - 12345
    loc, scale = locations(1, bins, *shape), scales(2, *shape)
    weight = frequencies.weights(torch.zeros(2, *shape, dtype=torch.int64))
    p, x = pixels("logistic", 3, 3, 40, bins=bins), integers(3, bins, *shape)
    codecs: list[Callable[[Tensor], Codec]] = [
        lambda valid: location_scale("logistic", loc, scale, bins, 1, valid=valid),
        lambda valid: location_scale("logistic", loc, scale, bins, 0, valid=valid),
        lambda valid: mixture("gaussian", weight, loc.expand(2, *shape), scale.expand(2, *shape), bins, valid=valid),
        p.codec,
        p.drawn,
    ]
    for i, codec in enumerate(codecs):
        if i == 1:  # without a floor: what it returns itself
            x = codec(valid).pop(Message.random(4, 50, 7))
        clean, dirty, start = (Message.random(4, 3, 8) for _ in range(3))
        codec(valid).push(clean, x * valid)
        codec(valid).push(dirty, torch.where(valid, x, junk))
        assert contents(clean) == contents(dirty)
        assert torch.equal(codec(valid).pop(dirty), x * valid)
        codec(nothing).push(dirty, junk)
        assert not codec(nothing).pop(dirty).any()
        assert contents(dirty) == contents(start)
        assert dirty.taken == 0 or i == 4  # which draws components from the message first


# The coupled mixture is the joint mixture.


def joint_probability(p: Pixels, x: Tensor) -> Tensor:
    """Float64 [...] probabilities of pixels int64 [c, ...] under the mixture whose component all channels share."""
    probability = p.weight.double() / 65536
    for j in range(len(x)):
        row = j * (j - 1) // 2
        loc = p.loc[j].double() / 64
        for i in range(j):
            loc = loc + p.coupling[row + i] / 256 * (x[i] - (p.bins - 1) / 2)
        scale = torch.exp2(p.scale[j].double() / 32 - 4)
        low, high = (x[j] - 0.5 - loc) / scale, (x[j] + 0.5 - loc) / scale
        cdf = torch.sigmoid if p.kind == "logistic" else torch.special.ndtr
        # Mirrored where both edges are in the upper tail, so that nothing cancels.
        low, high = torch.where(low > 0, -high, low), torch.where(low > 0, -low, high)
        mirrored = (x[j] - 0.5 - loc) > 0
        first, last = x[j] == 0, x[j] == p.bins - 1
        below = torch.where(torch.where(mirrored, last, first), 0.0, cdf(low))
        above = torch.where(torch.where(mirrored, first, last), 1.0, cdf(high))
        probability = probability * (above - below)
    return probability.sum(0)


def bits_of_each(codec: Codec, x: Tensor) -> Tensor:
    """Bits of each pixel, float64 [n]: int64 [c, n] on n lanes with heads so high that rounding is below 1e-6 bits."""
    message = Message.empty(x.shape[1])
    message.head += (1 << 46) - int(message.head[0])
    codec.push(message, x)
    assert not message.size.any(), "a spilled head would make the bits inexact: choose likelier symbols"
    return message.head.double().log2() - 46


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("c", [1, 2, 3])
def test_probabilities_of_all_coupled_pixels_sum_to_one_and_are_the_joint_mixture(kind: str, c: int) -> None:
    bins, k = 4, 3
    x = torch.tensor(list(itertools.product(range(bins), repeat=c))).T  # [c, bins**c], every pixel there is
    one = Pixels(
        kind,
        frequencies.weights(frequencies.snap_logits(floats(0, -1, 1, k, 1))),
        frequencies.snap_location(floats(1, 0, 3, c, k, 1)),
        scales(2, c, k, 1, low=0.8, high=3),
        # Multiples of 8: then the moved locations are on their grid, and nothing but tables separates the two.
        8 * frequencies.snap_coupling(floats(3, -1, 1, c * (c - 1) // 2, k, 1) / 8),
        bins,
    )
    n = x.shape[1]
    all_pixels = one._replace(
        **{f: getattr(one, f).expand(*getattr(one, f).shape[:-1], n) for f in ("weight", "loc", "scale", "coupling")}
    )
    coded = torch.exp2(-bits_of_each(all_pixels.codec(torch.ones(c, n, dtype=torch.bool)), x))
    assert float(coded.sum()) == pytest.approx(1, abs=1e-6)
    joint = joint_probability(all_pixels, x)
    assert float(joint.sum()) == pytest.approx(1, abs=1e-12)
    assert float((coded / joint - 1).abs().max()) < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_coupled_mixtures_cost_less_than_a_ten_thousandth_above_the_float_joint_mixture(kind: str) -> None:
    n, k, bins = 4000, 5, 256
    p = pixels(kind, 3, k, n, bins=bins)
    x = p.codec(torch.ones(3, n, dtype=torch.bool)).pop(Message.random(64, 400, 5))
    coded = information([f for i in range(n) for f in plain_pixel_frequencies(p, i, x[:, i].tolist())])
    exact = -float(joint_probability(p, x).log2().sum())
    assert exact > 9 * n
    assert abs(coded / exact - 1) < 0.0001  # measured: 0.00003


@pytest.mark.parametrize("kind", KINDS)
def test_mixtures_with_drawn_components_cost_as_much_as_those_that_are_summed(kind: str) -> None:
    n, valid = 4000, torch.ones(3, 4000, dtype=torch.bool)
    p = pixels(kind, 3, 5, n, bins=256)
    x = p.codec(valid).pop(Message.random(64, 400, 5))
    summed = spent(p.codec(valid), x, Message.random(64, 60, 6))
    drawn = sorted(spent(p.drawn(valid), x, Message.random(64, 60, seed)) for seed in range(6, 11))
    # Whatever component is drawn from its exact posterior, the net is that of the pixel: only rounding differs. The
    # count that components keep is drawn by one pixel in 16,000 or so, which costs 30 bits: hence the median.
    assert drawn[2] == pytest.approx(summed, rel=0.0003)
    assert drawn[0] == pytest.approx(summed, rel=0.0001)


def test_channels_after_a_hole_are_coded_as_if_they_were_the_first() -> None:
    n, p = 500, pixels("logistic", 2, 2, 500, bins=256)
    apart = torch.tensor([20, 235])[:, None] * frequencies.LOC_STEPS
    p = p._replace(loc=apart.expand(2, 2, n), coupling=torch.zeros_like(p.coupling))
    valid = torch.stack([torch.zeros(n, dtype=torch.bool), torch.ones(n, dtype=torch.bool)])
    alone = mixture("logistic", p.weight, p.loc[1], p.scale[1], 256)
    x = alone.pop(Message.random(16, 100, 5))
    bits = spent(alone, x, Message.random(16, 60, 6))
    x = torch.stack([torch.zeros_like(x), x])
    assert spent(p.codec(valid), x, Message.random(16, 60, 6)) == bits
    assert spent(p.drawn(valid), x, Message.random(16, 60, 6)) == pytest.approx(bits, rel=0.005)


# Chains.


def plain_bit_swap_encode(message: Message, x: Tensor, prior: Codec, layers: list[Layer]) -> None:
    """The loop of Kingma, Abbeel, Ho 2019, arXiv:1905.06845: pop z_i+1 given z_i, push z_i given z_i+1, go up."""
    z = [x]
    for i in range(len(layers)):
        likelihood, posterior = layers[i]
        z.append(posterior(z[i]).pop(message))
        likelihood(z[i + 1]).push(message, z[i])
    prior.push(message, z[-1])


def plain_bit_swap_decode(message: Message, prior: Codec, layers: list[Layer]) -> Tensor:
    z = prior.pop(message)
    for likelihood, posterior in reversed(layers):
        above, z = z, likelihood(z).pop(message)
        posterior(z).push(message, above)
    return z


def plain_bb_ans_encode(message: Message, x: Tensor, prior: Codec, layers: list[Layer]) -> None:
    """Townsend, Bird, Barber 2019, arXiv:1901.04866, all latents as one: pop every z_i, then push x and every z_i."""
    z = {0: x}
    for i in range(len(layers)):
        z[i + 1] = layers[i][1](z[i]).pop(message)
    for i in range(len(layers)):
        layers[i][0](z[i + 1]).push(message, z[i])
    prior.push(message, z[len(layers)])


def plain_bb_ans_decode(message: Message, prior: Codec, layers: list[Layer]) -> Tensor:
    z = {len(layers): prior.pop(message)}
    for i in range(len(layers) - 1, -1, -1):
        z[i] = layers[i][0](z[i + 1]).pop(message)
    for i in range(len(layers) - 1, -1, -1):
        layers[i][1](z[i]).push(message, z[i + 1])
    return z[0]


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize(
    ("combine", "encode", "decode"),
    [
        (bit_swap, plain_bit_swap_encode, plain_bit_swap_decode),
        (bb_ans, plain_bb_ans_encode, plain_bb_ans_decode),
    ],
    ids=["bit_swap", "bb_ans"],
)
def test_each_order_gives_the_words_of_the_loop_in_its_paper(
    combine: Callable[[Codec, list[Layer]], Codec],
    encode: Callable[[Message, Tensor, Codec, list[Layer]], None],
    decode: Callable[[Message, Codec, list[Layer]], Tensor],
    depth: int,
) -> None:
    prior, layers = chain(depth, 4, 6)
    ours, plain, start = (Message.random(4, 40, 2) for _ in range(3))
    for seed in range(3):
        combine(prior, layers).push(ours, data(seed, 4, 6))
        encode(plain, data(seed, 4, 6), prior, layers)
    assert contents(ours) == contents(plain)
    for seed in reversed(range(3)):
        assert torch.equal(decode(ours, prior, layers), data(seed, 4, 6))
        assert torch.equal(combine(prior, layers).pop(plain), data(seed, 4, 6))
    assert contents(ours) == contents(plain) == contents(start)


@pytest.mark.parametrize("depth", [0, 1])
def test_both_orders_are_the_same_with_no_more_than_one_layer(depth: int) -> None:
    prior, layers = chain(depth, 4, 6)
    swapped, together = Message.random(4, 40, 2), Message.random(4, 40, 2)
    bit_swap(prior, layers).push(swapped, data(0, 4, 6))
    bb_ans(prior, layers).push(together, data(0, 4, 6))
    assert contents(swapped) == contents(together)


def test_both_orders_differ_with_two_layers() -> None:
    prior, layers = chain(2, 4, 6)
    swapped, together = Message.random(4, 40, 2), Message.random(4, 40, 2)
    bit_swap(prior, layers).push(swapped, data(0, 4, 6))
    bb_ans(prior, layers).push(together, data(0, 4, 6))
    assert contents(swapped) != contents(together)


@pytest.mark.parametrize("depth", [1, 3])
def test_net_bits_of_both_orders_are_those_of_the_model(depth: int) -> None:
    rows, dims, blocks = 16, 8, 12
    prior, layers = chain(depth, rows, dims)
    nets = []
    for combine in (bit_swap, bb_ans):
        message = Message.random(4, 400, 3)
        nets.append(sum(spent(combine(prior, layers), data(seed, rows, dims), message) for seed in range(blocks)))
    # The posteriors are exact, so whatever latents are drawn the net is -log2 p(x), but for the latents' bins: sampling
    # noise of the 12 * 128 symbols is all that is left.
    expected = sum(data_bits(data(seed, rows, dims)) for seed in range(blocks))
    assert nets[0] == pytest.approx(expected, rel=0.0005)
    assert nets[1] == pytest.approx(expected, rel=0.0005)


def test_initial_bits_of_bit_swap_do_not_grow_with_the_layers_and_those_of_bb_ans_do() -> None:
    rows, dims, lanes = 32, 8, 4
    x, taken = data(0, rows, dims), {}
    for depth in (1, 2, 4, 8):
        prior, layers = chain(depth, rows, dims)
        for combine in (bit_swap, bb_ans):
            message = Message.random(lanes, 400, 3)
            combine(prior, layers).push(message, x)
            taken[combine, depth] = message.taken
    first = taken[bit_swap, 1]
    assert first > 8 * lanes
    for depth in (2, 4, 8):
        # Pushing x refills more than the next pop takes: the initial bits are those of the first pop, to the word.
        assert taken[bit_swap, depth] == first
        assert 0.9 * depth * first < taken[bb_ans, depth] < 1.1 * depth * first


def test_initial_bits_of_bit_swap_are_those_of_the_first_latent() -> None:
    rows, dims, lanes = 32, 8, 4
    prior, layers = chain(3, rows, dims)
    x, message = data(0, rows, dims), Message.random(lanes, 400, 3)
    z, before = layers[0][1](x).pop(message), message.bits()
    del z
    popped = Message.random(lanes, 400, 3).bits() - before
    message = Message.random(lanes, 400, 3)
    bit_swap(prior, layers).push(message, x)
    assert abs(32 * message.taken - popped) <= 32 * lanes


# Refusals.


def refusing() -> dict[str, tuple[Codec, int]]:
    """Codecs of symbols [3, 4] with their number of symbols."""
    shape = (3, 4)
    loc, scale = locations(0, 64, *shape), scales(1, *shape)
    weight = frequencies.weights(torch.zeros(2, *shape, dtype=torch.int64))
    return {
        "uniform": (uniform(shape, 6), 64),
        "categorical": (categorical(FREQS, shape, 16), len(FREQS)),
        "location_scale": (location_scale("logistic", loc, scale, 64, 1), 64),
        "mixture": (mixture("logistic", weight, loc.expand(2, *shape), scale.expand(2, *shape), 64), 64),
        "coupled_mixture": (pixels("logistic", 3, 2, 4).codec(torch.ones(3, 4, dtype=torch.bool)), 64),
        "drawn_mixture": (pixels("logistic", 3, 2, 4).drawn(torch.ones(3, 4, dtype=torch.bool)), 64),
        "weighted": (weighted(weight, torch.ones(shape, dtype=torch.bool)), 2),
    }


REFUSING = refusing()


@pytest.mark.parametrize("shape", [(12,), (4, 3), (3, 1), (1, 4), (4, 4), (2, 4), (3, 4, 1)])
@pytest.mark.parametrize("name", REFUSING)
def test_symbols_of_another_shape_are_refused_and_the_message_kept(name: str, shape: tuple[int, ...]) -> None:
    codec, _ = REFUSING[name]
    message = Message.random(2, 5, 0)
    with pytest.raises(ValueError, match=r"push: expected symbols of shape \[3, 4\], got \["):
        codec.push(message, torch.zeros(shape, dtype=torch.int64))
    assert contents(message) == contents(Message.random(2, 5, 0))


@pytest.mark.parametrize("too_high", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", REFUSING)
def test_symbols_out_of_range_are_refused_and_the_message_kept(
    name: str, too_high: bool, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_as_compiled(monkeypatch)
    codec, bins = REFUSING[name]
    x = torch.zeros(3, 4, dtype=torch.int64)
    x[0, 2] = bins if too_high else -1
    message = Message.random(2, 5, 0, compiled=compiled)
    expected = rf"push: expected symbols in \[0, {bins}\), got values from {int(x.min())} to {int(x.max())}"
    with pytest.raises(ValueError, match=expected):
        codec.push(message, x)
    assert contents(message) == contents(Message.random(2, 5, 0))


def test_a_symbol_without_frequency_is_refused_without_a_floor_and_coded_with_one() -> None:
    loc = frequencies.snap_location(torch.full((2, 3), 100.0))
    scale = frequencies.snap_scale(torch.zeros(2, 3))
    x = torch.tensor([[100, 99, 101], [100, 7, 100]])
    with pytest.raises(
        ValueError, match=r"push: symbol 7 at position 4 has no frequency .* can only push what it popped"
    ):
        location_scale("logistic", loc, scale, 256, 0).push(Message.random(2, 5, 0), x)
    never, valid = torch.tensor([[0], [65536]]).expand(2, 3), torch.ones(3, dtype=torch.bool)
    with pytest.raises(ValueError, match="push: symbol 0 at position 2 has no frequency"):
        weighted(never, valid).push(Message.random(2, 5, 0), torch.tensor([1, 1, 0]))
    assert spent(location_scale("logistic", loc, scale, 256, 1), x, Message.random(2, 5, 0)) > 24


def test_frequencies_that_do_not_sum_to_the_precision_are_refused() -> None:
    with pytest.raises(ValueError, match=r"that sum to 65536, got shape \[7\], least 1, sum 65537"):
        categorical(FREQS + torch.tensor([0, 0, 1, 0, 0, 0, 0]), (3,), 16)


def test_frequencies_of_zero_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"frequencies of at least 1 that sum to 256, got shape \[3\], least 0, sum 256"
    ):
        categorical(torch.tensor([0, 6, 250]), (3,), 8)


def test_frequencies_of_more_than_one_axis_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \[k\] frequencies .* got shape \[2, 2\]"):
        categorical(torch.full((2, 2), 64), (3,), 8)


@pytest.mark.parametrize("bins", [0, -3, 257])
def test_more_bins_than_counts_are_refused(bins: int) -> None:
    loc, scale = locations(0, 64, 3), scales(1, 3)
    with pytest.raises(ValueError, match=f"expected between 1 and 256 bins, got {bins}; with 8 bits of precision"):
        location_scale("logistic", loc, scale, bins, 1, precision=8)
    weight = frequencies.weights(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=f"expected between 1 and 256 bins, got {bins}; with 8 bits of precision"):
        mixture("logistic", weight, loc.expand(2, 3), scale.expand(2, 3), bins, precision=8)


def test_uniform_symbols_of_more_bits_than_a_push_takes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 1 <= precision <= 28 and steps >= 1, got 29"):
        uniform((3,), 29).push(Message.empty(1), torch.zeros(3, dtype=torch.int64))


# Identity.


def words_on(device: str) -> tuple[list[int], list[list[int]]]:
    """What four codecs of drawn and random symbols leave on a message."""
    n, bins, message = 50, 64, Message.random(4, 300, 0, device)
    loc, scale, x = locations(0, bins, 3, n).to(device), scales(1, 3, n).to(device), integers(2, bins, 3, n).to(device)
    weight = frequencies.weights(frequencies.snap_logits(floats(3, -3, 3, 3, n).to(device)))
    p = pixels("logistic", 3, 3, n)
    p = p._replace(**{name: getattr(p, name).to(device) for name in ("weight", "loc", "scale", "coupling")})
    valid = holes(3, n).to(device)
    latents = location_scale("gaussian", loc, scale, bins, 0, valid=valid).pop(message)
    location_scale("logistic", loc, scale, bins, 1).push(message, (latents + x) % bins)
    mixture("gaussian", weight, loc, scale, bins).push(message, x[0])
    p.codec(valid).push(message, x)
    p.codec(valid).push(message, p.codec(valid).pop(message))
    p.drawn(valid).push(message, x)
    categorical(FREQS.to(device), (3, n), 16).push(message, x % len(FREQS))
    return contents(message)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cpu_and_gpu_code_the_same_words() -> None:
    assert words_on("cuda") == words_on("cpu")


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler (g++) on a CPU")
def test_eager_and_compiled_code_the_same_words() -> None:
    # A mixture is what differs most: unrolled components and another search. Frequencies of 1 in 2**28 among likely
    # ones let a block of two steps move no word, one and two.
    n, lanes, bins, k = 60, 5, 4, 2
    weight = frequencies.weights(frequencies.snap_logits(floats(0, -3, 3, k, n)))
    loc, scale, valid, x = locations(1, bins, k, n), scales(2, k, n, low=0.06, high=2), holes(n), integers(3, bins, n)
    loc[:, :30] = -100 * frequencies.LOC_STEPS
    codec = mixture("logistic", weight, loc, scale, bins, precision=28, valid=valid)
    results = []
    for compiled in (False, True):
        message = Message.random(lanes, 30, 0, compiled=compiled)
        drawn = codec.pop(message)
        popped = contents(message)
        codec.push(message, x * valid)
        pushed = contents(message)
        again = codec.pop(message)
        assert torch.equal(again, x * valid)
        codec.push(message, drawn)
        results.append((drawn.tolist(), popped, pushed, contents(message)))
    assert results[0] == results[1]
    assert results[0][3] == contents(Message.random(lanes, 30, 0))


def test_two_threads_code_the_same_words_as_one() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = words_on("cpu")
        torch.set_num_threads(2)
        assert words_on("cpu") == one
    finally:
        torch.set_num_threads(before)
