"""The VAE of one layer of Gaussian latents, lossless: bits-back coding with ANS (Townsend, Bird, Barber 2019,
arXiv:1901.04866)."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from toolkit.chunks.model import RowModel
from toolkit.coding import frequencies
from toolkit.coding.codecs import Codec, bits_back, traced
from toolkit.coding.distributions import location_scale
from toolkit.coding.message import Message
from toolkit.nets.exact import TABLE, Conversion, ExactParameters, converted, real
from toolkit.nets.exact_observation import PIXELS, observation
from toolkit.nets.observation import (
    InterlacedObservation,
    MixtureObservation,
    Observation,
    complete,
    normalise,
    somewhere,
)
from toolkit.nets.residual import residual_stack

REACH, BINS = 8.0, 1024  # latents lie on a grid of so many bins over (-REACH, REACH), their prior is N(0, 1)
LEAST_SCALE = 0.05  # of posteriors, 3.2 bins: bounds the precision that a latent can carry
MOST_LOCATION = 0.75 * REACH
RAW_REACH = 16.0  # raw outputs beyond are clamped on the exact path
LIKELIHOODS = ("interlaced", "mixture")


def location(raw: Tensor) -> Tensor:
    """Posterior means from the network's outputs, within the grid."""
    return MOST_LOCATION * torch.tanh(raw / MOST_LOCATION)


def scale(raw: Tensor) -> Tensor:
    """Posterior standard deviations, in (LEAST_SCALE, 1)."""
    return LEAST_SCALE + (1 - LEAST_SCALE) * torch.sigmoid(raw + 2)


def snap_location(loc: Tensor) -> Tensor:  # float [...] -> int64 [...]
    return frequencies.snap_location((loc + REACH) * BINS / (2 * REACH) - 0.5)


def snap_scale(scale: Tensor) -> Tensor:  # float [...] -> int64 [...]
    return frequencies.snap_scale(torch.log(scale * BINS / (2 * REACH)))


def centres(z: Tensor) -> Tensor:
    """Middles of bins: int64 [...] -> float32 [...]."""
    return (z.float() + 0.5) * (2 * REACH / BINS) - REACH


def gaussian_codec(loc: Tensor, scale: Tensor, valid: Tensor, least: int) -> Codec:
    return location_scale("gaussian", loc, scale, BINS, least, valid=valid.expand_as(loc))


class Net(nn.Module):
    """Encoder, and observation model with a discretised likelihood; latents have half the sides of a row."""

    def __init__(
        self, shape: Sequence[int], likelihood: str, components: int, levels: int, refinements: int, latents: int,
        width: int, blocks: int,
    ) -> None:  # fmt: skip
        super().__init__()
        if shape[1] % 2 or shape[2] % 2:
            raise ValueError(f"expected rows of even sides, got {shape[1]} x {shape[2]}; change data.splits.size")
        self.infer: nn.Module = nn.Sequential(
            nn.PixelUnshuffle(2), residual_stack(4 * shape[0], width, blocks, 2 * latents)
        )
        if likelihood == "interlaced":
            self.observe: nn.Module = InterlacedObservation(
                shape, latents, width, blocks, components, levels, refinements
            )
        elif likelihood == "mixture":
            self.observe = MixtureObservation(shape, latents, width, blocks, components)
        else:
            raise ValueError(f"expected likelihood to be one of {', '.join(LIKELIHOODS)}, got {likelihood!r}")

    @property
    def observation(self) -> Observation:
        return cast(Observation, self.observe)

    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents, float32 [rows, latents, h / 2, w / 2], of normalised pixels."""
        loc, raw = self.infer(pixels).float().chunk(2, 1)
        return location(loc), scale(raw)

    def snapped(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The same as integers of `frequencies`."""
        if isinstance(self.infer, ExactParameters):
            return cast(tuple[Tensor, Tensor], self.infer(pixels))
        loc, deviation = self.posterior(pixels)
        return snap_location(loc), snap_scale(deviation)

    def forward(self, x: Tensor, z: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Bits of x given z, float32 [rows], and of log q - log p of z, float32 [rows, latents].

        x: uint8 [rows, c, h, w]; z: float [rows, latents, h / 2, w / 2]; None draws it from the posterior.
        """
        pixels = normalise(x)
        loc, deviation = self.posterior(pixels)
        if z is None:
            z = loc + deviation * torch.randn_like(loc)
        log_ratio = 0.5 * (z.square() - ((z - loc) / deviation).square()) - torch.log(deviation)
        return self.observation.bits(pixels, z), log_ratio.sum((2, 3)) / math.log(2)

    def exact(self, conversion: Conversion) -> Net:
        """This net in exact arithmetic, whose `snapped` and `observation.codec` are integers throughout."""
        found = copy.deepcopy(self)
        found.infer = ExactParameters(
            conversion.stack(self.infer, PIXELS, 2.0**TABLE)[0],
            conversion.table(lambda raw: snap_location(location(raw)), 4 * MOST_LOCATION),
            conversion.table(lambda raw: snap_scale(scale(raw)), RAW_REACH),
        )
        found.observe = observation(self.observe, real(REACH / BINS, BINS), conversion)
        return found


class LosslessVAE(RowModel):
    """The model: minimises the negative ELBO; `bits` is what its codec costs.

    shape: (channels, height, width) of the rows; likelihood: interlaced or mixture; components: of the mixture; levels,
    refinements: of interlacing, and residual blocks of each of its passes; latents: channels of them; width: of the
    networks; blocks: residual blocks of each; learning_rate: at its peak; warmup: steps; kl_warmup: steps over which
    the latents' cost gains its weight.
    """

    def __init__(
        self, shape: Sequence[int], likelihood: str, components: int, levels: int, refinements: int, latents: int,
        width: int, blocks: int, learning_rate: float, warmup: int, weight_decay: float, kl_warmup: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.shape, self.latents = tuple(shape), latents
        self.side_step = 2**levels if likelihood == "interlaced" else 2
        net = Net(shape, likelihood, components, levels, refinements, latents, width, blocks)
        self.net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # convolutions' fastest
        self.learning_rate, self.weight_decay, self.kl_warmup = learning_rate, weight_decay, kl_warmup

    def exact(self, rows: Tensor | None = None) -> LosslessVAE:
        """This model with its networks in exact arithmetic, for coding only: see `Model.exact`."""
        return converted(self, rows)

    def parts(self, x: Tensor, latents: Sequence[Tensor] | None = None) -> Tensor:
        """The negative ELBO of x and z: float32 [rows, 2] bits; at coded latents (int64 bins) if given."""
        nll, ratio = self.net(x, centres(latents[0]) if latents else None)
        return torch.stack([nll, ratio.sum(1)], 1)

    def training_step(self, x: Tensor, index: int) -> Tensor:
        nll, ratio = self.net(x)
        weight = min(1.0, (self.global_step + 1) / self.kl_warmup) if self.kl_warmup else 1.0
        kl = ratio.sum(1).mean()
        rate = (nll.mean() + kl).detach() / self.dims
        self.log("train/elbo_bpd", rate)
        self.log("bpd", rate, prog_bar=True, logger=False)
        return (nll.mean() + weight * kl) * math.log(2) / self.dims

    @torch.inference_mode()
    def sample(self, rows: int, seed: int = 0) -> Tensor:
        """Images of the model, uint8 [rows, c, h, w], from latents that are drawn from the prior."""
        valid = torch.ones(rows, *self.shape, dtype=torch.bool, device=self.device)
        noise = Message.random(1024, 4 * valid.numel() // 1024 + 64, seed, valid.device)
        z = prior(self, valid).pop(noise)
        return self.net.observation.codec(centres(z), valid).pop(noise).to(torch.uint8)


def prior(module: LosslessVAE, valid: Tensor) -> Codec:
    """Codec of the latents of a block of rows; those of rows without valid places cost nothing."""
    alive = somewhere(valid)
    zero = torch.zeros(len(valid), module.latents, valid.shape[2] // 2, valid.shape[3] // 2, device=valid.device)
    return gaussian_codec(snap_location(zero), snap_scale(torch.ones_like(zero)), alive, 1)


def head(module: LosslessVAE, valid: Tensor, trace: list[Tensor] | None = None) -> Codec:
    """Codec of a block of rows: int64 [rows, c, h, w] levels, of which `valid` (bool, the same shape) are coded.

    trace: receives the latents (int64 bins) that a push draws, for accounting.
    """
    alive = somewhere(valid)

    def posterior(x: Tensor) -> Codec:
        loc, deviation = module.net.snapped(normalise(x))
        return traced(gaussian_codec(loc, deviation, alive, 0), trace)

    def likelihood(z: Tensor) -> Codec:
        codec = module.net.observation.codec(centres(z), valid)
        return Codec(codec.push, lambda message: complete(codec.pop(message), valid))

    codec = bits_back(prior(module, valid), likelihood, posterior)
    return Codec(lambda message, x: codec.push(message, complete(x, valid)), codec.pop)
