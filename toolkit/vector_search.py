"""Code points for word vectors, group by group of ranks, and the search for the lambda of a file size."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from toolkit.coding import vbq
from toolkit.vector_file import Quantised, pack_book, write

FIRST_GROUP, GROWTH, LAST_GROUP = 512, 1.5, 16384  # rows of the first group of ranks; of each next, at most
SAMPLE_VALUES = 400_000  # of the rows that a search for lambda begins with
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


def quantise(
    vectors: Tensor, sigma: Tensor, lam: float, method: str = "default", rounds: int = 8, compiled: bool = False
) -> Quantised:
    """Choose code points for float32 [words, d] vectors, the most frequent word first, with sigma of the same shape.

    lam: bits of rate are worth so many nats of distortion, at least 0; method: default, or vbq for the published
    algorithm; rounds: of refinement; compiled: search through torch.compile. Raises ValueError for an unknown method,
    and what `toolkit.coding.vbq.check` says.
    """
    if method not in METHODS:
        raise ValueError(f"expected method to be one of {', '.join(METHODS)}, got {method!r}")
    vbq.check(vectors, sigma, lam)
    if method == "vbq":
        pairs = [vbq.plain(vectors, sigma, lam, compiled)]
    else:
        parts = groups(len(vectors))
        pairs = [
            vbq.refined(mu, s, lam, rounds, compiled=compiled)
            for mu, s in zip(vectors.split(parts), sigma.split(parts), strict=True)
        ]
    bits = sum(book.bits(symbols) + 8 * len(pack_book(book)) for book, symbols in pairs)
    return Quantised([book for book, _ in pairs], [symbols for _, symbols in pairs], bits)


def fit(
    words: Sequence[str], vectors: Tensor, sigma: Tensor, target: int, method: str = "default",
    about: dict[str, Any] | None = None, compiled: bool = False,
) -> tuple[float, Quantised]:  # fmt: skip
    """The lambda, and the vectors quantised with it, whose file is as large as `target` bytes allow, to 1 %.

    Arguments as of `quantise` and `write`, whose header gets method and lambda too. Raises ValueError that names the
    smallest size if `target` is below it.
    """

    def size(lam: float, quantised: Quantised) -> int:
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "size.tkc")
            return write(file, words, quantised, about_file(method, lam, about))["file"]

    def tried(lam: float, rows: slice = slice(None), rounds: int = 8) -> Quantised:
        return quantise(vectors[rows], sigma[rows], lam, method, rounds, compiled)

    scale = float((vectors.double().square() / (2 * sigma.double().square())).mean())
    dearest = 1e4 * max(scale, 1e-30)  # so much for a bit that no value is worth one
    quantised = tried(dearest)
    least = size(dearest, quantised)
    if least > target:
        raise ValueError(
            f"expected a target size of at least {least} bytes, which is what {len(words)} words take without their "
            f"vectors, got {target}; allow more, or leave out words"
        )
    # Bits of a sample of the rows find the neighbourhood of lambda in a fraction of the time.
    sample = slice(None, None, max(1, vectors.numel() // SAMPLE_VALUES))
    goal = 8 * (target - least) * len(vectors[sample]) / len(vectors)
    cheapest = math.log(dearest) - 40.0
    low, high = cheapest, math.log(dearest)
    for _ in range(9):
        middle = (low + high) / 2
        low, high = (low, middle) if tried(math.exp(middle), sample, 2).bits <= goal else (middle, high)
    guess, low, high = (low + high) / 2, -math.inf, math.log(dearest)
    best, other = (dearest, quantised), least - quantised.bits / 8  # bytes that are not the search's
    for _ in range(16):
        lam = math.exp(guess)
        quantised = tried(lam)
        found = other + quantised.bits / 8
        if abs(found / target - 0.995) < 0.006:  # near enough to write it and see
            found = size(lam, quantised)
            other = found - quantised.bits / 8
        if found <= target:
            high, best = guess, (lam, quantised)
            if found >= 0.99 * target or guess <= cheapest:
                break
        else:
            low = guess
        # A bit a value less for each factor of 4 in lambda, where lambda is small; at worst the bracket is halved.
        newton = guess + math.log(4) * 8 * (found - 0.995 * target) / vectors.numel()
        if not low < newton < high:
            newton = (max(low, high - 4) + high) / 2
        if abs(newton - guess) < 1e-4:
            break
        guess = newton
    while size(*best) > target and best[0] < dearest:  # an estimate that was a little too low
        lam = min(1.03 * best[0], dearest)
        best = (lam, tried(lam))
    return best


def about_file(method: str, lam: float, about: dict[str, Any] | None) -> dict[str, Any]:
    """What the header says of how the file was made."""
    return {"method": method, "lambda": lam, **(about or {})}
