"""The schedule of training, and the real encoding and decoding inside its loop."""

import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import recipes.bitswap
from recipes.bitswap import head
from tests.tiny import bitswap, configure, images
from toolkit.chunks.chained import Coder
from toolkit.chunks.model import RowModel, Settings
from toolkit.coding.codecs import Codec
from toolkit.container import Reader
from toolkit.train import train
from toolkit.training.evaluation import CodecEvaluation, RoundTripError, evaluate
from toolkit.training.plots import rate_table
from toolkit.training.schedule import Schedule

PEAK = 0.5


class FakeTrainer(SimpleNamespace):
    """What the callbacks use of a Trainer."""

    def __init__(self, **changes: Any) -> None:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
        optimizer.param_groups[0]["lr"] = 0.123  # as if decayed, out of a checkpoint
        super().__init__(
            **{
                "optimizers": [optimizer], "global_step": 0, "world_size": 1, "should_stop": False,
                "is_global_zero": True, "current_epoch": 0, "logger": None, **changes,
            }
        )  # fmt: skip


def rate(schedule: Schedule, step: int) -> float:
    trainer: Any = FakeTrainer(global_step=step)
    logged: dict[str, float] = {}
    schedule.on_train_batch_start(trainer, SimpleNamespace(log=logged.__setitem__), torch.zeros(1), 0)  # type: ignore[arg-type]
    [group] = trainer.optimizers[0].param_groups
    assert logged == {"train/learning_rate": group["lr"]}
    return float(group["lr"])


def begun(minutes: float = 1000.0, max_steps: int = 100, warmup: int = 1) -> Schedule:
    schedule = Schedule(minutes, max_steps, warmup)
    schedule.on_train_start(FakeTrainer(), None)  # type: ignore[arg-type]
    return schedule


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still until a test moves it."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_the_learning_rate_falls_as_a_half_cosine_over_the_steps(clock: list[float]) -> None:
    schedule = begun(max_steps=100)
    assert [rate(schedule, step) for step in (0, 25, 50, 75)] == pytest.approx(
        [PEAK * 0.5 * (1 + math.cos(math.pi * t)) for t in (0, 0.25, 0.5, 0.75)]
    )
    assert rate(schedule, 100) == pytest.approx(PEAK * 1e-3)


def test_the_learning_rate_falls_over_the_minutes_too(clock: list[float]) -> None:
    schedule = begun(minutes=2.0, max_steps=-1)
    assert rate(schedule, 10**6) == PEAK
    clock[0] += 60
    assert rate(schedule, 10**6) == pytest.approx(PEAK / 2)
    clock[0] += 60
    assert rate(schedule, 10**6) == pytest.approx(PEAK * 1e-3)


def test_the_learning_rate_warms_up_over_so_many_steps(clock: list[float]) -> None:
    schedule = begun(max_steps=-1, warmup=10)
    assert [rate(schedule, step) for step in (0, 4, 9, 10)] == pytest.approx([PEAK * x for x in (0.1, 0.5, 1, 1)])
    assert rate(begun(max_steps=-1, warmup=0), 0) == PEAK


def test_a_model_of_rows_knows_how_much_of_its_training_is_over(clock: list[float]) -> None:
    schedule, module = begun(minutes=2.0, max_steps=100), RowModel()
    module.log = lambda *_: None  # type: ignore[method-assign]
    assert module.progress == 0
    # With the step that is taken, unless the clock is ahead of the steps.
    for step, seconds, progress in (
        (0, 0, 0.01),
        (0, 0.06, 0.01),
        (24, 0, 0.25),
        (24, 59.94, 0.5),
        (89, 0, 0.9),
        (99, 0, 1),
    ):
        clock[0] += seconds
        schedule.on_train_batch_start(FakeTrainer(global_step=step), module, torch.zeros(1), 0)  # type: ignore[arg-type]
        assert module.progress == progress


@pytest.mark.parametrize(("steps", "seconds", "stops"), [(99, 59, False), (100, 0, True), (0, 60, True)])
def test_training_stops_at_the_first_end(steps: int, seconds: float, stops: bool, clock: list[float]) -> None:
    schedule, trainer = begun(minutes=1.0, max_steps=100), FakeTrainer(global_step=steps)
    clock[0] += seconds
    schedule.on_train_batch_end(trainer)  # type: ignore[arg-type]
    assert trainer.should_stop == stops


def test_time_before_a_resume_counts_and_time_between_does_not(clock: list[float]) -> None:
    first = begun(minutes=2.0, max_steps=-1)
    clock[0] += 30
    state = first.state_dict()
    clock[0] += 10**6
    second = Schedule(2.0, -1, 1)
    second.load_state_dict(state)
    assert second.state_dict() == state, "time before the training began was counted"
    second.on_train_start(FakeTrainer(), None)  # type: ignore[arg-type]
    clock[0] += 30
    assert rate(second, 5) == pytest.approx(PEAK / 2)
    assert second.state_dict() == {"spent": 60.0}


def test_no_minutes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected minutes above 0, got 0"):
        Schedule(0, 1, 1)


# Real encoding and decoding

KEYS = {
    "file_bpd", "net_bpd", "elbo_bpd", "gap/discretisation_bpd", "gap/frequencies_bpd", "gap/initial_bits_bpd",
    "gap/lanes_bpd", "gap/container_bpd", "speed/encode_coder_share", "speed/decode_coder_share",
    "speed/encode_MB_per_s", "speed/decode_MB_per_s",
}  # fmt: skip


def make_coder(module: Any, head: Callable[..., Codec] = head) -> Coder:
    return Coder(module, head, Settings(16, 8, 0))


def evaluation(path: Path, every: int = 1, stage: str = "validation") -> CodecEvaluation:
    return CodecEvaluation(images(24), make_coder, path / "v.tkc", every, {"PNG": 5.0}, stage)


class Board:
    """Records what a TensorBoard would get."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}
        self.images: dict[str, Tensor] = {}

    def add_figure(self, name: str, figure: Any, step: int) -> None:
        self.figures[name] = figure

    def add_image(self, name: str, image: Tensor, step: int) -> None:
        assert image.dtype == torch.uint8 and image.dim() == 3
        self.images[name] = image


def recorded(module: Any) -> dict[str, float]:
    logged: dict[str, float] = {}
    module.log = lambda name, value, **options: logged.__setitem__(name, value)
    return logged


def test_an_evaluation_logs_where_the_bits_went_and_pictures(tmp_path: Path) -> None:
    module, board, codec = bitswap(), Board(), evaluation(tmp_path)
    logged = recorded(module)
    codec.on_validation_epoch_end(FakeTrainer(logger=SimpleNamespace(experiment=board), global_step=7), module)  # type: ignore[arg-type]
    assert {f"validation/{key}" for key in KEYS} <= logged.keys()
    assert all(math.isfinite(value) for value in logged.values())
    assert logged["file_bpd"] == logged["validation/file_bpd"]
    assert set(board.figures) == {"validation/rate", "layers/bits"}
    views = {"through_the_latents", "through_the_upper_layers", "with_exchanged_latents"}
    assert set(board.images) == {f"images/{name}" for name in ("originals", "samples", *views)}
    [(step, parts)] = codec.layers
    assert step == 7 and len(parts) == 3 and sum(parts) == pytest.approx(logged["validation/elbo_bpd"])
    assert not any(name.startswith("validation/layers") for name in logged)
    assert codec.history == [(7, logged["validation/file_bpd"], logged["validation/elbo_bpd"])]


def test_the_file_rate_is_the_size_of_the_file_and_its_parts_add_up(tmp_path: Path) -> None:
    rows, path = images(24), tmp_path / "v.tkc"
    module = bitswap()
    result = evaluate(module, make_coder(module), rows, path)
    layers = {"layers/x_bpd", "layers/z1_bpd", "layers/z2_bpd"}
    assert result.keys() == KEYS | layers
    assert sum(result[name] for name in layers) == pytest.approx(result["elbo_bpd"])
    shown = ", ".join(f"{name} {result[f'layers/{name}_bpd']:.4f}" for name in ("x", "z1", "z2"))
    assert f"negative ELBO {result['elbo_bpd']:.4f} ({shown}), " in rate_table("", result, {})
    assert result["file_bpd"] == 8 * path.stat().st_size / rows.numel()
    gaps = sum(value for name, value in result.items() if name.startswith("gap/"))
    assert result["elbo_bpd"] + gaps == pytest.approx(result["file_bpd"])
    with Reader(path) as reader:
        assert torch.equal(make_coder(module).decode(reader.read(0), torch.ones_like(rows, dtype=torch.bool)), rows)


def test_the_frequencies_cost_little_beyond_the_bound_at_the_coded_latents(tmp_path: Path) -> None:
    module, rows = bitswap(bins=1024, bins_per_unit=16), images(48)
    result = evaluate(module, make_coder(module), rows, tmp_path / "v.tkc")
    assert abs(result["gap/frequencies_bpd"]) < 0.01 * result["net_bpd"]


def test_evaluation_leaves_the_module_as_it_was(tmp_path: Path) -> None:
    module = bitswap().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    evaluate(module, make_coder(module), images(4), tmp_path / "v.tkc")
    assert module.training
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "runs"),
    [
        ({"current_epoch": 0}, False),
        ({"current_epoch": 2}, True),
        ({"current_epoch": 0, "should_stop": True}, True),
        ({"current_epoch": 2, "is_global_zero": False}, False),
    ],
)
def test_evaluation_happens_each_n_epochs_and_at_the_end(changes: dict[str, Any], runs: bool, tmp_path: Path) -> None:
    module = bitswap()
    logged = recorded(module)
    codec = evaluation(tmp_path, every=3)
    codec.on_validation_epoch_end(FakeTrainer(**changes), module)  # type: ignore[arg-type]
    assert bool(logged) == runs == (tmp_path / "v.tkc").exists()


def test_the_history_of_rates_outlives_a_checkpoint(tmp_path: Path) -> None:
    first, second = evaluation(tmp_path), evaluation(tmp_path)
    first.history, first.layers = [(1, 2.0, 3.0), (4, 5.0, 6.0)], [(1, [2.0, 1.0]), (4, [5.0, 1.0])]
    second.load_state_dict({name: [list(point) for point in points] for name, points in first.state_dict().items()})
    assert (second.history, second.layers) == (first.history, first.layers)
    second.load_state_dict({"history": first.history})  # of a checkpoint that has no layers
    assert second.layers == []


# A codec that is broken


def wrong_rows(module: Any, valid: Tensor, **options: Any) -> Codec:
    """Decodes to other values, and leaves the message right."""
    codec = head(module, valid, **options)
    return codec._replace(pop=lambda message: codec.pop(message) ^ valid.long())


def wrong_message(module: Any, valid: Tensor, **options: Any) -> Codec:
    """Decodes with distributions other than those it encoded with."""
    codec, other = head(module, valid, **options), head(bitswap(seed=5), valid)
    return codec._replace(pop=other.pop)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (wrong_rows, "24 of 24 rows decoded to other values"),
        (wrong_message, "round trip failed: .*(does not end|damaged|holds|no frequency)"),
    ],
)
def test_a_broken_codec_is_an_error_that_names_the_file(
    broken: Callable[..., Codec], message: str, tmp_path: Path
) -> None:
    module = bitswap()
    with pytest.raises(RoundTripError, match=message) as caught:
        evaluate(module, make_coder(module, broken), images(24), tmp_path / "v.tkc")
    assert str(tmp_path / "v.tkc") in str(caught.value) and "bug in the recipe's codec" in str(caught.value)
    assert (tmp_path / "v.tkc").exists()


@pytest.mark.training
def test_a_broken_codec_stops_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes.bitswap, "head", functools.wraps(head)(wrong_rows))
    with pytest.raises(RoundTripError, match="16 of 16 rows decoded to other values than were encoded"):
        train(configure("bitswap", "max_steps=1"), tmp_path)
    assert not (tmp_path / "model.pt").exists()
