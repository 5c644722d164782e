"""Bit-Swap's hierarchy: how its layers start, and what pictures show of them."""

import re
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from torch import Tensor

from recipes.bitswap import (
    PIXEL_GAIN,
    PIXEL_SCALE,
    PRIOR_GAIN,
    PRIOR_SCALE,
    UPPER_GAIN,
    UPPER_SCALE,
    Conditional,
    head,
    low_frequencies,
    start_as,
)
from tests.tiny import BITSWAP, bitswap, everything, images
from toolkit.chunks.chained import Coder
from toolkit.chunks.model import Settings
from toolkit.coding.message import Message
from toolkit.nets.exact import exactly
from toolkit.nets.observation import GuidedObservation, LogisticObservation, normalise
from toolkit.nets.residual import residual_stack
from toolkit.training.evaluation import coded_bits

REACH = 24.0


def smooth(rows: int, channels: int) -> Tensor:
    """Images without high frequencies, float32 [rows, channels, 16, 16] in [-1, 1]."""
    rng = torch.Generator().manual_seed(0)
    return F.interpolate(2 * torch.rand(rows, channels, 2, 2, generator=rng) - 1, size=16, mode="bilinear")


@pytest.mark.parametrize(("channels", "side", "count"), [(1, 2, 4), (3, 2, 12), (3, 4, 7), (5, 1, 5), (4, 2, 6)])
def test_low_frequencies_are_orthonormal_and_begin_with_the_mean(channels: int, side: int, count: int) -> None:
    basis = low_frequencies(channels, side, count)
    assert torch.allclose(basis @ basis.T, torch.eye(count), atol=1e-6)
    mean = basis[0].view(channels, side**2)
    assert torch.allclose(mean, mean[:, :1].expand_as(mean)) and bool((mean[0] > 0).all())
    if channels == 3:
        assert torch.allclose(mean[0], mean[2])  # grey


def test_there_are_no_more_frequencies_than_values_of_a_cell() -> None:
    assert not bool(low_frequencies(1, 2, 6)[4:].any())


@pytest.mark.parametrize(("inputs", "outputs", "rank"), [(12, 3, 3), (3, 12, 3), (4, 4, 4), (2, 40, 2)])
def test_a_stack_starts_as_a_linear_map(inputs: int, outputs: int, rank: int) -> None:
    torch.manual_seed(0)
    stack = residual_stack(inputs, 16, 2, outputs + 2)
    into, out = torch.randn(rank, inputs), torch.randn(outputs, rank)
    start_as(stack, into, out)
    with torch.no_grad():
        stack[-1].weight[:, 2 * rank :] = 0  # type: ignore[index]  # so that only the map is left
    x = torch.randn(2, inputs, 5, 5)
    wanted = torch.einsum("or,ri,nihw->nohw", out, into, x)
    assert torch.allclose(stack(x)[:, :outputs], wanted, atol=1e-4)
    assert not bool(stack(x)[:, outputs:].any())


@torch.no_grad()
def test_layers_start_as_coarser_and_noisy_copies_of_what_is_below() -> None:
    """So that the decoder has a reason to look at latents from the first step on."""
    torch.manual_seed(0)
    x = smooth(8, 3) / 4  # far from where locations are bent
    first, second = Conditional(3, 4, 24, 1, 2, 1, True, first=True), Conditional(4, 4, 24, 1, 2, 1, True)
    prior = Conditional(4, 4, 24, 1, 1, 2, False)
    z1, noise = first(x, REACH)
    grey = F.avg_pool2d(x.sum(1), 2) * PIXEL_GAIN / 3**0.5
    assert float((z1[:, 0] - grey).std()) < 0.2 * float(grey.std())
    assert float((noise - PIXEL_SCALE).abs().max()) < 0.1
    z2, noise = second(z1, REACH)
    back, wide = prior(z2, REACH)
    assert float((z2[:, 0] - UPPER_GAIN * F.avg_pool2d(z1[:, 0], 2)).std()) < 0.2 * float(z2[:, 0].std())
    assert float((back / (UPPER_GAIN * PRIOR_GAIN) - z1)[:, 0].std()) < 0.5 * float(z1[:, 0].std())
    assert float(noise.mean()) == pytest.approx(UPPER_SCALE, abs=0.1)
    assert float(wide.mean()) == pytest.approx(PRIOR_SCALE, abs=0.1)


@torch.no_grad()
def test_the_guess_starts_as_what_the_latents_started_from() -> None:
    torch.manual_seed(0)
    net = bitswap((3, 16, 16), likelihood="guided", latent_channels=[12, 2], width=48).net
    x = smooth(8, 3)
    z, _ = net.posterior(0, x)
    guess = F.pixel_shuffle(cast(GuidedObservation, net.observe).guess(z), 2)
    assert float(torch.corrcoef(torch.stack([guess.flatten(), x.flatten()]))[0, 1]) > 0.95
    assert float(guess.std()) == pytest.approx(float(x.std()), rel=0.25)  # extremes are bent


@torch.no_grad()
def test_networks_too_narrow_for_all_channels_start_with_some() -> None:
    torch.manual_seed(0)
    narrow = Conditional(3, 6, 4, 1, 2, 1, True, first=True)
    loc, scale = narrow(smooth(2, 3), REACH)
    assert bool(torch.isfinite(loc).all()) and bool((scale > 0.1).all())
    assert float(loc[:, :2].std()) > 5 * float(loc[:, 2:].std())


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_pictures_show_what_latents_say(depth: int) -> None:
    layers = {"latent_channels": [2] * depth, "downscale": [2] + [1] * (depth - 1), "blocks": [1] * depth}
    module = bitswap((1, 8, 8), **{**BITSWAP, **layers})
    x = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    views = module.views(x)
    assert ("through_the_upper_layers" in views) == (depth > 1)
    assert all(view.shape == x.shape and view.dtype == torch.uint8 for view in views.values())
    assert all(torch.equal(view, module.views(x)[name]) for name, view in views.items())
    figures, histograms = module.diagnose(x, {})
    assert figures.keys() == {"latents/psnr_through_the_latents_db", "latents/psnr_with_exchanged_latents_db"}
    assert histograms == {}


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(("channels", "finer"), [(1, 1), (3, 1), (1, 2)])
def test_rows_come_back_whose_finer_lattices_have_no_latents(channels: int, finer: int, exact: bool) -> None:
    side = 8 * finer
    module = bitswap((channels, side, side), likelihood="guided", finer=finer, downscale=[2, 1], bins_per_unit=16)
    x = images(24, (channels, side, side))
    coder = Coder(module, head, Settings(16, 8, 0))
    if exact:
        coder = Coder(module.exact(x), exactly(head), Settings(16, 8, 0))
    valid = everything(x)
    valid[3] = False
    valid[4, :, 5:] = False
    payload, account = coder.encode(x, valid, trace=True)
    assert torch.equal(coder.decode(payload, valid)[valid], x[valid])
    payload, account = coder.encode(x, everything(x), trace=True)
    with torch.inference_mode():
        bits = coded_bits(module, x, account, 16)
    assert account.net == pytest.approx(bits, rel=0.02 if exact else 0.005)


def test_pixels_without_latents_pay_for_the_first_latents() -> None:
    """A single image needs no initial bits, as its finer pixels are coded before a latent is popped."""
    x = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    taken = {}
    for finer in (0, 1):
        module = bitswap((3, 16, 16), likelihood="mixture", finer=finer)
        message = Message.random(1, 4000, 0)
        head(module, everything(x)).push(message, x.long())
        taken[finer] = 32 * message.taken
    assert taken[0] > 500 and taken[1] < 64


@torch.inference_mode()
def test_latents_do_not_see_finer_pixels() -> None:
    module = bitswap((1, 8, 8), likelihood="mixture", finer=1, downscale=[2, 1])
    x = images(4)
    other = x.clone()
    other[:, :, 1::2], other[:, :, :, 1::2] = 0, 0
    first, second = (module.net.sample(normalise(rows))[1] for rows in (x, other))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first[:1], second[:1], strict=True))


def test_sides_that_lattices_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match=r"multiples of 2\^finer, got finer=2 and 6 x 8; set recipe.module.finer=0"):
        bitswap((1, 6, 8), finer=2)
    with pytest.raises(
        ValueError, match=r"multiples of 8 \(the product of downscale, times 2\^finer\), got 12 x 12; set .*"
    ):
        bitswap((1, 12, 12), finer=1)


@pytest.mark.parametrize(
    ("setting", "value", "low"),
    [
        ("width", 0, 1), ("components", 0, 1), ("latent_channels", [2, 0], 1), ("downscale", [2, 0], 1),
        ("blocks", [1, -1], 0), ("refinements", -1, 0), ("finer", -1, 0), ("bins", 0, 1), ("bins_per_unit", 0, 1),
    ],
)  # fmt: skip
def test_counts_of_nothing_are_refused(setting: str, value: int | list[int], low: int) -> None:
    with pytest.raises(ValueError, match=rf"expected recipe\.module\.{setting} from {low} on, got {low - 1}; give"):
        bitswap(**{setting: value})


def test_passes_without_residual_blocks_have_an_exact_form() -> None:
    module, x = bitswap(finer=1, refinements=0, likelihood="guided", downscale=[2, 1]), images(4)
    coder = Coder(module.exact(x), exactly(head), Settings(4, 8, 0))
    assert torch.equal(coder.decode(coder.encode(x, everything(x))[0], everything(x)), x)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 24, 32), (1, 6, 8), (1, 8, 8), (3, 44, 48)])
def test_settings_that_an_error_names_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"set recipe\.module\.finer") as error:
        bitswap(shape, finer=3)
    finer, downscale = re.findall(r"finer=(\d+) 'recipe.module.downscale=\[([\d,]+)\]'", str(error.value))[0]
    bitswap(shape, finer=int(finer), downscale=[int(n) for n in downscale.split(",")], likelihood="mixture")
    with pytest.raises(ValueError, match="make them even"):
        bitswap((1, 7, 8), finer=1)


@pytest.mark.parametrize(
    ("name", "shape", "layers"),
    [("paper_mnist", (1, 28, 28), 8), ("paper_cifar10", (3, 32, 32), 8), ("paper_imagenet32", (3, 32, 32), 4)],
)
def test_the_papers_models_can_be_built(name: str, shape: tuple[int, ...], layers: int) -> None:
    with initialize_config_module("configs", version_base="1.3"):
        cfg = compose("train", [f"experiment={name}"])
    assert name.endswith(cfg.data.splits._target_.rpartition(".")[2])
    with torch.device("meta"):
        module = instantiate(cfg.recipe.module, shape=shape)
    assert module.part_names == ["x", *(f"z{i + 1}" for i in range(layers))]
    assert isinstance(module.net.observe, LogisticObservation) and len(module.net.finer) == 0


@pytest.mark.parametrize("wrong", [-1, -0.5, float("nan")])
def test_a_warmup_below_nothing_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match=r"expected recipe\.module\.kl_warmup from 0 on, got .*; give 0 for none"):
        bitswap(kl_warmup=wrong)


@pytest.mark.parametrize(
    ("kl_warmup", "progress", "step", "weight"),
    [(0.5, 0.0, 9, 0.0), (0.5, 0.25, 9, 0.5), (0.5, 0.75, 9, 1.0), (0, 0.0, 9, 1.0), (40, 0.9, 9, 0.25)],
)
def test_the_latents_cost_gains_its_weight_over_a_share_of_the_training_or_over_steps(
    kl_warmup: float, progress: float, step: int, weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = bitswap(kl_warmup=kl_warmup)
    module.progress = progress
    monkeypatch.setattr(type(module), "global_step", step, raising=False)
    assert module.kl_weight == weight
