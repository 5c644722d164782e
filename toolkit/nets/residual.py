"""Residual convolutional stacks without normalisation: the same output for a row whatever else is in its batch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """x + conv(silu(conv(silu(x)))), the last convolution starting at zero (He et al. 2016, arXiv:1603.05027).

    side: of the convolutions, odd.
    """

    def __init__(self, width: int, side: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, side, padding=side // 2)
        self.last = nn.Conv2d(width, width, side, padding=side // 2)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]  # Optional in the stubs; present here

    def forward(self, x: Tensor) -> Tensor:  # float [rows, width, h, w] -> the same
        return x + self.last(F.silu(self.first(F.silu(x))))


def residual_trunk(inputs: int, width: int, blocks: int) -> nn.Sequential:
    """Convolution to `width` channels and `blocks` residual blocks: features, before a last nonlinearity."""
    return nn.Sequential(nn.Conv2d(inputs, width, 3, padding=1), *(Residual(width) for _ in range(blocks)))


def residual_stack(inputs: int, width: int, blocks: int, outputs: int) -> nn.Sequential:
    """A residual trunk and a convolution to `outputs` channels; keeps height and width."""
    head = nn.Conv2d(width, outputs, 3, padding=1)
    nn.init.normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)  # type: ignore[arg-type]  # Optional in the stubs; present here
    return nn.Sequential(*residual_trunk(inputs, width, blocks), nn.SiLU(), head)
