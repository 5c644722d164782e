"""Grids and integer distribution functions: against closed forms, exhaustively for monotony, and what they cost."""

import math
import zlib
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from toolkit.coding import frequencies
from toolkit.coding.frequencies import (
    CDF_BITS,
    COUPLING_STEPS,
    LOC_LIMIT,
    LOC_STEPS,
    SCALE_LEVELS,
    SCALE_OCTAVES,
    SCALE_STEPS,
    WEIGHT_BITS,
)

CPU = torch.device("cpu")
ONE = 1 << CDF_BITS
KINDS = ["logistic", "gaussian"]
REACH = {"logistic": 22, "gaussian": 7}  # standard deviations or scales that the tables span on either side
CELLS = {"logistic": 128, "gaussian": 256}  # cells of the tables a unit
SNAPS: list[tuple[Callable[[Tensor], Tensor], str]] = [
    (frequencies.snap_location, "location"),
    (frequencies.snap_scale, "log-scale"),
    (frequencies.snap_logits, "logit"),
    (frequencies.snap_coupling, "coupling"),
]


def exact(kind: str, t: Tensor) -> Tensor:
    """The standard distribution function in float64, accurate in the lower tail: float64 [...] -> [...]."""
    return torch.sigmoid(t) if kind == "logistic" else torch.special.erfc(-t / math.sqrt(2)) / 2


def exact_mass(kind: str, loc: Tensor, scale: Tensor, bins: int) -> Tensor:
    """Probabilities of bins 0 ... bins - 1, the tails in the first and the last: float64 [...] -> [..., bins]."""
    edges = (torch.arange(1, bins) - 0.5 - loc[..., None]) / scale[..., None]
    below, above = exact(kind, edges), exact(kind, -edges)
    zeros = torch.zeros_like(below[..., :1])
    below, above = torch.cat([zeros, below, zeros + 1], -1), torch.cat([zeros + 1, above, zeros], -1)
    # The difference of whichever tails are small, so that nothing cancels.
    return torch.where(below[..., 1:] < 0.5, below.diff(dim=-1), -above.diff(dim=-1))


def integer_cdf(kind: str, loc: Tensor, level: Tensor, bins: int) -> Tensor:
    """`frequencies.cdf` at every edge: snapped int [...] -> int64 [..., bins + 1]."""
    return frequencies.cdf(kind, torch.arange(bins + 1), loc[..., None], level[..., None], bins)


def starts_of(y: Tensor, bins: int, precision: int, least: int) -> Tensor:
    """`frequencies.start` of every edge: int64 [..., bins + 1] -> int64 [..., bins + 1]."""
    return frequencies.start(y, torch.arange(bins + 1), bins, precision, least)


def mixed_cdf(weight: Tensor, y: Tensor) -> Tensor:
    """`frequencies.mix`: int64 [k, ...] and [k, ..., edges] -> int64 [..., edges]."""
    return frequencies.mix(weight[..., None], y)


def bits_lost(p: Tensor, freq: Tensor, precision: int) -> tuple[float, float]:
    """Mean over distributions float64 [rows, bins] of the bits above the entropy, and the mean entropy in bits."""
    surprise = precision - freq.double().log2()
    entropy = -torch.special.xlogy(p, p) / math.log(2)
    return float(((p * surprise).sum(-1) - entropy.sum(-1)).mean()), float(entropy.sum(-1).mean())


def floats(seed: int, *shape: int, low: float, high: float) -> Tensor:
    """Uniform float64 [*shape] in [low, high)."""
    rng = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(*shape, generator=rng, dtype=torch.float64)


# Tables.


@pytest.mark.parametrize("kind", KINDS)
def test_distribution_tables_are_the_closed_forms_rounded(kind: str) -> None:
    table = frequencies.cdf_table(kind, CPU)
    n = REACH[kind] * CELLS[kind]
    t = torch.arange(-n, n + 1, dtype=torch.float64) / CELLS[kind]
    assert table.dtype == torch.int64
    assert table.shape == t.shape
    error = table - torch.where(t < 0, exact(kind, t), 1 - exact(kind, -t)) * ONE
    assert float(error.abs().max()) <= 0.5 + 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_distribution_tables_are_monotone_symmetric_and_complete(kind: str) -> None:
    table = frequencies.cdf_table(kind, CPU)
    assert int(table.diff().min()) >= 0
    assert torch.equal(table + table.flip(0), torch.full_like(table, ONE))
    assert (int(table[0]), int(table[-1]), int(table[len(table) // 2])) == (0, ONE, ONE // 2)


def test_inverse_scales_are_the_closed_form_rounded() -> None:
    octaves = torch.arange(SCALE_LEVELS, dtype=torch.float64) / SCALE_STEPS + SCALE_OCTAVES[0]
    error = frequencies.inverse_scales(CPU) - torch.exp2(28 - octaves)
    assert float(error.abs().max()) <= 0.5 + 1e-5


def test_tables_are_the_ones_that_files_were_written_with() -> None:
    tables = [frequencies.cdf_table(kind, CPU) for kind in KINDS]
    tables += [
        frequencies.inverse_scales(CPU).long(),
        frequencies.weights(torch.stack([torch.arange(513), torch.zeros(513).long()])),
    ]
    assert [zlib.crc32(table.contiguous().numpy().astype("<i8").tobytes()) for table in tables] == [
        391053539,
        756646253,
        539412581,
        2276472024,
    ]


# Distribution functions.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bins", [1, 2, 256])
def test_integer_distribution_functions_never_decrease_and_are_complete(kind: str, bins: int) -> None:
    limit = LOC_LIMIT * LOC_STEPS
    last = bins * LOC_STEPS
    low, high = [-limit, 1 - limit, -99999, -LOC_STEPS], [last - 33, last - 32, last, 99999, limit - 1, limit]
    loc = torch.tensor([*low, -33, -32, -31, -1, 0, 1, 31, 32, 33, LOC_STEPS, 8159, 8160, 8161, *high])
    level = torch.tensor([*range(0, SCALE_LEVELS, 9), 1, 2, SCALE_LEVELS - 2, SCALE_LEVELS - 1])
    y = integer_cdf(kind, loc[:, None], level, bins)
    assert y.shape == (len(loc), len(level), bins + 1)
    assert bool((y[..., 0] == 0).all())
    assert bool((y[..., bins] == ONE).all())
    assert int(y.diff(dim=-1).min()) >= 0


@pytest.mark.parametrize("kind", KINDS)
def test_integer_distribution_functions_are_the_closed_forms_within_two_millionths(kind: str) -> None:
    loc = frequencies.snap_location(floats(0, 40, 1, low=-30, high=290))
    level = torch.arange(0, SCALE_LEVELS, 5)
    scale = torch.exp2(level.double() / SCALE_STEPS + SCALE_OCTAVES[0])
    y = integer_cdf(kind, loc, level, 256)
    expected = exact(kind, (torch.arange(257) - 0.5 - loc[..., None] / LOC_STEPS) / scale[..., None])
    # Interpolating a cell of width h is off by h**2 / 8 times the largest second derivative: 7e-7 and 5e-7.
    assert float((y / ONE - expected)[..., 1:-1].abs().max()) < 2e-6


@pytest.mark.parametrize("kind", KINDS)
def test_distributions_far_from_the_symbols_put_all_mass_on_the_nearest(kind: str) -> None:
    loc = torch.tensor([-LOC_LIMIT, LOC_LIMIT]) * LOC_STEPS
    y = integer_cdf(kind, loc, torch.tensor([0, 0]), 256).diff(dim=-1)
    assert y.argmax(-1).tolist() == [0, 255]
    assert y.amax(-1).tolist() == [ONE, ONE]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("bins", "precision"), [(1, 1), (2, 1), (16, 4), (100, 7), (256, 8), (256, 12), (256, 28)])
def test_with_a_floor_starts_strictly_increase_to_the_total(kind: str, bins: int, precision: int) -> None:
    loc = frequencies.snap_location(torch.linspace(-300, 600, 37, dtype=torch.float64))[:, None]
    y = integer_cdf(kind, loc, torch.tensor([*range(0, SCALE_LEVELS, 31), SCALE_LEVELS - 1]), bins)
    starts = starts_of(y, bins, precision, 1)
    assert bool((starts[..., 0] == 0).all())
    assert bool((starts[..., -1] == 1 << precision).all())
    assert int(starts.diff(dim=-1).min()) >= 1


def test_without_a_floor_starts_only_grow_where_there_is_mass() -> None:
    y = integer_cdf("gaussian", torch.tensor([[128 * LOC_STEPS]]), torch.arange(0, SCALE_LEVELS, 7), 256)
    starts = starts_of(y, 256, 24, 0)
    assert bool((starts[..., 0] == 0).all())
    assert bool((starts[..., -1] == 1 << 24).all())
    assert int(starts.diff(dim=-1).min()) == 0
    assert bool((starts.diff(dim=-1)[y.diff(dim=-1) == 0] == 0).all())


# Grids.


def test_snapped_locations_are_the_nearest() -> None:
    loc = floats(1, 5000, low=-LOC_LIMIT, high=LOC_LIMIT)
    snapped = frequencies.snap_location(loc)
    assert snapped.dtype == torch.int32
    assert float((snapped / LOC_STEPS - loc).abs().max()) <= 0.5 / LOC_STEPS + 1e-9
    ends = frequencies.snap_location(torch.tensor([-1e30, -LOC_LIMIT - 1.0, LOC_LIMIT + 1.0, 1e30]))
    assert ends.tolist() == [-LOC_LIMIT * LOC_STEPS] * 2 + [LOC_LIMIT * LOC_STEPS] * 2


def test_snapped_scales_are_the_nearest() -> None:
    low, high = SCALE_OCTAVES[0] * math.log(2), (SCALE_OCTAVES[1] - 1 / SCALE_STEPS) * math.log(2)
    log_scale = floats(2, 5000, low=low, high=high)
    snapped = frequencies.snap_scale(log_scale)
    assert snapped.dtype == torch.int32
    restored = (snapped / SCALE_STEPS + SCALE_OCTAVES[0]).double() * math.log(2)
    assert float((restored - log_scale).abs().max()) <= 0.5 * math.log(2) / SCALE_STEPS + 1e-6
    assert frequencies.snap_scale(torch.tensor([0.0])).tolist() == [-SCALE_OCTAVES[0] * SCALE_STEPS]
    ends = frequencies.snap_scale(torch.tensor([-1e30, low - 1, high + 1, 1e30]))
    assert ends.tolist() == [0, 0, SCALE_LEVELS - 1, SCALE_LEVELS - 1]


def test_snapped_logits_are_the_nearest_steps_below_the_largest() -> None:
    logits = floats(3, 6, 1000, low=-7, high=7)
    snapped = frequencies.snap_logits(logits)
    assert snapped.dtype == torch.int32
    assert bool((snapped.amin(0) == 0).all())
    assert float((snapped / 32 - (logits.amax(0) - logits)).abs().max()) <= 0.5 / 32 + 1e-6
    assert frequencies.snap_logits(torch.tensor([[5.0], [-1e30], [-11.1]])).tolist() == [[0], [512], [512]]
    assert torch.equal(frequencies.snap_logits(logits + 1000), snapped)


def test_snapped_couplings_are_the_nearest() -> None:
    coupling = floats(4, 5000, low=-8, high=8)
    snapped = frequencies.snap_coupling(coupling)
    assert snapped.dtype == torch.int32
    assert float((snapped / COUPLING_STEPS - coupling).abs().max()) <= 0.5 / COUPLING_STEPS + 1e-6
    assert frequencies.snap_coupling(torch.tensor([-9.0, 1e30])).tolist() == [-8 * COUPLING_STEPS, 8 * COUPLING_STEPS]


@pytest.mark.parametrize(("snap", "what"), SNAPS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_values_that_are_not_finite_are_refused(
    snap: Callable[[Tensor], Tensor], what: str, value: float, dtype: torch.dtype
) -> None:
    x = torch.tensor([[0.0, 1.0, value], [value, 2.0, 3.0]], dtype=dtype)
    with pytest.raises(ValueError, match=f"expected finite {what}s, got 2 infinite or NaN values of 6; the model has"):
        snap(x)


@pytest.mark.parametrize(("snap", "what"), SNAPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_snapping_leaves_its_argument_as_it_is(snap: Callable[[Tensor], Tensor], what: str, dtype: torch.dtype) -> None:
    x = floats(5, 3, 50, low=-100, high=100).to(dtype)
    before = x.clone()
    snap(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(("snap", "what"), SNAPS)
def test_snapping_gives_the_same_integers_for_float32_and_its_float64_copy(
    snap: Callable[[Tensor], Tensor], what: str
) -> None:
    x = floats(6, 3, 500, low=-20, high=20).float()
    assert torch.equal(snap(x), snap(x.double()))


# Mixture weights.


def test_weights_sum_exactly_and_are_the_softmax() -> None:
    for k in (1, 2, 3, 10, 31):
        logits = floats(k, k, 500, low=-6, high=6)
        weight = frequencies.weights(frequencies.snap_logits(logits))
        assert bool((weight.sum(0) == 1 << WEIGHT_BITS).all())
        assert int(weight.min()) >= 0
        # Half a step of 1/32 nat in each of two logits is 3.2 % of a weight; the largest takes up what is left over.
        share, expected = weight / (1 << WEIGHT_BITS), logits.softmax(0)
        assert bool(((share - expected).abs() <= 0.032 * expected + k / (1 << WEIGHT_BITS)).all())


def test_weights_of_snapped_logits_are_their_softmax_to_the_last_bits() -> None:
    steps = torch.randint(0, 513, (7, 500), generator=torch.Generator().manual_seed(0))
    steps[3] = 0
    expected = (-steps.double() / 32).softmax(0) * (1 << WEIGHT_BITS)
    assert float((frequencies.weights(steps) - expected).abs().max()) <= 7


def test_weights_of_far_logits_vanish_and_ties_go_to_the_first() -> None:
    assert frequencies.weights(torch.tensor([512, 0, 512])).tolist() == [0, 1 << WEIGHT_BITS, 0]
    assert frequencies.weights(torch.tensor([9, 9, 9])).tolist() == [21846, 21845, 21845]
    assert frequencies.weights(torch.tensor([40, 0, 0])).sum() == 1 << WEIGHT_BITS


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.sampled_from([0, 1, 2, 1000, 65535]), st.sampled_from([1, 2, 12345, ONE - 1, ONE])),
        min_size=1,
        max_size=12,
    )
)
def test_normalised_weights_sum_exactly_even_at_the_extremes(pairs: list[tuple[int, int]]) -> None:
    weight = torch.tensor([w for w, _ in pairs]).clamp(max=(1 << WEIGHT_BITS) // len(pairs))
    weight[-1] += (1 << WEIGHT_BITS) - weight.sum()
    mass = weight.double() * torch.tensor([m for _, m in pairs]).double() ** 3  # as after three channels
    for prior in (None, weight):
        after = frequencies.normalise(mass) if prior is None else frequencies.posterior(mass, prior)
        assert int(after.sum()) == 1 << WEIGHT_BITS
        assert int(after.min()) >= 0
        products = [int(w) * int(m) ** 3 for w, (_, m) in zip(weight, pairs, strict=True)]
        for share, product in zip(after.tolist(), products, strict=True):
            assert abs(share - product * 65536 / sum(products)) <= len(pairs) + 1
            assert product > 0 or share == 0
            assert product == 0 or share > 0 or prior is None


def test_normalised_weights_are_rounded_down_and_the_rest_goes_to_the_first_of_the_largest() -> None:
    mass = floats(7, 5, 2000, low=-30, high=30).exp()
    mass[:2, :10] = 5e20  # equal
    found = frequencies.normalise(mass)
    exact = mass / mass.sum(0) * (1 << WEIGHT_BITS)
    largest = mass.argmax(0)
    assert largest[:10].tolist() == [0] * 10
    others = torch.ones_like(found, dtype=torch.bool).scatter_(0, largest[None], False)
    lost = (exact - found)[others]
    assert bool((lost > -1e-6).all()) and bool((lost < 1 + 1e-6).all())
    assert bool((found.sum(0) == 1 << WEIGHT_BITS).all())


def test_normalised_weights_are_the_bits_of_plain_ieee_arithmetic() -> None:
    """Python's floats add, multiply and divide as IEEE 754 says."""
    mass = (floats(8, 6, 400, low=0, high=60).exp2()).floor()
    found = frequencies.normalise(mass)
    for column, weight in zip(mass.T.tolist(), found.T.tolist(), strict=True):
        total = 0.0
        for m in column:
            total += m
        share = [math.floor(m * (65536 / total)) for m in column]
        share[column.index(max(column))] += 65536 - sum(share)
        assert weight == share


def test_possible_components_keep_a_count_and_impossible_ones_get_none() -> None:
    prior = torch.tensor([[1, 30000], [0, 35536], [65535, 0]])
    kept = frequencies.posterior(torch.tensor([[0, 65536], [0, 0], [65536, 0]]).double(), prior)
    assert kept.T.tolist() == [[1, 0, 65535], [65535, 1, 0]]


# What a component gives to a symbol, about.


def test_hyperbolic_tables_are_the_closed_forms() -> None:
    t = torch.arange(22 * 128 + 1, dtype=torch.float64) / 128
    torch.testing.assert_close(frequencies.cosines(CPU), torch.cosh(t), rtol=1e-14, atol=0)
    half = torch.exp2(-1 - torch.arange(SCALE_LEVELS, dtype=torch.float64) / SCALE_STEPS - SCALE_OCTAVES[0])
    expected = torch.stack([torch.sinh(half), torch.cosh(half)])
    torch.testing.assert_close(frequencies.half_widths(CPU), expected, rtol=1e-11, atol=0)


def test_odds_are_the_logistic_s_masses_but_for_the_rounded_distance() -> None:
    loc = frequencies.snap_location(floats(30, 300, 1, low=-10, high=70))
    level = frequencies.snap_scale(floats(31, 300, 1, low=-2, high=4))
    top, bottom = frequencies.odds(torch.arange(64).expand(300, 64), loc, level, 64)
    mass = exact_mass("logistic", frequencies.location_of(loc)[:, 0], frequencies.scale_of(level)[:, 0], 64)
    # Half a cell, of 1/128 scale, changes cosh(t) by exp(1/256).
    likely = mass > 1e-6  # beyond, tails are counts of 2**-30
    assert float((top / bottom / mass - 1)[likely].abs().max()) < 0.0045


# From counts to frequencies.


def plain_frequencies(counts: list[int], precision: int, least: int) -> list[int]:
    """Largest remainders on Python's integers; what minima are short of is taken from the largest."""
    total, whole = 1 << precision, sum(counts)
    floor = [1 if c else least for c in counts]
    freqs = [max(c * total // whole, f) for c, f in zip(counts, floor, strict=True)]
    order = sorted(range(len(counts)), key=lambda i: (-(counts[i] * total % whole), i))
    for i in order[: max(total - sum(freqs), 0)]:
        freqs[i] += 1
    while sum(freqs) > total:
        i = freqs.index(max(freqs))
        freqs[i] -= min(sum(freqs) - total, freqs[i] - 1)
    return freqs


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from([0, 0, 1, 2, 3, 10, 999, 10**6, 2**38]), min_size=1, max_size=30),
    st.integers(5, 24),
    st.integers(0, 1),
)
def test_frequencies_of_counts_are_their_shares_by_largest_remainders(
    counts: list[int], precision: int, least: int
) -> None:
    if not sum(counts):
        counts[0] = 1
    freqs = frequencies.of_counts(torch.tensor([counts, counts[::-1]]), precision, least)
    assert freqs[0].tolist() == plain_frequencies(counts, precision, least)
    assert freqs[1].tolist() == plain_frequencies(counts[::-1], precision, least)
    assert sum(freqs[0].tolist()) == 1 << precision
    for c, f in zip(counts, freqs[0].tolist(), strict=True):
        assert f >= (1 if c else least)
        assert c or least or f == 0


def test_frequencies_of_many_counts_cost_next_to_nothing() -> None:
    counts = (floats(9, 20, 300, low=0, high=1) ** 30 * 1e6).long()
    counts[:, 7] += 1
    freqs = frequencies.of_counts(counts, 14, 0)
    assert torch.equal(freqs > 0, counts > 0)
    exact = counts / counts.sum(1, keepdim=True)
    cost = -(exact * (freqs.clamp(min=1) / (1 << 14)).log2()).sum(1)
    entropy = -(exact * exact.clamp(min=1e-30).log2()).sum(1)
    assert bool((cost - entropy < 0.03).all())


def test_counts_that_no_table_can_have_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected 1 to 16 symbols with a count in each table, got \[2, 0\]"):
        frequencies.of_counts(torch.tensor([[1, 2], [0, 0]]), 4, 0)
    with pytest.raises(ValueError, match=r"expected 1 to 16 symbols with a count in each table, got \[17\]"):
        frequencies.of_counts(torch.ones(1, 17, dtype=torch.int64), 4)
    assert frequencies.of_counts(torch.ones(1, 16, dtype=torch.int64), 4).tolist() == [[1] * 16]


def test_mixtures_of_distribution_functions_never_decrease_and_are_complete() -> None:
    for k in (1, 2, 10):
        weight = frequencies.weights(frequencies.snap_logits(floats(9, k, 200, low=-9, high=9)))
        loc = frequencies.snap_location(floats(10, k, 200, low=-50, high=300))
        level = frequencies.snap_scale(floats(11, k, 200, low=-4, high=9))
        y = mixed_cdf(weight, integer_cdf("logistic", loc, level, 256))
        assert bool((y[:, 0] == 0).all())
        assert bool((y[:, -1] == ONE).all())
        assert int(y.diff(dim=-1).min()) >= 0


# What all this costs, for 256 symbols with scales of 0.3 to 60 levels: less than 0.01 % of the entropy on average.


@pytest.mark.parametrize("kind", KINDS)
def test_integer_frequencies_cost_less_than_a_ten_thousandth_of_the_entropy(kind: str) -> None:
    rows, bins, precision = 1000, 256, 24
    loc = floats(12, rows, low=0, high=255)
    log_scale = floats(13, rows, low=math.log(0.3), high=math.log(60))
    y = integer_cdf(kind, frequencies.snap_location(loc), frequencies.snap_scale(log_scale), bins)
    freq = starts_of(y, bins, precision, 1).diff(dim=-1)
    p = exact_mass(kind, loc, log_scale.exp(), bins)
    assert float((p.sum(-1) - 1).abs().max()) < 1e-12
    lost, entropy = bits_lost(p, freq, precision)
    assert entropy > 3
    assert 0 < lost < 0.0001 * entropy  # measured: 0.00001 to 0.00002
    # And none of them costs 0.1 %.
    for i in range(rows):
        lost, entropy = bits_lost(p[i], freq[i], precision)
        assert lost < 0.001 * entropy, f"location {float(loc[i])}, scale {float(log_scale[i].exp())}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [2, 5, 10])
def test_integer_mixtures_cost_less_than_a_ten_thousandth_of_the_entropy(kind: str, k: int) -> None:
    rows, bins, precision = 500, 256, 24
    logits = floats(14 + k, k, rows, low=-3, high=3)
    loc = floats(15 + k, k, rows, low=-5, high=260)
    log_scale = floats(16 + k, k, rows, low=math.log(0.3), high=math.log(60))
    weight = frequencies.weights(frequencies.snap_logits(logits))
    y = integer_cdf(kind, frequencies.snap_location(loc), frequencies.snap_scale(log_scale), bins)
    mixed = mixed_cdf(weight, y)
    freq = starts_of(mixed, bins, precision, 1).diff(dim=-1)
    p = (logits.softmax(0)[..., None] * exact_mass(kind, loc, log_scale.exp(), bins)).sum(0)
    lost, entropy = bits_lost(p, freq, precision)
    assert entropy > 3
    assert 0 < lost < 0.0001 * entropy  # measured: 0.00001 to 0.00002
