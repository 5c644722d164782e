"""Coefficients to bytes and back, as given or searched for by distortion and bits, with what training left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from toolkit.coding.binary import FULL
from toolkit.coding.coefficients import loop
from toolkit.coding.coefficients.loop import LANES, NEAR, OWN, PAD, RATES

ROOM = 2  # bytes a coefficient, at first
START = 24  # decisions of the training set that a counter remembers
RATE = 0.003  # of learning of the mixture
MOST_COUNTED = 255.0  # decisions that a counter remembers
CHANCE_BITS = 16  # of a counter's chance where it is stored
COUNT_BITS = 10
CAUTION = 1.2  # of misses in a first search, which does not see that a zero raises the cost of later coefficients


class Channels(NamedTuple):
    """What is known of the channels of a grid beforehand, in the order in which they are coded."""

    bands: Sequence[int]  # of each channel, from 0 on; channels of a band share counters
    deep: int  # channels, the first, that are coded as differences from their predicted means
    near: Sequence[Sequence[int]]  # of each channel, earlier ones whose values at the place tell most about it
    means: Sequence[Sequence[tuple[int, int, int]]]  # of each, what its mean is predicted from: channel, down, across
    sizes: Sequence[Sequence[int]]  # of each, channels that its magnitude is predicted from


class Tables(NamedTuple):
    """What training leaves for encoder and decoder."""

    weights: Tensor  # int32 [n], of predictions: see `split`
    cells: Tensor  # int32 [cells], counters: chances in 65536ths, and COUNT_BITS of how often each was seen
    mixing: Tensor  # float32 [sets * LANES], weights of the mixture


def sizes(channels: Channels) -> list[int]:
    """How many weights there are of each kind: means, sizes, own, base; see `loop.Model`."""
    count = len(channels.bands)
    inputs = sum(map(len, channels.means)), loop.KINDS * sum(map(len, channels.sizes))
    return [*inputs, count * 2 * len(OWN), count * 2]


def blank(channels: Channels) -> Tables:
    """Tables before any training: nothing predicted, all chances even."""
    count, bands = len(channels.bands), max(channels.bands) + 1
    cells = int(loop.starts(loop.FAMILIES, count, bands)[-1])
    mixing = torch.full((int(loop.starts(loop.WEIGHTS, count, bands)[-1]), LANES), 0.15)
    mixing[:, -1] = 0
    even = torch.full((cells,), 1 << (CHANCE_BITS - 1 + COUNT_BITS), dtype=torch.int32)
    return Tables(torch.zeros(sum(sizes(channels)), dtype=torch.int32), even, mixing.flatten())


class Coded(NamedTuple):
    """Coefficients and what they cost."""

    k: Tensor  # int16 [1, channels, height, width]
    channel_bits: Tensor  # float64 [channels]
    payload: bytes
    work: loop.Work | None = None  # what the coder knew in the end


class Model:
    """Tables that are ready to code with. Raises ValueError for others than the channels have.

    learning: rate of the mixture at which the model itself changes with all that it codes, until `tables`; None: each
    grid begins anew.
    """

    def __init__(self, channels: Channels, tables: Tables, learning: float | None = None) -> None:
        self.learning, self.weights = learning, tables.weights
        expected = [tuple(x.shape) for x in blank(channels)]
        if (found := [tuple(x.shape) for x in tables]) != expected:
            raise ValueError(f"expected tables of shapes {expected}, got {found}; the tables are of other channels")
        if bool((tables.cells == 0).all()):
            raise ValueError("expected counters with chances above 0, got zeros; fit the tables first")
        self.channels, bands = len(channels.bands), max(channels.bands) + 1
        means, magnitudes, own, base = (x.numpy() for x in tables.weights.split(sizes(channels)))
        inputs = [x for each in channels.means for x in each]
        near = [[*each, c, c, c][:NEAR] for c, each in enumerate(channels.near)]
        cells = np.stack([tables.cells.numpy() >> COUNT_BITS, tables.cells.numpy() & (1 << COUNT_BITS) - 1], 1)
        self.arrays = loop.Model(
            np.array(channels.bands, np.int64), channels.deep, np.array(near, np.int64),
            np.array(inputs, np.int64).reshape(-1, 3), _ends(channels.means), means,
            np.array([x for each in channels.sizes for x in each], np.int64), _ends(channels.sizes),
            magnitudes.reshape(-1, loop.KINDS), own.reshape(-1, 2, len(OWN)), base.reshape(-1, 2),
            loop.starts(loop.FAMILIES, self.channels, bands), loop.starts(loop.WEIGHTS, self.channels, bands),
            cells.astype(np.float32) * np.array([2.0**-CHANCE_BITS, 1], np.float32), tables.mixing.numpy(),
        )  # fmt: skip

    def fresh(self) -> loop.Model:
        """With counters and weights that a loop may change."""
        if self.learning is not None:
            return self.arrays
        return self.arrays._replace(cells=self.arrays.cells.copy(), mixing=self.arrays.mixing.copy())

    def settings(self) -> tuple[float, float]:
        return (RATE, MOST_COUNTED) if self.learning is None else (self.learning, (1 << COUNT_BITS) - 1)

    def tables(self) -> Tables:
        """What was learned; to counters, all that they have seen is worth `START` decisions at most."""
        chances, counts = torch.from_numpy(self.arrays.cells).unbind(1)
        chances = (chances * (1 << CHANCE_BITS)).round().clamp(1, (1 << CHANCE_BITS) - 1).int()
        cells = (chances << COUNT_BITS) + counts.clamp(max=START).int()
        return Tables(self.weights, cells, torch.from_numpy(self.arrays.mixing))


def search(model: Model, mu: Tensor, sigma: Tensor, precision: float, rate: int, before: Coded | None = None) -> Coded:
    """The coefficients near float [1, channels, h, w] mu of least precision (k - mu)^2 / sigma^2 + bits.

    mu in steps; sigma: float, the shape of mu, in any unit; precision: bits for sigma of one and a miss of one step;
    rate: in [0, RATES). Bits are those that the coder spends, given what was chosen before. before: the result of an
    earlier search near there, which tells what a choice costs those after it; without, misses weigh `CAUTION` times.
    """
    weight = ((CAUTION if before is None else 1) * precision / sigma[0].square()).contiguous().numpy()
    return _encode(model, mu[0].contiguous().numpy(), weight, None, rate, before)


def given(model: Model, k: Tensor, rate: int) -> Coded:
    """Code int [1, channels, h, w] coefficients, at most `loop.LIMIT` from what they are predicted to be."""
    return _encode(model, None, None, k[0].to(torch.int16).contiguous().numpy(), rate, None)


def _encode(model: Model, mu: Any, weight: Any, k: Any, rate: int, before: Coded | None) -> Coded:
    _check_rate(rate)
    shape = (mu if k is None else k).shape
    nothing = np.zeros((1, 1, 1), np.float32)
    ahead, hint = nothing, nothing.astype(np.int16)
    if before is not None:
        assert before.work is not None
        ahead, hint = np.zeros(before.work.k.shape, np.float32), before.k[0].contiguous().numpy()
        loop.foreseen(model.arrays, before.work, rate, ahead, np.zeros(ahead.shape[1:], np.float32))
    room = 64 + ROOM * int(np.prod(shape))
    while True:
        arrays = model.fresh()
        work = loop.work(shape, np.zeros(room, np.uint8), *model.settings())
        if k is None:
            size = loop.loop(arrays, work, mu, weight, hint, ahead, False, True, rate)
        else:
            size = loop.loop(arrays, work, nothing, nothing, k, nothing, False, False, rate)
        if not work.state[FULL]:
            break
        room *= 8  # numbers that nothing prepared for
    return Coded(_inner(work), torch.from_numpy(work.spent), work.buffer[:size].tobytes(), work)


def decode(model: Model, payload: bytes, rate: int, size: tuple[int, int]) -> Tensor:
    """What was encoded, int16 [1, channels, height, width]; other numbers for damaged bytes."""
    _check_rate(rate)
    nothing = np.zeros((1, 1, 1), np.float32)
    work = loop.work((model.channels, *size), np.frombuffer(payload, np.uint8).copy(), RATE, MOST_COUNTED)
    loop.loop(model.fresh(), work, nothing, nothing, nothing.astype(np.int16), nothing, True, False, rate)
    return _inner(work)


def _inner(work: loop.Work) -> Tensor:
    return torch.from_numpy(work.k[None, :, PAD:-PAD, PAD:-PAD].copy())


def _check_rate(rate: int) -> None:
    if not 0 <= rate < RATES:
        raise ValueError(f"expected a rate in [0, {RATES}), got {rate}; divide the level of lambda")


def _ends(each: Sequence[Sequence[Any]]) -> Any:
    return np.cumsum([0, *map(len, each)], dtype=np.int64)
