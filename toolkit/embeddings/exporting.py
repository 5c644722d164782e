"""Word vectors to a file of the size that is asked for, and files of other programs from it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toolkit.container import atomic_path, check_new, temporary_of
from toolkit.embeddings import tables
from toolkit.embeddings.file import Embeddings, first_chunk, load, write
from toolkit.embeddings.search import about_file, fit, groups, quantise
from toolkit.embeddings.sources import TABLES, WRITTEN, Vectors, save, with_sigma
from toolkit.embeddings.tables import Kept

GOALS = ("lambda", "target_size", "bits_per_dim")
OPTIONS = {
    "lambda": "nats of distortion that a bit is worth: larger is smaller, 0 is largest",
    "target_size": "of the whole file: bytes, or with kB, MB, GB (1000), KiB, MiB, GiB (1024)",
    "bits_per_dim": "of the whole file without its vocabulary",
    "method": "default, or vbq for the published algorithm (default: default)",
    "metric": "errors count as often as a row occurs (frequency; ranks: taken to fall as 1 / rank even if counts are "
    "known), or in all rows alike (cosine) (default: the posterior of a run; cosine for vectors of one length, else "
    "frequency)",
    "order": "of the words: kept, or grouped: alphabetical among those of similar rank, a smaller file (default: kept)",
}
ORDERS = ("kept", "grouped")
WRONG = re.compile(r"[^\S \n]|\0|\n\n| \n|\n ")  # in words with line feeds around them
SIZES = 1e-9, 1e15  # of the largest number of a table
UNITS = {
    f"{prefix}{kind}": base**power
    for power, prefix in enumerate(("", "k", "m", "g", "t"))
    for kind, base in (("b", 1000), ("ib", 1024), ("", 1000))
}  # in lower case


def goal_of(asked: dict[str, str]) -> tuple[str, float]:
    """The one goal among options, and its number. Raises ValueError for none, several, or no number."""
    goals = [key for key in GOALS if key in asked]
    if len(goals) != 1:
        raise ValueError(
            f"expected one of lambda=, target_size= and bits_per_dim=, got {', '.join(goals) or 'none'}; give one, for "
            "instance bits_per_dim=2"
        )
    [key], text = goals, asked[goals[0]]
    digits, unit = re.fullmatch(r"(.*?)\s*([a-zA-Z]*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    try:
        number = float(digits) * UNITS[unit.lower() if key == "target_size" else unit]
    except (ValueError, KeyError):
        number = -1.0
    if not 0 <= number < float("inf") or (number == 0 and key != "lambda"):
        kind = "a number that is not negative" if key == "lambda" else "a number above 0"
        raise ValueError(f"expected {key}= {kind}, got {text!r}; for instance {key}=2{'MB' * (key == 'target_size')}")
    return key, number


def export_vectors(output: Path, found: Vectors, asked: dict[str, str]) -> tuple[dict[str, int], str]:
    """Write vectors as options ask; bytes of the file's parts, and what people read of it. Raises ValueError."""
    goal, number = goal_of(asked)
    if (order := asked.get("order", ORDERS[0])) not in ORDERS:
        raise ValueError(f"expected order= to be one of {', '.join(ORDERS)}, got {order!r}")
    if order == "grouped" and found.kept is not None:
        raise ValueError("expected order=kept for tokens, whose tokenizer numbers the rows, got grouped; leave it out")
    if (metric := asked.get("metric")) is not None or found.sigma is None:
        found = with_sigma(found, metric)
    if order == "grouped":
        check(found.words, found.vectors)  # which names rows as they were
        found = grouped(found)
    assert found.sigma is not None
    sizes = export(
        output, found.words, found.vectors, found.sigma, goal, number, asked.get("method", "default"),
        {"sigma": found.rule}, found.kept,
    )  # fmt: skip
    return sizes, summary(sizes, found.words, found.vectors.shape[1], output)


def grouped(found: Vectors) -> Vectors:
    """The same vectors with the words of each group of ranks in alphabetical order, which takes few bytes.

    Most of what a vocabulary takes is the order of its words, and rare words of similar rank have none that means much.
    """
    rows = torch.arange(len(found.words)).split(groups(len(found.words)))
    order = torch.cat([torch.tensor(sorted(part.tolist(), key=lambda row: found.words[row].encode())) for part in rows])
    sigma = found.sigma[order] if found.sigma is not None else None
    counts = found.counts[order] if found.counts is not None else None
    words = [found.words[row] for row in order.tolist()]
    return found._replace(words=words, vectors=found.vectors[order], sigma=sigma, counts=counts)


def convert(file: str | Path, output: Path, overwrite: bool = False) -> str:
    """A .tkc file in another program's format; says what it did. Raises ValueError for words that it cannot hold.

    A name without an ending is a new folder of static sentence embeddings, as they came.
    """
    if not output.suffix:
        return _convert_folder(file, output)
    check_new(output, overwrite, WRITTEN, [str(file)])
    if output.suffix.lower() in TABLES:
        with Embeddings(file) as opened, atomic_path(output) as temporary:
            tables.save(temporary, opened.vectors(), opened.words, opened.kept)
        without = ", without the words, which other endings keep" * (output.suffix.lower() == ".npy")
        return f"{file} -> {output}: {output.stat().st_size} bytes{without}"
    keyed = load(file)
    spaced = next((word for word in keyed.index_to_key if " " in word), None)
    if spaced is not None and output.suffix.lower() != ".kv":
        raise ValueError(
            f"expected words without spaces for {output.suffix}, got {spaced!r}; give output= the ending .kv"
        )
    with atomic_path(output) as temporary:
        save(keyed, temporary)
    return f"{file} -> {output}: {output.stat().st_size} bytes"


def _convert_folder(file: str | Path, output: Path) -> str:
    if output.exists():
        raise ValueError(f"expected output= to name a new folder, got {output}, which is there; give another name")
    if not output.parent.is_dir():
        raise ValueError(f"{output}: expected output= in an existing folder, got {output.parent}; make it")
    with Embeddings(file) as opened:
        if opened.kept is None or not opened.kept.at:
            raise ValueError(
                f"expected output= to end in {' or '.join(WRITTEN)}, got {output}; a folder is for static sentence "
                "embeddings that came as one"
            )
        temporary = temporary_of(output)
        try:
            tables.save_folder(temporary, opened.vectors(), opened.kept)
            os.replace(temporary, output)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    return f"{file} -> {output}: {size} bytes"


def check(words: Sequence[str], vectors: Tensor, stored: bool = True) -> None:
    """Raise ValueError that names the word unless all words can be stored and all vectors are finite.

    words: one for each row of vectors, float [words, d]; not empty, on one line, each once, valid as UTF-8. stored:
    whether words are, and not a tokenizer that has them. Vectors whose largest number is not within SIZES are refused:
    squares of others, in units of sigma, are not what float32 holds.
    """
    if vectors.dim() != 2 or len(words) != len(vectors) or not vectors.numel():
        raise ValueError(
            f"expected one word for each row of vectors [words, d], got {len(words)} words and {list(vectors.shape)}"
        )
    seen: set[str] = set()
    for row, word in enumerate(words if stored and not _sound(words) else ()):
        wrong = (
            "an empty word" if not word
            else "a word with a tab, a line end, NUL or the like, or with a space at an end" if _breaks(word)
            else "the word of an earlier row" if word in seen
            else "text that is not valid as UTF-8" if not _encodable(word)
            else ""
        )  # fmt: skip
        if wrong:
            raise ValueError(
                f"row {row}: expected words that are not empty, on one line, and occur once, got {wrong}: {word!r}; "
                "rename or remove it"
            )
        seen.add(word)
    bad = ~vectors.isfinite().all(1)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"row {row}: expected finite vectors, got NaN, infinity or what float32 cannot hold for {words[row]!r} "
            f"({int(bad.sum())} rows in all); remove these rows"
        )
    largest = float(vectors.abs().max())
    if largest and not SIZES[0] <= largest <= SIZES[1]:
        raise ValueError(
            f"expected numbers of which the largest is within {SIZES[0]:g} and {SIZES[1]:g}, got {largest:g}; multiply "
            "all by one factor, which changes no cosine"
        )


def export(
    path: str | os.PathLike[str], words: Sequence[str], vectors: Tensor, sigma: Tensor, goal: str, number: float,
    method: str = "default", about: dict[str, Any] | None = None, kept: Kept | None = None,
) -> dict[str, int]:  # fmt: skip
    """Quantise and write what a goal asks for; returns the bytes of the file's parts, as `write` does.

    goal: "lambda"; "target_size", bytes of the file; or "bits_per_dim", bits of the file without its vocabulary for
    each coordinate. Other arguments as of `quantise` and `write`. Raises ValueError as `check` and `quantise` do.
    """
    check(words, vectors, kept is None)
    vectors, sigma = vectors.float(), sigma.float()
    first = first_chunk(words, kept)
    if goal == "lambda":
        lam, quantised = number, quantise(vectors, sigma, number, method)
    else:
        target = number if goal == "target_size" else number * vectors.numel() / 8 + len(first[0])
        lam, quantised = fit(words, vectors, sigma, int(target), method, about, first, kept)
    return write(path, words, quantised, about_file(method, lam, about), first, kept)


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
    return len(first_chunk(words, None)[0])


def _sound(words: Sequence[str]) -> bool:
    """Whether no word is refused: all at once, which is several times as fast."""
    text = "\n".join(words)
    lines = text.count("\n") == len(words) - 1 and not WRONG.search(f"\n{text}\n")
    return lines and _encodable(text) and len(set(words)) == len(words)


def _breaks(word: str) -> bool:
    """Whether a word has white space but the space itself, or NUL, which no text file of vectors could hold."""
    return word != word.strip() or any((letter.isspace() and letter != " ") or letter == "\0" for letter in word)


def _encodable(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:  # lone surrogates, which Python makes of bytes that are not UTF-8
        return False
    return True
