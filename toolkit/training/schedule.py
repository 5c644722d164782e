"""How long a training lasts, how fast it learns, what the bar shows, and which weights are kept: callbacks."""

from __future__ import annotations

import functools
import io
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, RichProgressBar, WeightAveraging
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from toolkit.chunks.model import RowModel
from toolkit.container import atomic_path
from toolkit.training.quiet import hush

MINUTES = 10  # between checkpoints within an epoch


class Schedule(Callback):
    """Warm up, then let the learning rate fall to zero as a half cosine (Loshchilov, Hutter 2016, arXiv:1608.03983).

    The end is `minutes` of wall-clock time or `max_steps`, whichever comes first; time spent before a resume counts.
    """

    def __init__(self, minutes: float, max_steps: int, warmup: int) -> None:
        if not isinstance(minutes, int | float) or not 0 < minutes < math.inf:
            raise ValueError(f"expected minutes above 0, got {minutes}; give a number")
        if not isinstance(max_steps, int):
            raise ValueError(f"expected max_steps to be a whole number, got {max_steps}; give one")
        self.minutes, self.max_steps, self.warmup = minutes, max_steps, warmup
        self.spent = 0.0  # seconds of earlier sessions
        self.began = 0.0  # of this session, by the monotonic clock; 0 before

    def __setstate__(self, state: dict[str, Any]) -> None:
        hush()  # in a process that was spawned, before Lightning speaks there
        self.__dict__ |= state

    @property
    def elapsed(self) -> float:
        """Seconds of training so far, by this process's own clock."""
        return self.spent + (time.monotonic() - self.began if self.began else 0.0)

    def progress(self, trainer: Trainer) -> float:
        # All processes follow one clock, or their learning rates, and so their weights, would drift apart.
        elapsed = trainer.strategy.broadcast(self.elapsed) if trainer.world_size > 1 else self.elapsed
        steps = trainer.global_step / self.max_steps if self.max_steps > 0 else 0.0
        return min(1.0, max(steps, elapsed / 60 / self.minutes))

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.began = time.monotonic()
        if trainer.world_size > 1:  # all began with one seed, for one network; from here on their noise is their own
            entropy = [torch.initial_seed(), trainer.global_rank, trainer.global_step]  # new where a training goes on
            torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]))

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Tensor, index: int) -> None:
        progress = self.progress(trainer)
        if isinstance(module, RowModel):
            # With this step, if steps are counted: Adam makes large what a clock's first moments make of a cost.
            done = (trainer.global_step + 1) / self.max_steps if self.max_steps > 0 else 0.0
            module.progress = min(1.0, max(progress, done))
        factor = min(1.0, (trainer.global_step + 1) / max(self.warmup, 1)) * 0.5 * (1 + math.cos(math.pi * progress))
        for optimizer in trainer.optimizers:
            # defaults, not the groups' own values: those come decayed out of a checkpoint.
            rate = optimizer.defaults["lr"] * max(factor, 1e-3)
            for group in optimizer.param_groups:
                group["lr"] = rate
            if rate:  # a model that learns without gradients has none
                module.log("train/learning_rate", rate)

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if self.progress(trainer) >= 1.0:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, float]:
        return {"spent": self.elapsed}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.spent = state["spent"]


class Progress(RichProgressBar):
    """A progress bar for trainings that last so many minutes, not so many epochs; it shows the rate in bits/dim."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__(leave=False)
        self.schedule = schedule

    def _get_train_description(self, current_epoch: int) -> str:
        return f"epoch {current_epoch}, {self.schedule.elapsed / 60:.1f}/{self.schedule.minutes:g} min"

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        super().on_train_batch_end(trainer, *args)
        if self.progress is not None and self.train_progress_bar_id is not None:  # else it says this once an epoch
            self.progress.update(
                self.train_progress_bar_id, description=self._get_train_description(trainer.current_epoch)
            )

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> Any:
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}


class Begun(Callback):
    """Calls a function, in the first process, when training begins and a checkpoint has been loaded."""

    def __init__(self, begun: Callable[[], None]) -> None:
        self.begun = begun

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.begun()


class Last(Checkpoint):
    """Saves the training's state to a file at the end of each epoch, every MINUTES, and when it is interrupted."""

    def __init__(self, file: Path) -> None:
        self.file, self.saved = file, time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        due = time.monotonic() - self.saved > 60 * MINUTES
        # Saving is the work of all processes together, so they must agree.
        if trainer.strategy.broadcast(due) if trainer.world_size > 1 else due:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, *args: Any) -> None:
        self._save(trainer)

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        stopped = isinstance(exception, (KeyboardInterrupt, SIGTERMException))
        if stopped and trainer.world_size == 1 and trainer.global_step:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.file)
        self.saved = time.monotonic()


class Files(TorchCheckpointIO):
    """Writes checkpoints beside where they go: Lightning's come from /tmp, and across file systems are copied there."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        data = io.BytesIO()  # for a full disk torch.save has errors of its own
        torch.save(checkpoint, data)
        with atomic_path(path) as temporary:
            temporary.write_bytes(data.getbuffer())


def take_best(best: ModelCheckpoint, module: LightningModule) -> bool:
    """Load the weights of the best checkpoint into a module; whether there is one."""
    if not Path(best.best_model_path).is_file():
        return False
    module.load_state_dict(torch.load(best.best_model_path, map_location="cpu", weights_only=True)["state_dict"])
    return True


def end_processes() -> None:
    """Leave the group of processes of a training: else its threads can abort a process that ends."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def averaging(decay: float) -> WeightAveraging:
    """Exponential moving average of the weights that forgets the first steps' weights faster than `decay` would."""
    return WeightAveraging(avg_fn=functools.partial(_average, decay))


def _average(decay: float, mean: Tensor, new: Tensor, n: Tensor | int) -> Tensor:
    if not mean.is_floating_point():  # integer tables are no weights
        return new
    return mean.lerp(new, 1 - min(decay, (1 + int(n)) / (10 + int(n))))
