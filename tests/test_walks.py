"""How many functions a row passes on its way from a command to the loop that makes bits of it, in how many rooms."""

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny import run_folder
from toolkit import compress, export_embeddings
from toolkit.coding import cpu

ROOT = Path(__file__).parents[1]


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The functions of ours that stand on the stack when loops begin, the command first; one list a push."""
    found: list[list[str]] = []
    run = cpu._run

    def seen(*arguments: Any) -> Any:
        frame: FrameType | None = sys._getframe(1)
        stack = []
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            if any(path.is_relative_to(ROOT / room) for room in ("toolkit", "recipes")):
                stack.append(f"{path.relative_to(ROOT).with_suffix('').as_posix()} {frame.f_code.co_qualname}")
            frame = frame.f_back
        # What stands around every command, for its errors, passes nothing on.
        found.append([stop for stop in reversed(stack) if not stop.startswith("toolkit/cli ")])
        return run(*arguments)

    monkeypatch.setattr(cpu, "_run", seen)
    return found


def rooms(walk: list[str]) -> set[str]:
    return {"/".join(stop.split(" ")[0].split("/")[:2]) for stop in walk}


def longest(walks: list[list[str]]) -> list[str]:
    return max(walks, key=len)


def test_a_row_of_an_image_passes_few_functions_in_few_rooms(tmp_path: Path, walks: list[list[str]]) -> None:
    run = run_folder(tmp_path / "run", (1, 8, 8))
    np.save(tmp_path / "x.npy", np.zeros((20, 8, 8), np.uint8))
    assert compress.main([f"run={run}", f"input={tmp_path / 'x.npy'}", f"output={tmp_path / 'x.tkc'}"]) == 0
    walk = longest([walk for walk in walks if not any("_try_one" in stop for stop in walk)])
    assert len(walk) <= 12, walk
    assert len(rooms(walk)) <= 7, walk


def test_a_word_vector_passes_few_functions_in_few_rooms(tmp_path: Path, walks: list[list[str]]) -> None:
    torch.manual_seed(0)
    lines = [f"w{i} {' '.join(f'{x:.6f}' for x in row)}" for i, row in enumerate(torch.randn(250, 12).tolist())]
    (tmp_path / "g.txt").write_text("\n".join(lines) + "\n")
    assert export_embeddings.main([f"input={tmp_path / 'g.txt'}", f"output={tmp_path / 'g.tkc'}", "lambda=1"]) == 0
    walk = longest(walks)
    assert len(walk) <= 9, walk  # one more from a run: its head
    assert len(rooms(walk)) <= 5, walk
