"""Rate and accuracy of a run of recipe=word_embeddings: python scripts/word_results.py RUN [QUESTIONS]

Writes nothing: prints one line for each file size, and at the end, for each method, the bits per dimension at which it
keeps 98, 95 and 90 % of the uncompressed score (linear between points). Bits count the file without its vocabulary.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from toolkit import embeddings, vector_baselines, word_tests
from toolkit.coding import vbq
from toolkit.data.vectors import of_run

SCORES = ("full/top10/all", "full/top1/all", "excluding/top1/all", "excluding/top10/all")
LAMBDAS = {"default": (0.01, 0.03, 0.1, 0.3), "vbq": (0.01, 0.03, 0.1, 0.3)}
SHARES = (0.98, 0.95, 0.9)


def one(book: vbq.Codebook, symbols: Tensor) -> embeddings.Quantised:
    return embeddings.Quantised([book], [symbols], book.bits(symbols))


def searched(mu: Tensor, sigma: Tensor, lam: float) -> embeddings.Quantised:
    """The published algorithm with the distribution of the values as prior."""
    grid = vbq.dyadic_grid(vbq.empirical(mu.flatten()))
    points, symbols = vbq.used(grid, vbq.search(mu, sigma, grid, lam))
    counts = vbq.count(symbols, len(points))[None]
    return one(vbq.Codebook(points, torch.zeros(mu.shape[1], dtype=torch.int64), vbq.tables(counts)), symbols)


def grouped(mu: Tensor, sigma: Tensor, lam: float) -> embeddings.Quantised:
    """The default without tables by dimension."""
    rows = embeddings.groups(len(mu))
    pairs = [vbq.refined(m, s, lam, contexts=1) for m, s in zip(mu.split(rows), sigma.split(rows), strict=True)]
    bits = sum(book.bits(symbols) for book, symbols in pairs)
    return embeddings.Quantised([book for book, _ in pairs], [symbols for _, symbols in pairs], bits)


ABLATION: dict[str, Callable[[Tensor, Tensor, float], embeddings.Quantised]] = {
    "vbq, empirical prior": searched,
    "refined points and rates alone": lambda mu, sigma, lam: one(*vbq.refined(mu, sigma, lam, contexts=1)),
    "... and tables by dimension, no groups": lambda mu, sigma, lam: one(*vbq.refined(mu, sigma, lam)),
    "... and groups of ranks, one table each": grouped,
}


def points(words: list[str], mu: Tensor, sigma: Tensor) -> Iterator[tuple[str, str, float, Tensor]]:
    """(method, setting, bits per dimension, decoded vectors); files are written, read and compared."""
    n = mu.numel()
    for method, lambdas in LAMBDAS.items():
        for lam in lambdas:
            quantised = embeddings.quantise(mu, sigma, lam, method)
            with tempfile.TemporaryDirectory() as folder:
                sizes = embeddings.write(Path(folder) / "v.tkc", words, quantised)
                with embeddings.open(Path(folder) / "v.tkc") as opened:
                    vectors = opened.vectors()
            assert torch.equal(vectors, quantised.vectors())
            bits = 8 * (sizes["file"] - sizes["vocabulary"]) / n
            setting = f"lambda={lam} search={quantised.bits / n:.4f} file={sizes['file']}"
            yield method, setting, bits, vectors
    for name, make in ABLATION.items():
        for lam in LAMBDAS["vbq"][1:3]:
            quantised = make(mu, sigma, lam)
            yield name, f"lambda={lam}", quantised.bits / n, quantised.vectors()
    std = float(mu.std())
    for step in (0.4, 0.6, 0.9, 1.2):
        small = vector_baselines.uniform(mu, step * std)
        yield "uniform, entropy", f"step={step} std", 8 * small.size / n, small.vectors
    for width in (2, 4, 8, 16):
        small = vector_baselines.product(mu, width)
        yield "product", f"width={width}", 8 * small.size / n, small.vectors
    small = vector_baselines.int8(mu)
    yield "int8, LZMA", "", 8 * small.size / n, small.vectors
    small = vector_baselines.float16(mu)
    yield "float16, LZMA", "", 8 * small.size / n, small.vectors


def rate_at(curve: list[tuple[float, float]], score: float) -> float:
    """Bits per dimension at which a curve reaches a score, linear between its points; NaN if it never does."""
    for (low, a), (high, b) in itertools.pairwise(sorted(curve)):
        if a < score <= b:
            return low + (high - low) * (score - a) / (b - a)
    return float("nan")


def main() -> None:
    found = of_run(sys.argv[1])
    assert found.sigma is not None
    asked = word_tests.questions(found.words, int(sys.argv[2]) if len(sys.argv) > 2 else None)
    print(f"{len(found.words)} words, {found.vectors.shape[1]} dimensions, {len(asked.rows)} questions", flush=True)
    vocabulary = embeddings.vocabulary_size(found.words)
    print(f"vocabulary {vocabulary} bytes, {8 * vocabulary / found.vectors.numel():.3f} bits per dimension")
    whole = word_tests.analogies(found.vectors, asked)
    print("uncompressed", {name: round(value, 4) for name, value in whole.items()}, flush=True)
    print("similarity", round(word_tests.similarity(found.words, found.vectors), 4))
    curves: dict[str, list[tuple[float, dict[str, float]]]] = {}
    for method, setting, bits, vectors in points(found.words, found.vectors, found.sigma):
        scores = word_tests.analogies(vectors, asked)
        curves.setdefault(method, []).append((bits, scores))
        shown = " ".join(f"{scores[name]:.4f} ({scores[name] / whole[name]:.3f})" for name in SCORES)
        parts = " ".join(f"{scores[f'full/top10/{part}']:.4f}" for part in ("semantic", "syntactic"))
        similar = word_tests.similarity(found.words, vectors)
        print(f"{method}; {setting}; {bits:.4f} bits; {shown}; {parts}; {similar:.4f}", flush=True)
    for name in SCORES:
        for share in SHARES:
            print(f"bits per dimension at {share:.0%} of {name}:", end=" ")
            rates = {m: rate_at([(b, s[name]) for b, s in points], share * whole[name]) for m, points in curves.items()}
            print(", ".join(f"{method} {rate:.3f}" for method, rate in rates.items()))


if __name__ == "__main__":
    main()
