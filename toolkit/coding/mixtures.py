"""Codecs of symbols under mixtures of logistics or Gaussians, each symbol with parameters of its own.

Everything here is integer arithmetic on snapped parameters (see `frequencies`), but for the weights of components:
products and quotients of float64, which IEEE 754 rounds alike everywhere.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from toolkit.coding import frequencies, kernels
from toolkit.coding.codecs import PRECISION, Codec, check_numbers, check_shapes, check_symbols, coded
from toolkit.coding.distributions import LocationScale, bisect, check_bins, check_locations, kind_number
from toolkit.coding.frequencies import COUPLING_STEPS, LOC_LIMIT, LOC_STEPS, LOGIT_MOST, SCALE_LEVELS, WEIGHT_BITS
from toolkit.coding.kernels import Order
from toolkit.coding.message import Message

LOC_MOST = LOC_LIMIT * LOC_STEPS
SCALE_RANGE = (0, SCALE_LEVELS - 1)


class Mixture(NamedTuple):
    """Law of symbols in [0, bins) under a mixture each; every symbol keeps at least one count."""

    weight: Tensor  # int32 [k, n], of `frequencies.weights`
    loc: Tensor  # int32 [k, n]
    scale: Tensor  # int32 [k, n]
    kind: int  # number in `frequencies.KINDS`
    bins: int
    precision: int

    def parts(self) -> tuple[list[Tensor], list[int]]:
        return [self.weight, self.loc, self.scale], [self.kind, self.bins, self.precision]

    def at(self, here: Tensor | slice) -> Mixture:
        return self._replace(weight=self.weight[:, here], loc=self.loc[:, here], scale=self.scale[:, here])

    def starts(self, x: Tensor) -> Tensor:
        y = frequencies.cdf(frequencies.KINDS[self.kind], x, self.loc, self.scale, self.bins)
        return frequencies.start(frequencies.mix(self.weight.long(), y), x, self.bins, self.precision, 1)

    def interval(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low = self.starts(x)
        return low, self.starts(x + 1) - low

    def find(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return bisect(u, self.starts, self.bins)


class Weighted(NamedTuple):
    """Law of component numbers in [0, k), a step of `Pixels`."""

    weight: Tensor  # int32 [k, n], that sum to 2**WEIGHT_BITS over k

    @property
    def precision(self) -> int:
        return WEIGHT_BITS

    def interval(self, x: Tensor) -> tuple[Tensor, Tensor]:
        freq = self.weight.long().gather(0, x[None])[0]
        return self.weight.cumsum(0).gather(0, x[None])[0] - freq, freq

    def find(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = (self.weight.cumsum(0) <= u).sum(0)
        return x, *self.interval(x)


class Pixels(NamedTuple):
    """Mixtures of logistics for pixels of c channels, whose component is shared by the channels of a pixel.

    Channel j's location moves linearly with the channels before it, and the weights become posterior weights after each
    channel (Salimans, Karpathy, Chen, Kingma 2017, arXiv:1701.05517).

    parameters: float32 [n, k + 2 c k + c (c - 1) / 2 k], integers, of a pixel side by side: k logits in LOGIT_STEPS;
    locations in LOC_STEPS and levels of scales, k of each channel; couplings in COUPLING_STEPS, k of each pair of
    channels, in the order (1, 0), (2, 0), (2, 1). They are clamped to their ranges. base: int32 [n, c] in LOC_STEPS,
    which locations are relative to, and couplings act on pixels' distances from it.
    drawn: a pixel's component is a latent variable, coded with bits back: the same expected cost as a search in the
    whole mixture, by a search in one component; but the message must hold the bits that draw it.
    """

    parameters: Tensor
    base: Tensor
    k: int
    channels: int
    lowest: int  # level of a scale
    highest: int
    bins: int
    precision: int
    drawn: bool

    def parts(self) -> tuple[list[Tensor], list[int]]:
        more = [self.k, self.channels, self.lowest, self.highest, self.bins, self.precision, int(self.drawn)]
        return [self.parameters, self.base], more

    def at(self, here: Tensor | slice) -> Pixels:
        return self._replace(parameters=self.parameters[here], base=self.base[here])

    def prior(self) -> Tensor:
        """Weights of the components: int64 [k, n]."""
        logits = self.parameters[:, : self.k].long().T
        return frequencies.weights((logits.amax(0) - logits).clamp(0, LOGIT_MOST))

    def component(self, j: int, x: Tensor) -> LocationScale:
        """Channel j of every component given the channels before it, int64 [n, c]: a law of [k, n]."""
        k, c = self.k, self.channels
        planes = self.parameters.T.long()
        loc = planes[k * (1 + j) : k * (2 + j)].clamp(-LOC_MOST, LOC_MOST) + self.base[:, j]
        scale = planes[k * (1 + c + j) : k * (2 + c + j)].clamp(self.lowest, self.highest)
        shift = torch.zeros_like(loc)
        for i in range(j):
            first = k * (1 + 2 * c + j * (j - 1) // 2 + i)
            shift += planes[first : first + k] * (x[:, i] * LOC_STEPS - self.base[:, i])
        loc = loc + shift // COUPLING_STEPS
        return LocationScale(loc, scale, 0, self.bins, 1, self.precision)


class PixelsOf(NamedTuple):
    """The tensor program of `Pixels`, a step at a time: one pixel on each of the first lanes."""

    law: Pixels
    valid: Tensor  # bool [n, c]

    def push(self, message: Message, x: Tensor) -> None:
        law, valid = self.law, self.valid
        x = torch.where(valid, x, 0)
        if law.drawn:
            some, prior = valid.any(1), law.prior()
            k = _pop(message, Weighted(self.posterior(x, prior)), some)
            for j in reversed(range(law.channels)):
                _push(message, _chosen(law.component(j, x), k), x[:, j], valid[:, j])
            _push(message, Weighted(prior), k, some)
        else:
            weights = self.weights(x)
            for j in reversed(range(law.channels)):
                _push(message, self.mixture(j, x, weights[j]), x[:, j], valid[:, j])

    def pop(self, message: Message) -> Tensor:
        law, valid = self.law, self.valid
        x = torch.zeros_like(valid, dtype=torch.int64)
        if law.drawn:
            some, prior = valid.any(1), law.prior()
            k = _pop(message, Weighted(prior), some)
            for j in range(law.channels):
                x[:, j] = _pop(message, _chosen(law.component(j, x), k), valid[:, j])
            _push(message, Weighted(self.posterior(x, prior)), k, some)
        else:
            for j in range(law.channels):
                weight = self.weights(x, j + 1)[j]
                x[:, j] = _pop(message, self.mixture(j, x, weight), valid[:, j])
        return x

    def mixture(self, j: int, x: Tensor, weight: Tensor) -> Mixture:
        part = self.law.component(j, x)
        return Mixture(weight, part.loc, part.scale, part.kind, part.bins, part.precision)

    def posterior(self, x: Tensor, prior: Tensor) -> Tensor:
        return frequencies.posterior(self.masses(x, prior)[-1], prior)

    def weights(self, x: Tensor, channels: int | None = None) -> list[Tensor]:
        """Weights before each channel, given those before it."""
        masses = self.masses(x, self.law.prior(), (channels or self.law.channels) - 1)
        return [frequencies.normalise(mass) for mass in masses]

    def masses(self, x: Tensor, prior: Tensor, channels: int | None = None) -> list[Tensor]:
        """What each component makes likely before each channel, and after the last: float64 [k, n]."""
        above, below = prior.double(), torch.ones_like(prior, dtype=torch.float64)
        found = [above / below]
        for j in range(self.law.channels if channels is None else channels):
            law = self.law.component(j, x)
            top, bottom = frequencies.odds(x[:, j].expand_as(law.loc), law.loc, law.scale, law.bins)
            # Without a symbol weights stay as they are.
            above = torch.where(self.valid[:, j], above * top, above)
            below = torch.where(self.valid[:, j], below * bottom, below)
            found.append(above / below)
        return found


def _push(message: Message, law: LocationScale | Mixture | Weighted, x: Tensor, valid: Tensor) -> None:
    low, freq = law.interval(x)
    whole = 1 << law.precision
    message.push(torch.where(valid, low, 0), torch.where(valid, freq, whole), law.precision)


def _pop(message: Message, law: LocationScale | Mixture | Weighted, valid: Tensor) -> Tensor:
    x, low, freq = law.find(message.slots(len(valid), law.precision))
    message.take(torch.where(valid, low, 0), torch.where(valid, freq, 1 << law.precision), law.precision)
    return torch.where(valid, x, 0)


def _chosen(law: LocationScale, k: Tensor) -> LocationScale:
    return law._replace(loc=law.loc.gather(0, k[None])[0], scale=law.scale.gather(0, k[None])[0])


def mixture(
    kind: str,
    weight: Tensor,
    loc: Tensor,
    scale: Tensor,
    bins: int,
    precision: int = PRECISION,
    valid: Tensor | None = None,
) -> Codec:
    """Codec of symbols in [0, bins) under a mixture of k logistics or Gaussians, each symbol with its own.

    weight: int [k, ...] of `frequencies.weights`; loc, scale: int [k, ...]; valid: bool [...].
    """
    valid = torch.ones_like(loc[0], dtype=torch.bool) if valid is None else valid
    check_bins(bins, 1, precision)
    check_shapes(torch.Size((len(weight), *valid.shape)), weight=weight, loc=loc, scale=scale)
    check_weights(weight)
    check_numbers("levels of scales", scale, SCALE_LEVELS)
    check_locations(loc)
    weight, loc, scale = (p.flatten(1).int().contiguous() for p in (weight, loc, scale))
    return coded(Mixture(weight, loc, scale, kind_number(kind), bins, precision), valid)


def check_weights(weight: Tensor) -> None:
    """Raise ValueError unless weights, int [k, ...], sum to 2**WEIGHT_BITS over at least one component."""
    check_numbers("weights of components", weight, (1 << WEIGHT_BITS) + 1)
    if torch.compiler.is_compiling():
        return
    if not len(weight) or bool((weight.sum(0) != 1 << WEIGHT_BITS).any()):
        raise ValueError(f"expected weights of {len(weight)} components that sum to {1 << WEIGHT_BITS}, got others")


def pixels(
    parameters: Tensor, k: int, bins: int, valid: Tensor, base: Tensor | None = None, drawn: bool = True,
    precision: int = PRECISION, scales: tuple[int, int] = SCALE_RANGE, order: Order = Order.SIDE_BY_SIDE,
) -> Codec:  # fmt: skip
    """Codec of pixels int64 [n, c] in [0, bins) under `Pixels`; the last axis is the channels.

    parameters: float32 [n, k + 2 c k + ...], integers, as `Pixels` has them; base: int [n, c] (None: the middle of the
    axis); valid: bool [n, c]; scales: least and largest level; order: of pixels on lanes. NaN parameters are not looked
    for: `frequencies.snap_location` and its like refuse them.
    """
    check_bins(bins, 1, precision)
    n, c = valid.shape
    if k < 1 or not 0 <= scales[0] <= scales[1] < SCALE_LEVELS:
        raise ValueError(f"expected at least 1 component and levels of scales below {SCALE_LEVELS}, got {k}, {scales}")
    if base is None:
        base = torch.full((n, c), (bins - 1) * LOC_STEPS // 2, device=valid.device)
    wanted = k * (1 + 2 * c + c * (c - 1) // 2)
    if parameters.shape != (n, wanted) or base.shape != (n, c):
        raise ValueError(
            f"expected parameters [{n}, {wanted}] and base [{n}, {c}], got {list(parameters.shape)} and "
            f"{list(base.shape)}"
        )
    law = Pixels(
        parameters.detach().float().contiguous(), base.detach().int().contiguous(), k, c, *scales, bins,
        precision, drawn,
    )  # fmt: skip
    valid = valid.contiguous()

    def push(message: Message, x: Tensor) -> None:
        check_symbols(x, valid.shape)
        kernels.push(message, law, x.long().contiguous(), valid, order, PixelsOf)

    return Codec(push, lambda message: kernels.pop(message, law, valid, order, PixelsOf))
