"""What an error of each coefficient of a picture takes from MS-SSIM, by which an encoder with metric=ms-ssim weighs it.

MS-SSIM (Wang, Simoncelli, Bovik 2003, doi:10.1109/ACSSC.2003.1292216) is a product of similarities at five scales, each
with an exponent. Where an error e of a picture x is small, the similarity of a scale falls by

    1 - (2 cov(x, x + e) + C2) / (var(x) + var(x + e) + C2)  =  var(e) / (2 var(x) + C2), about,

averaged over places and colours; var and cov are those in a Gaussian window around each place. A coefficient whose
basis function is b after s halvings of the picture adds 4^s (|b|^2 - |window * b|^2) to the sum of var(e): see
`_responses`. Its weight is the sum over scales of the exponent times this number times the mean of 1 / (2 var(x) + C2)
around its block: see `sensitivity`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from toolkit.images.colours import matrix
from toolkit.images.wiener import PLANES

EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of scales, fine to coarse
C2 = (0.03 * 255) ** 2
REACH = 5  # pixels of the window
WINDOW = np.exp(-0.5 * (np.arange(-REACH, REACH + 1) / 1.5) ** 2)
WINDOW /= WINDOW.sum()
BLOCK = 8  # pixels a side
COARSEST = 16  # pixels of a picture that are one at the last scale
ROWS = 128  # that are looked at at once
SAMPLE = 1024  # blocks that the mean weight is taken of, about

# One-dimensional basis functions by frequency: 8 rows, each centred on its block.
Basis: TypeAlias = tuple[tuple[float, ...], ...]


def _smoothed(x: Any) -> Any:
    """A Gaussian window's means of [h, w], where the window fits: [h - 2 REACH, w - 2 REACH]."""
    for axis in (0, 1):
        size = x.shape[axis] - 2 * REACH
        parts = [x[i : i + size] if axis == 0 else x[:, i : i + size] for i in range(2 * REACH + 1)]
        x = parts[REACH] * x.dtype.type(WINDOW[REACH])
        for i in range(REACH):
            x += (parts[i] + parts[-1 - i]) * x.dtype.type(WINDOW[i])
    return x


def _halved(x: Any) -> Any:
    """Means of 2 x 2 of [..., h, w], sides even."""
    rows = x[..., ::2, :] + x[..., 1::2, :]
    return (rows[..., ::2] + rows[..., 1::2]) * x.dtype.type(0.25)


@functools.cache
def _responses(basis: Basis) -> Any:
    """What an error of one in a coefficient adds to the sum of variances: float64 [scale, down, across]."""
    rows = np.array(basis)
    found = np.zeros((len(EXPONENTS), BLOCK, BLOCK))
    margin, beyond = 2 * REACH * COARSEST, (rows.shape[1] - BLOCK) // 2
    for u, v in np.ndindex(BLOCK, BLOCK):
        seen = np.pad(rows[u][:, None] * rows[v], (margin - beyond, margin + COARSEST - BLOCK - beyond))
        for s in range(len(EXPONENTS)):
            seen = _halved(seen) if s else seen
            found[s, u, v] = 4**s * ((seen**2).sum() - (_smoothed(seen) ** 2).sum())
    return found


def sensitivity(picture: Any) -> Any:
    """How sensitive MS-SSIM is around each block of a picture uint8 [1 or 3, h, w], at each scale.

    float32 [scales, 1 or 3, h / 8, w / 8].
    """
    count, (down, across) = len(picture), (-(-n // BLOCK) for n in picture.shape[1:])
    height, width = (-(-n // COARSEST) * COARSEST for n in picture.shape[1:])
    found = np.zeros((len(EXPONENTS), count, height // BLOCK, width // BLOCK), np.float32)
    for s in range(len(EXPONENTS)):
        side, more = BLOCK >> s, 2 * REACH  # a window around each place, and one around each of its places
        columns = np.arange(-more, width + more).clip(0, picture.shape[2] - 1)
        half = np.zeros((count, height // 2, width // 2), np.float32)
        for first in range(0, height, ROWS):
            last = min(first + ROWS, height)
            rows = np.arange(first - more, last + more).clip(0, picture.shape[1] - 1)
            for c in range(count):
                part = picture[c, rows][:, columns].astype(np.float32)
                mean = _smoothed(part)
                variance = (_smoothed(part * part) - mean * mean).clip(0)
                around = _smoothed(1 / (2 * variance + np.float32(C2)))
                blocks = around
                for _ in range(3 - s):
                    blocks = _halved(blocks)
                if not side:
                    blocks = blocks.repeat(2, 0).repeat(2, 1)
                at = first // side if side else 2 * first
                found[s, c, at : at + len(blocks)] = blocks
                if s + 1 < len(EXPONENTS):
                    half[c, first // 2 : last // 2] = _halved(part[more:-more, more:-more])
        picture, height, width = half, height // 2, width // 2
    return found[..., :down, :across]


def weights(seen: Any, angles: bytes, names: Sequence[tuple[int, int, int]], basis: Basis) -> Any:
    """Weights of squared errors of coefficients: float32 [channels, h, w].

    seen: of `sensitivity`, float32 [scales, 1 or 3, h, w]; angles: that colours are turned by, or nothing; names:
    component, and frequencies down and across, of each channel; basis: functions of these frequencies.
    """
    turn = matrix(angles) if angles else np.eye(3, dtype=np.float32)
    # Sums one after the other: the products of matrices that libraries compute depend on where in memory these are.
    share = sum(PLANES[:, i, None] * turn[i] for i in range(3)) ** 2 / 3  # of components, in errors of colours
    of_component = [sum(np.float32(row[c]) * seen[:, c % seen.shape[1]] for c in range(3)) for row in share]
    found = np.zeros((len(names), *seen.shape[2:]), np.float32)
    factors = np.array(EXPONENTS)[:, None, None] * _responses(basis)
    for channel, (component, u, v) in enumerate(names):
        for factor, place in zip(factors[:, u, v].astype(np.float32), of_component[component], strict=True):
            found[channel] += factor * place
    return found


def usual(seen: Any, angles: bytes, names: Sequence[tuple[int, int, int]], basis: Basis) -> float:
    """The geometric mean of `weights` over channels and blocks of all of a picture."""
    flat = seen.reshape(*seen.shape[:2], 1, -1)
    sample = flat[..., :: -(-flat.shape[-1] // SAMPLE)]
    return float(np.exp(np.log(weights(sample, angles, names, basis)).mean(dtype=np.float64)))
