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

CDF_BITS = 30  # cumulative distribution functions are integers in [0, 2**CDF_BITS]
WEIGHT_BITS = 16  # mixture weights are integers that sum to 2**WEIGHT_BITS
LOC_STEPS = 64  # locations are integers in units of 1/LOC_STEPS bin
SCALE_STEPS = 32  # scale levels an octave
SCALE_OCTAVES = (-4, 12)  # scales run from 2**-4 bins to 2**12 bins
SCALE_LEVELS = SCALE_STEPS * (SCALE_OCTAVES[1] - SCALE_OCTAVES[0])
LOC_LIMIT = 1 << 14  # locations are clamped to +-LOC_LIMIT bins
COUPLING_STEPS = 256  # coupling coefficients are integers in units of 1/COUPLING_STEPS

KINDS = ("logistic", "gaussian")
REACH = {"logistic": 22, "gaussian": 7}  # standardised distance at which less than 2**-31 is left in a tail
CELLS = {"logistic": 7, "gaussian": 8}  # log2 of the table's cells a unit
FRACTION = 16  # bits of linear interpolation inside a cell
INVERSE = 28  # fraction bits of 1 / scale
LOGIT_STEPS = 32  # mixture logits are integers in units of 1/32 nat
LOGIT_MOST = 16 * LOGIT_STEPS  # steps below the largest logit at which a weight is as small as it gets
QUANTILE_BITS = 14


def snap_location(loc: Tensor) -> Tensor:
    """Locations in bins, float [...], to integers in 1/LOC_STEPS bin, int32 [...]. NaN raises ValueError."""
    limit = LOC_LIMIT * LOC_STEPS
    return (_finite(loc, "location") * LOC_STEPS).round().clamp(-limit, limit).int()


def snap_scale(log_scale: Tensor) -> Tensor:
    """Natural logarithms of scales in bins, float [...], to levels of the scale grid, int32 [...], clamped to it."""
    level = (_finite(log_scale, "log-scale") * (SCALE_STEPS / math.log(2))).round()
    return (level - SCALE_STEPS * SCALE_OCTAVES[0]).clamp(0, SCALE_LEVELS - 1).int()


def snap_logits(logits: Tensor) -> Tensor:
    """Mixture logits in nats, float [k, ...], to steps below the largest, int32 [k, ...] in [0, LOGIT_MOST]."""
    below = _finite(logits, "logit").amax(0) - logits
    return (below * LOGIT_STEPS).round().clamp(0, LOGIT_MOST).int()


def snap_coupling(coupling: Tensor) -> Tensor:
    """Coupling coefficients, float [...], to integers in 1/COUPLING_STEPS, int32 [...], clamped to [-8, 8]."""
    limit = 8 * COUPLING_STEPS
    return (_finite(coupling, "coupling") * COUPLING_STEPS).round().clamp(-limit, limit).int()


def location_of(loc: Tensor) -> Tensor:
    """Undo `snap_location`: int32 [...] -> float64 [...], in bins."""
    return loc.double() / LOC_STEPS


def scale_of(level: Tensor) -> Tensor:
    """Undo `snap_scale`, up to rounding: int32 [...] -> float64 [...], in bins; not for coded integers."""
    return torch.exp2(level.double() / SCALE_STEPS + SCALE_OCTAVES[0])


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
def cdf_table(kind: str, device: torch.device) -> Tensor:  # int64 [cells + 1]
    """The standard logistic or Gaussian distribution function at borders of cells, rounded to 2**-CDF_BITS."""
    n = REACH[kind] << CELLS[kind]
    function = {"logistic": _sigmoid, "gaussian": _phi}[kind]
    with localcontext() as context:
        context.prec = 50
        upper = [round(function(Decimal(i) / (1 << CELLS[kind])) * (1 << CDF_BITS)) for i in range(n + 1)]
    return torch.tensor([(1 << CDF_BITS) - y for y in reversed(upper[1:])] + upper, device=device)


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
    """2**INVERSE / scale for each level of the scale grid, rounded to integers."""
    with localcontext() as context:
        context.prec = 50
        low = SCALE_OCTAVES[0] * SCALE_STEPS
        levels = [round(Decimal(2) ** (INVERSE - Decimal(low + i) / SCALE_STEPS)) for i in range(SCALE_LEVELS)]
    return torch.tensor(levels, device=device)


@functools.cache
def exponentials(device: torch.device) -> Tensor:  # float64 [LOGIT_MOST + 1], integers
    """exp(-i / LOGIT_STEPS) in 2**-30, rounded to integers: the masses of logits i steps below the largest."""
    with localcontext() as context:
        context.prec = 50
        table = [round((-Decimal(i) / LOGIT_STEPS).exp() * (1 << 30)) for i in range(LOGIT_MOST + 1)]
    return torch.tensor(table, dtype=torch.float64, device=device)


@functools.cache
def cosines(device: torch.device) -> Tensor:  # float64 [cells + 1]
    """Hyperbolic cosines at borders of the logistic's cells, from 0 on, rounded correctly."""
    with localcontext() as context:
        context.prec = 50
        powers = [
            (Decimal(i) / (1 << CELLS["logistic"])).exp() for i in range((REACH["logistic"] << CELLS["logistic"]) + 1)
        ]
        return torch.tensor([float((e + 1 / e) / 2) for e in powers], dtype=torch.float64, device=device)


@functools.cache
def half_widths(device: torch.device) -> Tensor:  # float64 [2, SCALE_LEVELS]
    """Hyperbolic sine and cosine of half a bin, for a bin's width in each scale."""
    with localcontext() as context:
        context.prec = 50
        low = SCALE_OCTAVES[0] * SCALE_STEPS
        powers = [(Decimal(2) ** (-1 - Decimal(low + i) / SCALE_STEPS)).exp() for i in range(SCALE_LEVELS)]
        rows = [[float((e + sign / e) / 2) for e in powers] for sign in (-1, 1)]
        return torch.tensor(rows, dtype=torch.float64, device=device)


def odds(x: Tensor, loc: Tensor, scale: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """The mass of bin x under a logistic, about, as a numerator and a denominator: float64 [...] each.

    sinh(w / 2) / (cosh(w / 2) + cosh(t)), for a bin of width w at distance t, is what the logistic's distribution
    function rises in it; t is rounded to a cell. The first and the last bin take the tails. int [...] as of `cdf`. For
    posterior weights, which need not be the true ones, but the same on every machine.
    """
    shift = INVERSE + 6 - CELLS["logistic"]
    distance = (x.long() * LOC_STEPS - loc).abs() * inverse_scales(x.device)[scale.long()]
    cosine = cosines(x.device)
    sine, half = half_widths(x.device)[:, scale.long()]
    cell = (distance + (1 << shift - 1) >> shift).clamp(max=len(cosine) - 1)
    end = (x <= 0) | (x >= bins - 1)
    rise = cdf("logistic", x + 1, loc, scale, bins) - cdf("logistic", x, loc, scale, bins) + 1
    # In float64, as the loops: integers times a Python number would be float32.
    return torch.where(end, rise.double() * 2.0**-CDF_BITS, sine), torch.where(end, 1.0, half + cosine[cell])


@functools.cache
def quantiles(kind: str, device: torch.device) -> Tensor:  # float32 [2**QUANTILE_BITS]
    """Quantiles of the standard distribution, which searches begin with; not for coded integers."""
    u = (torch.arange(1 << QUANTILE_BITS, dtype=torch.float64) + 0.5) / (1 << QUANTILE_BITS)
    return (torch.logit(u) if kind == "logistic" else torch.special.ndtri(u)).float().to(device)


@functools.cache
def scales(device: torch.device) -> Tensor:  # float32 [SCALE_LEVELS]
    """The scale of each level in bins, which searches begin with; not for coded integers."""
    return scale_of(torch.arange(SCALE_LEVELS)).float().to(device)


def weights(steps: Tensor) -> Tensor:
    """Mixture weights from `snap_logits`: [k, ...] -> int64 [k, ...] >= 0 that sum to 2**WEIGHT_BITS over k."""
    return normalise(exponentials(steps.device)[steps.long().clamp(0, LOGIT_MOST)])


def normalise(mass: Tensor) -> Tensor:
    """Masses to weights that sum to 2**WEIGHT_BITS: float64 [k, ...], above 0 somewhere -> int64 [k, ...].

    One product after one quotient, each rounded once (IEEE 754), with sums in the order of the components: the same
    on every machine. What rounding down leaves goes to the first of the largest.
    """
    return _given_rest(torch.floor(mass * ((1 << WEIGHT_BITS) / _sum(mass))), mass)


def posterior(mass: Tensor, prior: Tensor) -> Tensor:
    """As `normalise`, with at least one count for each component that has some a priori: int64 [k, ...].

    A component that was drawn from the prior can then be pushed under its posterior, whatever the symbol: what sampling
    from a model does.
    """
    left = (1 << WEIGHT_BITS) - len(mass)
    return _given_rest(torch.floor(mass * (left / _sum(mass))) + (prior > 0), mass)


def _sum(rows: Tensor) -> Tensor:
    return functools.reduce(torch.add, rows)


def _given_rest(share: Tensor, mass: Tensor) -> Tensor:
    share = share.long()
    rest = (1 << WEIGHT_BITS) - share.sum(0, keepdim=True)
    return share.scatter_add(0, mass.argmax(0, keepdim=True), rest)


def of_counts(counts: Tensor, precision: int, least: int = 1) -> Tensor:
    """Frequencies from counts: int64 [tables, k], 0 to 2**38 -> int64 [tables, k], rows that sum to 2**precision.

    By largest remainders, in integers, so that every device finds the same. A symbol that was counted has at least one;
    least: frequency of the others, 0 or 1. Raises ValueError for a row without counts, or with too many symbols.
    """
    total = 1 << precision
    floor = torch.where(counts > 0, 1, least)
    kinds = floor.sum(1)
    if bool((counts.sum(1) < 1).any()) or bool((kinds > total).any()):
        raise ValueError(f"expected 1 to {total} symbols with a count in each table, got {kinds.tolist()[:20]}")
    share = counts * total
    whole = counts.sum(1, keepdim=True)
    freqs = torch.maximum(share // whole, floor)
    short = total - freqs.sum(1, keepdim=True)
    order = torch.argsort(share % whole, dim=1, descending=True, stable=True)
    place = torch.argsort(order, dim=1)
    freqs = freqs + (place < short)
    while bool((over := freqs.sum(1, keepdim=True) - total).any()):  # counts of one that had less
        largest = freqs.argmax(1, keepdim=True)
        freqs = freqs.scatter_add(1, largest, -torch.minimum(over, freqs.gather(1, largest) - 1))
    return freqs


def cdf(kind: str, x: Tensor, loc: Tensor, scale: Tensor, bins: int) -> Tensor:
    """Integer distribution function at the lower edge of bin x: non-decreasing, 0 at x = 0, 2**CDF_BITS at x = bins.

    int [...]: x in [0, bins]; loc of `snap_location`, scale of `snap_scale` -> int64 [...]. Bin x is
    [x - 1/2, x + 1/2); the first and the last take the tails.
    """
    table, inverse = cdf_table(kind, x.device), inverse_scales(x.device)
    half = REACH[kind] << (CELLS[kind] + FRACTION)
    distance = x.long() * LOC_STEPS - LOC_STEPS // 2 - loc
    t = ((distance * inverse[scale.long()] >> shift_of(kind)) + half).clamp(0, 2 * half - 1)
    cell = t >> FRACTION
    low = table[cell]
    y = low + ((table[cell + 1] - low) * (t - (cell << FRACTION)) >> FRACTION)
    return torch.where(x <= 0, 0, torch.where(x >= bins, 1 << CDF_BITS, y))


def shift_of(kind: str) -> int:
    """Bits that products of distances in 1/LOC_STEPS bin and inverse scales have more than parts of cells."""
    return INVERSE + 6 - CELLS[kind] - FRACTION  # 6 = log2(LOC_STEPS)


def mix(weight: Tensor, y: Tensor) -> Tensor:
    """Mixture of distribution functions, still non-decreasing: int64 [k, ...] each -> int64 [...]."""
    return (weight * y).sum(0) >> WEIGHT_BITS


def start(y: Tensor, x: Tensor, bins: int, precision: int, least: int) -> Tensor:
    """Start of symbol x's interval in [0, 2**precision] from the distribution function y at its lower edge.

    All int64. least = 1 keeps a count for every symbol, whatever the model believes, without a normalising pass:
    adding x makes any non-decreasing y strictly increasing. least = 0 gives no count to what has no mass: for
    posteriors, whose symbols are popped before they are pushed, so that a stray count would only draw absurd latents.
    """
    return (y * ((1 << precision) - least * bins) >> CDF_BITS) + least * x
