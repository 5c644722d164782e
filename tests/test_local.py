"""Local autoregression: rows come back and cost what the model says; no pixel sees those that come after it."""

import math

import pytest
import torch

from recipes.local import PART, Local, Net, head, is_flat, steps, window
from tests.tiny import everything, images
from toolkit.chunks.chained import Coder
from toolkit.chunks.model import Settings
from toolkit.nets.exact import COARSE, Conversion, LargeSumsError, exactly, watch
from toolkit.training.overrides import differing

SMALL = {
    "reach": 2, "width": 8, "blocks": 1, "components": 2, "placed": True, "guessed": True, "flat_share": 0.25,
    "learning_rate": 1e-3, "warmup": 1, "weight_decay": 0.0,
}  # fmt: skip


def model(shape: tuple[int, ...] = (1, 8, 8), **changes: object) -> Local:
    """An untrained model that depends on all that it may."""
    torch.manual_seed(0)
    module = Local(shape, **{**SMALL, **changes}).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return module


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 7), (1, 1, 5)])
@pytest.mark.parametrize("placed", [False, True])
@pytest.mark.parametrize("exact", [False, True])
def test_rows_come_back_and_cost_what_the_model_says(shape: tuple[int, ...], placed: bool, exact: bool) -> None:
    channels, height, width = shape
    module, x = (
        model(shape, placed=placed, guessed=not placed),
        images(40, (channels, 8, 8))[:, :, :height, :width].contiguous(),
    )
    coder = Coder(module, head, Settings(16, 8, 0))
    if exact:
        coder = Coder(module.exact(x), exactly(head), Settings(16, 8, 0))
    payload, account = coder.encode(x, everything(x), trace=True)
    assert torch.equal(coder.decode(payload, everything(x)), x)
    with torch.inference_mode():
        assert account.net == pytest.approx(float(module.bits(x).double().sum()), rel=0.02 if exact else 0.005)


def test_a_network_with_large_sums_is_made_exact_with_coarser_ones() -> None:
    module, x = model(), images(16)
    with torch.no_grad():
        module.net.own.bias[0] = 2.0**14  # 2**24 in units of 2**-10
        for layer in (module.net.refine[0].first, module.net.mixture.head):
            layer.weight *= 2.0**-10
    exact, seen = module.exact(x), watch(module.net, lambda: module.bits(x))
    with pytest.raises(LargeSumsError, match="sums below 16777216"):
        module.net.exact(Conversion(seen))
    assert float(exact.net.own.bias[0]) == pytest.approx(2.0**14 * 2**COARSE, rel=1e-5)
    coder = Coder(exact, exactly(head), Settings(16, 8, 0))
    payload, _ = coder.encode(x, everything(x))
    assert torch.equal(coder.decode(payload, everything(x)), x)
    module.net.own.bias.data[0] = 2.0**17
    with pytest.raises(LargeSumsError, match="train with more weight decay"):
        module.exact(x)


@pytest.mark.parametrize("placed", [False, True])
def test_a_network_grown_from_a_smaller_one_says_the_same_and_learns_more(placed: bool) -> None:
    small, x = model((3, 8, 8), placed=placed), images(6, (3, 8, 8))
    torch.manual_seed(1)
    large = Local((3, 8, 8), **{**SMALL, "placed": placed, "reach": 3, "width": 12, "blocks": 2})  # type: ignore[arg-type]
    large.load_state_dict(large.start_from(small))
    assert torch.allclose(large.bits(x), small.bits(x), rtol=1e-5)
    large.net(x).sum().backward()
    for name in ("own", "mixture.head", "guess", "refine.0.last", "refine.1.last"):
        weight = large.net.get_submodule(name).weight.grad
        old = small.net.state_dict().get(f"{name}.weight", torch.empty(0, 0))
        assert weight[: len(old), old.shape[1] :].any() or weight[len(old) :].any(), name  # what is new learns at once


@pytest.mark.parametrize(
    "changes", [{"width": 6}, {"components": 3}, {"reach": 2, "placed": False}, {"guessed": False}]
)
def test_weights_of_a_network_that_cannot_grow_into_this_one_stay_what_they_are(changes: dict[str, object]) -> None:
    small, other = model((3, 8, 8), reach=3), model((3, 8, 8), **{"reach": 3, "width": 12, **changes})
    assert differing(other, other.start_from(small)) is not None


@pytest.mark.parametrize("exact", [False, True])
def test_places_that_are_not_coded_cost_nothing_and_do_not_matter(exact: bool) -> None:
    module, x = model((3, 8, 8)), images(12, (3, 8, 8))
    coder = Coder(module, head, Settings(4, 4, 0))
    if exact:
        coder = Coder(module.exact(x), exactly(head), Settings(4, 4, 0))
    valid = everything(x)
    valid[3] = False
    valid[4, 1:] = False  # grey
    valid[5, :, 5:] = False
    other = torch.where(valid, x, 255 - x)
    payload, account = coder.encode(x, valid)
    assert coder.encode(other, valid)[0] == payload
    assert torch.equal(coder.decode(payload, valid)[valid], x[valid])
    assert account.net < 0.93 * coder.encode(x, everything(x))[1].net


def test_a_pixel_sees_those_before_it_in_its_window_and_no_others() -> None:
    module = model((2, 7, 9), placed=False).double()
    pixels = torch.rand(1, 2, 7, 9, dtype=torch.float64, requires_grad=True)
    row, column, across = 4, 3, 9 + 2 * 2
    step = steps(7, 9, 2, torch.device("cpu"))[column + 3 * row]
    at = int((step.place == row * 9 + column).nonzero())
    around = torch.nn.functional.pad(pixels, (2, 2, 2, 0)).flatten(2)
    before = around[:, :, step.near[at]].flatten(1)[..., None, None]
    module.net.features(before, step.place[at : at + 1]).sum().backward()
    assert pixels.grad is not None
    seen = {(i - row, j - column) for i, j in pixels.grad[0].abs().sum(0).nonzero().tolist()}
    assert seen == set(window(2)) and len(seen) == 12
    assert int(step.middle[at]) == (row + 2) * across + column + 2


@pytest.mark.parametrize(("height", "width", "reach"), [(8, 8, 2), (1, 5, 3), (5, 1, 2), (4, 7, 5)])
def test_wavefronts_hold_each_pixel_once_after_all_that_it_sees(height: int, width: int, reach: int) -> None:
    order = steps(height, width, reach, torch.device("cpu"))
    assert len(order) <= width + (reach + 1) * (height - 1)
    assert sorted(torch.cat([step.place for step in order]).tolist()) == list(range(height * width))
    when = {int(place): i for i, step in enumerate(order) for place in step.place}
    for place, time in when.items():
        for i, j in window(reach):
            row, column = place // width + i, place % width + j
            if row >= 0 and 0 <= column < width:
                assert when[row * width + column] < time


def test_a_share_of_flat_pixels_stands_for_all_of_them() -> None:
    x = images(6, (1, 8, 8))
    x[1:, :, :5] = 7
    x[1, :, 5:] = 7
    flat = is_flat(x)
    assert bool(flat[1].all()) and flat[2].tolist()[:40] == [True] * 40 and not bool(flat[2, 40:].any())
    assert flat[0].tolist()[0]  # nothing is before it
    module = model()
    with torch.inference_mode():
        whole = module.net(x)
        torch.manual_seed(1)
        parts = torch.stack([module.net(x, 0.25) for _ in range(400)])
    error = (parts.mean(0) - whole).abs() / (parts.std(0) / math.sqrt(len(parts)) + 1e-3)
    assert float(error.max()) < 4
    assert float(parts[:, 1].std()) > 0  # it does draw


@pytest.mark.parametrize("guessed", [False, True])
def test_training_sees_the_rate_that_coding_has(guessed: bool) -> None:
    module, x = model((3, 8, 8), guessed=guessed), images(5, (3, 8, 8))
    with torch.no_grad():
        without = module.net(x)
    trained = module.net(x)  # by products of matrices
    assert trained.requires_grad
    torch.testing.assert_close(trained.detach(), without, rtol=1e-4, atol=1e-3)


def test_a_linear_prediction_starts_as_the_mean_of_two_neighbours() -> None:
    net = Net((2, 8, 8), 3, 8, 1, 2, False, True)
    x = torch.rand(2, 8, 8)
    near = torch.stack([x[:, 5 + i, 4 + j] for i, j in window(3)], 1)
    assert net.guess is not None
    expected = (x[:, 5, 3] + x[:, 4, 4]) / 2
    torch.testing.assert_close(net.guess(near.flatten()[None, :, None, None]).flatten(), expected)


def test_training_meets_few_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, products = set(), Net.products
    monkeypatch.setattr(
        Net, "products", lambda net, before, place: (sizes.add(len(before)), products(net, before, place))[1]
    )
    module = model()
    for seed in range(4):
        torch.manual_seed(seed)
        module.net(images(40, (1, 8, 8)), 0.25)
    assert sizes <= {PART, 2 * PART, 3 * PART}


def test_training_lowers_the_rate() -> None:
    torch.manual_seed(0)
    net, x = Net((1, 8, 8), 2, 16, 1, 3, True, False), images(64)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    rates = []
    for _ in range(60):
        rate = net(x, 0.5).mean() / 64
        optimizer.zero_grad()
        rate.backward()
        optimizer.step()
        rates.append(float(rate.detach()))
    assert rates[-1] < 0.8 * rates[0]


def test_images_are_drawn_that_the_seed_decides() -> None:
    module = model((3, 8, 8))
    first, second = module.sample(4, 1), module.sample(4, 2)
    assert first.shape == (4, 3, 8, 8) and first.dtype == torch.uint8
    assert torch.equal(first, module.sample(4, 1)) and not torch.equal(first, second)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reach": 1}, "expected reach from 2 and blocks from 1 on, got 1 and 1; give more"),
        ({"blocks": 0}, "expected reach from 2 and blocks from 1 on, got 2 and 0; give more"),
        ({"flat_share": 0.0}, "expected flat_share above 0 and at most 1, got 0.0; give 1 to train on all"),
        ({"flat_share": 1.5}, "expected flat_share above 0 and at most 1, got 1.5"),
    ],
)
def test_nonsense_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(**changes)
