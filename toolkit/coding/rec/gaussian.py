"""One-dimensional Gaussian targets against a Gaussian proposal: density ratio, bounds, quantiles, what is refused.

Standardised: the proposal P is N(0, 1), a target Q is N(D, s), and r = dQ/dP. Positions are clipped to +-REACH, beyond
which P has 2e-16 of its mass, so that sup r is finite and the same on every machine.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

REACH = 8.2  # standard deviations of the proposal
MAX_KL = 40.0  # bits: nodes of a search then stay within the 61 bits that an int64 name and float64 positions allow
_LOG2 = 0.6931471805599453  # natural logarithm of 2; as a literal, the same everywhere


class Target(NamedTuple):
    """n targets N(D, s) in units of the proposal; made by `target`, which checks them."""

    loc: Tensor  # float64 [n], D
    log_precision: Tensor  # float64 [n], y = -log s, at least 0

    def take(self, index: Tensor) -> Target:
        """Some of the targets: int64 or bool index [...]."""
        return Target(self.loc[index], self.log_precision[index])

    @property
    def scale(self) -> Tensor:
        """Standard deviation: float64 [n]."""
        return torch.exp(-0.5 * self.log_precision)

    def log_ratio(self, x: Tensor) -> Tensor:
        """log dQ/dP in nats at float64 x [n]."""
        # Neither square is about the mode of r, which runs off to infinity as s approaches 1.
        return 0.5 * (self.log_precision + x * x - torch.exp(self.log_precision) * (x - self.loc) ** 2)

    def mode(self) -> Tensor:
        """Where r is largest, D / (1 - s), within the reach: float64 [n]."""
        return (self.loc / self._shortfall()).clamp(-REACH, REACH)

    def kl(self) -> Tensor:
        """KL(Q || P) in bits: float64 [n]."""
        y = self.log_precision
        return 0.5 * (torch.expm1(-y) + self.loc**2 + y) / _LOG2

    def divergence(self) -> Tensor:
        """D_inf(Q || P) = sup log r in bits, over the positions that there are: float64 [n]."""
        return self.log_ratio(self.mode()) / _LOG2

    def peak(self) -> tuple[Tensor, Tensor]:
        """Mode of r and log r there, in nats, without the clipping: float64 [n] each."""
        mode = self.loc / self._shortfall()
        return mode, 0.5 * (self.log_precision + self.loc * mode)

    def _shortfall(self) -> Tensor:  # 1 - s, above 0
        return -torch.expm1(-self.log_precision.clamp(min=1e-290))


def target(
    mean: Tensor, std: Tensor, prior_mean: Tensor | float = 0.0, prior_std: Tensor | float = 1.0
) -> Target:  # fmt: skip
    """Targets N(mean, std^2) against proposals N(prior_mean, prior_std^2): float tensors that broadcast, flattened.

    Raises ValueError for values that are not finite, standard deviations that are not positive, a target that is wider
    than its proposal (A* coding does not terminate by its bound then), as wide but elsewhere (infinite divergence), or
    too far from it: more than MAX_KL bits, or mass beyond REACH.
    """
    given = [torch.as_tensor(x, dtype=torch.float64, device=mean.device) for x in (mean, std, prior_mean, prior_std)]
    mean, std, centre, width = (x.flatten() for x in torch.broadcast_tensors(*given))
    _refuse(
        ~(mean.isfinite() & std.isfinite() & centre.isfinite() & width.isfinite()),
        "finite means and standard deviations", mean, std,
        "the network has diverged, or met input far from its training data",
    )  # fmt: skip
    _refuse((std <= 0) | (width <= 0), "standard deviations above 0", mean, std, "use exp or softplus")
    ratio = std / width
    found = Target((mean - centre) / width, -2 * torch.log(ratio))
    _refuse(
        found.log_precision < 0, "targets no wider than the proposal", found.loc, ratio,
        "bound the posterior's standard deviation by the prior's in the network, e.g. prior_std * sigmoid(raw)",
    )  # fmt: skip
    _refuse(
        (found.log_precision == 0) & (found.loc != 0), "a finite divergence sup dQ/dP", found.loc, ratio,
        "a target as wide as the proposal must have its mean; keep the posterior's standard deviation below the "
        "prior's in the network, e.g. 0.999 * prior_std * sigmoid(raw)",
    )  # fmt: skip
    _refuse(
        found.kl() > MAX_KL, f"a KL divergence of at most {MAX_KL:g} bits", found.loc, ratio,
        f"it is {float(found.kl().max()):.4g} bits; raise the least posterior standard deviation, or bound the mean",
    )  # fmt: skip
    _refuse(
        found.loc.abs() + 5 * found.scale > REACH,
        f"targets within {REACH:g} standard deviations of the proposal's mean", found.loc, ratio,
        "bound the posterior's mean in the network, e.g. 4 * tanh(raw / 4) prior deviations",
    )  # fmt: skip
    return found


def quantile(lower: Tensor, upper: Tensor) -> Tensor:
    """Standard normal quantile from both tails' masses, lower + upper = 1: float64 [...], clipped to +-REACH.

    Only additions, multiplications and divisions, each rounded as IEEE 754 says, so that any device gives the same
    bits; not to be compiled, because fused multiply-adds round otherwise. Relative error about 1e-15 (the rational
    functions of algorithm AS 241: Wichura 1988, Applied Statistics 37, 477-484).
    """
    p = torch.minimum(lower, upper).clamp(min=2.0**-80)
    q = 0.5 * (lower - upper)
    r = 0.180625 - q * q
    middle = q * _horner(_MIDDLE[0], r) / _horner(_MIDDLE[1], r)
    r = _sqrt(-_log(p))
    tail = _horner(_TAIL[0], r - 1.6) / _horner(_TAIL[1], r - 1.6)
    tail = torch.where(r <= 5, tail, _horner(_FAR[0], r - 5) / _horner(_FAR[1], r - 5))
    return torch.where(q.abs() <= 0.425, middle, torch.where(q < 0, -tail, tail)).clamp(-REACH, REACH)


def mass(low: Tensor, high: Tensor) -> Tensor:
    """Standard normal mass of [low, high], 0 where low > high: float64 [...]; on the side where it does not cancel."""
    flip = low > 0
    low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
    return (torch.special.ndtr(high) - torch.special.ndtr(low)).clamp(min=0)


def _log(x: Tensor) -> Tensor:
    """Natural logarithm of float64 in (0, 1] by exact operations and a series; see `quantile` for why."""
    mantissa, exponent = torch.frexp(x)
    small = mantissa < math.sqrt(0.5)
    mantissa = torch.where(small, 2 * mantissa, mantissa)
    exponent = exponent - small.to(exponent.dtype)
    t = (mantissa - 1) / (mantissa + 1)
    series = _horner([1 / k for k in range(1, 23, 2)], t * t)
    return exponent.double() * _LOG2 + 2 * t * series  # a float32 product if left as integers


def _sqrt(x: Tensor) -> Tensor:
    """Square root of float64 in [0.5, 60] by Heron's steps; libraries' own may be wrong in the last bit (MKL's is)."""
    root = 0.5 * (1 + x)
    for _ in range(9):
        root = 0.5 * (root + x / root)
    return root


def _horner(coefficients: list[float], x: Tensor) -> Tensor:
    """Polynomial with the constant term first."""
    total = torch.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total = total * x + c
    return total


def _refuse(wrong: Tensor, expected: str, mean: Tensor, std: Tensor, remedy: str) -> None:
    if bool(wrong.any()):
        i = int(wrong.nonzero()[0])
        raise ValueError(
            f"target: expected {expected}, got {int(wrong.sum())} of {wrong.numel()} otherwise, the first at {i} with "
            f"mean {float(mean[i]):.6g} and standard deviation {float(std[i]):.6g}; {remedy}"
        )


_MIDDLE = (
    [
        3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
        4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3,
    ],
    [
        1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
        2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3,
    ],
)  # fmt: skip
_TAIL = (
    [
        1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
        1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4,
    ],
    [
        1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
        1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9,
    ],
)  # fmt: skip
_FAR = (
    [
        6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0, 2.96560571828504891230e-1,
        2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7,
    ],
    [
        1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2,
        7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15,
    ],
)  # fmt: skip
