"""Files of word vectors: what comes back, what they cost, single words, gensim, golden bytes, and every refusal."""

import bz2
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from gensim.models import KeyedVectors
from torch import Tensor

from toolkit import embeddings
from toolkit.container import ContainerError, Reader, Writer
from toolkit.embeddings import file as vector_file
from toolkit.embeddings import ordering
from toolkit.embeddings.exporting import check
from toolkit.embeddings.file import BOOK
from toolkit.embeddings.vocabulary import FRONT, Spelt, _pack_front_coded


def posterior(words: int = 1500, d: int = 12, seed: int = 0) -> tuple[list[str], Tensor, Tensor]:
    """Names, vectors and sigmas as of words in the order of their frequencies."""
    rng = torch.Generator().manual_seed(seed)
    sigma = 0.02 * (torch.arange(words) + 1.0).pow(0.4)[:, None] * torch.exp(0.2 * torch.randn(words, d, generator=rng))
    vectors = torch.randn(words, d, generator=rng) * torch.linspace(1.5, 0.2, d)
    syllables = ["ba", "kö", "ti", "ner", "ol", "sta", "u", "mi"]
    names = ["".join(syllables[int(x)] for x in f"{i * 7919 % 104729:o}") for i in range(words)]
    return names, vectors, sigma


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, embeddings.Quantised, dict[str, int]]:
    path = tmp_path_factory.mktemp("vectors") / "v.tkc"
    words, vectors, sigma = posterior()
    quantised = embeddings.quantise(vectors, sigma, 0.5)
    return path, quantised, embeddings.write(path, words, quantised)


@pytest.mark.parametrize("method", embeddings.METHODS)
@pytest.mark.parametrize(
    ("lam", "shape"),
    [(0.0, (70, 33)), (0.5, (1500, 12)), (1e6, (1500, 12)), (1.0, (1, 1)), (3.0, (3, 2100)), (1e6, (2, 2100))],
)
def test_every_vector_comes_back_whole_and_alone(
    method: str, lam: float, shape: tuple[int, int], tmp_path: Path
) -> None:
    words, vectors, sigma = posterior(*shape)
    quantised = embeddings.quantise(vectors, sigma, lam, method, rounds=2)
    embeddings.write(tmp_path / "v.tkc", words, quantised)
    with embeddings.open(tmp_path / "v.tkc") as opened:
        assert opened.words == words and len(opened) == shape[0]
        whole = opened.vectors()
        assert torch.equal(whole, quantised.vectors())
        for i in range(0, shape[0], 37):
            assert words[i] in opened
            np.testing.assert_array_equal(opened[words[i]], whole[i].numpy())


def test_a_file_is_as_large_as_the_search_reports(tmp_path: Path) -> None:
    words, vectors, sigma = posterior(8000, 100)
    quantised = embeddings.quantise(vectors, sigma, 0.2, rounds=2)
    sizes = embeddings.write(tmp_path / "v.tkc", words, quantised)
    assert sizes["file"] == (tmp_path / "v.tkc").stat().st_size
    assert 1.5 < quantised.bits / vectors.numel() < 3
    assert 1 < 8 * (sizes["file"] - sizes["vocabulary"]) / quantised.bits < 1.01


def test_stacks_have_as_many_rows_as_what_is_coded_of_them_allows(tmp_path: Path) -> None:
    """Where certainty is low most dimensions are constant, and short stacks would cost more than what they hold."""
    words, vectors, sigma = posterior(4000, 100)
    sigma[512:] *= 1.5
    quantised = embeddings.quantise(vectors, sigma, 3.0, rounds=2)
    sizes = embeddings.write(tmp_path / "v.tkc", words, quantised)
    with Reader(tmp_path / "v.tkc") as reader:
        rows = reader.header["lane_rows"]
    coded = [len(book.coded) for book in quantised.books]
    assert coded[0] == 100 > coded[-1] and rows[0] == 45 < rows[-1]
    assert all(4400 < n * k <= 4500 for n, k in zip(rows, coded, strict=True) if k > 10)
    bits = sum(book.bits(symbols) for book, symbols in zip(quantised.books, quantised.symbols, strict=True))
    assert 8 * sizes["lanes"] / bits < 1.01  # 1.015 with 45 rows a stack in all groups
    with embeddings.open(tmp_path / "v.tkc") as opened:
        whole = opened.vectors()
        assert torch.equal(whole, quantised.vectors())
        for i in range(0, 4000, 97):
            np.testing.assert_array_equal(opened[words[i]], whole[i].numpy())


def test_the_default_is_smaller_than_the_published_algorithm_at_the_same_distortion() -> None:
    _, vectors, sigma = posterior(3000, 20)
    weight = 0.5 / sigma**2

    def point(method: str, lam: float) -> tuple[float, float]:
        quantised = embeddings.quantise(vectors, sigma, lam, method)
        return float(((quantised.vectors() - vectors).square() * weight).mean()), quantised.bits

    distortion, bits = point("vbq", 1.0)
    better = [point("default", lam) for lam in (0.3, 0.5, 0.7, 1.0, 1.4, 2.0)]
    assert min(b for d, b in better if d <= distortion) < 0.9 * bits


def test_gensim_answers_as_from_the_array_decoded_by_hand(file: tuple[Path, embeddings.Quantised, dict]) -> None:
    path, quantised, _ = file
    words, _, _ = posterior()
    by_hand = KeyedVectors(12)
    by_hand.add_vectors(words, quantised.vectors().numpy())
    loaded = embeddings.load(path)
    assert loaded.index_to_key == words
    for word in (words[0], words[700], words[-1]):
        assert loaded.most_similar(word, topn=20) == by_hand.most_similar(word, topn=20)


def test_neighbours_are_those_that_gensim_finds_without_decoding_all_at_once(
    file: tuple[Path, embeddings.Quantised, dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = embeddings.load(file[0])
    with embeddings.open(file[0]) as opened:
        monkeypatch.setattr(opened, "vectors", None)
        for word in (opened.words[0], opened.words[700], opened.words[-1]):
            ours, theirs = opened.most_similar(word, topn=7), loaded.most_similar(word, topn=7)
            assert [other for other, _ in ours] == [other for other, _ in theirs]
            np.testing.assert_allclose([x for _, x in ours], [x for _, x in theirs], atol=1e-6)
        assert len(opened.most_similar(opened.words[3], topn=5000)) == 1499
        assert opened.nearest(torch.ones(1, 12, dtype=torch.float64))[0].dtype == torch.float32
        with pytest.raises(KeyError, match="expected a word of the vocabulary, got 'nowhere'"):
            opened.most_similar("nowhere")


@pytest.mark.parametrize(("shape", "n"), [((1, 11), 3), ((12,), 3), ((1, 12), -1)])
def test_queries_of_another_shape_are_refused(
    shape: tuple[int, ...], n: int, file: tuple[Path, embeddings.Quantised, dict]
) -> None:
    with (
        embeddings.open(file[0]) as opened,
        pytest.raises(ValueError, match=r"expected queries \[queries, 12\] and their n nearest, n at least 0, got \["),
    ):
        opened.nearest(torch.zeros(shape), n)


def test_a_closed_file_is_said_to_be_closed_and_not_damaged(file: tuple[Path, embeddings.Quantised, dict]) -> None:
    with embeddings.open(file[0]) as opened:
        pass
    with pytest.raises(ValueError, match="expected an open file, got a closed one; open it again") as error:
        opened.vectors()
    assert not isinstance(error.value, ContainerError)


def test_a_search_decodes_few_rows_and_words_at_a_time_and_keeps_none(
    file: tuple[Path, embeddings.Quantised, dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = embeddings.load(file[0]).most_similar(posterior()[0][700], topn=7)
    sizes, parts = list[int](), vector_file._Group.parts
    monkeypatch.setattr(vector_file, "SEARCH_VALUES", 4600)
    monkeypatch.setattr(Spelt, "words", None)
    monkeypatch.setattr(ordering, "rows", None)
    monkeypatch.setattr(
        vector_file._Group, "parts", lambda *given: (sizes.append(part.numel()) or part for part in parts(*given))
    )
    with embeddings.open(file[0]) as opened:
        ours = opened.most_similar(posterior()[0][700], topn=7)
        assert [other for other, _ in ours] == [other for other, _ in theirs] and len(opened._groups) == 1
    assert len(sizes) > 3 and max(sizes) < 6000 and sum(sizes) == 1500 * 12


def test_groups_grow_and_hold_every_row() -> None:
    for rows in (1, 511, 512, 1023, 1024, 5000, 48_306, 3_000_000):
        sizes = embeddings.groups(rows)
        assert sum(sizes) == rows and min(sizes) >= min(rows, 512) and max(sizes) <= 16384 + 512
        assert sizes[:-1] == sorted(sizes[:-1])
    assert len(embeddings.groups(48_306)) > 8


def test_few_lanes_at_a_time_write_and_read_the_same(
    file: tuple[Path, embeddings.Quantised, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, quantised, _ = file
    monkeypatch.setattr(vector_file, "BATCH_VALUES", 2 * 4500)
    embeddings.write(tmp_path / "v.tkc", posterior()[0], quantised)
    assert (tmp_path / "v.tkc").read_bytes() == path.read_bytes()
    with embeddings.open(path) as opened:
        assert torch.equal(opened.vectors(), quantised.vectors())


@pytest.mark.parametrize("goal", [2500, 9000])
def test_a_file_has_the_size_that_was_asked_for(goal: int, tmp_path: Path) -> None:
    words, vectors, sigma = posterior(700)
    _, quantised = embeddings.fit(words, vectors, sigma, goal)
    size = embeddings.write(tmp_path / "v.tkc", words, quantised)["file"]
    assert 0.97 * goal <= size <= goal  # a byte or two of rounding is much of so small a file


def test_a_size_below_what_is_possible_is_refused_with_the_smallest() -> None:
    words, vectors, sigma = posterior(700)
    with pytest.raises(ValueError, match=r"expected a target size of at least \d+ bytes.*, got 500; allow more"):
        embeddings.fit(words, vectors, sigma, 500)


def test_a_negative_lambda_is_refused() -> None:
    _, vectors, sigma = posterior(20)
    with pytest.raises(ValueError, match=r"expected lambda to be at least 0, got -1\.0"):
        embeddings.quantise(vectors, sigma, -1.0)


def test_an_unknown_method_is_refused() -> None:
    _, vectors, sigma = posterior(20)
    with pytest.raises(ValueError, match="expected method to be one of default, vbq, got 'pq'"):
        embeddings.quantise(vectors, sigma, 1.0, "pq")


@pytest.mark.parametrize(
    ("word", "got"),
    [
        ("", "an empty word"), ("new\tyork", "a word with a tab"), ("line\nend", "a word with a tab, a line end"),
        (" space", "a word with .* or with a space at an end"), ("next\u2028line", "a word with a tab"),
        ("one", "the word of an earlier row: 'one'"), ("\udc80", "text that is not valid as UTF-8"),
    ],
)  # fmt: skip
def test_a_word_that_no_file_can_hold_is_refused(word: str, got: str) -> None:
    with pytest.raises(ValueError, match=f"row 1: expected words that are not empty.*{got}"):
        check(["one", word], torch.zeros(2, 3))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_vector_that_is_not_finite_is_refused(value: float) -> None:
    vectors = torch.zeros(3, 2)
    vectors[2, 1] = value
    with pytest.raises(
        ValueError, match="row 2: expected finite vectors, got NaN, infinity or what float32 cannot hold for 'c'"
    ):
        check(["a", "b", "c"], vectors)


@pytest.mark.parametrize("largest", [3e37, 1e-12])
def test_numbers_whose_squares_float32_cannot_hold_are_refused(largest: float, tmp_path: Path) -> None:
    words, vectors, _ = posterior(30)
    vectors *= largest / vectors.abs().max()
    with pytest.raises(ValueError, match="expected numbers of which the largest is within 1e-09 and 1e\\+15, got"):
        embeddings.export(tmp_path / "v.tkc", words, vectors, torch.ones_like(vectors), "lambda", 1.0)


def test_words_that_a_file_cannot_hold_are_refused_in_python_too(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"row 1: .* got the word of an earlier row: 'a'"):
        embeddings.export(tmp_path / "v.tkc", ["a", "a"], torch.ones(2, 3), torch.ones(2, 3), "lambda", 1.0)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_vectors_of_any_precision_are_exported(dtype: torch.dtype, tmp_path: Path) -> None:
    words, vectors, sigma = posterior(300)
    embeddings.export(tmp_path / "v.tkc", words, vectors.to(dtype), sigma.to(dtype), "lambda", 0.001)
    np.testing.assert_allclose(embeddings.load(tmp_path / "v.tkc").vectors, vectors, atol=0.05)


def test_words_and_vectors_of_different_number_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one word for each row"):
        check(["a"], torch.zeros(2, 3))


def test_a_word_that_the_file_does_not_have_is_refused(file: tuple[Path, embeddings.Quantised, dict]) -> None:
    with (
        embeddings.open(file[0]) as opened,
        pytest.raises(KeyError, match="expected a word of the vocabulary, got 'nowhere'"),
    ):
        opened["nowhere"]


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    with Writer(tmp_path / "images.tkc", {"kind": "images"}):
        pass
    with pytest.raises(ValueError, match="expected a file of word vectors, got kind 'images'"):
        embeddings.open(tmp_path / "images.tkc")


def test_any_changed_byte_is_an_error(file: tuple[Path, embeddings.Quantised, dict], tmp_path: Path) -> None:
    data = file[0].read_bytes()
    for at in range(30, len(data), len(data) // 60):
        changed = bytearray(data)
        changed[at] ^= 0x10
        (tmp_path / "v.tkc").write_bytes(changed)
        with pytest.raises(ContainerError):
            embeddings.load(tmp_path / "v.tkc")


def test_a_sound_container_with_damaged_contents_is_refused(
    file: tuple[Path, embeddings.Quantised, dict], tmp_path: Path
) -> None:
    """Checksums are right where a writer was wrong: nothing but an error may come of it."""
    with Reader(file[0]) as reader:
        header = reader.header
        payloads = [(reader.read(i), chunk.rows, chunk.rows_crc) for i, chunk in enumerate(reader.chunks)]
    rng = np.random.default_rng(0)
    for _ in range(25):
        which, kind = int(rng.integers(len(payloads))), rng.integers(3)
        changed = bytearray(payloads[which][0])
        if kind == 0:
            changed[rng.integers(len(changed))] ^= 1 << rng.integers(8)
        elif kind == 1:
            del changed[rng.integers(len(changed)) :]
        else:
            changed[: BOOK.size] = rng.bytes(BOOK.size)
        with Writer(tmp_path / "v.tkc", header) as writer:
            for i, (payload, rows, crc) in enumerate(payloads):
                writer.write(bytes(changed) if i == which else payload, rows, crc)
        with pytest.raises(ContainerError, match=r"v\.tkc: expected"):
            embeddings.load(tmp_path / "v.tkc")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lane_rows": [10**6, 10**6]}, "expected chunk 1 as it was written, got"),
        ({"lane_rows": [375, 10**6]}, "expected chunk 2 as it was written, got stacks of"),
        ({"lane_rows": [375]}, r"expected the rows of a stack in each of 2 groups, got \[375\]"),
        ({"lane_rows": [375, 0]}, r"expected the rows of a stack in each of 2 groups, got \[375, 0\]"),
        ({"lane_rows": None}, "expected the rows of a stack in each of 2 groups, got None"),
        ({"lane_rows": 375}, "expected the rows of a stack in each of 2 groups, got 375"),
        ({"dimensions": 10**6}, "expected at most 65536 dimensions, got 1000000"),
        ({"dimensions": 60_000, "words": 10**4}, "expected at most 16384 values a byte"),
        ({"words": 10**6}, "expected a vocabulary and groups of 1000000 rows in all"),
        ({"dimensions": 1 << 50}, "expected a header with counts"),
        ({"version": 9}, "expected word vectors of version 1, 3 or 4, got 9; update the toolkit"),
        ({"version": 1}, "expected a vocabulary of 1500 words"),
        ({"version": 2}, "expected word vectors of version 1, 3 or 4, got 2; update the toolkit"),
    ],
)
def test_sizes_that_no_file_has_are_refused_before_memory_is_taken(
    changes: dict[str, object], message: str, file: tuple[Path, embeddings.Quantised, dict], tmp_path: Path
) -> None:
    path = tmp_path / "v.tkc"
    with Reader(file[0]) as reader, Writer(path, {**reader.header, **changes}) as writer:
        for i, chunk in enumerate(reader.chunks):
            writer.write(reader.read(i), chunk.rows, chunk.rows_crc)
    with pytest.raises(ContainerError, match=message):
        embeddings.load(path)


@pytest.mark.parametrize("sizes", [(40_000_000, 10), (1500, 2**32 - 1)])
def test_a_vocabulary_of_far_too_many_words_is_refused(
    sizes: tuple[int, int], file: tuple[Path, embeddings.Quantised, dict], tmp_path: Path
) -> None:
    count, letters = sizes
    stored = bz2.compress(bytes(count))
    payload = FRONT.pack(letters, len(stored)) + stored + bz2.compress(b"\n" * (count - 1))
    with Reader(file[0]) as reader:
        header = {**reader.header, "words": count, "version": 1}
        group, crc = reader.read(1), reader.chunks[1].rows_crc
    header |= {"dimensions": 1, "lane_rows": [45]}
    with Writer(tmp_path / "v.tkc", header) as writer:
        writer.write(payload + bytes(4000), 0, 0)
        writer.write(group, count, crc)
    with pytest.raises(ContainerError, match=r"expected at most \d+ words of 64 bytes in a vocabulary of \d+ bytes"):
        embeddings.load(tmp_path / "v.tkc")


def test_a_word_that_stands_twice_in_a_file_is_refused(
    file: tuple[Path, embeddings.Quantised, dict], tmp_path: Path
) -> None:
    words = ["twice", "twice", *posterior()[0][2:]]
    embeddings.write(tmp_path / "v.tkc", words, file[1])
    with embeddings.open(tmp_path / "v.tkc") as opened:
        for use in (lambda: opened.words, lambda: opened.rows, lambda: opened["twice"], lambda: "twice" in opened):
            with pytest.raises(
                ContainerError, match=r"v\.tkc: expected a vocabulary of 1500 words, got words of block 0"
            ):
                use()
    payload = _pack_front_coded([word.encode() for word in words])
    embeddings.write(tmp_path / "v.tkc", words, file[1], first=(payload, 1))
    with pytest.raises(ContainerError, match="expected words that differ, got 1499 different ones of 1500"):
        embeddings.open(tmp_path / "v.tkc")


def test_words_of_another_checksum_are_refused_when_they_are_read(
    file: tuple[Path, embeddings.Quantised, dict], tmp_path: Path
) -> None:
    """A file that is sound but for them opens and gives the words that it has."""
    with Reader(file[0]) as reader, Writer(tmp_path / "v.tkc", reader.header) as writer:
        for i, chunk in enumerate(reader.chunks):
            writer.write(reader.read(i), chunk.rows, chunk.rows_crc ^ (i == 0))
    words = posterior()[0]
    with embeddings.open(tmp_path / "v.tkc") as opened:
        np.testing.assert_array_equal(opened[words[3]], file[1].vectors()[3].numpy())
        with pytest.raises(ContainerError, match="expected a vocabulary with the stored checksum, got another"):
            _ = opened.words
    with pytest.raises(ContainerError, match="expected a vocabulary with the stored checksum, got another"):
        embeddings.load(tmp_path / "v.tkc")


def test_single_words_and_vectors_are_read_without_all_words(
    file: tuple[Path, embeddings.Quantised, dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    with embeddings.open(file[0]) as opened:
        monkeypatch.setattr(Spelt, "words", None)
        words = posterior()[0]
        assert words[5] in opened and "nowhere" not in opened and 5 not in opened and len(opened) == 1500
        assert torch.equal(opened.vectors(), file[1].vectors())
        np.testing.assert_array_equal(opened[words[5]], file[1].vectors()[5].numpy())


def test_more_dimensions_than_a_reader_takes_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_file, "MOST_DIMENSIONS", 64)
    quantised = embeddings.quantise(torch.randn(1, 65), torch.ones(1, 65), 1.0, "vbq")
    with pytest.raises(ValueError, match="expected vectors of at most 64 dimensions, got 65; make them shorter"):
        embeddings.write(tmp_path / "v.tkc", ["a"], quantised)
    assert not any(tmp_path.iterdir())


def test_a_file_can_be_copied_and_read_in_another_place(
    file: tuple[Path, embeddings.Quantised, dict], tmp_path: Path
) -> None:
    shutil.copy(file[0], tmp_path / "copy.tkc")
    assert torch.equal(torch.from_numpy(embeddings.load(tmp_path / "copy.tkc").vectors), file[1].vectors())
