"""Word vectors in a .tkc file: written at any rate, loaded into gensim, or read a word at a time.

docs/format.md, section "Word vectors", is the specification.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from toolkit.embeddings import vocabulary as word_list
from toolkit.embeddings.file import Embeddings, Quantised, write
from toolkit.embeddings.search import METHODS, about_file, fit, groups, quantise

if TYPE_CHECKING:
    from gensim.models import KeyedVectors

__all__ = [
    "METHODS", "Embeddings", "Quantised", "check", "export", "fit", "groups", "load", "open", "quantise", "summary",
    "vocabulary_size", "write",
]  # fmt: skip
_SPACES = frozenset(" \t\n\r\v\f")


def check(words: Sequence[str], vectors: Tensor) -> None:
    """Raise ValueError that names the word unless all words can be stored and all vectors are finite.

    words: one for each row of vectors, float [words, d]; not empty, without spaces, each once, valid as UTF-8.
    """
    if vectors.dim() != 2 or len(words) != len(vectors) or not vectors.numel():
        raise ValueError(
            f"expected one word for each row of vectors [words, d], got {len(words)} words and {list(vectors.shape)}"
        )
    seen: set[str] = set()
    for row, word in enumerate(words):
        wrong = (
            "an empty word" if not word
            else "a word with a space or line end" if _SPACES.intersection(word)
            else "the word of an earlier row" if word in seen
            else "text that is not valid as UTF-8" if not _encodable(word)
            else ""
        )  # fmt: skip
        if wrong:
            raise ValueError(
                f"row {row}: expected words that are not empty, have no spaces, and occur once, got {wrong}: {word!r}; "
                "rename or remove it"
            )
        seen.add(word)
    bad = ~vectors.isfinite().all(1)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"row {row}: expected finite vectors, got NaN or infinity for {words[row]!r} ({int(bad.sum())} rows in "
            "all); remove these rows"
        )


def export(
    path: str | os.PathLike[str], words: Sequence[str], vectors: Tensor, sigma: Tensor, goal: str, number: float,
    method: str = "default", about: dict[str, Any] | None = None,
) -> dict[str, int]:  # fmt: skip
    """Quantise and write what a goal asks for; returns the bytes of the file's parts, as `write` does.

    goal: "lambda"; "target_size", bytes of the file; or "bits_per_dim", bits of the file without its vocabulary for
    each coordinate. Other arguments as of `quantise` and `write`.
    """
    if goal == "lambda":
        lam, quantised = number, quantise(vectors, sigma, number, method)
    else:
        target = number if goal == "target_size" else number * vectors.numel() / 8 + vocabulary_size(words)
        lam, quantised = fit(words, vectors, sigma, int(target), method, about)
    return write(path, words, quantised, about_file(method, lam, about))


def summary(sizes: dict[str, int], words: Sequence[str], d: int, path: str | os.PathLike[str]) -> str:
    """Lines that say how large a file is, beside the same vectors as float32 and float16."""
    n, size = len(words) * d, sizes["file"]
    text = len("\n".join(words).encode())
    return (
        f"{len(words)} words of {d} dimensions -> {path}: {size} bytes, of which the vocabulary "
        f"{sizes['vocabulary']}; {8 * (size - sizes['vocabulary']) / n:.3f} bits per dimension without it, "
        f"{8 * size / n:.3f} with it\n"
        f"float32 {4 * n + text} bytes ({(4 * n + text) / size:.1f} times as large), "
        f"float16 {2 * n + text} bytes ({(2 * n + text) / size:.1f} times)"
    )


def vocabulary_size(words: Sequence[str]) -> int:
    """Bytes that words take in a file."""
    return len(word_list.pack(words))


def load(path: str | os.PathLike[str]) -> KeyedVectors:
    """Decode a whole file into gensim's KeyedVectors, words in the file's order.

    Raises DamagedFile if anything is not as it was written, ValueError if it is no file of word vectors.
    """
    from gensim.models import KeyedVectors  # a second to import

    with open(path) as file:
        vectors = file.vectors()
        keyed = KeyedVectors(vectors.shape[1], dtype=np.float32)
        # As `add_vectors` does, but not word by word.
        keyed.vectors, keyed.index_to_key, keyed.key_to_index = vectors.numpy(), file.words, file.rows
    return keyed


def open(path: str | os.PathLike[str]) -> Embeddings:
    """Open a file to read single words. Raises ValueError, or a subclass, for a file that is none or is damaged."""
    return Embeddings(path)


def _encodable(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:  # lone surrogates, which Python makes of bytes that are not UTF-8
        return False
    return True
