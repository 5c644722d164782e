"""Lossy image VAE with variational Bayesian quantisation: one model, every bitrate (Yang, Bamler, Mandt 2020,
arXiv:2002.08158)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recipes.vae.transform import CHANNELS, Analysis, Synthesis, bands, cosines, known
from toolkit.coding.coefficients import codec as coefficients
from toolkit.coding.coefficients.fit import rounded_to_zero
from toolkit.coding.coefficients.fit import tables as tables_of
from toolkit.heads.rate import Rate
from toolkit.images import rate_coder, rate_target
from toolkit.images.rate_coder import STRIDE
from toolkit.images.similarity import Basis
from toolkit.model import Model

KNOWN = known()


def check_shape(shape: Sequence[int]) -> None:
    """Raise ValueError for rows that are not RGB or that blocks do not fill."""
    if shape[0] != 3 or shape[1] % STRIDE or shape[2] % STRIDE:
        raise ValueError(
            f"expected RGB rows with sides that are multiples of {STRIDE}, got {list(shape)}; set "
            "data.splits.size, and data.splits.channels=3"
        )


def step_of(lam: Tensor, noise: float) -> Tensor:
    """Distance between code points at which a step finer saves as much distortion as it costs bits; both float.

    A uniform grid of step s has the distortion s^2 / 12, which falls by 2 ln 2 of itself for each bit; the objective
    (z - mu)^2 / (2 sigma^2) + lambda R of the paper's section 3, with sigma = noise, balances at
    s^2 = 12 lambda sigma^2 / ln 2.
    """
    return noise * (12 / math.log(2) * lam).sqrt()


class Prior(nn.Module):
    """A mixture of zero-mean Gaussians for each channel, known with additional noise of any variance."""

    def __init__(self, components: int, noise: float) -> None:
        super().__init__()
        spread = torch.linspace(-1, 6, components)
        self.log_scale = nn.Parameter(math.log(noise) + spread.repeat(CHANNELS, 1))
        self.logits = nn.Parameter(-0.5 * spread.repeat(CHANNELS, 1))

    def log_prob(self, z: Tensor, noise: Tensor) -> Tensor:
        """log p of float [rows, channels, h, w] with noise of standard deviations float [rows], nats."""
        variance = (2 * self.log_scale).exp() + noise.square()[:, None, None]  # [rows, channels, components]
        constant = self.logits.log_softmax(1) - 0.5 * (2 * math.pi * variance).log()
        terms = [
            constant[..., i, None, None] - 0.5 * z.square() / variance[..., i, None, None]
            for i in range(variance.shape[-1])
        ]
        return torch.logsumexp(torch.stack(terms), 0)


class Net(nn.Module):
    """Encoder, prior and decoder."""

    def __init__(self, width: int, encoder_blocks: int, decoder_blocks: int, components: int, noise: float) -> None:
        super().__init__()
        self.noise = noise
        self.analysis = Analysis(width, encoder_blocks, noise * math.sqrt(12))
        self.synthesis = Synthesis(width, decoder_blocks)
        self.prior = Prior(components, noise)

    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and sigma of the latents, float32 [rows, channels, h / 8, w / 8] each."""
        mu, log_scale = self.analysis(pixels)
        return mu, self.noise * log_scale.exp()

    def forward(self, x: Tensor, lam: Tensor, rounded: Tensor) -> tuple[Tensor, Tensor]:
        """Squared error in units of the likelihood's variance, and KL in nats, both float32 [rows].

        x: uint8 [rows, 3, h, w]; lam: float [rows]; rounded: bool [rows], rows whose latents are quantised instead of
        drawn from the posterior, which shows the decoder what it will see.
        """
        pixels = x.float() / 255
        mu, sigma = self.posterior(pixels)
        # lambda ln 2 times the objective of the ELBO: the posterior is that much wider.
        heat = (lam / math.log(2)).sqrt()
        wide = sigma * heat[:, None, None, None]
        drawn = mu + wide * torch.randn_like(mu)
        log_q = -0.5 * ((drawn - mu) / wide).square() - wide.log() - 0.5 * math.log(2 * math.pi)
        kl = (log_q - self.prior.log_prob(drawn, heat * self.noise)).sum((1, 2, 3))
        step = step_of(lam, self.noise)
        unit = step[:, None, None, None]
        near = rounded_to_zero(mu / unit) * unit
        z = torch.where(rounded[:, None, None, None], mu + (near - mu).detach(), drawn)
        error = (self.synthesis(z, step) - pixels).square().sum((1, 2, 3))
        return error / (self.noise * heat).square(), torch.where(rounded, 0.0, kl)


class VAE(Model):
    """The model, and what `toolkit.heads.rate` asks of one.

    shape: (3, h, w), sides multiples of 8; width: channels of the networks; noise: standard deviation of the
    likelihood, grey levels; lambdas: least and largest lambda of training; learning_rate: at its peak; warmup: steps.
    """

    coder_weights: Tensor
    coder_cells: Tensor
    coder_mixing: Tensor
    channel_names: ClassVar[Sequence[tuple[int, int, int]]] = [channel for band in bands() for channel in band]
    basis: ClassVar[Basis] = tuple(
        map(tuple, cosines().tolist())
    )  # approximate: the learned transform stays near the DCT

    def __init__(
        self, shape: Sequence[int], width: int, encoder_blocks: int, decoder_blocks: int, components: int,
        noise: float, lambdas: Sequence[float], learning_rate: float, warmup: int, weight_decay: float,
    ) -> None:  # fmt: skip
        super().__init__()
        check_shape(shape)
        net = Net(width, encoder_blocks, decoder_blocks, components, noise / 255)
        self.net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a quarter faster
        # Of the latents' coder, made after training by `fit_tables`; zeros before.
        for name, table in coefficients.blank(KNOWN)._asdict().items():
            self.register_buffer(f"coder_{name}", torch.zeros_like(table))
        self.latents_halo, self.pixels_halo, self.turned = 2 * encoder_blocks, 2 * decoder_blocks, False
        self.lambdas, self.learning_rate, self.weight_decay = tuple(lambdas), learning_rate, weight_decay

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As torch does; raises ValueError for a model whose coder is one that is not read any more."""
        if "coder_freqs" in state_dict:
            raise ValueError("they are from before toolkit 0.2 was finished, with another coder; train the model again")
        return super().load_state_dict(state_dict, strict, assign)

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        low, high = map(math.log, self.lambdas)
        lam = (low + (high - low) * torch.rand(len(batch), device=self.device)).exp()
        loss = self._objective("train", batch, lam, torch.arange(len(batch), device=self.device) % 2 == 1)
        return loss

    def validation_step(self, batch: Tensor, index: int) -> None:
        low, high = map(math.log, self.lambdas)
        lam = torch.linspace(low, high, len(batch), device=self.device).exp()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(index)
            for rounded in (False, True):
                self._objective("validation", batch, lam, torch.full_like(lam, rounded, dtype=torch.bool))

    def _objective(self, stage: str, x: Tensor, lam: Tensor, rounded: Tensor) -> Tensor:
        """The negative ELBO at temperature lambda / ln 2, bits a pixel; of rounded rows the distortion alone."""
        error, kl = self.net(x, lam, rounded)
        pixels = x.shape[2] * x.shape[3]
        # Bits fall about as the root of lambda rises: each lambda gets the same say.
        weight = (lam / math.log(2)).sqrt()
        loss = (weight / weight.mean() * (0.5 * error + kl)).mean() / pixels / math.log(2)
        if stage == "train" or not bool(rounded.any()):
            self.log(f"{stage}/objective_bpp", loss, batch_size=len(x))
            drawn = (~rounded).float()
            self.log(f"{stage}/kl_bpp", (kl * drawn).sum() / drawn.sum() / pixels / math.log(2), batch_size=len(x))
        if bool(rounded.any()):
            mse = error * (lam / math.log(2)) * self.net.noise**2 / (3 * pixels)
            psnr = -10 * mse[rounded].log10().mean()
            self.log(f"{stage}/psnr", psnr, prog_bar=stage == "train", batch_size=len(x))
        return loss

    def latents(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and sigma of the latents of float32 [1, 3, h, w] pixels in [0, 1]."""
        return self.net.posterior(pixels)

    def step(self, lam: float) -> float:
        """Distance between code points."""
        return float(step_of(torch.tensor(lam), self.net.noise))

    def pixels(self, k: Tensor, lam: float) -> Tensor:
        """The pixels of [rows, channels, h, w] code points, int, or float between them."""
        step = torch.full((len(k),), self.step(lam), device=k.device)
        return self.net.synthesis(k.float() * step[:, None, None, None], step)

    def tables(self) -> coefficients.Model:
        """The coder of the latents. Raises ValueError before `fit_tables`."""
        tables = coefficients.Tables(self.coder_weights, self.coder_cells, self.coder_mixing)
        return coefficients.Model(KNOWN, coefficients.Tables(*(table.cpu() for table in tables)))

    @torch.inference_mode()
    def fit_tables(self, rows: Tensor, steps: int) -> float:
        """Fit the coder to the latents of uint8 [rows, 3, h, w], each at a lambda of its own; returns bits a pixel.

        steps: of the fit of predicted magnitudes.
        """
        generator = torch.Generator().manual_seed(0)
        low, high = rate_target.level_of(self.lambdas[0]), rate_target.level_of(self.lambdas[1])
        levels = low + (torch.rand(len(rows), generator=generator) * (high - low)).long()
        lam = torch.tensor([rate_target.lambda_of(level) for level in levels.tolist()])
        rate = torch.tensor([rate_coder.rate_index(level) for level in levels.tolist()])
        parts = [self.latents(part.to(self.device).float() / 255) for part in rows.split(16)]
        mu, sigma = (torch.cat(x).cpu() for x in zip(*parts, strict=True))
        step = step_of(lam, self.net.noise)
        mu, precision = mu / step[:, None, None, None], step.square() / (2 * lam)
        tables, bits = tables_of(KNOWN, mu, sigma, precision, rate, steps, generator)
        for name, table in tables._asdict().items():
            self.get_buffer(f"coder_{name}").copy_(table)
        return bits / rows[:, 0].numel()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)


Evaluation = Rate  # what runs from before heads name
