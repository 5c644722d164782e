"""Beta-binomial codecs: tables against an independent distribution, the codecs' law, rates, training's floats."""

import hashlib

import pytest
import torch
from scipy import stats

from tests.laws import check_codec
from toolkit.coding import beta_binomial as bb
from toolkit.coding.message import Message

RNG = torch.Generator()


def some(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = RNG.manual_seed(seed)
    logit, size = 8 * torch.rand(n, generator=rng) - 4, 10 * torch.rand(n, generator=rng) - 1
    return bb.snap(logit, size), logit, size


def test_tables_are_the_distribution_function() -> None:
    tables = bb._tables(256, torch.device("cpu"))
    for table in (0, 20, 2700, 2690, 5396, 1234):
        a, b = (float(p) for p in bb.parameters_of(torch.tensor(table)))
        expected = torch.from_numpy(stats.betabinom.cdf(range(256), 255, a, b))
        got = tables[table, 1:].double() / (1 << 30)
        assert torch.allclose(got, expected, atol=2e-9)
        assert int(tables[table, 0]) == 0
        assert int(tables[table, -1]) == 1 << 30


def test_tables_are_pinned() -> None:
    """Another table would make every file of an earlier version unreadable."""
    digest = hashlib.sha256(bb._tables(256, torch.device("cpu")).numpy().astype("<i8").tobytes()).hexdigest()
    assert digest == PINNED


PINNED = "7ef4104d25dc82fcf9d228ed583013d8f430538192cdba71ee95f4a6b592c8f4"


@pytest.mark.parametrize("bins", [2, 17, 256])
def test_the_law_of_codecs_holds(bins: int) -> None:
    table, *_ = some(600)
    valid = torch.arange(600) % 5 > 0
    x = torch.where(valid, torch.randint(0, bins, (600,), generator=RNG.manual_seed(1)), 0)
    check_codec(bb.beta_binomial(table, bins, 18, valid), x, Message.random(4, 4000, seed=2))


def test_symbols_cost_what_training_says() -> None:
    """Symbols drawn from the very distributions: the grid, and the least counts, cost under one percent."""
    n = 4000
    table, logit, size = some(n, seed=3)
    p = torch.sigmoid(logit.double())
    s = torch.exp2(size.double())
    draws = stats.betabinom.rvs(255, (p * s).numpy(), ((1 - p) * s).numpy(), random_state=4)
    x = torch.from_numpy(draws)
    message = Message.empty(1)
    bb.beta_binomial(table, 256, 18, torch.ones(n, dtype=torch.bool)).push(message, x)
    floats = -bb.log_probability(x.double(), logit.double(), size.double(), 256).sum() / torch.tensor(2.0).log()
    assert message.bits() == pytest.approx(float(floats), rel=0.01)
    assert message.bits() != pytest.approx(0.98 * float(floats), rel=0.01)


def test_the_float_probabilities_are_those_of_an_independent_implementation() -> None:
    x = torch.tensor([0.0, 3.0, 200.0, 255.0]).double()
    logit, size = torch.tensor([-2.0, 0.5, 1.0, 7.0]).double(), torch.tensor([0.0, 3.0, 8.5, -1.0]).double()
    p, s = torch.sigmoid(logit), torch.exp2(size)
    expected = stats.betabinom.logpmf(x.numpy(), 255, (p * s).numpy(), ((1 - p) * s).numpy())
    assert bb.log_probability(x, logit, size, 256).tolist() == pytest.approx(expected.tolist(), rel=1e-9)


def test_parameters_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="snap: expected finite parameters, got infinite or NaN ones"):
        bb.snap(torch.tensor([float("nan")]), torch.zeros(1))


def test_symbols_and_bins_out_of_range_are_refused() -> None:
    table, valid = torch.zeros(2, dtype=torch.int64), torch.ones(2, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"beta_binomial: expected 2 to 256 bins .* got 300, 18"):
        bb.beta_binomial(table, 300, 18, valid)
    with pytest.raises(ValueError, match=r"push: expected symbols in \[0, 16\), got values from 3 to 16"):
        bb.beta_binomial(table, 16, 18, valid).push(Message.empty(1), torch.tensor([3, 16]))
