"""Codecs: pairs of functions that push symbols onto a message and pop them again, and the ways to combine them.

The law that every codec obeys: pop undoes push, and push undoes pop, bit for bit, on any message. That makes
bits-back coding (Townsend, Bird, Barber 2019, arXiv:1901.04866) a composition of three lines. The pair-of-functions
style is that of craystack (Townsend, Bird, Kunze, Barber 2020, arXiv:1912.09953).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from toolkit.coding import frequencies
from toolkit.coding.ans import STEPS, Find, Message

PRECISION = 24  # bits of a frequency: a floor of one count on each of 256 symbols costs 2e-5 bits


class Codec(NamedTuple):
    """`push(message, x)` codes x onto the message; `pop(message)` takes it off and returns it."""

    push: Callable[[Message, Tensor], None]
    pop: Callable[[Message], Tensor]


def to_lanes(x: Tensor, lanes: int, fill: int = 0) -> Tensor:
    """Arrange symbols [..., symbols] as [n, ..., lanes], symbol i at step i // lanes of lane i % lanes."""
    short = -x.shape[-1] % lanes
    if short:
        x = torch.cat([x, x.new_full((*x.shape[:-1], short), fill)], -1)
    return x.unflatten(-1, (-1, lanes)).movedim(-2, 0)


def interval_codec(
    interval: Callable[[Tensor], tuple[Tensor, Tensor]],
    find: Find,
    params: Sequence[Tensor],
    tables: Sequence[Tensor],
    valid: Tensor,
    precision: int,
    steps: int = STEPS,
) -> Codec:
    """A codec from a map of symbols to intervals and its inverse.

    interval(x int64 [symbols]) -> (start, freq); find: see Message.pop, on params [..., symbols] arranged in lanes;
    valid: bool, any shape, the shape of x; where False nothing is coded and `pop` returns 0.
    """
    shape, flat = valid.shape, valid.flatten()

    def push(message: Message, x: Tensor) -> None:
        if x.shape != shape:
            raise ValueError(f"push: expected symbols of shape {list(shape)}, got {list(x.shape)}")
        low, freq = interval(x.flatten().long())
        if bool((flat & (freq <= 0)).any()):
            i = int((flat & (freq <= 0)).nonzero()[0])
            raise ValueError(
                f"push: symbol {int(x.flatten()[i])} at position {i} has no frequency under its distribution; a codec "
                "without floor can only push what it popped"
            )
        low, freq = torch.where(flat, low, 0), torch.where(flat, freq, 1 << precision)
        lanes = message.lanes
        message.push(to_lanes(low, lanes), to_lanes(freq, lanes, 1 << precision), precision, steps)

    def pop(message: Message) -> Tensor:
        lanes = message.lanes
        arranged = [to_lanes(p, lanes).contiguous() for p in params]
        x = message.pop(to_lanes(flat, lanes), find, arranged, tables, precision, steps)
        return torch.where(flat, x.flatten()[: flat.numel()], 0).reshape(shape)

    return Codec(push, pop)


def uniform(shape: Sequence[int], bits: int, device: torch.device | str = "cpu") -> Codec:
    """Codec of symbols in [0, 2**bits) that are all equally likely; exactly `bits` bits each."""
    valid = torch.ones(tuple(shape), dtype=torch.bool, device=device)

    def interval(x: Tensor) -> tuple[Tensor, Tensor]:
        _check_range(x, 1 << bits)
        return x, torch.ones_like(x)

    return interval_codec(interval, _find_uniform, [], [], valid, bits)


def _find_uniform(u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return u, u, torch.ones_like(u)


def categorical(freqs: Tensor, shape: Sequence[int], precision: int) -> Codec:
    """Codec of symbols with one static table of integer frequencies.

    freqs: int64 [k], each at least 1, summing to 2**precision. Raises ValueError if they do not.
    """
    if freqs.dim() != 1 or int(freqs.sum()) != 1 << precision or int(freqs.min()) < 1:
        raise ValueError(
            f"categorical: expected [k] frequencies of at least 1 that sum to {1 << precision}, got shape "
            f"{list(freqs.shape)}, least {int(freqs.min())}, sum {int(freqs.sum())}"
        )
    starts = torch.cat([freqs.new_zeros(1), freqs.cumsum(0)])
    valid = torch.ones(tuple(shape), dtype=torch.bool, device=freqs.device)

    def interval(x: Tensor) -> tuple[Tensor, Tensor]:
        _check_range(x, freqs.shape[0])
        return starts[x], freqs[x]

    return interval_codec(interval, _find_categorical, [], [starts], valid, precision)


def _find_categorical(u: Tensor, starts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    symbol, low, high = _bisect(u, starts.shape[0] - 1, lambda x: starts[x])
    return symbol, low, high - low


def location_scale(
    kind: str, loc: Tensor, scale: Tensor, bins: int, least: int, precision: int = PRECISION, valid: Tensor | None = None
) -> Codec:
    """Codec of symbols in [0, bins) under a logistic or Gaussian with its own location and scale for each symbol.

    kind: "logistic" or "gaussian"; loc, scale: int64, the shape of the symbols, of `frequencies.snap_location` and
    `snap_scale`; least: 1 keeps a count for each symbol (likelihoods, priors), 0 does not (posteriors); valid: bool.
    """
    valid = torch.ones_like(loc, dtype=torch.bool) if valid is None else valid
    find, tables = _location_scale_find(kind, bins, least, precision), _tables(kind, loc.device)
    flat_loc, flat_scale = loc.flatten(), scale.flatten()

    def interval(x: Tensor) -> tuple[Tensor, Tensor]:
        _check_range(x, bins)
        inverse = tables[1][flat_scale]
        low, high = (
            frequencies.start(
                frequencies.cdf(kind, edge, flat_loc, inverse, bins, tables[0]), edge, bins, precision, least
            )
            for edge in (x, x + 1)
        )
        return low, high - low

    return interval_codec(interval, find, [flat_loc, flat_scale], tables, valid, precision)


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

    weight: int64 [k, ...] of `frequencies.weights`; loc, scale: int64 [k, ...]; valid: bool [...].
    """
    valid = torch.ones_like(loc[0], dtype=torch.bool) if valid is None else valid
    find, tables = _mixture_find(kind, bins, precision), _tables(kind, loc.device)
    weight, loc, scale = weight.flatten(1), loc.flatten(1), scale.flatten(1)

    def interval(x: Tensor) -> tuple[Tensor, Tensor]:
        _check_range(x, bins)
        inverse = tables[1][scale]
        low, high = (
            frequencies.start(
                frequencies.mix(weight, frequencies.cdf(kind, edge, loc, inverse, bins, tables[0])),
                edge, bins, precision, 1,
            )
            for edge in (x, x + 1)
        )  # fmt: skip
        return low, high - low

    # Each step of the search evaluates k components in log2(bins) rounds: two steps a block bound what is compiled.
    return interval_codec(interval, find, [weight, loc, scale], tables, valid, precision, steps=2)


def coupled_mixture(
    kind: str, weight: Tensor, loc: Tensor, scale: Tensor, coupling: Tensor, bins: int, valid: Tensor
) -> Codec:
    """Codec of pixels with c channels under a mixture whose component is shared by the channels of a pixel.

    Channel j's location moves linearly with the channels before it, and the weights become posterior weights after each
    channel (Salimans, Karpathy, Chen, Kingma 2017, arXiv:1701.05517), all in integers.

    weight: int64 [k, ...]; loc, scale: int64 [c, k, ...]; coupling: int64 [c (c - 1) / 2, k, ...] of
    `frequencies.snap_coupling`, in the order (1, 0), (2, 0), (2, 1); symbols and valid: [c, ...] in [0, bins).
    """
    channels, table = loc.shape[0], _tables(kind, loc.device)[0]

    def channel(j: int, weight: Tensor, x: Sequence[Tensor]) -> Codec:
        return mixture(kind, weight, moved(j, x), scale[j], bins, valid=valid[j])

    def moved(j: int, x: Sequence[Tensor]) -> Tensor:
        shift = sum(
            (coupling[j * (j - 1) // 2 + i] * (2 * x[i] - (bins - 1)) for i in range(j)), torch.zeros_like(loc[j])
        )
        # coupling is in 1/COUPLING_STEPS and x in half bins; LOC_STEPS a bin.
        return loc[j] + (shift >> 3)

    def after(j: int, weight: Tensor, x: Sequence[Tensor]) -> Tensor:
        inverse, at = frequencies.inverse_scales(loc.device)[scale[j]], moved(j, x)
        low, high = (frequencies.cdf(kind, edge, at, inverse, bins, table) for edge in (x[j], x[j] + 1))
        return torch.where(valid[j], frequencies.reweigh(weight, high - low), weight)

    def push(message: Message, x: Tensor) -> None:
        x, w, codecs = x.long(), weight, []
        for j in range(channels):
            codecs.append(channel(j, w, x[:j]))
            w = after(j, w, x) if j + 1 < channels else w
        for j in reversed(range(channels)):
            codecs[j].push(message, x[j])

    def pop(message: Message) -> Tensor:
        x: list[Tensor] = []
        w = weight
        for j in range(channels):
            x.append(channel(j, w, x).pop(message))
            w = after(j, w, x) if j + 1 < channels else w
        return torch.stack(x)

    return Codec(push, pop)


def bits_back(prior: Codec, likelihood: Callable[[Tensor], Codec], posterior: Callable[[Tensor], Codec]) -> Codec:
    """Codec of x under a latent-variable model; net cost -log2 p(x|z) p(z) / q(z|x) for the z that it draws.

    The message must hold the bits of one latent when `push` begins (Townsend, Bird, Barber 2019, arXiv:1901.04866).
    """

    def push(message: Message, x: Tensor) -> None:
        z = posterior(x).pop(message)
        likelihood(z).push(message, x)
        prior.push(message, z)

    def pop(message: Message) -> Tensor:
        z = prior.pop(message)
        x = likelihood(z).pop(message)
        posterior(x).push(message, z)
        return x

    return Codec(push, pop)


Layer = tuple[Callable[[Tensor], Codec], Callable[[Tensor], Codec]]  # (likelihood of z_i given z_i+1, posterior back)


def bit_swap(prior: Codec, layers: Sequence[Layer]) -> Codec:
    """Bit-Swap: `bits_back` nested in itself, for a Markov chain x = z_0 <- z_1 <- ... <- z_L.

    Each latent is popped only when the push before it has refilled the message, so the initial bits stay near those of
    one layer (Kingma, Abbeel, Ho 2019, arXiv:1905.06845). layers: (likelihood, posterior), the data's first.
    """
    codec = prior
    for likelihood, posterior in reversed(layers):
        codec = bits_back(codec, likelihood, posterior)
    return codec


def bb_ans(prior: Codec, layers: Sequence[Layer]) -> Codec:
    """BB-ANS on the same chain: pop all latents, then push all. Same net cost as `bit_swap`, more initial bits."""

    def push(message: Message, x: Tensor) -> None:
        z = [x]
        for _, posterior in layers:
            z.append(posterior(z[-1]).pop(message))
        for i, (likelihood, _) in enumerate(layers):
            likelihood(z[i + 1]).push(message, z[i])
        prior.push(message, z[-1])

    def pop(message: Message) -> Tensor:
        z = [prior.pop(message)]
        for likelihood, _ in reversed(layers):
            z.append(likelihood(z[-1]).pop(message))
        z.reverse()
        for i, (_, posterior) in reversed(list(enumerate(layers))):
            posterior(z[i]).push(message, z[i + 1])
        return z[0]

    return Codec(push, pop)


def _check_range(x: Tensor, bins: int) -> None:
    if x.numel() and (int(x.min()) < 0 or int(x.max()) >= bins):
        raise ValueError(f"push: expected symbols in [0, {bins}), got values from {int(x.min())} to {int(x.max())}")


def _tables(kind: str, device: torch.device) -> tuple[Tensor, Tensor]:
    return frequencies.cdf_table(kind, device), frequencies.inverse_scales(device)


def _bisect(u: Tensor, bins: int, start: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The largest x in [0, bins) with start(x) <= u, with start(x) and start(x + 1); start is non-decreasing."""
    x = torch.zeros_like(u)
    for bit in reversed(range((bins - 1).bit_length())):
        y = x + (1 << bit)
        ahead = (y < bins) & (start(y.clamp(max=bins)) <= u)
        x = torch.where(ahead, y, x)
    return x, start(x), start(x + 1)


@functools.cache  # the same function for the same kind, so that it is compiled once
def _location_scale_find(kind: str, bins: int, least: int, precision: int) -> Find:
    def find(u: Tensor, loc: Tensor, scale: Tensor, table: Tensor, inverses: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inverse = inverses[scale]

        def start(x: Tensor) -> Tensor:
            return frequencies.start(
                frequencies.cdf(kind, x, loc, inverse, bins, table), x, bins, precision, least
            )

        symbol, low, high = _bisect(u, bins, start)
        return symbol, low, high - low

    return find


@functools.cache
def _mixture_find(kind: str, bins: int, precision: int) -> Find:
    def find(
        u: Tensor, weight: Tensor, loc: Tensor, scale: Tensor, table: Tensor, inverses: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        inverse = inverses[scale]

        def start(x: Tensor) -> Tensor:
            y = frequencies.mix(weight, frequencies.cdf(kind, x, loc, inverse, bins, table))
            return frequencies.start(y, x, bins, precision, 1)

        symbol, low, high = _bisect(u, bins, start)
        return symbol, low, high - low

    return find
