"""A rotation of colours fitted to one picture and sent with it, so that less of luma is left in chroma.

Its three angles are those at which the logarithms of DCT coefficients are least: they are what bits count, while the
variances of a principal component analysis count strong edges alone. `nearby` moves them to where a real search costs
least. docs/format.md, section "Pictures at a chosen
rate", is the specification.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from toolkit.images.wiener import PLANES

SIZE = 3  # bytes: an angle each, in UNITs
UNIT = 1 / 128  # radians
MOST = 127
PAIRS = ((0, 1), (0, 2), (1, 2))  # of luma and chroma, what each angle turns into what
BLOCK = 8  # pixels a side
BLOCKS = 512  # that angles are fitted to
SCALE = 16  # grey levels: coefficients far below cost hardly any bits
LEAST = 100.0  # bits that have to be saved
FIRST = 32  # units that angles are changed by at first
NEARBY, LAST = 8, 2  # units: first and last step of `nearby`, each trial of which is a search for code points


def _planes(angles: Any) -> Any:
    """Turned luma and chroma: float64 [3, 3], each a row."""
    found = PLANES
    for (a, b), angle in zip(PAIRS, np.asarray(angles) * UNIT, strict=True):
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = np.sin(angle), -np.sin(angle)
        found = turn @ found
    return found


def matrix(stored: bytes) -> Any:
    """What colours are multiplied with before they become luma and chroma, float32 [3, 3]; orthonormal.

    Raises ValueError unless there are three angles of at most 127 units.
    """
    angles = np.frombuffer(stored, np.int8).astype(int)
    if len(angles) != SIZE or abs(angles).max() > MOST:
        raise ValueError(f"expected {SIZE} angles of at most {MOST} units, got {angles[: SIZE + 1].tolist()}")
    return (PLANES.T @ _planes(angles)).astype(np.float32)


def fit(picture: Any, blocks: int = BLOCKS) -> bytes:
    """Angles for a picture uint8 [1 or 3, h, w], seen in so many blocks at most; zeros where none saves enough."""
    down, across = (n // BLOCK for n in picture.shape[1:])
    every, best = down * across, np.zeros(SIZE, np.int64)
    if len(picture) == 1 or not every:
        return best.astype(np.int8).tobytes()
    places = np.arange(0, every, -(-every // blocks))
    cut = picture[:, : down * BLOCK, : across * BLOCK].reshape(3, down, BLOCK, across, BLOCK)
    pixels: Any = cut[:, places // across, :, places % across] / SCALE  # [places, colour, row, column]
    n = np.arange(BLOCK)
    dct = np.cos(np.pi / BLOCK * (n + 0.5) * n[:, None]) * np.sqrt(2 / BLOCK)
    dct[0] /= np.sqrt(2)
    # Sums one after the other: the products of matrices that libraries compute depend on where in memory these are.
    rows: Any = sum(dct[:, i, None] * pixels[..., i, None, :] for i in range(BLOCK))
    both: Any = sum(dct[:, i] * rows[..., i, None] for i in range(BLOCK))
    values = np.moveaxis(both, 1, 0).reshape(3, len(places), -1)[..., 1:].reshape(3, -1).astype(np.float32)

    def bits(angles: Any) -> float:
        turned = (row[0] * values[0] + row[1] * values[1] + row[2] * values[2] for row in _planes(angles))
        return sum(float(np.log2(x.astype(np.float32) ** 2 + 1).sum()) for x in turned) / 2

    best, saved = _descended(best, bits, FIRST, 1)
    if saved * every / len(places) < LEAST:
        best[:] = 0
    return best.astype(np.int8).tobytes()


def nearby(stored: bytes, cost: Callable[[bytes], float]) -> bytes:
    """The cheapest angles found near these, which stay where that saves less than `LEAST` bits.

    cost: bits, of angles as they are stored.
    """
    start = np.frombuffer(stored, np.int8).astype(np.int64)
    found, saved = _descended(start, lambda angles: cost(angles.astype(np.int8).tobytes()), NEARBY, LAST)
    return found.astype(np.int8).tobytes() if saved >= LEAST else stored


def _descended(start: Any, cost: Callable[[Any], float], step: int, last: int) -> tuple[Any, float]:
    """Angles int64 [SIZE], one changed at a time by ever shorter steps as long as that saves something; the saving."""
    best, known = start, {tuple(start): cost(start)}
    while step >= last:
        moved = False
        for i, way in ((i, way) for i in range(SIZE) for way in (step, -step)):
            tried = best.copy()
            tried[i] += way
            if abs(tried[i]) > MOST or tuple(tried) in known:
                continue
            known[tuple(tried)] = cost(tried)
            if known[tuple(tried)] < known[tuple(best)]:
                best, moved = tried, True
        step = step if moved else step // 2
    return best, known[tuple(start)] - known[tuple(best)]
