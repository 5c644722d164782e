"""A picture at any rate: a fixed lapped DCT, a coder that learns, a network that restores what quantisation took."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from recipes.vae import check_shape, step_of
from recipes.vae.transform import Restoration, across_borders, bands, block_transform, known, lapped, overlap
from toolkit.coding.coefficients import codec as coefficients
from toolkit.coding.coefficients import fit
from toolkit.data.splits import spread
from toolkit.images import colours, rate_coder, rate_target
from toolkit.images.rate_coder import BALANCE, STRIDE
from toolkit.images.similarity import Basis
from toolkit.model import Model

KNOWN = known()
FIT_ROWS, FIT_STEPS = 224, 30  # of the coder that training searches with
SMALLEST = 0.01  # mean squared error in steps that a crop still learns from
PIECE = 64  # rows that are transformed at once
PLACES = 96  # blocks of a row that its colours are turned for


class AnyRate(Model):
    """The model, and what `toolkit.heads.rate` asks of one.

    shape: (3, h, w), sides multiples of 8; width, blocks: of the network; noise: standard deviation of the error that a
    lambda of ln 2 allows, grey levels; lambdas: least and largest of training; learning_rate: at its peak; warmup:
    steps.
    """

    transform: Tensor
    border: Tensor
    coder_weights: Tensor
    coder_cells: Tensor
    coder_mixing: Tensor
    channel_names: ClassVar[Sequence[tuple[int, int, int]]] = [channel for band in bands() for channel in band]
    basis: ClassVar[Basis] = tuple(map(tuple, lapped().tolist()))
    latents_halo = 1
    turned = True

    def __init__(
        self, shape: Sequence[int], width: int, blocks: int, noise: float, lambdas: Sequence[float],
        learning_rate: float, warmup: int, weight_decay: float,
    ) -> None:  # fmt: skip
        super().__init__()
        check_shape(shape)
        self.net = Restoration(width, blocks).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.register_buffer("transform", block_transform()[:, :, None, None], persistent=False)
        self.register_buffer("border", overlap(), persistent=False)
        for name, table in coefficients.blank(KNOWN)._asdict().items():  # made by `fit_tables`; zeros before
            self.register_buffer(f"coder_{name}", torch.zeros_like(table))
        self.pixels_halo, self.noise, self.lambdas = 2 * blocks + 1, noise / 255, tuple(lambdas)
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self._searching: coefficients.Model | None = None

    def _coefficients(self, pixels: Tensor) -> Tensor:
        return F.conv2d(F.pixel_unshuffle(across_borders(pixels - 0.5, self.border), STRIDE), self.transform)

    def _turned(self, rows: Tensor) -> Tensor:
        """Coefficients of uint8 [rows, 3, h, w] whose colours are turned, each as of a picture, on the own device."""
        turned = [rate_coder.turned(row.float() / 255, colours.fit(row.numpy(), PLACES)) for row in rows.cpu()]
        return self._coefficients(torch.stack(turned).to(self.device))

    def latents(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients of float32 [1, 3, h, w] pixels in [0, 1], and one sigma for all."""
        mu = self._coefficients(pixels)
        return mu, torch.full_like(mu, self.noise)

    def step(self, lam: float) -> float:
        """Distance between code points."""
        return float(step_of(torch.tensor(lam), self.noise))

    def pixels(self, k: Tensor, lam: float) -> Tensor:
        """The pixels of [rows, channels, h, w] code points, int, or float between them."""
        step = torch.full((len(k),), self.step(lam), device=k.device)
        z = (k.float() + self.net(k.float(), step)) * step[:, None, None, None]
        blocks = F.pixel_shuffle(F.conv2d(z, self.transform[..., 0, 0].T[:, :, None, None]), STRIDE)
        return across_borders(blocks, self.border.T) + 0.5

    def tables(self) -> coefficients.Model:
        """The coder of the latents. Raises ValueError before `fit_tables`."""
        tables = coefficients.Tables(self.coder_weights, self.coder_cells, self.coder_mixing)
        return coefficients.Model(KNOWN, coefficients.Tables(*(table.cpu() for table in tables)))

    @torch.inference_mode()
    def _fitted(self, rows: Tensor, steps: int) -> tuple[coefficients.Tables, float]:
        """Tables, and bits a pixel, of uint8 [rows, 3, h, w], each at a lambda of its own."""
        generator = torch.Generator().manual_seed(0)
        low, high = map(rate_target.level_of, self.lambdas)
        levels = (low + (torch.rand(len(rows), generator=generator) * (high - low)).long()).tolist()
        unit = step_of(torch.tensor([rate_target.lambda_of(level) for level in levels]), self.noise)
        rate = torch.tensor([rate_coder.rate_index(level) for level in levels])
        mu = torch.cat([self._turned(part).cpu() for part in rows.split(PIECE)])
        mu /= unit[:, None, None, None]
        every = torch.full((len(rows),), BALANCE)
        tables, bits = fit.tables(KNOWN, mu, torch.ones_like(mu), every, rate, steps, generator)
        return tables, bits / rows[:, 0].numel()

    def fit_tables(self, rows: Tensor, steps: int) -> float:
        """Fit the coder to the coefficients of uint8 [rows, 3, h, w]; returns bits a pixel. See `fit.tables`."""
        tables, bits = self._fitted(rows, steps)
        for name, table in tables._asdict().items():
            self.get_buffer(f"coder_{name}").copy_(table)
        return bits

    def on_fit_start(self) -> None:
        """Fit the coder that training searches with: the same whenever a training goes on.

        Not in `on_train_start`, before which a training with init= validates.
        """
        rows = spread(self.trainer.datamodule.train, FIT_ROWS)  # type: ignore[attr-defined]
        self._searching = coefficients.Model(KNOWN, self._fitted(rows, FIT_STEPS)[0])

    def _loss(self, stage: str, x: Tensor, lam: Tensor) -> Tensor:
        """Half the logarithm of the error, in bits: what a rate would have to rise for as much, by and large."""
        assert self._searching is not None
        unit = step_of(lam, self.noise)
        with torch.no_grad():
            mu = self._turned(x) / unit[:, None, None, None]
            host, levels = mu.cpu(), [rate_target.level_of(value) for value in lam.tolist()]
            chosen = [
                coefficients.search(self._searching, row[None], torch.ones_like(row[None]), BALANCE, rate).k
                for row, rate in zip(host, map(rate_coder.rate_index, levels), strict=True)
            ]
            k = torch.cat(chosen).to(mu)
        before, after = ((mu - found).square().mean((1, 2, 3)) for found in (k, k + self.net(k, unit)))
        loss = 0.5 * (after + SMALLEST / 12).log2().mean()
        gain = 10 * (before / after.detach()).log10().mean()
        self.log(f"{stage}/error_bits", loss, batch_size=len(x))
        self.log(f"{stage}/gain_db", gain, prog_bar=stage == "train", batch_size=len(x))
        return loss

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        low, high = map(math.log, self.lambdas)
        return self._loss("train", batch, (low + (high - low) * torch.rand(len(batch), device=self.device)).exp())

    def validation_step(self, batch: Tensor, index: int) -> None:
        low, high = map(math.log, self.lambdas)
        self._loss("validation", batch, torch.linspace(low, high, len(batch), device=self.device).exp())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.net.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
