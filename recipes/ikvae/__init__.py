"""VAE and IsoKL VAE whose images are coded each alone (Flamich, Markou, Hernandez-Lobato 2022, arXiv:2201.12857)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from recipes.ikvae.isokl import index_overhead
from recipes.ikvae.net import Net
from toolkit.chunks.model import RowModel
from toolkit.coding import rec
from toolkit.coding.codecs import Codec
from toolkit.coding.message import Message
from toolkit.nets.exact import converted
from toolkit.nets.observation import complete

SAMPLERS = ("ad_star", "dad_star", "greedy", "shortest", "codebook")
BLOCK_SAMPLERS = ("blocks", "shortest_blocks")
CODES = ("learned", "zeta", "fixed")
LEARN_ROWS = 1024  # training rows whose nodes the tables are learned from
EXPECTED = 10.0  # rows' worth of nodes as expected beforehand that a table of nodes starts with and keeps
MOST_BLOCK_BITS = 16
MOST_TRIES = 32
BOOK_DEPTH = 8  # of the shared trees of sampler=codebook: 511 points a latent


class IKVAE(RowModel):
    """The model: minimises the negative ELBO; `bits` is what coding would cost without overhead.

    shape: (1, height, width) of the rows; posterior: gaussian, or isokl, whose every latent has kappa bits of KL;
    likelihood: mixture of `components` logistics, one logistic, or a beta-binomial, for each pixel; latents: how many;
    network: conv, or dense, which costs a tenth; width, blocks: of the networks; kappa: bits, where it starts if
    kappa_learned; block_bits: KL of latents that share an index with sampler=blocks or shortest_blocks, 0 for neither;
    overhead: weight of the index's cost beyond the KL in the loss, 0 for the ELBO; learning_rate: at its
    peak; warmup, kl_warmup: steps.
    """

    alone = True  # rows are coded each alone
    block_bits: float = 0
    depths: Tensor
    nodes: Tensor
    kl: Tensor
    block_depths: Tensor

    def __init__(
        self, shape: Sequence[int], posterior: str, likelihood: str, components: int, latents: int, network: str,
        width: int, blocks: int, kappa: float, kappa_learned: bool, overhead: float, learning_rate: float, warmup: int,
        weight_decay: float, kl_warmup: int, block_bits: float = 0,
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
        if block_bits:
            self.use_blocks(block_bits)

    def use_blocks(self, bits: float) -> None:
        """Prepare for blocks of latents of so many bits of KL; their tables are to be learned."""
        if not 0 < bits <= MOST_BLOCK_BITS:
            raise ValueError(
                f"expected block_bits above 0 and at most {MOST_BLOCK_BITS}, got {bits}: 2**(block_bits + 5) candidates"
                " are tried for each block"
            )
        self.block_bits = bits
        self.register_buffer("kl", torch.zeros(self.net.latents, device=self.device))  # mean KL of each latent, bits
        # As `depths`, of the indices of blocks: a table for each block, of which there are at most as many as latents.
        shape = len(BLOCK_SAMPLERS), self.net.latents, rec.DEPTHS
        self.register_buffer("block_depths", torch.zeros(shape, device=self.device))

    def exact(self, rows: Tensor | None = None) -> IKVAE:
        """This model with a decoder in exact arithmetic, for coding only: see `Model.exact`."""
        return converted(self, rows)

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
        if self.block_bits:
            self.kl.copy_(target.kl().view(count, -1).mean(0))
            self.block_depths.zero_()
            for i, sampler in enumerate(BLOCK_SAMPLERS):
                for _ in range(rounds if sampler == "shortest_blocks" else 1):
                    number = torch.arange(count, device=self.device)
                    found = rec.count_depths(self.options(target, number, sampler)[0].T)
                    self.block_depths[i, : len(found)] = found.to(self.block_depths)
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
        """Learned frequencies of depths of a sampler's nodes: int64 [latents, DEPTHS], or [blocks, DEPTHS]."""
        if sampler in BLOCK_SAMPLERS:
            counts = self.block_depths[BLOCK_SAMPLERS.index(sampler), : len(self.blocks().bits)]
            return rec.learned(counts.round().long())
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

    def blocks(self) -> rec.Blocks:
        """The latents of each block of sampler=blocks and shortest_blocks."""
        if not self.block_bits:
            raise ValueError(
                "expected block_bits above 0 with blocks of latents, got 0; train with recipe.module.block_bits=10"
            )
        return rec.blocks((64 * self.kl).round() / 64, self.block_bits)

    def options(self, target: rec.Target, number: Tensor, sampler: str, tries: int = 1) -> Tensor:
        """Nodes of the rows with these numbers, the best so many, best first: int64 [tries, units, rows].

        A unit is a latent, or a block of them with sampler=blocks (one try) and shortest_blocks.
        """
        if sampler not in BLOCK_SAMPLERS:
            keys, which = self.keys(number, sampler)
            return self.search(target, keys, which, sampler).view(1, len(number), -1).transpose(1, 2)
        blocks = self.blocks()
        parts = zip(blocks.targets(target, self.net.latents), blocks.keys(SEED), blocks.bits, strict=True)
        if sampler == "blocks":
            return torch.stack([rec.ordered_random(*part).node for part in parts])[None]
        freqs = self.frequencies(sampler)
        found = [rec.shortest_block(t, k, freqs[i], bits, tries) for i, (t, k, bits) in enumerate(parts)]
        return torch.stack(found).permute(2, 0, 1)

    def rebuild(self, node: Tensor, number: Tensor, sampler: str) -> Tensor:
        """The latents that nodes stand for: int64 [units, rows] -> float64 [rows, latents]."""
        if sampler in BLOCK_SAMPLERS:
            return self.blocks().rebuild(node.T, SEED)
        return rec.rebuild_dyadic(node.T.flatten(), self.keys(number, sampler)[0]).view(len(number), -1)

    @torch.inference_mode()
    def diagnose(self, rows: Tensor, result: dict[str, float]) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Figures and histograms of relative entropy coding for TensorBoard, given those of the files.

        rows: uint8 [rows, 1, h, w]; result: of `toolkit.training.evaluation.evaluate`, in bits/dim and MB/s.
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
    def views(self, x: Tensor, seed: int = 0) -> dict[str, Tensor]:
        """uint8 [rows, 1, h, w] -> images drawn given nothing but the posterior means of x, uint8."""
        return {"through_the_latents": self._draw(self.net.encode(x)[0], seed)}

    def _draw(self, z: Tensor, seed: int) -> Tensor:
        shape = (*self.shape, len(z))
        noise = Message.random(1024, 4 * math.prod(shape) // 1024 + 64, seed, z.device)
        valid = torch.ones(shape, dtype=torch.bool, device=z.device)
        return self.net.pixels(z, valid).pop(noise).movedim(-1, 0).to(torch.uint8)


SEED = 0  # of the shared random points; part of the file format


def head(
    module: IKVAE, valid: Tensor, number: Tensor, sampler: str, code: str, tries: int = 1,
    trace: list[Tensor] | None = None,
) -> Codec:  # fmt: skip
    """Codec of a block of rows, each on a lane of its own: int64 [rows, 1, h, w] levels, of which `valid` are coded.

    number: int64 [rows], what tells rows of a chunk apart; sampler: ad_star or greedy (exact samples), dad_star (of a
    tree with kappa + 1 levels), shortest (no sample, but the node that makes node and pixels shortest), codebook
    (the same among points that all rows share, under a table of the points), blocks (nearly exact samples of groups of
    latents), or shortest_blocks; code: learned (depths by histogram), zeta, or fixed (a fixed length, with dad_star);
    tries: with shortest_blocks, candidates of each block that are tried on the pixels themselves, each of which takes
    as long as encoding does; trace: receives the chosen latents, float64 [rows, latents].
    """
    alive = valid.flatten(1).any(1)
    names, coded = naming(module, alive, sampler, code)
    if not 1 <= tries <= (MOST_TRIES if sampler == "shortest_blocks" else 1):
        raise ValueError(f"expected tries=1, or with sampler=shortest_blocks up to {MOST_TRIES}, got {tries}")

    def rebuild(node: Tensor) -> Tensor:  # int64 [units, rows] -> float64 [rows, latents]
        return torch.where(alive[:, None], module.rebuild(node, number, sampler), 0)

    def pixels(z: Tensor) -> Codec:
        return module.net.pixels(z.float(), valid.movedim(0, -1))

    def push(message: Message, x: Tensor) -> None:
        target = module.targets(module.net.encode(complete(x, valid)))
        options = torch.where(coded, module.options(target, number, sampler, tries), 1)
        levels = torch.where(valid, x, 0).movedim(0, -1)

        def cost(node: Tensor) -> Tensor:  # int64 [units, rows] -> float64 [rows], bits
            tried = Message.empty(len(valid), valid.device, first=1)
            pixels(rebuild(node)).push(tried, levels)
            names.push(tried, node)
            return tried.lane_bits()

        node = least(options, cost) if len(options) > 1 else options[0]
        z = rebuild(node)
        if trace is not None:
            trace.append(z)
        pixels(z).push(message, levels)
        names.push(message, node)

    def pop(message: Message) -> Tensor:
        return pixels(rebuild(names.pop(message))).pop(message).movedim(-1, 0)

    return Codec(push, pop)


def naming(module: IKVAE, alive: Tensor, sampler: str, code: str) -> tuple[Codec, Tensor]:
    """Codec of the nodes of latents, or of blocks, int64 [units, rows], and which are coded, bool of that shape.

    alive: bool [rows]; sampler, code: as of `head`, which raises ValueError through this.
    """
    known = SAMPLERS + BLOCK_SAMPLERS
    if sampler not in known:
        raise ValueError(f"expected sampler to be one of {', '.join(known)}, got {sampler!r}")
    if code not in {"codebook": ("learned",), "dad_star": CODES}.get(sampler, CODES[:2]):
        raise ValueError(
            "expected code to be learned, or zeta but with sampler=codebook, or fixed with sampler=dad_star, got "
            f"{code!r} with {sampler}"
        )
    units = len(module.blocks().bits) if sampler in BLOCK_SAMPLERS else module.net.latents
    coded = alive.expand(units, len(alive))
    table_of = torch.arange(units, device=alive.device)[:, None].expand(coded.shape).contiguous()
    if sampler == "codebook":
        return rec.codebook(module.book(), table_of, coded), coded
    if code == "fixed":
        return rec.fixed_length(module.net.depth_limit(), coded, coded), coded
    # The literature's code knows nothing of a latent but one exponent.
    table = module.frequencies(sampler) if code == "learned" else rec.zeta(1.5, units, alive.device)
    return rec.node_codec(table, table_of, coded), coded


def least(options: Tensor, cost: Callable[[Tensor], Tensor]) -> Tensor:
    """One of the options of each unit, one unit after the other: int64 [options, units, rows] -> int64 [units, rows].

    cost(int64 [units, rows]) -> float64 [rows].
    """
    best = options[0].clone()
    bits = cost(best)
    for unit in range(options.shape[1]):
        for option in options[1:, unit]:
            trial = best.clone()
            trial[unit] = option
            found = cost(trial)
            best, bits = torch.where(found < bits, trial, best), torch.minimum(found, bits)
    return best


def expected_nodes() -> Tensor:
    """Counts of nodes before any are seen, as if each depth were as likely: float32 [2^(BOOK_DEPTH + 1)]."""
    depth = rec.depth_of(torch.arange(2 << BOOK_DEPTH).clamp(min=1))
    found = torch.ldexp(torch.ones(len(depth)), -depth)
    found[0] = 0  # there is no node 0
    return EXPECTED * found / found.sum()
