"""Networks of a VAE of grey images: encoder to Gaussian posteriors, decoder, and observation model."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recipes.ikvae.isokl import IsoKL, kl_bits
from toolkit.coding import beta_binomial, frequencies
from toolkit.coding.codecs import Codec
from toolkit.coding.distributions import location_scale
from toolkit.nets.exact import Conversion, real
from toolkit.nets.exact_observation import LEVEL_RANGE, LOC_RANGE, LOCATION, SCALE, observation, scale_shift
from toolkit.nets.observation import (
    HALF,
    LEVELS,
    LOG_SCALES,
    InterlacedObservation,
    Mixture,
    log_discretised_logistic,
    normalise,
)
from toolkit.nets.residual import residual_stack, residual_trunk

PIXEL_BITS = 18  # bits of a pixel's frequency: more would cost at the end of each image's stream, less in every pixel
MEAN, ALPHA = 3.0, 3.5  # posterior means stay within +-MEAN prior deviations, IsoKL's alpha within +-ALPHA
LEAST_PRECISION, MOST_PRECISION = 1e-3, 17.0  # of -log variance: narrower than the prior, wider than 2e-4
POSTERIORS = ("gaussian", "isokl")
LIKELIHOODS = ("interlaced", "mixture", "logistic", "beta_binomial")
NETWORKS = ("conv", "dense")
LATENTS = real(2.0**-7, 1 << 10)  # on the exact path: finer than posteriors are
# Scale and shift of the two raw outputs of a pixel to the integers, or halves and sixteenths, that are coded.
PAIRS = {"logistic": ((LOCATION, LOCATION / 2), (SCALE, scale_shift(-1.5))), "beta_binomial": ((16, -32), (2, 4))}
DENSE = 8  # channels at full resolution of network=dense


class Net(nn.Module):
    """Encoder, decoder and observation model of images with one channel and sides that are multiples of 4."""

    def __init__(
        self, shape: Sequence[int], posterior: str, likelihood: str, components: int, latents: int, network: str,
        width: int, blocks: int, kappa: float, kappa_learned: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        for name, value, known in (
            ("posterior", posterior, POSTERIORS),
            ("likelihood", likelihood, LIKELIHOODS),
            ("network", network, NETWORKS),
        ):
            if value not in known:
                raise ValueError(f"expected {name} to be one of {', '.join(known)}, got {value!r}")
        channels, height, breadth = shape
        if channels != 1 or height % 4 or breadth % 4:
            raise ValueError(
                f"expected grey images whose sides are multiples of 4, got {channels} x {height} x {breadth}; change "
                "data or data.splits.size"
            )
        if not 0 < kappa <= 7:
            raise ValueError(
                f"expected kappa above 0 and at most 7 bits a latent, got {kappa}; use more latents instead"
            )
        self.posterior, self.likelihood, self.latents = posterior, likelihood, latents
        self.is_exact = False  # whether `exact` made it
        if network == "conv":
            up, last, small = 2, width, (width, height // 4, breadth // 4)
            size = math.prod(small)
            self.infer = nn.Sequential(
                nn.PixelUnshuffle(2), residual_trunk(4, width, blocks), nn.SiLU(), nn.PixelUnshuffle(2),
                nn.Conv2d(4 * width, width, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(size, 2 * latents),
            )  # fmt: skip
            self.features = nn.Sequential(
                nn.Linear(latents, size), nn.Unflatten(1, small), residual_stack(width, width, 1, 4 * width),
                nn.PixelShuffle(2), residual_trunk(width, width, blocks), nn.SiLU(),
            )  # fmt: skip
        else:
            up, last, full = 1, DENSE, (DENSE, height, breadth)
            self.infer = nn.Sequential(
                nn.Flatten(), nn.Linear(height * breadth, width), nn.SiLU(), *_dense(width, blocks),
                nn.Linear(width, 2 * latents),
            )  # fmt: skip
            self.features = nn.Sequential(
                nn.Linear(latents, width), nn.SiLU(), *_dense(width, blocks), nn.Linear(width, math.prod(full)),
                nn.Unflatten(1, full), nn.SiLU(),
            )  # fmt: skip
        if likelihood == "interlaced":
            if network != "conv":
                raise ValueError(f"expected network=conv with likelihood=interlaced, got {network!r}")
            self.observe: nn.Module = InterlacedObservation(shape, last, width, 1, components, 2, 1)
        elif likelihood == "mixture":
            self.observe = Mixture(last, 1, components, up)
        else:
            self.observe = nn.Sequential(nn.Conv2d(last, 2 * up**2, 3, padding=1), nn.PixelShuffle(up))
        start = math.log(math.expm1(kappa))  # softplus of it is kappa
        self.raw_kappa = nn.Parameter(torch.full((latents,), start), requires_grad=kappa_learned)

    def kappa(self) -> Tensor:
        """KL budget of each latent in bits, float32 [latents]; of the IsoKL posterior."""
        return F.softplus(self.raw_kappa).clamp(max=7.0)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [rows, 1, h, w] -> mean and y = -log variance of each latent, float32 [rows, latents]."""
        first, second = self.infer(normalise(x)).float().chunk(2, 1)
        if self.posterior == "gaussian":
            y = LEAST_PRECISION + F.softplus(second + 1)
            return MEAN * torch.tanh(first / MEAN), y.clamp(max=MOST_PRECISION)
        alpha = ALPHA * torch.tanh(first / ALPHA)
        kappa = self.kappa() * math.log(2)
        # 2 kappa / cosh^2 is 2 kappa - mean^2 without its cancellation.
        return torch.sqrt(2 * kappa) * torch.tanh(alpha), cast(Tensor, IsoKL.apply(2 * kappa / torch.cosh(alpha) ** 2))

    def pair(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Two parameters of each pixel, float32 [rows, 1, h, w].

        Location and log-scale on the axis of `normalise`; of a beta-binomial logit of the mean and log2(a + b).
        """
        first, second = self.observe(self.features(z)).float().chunk(2, 1)
        if self.likelihood == "beta_binomial":
            return first - 2, second + 2
        return first - 0.5, (second - 1.5).clamp(*LOG_SCALES)

    def nll(self, x: Tensor, z: Tensor) -> Tensor:
        """-log2 p(x|z): uint8 [rows, 1, h, w], float32 [rows, latents] -> float32 [rows]."""
        pixels = normalise(x)
        if self.likelihood in ("interlaced", "mixture"):
            return cast(Mixture, self.observe).bits(pixels, self.features(z))
        if self.likelihood == "beta_binomial":
            log_p = beta_binomial.log_probability(x.float(), *self.pair(z), LEVELS)
        else:
            log_p = log_discretised_logistic(pixels, *self.pair(z))
        return -log_p.sum((1, 2, 3)) / math.log(2)

    def pixels(self, z: Tensor, valid: Tensor) -> Codec:
        """The same distribution as a codec of int64 [1, h, w, rows]; valid: bool, the same shape: one lane a row."""
        if self.likelihood in ("interlaced", "mixture"):
            observe = cast(Mixture, self.observe)
            inner = observe.codec(self.features(z), valid.movedim(-1, 0), precision=PIXEL_BITS)
            return Codec(
                lambda message, x: inner.push(message, x.movedim(-1, 0)),
                lambda message: inner.pop(message).movedim(0, -1),
            )
        first, *second = (part.movedim(0, -1) for part in self.snapped(z))
        if self.likelihood == "beta_binomial":
            return beta_binomial.beta_binomial(first, LEVELS, PIXEL_BITS, valid)
        return location_scale("logistic", first, second[0], LEVELS, 1, PIXEL_BITS, valid)

    def snapped(self, z: Tensor) -> tuple[Tensor, ...]:
        """`pair` as int64 [rows, 1, h, w]: locations and levels of scales, or beta-binomials' tables alone."""
        first, second = self.observe(self.features(z)).chunk(2, 1) if self.is_exact else self.pair(z)
        if self.likelihood == "beta_binomial":
            return (beta_binomial.snap(*((first / 16, second / 2) if self.is_exact else (first, second))),)
        if self.is_exact:
            return first.clamp(-LOC_RANGE, LOC_RANGE).long(), second.clamp(*LEVEL_RANGE).long()
        return _bins(first), _levels(second)

    def exact(self, conversion: Conversion) -> Net:
        """This network with a decoder in exact arithmetic: `pixels` is integers throughout; there is no `nll`."""
        found = copy.deepcopy(self)
        found.is_exact = True
        found.features, form = conversion.stack(self.features, LATENTS)
        if isinstance(self.observe, nn.Sequential):
            pair = PAIRS[self.likelihood]
            count = cast(nn.Conv2d, self.observe[0]).out_channels // 2  # phases of PixelShuffle
            gain, shift = (torch.tensor(values).double().repeat_interleave(count) for values in zip(*pair, strict=True))
            found.observe, _ = conversion.stack(self.observe, form, gain, shift)
        else:
            found.observe = observation(self.observe, form, conversion)
        found.register_buffer("limit", torch.tensor(self.depth_limit()))
        return found

    def depth_limit(self) -> int:
        """Of DAD*: one level more than the KL budget."""
        if self.is_exact:
            return int(cast(Tensor, self.limit))
        return math.ceil(float(self.kappa().max()) - 1e-6) + 1

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [rows, 1, h, w] -> bits of x given one sample of z, float32 [rows], and KL in bits [rows, latents]."""
        mean, y = self.encode(x)
        z = mean + torch.exp(-0.5 * y) * torch.randn_like(mean)
        return self.nll(x, z), kl_bits(mean, y)


def _dense(width: int, blocks: int) -> list[nn.Module]:
    return [layer for _ in range(blocks) for layer in (nn.Linear(width, width), nn.SiLU())]


def _bins(loc: Tensor) -> Tensor:
    return frequencies.snap_location(loc * HALF + HALF)


def _levels(log_scale: Tensor) -> Tensor:
    return frequencies.snap_scale(log_scale + math.log(HALF))
