"""Stateless, counter-based random numbers: Philox4x32-10 on int64 tensors, the same integers on every device.

Nothing is remembered between calls: the number of (seed, row, latent, node, stream) can be asked for at any time and in
any order, which is what lets a decoder rebuild one sample without the others (Salmon, Moraes, Dror, Shaw 2011, Parallel
random numbers: as easy as 1, 2, 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

NODE_BITS = 61  # a node shares its 64 counter bits with a stream
UNIFORM_BITS = 52

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox(counter: Sequence[Tensor], key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10 of four counter words under two key words.

    counter: four int64 tensors of one shape, values in [0, 2**32); key: integers in [0, 2**32). Returns four int64
    tensors of that shape, values in [0, 2**32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # The products may exceed 63 bits and wrap around: their 64 bits, and so both halves, are right all the same.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = ((p1 >> 32) & _MASK) ^ c1 ^ k0, p1 & _MASK, ((p0 >> 32) & _MASK) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


class Keys(NamedTuple):
    """What names the random numbers of n latents: a file's seed, and each latent's row and number in the row."""

    seed: int  # in [0, 2**64)
    row: Tensor  # int64 [n], in [0, 2**32)
    latent: Tensor  # int64 [n], in [0, 2**32)

    @staticmethod
    def of(seed: int, row: Tensor, latent: Tensor) -> Keys:
        """Keys from rows and latents that broadcast, flattened; ValueError for a value out of range."""
        row, latent = torch.broadcast_tensors(row, latent)
        for name, low, high, most in (
            ("seed", seed, seed, 1 << 64), ("row", *_range(row), 1 << 32), ("latent", *_range(latent), 1 << 32)
        ):  # fmt: skip
            if low < 0 or high >= most:
                raise ValueError(f"keys: expected each {name} in [0, {most}), got {low} to {high}; number them from 0")
        return Keys(seed, row.flatten(), latent.flatten())

    def take(self, index: Tensor) -> Keys:
        """The keys of some of the latents: int64 or bool index [...]."""
        return Keys(self.seed, self.row[index], self.latent[index])

    def words(self, node: Tensor, stream: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Four random 32-bit words for a node of each latent: int64 [n], node in [0, 2**61), stream in [0, 8)."""
        high = (node >> 32) | stream << (NODE_BITS - 32)
        counter = (self.latent, self.row, node & _MASK, high)
        return philox(counter, (self.seed & _MASK, self.seed >> 32))

    def uniforms(self, node: Tensor, stream: int = 0) -> tuple[Tensor, Tensor]:
        """Two independent uniform numbers for a node of each latent: float64 [n], never 0 nor 1."""
        a, b, c, d = self.words(node, stream)
        return uniform(a, b), uniform(c, d)


def uniform(high: Tensor, low: Tensor) -> Tensor:
    """Two random words, int64 [...] in [0, 2**32), to float64 in (0, 1): odd multiples of 2**-53, each equally likely.

    52 bits and a half, because float64 holds these and their complements exactly; 53 and a half would round to 1.
    """
    k = (high << (UNIFORM_BITS - 32)) | (low >> (64 - UNIFORM_BITS))
    return (k.double() + 0.5) * 2.0**-UNIFORM_BITS


def _range(x: Tensor) -> tuple[int, int]:
    return (int(x.min()), int(x.max())) if x.numel() else (0, 0)
