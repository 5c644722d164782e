"""Loops are kept on disk, and whoever waits for their compilation is told why."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAM = """
from toolkit.coding.compiled import jit
from tqdm import tqdm

@jit
def double(x):
    return 2 * x

@jit
def half(x):
    return x // 2

with tqdm(total=1) as bar:
    print(half(double(3)))
    bar.update()
"""


def said(program: Path, **environment: str) -> list[str]:
    """The lines of standard error that are no progress bar's."""
    done = subprocess.run(
        [sys.executable, str(program)], env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "3\n"
    return [line for line in done.stderr.replace("\r", "\n").splitlines() if "%|" not in line and line.strip()]


def test_one_line_says_that_loops_are_compiled_and_none_where_they_are_on_disk(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    kept = str(tmp_path / "kept")
    line = "compiling the coder for this processor, half a minute or more (once)"
    assert [said(program, NUMBA_CACHE_DIR=kept) for _ in range(2)] == [[line], []]


def test_one_of_the_processes_of_torchrun_says_it(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    assert said(program, NUMBA_CACHE_DIR=str(tmp_path / "kept"), LOCAL_RANK="1") == []


def test_it_says_that_nothing_is_kept_where_no_folder_can_be_written(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    (tmp_path / "__pycache__").write_text("a file")
    (tmp_path / "home").write_text("a file")
    [line] = said(program, NUMBA_CACHE_DIR="", HOME=str(tmp_path / "home"), XDG_CACHE_HOME=str(tmp_path / "home"))
    assert line.endswith("(each time, as there is no folder to keep it in: set NUMBA_CACHE_DIR to one)")
