"""Codecs: pairs of functions that push symbols onto a message and pop them again, and the ways to combine them.

The law that every codec obeys: pop undoes push, and push undoes pop, bit for bit, on any message. That makes
bits-back coding (Townsend, Bird, Barber 2019, arXiv:1901.04866) a composition of three lines. The pair-of-functions
style is that of craystack (Townsend, Bird, Kunze, Barber 2020, arXiv:1912.09953).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from toolkit.coding import kernels
from toolkit.coding.kernels import Order, Symbols
from toolkit.coding.message import MAX_PRECISION, Message

PRECISION = 24  # bits of a frequency: a floor of one count on each of 256 symbols costs 2e-5 bits


class Codec(NamedTuple):
    """`push(message, x)` codes x onto the message; `pop(message)` takes it off and returns it."""

    push: Callable[[Message, Tensor], None]
    pop: Callable[[Message], Tensor]


def coded(law: Symbols, valid: Tensor, order: Order = Order.SIDE_BY_SIDE) -> Codec:
    """The codec of symbols under a law: int64, of the shape of `valid`.

    valid: bool; where False nothing is coded and `pop` returns 0. order: which lane has which symbol. Pushing raises
    ValueError for other shapes, and for symbols that the law cannot code; the message is then as it was.
    """
    if not 1 <= law.precision <= MAX_PRECISION or not law.bins >= 1:
        raise ValueError(
            f"expected 1 <= precision <= {MAX_PRECISION} and at least 1 bin, got {law.precision} and {law.bins}"
        )
    shape, flat = valid.shape, valid.flatten().contiguous()

    def push(message: Message, x: Tensor) -> None:
        check_symbols(x, shape)
        kernels.push(message, law, x.flatten().long().contiguous(), flat, order)

    def pop(message: Message) -> Tensor:
        return kernels.pop(message, law, flat, order).view(shape)

    return Codec(push, pop)


class Bits(NamedTuple):
    """Law of equally likely symbols in [0, 2**width), each with a width of its own, at most `precision`."""

    width: Tensor  # int32 [n]
    precision: int

    @property
    def bins(self) -> int:
        return 1 << self.precision

    def parts(self) -> tuple[list[Tensor], list[int]]:
        return [self.width], [self.bins, self.precision]

    def at(self, here: Tensor | slice) -> Bits:
        return self._replace(width=self.width[here])

    def interval(self, x: Tensor) -> tuple[Tensor, Tensor]:
        freq = torch.ones_like(x) << (self.precision - self.width)
        return x * freq, torch.where(x >> self.width != 0, 0, freq)

    def find(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = u >> (self.precision - self.width)
        return x, *self.interval(x)


class Bit(NamedTuple):
    """Law of symbols 0 and 1: int32 frequencies of 0, of 2**precision."""

    zeros: Tensor  # int32 [n]
    precision: int

    @property
    def bins(self) -> int:
        return 2

    def parts(self) -> tuple[list[Tensor], list[int]]:
        return [self.zeros], [self.bins, self.precision]

    def at(self, here: Tensor | slice) -> Bit:
        return self._replace(zeros=self.zeros[here])

    def interval(self, x: Tensor) -> tuple[Tensor, Tensor]:
        zeros = self.zeros.long()
        return torch.where(x == 0, 0, zeros), torch.where(x == 0, zeros, (1 << self.precision) - zeros)

    def find(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = (u >= self.zeros).long()
        return x, *self.interval(x)


class Given(NamedTuple):
    """Law of intervals that are known: for pushes, and for pops where a function of places finds them."""

    start: Tensor  # int64 [n]
    freq: Tensor  # int64 [n]
    precision: int

    @property
    def bins(self) -> int:
        return 1

    def parts(self) -> tuple[list[Tensor], list[int]]:
        return [self.start, self.freq], [self.bins, self.precision]

    def at(self, here: Tensor | slice) -> Given:
        return self._replace(start=self.start[here], freq=self.freq[here])

    def interval(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.start, self.freq

    def find(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The symbol is 0; right only where its interval holds u."""
        return torch.zeros_like(u), self.start, self.freq


def check_symbols(x: Tensor, shape: torch.Size) -> None:
    """Raise ValueError for symbols of another shape, or that are no integers."""
    if x.shape != shape:
        raise ValueError(f"push: expected symbols of shape {list(shape)}, got {list(x.shape)}")
    if x.is_floating_point():
        raise ValueError(f"push: expected symbols of an integer dtype, got {x.dtype}; round them first")


# Loops index memory by what they are given and look at nothing, so that the two below come before them.


def check_numbers(what: str, x: Tensor, end: int, least: int = 0) -> None:
    """Raise ValueError unless all of int [...] lie in [least, end)."""
    if x.is_floating_point():
        raise ValueError(f"expected {what} of an integer dtype, got {x.dtype}; snap them first")
    if torch.compiler.is_compiling() or not x.numel():
        return
    low, high = map(int, x.aminmax())
    if low < least or high >= end:
        raise ValueError(f"expected {what} in [{least}, {end}), got values from {low} to {high}")


def check_shapes(shape: torch.Size, **tensors: Tensor) -> None:
    """Raise ValueError unless each tensor has a shape, that of the symbols."""
    for name, tensor in tensors.items():
        if tensor.shape != shape:
            raise ValueError(f"expected {name} of shape {list(shape)}, got {list(tensor.shape)}")


def uniform(shape: Sequence[int], bits: int, device: torch.device | str = "cpu") -> Codec:
    """Codec of symbols in [0, 2**bits) that are all equally likely; exactly `bits` bits each."""
    valid = torch.ones(tuple(shape), dtype=torch.bool, device=device)
    return raw(torch.full(tuple(shape), bits, device=device), valid, bits)


def raw(width: Tensor, valid: Tensor, precision: int) -> Codec:
    """Codec of equally likely int64 symbols in [0, 2**width), each with its own width: int, at most `precision`."""
    check_shapes(valid.shape, width=width)
    check_numbers("widths", width, precision + 1)
    return coded(Bits(width.flatten().int().contiguous(), precision), valid)


def bernoulli(ones: Tensor, precision: int = PRECISION, valid: Tensor | None = None) -> Codec:
    """Codec of symbols 0 and 1, each with a probability of its own.

    ones: int, the shape of the symbols: frequencies of 1, of 2**precision; valid: bool.
    """
    valid = torch.ones_like(ones, dtype=torch.bool) if valid is None else valid
    check_shapes(valid.shape, ones=ones)
    check_numbers("frequencies of 1", ones, (1 << precision) + 1)
    return coded(Bit(((1 << precision) - ones).flatten().int().contiguous(), precision), valid)


def interval_codec(
    interval: Callable[[Tensor], tuple[Tensor, Tensor]],
    find: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]],
    shape: Sequence[int],
    precision: int,
    device: torch.device | str = "cpu",
) -> Codec:
    """A codec of your own, from a map of symbols to intervals of [0, 2**precision) and its inverse.

    interval(x) -> (start, freq): int64 of `shape`, for all symbols at once. find(u, at) -> (symbol, start, freq): int64
    [m], with start <= u < start + freq, for the places u of the symbols whose numbers in `shape`, flattened, are `at`.
    Pops are a loop over steps in Python: slow, but for a message of many lanes.
    """
    count = 1
    for side in shape:
        count *= side

    def push(message: Message, x: Tensor) -> None:
        check_symbols(x, torch.Size(shape))
        start, freq = interval(x)
        law = Given(start.flatten().contiguous(), freq.flatten().contiguous(), precision)
        everywhere = torch.ones(count, dtype=torch.bool, device=start.device)
        kernels.push(message, law, torch.zeros_like(law.start), everywhere, Order.SIDE_BY_SIDE)

    def pop(message: Message) -> Tensor:
        x = torch.zeros(count, dtype=torch.int64, device=device)
        for first in range(0, count, message.lanes):
            at = torch.arange(first, min(first + message.lanes, count), device=device)
            x[at], start, freq = find(message.slots(len(at), precision), at)
            message.take(start, freq, precision)
        return x.view(tuple(shape))

    return Codec(push, pop)


def mapped(codec: Codec, forward: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]) -> Codec:
    """A codec of y where `codec` codes forward(y); back(forward(y)) is y."""
    return Codec(
        lambda message, y: codec.push(message, forward(y)),
        lambda message: back(codec.pop(message)),
    )


def traced(codec: Codec, trace: list[Tensor] | None) -> Codec:
    """The same codec, whose pops are also appended to a list, if there is one."""
    if trace is None:
        return codec

    def pop(message: Message) -> Tensor:
        trace.append(codec.pop(message))
        return trace[-1]

    return Codec(codec.push, pop)


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
