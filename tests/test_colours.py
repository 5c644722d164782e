"""The mode for few colours: every picture comes back, damaged bytes end, screenshots are smaller than WebP's."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from toolkit.photographs import colours

RNG = np.random.default_rng(0)
WORDS = "lossless pictures of few colours are coded by what was seen among the same neighbours before"


def text(mode: str, back: str, front: str) -> Image.Image:
    image = Image.new(mode, (400, 300), back)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(13)
    for row in range(18):
        draw.text((10, 8 + 16 * row), " ".join(RNG.permutation(WORDS.split())[:9]), font=font, fill=front)
    return image


def screenshot() -> Image.Image:
    image = text("RGB", "white", "black")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 400, 20), fill=(40, 90, 200))
    for x in range(0, 400, 40):
        draw.line((x, 20, x, 300), fill=(220, 220, 220))
        draw.rounded_rectangle((x + 4, 250, x + 34, 280), 6, fill=(250, 200, 60), outline=(90, 60, 0))
    return image


def drawing() -> Image.Image:
    image = Image.new("RGB", (720, 540), (250, 240, 220))
    draw = ImageDraw.Draw(image)
    for _ in range(40):
        x, y, r = (int(RNG.integers(a, b)) for a, b in ((0, 720), (0, 540), (10, 90)))
        fill = tuple(int(v) for v in RNG.integers(0, 256, 3))
        draw.ellipse((x - r, y - r, x + r, y + r), fill=fill, outline="black", width=3)
    return image.resize((360, 270), Image.Resampling.LANCZOS)


def gradient(h: int, w: int, c: int) -> np.ndarray:
    y, x = np.mgrid[:h, :w]
    return np.stack([(x * (k + 1) + y * (3 - k)) // 3 % 256 for k in range(c)]).astype(np.uint8)


def array(image: Image.Image) -> np.ndarray:
    return np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)


PICTURES = {
    "constant": np.full((3, 40, 50), 7, np.uint8),
    "black": np.zeros((4, 40, 50), np.uint8),
    "noise": RNG.integers(0, 256, (3, 40, 50)).astype(np.uint8),
    "noise in four channels": RNG.integers(0, 256, (4, 30, 41)).astype(np.uint8),
    "two colours": RNG.integers(0, 2, (1, 50, 40)).repeat(3, 0).astype(np.uint8) * 255,
    "checkerboard": (np.indices((1, 64, 64)).sum(0) % 2).astype(np.uint8).repeat(3, 0) * 200,
    "grey gradient": gradient(60, 70, 1),
    "grey and alpha": gradient(33, 20, 2),
    "gradient": gradient(60, 70, 3),
    "palette": RNG.integers(0, 5, (1, 50, 64)).astype(np.uint8),
    "extremes": RNG.choice([0, 255], (3, 40, 40)).astype(np.uint8),
    "screenshot": array(screenshot()),
    "grey text": array(text("L", "white", "black")),
    "text with alpha": array(text("RGBA", "#ff880080", "#0000ffff")),
    "drawing": array(drawing()),
    "transposed": array(drawing()).transpose(0, 2, 1),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_come_back(name: str) -> None:
    picture = PICTURES[name]
    data = colours.encode(picture)
    assert np.array_equal(colours.decode(data, picture.shape), picture)
    assert colours.encode(picture) == data
    assert len(data) < 1.03 * picture.size + 16


@pytest.mark.parametrize("c", [1, 2, 3, 4])
@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 2), (1, 300), (300, 1), (2, 2), (3, 5), (17, 1), (0, 5), (5, 0)])
def test_any_size(h: int, w: int, c: int) -> None:
    for picture in (RNG.integers(0, 256, (c, h, w)).astype(np.uint8), gradient(h, w, c)):
        assert np.array_equal(colours.decode(colours.encode(picture), (c, h, w)), picture)


def test_what_is_flat_takes_next_to_nothing() -> None:
    assert len(colours.encode(np.full((3, 1000, 1000), 99, np.uint8))) < 60
    assert len(colours.encode(PICTURES["checkerboard"])) < 60


@pytest.mark.parametrize("name", ["screenshot", "drawing", "noise", "text with alpha"])
def test_damaged_and_cut_data_end_in_some_picture(name: str) -> None:
    picture = PICTURES[name]
    data = colours.encode(picture)
    rng = np.random.default_rng(1)
    for size in (0, 1, 5, len(data) // 2, len(data) - 1):
        assert colours.decode(data[:size], picture.shape).shape == picture.shape
    for _ in range(10):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), 3):
            damaged[at] = rng.integers(256)
        assert colours.decode(bytes(damaged), picture.shape).shape == picture.shape
    assert colours.decode(rng.bytes(3000), picture.shape).shape == picture.shape
    assert colours.decode(b"\xff" * 3000, (4, 70, 50)).shape == (4, 70, 50)
    assert colours.decode(data + bytes(5), picture.shape).tobytes() == picture.tobytes()


@pytest.mark.parametrize("name", ["screenshot", "grey text", "drawing", "text with alpha"])
def test_smaller_than_webp(name: str) -> None:
    picture, out = PICTURES[name], io.BytesIO()
    Image.fromarray(picture.transpose(1, 2, 0).squeeze()).save(
        out, "webp", lossless=True, quality=100, method=6, exact=True
    )
    assert len(colours.encode(picture)) < 0.9 * len(out.getvalue())


@pytest.mark.parametrize(
    "picture", [np.zeros((3, 3), np.uint8), np.zeros((5, 3, 3), np.uint8), np.zeros((3, 3, 3), np.int16)]
)
def test_what_is_no_picture_is_refused(picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        colours.encode(picture)


def test_a_narrow_picture_that_is_all_border_takes_no_memory() -> None:
    for h, w in ((1 << 30, 1), (1 << 28, 4)):
        with pytest.raises(ValueError, match=f"expected at most .* got .* of {w} x {h}; cut the picture"):
            colours.decode(b"", (1, h, w))


def test_the_module_starts_without_torch() -> None:
    program = "import sys, toolkit.photographs.colours; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False"]
