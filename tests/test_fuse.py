"""Compiling: a machine that can not does without, and what is measured decides whether it pays."""

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.laws import contents
from toolkit.coding import ahead, fuse
from toolkit.coding.ans import Message
from toolkit.coding.codecs import uniform
from toolkit.coding.fuse import COLD, WARM, compiled, compiling_pays, keep_compiled


def test_without_a_compiler_the_function_itself_runs_after_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def broken(*arguments: Any) -> None:
        tried.append(1)
        raise RuntimeError("no g++")

    monkeypatch.setattr(ahead, "_version", broken)
    monkeypatch.setattr(fuse, "_failed", [])
    add, subtract = compiled(lambda a, b: a + b), compiled(lambda a, b: a - b)
    with pytest.warns(UserWarning, match=r"no g\+\+.*same bytes: install a C\+\+ compiler"):
        assert int(add(*numbers(3, 4))[0]) == 7
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert int(add(*numbers(5, 4))[0]) == 9
        assert int(subtract(*numbers(5, 4))[0]) == 1
    assert len(tried) == 1
    assert not compiling_pays("any", 1e9, 1e9)


def numbers(*values: int) -> list[torch.Tensor]:
    return [torch.full((2,), value) for value in values]


def test_errors_of_the_function_are_not_taken_for_those_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(x: torch.Tensor) -> None:
        raise ValueError("wrong")

    monkeypatch.setattr(fuse, "_failed", [])
    with pytest.raises(ValueError, match="wrong"):
        compiled(refuse)(torch.zeros(1))
    assert not fuse._failed


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler (g++) on a CPU")
def test_what_other_devices_run_codes_the_same_words(monkeypatch: pytest.MonkeyPatch, short_blocks: None) -> None:
    # Tensors that are not on a CPU go through torch.compile.
    def bound(block: Any, fused: bool, first: Any, rest: Any) -> Any:
        call = fuse._just_in_time(block) if fused else block
        return lambda *given: call(*given, *rest)

    monkeypatch.setattr(fuse, "bound", bound)
    results = []
    for fused in (False, True):
        for lanes in (7, 12):
            message, codec = Message.random(lanes, 30, 0, compiled=fused), uniform((60,), 16)
            x = codec.pop(message)
            codec.push(message, (x + 12345) % (1 << 16))
            results.append((x.tolist(), contents(message)))
    assert results[:2] == results[2:]


def test_compiling_pays_where_coding_takes_longer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    assert not compiling_pays("model", 1, COLD)
    assert compiling_pays("model", 1, 2 * COLD)
    assert compiling_pays("model", COLD + 1, 0), "as much was spent as compiling would have cost"
    keep_compiled("model")
    assert compiling_pays("model", 1, 2 * WARM)
    assert not compiling_pays("another", 1, 2 * WARM)
    assert not compiling_pays("model", 1, WARM)
