"""How long files of word vectors take to write, to open and to read: python scripts/word_speed.py [FILE.tkc]

Of a file, or of 100,000 words of 100 dimensions whose certainty falls with their rank, which are written first; clock
and processor time, the second for machines that do something else as well. Loops are compiled before.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from toolkit import embeddings

WORDS, DIMENSIONS, ASKED = 100_000, 100, 1000
T = TypeVar("T")


def timed(name: str, action: Callable[[], T]) -> T:
    wall, processor = time.perf_counter(), time.process_time()
    result = action()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    print(f"{name}: {1e3 * wall:.1f} ms, {1e3 * processor:.1f} ms of processor", flush=True)
    return result


def written(file: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    vectors = 0.2 * torch.randn(WORDS, DIMENSIONS, generator=rng)
    sigma = 0.02 * (torch.arange(WORDS) + 10.0).pow(0.25)[:, None].expand_as(vectors).contiguous()
    syllables = ["ba", "ko", "ti", "ner", "ol", "sta", "u", "mi"]
    words = ["".join(syllables[int(x)] for x in f"{i * 7919 % 104729:o}") for i in range(WORDS)]
    timed("search on the dyadic grid alone", lambda: embeddings.quantise(vectors, sigma, 0.005, "vbq"))
    quantised = timed("search and 8 rounds of refinement", lambda: embeddings.quantise(vectors, sigma, 0.005))
    sizes = timed("write", lambda: embeddings.write(file, words, quantised))
    print(f"{8 * (sizes['file'] - sizes['vocabulary']) / vectors.numel():.3f} bits per dimension, {sizes}")


def read(file: Path, asked: list[str]) -> None:
    """Open a file and ask it for words: the first of all, the others as they come, and all of them again."""
    with timed("open", lambda: embeddings.open(file)) as opened:
        timed("first word", lambda: opened[asked[0]])
        for name in ("words as they come", "the same again"):
            seconds = []
            for word in asked:
                began = time.process_time()
                opened[word]
                seconds.append(time.process_time() - began)
            at = [1e3 * sorted(seconds)[int(x * len(asked))] for x in (0.5, 0.99)]
            print(
                f"{name}: mean {1e3 * sum(seconds) / len(asked):.2f} ms, median {at[0]:.3f} ms, 99 % {at[1]:.2f} ms of "
                "processor", flush=True,
            )  # fmt: skip
        timed("all words", lambda: opened.words)
        timed("all vectors", opened.vectors)
    timed("load into gensim", lambda: embeddings.load(file))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder) / "v.tkc"
        if len(sys.argv) < 2:
            written(file)
        words = embeddings.load(file).index_to_key  # loading the coder and gensim is no part of a speed
        for seed in range(3):
            read(file, random.Random(seed).sample(words, ASKED))


if __name__ == "__main__":
    main()
