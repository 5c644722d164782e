"""Memory of a search in a file of word vectors: python scripts/word_memory.py FILE.tkc WORD

The peak of the process while it opens the file and finds the ten words nearest to WORD, over what it held before, when
the same had been done with a small file, so that no loop is compiled and no library loaded. Linux with glibc only.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import tempfile
from multiprocessing import get_context
from pathlib import Path

import torch

from toolkit import embeddings


def mebibytes(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def write(path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    vectors = torch.randn(20_000, 50, generator=rng)
    words = [f"{i:x}" for i in torch.randperm(1 << 20, generator=rng)[: len(vectors)].tolist()]
    embeddings.export(path, words, vectors, torch.ones_like(vectors), "lambda", 0.1)


def main() -> None:
    torch.set_num_threads(1)
    path, word = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "v.tkc"
        written = get_context("spawn").Process(target=write, args=(small,))  # which takes its memory with it
        written.start()
        written.join()
        with embeddings.open(small) as file:
            file.most_similar(next(iter(file)))
    del file
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # else what is free already would be taken first, and not be seen
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that from here on
    before = mebibytes("VmRSS")
    with embeddings.open(path) as file:
        file.most_similar(word)
        peak, whole = mebibytes("VmHWM") - before, 4 * len(file) * file.dimensions / 2**20
    print(f"{peak:.1f} MiB, {100 * peak / whole:.1f} % of the {whole:.1f} MiB of float32")


if __name__ == "__main__":
    main()
