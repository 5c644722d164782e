"""The precision of a training: bfloat16 where this machine multiplies it faster than float32."""

from __future__ import annotations

import sys
import time

import torch
from torch import Tensor

SIZE = 256  # of the matrices that are timed


def chosen(wish: str, accelerator: str = "auto") -> str:
    """The precision of Lightning's Trainer for a wish, which may be "auto"; says so if what is wished is slow here.

    auto: "bf16-mixed" where bfloat16 is faster than float32, else "32-true"; accelerator: of the same Trainer.
    """
    if wish != "auto" and not wish.startswith("bf16"):
        return wish
    faster = bf16_is_faster(accelerator)
    if wish == "auto":
        return "bf16-mixed" if faster else "32-true"
    if not faster:
        print(
            f"trainer.precision={wish} is slower than 32-true on this machine, which has no instructions for it; "
            "precision=auto takes it where it is faster",
            file=sys.stderr,
        )
    return wish


def bf16_is_faster(accelerator: str = "auto") -> bool:
    """Whether products of bfloat16 take less time than those of float32 on what a training would run on.

    Processors without such instructions emulate them, a hundred times slower, and torch has no public way to tell: so
    a product is timed, which takes a tenth of a second there.
    """
    if torch.cuda.is_available() and accelerator in ("auto", "gpu", "cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    x = torch.rand(SIZE, SIZE)
    return _seconds(x.bfloat16()) < _seconds(x)


def _seconds(x: Tensor) -> float:
    """Of a product with itself, the least of three."""
    found = []
    for _ in range(3):
        began = time.perf_counter()
        x @ x
        found.append(time.perf_counter() - began)
    return min(found)
