"""The precision that suits a machine."""

import pytest
import torch
from torch import Tensor

from toolkit.training import precision


def timed(monkeypatch: pytest.MonkeyPatch, bf16: float) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def seconds(x: Tensor) -> float:
        return bf16 if x.dtype == torch.bfloat16 else 1.0

    monkeypatch.setattr(precision, "_seconds", seconds)


@pytest.mark.parametrize(("bf16", "found"), [(0.5, "bf16-mixed"), (75.0, "32-true")])
def test_auto_is_bfloat16_where_its_products_are_faster(
    monkeypatch: pytest.MonkeyPatch, bf16: float, found: str
) -> None:
    timed(monkeypatch, bf16)
    assert precision.chosen("auto") == found


def test_what_was_asked_for_stays_and_is_called_slow_where_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for bf16, said in ((0.5, ""), (75.0, "trainer.precision=bf16-mixed is slower than 32-true on this machine")):
        timed(monkeypatch, bf16)
        assert precision.chosen("bf16-mixed") == "bf16-mixed"
        error = capsys.readouterr().err
        assert said in error and bool(error) == bool(said)
        assert precision.chosen("32-true") == "32-true"
    assert capsys.readouterr().err == ""


def test_products_take_time() -> None:
    assert 0 < precision._seconds(torch.rand(64, 64)) < 10
