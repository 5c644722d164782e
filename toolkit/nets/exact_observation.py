"""Observation models in exact arithmetic: `observation` makes one of a trained one, with the same codec."""

from __future__ import annotations

import copy
import math
from typing import cast

import torch
from torch import Tensor, nn

from toolkit.coding import frequencies
from toolkit.nets.exact import TABLE, Conversion, Form, real
from toolkit.nets.observation import (
    HALF,
    LOG_SCALES,
    FirstPhase,
    GuidedObservation,
    InterlacedObservation,
    LogisticObservation,
    Mixture,
    MixtureObservation,
    Passes,
    log_scales,
)

PIXELS = real(1 / 255, 255)  # what `normalise` makes of them
LOCATION = HALF * frequencies.LOC_STEPS  # steps of `frequencies.snap_location` in a unit of normalised pixels
SCALE = frequencies.SCALE_STEPS / math.log(2)  # levels of `frequencies.snap_scale` in a natural logarithm
COUPLING_REACH = 8.0  # raw couplings whose tanh is 1


def scale_shift(offset: float) -> float:
    """Of the scale level of normalised pixels for a raw output 0, which means a natural logarithm of `offset`."""
    return (offset + math.log(HALF)) * SCALE - frequencies.SCALE_STEPS * frequencies.SCALE_OCTAVES[0]


def _levels_at(log_scale: float) -> int:
    return int(frequencies.snap_scale(torch.tensor(log_scale + math.log(HALF), dtype=torch.float64)))


LEVEL_RANGE = _levels_at(LOG_SCALES[0]), _levels_at(LOG_SCALES[1])
LOC_RANGE = frequencies.LOC_LIMIT * frequencies.LOC_STEPS


class ExactMixture(Mixture):
    """A mixture whose parameters are integers when they leave the network, as `frequencies` wants them."""

    def __init__(self, of: Mixture, form: Form, conversion: Conversion) -> None:
        nn.Module.__init__(self)
        self.channels, self.components, self.pairs, self.sizes = of.channels, of.components, of.pairs, of.sizes
        self.up = of.up
        gains = torch.tensor([frequencies.LOGIT_STEPS, LOCATION, SCALE, 2.0**TABLE], dtype=torch.float64)
        shifts = torch.tensor([0, 0, scale_shift(float(log_scales(torch.zeros(())))), 0], dtype=torch.float64)
        count = torch.tensor(of.sizes) * of.up**2
        head, _ = conversion.layer(of.head, form, gains.repeat_interleave(count), shifts.repeat_interleave(count))
        self.head = head  # type: ignore[assignment]  # not a Conv2d
        self.tanh = conversion.table(lambda raw: frequencies.snap_coupling(2 * torch.tanh(raw)), COUPLING_REACH)

    @property
    def scale_range(self) -> tuple[int, int]:
        return LEVEL_RANGE

    def integers(self, raw: Tensor) -> Tensor:
        if self.pairs:  # the others are integers as they leave the network
            coupling = raw[:, -self.sizes[3] :]
            coupling.copy_(self.tanh(coupling))
        return raw

    def base_of(self, base: Tensor) -> Tensor:
        return base.clamp(-LOC_RANGE, LOC_RANGE)


class ExactLogistic(LogisticObservation):
    """Locations in integers, and a level of scale for each pixel."""

    level: Tensor  # float64 [c, h, w]

    def __init__(self, of: LogisticObservation, form: Form, conversion: Conversion) -> None:
        nn.Module.__init__(self)
        self.net, _ = conversion.stack(of.net, form, LOCATION, LOCATION)
        log_scale = self.log_scale(of.raw_scale.detach().double().cpu())
        self.register_buffer("level", frequencies.snap_scale(log_scale + math.log(HALF)).double())

    def snapped(self, z: Tensor) -> tuple[Tensor, Tensor]:
        loc = self.fitting(self.net(z), self.level)
        return loc.clamp(-LOC_RANGE, LOC_RANGE).int(), self.level.int().expand_as(loc)


def observation(of: nn.Module, form: Form, conversion: Conversion) -> nn.Module:
    """The exact form of an observation model whose input has the form `form`."""
    if isinstance(of, LogisticObservation):
        return ExactLogistic(of, form, conversion)
    if isinstance(of, Mixture):
        return ExactMixture(of, form, conversion)
    found = copy.deepcopy(of)
    if isinstance(found, FirstPhase):
        found.mixture = ExactMixture(cast(FirstPhase, of).mixture, form, conversion)
    elif isinstance(found, MixtureObservation):
        if isinstance(found, GuidedObservation):
            found.guess, _ = conversion.layer(found.guess, form, LOCATION, LOCATION)
        found.net, form = conversion.stack(cast(MixtureObservation, of).net, form)
        found.mixture = ExactMixture(cast(MixtureObservation, of).mixture, form, conversion)
    elif isinstance(of, InterlacedObservation):
        return _interlaced(of, form, conversion)
    else:
        raise TypeError(f"expected an observation model that has an exact form, got {type(of).__name__}; add it here")
    return found


def exact_passes(of: Passes, conversion: Conversion, trunk: Form | None = None) -> Passes:
    """The exact form of the passes of a lattice; trunk: of the features that they are given, if there are any."""
    found = copy.deepcopy(of)
    for g in range(3):
        found.context[g], context = conversion.layer(of.context[g], PIXELS)
        found.guess[g], _ = conversion.layer(of.guess[g], PIXELS, LOCATION, LOCATION)
        found.refine[g], features = conversion.stack(of.refine[g], trunk.plus(context) if trunk else context)
        found.mixture[g] = ExactMixture(cast(Mixture, of.mixture[g]), features, conversion)
    return found


def _interlaced(of: InterlacedObservation, form: Form, conversion: Conversion) -> InterlacedObservation:
    stack, trunk = conversion.stack(cast(nn.Module, of.trunk), form)
    found = cast(InterlacedObservation, exact_passes(of, conversion, trunk))
    found.trunk, silu = stack, isinstance(of.below, nn.SiLU)
    found.below = nn.Identity() if silu else copy.deepcopy(of.below)
    first = observation(cast(nn.Module, of.first), trunk._replace(silu=silu), conversion)
    found.first = cast(InterlacedObservation, first)
    return found
