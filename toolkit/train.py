"""python -m toolkit.train recipe=NAME: train, and encode and decode real files as training goes on."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
import warnings
from pathlib import Path

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig, OmegaConf, open_dict

from toolkit import cli
from toolkit.runs import ROOT, build, load, read_config, save_config, save_weights
from toolkit.training.evaluation import RoundTripError
from toolkit.training.precision import chosen
from toolkit.training.schedule import Progress, Schedule, averaging

# Said by libraries to their own developers, or about things that this program does on purpose.
QUIET = (
    ".*does not have many workers.*", ".*isinstance.treespec, LeafSpec.*", ".*GPU available but not used.*",
    ".*exists and is not empty.*", ".*lr_scheduler.step.*", ".*across ranks.*", ".*sync_dist=True.*",
    ".*could not find the monitored key.*",  # of an interrupted training that goes on: its epoch has no validation
    ".*Trying to infer the `batch_size`.*", ".*barrier.*device.*", ".*smaller than the logging interval.*",
)  # fmt: skip


def train(cfg: DictConfig, folder: Path) -> dict[str, float]:
    """Train a recipe in a folder; returns the final figures. Raises KeyboardInterrupt after Ctrl-C."""
    seed_everything(cfg.seed, verbose=False)
    run, data = build(cfg, folder)
    cfg.trainer.precision = chosen(str(cfg.trainer.precision), cfg.trainer.accelerator)
    if cfg.compile:
        run.module.net.compile()  # in place: the names of the weights stay
    max_steps = cfg.epochs * len(data.train_dataloader()) if cfg.epochs > 0 else cfg.max_steps
    schedule = Schedule(cfg.minutes, max_steps, cfg.recipe.module.get("warmup", 0))
    kept = folder / "checkpoints"
    best = ModelCheckpoint(kept, "best", monitor=run.head.monitor, enable_version_counter=False)
    last = ModelCheckpoint(kept, "last", save_on_train_epoch_end=True, enable_version_counter=False)
    trainer = Trainer(
        **OmegaConf.to_container(cfg.trainer, resolve=True),  # type: ignore[arg-type]  # keys are strings
        max_epochs=-1,
        max_steps=max_steps,
        num_sanity_val_steps=0,
        logger=TensorBoardLogger(folder, name="", version=""),
        # What makes files stands before the averaging, whose weights it wants: hooks run in this order.
        callbacks=[
            schedule, run.head.watch(run, data), *([averaging(cfg.ema)] if cfg.ema else []), best, last,
            *([Progress(schedule)] if cfg.trainer.get("enable_progress_bar", True) else []),
        ],
        enable_model_summary=False,
    )  # fmt: skip
    if trainer.is_global_zero:
        size = sum(p.numel() for p in run.module.parameters()) / 1e6
        print(f"{data.name}: {data.summary()}; model: {size:.2f} M parameters; run: {folder}", flush=True)
        save_config(folder, cfg)  # before training, so that an interrupted run can be resumed
    resume = kept / "last.ckpt" if cfg.resume else None
    try:
        trainer.fit(run.module, datamodule=data, ckpt_path=resume, weights_only=True)
    except SystemExit:  # how Lightning leaves after Ctrl-C
        if not trainer.interrupted:
            raise
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # else its threads can abort a process that ends
    if not trainer.is_global_zero:
        return {}
    if Path(best.best_model_path).is_file():
        state = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
        run.module.load_state_dict(state["state_dict"])
    run.module.eval()
    if trainer.interrupted:
        save_weights(folder, run.module)
        raise KeyboardInterrupt
    run.head.finish(run, data, trainer.global_step)
    text, figures = run.head.report(load(folder), data)
    print("\n" + text)
    return figures


def _resumed(cfg: DictConfig, overrides: list[str]) -> tuple[DictConfig, Path]:
    """The configuration of the run to resume, with this command's own overrides on top."""
    run = Path(cfg.resume)
    if not (run / "checkpoints" / "last.ckpt").is_file():
        raise FileNotFoundError(
            f"expected resume= to name a run folder with checkpoints/last.ckpt, got {run}; give a folder that "
            "toolkit.train made (outputs/...)"
        )
    refused = [o for o in overrides if o.split("=")[0] in ("recipe", "data") or not o[0].isalpha()]
    if refused:
        raise ValueError(
            f"expected only values to change when resuming, got {' '.join(refused)}; leave out: recipe and data are "
            f"those of {run}"
        )
    saved = read_config(run / "config.yaml")
    saved.merge_with_dotlist(overrides)
    return saved, run


@hydra.main(version_base="1.3", config_path=str(ROOT / "configs"), config_name="train")
def _main(cfg: DictConfig) -> None:
    run = Path(HydraConfig.get().runtime.output_dir)
    run = run.relative_to(Path.cwd()) if run.is_relative_to(Path.cwd()) else run  # as a person would type it
    with open_dict(cfg):
        began = time.monotonic()
        try:
            if cfg.resume:
                run.rmdir()
                cfg, run = _resumed(cfg, list(HydraConfig.get().overrides.task))
            result = train(cfg, run)
        except KeyboardInterrupt:
            print(f"\ninterrupted; go on with: python -m toolkit.train resume={run}", file=sys.stderr)
            raise SystemExit(130) from None
        except (ValueError, FileNotFoundError, RoundTripError) as error:
            print(f"error: {error}", file=sys.stderr)
            with contextlib.suppress(OSError):  # a folder with files in it stays
                run.rmdir()
            raise SystemExit(1) from error
        if result:  # in the first process only
            print(f"\n{(time.monotonic() - began) / 60:.1f} minutes in all")


@cli.piped
def main() -> None:
    """The command line."""
    for message in QUIET:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    _main()


if __name__ == "__main__":
    main()
