"""Analogy and similarity scores of word vectors, by the protocols of the field, on the tests inside gensim's wheel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

PROTOCOLS = ("full", "excluding")  # the answer is sought among all words, or all but the three of the question
PARTS = ("all", "semantic", "syntactic")


class Questions(NamedTuple):
    """Analogies a : b = c : answer, of words of one vocabulary."""

    rows: Tensor  # int64 [questions, 4]
    semantic: Tensor  # bool [questions]; the others are syntactic


def questions(words: Sequence[str], at_most: int | None = None, seed: int = 0) -> Questions:
    """The questions of questions-words.txt (Mikolov et al. 2013, arXiv:1301.3781) whose words are all among `words`.

    Words are compared as they are, else in lower case. at_most: a random choice of so many.
    """
    from gensim.test.utils import datapath

    number = {word: i for i, word in enumerate(words)}
    rows, semantic, is_semantic = [], [], True
    with open(datapath("questions-words.txt"), encoding="utf-8") as file:
        for line in file:
            if line.startswith(":"):
                is_semantic = not line[1:].strip().startswith("gram")
                continue
            found = [number.get(word, number.get(word.lower(), -1)) for word in line.split()]
            if min(found) >= 0:
                rows.append(found)
                semantic.append(is_semantic)
    all_rows, kinds = torch.tensor(rows, dtype=torch.int64).view(-1, 4), torch.tensor(semantic, dtype=torch.bool)
    if at_most is not None and len(all_rows) > at_most:
        chosen = torch.randperm(len(all_rows), generator=torch.Generator().manual_seed(seed))[:at_most]
        all_rows, kinds = all_rows[chosen], kinds[chosen]
    return Questions(all_rows, kinds)


def ranks(vectors: Tensor, asked: Questions) -> dict[str, Tensor]:
    """How many other words score at least as high as the answer, by protocol: int64 [questions] each.

    vectors: float32 [words, d]. The score of w is (b - a + c) . w with rows of length 1 (plus 1e-8, so that rows of
    zeros stay finite); ties are misses. full: Yang, Bamler, Mandt 2020, arXiv:2002.08158; excluding: as gensim does.
    """
    unit = vectors / (vectors.norm(dim=1, keepdim=True) + 1e-8)
    full, excluding = [], []
    for part in asked.rows.split(500):
        a, b, c, answer = part.T
        scores = (unit[b] - unit[a] + unit[c]) @ unit.T
        least = scores.gather(1, answer[:, None])
        above = (scores >= least).sum(1) - 1
        full.append(above)
        excluding.append(above - (scores.gather(1, part[:, :3]) >= least).sum(1))
    return {
        name: torch.cat([*found, asked.rows.new_zeros(0)])
        for name, found in zip(PROTOCOLS, (full, excluding), strict=True)
    }


def analogies(vectors: Tensor, asked: Questions) -> dict[str, float]:
    """Shares of questions whose answer is first, or among the first ten: keys such as "full/top10/semantic".

    NaN where there are no questions of a kind.
    """
    kinds = dict(zip(PARTS, (torch.ones_like(asked.semantic), asked.semantic, ~asked.semantic), strict=True))
    return {
        f"{protocol}/top{k}/{part}": float((rank[kinds[part]] < k).double().mean())
        for protocol, rank in ranks(vectors, asked).items()
        for k in (1, 10)
        for part in PARTS
    }


def similarity(words: Sequence[str], vectors: Tensor) -> float:
    """Spearman's correlation of cosines with people's ratings (WordSim-353, Finkelstein et al. 2001); NaN if below 3.

    vectors: float32 [words, d]. Pairs with a word that is not among `words` are left out.
    """
    from gensim.test.utils import datapath
    from scipy.stats import spearmanr

    number = {word: i for i, word in enumerate(words)}
    unit = (vectors / (vectors.norm(dim=1, keepdim=True) + 1e-8)).numpy()
    cosines, ratings = [], []
    with open(datapath("wordsim353.tsv"), encoding="utf-8") as file:
        for line in file:
            fields = line.split("\t")
            if line.startswith("#") or len(fields) < 3:
                continue
            i, j = (number.get(word, number.get(word.lower(), -1)) for word in fields[:2])
            if min(i, j) >= 0:
                cosines.append(float(unit[i] @ unit[j]))
                ratings.append(float(fields[2]))
    if len(cosines) < 3 or np.std(cosines) == 0:
        return float("nan")
    return float(spearmanr(cosines, ratings).statistic)
