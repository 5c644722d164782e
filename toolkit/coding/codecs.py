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

from toolkit.coding import ans, frequencies
from toolkit.coding.ans import Find, Interval, Message, NoFrequency
from toolkit.coding.fuse import fusible, fusing
from toolkit.coding.searches import bisect, search_functions

PIECE = 1 << 18  # symbols that are arranged and coded before the next are looked at
MOST_PLACES = 16  # bits of precision up to which a static table is unrolled to one entry a place: 512 KiB
PRECISION = 24  # bits of a frequency: a floor of one count on each of 256 symbols costs 2e-5 bits


class Codec(NamedTuple):
    """`push(message, x)` codes x onto the message; `pop(message)` takes it off and returns it."""

    push: Callable[[Message, Tensor], None]
    pop: Callable[[Message], Tensor]


def to_lanes(x: Tensor, lanes: int, fill: int = 0) -> Tensor:
    """Arrange symbols [..., symbols] as [..., n, lanes], symbol i at step i // lanes of lane i % lanes."""
    short = -x.shape[-1] % lanes
    if short:
        x = torch.cat([x, x.new_full((*x.shape[:-1], short), fill)], -1)
    return x.reshape(*x.shape[:-1], x.shape[-1] // lanes, lanes)


def interval_codec(
    interval: Interval,
    find: Find,
    params: Sequence[Tensor],
    tables: Sequence[Tensor],
    bins: int,
    valid: Tensor,
    precision: int,
    steps: int | None = None,
    sure: Find | None = None,
    light: bool = False,
) -> Codec:
    """A codec of symbols in [0, bins) from a map of symbols to intervals and its inverse.

    interval(x, *params, *tables) -> (start, freq), pointwise on int64 [symbols]; find, sure: see Message.pop, on params
    [..., symbols] arranged in lanes, and sure alone where nothing is compiled; valid: bool or int32, any shape, the
    shape of x; where 0 nothing is coded and `pop` returns 0. The three functions should be the same objects for codecs
    of the same kind: each is compiled once. light: compiled, intervals are found in the block that pushes them: so
    little code that a block compiles quickly.
    """
    # Contiguous, as compiled code wants them.
    shape, flat, params = valid.shape, valid.flatten().int().contiguous(), [p.contiguous() for p in params]
    count = flat.numel()

    def pieces(lanes: int, steps: int) -> list[slice]:
        """Symbols in whole blocks, few enough for a processor's caches, and for memory that is used again."""
        size = max(PIECE // (lanes * steps), 1) * lanes * steps if flat.device.type == "cpu" else count
        return [slice(i, i + size) for i in range(0, max(count, 1), max(size, 1))]

    def cut(x: Tensor, here: slice) -> Tensor:
        return x[..., here] if here.start or here.stop < count else x  # a view costs as much as a small block

    def push(message: Message, x: Tensor) -> None:
        _check_shape(x, shape)
        lanes, symbols = message.lanes, x.flatten()
        found, before = _masked(interval, bins, precision), (message.head, message.size)
        try:
            for here in reversed(pieces(lanes, ans.PUSH_STEPS)):
                some = cut(symbols, here).long(), *(cut(p, here) for p in (flat, *params))
                if light and message.compiled:
                    message.push_found(found, [to_lanes(p, lanes) for p in some], tables, precision)
                    continue
                with fusing(message.compiled):
                    low, freq = found(*(p.contiguous() for p in some), *tables)
                message.push(to_lanes(low, lanes), to_lanes(freq, lanes, 1 << precision), precision)
        except NoFrequency:
            message.head, message.size = before
            check_range(torch.where(flat != 0, symbols.long(), 0), bins)
            i = int((found(symbols.long(), flat, *params, *tables)[1] < 1).nonzero()[0])
            raise ValueError(
                f"push: symbol {int(symbols[i])} at position {i} has no frequency under its distribution; a codec "
                "without floor can only push what it popped"
            ) from None

    def pop(message: Message) -> Tensor:
        lanes, block = message.lanes, ans.STEPS if steps is None else steps
        x = torch.empty(-(-count // (lanes * block)) * block, lanes, dtype=torch.int64, device=flat.device)
        for here in pieces(lanes, block):
            valid, *some = (to_lanes(cut(p, here), lanes) for p in (flat, *params))
            out = x[here.start // lanes : here.stop // lanes]
            if sure and not message.compiled:  # fewer operations; compiled, which makes one of all, a guess is quicker
                message.pop(valid, sure, some, tables, precision, block, None, out)
            else:
                message.pop(valid, find, some, tables, precision, block, sure, out)
        return x.flatten()[:count].reshape(shape)

    return Codec(push, pop)


@functools.cache
def _masked(interval: Interval, bins: int, precision: int) -> Callable[..., tuple[Tensor, Tensor]]:
    @fusible
    def function(x: Tensor, valid: Tensor, *arguments: Tensor) -> tuple[Tensor, Tensor]:
        """Intervals where something is coded, whole ones elsewhere; frequency 0 or less where x cannot be coded."""
        low, freq = interval(x.clamp(0, bins - 1), *arguments)
        freq = torch.where((x < 0) | (x >= bins), 0, freq)
        return torch.where(valid != 0, low, 0), torch.where(valid != 0, freq, 1 << precision)

    return function


def uniform(shape: Sequence[int], bits: int, device: torch.device | str = "cpu") -> Codec:
    """Codec of symbols in [0, 2**bits) that are all equally likely; exactly `bits` bits each."""
    valid = torch.ones(tuple(shape), dtype=torch.bool, device=device)
    return interval_codec(_uniform_interval, _find_uniform, [], [], 1 << bits, valid, bits)


def _uniform_interval(x: Tensor) -> tuple[Tensor, Tensor]:
    return x, torch.ones_like(x)


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
    # One look finds start and frequency; freqs reach 2**precision, which has a bit more than the starts.
    packed = starts[:-1] | freqs << 32
    find: Find = _find_in_table
    tables = [packed, starts]
    if precision <= MOST_PLACES:
        x = torch.arange(len(freqs), device=freqs.device)
        find, tables = _find_place, [packed, (starts[:-1] | freqs << 20 | x << 40).repeat_interleave(freqs)]
    return interval_codec(_table_interval, find, [], tables, len(freqs), valid, precision, light=True)


def _table_interval(x: Tensor, packed: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
    entry = packed[x]
    return entry & ((1 << 32) - 1), entry >> 32


def _find_in_table(u: Tensor, packed: Tensor, starts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return bisect(u, starts.shape[0] - 1, lambda x: starts[x], starts[-1])


def _find_place(u: Tensor, packed: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    entry, mask = places[u], (1 << 20) - 1
    return entry >> 40, entry & mask, entry >> 20 & mask


def bernoulli(ones: Tensor, precision: int = PRECISION, valid: Tensor | None = None) -> Codec:
    """Codec of symbols 0 and 1, each with a probability of its own.

    ones: int64, the shape of the symbols: frequencies of 1, of 2**precision; valid: bool.
    """
    valid = torch.ones_like(ones, dtype=torch.bool) if valid is None else valid
    zeros = (1 << precision) - ones
    return interval_codec(_bit_interval, _find_bit, [zeros.flatten(), ones.flatten()], [], 2, valid, precision)


def _bit_interval(x: Tensor, zeros: Tensor, ones: Tensor) -> tuple[Tensor, Tensor]:
    return torch.where(x == 0, 0, zeros), torch.where(x == 0, zeros, ones)


def _find_bit(u: Tensor, zeros: Tensor, ones: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x = (u >= zeros).long()
    return x, *_bit_interval(x, zeros, ones)


def tabled(starts: Tensor, which: Tensor, valid: Tensor, precision: int) -> Codec:
    """Codec of symbols in [0, k) that each have one of several tables of integer frequencies.

    starts: int32 or int64 [tables, k + 1], non-decreasing from 0 to 2**precision; which: int64, the table of each
    symbol; valid: bool; both of the symbols' shape.
    """
    return interval_codec(
        _row_interval, _find_in_row, [which.flatten()], [starts], starts.shape[1] - 1, valid, precision, light=True
    )


def _row_interval(x: Tensor, which: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    low = starts[which, x].long()
    return low, starts[which, x + 1].long() - low


def _find_in_row(u: Tensor, which: Tensor, starts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return bisect(u, starts.shape[1] - 1, lambda x: starts[which, x].long(), starts[0, -1].long())


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
    return searched(kind, [loc.flatten(), scale.flatten()], bins, least, precision, valid)


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


def check_range(x: Tensor, bins: int) -> None:
    if x.numel():
        low, high = map(int, x.aminmax())
        if low < 0 or high >= bins:
            raise ValueError(f"push: expected symbols in [0, {bins}), got values from {low} to {high}")


def searched(
    kind: str,
    params: list[Tensor],
    bins: int,
    least: int,
    precision: int,
    valid: Tensor,
    steps: int | None = None,
) -> Codec:
    """Codec of symbols whose distribution function is evaluated where the search for a symbol asks for it.

    params: loc, scale [symbols], or weight, loc, scale [k, symbols].
    """
    _check_bins(bins, least, precision)
    interval, bisection, guess, sure = search_functions(kind, bins, least, precision)
    tables = frequencies.cdf_table(kind, valid.device), frequencies.inverse_scales(valid.device)
    # A mixture has no inverse to guess with; a GPU is asked nothing between blocks.
    guessed = len(params) == 2 and valid.device.type == "cpu"
    return interval_codec(
        interval, guess if guessed else bisection, params, tables, bins, valid, precision, steps,
        sure if guessed else None,
    )  # fmt: skip
