"""Bit-Swap: lossless image compression with a hierarchical VAE (Kingma, Abbeel, Ho 2019, arXiv:1905.06845)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit.chunks.model import RowModel
from toolkit.coding import frequencies
from toolkit.coding.codecs import Codec, Layer, bb_ans, bit_swap, traced
from toolkit.coding.distributions import location_scale
from toolkit.coding.message import Message
from toolkit.nets.exact import Conversion, ExactParameters, Form, converted, real
from toolkit.nets.exact_observation import PIXELS, observation
from toolkit.nets.observation import (
    InterlacedObservation,
    LogisticObservation,
    MixtureObservation,
    Observation,
    complete,
    normalise,
    somewhere,
)
from toolkit.nets.residual import residual_stack

LEAST_SCALE = 0.1  # of latents, as in the paper: bounds the precision that a latent can carry
SCALE_REACH = 16.0  # raw outputs beyond are clamped on the exact path: scales of e^-9 and 16
EDGE = 1e-5  # uniform noise is kept this far from 0 and 1, so that its logit is finite
LIKELIHOODS = ("logistic", "mixture", "interlaced")


class Conditional(nn.Module):
    """A logistic for each latent given a neighbouring layer, from a residual network."""

    def __init__(self, inputs: int, outputs: int, width: int, blocks: int, down: int, up: int, bounded: bool) -> None:
        super().__init__()
        stack = residual_stack(inputs * down**2, width, blocks, 2 * outputs * up**2)
        self.net = nn.Sequential(nn.PixelUnshuffle(down), stack, nn.PixelShuffle(up))
        self.bounded = bounded

    def forward(self, x: Tensor, reach: float) -> tuple[Tensor, Tensor]:
        """float [rows, inputs, h, w] -> location and scale, float32 [rows, outputs, h', w']; |location| < reach."""
        loc, raw = self.net(x).float().chunk(2, 1)
        return self.location(loc, reach), self.scale(raw)

    def location(self, raw: Tensor, reach: float) -> Tensor:
        return reach * torch.tanh(raw / reach)

    def scale(self, raw: Tensor) -> Tensor:
        # A posterior's scale lies in (0.1, 1), a prior's above 0.1 (the paper's parametrisation).
        scale = torch.sigmoid(raw + 2) if self.bounded else F.softplus(raw + math.log(math.e - 1))
        return LEAST_SCALE + (1 - LEAST_SCALE) * scale


class Chain(nn.Module):
    """The Markov chain x <- z_1 <- ... <- z_L, and its inference network z_1 | x, z_2 | z_1, ...

    Latents live on one grid for all: centres (k + 1/2) / bins_per_unit - reach for k in [0, bins), so no table of bins
    travels with the model. Locations stay within 3/4 of the reach.
    """

    def __init__(
        self, shape: Sequence[int], likelihood: str, components: int, levels: int, refinements: int,
        latent_channels: Sequence[int],
        downscale: Sequence[int], width: int, blocks: Sequence[int], bins: int, bins_per_unit: int,
    ) -> None:  # fmt: skip
        super().__init__()
        if not len(latent_channels) == len(downscale) == len(blocks) or not 1 <= len(blocks) <= 8:
            raise ValueError(
                "expected latent_channels, downscale and blocks of one length from 1 to 8, got "
                f"{len(latent_channels)}, {len(downscale)} and {len(blocks)}; give one number for each latent layer"
            )
        if downscale[0] != 2:
            raise ValueError(f"expected downscale[0] = 2 (the first latents lie on 2 x 2 pixels), got {downscale[0]}")
        self.stride, self.top_channels = math.prod(downscale), latent_channels[-1]
        if shape[1] % self.stride or shape[2] % self.stride:
            raise ValueError(
                f"expected images whose sides are multiples of {self.stride} (the product of downscale), got "
                f"{shape[1]} x {shape[2]}; change data.splits.size or downscale"
            )
        self.bins, self.bins_per_unit, self.reach = bins, bins_per_unit, bins / bins_per_unit / 2
        sizes = [shape[0], *latent_channels]
        layers = list(zip(sizes, latent_channels, downscale, blocks, strict=False))
        self.infer = nn.ModuleList(Conditional(a, b, width, n, d, 1, True) for a, b, d, n in layers)
        # generate[i] gives z_i+1 from z_i+2; the observation model gives x from z_1.
        self.generate = nn.ModuleList(Conditional(b, a, width, n, 1, d, False) for a, b, d, n in layers[1:])
        arguments = (shape, latent_channels[0], width, blocks[0])
        if likelihood == "logistic":
            self.observe: nn.Module = LogisticObservation(*arguments)
        elif likelihood == "mixture":
            self.observe = MixtureObservation(*arguments, components)
        elif likelihood == "interlaced":
            self.observe = InterlacedObservation(*arguments, components, levels, refinements)
        else:
            raise ValueError(f"expected likelihood to be one of {', '.join(LIKELIHOODS)}, got {likelihood!r}")

    @property
    def observation(self) -> Observation:
        return cast(Observation, self.observe)

    def posterior(self, i: int, below: Tensor) -> tuple[Tensor, Tensor]:
        """Location and scale of z_i+1 given z_i (given the normalised pixels for i = 0)."""
        return self.infer[i](below, 0.75 * self.reach)

    def prior(self, i: int, above: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor]:
        """Location and scale of z_i+1 given z_i+2; of the top layer: a standard logistic."""
        if above is None:
            return torch.zeros_like(like), torch.ones_like(like)
        return self.generate[i](above, 0.75 * self.reach)

    def sample(self, pixels: Tensor) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        """Latents z_1 .. z_L drawn from the posterior, and the locations and scales that they were drawn with."""
        latents: list[Tensor] = []
        posteriors = []
        for i in range(len(self.infer)):
            loc, scale = self.posterior(i, latents[-1] if latents else pixels)
            latents.append(loc + scale * torch.logit(torch.rand_like(loc) * (1 - 2 * EDGE) + EDGE))
            posteriors.append((loc, scale))
        return latents, posteriors

    def terms(
        self, pixels: Tensor, latents: Sequence[Tensor], posteriors: Sequence[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, list[Tensor]]:
        """Bits of the negative ELBO at given latents: of x, float32 [rows], and of log q - log p of each layer.

        The second output holds float32 [rows, channels] for each layer.
        """
        ratios = []
        for i, z in enumerate(latents):
            above = latents[i + 1] if i + 1 < len(latents) else None
            ratio = log_logistic(z, *posteriors[i]) - log_logistic(z, *self.prior(i, above, z))
            ratios.append(ratio.sum((2, 3)) / math.log(2))
        return self.observation.bits(pixels, latents[0]), ratios

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """uint8 [rows, c, h, w] -> `terms` of one sample of the latents."""
        pixels = normalise(x)
        return self.terms(pixels, *self.sample(pixels))

    def to_bins(self, z: Tensor) -> Tensor:  # float [...] -> float [...], in bins
        return (z + self.reach) * self.bins_per_unit - 0.5

    def from_bins(self, k: Tensor) -> Tensor:  # int64 [...] -> float32 [...]
        return (k.float() + 0.5) / self.bins_per_unit - self.reach

    def snap_location(self, loc: Tensor) -> Tensor:  # float [...] -> int64 [...]
        return frequencies.snap_location(self.to_bins(loc))

    def snap_scale(self, scale: Tensor) -> Tensor:  # float [...] -> int64 [...]
        return frequencies.snap_scale(torch.log(scale * self.bins_per_unit))

    def snapped(self, net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """Location and scale of latents by one of the networks, as integers of `frequencies`."""
        if isinstance(net, ExactParameters):
            return cast(tuple[Tensor, Tensor], net(x))
        loc, scale = net(x, 0.75 * self.reach)
        return self.snap_location(loc), self.snap_scale(scale)

    def latent_codec(self, snapped: tuple[Tensor, Tensor], valid: Tensor, least: int) -> Codec:
        return location_scale("logistic", *snapped, self.bins, least, valid=valid.expand_as(snapped[0]))

    def exact(self, conversion: Conversion) -> Chain:
        """This chain with networks in exact arithmetic: its `layers` are integers throughout; it gives no `terms`."""
        found = copy.deepcopy(self)
        latents = real(0.5 / self.bins_per_unit, self.bins)

        def conditional(net: Conditional, form: Form) -> ExactParameters:
            reach = 0.75 * self.reach
            return ExactParameters(
                conversion.stack(net.net, form)[0],
                conversion.table(lambda raw: self.snap_location(net.location(raw, reach)), 4 * reach),
                conversion.table(lambda raw: self.snap_scale(net.scale(raw)), SCALE_REACH),
            )

        for i, net in enumerate(self.infer):
            found.infer[i] = conditional(cast(Conditional, net), latents if i else PIXELS)
        for i, net in enumerate(self.generate):
            found.generate[i] = conditional(cast(Conditional, net), latents)
        found.observe = observation(self.observe, latents, conversion)
        return found

    def layers(self, valid: Tensor) -> tuple[Codec, list[Layer]]:
        """The prior of z_L and, for each layer, (likelihood of z_i given z_i+1, posterior of z_i+1 given z_i).

        valid: bool [rows, c, h, w]; a row that is wholly invalid costs nothing in any layer.
        """
        rows, _, h, w = valid.shape
        alive = somewhere(valid)

        def likelihood(i: int, above: Tensor) -> Codec:
            z = self.from_bins(above)
            if i == 0:
                codec = self.observation.codec(z, valid)
                return Codec(codec.push, lambda message: complete(codec.pop(message), valid))
            return self.latent_codec(self.snapped(self.generate[i - 1], z), alive, 1)

        def posterior(i: int, below: Tensor) -> Codec:
            x = normalise(below) if i == 0 else self.from_bins(below)
            return self.latent_codec(self.snapped(self.infer[i], x), alive, 0)

        def layer(i: int) -> Layer:
            return (lambda above: likelihood(i, above)), (lambda below: posterior(i, below))

        top = torch.zeros(rows, self.top_channels, h // self.stride, w // self.stride)
        top = top.to(valid.device)
        prior = self.snap_location(top), self.snap_scale(torch.ones_like(top))
        return self.latent_codec(prior, alive, 1), [layer(i) for i in range(len(self.infer))]


class BitSwap(RowModel):
    """The model: minimises the negative ELBO with free bits; `bits` is what its codec costs.

    shape: (channels, height, width) of the rows; likelihood: logistic (the paper's), mixture or interlaced; components:
    of the mixture; levels, refinements: of interlacing, and residual blocks of each of its passes; latent_channels,
    downscale, blocks: one number for each latent layer, x's neighbour first; width: of the networks; bins,
    bins_per_unit: the latents' grid; learning_rate: at its peak; warmup: steps; free_bits: bits a latent channel and
    image below which its KL is not reduced; kl_warmup: steps over which the KL gains its weight.
    """

    def __init__(
        self, shape: Sequence[int], likelihood: str, components: int, levels: int, refinements: int,
        latent_channels: Sequence[int],
        downscale: Sequence[int], width: int, blocks: Sequence[int], bins: int, bins_per_unit: int,
        learning_rate: float, warmup: int, weight_decay: float, free_bits: float, kl_warmup: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.shape = tuple(shape)
        self.net = Chain(
            shape,
            likelihood,
            components,
            levels,
            refinements,
            latent_channels,
            downscale,
            width,
            blocks,
            bins,
            bins_per_unit,
        ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # what convolutions are fastest in
        self.part_names = ["x", *(f"z{i + 1}" for i in range(len(blocks)))]
        self.learning_rate, self.warmup, self.weight_decay = learning_rate, warmup, weight_decay
        self.free_bits, self.kl_warmup = free_bits, kl_warmup

    def exact(self, rows: Tensor | None = None) -> BitSwap:
        """This model with its networks in exact arithmetic, for coding only: see `Model.exact`."""
        return converted(self, rows)

    def parts(self, x: Tensor, latents: Sequence[Tensor] | None = None) -> Tensor:
        """The negative ELBO by layer, x first: float32 [rows, 1 + L] bits; at coded latents (int64 bins) if given."""
        pixels = normalise(x)
        if latents is None:
            nll, ratios = self.net(x)
        else:
            centres = [self.net.from_bins(z) for z in latents]
            posteriors = [self.net.posterior(i, below) for i, below in enumerate([pixels, *centres[:-1]])]
            nll, ratios = self.net.terms(pixels, centres, posteriors)
        return torch.stack([nll, *(r.sum(1) for r in ratios)], 1)

    def training_step(self, x: Tensor, index: int) -> Tensor:
        nll, ratios = self.net(x)
        weight = min(1.0, (self.global_step + 1) / self.kl_warmup) if self.kl_warmup else 1.0
        kl = torch.stack([r.mean(0).clamp(min=self.free_bits).sum() for r in ratios]).sum()
        rate = nll.mean() + torch.stack([r.sum(1).mean() for r in ratios]).sum()
        self.log("train/elbo_bpd", rate.detach() / self.dims)
        self.log("bpd", rate.detach() / self.dims, prog_bar=True, logger=False)
        return (nll.mean() + weight * kl) * math.log(2) / self.dims

    @torch.inference_mode()
    def sample(self, rows: int, seed: int = 0) -> Tensor:
        """Images of the model, uint8 [rows, c, h, w], drawn from the top layer down with random bits.

        Not by decoding: that gives the latents' bits back under posteriors, which have no mass where they never draw.
        """
        valid = torch.ones(rows, *self.shape, dtype=torch.bool, device=self.device)
        prior, layers = self.net.layers(valid)
        noise = self._noise(valid, seed)
        z = prior.pop(noise)
        for likelihood, _ in reversed(layers):
            z = likelihood(z).pop(noise)
        return z.to(torch.uint8)

    @torch.inference_mode()
    def reconstruct(self, x: Tensor, seed: int = 0) -> Tensor:
        """uint8 [rows, c, h, w] -> images drawn given nothing but the first latent layer of x, uint8."""
        valid = torch.ones(x.shape, dtype=torch.bool, device=x.device)
        likelihood, posterior = self.net.layers(valid)[1][0]
        noise = self._noise(valid, seed)
        return likelihood(posterior(x.long()).pop(noise)).pop(noise).to(torch.uint8)

    def _noise(self, valid: Tensor, seed: int) -> Message:
        lanes = 1024
        return Message.random(lanes, 4 * valid.numel() // lanes + 64, seed, valid.device)


def head(module: BitSwap, valid: Tensor, scheme: str = "bitswap", trace: list[Tensor] | None = None) -> Codec:
    """Codec of a block of rows: int64 [rows, c, h, w] levels, of which `valid` (bool, the same shape) are coded.

    scheme: bitswap, or bbans for the same chain with all latents popped first; trace: receives the latents z_1 .. z_L
    (int64 bins) that a push draws, for accounting.
    """
    if scheme not in ("bitswap", "bbans"):
        raise ValueError(f"expected scheme to be bitswap or bbans, got {scheme!r}")
    prior, layers = module.net.layers(valid)
    layers = [(likelihood, _traced(posterior, trace)) for likelihood, posterior in layers]
    codec = (bit_swap if scheme == "bitswap" else bb_ans)(prior, layers)
    return Codec(lambda message, x: codec.push(message, complete(x, valid)), codec.pop)


def _traced(posterior: Callable[[Tensor], Codec], trace: list[Tensor] | None) -> Callable[[Tensor], Codec]:
    return lambda below: traced(posterior(below), trace)


def log_logistic(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Natural log-density of a logistic distribution; float32 tensors that broadcast."""
    t = (z - loc).abs() / scale
    return -t - torch.log(scale) - 2 * F.softplus(-t)
