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
from toolkit.coding.ans import Message
from toolkit.coding.codecs import Codec, drawn_mixture, location_scale
from toolkit.nets.residual import Residual, residual_stack, residual_trunk

LEVELS = 256
HALF = 127.5  # levels in a unit: pixels enter networks as level / HALF - 1, in [-1, 1]
# Of pixels, natural logarithms: 0.12 levels, where a logistic has all its mass on one, and 10 times the whole axis:
# wider still, the mass of a level vanishes in float32, and its logarithm's gradient is no number.
LOG_SCALES = (-7.0, 3.0)

# Phases of a 2 x 2 lattice in coding order: (0, 0), then (1, 1) between its diagonals, then the two that complete rows
# and columns. Each of the last two sees known pixels on all four sides.
PHASES = ((0, 0), (1, 1), (0, 1), (1, 0))


def normalise(x: Tensor) -> Tensor:  # uint8 [...] -> float32 [...] in [-1, 1]
    return x.float() / HALF - 1


def complete(x: Tensor, valid: Tensor) -> Tensor:
    """Give places that are not coded the values that encoder and decoder agree on.

    x: [rows, c, h, w] levels, valid: bool. A channel that is not coded where the first one is (grey in an RGB model)
    repeats the first; other places (padding) are mid-grey. Pointwise, so that it holds for each pass by itself.
    """
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

    def __init__(self, width: int, channels: int, components: int, up: int = 1) -> None:
        super().__init__()
        self.channels, self.components = channels, components
        self.pairs = channels * (channels - 1) // 2
        self.sizes = [components, channels * components, channels * components, self.pairs * components]
        self.head = nn.Conv2d(width, sum(self.sizes) * up**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(up)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]  # Optional in the stubs; present here
        # Components start apart, else they get the same gradients.
        nn.init.normal_(self.head.bias[components * up**2 : (components + self.sizes[1]) * up**2], std=0.1)  # type: ignore[index]

    def parameters_of(self, features: Tensor, base: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """float32 logits [rows, k, h, w], loc and log-scale [rows, c, k, h, w], coupling [rows, pairs, k, h, w].

        base: a first guess of the pixels, [rows, c, h, w], which the locations start from; channel coupling acts on
        what it leaves unexplained.
        """
        raw = self.shuffle(self.head(features)).float()
        rows, _, h, w = raw.shape
        logits, loc, log_scale, coupling = raw.split(self.sizes, 1)
        loc = loc.view(rows, self.channels, self.components, h, w)
        log_scale = (log_scale.view_as(loc) - 2.5).clamp(*LOG_SCALES)
        coupling = 2 * torch.tanh(coupling.view(rows, self.pairs, self.components, h, w))
        if base is not None:
            loc = loc + base.float()[:, :, None]
            shifts = [loc[:, 0]]
            for j in range(1, self.channels):
                mine = coupling[:, j * (j - 1) // 2 :][:, :j]
                shifts.append(loc[:, j] - (mine * base.float()[:, :j, None]).sum(1))
            loc = torch.stack(shifts, 1)
        return logits, loc, log_scale, coupling

    def bits(self, x: Tensor, features: Tensor, base: Tensor | None = None) -> Tensor:
        """x: normalised pixels [rows, c, h, w] -> bits [rows]."""
        logits, loc, log_scale, coupling = self.parameters_of(features, base)
        total = F.log_softmax(logits, 1)
        for j in range(self.channels):
            at = loc[:, j]
            for i in range(j):
                at = at + coupling[:, j * (j - 1) // 2 + i] * x[:, i, None]
            total = total + log_discretised_logistic(x[:, j, None], at, log_scale[:, j])
        return -torch.logsumexp(total, 1).sum((1, 2)) / math.log(2)

    def codec(self, features: Tensor, valid: Tensor, base: Tensor | None = None) -> Codec:
        """Codec of int64 [rows, c, h, w] levels; valid: bool, the same shape."""
        logits, loc, log_scale, coupling = self.parameters_of(features, base)
        inner = drawn_mixture(
            "logistic",
            frequencies.weights(frequencies.snap_logits(logits.transpose(0, 1))),
            frequencies.snap_location(loc.permute(1, 2, 0, 3, 4) * HALF + HALF),
            frequencies.snap_scale(log_scale.permute(1, 2, 0, 3, 4) + math.log(HALF)),
            frequencies.snap_coupling(coupling.permute(1, 2, 0, 3, 4)),
            LEVELS,
            valid.transpose(0, 1),
        )
        return Codec(
            lambda message, x: inner.push(message, x.transpose(0, 1)),
            lambda message: inner.pop(message).transpose(0, 1),
        )


class Observation(Protocol):
    """What a model needs of an observation model; implemented by the three classes below."""

    def bits(self, x: Tensor, z: Tensor) -> Tensor:
        """-log2 p(x|z): normalised pixels [rows, c, h, w], latents [rows, k, h / 2, w / 2] -> float32 [rows]."""

    def codec(self, z: Tensor, valid: Tensor) -> Codec:
        """The same distribution as a codec of int64 levels [rows, c, h, w]; valid: bool, the same shape."""


class LogisticObservation(nn.Module):
    """The paper's observation model: one logistic a pixel, its scale learned but the same for every image."""

    def __init__(self, shape: Sequence[int], latents: int, width: int, blocks: int) -> None:
        super().__init__()
        self.net = nn.Sequential(residual_stack(latents, width, blocks, 4 * shape[0]), nn.PixelShuffle(2))
        self.raw_scale = nn.Parameter(torch.zeros(*shape))

    def parameters_of(self, z: Tensor) -> tuple[Tensor, Tensor]:
        loc = self.net(z).float()
        if loc.shape[1:] != self.raw_scale.shape:
            raise ValueError(
                f"likelihood=logistic learns a scale for each pixel of {list(self.raw_scale.shape)} images, got "
                f"{list(loc.shape[1:])}; use tiles of that size, or likelihood=mixture"
            )
        log_scale = torch.log(2 / 255 / 8 + F.softplus(self.raw_scale))
        return loc, log_scale.expand_as(loc)

    def bits(self, x: Tensor, z: Tensor) -> Tensor:
        return -log_discretised_logistic(x, *self.parameters_of(z)).sum((1, 2, 3)) / math.log(2)

    def codec(self, z: Tensor, valid: Tensor) -> Codec:
        loc, log_scale = self.parameters_of(z)
        snapped = frequencies.snap_location(loc * HALF + HALF), frequencies.snap_scale(log_scale + math.log(HALF))
        return location_scale("logistic", *snapped, LEVELS, 1, valid=valid)


class MixtureObservation(nn.Module):
    """A mixture of logistics for each pixel, independent given the latents."""

    def __init__(self, shape: Sequence[int], latents: int, width: int, blocks: int, components: int) -> None:
        super().__init__()
        self.net = nn.Sequential(residual_trunk(latents, width, blocks), nn.SiLU())
        self.mixture = Mixture(width, shape[0], components, up=2)

    def bits(self, x: Tensor, z: Tensor) -> Tensor:
        return self.mixture.bits(x, self.net(z))

    def codec(self, z: Tensor, valid: Tensor) -> Codec:
        return self.mixture.codec(self.net(z), valid)


class InterlacedObservation(nn.Module):
    """A mixture of logistics for each pixel in four interlaced passes, each given the latents and the passes before.

    Every second pixel of every second row first, then the three other phases of the 2 x 2 lattice: pixels within a pass
    are coded in parallel, and four network calls decode an image whatever its size (multiscale autoregression, Reed et
    al. 2017, arXiv:1703.03664).
    """

    def __init__(self, shape: Sequence[int], latents: int, width: int, blocks: int, components: int) -> None:
        super().__init__()
        channels = shape[0]
        self.trunk = residual_stack(latents, width, blocks, width)
        self.context = nn.ModuleList(nn.Conv2d(g * channels, width, 5, padding=2) for g in range(1, 4))
        self.guess = nn.ModuleList(nn.Conv2d(g * channels, channels, 3, padding=1) for g in range(1, 4))
        self.refine = nn.ModuleList(Residual(width) for _ in range(1, 4))
        self.mixture = nn.ModuleList(Mixture(width, channels, components) for _ in range(4))
        for g, guess in enumerate(self.guess, start=1):
            _start_as_interpolation(guess, g, channels)

    def _mixture(self, g: int) -> Mixture:
        return cast(Mixture, self.mixture[g])

    def _pass(self, g: int, trunk: Tensor, known: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Features and first guess of pass g from the normalised passes before, each [rows, c, h / 2, w / 2]."""
        if g == 0:
            return F.silu(trunk), None
        seen = torch.cat(list(known), 1)
        return F.silu(self.refine[g - 1](trunk + self.context[g - 1](seen))), self.guess[g - 1](seen)

    def bits(self, x: Tensor, z: Tensor) -> Tensor:
        trunk, phases = self.trunk(z), [x[:, :, i::2, j::2] for i, j in PHASES]
        return sum(
            (self._mixture(g).bits(phases[g], *self._pass(g, trunk, phases[:g])) for g in range(4)), x.new_zeros(len(x))
        )

    def codec(self, z: Tensor, valid: Tensor) -> Codec:
        trunk = self.trunk(z)

        def passes(known: Callable[[int], list[Tensor]]) -> Callable[[int], Codec]:
            def codec(g: int) -> Codec:
                i, j = PHASES[g]
                features, base = self._pass(g, trunk, [normalise(k) for k in known(g)])
                return self._mixture(g).codec(features, valid[:, :, i::2, j::2], base)

            return codec

        def push(message: Message, x: Tensor) -> None:
            phases = [x[:, :, i::2, j::2] for i, j in PHASES]
            codec = passes(lambda g: phases[:g])
            for g in reversed(range(4)):
                codec(g).push(message, phases[g])

        def pop(message: Message) -> Tensor:
            x = torch.zeros(valid.shape, dtype=torch.int64, device=valid.device)
            phases = [x[:, :, i::2, j::2] for i, j in PHASES]
            codec = passes(lambda g: phases[:g])
            for g in range(4):
                i, j = PHASES[g]
                phases[g].copy_(complete(codec(g).pop(message), valid[:, :, i::2, j::2]))
            return x

        return Codec(push, pop)


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
