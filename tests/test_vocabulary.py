"""Vocabularies: words of any kind and order come back, cost what their kind allows, and damaged ones are refused."""

import random

import numpy as np
import pytest

from toolkit.embeddings import spelling, vocabulary


def english(n: int, seed: int = 0) -> list[str]:
    """Words as a language forms them: stems of syllables with endings, each once, in no order."""
    rng = random.Random(seed)
    syllables = [a + b for a in ("b", "ch", "d", "gr", "k", "l", "m", "pl", "s", "t", "str", "v") for b in "aeiou"]
    found = dict[str, None]()
    while len(found) < n:
        stem = "".join(rng.choices(syllables, range(60, 0, -1), k=rng.randint(1, 3)))
        for ending in rng.sample(["", "s", "ed", "ing", "er", "ness"], 3):
            found[stem + ending] = None
    words = list(found)[:n]
    rng.shuffle(words)
    return words


def spelt(words: list[str]) -> bytes:
    return vocabulary._pack_spelt([word.encode() for word in words])


@pytest.mark.parametrize(
    "words",
    [
        ["a"],
        ["b", "a"],
        ["the", "of", "and", "to"],
        ["same" * 20 + "a", "same" * 20, "same" * 20 + "b", "x" * 5000],
        ["new york", "日本", "日本語", "ö", "\x01", "\U0001d518", "naïve"],
        [f"{i}" for i in range(3000)],
        [*sorted(english(3000)), "!"],
    ],
    ids=["one", "two", "four", "long", "unicode", "numbers", "sorted"],
)
def test_words_come_back_in_their_order(words: list[str]) -> None:
    for version, pack in ((1, vocabulary._pack_front_coded), (2, vocabulary._pack_spelt)):
        assert vocabulary.unpack(pack([word.encode() for word in words]), len(words), version) == words
    packed, version = vocabulary.pack(words)
    assert vocabulary.unpack(packed, len(words), version) == words


def test_the_smaller_form_is_taken() -> None:
    assert vocabulary.pack([f"{i}" for i in range(3000)])[1] == 1
    assert vocabulary.pack(english(3000))[1] == 2


def test_blocks_come_back_and_cost_little(monkeypatch: pytest.MonkeyPatch) -> None:
    words = english(20_000)
    whole, _ = vocabulary.pack(words)
    monkeypatch.setattr(vocabulary, "BLOCK", 7000)
    assert vocabulary._blocks(len(words)) == [0, 6666, 13333, 20000]
    packed, version = vocabulary.pack(words)
    assert vocabulary.unpack(packed, len(words), version) == words
    assert len(whole) < len(packed) < 1.05 * len(whole)


def test_no_order_costs_more_than_the_logarithm_of_all_orders() -> None:
    """An order without any rule takes log2(n!) bits and one that is alphabetical none."""
    words = english(20_000)
    bits = np.log2(np.arange(1, len(words) + 1)).sum()
    order = len(spelt(words)) - len(spelt(sorted(words)))
    assert 0.999 < 8 * order / bits < 1.005


def test_runs_that_are_alphabetical_cost_no_order() -> None:
    """As words of equal counts stand in our own vocabularies."""
    words = english(20_000)
    runs = words[:1000] + [w for i in range(1000, 20_000, 1900) for w in sorted(words[i : i + 1900])]
    least = len(spelt(sorted(words)))
    assert len(spelt(runs)) - least < 0.35 * (len(spelt(words)) - least)


def test_spelling_takes_fewer_bytes_than_front_coding_and_bzip2() -> None:
    words = sorted(english(20_000))
    assert len(spelt(words)) < 0.85 * len(vocabulary._pack_front_coded([word.encode() for word in words]))


@pytest.mark.parametrize(
    "lengths", [[1], [1, 2], [1, 1, 1], [2, 2, 2], [0] * 256], ids=["one", "gap", "over", "three", "none"]
)
def test_a_code_that_is_not_complete_is_refused(lengths: list[int]) -> None:
    table = np.zeros(256, np.uint8)
    table[: len(lengths)] = lengths
    with pytest.raises(ValueError, match="a code of lengths"):
        spelling.canonical(table)


def test_damaged_vocabularies_end_in_an_error_or_in_other_words() -> None:
    """Whatever the bytes: no more memory than is declared, no crash."""
    words = english(500)
    packed = spelt(words)
    rng = np.random.default_rng(0)
    errors = 0
    for _ in range(300):
        changed = bytearray(packed)
        for _ in range(rng.integers(1, 4)):
            changed[rng.integers(len(changed))] = rng.integers(256)
        if rng.random() < 0.2:
            del changed[rng.integers(len(changed)) :]
        try:
            assert len(vocabulary.unpack(bytes(changed), 500, 2)) == 500
        except (ValueError, vocabulary.struct.error):
            errors += 1
    assert errors > 30


def test_bytes_after_a_head_that_declares_other_words_are_refused() -> None:
    packed = spelt(["a", "b", "c"])
    for count in (2, 4, 1 << 20):
        with pytest.raises(ValueError):
            vocabulary.unpack(packed, count, 2)
    with pytest.raises(ValueError, match="expected at most"):
        vocabulary.unpack(packed, 1 << 40, 2)
