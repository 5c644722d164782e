"""The training command as a person runs it: help, mistakes, what it prints, two processes, bfloat16."""

import math
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import DictConfig, OmegaConf

from recipes.bitswap import BitSwap
from tests.tiny import OWN, SMALL, configure
from toolkit.runs import build
from toolkit.train import train
from toolkit.training import overrides
from toolkit.training.schedule import Schedule
from toolkit.training.trainer import trainer_of

QUICK = ["recipe=bitswap", *SMALL, *OWN["bitswap"], "max_steps=2"]


RUNS = "one", "two"


def command(
    folder: Path, *arguments: str, module: Sequence[str] = ("toolkit.train",), **environment: str
) -> subprocess.CompletedProcess[str]:
    """`python -m toolkit.train` in `folder`, without a GPU."""
    settings = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-m", *module, *arguments],
        cwd=folder, env={**os.environ, **settings, **environment}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """A training of two steps: what it printed, and the folder in which it ran."""
    folder = tmp_path_factory.mktemp("first")
    return command(folder, *QUICK), folder


def test_a_training_says_nothing_that_a_person_need_not_know(
    trained: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    done, _ = trained
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "arning" not in done.stdout and "available" not in done.stdout


def test_a_resumed_training_says_no_more(trained: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    _, folder = trained
    [run] = (folder / "outputs").glob("*/*-bitswap")
    done = command(folder, f"resume={run.relative_to(folder)}", "max_steps=3", "minutes=1")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "arning" not in done.stdout


def test_a_training_ends_with_the_rate_beside_other_codecs_and_what_to_do_next(
    trained: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    done, folder = trained
    for text in (
        "digits: 1297 training rows of [1, 8, 8]", "held-out test rows, decoded equal", "PNG", "WebP",
        "this model, file", "  python -m toolkit.compress run=outputs/", "  python -m toolkit.train resume=outputs/",
        "minutes in all",
    ):  # fmt: skip
        assert text in done.stdout, text
    [run] = (folder / "outputs").glob("*/*-bitswap")
    names = {path.name for path in run.rglob("*") if path.is_file()}
    assert {"config.yaml", "model.pt", "test.tkc", "validation.tkc", "best.ckpt", "last.ckpt"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert {path.name for path in folder.iterdir()} == {"outputs"}


@pytest.mark.training
@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn"])
def test_two_processes_train_one_model(strategy: str, tmp_path: Path) -> None:
    done = command(tmp_path, *QUICK, "trainer.devices=2", f"trainer.strategy={strategy}", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    # Loops may have to be compiled first, which each process says.
    assert [line for line in done.stderr.splitlines() if not line.startswith("compiling the coder")] == []
    assert done.stdout.count("1297 training rows") == done.stdout.count("minutes in all") == 1
    checkpoint = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2
    assert (tmp_path / "run/model.pt").is_file()


def test_help_shows_every_key(tmp_path: Path) -> None:
    shown = command(tmp_path, "--help")
    assert shown.returncode == 0
    for key in (
        "minutes: 3.2",
        "max_steps: -1",
        "resume: null",
        "likelihood: guided",
        "data: array, cifar10, corpus, digits, embedded_text",
    ):
        assert key in shown.stdout, key
    assert not any(tmp_path.iterdir())


def test_a_misspelt_key_is_named() -> None:
    with pytest.raises(ConfigCompositionException, match=r"Could not override 'recipe.module.widht'"):
        configure("bitswap", "recipe.module.widht=8")
    with pytest.raises(MissingConfigException, match=r"Could not find 'recipe/bitswop'[^a-z]*Available[^a-z]*"):
        configure("bitswop")


def test_data_that_are_not_there_are_one_line_of_error(tmp_path: Path) -> None:
    proxy = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
    done = command(tmp_path, *QUICK, "data=mnist", "hydra.run.dir=run", TOOLKIT_DATA=str(tmp_path / "data"), **proxy)
    assert done.returncode == 1
    assert done.stderr.startswith("error: expected train-images-idx3-ubyte.gz")
    assert done.stderr.count("\n") == 1
    assert "or take data that need no download: data=photos or data=digits" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.training
def test_training_in_bfloat16_works(tmp_path: Path) -> None:
    result = train(configure("bitswap", "max_steps=2", "trainer.precision=bf16-mixed"), tmp_path)
    assert math.isfinite(result["file_bpd"])
    weights = torch.load(tmp_path / "model.pt", weights_only=True)
    assert {value.dtype for value in weights.values()} == {torch.float32}


@pytest.mark.training
@pytest.mark.parametrize(("epochs", "steps", "made"), [(1, 2, 2), (1, 9, 3), (-1, 2, 2)])
def test_of_passes_and_steps_what_comes_first_ends_the_training(
    epochs: int, steps: int, made: int, tmp_path: Path
) -> None:
    train(configure("bitswap", f"epochs={epochs}", f"max_steps={steps}", "data.batch_size=400"), tmp_path)
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == made


@pytest.mark.training
def test_the_best_weights_by_validation_are_kept_not_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def worse(self: BitSwap, x: torch.Tensor, index: int) -> None:
        self.log("validation/elbo_bpd", float(self.global_step))

    monkeypatch.setattr(BitSwap, "validation_step", worse)
    overrides = ["max_steps=3", "+trainer.limit_train_batches=1", "evaluation.every_n_epochs=9"]
    train(configure("bitswap", *overrides), tmp_path)
    best, last = (torch.load(tmp_path / f"checkpoints/{name}.ckpt", weights_only=True) for name in ("best", "last"))
    assert (best["global_step"], last["global_step"]) == (1, 3)
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    assert all(torch.equal(saved[name], best["state_dict"][name]) for name in saved)
    assert not all(torch.equal(saved[name], last["state_dict"][name]) for name in saved)


def test_training_refuses_what_its_parts_refuse(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="expected likelihood to be one of logistic, mixture, guided, interlaced, got 'gauss'"
    ):
        train(configure("bitswap", "recipe.module.likelihood=gauss"), tmp_path)
    with pytest.raises(ValueError, match=r"multiples of 32 .* got 8 x 8"):
        train(configure("bitswap", "recipe.module.downscale=[2,8]"), tmp_path)


# Resuming


def resumed(run: Path, *changes: str) -> DictConfig:
    return overrides.resumed(run, [f"resume={run}", *changes])


def test_a_resumed_run_keeps_its_configuration_but_for_what_is_asked(tmp_path: Path) -> None:
    OmegaConf.save(configure("bitswap", "minutes=3", "recipe.module.width=24", "seed=7"), tmp_path / "config.yaml")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").touch()
    cfg = resumed(tmp_path, "minutes=9", "recipe.module.free_bits=0.5")
    assert (cfg.minutes, cfg.recipe.module.free_bits, cfg.recipe.module.width, cfg.seed) == (9, 0.5, 24, 7)
    assert cfg.data.splits._target_ == "toolkit.data.images.digits"
    assert cfg.resume == str(tmp_path)


def test_a_run_without_a_checkpoint_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected resume= to name a run folder with checkpoints/last.ckpt"):
        resumed(tmp_path)


@pytest.mark.parametrize("override", ["recipe=bitswap", "data=photos", "+more=1"])
def test_a_resumed_run_cannot_change_its_recipe_or_data(tmp_path: Path, override: str) -> None:
    OmegaConf.save(configure("bitswap"), tmp_path / "config.yaml")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").touch()
    with pytest.raises(ValueError, match=r"expected only values to change when resuming, got"):
        resumed(tmp_path, override)


@pytest.mark.parametrize(("name", "unbuffered"), [("train", ""), ("compress", "1"), ("inspect", ""), ("inspect", "1")])
def test_a_closed_pipe_does_not_end_the_help_in_a_traceback(name: str, unbuffered: str, tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(
        [sys.executable, "-m", f"toolkit.{name}", "--help"],
        cwd=tmp_path, env=environment, stdout=write_end, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(write_end)
    assert done.stderr == ""


@pytest.mark.training
def test_processes_of_torchrun_train_as_well_as_one_that_sees_as_many_rows_a_step(tmp_path: Path) -> None:
    given = ["recipe=bitswap", *SMALL, *OWN["bitswap"], "max_steps=30", "evaluation.rows=64", "ema=0.9"]
    one = command(tmp_path, *given, "data.batch_size=64", "hydra.run.dir=one")
    assert one.returncode == 0, one.stderr
    torchrun = ["torch.distributed.run", "--nproc-per-node=2", "--max-restarts=0", "-m", "toolkit.train"]
    two = command(tmp_path, *given, "data.batch_size=32", "hydra.run.dir=two", module=torchrun)
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("1297 training rows") == two.stdout.count("minutes in all") == 1
    names = [{path.name for path in (tmp_path / name).rglob("*") if ".tfevents" not in path.name} for name in RUNS]
    assert names[0] == names[1]
    found = [torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True) for name in RUNS]
    assert [checkpoint["global_step"] for checkpoint in found] == [30, 30]
    rates = [
        next(state["history"][-1][1] for state in checkpoint["callbacks"].values() if "history" in state)
        for checkpoint in found
    ]
    assert rates[1] == pytest.approx(rates[0], rel=0.03)
    saved = torch.load(tmp_path / "two/model.pt", weights_only=True)
    best = torch.load(tmp_path / "two/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    assert saved.keys() == best.keys() and all(torch.equal(saved[name], best[name]) for name in saved)


def test_a_pass_over_the_rows_is_shared_by_processes(tmp_path: Path) -> None:
    cfg = configure("bitswap", "epochs=2", "data.batch_size=32", "trainer.devices=2", "trainer.strategy=ddp")
    run, data = build(cfg, tmp_path)
    trainer, _, _ = trainer_of(run, data)
    assert trainer.max_steps == 2 * (1297 // 64)


def test_a_pass_in_which_a_process_has_no_batch_is_refused(tmp_path: Path) -> None:
    cfg = configure("bitswap", "epochs=2", "data.batch_size=700", "trainer.devices=2", "trainer.strategy=ddp")
    with pytest.raises(ValueError, match="expected a batch of training data for each of 2 processes, got 1 in all"):
        trainer_of(*build(cfg, tmp_path))


def test_each_process_has_noise_of_its_own_also_where_a_training_goes_on() -> None:
    def noise(world: int, seed: int, rank: int, step: int) -> tuple[float, ...]:
        torch.manual_seed(seed)
        trainer: Any = SimpleNamespace(world_size=world, global_rank=rank, global_step=step)
        Schedule(1, -1, 0).on_train_start(trainer, cast(Any, None))
        return tuple(torch.rand(3).tolist())

    assert len({noise(2, seed, rank, step) for seed in (0, 1) for rank in (0, 1) for step in (0, 9)}) == 8
    torch.manual_seed(5)
    assert noise(1, 5, 0, 0) == noise(1, 5, 0, 9) != noise(2, 5, 0, 0)


def test_processes_wait_while_the_first_one_codes_files(tmp_path: Path) -> None:
    run, data = build(configure("bitswap", "trainer.devices=2", "trainer.strategy=ddp"), tmp_path)
    trainer, _, _ = trainer_of(run, data)
    assert trainer.strategy._timeout > timedelta(hours=8)  # type: ignore[attr-defined]


def test_torchrun_says_how_many_processes_train(monkeypatch: pytest.MonkeyPatch) -> None:
    assert overrides.of_torchrun(["recipe=local"]) == ["recipe=local"]
    for key, value in {"RANK": 0, "WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 2, "TORCHELASTIC_RUN_ID": "x"}.items():
        monkeypatch.setenv(key, str(value))
    given = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.num_nodes=2"]
    assert overrides.of_torchrun(["recipe=local"]) == [*given, "recipe=local"]
    assert overrides.of_torchrun(["trainer.strategy=fsdp"]) == [given[0], given[2], "trainer.strategy=fsdp"]
    monkeypatch.setenv("RANK", "1")
    folder = overrides.of_torchrun(["recipe=local"])[3].removeprefix("hydra.run.dir=")
    assert not any(Path(folder).iterdir()) and overrides.of_torchrun(["resume=x"]) == [*given, "resume=x"]
    monkeypatch.setenv("GROUP_WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="expected as many processes on each machine, got 2 here, and 4 on 3 machines"):
        overrides.of_torchrun(["recipe=local"])
