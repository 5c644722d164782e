"""The formulas of Gaussian targets against their definitions, and the quantile against an independent one."""

import math

import pytest
import torch
from scipy import special, stats

from toolkit.coding.rec import gaussian as rec_gaussian
from toolkit.coding.rec.gaussian import REACH, Target, mass, quantile, target


def test_the_quantile_is_that_of_the_normal_distribution_in_both_tails() -> None:
    p = torch.cat([torch.logspace(-15.8, -1, 4001, dtype=torch.float64), torch.linspace(0.1, 0.5, 4001).double()])
    expected = torch.from_numpy(special.ndtri(p.numpy()))
    for x in (quantile(p, 1 - p), -quantile(1 - p, p)):
        assert torch.allclose(x, expected, rtol=4e-15, atol=1e-15)


def test_the_quantile_is_clipped_and_symmetric() -> None:
    zero, one, half = (torch.tensor([v], dtype=torch.float64) for v in (0.0, 1.0, 0.5))
    assert quantile(zero, one).tolist() == [-REACH]
    assert quantile(one, zero).tolist() == [REACH]
    assert quantile(half, half).tolist() == [0.0]


def test_the_mass_of_an_interval_keeps_its_digits_in_the_tails() -> None:
    low, high = torch.tensor([6.0, -7.0, 0.0, 1.0]).double(), torch.tensor([7.0, -6.0, 0.5, 0.5]).double()
    tail = stats.norm.sf(6) - stats.norm.sf(7)
    assert mass(low, high).tolist() == pytest.approx([tail, tail, stats.norm.cdf(0.5) - 0.5, 0.0], rel=1e-12)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.5), (1.2, 0.9), (-2.0, 0.01), (0.7, 0.9999), (0.0, 1e-9)])
def test_ratio_divergences_and_mode_follow_their_definitions(mean: float, std: float) -> None:
    found = target(torch.tensor([mean], dtype=torch.float64), torch.tensor([std], dtype=torch.float64))
    x = mean + std * torch.tensor([-3.0, -0.5, 0.0, 1.0, 4.0]).double()
    wide = Target(found.loc.expand(5), found.log_precision.expand(5))
    expected = stats.norm.logpdf(x.numpy(), mean, std) - stats.norm.logpdf(x.numpy())
    assert wide.log_ratio(x).tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    nats = -math.log(std) + (std**2 + mean**2 - 1) / 2
    assert float(found.kl()) == pytest.approx(nats / math.log(2), abs=1e-9)
    grid = torch.linspace(-REACH, REACH, 200_001).double()
    ratios = Target(found.loc.expand(len(grid)), found.log_precision.expand(len(grid))).log_ratio(grid)
    if std > 0.005:
        assert float(found.mode()) == pytest.approx(float(grid[ratios.argmax()]), abs=2e-4)
    assert float(found.divergence()) * math.log(2) >= float(ratios.max()) - 1e-9
    mode, top = found.peak()
    if abs(float(mode)) < REACH:
        assert float(top) == pytest.approx(float(found.divergence()) * math.log(2), rel=1e-9, abs=1e-12)


def test_a_target_that_is_the_proposal_has_a_ratio_of_one() -> None:
    found = target(torch.zeros(1), torch.ones(1))
    assert [float(v) for v in (found.kl(), found.divergence(), found.mode())] == [0.0, 0.0, 0.0]


def test_the_quantile_has_the_bits_of_plain_ieee_arithmetic() -> None:
    """Python's floats add, multiply and divide as IEEE 754 says: the latents of rows coded alone rest on this."""

    def horner(coefficients: list[float], x: float) -> float:
        total = coefficients[-1]
        for c in coefficients[-2::-1]:
            total = total * x + c
        return total

    def plain(lower: float, upper: float) -> float:
        q = 0.5 * (lower - upper)
        if abs(q) <= 0.425:
            r = 0.180625 - q * q
            found = q * horner(rec_gaussian._MIDDLE[0], r) / horner(rec_gaussian._MIDDLE[1], r)
        else:
            mantissa, exponent = math.frexp(min(lower, upper))
            if mantissa < math.sqrt(0.5):
                mantissa, exponent = 2 * mantissa, exponent - 1
            t = (mantissa - 1) / (mantissa + 1)
            log = exponent * 0.6931471805599453 + 2 * t * horner([1 / k for k in range(1, 23, 2)], t * t)
            r = 0.5 * (1 - log)
            for _ in range(9):
                r = 0.5 * (r - log / r)
            assert abs(r - math.sqrt(-log)) < 1e-15 * r
            (top, bottom), offset = (rec_gaussian._TAIL, 1.6) if r <= 5 else (rec_gaussian._FAR, 5)
            found = horner(top, r - offset) / horner(bottom, r - offset)
            found = -found if q < 0 else found
        return max(-REACH, min(found, REACH))

    rng = torch.Generator().manual_seed(0)
    u = torch.cat([torch.rand(2000, generator=rng, dtype=torch.float64), torch.logspace(-17, -0.1, 500).double()])
    lower, upper = torch.cat([u, 1 - u]), torch.cat([1 - u, u])
    keep = (lower > 0) & (upper > 0)
    lower, upper = lower[keep], upper[keep]
    assert quantile(lower, upper).tolist() == [plain(a, b) for a, b in zip(lower.tolist(), upper.tolist(), strict=True)]
