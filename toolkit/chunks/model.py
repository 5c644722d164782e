"""What a coder of rows asks of a model, and what it offers; rows may have any shape and any kind of integers."""

from __future__ import annotations

import copy
import math
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from toolkit.coding.codecs import Codec
from toolkit.container import digest
from toolkit.model import Model

# (model, valid: bool [rows, *shape], trace: list that receives the latents a push draws, if there is one) -> codec of
# a block of int64 rows. Of models whose rows are coded alone also number: int64 [rows], of the rows in the chunk.
RowCodec = Callable[..., Codec]

FIRST_LANES = 4  # a chunk begins with so many, or 1/16 of its last; their heads are part of its initial bits
MOST_BATCH, MOST_LANES = 1 << 12, 1 << 16  # of settings, so that those of a hostile file cannot ask for all memory
CHECKED = 256  # rows of which a checksum is taken at a time


class RowModel(Model):
    """Base of models of rows of integers: what `toolkit.heads.rows` asks of a recipe, written as a LightningModule.

    A recipe gives `shape`, `net`, `parts` and `training_step`. The rest has defaults, which say what a model cannot do.
    """

    shape: tuple[int, ...]  # of a row
    net: Any  # its networks; where that module has a `forward`, compile=true compiles it
    learning_rate: float  # at its peak
    weight_decay: float = 0.0
    part_names: Sequence[str] = ("x", "z")  # of what `parts` returns
    progress = 0.0  # of training, from 0 to 1: `training.schedule` says it before each step
    side_step: int | None = None  # its networks take rows whose sides are multiples of this; None: of training's size
    alone = False  # whether each row is coded by itself, for random access: see `toolkit.chunks.separate`
    is_exact = False  # whether the networks that a decoder runs are in exact arithmetic

    @property
    def dims(self) -> int:
        """Values in a row: bits per dimension are bits over this."""
        return math.prod(self.shape)

    def of_shape(self, shape: Sequence[int]) -> Self:
        """This model, weights shared, of rows of another shape. Raises ValueError for one that it cannot have."""
        if tuple(shape) == self.shape:
            return self
        if self.side_step is None or shape[0] != self.shape[0] or any(side % self.side_step for side in shape[1:]):
            raise ValueError(f"expected rows of {list(self.shape)}, got {list(shape)}")
        found = copy.copy(self)
        found.shape = tuple(shape)
        return found

    def parts(self, x: Tensor, latents: Sequence[Tensor] | None = None) -> Tensor:
        """The bound on a row's bits, a sample of it, by part: rows [rows, *shape] -> float32 [rows, parts].

        latents: those that a codec drew, as it traced them; None: drawn anew.
        """
        raise NotImplementedError

    def bits(self, x: Tensor) -> Tensor:
        """The bound on the bits of rows, which coding comes near to: [rows, *shape] -> float32 [rows]."""
        return self.parts(x).sum(1)

    def diagnose(self, rows: Tensor, result: dict[str, float]) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Figures and histograms of one's own for TensorBoard, by name; result: of `training.evaluation.evaluate`."""
        return {}, {}

    def sample(self, rows: int, seed: int = 0) -> Tensor | None:
        """Rows of the model; None: it does not show any."""
        return None

    def views(self, x: Tensor, seed: int = 0) -> dict[str, Tensor]:
        """What rows become that are drawn given nothing but some latents of x, by name of the picture."""
        return {}

    def validation_step(self, x: Tensor, index: int) -> None:
        """Log the bound and its parts, in bits per dimension."""
        parts = self.parts(x).mean(0) / self.dims
        self.log("validation/elbo_bpd", parts.sum(), batch_size=len(x), sync_dist=True)
        for name, part in zip(self.part_names, parts, strict=True):
            self.log(f"layers/{name}_bpd", part, batch_size=len(x), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; the schedule of training sets its rate."""
        return torch.optim.AdamW(
            [p for p in self.parameters() if p.requires_grad], lr=self.learning_rate, betas=(0.9, 0.99),
            weight_decay=self.weight_decay,
        )  # fmt: skip


class ChunkCoder(Protocol):
    """Codes chunks of rows: `chained.Coder`, `separate.AloneCoder`."""

    module: RowModel
    settings: Settings
    coder_seconds: float  # of all that is no network, in the last `decode`

    def encode(
        self, rows: Tensor, valid: Tensor, trace: bool = False, progress: Callable[[int], Any] | None = None
    ) -> tuple[bytes, Account]:
        """Rows and bool of the same shape, which values are coded -> the payload of a chunk, and where its bits went.

        trace: keep the coded latents in the account; progress: called with the number of rows after each block.
        """

    def needed(self, only: slice, rows: int) -> slice:
        """Which rows of a chunk of so many are decoded for the sake of some of them."""

    def decode(
        self, payload: bytes, valid: Tensor, only: slice | None = None, progress: Callable[[int], Any] | None = None
    ) -> Tensor:
        """The rows of a payload, or only some of them; valid: bool, of the whole chunk. ValueError if it is damaged."""


class Settings(NamedTuple):
    """What encoder and decoder must agree on beside the model; stored in the header of a file."""

    batch: int  # most rows a network call; the same on both sides, because another number gives other floats
    lanes: int  # independent ANS stacks once the message holds enough, a power of two
    seed: int  # of the bits that bits-back coding starts from

    def check(self) -> Settings:
        """Itself. Raises ValueError for a value that is no integer or out of range."""
        for name, low, high in (("batch", 1, MOST_BATCH), ("lanes", 1, MOST_LANES), ("seed", 0, 2**63 - 1)):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"expected {name} to be a whole number from {low} to {high}, got {value!r}; change it")
        return self


@dataclass
class Account:
    """Where the bits of a chunk went; all in bits, for the whole chunk."""

    file: int = 0  # the payload
    net: float = 0.0  # what pushing the rows added
    initial: float = 0.0  # seed bits that the first rows needed and the payload holds
    seconds: float = 0.0  # in all
    coder_seconds: float = 0.0  # of all that is no network
    latents: list[list[Tensor]] = field(default_factory=list)  # of each block, int64 bins [rows, ...]; if asked for

    @property
    def lanes(self) -> float:
        """Bits that storing many stacks costs: rounding heads to bytes, and their index."""
        return self.file - self.net - self.initial


class NetworkClock:
    """Seconds spent inside calls of modules while the block runs; the rest of its time is the coder's."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.seconds, self._depth, self._began = 0.0, 0, 0.0
        self._device = torch.device(device)

    def __enter__(self) -> NetworkClock:
        hooks = torch.nn.modules.module
        self._handles = [
            hooks.register_module_forward_pre_hook(self._enter),
            hooks.register_module_forward_hook(self._leave, always_call=True),
        ]
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _enter(self, module: torch.nn.Module, arguments: Any) -> None:
        if self._depth == 0:
            self._began = self._now()
        self._depth += 1

    def _leave(self, module: torch.nn.Module, arguments: Any, output: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.seconds += self._now() - self._began

    def _now(self) -> float:
        if self._device.type == "cuda":  # which is given work, and not done with it
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def choose_lanes(symbols: int) -> int:
    """Stacks for so many coded symbols, a power of two: a GPU wants many; each costs one to three bytes.

    One for 16,384 to 32,768 symbols, so that lanes take less than a thousandth even where a symbol has one bit.
    """
    return min(max(1 << max(symbols >> 14, 1).bit_length() - 1, FIRST_LANES), MOST_LANES)


def fingerprint(module: Model, settings: dict[str, Any]) -> str:
    """Identity of a model: SHA-256, in hex, over its weights (names, dtypes, shapes, values) and its configuration."""

    def values(tensor: Tensor) -> bytes:  # by way of bytes, because numpy does not know bfloat16
        return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()

    tensors = sorted(module.state_dict().items())
    return digest(settings, ((name, str(value.dtype), value.shape, values(value)) for name, value in tensors))


def rows_crc(rows: Tensor, valid: Tensor) -> int:
    """CRC-32 of the coded values of rows: uint8 and bool, both [rows, ...]; values that are not coded do not count."""
    crc = 0
    # Some rows at a time, and by numpy: for each value that a mask picks torch makes an index of 32 bytes.
    for part, mask in zip(rows.cpu().split(CHECKED), valid.cpu().split(CHECKED), strict=True):
        values = part.contiguous().numpy()
        crc = zlib.crc32(values if bool(mask.all()) else values[mask.numpy()], crc)
    return crc
