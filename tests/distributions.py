"""Distributions with parameters of their own, and what each symbol costs in plain Python: for the tests of codecs."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from toolkit.coding import frequencies, mixtures
from toolkit.coding.codecs import PRECISION, Codec
from toolkit.coding.message import Message

CPU = torch.device("cpu")
KINDS = ["logistic", "gaussian"]
FREQS = torch.tensor([1, 500, 3, 20, 4000, 60000, 1012])  # sums to 2**16


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def integers(seed: int, high: int, *shape: int) -> Tensor:
    return torch.randint(high, shape, generator=generator(seed))


def floats(seed: int, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=generator(seed), dtype=torch.float64)


def holes(*shape: int, seed: int = 99) -> Tensor:
    return torch.rand(*shape, generator=generator(seed)) < 0.7


# Parameters, snapped.


def locations(seed: int, bins: int, *shape: int) -> Tensor:
    return frequencies.snap_location(floats(seed, -0.1 * bins, 1.1 * bins, *shape))


def scales(seed: int, *shape: int, low: float = 0.3, high: float = 30) -> Tensor:
    return frequencies.snap_scale(floats(seed, math.log(low), math.log(high), *shape))


def weights(seed: int, k: int, *shape: int, high: float = 3) -> Tensor:
    return frequencies.weights(frequencies.snap_logits(floats(seed, -high, high, k, *shape)))


class Pixels(NamedTuple):
    """Integer parameters of n pixels of c channels under mixtures of k logistics; locations from the first bin."""

    logits: Tensor  # int64 [k, n], steps below the largest
    loc: Tensor  # int64 [c, k, n]
    scale: Tensor  # int64 [c, k, n]
    coupling: Tensor  # int64 [c (c - 1) / 2, k, n]
    bins: int

    @property
    def weight(self) -> Tensor:  # int64 [k, n]
        return frequencies.weights(self.logits)

    def codec(self, valid: Tensor, drawn: bool = False, **options: Any) -> Codec:
        """Codec of pixels int64 [n, c]."""
        middle = (self.bins - 1) * frequencies.LOC_STEPS // 2
        parts = [-self.logits[None], self.loc - middle, self.scale, self.coupling]
        planes = torch.cat([part.flatten(0, 1) for part in parts])
        return mixtures.pixels(planes.T.float(), len(self.logits), self.bins, valid, drawn=drawn, **options)


def pixels(c: int, k: int, n: int, bins: int = 64, seed: int = 0) -> Pixels:
    return Pixels(
        frequencies.snap_logits(floats(seed, -2, 2, k, n)).long(),
        locations(seed + 1, bins, c, k, n).long(),
        scales(seed + 2, c, k, n).long(),
        frequencies.snap_coupling(floats(seed + 3, -1, 1, c * (c - 1) // 2, k, n)).long(),
        bins,
    )


# The same integer frequencies in plain Python, one symbol at a time.


def plain_cdf(kind: str, x: int, loc: int, level: int, bins: int) -> int:
    if x == 0:
        return 0
    if x == bins:
        return 2**30
    table, cells = TABLES[kind], {"logistic": 128, "gaussian": 256}[kind]
    # In 1/65536 of a cell: (x - 1/2 - loc / 64) / scale * cells * 65536, from the rounded 2**28 / scale.
    t = (64 * x - 32 - loc) * INVERSES[level] // (2**28 * 64 // (cells * 65536))
    middle = (len(table) - 1) // 2 * 65536
    cell, fraction = divmod(min(max(t, -middle), middle - 1) + middle, 65536)
    return table[cell] + (table[cell + 1] - table[cell]) * fraction // 65536


TABLES: dict[str, list[int]] = {kind: frequencies.cdf_table(kind, CPU).tolist() for kind in KINDS}
INVERSES: list[int] = frequencies.inverse_scales(CPU).tolist()


def plain_start(y: int, x: int, bins: int, precision: int, least: int) -> int:
    return y * ((1 << precision) - least * bins) // 2**30 + least * x


def plain_mixture_start(
    kind: str, weight: list[int], loc: list[int], level: list[int], x: int, bins: int, precision: int
) -> int:
    components = zip(weight, loc, level, strict=True)
    y = sum(w * plain_cdf(kind, x, at, s, bins) for w, at, s in components) // 65536
    return plain_start(y, x, bins, precision, 1)


def plain_mixture_frequency(
    kind: str, weight: list[int], loc: list[int], level: list[int], x: int, bins: int, precision: int
) -> int:
    low, high = (plain_mixture_start(kind, weight, loc, level, edge, bins, precision) for edge in (x, x + 1))
    return high - low


def plain_weights(mass: list[float]) -> list[int]:
    """Masses to weights that sum to 65536; Python's floats are float64 of IEEE 754."""
    total = 0.0
    for m in mass:
        total += m
    found = [math.floor(m * (65536 / total)) for m in mass]
    found[mass.index(max(mass))] += 65536 - sum(found)
    return found


def plain_odds(x: int, loc: int, level: int, bins: int) -> tuple[float, float]:
    """What a component gives to a bin, about: `frequencies.odds`."""
    if x in (0, bins - 1):
        return (
            plain_cdf("logistic", x + 1, loc, level, bins) - plain_cdf("logistic", x, loc, level, bins) + 1
        ) / 2**30, 1.0
    cell = (abs(64 * x - loc) * INVERSES[level] + 2**26) // 2**27  # in 1/128 of a scale
    sine, cosine = (row[level] for row in HALF_WIDTHS)
    return sine, cosine + COSINES[min(cell, len(COSINES) - 1)]


COSINES: list[float] = frequencies.cosines(CPU).tolist()
HALF_WIDTHS: list[list[float]] = frequencies.half_widths(CPU).tolist()


def plain_pixel(p: Pixels, i: int, x: list[int], valid: list[bool] | None = None) -> list[tuple[int, int]]:
    """Start and frequency of each channel of pixel i under precision PRECISION, all components together.

    valid: of each channel; where False (0, 2**PRECISION), which costs nothing.
    """
    loc, level, coupling = (t[..., i].tolist() for t in (p.loc, p.scale, p.coupling))
    above, result = [float(w) for w in p.weight[:, i].tolist()], []
    below = [1.0] * len(above)
    for j in range(len(x)):
        row = j * (j - 1) // 2
        shift = [
            sum(coupling[row + i][m] * (64 * x[i] - (p.bins - 1) * 32) for i in range(j)) // 256
            for m in range(len(above))
        ]
        at = [a + b for a, b in zip(loc[j], shift, strict=True)]
        if valid is not None and not valid[j]:
            result.append((0, 1 << PRECISION))
            continue
        weight = plain_weights([a / b for a, b in zip(above, below, strict=True)])
        low, high = (plain_mixture_start("logistic", weight, at, level[j], x[j] + e, p.bins, PRECISION) for e in (0, 1))
        result.append((low, high - low))
        odds = [plain_odds(x[j], a, s, p.bins) for a, s in zip(at, level[j], strict=True)]
        above = [a * top for a, (top, _) in zip(above, odds, strict=True)]
        below = [b * bottom for b, (_, bottom) in zip(below, odds, strict=True)]
    return result


def plain_pixel_frequencies(p: Pixels, i: int, x: list[int]) -> list[int]:
    return [freq for _, freq in plain_pixel(p, i, x)]


def information(freqs: list[int], precision: int = PRECISION) -> float:
    return sum(precision - math.log2(freq) for freq in freqs)


def location_scale_bits(
    kind: str, loc: Tensor, scale: Tensor, bins: int, least: int, x: Tensor, valid: Tensor | None = None
) -> float:
    """-log2 of the exact frequencies of x where valid."""
    valid = torch.ones_like(x, dtype=torch.bool) if valid is None else valid
    freqs = []
    for at, level, symbol in zip(loc[valid].tolist(), scale[valid].tolist(), x[valid].tolist(), strict=True):
        low, high = (
            plain_start(plain_cdf(kind, e, at, level, bins), e, bins, PRECISION, least) for e in (symbol, symbol + 1)
        )
        freqs.append(high - low)
    return information(freqs)


def spent(codec: Codec, x: Tensor, message: Message) -> float:
    """Bits that pushing x adds."""
    before = message.bits()
    codec.push(message, x)
    return message.bits() - before
