"""Callbacks of training that make real files, decode them, and show what became of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from toolkit.chunks.model import Account, ChunkCoder, rows_crc
from toolkit.container import Reader, Writer


class RoundTripError(RuntimeError):
    """Decoding gave other rows than were encoded: a bug in a recipe's codec."""


class CodecEvaluation(Callback):
    """Each n epochs, encode validation rows to a real file, decode it, compare, and log where the bits went.

    rows: uint8 [rows, c, h, w]; make_coder(module) -> ChunkCoder; file: written anew each time; baselines: bits/dim of
    other codecs on the same rows, drawn as lines. Stops the training with RoundTripError if the decoded rows differ.
    """

    def __init__(
        self,
        rows: Tensor,
        make_coder: Callable[[LightningModule], ChunkCoder],
        file: Path,
        every_n_epochs: int,
        baselines: dict[str, float],
        stage: str = "validation",
    ) -> None:
        self.rows, self.make_coder, self.file, self.every_n_epochs = rows, make_coder, file, every_n_epochs
        self.baselines, self.stage = baselines, stage
        self.history: list[tuple[int, float, float]] = []  # step, file bits/dim, ELBO bits/dim
        self.layers: list[tuple[int, list[float]]] = []  # step, bits/dim of each part of the bound

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history, "layers": self.layers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history = [tuple(point) for point in state["history"]]
        self.layers = [tuple(point) for point in state.get("layers", [])]  # which older checkpoints do not have

    def on_validation_epoch_end(self, trainer: Trainer, module: Any) -> None:
        if not _is_time(trainer, self.every_n_epochs):
            return
        result = evaluate(module, self.make_coder(module), self.rows, self.file)
        figures, histograms = module.diagnose(self.rows, result)  # what only this recipe can tell
        result |= figures
        self.history.append((trainer.global_step, result["file_bpd"], result["elbo_bpd"]))
        # Of all validation rows the module logs these itself.
        self.layers.append((trainer.global_step, [result.pop(f"layers/{name}_bpd") for name in module.part_names]))
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
        for name, rows in {**module.views(shown), "samples": module.sample(32)}.items():
            if rows is not None:
                board.add_image(f"images/{name}", plots.grid(rows), step)
        if len(module.part_names) > 1:
            board.add_figure("layers/bits", plots.layers_figure(self.layers, module.part_names), step)


class Regularly(Callback):
    """Each n epochs look(module, TensorBoard's writer or None, step), whose figures are logged.

    at_end: also when the training ends; baselines: as of `CodecEvaluation`.
    """

    def __init__(
        self, look: Callable[[Any, Any, int], dict[str, float]], every_n_epochs: int, at_end: bool = True,
        baselines: Mapping[str, float] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        self.look, self.every_n_epochs, self.at_end, self.baselines = look, every_n_epochs, at_end, baselines

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not _is_time(trainer, self.every_n_epochs) or (trainer.should_stop and not self.at_end):
            return
        training = module.training
        module.eval()
        board = getattr(trainer.logger, "experiment", None)
        for name, value in self.look(module, board, trainer.global_step).items():
            module.log(name, value, rank_zero_only=True)
        module.train(training)


def _is_time(trainer: Trainer, every_n_epochs: int) -> bool:
    if not trainer.is_global_zero:
        return False
    return trainer.should_stop or (trainer.current_epoch + 1) % every_n_epochs == 0


def evaluate(module: Any, coder: ChunkCoder, rows: Tensor, file: Path) -> dict[str, float]:
    """Encode rows to `file`, decode it, compare; bits/dim of the file and its parts, and speeds in MB/s.

    module: whose bound is compared; coder: of this module, or of its exact form.
    Raises RoundTripError if the decoded rows are not equal.
    """
    training = module.training
    module.eval()
    valid = torch.ones(rows.shape, dtype=torch.bool)
    batch = coder.settings.batch
    layers = bound(module, rows, batch)
    elbo = float(layers.sum())
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
    coded = coded_bits(module, rows, account, batch) / dims
    rounding = "frequencies" if coder.module is module else "frequencies_and_exact_networks"
    return {
        "file_bpd": size / dims,
        "net_bpd": account.net / dims,
        "elbo_bpd": elbo,
        **{f"layers/{name}_bpd": float(part) for name, part in zip(module.part_names, layers, strict=True)},
        "gap/discretisation_bpd": coded - elbo,
        f"gap/{rounding}_bpd": account.net / dims - coded,
        "gap/initial_bits_bpd": account.initial / dims,
        "gap/lanes_bpd": account.lanes / dims,
        "gap/container_bpd": (size - account.file) / dims,
        "speed/encode_coder_share": account.coder_seconds / account.seconds,
        "speed/decode_coder_share": coder.coder_seconds / seconds,
        "speed/encode_MB_per_s": dims / account.seconds / 1e6,
        "speed/decode_MB_per_s": dims / seconds / 1e6,
    }


@torch.inference_mode()
def bound(module: Any, rows: Tensor, batch: int) -> Tensor:
    """The bound on the bits of rows, a sample of it, by part: float64 [parts], bits/dim."""
    found = [module.parts(part.to(module.device)).double().sum(0).cpu() for part in rows.split(batch)]
    return torch.stack(found).sum(0) / rows.numel()


@torch.inference_mode()
def coded_bits(module: Any, rows: Tensor, account: Account, batch: int) -> float:
    """The negative ELBO at the very latents that were coded: what separates discretisation from frequency rounding."""
    latents = [torch.cat(layer) for layer in zip(*account.latents, strict=True)]
    total = 0.0
    for i in range(0, len(rows), batch):
        part = module.parts(rows[i : i + batch].to(module.device), [z[i : i + batch] for z in latents])
        total += part.double().sum().item()
    return total
