"""From float distributions to integer frequencies: THE border between floats and coded integers.

Distribution parameters are snapped to stated grids; everything after the grid is integer arithmetic on tables that are
computed in exact decimal arithmetic, so encoder and decoder agree whatever device, library or compiler runs them. Much
of it runs on integers in float64, which adds and multiplies them exactly below 2**53: processors have vector
instructions for that, and many have none for products of int64.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from decimal import Decimal, localcontext

import torch
from torch import Tensor

from toolkit.coding.integers import to_int64

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
_RISE = 22  # bits of what a distribution function rises in a cell
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
    return logit_steps(_finite(logits, "logit").amax(0) - logits)


def logit_steps(below: Tensor) -> Tensor:
    """Distances of logits from the largest in nats, float [...], to steps, int64 [...] in [0, 512]."""
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
        return torch.log(below / above)
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
def cdf_table(kind: str, device: torch.device) -> Tensor:  # float64 [cells]
    """The standard logistic or Gaussian distribution function, rounded to 2**-CDF_BITS, for linear interpolation.

    Of each cell: the value at its lower border, times 2**_RISE, and the rise to its upper one; an integer below 2**53.
    """
    n = _REACH[kind] << _CELLS[kind]
    function = {"logistic": _sigmoid, "gaussian": _phi}[kind]
    with localcontext() as context:
        context.prec = 50
        upper = [round(function(Decimal(i) / (1 << _CELLS[kind])) * (1 << CDF_BITS)) for i in range(n + 1)]
    borders = torch.tensor([(1 << CDF_BITS) - y for y in reversed(upper[1:])] + upper, device=device)
    return (borders[:-1] * (1 << _RISE) + borders.diff()).double()


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
def inverse_scales(device: torch.device) -> Tensor:  # float64 [SCALE_LEVELS]
    """2**_INVERSE / scale for each level of the scale grid, rounded to integers."""
    with localcontext() as context:
        context.prec = 50
        low = SCALE_OCTAVES[0] * SCALE_STEPS
        levels = [round(Decimal(2) ** (_INVERSE - Decimal(low + i) / SCALE_STEPS)) for i in range(SCALE_LEVELS)]
    return torch.tensor(levels, dtype=torch.float64, device=device)


@functools.cache
def exponentials(device: torch.device, dtype: torch.dtype = torch.int64) -> Tensor:  # [513]
    """exp(-i / 32) in 2**-30, rounded to integers: the weights' steps as masses."""
    with localcontext() as context:
        context.prec = 50
        table = [round((-Decimal(i) / LOGIT_STEPS).exp() * (1 << 30)) for i in range(LOGIT_STEPS * _LOGIT_REACH + 1)]
    return torch.tensor(table, dtype=dtype, device=device)


def weights(steps: Tensor, table: Tensor | None = None) -> Tensor:
    """Mixture weights from snapped logits: int64 [k, ...] -> int64 [k, ...] >= 0 that sum to 2**WEIGHT_BITS over k."""
    return torch.stack(normalise(exponentials(steps.device)[steps])).long()


def by_component(function: Callable[..., Tensor], *params: Tensor) -> list[Tensor]:
    """A pointwise function of parameters [k, symbols] for each of the k components.

    Compiled, it is written out over the components, so that what is made of them stays in the registers of one kernel.
    """
    if torch.compiler.is_compiling():
        return [function(*rows) for rows in zip(*params, strict=True)]
    return list(function(*params))


def normalise(mass: Iterable[Tensor]) -> list[Tensor]:
    """Integers >= 0, at most 2**46, some above 0, to weights that sum to 2**WEIGHT_BITS exactly.

    k tensors [...], int64 or float64, one for each component -> as many, integers in float64.
    """
    rows = [row.double() for row in mass]
    total = _sum(rows)
    high = torch.floor(total * 2.0**-24) * 2.0**24
    low = total - high
    share = []
    for row in rows:
        scaled = row * 2.0**WEIGHT_BITS
        quotient = torch.floor(scaled / total)  # one too large if the division rounded up to an integer
        # Each product and difference is an integer below 2**53 times a power of two, so none is rounded.
        rest = scaled - quotient * high - quotient * low
        share.append(torch.where(rest < 0, quotient - 1, quotient))
    return _give_rest(share, rows)


def _sum(rows: Iterable[Tensor]) -> Tensor:
    return functools.reduce(torch.add, rows)


def _give_rest(share: list[Tensor], mass: list[Tensor]) -> list[Tensor]:
    """What rounding down left over goes to the first of the largest, a rule that every device follows alike."""
    largest, most = torch.zeros_like(mass[0]), mass[0]
    for i, row in enumerate(mass[1:], start=1):
        largest, most = torch.where(row > most, i, largest), torch.maximum(most, row)
    rest = (1 << WEIGHT_BITS) - _sum(share)
    return [row + torch.where(largest == i, rest, 0) for i, row in enumerate(share)]


def reweigh(weight: Iterable[Tensor], mass: Iterable[Tensor]) -> list[Tensor]:
    """Posterior weights of a mixture's components after a symbol: w_k p_k(x), normalised in integers.

    weight: of each component, summing to 2**WEIGHT_BITS; mass: of each, F(x + 1) - F(x); see `normalise`.
    """
    # + 1: a symbol that no component expects leaves the weights as they are.
    return normalise(w * (m + 1) for w, m in zip(weight, mass, strict=True))


def keep_possible(weight: Iterable[Tensor], prior: Iterable[Tensor]) -> list[Tensor]:
    """Posterior weights with at least one count for each component that has some a priori; both as in `normalise`.

    A component that was drawn from the prior can then be pushed under its posterior, whatever the symbol: what sampling
    from a model does.
    """
    rows = [row.double() for row in weight]
    left = ((1 << WEIGHT_BITS) - len(rows)) * 2.0**-WEIGHT_BITS
    share = [torch.floor(row * left) + (before > 0) for row, before in zip(rows, prior, strict=True)]
    return _give_rest(share, rows)


def cdf(kind: str, x: Tensor, loc: Tensor, inverse: Tensor, bins: int, table: Tensor) -> Tensor:
    """Integer distribution function at the lower edge of bin x: non-decreasing, 0 at x = 0, 2**CDF_BITS at x = bins.

    All integers in float64, [...]: x in [0, bins]; loc in 1/LOC_STEPS bin; inverse of `inverse_scales`; table of
    `cdf_table`. Bin x is [x - 1/2, x + 1/2); the first and the last take the tails.
    """
    shift = _INVERSE + 6 - _CELLS[kind] - _FRACTION  # 6 = log2(LOC_STEPS)
    reach = _REACH[kind] << (_CELLS[kind] + _FRACTION)
    # Rounded, if at all, where it is far beyond the reach.
    t = (x * LOC_STEPS - LOC_STEPS // 2 - loc) * inverse * 2.0**-shift
    t = torch.floor(t).clamp(-reach, reach - 1) + reach
    cell = torch.floor(t * 2.0**-_FRACTION)
    entry = table[to_int64(cell)]  # one for two numbers, because looking up is what takes longest
    lower = torch.floor(entry * 2.0**-_RISE)
    rise = entry - lower * 2.0**_RISE
    y = lower + torch.floor(rise * (t - cell * 2.0**_FRACTION) * 2.0**-_FRACTION)
    return torch.where(x <= 0, 0, torch.where(x >= bins, 1 << CDF_BITS, y))


def mix(weight: Iterable[Tensor], y: Iterable[Tensor]) -> Tensor:
    """Mixture of distribution functions, still non-decreasing: of each component, integers in float64 [...]."""
    return torch.floor(_sum(map(torch.mul, weight, y)) * 2.0**-WEIGHT_BITS)


def start(y: Tensor, x: Tensor, bins: int, precision: int, least: int) -> Tensor:
    """Start of symbol x's interval in [0, 2**precision] from the distribution function y at its lower edge.

    All integers in float64. least = 1 keeps a count for every symbol, whatever the model believes, without a
    normalising pass: adding x makes any non-decreasing y strictly increasing. least = 0 gives no count to what has no
    mass: for posteriors, whose symbols are popped before they are pushed, so that a stray count would only draw absurd
    latents.
    """
    counts, half = (1 << precision) - least * bins, CDF_BITS // 2
    # floor(y counts / 2**CDF_BITS), of which y counts may exceed what float64 holds.
    high = torch.floor(y * 2.0**-half)
    low = torch.floor((y - high * 2.0**half) * counts * 2.0**-half)
    return torch.floor((high * counts + low) * 2.0**-half) + least * x
