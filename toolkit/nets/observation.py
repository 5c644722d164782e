"""Observation models p(x|z) of pixels with 256 levels: each scores an image and gives the codec that codes it.

`bits(x, z)` is what training minimises, in floats; `codec(z, valid)` is the same distribution on integer frequencies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit.coding import frequencies
from toolkit.coding.codecs import PRECISION, Codec
from toolkit.coding.distributions import location_scale
from toolkit.coding.kernels import Order
from toolkit.coding.message import Message
from toolkit.coding.mixtures import SCALE_RANGE, pixels
from toolkit.nets.residual import Residual, residual_stack, residual_trunk

LEVELS = 256
HALF = 127.5  # levels in a unit: pixels enter networks as level / HALF - 1, in [-1, 1]
# Of pixels, natural logarithms: 0.12 levels, where a logistic has all its mass on one, and 10 times the whole axis:
# wider still, the mass of a level vanishes in float32, and its logarithm's gradient is no number.
LOG_SCALES = (-7.0, 3.0)

# Phases of a 2 x 2 lattice in coding order: (0, 0), then (1, 1) between its diagonals, then the two that complete rows
# and columns. Each of the last two sees known pixels on all four sides.
PHASES = ((0, 0), (1, 1), (0, 1), (1, 0))


def normalise(x: Tensor) -> Tensor:  # uint8 or int64 [...] -> float32 [...] in [-1, 1]
    return (x / HALF).sub_(1)


def everywhere(valid: Tensor) -> bool:
    """Whether all of bool [...] is true; looked at as bytes, which takes a tenth of the time."""
    return bool(valid.view(torch.uint8).min())


def somewhere(valid: Tensor) -> Tensor:
    """Rows of bool [rows, c, h, w] in which something is true: bool [rows, 1, 1, 1]."""
    return valid.view(torch.uint8).amax((1, 2, 3), keepdim=True) != 0


def complete(x: Tensor, valid: Tensor) -> Tensor:
    """Give places that are not coded the values that encoder and decoder agree on.

    x: [rows, c, h, w] levels, valid: bool. A channel that is not coded where the first one is (grey in an RGB model)
    repeats the first; other places (padding) are mid-grey. Pointwise, so that it holds for each pass by itself.
    """
    if everywhere(valid):  # nearly always
        return x
    x = torch.where(valid, x, LEVELS // 2)
    return torch.where(valid[:, :1] & ~valid, x[:, :1], x)


def log_discretised_logistic(x: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    """Natural log-probability of 256-level pixels under a discretised logistic; the end levels take the tails.

    x: normalised pixels; loc, log_scale: on the same axis; float32 tensors that broadcast (Salimans et al. 2017,
    arXiv:1701.05517, eq. 2).
    """
    # log(sigmoid(b) - sigmoid(a)) = log sigmoid(b) + log sigmoid(-a) + log(1 - exp(a - b)) has no cancellation.
    inverse = torch.exp(-log_scale)
    upper = (x - loc + 0.5 / HALF) * inverse
    lower = (x - loc - 0.5 / HALF) * inverse
    top, bottom = x > 1 - 0.5 / HALF, x < 0.5 / HALF - 1
    far = torch.full_like(inverse, 40.0)
    width = torch.where(top | bottom, far, inverse / HALF)
    log_upper = F.logsigmoid(torch.where(top, far, upper))
    log_lower = F.logsigmoid(torch.where(bottom, far, -lower))
    return log_upper + log_lower + torch.log(-torch.expm1(-width))


class Mixture(nn.Module):
    """A mixture of logistics for each pixel from features `up` times smaller; channels share the component."""

    def __init__(self, width: int, channels: int, components: int, up: int = 1, side: int = 3) -> None:
        super().__init__()
        self.channels, self.components, self.up = channels, components, up
        self.pairs = channels * (channels - 1) // 2
        self.sizes = [components, channels * components, channels * components, self.pairs * components]
        self.head = nn.Conv2d(width, sum(self.sizes) * up**2, side, padding=side // 2)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]  # Optional in the stubs; present here
        # Components start apart, else they get the same gradients.
        nn.init.normal_(self.head.bias[components * up**2 : (components + self.sizes[1]) * up**2], std=0.1)  # type: ignore[index]

    def forward(self, features: Tensor) -> list[Tensor]:
        """float32 logits [k, rows, h, w], loc and raw log-scale [c, k, ...], coupling [pairs, k, ...]: see `bits`."""
        return self.parts(self.by_pixel(features), len(features), features.shape[3] * self.up)

    def parts(self, raw: Tensor, rows: int, width: int) -> list[Tensor]:
        """The same, of what `by_pixel` says of images of this width."""
        planes = raw.float().t().contiguous().unflatten(1, (rows, -1, width))
        logits, *parts = planes.split(self.sizes)
        loc, log_scale, coupling = (
            part.unflatten(0, (len(part) // self.components, self.components)) for part in parts
        )
        return [logits, loc, log_scale, 2 * torch.tanh(coupling)]

    def by_pixel(self, features: Tensor) -> Tensor:
        """What the network says of each pixel, side by side: float [rows * h * w, parameters]."""
        raw: Tensor = self.head(features)
        if self.up > 1:  # for 1 it would copy
            raw = F.pixel_shuffle(raw, self.up)
        return raw.permute(0, 2, 3, 1).flatten(0, 2)

    def bits(self, x: Tensor, features: Tensor, base: Tensor | None = None) -> Tensor:
        """x: normalised pixels [rows, c, h, w] -> bits [rows].

        base: a first guess of the pixels, [rows, c, h, w], which locations are relative to; channel coupling acts on
        what it leaves unexplained.
        """
        return self.pixel_bits(x, features, base).sum((1, 2))

    def pixel_bits(self, x: Tensor, features: Tensor, base: Tensor | None = None) -> Tensor:
        """The same, of each pixel: [rows, h, w]."""
        return self.bits_of(x, self(features), base)

    def bits_of(self, x: Tensor, parts: list[Tensor], base: Tensor | None = None) -> Tensor:
        """The same, given what `forward` returns."""
        logits, loc, log_scale, coupling = parts
        log_scale = log_scales(log_scale)
        x = x.transpose(0, 1)
        base = torch.zeros_like(x) if base is None else base.float().transpose(0, 1)
        total = F.log_softmax(logits, 0)
        for j in range(self.channels):
            at = loc[j] + base[j]
            for i in range(j):
                at = at + coupling[j * (j - 1) // 2 + i] * (x[i] - base[i])
            total = total + log_discretised_logistic(x[j], at, log_scale[j])
        return -torch.logsumexp(total, 0) / math.log(2)

    def codec(self, features: Tensor, valid: Tensor, base: Tensor | None = None, precision: int | None = None) -> Codec:
        """Codec of int64 [rows, c, h, w] levels; valid: bool, the same shape.

        precision: of frequencies, where each row is a message of its own, which has no bits to draw components with.
        """
        # Not by `__call__`: its layers' time is the networks' in `head.NetworkClock`, and the rest is the coder's.
        alone = precision is not None
        codec = pixels(
            self.integers(self.by_pixel(features)), self.components, LEVELS, by_pixel(valid),
            None if base is None else by_pixel(self.base_of(base)), not alone, precision or PRECISION, self.scale_range,
            Order.LANE_BY_LANE if alone else Order.SIDE_BY_SIDE,
        )  # fmt: skip
        rows, c, h, w = valid.shape
        return Codec(
            lambda message, x: codec.push(message, by_pixel(x)),
            # In the order of memory that an encoder's rows have: networks that see it compute other floats in another.
            lambda message: codec.pop(message).view(rows, h, w, c).permute(0, 3, 1, 2).contiguous(),
        )

    @property
    def scale_range(self) -> tuple[int, int]:
        """Least and largest level of a scale."""
        return SCALE_RANGE

    def integers(self, raw: Tensor) -> Tensor:
        """Network outputs of pixels as `mixtures.Pixels` wants them: float [n, parameters] -> float32, integers."""
        logits, loc, log_scale, coupling = raw.float().split(self.sizes, 1)
        frequencies.check_finite("parameter", logits)
        parts = (
            (logits * frequencies.LOGIT_STEPS).round(),
            frequencies.snap_location(loc * HALF),
            frequencies.snap_scale(log_scales(log_scale) + math.log(HALF)),
            frequencies.snap_coupling(2 * torch.tanh(coupling)),
        )
        return torch.cat([part.float() for part in parts], 1)

    def base_of(self, base: Tensor) -> Tensor:
        """A first guess on the axis of normalised pixels as integers in 1/LOC_STEPS level: int64 of its shape."""
        return frequencies.snap_location(base.float() * HALF) + int(HALF * frequencies.LOC_STEPS)


def by_pixel(x: Tensor) -> Tensor:
    """[rows, c, h, w] -> [rows * h * w, c]."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def log_scales(raw: Tensor) -> Tensor:
    """Network outputs to natural logarithms of scales, on the axis of normalised pixels; output 0 is 10 levels."""
    return (raw - 2.5).clamp(*LOG_SCALES)


class Observation(Protocol):
    """What a model needs of an observation model; implemented by the classes below."""

    def bits(self, x: Tensor, z: Tensor) -> Tensor:
        """-log2 p(x|z): normalised pixels [rows, c, h, w], latents [rows, k, h / 2, w / 2] -> float32 [rows]."""

    def codec(self, z: Tensor, valid: Tensor, precision: int | None = None) -> Codec:
        """The same distribution as a codec of int64 levels [rows, c, h, w]; valid: bool, the same shape.

        precision: of frequencies, where each row is a message of its own; None where rows share one.
        """


class LogisticObservation(nn.Module):
    """The paper's observation model: one logistic a pixel, its scale learned but the same for every image."""

    def __init__(self, shape: Sequence[int], latents: int, width: int, blocks: int) -> None:
        super().__init__()
        self.net = nn.Sequential(residual_stack(latents, width, blocks, 4 * shape[0]), nn.PixelShuffle(2))
        self.raw_scale = nn.Parameter(torch.zeros(*shape))

    def parameters_of(self, z: Tensor) -> tuple[Tensor, Tensor]:
        loc = self.fitting(self.net(z).float(), self.raw_scale)
        return loc, self.log_scale(self.raw_scale).expand_as(loc)

    @staticmethod
    def log_scale(raw: Tensor) -> Tensor:
        return torch.log(2 / 255 / 8 + F.softplus(raw))

    @staticmethod
    def fitting(loc: Tensor, scale: Tensor) -> Tensor:
        """The locations, if there is a scale for each: [rows, c, h, w], [c, h, w]."""
        if loc.shape[1:] != scale.shape:
            raise ValueError(
                f"likelihood=logistic learns a scale for each pixel of {list(scale.shape)} images, got "
                f"{list(loc.shape[1:])}; use tiles of that size, or likelihood=mixture"
            )
        return loc

    def bits(self, x: Tensor, z: Tensor) -> Tensor:
        return -log_discretised_logistic(x, *self.parameters_of(z)).sum((1, 2, 3)) / math.log(2)

    def codec(self, z: Tensor, valid: Tensor, precision: int | None = None) -> Codec:
        if precision is not None:
            raise NotImplementedError("likelihood=logistic codes rows that share a message; use likelihood=mixture")
        return location_scale("logistic", *self.snapped(z), LEVELS, 1, valid=valid)

    def snapped(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Locations and scales as integers of `frequencies`."""
        loc, log_scale = self.parameters_of(z)
        return frequencies.snap_location(loc * HALF + HALF), frequencies.snap_scale(log_scale + math.log(HALF))


class MixtureObservation(nn.Module):
    """A mixture of logistics for each pixel, independent given the latents."""

    def __init__(self, shape: Sequence[int], latents: int, width: int, blocks: int, components: int) -> None:
        super().__init__()
        self.net = nn.Sequential(residual_trunk(latents, width, blocks), nn.SiLU())
        self.mixture = Mixture(width, shape[0], components, up=2)

    def bits(self, x: Tensor, z: Tensor) -> Tensor:
        return self.mixture.bits(x, self.net(z))

    def codec(self, z: Tensor, valid: Tensor, precision: int | None = None) -> Codec:
        return self.mixture.codec(self.net(z), valid, precision=precision)


class GuidedObservation(MixtureObservation):
    """A mixture of logistics for each pixel around a guess that is linear in the latents, independent given these."""

    def __init__(self, shape: Sequence[int], latents: int, width: int, blocks: int, components: int) -> None:
        super().__init__(shape, latents, width, blocks, components)
        self.guess: nn.Module = nn.Conv2d(latents, 4 * shape[0], 3, padding=1)

    @torch.no_grad()
    def start(self, matrix: Tensor) -> None:
        """Start the guess of each cell of 2 x 2 pixels as a linear map of its own latents: [4 channels, latents]."""
        guess = cast(nn.Conv2d, self.guess)
        guess.weight.zero_()
        guess.bias.zero_()  # type: ignore[union-attr]  # has one
        guess.weight[:, : matrix.shape[1], 1, 1] = matrix

    def bits(self, x: Tensor, z: Tensor) -> Tensor:
        return self.mixture.bits(x, self.net(z), F.pixel_shuffle(self.guess(z), 2))

    def codec(self, z: Tensor, valid: Tensor, precision: int | None = None) -> Codec:
        return self.mixture.codec(self.net(z), valid, F.pixel_shuffle(self.guess(z), 2), precision)


class Passes(nn.Module):
    """The last three of the four phases of a 2 x 2 lattice, each a mixture of logistics for each pixel given the phases
    before, and features of their size, float [rows, width, h, w], if there are any.

    trunk: what makes these features of latents; the passes themselves do not call it.
    """

    def __init__(
        self, width: int, channels: int, components: int, refinements: int, trunk: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.context = nn.ModuleList(nn.Conv2d(g * channels, width, 5, padding=2) for g in range(1, 4))
        self.guess = nn.ModuleList(nn.Conv2d(g * channels, channels, 3, padding=1) for g in range(1, 4))
        self.refine = nn.ModuleList(
            nn.Sequential(*(Residual(width) for _ in range(refinements)), nn.SiLU()) for _ in range(1, 4)
        )
        self.mixture = nn.ModuleList(Mixture(width, channels, components) for _ in range(1, 4))
        for g, guess in enumerate(self.guess, start=1):
            _start_as_interpolation(guess, g, channels)

    def forward(self, g: int, features: Tensor | None, known: Sequence[Tensor]) -> tuple[Mixture, Tensor, Tensor]:
        """Mixture, features and first guess of pass g > 0 from the normalised phases before."""
        seen = torch.cat(list(known), 1)
        context = self.context[g - 1](seen)
        features = self.refine[g - 1](context if features is None else features + context)
        return cast(Mixture, self.mixture[g - 1]), features, self.guess[g - 1](seen)

    def pass_bits(self, x: Tensor, features: Tensor | None = None) -> Tensor:
        """-log2 of the probability of the three phases of normalised pixels given the first: float32 [rows]."""
        phases, total = [x[:, :, i::2, j::2] for i, j in PHASES], torch.zeros(len(x), device=x.device)
        for g in range(1, 4):
            mixture, seen, base = self(g, features, phases[:g])
            total = total + mixture.bits(phases[g], seen, base)
        return total

    def pass_codec(
        self,
        first: Callable[[Tensor], Codec],
        valid: Tensor,
        features: Tensor | None = None,
        precision: int | None = None,
    ) -> Codec:
        """Codec of int64 levels [rows, c, h, w] from that of the first phase, which is given what is valid there.

        A push codes the first phase last.
        """
        whole = everywhere(valid)
        if whole:  # nearly always: nothing to look at again
            valid = valid.new_ones(()).expand(valid.shape)
        phases_valid = [valid[:, :, i::2, j::2] if whole else valid[:, :, i::2, j::2].contiguous() for i, j in PHASES]
        start = first(phases_valid[0])

        def codec(g: int, known: Sequence[Tensor]) -> Codec:
            mixture, seen, base = self(g, features, known)
            return mixture.codec(seen, phases_valid[g], base, precision)

        def completed(x: Tensor, g: int) -> Tensor:
            return x if whole else complete(x, phases_valid[g])

        def push(message: Message, x: Tensor) -> None:
            phases = [x[:, :, i::2, j::2] for i, j in PHASES]
            known = [normalise(phase) for phase in phases[:3]]
            for g in reversed(range(1, 4)):
                codec(g, known[:g]).push(message, phases[g])
            start.push(message, phases[0])

        def pop(message: Message) -> Tensor:
            phases, known = [completed(start.pop(message), 0)], list[Tensor]()
            for g in range(1, 4):
                known.append(normalise(phases[-1]))
                phases.append(completed(codec(g, known).pop(message), g))
            x = torch.empty(valid.shape, dtype=torch.int64, device=valid.device)
            for (i, j), phase in zip(PHASES, phases, strict=True):
                x[:, :, i::2, j::2] = phase
            return x

        return Codec(push, pop)


class InterlacedObservation(Passes):
    """A mixture of logistics for each pixel in interlaced passes, each given the latents and the passes before.

    Every second pixel of every second row first, then the three other phases of the 2 x 2 lattice; the first phase is
    an image of half the sides and coded likewise, `levels` deep. Pixels within a pass are coded in parallel, and
    3 levels + 1 network calls decode an image whatever its size (multiscale autoregression, Reed et al. 2017,
    arXiv:1703.03664).
    """

    def __init__(
        self,
        shape: Sequence[int],
        latents: int,
        width: int,
        blocks: int,
        components: int,
        levels: int,
        refinements: int,
    ) -> None:
        channels, height, sides = shape
        if levels < 1 or height % 2**levels or sides % 2**levels:
            raise ValueError(
                f"expected levels from 1 on and images whose sides are multiples of 2^levels, got levels={levels} and "
                f"{height} x {sides}; change recipe.module.levels or data.splits.size"
            )
        super().__init__(width, channels, components, refinements, residual_stack(latents, width, blocks, width))
        self.first: Observation
        self.below: nn.Module = nn.PixelUnshuffle(2)
        if levels == 1:
            self.first, self.below = FirstPhase(width, channels, components), nn.SiLU()
        else:
            half = (channels, height // 2, sides // 2)
            self.first = InterlacedObservation(half, 4 * width, width, 1, components, levels - 1, refinements)

    def bits(self, x: Tensor, z: Tensor) -> Tensor:
        features = cast(nn.Module, self.trunk)(z)
        return self.first.bits(x[:, :, ::2, ::2], self.below(features)) + self.pass_bits(x, features)

    def codec(self, z: Tensor, valid: Tensor, precision: int | None = None) -> Codec:
        features = cast(nn.Module, self.trunk)(z)
        return self.pass_codec(
            lambda valid: self.first.codec(self.below(features), valid, precision), valid, features, precision
        )


class FirstPhase(nn.Module):
    """A mixture of logistics for each pixel of the coarsest phase, given features of its size."""

    def __init__(self, width: int, channels: int, components: int) -> None:
        super().__init__()
        self.mixture = Mixture(width, channels, components)

    def bits(self, x: Tensor, z: Tensor) -> Tensor:
        return self.mixture.bits(x, z)

    def codec(self, z: Tensor, valid: Tensor, precision: int | None = None) -> Codec:
        return self.mixture.codec(z, valid, precision=precision)


def _start_as_interpolation(guess: nn.Module, g: int, channels: int) -> None:
    """Make a 3 x 3 convolution over the known phases the mean of the nearest known neighbours of phase g."""
    # (known phase, row, column) of the neighbours in the 3 x 3 window centred on the pixel's own 2 x 2 cell.
    neighbours = {
        1: ((0, 1, 1), (0, 1, 2), (0, 2, 1), (0, 2, 2)),
        2: ((0, 1, 1), (0, 1, 2), (1, 1, 1), (1, 0, 1)),
        3: ((0, 1, 1), (0, 2, 1), (1, 1, 1), (1, 1, 0)),
    }[g]
    with torch.no_grad():
        guess.weight.zero_()  # type: ignore[operator,union-attr]  # a Conv2d's parameters
        guess.bias.zero_()  # type: ignore[operator,union-attr]
        for phase, row, column in neighbours:
            for c in range(channels):
                guess.weight[c, phase * channels + c, row, column] = 1 / len(neighbours)  # type: ignore[index,operator]
