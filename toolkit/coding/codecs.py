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
    return x.reshape(*x.shape[:-1], x.shape[-1] // lanes, lanes).movedim(-2, 0)


def interval_codec(
    interval: Callable[[Tensor], tuple[Tensor, Tensor]],
    find: Find,
    params: Sequence[Tensor],
    tables: Sequence[Tensor],
    valid: Tensor,
    precision: int,
    steps: int = STEPS,
    eager: Find | None = None,
) -> Codec:
    """A codec from a map of symbols to intervals and its inverse.

    interval(x int64 [symbols]) -> (start, freq); find: see Message.pop, on params [..., symbols] arranged in lanes;
    valid: bool, any shape, the shape of x; where False nothing is coded and `pop` returns 0. eager: another `find` with
    the same result, for messages that are not compiled.
    """
    shape, flat = valid.shape, valid.flatten()

    def push(message: Message, x: Tensor) -> None:
        _check_shape(x, shape)
        x = torch.where(flat, x.flatten().long(), 0)
        low, freq = interval(x)
        if bool((flat & (freq <= 0)).any()):
            i = int((flat & (freq <= 0)).nonzero()[0])
            raise ValueError(
                f"push: symbol {int(x[i])} at position {i} has no frequency under its distribution; a codec "
                "without floor can only push what it popped"
            )
        low, freq = torch.where(flat, low, 0), torch.where(flat, freq, 1 << precision)
        lanes = message.lanes
        message.push(to_lanes(low, lanes), to_lanes(freq, lanes, 1 << precision), precision, steps)

    def pop(message: Message) -> Tensor:
        lanes = message.lanes
        search = eager if eager and not message.compiled else find
        arranged = [to_lanes(p, lanes).contiguous() for p in params]
        x = message.pop(to_lanes(flat, lanes), search, arranged, tables, precision, steps)
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
    kind: str,
    loc: Tensor,
    scale: Tensor,
    bins: int,
    least: int,
    precision: int = PRECISION,
    valid: Tensor | None = None,
) -> Codec:
    """Codec of symbols in [0, bins) under a logistic or Gaussian with its own location and scale for each symbol.

    kind: "logistic" or "gaussian"; loc, scale: int64, the shape of the symbols, of `frequencies.snap_location` and
    `snap_scale`; least: 1 keeps a count for each symbol (likelihoods, priors), 0 does not (posteriors); valid: bool.
    """
    valid = torch.ones_like(loc, dtype=torch.bool) if valid is None else valid
    return _searched(kind, [loc.flatten(), scale.flatten()], bins, least, precision, valid, STEPS)


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
    params = [weight.flatten(1), loc.flatten(1), scale.flatten(1)]
    # k components in log2(bins) rounds of search are much code: two steps a block bound what is compiled.
    return _searched(kind, params, bins, 1, precision, valid, steps=2)


def coupled_mixture(
    kind: str, weight: Tensor, loc: Tensor, scale: Tensor, coupling: Tensor, bins: int, valid: Tensor
) -> Codec:
    """Codec of pixels with c channels under a mixture whose component is shared by the channels of a pixel.

    Channel j's location moves linearly with the channels before it, and the weights become posterior weights after each
    channel (Salimans, Karpathy, Chen, Kingma 2017, arXiv:1701.05517), all in integers.

    weight: int64 [k, ...]; loc, scale: int64 [c, k, ...]; coupling: int64 [c (c - 1) / 2, k, ...] of
    `frequencies.snap_coupling`, in the order (1, 0), (2, 0), (2, 1); symbols and valid: [c, ...] in [0, bins).
    """
    channels = loc.shape[0]

    def channel(j: int, weight: Tensor, x: Tensor | list[Tensor]) -> Codec:
        return mixture(kind, weight, _moved(loc[j], coupling, x, bins), scale[j], bins, valid=valid[j])

    def after(j: int, weight: Tensor, x: Tensor | list[Tensor]) -> Tensor:
        return _reweighed(kind, weight, _moved(loc[j], coupling, x[:j], bins), scale[j], x[j], bins, valid[j])

    def push(message: Message, x: Tensor) -> None:
        x = _coded(x, valid, bins)
        w, codecs = weight, []
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


def drawn_mixture(
    kind: str, weight: Tensor, loc: Tensor, scale: Tensor, coupling: Tensor, bins: int, valid: Tensor
) -> Codec:
    """`coupled_mixture` with the component of each pixel as a latent variable, coded by `bits_back`.

    The same arguments, the same expected cost, and a search in one component instead of k; but the message must hold
    the bits that draw the components, at most log2(k) a pixel.
    """

    def likelihood(k: Tensor) -> Codec:
        index = k[None, None].expand(loc.shape[0], 1, *k.shape)
        at, spread = loc.gather(1, index)[:, 0], scale.gather(1, index)[:, 0]
        slope = coupling.gather(1, index[:1].expand(coupling.shape[0], 1, *k.shape))[:, 0]

        def channel(j: int, x: Tensor | list[Tensor]) -> Codec:
            return location_scale(kind, _moved(at[j], slope, x, bins), spread[j], bins, 1, valid=valid[j])

        def push(message: Message, x: Tensor) -> None:
            for j in reversed(range(len(at))):
                channel(j, x[:j]).push(message, x[j])

        def pop(message: Message) -> Tensor:
            x: list[Tensor] = []
            for j in range(len(at)):
                x.append(channel(j, x).pop(message))
            return torch.stack(x)

        return Codec(push, pop)

    def posterior(x: Tensor) -> Codec:
        w = weight
        for j in range(len(loc)):
            w = _reweighed(kind, w, _moved(loc[j], coupling, x[:j], bins), scale[j], x[j], bins, valid[j])
        return weighted(frequencies.keep_possible(w, weight), valid.any(0))

    codec = bits_back(weighted(weight, valid.any(0)), likelihood, posterior)
    return Codec(lambda message, x: codec.push(message, _coded(x, valid, bins)), codec.pop)


def weighted(weight: Tensor, valid: Tensor) -> Codec:
    """Codec of component numbers in [0, k) with weights of their own: int64 [k, ...] of `frequencies.weights`."""
    upper = weight.flatten(1).cumsum(0)  # int64 [k, symbols]
    lower = upper - weight.flatten(1)

    def interval(x: Tensor) -> tuple[Tensor, Tensor]:
        _check_range(x, len(weight))
        return lower.gather(0, x[None])[0], weight.flatten(1).gather(0, x[None])[0]

    return interval_codec(interval, _find_weighted, [upper], [], valid, frequencies.WEIGHT_BITS)


def _find_weighted(u: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    symbol = (upper <= u).sum(0).clamp(max=len(upper) - 1)  # the clamp is for places where nothing is coded
    both = torch.cat([torch.zeros_like(upper[:1]), upper]).gather(0, torch.stack([symbol, symbol + 1]))
    return symbol, both[0], both[1] - both[0]


def _coded(x: Tensor, valid: Tensor, bins: int) -> Tensor:
    """Pixels as `pop` returns them, with 0 where nothing is coded, because the next channels' locations see them."""
    _check_shape(x, valid.shape)
    x = torch.where(valid, x.long(), 0)
    _check_range(x, bins)
    return x


def _moved(loc: Tensor, coupling: Tensor, x: Tensor | Sequence[Tensor], bins: int) -> Tensor:
    """The location of a channel given the channels x before it, int64 [channels before, ...]."""
    j = len(x)
    shift = torch.zeros_like(loc)
    for i in range(j):
        shift = shift + coupling[j * (j - 1) // 2 + i] * (2 * x[i] - (bins - 1))
    return loc + (shift >> 3)  # coupling is in 1/COUPLING_STEPS and x in half bins; there are LOC_STEPS in a bin


def _reweighed(
    kind: str, weight: Tensor, loc: Tensor, scale: Tensor, x: Tensor, bins: int, valid: Tensor
) -> Tensor:  # int64 [k, ...]
    """Posterior weights of the components after symbol x, where it is coded."""
    table, inverse = frequencies.cdf_table(kind, loc.device), frequencies.inverse_scales(loc.device)[scale]
    low, high = (frequencies.cdf(kind, edge, loc, inverse, bins, table) for edge in (x, x + 1))
    return torch.where(valid, frequencies.reweigh(weight, high - low), weight)


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


def _check_shape(x: Tensor, shape: Sequence[int]) -> None:
    if x.shape != torch.Size(shape):
        raise ValueError(f"push: expected symbols of shape {list(shape)}, got {list(x.shape)}")


def _check_bins(bins: int, least: int, precision: int) -> None:
    if bins < 1 or least * bins > 1 << precision:
        raise ValueError(
            f"expected between 1 and {1 << precision} bins, got {bins}; with {precision} bits of precision there is no "
            "count left for each symbol"
        )


def _check_range(x: Tensor, bins: int) -> None:
    if x.numel() and (int(x.min()) < 0 or int(x.max()) >= bins):
        raise ValueError(f"push: expected symbols in [0, {bins}), got values from {int(x.min())} to {int(x.max())}")


def _bisect(u: Tensor, bins: int, start: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The largest x in [0, bins) with start(x) <= u, with start(x) and start(x + 1); start is non-decreasing."""
    x = torch.zeros_like(u)
    for bit in reversed(range((bins - 1).bit_length())):
        y = x + (1 << bit)
        ahead = (y < bins) & (start(y.clamp(max=bins)) <= u)
        x = torch.where(ahead, y, x)
    return x, start(x), start(x + 1)


def _searched(
    kind: str, params: list[Tensor], bins: int, least: int, precision: int, valid: Tensor, steps: int
) -> Codec:
    """Codec of symbols whose distribution function is evaluated where the search for a symbol asks for it."""
    _check_bins(bins, least, precision)
    starts, bisect, guess = _search_functions(kind, bins, least, precision)
    tables = frequencies.cdf_table(kind, valid.device), frequencies.inverse_scales(valid.device)

    def interval(x: Tensor) -> tuple[Tensor, Tensor]:
        _check_range(x, bins)
        low, high = starts(torch.stack([x, x + 1]), *params, *tables)
        return low, high - low

    eager = guess if len(params) == 2 else None  # a mixture has no inverse to guess with
    return interval_codec(interval, bisect, params, tables, valid, precision, steps, eager)


@functools.cache  # the same functions for the same kind, so that they are compiled once
def _search_functions(kind: str, bins: int, least: int, precision: int) -> tuple[Callable[..., Tensor], Find, Find]:
    """starts(x [m, symbols], *params, *tables) -> [m, symbols], and two searches in it that find the same symbol.

    params: loc, scale [symbols], or weight, loc, scale [k, symbols]; tables: of `frequencies`.
    """
    total = (1 << precision) - least * bins
    quantile = {"logistic": torch.logit, "gaussian": torch.special.ndtri}[kind]

    def starts(x: Tensor, *params: Tensor) -> Tensor:
        *weight, loc, scale, table, inverses = params
        inverse = inverses[scale]
        if not weight:
            y = frequencies.cdf(kind, x, loc, inverse, bins, table)
        elif torch.compiler.is_compiling():
            # Unrolled, all components stay in registers of one kernel; summed as a tensor, each round is a kernel.
            y = frequencies.mix(
                weight[0], [frequencies.cdf(kind, x, loc[i], inverse[i], bins, table) for i in range(len(loc))]
            )
        else:
            y = frequencies.cdf(kind, x, loc[:, None], inverse[:, None], bins, table)
            y = frequencies.mix(weight[0][:, None], y)
        return frequencies.start(y, x, bins, precision, least)

    def bisect(u: Tensor, *params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A fixed number of rounds, and no question to the device: for compiled code and for mixtures."""
        x, low, high = _bisect(u, bins, lambda x: starts(x[None], *params)[0])
        return x, low, high - low

    def guess(u: Tensor, loc: Tensor, scale: Tensor, *tables: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A guess in floats, which integers confirm or `bisect` replaces: few operations, for eager code."""
        centre, width = frequencies.location_of(loc), frequencies.scale_of(scale)
        x = torch.zeros_like(centre)
        for _ in range(1 + least):  # the second round takes off the counts that symbols below x have for nothing
            x = centre + width * quantile(((u - least * x + 0.5) / total).clamp_(1e-10, 1 - 1e-10))
            x = (x + 0.5).floor_().clamp_(0, bins - 1)
        edges = (x.long() + torch.arange(-1, 3, device=u.device)[:, None]).clamp_(0, bins)
        near = starts(edges, loc, scale, *tables)
        i = (near <= u).sum(0, keepdim=True) - 1
        if int(i.min()) < 0 or int(i.max()) > 2:
            return bisect(u, loc, scale, *tables)
        low = near.gather(0, i)[0]
        return edges.gather(0, i)[0], low, near.gather(0, i + 1)[0] - low

    return starts, bisect, guess
