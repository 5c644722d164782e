"""From float distributions to integer frequencies: THE border between floats and coded integers.

Distribution parameters are snapped to stated grids; everything after the grid is integer arithmetic on tables that are
computed in exact decimal arithmetic, so encoder and decoder agree whatever device, library or compiler runs them.
"""

from __future__ import annotations

import functools
import math
from decimal import Decimal, localcontext

import torch
from torch import Tensor

from toolkit.coding.fuse import divide

CDF_BITS = 30  # cumulative distribution functions are integers in [0, 2**CDF_BITS]
WEIGHT_BITS = 16  # mixture weights are integers that sum to 2**WEIGHT_BITS
LOC_STEPS = 64  # locations are integers in units of 1/LOC_STEPS bin
SCALE_STEPS = 32  # scale levels an octave
SCALE_OCTAVES = (-4, 12)  # scales run from 2**-4 bins to 2**12 bins
SCALE_LEVELS = SCALE_STEPS * (SCALE_OCTAVES[1] - SCALE_OCTAVES[0])
LOC_LIMIT = 1 << 14  # locations are clamped to +-LOC_LIMIT bins
COUPLING_STEPS = 256  # coupling coefficients are integers in units of 1/COUPLING_STEPS

_REACH = {"logistic": 22, "gaussian": 7}  # standardised distance at which less than 2**-31 is left in a tail
_CELLS = {"logistic": 7, "gaussian": 8}  # log2 of the table's cells a unit
_FRACTION = 16  # bits of linear interpolation inside a cell
_INVERSE = 28  # fraction bits of 1 / scale
LOGIT_STEPS = 32  # mixture logits are integers in units of 1/32 nat
_LOGIT_REACH = 16  # nats below the largest logit at which a weight is as small as it gets


def snap_location(loc: Tensor) -> Tensor:
    """Locations in bins, float [...], to integers in 1/LOC_STEPS bin, int64 [...]. NaN raises ValueError."""
    limit = LOC_LIMIT * LOC_STEPS
    return (_finite(loc, "location") * LOC_STEPS).round().clamp(-limit, limit).long()


def snap_scale(log_scale: Tensor) -> Tensor:
    """Natural logarithms of scales in bins, float [...], to levels of the scale grid, int64 [...], clamped to it."""
    level = (_finite(log_scale, "log-scale") * (SCALE_STEPS / math.log(2))).round()
    return (level - SCALE_STEPS * SCALE_OCTAVES[0]).clamp(0, SCALE_LEVELS - 1).long()


def snap_logits(logits: Tensor) -> Tensor:
    """Mixture logits in nats, float [k, ...], to steps below the largest, int64 [k, ...] in [0, 512]."""
    below = _finite(logits, "logit").amax(0) - logits
    return (below * LOGIT_STEPS).round().clamp(0, LOGIT_STEPS * _LOGIT_REACH).long()


def snap_coupling(coupling: Tensor) -> Tensor:
    """Coupling coefficients, float [...], to integers in 1/COUPLING_STEPS, int64 [...], clamped to [-8, 8]."""
    limit = 8 * COUPLING_STEPS
    return (_finite(coupling, "coupling") * COUPLING_STEPS).round().clamp(-limit, limit).long()


def location_of(loc: Tensor) -> Tensor:
    """Undo `snap_location`: int64 [...] -> float64 [...], in bins."""
    return loc.double() / LOC_STEPS


def scale_of(level: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """Undo `snap_scale`, up to rounding: int64 [...] -> float [...], in bins; not for coded integers."""
    return torch.exp2(level.to(dtype) / SCALE_STEPS + SCALE_OCTAVES[0])


def quantile(kind: str, below: Tensor, above: Tensor) -> Tensor:
    """Approximate quantile of the standard distribution with masses `below` and `above` it; not for coded integers.

    float32 [...], positive, with a sum that is the same for all. Gaussian: the polynomials of Giles 2010 (Approximating
    the erfinv function), whose error is about 1e-6.
    """
    if kind == "logistic":
        return torch.log(below) - torch.log(above)
    w = -torch.log(below / (below + above)) - torch.log(above / (below + above)) - 2 * math.log(2)
    near = w < 5
    t = torch.where(near, w - 2.5, torch.sqrt(w.clamp(min=5)) - 3)
    y = torch.zeros_like(t)
    for a, b in _GILES:
        y = y * t + torch.where(near, a, b)
    return math.sqrt(2) * y * (below - above) / (below + above)


_GILES = (  # of erfinv(x) / x in powers of w - 2.5, and of sqrt(w) - 3, for w = -log(1 - x^2); highest power first
    (2.81022636e-08, -0.000200214257),
    (3.43273939e-07, 0.000100950558),
    (-3.5233877e-06, 0.00134934322),
    (-4.39150654e-06, -0.00367342844),
    (0.00021858087, 0.00573950773),
    (-0.00125372503, -0.0076224613),
    (-0.00417768164, 0.00943887047),
    (0.246640727, 1.00167406),
    (1.50140941, 2.83297682),
)


def check_finite(what: str, *parts: Tensor) -> None:
    """Raise ValueError if some float tensor has infinite or NaN values."""
    if math.isfinite(
        sum(float(x.detach().sum()) for x in parts)
    ):  # one look for all: a sum of finite values may only overflow
        return
    wrong = sum(int((~x.isfinite()).sum()) for x in parts)
    if wrong:
        raise ValueError(
            f"expected finite {what}s, got {wrong} infinite or NaN values of {sum(x.numel() for x in parts)}; "
            "the model has diverged or met input far from its training data"
        )


def _finite(x: Tensor, what: str) -> Tensor:
    if not torch.compiler.is_compiling():  # fused code has no exceptions: its caller checks
        check_finite(what, x)
    return x


@functools.cache
def cdf_table(kind: str, device: torch.device) -> Tensor:  # int64 [cells]
    """The standard logistic or Gaussian distribution function, rounded to 2**-CDF_BITS, for linear interpolation.

    Of each cell: the value at its lower border, and 2**32 times the rise to its upper one.
    """
    n = _REACH[kind] << _CELLS[kind]
    function = {"logistic": _sigmoid, "gaussian": _phi}[kind]
    with localcontext() as context:
        context.prec = 50
        upper = [round(function(Decimal(i) / (1 << _CELLS[kind])) * (1 << CDF_BITS)) for i in range(n + 1)]
    borders = torch.tensor([(1 << CDF_BITS) - y for y in reversed(upper[1:])] + upper, device=device)
    return borders[:-1] | (borders.diff() << 32)


def _sigmoid(t: Decimal) -> Decimal:
    return 1 / (1 + (-t).exp())


def _phi(t: Decimal) -> Decimal:
    # Phi(t) = 1/2 + phi(t) (t + t^3/3 + t^5/(3 5) + ...): all terms positive, so nothing cancels.
    term = total = t
    k = 1
    while term > Decimal("1e-40"):
        k += 2
        term = term * t * t / k
        total += term
    return Decimal("0.5") + total * (-t * t / 2).exp() / Decimal("6.283185307179586476925286766559005768394").sqrt()


@functools.cache
def inverse_scales(device: torch.device) -> Tensor:  # int64 [SCALE_LEVELS]
    """2**_INVERSE / scale for each level of the scale grid, rounded."""
    with localcontext() as context:
        context.prec = 50
        low = SCALE_OCTAVES[0] * SCALE_STEPS
        levels = [round(Decimal(2) ** (_INVERSE - Decimal(low + i) / SCALE_STEPS)) for i in range(SCALE_LEVELS)]
    return torch.tensor(levels, device=device)


@functools.cache
def exponentials(device: torch.device) -> Tensor:  # int64 [513]
    """exp(-i / 32) in 2**-30, rounded: the weights' steps as masses."""
    with localcontext() as context:
        context.prec = 50
        table = [round((-Decimal(i) / LOGIT_STEPS).exp() * (1 << 30)) for i in range(LOGIT_STEPS * _LOGIT_REACH + 1)]
    return torch.tensor(table, device=device)


def weights(steps: Tensor, table: Tensor | None = None) -> Tensor:
    """Mixture weights from snapped logits: int64 [k, ...] -> int64 [k, ...] >= 0 that sum to 2**WEIGHT_BITS over k.

    table: of `exponentials`, which compiled code can not look up.
    """
    return _normalise((exponentials(steps.device) if table is None else table)[steps])


def _normalise(mass: Tensor) -> Tensor:
    """int64 [k, ...] >= 0, at most 2**46, some above 0, to weights that sum to 2**WEIGHT_BITS exactly."""
    # Unrolled: a reduction over a few rows would be a kernel of its own.
    share = [divide(row << WEIGHT_BITS, total)[0] for total in [_sum(mass)] for row in mass]
    return _give_rest(share, mass)


def _sum(rows: Tensor | list[Tensor]) -> Tensor:
    return functools.reduce(torch.add, rows)


def _give_rest(share: list[Tensor], mass: Tensor) -> Tensor:
    """What rounding down left over goes to the first of the largest, a rule that every device follows alike."""
    largest, most = torch.zeros_like(mass[0]), mass[0]
    for i, row in enumerate(mass[1:], start=1):
        largest, most = torch.where(row > most, i, largest), torch.maximum(most, row)
    rest = (1 << WEIGHT_BITS) - _sum(share)
    return torch.stack([row + torch.where(largest == i, rest, 0) for i, row in enumerate(share)])


def reweigh(weight: Tensor, mass: Tensor) -> Tensor:
    """Posterior weights of a mixture's components after a symbol: w_k p_k(x), normalised in integers.

    weight: int64 [k, ...] summing to 2**WEIGHT_BITS; mass: int64 [k, ...], each component's F(x + 1) - F(x).
    """
    return _normalise(weight * (mass + 1))  # + 1: a symbol that no component expects leaves the weights as they are


def keep_possible(weight: Tensor, prior: Tensor) -> Tensor:
    """Posterior weights with at least one count for each component that has some a priori; int64 [k, ...], both.

    A component that was drawn from the prior can then be pushed under its posterior, whatever the symbol: what sampling
    from a model does.
    """
    count = weight.shape[0]
    share = (weight * ((1 << WEIGHT_BITS) - count) >> WEIGHT_BITS) + (prior > 0)
    return _give_rest(list(share), weight)


def cdf(kind: str, x: Tensor, loc: Tensor, inverse: Tensor, bins: int, table: Tensor) -> Tensor:
    """Integer distribution function at the lower edge of bin x: non-decreasing, 0 at x = 0, 2**CDF_BITS at x = bins.

    x: int64 [...] in [0, bins]; loc: int64 [...] in 1/LOC_STEPS bin; inverse: int64 [...] of `inverse_scales`;
    table: of `cdf_table`. Bin x is [x - 1/2, x + 1/2); the first and the last take the tails.
    """
    shift = _INVERSE + 6 - _CELLS[kind] - _FRACTION  # 6 = log2(LOC_STEPS)
    reach = _REACH[kind] << (_CELLS[kind] + _FRACTION)
    t = ((x * LOC_STEPS - LOC_STEPS // 2 - loc) * inverse >> shift).clamp(-reach, reach - 1) + reach
    cell = table[t >> _FRACTION]
    y = (cell & ((1 << 32) - 1)) + ((cell >> 32) * (t & ((1 << _FRACTION) - 1)) >> _FRACTION)
    return torch.where(x <= 0, 0, torch.where(x >= bins, 1 << CDF_BITS, y))


def mix(weight: Tensor, y: Tensor | list[Tensor]) -> Tensor:
    """Mixture of integer distribution functions: int64 [k, ...] and [k, ...] -> int64 [...], still non-decreasing."""
    total = (weight * y).sum(0) if isinstance(y, Tensor) else functools.reduce(torch.add, map(torch.mul, weight, y))
    return total >> WEIGHT_BITS


def start(y: Tensor, x: Tensor, bins: int, precision: int, least: int) -> Tensor:
    """Start of symbol x's interval in [0, 2**precision] from the distribution function y at its lower edge.

    least = 1 keeps a count for every symbol, whatever the model believes, without a normalising pass: adding x makes
    any non-decreasing y strictly increasing. least = 0 gives no count to what has no mass: for posteriors, whose
    symbols are popped before they are pushed, so that a stray count would only draw absurd latents.
    """
    return (y * ((1 << precision) - least * bins) >> CDF_BITS) + least * x
