"""Observation models: what their codecs cost is what their bits say, channel coupling and passes included."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import bitswap
from toolkit.coding.message import Message
from toolkit.nets.observation import (
    LEVELS,
    GuidedObservation,
    InterlacedObservation,
    LogisticObservation,
    Mixture,
    MixtureObservation,
    complete,
    log_discretised_logistic,
    log_scales,
    normalise,
)

LATENTS = 3
SIDE = 8


def observation(kind: str, channels: int) -> Any:
    torch.manual_seed(0)
    shape = (channels, SIDE, SIDE)
    if kind == "logistic":
        module: Any = LogisticObservation(shape, LATENTS, 12, 1)
    elif kind == "mixture":
        module = MixtureObservation(shape, LATENTS, 12, 1, 3)
    elif kind == "guided":
        module = GuidedObservation(shape, LATENTS, 12, 1, 3)
    else:
        module = InterlacedObservation(shape, LATENTS, 12, 1, 3, 2, 1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "guess" not in name:  # these start as means of neighbours
                parameter.add_(torch.randn_like(parameter) * 0.08)
        if kind == "logistic":
            module.raw_scale.fill_(-3.0)  # 6 levels
    return module.eval()


def latents(rows: int) -> Tensor:
    return torch.randn(rows, LATENTS, SIDE // 2, SIDE // 2, generator=torch.Generator().manual_seed(1))


def message(seed: int = 0) -> Message:
    return Message.random(8, 20_000, seed)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["logistic", "mixture", "guided", "interlaced"])
@torch.inference_mode()
def test_the_codec_costs_what_the_bits_say(kind: str, channels: int) -> None:
    module, z = observation(kind, channels), latents(24)
    valid = torch.ones(24, channels, SIDE, SIDE, dtype=torch.bool)
    x = module.codec(z, valid).pop(message())  # random bits decode to a sample of the model
    assert 15 < x.double().std() < 120, "a sample without variety tests nothing"
    after = message(seed=1)
    before = after.bits()
    module.codec(z, valid).push(after, x)
    bits = float(module.bits(normalise(x), z).sum())
    assert after.bits() - before == pytest.approx(bits, rel=5e-4)
    assert torch.equal(module.codec(z, valid).pop(after), x)


@pytest.mark.parametrize("kind", ["mixture", "guided", "interlaced"])
@torch.inference_mode()
def test_channels_are_coded_given_the_channels_before(kind: str) -> None:
    """With the channels of other pixels in place of its own, an image costs more: the coupling is in the codec too."""
    module, z = observation(kind, 3), latents(24)
    with torch.no_grad():
        mixtures = module.mixture if kind == "interlaced" else [module.mixture]
        for mixture in mixtures:
            # Strong coupling, sharp scales: biases in the order logits, loc, log-scale, coupling.
            up = mixture.head.out_channels // sum(mixture.sizes)
            mixture.head.bias[-mixture.sizes[3] * up :] = 1.0
            mixture.head.bias[-(mixture.sizes[2] + mixture.sizes[3]) * up : -mixture.sizes[3] * up] = -1.0
    valid = torch.ones(24, 3, SIDE, SIDE, dtype=torch.bool)

    def cost(x: Tensor) -> float:
        target = message(seed=1)
        before = target.bits()
        module.codec(z, valid).push(target, x)
        return target.bits() - before

    x = module.codec(z, valid).pop(message())
    assert cost(x) == pytest.approx(float(module.bits(normalise(x), z).sum()), rel=5e-4)
    shuffled = torch.cat([x[:, :1].flip(3), x[:, 1:]], 1)
    assert cost(shuffled) > 1.2 * cost(x)


@pytest.mark.parametrize("kind", ["logistic", "mixture", "guided", "interlaced"])
@torch.inference_mode()
def test_places_that_are_not_coded_cost_nothing(kind: str) -> None:
    module, z = observation(kind, 3), latents(4)
    nothing, target = torch.zeros(4, 3, SIDE, SIDE, dtype=torch.bool), message()
    before = target.bits()
    module.codec(z, nothing).push(target, complete(torch.zeros(4, 3, SIDE, SIDE, dtype=torch.int64), nothing))
    assert target.bits() == before


# Probabilities


@pytest.mark.parametrize("log_scale", [-7.0, -5.0, -3.0, -1.0, 1.0])
def test_the_probabilities_of_all_levels_sum_to_one(log_scale: float) -> None:
    levels = normalise(torch.arange(LEVELS))
    loc = torch.tensor([-3.0, -1.0, -0.997, 0.0, 0.0031, 0.5, 1.0, 2.0])[:, None]
    total = log_discretised_logistic(levels, loc, torch.full_like(loc, log_scale)).double().exp().sum(1)
    assert total.tolist() == pytest.approx([1.0] * len(loc), abs=2e-4)


def test_the_logistic_has_no_gradient_that_is_not_a_number() -> None:
    levels = normalise(torch.arange(LEVELS))
    for value in (-7.0, -3.0, 3.0):
        loc, log_scale = (torch.full((LEVELS,), v, requires_grad=True) for v in (0.3, value))
        log_discretised_logistic(levels, loc, log_scale).sum().backward()
        assert loc.grad is not None and bool(loc.grad.isfinite().all())
        assert log_scale.grad is not None and bool(log_scale.grad.isfinite().all())


@torch.inference_mode()
def test_the_probabilities_of_a_mixture_sum_to_one_channel_after_channel() -> None:
    torch.manual_seed(0)
    mixture = Mixture(4, 2, 3)
    for parameter in mixture.parameters():
        parameter.normal_(std=0.5)
    features, base = torch.randn(1, 4, 1, 1), torch.rand(1, 2, 1, 1) - 0.5
    first, second = torch.meshgrid(torch.arange(LEVELS), torch.arange(LEVELS), indexing="ij")
    x = normalise(torch.stack([first, second], 2).reshape(-1, 2, 1, 1))
    for guess in (None, base):
        bits = mixture.bits(
            x, features.expand(len(x), -1, -1, -1), guess if guess is None else guess.expand(len(x), -1, -1, -1)
        )
        joint = (-bits.double() * math.log(2)).exp().view(LEVELS, LEVELS)
        assert float(joint.sum()) == pytest.approx(1, abs=1e-3)
        logits, loc, log_scale, _ = mixture(features)
        at = loc[0] if guess is None else loc[0] + guess[0, 0]
        alone = log_discretised_logistic(
            normalise(torch.arange(LEVELS)), at.view(3, 1), log_scales(log_scale[0]).view(3, 1)
        )
        marginal = (logits.view(3, 1).softmax(0) * alone.exp()).sum(0).double()
        assert joint.sum(1).tolist() == pytest.approx(marginal.tolist(), abs=1e-5)


# Rules of places that are not coded


def test_values_that_are_coded_stay() -> None:
    x = torch.arange(3 * 4).view(1, 3, 2, 2)
    assert torch.equal(complete(x, torch.ones_like(x, dtype=torch.bool)), x)


def test_a_grey_picture_stands_in_all_channels() -> None:
    x = torch.randint(0, 256, (2, 3, 4, 4))
    valid = torch.ones(2, 3, 4, 4, dtype=torch.bool)
    valid[0, 1:] = False
    assert torch.equal(complete(x, valid)[0], x[0, :1].expand(3, -1, -1))
    assert torch.equal(complete(x, valid)[1], x[1])


def test_padding_is_mid_grey() -> None:
    x = torch.randint(0, 256, (1, 3, 4, 4))
    valid = torch.ones(1, 3, 4, 4, dtype=torch.bool)
    valid[:, :, :, 2:] = False
    done = complete(x, valid)
    assert torch.equal(done[..., :2], x[..., :2])
    assert bool((done[..., 2:] == 128).all())


def test_completing_twice_is_completing_once_and_each_pass_can_be_completed_alone() -> None:
    x = torch.randint(0, 256, (2, 3, 4, 4))
    valid = torch.rand(2, 3, 4, 4) < 0.5
    done = complete(x, valid)
    assert torch.equal(complete(done, valid), done)
    assert torch.equal(complete(x[:, :, 1::2, ::2], valid[:, :, 1::2, ::2]), done[:, :, 1::2, ::2])


# Sizes


@torch.inference_mode()
def test_the_logistic_refuses_images_of_other_sizes() -> None:
    module, z = observation("logistic", 1), torch.zeros(1, LATENTS, 6, 6)
    with pytest.raises(ValueError, match=r"scale for each pixel of \[1, 8, 8\] images, got \[1, 12, 12\]; use tiles"):
        module.bits(torch.zeros(1, 1, 12, 12), z)


@pytest.mark.parametrize("kind", ["mixture", "guided", "interlaced"])
@torch.inference_mode()
def test_other_models_take_images_of_other_sizes(kind: str) -> None:
    module, z = observation(kind, 1), torch.zeros(2, LATENTS, 2, 6)
    assert module.bits(torch.zeros(2, 1, 4, 12), z).shape == (2,)


def test_levels_that_do_not_fit_the_image_are_refused() -> None:
    with pytest.raises(ValueError, match=r"multiples of 2\^levels, got levels=2 and 6 x 8; change"):
        InterlacedObservation((1, 6, 8), LATENTS, 12, 1, 3, 2, 1)


def test_untrained_models_draw_samples_and_reconstructions() -> None:
    # Far from trained, posteriors have no mass where priors draw: sampling must not depend on them.
    for seed in range(3):
        module = bitswap((3, 8, 8), seed, likelihood="interlaced")
        assert module.sample(5, seed).shape == (5, 3, 8, 8)
        x = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
        assert {view.shape for view in module.views(x, seed).values()} == {x.shape}
