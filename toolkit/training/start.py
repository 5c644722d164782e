"""Training that starts from the weights of another run, init=: its settings and weights, and what they are worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser as Parser
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig

from toolkit.run import Run
from toolkit.runs import build
from toolkit.training.overrides import differing

MODULE = "recipe.module."


def begin(cfg: DictConfig, folder: Path, start: Run | None, typed: Sequence[str]) -> tuple[Run, Any]:
    """As `runs.build`, with the weights of another run, and its settings of the module but for overrides.

    typed: overrides. Raises ValueError for a run of another recipe, or of a network of other shapes.
    """
    if start is None:
        return build(cfg, folder)
    if start.name != cfg.recipe.name:
        raise ValueError(
            f"expected init= a model of recipe={cfg.recipe.name}, got {cfg.init}, of {start.name}; give "
            f"recipe={start.name}, or leave it out"
        )
    own = cfg.recipe.module
    keys = [override.key_or_group.removeprefix(MODULE) for override in Parser.create().parse_overrides([*typed])]
    cfg.recipe.module = {**start.cfg.recipe.module, **{key: own[key] for key in keys if key in own}}
    run, data = build(cfg, folder)
    state = run.module.start_from(start.module)
    if found := differing(run.module, state):
        name, mine, theirs = found
        changed = " ".join(text for text in typed if text.startswith(MODULE))
        raise ValueError(
            f"expected the network of {cfg.init}, whose weights init= takes, got another: {name} is {mine} and was "
            f"{theirs}; {f'leave out {changed}, or ' if changed else ''}give data of the shape that it was trained on, "
            f"{list(start.module.shape)}"
        )
    run.module.load_state_dict(state)
    return run, data


class Before(Callback):
    """Logs the validation of the weights that a training starts from, as of step 0, and remembers their rate.

    monitor: name of the rate; baselines: those of other codecs on the same data. Lightning validates before the first
    step where it is asked for a check of its sanity.
    """

    def __init__(self, monitor: str, baselines: Mapping[str, float]) -> None:
        self.monitor, self.baselines, self.rate = monitor, baselines, math.nan

    def on_sanity_check_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.rate = float(trainer.callback_metrics[self.monitor])
        for logger in trainer.loggers:
            logger.log_metrics({name: float(value) for name, value in trainer.logged_metrics.items()}, 0)

    def state_dict(self) -> dict[str, Any]:
        return {"rate": self.rate}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rate = state["rate"]

    def beside(self, best: ModelCheckpoint, init: str) -> str:
        """The rate before and after training, and those of other codecs, for people; empty where it is not known."""
        if math.isnan(self.rate) or best.best_model_score is None:
            return ""
        after = float(best.best_model_score)
        others = "".join(f"; {name} {rate:.4f}" for name, rate in self.baselines.items())
        verdict = "" if after < self.rate else f"\nNothing was gained: {init} is no worse than this run."
        return f"{self.monitor}: {self.rate:.4f} before training, {after:.4f} after{others}{verdict}"
