"""VBQ: the grid, the search against brute force, refinement, integer tables, and the codec that they make."""

import math

import pytest
import torch
from torch import Tensor

from tests.laws import check_codec
from toolkit.coding import vbq
from toolkit.coding.kernels import Order
from toolkit.coding.message import FIRSTS, Message
from toolkit.coding.tables import tables as ready


def posterior(n: int, d: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Heavy-tailed means and the sigmas of values known with very different certainty."""
    rng = torch.Generator().manual_seed(seed)
    mu = torch.randn(n, d, generator=rng) * torch.exp(0.5 * torch.randn(n, d, generator=rng))
    sigma = torch.exp(torch.randn(n, d, generator=rng) - 2.5)
    return mu, sigma


def brute_force(mu: Tensor, sigma: Tensor, grid: Tensor, lam: float, costs: Tensor) -> Tensor:
    """The least cost over all points: float [n]."""
    price = lam * costs[vbq.lengths(int(math.log2(len(grid) + 1)) - 1)].float()
    return torch.cat([((grid - m) ** 2 * (0.5 / s**2) + price).amin(1) for m, s in zip(mu, sigma, strict=True)])


GRIDS = {
    "gaussian": lambda mu: vbq.gaussian(1.2, 0.1),
    "empirical": lambda mu: vbq.empirical(mu.flatten()),
    "tied": lambda mu: vbq.empirical(mu.flatten().round()),
}


@pytest.mark.parametrize("lam", [0.0, 0.1, 3.0, 30.0, 300.0])
@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("costs", ["length", "irregular"])
def test_the_search_is_as_good_as_trying_every_point(kind: str, lam: float, costs: str) -> None:
    mu, sigma = posterior(1500)
    grid = vbq.dyadic_grid(GRIDS[kind](mu))
    rates = torch.arange(11.0)
    if costs == "irregular":
        rates = rates + 6 * torch.rand(11, generator=torch.Generator().manual_seed(1))
    pick = vbq.search(mu, sigma, grid, lam, rates if costs == "irregular" else None)
    cost = (grid[pick] - mu) ** 2 * (0.5 / sigma**2) + lam * rates[vbq.lengths()[pick]]
    best = brute_force(mu.view(-1, 1, 1), sigma.view(-1, 1, 1), grid, lam, rates)
    torch.testing.assert_close(cost.flatten(), best, rtol=1e-6, atol=0)


def test_the_search_takes_a_grid_for_each_channel() -> None:
    mu, sigma = posterior(400, 3)
    mu, sigma = mu.T * torch.tensor([[0.1], [1.0], [5.0]]), sigma.T
    grids = vbq.dyadic_grid(vbq.empirical(mu))
    pick = vbq.search(mu, sigma, grids, 2.0)
    for channel in range(3):
        assert torch.equal(pick[channel], vbq.search(mu[channel], sigma[channel], grids[channel], 2.0))


def test_many_values_are_searched_as_few_are() -> None:
    mu, sigma = posterior(70_001)  # more than a part, and not a whole number of parts
    grid = vbq.dyadic_grid(vbq.gaussian(1.0))
    pick = vbq.search(mu, sigma, grid, 2.0)
    assert torch.equal(pick[-300:], vbq.search(mu[-300:], sigma[-300:], grid, 2.0))
    assert torch.equal(pick[:300], vbq.search(mu[:300], sigma[:300], grid, 2.0))


def test_a_grid_is_a_tree_that_bisects_the_prior() -> None:
    grid = vbq.dyadic_grid(vbq.gaussian(2.0, 1.0))
    assert grid.shape == (2047,)
    assert grid[0] == 1.0  # the median, for 0 bits
    node = torch.arange(1023)
    assert bool((grid[2 * node + 1] < grid[node]).all()) and bool((grid[2 * node + 2] > grid[node]).all())
    # A quarter of the prior lies below the left point of length 1: Phi^-1(1/4) = -0.67449.
    assert float(grid[1]) == pytest.approx(1 - 2 * 0.674490, abs=1e-5)
    assert vbq.lengths(3).tolist() == [0, 1, 1, 2, 2, 2, 2, *[3] * 8]


def test_an_empirical_grid_has_equally_many_values_between_its_points() -> None:
    mu, _ = posterior(64_000)
    edges = vbq.dyadic_grid(vbq.empirical(mu.flatten()), depth=5).sort().values
    inside = torch.bincount(torch.bucketize(mu.flatten(), edges))[1:-1]
    assert bool(((inside - 1000).abs() <= 2).all())


def objective(mu: Tensor, sigma: Tensor, lam: float, book: vbq.Codebook, symbols: Tensor) -> float:
    distortion = ((book.points[symbols] - mu) ** 2 / (2 * sigma**2)).double().sum()
    return float(distortion) + lam * book.bits(symbols)


@pytest.mark.parametrize("lam", [0.5, 5.0, 50.0])
def test_refinement_lowers_distortion_and_true_rate_together(lam: float) -> None:
    mu, sigma = posterior(4000, 8)
    plain = objective(mu, sigma, lam, *vbq.plain(mu, sigma, lam))
    costs = [objective(mu, sigma, lam, *vbq.refined(mu, sigma, lam, rounds, contexts=1)) for rounds in (0, 1, 3, 8)]
    # 0.2 %: what code points that do not pay for their entries in the file leave behind when they die.
    assert costs[1] < costs[0] and costs[2] < 1.002 * costs[1] and costs[3] < 1.002 * costs[2]
    assert costs[3] < 0.9 * plain


def test_dimensions_that_differ_get_tables_of_their_own() -> None:
    mu, _ = posterior(3000, 12)
    mu[:, ::2] *= 0.1
    sigma = torch.full_like(mu, 0.1)
    book, symbols = vbq.refined(mu, sigma, 5.0)
    assert not set(book.context[::2].tolist()) & set(book.context[1::2].tolist())
    alone, alone_symbols = vbq.refined(mu, sigma, 5.0, contexts=1)
    assert objective(mu, sigma, 5.0, book, symbols) < 0.9 * objective(mu, sigma, 5.0, alone, alone_symbols)


def test_code_points_are_the_weighted_means_of_their_values() -> None:
    mu, sigma = posterior(2000, 4)
    book, symbols = vbq.refined(mu, sigma, 20.0)
    for j in range(len(book.points)):
        w = 1 / sigma[symbols == j].double() ** 2
        assert float(book.points[j]) == pytest.approx(float((w * mu[symbols == j]).sum() / w.sum()), rel=1e-5)


def test_a_larger_lambda_never_needs_more_bits() -> None:
    mu, sigma = posterior(2000, 8)
    for method in (vbq.plain, vbq.refined):
        bits = []
        for lam in (0.0, 0.1, 1.0, 10.0, 100.0, 1e4):
            book, symbols = method(mu, sigma, lam)
            bits.append(book.bits(symbols))
        assert bits == sorted(bits, reverse=True)
        assert bits[-1] < 0.2 * bits[1]


def test_values_that_are_all_alike_cost_nothing() -> None:
    mu = torch.full((50, 3), 0.25)
    book, symbols = vbq.refined(mu, torch.ones_like(mu), 1.0)
    assert book.bits(symbols) == 0
    assert torch.equal(book.points[symbols], mu)


def test_frequencies_sum_to_the_whole_and_keep_a_count_for_what_occurs() -> None:
    rng = torch.Generator().manual_seed(0)
    counts = (torch.rand(20, 300, generator=rng) ** 30 * 1e6).long()
    counts[0] = 0
    counts[0, 7] = 3
    freqs = vbq.tables(counts)
    assert bool((freqs.sum(1) == 1 << vbq.CODE_BITS).all())
    assert torch.equal(freqs > 0, counts > 0)
    exact = counts / counts.sum(1, keepdim=True)
    cost = -(exact * (freqs.clamp(min=1) / (1 << vbq.CODE_BITS)).log2()).sum(1)
    entropy = -(exact * exact.clamp(min=1e-30).log2()).sum(1)
    assert bool((cost - entropy < 0.03).all())


@pytest.mark.parametrize("first", FIRSTS)
@pytest.mark.parametrize("order", list(Order))
def test_the_codec_obeys_the_law_and_costs_what_the_codebook_says(first: int, order: Order) -> None:
    mu, sigma = posterior(2000, 8)
    book, symbols = vbq.refined(mu, sigma, 3.0, contexts=4)
    codec = book.codec(book.context.expand(symbols.shape), torch.ones(symbols.shape, dtype=torch.bool), order)
    message = Message.empty(16, first=first)
    codec.push(message, symbols)
    assert message.bits() == pytest.approx(book.bits(symbols), abs=1 if first == 1 << 31 else 16 * 16)
    assert torch.equal(codec.pop(message), symbols)
    assert bool(message.ended().all())
    check_codec(codec, symbols, Message.random(16, 400, seed=0))
    check_codec(codec, symbols, Message.empty(16, first=first))


def test_a_small_message_pops_what_zeros_decode_to_and_pushes_it_back() -> None:
    freqs = torch.tensor([[100, 200, (1 << vbq.CODE_BITS) - 300]])
    codec = ready(freqs, vbq.CODE_BITS).codec(None, torch.ones(90, dtype=torch.bool))
    message = Message.empty(3, first=0)
    assert codec.pop(message).tolist() == [0] * 90
    codec.push(message, torch.full((90,), 2))
    check_codec(codec, torch.arange(90) % 3, message)


def test_more_symbols_than_a_table_holds_are_refused() -> None:
    assert int(vbq.tables(torch.ones(1, 1 << vbq.CODE_BITS, dtype=torch.int64)).max()) == 1
    with pytest.raises(ValueError, match="expected 1 to 16384 symbols with a count in each table, got"):
        vbq.tables(torch.ones(1, (1 << vbq.CODE_BITS) + 1, dtype=torch.int64))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"lam": -1.0}, "expected lambda to be at least 0, got -1.0"),
        ({"lam": math.nan}, "expected lambda to be at least 0, got nan"),
        ({"mu": torch.tensor([0.0, math.inf])}, "expected finite values, got 1 infinite or NaN of 2"),
        ({"sigma": torch.tensor([0.0, 1.0])}, "expected each sigma finite and above 0"),
        ({"grid": torch.zeros(6)}, r"expected a grid of \[2\^\(depth \+ 1\) - 1\] points"),
        ({"costs": torch.zeros(2)}, "expected costs of 3 lengths"),
    ],
)
def test_a_search_that_cannot_be_is_refused(change: dict, match: str) -> None:
    arguments = {"mu": torch.zeros(2), "sigma": torch.ones(2), "grid": torch.arange(7.0), "lam": 1.0, **change}
    with pytest.raises(ValueError, match=match):
        vbq.search(**arguments)


def test_a_prior_without_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a std above 0, got 0.0"):
        vbq.gaussian(0.0)


def test_a_quantile_function_that_falls_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a quantile function with finite, non-decreasing values"):
        vbq.dyadic_grid(lambda xi: -xi)
