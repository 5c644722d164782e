"""Codec of symbols under beta-binomial distributions: parameters on a grid, a table of integers for each point of it.

The tables come from the ratio of neighbouring probabilities in float64 additions, multiplications and divisions, one
after the other, which IEEE 754 rounds alike everywhere.
"""

from __future__ import annotations

import functools
import math
from decimal import Decimal, localcontext

import torch
from torch import Tensor

from toolkit.coding import frequencies
from toolkit.coding.codecs import Codec
from toolkit.coding.tables import Tables, of_starts

LOGITS, LOGIT_STEPS = 8, 16  # logits of the mean lie in [-8, 8], in steps of 1/16
SIZES, SIZE_STEPS = (-1, 9), 2  # log2(a + b) lies in [-1, 9], in steps of 1/2: beyond, float64 would overflow
_COLUMNS = (SIZES[1] - SIZES[0]) * SIZE_STEPS + 1


def snap(logit: Tensor, log2_size: Tensor) -> Tensor:
    """Logit of the mean a / (a + b) and log2(a + b), float [...] each, to numbers of tables, int64 [...], clamped.

    Raises ValueError for NaN.
    """
    if not bool((logit.isfinite() & log2_size.isfinite()).all()):
        raise ValueError(
            "snap: expected finite parameters, got infinite or NaN ones; the model has diverged or met input far from "
            "its training data"
        )
    row = ((logit.double() + LOGITS) * LOGIT_STEPS).round().clamp(0, 2 * LOGITS * LOGIT_STEPS)
    column = ((log2_size.double() - SIZES[0]) * SIZE_STEPS).round().clamp(0, _COLUMNS - 1)
    return (row * _COLUMNS + column).long()


def parameters_of(table: Tensor) -> tuple[Tensor, Tensor]:
    """Undo `snap`: int64 [...] -> a and b, float64 [...]; not for coded integers."""
    mean = torch.sigmoid((table // _COLUMNS).double() / LOGIT_STEPS - LOGITS)
    size = torch.exp2((table % _COLUMNS).double() / SIZE_STEPS + SIZES[0])
    return mean * size, (1 - mean) * size


def log_probability(x: Tensor, logit: Tensor, log2_size: Tensor, bins: int) -> Tensor:
    """Natural log-probability of symbols x in [0, bins), in floats, for training; float tensors that broadcast."""
    size = torch.exp2(log2_size.clamp(*SIZES))
    a = torch.sigmoid(logit.clamp(-LOGITS, LOGITS)) * size
    b = size - a
    n = bins - 1
    ways = math.lgamma(n + 1) - torch.lgamma(x + 1) - torch.lgamma(n - x + 1)
    top = torch.lgamma(x + a) + torch.lgamma(n - x + b) - torch.lgamma(n + size)
    return ways + top - torch.lgamma(a) - torch.lgamma(b) + torch.lgamma(size)


def beta_binomial(table: Tensor, bins: int, precision: int, valid: Tensor) -> Codec:
    """Codec of symbols in [0, bins), each under its own beta-binomial: int64 and bool of the symbols' shape.

    table: of `snap`; no symbol has less than one count of 2**precision.
    """
    if not 2 <= bins <= 256 or bins > 1 << precision:
        raise ValueError(f"beta_binomial: expected 2 to 256 bins and log2(bins) bits or more, got {bins}, {precision}")
    return _ready(bins, precision, table.device).codec(table, valid)


@functools.cache
def _ready(bins: int, precision: int, device: torch.device) -> Tables:
    edges = torch.arange(bins + 1, device=device)
    return of_starts(frequencies.start(_tables(bins, device), edges, bins, precision, 1), precision)


@functools.cache
def _tables(bins: int, device: torch.device) -> Tensor:  # int64 [tables, bins + 1]
    """Distribution functions at the lower edges of symbols, rounded to 2**-CDF_BITS."""
    with localcontext() as context:  # exp and powers of floats are not the same everywhere, decimals are
        context.prec = 40
        logits = [Decimal(i) / LOGIT_STEPS - LOGITS for i in range(2 * LOGITS * LOGIT_STEPS + 1)]
        sizes = [Decimal(2) ** (Decimal(i) / SIZE_STEPS + SIZES[0]) for i in range(_COLUMNS)]
        pairs = [
            (float(size / (1 + (-logit).exp())), float(size / (1 + logit.exp()))) for logit in logits for size in sizes
        ]
    a, b = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    n = bins - 1
    mass, total = torch.ones_like(a), torch.zeros_like(a)
    below = [total]
    for k in range(bins):
        total = total + mass
        below.append(total)
        mass = mass * ((n - k) * (k + a)) / ((k + 1) * (max(n - k - 1, 0) + b))
    table = torch.stack(below, 1) / total[:, None] * (1 << frequencies.CDF_BITS)
    return table.floor().long().to(device)
