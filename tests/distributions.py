"""Distributions with parameters of their own, and what each symbol costs in plain Python: for the tests of codecs."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from toolkit.coding import frequencies
from toolkit.coding.ans import Message
from toolkit.coding.codecs import PRECISION, Codec
from toolkit.coding.mixtures import coupled_mixture, drawn_mixture

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


class Pixels(NamedTuple):
    """The parameters of a coupled mixture over c channels, snapped."""

    kind: str
    weight: Tensor  # int64 [k, ...]
    loc: Tensor  # int64 [c, k, ...]
    scale: Tensor  # int64 [c, k, ...]
    coupling: Tensor  # int64 [c (c - 1) / 2, k, ...]
    bins: int

    @property
    def _from_middle(self) -> Tensor:
        return self.loc - (self.bins - 1) * frequencies.LOC_STEPS // 2

    def codec(self, valid: Tensor) -> Codec:
        return coupled_mixture(self.kind, self.weight, self._from_middle, self.scale, self.coupling, self.bins, valid)

    def drawn(self, valid: Tensor) -> Codec:
        return drawn_mixture(self.kind, self.weight, self._from_middle, self.scale, self.coupling, self.bins, valid)


def pixels(kind: str, c: int, k: int, *shape: int, bins: int = 64, seed: int = 0) -> Pixels:
    return Pixels(
        kind,
        frequencies.weights(frequencies.snap_logits(floats(seed, -2, 2, k, *shape))),
        locations(seed + 1, bins, c, k, *shape),
        scales(seed + 2, c, k, *shape),
        frequencies.snap_coupling(floats(seed + 3, -1, 1, c * (c - 1) // 2, k, *shape)),
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


def borders(kind: str) -> list[int]:
    """The distribution function at the cells' borders."""
    return [int(entry) >> 22 for entry in frequencies.cdf_table(kind, CPU)] + [2**30]


TABLES: dict[str, list[int]] = {kind: borders(kind) for kind in KINDS}
INVERSES: list[int] = [int(inverse) for inverse in frequencies.inverse_scales(CPU)]


def plain_start(y: int, x: int, bins: int, precision: int, least: int) -> int:
    return y * ((1 << precision) - least * bins) // 2**30 + least * x


def plain_mixture_frequency(
    kind: str, weight: list[int], loc: list[int], level: list[int], x: int, bins: int, precision: int
) -> int:
    def start(x: int) -> int:
        components = zip(weight, loc, level, strict=True)
        y = sum(w * plain_cdf(kind, x, at, s, bins) for w, at, s in components) // 65536
        return plain_start(y, x, bins, precision, 1)

    return start(x + 1) - start(x)


def plain_pixel_frequencies(p: Pixels, i: int, x: list[int]) -> list[int]:
    """The frequency of each channel of pixel i, a flat index, under precision PRECISION."""
    weight = p.weight.flatten(1)[:, i].tolist()
    loc, level, coupling = (t.flatten(2)[..., i].tolist() for t in (p.loc, p.scale, p.coupling))
    result = []
    for j in range(len(x)):
        row = j * (j - 1) // 2
        at = [
            loc[j][m] + sum(coupling[row + i][m] * (2 * x[i] - p.bins + 1) for i in range(j)) // 8
            for m in range(len(weight))
        ]
        result.append(plain_mixture_frequency(p.kind, weight, at, level[j], x[j], p.bins, PRECISION))
        mass = [
            plain_cdf(p.kind, x[j] + 1, a, s, p.bins) - plain_cdf(p.kind, x[j], a, s, p.bins)
            for a, s in zip(at, level[j], strict=True)
        ]
        product = [w * (m + 1) for w, m in zip(weight, mass, strict=True)]
        weight = [q * 65536 // sum(product) for q in product]
        weight[product.index(max(product))] += 65536 - sum(weight)
    return result


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


def run_as_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make compiled messages run what torch.compile compiles, without compiling it: it divides in another way."""
    monkeypatch.setattr("toolkit.coding.fuse.bound", lambda block, fused, first, rest: lambda *x: block(*x, *rest))
    monkeypatch.setattr("torch.compiler.is_compiling", lambda: True)
