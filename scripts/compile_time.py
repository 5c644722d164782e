"""Seconds that the coder's loops take to compile on a CPU, with an empty cache, and to load in another process.

python scripts/compile_time.py
"""

import os
import subprocess
import sys
import tempfile
import time

import torch

from toolkit.coding import frequencies
from toolkit.coding.codecs import Codec, bernoulli, raw
from toolkit.coding.distributions import location_scale
from toolkit.coding.message import Message
from toolkit.coding.mixtures import mixture, pixels
from toolkit.coding.tables import categorical, of_starts

SYMBOLS, COMPONENTS = 64, 5


def codecs() -> dict[str, Codec]:
    """One of each law that has loops of its own."""
    valid, rng = torch.ones(SYMBOLS, dtype=torch.bool), torch.Generator().manual_seed(0)
    loc = torch.full((COMPONENTS, SYMBOLS), 64 * 100, dtype=torch.int32)
    scale = torch.full_like(loc, 200)
    weight = frequencies.weights(torch.zeros(COMPONENTS, SYMBOLS, dtype=torch.int32))
    parameters = torch.rand(SYMBOLS, COMPONENTS * 10, generator=rng).mul(100).round()
    return {
        "table": categorical(torch.full((4,), 16384), (SYMBOLS,), 16),
        "bits": raw(torch.full((SYMBOLS,), 8), valid, 16),
        "bit": bernoulli(torch.full((SYMBOLS,), 1000), 16),
        "logistic, Gaussian": location_scale("logistic", loc[0], scale[0], 256, 1),
        "logistic, Gaussian on many lanes": location_scale("logistic", loc[0], scale[0], 256, 1),
        "tables on many lanes": of_starts(torch.tensor([[0, 3, 16]] * 2), 4).codec(
            torch.zeros_like(valid).int(), valid
        ),
        "mixture": mixture("logistic", weight, loc, scale, 256),
        "pixels": pixels(parameters, COMPONENTS, 256, valid[:, None].expand(-1, 3)),
    }


def child() -> None:
    began = time.perf_counter()
    from toolkit.coding import cpu  # noqa: F401  # what importing Numba takes is told apart

    print(f"import {time.perf_counter() - began:.2f}")
    for name, codec in codecs().items():
        message = Message.random(64 if "many" in name else 2, 4096, 0)
        began = time.perf_counter()
        codec.push(message, codec.pop(message))
        print(f"{name} {time.perf_counter() - began:.2f}")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder, "CHILD": "1"}
        found = []
        for _ in range(2):
            run = subprocess.run(
                [sys.executable, __file__], env=environment, capture_output=True, text=True, check=True
            )
            found.append([line.rpartition(" ")[::2] for line in run.stdout.splitlines()])
    print("| pop and push of | compiled, s | loaded, s |\n|---|---|---|")
    for (name, first), (_, second) in zip(*found, strict=True):
        print(f"| {name} | {first} | {second} |")
    totals = [sum(float(seconds) for name, seconds in rows if name != "import") for rows in found]
    print(f"| all but the import of Numba | {totals[0]:.1f} | {totals[1]:.1f} |")


if __name__ == "__main__":
    child() if "CHILD" in os.environ else main()
