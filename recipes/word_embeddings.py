"""Bayesian skip-gram: word vectors that know their uncertainty (Barkan 2017, arXiv:1603.06571), trained by VI."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit.coding.compiled import jit
from toolkit.data.text import Tokens
from toolkit.heads.vectors import Vectors
from toolkit.model import Model

NOISE_POWER = 0.75  # of counts, in the distribution of negatives (Mikolov et al. 2013, arXiv:1310.4546)
TABLE = 1 << 22  # places of the table that negatives are drawn from
CURVATURE = 0.005  # guess of the likelihood's curvature for each pair, which the first tenth of an epoch replaces
STABLE = 0.2  # bound on a pair's curvature in the direction of a step: limits steps of rows that occur often in a batch


class Posterior(nn.Module):
    """Independent Gaussians for the rows of one matrix of vectors."""

    mean: Tensor  # float32 [words, d]
    precision: Tensor  # float32 [words, d], 1 / sigma^2
    seen: Tensor  # float32 [words, 1], pairs that the running mean of the curvature remembers

    def __init__(self, words: int, d: int, prior_std: float, init: float) -> None:
        super().__init__()
        self.prior = prior_std**-2
        # A parameter, so that optimizers and checkpoints find it; its gradient is made by hand, for a few rows a step.
        self.mean = nn.Parameter((torch.rand(words, d) - 0.5) * init, requires_grad=False)
        self.register_buffer("precision", torch.full((words, d), self.prior))
        self.register_buffer("seen", torch.zeros(words, 1))

    def start(self, pairs: Tensor, temperature: float) -> None:
        """Give the precision its first guess; pairs: float [words], of each word in an epoch."""
        self.precision.copy_(self.prior + pairs[:, None] * CURVATURE / temperature)
        self.seen.copy_(0.1 * pairs[:, None])

    def draw(self, rows: Tensor) -> Tensor:
        """Samples float32 [n, d] of int64 [n] rows, each with noise of its own."""
        noise = torch.randn(len(rows), self.mean.shape[1], device=rows.device)
        if rows.device.type != "cpu":
            return torch.addcmul(self.mean[rows], self.precision[rows].rsqrt(), noise)
        _add_noise(self.mean.data.numpy(), self.precision.numpy(), rows.numpy(), noise.numpy())
        return noise

    def update(
        self, rows: Tensor, gradient: Tensor, curvature: Tensor, pairs: Tensor, weight: Tensor, epoch: Tensor,
        temperature: float, rate: float,
    ) -> None:  # fmt: skip
        """A step for int64 [n] distinct rows, from sums over a batch.

        gradient, curvature: float [n, d], first and second derivatives of the negative log-likelihood; pairs: float
        [n, 1], positive ones, and weight: all, negatives too; epoch: float [n, 1], pairs of an epoch. The KL term is
        spread over the epoch's pairs.
        """
        mean, precision, seen = self.mean[rows], self.precision[rows], self.seen[rows]
        share = pairs / epoch
        gradient = gradient + temperature * share * self.prior * mean
        self.mean[rows] = mean - rate * gradient / (1 + rate * STABLE * weight)
        # The optimal precision is that of the prior plus the expected curvature (Opper, Archambeau 2009,
        # doi:10.1162/neco.2008.08-07-592), here a running mean that forgets with the time constant of an epoch.
        seen = seen * torch.exp(-share) + pairs
        mean_curvature = (precision - self.prior) / epoch
        mean_curvature += (curvature / temperature - pairs * mean_curvature) / seen.clamp(min=1e-6)
        self.precision[rows] = self.prior + epoch * mean_curvature.clamp(min=0)
        self.seen[rows] = seen

    def kl(self) -> Tensor:
        """KL divergence from the prior N(0, prior_std^2), nats, float64 scalar."""
        ratio = (self.prior / self.precision).double()
        return 0.5 * (ratio - 1 - ratio.log() + self.prior * self.mean.double().square()).sum()


class SkipGram(nn.Module):
    """Vectors of words and contexts; p(pair) = logistic(u . v)."""

    pairs: Tensor  # float32 [words], expected pairs of each word in an epoch

    def __init__(
        self, words: int, d: int, window: int, negatives: int, shared: int, block: int, prior_std: float
    ) -> None:
        super().__init__()
        self.window, self.negatives, self.shared, self.block = window, negatives, shared, block
        self.words = Posterior(words, d, prior_std, init=1 / d)
        self.contexts = Posterior(words, d, prior_std, init=0.0)
        self.register_buffer("pairs", torch.ones(words))

    def forward(self, u: Tensor, v: Tensor, negative: Tensor, near: Tensor) -> tuple[Tensor, ...]:
        """Negative log-likelihood in nats, float scalar, and its derivatives.

        u: float [blocks, block, d] vectors of words; v: [blocks, block + 2 window, d] of the contexts around them;
        negative: [blocks, shared, d], which all words of a block share, each with the weight that makes them
        `negatives` for each pair; near: float [blocks, block, block + 2 window], 1 where there is a pair. Returns the
        loss, gradient and curvature of u, and of v and negative together.
        """
        both = torch.cat([v, negative], 1)
        logits = u @ both.transpose(1, 2)
        n = near.sum(2, keepdim=True) * (self.negatives / self.shared)
        weight = torch.cat([near, n.expand(-1, -1, self.shared)], 2)
        positive = torch.zeros_like(logits[0, 0])
        positive[: v.shape[1]] = 1
        p = torch.sigmoid(logits)
        loss = (weight * F.softplus(logits * (1 - 2 * positive))).sum()
        first, second = weight * (p - positive), weight * p * (1 - p)
        back_first, back_second = first.transpose(1, 2), second.transpose(1, 2)
        # The second derivative along one coordinate of u is that of the logit's loss times v^2.
        return loss, first @ both, second @ both.square(), back_first @ u, back_second @ u.square()


class WordEmbeddings(Model):
    """The model: stochastic variational inference with sparse steps; no autograd.

    shape: (words,); dimensions: of a vector; window: largest distance of a pair, as gensim's; negatives: for each pair;
    shared_negatives: drawn for each block of `block` words; step_tokens: tokens of one step; prior_std: of each
    coordinate; temperature: weight of the KL term (1: the ELBO; below 1: a colder, sharper posterior);
    learning_rate: of a sum over pairs, at its peak; warmup: batches.
    """

    def __init__(
        self, shape: Sequence[int], dimensions: int, window: int, negatives: int, shared_negatives: int, block: int,
        step_tokens: int, prior_std: float, temperature: float, learning_rate: float, warmup: int,
    ) -> None:  # fmt: skip
        super().__init__()
        least = min(dimensions, window, negatives, shared_negatives, block, step_tokens)
        if least < 1 or step_tokens % block or not prior_std > 0 or not temperature > 0:
            raise ValueError(
                "expected dimensions, window, negatives, shared_negatives and block of at least 1, step_tokens a "
                f"multiple of block, prior_std and temperature above 0, got {dimensions}, {window}, {negatives}, "
                f"{shared_negatives}, {block}, {step_tokens}, {prior_std} and {temperature}"
            )
        self.automatic_optimization = False
        self.net = SkipGram(shape[0], dimensions, window, negatives, shared_negatives, block, prior_std)
        self.step_tokens, self.temperature, self.learning_rate = step_tokens, temperature, learning_rate
        self.table = torch.zeros(0, dtype=torch.int64)  # of negatives, made when the counts are known

    def on_fit_start(self) -> None:
        """Take counts from the data: for negatives, expected pairs, and the first guess of the precision."""
        if self.trainer.world_size > 1:
            raise ValueError("expected trainer.devices=1, got more; rows are updated in place, in one process")
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it
        noise = data.counts.double().pow(NOISE_POWER).cumsum(0)
        places = (torch.arange(TABLE) + 0.5) / TABLE
        self.table = torch.searchsorted((noise / noise[-1]).float(), places).to(self.device)
        # A window reaches 1 to `window` words to each side, all equally often.
        pairs = ((data.counts * data.keep).float() * (self.net.window + 1)).to(self.device)
        if not bool(self.net.words.seen.any()):  # else they are those of an earlier training
            self.net.pairs.copy_(pairs)
            for posterior in (self.net.words, self.net.contexts):
                posterior.start(self.net.pairs, self.temperature)
        elif not torch.equal(self.net.pairs, pairs):
            raise ValueError(
                "expected the text and window of the training whose vectors go on, as each row is a word's, got "
                "others; give the same, or leave out init="
            )

    def training_step(self, batch: Tokens, index: int) -> None:
        optimizer: Any = self.optimizers()
        rate: float = optimizer.param_groups[0]["lr"]
        bits = self._walk(batch, rate)
        optimizer.step()  # has no gradients, so it changes nothing: Lightning counts steps by it
        self.log("train/bits_per_pair", bits)
        self.log("bits_per_pair", bits, prog_bar=True, logger=False)

    def validation_step(self, batch: Tokens, index: int) -> None:
        self.log("validation/bits_per_pair", self._walk(batch, None), batch_size=1)
        kl = float(self.net.words.kl() + self.net.contexts.kl()) / math.log(2)
        self.log("validation/kl_bits_per_pair", kl / float(self.net.pairs.sum()), batch_size=1)

    def _walk(self, batch: Tokens, rate: float | None) -> float:
        """Negative log-likelihood in bits a pair, its negatives included, with a step for each part if there is a rate.

        One sample of the vectors for each occurrence of a word.
        """
        size = self.step_tokens
        parts = zip(batch.word.split(size), batch.sentence.split(size), strict=True)
        results = [self._step(Tokens(word, sentence), rate) for word, sentence in parts]
        nats, pairs = (float(torch.stack(column).sum()) for column in zip(*results, strict=True))
        return nats / max(pairs, 1.0) / math.log(2)

    @torch.no_grad()
    def _step(self, batch: Tokens, rate: float | None) -> tuple[Tensor, Tensor]:
        """Loss in nats and number of pairs of a batch; with a rate, also a step down the negative ELBO's gradient."""
        net, window, block = self.net, self.net.window, self.net.block
        word, sentence = (F.pad(x, (0, -len(x) % block), value=-1) for x in batch)
        blocks = len(word) // block
        reach = torch.randint(1, window + 1, (blocks, block, 1), device=word.device)
        around = F.pad(sentence, (window, window), value=-1).unfold(0, block + 2 * window, block)[:, None]
        middle = torch.arange(block, device=word.device)[:, None] + window
        distance = (middle - torch.arange(block + 2 * window, device=word.device)).abs()
        same = (around == sentence.view(blocks, block, 1)) & (around >= 0)
        near = (same & (distance <= reach) & (distance > 0)).float()
        word = word.clamp(min=0)  # of padding, which has no pairs
        negative = self.table[torch.randint(TABLE, (blocks, net.shared), device=word.device)]
        drawn_rows = torch.cat([word, negative.flatten()])
        u, v = net.words.draw(word), net.contexts.draw(drawn_rows)
        d = u.shape[1]
        context = F.pad(v[: len(word)], (0, 0, window, window)).unfold(0, block + 2 * window, block).transpose(1, 2)
        loss, *derivatives = net(u.view(blocks, block, d), context, v[len(word) :].view(blocks, -1, d), near)
        pairs = near.sum(2)
        if rate is not None:
            gradient, curvature, *of_both = derivatives
            centre = pairs.view(-1, 1)
            self._update(net.words, word, gradient.reshape(-1, d), curvature.reshape(-1, d), centre, centre, rate)
            gradient, curvature = (_fold(x, block, window) for x in of_both)
            drawn = (pairs.sum(1, keepdim=True) * (net.negatives / net.shared)).expand(-1, net.shared).reshape(-1, 1)
            zeros = torch.zeros_like(drawn)
            centre, drawn = torch.cat([centre, zeros]), torch.cat([centre, drawn])
            self._update(net.contexts, drawn_rows, gradient, curvature, centre, drawn, rate)
        return loss, pairs.sum()

    def _update(
        self, posterior: Posterior, places: Tensor, gradient: Tensor, curvature: Tensor, pairs: Tensor, weight: Tensor,
        rate: float,
    ) -> None:  # fmt: skip
        """Add up what belongs to the same row, of int64 [n] places, and update these rows."""
        if places.device.type == "cpu":
            ordered = places.sort(stable=True)
            _update_rows(
                posterior.mean.data.numpy(), posterior.precision.numpy(), posterior.seen[:, 0].numpy(),
                *(x.numpy() for x in ordered), gradient.numpy(), curvature.numpy(), pairs[:, 0].numpy(),
                weight[:, 0].numpy(), self.net.pairs.numpy(), np.float32(posterior.prior), np.float32(self.temperature),
                np.float32(rate), np.empty((2, gradient.shape[1]), np.float32),
            )  # fmt: skip
            return
        rows, index = torch.unique(places, return_inverse=True)
        g, c, p, w = (
            x.new_zeros(len(rows), x.shape[1]).index_add_(0, index, x) for x in (gradient, curvature, pairs, weight)
        )
        epoch = self.net.pairs[rows, None].clamp(min=1)
        posterior.update(rows, g, c, p, w, epoch, self.temperature, rate)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """An optimizer for its learning rate and Lightning's count of steps; rows are updated in `Posterior.update`."""
        return torch.optim.SGD([self.net.words.mean, self.net.contexts.mean], lr=self.learning_rate)

    def posterior(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the words' vectors, float32 [words, d], on the host."""
        return self.net.words.mean.detach().cpu(), self.net.words.precision.rsqrt().cpu()


@jit
def _add_noise(mean: Any, precision: Any, rows: Any, noise: Any) -> None:
    """Samples in the place of noise, float32 [n, d]: `Posterior.draw` on a CPU."""
    for i in range(len(rows)):
        row = rows[i]
        for j in range(noise.shape[1]):
            noise[i, j] = mean[row, j] + noise[i, j] / np.sqrt(precision[row, j])


@jit
def _update_rows(
    mean: Any, precision: Any, seen: Any, rows: Any, order: Any, gradient: Any, curvature: Any, pairs: Any, weight: Any,
    epoch: Any, prior: Any, temperature: Any, rate: Any, sums: Any,
) -> None:  # fmt: skip
    """`Posterior.update` on a CPU, of what belongs to the same row, added up.

    rows: int64 [n], in order; order: int64 [n], the places of the other arrays that are theirs; sums: float32 [2, d].
    """
    i, d, zero, one = 0, mean.shape[1], np.float32(0), np.float32(1)
    while i < len(rows):
        row = rows[i]
        sums[:] = zero
        p, w = zero, zero
        while i < len(rows) and rows[i] == row:
            at = order[i]
            for j in range(d):
                sums[0, j] += gradient[at, j]
                sums[1, j] += curvature[at, j]
            p += pairs[at]
            w += weight[at]
            i += 1
        whole = max(epoch[row], one)
        share = p / whole
        step = rate / (one + rate * np.float32(STABLE) * w)
        memory = seen[row] * np.exp(-share) + p
        seen[row] = memory
        memory = max(memory, np.float32(1e-6))
        for j in range(d):
            m, old = mean[row, j], (precision[row, j] - prior) / whole
            mean[row, j] = m - step * (sums[0, j] + temperature * share * prior * m)
            old += (sums[1, j] / temperature - p * old) / memory
            precision[row, j] = prior + whole * max(old, zero)


def _fold(x: Tensor, block: int, window: int) -> Tensor:
    """Add up [blocks, block + 2 window + shared, d] of contexts, which neighbouring blocks share, and negatives.

    Returns [tokens + blocks * shared, d]: of the tokens, then of the negatives.
    """
    blocks, _, d = x.shape
    n = blocks * block
    total = x.new_zeros(n + 2 * window, d)
    place = torch.arange(blocks, device=x.device)[:, None] * block + torch.arange(block + 2 * window, device=x.device)
    total.index_add_(0, place.flatten(), x[:, : block + 2 * window].reshape(-1, d))
    return torch.cat([total[window : window + n], x[:, block + 2 * window :].reshape(-1, d)])


Evaluation = Vectors  # what runs from before heads name
