"""Rate and accuracy of a run of recipe=word_embeddings: python scripts/word_results.py RUN [QUESTIONS]

Writes nothing: prints one line for each file size, and at the end, for each method, the bits per dimension at which it
keeps 98, 95 and 90 % of the uncompressed score, and at which its distortion is that of the published algorithm (linear
between points). Bits count the file without its vocabulary. Needs the extra `bench`.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import zstandard
from torch import Tensor

from toolkit import embeddings
from toolkit.coding import vbq
from toolkit.embeddings import baselines as vector_baselines
from toolkit.embeddings import scores as word_scores
from toolkit.embeddings.exporting import vocabulary_size
from toolkit.embeddings.file import pack_book
from toolkit.heads.vectors import vectors_of
from toolkit.runs import load

SCORES = ("full/top10/all", "full/top1/all", "excluding/top1/all", "excluding/top10/all")
LAMBDAS = {"default": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0), "vbq": (0.1, 0.3, 1.0, 3.0, 10.0)}
STEPS = (0.1, 0.3, 1.0, 3.0)  # lambdas of the ablation
SHARES = (0.98, 0.95, 0.9, 0.8)
DISTORTIONS = (0.1, 0.3, 1.0)  # lambdas of the published algorithm whose distortions are compared


class Point(NamedTuple):
    """One file, or what would be one."""

    method: str
    setting: str
    bits: float  # per dimension, without the vocabulary
    vectors: Tensor  # float32 [words, d], decoded


def one(book: vbq.Codebook, symbols: Tensor) -> embeddings.Quantised:
    return embeddings.Quantised([book], [symbols], book.bits(symbols) + 8 * len(pack_book(book)))


def searched(mu: Tensor, sigma: Tensor, lam: float) -> embeddings.Quantised:
    """The published algorithm with the distribution of the values as prior."""
    grid = vbq.dyadic_grid(vbq.empirical(mu.flatten()))
    points, symbols = vbq.used(grid, vbq.search(mu, sigma, grid, lam))
    counts = vbq.count(symbols, len(points))[None]
    return one(vbq.Codebook(points, torch.zeros(mu.shape[1], dtype=torch.int64), vbq.tables(counts)), symbols)


def grouped(mu: Tensor, sigma: Tensor, lam: float) -> embeddings.Quantised:
    """The default without tables by dimension."""
    rows = embeddings.groups(len(mu))
    parts = [one(*vbq.refined(m, s, lam, contexts=1)) for m, s in zip(mu.split(rows), sigma.split(rows), strict=True)]
    books, symbols = [part.books[0] for part in parts], [part.symbols[0] for part in parts]
    return embeddings.Quantised(books, symbols, sum(part.bits for part in parts))


ABLATION: dict[str, Callable[[Tensor, Tensor, float], embeddings.Quantised]] = {
    "vbq, empirical prior": searched,
    "refined points and rates alone": lambda mu, sigma, lam: one(*vbq.refined(mu, sigma, lam, contexts=1)),
    "... and tables by dimension, no groups": lambda mu, sigma, lam: one(*vbq.refined(mu, sigma, lam)),
    "... and groups of ranks, one table each": grouped,
}


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=22).compress(data)


def points(words: list[str], mu: Tensor, sigma: Tensor) -> Iterator[Point]:
    """Files of our own, written, read and compared; the search's own bits for the steps between; other methods."""
    n = mu.numel()
    for method, lambdas in LAMBDAS.items():
        for lam in lambdas:
            quantised = embeddings.quantise(mu, sigma, lam, method)
            with tempfile.TemporaryDirectory() as folder:
                sizes = embeddings.write(Path(folder) / "v.tkc", words, quantised)
                with embeddings.open(Path(folder) / "v.tkc") as opened:
                    vectors = opened.vectors()
            assert torch.equal(vectors, quantised.vectors())
            size = 8 * (sizes["file"] - sizes["vocabulary"])
            setting = f"lambda={lam} file={sizes['file']}, {100 * (size / quantised.bits - 1):+.2f} % over the search"
            yield Point(method, setting, size / n, vectors)
    for name, make in ABLATION.items():
        for lam in STEPS:
            quantised = make(mu, sigma, lam)
            yield Point(name, f"lambda={lam}", quantised.bits / n, quantised.vectors())
    std = float(mu.std())
    for step in (0.4, 0.6, 0.9, 1.2, 1.6):
        small = vector_baselines.uniform(mu, step * std)
        yield Point("uniform, entropy", f"step={step} std", 8 * small.size / n, small.vectors)
    for codes, widths in ((256, (2, 4, 8, 16)), (16, (1, 2, 4, 8))):
        for width in widths:
            small = vector_baselines.product(mu, width, codes)
            yield Point(f"product, {codes} codes", f"{width} dimensions each", 8 * small.size / n, small.vectors)
    for kind, make_small in (("int8", vector_baselines.int8), ("float16", vector_baselines.float16)):
        small, other = make_small(mu), 8 * make_small(mu, zstd).size / n
        bits = 8 * small.size / n
        yield Point(kind, f"LZMA {bits:.3f}, zstd {other:.3f} bits", min(bits, other), small.vectors)


def rate_at(curve: list[tuple[float, float]], value: float) -> float:
    """Bits per dimension at which a curve crosses a value, linear between its points; NaN if it never does."""
    for (low, a), (high, b) in itertools.pairwise(sorted(curve)):
        if min(a, b) <= value <= max(a, b) and a != b:
            return low + (high - low) * (value - a) / (b - a)
    return float("nan")


def value_at(curve: list[tuple[float, float]], bits: float) -> float:
    """The value of a curve at so many bits, linear between its points; of the largest file above, NaN below them."""
    if bits >= max(curve)[0]:
        return max(curve)[1]
    for (low, a), (high, b) in itertools.pairwise(sorted(curve)):
        if low <= bits <= high:
            return a + (b - a) * (bits - low) / (high - low)
    return float("nan")


def main() -> None:
    found = vectors_of(load(sys.argv[1], "cpu"))
    assert found.sigma is not None
    mu, sigma = found.vectors, found.sigma
    asked = word_scores.questions(found.words, int(sys.argv[2]) if len(sys.argv) > 2 else None)
    print(f"{len(found.words)} words, {mu.shape[1]} dimensions, {len(asked.rows)} questions", flush=True)
    vocabulary = vocabulary_size(found.words)
    print(f"vocabulary {vocabulary} bytes, {8 * vocabulary / mu.numel():.3f} bits per dimension")
    whole = word_scores.analogies(mu, asked)
    print("uncompressed", {name: round(value, 4) for name, value in whole.items()}, flush=True)
    print("similarity", round(word_scores.similarity(found.words, mu), 4))
    curves: dict[str, list[tuple[float, dict[str, float]]]] = {}
    for method, setting, bits, vectors in points(found.words, mu, sigma):
        scores = word_scores.analogies(vectors, asked)
        scores["nats"] = float(((vectors - mu) / sigma).double().square().mean() / 2)
        curves.setdefault(method, []).append((bits, scores))
        shown = " ".join(f"{scores[name]:.4f} ({scores[name] / whole[name]:.3f})" for name in SCORES)
        parts = " ".join(f"{scores[f'full/top10/{part}']:.4f}" for part in ("semantic", "syntactic"))
        similar = word_scores.similarity(found.words, vectors)
        print(
            f"{method}; {setting}; {bits:.4f} bits; {shown}; {parts}; {similar:.4f}; {scores['nats']:.4f} nats",
            flush=True,
        )

    def curve(method: str, name: str) -> list[tuple[float, float]]:
        return [(bits, scores[name]) for bits, scores in curves[method]]

    for name in SCORES:
        for share in SHARES:
            print(f"bits per dimension at {share:.0%} of {name}:", end=" ")
            print(", ".join(f"{method} {rate_at(curve(method, name), share * whole[name]):.3f}" for method in curves))
    for lam in DISTORTIONS:
        nats = curves["vbq"][LAMBDAS["vbq"].index(lam)][1]["nats"]
        print(f"bits per dimension at {nats:.4f} nats, as vbq with lambda={lam}:", end=" ")
        print(", ".join(f"{m} {rate_at(curve(m, 'nats'), nats):.3f}" for m in ("default", "vbq", *ABLATION)))
    for name in SCORES:
        for method in curves:
            if method.startswith(("product", "int8", "uniform")):
                for bits, scores in curves[method]:
                    ours = value_at(curve("default", name), bits)
                    print(f"{name} at the {bits:.3f} bits of {method}: {scores[name]:.4f}, default {ours:.4f}")


if __name__ == "__main__":
    main()
