"""Photographs into bytes and back: planes of brightness and colour, each coded by experts that learn while they code."""

from __future__ import annotations

import struct
import threading
from typing import Any

import numpy as np

from toolkit.coding import binary
from toolkit.photographs import experts
from toolkit.photographs.experts import PAD, Learned, Work

f4 = np.float32
ROLES = 3  # brightness, and two differences of colours, each predicted from those before it

_OWN = [
    (0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0), (-1, 2), (-2, 1), (-2, -1), (-1, -2), (-2, 2), (0, -3),
    (-3, 0), (-2, -2), (-1, 3), (-3, 1), (-3, -1), (-1, -3),
]  # fmt: skip
_OTHER = [
    (0, 0), (0, -1), (-1, 0), (0, 1), (1, 0), (-1, -1), (-1, 1), (1, 1), (1, -1), (0, -2), (0, 2), (-2, 0), (2, 0),
    (-1, 2),
]  # fmt: skip
# For each role: how many features are its own neighbours, those of the plane before, of the one before that.
_COUNTS = [(16, 0, 0), (18, 14, 0), (12, 10, 10)]
SETTINGS = [
    [0.9998, 0.9995, 0.9995, 0.002, 60, 1.0, 2, 0.4, 0.8, 0.7, 0.9, 0.8, 0.92],
    [0.9998, 0.9995, 0.9995, 0.002, 60, 1.0, 2, 0.4, 0.8, 0.7, 0.9, 0.8, 0.92],
    [0.9998, 0.9995, 0.9995, 0.002, 60, 1.0, 2, 0.4, 0.8, 0.7, 0.9, 0.8, 0.92],
]
# keep of the three recursive least squares, rate of the mixture, limit of counters, ridge, steps, then of two local
# ones: fade of a block of columns, of a row, of ...; and of a column of the row itself


def initial() -> dict[str, np.ndarray]:
    """What the experts know before they have seen anything: float32 arrays by name, of three roles each."""
    e, nodes = experts, experts.NODES
    weights = np.zeros((3, e.SETS * nodes, e.INPUTS), f4)
    weights[:2, :, : e.EXPERTS] = 0.06
    knots = 1 / (1 + np.exp(-(np.arange(e.KNOTS) - 16) / 2))
    counters = np.full((e.COUNTERS, e.CELLS * nodes), 0.5, f4)
    pair = np.array([2.0, 1.0], f4)
    one = Learned(
        weights.reshape(3, -1), np.tile(knots, (2, e.SETS * nodes)).astype(f4), counters, np.zeros_like(counters),
        np.tile(pair, (3, e.ENERGIES * 64, 1)), np.tile(pair, (e.PREDICTORS + 1, e.ENERGIES * 16, 1)),
        np.tile(np.array([0.0, 1.0], f4), (2, 4096, 1)), np.array([-0.3, 1, 0, 0, 0, 0, 0, 0], f4),
    )  # fmt: skip
    return {name: np.stack([value] * ROLES) for name, value in one._asdict().items()}


def _role(state: dict[str, np.ndarray], role: int) -> Learned:
    return Learned(*(state[name][role].copy() for name in Learned._fields))


_loops: dict[int, Any] = {}


def _loop(n: int) -> Any:
    if n not in _loops:
        _loops[n] = experts.make(n)
    return _loops[n]


def _work(pixels: np.ndarray, errors: np.ndarray, role: int, shape: tuple[int, int], bounds: tuple[int, int],
          buffer: np.ndarray) -> Work:
    height, width = shape
    stride, size = width + 2 * PAD, pixels.size // max(role + 1, 1)
    size = (height + 2 * PAD) * stride
    own, near, far = _COUNTS[role]
    n = own + near + far
    offsets, base = [], []
    for plane, (count, places) in enumerate(((own, _OWN), (near, _OTHER), (far, _OTHER))):
        offsets += [dy * stride + dx - plane * size for dy, dx in places[:count]]
        base += [plane] * count
    blocks = -(-width // experts.BLOCK)
    z = lambda *shape: np.zeros(shape, f4)  # noqa: E731
    eye = np.tile(np.eye(n, dtype=f4).ravel() * f4(0.01), experts.CLASSES)
    weights = z(experts.CLASSES, n)
    weights[:, :2] = 0.5
    log, sigmoid, stretch = (t.astype(f4) for t in (experts.LOG, experts.SIGMOID, experts.STRETCH))
    local = z(experts.LOCAL, n)
    local[:, :2] = 0.5
    return Work(
        pixels, errors, z(experts.PREDICTORS, 3 * stride), np.array(offsets), np.array(base),
        np.array([0, -size, -2 * size]), eye, np.ones(experts.CLASSES, f4), np.zeros(experts.CLASSES, np.int64),
        weights.ravel(), z(experts.LOCAL, blocks, (n + 1) * n), z(experts.LOCAL, blocks, (n + 1) * n),
        z(experts.LOCAL, (n + 1) * n), local.ravel(), z((n + 1) * n), z(8, n), z(experts.INPUTS),
        np.zeros(experts.COUNTERS, np.int64), z(5, experts.EXPERTS), z(experts.PREDICTORS), log, sigmoid, stretch,
        np.array([*bounds, *SETTINGS[role], 0, 0], f4), np.zeros(binary.SIZE, np.int64), buffer,
    )  # fmt: skip


def _planes(picture: np.ndarray) -> np.ndarray:
    """YCoCg-R (Malvar and Sullivan 2003) of the first three channels: int16."""
    x = picture.astype(np.int16)
    if len(x) < 3:
        return x
    r, g, b = x[:3]
    co = r - b
    t = b + (co >> 1)
    cg = g - t
    return np.stack([t + (cg >> 1), co, cg, *x[3:]])


def _colours(planes: np.ndarray) -> np.ndarray:
    if len(planes) < 3:
        return planes.astype(np.uint8)
    y, co, cg = planes[:3]
    t = y - (cg >> 1)
    g = cg + t
    b = t - (co >> 1)
    return np.stack([b + co, g, b, *planes[3:]]).astype(np.uint8)
