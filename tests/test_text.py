"""Text data: vocabularies, subsampling, batches, compressed files, and refusals."""

import bz2
import gzip
import itertools
import lzma
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from gensim.corpora import wikicorpus
from gensim.models import Word2Vec

from toolkit.data import text
from toolkit.data.text import Corpus, Text


def lines(n: int = 300, length: int = 40, seed: int = 0) -> list[list[str]]:
    """Sentences of words w0, w1, ... whose frequencies fall as 1 / rank."""
    rng = torch.Generator().manual_seed(seed)
    weight = 1 / (torch.arange(200) + 1.0)
    drawn = torch.multinomial(weight.expand(n, -1), length, replacement=True, generator=rng)
    return [[f"w{i}" for i in row] for row in drawn.tolist()]


def module(**changes: Any) -> Text:
    sentences = lines()
    arguments: dict[str, Any] = {
        "corpus": lambda: Corpus(lambda: sentences, "made"), "min_count": 5, "sample": 1e-3, "phrases": False,
        "validation_tokens": 1000, "batch_tokens": 700, "seed": 0,
    }  # fmt: skip
    data = Text(**{**arguments, **changes})
    data.setup()
    return data


def test_the_vocabulary_and_subsampling_are_those_of_gensim() -> None:
    sentences = lines()
    data = module(validation_tokens=1)
    theirs = Word2Vec(min_count=5, sample=1e-3)
    theirs.build_vocab(sentences)
    assert set(data.words) == set(theirs.wv.index_to_key)
    for i, word in enumerate(data.words):
        count = theirs.wv.get_vecattr(word, "count")
        assert abs(int(data.counts[i]) - count) <= 1  # one token is held out
        keep = theirs.wv.get_vecattr(word, "sample_int") / 2**32
        assert float(data.keep[i]) == pytest.approx(min(keep, 1), rel=0.02)


def test_words_stand_in_order_of_count_and_then_of_the_alphabet() -> None:
    data = module()
    counts = torch.zeros(len(data.words), dtype=torch.int64)
    number = {word: i for i, word in enumerate(data.words)}
    for sentence in lines():
        for word in sentence:
            if word in number:
                counts[number[word]] += 1
    keys = [(-int(count), word) for count, word in zip(counts, data.words, strict=True)]
    assert keys == sorted(keys)
    assert int(counts.min()) >= 5


def test_batches_hold_the_text_in_order_and_frequent_words_more_seldom() -> None:
    data = module()
    drawn = torch.zeros(len(data.words))
    for epoch in range(40):
        batches = [data.batch(start, epoch) for start in range(0, 11_000, 700)]
        for batch in batches:
            assert bool((batch.sentence.diff() >= 0).all())
            drawn += torch.bincount(batch.word, minlength=len(data.words))
    expected = 40 * data.counts * data.keep
    assert bool(((drawn - expected).abs() < 5 * expected.sqrt() + 5).all())
    assert float(data.keep[0]) < 0.2 < float(data.keep[-1])


def test_an_epoch_is_a_function_of_the_seed_and_its_number() -> None:
    first, again, later = (module().batch(700, epoch) for epoch in (1, 1, 2))
    assert torch.equal(first.word, again.word) and torch.equal(first.sentence, again.sentence)
    assert not torch.equal(first.word, later.word)
    assert not torch.equal(first.word, module(seed=1).batch(700, 1).word)


def test_the_held_out_tokens_are_never_trained_on() -> None:
    data = module(sample=1e9)
    loader, held_out = data.train_dataloader(), data.val_dataloader()
    assert len(loader) == math.ceil((sum(len(b.word) for b in loader)) / 700)
    train = torch.cat([batch.word for batch in loader])
    test = torch.cat([batch.word for batch in held_out])
    assert len(test) == 1000
    everything = [w for s in lines() for w in s if w in set(data.words)]
    assert [data.words[i] for i in torch.cat([train, test]).tolist()] == everything


def test_frequent_pairs_of_words_become_phrases() -> None:
    sentences = [[*words[:9], *["new", "york"][: 2 * (i % 8 == 0)], *words[9:]] for i, words in enumerate(lines(400))]
    data = module(corpus=lambda: Corpus(lambda: sentences, "cities"), phrases=True)
    assert "new_york" in data.words and "york" not in data.words


@pytest.mark.parametrize("suffix", ["", ".txt", ".gz", ".bz2", ".xz"])
def test_a_text_file_is_read_line_by_line(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"corpus{suffix}"
    data = "ein haus\n\nzwei  bäume\tdrei".encode()
    opener: Any = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}.get(suffix, bytes)
    path.write_bytes(opener(data))
    sentences = [s for s in text.corpus(path).sentences() if s]
    assert sentences == [["ein", "haus"], ["zwei", "bäume", "drei"]]


def test_one_endless_line_is_cut_as_gensim_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"w{i}" for i in range(1_200_000)]  # more than one block of reading
    (tmp_path / "endless").write_text(" ".join(words))
    found = list(text.corpus(tmp_path / "endless").sentences())
    assert [w for s in found for w in s] == words
    assert max(map(len, found)) == text.LONGEST


def test_the_embedded_corpus_is_english(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = wikicorpus.extract_pages
    monkeypatch.setattr(wikicorpus, "extract_pages", lambda *args: itertools.islice(pages(*args), 12))
    sentences = list(text.embedded().sentences())
    tokens = [word for sentence in sentences for word in sentence]
    assert len(tokens) > 60_000
    assert 0.04 < tokens.count("the") / len(tokens) < 0.1
    assert all(word == word.lower() and not word.isdigit() for word in tokens)
    assert "anarchism" in tokens[:2000]  # the first article


def test_text8_is_checked_before_it_is_used(tmp_path: Path) -> None:
    (tmp_path / "text8").write_bytes(b"anarchism originated")
    with pytest.raises(ValueError, match=r"expected 100000000 bytes in .*text8, got 20; delete it"):
        text.text8(tmp_path)


def test_text8_without_a_network_says_where_to_put_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "TEXT8", "http://127.0.0.1:9/text8.zip")
    with pytest.raises(FileNotFoundError, match=r"expected .*text8\.zip; it is not there and the download"):
        text.text8(tmp_path)


def test_another_file_in_the_place_of_text8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text8.zip").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"expected text8\.zip in .*, got another file"):
        text.text8(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("latin.txt", b"caf\xe9 noir\n"),
        ("cut.gz", gzip.compress(b"a b c" * 99, mtime=0)[:-9]),
        ("not.xz", b"a b"),
        ("no.bz2", b"a"),
    ],
)
def test_an_unreadable_text_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"expected .*{name} to be text in UTF-8, and what its ending says"):
        list(text.corpus(tmp_path / name).sentences())


def test_a_text_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected data\.path= to name a text file, got .*nothing"):
        text.corpus(tmp_path / "nothing")


def test_a_text_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a text with more than 20000 tokens of words that occur 5 times"):
        module(validation_tokens=10_000)


@pytest.mark.parametrize("change", [{"min_count": 0}, {"sample": 0.0}, {"batch_tokens": 0}, {"seed": -1}])
def test_arguments_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected min_count, validation_tokens, batch_tokens of at least 1"):
        module(**change)
