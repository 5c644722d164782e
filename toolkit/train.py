"""python -m toolkit.train recipe=NAME: train, and encode and decode real files as training goes on."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from lightning import seed_everything
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from toolkit import cli, places, zoo
from toolkit.run import WEIGHTS, Run
from toolkit.runs import CHECKPOINT, PENDING, ROOT, head_of, load, save_config, save_weights
from toolkit.training.evaluation import RoundTripError
from toolkit.training.lock import held
from toolkit.training.overrides import check_local, check_network, completed, going_on, resumed, value_of
from toolkit.training.quiet import hush
from toolkit.training.schedule import take_best
from toolkit.training.start import begin
from toolkit.training.trainer import fit, trainer_of


def train(cfg: DictConfig, folder: Path, typed: Sequence[str] = ()) -> dict[str, float]:
    """Train a recipe in a folder; returns the final figures.

    typed: overrides that a person gave. Raises KeyboardInterrupt(exit status) after Ctrl-C and SIGTERM.
    """
    seed_everything(cfg.seed, verbose=False)
    start = load(zoo.folder_of(str(cfg.init)), "cpu") if cfg.get("init") and not cfg.resume else None
    run, data = begin(cfg, folder, start, typed)
    first = rank_zero_only.rank == 0  # type: ignore[attr-defined]  # of the processes of one training
    with held(folder) if first else contextlib.nullcontext():
        return _train(run, data, typed)


def _train(run: Run, data: Any, typed: Sequence[str]) -> dict[str, float]:
    folder = run.folder
    resume = folder / CHECKPOINT if run.cfg.resume else None
    if resume:
        check_network(run.module, resume, typed)
    trainer, best, before = trainer_of(run, data)
    if trainer.is_global_zero:
        values = [*run.module.parameters()] or [*run.module.buffers()]  # of a model that learns without gradients
        size = sum(value.numel() for value in values) / 1e6
        print(f"{data.name}: {data.summary()}; model: {size:.2f} M parameters; run: {folder}", flush=True)
    stopped = fit(trainer, run.module, data, resume)
    if not trainer.is_global_zero:
        return {}
    found = take_best(best, run.module)
    run.module.eval()
    if stopped:
        if found and not (folder / WEIGHTS).exists():  # those of a training that ended, and goes on, stay
            save_weights(folder, run.module)
        raise KeyboardInterrupt(stopped)
    save_config(folder, run.cfg)
    run.head.finish(run, data)
    (folder / PENDING).unlink(missing_ok=True)
    text, figures = run.head.report(load(folder), data, trainer.global_step)
    print("\n" + "\n\n".join(filter(None, [before.beside(best, str(run.cfg.get("init"))), text])))
    return figures


@hydra.main(version_base="1.3", config_path=str(ROOT / "configs"), config_name="train")
def _new(cfg: DictConfig) -> None:
    run = Path(HydraConfig.get().runtime.output_dir)
    run = run.relative_to(Path.cwd()) if run.is_relative_to(Path.cwd()) else run  # as a person would type it
    try:
        _run(run, cfg, HydraConfig.get().overrides.task)
    except SystemExit:
        with contextlib.suppress(OSError):  # a folder with files in it stays
            run.rmdir()
        raise


def _run(run: Path, cfg: DictConfig | None, typed: Sequence[str]) -> None:
    """Train in a folder, or, without a configuration, go on with the training of that folder; say how it ended."""
    began = time.monotonic()
    try:
        cfg = resumed(run, typed) if cfg is None else cfg
        with open_dict(cfg):
            result = train(cfg, run, typed)
    except KeyboardInterrupt as error:
        resume = f"go on with: {cli.command_line('train', f'resume={run}')}"
        print("\ninterrupted;", resume if (run / CHECKPOINT).is_file() else "nothing was kept yet", file=sys.stderr)
        raise SystemExit(error.args[0] if error.args else 130) from None
    except (ValueError, OSError, RoundTripError) as error:
        raise SystemExit(f"error: {cli.said(error)}") from error
    if result:  # in the first process only
        print(f"\n{(time.monotonic() - began) / 60:.1f} minutes in all")


def with_recipe(arguments: list[str]) -> list[str]:
    """Arguments, with the recipe of the model that init= names where they name none."""
    named = value_of(arguments, "init")
    if named is None or value_of(arguments, "recipe"):
        return arguments
    try:
        return [f"recipe={head_of(zoo.folder_of(named))[1]}", *arguments]
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {cli.said(error)}") from error


@cli.piped
def main() -> None:
    """The command line."""
    hush()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # else it prints what we can say in one line
    try:
        sys.argv[1:] = arguments = completed(sys.argv[1:])
        # Not by Hydra, which would want the overrides to fit the recipe that it starts with.
        check_local(arguments)
        if (run := going_on(arguments)) is not None:
            _run(run, None, arguments)
        else:
            sys.argv[1:] = with_recipe(arguments)
            _new()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        text = places.harmless(" ".join(str(error).split()))[:500]
        raise SystemExit(f"error: {text}; see --help") from None
    except OSError as error:
        raise SystemExit(
            f"error: {cli.said(error)}; give a folder for the run that can be made: hydra.run.dir=FOLDER"
        ) from None


if __name__ == "__main__":
    main()
