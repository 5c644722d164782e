"""What people use to make word vectors small: half precision, int8, uniform and product quantisation."""

from __future__ import annotations

import lzma
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Small(NamedTuple):
    """Vectors as they come back, and the bytes that they take, vocabulary not counted."""

    vectors: Tensor  # float32 [words, d]
    size: float  # bytes


def float16(vectors: Tensor, pack: Callable[[bytes], bytes] = lzma.compress) -> Small:
    """Half precision, with the bytes of one significance together, compressed by LZMA or what `pack` is."""
    half = vectors.half()
    planes = half.numpy().view("u1").reshape(-1, 2).T.tobytes()
    return Small(half.float(), len(pack(planes)))


def int8(vectors: Tensor, pack: Callable[[bytes], bytes] = lzma.compress) -> Small:
    """Eight bits a value with a scale for each dimension, compressed by LZMA or what `pack` is."""
    scale = vectors.abs().amax(0).clamp(min=1e-12) / 127
    codes = (vectors / scale).round().to(torch.int8)
    return Small(codes.float() * scale, len(pack(codes.T.contiguous().numpy().tobytes())) + 4 * len(scale))


def uniform(vectors: Tensor, step: float) -> Small:
    """Rounding to multiples of `step`, points moved to the means of their values; entropy of one static table.

    The size is the entropy itself, and 6 bytes for each point: better than any coder with one table could do.
    """
    codes = (vectors / step).round().long()
    codes -= codes.min()
    counts = torch.bincount(codes.flatten()).double()
    means = torch.bincount(codes.flatten(), vectors.flatten().double()) / counts.clamp(min=1)
    share = counts[counts > 0] / counts.sum()
    bits = -(counts[counts > 0] * share.log2()).sum()
    return Small(means[codes].float(), float(bits) / 8 + 6 * len(share))


def product(vectors: Tensor, width: int, codes: int = 256, rounds: int = 15, seed: int = 0) -> Small:
    """Product quantisation: `codes` centroids for each `width` dimensions, as float16 (Jegou, Douze, Schmid 2011).

    doi:10.1109/TPAMI.2010.57. A code takes the logarithm of their number: 8 bits for 256.
    """
    n = len(vectors)
    rng = torch.Generator().manual_seed(seed)
    parts, size = [], 0.0
    for part in vectors.split(width, 1):
        k = min(codes, n)
        centroids = part[torch.randperm(n, generator=rng)[:k]].clone()
        for last in [*[False] * rounds, True]:
            half = 0.5 * centroids.square().sum(1)
            nearest = torch.cat([(half - x @ centroids.T).argmin(1) for x in part.split(1 << 13)])
            if last:
                break
            counts = torch.bincount(nearest, minlength=k)
            sums = torch.zeros_like(centroids).index_add(0, nearest, part)
            centroids = torch.where((counts > 0)[:, None], sums / counts.clamp(min=1)[:, None], centroids)
        parts.append(centroids.half().float()[nearest])
        size += n * math.log2(codes) / 8 + 2 * centroids.numel()
    return Small(torch.cat(parts, 1), size)
