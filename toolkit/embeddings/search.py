"""Code points for word vectors, group by group of ranks, and the search for the lambda of a file size."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from toolkit.coding import vbq
from toolkit.embeddings.file import Quantised, first_chunk, pack_book, write
from toolkit.embeddings.tables import Kept

FIRST_GROUP, GROWTH, LAST_GROUP = 512, 1.5, 16384  # rows of the first group of ranks; of each next, at most
SAMPLE_VALUES = 250_000  # of the rows that a search for lambda begins with
METHODS = ("default", "vbq")


def groups(rows: int) -> list[int]:
    """Rows of each group of ranks, the most frequent words first: small groups where certainty changes quickly."""
    sizes: list[int] = []
    wanted = float(FIRST_GROUP)
    while (left := rows - sum(sizes)) > 0:
        # What is left joins the last group if it is too little to pay for tables of its own.
        sizes.append(int(wanted) if left >= wanted + FIRST_GROUP else left)
        wanted = min(GROWTH * wanted, LAST_GROUP)
    return sizes


def quantise(vectors: Tensor, sigma: Tensor, lam: float, method: str = "default", rounds: int = 8) -> Quantised:
    """Choose code points for float32 [words, d] vectors, the most frequent word first, with sigma of the same shape.

    lam: bits of rate are worth so many nats of distortion, at least 0; method: default, or vbq for the published
    algorithm; rounds: of refinement. Raises ValueError for an unknown method,
    and what `toolkit.coding.vbq.check` says.
    """
    vbq.check(vectors, sigma, lam)
    found = [_chosen(mu, s, lam, method, rounds) for mu, s in _parts(vectors, sigma, method)]
    bits = sum(book.bits(symbols) + 8 * len(pack_book(book)) for book, symbols in found)
    return Quantised([book for book, _ in found], [symbols for _, symbols in found], bits)


def _parts(vectors: Tensor, sigma: Tensor, method: str) -> list[tuple[Tensor, Tensor]]:
    """Vectors and sigmas of the groups of ranks that a method has."""
    if method not in METHODS:
        raise ValueError(f"expected method to be one of {', '.join(METHODS)}, got {method!r}")
    rows = groups(len(vectors)) if method != "vbq" else [len(vectors)]
    return list(zip(vectors.split(rows), sigma.split(rows), strict=True))


def _chosen(
    mu: Tensor, sigma: Tensor, lam: float, method: str, rounds: int, times: float = 1.0
) -> tuple[vbq.Codebook, Tensor]:
    """Codebook and symbols of one group, each of whose rows stands for so many."""
    if method == "vbq":
        return vbq.plain(mu, sigma, lam)
    return vbq.refined(mu, sigma, lam, rounds, times=times)


class _Forecast:
    """Bits as a function of lambda: from a formula, then along the line through what was found last, then between.

    ln(1 + mean(mu^2) / (lambda sigma^2)) / (2 ln 2) for each coordinate: the rate-distortion function of a Gaussian
    (Cover, Thomas 2006, section 10.3), smooth where that is 0. Lambdas and bits are logarithms here.
    """

    def __init__(self, vectors: Tensor, sigma: Tensor) -> None:
        rows = slice(None, None, max(1, vectors.numel() // SAMPLE_VALUES))
        self._signal = vectors.double().square().mean() / sigma[rows].double().square()
        self._values = vectors.numel()
        self.dearest = math.log(1e4 * max(float(self._signal.mean()), 1e-30))  # no value is worth a bit at this price
        self.cheapest = self.dearest - 40.0
        self._last: tuple[float, float] | None = None  # lambda, and the bits that were found there
        self._slope = -math.inf
        self.forget()

    def forget(self) -> None:
        """What was found was of a sample: a place to begin and a slope, but no bound."""
        self._sampled = True
        self.large: tuple[float, float] = (self.cheapest, math.inf)  # lambda and bits of the last that was too large
        self.small: tuple[float, float] = (self.dearest, -math.inf)

    def learn(self, at: float, bits: float, goal: float) -> None:
        """Take note of the bits that a search found."""
        found = (at, math.log(max(bits, 1.0)))
        if self._last is not None and not self._sampled and abs(at - self._last[0]) > 0.1:
            self._slope = min((found[1] - self._last[1]) / (at - self._last[0]), -0.05)
        self._last, self._sampled = found, False
        if bits > goal:
            self.large = found
        else:
            self.small = found

    def _bits(self, at: float) -> float:
        bits = self._values * float((self._signal / math.exp(at)).log1p().mean()) / math.log(4)
        return math.log(max(bits, 1.0))

    def place(self, goal: float) -> float:
        """Where so many bits are expected."""
        wanted = math.log(max(goal, 1.0))
        (low, most), (high, least) = self.large, self.small
        if math.isfinite(most - least):
            return low + (high - low) * min(max((most - wanted) / (most - least), 0.1), 0.9)
        if self._last is None:
            a, b = low, high
            for _ in range(40):
                middle = (a + b) / 2
                a, b = (middle, b) if self._bits(middle) > wanted else (a, middle)
            return middle
        at, bits = self._last
        slope = self._slope if math.isfinite(self._slope) else (self._bits(at + 0.1) - self._bits(at - 0.1)) / 0.2
        return min(max(at + (wanted - bits) / min(slope, -0.05), self.cheapest), self.dearest)


def fit(
    words: Sequence[str], vectors: Tensor, sigma: Tensor, target: int, method: str = "default",
    about: dict[str, Any] | None = None, first: tuple[bytes, int] | None = None, kept: Kept | None = None,
) -> tuple[float, Quantised]:  # fmt: skip
    """The lambda, and the vectors quantised with it, whose file is as large as `target` bytes allow, to 1 %.

    Arguments as of `quantise` and `write`, whose header gets method and lambda too. Raises ValueError that names the
    smallest size if `target` is below it.
    """

    first = first or first_chunk(words, kept)

    def size(lam: float, quantised: Quantised) -> int:
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "size.tkc")
            return write(file, words, quantised, about_file(method, lam, about), first, kept)["file"]

    vbq.check(vectors, sigma, 0.0)
    forecast = _Forecast(vectors, sigma)
    best = (math.exp(forecast.dearest), _nothing(vectors))
    least = size(*best)
    if least > target:
        raise ValueError(
            f"expected a target size of at least {least} bytes, which is what {len(words)} words take without their "
            f"vectors, got {target}; allow more, or leave out words"
        )
    parts = _parts(vectors, sigma, method)

    def sampled(lam: float) -> float:
        """About the bits that `quantise` would find, from few rows."""
        bits = 0.0
        for mu, s in parts:
            step = max(1, mu.numel() * len(parts) // SAMPLE_VALUES)
            times = len(mu) / len(mu[::step])
            book, symbols = _chosen(mu[::step], s[::step], lam, method, 8, times)
            bits += times * book.bits(symbols) + 8 * len(pack_book(book))
        return bits

    other = least - best[1].bits / 8  # bytes that are not the search's
    if vectors.numel() > 2 * SAMPLE_VALUES:
        goal = 8 * (0.995 * target - other)
        for _ in range(5):
            at = forecast.place(goal)
            bits = sampled(math.exp(at))
            forecast.learn(at, bits, goal)
            if abs(bits / goal - 1) < 0.03:
                break
        forecast.forget()
    for _ in range(16):
        at = forecast.place(8 * (0.995 * target - other))
        lam = math.exp(at)
        quantised = quantise(vectors, sigma, lam, method)
        found = size(lam, quantised)
        other = found - quantised.bits / 8
        forecast.learn(at, quantised.bits, 8 * (target - other))
        if found <= target:
            best = (lam, quantised)
            if found >= 0.99 * target or at - forecast.cheapest < 1e-3:
                break
    return best


def _nothing(vectors: Tensor) -> Quantised:
    """All vectors as one code point: the smallest file."""
    n, d = vectors.shape
    book = vbq.Codebook(
        vectors.double().mean()[None].float(), torch.zeros(d, dtype=torch.int64), vbq.tables(torch.ones(1, 1).long())
    )
    return Quantised([book], [torch.zeros(n, d, dtype=torch.int64)], 8.0 * len(pack_book(book)))


def about_file(method: str, lam: float, about: dict[str, Any] | None) -> dict[str, Any]:
    """What the header says of how the file was made."""
    return {"method": method, "lambda": lam, **(about or {})}
