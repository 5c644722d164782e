"""Codecs: the law, each symbol's interval, exact rates, what each codec refuses, the same words however they run."""

import contextlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.distributions import (
    FREQS,
    KINDS,
    holes,
    information,
    integers,
    location_scale_bits,
    locations,
    pixels,
    plain_cdf,
    plain_start,
    scales,
    spent,
    weights,
)
from tests.laws import check_codec, contents
from toolkit.coding import frequencies, kernels
from toolkit.coding import mixtures as mixtures_module
from toolkit.coding.codecs import Codec, bernoulli, interval_codec, mapped, raw, traced, uniform
from toolkit.coding.distributions import location_scale
from toolkit.coding.message import EmptyMessage, Message, NoFrequency
from toolkit.coding.mixtures import mixture
from toolkit.coding.tables import categorical, of_starts, tables

# The law.


def thirds(shape: tuple[int, ...]) -> Codec:
    """An interval codec of three symbols, the first more likely at each next place."""
    count = torch.Size(shape).numel()
    border = (1 + torch.arange(count)).view(shape)

    def interval(x: Tensor) -> tuple[Tensor, Tensor]:
        starts = torch.stack([0 * border, border, border + 500, 1024 + 0 * border])
        low = starts.gather(0, x[None])[0]
        return low, starts.gather(0, x[None] + 1)[0] - low

    def find(u: Tensor, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        edges = border.flatten()[at]
        x = (u >= edges).long() + (u >= edges + 500)
        low = torch.where(x == 0, 0, torch.where(x == 1, edges, edges + 500))
        high = torch.where(x == 0, edges, torch.where(x == 1, edges + 500, 1024))
        return x, low, high - low

    return interval_codec(interval, find, shape, 10)


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
    width, ones = integers(20, 13, *shape), 1 + integers(21, 65535, *shape)
    codecs["raw"] = raw(width, valid, 12), (integers(22, 4096, *shape) >> (12 - width)) * valid
    codecs["bernoulli"] = bernoulli(ones, 16), integers(23, 2, *shape)
    codecs["bernoulli with holes"] = bernoulli(ones, 16, valid), integers(23, 2, *shape) * valid
    starts, which = torch.tensor([[0, 5, 5, 90, 256], [0, 1, 2, 3, 256]]), integers(24, 2, *shape)
    codecs["tabled"] = (
        of_starts(starts, 8).codec(which, valid),
        torch.tensor([0, 2, 3])[integers(25, 3, *shape)] * valid,
    )
    codecs["one of your own"] = thirds(shape), integers(26, 3, *shape)
    codecs["mapped"] = mapped(uniform(shape, 8), lambda y: y ^ 77, lambda x: x ^ 77), integers(27, 256, *shape)
    codecs["traced"] = traced(uniform(shape, 8), []), integers(27, 256, *shape)
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
        many = weights(7, 4, *shape), locations(8, bins, 4, *shape), scales(9, 4, *shape)
        codecs[f"mixture of {kind}s"] = mixture(kind, *many, bins), x
        codecs[f"mixture of {kind}s with holes"] = mixture(kind, *many, bins, valid=valid), x * valid
    for c in (1, 2, 3):
        p, x3 = pixels(c, 3, 14), integers(10 + c, 64, 14, c)
        whole, mask = torch.ones(14, c, dtype=torch.bool), holes(14, 1).expand(14, c)
        codecs[f"pixels of {c}"] = p.codec(whole), x3
        codecs[f"pixels of {c} with holes"] = p.codec(mask), x3 * mask
        codecs[f"pixels of {c} with holes of each channel"] = p.codec(holes(14, c)), x3 * holes(14, c)
    return codecs


LEAVES = leaf_codecs()


@pytest.mark.parametrize("lanes", [1, 4, 50])
@pytest.mark.parametrize("name", LEAVES)
def test_each_codec_obeys_the_law(name: str, lanes: int) -> None:
    codec, x = LEAVES[name]
    check_codec(codec, x, Message.random(lanes, 60, 0))
    check_codec(codec, x, Message.empty(lanes))


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


def test_what_is_traced_is_what_was_popped() -> None:
    found: list[Tensor] = []
    codec, plain = traced(uniform((5,), 8), found), uniform((5,), 8)
    message = Message.random(2, 9, 0)
    popped = [codec.pop(message), codec.pop(message)]
    assert [x.tolist() for x in found] == [x.tolist() for x in popped]
    assert traced(plain, None) is plain


# Every symbol has the interval that its frequency says.


@pytest.mark.parametrize("way", ["kernels", "reference"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("least", [0, 1])
@pytest.mark.parametrize("bins", [1, 2, 3, 100, 128])
def test_every_value_of_a_small_precision_is_popped_as_the_symbol_that_owns_it(
    kind: str, least: int, bins: int, way: str
) -> None:
    precision = 10
    for loc, scale in ((bins // 2, 4.0), (-20, 0.1), (bins + 20, 50.0), (3, 0.4)):
        at, level = frequencies.snap_location(torch.tensor(loc)), frequencies.snap_scale(torch.tensor(scale).log())
        message = Message.empty(1 << precision)
        message.head = (1 << 60) + torch.arange(1 << precision)
        codec = location_scale(kind, at.expand(1 << precision), level.expand(1 << precision), bins, least, precision)
        with kernels.reference() if way == "reference" else contextlib.nullcontext():
            x = codec.pop(message)
        starts = [
            plain_start(plain_cdf(kind, e, int(at), int(level), bins), e, bins, precision, least)
            for e in range(bins + 1)
        ]
        assert (starts[0], starts[-1]) == (0, 1 << precision)
        assert torch.equal(x, torch.arange(bins).repeat_interleave(torch.tensor(starts).diff()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("least", [0, 1])
@pytest.mark.parametrize("bins", [1, 2, 3, 100, 256, 1000, 1024])
def test_guesses_and_bisection_find_the_same_symbol(kind: str, least: int, bins: int) -> None:
    """Many places under many scales: where a guess is wrong, integers go on."""
    n, results = 20000, []
    codec = location_scale(kind, locations(1, bins, n), scales(2, n, low=0.07, high=4000), bins, least)
    for context in (kernels.reference, contextlib.nullcontext):
        message = Message.empty(n)
        message.head = (1 << 60) + integers(3, 1 << 24, n)
        with context():
            results.append((codec.pop(message), message.head))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_every_value_of_a_small_precision_is_popped_as_its_category() -> None:
    steep = torch.tensor([0, 0, 1, 0, 65000, *[0] * 30, 535, 0])  # of cells that hold many symbols
    even = torch.full((256,), 256)
    for freqs in (FREQS, torch.tensor([1 << 16]), torch.tensor([1, (1 << 16) - 1]), even, steep):
        message = Message.empty(1 << 16)
        message.head = (1 << 60) + torch.arange(1 << 16)
        x = categorical(freqs, (1 << 16,), 16).pop(message)
        assert torch.equal(x, torch.arange(len(freqs)).repeat_interleave(freqs))


def test_every_value_is_popped_as_its_category_under_many_tables() -> None:
    """So many that each has few cells to look in."""
    count, precision = 3000, 12
    freqs = torch.ones(count, 40, dtype=torch.int64)
    freqs.scatter_(1, integers(0, 40, count, 1), (1 << precision) - 39)
    which = integers(1, count, 1 << precision)
    message = Message.empty(1 << precision)
    message.head = (1 << 60) + torch.arange(1 << precision)
    x = tables(freqs, precision).codec(which, which >= 0).pop(message)
    ends = freqs.cumsum(1)[which]
    assert torch.equal(x, (torch.arange(1 << precision)[:, None] >= ends).sum(1))


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


def test_holes_cost_nothing_whatever_is_in_them() -> None:
    shape, bins = (3, 40), 64
    valid, nothing, junk = holes(*shape), torch.zeros(shape, dtype=torch.bool), integers(0, 1 << 40, *shape) - 12345
    loc, scale = locations(1, bins, *shape), scales(2, *shape)
    weight = weights(9, 2, *shape)
    p, x = pixels(3, 3, 40, bins=bins), integers(3, bins, *shape)
    codecs: list[Callable[[Tensor], Codec]] = [
        lambda valid: location_scale("logistic", loc, scale, bins, 1, valid=valid),
        lambda valid: location_scale("logistic", loc, scale, bins, 0, valid=valid),
        lambda valid: mixture("gaussian", weight, loc.expand(2, *shape), scale.expand(2, *shape), bins, valid=valid),
        lambda valid: mapped(p.codec(valid.T), lambda x: x.T, lambda x: x.T),
        lambda valid: mapped(p.codec(valid.T, drawn=True), lambda x: x.T, lambda x: x.T),
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
        "pixels": (pixels(4, 2, 3).codec(torch.ones(3, 4, dtype=torch.bool)), 64),
        "drawn pixels": (pixels(4, 2, 3).codec(torch.ones(3, 4, dtype=torch.bool), drawn=True), 64),
        "bernoulli": (bernoulli(torch.full(shape, 99), 16), 2),
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
@pytest.mark.parametrize("name", REFUSING)
def test_symbols_out_of_range_are_refused_and_the_message_kept(name: str, too_high: bool) -> None:
    codec, bins = REFUSING[name]
    x = torch.zeros(3, 4, dtype=torch.int64)
    x[0, 2] = bins if too_high else -1
    message = Message.random(2, 5, 0)
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
    with pytest.raises(ValueError, match="push: symbol 0 at position 2 has no frequency"):
        bernoulli(torch.full((3,), 256), 8).push(Message.random(2, 5, 0), torch.tensor([1, 1, 0]))
    assert spent(location_scale("logistic", loc, scale, 256, 1), x, Message.random(2, 5, 0)) > 24


def test_frequencies_that_do_not_sum_to_the_precision_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rows sum to 65536, got shape \[1, 7\], least 1; the tables are damaged"):
        categorical(FREQS + torch.tensor([0, 0, 1, 0, 0, 0, 0]), (3,), 16)
    with pytest.raises(ValueError, match=r"whose rows sum to 256, got shape \[2, 2\], least 56"):
        tables(torch.tensor([[200, 56], [200, 57]]), 8)
    with pytest.raises(ValueError, match=r"whose rows sum to 256, got shape \[1, 0\], least none"):
        tables(torch.zeros(1, 0, dtype=torch.int64), 8)


def test_frequencies_below_zero_are_refused() -> None:
    with pytest.raises(ValueError, match=r"of at least 0 whose rows sum to 256, got shape \[1, 3\], least -1"):
        categorical(torch.tensor([-1, 7, 250]), (3,), 8)


def test_frequencies_of_other_axes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected frequencies \[tables, k\] .* got shape \[1, 2, 2\]"):
        categorical(torch.full((2, 2), 64), (3,), 8)


def test_a_kind_of_distribution_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a kind of logistic, gaussian, got 'cauchy'"):
        location_scale("cauchy", locations(0, 64, 3), scales(1, 3), 64, 1)


@pytest.mark.parametrize("bins", [0, -3, 257])
def test_more_bins_than_counts_are_refused(bins: int) -> None:
    loc, scale = locations(0, 64, 3), scales(1, 3)
    with pytest.raises(ValueError, match=f"expected between 1 and 256 bins, got {bins}; with 8 bits of precision"):
        location_scale("logistic", loc, scale, bins, 1, precision=8)
    weight = frequencies.weights(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=f"expected between 1 and 256 bins, got {bins}; with 8 bits of precision"):
        mixture("logistic", weight, loc.expand(2, 3), scale.expand(2, 3), bins, precision=8)


@pytest.mark.parametrize("precision", [0, 29])
def test_precisions_out_of_range_are_refused(precision: int) -> None:
    with pytest.raises(ValueError, match=rf"expected 1 <= precision <= 28 and at least 1 bin, got {precision} and"):
        bernoulli(torch.ones(3, dtype=torch.int64), precision)
    with pytest.raises(ValueError, match=rf"expected 1 <= precision <= 28 and at least 1 bin, got {precision} and"):
        of_starts(torch.tensor([[0, 1 << precision]]), precision).codec(None, torch.ones(3, dtype=torch.bool))


def test_a_pop_from_an_empty_message_is_refused() -> None:
    for codec in (uniform((40,), 8), thirds((40,))):
        with pytest.raises(EmptyMessage, match=r"lane 0 of 1 needs \d+ more words than it holds"):
            codec.pop(Message.empty(1))


def test_numbers_of_tables_and_levels_beyond_their_range_are_refused() -> None:
    zeros = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"levels of scales in \[0, 512\), got values from 0 to 512"):
        location_scale("logistic", zeros, torch.tensor([0, 0, 512, 0]), 10, 1)
    with pytest.raises(ValueError, match=r"numbers of tables in \[0, 1\), got values from -1 to 0"):
        of_starts(torch.tensor([[0, 8, 16]]), 4).codec(torch.tensor([0, -1, 0, 0]), zeros == 0)


M = 50


def wrong_shapes() -> dict[str, Callable[[], object]]:
    """Codecs whose parameters are for fewer symbols than there are: loops would read what is behind them."""
    valid, few, many = torch.ones(M, dtype=torch.bool), torch.zeros(5).int(), torch.full((M,), 100)
    weight = torch.full((1, M), 1 << 16)
    return {
        "loc": lambda: location_scale("logistic", few, many, 256, 1),
        "scale": lambda: location_scale("logistic", many, few, 256, 1),
        "loc, scale": lambda: location_scale("logistic", few, few, 256, 1, valid=valid),
        "which": lambda: tables(torch.tensor([[100, 156]]), 8).codec(few, valid),
        "width": lambda: raw(few, valid, 8),
        "ones": lambda: bernoulli(few, 8, valid),
        "weight of a mixture": lambda: mixture("logistic", weight[:, :2], many[None], many[None], 256),
        "loc of a mixture": lambda: mixture("logistic", weight, few[None], many[None], 256, valid=valid),
    }


@pytest.mark.parametrize("name", wrong_shapes())
def test_parameters_of_other_shapes_than_the_symbols_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"expected \w+ of shape \[(1, )?(50|5)\], got \[(1, )?\d+\]"):
        wrong_shapes()[name]()


def wrong_numbers() -> dict[str, tuple[Callable[[], object], str]]:
    valid, at = torch.ones(2, dtype=torch.bool), torch.tensor([100, 100])
    whole = torch.tensor([[1 << 16, 1 << 16]])

    def grid(bins: int = 256, least: int = 1, loc: Tensor = at) -> Codec:
        return location_scale("gaussian", loc, at, bins, least)

    def mixed(weight: Tensor) -> Codec:
        return mixture("logistic", weight, at.expand(len(weight), 2), at.expand(len(weight), 2), 256, valid=valid)

    return {
        "bins": (lambda: grid((1 << 24) + 1, 0), r"at most 16777216 bins and a least count of 0 or 1, got 16777217"),
        "least": (lambda: grid(least=-1), "a least count of 0 or 1, got 256 and -1"),
        "loc": (lambda: grid(loc=at << 34), r"locations in 1/64 bin in \[-1073741824, 1073741824\), got"),
        "float loc": (lambda: grid(loc=at.float()), "locations .* of an integer dtype, got torch.float32; snap"),
        "ones": (lambda: bernoulli(torch.tensor([300, 3]), 8), r"frequencies of 1 in \[0, 257\), got values from 3"),
        "negative ones": (lambda: bernoulli(torch.tensor([-3, 3]), 8), r"in \[0, 257\), got values from -3 to 3"),
        "width": (lambda: raw(torch.tensor([9, 0]), valid, 8), r"widths in \[0, 9\), got values from 0 to 9"),
        "weights": (lambda: mixed(whole - 1), "weights of 1 components that sum to 65536, got others"),
        "no weights": (lambda: mixed(whole[:0]), "weights of 0 components that sum to 65536"),
        "negative weights": (lambda: mixed(torch.cat([2 * whole, -whole])), r"weights .* in \[0, 65537\)"),
        "falling": (lambda: of_starts(torch.tensor([[0, 200, 100, 256]]), 8), "whose rows do not fall, from 0 to 256"),
        "no tables": (lambda: tables(torch.zeros(0, 4).long(), 8), r"rows sum to 256, got shape \[0, 4\], least none"),
        "wrapping": (
            lambda: tables(torch.tensor([[1 << 62, 1 << 62, 1 << 62, (1 << 62) + 256]]), 8), "rows sum to 256, got"
        ),
        "no components": (
            lambda: mixtures_module.pixels(torch.zeros(2, 0), 0, 256, valid[:, None]), "at least 1 component .*, got 0"
        ),
        "levels": (
            lambda: mixtures_module.pixels(torch.zeros(2, 3), 1, 256, valid[:, None], scales=(0, 512)),
            r"levels of scales below 512, got 1, \(0, 512\)",
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", wrong_numbers())
def test_numbers_that_loops_could_not_code_with_are_refused(name: str) -> None:
    build, message = wrong_numbers()[name]
    with pytest.raises(ValueError, match=message):
        build()


def test_as_many_bins_as_there_may_be_are_coded_at_the_finest_scale() -> None:
    bins = 1 << 24
    x = torch.tensor([0, 1, bins // 2, bins - 2, bins - 1])
    codec = location_scale("logistic", (64 * x).clamp(max=64 * bins - 1), torch.zeros(5).int(), bins, 0, 24)
    check_codec(codec, x, Message.random(2, 9, 0))


def test_symbols_of_floats_are_refused() -> None:
    with pytest.raises(ValueError, match=r"symbols of an integer dtype, got torch.float32; round them first"):
        uniform((3,), 8).push(Message.random(1, 2, 0), torch.tensor([1.7, 2.0, 3.0]))


def test_a_message_without_lanes_is_refused() -> None:
    codec = uniform((3,), 8)
    for use in (lambda m: codec.push(m, torch.zeros(3).long()), codec.pop):
        with pytest.raises(ValueError, match="at least one lane for 3 symbols, got one without lanes"):
            use(Message.empty(0))


def test_a_refused_push_leaves_the_message_that_its_lanes_are_part_of() -> None:
    message = Message.random(4, 9, 0)
    loc = torch.full((6,), 6400)
    codec = location_scale("logistic", loc, torch.full((6,), 100), 256, 0)
    with pytest.raises(NoFrequency):
        codec.push(message.part(0, 2), torch.tensor([100, 7, 100, 100, 100, 100]))
    assert contents(message) == contents(Message.random(4, 9, 0))
