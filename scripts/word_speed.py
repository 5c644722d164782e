"""Seconds to quantise, write and decode files of word vectors, and milliseconds a word: python scripts/word_speed.py

100,000 words of 100 dimensions whose certainty falls with their rank; wall-clock and processor time, the second for
machines that do something else as well.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from toolkit import embeddings

WORDS, DIMENSIONS, ROUNDS = 100_000, 100, 8
T = TypeVar("T")


def timed(name: str, action: Callable[[], T]) -> T:
    wall, processor = time.perf_counter(), time.process_time()
    result = action()
    print(
        f"{name}: {time.perf_counter() - wall:.2f} s, {time.process_time() - processor:.2f} s of processor", flush=True
    )
    return result


def main() -> None:
    rng = torch.Generator().manual_seed(0)
    vectors = 0.2 * torch.randn(WORDS, DIMENSIONS, generator=rng)
    sigma = 0.02 * (torch.arange(WORDS) + 10.0).pow(0.25)[:, None].expand_as(vectors).contiguous()
    words = [f"word{i}" for i in range(WORDS)]
    timed("search on the dyadic grid alone", lambda: embeddings.quantise(vectors, sigma, 0.005, "vbq"))
    quantised = timed("search and 8 rounds of refinement", lambda: embeddings.quantise(vectors, sigma, 0.005))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "v.tkc"
        sizes = timed("write", lambda: embeddings.write(file, words, quantised))
        print(f"{8 * (sizes['file'] - sizes['vocabulary']) / vectors.numel():.3f} bits per dimension, {sizes}")
        with timed("open", lambda: embeddings.open(file)) as opened:
            opened[words[-1]]  # loading the coder is no part of a speed
            decoded = timed("decode all", opened.vectors)
            assert torch.equal(decoded, quantised.vectors())
            chosen = [words[i] for i in torch.randint(WORDS, (1000,), generator=rng).tolist()]
            seconds = []
            for word in chosen:
                began = time.process_time()
                opened[word]
                seconds.append(time.process_time() - began)
            seconds.sort()
            print(
                f"one word: median {1e3 * seconds[500]:.2f} ms, 99 % {1e3 * seconds[990]:.2f} ms of processor",
                flush=True,
            )


if __name__ == "__main__":
    main()
