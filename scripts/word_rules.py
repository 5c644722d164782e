"""Which sigma suits vectors that have none, tried on a run that has it: python scripts/word_rules.py RUN [RULE ...]

Each rule replaces the posterior's standard deviations; files of equal size are compared by what analogies they keep and
by the distortion that the posterior itself sees, nats for each coordinate. Writes nothing but temporary files.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from toolkit import embeddings
from toolkit.embeddings import scores as word_scores
from toolkit.embeddings.exporting import vocabulary_size
from toolkit.heads.vectors import vectors_of
from toolkit.runs import load

BITS = (0.66, 1.1)  # of a coordinate, in files without their vocabulary
SAMPLE = 1e-3  # gensim's threshold of subsampling


def rules(vectors: Tensor, counts: Tensor, posterior: Tensor) -> dict[str, Tensor]:
    """Standard deviations up to a factor, float64 [words, 1 or d]."""
    mu, n, sigma = vectors.double(), counts.double()[:, None], posterior.double()
    ratio = SAMPLE * n.sum() / n
    pairs = n * (ratio.sqrt() + ratio).clamp(max=1)
    rank = torch.arange(len(n), dtype=torch.float64)[:, None] + 2.7

    def columns(precision: Tensor) -> Tensor:
        """Root mean square of each dimension, float64 [1, d], words weighted by float64 [words, 1]."""
        return ((precision * mu.square()).sum(0, keepdim=True) / precision.sum()).sqrt()

    found = {
        "posterior": sigma,
        "posterior, mean of each word": sigma.log().mean(1, keepdim=True).exp(),
        "count^-1/2 after subsampling": pairs**-0.5,
        "length of the vector": mu.norm(dim=1, keepdim=True),
        "constant": torch.ones_like(n),
        "1 / rms of the dimension": 1 / columns(torch.ones_like(n)),
    }
    for power in (0.8, 0.65, 0.5):
        found[f"posterior^{power}"] = sigma**power
    for name, precision in (("count", n), ("rank", 1 / rank)):
        for power in (2, 3, 4):
            rows, sign = precision ** (-1 / power), "-" if name == "count" else ""
            found[f"{name}^{sign}1/{power}"] = rows
            found[f"{name}^{sign}1/{power} / rms"] = rows / columns(rows**-2)
    return found


def main() -> None:
    found = vectors_of(load(sys.argv[1], "cpu"))
    assert found.sigma is not None and found.counts is not None
    mu, posterior = found.vectors, found.sigma
    asked = word_scores.questions(found.words)
    vocabulary = vocabulary_size(found.words)
    whole = word_scores.analogies(mu, asked)
    known = rules(mu, found.counts, posterior)
    for name in sys.argv[2:] or known:
        sigma = known[name].expand_as(mu)
        sigma = (sigma * (posterior.double().log().mean() - sigma.log().mean()).exp()).float().contiguous()
        for bits in BITS:
            target = int(bits * mu.numel() / 8) + vocabulary
            lam, quantised = embeddings.fit(found.words, mu, sigma, target)
            vectors = quantised.vectors()
            nats = float(((vectors - mu) / posterior).double().square().mean() / 2)
            scores = word_scores.analogies(vectors, asked)
            shown = " ".join(
                f"{scores[key]:.4f} ({scores[key] / whole[key]:.3f})"
                for key in ("full/top10/all", "full/top1/all", "excluding/top1/all")
            )
            similar = word_scores.similarity(found.words, vectors)
            rate = f"lambda={lam:.4g}; {quantised.bits / mu.numel():.4f} bits; {nats:.4f} nats"
            print(f"{name}; {rate}; {shown}; {similar:.4f}", flush=True)


if __name__ == "__main__":
    main()
