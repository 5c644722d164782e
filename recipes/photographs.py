"""Photographs, lossless, by experts that learn while they code: least squares (Wu, Barthel, Zhang 1998), mixed (Mahoney
2005)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from toolkit.model import Model
from toolkit.photographs import codec
from toolkit.photographs.coder import Coder


class Experts(nn.Module):
    """What the experts know: arrays of any shapes and dtypes, none of which has a gradient."""

    def __init__(self, state: dict[str, np.ndarray]) -> None:
        super().__init__()
        for name, values in state.items():
            self.register_buffer(name, torch.from_numpy(np.array(values, order="C")))

    @property
    def state(self) -> dict[str, np.ndarray]:
        """As arrays, by name."""
        return {name: values.cpu().numpy() for name, values in self.named_buffers()}

    @state.setter
    def state(self, state: dict[str, np.ndarray]) -> None:
        for name, values in self.named_buffers():
            values.copy_(torch.from_numpy(np.array(state[name], order="C")))


class Photographs(Model):
    """The model. It codes any picture as it is; training lets the experts code photographs, and keeps what they learn.

    shape: (channels,) of the data, for information: pictures are of any size, with 1 to 4 channels.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.shape = tuple(shape)
        self.net = Experts(codec.initial())

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What the experts know, by name as in the file of weights."""
        return {name: values.cpu().numpy() for name, values in self.state_dict().items()}

    def encode(self, picture: np.ndarray, effort: int = 1) -> bytes:
        """See `Coder`."""
        return Coder(self.arrays).encode(picture, effort)

    def decode(self, data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
        """See `Coder`."""
        return Coder(self.arrays).decode(data, shape)

    def bits(self, x: Tensor) -> Tensor:
        """Bits of the payloads of pictures: uint8 [rows, c, h, w] -> float64 [rows]."""
        return torch.tensor([8 * len(self.encode(picture)) for picture in x.cpu().numpy()], dtype=torch.float64)

    def on_fit_start(self) -> None:
        """Refuse what would train several models, or change the arrays' dtypes."""
        if self.trainer.world_size > 1 or str(self.trainer.precision) not in ("32-true", "bf16-mixed"):
            raise ValueError(
                f"expected trainer.devices=1 and trainer.precision=32-true, got {self.trainer.world_size} and "
                f"{self.trainer.precision}; leave them out: pictures are coded one after another"
            )

    def training_step(self, x: Tensor, index: int) -> None:
        bits = 0.0
        for picture in x.cpu().numpy():
            self.net.state, more = codec.learn(picture, self.net.state)
            bits += more
        optimizer: Any = self.optimizers()
        optimizer.step()  # has nothing to change: Lightning counts steps by it
        self.log("train/bpd", bits / x.numel())
        self.log("bpd", bits / x.numel(), prog_bar=True, logger=False)

    def validation_step(self, x: Tensor, index: int) -> None:
        # Weighted by values, so that the mean is that of all values of all pictures.
        self.log("validation/bpd", float(self.bits(x).sum()) / x.numel(), batch_size=x.numel())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """An optimizer for Lightning's count of steps; experts learn in `codec.learn`."""
        return torch.optim.SGD([torch.zeros(1)], lr=0.0)
