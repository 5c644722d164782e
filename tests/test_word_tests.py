"""Scores of word vectors against gensim's own, and what other ways of making vectors small give."""

import math

import pytest
import torch
from gensim.models import KeyedVectors
from gensim.test.utils import datapath
from torch import Tensor

from toolkit.embeddings import baselines as vector_baselines
from toolkit.embeddings import scores as word_scores


def vectors(d: int = 20) -> tuple[list[str], Tensor]:
    """Vectors of all words of the questions in which many analogies hold: pairs differ by a relation's direction."""
    rng = torch.Generator().manual_seed(0)
    found: dict[str, Tensor] = {}
    direction = torch.zeros(d)
    with open(datapath("questions-words.txt"), encoding="utf-8") as file:
        for line in file:
            words = line.lower().split()
            if line.startswith(":"):
                direction = torch.randn(d, generator=rng)
                continue
            for a, b in (words[:2], words[2:]):
                found.setdefault(a, torch.randn(d, generator=rng))
                found.setdefault(b, found[a] + direction + 0.9 * torch.randn(d, generator=rng))
    return list(found), torch.stack(list(found.values()))


def test_the_protocol_without_the_question_is_that_of_gensim() -> None:
    words, x = vectors()
    keyed = KeyedVectors(x.shape[1])
    keyed.add_vectors(words, x.numpy())
    score, sections = keyed.evaluate_word_analogies(datapath("questions-words.txt"))
    mine = word_scores.analogies(x, word_scores.questions(words))
    assert mine["excluding/top1/all"] == pytest.approx(score, abs=1e-3)
    parts = {True: [0, 0], False: [0, 0]}
    for section in sections[:-1]:
        right = len(section["correct"])
        parts[section["section"].startswith("gram")][0] += right
        parts[section["section"].startswith("gram")][1] += right + len(section["incorrect"])
    assert mine["excluding/top1/syntactic"] == pytest.approx(parts[True][0] / parts[True][1], abs=1e-3)
    assert mine["excluding/top1/semantic"] == pytest.approx(parts[False][0] / parts[False][1], abs=1e-3)
    assert 0.05 < mine["full/top1/all"] < mine["full/top10/all"] < mine["excluding/top10/all"] <= 1


def test_vectors_that_are_all_equal_answer_nothing() -> None:
    words, x = vectors()
    asked = word_scores.questions(words, at_most=50)
    for same in (torch.zeros_like(x), torch.ones_like(x)):
        assert set(word_scores.analogies(same, asked).values()) == {0.0}


def test_a_random_choice_of_questions_is_always_the_same() -> None:
    words, _ = vectors()
    first, again = (word_scores.questions(words, at_most=100) for _ in range(2))
    assert len(first.rows) == 100 and torch.equal(first.rows, again.rows)
    assert 0 < int(first.semantic.sum()) < 100


def test_without_questions_scores_are_undefined() -> None:
    asked = word_scores.questions(["one", "two"])
    assert all(map(math.isnan, word_scores.analogies(torch.randn(2, 3), asked).values()))
    assert math.isnan(word_scores.similarity(["one", "two"], torch.randn(2, 3)))


def test_similarity_is_that_of_gensim() -> None:
    rng = torch.Generator().manual_seed(0)
    with open(datapath("wordsim353.tsv"), encoding="utf-8") as file:
        pairs = [line.split("\t")[:2] for line in file if not line.startswith("#")]
    words = list({word.lower(): None for pair in pairs for word in pair})
    x = torch.randn(len(words), 8, generator=rng)
    keyed = KeyedVectors(8)
    keyed.add_vectors(words, x.numpy())
    theirs = keyed.evaluate_word_pairs(datapath("wordsim353.tsv"))[1].statistic
    assert word_scores.similarity(words, x) == pytest.approx(float(theirs), abs=1e-6)


def test_baselines_lose_little_when_large_and_more_when_small() -> None:
    x = torch.randn(3000, 16, generator=torch.Generator().manual_seed(0))

    def error(small: vector_baselines.Small) -> float:
        assert small.vectors.shape == x.shape and small.vectors.dtype == torch.float32
        return float((small.vectors - x).square().mean())

    n = x.numel()
    half, byte = vector_baselines.float16(x), vector_baselines.int8(x)
    assert error(half) < 1e-6 and 1.5 * n < half.size < 2.1 * n
    assert error(byte) < 1e-3 and 0.5 * n < byte.size < 1.05 * n
    # A step of one standard deviation: 2.1 bits (the entropy of a rounded Gaussian), error near 1 / 12.
    rounded = vector_baselines.uniform(x, 1.0)
    assert 8 * rounded.size / n == pytest.approx(2.105, abs=0.05) and error(rounded) == pytest.approx(1 / 12, rel=0.1)
    fine, coarse = vector_baselines.product(x, 2, rounds=5), vector_baselines.product(x, 8, rounds=5)
    assert fine.size == 8 * 3000 + 2 * 256 * 16 and coarse.size == 2 * 3000 + 2 * 256 * 16
    assert error(fine) < 0.05 < error(coarse) < 0.8
