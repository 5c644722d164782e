"""Integers in float64 and in int64, converted and multiplied in ways that compiled code has vector instructions for.

Compiled for a CPU, a conversion between the two goes through memory, one number at a time, and so do products and
quotients of int64: each takes longer than ten operations on vectors. Integers below 2**51 are converted by an addition
instead, whose sum holds them in the lower bits. Results are those of the plain operations, bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SHIFT = 3 * 2.0**51  # float64 of this size have steps of one
_BITS = 0x4338 << 48  # of `_SHIFT`, as an integer
_EXACT = 51  # bits of the largest integers that are converted so
_PART = 23  # bits of a factor that products in float64 are exact with


def _vectors(x: Tensor) -> bool:
    return x.is_cpu and torch.compiler.is_compiling()


def to_float64(x: Tensor) -> Tensor:
    """int32 or int64 of magnitudes up to 2**51 -> float64."""
    return (x.long() + _BITS).view(torch.float64) - _SHIFT if _vectors(x) else x.double()


def to_int64(x: Tensor) -> Tensor:
    """Integers in float64, of magnitudes up to 2**51 -> int64."""
    return (x + _SHIFT).view(torch.int64) - _BITS if _vectors(x) else x.long()


def to_int32(x: Tensor) -> Tensor:
    """Integers in float64, of magnitudes below 2**31 -> int32."""
    return to_int64(x).int() if _vectors(x) else x.int()


def multiply(a: Tensor, b: Tensor, bits: int) -> Tensor:
    """Product, below 2**63, of int64 a in [0, 2**bits) and b from 0 to 2**28."""
    if bits > _EXACT or not _vectors(a):
        return a * b
    return _product(to_float64(a), to_float64(b))


def _product(a: Tensor, b: Tensor) -> Tensor:
    high = torch.floor(a * 2.0**-_PART)
    # Both products are below 2**51: the lower part's because b is at most 2**28, the upper one's because a b < 2**63.
    return (to_int64(high * b) << _PART) + to_int64((a - high * 2.0**_PART) * b)


def divide(a: Tensor, b: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Quotient, below 2**bits, and remainder of int64 a in [0, 2**63) and b in (0, 2**28].

    Compiled, by float64: its quotient is wrong by one at most, which the remainder shows.
    """
    if bits > _EXACT or not torch.compiler.is_compiling():
        quotient = a // b
        return quotient, a - quotient * b
    if not _vectors(a):
        quotient = (a.double() / b.double()).long()
        rest = a - quotient * b
    else:
        halves = a >> 32, a & ((1 << 32) - 1)
        high, low = (to_float64(half) for half in halves)
        divisor = to_float64(b)
        whole = torch.floor((high * 2.0**32 + low) / divisor)
        quotient, rest = to_int64(whole), a - _product(whole, divisor)
    over, under = rest >= b, rest < 0
    # Chosen, not multiplied: processors have no vector product of int64 either.
    return (
        torch.where(under, quotient - 1, torch.where(over, quotient + 1, quotient)),
        torch.where(under, rest + b, torch.where(over, rest - b, rest)),
    )
