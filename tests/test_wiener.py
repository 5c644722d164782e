"""Filters fitted to restored pictures: what they save, how they are sent, and that a window does not show."""

import numpy as np
import pytest

from tests.test_vae import photo
from toolkit.images import wiener
from toolkit.images.wiener import KINDS, KNOTS, SETS, TAPS, Filter, Sample

STEP = 0.05


def blurred(pixels: np.ndarray) -> np.ndarray:
    """float32 [3, h, w] in [0, 1] of uint8, each the mean of five and some noise."""
    padded = np.pad(pixels / np.float32(255), ((0, 0), (1, 1), (1, 1)), mode="edge")
    near = (
        padded[:, 1:-1, 1:-1] + padded[:, 2:, 1:-1] + padded[:, :-2, 1:-1] + padded[:, 1:-1, 2:] + padded[:, 1:-1, :-2]
    )
    noise = np.random.default_rng(0).normal(0, 0.01, pixels.shape)
    return np.asarray(near / 5 + noise, np.float32)


def sample(grey: bool = False) -> Sample:
    picture = photo(120, 140, 1, 3).numpy()
    if grey:
        picture = picture[:1].repeat(3, 0)
    return Sample(blurred(picture), (slice(0, 120), slice(0, 140)), picture[:1] if grey else picture)


def error(pixels: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.square(pixels - wanted / 255).sum())


def plain(pixels: np.ndarray, chosen: Filter, step: float) -> np.ndarray:
    """What `wiener.apply` is said to do, one tap after the other, float64."""
    planes = np.tensordot(wiener.PLANES, pixels.astype(np.float64), 1)
    height, width = planes.shape[1:]
    padded = np.pad(planes, ((0, 0), (3, 3), (3, 3)), mode="edge")
    luma = np.pad(planes[0], 1, mode="edge")
    change = sum(
        abs(luma[1 + y : 1 + y + height, 1 + x : 1 + x + width] - planes[0])
        for y, x in ((0, 1), (1, 0), (0, -1), (-1, 0))
    )
    change = np.pad(change, 4, mode="edge")
    mean = sum(change[y : y + height, x : x + width] for y in range(9) for x in range(9)) / (4 * 81)
    activity = np.log2(mean / step + 2**-10).clip(chosen.low, chosen.high)
    place = (activity - chosen.low) / (chosen.high - chosen.low) * (KNOTS - 1)
    share = np.maximum(0, 1 - abs(place - np.arange(KNOTS)[:, None, None]))
    out = planes.copy()
    for (to, source), weights in zip(SETS, chosen.weights, strict=True):
        p = padded[source]
        for (y, x), each in zip(TAPS, weights.T, strict=True):
            pair = p[3 - y : 3 - y + height, 3 - x : 3 - x + width] + p[3 + y : 3 + y + height, 3 + x : 3 + x + width]
            out[to] += np.tensordot(each, share, 1) * (pair - 2 * planes[source])
    return np.tensordot(wiener.PLANES.T, out, 1)


@pytest.mark.parametrize("grey", [False, True])
def test_a_filter_undoes_a_blur_and_is_applied_as_it_is_defined(grey: bool) -> None:
    one = sample(grey)
    stored = wiener.fit([one], STEP, 8.0)
    chosen = wiener.from_bytes(stored, grey)
    assert 10 < len(stored) < 400 and (not grey or not chosen.weights[1:].any())
    found = wiener.apply(one.restored, chosen, STEP)
    assert error(found, one.wanted) < 0.75 * error(one.restored, one.wanted)
    assert np.abs(found - plain(one.restored, chosen, STEP)).max() < 1e-5


def test_of_weights_that_are_worth_no_bits_none_are_sent() -> None:
    assert wiener.fit([sample()], STEP, 1e-6) == b""


def test_a_filter_is_fitted_where_all_neighbours_tell_the_same() -> None:
    board = (255 * (np.indices((200, 300)).sum(0) % 2)).astype(np.uint8)[None].repeat(3, 0)
    for step in (0.02, 0.0001):
        pixels = (board / np.float32(255) * 0.9 + 0.05).astype(np.float32)
        one = Sample(pixels, (slice(0, 200), slice(0, 300)), board)
        stored = wiener.fit([one], step, 8.6)
        filtered = wiener.apply(pixels, wiener.from_bytes(stored, grey=False), step)
        assert error(filtered, board) < 0.1 * error(pixels, board)


def test_a_dearer_filter_is_sent_only_where_errors_weigh_more() -> None:
    sizes = [len(wiener.fit([sample()], STEP, balance)) for balance in (0.3, 3.0, 300.0)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[2]


def test_what_is_filtered_depends_on_no_more_than_the_halo() -> None:
    one = sample()
    chosen = wiener.from_bytes(wiener.fit([one], STEP, 8.0), False)
    whole = wiener.apply(one.restored, chosen, STEP)
    inner, halo = slice(40, 80), 1 + wiener.AROUND
    around = slice(inner.start - halo, inner.stop + halo)
    part = wiener.apply(one.restored[:, around, around], chosen, STEP)[:, halo:-halo, halo:-halo]
    assert np.abs(part - whole[:, inner, inner]).max() < 1e-6
    less = slice(inner.start - halo + 1, inner.stop + halo - 1)
    part = wiener.apply(one.restored[:, less, less], chosen, STEP)[:, halo - 1 : 1 - halo, halo - 1 : 1 - halo]
    assert np.abs(part - whole[:, inner, inner]).max() > 1e-6


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_a_filter_is_read_as_it_was_written(kind: int) -> None:
    rng = np.random.default_rng(kind)
    units = [rng.integers(-40, 41, KINDS[kind] * len(TAPS)) for _ in SETS]
    units[2][:] = 0
    units[3][0] = -1023
    found = wiener.from_bytes(wiener.to_bytes(-7.5, 1.0, kind, 2, units), False)
    assert (found.low, found.high) == (-7.5, 1.0)
    first, last = (
        np.stack([each.reshape(KINDS[kind], -1)[at] for each in units]) / 128 for at in (0, -1)
    )  # fmt: skip
    assert np.array_equal(found.weights[:, 0], first.astype(np.float32))
    assert np.array_equal(found.weights[:, -1], last.astype(np.float32))


def test_damaged_filters_are_refused() -> None:
    stored = wiener.to_bytes(-7.5, 1.0, 1, 2, [np.full(24, 9)] * 5)
    for other in (b"", stored[:-1], stored + b"\1", b"\xff" * 400, b"\0" + stored[1:][::-1]):
        with pytest.raises(ValueError, match="expected"):
            wiener.from_bytes(other, False)
    with pytest.raises(ValueError, match="rise"):
        wiener.from_bytes(wiener.to_bytes(1.0, 1.0, 1, 2, [np.full(24, 9)] * 5), False)
    with pytest.raises(ValueError, match="1023"):
        wiener.from_bytes(wiener.to_bytes(-1.0, 1.0, 1, 2, [np.full(24, 1024)] * 5), False)
