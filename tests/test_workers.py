"""Maps over threads: order, modes, errors, and threads as they were."""

import threading

import pytest
import torch

from toolkit.coding.workers import workers


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


@pytest.mark.parametrize("most", [1, 3])
def test_results_come_in_order_and_modes_are_the_callers(most: int, two_threads: None) -> None:
    def call(a: int, b: int) -> tuple[int, bool]:
        return a + b, torch.is_inference_mode_enabled()

    for inference in (False, True):
        with torch.inference_mode(inference), workers(most) as each:
            assert each(call, range(5), range(0, 50, 10)) == [(11 * i, inference) for i in range(5)]


def test_two_calls_run_at_once(two_threads: None) -> None:
    both = threading.Barrier(2, timeout=20)  # breaks, and raises, if one waits alone
    with workers(2) as each:
        assert sorted(each(lambda _: both.wait(), range(2))) == [0, 1]


@pytest.mark.parametrize("most", [1, 2])
def test_errors_reach_the_caller(most: int, two_threads: None) -> None:
    with pytest.raises(ZeroDivisionError), workers(most) as each:
        each(lambda x: 1 // x, [1, 0])


def test_the_callers_own_threads_stay_as_they_are() -> None:
    before = torch.get_num_threads()
    with workers(4) as each:
        each(lambda x: torch.ones(100_000).sum(), range(4))
    assert torch.get_num_threads() == before
