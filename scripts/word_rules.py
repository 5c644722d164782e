"""Which sigma suits vectors that have none, tried on a run that has it: python scripts/word_rules.py RUN [QUESTIONS]

Each rule replaces the posterior's standard deviations; files of equal size are compared by what analogies they keep and
by the distortion that the posterior itself sees, nats for each coordinate. Writes nothing but temporary files.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor

from toolkit import embeddings, word_tests
from toolkit.data.vectors import of_run

BITS = (0.66, 1.1)  # of a coordinate, in files without their vocabulary
SAMPLE = 1e-3  # gensim's threshold of subsampling


def rules(vectors: Tensor, counts: Tensor, posterior: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Standard deviations up to a factor, float64 [words, 1 or d]."""
    mu, n, sigma = vectors.double(), counts.double()[:, None], posterior.double()
    ratio = SAMPLE * n.sum() / n
    pairs = n * (ratio.sqrt() + ratio).clamp(max=1)
    rank = torch.arange(len(n), dtype=torch.float64)[:, None] + 2.7

    def columns(precision: Tensor) -> Tensor:
        """Root mean square of each dimension, float64 [1, d], words weighted by their precision."""
        return ((precision * mu.square()).sum(0, keepdim=True) / precision.sum()).sqrt()

    return {
        "posterior": lambda: sigma,
        "posterior, mean of each word": lambda: sigma.log().mean(1, keepdim=True).exp(),
        "count^-1/2": lambda: n**-0.5,
        "count^-1/2, subsampled": lambda: pairs**-0.5,
        "count^-1/3": lambda: n ** (-1 / 3),
        "count^-1/4": lambda: n**-0.25,
        "count^-1/2 / rms of the dimension": lambda: pairs**-0.5 / columns(pairs),
        "rank^1/2": lambda: rank**0.5,
        "rank^1/3": lambda: rank ** (1 / 3),
        "rank^1/4": lambda: rank**0.25,
        "rank^1/2 / rms of the dimension": lambda: rank**0.5 / columns(1 / rank),
        "length of the vector": lambda: mu.norm(dim=1, keepdim=True),
        "1 / rms of the dimension": lambda: 1 / columns(torch.ones_like(n)),
        "constant": lambda: torch.ones_like(n),
    }


def main() -> None:
    found = of_run(sys.argv[1])
    assert found.sigma is not None and found.counts is not None
    mu, posterior = found.vectors, found.sigma
    asked = word_tests.questions(found.words, int(sys.argv[2]) if len(sys.argv) > 2 else None)
    vocabulary = embeddings.vocabulary_size(found.words)
    whole = word_tests.analogies(mu, asked)
    for name, rule in rules(mu, found.counts, posterior).items():
        sigma = rule().expand_as(mu)
        sigma = (sigma * (posterior.double().log().mean() - sigma.log().mean()).exp()).float().contiguous()
        for bits in BITS:
            target = int(bits * mu.numel() / 8) + vocabulary
            lam, quantised = embeddings.fit(found.words, mu, sigma, target)
            vectors = quantised.vectors()
            nats = float(((vectors - mu) / posterior).double().square().mean() / 2)
            scores = word_tests.analogies(vectors, asked)
            shown = " ".join(
                f"{scores[key]:.4f} ({scores[key] / whole[key]:.3f})"
                for key in ("full/top10/all", "full/top1/all", "excluding/top1/all")
            )
            similar = word_tests.similarity(found.words, vectors)
            rate = f"lambda={lam:.4g}; {quantised.bits / mu.numel():.4f} bits; {nats:.4f} nats"
            print(f"{name}; {rate}; {shown}; {similar:.4f}", flush=True)


if __name__ == "__main__":
    main()
