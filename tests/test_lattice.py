"""Coefficients on a lattice: what is coded comes back, costs what the tables say, and the search beats rounding."""

import hashlib
import math

import pytest
import torch
from torch import Tensor

from toolkit.coding import kernels
from toolkit.coding.exactness import TRUSTED
from toolkit.coding.lattice import codec as lattice
from toolkit.coding.lattice import fit as lattice_fit
from toolkit.coding.lattice.context import EXACT_BELOW, THRESHOLDS, Predictor, State, classes
from toolkit.coding.message import Message

BANDS, DEEP = [1, 2, 3], 2
RATE = torch.tensor([40])
GOLDEN = "f8db1c7a33c25befca3f5daa6b654e666e9e70eee9c3b98e244eb4c29975a0cf"


def field(rows: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Means float [rows, 6, h, w] with smooth magnitudes, as of a picture: rough in some places, flat in others."""
    rng = torch.Generator().manual_seed(seed)
    rough = torch.nn.functional.interpolate(
        torch.randn(rows, 1, 4, 4, generator=rng).exp(), size=(height, width), mode="bilinear"
    )
    slope = 0.3 * torch.arange(width) + 0.2 * torch.arange(height)[:, None]
    scale = torch.tensor([3.0, 1.5, 1.5, 0.8, 0.5, 0.3])[:, None, None]
    x = rough * scale * torch.randn(rows, 6, height, width, generator=rng)
    x[:, 0] += slope
    return x


def encode(model: lattice.Model, coded: lattice.Coded, lanes: int) -> bytes:
    return lattice.encode(model, coded, lanes).to_bytes()


def decode(model: lattice.Model, data: bytes, size: tuple[int, int], silent: bool) -> Tensor:
    found = lattice.decode(model, Message.from_bytes(data, first=0), RATE, size, silent)
    assert found is not None, "damaged"
    return found


def search(model: lattice.Model, mu: Tensor, weight: float, rounding: bool = False) -> lattice.Coded:
    """At a weight of all squared misses."""
    return lattice.search(model, mu, torch.ones_like(mu), torch.tensor([weight]), RATE, rounding)


@pytest.fixture(scope="module")
def model() -> lattice.Model:
    k = field(8, 24, 24).round().long()
    return lattice.Model(BANDS, DEEP, lattice_fit.fit(BANDS, DEEP, k, torch.full((8,), 40), None, steps=10))


def test_symbols_and_raw_bits_undo_to_every_coefficient() -> None:
    r = torch.arange(-lattice.LIMIT, lattice.LIMIT + 1)
    symbol, raw = lattice.tokens(r), lattice.raw(r)
    bits = lattice.raw_bits(symbol)
    assert int(symbol.min()) == 0 and int(symbol.max()) == lattice.TOKENS - 1
    assert bool((raw < 1 << bits).all())
    assert symbol[lattice.LIMIT - 2 : lattice.LIMIT + 3].tolist() == [4, 2, 0, 1, 3]
    assert torch.equal(lattice.coefficients(symbol, raw), r)


@pytest.mark.parametrize("height,width", [(1, 1), (1, 9), (7, 3), (16, 16), (33, 18)])
def test_passes_visit_each_coefficient_once(height: int, width: int) -> None:
    seen = torch.zeros(sum(BANDS), height, width)
    for p in lattice.passes(BANDS, DEEP):
        seen[p.first : p.last, p.y :: p.stride, p.x :: p.stride] += 1
    assert bool((seen == 1).all())


@pytest.mark.parametrize("height,width", [(1, 1), (1, 9), (7, 3), (33, 18)])
@pytest.mark.parametrize("lanes", [1, 8, 32])
def test_a_lattice_of_any_size_comes_back_and_costs_what_the_tables_say(
    model: lattice.Model, height: int, width: int, lanes: int
) -> None:
    mu = field(1, height, width, seed=3)
    coded = search(model, mu, 3.0)
    data = encode(model, coded, lanes)
    found = decode(model, data, (height, width), coded.silent)
    assert torch.equal(found, coded.k)
    assert 8 * len(data) <= float(coded.bits.sum()) + 8 * 8 + 30 * lanes
    assert 8 * len(data) >= float(coded.bits.sum())


def test_coefficients_far_out_come_back(model: lattice.Model) -> None:
    k = torch.zeros(1, 6, 5, 5, dtype=torch.int16)
    k[0, 3, 2, 2], k[0, 5, 1, 4], k[0, 0, 4, 4] = lattice.LIMIT, -lattice.LIMIT, 300
    coded = lattice.given(model, k, RATE)
    assert torch.equal(coded.k, k)
    data = encode(model, coded, 2)
    assert torch.equal(decode(model, data, (5, 5), False), k)


def test_the_search_has_a_lower_objective_than_rounding_and_a_higher_weight_keeps_more(model: lattice.Model) -> None:
    mu = field(1, 32, 32, seed=7)

    def objective(coded: lattice.Coded, weight: float) -> float:
        return weight * float((coded.k - mu).square().sum()) + float(coded.bits.sum())

    found, rounded = search(model, mu, 2.0), search(model, mu, 2.0, rounding=True)
    assert torch.equal(rounded.k, mu.round().short()) or rounded.silent
    assert objective(found, 2.0) < objective(rounded, 2.0)
    assert float(search(model, mu, 0.1).bits.sum()) < 0.8 * float(found.bits.sum())


def test_uncertain_coefficients_count_by_their_own_precision(model: lattice.Model) -> None:
    mu, rate = field(2, 12, 16, seed=8), torch.tensor([20, 60])
    sigma = 1 + torch.rand(mu.shape, generator=torch.Generator().manual_seed(1))
    both = lattice.search(model, mu, sigma, torch.tensor([3.0, 0.5]), rate)
    for i, weight in enumerate((3.0, 0.5)):  # in units of another size, and alone
        alone = lattice.search(model, mu[i : i + 1], 4 * sigma[i : i + 1], torch.tensor([16 * weight]), rate[i : i + 1])
        assert torch.equal(alone.k[0], both.k[i])
        assert float(alone.bits) == pytest.approx(float(both.bits[i]))
    assert not torch.equal(both.k, lattice.search(model, mu, torch.ones_like(mu), torch.tensor([3.0, 0.5]), rate).k)


def test_predictions_save_bits(model: lattice.Model) -> None:
    k = field(4, 24, 24, seed=11).round().long()
    rate = torch.full((4,), 40)
    blind = lattice_fit.fit(BANDS, DEEP, k, rate, lattice_fit.blank(BANDS, DEEP), steps=0)
    blind = blind._replace(weights=torch.zeros_like(blind.weights))
    blind = lattice_fit.fit(BANDS, DEEP, k, rate, blind, steps=0)
    with_tables, without = (
        float(lattice.given(m, k, rate).bits.sum()) for m in (model, lattice.Model(BANDS, DEEP, blind))
    )
    assert with_tables < 0.95 * without


def test_of_many_inputs_those_that_add_most_are_kept(monkeypatch: pytest.MonkeyPatch, model: lattice.Model) -> None:
    k, rate = field(8, 24, 24).round().long(), torch.full((8,), 40)
    monkeypatch.setattr(lattice_fit, "MOST_INPUTS", 8)
    few = lattice.Model(BANDS, DEEP, lattice_fit.fit(BANDS, DEEP, k, rate, None, steps=10))
    used = [int((p.weights.any(0)).sum()) + int(p.rate.any(0).sum()) for p in few.predictors]
    assert max(used) == 8 < max(len(p.used) for p in model.predictors)
    cost = [float(lattice.given(m, k, rate).bits.sum()) for m in (few, model)]
    assert cost[0] < 1.03 * cost[1]


@pytest.mark.parametrize("dtype,most", [(torch.float32, 1 << 24), (torch.float64, 1 << 53)])
def test_classes_are_the_numbers_of_thresholds_that_are_reached(dtype: torch.dtype, most: int) -> None:
    sums = torch.cat([torch.tensor([0, 1, most]), *(THRESHOLDS + i for i in (-1, 0, 1))]).to(dtype)
    assert torch.equal(classes(sums), (sums[:, None] >= THRESHOLDS).sum(1))


@pytest.mark.parametrize("height,width", [(1, 1), (1, 9), (7, 3), (20, 33)])
def test_classes_follow_from_the_inputs_in_their_stored_order(model: lattice.Model, height: int, width: int) -> None:
    k = field(2, height, width, seed=2).round().long()
    state = State(2, 6, 3, height, width, torch.tensor([10, 90]))
    at = 0
    for p, predictor in zip(model.passes, model.predictors, strict=True):
        n = (p.last - p.first) * p.inputs
        weights, at = model.weights[at : at + n].view(-1, p.inputs), at + n
        if (here := p.of(k)).numel():
            sums = predictor.sums(p, state)
            assert torch.equal(sums.double(), weights.double() @ state.all_inputs(p).double())
            assert torch.equal(classes(sums), torch.bucketize(sums, THRESHOLDS, right=True))
            state.set(p, here, here)


def test_predictors_whose_sums_are_not_exact_in_single_precision_use_double(model: lattice.Model) -> None:
    p = model.passes[-1]
    weights = torch.ones((p.last - p.first) * p.inputs, dtype=torch.int32)
    assert Predictor(p, weights).rate.dtype == (torch.float32 if TRUSTED else torch.float64)
    assert Predictor(p, weights * (EXACT_BELOW >> 8)).rate.dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        k = field(1, 9, 9).round().long()
        again = lattice.given(model, k, RATE)
    assert torch.equal(again.bits, lattice.given(model, k, RATE).bits)


def test_a_pattern_that_training_never_showed_is_kept() -> None:
    quiet = torch.zeros(4, 6, 24, 24, dtype=torch.int64)  # tables that expect nothing but zeros
    fitted = lattice.Model(BANDS, DEEP, lattice_fit.fit(BANDS, DEEP, quiet, torch.full((4,), 40), None, steps=10))
    mu = torch.zeros(1, 6, 16, 16)
    mu[:, 5] = 9.0
    coded = search(fitted, mu, 2.0)
    assert not coded.silent
    assert torch.equal(coded.k, mu.short())
    data = encode(fitted, coded, 1)
    assert torch.equal(decode(fitted, data, (16, 16), False), coded.k)


def test_frequencies_have_room_for_every_symbol() -> None:
    freqs = lattice_fit.frequencies(torch.tensor([[0.0, 1, 0], [1, 1, 1]]))
    assert freqs.sum(1).tolist() == [1 << lattice.TOKEN_BITS] * 2
    assert int(freqs.min()) >= 1


def test_tables_that_do_not_fit_are_refused() -> None:
    blank = lattice_fit.blank(BANDS, DEEP)
    with pytest.raises(ValueError, match=r"expected \d+ weights .* the tables are of other bands"):
        lattice.Model([1, 2, 4], DEEP, blank)
    with pytest.raises(ValueError, match="fit the tables first"):
        lattice.Model(BANDS, DEEP, blank._replace(freqs=torch.zeros_like(blank.freqs)))


def test_damaged_lanes_are_refused(model: lattice.Model) -> None:
    mu = field(1, 9, 9)
    coded = search(model, mu, 3.0)
    data = encode(model, coded, 2)
    for short in (data[:-1], data[:3]):
        with pytest.raises(ValueError, match="damaged"):
            Message.from_bytes(short, first=0)
    assert lattice.decode(model, Message.from_bytes(data, first=0), RATE, (8, 9), coded.silent) is None


def test_a_lattice_codes_the_same_bytes_without_kernels(model: lattice.Model) -> None:
    coded = search(model, 3 * field(1, 9, 12), 9.0)  # some with raw bits
    assert any(len(rest) for _, rest, _ in coded.symbols)
    data = encode(model, coded, 12)
    with kernels.reference():
        assert encode(model, coded, 12) == data
        assert torch.equal(decode(model, data, (9, 12), coded.silent), coded.k)


def test_lanes_without_anything_take_few_bytes() -> None:
    data = Message.empty(5, first=0).to_bytes()
    assert len(data) == 3
    assert Message.from_bytes(data, first=0).lanes == 5


def test_bits_agree_with_the_frequencies(model: lattice.Model) -> None:
    k = field(2, 12, 12, seed=1).round().long()
    coded = lattice.given(model, k, torch.tensor([40, 50]))
    by_symbol = sum(
        float((math.log2(1 << lattice.TOKEN_BITS) - model.freqs[t, s].double().log2() + lattice.raw_bits(s)).sum())
        for s, _, t in coded.symbols
    )
    assert float(coded.bits.sum()) == pytest.approx(by_symbol, rel=1e-5)
    assert torch.allclose(coded.channel_bits.sum(1), coded.bits)


def test_bytes_of_given_tables_stay_what_they_are() -> None:
    """A file that was written once decodes for ever: the same integers, the same bytes."""
    model = lattice.Model(BANDS, DEEP, lattice_fit.blank(BANDS, DEEP))
    k = (torch.arange(6 * 7 * 5).view(1, 6, 7, 5) * 37 % 11 - 5) * (torch.arange(5) % 2)
    k = k.short()
    coded = lattice.given(model, k, RATE)
    data = encode(model, coded, 3)
    assert hashlib.sha256(data).hexdigest() == GOLDEN
    assert torch.equal(decode(model, data, (7, 5), False), k)
