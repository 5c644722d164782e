"""A short run of scripts/fuzz_files.py: mutated files give the right rows or a clear error, and no more happens."""

import json
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from tests import fuzz


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> list[fuzz.Subject]:
    return fuzz.subjects(tmp_path_factory.mktemp("subjects"))


def test_mutated_files_give_the_right_rows_or_a_clear_error(subjects: list[fuzz.Subject], tmp_path: Path) -> None:
    seen = set()
    with fuzz.limited():
        for i, subject, case, mode in fuzz.cases(subjects, 160, seed=1):
            verdict, why = fuzz.judge(subject, case, mode, tmp_path)
            assert verdict in fuzz.GOOD, f"case {i}, {subject.name}, {case.what}, {mode}: {verdict}: {why}"
            seen.add(verdict)
    assert {"right", "refused"} <= seen


@pytest.mark.parametrize("verdict", ["silent", "outside", "left", "unclear", "other", "hang"])
def test_the_judge_sees_what_a_bad_reader_does(
    verdict: str, subjects: list[fuzz.Subject], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = next(subject for subject in subjects if subject.name == "bitswap.x")
    monkeypatch.setattr(fuzz, "SECONDS", 1.0)

    def bad(file: Path, output: Path, mode: str) -> tuple[fuzz.Rows, bool]:
        if verdict == "silent":
            return {name: value + (name == "1") for name, value in good.rows.items()}, False
        if verdict == "outside":
            (output.parent.parent / "escaped.png").touch()
        if verdict == "left":
            output.mkdir()
            raise ValueError("expected another file")
        if verdict == "unclear":
            raise ValueError("no")
        if verdict == "other":
            raise KeyError("items")
        while verdict == "hang":
            pass
        return good.rows, False

    case = fuzz.Case("none", good.data, False)
    with fuzz.limited():
        assert fuzz.judge(good._replace(read=bad), case, "error", tmp_path)[0] == verdict
        assert fuzz.judge(good, case, "error", tmp_path)[0] == "right"


def test_only_what_is_the_same_in_all_its_bytes_is_looked_up() -> None:
    calls = list[bytes]()

    def decode(payload: bytes, valid: Tensor) -> Tensor:
        calls.append(payload)
        if payload == b"bad":
            raise ValueError("expected another payload")
        return valid.int() + len(calls)

    coder, some = SimpleNamespace(decode=decode), torch.ones(2, 3, dtype=torch.bool)
    fuzz.remember(coder, ["decode"])
    first = coder.decode(b"a", some, progress=print)
    assert torch.equal(coder.decode(b"a", some.clone()), first) and len(calls) == 1
    first += 1  # what a reader does with its rows is its own affair
    assert int(coder.decode(b"a", some)[0, 0]) == 2
    for payload, valid in ((b"b", some), (b"a", ~some), (b"a", some.view(3, 2)), (b"a", some[:1])):
        before = len(calls)
        coder.decode(payload, valid)
        assert len(calls) == before + 1
    for _ in range(2):
        with pytest.raises(ValueError, match="another payload"):
            coder.decode(b"bad", some)
    large = torch.ones(fuzz.MOST_REMEMBERED + 1, dtype=torch.bool)
    assert int(coder.decode(b"a", large)[0]) < int(coder.decode(b"a", large)[0])


def test_changes_of_a_header_change_no_other_one() -> None:
    before, rng = repr(fuzz.VALUES), random.Random(0)
    for _ in range(300):
        header = {"a": [[1], {"b": []}], "c": {}}
        for _ in range(8):
            fuzz.change(header, rng)
        json.dumps(header)
    assert repr(fuzz.VALUES) == before
