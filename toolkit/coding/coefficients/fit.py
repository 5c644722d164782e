"""What coefficients are coded with, fitted to those of a training set: weights of predictions, and counters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit.coding.coefficients import codec
from toolkit.coding.coefficients.codec import Channels
from toolkit.coding.coefficients.loop import CLAMP, FRACTION, OWN, PAD, RATES

SAMPLES = 12_288  # places that predictions are fitted to
FLOOR = 1e-3  # least predicted magnitude
ONE = 1 << FRACTION
LARGEST = 8.0  # weight
RIDGE = 2e-3  # of least squares, of the mean square of all inputs
FIRST_RATE, LATER_RATE = 0.01, 0.003  # of learning of the coder's mixture
DEAD_ZONE = 0.18  # of the rounding that stands for the search: (0.5 + this) steps go to zero
AROUND = (((0, 0),), ((0, -1), (0, 1), (-1, 0), (1, 0)), ((-1, -1), (-1, 1), (1, -1), (1, 1)))  # see `loop.KINDS`


def rounded_to_zero(x: Tensor) -> Tensor:
    """The nearest integers, with a dead zone around each: what the search by rate and distortion does to most."""
    return (x.abs() + (0.5 - DEAD_ZONE)).floor() * x.sign()


def tables(
    channels: Channels, mu: Tensor, sigma: Tensor, precision: Tensor, rate: Tensor, steps: int,
    generator: torch.Generator,
) -> tuple[codec.Tables, float]:  # fmt: skip
    """Tables for latents float [rows, channels, h, w] in steps, as `codec.search` takes them, and all their bits.

    precision: float [rows]; rate: int64 [rows]; steps: of the fit of predicted magnitudes. Counters learn from rounded
    latents, then twice from the search's.
    """
    k = rounded_to_zero(mu)
    blank = codec.blank(channels)._replace(weights=predictions(channels, k, rate, steps))
    model = codec.Model(channels, blank, FIRST_RATE)
    for i in range(len(k)):
        codec.given(model, k[i : i + 1], int(rate[i]))
    model.learning, bits = LATER_RATE, 0.0
    for _ in range(2):
        bits = 0.0
        for i in torch.randperm(len(k), generator=generator).tolist():
            here = slice(i, i + 1)
            coded = codec.search(model, mu[here], sigma[here], float(precision[i]), int(rate[i]))
            bits += float(coded.channel_bits.sum())
    return model.tables(), bits


def predictions(channels: Channels, k: Tensor, rate: Tensor, steps: int) -> Tensor:
    """Weights, as `Tables` has them, for int [rows, channels, h, w] coefficients at int64 [rows] rates.

    Means by least squares; magnitudes by so many steps that make a geometric distribution of this mean likelier.
    """
    generator = torch.Generator().manual_seed(0)
    rows, count, height, width = k.shape
    values = F.pad(k.float(), (PAD, PAD, PAD, PAD))
    sizes_of = torch.zeros_like(values)
    places = rate[:, None].expand(-1, height * width).flatten()

    def at(planes: Tensor, c: int, down: int, across: int) -> Tensor:
        y, x = PAD + down, PAD + across
        return planes[:, c, y : y + height, x : x + width].flatten()

    means, magnitudes = [], []
    own = torch.zeros(count, 2, len(OWN))
    base = torch.zeros(count, 2)
    for c in range(count):
        chosen = torch.randperm(len(places), generator=generator)[:SAMPLES]
        known = [*((c, *place) for place in OWN), *channels.means[c]]
        x, y = torch.stack([at(values, *each)[chosen] for each in known], 1), at(values, c, 0, 0)
        squares = x.T @ x
        squares += torch.eye(len(known)) * (1 + RIDGE * squares.diagonal().mean())
        w = torch.linalg.solve(squares, x.T @ y[chosen]).clamp(-LARGEST, LARGEST)
        own[c, 0], rest = w[: len(OWN)], w[len(OWN) :]
        means.append(rest)
        if c < channels.deep:
            whole = (w * ONE).round()
            mean = sum((n * at(values, *each) for n, each in zip(whole, known, strict=True)), torch.zeros(()))
            y = y - (mean / ONE + 0.5).floor()
        y = y.abs()
        sizes_of[:, c, PAD:-PAD, PAD:-PAD] = y.clamp(max=CLAMP).view(rows, height, width)
        parts = [at(sizes_of, c, *place)[chosen] for place in OWN]
        parts += [
            torch.stack([at(sizes_of, e, *place)[chosen] for place in kind]).sum(0)
            for e in channels.sizes[c] for kind in AROUND
        ]  # fmt: skip
        parts += [places[chosen].float(), RATES - places[chosen].float()]
        w = _magnitude(torch.stack(parts, 1), y[chosen], steps)
        own[c, 1], base[c] = w[: len(OWN)], w[-2:]
        magnitudes.append(w[len(OWN) : -2])
    found = torch.cat([*means, *magnitudes, own.flatten(), base.flatten()])
    return (found * ONE).round().int()


def _magnitude(x: Tensor, y: Tensor, steps: int) -> Tensor:
    """Weights >= 0 under which magnitudes y [n] are cheap, given x [n, inputs], in a geometric distribution.

    Multiplicative steps (Lee, Seung 1999, doi:10.1038/44565), each of which lowers the cost: its gradient is the
    difference of two positive parts, and weights change by their ratio.
    """
    scale = x.mean(0).clamp(min=0.02)
    w = 0.5 / len(scale) * (y.mean() + 0.01) / scale
    for _ in range(steps):
        s = x @ w + FLOOR
        falls, rises = (y / s) @ x, ((1 + y) / (1 + s)) @ x
        w = w * (falls / rises.clamp(min=1e-9)).clamp(0.2, 5)
    return w.clamp(max=LARGEST)
