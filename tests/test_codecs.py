"""Codecs: the law, each symbol's interval, exact rates, what each codec refuses, the same words however they run."""

import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.distributions import (
    CPU,
    FREQS,
    KINDS,
    floats,
    holes,
    information,
    integers,
    location_scale_bits,
    locations,
    pixels,
    plain_cdf,
    plain_start,
    run_as_compiled,
    scales,
    spent,
)
from tests.laws import check_codec, contents
from toolkit.coding import frequencies
from toolkit.coding.message import Message
from toolkit.coding.codecs import PRECISION, Codec, categorical, location_scale, to_lanes, uniform
from toolkit.coding.mixtures import mixture, weighted
from toolkit.coding.searches import search_functions

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
    assert to_lanes(torch.arange(12).reshape(2, 6), 3).tolist() == [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]]
    assert to_lanes(torch.zeros(4, 0), 3).shape == (4, 0, 3)
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
@pytest.mark.parametrize("bins", [1, 2, 3, 100, 256, 1000, 1024])
def test_all_searches_find_the_same_symbol(kind: str, least: int, bins: int) -> None:
    n = 20000
    params = locations(1, bins, n), scales(2, n, low=0.07, high=4000)
    tables = frequencies.cdf_table(kind, CPU), frequencies.inverse_scales(CPU)
    interval, bisection, guess, sure = search_functions(kind, bins, least, PRECISION)
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
