"""Neighbours found in compressed vectors: python scripts/search_results.py VECTORS [NAMES]

VECTORS, NAMES: as input= and names= of export_embeddings. Recall@10 of 1,000 rows at random: how many of the ten rows
of largest cosine in float32 are among the ten of the compressed ones, the query itself in float32; beside product and
scalar quantisation and RaBitQ of faiss, of normalised vectors. Needs faiss-cpu. Bits count what an index has learnt.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import faiss
import torch
from torch import Tensor
from torch.nn.functional import normalize

from toolkit import embeddings
from toolkit.embeddings import sources

QUERIES, NEAREST = 1000, 10


def main() -> None:
    found = sources.read(sys.argv[1], names=sys.argv[2] if len(sys.argv) > 2 else None)
    vectors = found.vectors
    n, d = vectors.shape
    unit = normalize(vectors, dim=1)
    chosen = torch.randperm(n, generator=torch.Generator().manual_seed(0))[:QUERIES]
    queries = unit[chosen]

    truth = torch.cat([_truth(unit, part) for part in chosen.split(100)])
    print(f"{n} x {d}", flush=True)

    def show(name: str, rows: Tensor, size: float) -> None:
        recall = float((rows[:, :, None] == truth[:, None]).any(2).double().mean())
        print(f"| {name} | {8 * size / (n * d):.2f} | {recall:.3f} |", flush=True)

    for lam in (0.004, 0.02, 0.09, 0.35):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "t.tkc"
            sizes = embeddings.export(
                file, found.words, unit, sources.sigma_of(found._replace(vectors=unit), "cosine"), "lambda", lam,
                kept=found.kept,
            )  # fmt: skip
            with embeddings.open(file) as opened:
                rows = opened.nearest(queries, NEAREST + 1)[1]
        show(f"toolkit, metric=cosine lambda={lam}", _drop(rows, chosen), sizes["file"] - sizes["vocabulary"])
    x = unit.numpy()
    learnt = 4 * 256 * d
    indices = [
        *((f"faiss PQ, {w} dimensions, 8 bits", faiss.IndexPQ(d, d // w, 8), learnt) for w in (2, 4, 8) if d % w == 0),
        *((f"faiss PQ, {w} dimensions, 4 bits", faiss.IndexPQ(d, d // w, 4), learnt // 16) for w in (1, 2, 5)
          if d % w == 0),
        ("faiss SQ, 4 bits", faiss.IndexScalarQuantizer(d, faiss.ScalarQuantizer.QT_4bit), 8 * d),
        *((f"faiss RaBitQ, {bits} bits", faiss.IndexRaBitQ(d, faiss.METRIC_INNER_PRODUCT, bits), 4 * d)
          for bits in (1, 2, 4)),
    ]  # fmt: skip
    for name, index, side in indices:
        index.train(x)
        index.add(x)
        rows = torch.from_numpy(index.search(queries.numpy(), NEAREST + 1)[1])
        size = index.sa_code_size() if hasattr(index, "sa_code_size") else index.code_size
        show(name, _drop(rows, chosen), size * n + side)


def _truth(unit: Tensor, own: Tensor) -> Tensor:
    """The ten nearest other rows of int64 [queries] rows."""
    scores = unit[own] @ unit.T
    scores[torch.arange(len(own)), own] = -2
    return scores.topk(NEAREST).indices


def _drop(rows: Tensor, own: Tensor) -> Tensor:
    """Rows without the query itself, ten each: int64 [queries, 10]."""
    return torch.stack([row[row != x][:NEAREST] for row, x in zip(rows, own, strict=True)])


if __name__ == "__main__":
    main()
