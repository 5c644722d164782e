"""VAE and IsoKL VAE whose images are coded each alone (Flamich, Markou, Hernandez-Lobato 2022, arXiv:2201.12857)."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from lightning import LightningModule
from torch import Tensor, nn

from toolkit.coding import beta_binomial, frequencies, rec
from toolkit.coding.ans import Message
from toolkit.coding.codecs import Codec, location_scale
from toolkit.nets.exact import Conversion, converted, real
from toolkit.nets.exact_observation import LEVEL_RANGE, LOC_RANGE, LOCATION, SCALE, observation, scale_shift
from toolkit.nets.isokl import IsoKL, index_overhead, kl_bits
from toolkit.nets.observation import (
    HALF,
    LEVELS,
    LOG_SCALES,
    InterlacedObservation,
    Mixture,
    complete,
    log_discretised_logistic,
    normalise,
)
from toolkit.nets.residual import residual_stack, residual_trunk

PRECISION = 18  # bits of a pixel's frequency: more would cost at the end of each image's stream, less in every pixel
MEAN, ALPHA = 3.0, 3.5  # posterior means stay within +-MEAN prior deviations, IsoKL's alpha within +-ALPHA
LEAST_PRECISION, MOST_PRECISION = 1e-3, 17.0  # of -log variance: narrower than the prior, wider than 2e-4
POSTERIORS = ("gaussian", "isokl")
LIKELIHOODS = ("interlaced", "mixture", "logistic", "beta_binomial")
NETWORKS = ("conv", "dense")
SAMPLERS = ("ad_star", "dad_star", "greedy", "shortest", "codebook")
CODES = ("learned", "zeta", "fixed")
LEARN_ROWS = 1024  # training rows whose nodes the tables are learned from
EXPECTED = 10.0  # rows' worth of nodes as expected beforehand that a table of nodes starts with and keeps
BOOK_DEPTH = 8  # of the shared trees of sampler=codebook: 511 points a latent
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
                "data or data.size"
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
            inner = observe.codec(self.features(z), valid.movedim(-1, 0), precision=PRECISION)
            return Codec(
                lambda message, x: inner.push(message, x.movedim(-1, 0)),
                lambda message: inner.pop(message).movedim(0, -1),
            )
        first, *second = (part.movedim(0, -1) for part in self.snapped(z))
        if self.likelihood == "beta_binomial":
            return beta_binomial.beta_binomial(first, LEVELS, PRECISION, valid)
        return location_scale("logistic", first, second[0], LEVELS, 1, PRECISION, valid)

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


class IKVAE(LightningModule):
    """The model as a LightningModule: minimises the negative ELBO; `bits` is what coding would cost without overhead.

    shape: (1, height, width) of the rows; posterior: gaussian, or isokl, whose every latent has kappa bits of KL;
    likelihood: mixture of `components` logistics, one logistic, or a beta-binomial, for each pixel; latents: how many;
    network: conv, or dense, which costs a tenth; width, blocks: of the networks; kappa: bits, where it starts if
    kappa_learned; overhead: weight of the index's cost beyond the KL in the loss, 0 for the ELBO; learning_rate: at its
    peak; warmup, kl_warmup: steps.
    """

    alone = True  # rows are coded each alone
    depths: Tensor
    nodes: Tensor

    def __init__(
        self, shape: Sequence[int], posterior: str, likelihood: str, components: int, latents: int, network: str,
        width: int, blocks: int, kappa: float, kappa_learned: bool, overhead: float, learning_rate: float, warmup: int,
        weight_decay: float, kl_warmup: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.shape = tuple(shape)
        self.net = Net(
            shape, posterior, likelihood, components, latents, network, width, blocks, kappa, kappa_learned
        ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # what convolutions are fastest in
        self.overhead, self.learning_rate, self.warmup = overhead, learning_rate, warmup
        self.weight_decay, self.kl_warmup = weight_decay, kl_warmup
        # Counts of the depths of each latent's nodes, one table for each sampler; floats, as weights are averaged.
        self.register_buffer("depths", torch.zeros(len(SAMPLERS), latents, rec.DEPTHS))
        # Counts of the nodes of sampler=codebook.
        self.register_buffer("nodes", expected_nodes().repeat(latents, 1))

    @property
    def dims(self) -> int:
        """Coded values in a row: bits per dimension are bits over this."""
        return math.prod(self.shape)

    def exact(self, rows: Tensor | None = None) -> IKVAE:
        """This model with a decoder in exact arithmetic, for coding only.

        rows: uint8 [n, 1, h, w], training rows that show how large activations become; without them, a module of the
        same structure, whose tensors are to be loaded.
        """
        return converted(self, rows)

    def bits(self, x: Tensor) -> Tensor:
        """The negative ELBO with one sample of the latents: uint8 [rows, 1, h, w] -> float32 [rows] bits."""
        return self.parts(x).sum(1)

    def parts(self, x: Tensor, latents: Sequence[Tensor] | None = None) -> Tensor:
        """Bits of x and of the latents, float32 [rows, 2]; at coded latents (float64 [rows, latents]) if given."""
        if latents is None:
            nll, kl = self.net(x)
            return torch.stack([nll, kl.sum(1)], 1)
        mean, y = self.net.encode(x)
        target = rec.Target(mean.double(), y.double())
        z = latents[0].to(mean.device)
        ratio = target.log_ratio(z).sum(1) / math.log(2)
        return torch.stack([self.net.nll(x, z.float()), ratio.float()], 1)

    def training_step(self, x: Tensor, index: int) -> Tensor:
        nll, kl = self.net(x)
        weight = min(1.0, (self.global_step + 1) / self.kl_warmup) if self.kl_warmup else 1.0
        loss = nll + weight * (kl + self.overhead * index_overhead(kl)).sum(1)
        rate = (nll.mean() + kl.sum(1).mean()).detach() / self.dims
        self.log("train/elbo_bpd", rate)
        self.log("bpd", rate, prog_bar=True, logger=False)
        return loss.mean() * math.log(2) / self.dims

    def on_validation_epoch_start(self) -> None:
        """Learn the tables that the head codes with, from training rows, for the weights as they are now."""
        rows = cast(Any, self.trainer).datamodule.train
        self.learn_tables(rows[:LEARN_ROWS], cast(Any, self.trainer).datamodule.batch_size)

    def validation_step(self, x: Tensor, index: int) -> None:
        parts = self.parts(x).mean(0) / self.dims
        self.log("validation/elbo_bpd", parts.sum(), batch_size=len(x), sync_dist=True)
        for name, part in zip(("x", "z"), parts, strict=True):
            self.log(f"layers/{name}_bpd", part, batch_size=len(x), sync_dist=True)

    @torch.inference_mode()
    def learn_tables(self, rows: Tensor, batch: int, rounds: int = 3) -> None:
        """Count each sampler's nodes on rows: uint8 [rows, 1, h, w], of which `batch` a network call.

        rounds: what is shortest depends on the table itself, so table and choice follow each other so many times; few
        will do where the table was learned before, on weights that were not much different.
        """
        training = self.training
        self.eval()
        target = self.targets(
            torch.cat([torch.stack(self.net.encode(x.to(self.device))) for x in rows.split(batch)], 1)
        )
        count = len(target.loc) // self.net.latents
        keys, which = self.keys(torch.arange(count, device=self.device))
        # From a table that knows nothing: one of an earlier model, whose latents were dead, would keep them at depth 0.
        self.depths.zero_()
        for i, sampler in enumerate(SAMPLERS):
            for _ in range(rounds if sampler in ("shortest", "codebook") else 1):
                node = self.search(target, keys, which, sampler)
                if sampler == "codebook":
                    place = which * self.nodes.shape[1] + node
                    counts = torch.bincount(place, minlength=self.nodes.numel()).view_as(self.nodes)
                    # Without what was expected, a node that lost its rows once would stay lost.
                    self.nodes.copy_(counts + expected_nodes().to(counts.device))
                self.depths[i] = rec.count_depths(node.view(count, -1)).to(self.depths)
        self.train(training)

    def targets(self, posterior: Tensor | Sequence[Tensor]) -> rec.Target:
        """Of mean and y, [rows, latents] each, flattened, the latents of a row side by side."""
        mean, y = posterior
        return rec.target(mean.double(), torch.exp(-0.5 * y.double()))

    def keys(self, number: Tensor, sampler: str = "ad_star") -> tuple[rec.Keys, Tensor]:
        """Keys of the latents of rows with these numbers, and each latent's table, int64 [rows * latents]."""
        if sampler == "codebook":  # the same points for every row
            number = torch.zeros_like(number)
        latent = torch.arange(self.net.latents, device=number.device)
        return rec.Keys.of(SEED, number[:, None], latent), latent.repeat(len(number))

    def frequencies(self, sampler: str) -> Tensor:
        """Learned frequencies of depths of a sampler's nodes: int64 [latents, DEPTHS]."""
        return rec.learned(self.depths[SAMPLERS.index(sampler)].round().long())

    def book(self) -> Tensor:
        """Learned frequencies of the nodes of sampler=codebook: int64 [latents, nodes]."""
        return rec.learned_nodes((1024 * self.nodes).round().long())

    def search(self, target: rec.Target, keys: rec.Keys, which: Tensor, sampler: str) -> Tensor:
        """The node of each latent: int64 [rows * latents]."""
        if sampler == "ad_star":
            return rec.ad_star(target, keys).node
        if sampler == "greedy":
            return rec.greedy_dyadic(target, keys).node
        if sampler == "shortest":
            return rec.shortest(target, keys, self.frequencies(sampler), which)
        if sampler == "codebook":
            return rec.shortest_shared(target, SEED, self.book())
        return rec.ad_star(target, keys, self.net.depth_limit()).node

    @torch.inference_mode()
    def diagnose(self, rows: Tensor, result: dict[str, float]) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Figures and histograms of relative entropy coding for TensorBoard, given those of the files.

        rows: uint8 [rows, 1, h, w]; result: of `toolkit.callbacks.evaluate`, in bits/dim and MB/s.
        """
        target = self.targets(self.net.encode(rows.to(self.device)))
        keys, _ = self.keys(torch.arange(len(rows), device=self.device))
        visited = rec.ad_star(target, keys).visited
        kl, peak = target.kl(), target.divergence()
        over = (result["file_bpd"] - result["elbo_bpd"]) * self.dims
        figures = {
            "rec/overhead_bits_a_latent": over / self.net.latents,
            "rec/kl_bits_a_latent": float(kl.mean()),
            "rec/latents_in_use": float((kl.view(len(rows), -1).mean(0) > 0.05).sum()),
            "rec/divergence_bits_most": float(peak.max()),
            "rec/nodes_visited": float(visited.double().mean()),
            "rec/encode_s_a_row": self.dims / 1e6 / result["speed/encode_MB_per_s"],
            "rec/decode_s_a_row": self.dims / 1e6 / result["speed/decode_MB_per_s"],
        }
        return figures, {"rec/kl_bits": kl, "rec/divergence_bits": peak, "rec/nodes": visited}

    @torch.inference_mode()
    def sample(self, rows: int, seed: int = 0) -> Tensor:
        """Images of the model, uint8 [rows, 1, h, w], of latents from the prior."""
        z = torch.randn(rows, self.net.latents, generator=torch.Generator().manual_seed(seed)).to(self.device)
        return self._draw(z, seed)

    @torch.inference_mode()
    def reconstruct(self, x: Tensor, seed: int = 0) -> Tensor:
        """uint8 [rows, 1, h, w] -> images drawn given nothing but the posterior means of x, uint8."""
        return self._draw(self.net.encode(x)[0], seed)

    def _draw(self, z: Tensor, seed: int) -> Tensor:
        shape = (*self.shape, len(z))
        noise = Message.random(1024, 4 * math.prod(shape) // 1024 + 64, seed, z.device)
        valid = torch.ones(shape, dtype=torch.bool, device=z.device)
        return self.net.pixels(z, valid).pop(noise).movedim(-1, 0).to(torch.uint8)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            [p for p in self.parameters() if p.requires_grad], lr=self.learning_rate, betas=(0.9, 0.99),
            weight_decay=self.weight_decay,
        )  # fmt: skip


SEED = 0  # of the shared random points; part of the file format


def head(
    module: IKVAE, valid: Tensor, number: Tensor, sampler: str, code: str, trace: list[Tensor] | None = None
) -> Codec:
    """Codec of a block of rows, each on a lane of its own: int64 [rows, 1, h, w] levels, of which `valid` are coded.

    number: int64 [rows], what tells rows of a chunk apart; sampler: ad_star or greedy (exact samples), dad_star (of a
    tree with kappa + 1 levels), shortest (no sample, but the node that makes node and pixels shortest), or codebook
    (the same among points that all rows share, under a table of the points); code: learned (depths by histogram), zeta,
    or fixed (a fixed length, with dad_star); trace: receives the chosen latents, float64 [rows, latents].
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"expected sampler to be one of {', '.join(SAMPLERS)}, got {sampler!r}")
    if code not in {"codebook": ("learned",), "dad_star": CODES}.get(sampler, CODES[:2]):
        raise ValueError(
            "expected code to be learned, or zeta but with sampler=codebook, or fixed with sampler=dad_star, got "
            f"{code!r} with {sampler}"
        )
    rows, latents = len(valid), module.net.latents
    alive = valid.flatten(1).any(1)
    keys, which = module.keys(number, sampler)
    table_of = which.view(rows, latents).T.contiguous()
    coded = alive.expand(latents, rows)
    if sampler == "codebook":
        names = rec.codebook(module.book(), table_of, coded)
    elif code == "fixed":
        names = rec.fixed_length(module.net.depth_limit(), coded, coded)
    else:
        # The literature's code knows nothing of a latent but one exponent.
        table = module.frequencies(sampler) if code == "learned" else rec.zeta(1.5, latents)
        names = rec.node_codec(table, table_of, coded)

    def pixels(node: Tensor) -> Codec:  # node: int64 [latents, rows]
        z = rec.rebuild_dyadic(node.T.flatten(), keys).view(rows, latents)
        z = torch.where(alive[:, None], z, 0)
        if trace is not None:
            trace.append(z)
        return module.net.pixels(z.float(), valid.movedim(0, -1))

    def push(message: Message, x: Tensor) -> None:
        posterior = module.net.encode(complete(x, valid))
        node = module.search(module.targets(posterior), keys, which, sampler).view(rows, latents).T
        node = torch.where(coded, node, 1)
        pixels(node).push(message, torch.where(valid, x, 0).movedim(0, -1))
        names.push(message, node)

    def pop(message: Message) -> Tensor:
        found = pixels(names.pop(message)).pop(message)
        return found.movedim(-1, 0)

    return Codec(push, pop)


def _dense(width: int, blocks: int) -> list[nn.Module]:
    return [layer for _ in range(blocks) for layer in (nn.Linear(width, width), nn.SiLU())]


def expected_nodes() -> Tensor:
    """Counts of nodes before any are seen, as if each depth were as likely: float32 [2^(BOOK_DEPTH + 1)]."""
    depth = rec.depth_of(torch.arange(2 << BOOK_DEPTH).clamp(min=1))
    found = torch.ldexp(torch.ones(len(depth)), -depth)
    found[0] = 0  # there is no node 0
    return EXPECTED * found / found.sum()


def _bins(loc: Tensor) -> Tensor:
    return frequencies.snap_location(loc * HALF + HALF)


def _levels(log_scale: Tensor) -> Tensor:
    return frequencies.snap_scale(log_scale + math.log(HALF))
