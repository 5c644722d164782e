"""Callbacks of training: its schedule in minutes, and real encoding and decoding each n epochs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from torch import Tensor

from toolkit.chunks.chained import Account, Coder, rows_crc
from toolkit.container import Reader, Writer


class RoundTripError(RuntimeError):
    """Decoding gave other rows than were encoded: a bug in a recipe's codec."""


class Schedule(Callback):
    """Warm up, then let the learning rate fall to zero as a half cosine (Loshchilov, Hutter 2016, arXiv:1608.03983).

    The end is `minutes` of wall-clock time or `max_steps`, whichever comes first; time spent before a resume counts.
    """

    def __init__(self, minutes: float, max_steps: int, warmup: int) -> None:
        if minutes <= 0:
            raise ValueError(f"expected minutes above 0, got {minutes}")
        self.minutes, self.max_steps, self.warmup = minutes, max_steps, warmup
        self.spent = 0.0  # seconds of earlier sessions
        self.began = 0.0  # of this session, by the monotonic clock; 0 before

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

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Tensor, index: int) -> None:
        progress = self.progress(trainer)
        factor = min(1.0, (trainer.global_step + 1) / max(self.warmup, 1)) * 0.5 * (1 + math.cos(math.pi * progress))
        for optimizer in trainer.optimizers:
            # defaults, not the groups' own values: those come decayed out of a checkpoint.
            rate = optimizer.defaults["lr"] * max(factor, 1e-3)
            for group in optimizer.param_groups:
                group["lr"] = rate
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


class CodecEvaluation(Callback):
    """Each n epochs, encode validation rows to a real file, decode it, compare, and log where the bits went.

    rows: uint8 [rows, c, h, w]; make_coder(module) -> Coder; file: written anew each time; baselines: bits/dim of other
    codecs on the same rows, drawn as lines. Stops the training with RoundTripError if the decoded rows differ.
    """

    def __init__(
        self,
        rows: Tensor,
        make_coder: Callable[[LightningModule], Coder],
        file: Path,
        every_n_epochs: int,
        baselines: dict[str, float],
        stage: str = "validation",
    ) -> None:
        self.rows, self.make_coder, self.file, self.every_n_epochs = rows, make_coder, file, every_n_epochs
        self.baselines, self.stage = baselines, stage
        self.history: list[tuple[int, float, float]] = []  # step, file bits/dim, ELBO bits/dim

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history = [tuple(point) for point in state["history"]]

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        if (trainer.current_epoch + 1) % self.every_n_epochs and not trainer.should_stop:
            return
        result = evaluate(module, self.make_coder(module), self.rows, self.file)
        diagnose, histograms = getattr(module, "diagnose", None), dict[str, Tensor]()
        if diagnose is not None:  # what only this recipe can tell
            figures, histograms = diagnose(self.rows, result)
            result |= figures
        self.history.append((trainer.global_step, result["file_bpd"], result["elbo_bpd"]))
        for name, value in result.items():
            module.log(f"{self.stage}/{name}", value, rank_zero_only=True)
        module.log("file_bpd", result["file_bpd"], prog_bar=True, logger=False, rank_zero_only=True)
        board = getattr(trainer.logger, "experiment", None)
        if board is not None:
            self._pictures(board, trainer.global_step, module)
            for name, values in histograms.items():
                board.add_histogram(name, values.cpu(), trainer.global_step)

    def _pictures(self, board: Any, step: int, module: Any) -> None:
        from toolkit.training import plots  # matplotlib takes a second to import

        board.add_figure(f"{self.stage}/rate", plots.rate_figure(self.history, self.baselines), step)
        shown = self.rows[:32].to(module.device)
        board.add_image("images/originals", plots.grid(shown), step)
        if hasattr(module, "reconstruct"):
            board.add_image("images/through_the_latents", plots.grid(module.reconstruct(shown)), step)
        if hasattr(module, "sample"):
            board.add_image("images/samples", plots.grid(module.sample(32)), step)


def evaluate(module: Any, coder: Coder, rows: Tensor, file: Path) -> dict[str, float]:
    """Encode rows to `file`, decode it, compare; bits/dim of the file and its parts, and speeds in MB/s.

    module: whose bound is compared; coder: of this module, or of its exact form.
    Raises RoundTripError if the decoded rows are not equal.
    """
    training = module.training
    module.eval()
    valid = torch.ones(rows.shape, dtype=torch.bool)
    batch = coder.settings.batch
    with torch.inference_mode():
        elbo = torch.cat([module.bits(part.to(module.device)) for part in rows.split(batch)]).double().sum().item()
    payload, account = coder.encode(rows, valid, trace=True)
    with Writer(file, {"rows": list(rows.shape), **coder.settings._asdict()}) as writer:
        writer.write(payload, len(rows), rows_crc(rows, valid))
    began = time.perf_counter()
    hint = f"the file is kept as {file}; this is a bug in the recipe's codec: encoder and decoder disagree"
    with Reader(file) as reader:
        size = 8 * reader.size
        try:
            decoded = coder.decode(reader.read(0), valid)
        except ValueError as error:
            raise RoundTripError(f"round trip failed: {error}; {hint}") from error
    seconds = time.perf_counter() - began
    if not torch.equal(decoded, rows):
        wrong = int((decoded != rows).flatten(1).any(1).sum())
        raise RoundTripError(
            f"round trip failed: {wrong} of {len(rows)} rows decoded to other values than were encoded; {hint}"
        )
    module.train(training)
    dims = rows.numel()
    bound = coded_bits(module, rows, account, batch)
    rounding = "frequencies" if coder.module is module else "frequencies_and_exact_networks"
    return {
        "file_bpd": size / dims,
        "net_bpd": account.net / dims,
        "elbo_bpd": elbo / dims,
        "gap/discretisation_bpd": (bound - elbo) / dims,
        f"gap/{rounding}_bpd": (account.net - bound) / dims,
        "gap/initial_bits_bpd": account.initial / dims,
        "gap/lanes_bpd": account.lanes / dims,
        "gap/container_bpd": (size - account.file) / dims,
        "speed/encode_coder_share": account.coder_seconds / account.seconds,
        "speed/decode_coder_share": coder.coder_seconds / seconds,
        "speed/encode_MB_per_s": dims / account.seconds / 1e6,
        "speed/decode_MB_per_s": dims / seconds / 1e6,
    }


@torch.inference_mode()
def coded_bits(module: Any, rows: Tensor, account: Account, batch: int) -> float:
    """The negative ELBO at the very latents that were coded: what separates discretisation from frequency rounding."""
    latents = [torch.cat(layer) for layer in zip(*account.latents, strict=True)]
    total = 0.0
    for i in range(0, len(rows), batch):
        part = module.parts(rows[i : i + batch].to(module.device), [z[i : i + batch] for z in latents])
        total += part.double().sum().item()
    return total
