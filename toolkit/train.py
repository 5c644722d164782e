"""python -m toolkit.train recipe=NAME: train, and encode and decode real files as training goes on."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from toolkit import cli
from toolkit.runs import (
    CHECKPOINT,
    PENDING,
    ROOT,
    WEIGHTS,
    Run,
    build,
    held,
    load,
    resumed,
    save_config,
    save_weights,
)
from toolkit.training.evaluation import RoundTripError
from toolkit.training.overrides import check_network, explained, going_on, quoted
from toolkit.training.precision import chosen
from toolkit.training.quiet import hush
from toolkit.training.schedule import Begun, Files, Last, Progress, Schedule, averaging, end_processes, take_best


def train(cfg: DictConfig, folder: Path, changed: Sequence[str] = ()) -> dict[str, float]:
    """Train a recipe in a folder; returns the final figures.

    changed: overrides of a training that goes on. Raises KeyboardInterrupt(exit status) after Ctrl-C and SIGTERM.
    """
    seed_everything(cfg.seed, verbose=False)
    run, data = build(cfg, folder)
    first = rank_zero_only.rank == 0  # type: ignore[attr-defined]  # of the processes of one training
    with held(folder) if first else contextlib.nullcontext():
        return _train(run, data, changed)


def _train(run: Run, data: Any, changed: Sequence[str]) -> dict[str, float]:
    cfg, folder = run.cfg, run.folder
    resume = folder / CHECKPOINT if cfg.resume else None
    if resume:
        check_network(run.module, resume, changed)
    cfg.trainer.precision = chosen(str(cfg.trainer.precision), cfg.trainer.accelerator)
    if cfg.compile:
        run.module.net.compile()  # in place: the names of the weights stay
    passes = cfg.epochs * len(data.train_dataloader()) if cfg.epochs > 0 else -1
    max_steps = min((steps for steps in (passes, cfg.max_steps) if steps > 0), default=-1)
    schedule = Schedule(cfg.minutes, max_steps, cfg.recipe.module.get("warmup", 0))
    kept = folder / "checkpoints"
    best = ModelCheckpoint(kept, "best", monitor=run.head.monitor, enable_version_counter=False)
    trainer = Trainer(
        **OmegaConf.to_container(cfg.trainer, resolve=True),  # type: ignore[arg-type]  # keys are strings
        max_epochs=-1,
        max_steps=max_steps,
        num_sanity_val_steps=0,
        plugins=Files(),
        logger=TensorBoardLogger(folder, name="", version=""),
        # What makes files stands before the averaging, whose weights it wants: hooks run in this order.
        callbacks=[
            schedule, run.head.watch(run, data), *([averaging(cfg.ema)] if cfg.ema else []), best,
            # Beside the checkpoint, where weights of a training that ended stay for now.
            Begun(lambda: save_config(kept if (folder / WEIGHTS).exists() else folder, cfg)), Last(folder / CHECKPOINT),
            *([Progress(schedule)] if cfg.trainer.get("enable_progress_bar", True) else []),
        ],
        enable_model_summary=False,
    )  # fmt: skip
    if trainer.is_global_zero:
        values = [*run.module.parameters()] or [*run.module.buffers()]  # of a model that learns without gradients
        size = sum(value.numel() for value in values) / 1e6
        print(f"{data.name}: {data.summary()}; model: {size:.2f} M parameters; run: {folder}", flush=True)
    stopped = 0
    try:
        with explained():
            trainer.fit(run.module, datamodule=data, ckpt_path=resume, weights_only=True)
    except (SystemExit, SIGTERMException) as error:  # how Lightning leaves after Ctrl-C and SIGTERM
        if not trainer.interrupted:
            raise
        stopped = 143 if isinstance(error, SIGTERMException) else 130
    end_processes()
    if not trainer.is_global_zero:
        return {}
    found = take_best(best, run.module)
    run.module.eval()
    if stopped:
        if found and not (folder / WEIGHTS).exists():  # those of a training that ended, and goes on, stay
            save_weights(folder, run.module)
        raise KeyboardInterrupt(stopped)
    save_config(folder, cfg)
    run.head.finish(run, data)
    (folder / PENDING).unlink(missing_ok=True)
    text, figures = run.head.report(load(folder), data, trainer.global_step)
    print("\n" + text)
    return figures


@hydra.main(version_base="1.3", config_path=str(ROOT / "configs"), config_name="train")
def _new(cfg: DictConfig) -> None:
    run = Path(HydraConfig.get().runtime.output_dir)
    run = run.relative_to(Path.cwd()) if run.is_relative_to(Path.cwd()) else run  # as a person would type it
    try:
        _run(run, cfg)
    except SystemExit:
        with contextlib.suppress(OSError):  # a folder with files in it stays
            run.rmdir()
        raise


def _run(run: Path, cfg: DictConfig | None, changed: Sequence[str] = ()) -> None:
    """Train in a folder, or, without a configuration, go on with the training of that folder; say how it ended."""
    began = time.monotonic()
    try:
        cfg = resumed(run, changed) if cfg is None else cfg
        with open_dict(cfg):
            result = train(cfg, run, changed)
    except KeyboardInterrupt as error:
        resume = f"go on with: python -m toolkit.train resume={shlex.quote(str(run))}"
        print("\ninterrupted;", resume if (run / CHECKPOINT).is_file() else "nothing was kept yet", file=sys.stderr)
        raise SystemExit(error.args[0] if error.args else 130) from None
    except (ValueError, OSError, RoundTripError) as error:
        raise SystemExit(f"error: {cli.said(error)}") from error
    if result:  # in the first process only
        print(f"\n{(time.monotonic() - began) / 60:.1f} minutes in all")


@cli.piped
def main() -> None:
    """The command line."""
    hush()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # else it prints what we can say in one line
    try:
        sys.argv[1:] = arguments = quoted(sys.argv[1:])
        # Not by Hydra, which would want the overrides to fit the recipe that it starts with.
        if (run := going_on(arguments)) is not None:
            _run(run, None, arguments)
        else:
            _new()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise SystemExit(f"error: {' '.join(str(error).split())[:500]}; see --help") from None
    except OSError as error:
        raise SystemExit(
            f"error: {cli.said(error)}; give a folder for the run that can be made: hydra.run.dir=FOLDER"
        ) from None


if __name__ == "__main__":
    main()
