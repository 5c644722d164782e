"""Vocabularies: words of any kind and order come back, cost what their kind allows, and damaged ones are refused."""

import random

import numpy as np
import pytest

from toolkit.embeddings import ordering, spelling, vocabulary


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
    encoded = [word.encode() for word in words]
    assert vocabulary.unpack_front_coded(vocabulary._pack_front_coded(encoded), len(words)) == words
    read = vocabulary.Spelt(spelt(words), len(words))
    assert [read.row(word) for word in words] == list(range(len(words)))
    assert read.words() == words
    for other in ("", "a\n", "zz", "same", "\x00", "\udc80", "\U0010ffff"):
        assert read.row(other) == -1


def test_letters_are_shared_as_far_as_words_are_alike_and_no_further() -> None:
    words = [b"ab", b"abc", b"ab", b"ab" * 200, b"ab" * 200 + b"c", b"b", b"", b"b"]
    text = np.frombuffer(b"\n".join(words) + b"\n", np.uint8)
    assert vocabulary._shared(text, len(words), 255).tolist() == [0, 2, 2, 2, 255, 0, 0, 0]
    assert vocabulary._shared(text, len(words), 31).tolist() == [0, 2, 2, 2, 31, 0, 0, 0]


def test_the_smaller_form_is_taken() -> None:
    assert vocabulary.pack([f"{i}" for i in range(3000)])[1] == vocabulary.FRONT_CODED
    assert vocabulary.pack(english(3000))[1] == vocabulary.SPELT


def test_blocks_come_back_and_cost_little(monkeypatch: pytest.MonkeyPatch) -> None:
    words = english(16_000)
    whole = spelt(words)
    monkeypatch.setattr(vocabulary, "BLOCK", 7000)
    assert vocabulary._blocks(len(words)) == [0, 5333, 10666, 16000]
    packed = spelt(words)
    assert vocabulary.Spelt(packed, len(words)).words() == words
    assert len(whole) < len(packed) < 1.05 * len(whole)


def test_a_word_takes_the_decoding_of_its_block_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    words, decoded = english(20_000), []
    monkeypatch.setattr(vocabulary, "BLOCK", 1000)
    packed, code = spelt(words), spelling.code_words
    monkeypatch.setattr(spelling, "code_words", lambda *given: decoded.append(given[1]) or code(*given))
    read = vocabulary.Spelt(packed, len(words))
    assert not decoded
    ordered = sorted(words)
    for word in (ordered[5000], ordered[5999], ordered[5000] + "!"):
        assert read.row(word) == (words.index(word) if word in words else -1)
        assert decoded == [1000]
    assert read.row(ordered[-1]) == words.index(ordered[-1]) and decoded == [1000, 1000]


def test_no_order_costs_much_more_than_the_logarithm_of_all_orders() -> None:
    """An order without any rule takes log2(n!) bits, and what reading it anywhere costs; an alphabetical one none."""
    words = english(20_000)
    bits = np.log2(np.arange(1, len(words) + 1)).sum()
    order = len(spelt(words)) - len(spelt(sorted(words)))
    assert 0.999 < 8 * order / bits < 1.01


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


@pytest.mark.parametrize("n", [1, 2, 3, 63, 64, 65, 130, 1000, 4096])
def test_an_order_comes_back_whole_and_word_by_word_and_costs_little(n: int) -> None:
    """Of any rows; of alphabetical runs among them; and of all but one in order."""
    mixed = np.random.default_rng(n).permutation(n)
    half = mixed.copy()
    half[np.flatnonzero(half < n // 3)] = np.arange(n // 3)
    for order, in_order in ((mixed, 0), (half, n // 3), (np.roll(np.arange(n), 1), n - 1)):
        runs = ordering.runs(order)
        data = ordering.encode(order, runs)
        read = ordering.decode(data, runs)
        np.testing.assert_array_equal(ordering.rows(read), order)
        assert [ordering.row(read, word) for word in range(0, n, 7)] == order[::7].tolist()
        assert [ordering.word(read, row) for row in order[::7].tolist()] == list(range(0, n, 7))
        bits = np.log2(np.arange(in_order + 1 if in_order >= ordering.LONG else 1, n + 1)).sum()
        assert len(data) <= 1.02 * bits / 8 + 3


def test_damaged_orders_are_refused_or_orders_of_the_same_rows() -> None:
    order, rng = np.random.default_rng(0).permutation(700), np.random.default_rng(1)
    order[order < 200] = np.arange(200)
    runs = ordering.runs(order)
    data, refused = ordering.encode(order, runs), 0
    for _ in range(200):
        changed = bytearray(data)
        changed[rng.integers(len(changed))] ^= 1 << rng.integers(8)
        read = ordering.decode(bytes(changed), runs)
        try:
            assert all(0 <= ordering.row(read, word) < 700 for word in range(0, 700, 50))
            assert all(ordering.row(read, ordering.word(read, row)) == row for row in range(0, 700, 50))
            assert sorted(ordering.rows(read)) == list(range(700))
        except ValueError as error:
            assert "an order that is none" in str(error)
            refused += 1
    assert refused > 40
    with pytest.raises(ValueError, match="an order of 9 bytes instead of"):
        ordering.decode(data[:9], runs)


def test_words_out_of_order_are_refused() -> None:
    """A writer that did not sort, as then no word would be found."""
    text = np.frombuffer(b"a\nc\nb\nd\n", np.uint8)
    lengths = np.stack([vocabulary._huffman(np.bincount(text, minlength=256)), vocabulary._huffman(np.ones(2, int))])
    coded = vocabulary._spell(text, 4, spelling.codes(lengths))
    sizes, runs = np.array([len(text), len(coded)], "<u4"), np.array([8], "<u4")
    head = vocabulary.zlib.compress(lengths.tobytes() + sizes.tobytes() + runs.tobytes() + b"a\n")
    body = coded + ordering.encode(np.array([2, 1, 0, 3]), np.array([8]))
    read = vocabulary.Spelt(vocabulary.HEAD.pack(len(head), 1, 2) + head + body, 4)
    for use in (read.words, lambda: read.row("b")):
        with pytest.raises(ValueError, match="words of block 0 that are not in alphabetical order"):
            use()


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
            read = vocabulary.Spelt(bytes(changed), 500)
            assert all(-1 <= read.row(word) < 500 for word in words[:5])
            assert len(read.words()) == 500
        except (ValueError, vocabulary.struct.error):
            errors += 1
    assert errors > 30


def test_bytes_after_a_head_that_declares_other_words_are_refused() -> None:
    packed = spelt(["a", "b", "c"])
    for count in (2, 4, 1 << 20):
        with pytest.raises(ValueError):
            vocabulary.Spelt(packed, count)
    with pytest.raises(ValueError, match="expected at most"):
        vocabulary.Spelt(packed, 1 << 40)
