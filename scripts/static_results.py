"""Static sentence embeddings of many sizes: python scripts/static_results.py TABLE.safetensors TOKENIZER.json

Beside int8, scalar and product quantisation; needs tokenizers and faiss-cpu. Two tests, made of texts inside gensim's
wheel. Similarity: Spearman's correlation of cosines with the ratings that people gave to the 1,225 pairs of 50
documents (Lee, Pincombe, Welsh 2005). Retrieval: the second half of a paragraph is sought by the first, among all
paragraphs of 60 words or more of 206 Wikipedia pages; the mean of 1 / rank. Shares are of the whole table's scores, and
scatter by a per cent or two. Error, which does not: 1 - cosine of the texts' vectors with those of the whole table.
"""

from __future__ import annotations

import bz2
import sys
import tempfile
from pathlib import Path

import faiss
import numpy as np
import torch
from gensim.corpora.wikicorpus import extract_pages, filter_wiki
from gensim.test.utils import datapath
from scipy.stats import spearmanr
from tokenizers import Tokenizer
from torch import Tensor

from toolkit import embeddings
from toolkit.data.text import WIKIPEDIA
from toolkit.embeddings import sources


def paragraphs() -> list[list[str]]:
    found = []
    with bz2.open(datapath(WIKIPEDIA)) as file:
        for _, text, _ in extract_pages(file, ("0",)):
            found += [words for words in map(str.split, filter_wiki(text).splitlines()) if len(words) >= 60]
    return found


class Test:
    """Both tests, of texts that are tokens already."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        def ids(texts: list[str]) -> list[list[int]]:
            return [x.ids for x in tokenizer.encode_batch(texts, add_special_tokens=False)]

        with open(datapath("lee.cor"), encoding="latin-1") as file:
            self.documents = ids([line.strip() for line in file if line.strip()])
        self.ratings = np.loadtxt(datapath("similarities0-1.txt"))
        halves = paragraphs()
        self.queries = ids([" ".join(x[: len(x) // 2]) for x in halves])
        self.answers = ids([" ".join(x[len(x) // 2 :]) for x in halves])

    def score(self, table: Tensor) -> tuple[float, float, Tensor]:
        """Similarity, retrieval, and the vectors of all texts, of length 1."""

        def means(texts: list[list[int]]) -> Tensor:
            flat = torch.tensor([i for text in texts for i in text])
            starts = torch.tensor([0, *np.cumsum([len(text) for text in texts])[:-1]])
            return torch.nn.functional.normalize(torch.nn.functional.embedding_bag(flat, table, starts), dim=1)

        d = means(self.documents)
        upper = np.triu_indices(len(d), 1)
        similarity = float(spearmanr((d @ d.T).numpy()[upper], self.ratings[upper]).statistic)
        queries, answers = means(self.queries), means(self.answers)
        scores = queries @ answers.T
        rank = (scores >= scores.diagonal()[:, None]).sum(1).double()
        return similarity, float((1 / rank).mean()), torch.cat([d, queries, answers])


def trained(index: faiss.Index, table: Tensor) -> tuple[Tensor, float]:
    """What comes back of a table, and its bytes, with what the index learnt."""
    x = table.numpy()
    index.train(x)
    back = index.sa_decode(index.sa_encode(x))
    learnt = 4 * 256 * x.shape[1] if isinstance(index, faiss.IndexPQ) else 8 * x.shape[1]
    return torch.from_numpy(back), index.sa_code_size() * len(x) + learnt


def main() -> None:
    path, names = sys.argv[1:3]
    found = sources.read(path, names=names)
    table, test = found.vectors, Test(Tokenizer.from_file(names))
    whole, (rows, d) = test.score(table), table.shape
    print(
        f"{len(test.queries)} paragraphs, {len(test.documents)} documents; {rows} x {d}, float16 {2 * rows * d} bytes"
    )

    def show(name: str, vectors: Tensor, size: float) -> None:
        got = test.score(vectors)
        shares = [a / b for a, b in zip(got[:2], whole[:2], strict=True)]
        error = float((1 - (got[2] * whole[2]).sum(1)).mean())
        print(
            f"| {name} | {size:.0f} | {8 * size / (rows * d):.2f} | {2 * rows * d / size:.1f} "
            f"| {got[0]:.4f} ({shares[0]:.3f}) | {got[1]:.4f} ({shares[1]:.3f}) | {sum(shares) / 2:.3f} "
            f"| {error:.4f} |", flush=True,
        )  # fmt: skip

    show("float32", table, 4 * rows * d)
    for metric, lambdas in ("frequency", (0.02, 0.06, 0.08, 0.095, 0.108, 0.125, 0.2, 0.5)), ("cosine", (0.1,)):
        for lam in lambdas:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "t.tkc"
                sigma = sources.sigma_of(found, metric)
                sizes = embeddings.export(file, found.words, table, sigma, "lambda", lam, kept=found.kept)
                with embeddings.open(file) as opened:
                    show(f"{metric}, lambda={lam}", opened.vectors(), sizes["file"] - sizes["vocabulary"])
    scale = float(table.abs().max()) / 127
    show("int8, one scale", (table / scale).round() * scale, rows * d)
    for bits in (8, 4):
        kind = getattr(faiss.ScalarQuantizer, f"QT_{bits}bit")
        show(f"faiss SQ{bits}", *trained(faiss.IndexScalarQuantizer(d, kind), table))
    for width in (4, 8, 16):
        show(f"faiss PQ, {width} dimensions each", *trained(faiss.IndexPQ(d, d // width, 8), table))


if __name__ == "__main__":
    main()
