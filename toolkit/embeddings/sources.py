"""Word vectors from files of other programs and from trained runs, with what is known of their uncertainty."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

VOCABULARY = "vocabulary.txt"  # in a run folder: "word count" on each line, as gensim's fvocab
TEXT, BINARY, GENSIM = (".txt", ".vec"), (".bin",), (".kv", ".model")
WRITTEN = (*BINARY, *TEXT, ".kv")
FASTTEXT = 793712314  # first four bytes of a fastText model


class Vectors(NamedTuple):
    """Vectors of words, the most frequent first where that is known."""

    words: list[str]
    vectors: Tensor  # float32 [words, d]
    sigma: Tensor | None  # float32 [words, d], posterior standard deviations
    counts: Tensor | None  # int64 [words], how often each occurs in the training text
    rule: str  # what sigma is made from


def sigma_of(found: Vectors) -> Tensor:
    """Standard deviations for vectors that have none, up to a common factor, float32 [words, d].

    The information that a text has on a word grows with its count, so 1 / sigma^2 is proportional to the count. Without
    counts they are taken to fall as 1 / rank does (Zipf's law), the first row being the most frequent word.
    """
    rows = torch.arange(len(found.words))
    counts = (found.counts if found.counts is not None else 1 / (rows + 2.7)).double()
    sigma = (counts / counts.median()).clamp(min=1e-12).rsqrt() * found.vectors.double().std()
    return sigma.float().clamp(min=1e-12)[:, None].expand_as(found.vectors).contiguous()


def read(path: str | Path, counts: str | Path | None = None) -> Vectors:
    """Vectors of a word2vec .bin, .txt or .vec, a GloVe .txt or a gensim .kv file; counts: file of `read_counts`.

    Gensim's own files are pickles: read only those that you trust. Raises FileNotFoundError, or ValueError that says
    where the file is not what its name promises.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected a file of word vectors, got {path}, which is not there; check the name")
    if path.suffix in GENSIM or _is_fasttext(path):
        words, vectors, known = _gensim(path)
    elif path.suffix in BINARY:
        (words, vectors), known = _binary(path), None
    elif path.suffix in TEXT:
        (words, vectors), known = _text(path), None
    else:
        raise ValueError(f"expected a file ending in {', '.join(TEXT + BINARY + GENSIM)}, got {path}; rename it")
    if counts is not None:
        table = read_counts(counts)
        missing = [word for word in words if word not in table]
        if missing:
            raise ValueError(
                f"expected counts of all {len(words)} words in {counts}, got none of {len(missing)}, the first "
                f"{missing[0]!r}; add them, or leave counts= out"
            )
        known = torch.tensor([table[word] for word in words])
    return Vectors(words, torch.from_numpy(vectors), None, known, "counts" if known is not None else "ranks")


def save(keyed: Any, path: Path) -> None:
    """Write gensim's KeyedVectors as word2vec .bin, .txt or .vec, or as gensim's own .kv: path ends in one of these."""
    if path.suffix == ".kv":
        keyed.save(str(path))
    else:
        keyed.save_word2vec_format(str(path), binary=path.suffix in BINARY, write_header=True)


def read_counts(path: str | Path) -> dict[str, int]:
    """A text file with a word and its count on each line -> counts by word. Raises ValueError that names the line."""
    table: dict[str, int] = {}
    for number, line in enumerate(_decoded(Path(path).read_bytes(), path).splitlines(), 1):
        word, _, count = line.rpartition(" ")
        if not word or not count.isdecimal() or len(count) > 18 or word in table:
            raise ValueError(f"{path}, line {number}: expected a new word and its count, got {line!r}; correct it")
        table[word] = int(count)
    return table


def _decoded(data: bytes, path: str | Path) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: expected text in UTF-8, got {error.object[error.start : error.end]!r} at byte {error.start}; "
            "convert the file"
        ) from error


def _text(path: Path) -> tuple[list[str], np.ndarray[Any, Any]]:
    """word2vec's text format, and GloVe's, which has no first line with sizes."""
    words: list[str] = []
    rows: list[np.ndarray[Any, Any]] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            fields = line.rstrip(b"\n\r ").split(b" ")
            if number == 1 and len(fields) == 2 and all(field.isdigit() for field in fields):
                continue
            d = len(rows[0]) if rows else len(fields) - 1
            try:
                if len(fields) != d + 1 or not d:
                    raise ValueError
                rows.append(np.array(fields[1:], np.float32))
            except ValueError:
                raise ValueError(
                    f"{path}, line {number}: expected a word and {d} numbers with a space between them, got "
                    f"{len(fields)} fields that begin {b' '.join(fields[:3])[:60]!r}; words must not have spaces"
                ) from None
            words.append(_decoded(fields[0], f"{path}, line {number}"))
    if not rows:
        raise ValueError(f"{path}: expected vectors, got an empty file")
    return words, np.stack(rows)


def _binary(path: Path) -> tuple[list[str], np.ndarray[Any, Any]]:
    """word2vec's binary format: "words d", then each word, a space, and d float32; line ends are allowed between."""
    with path.open("rb") as file:
        sizes = file.readline(64).split()
        if len(sizes) != 2 or not all(size.isdigit() for size in sizes):
            raise ValueError(f"{path}: expected word2vec's binary format, got {sizes[:2]}; is it a text file?")
        count, d = map(int, sizes)
        size = path.stat().st_size
        if not count * d or count * (4 * d + 2) > size:  # before memory is taken
            raise ValueError(f"{path}: expected {count} vectors of {d}, got {size} bytes; the file is cut short")
        vectors = np.empty((count, d), np.float32)
        words = []
        for row in range(count):
            words.append(_decoded(_until_space(file), f"{path}, word {row}"))
            data = file.read(4 * d)
            if len(data) != 4 * d:
                raise ValueError(f"{path}: expected {count} vectors of {d}, got {row}; the file is cut short")
            vectors[row] = np.frombuffer(data, "<f4")
    return words, vectors


def _until_space(file: BinaryIO) -> bytes:
    word = b""
    while (byte := file.read(1)) not in (b" ", b"") and len(word) < 10_000:  # none is longer
        word += byte
    return word.lstrip(b"\n")


def _is_fasttext(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == struct.pack("<i", FASTTEXT)


def _gensim(path: Path) -> tuple[list[str], np.ndarray[Any, Any], Tensor | None]:
    from gensim.models import KeyedVectors
    from gensim.models.fasttext import load_facebook_vectors

    loaded = load_facebook_vectors(str(path)) if _is_fasttext(path) else KeyedVectors.load(str(path))
    keyed = getattr(loaded, "wv", loaded)
    known = keyed.expandos.get("count")
    counts = torch.from_numpy(np.asarray(known, np.int64).copy()) if known is not None else None
    return list(keyed.index_to_key), np.array(keyed.vectors[: len(keyed.index_to_key)], np.float32), counts
