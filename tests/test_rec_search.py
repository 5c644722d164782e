"""Relative entropy coders draw from their targets, cost what theory and simulation say, and refuse what cannot end."""

import math

import pytest
import torch
from torch import Tensor

from toolkit.coding import rec
from toolkit.coding.hashing import Keys
from toolkit.coding.rec import Target

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
EXACT = {
    "ad_star": (rec.ad_star, rec.rebuild_dyadic),
    "as_star": (rec.as_star, rec.rebuild_path),
    "greedy_dyadic": (rec.greedy_dyadic, rec.rebuild_dyadic),
    "greedy_path": (rec.greedy_path, rec.rebuild_path),
    "gprs_path": (rec.gprs_path, rec.rebuild_path),
    "global_astar": (rec.global_astar, rec.rebuild_rank),
}
# Mean and standard deviation in units of the proposal; 0.1 to 9 bits.
CASES = [(0.3, 0.9), (0.0, 0.5), (1.5, 0.3), (-1.0, 0.05), (2.5, 0.01)]
SAMPLES = {"gprs_path": 4_000, "global_astar": 10_000}  # the table of one, and the steps of the other, take time
CHANCE = 1e-3  # that any of the Kolmogorov-Smirnov tests below fails for a right sampler


def keys(n: int, seed: int = 0) -> Keys:
    return Keys.of(seed, torch.arange(n), torch.tensor(3))


def constant(n: int, mean: float, std: float) -> Target:
    return rec.target(torch.full((n,), mean), torch.full((n,), std, dtype=torch.float64))


def channel(n: int, bits: float, seed: int = 0) -> Target:
    """Posteriors of a Gaussian channel of so many bits: D ~ N(0, 1 - s), s = 2^(-2 bits)."""
    s = 2.0 ** (-2 * bits)
    rng = torch.Generator().manual_seed(seed)
    mean = math.sqrt(1 - s) * torch.randn(n, generator=rng, dtype=torch.float64)
    return rec.target(mean, torch.full_like(mean, math.sqrt(s)))


def isokl(n: int, kappa: float, seed: int = 0) -> Target:
    """Targets of kappa bits each, alpha ~ N(0, 1); the variance by bisection, independent of any Newton step."""
    rng = torch.Generator().manual_seed(seed)
    mean = math.sqrt(2 * kappa * math.log(2)) * torch.tanh(torch.randn(n, generator=rng, dtype=torch.float64))
    low, high = torch.full_like(mean, 1e-12), torch.full_like(mean, 60.0)  # of y = -log s
    for _ in range(80):
        y = 0.5 * (low + high)
        over = 0.5 * (torch.expm1(-y) + mean**2 + y) > kappa * math.log(2)
        low, high = torch.where(over, low, y), torch.where(over, y, high)
    return rec.target(mean, torch.exp(-0.5 * y))


def distance(x: Tensor, target: Target) -> float:
    """Kolmogorov-Smirnov distance of samples from their targets, each standardised by its own."""
    u = torch.special.ndtr((x - target.loc) / target.scale).sort().values
    n = len(u)
    return float((u - (torch.arange(n) + 0.5) / n).abs().max()) + 0.5 / n


def bound(n: int, tests: int) -> float:
    """Dvoretzky, Kiefer, Wolfowitz with Massart's constant and Bonferroni's correction for so many tests."""
    return math.sqrt(math.log(2 * tests / CHANCE) / (2 * n))


def depth_cost(node: Tensor) -> tuple[float, float]:
    """Mean depth, and the entropy of the depths' histogram, in bits."""
    depth = rec.depth_of(node)
    p = torch.bincount(depth).double() / len(depth)
    return float(depth.double().mean()), float(-(p * p.clamp(min=1e-300).log2()).sum())


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_exact_sampler_draws_from_its_target(name: str, case: tuple[float, float]) -> None:
    search, rebuild = EXACT[name]
    n = SAMPLES.get(name, 100_000)
    target = constant(n, *case)
    if name == "global_astar" and float(target.divergence()[0]) > 8:
        n, target = 300, constant(300, *case)
    if name == "global_astar" and float(target.divergence()[0]) > 11:
        pytest.skip("2^D_inf steps")
    names = keys(n, seed=11)
    x = rebuild(search(target, names).node, names)
    assert distance(x, target) < bound(n, len(EXACT) * len(CASES))


def test_the_kolmogorov_smirnov_bound_sees_a_target_that_is_two_percent_off() -> None:
    """The test above has teeth: a shift of 0.02 standard deviations, or 2 % of width, fails it."""
    n = 100_000
    names = keys(n, seed=11)
    x = rec.rebuild_dyadic(rec.ad_star(constant(n, 0.0, 0.5), names).node, names)
    for wrong in (constant(n, 0.0 + 0.02 * 0.5, 0.5), constant(n, 0.0, 0.5 * 1.04)):
        assert distance(x, wrong) > bound(n, len(EXACT) * len(CASES))


# bits: mean depth and entropy of the depth for AD*, its mean nodes; then mean steps of GRC dyadic and on samples
TABLE = {
    0.5: (0.50, 1.36, 1.9, 1.51, 1.70),
    1: (0.82, 1.78, 2.6, 1.87, 2.13),
    4: (2.97, 2.81, 7.0, 4.12, 5.29),
    12: (10.62, 3.19, 20.8, 11.77, 16.04),
}


@pytest.mark.parametrize("bits", TABLE)
def test_depths_and_nodes_are_those_of_an_independent_simulation(bits: float) -> None:
    n = 20_000
    target, names = channel(n, bits, seed=5), keys(n, seed=6)
    depth, entropy, nodes, dyadic, path = TABLE[bits]
    found = rec.ad_star(target, names)
    assert depth_cost(found.node) == pytest.approx((depth, entropy), abs=0.06)
    for steps, visited in (
        (nodes, found.visited),
        (dyadic, rec.greedy_dyadic(target, names).visited),
        (path, rec.greedy_path(target, names).visited),
    ):
        mean = float(visited.double().mean())
        assert mean == pytest.approx(steps, abs=0.06 + 4 * float(visited.double().std()) / math.sqrt(n))


@pytest.mark.parametrize(("bits", "most"), [(0.001, 0.16), (0.1, 0.9), (0.5, 1.42), (2, 1.8), (8, 1.86)])
def test_depth_and_its_histogram_cost_little_more_than_the_divergence(bits: float, most: float) -> None:
    target = channel(20_000, bits, seed=8)
    depth, entropy = depth_cost(rec.ad_star(target, keys(20_000, seed=9)).node)
    overhead = depth + entropy - float(target.kl().mean())
    assert 0.05 < overhead < most


def test_nodes_of_a_star_grow_with_the_infinite_divergence_and_those_of_greedy_coding_do_not() -> None:
    """At 3 bits of KL, from targets near the middle to targets in the tail of the proposal."""
    kappa, n = 3 * math.log(2), 4000
    visited: dict[str, list[float]] = {name: [] for name in EXACT if name != "global_astar"}
    peaks = []
    for mean in (1.0, 2.0, 2.038):
        low, high = 1e-9, 40.0
        for _ in range(80):
            y = 0.5 * (low + high)
            low, high = (low, y) if 0.5 * (math.expm1(-y) + mean**2 + y) > kappa else (y, high)
        target = constant(n, mean, math.exp(-0.5 * y))
        peaks.append(float(target.divergence()[0]))
        for name, means in visited.items():
            means.append(float(EXACT[name][0](target, keys(n, seed=2)).visited.double().mean()))
    assert peaks[0] < 4.5
    assert peaks[2] > 15
    assert visited["ad_star"][2] > 3 * visited["ad_star"][0]
    assert visited["as_star"][2] > 2.5 * visited["as_star"][0]
    assert visited["greedy_dyadic"][2] < 1.3 * visited["greedy_dyadic"][0]
    assert visited["greedy_path"][2] < 1.3 * visited["greedy_path"][0]
    assert visited["gprs_path"][2] < 1.3 * visited["gprs_path"][0]


def test_steps_of_greedy_poisson_rejection_sampling_are_the_published_ones() -> None:
    """Flamich 2023, data of figure 2: 2.81 at 1.8 bits of a Gaussian channel."""
    visited = rec.gprs_path(channel(8000, 1.8, seed=3), keys(8000, seed=4)).visited.double()
    assert float(visited.mean()) == pytest.approx(2.85, abs=0.12)


@pytest.mark.parametrize("kappa", [1, 3, 6])
def test_the_bias_of_a_depth_limit_is_that_of_an_independent_simulation(kappa: int) -> None:
    """E z^2 of the standardised sample, exactly 1 without a limit: 1.44 to 1.61 at kappa, 1.02 to 1.04 one deeper."""
    n = 40_000
    target, names = isokl(n, kappa, seed=1), keys(n, seed=2)

    def second_moment(depth: int) -> float:
        x = rec.rebuild_dyadic(rec.ad_star(target, names, depth).node, names)
        return float((((x - target.loc) / target.scale) ** 2).mean())

    noise = 4 * math.sqrt(2 / n)
    assert 1.40 < second_moment(kappa) < 1.65
    assert 1.00 < second_moment(kappa + 1) < 1.07
    assert second_moment(kappa + 3) == pytest.approx(1, abs=noise + 0.005)


@pytest.mark.parametrize("depth", [0, 1, 4, 6])
def test_the_pruned_search_finds_the_best_of_all_nodes(depth: int) -> None:
    """Against a search without bounds: all times level by level, all nodes scored, the least taken."""
    n = 1500
    target, names = channel(n, 3, seed=4), keys(n, seed=5)
    everything = torch.arange(1, 2 << depth)
    wide = Keys(
        names.seed, names.row.repeat_interleave(len(everything)), names.latent.repeat_interleave(len(everything))
    )
    node = everything.repeat(n)
    _, v = wide.uniforms(node)
    level = rec.depth_of(everything)
    gaps = -torch.log(v).view(n, -1) * 2.0**level
    times = gaps.clone()
    for h in range(2, len(everything) + 1):
        times[:, h - 1] += times[:, h // 2 - 1]
    x = rec.rebuild_dyadic(node, wide).view(n, -1)
    score = torch.log(times) - Target(target.loc[:, None], target.log_precision[:, None]).log_ratio(x)
    assert torch.equal(rec.ad_star(target, names, depth).node, everything[score.argmin(1)])


@pytest.mark.parametrize("name", [name for name in EXACT if name != "gprs_path"])
def test_a_target_that_is_its_proposal_takes_the_first_point(name: str) -> None:
    found = EXACT[name][0](constant(200, 0.0, 1.0), keys(200))
    assert found.node.tolist() == found.visited.tolist() == [1] * 200


def test_a_sample_is_rebuilt_from_its_own_number_alone() -> None:
    target, names = channel(500, 4), keys(500)
    for search, rebuild in ((rec.ad_star, rec.rebuild_dyadic), (rec.as_star, rec.rebuild_path)):
        node = search(target, names).node
        x = rebuild(node, names)
        some = torch.tensor([411, 7, 90])
        assert torch.equal(rebuild(node[some], names.take(some)), x[some])


@pytest.mark.parametrize("device", DEVICES)
def test_samples_are_rebuilt_to_the_same_bits_everywhere(device: str) -> None:
    """Pinned: another value would make every file of another machine or version unreadable."""
    node = torch.tensor([1, 2, 3, 4, 1000, 12345678901, (1 << 50) + 12345, (1 << 57) - 1])
    names = Keys.of(7, torch.arange(8), torch.tensor(2))
    on = Keys(7, names.row.to(device), names.latent.to(device))
    x = rec.rebuild_dyadic(node.to(device), on).cpu()
    assert [v.hex() for v in x.tolist()] == PINNED
    y = rec.rebuild_path(node[:5].to(device), on.take(torch.arange(5, device=device))).cpu()
    assert [v.hex() for v in y.tolist()] == PINNED_PATH


PINNED = [
    "-0x1.1be069594d2cap-1", "-0x1.efe95ef527cb5p-1", "0x1.85244670518d1p+0", "-0x1.a2c95c662e5fdp+0",
    "0x1.b108a6070b29ep+0", "-0x1.4398743861de3p-3", "-0x1.ac52d9a119e93p+2", "0x1.0666666666666p+3",
]  # fmt: skip
PINNED_PATH = [
    "-0x1.1be069594d2cap-1", "-0x1.59da5e9f46bc1p-1", "0x1.bb2f6f94097b0p+0", "-0x1.e75ab9ea9562fp+0",
    "0x1.2a36381466b0fp+1",
]  # fmt: skip


@pytest.mark.parametrize("device", DEVICES[1:])
def test_the_search_finds_the_same_nodes_on_a_gpu(device: str) -> None:
    target, names = channel(20_000, 4), keys(20_000)
    there = Target(target.loc.to(device), target.log_precision.to(device))
    found = rec.ad_star(there, Keys(names.seed, names.row.to(device), names.latent.to(device)))
    # Encoders may differ where two scores are equal to the last bit; decoders read the node that was sent.
    assert float((found.node.cpu() == rec.ad_star(target, names).node).double().mean()) > 0.9999


def test_depths_are_exact_at_the_edges_of_every_level() -> None:
    powers = torch.ones(57, dtype=torch.int64) << torch.arange(57)
    assert rec.depth_of(powers).tolist() == list(range(57))
    assert rec.depth_of(2 * powers - 1).tolist() == list(range(57))


# Refusals


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        (0.0, 1.5, "expected targets no wider than the proposal, got 1 of 3 .* bound the posterior's"),
        (0.3, 1.0, "expected a finite divergence sup dQ/dP, got 1 of 3 .* keep the posterior's"),
        (math.nan, 0.5, "expected finite means and standard deviations, got 1 of 3 .* at 1 with mean nan"),
        (0.0, math.nan, "expected finite means and standard deviations"),
        (math.inf, 0.5, "expected finite means and standard deviations"),
        (0.0, 0.0, "expected standard deviations above 0, .* use exp or softplus"),
        (0.0, -0.1, "expected standard deviations above 0"),
        (0.0, 1e-14, "expected a KL divergence of at most 40 bits, .* raise the least posterior"),
        (6.5, 0.9, "expected targets within 8.2 standard deviations of the proposal's mean, .* bound the"),
    ],
)  # fmt: skip
def test_a_target_that_cannot_be_coded_is_refused(mean: float, std: float, message: str) -> None:
    good = torch.tensor([0.1, mean, 0.2], dtype=torch.float64), torch.tensor([0.5, std, 0.5], dtype=torch.float64)
    with pytest.raises(ValueError, match=message):
        rec.target(*good)


def test_a_target_is_measured_by_its_own_proposal() -> None:
    found = rec.target(torch.tensor([5.0]), torch.tensor([1.0]), torch.tensor([3.0]), torch.tensor([2.0]))
    assert found.loc.tolist() == [1.0]
    assert found.log_precision.tolist() == [pytest.approx(2 * math.log(2))]
    with pytest.raises(ValueError, match="expected targets no wider than the proposal"):
        rec.target(torch.tensor([0.0]), torch.tensor([1.0]), 0.0, 0.5)


def test_the_search_ends_for_the_hardest_targets_that_are_let_through() -> None:
    """Nearly as wide as the proposal, off its mean, where the unclipped ratio has no useful bound; and 40 bits."""
    n = 300
    for target in (constant(n, 2.0, 1 - 1e-9), constant(n, -5.0, 0.6), constant(n, 0.0, 2.0**-39)):
        assert float(rec.ad_star(target, keys(n)).visited.double().mean()) < 150


def test_paths_too_long_for_their_numbers_are_refused() -> None:
    """Cells that split at their points need more levels than quantiles do; never a hang, never a wrong node."""
    with pytest.raises(ValueError, match=r"as_star: expected an end within 56 levels, .* lower the KL of the targets"):
        rec.as_star(constant(300, 0.0, 2.0**-39), keys(300))
    with pytest.raises(
        ValueError, match=r"greedy_path: expected an end within 56 steps, .* lower the KL of the targets"
    ):
        rec.greedy_path(constant(300, 0.0, 2.0**-39), keys(300))


def test_the_global_search_refuses_what_takes_too_long() -> None:
    with pytest.raises(ValueError, match=r"expected D_inf of at most 20 bits, got 24.93: .* use ad_star"):
        rec.global_astar(constant(2, 0.0, 2.0**-25 * 1.05), keys(2))


def test_a_depth_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a depth from 0 to 56, got 57"):
        rec.ad_star(constant(2, 0.0, 0.5), keys(2), 57)


@pytest.mark.parametrize("rebuild", [rec.rebuild_dyadic, rec.rebuild_path, rec.rebuild_rank])
def test_a_node_that_no_search_gives_is_refused(rebuild: object) -> None:
    for node in (0, 1 << 57):
        with pytest.raises(ValueError, match=r"expected nodes in \[1, 2\*\*57\), got .* the data are damaged"):
            rebuild(torch.tensor([node]), keys(1))  # type: ignore[operator]
