"""Functions compiled ahead of time: for all sizes, once a machine, and found again by what they compute."""

import functools
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from toolkit.coding import ahead
from toolkit.coding.ahead import Compiled, CompilingFailed, Version, identity


def scaled(factor: int) -> Any:
    def function(x: Tensor, rows: list[Tensor], extra: Tensor | None, table: Tensor) -> tuple[Tensor, Tensor]:
        x[:] = x + 1  # what a message's tail is: changed in place
        total = sum(rows, torch.zeros_like(rows[0])) * factor + table[rows[0]]
        return total, total if extra is None else total + extra

    return function


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler (g++)")
def test_what_is_compiled_once_does_for_all_sizes_and_for_other_processes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    made, real = [], ahead._compile
    monkeypatch.setattr(ahead, "_compile", lambda *arguments: (made.append(1), real(*arguments))[1])
    function = scaled(3)
    call = Compiled(function, {})

    def same(call: Any, n: int, tail: int, extra: bool = False) -> None:
        rows = [torch.arange(n) % 5, torch.arange(n)]
        rest = torch.arange(n) if extra else None
        mine, plain = torch.arange(tail), torch.arange(tail)
        found, expected = call(mine, rows, rest, torch.arange(8)), function(plain, rows, rest, torch.arange(8))
        assert all(map(torch.equal, found, expected))
        assert torch.equal(mine, plain)

    same(call, 100, 100)  # sizes that happen to be equal
    same(call, 2, 5000)
    same(call, 5000, 2)
    same(call, 1, 1)  # as it is
    assert len(made) == 1
    again = Compiled(scaled(3), {})  # as another process would
    same(again, 77, 10)
    (path,) = tmp_path.glob("toolkit/*.pt2")
    assert len(made) == 1
    path.write_bytes(path.read_bytes()[:1000])
    same(Compiled(scaled(3), {}), 77, 10)
    assert len(made) == 2 and list(tmp_path.glob("toolkit/*")) == [path]
    # The library's compiled headers are where they end with the process.
    headers = Path(torch._inductor.codecache._HEADER_DIR)
    assert headers.name.startswith("toolkit-headers-") and list(headers.glob("*.gch"))


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler (g++)")
def test_sizes_that_decide_what_is_computed_are_compiled_apart_and_kept_beside_each_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))

    def third(x: Tensor, rest: list[Tensor]) -> Tensor:  # asks for three rows or more
        return x[2] * len(x) + rest[0]

    for call in (Compiled(third, {}), Compiled(third, {})):  # the second finds what the first has kept
        for rows, n in ((3, 7), (4, 7), (4, 9), (3, 9)):
            x, rest = torch.arange(rows * n).view(rows, n), [torch.arange(n)]
            assert torch.equal(call(x, rest), third(x, rest))
            assert torch.equal(call.bound([x + 1], [rest])(x), third(x, rest))
        assert len(list(tmp_path.glob("toolkit/*"))) == 2


def test_a_version_is_for_types_and_structures_and_equal_sizes() -> None:
    version = Version([-1, 2], [(torch.int64, ["n"]), (torch.int64, [3, "n"]), (torch.bool, ["m"])], True, lambda x: x)
    x, y, z = torch.zeros(9, dtype=torch.int64), torch.zeros(3, 9, dtype=torch.int64), torch.zeros(4, dtype=torch.bool)
    assert version.fits([-1, 2], [x, y, z])
    assert not version.fits([2, -1], [x, y, z])
    assert not version.fits([-1, 2], [x[:8], y, z])
    assert not version.fits([-1, 2], [x, y[:2], z])
    assert not version.fits([-1, 2], [x.int(), y, z])
    assert not version.fits([-1, 2], [x, y[0], z])
    assert not version.fits([-1, 2], [x, y, z[:1]])


OFFSET = 0


def offset(x: Tensor) -> Tensor:
    return x + OFFSET


def test_functions_that_compute_something_else_have_another_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(x: Tensor) -> Tensor:
        return x

    def over(function: Any, *values: Any) -> Any:
        return lambda x: function(x, values)

    assert identity(scaled(3)) == identity(scaled(3)) != identity(scaled(4))
    assert identity(over(torch.add, 1)) == identity(over(torch.add, 1)) != identity(over(torch.add, 2))
    assert identity(over(torch.add, "a", None)) != identity(over(other, "a", None))
    assert identity(functools.partial(other, a=1)) != identity(functools.partial(other, a=2))
    monkeypatch.setattr("tests.test_ahead.OFFSET", 1)
    before = identity(offset)
    monkeypatch.setattr("tests.test_ahead.OFFSET", 2)
    assert identity(offset) != before, "the same code with another global"
    with pytest.raises(TypeError, match="expected a function that closes over functions, numbers and strings, got ten"):
        identity(over(torch.add, torch.zeros(1)))


def test_what_can_not_be_compiled_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))

    def asks(x: Tensor) -> Tensor:
        return x if int(x.sum()) == 0 else -x

    with pytest.raises(CompilingFailed, match=r"sum|data-dependent|guard"):
        Compiled(asks, {})(torch.arange(5))
    assert not list(tmp_path.glob("toolkit/*"))
