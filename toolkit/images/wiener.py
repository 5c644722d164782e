"""A filter fitted to one restored picture and sent with it: least squares with few weights (Wiener 1949).

To each value of a plane it adds a sum, with weights, of differences between neighbours and the value: of luma itself,
and of each chroma plane and luma for chroma. Weights belong to places between flat and busy, and those of a pixel lie
between its two nearest (adaptive loop filters choose one set of several: Tsai et al. 2013,
doi:10.1109/JSTSP.2013.2271974). docs/format.md, section "Pictures at a chosen rate", is the specification.
"""
# mypy: disable-error-code="no-untyped-def, call-arg, misc"
# Numba's functions have the types that they are called with.

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from toolkit.coding.compiled import jit
from toolkit.coding.rounding import compensated
from toolkit.coding.vectors import LANES, load, most, splat, store

f4 = np.float32
REACH = 3  # pixels, of a square: each tap is two neighbours opposite of each other
TAPS = tuple((y, x) for y in range(REACH + 1) for x in range(-REACH, REACH + 1) if y or x > 0)
AROUND = 4  # pixels around each that its activity is a mean of
SETS = ((0, 0), (1, 1), (1, 0), (2, 2), (2, 0))  # plane that a set of weights adds to, and plane that it sees
KNOTS = 5  # activities that weights are given for
KINDS = (1, 2, 3, 5)  # weights that are sent for each tap; those of other knots lie between
FINENESS = (5, 6, 7, 8)  # bits after the point
ZERO = 7  # in place of a Rice parameter: a set of zeros
LARGEST = 1023  # weight, in units
LEAST = -10.0  # logarithm of an activity, in steps
RIDGE = 8.0  # steps squared: an error of a quarter of a step, beside weights of a tenth
PLACES = 1 << 18  # pixels that a filter is fitted to, about
# Orthonormal luma and chroma.
PLANES = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])


class Filter(NamedTuple):
    low: float  # logarithms to base 2 of the least and the largest activity, in steps
    high: float
    weights: Any  # float32 [sets, KNOTS, taps]


class Sample(NamedTuple):
    """A rectangle that a filter is fitted to."""

    restored: Any  # float32 [3, h, w] in [0, 1]
    inner: tuple[slice, slice]  # rows and columns that count
    wanted: Any  # uint8 [1 or 3, h, w] of these rows and columns


def between(kind: int) -> Any:
    """What weights of each knot take from those that are sent: float64 [KNOTS, kind]."""
    at = np.linspace(0, kind - 1, KNOTS)
    return np.maximum(0, 1 - abs(at[:, None] - np.arange(kind)))


def _planes(pixels: Any) -> Any:
    """Luma and chroma of [3, h, w]: float32."""
    return np.tensordot(PLANES.astype(np.float32), np.asarray(pixels, np.float32), 1)


def _activity(luma: Any, step: float) -> Any:
    """The logarithm to base 2 of the mean step between neighbours around each pixel of [h, w], in quantiser steps."""
    padded = np.pad(luma, 1, mode="edge")
    change = abs(np.diff(padded[1:-1], axis=1))
    found = change[:, 1:] + change[:, :-1]
    change = abs(np.diff(padded[:, 1:-1], axis=0))
    found = np.pad(found + change[1:] + change[:-1], AROUND, mode="edge")
    for axis, size in enumerate(luma.shape):
        parts = [np.take(found, range(i, i + size), axis) for i in range(2 * AROUND + 1)]
        found = functools.reduce(np.add, parts)
    return np.log2(found * np.float32(0.25 / (2 * AROUND + 1) ** 2 / step) + np.float32(2**LEAST))


def _place(activity: Any, low: float, high: float) -> Any:
    """Where activities lie among the knots: float32 in [0, KNOTS - 1]."""
    return ((activity.clip(low, high) - np.float32(low)) * np.float32((KNOTS - 1) / (high - low))).astype(np.float32)


def apply(pixels: Any, chosen: Filter, step: float) -> Any:
    """Filter float32 [3, h, w] pixels; step: between code points. What lies outside is as the nearest pixel."""
    planes = _planes(pixels)
    _, height, width = planes.shape
    more = -width % LANES  # columns, so that rows are whole vectors
    place = np.pad(_place(_activity(planes[0], step), chosen.low, chosen.high), ((0, 0), (0, more)))
    padded = np.pad(planes, ((0, 0), (REACH, REACH), (REACH, REACH + more)), mode="edge")
    stride = width + more + 2 * REACH
    taps = np.array([down * stride + across for down, across in TAPS])
    weights = np.ascontiguousarray(chosen.weights.transpose(0, 2, 1))
    out = np.zeros((3, height, width + more), np.float32)
    _filter(padded.ravel(), place, weights.ravel(), np.array(SETS), taps, out.ravel())
    return np.tensordot(PLANES.T.astype(np.float32), planes + out[..., :width], 1)


@jit
def _filter(planes, place, weights, sets, taps, out):
    """What the weights make of planes [3, h + 2 REACH, w + 2 REACH], added to zeros [3, h, w], both flat.

    place: float32 [h, w], w a multiple of LANES; weights: float32 [sets * taps * KNOTS]; taps: how far apart.
    """
    height, width = place.shape
    stride, flat = width + 2 * REACH, place.reshape(-1)
    size = (height + 2 * REACH) * stride
    zero: Any = splat(f4(0))
    one: Any = splat(f4(1))
    for y in range(height):
        for x in range(0, width, LANES):
            at, o = y * width + x, (y + REACH) * stride + x + REACH
            where = load(flat, at)
            d0, d1, d2 = where, where - one, where - splat(f4(2))
            d3, d4 = where - splat(f4(3)), where - splat(f4(4))
            for s in range(sets.shape[0]):
                base, w = sets[s, 1] * size + o, s * taps.shape[0] * KNOTS
                here = load(planes, base)
                a0, a1, a2, a3, a4 = zero, zero, zero, zero, zero
                for t in range(taps.shape[0]):
                    n = taps[t]
                    seen = (load(planes, base - n) - here) + (load(planes, base + n) - here)
                    a0 = a0 + splat(weights[w]) * seen
                    a1 = a1 + splat(weights[w + 1]) * seen
                    a2 = a2 + splat(weights[w + 2]) * seen
                    a3 = a3 + splat(weights[w + 3]) * seen
                    a4 = a4 + splat(weights[w + 4]) * seen
                    w += KNOTS
                # Shares fall from one to zero on the way to the next knots.
                found = a0 * most(zero, one - most(d0, zero - d0)) + a1 * most(zero, one - most(d1, zero - d1))
                found = found + a2 * most(zero, one - most(d2, zero - d2))
                found = found + a3 * most(zero, one - most(d3, zero - d3))
                found = found + a4 * most(zero, one - most(d4, zero - d4))
                to = sets[s, 0] * height * width + at
                store(out, to, load(out, to) + found)


def fit(samples: Sequence[Sample], step: float, balance: float) -> bytes:
    """The filter that saves most, balance * squared error / step^2 less its bits; nothing where none saves any."""
    shown = [(_planes(s.restored), s) for s in samples]
    activities = [_activity(planes[0], step)[s.inner] for planes, s in shown]
    every = np.concatenate([a[::4, ::4].ravel() for a in activities])
    low, high = (float(np.floor(2 * x) / 2) for x in np.quantile(every, (0.03, 0.97)))
    low, high = max(low, LEAST), max(high, low + 0.5, LEAST + 0.5)
    grey = len(samples[0].wanted) == 1
    area = sum(s.wanted[0].size for s in samples)
    stride = -(-area // PLACES)
    sums = [_sums(shown, activities, low, high, plane, stride, grey) for plane in range(1 if grey else 3)]
    best, chosen = 0.0, b""
    for kind, mesh in enumerate(map(between, KINDS)):
        solved = [_solved(*each, mesh, step) for each in sums]
        for fineness in range(len(FINENESS)):
            units, saved = list[Any](), 0.0
            for weights, factor, gram, products in solved:
                scaled = torch.tensor(weights[None] * (1 << FINENESS[fineness]))
                found = compensated(scaled, torch.tensor(factor), LARGEST)[0].numpy()
                exact = found / (1 << FINENESS[fineness])
                saved += float(2 * exact @ products - exact @ gram @ exact) * stride
                units += np.split(found, len(found) // (KINDS[kind] * len(TAPS)))
            stored = to_bytes(low, high, kind, fineness, units)
            gain = balance * saved / step**2 - 8 * len(stored)
            if gain > best:
                best, chosen = gain, stored
    return chosen


def _sums(shown: Any, activities: Any, low: float, high: float, plane: int, stride: int, grey: bool) -> tuple[Any, Any]:
    """Sums of products of what the weights of a plane are multiplied with: among themselves, and with the error.

    float64 [sets * KNOTS * taps, the same], [the same].
    """
    sources = [source for to, source in SETS if to == plane]
    size = len(sources) * KNOTS * len(TAPS)
    gram, products = np.zeros((size, size)), np.zeros(size)
    for (planes, (_, inner, wanted)), activity in zip(shown, activities, strict=True):
        error = _planes(np.broadcast_to(wanted, (3, *wanted.shape[1:])) / np.float32(255))[plane]
        error -= planes[plane][inner]
        padded = np.pad(planes, ((0, 0), (REACH, REACH), (REACH, REACH)), mode="edge")
        place = _place(activity, low, high)
        width = inner[1].stop - inner[1].start
        for first in range(0, len(place), 64 * stride):
            rows = np.arange(first, min(first + 64 * stride, len(place)), stride)
            share = np.maximum(0, 1 - abs(place[rows] - np.arange(KNOTS, dtype=np.float32)[:, None, None]))
            y, x = rows + inner[0].start + REACH, inner[1].start + REACH
            parts = []
            for source in sources:
                p = padded[source]
                at = [
                    [p[y + s * down, x + s * across : x + s * across + width] for s in (-1, 1)] for down, across in TAPS
                ]
                seen = np.stack([a + b - 2 * p[y, x : x + width] for a, b in at])
                parts.append((share[:, None] * seen).reshape(KNOTS * len(TAPS), -1))
            inputs = torch.tensor(np.concatenate(parts))
            gram += (inputs @ inputs.T).numpy()
            products += (inputs @ torch.tensor(error[rows].ravel())).numpy()
    return gram, products


def _solved(gram: Any, products: Any, mesh: Any, step: float) -> tuple[Any, Any, Any, Any]:
    """Weights of least squares; a factor of the inverse, for `compensated`; and the sums, of weights that are sent."""
    sets = len(products) // (KNOTS * len(TAPS))
    spread = np.kron(np.eye(sets), np.kron(mesh, np.eye(len(TAPS))))
    gram, products = _product(_product(spread.T, gram), spread), _product(spread.T, products)
    ridge = RIDGE * step**2
    while True:
        inverse, _ = torch.linalg.inv_ex(torch.tensor(gram + ridge * np.eye(len(gram))))
        factor, failed = torch.linalg.cholesky_ex(inverse)
        if not failed:
            return _product(inverse.numpy(), products), factor.T.numpy(), gram, products
        ridge *= 10  # sums of float32 are rounded: where all taps see the same, as in a checkerboard, it was too little


def _product(a: Any, b: Any) -> Any:
    """Of matrices, or of one and a vector. By torch, which a caller can tell how many threads to use, and from copies.

    Libraries round differently with another number of threads, or another alignment.
    """
    return (torch.tensor(a) @ torch.tensor(b)).numpy()


def to_bytes(low: float, high: float, kind: int, fineness: int, units: Sequence[Any]) -> bytes:
    """A filter as it is sent. kind, fineness: places in KINDS and FINENESS; units: of each set, whole numbers."""
    bits = f"{round(2 * (low - LEAST)):06b}{round(2 * (high - LEAST)):06b}{kind:02b}{fineness:02b}"
    for each in units:
        folded = [2 * int(n) if n >= 0 else -2 * int(n) - 1 for n in each]
        ways = [_rice(folded, k) for k in range(ZERO)]
        bits += f"{ZERO:03b}" if not any(folded) else min(ways, key=len)
    return int(bits + "0" * (-len(bits) % 8), 2).to_bytes(-(-len(bits) // 8), "big")


def _rice(values: Sequence[int], k: int) -> str:
    """A parameter, and numbers of 0 and more (Rice 1979): n >> k ones, a zero, the k lowest bits."""
    return f"{k:03b}" + "".join("1" * (n >> k) + "0" + (f"{n & (1 << k) - 1:0{k}b}" if k else "") for n in values)


def from_bytes(stored: bytes, grey: bool) -> Filter:
    """What `to_bytes` made. Raises ValueError for other bytes."""
    bits = iter("".join(f"{byte:08b}" for byte in stored))

    def number(n: int) -> int:
        return int("".join(next(bits) for _ in range(n)) or "0", 2)

    try:
        low, high, kind, units = (
            number(6) / 2 + LEAST,
            number(6) / 2 + LEAST,
            KINDS[number(2)],
            1 << FINENESS[number(2)],
        )
        if not low < high:
            raise ValueError(f"expected activities that rise, got {low:g} and {high:g}")
        sets = np.zeros((len(SETS), kind, len(TAPS)))
        for values in sets[: 1 if grey else None].reshape(-1, kind * len(TAPS)):
            if (k := number(3)) == ZERO:
                continue
            for i in range(len(values)):
                high_part = 0
                while next(bits) == "1":
                    high_part += 1
                n = (high_part << k) + number(k)
                values[i] = -(n + 1 >> 1) if n & 1 else n >> 1
        if abs(sets).max() > LARGEST or any(bit == "1" for bit in bits):
            raise ValueError(f"expected weights of at most {LARGEST} units, and no bits after them")
    except (StopIteration, RuntimeError) as error:  # a generator turns the one into the other
        raise ValueError("expected the bits of a filter, got fewer") from error
    weights = np.einsum("jk,skt->sjt", between(kind), sets) / units
    return Filter(low, high, np.ascontiguousarray(weights, np.float32))
