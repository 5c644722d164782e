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
from toolkit.nets.exact import TABLE, Conversion, ExactParameters, Form, converted, real
from toolkit.nets.exact_observation import PIXELS, exact_passes, observation
from toolkit.nets.observation import (
    GuidedObservation,
    InterlacedObservation,
    LogisticObservation,
    MixtureObservation,
    Observation,
    Passes,
    complete,
    normalise,
    somewhere,
)
from toolkit.nets.residual import residual_stack

LEAST_SCALE = 0.1  # of latents, as in the paper: bounds the precision that a latent can carry
SCALE_REACH = 16.0  # raw outputs beyond are clamped on the exact path: scales of e^-9 and 16
EDGE = 1e-5  # uniform noise is kept this far from 0 and 1, so that its logit is finite
LIKELIHOODS = ("logistic", "mixture", "guided", "interlaced")
# Of what latents start with, locations as gains of what they are given. The noise of the first is 0.05 of a normalised
# pixel, so that they say much: by steps of training they fall silent more easily than they learn to speak.
PIXEL_GAIN, PIXEL_SCALE = 12.0, 0.34  # posterior of the first latents
UPPER_GAIN, UPPER_SCALE = 0.5, 0.7  # other posteriors: each layer has half the deviation of the one below
PRIOR_GAIN, PRIOR_SCALE = 1.6, 1.5  # about these posteriors backwards, so that an upper layer costs little


def low_frequencies(channels: int, side: int, count: int) -> Tensor:
    """The first `count` rows of an orthonormal cosine transform of cells, low frequencies first, grey before colour.

    Returns float32 [count, channels * side * side], in the order of PixelUnshuffle; rows beyond the last are zero.
    """
    k = torch.arange(side).double()
    cosines = torch.cos(math.pi * k[:, None] * (k + 0.5) / side) * math.sqrt(2 / side)
    cosines[0] /= math.sqrt(2)
    mixes, late = torch.eye(channels, dtype=torch.float64), 0.0
    if channels == 3:
        mixes, late = F.normalize(torch.tensor([[1.0, 1, 1], [1, 0, -1], [1, -2, 1]]).double()), 2.5
    order = sorted(
        (i * i + j * j + late * (c > 0), c, i, j) for c in range(channels) for i in range(side) for j in range(side)
    )
    found = torch.zeros(count, channels * side * side)
    for row, (_, c, i, j) in zip(found, order, strict=False):
        row.copy_(torch.einsum("c,i,j->cij", mixes[c], cosines[i], cosines[j]).flatten())
    return found


@torch.no_grad()
def start_as(stack: nn.Sequential, into: Tensor, out: Tensor) -> None:
    """Make the first outputs of an untrained `residual_stack` a linear map of its inputs, the matrix `out` @ `into`.

    into: float32 [rank, inputs]; out: [outputs, rank]. Each rank takes two channels, as silu(a) - silu(-a) = a and
    residual blocks start as identities; ranks for which there are no channels are left out.
    """
    first, last = stack[0], stack[-1]
    assert isinstance(first, nn.Conv2d) and isinstance(last, nn.Conv2d)
    middle = first.kernel_size[0] // 2
    for channel in range(min(2 * len(into), first.out_channels // 2 * 2)):
        rank, sign = channel // 2, 1 - 2 * (channel % 2)
        for layer in (first.weight[channel], first.bias[channel], last.weight[:, channel]):  # type: ignore[index]
            layer.zero_()
        first.weight[channel, :, middle, middle] = sign * into[rank]
        last.weight[: len(out), channel, middle, middle] = sign * out[:, rank]


class Conditional(nn.Module):
    """A logistic for each latent given a neighbouring layer, from a residual network."""

    def __init__(
        self, inputs: int, outputs: int, width: int, blocks: int, down: int, up: int, bounded: bool, first: bool = False
    ) -> None:
        super().__init__()
        stack = residual_stack(inputs * down**2, width, blocks, 2 * outputs * up**2)
        self.net = nn.Sequential(nn.PixelUnshuffle(down), stack, nn.PixelShuffle(up))
        self.bounded = bounded
        # A layer starts as a coarser, noisy copy of the one below: latents that say nothing at first never would.
        if bounded:
            gain, scale = (PIXEL_GAIN, PIXEL_SCALE) if first else (UPPER_GAIN, UPPER_SCALE)
            rows = low_frequencies(inputs, down, min(outputs, inputs * down**2)) * gain / down
            start_as(stack, rows, torch.eye(len(rows)))
        else:
            gain, scale = PRIOR_GAIN, PRIOR_SCALE
            columns = low_frequencies(outputs, up, min(inputs, outputs * up**2)).T * gain * up
            start_as(stack, torch.eye(inputs)[: columns.shape[1]], columns)
        with torch.no_grad():
            cast(nn.Conv2d, stack[-1]).bias[outputs * up**2 :] = self.raw_scale(scale)  # type: ignore[index]

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

    def raw_scale(self, scale: float) -> float:
        """What `scale` makes this of."""
        part = (scale - LEAST_SCALE) / (1 - LEAST_SCALE)
        if self.bounded:
            return math.log(part / (1 - part)) - 2
        return math.log(math.expm1(part) / (math.e - 1))


def _fitting(sides: int, finer: int, layers: int) -> str:
    """Settings that fit images whose sides are multiples of this, for an error."""
    twos = (sides & -sides).bit_length() - 1
    if not twos:
        return "make them even"
    finer = min(finer, twos - 1)
    halved = min(twos - finer, layers)
    downscale = ",".join(["2"] * halved + ["1"] * (layers - halved))
    return f"set recipe.module.finer={finer} 'recipe.module.downscale=[{downscale}]'"


class Chain(nn.Module):
    """The Markov chain x <- z_1 <- ... <- z_L, and its inference network z_1 | x, z_2 | z_1, ...

    Latents live on one grid for all: centres (k + 1/2) / bins_per_unit - reach for k in [0, bins), so no table of bins
    travels with the model. Locations stay within 3/4 of the reach.
    """

    def __init__(
        self, shape: Sequence[int], likelihood: str, components: int, levels: int, refinements: int,
        latent_channels: Sequence[int],
        downscale: Sequence[int], width: int, blocks: Sequence[int], bins: int, bins_per_unit: int, finer: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        counts = {
            "finer": ([finer], 0), "refinements": ([refinements], 0), "blocks": (blocks, 0), "width": ([width], 1),
            "components": ([components], 1), "latent_channels": (latent_channels, 1), "downscale": (downscale, 1),
            "bins": ([bins], 1), "bins_per_unit": ([bins_per_unit], 1),
        }  # fmt: skip
        for name, (values, low) in counts.items():
            if min(values, default=low) < low:
                raise ValueError(f"expected recipe.module.{name} from {low} on, got {min(values)}; give another number")
        if shape[1] % 2**finer or shape[2] % 2**finer:
            raise ValueError(
                f"expected images whose sides are multiples of 2^finer, got finer={finer} and "
                f"{shape[1]} x {shape[2]}; {_fitting(math.gcd(*shape[1:]), finer, len(blocks))}, or change "
                "data.splits.size"
            )
        # What the chain says is every 2^finer-th pixel of every 2^finer-th row; lattices of pixels alone say the rest.
        self.finer = nn.ModuleList(Passes(width, shape[0], components, refinements) for _ in range(finer))
        shape = (shape[0], *(side // 2**finer for side in shape[1:]))
        if not len(latent_channels) == len(downscale) == len(blocks) or not 1 <= len(blocks) <= 8:
            raise ValueError(
                "expected latent_channels, downscale and blocks of one length from 1 to 8, got "
                f"{len(latent_channels)}, {len(downscale)} and {len(blocks)}; give one number for each latent layer"
            )
        if downscale[0] != 2:
            raise ValueError(f"expected downscale[0] = 2 (the first latents lie on 2 x 2 pixels), got {downscale[0]}")
        self.stride, self.top_channels = math.prod(downscale), latent_channels[-1]
        if shape[1] % self.stride or shape[2] % self.stride:
            step, whole = self.stride * 2**finer, " x ".join(str(side * 2**finer) for side in shape[1:])
            raise ValueError(
                f"expected images whose sides are multiples of {step} (the product of downscale, times 2^finer), got "
                f"{whole}; {_fitting(math.gcd(*shape[1:]) * 2**finer, finer, len(blocks))}, or change data.splits.size"
            )
        self.bins, self.bins_per_unit, self.reach = bins, bins_per_unit, bins / bins_per_unit / 2
        sizes = [shape[0], *latent_channels]
        layers = list(zip(sizes, latent_channels, downscale, blocks, strict=False))
        self.infer = nn.ModuleList(
            Conditional(a, b, width, n, d, 1, True, first=i == 0) for i, (a, b, d, n) in enumerate(layers)
        )
        # generate[i] gives z_i+1 from z_i+2; the observation model gives x from z_1.
        self.generate = nn.ModuleList(Conditional(b, a, width, n, 1, d, False) for a, b, d, n in layers[1:])
        arguments = (shape, latent_channels[0], width, blocks[0])
        if likelihood == "logistic":
            self.observe: nn.Module = LogisticObservation(*arguments)
        elif likelihood == "mixture":
            self.observe = MixtureObservation(*arguments, components)
        elif likelihood == "guided":
            self.observe = guided = GuidedObservation(*arguments, components)
            rows = low_frequencies(shape[0], 2, min(latent_channels[0], 4 * shape[0])) * 2 / PIXEL_GAIN
            guided.start(rows.T)  # what the latents started from
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
        pixels, latents = self.coarsest(pixels), list[Tensor]()
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
        bits = self.observation.bits(self.coarsest(pixels), latents[0])
        for level, passes in enumerate(self.finer):
            bits = bits + cast(Passes, passes).pass_bits(pixels[:, :, :: 2**level, :: 2**level])
        return bits, ratios

    def coarsest(self, x: Tensor) -> Tensor:
        """What latents are of: [rows, c, h, w] -> the pixels that no lattice of `finer` codes."""
        step = 2 ** len(self.finer)
        return x[:, :, ::step, ::step]

    def rows_codec(self, coarsest: Callable[[Tensor], Codec], valid: Tensor, level: int = 0) -> Codec:
        """Codec of rows from that of their coarsest pixels, which is given what is valid there.

        A push codes all other pixels before: the bits from which the first latents are popped.
        """
        if level == len(self.finer):
            return coarsest(valid)
        passes = cast(Passes, self.finer[level])
        return passes.pass_codec(lambda half: self.rows_codec(coarsest, half, level + 1), valid)

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
                conversion.stack(net.net, form, 2.0**TABLE)[0],
                conversion.table(lambda raw: self.snap_location(net.location(raw, reach)), 4 * reach),
                conversion.table(lambda raw: self.snap_scale(net.scale(raw)), SCALE_REACH),
            )

        for i, net in enumerate(self.infer):
            found.infer[i] = conditional(cast(Conditional, net), latents if i else PIXELS)
        for i, net in enumerate(self.generate):
            found.generate[i] = conditional(cast(Conditional, net), latents)
        found.observe = observation(self.observe, latents, conversion)
        for i, passes in enumerate(self.finer):
            found.finer[i] = exact_passes(cast(Passes, passes), conversion)
        return found

    def layers(self, valid: Tensor) -> tuple[Codec, list[Layer]]:
        """The prior of z_L and, for each layer, (likelihood of z_i given z_i+1, posterior of z_i+1 given z_i).

        z_0 are the coarsest pixels; valid: of these, bool [rows, c, h, w]; a row that is wholly invalid costs nothing
        in any layer.
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

    shape: (channels, height, width) of the rows; likelihood: logistic (the paper's), mixture, guided or interlaced;
    components: of the mixture; levels, refinements: of interlacing, and residual blocks of each of its passes;
    latent_channels, downscale, blocks: one number for each latent layer, x's neighbour first; width: of the networks;
    bins, bins_per_unit: the latents' grid; learning_rate: at its peak; warmup: steps; free_bits: bits a latent channel
    and image below which its KL is not reduced; kl_warmup: steps over which the KL gains its weight, or, below 1,
    the share of the training; finer: lattices that are coded without latents, each given the coarser ones. Raises
    ValueError for a kl_warmup below 0.
    """

    def __init__(
        self, shape: Sequence[int], likelihood: str, components: int, levels: int, refinements: int,
        latent_channels: Sequence[int],
        downscale: Sequence[int], width: int, blocks: Sequence[int], bins: int, bins_per_unit: int,
        learning_rate: float, warmup: int, weight_decay: float, free_bits: float, kl_warmup: float, finer: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        if not kl_warmup >= 0:
            raise ValueError(f"expected recipe.module.kl_warmup from 0 on, got {kl_warmup}; give 0 for none")
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
            finer,
        ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # what convolutions are fastest in
        if likelihood != "logistic":  # which learns a scale for each place
            self.side_step = math.lcm(self.net.stride, 2**levels if likelihood == "interlaced" else 1) << finer
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
            below = [self.net.coarsest(pixels), *centres[:-1]]
            posteriors = [self.net.posterior(i, z) for i, z in enumerate(below)]
            nll, ratios = self.net.terms(pixels, centres, posteriors)
        return torch.stack([nll, *(r.sum(1) for r in ratios)], 1)

    def training_step(self, x: Tensor, index: int) -> Tensor:
        nll, ratios = self.net(x)
        kl = torch.stack([r.mean(0).clamp(min=self.free_bits).sum() for r in ratios]).sum()
        rate = nll.mean() + torch.stack([r.sum(1).mean() for r in ratios]).sum()
        self.log("train/elbo_bpd", rate.detach() / self.dims)
        self.log("bpd", rate.detach() / self.dims, prog_bar=True, logger=False)
        return (nll.mean() + self.kl_weight * kl) * math.log(2) / self.dims

    @property
    def kl_weight(self) -> float:
        """Of the latents' cost: rises from 0 to 1 over `kl_warmup`."""
        if self.kl_warmup >= 1:
            return min(1.0, (self.global_step + 1) / self.kl_warmup)
        return min(1.0, self.progress / self.kl_warmup) if self.kl_warmup else 1.0

    @torch.inference_mode()
    def sample(self, rows: int, seed: int = 0) -> Tensor:
        """Images of the model, uint8 [rows, c, h, w], drawn from the top layer down with random bits.

        Not by decoding: that gives the latents' bits back under posteriors, which have no mass where they never draw.
        """
        valid = torch.ones(rows, *self.shape, dtype=torch.bool, device=self.device)
        noise = self._noise(valid, seed)
        prior, layers = self.net.layers(self.net.coarsest(valid))
        return self._drawn(layers, prior.pop(noise), valid, noise)

    def _drawn(self, layers: Sequence[Layer], z: Tensor, valid: Tensor, noise: Message) -> Tensor:
        """Images, uint8, given latents z of the topmost of `layers`."""
        for likelihood, _ in reversed(layers):
            z = likelihood(z).pop(noise)
        known = Codec(_nothing, lambda message: z)
        return self.net.rows_codec(lambda half: known, valid).pop(noise).to(torch.uint8)

    @torch.inference_mode()
    def views(self, x: Tensor, seed: int = 0) -> dict[str, Tensor]:
        """Images drawn given nothing but latents of x, uint8 [rows, c, h, w]: z_1 of each, or of the row before it, and
        with more layers than one those of the upper half."""
        valid = torch.ones(x.shape, dtype=torch.bool, device=x.device)
        layers, latents = self.net.layers(self.net.coarsest(valid))[1], [self.net.coarsest(x.long())]
        noise = self._noise(valid, seed)
        for _, posterior in layers:
            latents.append(posterior(latents[-1]).pop(noise))

        def drawn(depth: int, z: Tensor) -> Tensor:
            return self._drawn(layers[:depth], z, valid, noise)

        found = {"through_the_latents": drawn(1, latents[1]), "with_exchanged_latents": drawn(1, latents[1].roll(1, 0))}
        upper = len(layers) // 2 + 1
        return found if upper == 1 else {**found, "through_the_upper_layers": drawn(upper, latents[upper])}

    def diagnose(self, rows: Tensor, result: dict[str, float]) -> tuple[dict[str, float], dict[str, Tensor]]:
        """How near images through the latents are to the originals, and through exchanged latents: PSNR in dB."""
        from toolkit.images.rate_coder import psnr  # which a coder of rows does without

        rows = rows[:64].to(self.device)
        views = self.views(rows)
        return {
            f"latents/psnr_{name}_db": psnr(rows, views[name])
            for name in ("through_the_latents", "with_exchanged_latents")
        }, {}

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

    def coarsest(valid: Tensor) -> Codec:
        prior, layers = module.net.layers(valid)
        layers = [(likelihood, _traced(posterior, trace)) for likelihood, posterior in layers]
        return (bit_swap if scheme == "bitswap" else bb_ans)(prior, layers)

    codec = module.net.rows_codec(coarsest, valid)
    return Codec(lambda message, x: codec.push(message, complete(x, valid)), codec.pop)


def _nothing(message: Message, x: Tensor) -> None:
    """The push of a codec that is only popped."""


def _traced(posterior: Callable[[Tensor], Codec], trace: list[Tensor] | None) -> Callable[[Tensor], Codec]:
    return lambda below: traced(posterior(below), trace)


def log_logistic(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Natural log-density of a logistic distribution; float32 tensors that broadcast."""
    t = (z - loc).abs() / scale
    return -t - torch.log(scale) - 2 * F.softplus(-t)
