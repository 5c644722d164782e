"""Colours that are turned for one picture: what it saves, how it is sent, and what is refused."""

import numpy as np
import pytest

from toolkit.images import colours
from toolkit.images.wiener import PLANES


def tinted(seed: int = 0) -> np.ndarray:
    """uint8 [3, 64, 80] of one texture in a warm tone, and a little noise of each colour."""
    rng = np.random.default_rng(seed)
    texture = rng.normal(0, 30, (64, 80))
    pixels = 128 + texture * np.array([1.2, 0.9, 0.5])[:, None, None] + rng.normal(0, 2, (3, 64, 80))
    return pixels.round().clip(0, 255).astype(np.uint8)


def test_turned_colours_leave_less_in_chroma() -> None:
    picture = tinted()
    turn = colours.matrix(colours.fit(picture)).astype(float)
    assert np.allclose(turn @ turn.T, np.eye(3), atol=1e-6)
    values = picture.reshape(3, -1) - picture.mean((1, 2))[:, None]
    before, after = (np.square(PLANES @ m @ values).mean(1) for m in (np.eye(3), turn))
    assert after[1:].max() < 6 and before[1:].max() > 100
    assert after.sum() == pytest.approx(before.sum())


def test_colours_are_turned_only_where_it_saves_bits() -> None:
    assert any(colours.fit(tinted()))
    for picture in (tinted()[:1].repeat(3, 0), tinted()[:1], tinted()[:, :7], tinted()[:, :8, :8]):
        assert colours.fit(picture) == bytes(colours.SIZE)


def test_angles_of_zero_change_nothing_and_others_are_refused() -> None:
    assert np.allclose(colours.matrix(bytes(3)), np.eye(3), atol=1e-6)
    for other in (b"", b"\1\2", b"\1\2\3\4", b"\1\2\x80"):
        with pytest.raises(ValueError, match="expected 3 angles of at most 127 units"):
            colours.matrix(other)
