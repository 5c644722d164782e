"""Mixtures: components that are drawn or summed, exact rates, channels that share a component."""

import contextlib
import itertools

import pytest
import torch
from torch import Tensor

from tests.distributions import (
    KINDS,
    Pixels,
    floats,
    holes,
    information,
    integers,
    locations,
    pixels,
    plain_mixture_frequency,
    plain_pixel,
    plain_pixel_frequencies,
    scales,
    spent,
    weights,
)
from tests.laws import check_codec, contents
from tests.plain_rans import Stack, of_stacks
from toolkit.coding import frequencies, kernels
from toolkit.coding import mixtures as mixtures_module
from toolkit.coding.codecs import PRECISION, Codec
from toolkit.coding.message import Message
from toolkit.coding.mixtures import Weighted, mixture


@pytest.mark.parametrize("c", [1, 2, 3])
def test_pixels_with_drawn_components_obey_the_law(c: int) -> None:
    p, x = pixels(c, 3, 14), integers(10 + c, 64, 14, c)
    for valid in (torch.ones(14, c, dtype=torch.bool), holes(14, 1).expand(14, c), holes(14, c)):
        for lanes in (1, 4, 50):
            check_codec(p.codec(valid, drawn=True), x * valid, Message.random(lanes, 60, 0))


@pytest.mark.parametrize("c", [1, 2, 3])
def test_words_of_pixels_are_those_of_plain_integers(c: int) -> None:
    n, lanes, p = 20, 3, pixels(c, 3, 20)
    x, valid = integers(5, 64, n, c), holes(n, c)
    x = torch.where(valid, x, 0)
    message, stacks = Message.empty(lanes), [Stack() for _ in range(lanes)]
    p.codec(valid).push(message, x)
    for i in reversed(range(n)):
        for start, freq in reversed(plain_pixel(p, i, x[i].tolist(), valid[i].tolist())):
            stacks[i % lanes].push(start, freq, PRECISION)
    assert contents(message) == of_stacks(stacks)


def test_parameters_out_of_range_are_clamped_to_it() -> None:
    """What a network says without bounds: coded as the nearest that can be."""
    n, k, c = 50, 2, 3
    wild = (floats(0, -1, 1, n, k * (1 + 2 * c + 3)) * 3e6).round().float()
    tame = wild.clone()
    logits = tame[:, :k]
    tame[:, :k] = logits - logits.amax(1, keepdim=True)
    tame[:, :k] = tame[:, :k].clamp(min=-frequencies.LOGIT_MOST)
    tame[:, k : k * (1 + c)] = tame[:, k : k * (1 + c)].clamp(-(1 << 20), 1 << 20)
    tame[:, k * (1 + c) : k * (1 + 2 * c)] = tame[:, k * (1 + c) : k * (1 + 2 * c)].clamp(40, 300)
    x, valid = integers(1, 256, n, c), holes(n, c)
    for drawn in (False, True):
        found = []
        for parameters in (wild, tame):
            message = Message.random(3, 60, 0)
            codec = mixtures_module.pixels(parameters, k, 256, valid, drawn=drawn, scales=(40, 300))
            codec.push(message, x)
            found.append(contents(message))
        assert found[0] == found[1]


def test_the_middle_of_the_axis_is_the_base_unless_another_is_given() -> None:
    n, c, p, found = 30, 3, pixels(3, 2, 30), []
    planes = torch.cat([part.flatten(0, 1) for part in (-p.logits[None], p.loc, p.scale, p.coupling)]).T.float()
    x, valid = integers(1, 64, n, c), torch.ones(n, c, dtype=torch.bool)
    for base in (None, torch.full((n, c), 63 * 32), torch.full((n, c), 63 * 32 + 640)):
        message = Message.random(3, 60, 0)
        mixtures_module.pixels(planes, 2, 64, valid, base).push(message, x)
        found.append(contents(message))
    assert found[0] == found[1] != found[2]


def test_parameters_of_another_shape_are_refused() -> None:
    valid = torch.ones(5, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"parameters \[5, 20\] and base \[5, 3\], got \[5, 21\] and \[5, 3\]"):
        mixtures_module.pixels(torch.zeros(5, 21), 2, 64, valid)
    with pytest.raises(ValueError, match=r"parameters \[5, 20\] and base \[5, 3\], got \[5, 20\] and \[5, 1\]"):
        mixtures_module.pixels(torch.zeros(5, 20), 2, 64, valid, torch.zeros(5, 1))


def test_every_value_of_a_weight_is_popped_as_the_component_that_owns_it() -> None:
    for weight in ([1 << 16], [1, (1 << 16) - 1], [0, 30000, 0, 0, 35536, 0], [5, 0, 65531, 0]):
        table, places = torch.tensor(weight), torch.arange(1 << 16)
        x, start, freq = Weighted(table[:, None].expand(-1, 1 << 16)).find(places)
        assert torch.equal(x, torch.arange(len(weight)).repeat_interleave(table))
        assert bool(((start <= places) & (places < start + freq)).all()) and torch.equal(freq, table[x])


@pytest.mark.parametrize("kind", KINDS)
def test_mixture_symbols_cost_the_logarithm_of_their_frequency(kind: str) -> None:
    bins, k, shape = 200, 5, (2, 300)
    weight = weights(0, k, *shape)
    loc, scale, valid = locations(1, bins, k, *shape), scales(2, k, *shape), holes(*shape)
    codec = mixture(kind, weight, loc, scale, bins, valid=valid)
    for x in (codec.pop(Message.random(8, 200, 2)), integers(4, bins, *shape)):
        rows = zip(weight[:, valid].T.tolist(), loc[:, valid].T.tolist(), scale[:, valid].T.tolist(), strict=True)
        freqs = [
            plain_mixture_frequency(kind, *row, symbol, bins, PRECISION)
            for row, symbol in zip(rows, x[valid].tolist(), strict=True)
        ]
        assert spent(codec, x, Message.random(8, 1, 3)) == pytest.approx(information(freqs), rel=1e-4)


@pytest.mark.parametrize("c", [1, 2, 3])
def test_pixels_cost_the_logarithm_of_their_frequency(c: int) -> None:
    n, bins = 150, 64
    p, valid = pixels(c, 4, n, bins=bins), torch.ones(n, c, dtype=torch.bool)
    for x in (p.codec(valid).pop(Message.random(8, 200, 0)), integers(4, bins, n, c)):
        freqs = [f for i in range(n) for f in plain_pixel_frequencies(p, i, x[i].tolist())]
        assert spent(p.codec(valid), x, Message.random(8, 1, 1)) == pytest.approx(information(freqs), rel=1e-4)


# Pixels have the joint mixture.


def joint_probability(p: Pixels, x: Tensor) -> Tensor:
    """Float64 [n] probabilities of pixels int64 [n, c] under the mixture whose component all channels share."""
    probability, x = p.weight.double() / 65536, x.T
    for j in range(len(x)):
        row = j * (j - 1) // 2
        loc = p.loc[j].double() / 64
        for i in range(j):
            loc = loc + p.coupling[row + i] / 256 * (x[i] - (p.bins - 1) / 2)
        scale = torch.exp2(p.scale[j].double() / 32 - 4)
        low, high = (x[j] - 0.5 - loc) / scale, (x[j] + 0.5 - loc) / scale
        # Mirrored where both edges are in the upper tail, so that nothing cancels.
        low, high = torch.where(low > 0, -high, low), torch.where(low > 0, -low, high)
        mirrored = (x[j] - 0.5 - loc) > 0
        first, last = x[j] == 0, x[j] == p.bins - 1
        below = torch.where(torch.where(mirrored, last, first), 0.0, torch.sigmoid(low))
        above = torch.where(torch.where(mirrored, first, last), 1.0, torch.sigmoid(high))
        probability = probability * (above - below)
    return probability.sum(0)


def bits_of_each(codec: Codec, x: Tensor) -> Tensor:
    """Bits of each pixel, float64 [n]: int64 [n, c] on n lanes with heads so high that rounding is below 1e-6 bits."""
    message = Message.empty(len(x))
    message.head += (1 << 46) - int(message.head[0])
    codec.push(message, x)
    assert not message.size.any(), "a spilled head would make the bits inexact: choose likelier symbols"
    return message.head.double().log2() - 46


@pytest.mark.parametrize("c", [1, 2, 3])
def test_probabilities_of_all_coupled_pixels_sum_to_one_and_are_the_joint_mixture(c: int) -> None:
    bins, k = 4, 3
    x = torch.tensor(list(itertools.product(range(bins), repeat=c)))  # [bins**c, c], every pixel there is
    one = Pixels(
        frequencies.snap_logits(floats(0, -1, 1, k, 1)).long(),
        frequencies.snap_location(floats(1, 0, 3, c, k, 1)).long(),
        scales(2, c, k, 1, low=0.8, high=3).long(),
        # Multiples of 8: then the moved locations are on their grid, and nothing but tables separates the two.
        8 * frequencies.snap_coupling(floats(3, -1, 1, c * (c - 1) // 2, k, 1) / 8).long(),
        bins,
    )
    n = len(x)
    all_pixels = one._replace(
        **{f: getattr(one, f).expand(*getattr(one, f).shape[:-1], n) for f in ("logits", "loc", "scale", "coupling")}
    )
    coded = torch.exp2(-bits_of_each(all_pixels.codec(torch.ones(n, c, dtype=torch.bool)), x))
    assert float(coded.sum()) == pytest.approx(1, abs=1e-6)
    joint = joint_probability(all_pixels, x)
    assert float(joint.sum()) == pytest.approx(1, abs=1e-12)
    assert float((coded / joint - 1).abs().max()) < 1e-3


def test_pixels_cost_less_than_a_ten_thousandth_above_the_float_joint_mixture() -> None:
    n, k, bins = 4000, 5, 256
    p, valid = pixels(3, k, n, bins=bins), torch.ones(n, 3, dtype=torch.bool)
    x = p.codec(valid).pop(Message.random(64, 400, 5))
    coded = spent(p.codec(valid), x, Message.random(64, 60, 6))
    exact = -float(joint_probability(p, x).log2().sum())
    assert exact > 9 * n
    assert abs(coded / exact - 1) < 0.0001  # measured: 0.00003


def test_pixels_with_drawn_components_cost_as_much_as_those_that_are_summed() -> None:
    n, valid = 4000, torch.ones(4000, 3, dtype=torch.bool)
    p = pixels(3, 5, n, bins=256)
    x = p.codec(valid).pop(Message.random(64, 400, 5))
    summed = spent(p.codec(valid), x, Message.random(64, 60, 6))
    drawn = sorted(spent(p.codec(valid, drawn=True), x, Message.random(64, 60, seed)) for seed in range(6, 11))
    # Whatever component is drawn from its exact posterior, the net is that of the pixel: only rounding differs. The
    # count that components keep is drawn by one pixel in 16,000 or so, which costs 30 bits: hence the median.
    assert drawn[2] == pytest.approx(summed, rel=0.0003)
    assert drawn[0] == pytest.approx(summed, rel=0.0001)


def test_channels_after_a_hole_are_coded_as_if_they_were_the_first() -> None:
    n, p = 500, pixels(2, 2, 500, bins=256)
    apart = torch.tensor([20, 235])[:, None] * frequencies.LOC_STEPS
    p = p._replace(loc=apart.expand(2, 2, n), coupling=torch.zeros_like(p.coupling))
    valid = torch.tensor([False, True]).expand(n, 2)
    alone = mixture("logistic", p.weight, p.loc[1], p.scale[1], 256)
    x = alone.pop(Message.random(16, 100, 5))
    bits = spent(alone, x, Message.random(16, 60, 6))
    x = torch.stack([torch.zeros_like(x), x], 1)
    assert spent(p.codec(valid), x, Message.random(16, 60, 6)) == bits
    assert spent(p.codec(valid, drawn=True), x, Message.random(16, 60, 6)) == pytest.approx(bits, rel=0.005)


def test_kernels_weigh_components_at_the_ends_as_the_tensor_program_does() -> None:
    """Most pixels here are 0 or the highest level: one in some hundreds was weighed by another last bit once."""
    n, whole = 2000, torch.ones(2000, 1, dtype=torch.bool)
    for seed in range(12):
        codec, found = pixels(1, 5, n, 60, seed).codec(whole, True), []
        for way in (kernels.reference(), contextlib.nullcontext()):
            message = Message.random(n, 20, 7)
            with way:
                found.append((codec.pop(message).tolist(), message.head.tolist()))
        assert found[0] == found[1]
