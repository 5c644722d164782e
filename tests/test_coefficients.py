"""Coefficients on a grid: what is coded comes back, learning pays, the search beats rounding, bytes are kept."""

import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from toolkit.coding.coefficients import codec, fit, loop
from toolkit.coding.coefficients.codec import Channels, Coded, Model

RATE = 10
GOLDEN = "5357eda84470141f72d580b61ec9e7354f009fb67e01bbbccf4ff04bce1e89d6"
PLACES = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
EARLIER = [list(range(c))[::-1] for c in range(6)]
CHANNELS = Channels(
    [0, 1, 1, 2, 2, 2], 1, EARLIER, [[(e, *place) for e in each for place in PLACES] for each in EARLIER], EARLIER
)


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
    x[:, 2] += 0.7 * x[:, 1]  # a sign that another channel tells
    return x


def fitted(k: Tensor) -> Model:
    weights = fit.predictions(CHANNELS, k, torch.full((len(k),), RATE), steps=10)
    model = Model(CHANNELS, codec.blank(CHANNELS)._replace(weights=weights), learning=0.01)
    for row in k:
        codec.given(model, row[None], RATE)
    return Model(CHANNELS, model.tables())


@pytest.fixture(scope="module")
def model() -> Model:
    return fitted(field(8, 24, 24).round())


def search(model: Model, mu: Tensor, weight: float) -> Coded:
    return codec.search(model, mu, torch.ones_like(mu), weight, RATE)


def bits(coded: Coded) -> float:
    return float(coded.channel_bits.sum())


@pytest.mark.parametrize("height,width", [(1, 1), (1, 9), (7, 3), (16, 16), (33, 50)])
def test_a_grid_of_any_size_comes_back_and_costs_what_it_says(model: Model, height: int, width: int) -> None:
    coded = search(model, field(1, height, width, seed=3), 3.0)
    assert torch.equal(codec.decode(model, coded.payload, RATE, (height, width)), coded.k)
    assert abs(8 * len(coded.payload) - bits(coded)) <= 24
    again = codec.given(model, coded.k, RATE)
    assert again.payload == coded.payload


def test_coefficients_far_out_come_back_where_nothing_was_expected() -> None:
    quiet = fitted(torch.zeros(4, 6, 24, 24))
    k = torch.zeros(1, 6, 5, 5, dtype=torch.int16)
    for i, value in enumerate((1, -1, 14, 15, -16, 17, 300, loop.LIMIT, -loop.LIMIT)):
        k[0, 1 + i % 5, i % 5, 4 - i // 2] = value
    k[0, 0] = 9000
    for each in (k, -k):
        coded = codec.given(quiet, each, RATE)
        assert torch.equal(coded.k, each)
        assert torch.equal(codec.decode(quiet, coded.payload, RATE, (5, 5)), each)


def test_more_bytes_than_there_was_room_for_are_all_kept(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    k = torch.randint(-loop.LIMIT, loop.LIMIT, (1, 6, 16, 16), generator=torch.Generator().manual_seed(0)).short()
    coded = codec.given(model, k, RATE)
    monkeypatch.setattr(codec, "ROOM", 0)
    assert codec.given(model, k, RATE).payload == coded.payload
    assert torch.equal(codec.decode(model, coded.payload, RATE, (16, 16)), coded.k)


def test_the_search_has_a_lower_objective_than_rounding_and_a_higher_weight_keeps_more(model: Model) -> None:
    mu = field(1, 32, 32, seed=7)

    def objective(coded: Coded, weight: float) -> float:
        return weight * float((coded.k - mu).square().sum()) + bits(coded)

    found, rounded = search(model, mu, 2.0), codec.given(model, mu.round(), RATE)
    assert torch.equal(rounded.k, mu.round().short())
    assert objective(found, 2.0) < objective(rounded, 2.0)
    assert bits(search(model, mu, 0.1)) < 0.8 * bits(found)
    assert torch.equal(search(model, mu, 1e6).k, rounded.k)


def test_uncertain_coefficients_count_by_their_own_precision(model: Model) -> None:
    mu = field(1, 12, 16, seed=8)
    sigma = 1 + torch.rand(mu.shape, generator=torch.Generator().manual_seed(1))
    found = codec.search(model, mu, sigma, 3.0, RATE)
    assert torch.equal(codec.search(model, mu, 4 * sigma, 48.0, RATE).k, found.k)
    assert not torch.equal(search(model, mu, 3.0).k, found.k)


def test_predictions_and_what_was_learned_save_bits(model: Model) -> None:
    k = field(1, 24, 24, seed=11).round()
    tables = codec.blank(CHANNELS)
    with_both, only_predictions, nothing = (
        bits(codec.given(m, k, RATE))
        for m in (model, Model(CHANNELS, tables._replace(weights=model.weights)), Model(CHANNELS, tables))
    )
    assert with_both < 0.95 * only_predictions < 0.95 * nothing


def test_a_sign_that_another_channel_tells_costs_less(model: Model) -> None:
    k = field(1, 48, 48, seed=5).round()
    alone = k.clone()
    alone[:, 1] = alone[:, 1].flip(2)
    spent = [float(codec.given(model, each, RATE).channel_bits[2]) for each in (k, alone)]
    assert spent[0] < 0.95 * spent[1]


def test_coding_leaves_the_model_as_it_was(model: Model) -> None:
    mu = field(1, 20, 20, seed=2)
    first = search(model, mu, 3.0)
    codec.decode(model, first.payload, RATE, (20, 20))
    assert search(model, mu, 3.0).payload == first.payload


def test_damaged_bytes_decode_to_other_numbers(model: Model) -> None:
    coded = search(model, field(1, 20, 20, seed=2), 3.0)
    for payload in (b"", coded.payload[:-9], coded.payload[1:], bytes(reversed(coded.payload)), b"\xff" * 3000):
        assert not torch.equal(codec.decode(model, payload, RATE, (20, 20)), coded.k)


def test_tables_that_do_not_fit_are_refused() -> None:
    blank = codec.blank(CHANNELS)
    with pytest.raises(ValueError, match=r"expected tables of shapes .* the tables are of other channels"):
        Model(CHANNELS._replace(bands=[0, 1, 1, 2, 2, 3]), blank)
    with pytest.raises(ValueError, match="fit the tables first"):
        Model(CHANNELS, blank._replace(cells=torch.zeros_like(blank.cells)))


@pytest.mark.parametrize("rate", [-1, loop.RATES])
def test_a_rate_out_of_range_is_refused(model: Model, rate: int) -> None:
    with pytest.raises(ValueError, match=r"expected a rate in \[0, 24\), got"):
        codec.given(model, torch.zeros(1, 6, 2, 2), rate)
    with pytest.raises(ValueError, match=r"expected a rate in \[0, 24\), got"):
        codec.decode(model, b"", rate, (2, 2))


def payload() -> bytes:
    """Of given tables and numbers; floats of torch have no part in it."""
    rng = torch.Generator().manual_seed(0)
    blank = codec.blank(CHANNELS)
    weights = torch.randint(0, 1 << loop.FRACTION, blank.weights.shape, generator=rng) // 20
    k = torch.randint(-40, 41, (1, 6, 21, 37), generator=rng)
    k = torch.where(torch.rand(k.shape, generator=rng) < 0.9, k.sign() * (k.abs() < 4), k)
    return codec.given(Model(CHANNELS, blank._replace(weights=weights.int())), k, RATE).payload


def test_bytes_of_given_tables_stay_what_they_are() -> None:
    """A file that was written once decodes for ever."""
    assert hashlib.sha256(payload()).hexdigest() == GOLDEN


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="names processors of x86-64")
@pytest.mark.parametrize("processor", ["x86-64", "haswell"])
def test_a_processor_with_shorter_vectors_writes_the_same_bytes(processor: str, tmp_path: Path) -> None:
    own = {"NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": ""}
    program = (
        "import hashlib; from tests.test_coefficients import payload; print(hashlib.sha256(payload()).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, **own}, check=True, capture_output=True)
    assert done.stdout.decode().strip() == GOLDEN
