"""Lightning's Trainer of a run, and how it fits."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import StrategyRegistry
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig, OmegaConf

from toolkit.container import plain
from toolkit.run import WEIGHTS, Run
from toolkit.runs import CHECKPOINT, PENDING, save_config
from toolkit.training.precision import chosen
from toolkit.training.schedule import Begun, Files, Last, Progress, Schedule, averaging, end_processes
from toolkit.training.start import Before

PATIENCE = timedelta(days=1)  # of processes that wait for one that evaluates


def trainer_of(run: Run, data: Any) -> tuple[Trainer, ModelCheckpoint, Before]:
    """The Trainer that a run's configuration asks for, and its callbacks that know the best weights and the first.

    Compiles the network, and writes the precision that was chosen into the configuration.
    """
    cfg, folder = run.cfg, run.folder
    cfg.trainer.precision = chosen(str(cfg.trainer.precision), cfg.trainer.accelerator)
    if cfg.compile:
        run.module.net.compile()  # in place: the names of the weights stay
    if not isinstance(cfg.epochs, int):
        raise ValueError(f"expected max_steps and epochs to be whole numbers, got {cfg.epochs}; give one")
    schedule = Schedule(cfg.minutes, cfg.max_steps, cfg.recipe.module.get("warmup", 0))
    best = ModelCheckpoint(folder / "checkpoints", "best", monitor=run.head.monitor, enable_version_counter=False)
    watch = run.head.watch(run, data)
    before = Before(run.head.monitor, getattr(watch, "baselines", {}))
    trainer = Trainer(
        **_options(cfg),
        max_epochs=-1,
        num_sanity_val_steps=-1 if cfg.get("init") and not cfg.resume else 0,
        plugins=Files(),
        logger=TensorBoardLogger(folder, name="", version=""),
        # What makes files stands before the averaging, whose weights it wants: hooks run in this order.
        callbacks=[
            schedule, watch, *([averaging(cfg.ema)] if cfg.ema else []), best, before,
            Begun(functools.partial(_keep, folder, cfg)), Last(folder / CHECKPOINT),
            *([Progress(schedule)] if cfg.trainer.get("enable_progress_bar", True) else []),
        ],
        enable_model_summary=False,
    )  # fmt: skip
    # Now that the number of processes is known, which share the rows.
    batches = len(data.train_dataloader()) if cfg.epochs > 0 else trainer.world_size
    if batches < trainer.world_size:
        raise ValueError(
            f"expected a batch of training data for each of {trainer.world_size} processes, got {batches} in all; make "
            "batches smaller, or start fewer processes"
        )
    passes = cfg.epochs * (batches // trainer.world_size)  # below 0: no limit
    schedule.max_steps = min((steps for steps in (passes, cfg.max_steps) if steps > 0), default=-1)
    trainer.fit_loop.epoch_loop.max_steps = schedule.max_steps
    return trainer, best, before


def _options(cfg: DictConfig) -> dict[str, Any]:
    """The arguments of Lightning's Trainer; where several processes train, they have patience with each other.

    The first one codes real files while the others wait, for longer than torch lets them by default.
    """
    found: Any = OmegaConf.to_container(cfg.trainer, resolve=True)
    strategy = found.get("strategy")
    if isinstance(strategy, str) and strategy.startswith("ddp") and strategy in StrategyRegistry:
        known = StrategyRegistry[strategy]
        found["strategy"] = known["strategy"](**{**known["init_params"], "timeout": PATIENCE})
    return found  # type: ignore[no-any-return]


def _keep(folder: Path, cfg: DictConfig) -> None:
    """Write the configuration: beside the checkpoint, where weights of a training that ended stay for now."""
    save_config((folder / PENDING).parent if (folder / WEIGHTS).exists() else folder, cfg)


def fit(trainer: Trainer, module: Any, data: Any, checkpoint: Path | None) -> int:
    """Train, from a checkpoint on if there is one; returns 0, or 130 after Ctrl-C and 143 after SIGTERM."""
    stopped = 0
    try:
        with _explained():
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except (SystemExit, SIGTERMException) as error:  # how Lightning leaves after Ctrl-C and SIGTERM
        if not trainer.interrupted:
            raise
        stopped = 143 if isinstance(error, SIGTERMException) else 130
    end_processes()
    return stopped


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Say what failed where compile=true asked for what this machine cannot do: ValueError instead of a compiler's."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        raise ValueError(
            f"expected that compile=true compiles the network, got {type(error).__name__}: {plain(error)}; leave it "
            "out, or install a C++ compiler (g++), and let TORCHINDUCTOR_CACHE_DIR name a folder that can be written"
        ) from error
