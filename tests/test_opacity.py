"""Transparency: read as the file says, coded where the model can, refused by name or named where it cannot."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.archives import files_of, noise, pack, refused, unpack
from tests.tiny import picture_run, run_folder
from toolkit.images import baselines
from toolkit.images.files import describe, read_image, write_image

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return picture_run(tmp_path_factory.mktemp("runs") / "whole")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_folder(tmp_path_factory.mktemp("runs") / "rows", (3, 8, 8))


def png(colour: int, depth: int, values: np.ndarray, **chunks: bytes) -> bytes:
    """A PNG file of values [h, w, c], byte by byte."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    h, w, _ = values.shape
    rows = values.reshape(h, -1, 1) >> np.arange(depth)[::-1] & 1
    lines = np.packbits(rows.reshape(h, -1).astype(np.uint8), axis=1)
    body = chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, depth, colour, 0, 0, 0))
    body += b"".join(chunk(kind.encode(), data) for kind, data in chunks.items())
    body += chunk(b"IDAT", zlib.compress(b"".join(b"\0" + line.tobytes() for line in lines)))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_the_grey_that_is_transparent_is_found_at_every_depth(depth: int, tmp_path: Path) -> None:
    rng, most = np.random.default_rng(depth), 2**depth - 1
    values = rng.integers(max(0, most - 5), most + 1, (9, 13, 1))
    for key in (most, most - 1):
        (tmp_path / "a.png").write_bytes(png(0, depth, values, tRNS=struct.pack(">H", key)))
        grey, opacity = read_image(tmp_path / "a.png", every=True)
        assert np.array_equal(grey, values[..., 0] * (255 // most))
        assert np.array_equal(opacity, np.where(values[..., 0] == key, 0, 255)) and not opacity.all()


def test_the_colour_that_is_transparent_is_found(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 2, (9, 13, 3))
    (tmp_path / "a.png").write_bytes(png(2, 8, values, tRNS=struct.pack(">3H", 1, 0, 1)))
    found = read_image(tmp_path / "a.png", every=True)
    assert np.array_equal(found[:3], values.transpose(2, 0, 1))
    assert np.array_equal(found[3], np.where((values == [1, 0, 1]).all(-1), 0, 255)) and found[3].any()


@pytest.mark.parametrize("depth", [2, 8])
def test_the_opacity_of_a_palette_is_kept(depth: int, tmp_path: Path) -> None:
    rng, size = np.random.default_rng(1), 2**depth
    palette, opacity = rng.integers(0, 256, (size, 3), np.uint8), rng.integers(0, 256, size - 1, np.uint8)
    values = rng.integers(0, size, (8, 9, 1))
    (tmp_path / "a.png").write_bytes(png(3, depth, values, PLTE=palette.tobytes(), tRNS=opacity.tobytes()))
    found = read_image(tmp_path / "a.png", every=True)
    assert np.array_equal(found[:3], palette[values[..., 0]].transpose(2, 0, 1))
    assert np.array_equal(found[3], np.append(opacity, 255)[values[..., 0]])


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tga", "a.tif"])
@pytest.mark.parametrize("channels", [2, 4])
def test_colours_and_opacity_are_read_as_they_are_stored(channels: int, name: str, tmp_path: Path) -> None:
    values = np.random.default_rng(2).integers(0, 256, (6, 7, channels), np.uint8)
    values[:3, :, -1] = 0
    image = Image.fromarray(values)
    image.save(tmp_path / name, **({"lossless": True, "exact": True} if name == "a.webp" else {}))
    expected = np.array(image.convert("RGBA") if name == "a.webp" else image)
    assert np.array_equal(read_image(tmp_path / name, every=True), expected.transpose(2, 0, 1))


def test_colours_under_no_opacity_come_back_from_a_mixed_folder(whole: Path, tmp_path: Path, capsys: Capture) -> None:
    rng, folder = np.random.default_rng(3), tmp_path / "in"
    folder.mkdir()
    y, x = np.mgrid[:40, :50]
    photo = (np.stack([x, y, x + y], -1) + rng.integers(0, 9, (40, 50, 3))) % 256
    disc = np.clip(40 * (20 - np.hypot(x - 25, y - 20)), 0, 255)
    pictures = {
        "photo": np.dstack([photo, disc]), "one pixel": rng.integers(0, 256, (1, 1, 4)), "plain": photo,
        "grey": np.dstack([photo[..., 0], disc]), "line": rng.integers(0, 256, (1, 60, 2)),
        "opaque": np.dstack([photo, np.full((40, 50), 255)]), "nothing": np.zeros((5, 6, 4)),
        "icon": np.kron(rng.integers(0, 3, (8, 8, 4)) * 127, np.ones((4, 4, 1))),
    }  # fmt: skip
    for name, values in pictures.items():
        Image.fromarray(values.astype(np.uint8)).save(folder / f"{name}.png")
    for effort in "01":
        assert pack(whole, folder, tmp_path / f"{effort}.tkc", f"effort={effort}", "compare=true") == 0
        assert "WebP, lossless" in capsys.readouterr().out
        assert unpack(whole, tmp_path / f"{effort}.tkc", tmp_path / effort) == 0
        assert files_of(tmp_path / effort) == {f"{name}.png" for name in pictures}
        for name, values in pictures.items():
            with Image.open(tmp_path / effort / f"{name}.png") as found:
                assert found.mode == {2: "LA", 3: "RGB", 4: "RGBA"}[values.shape[2]]
                assert np.array_equal(np.array(found), values.astype(np.uint8)), name


def test_a_model_that_cannot_keep_it_says_which_can(rows: Path, tmp_path: Path, capsys: Capture) -> None:
    for mode, options in {"RGBA": {}, "LA": {}, "P": {"transparency": 0}, "L": {"transparency": 0}}.items():
        Image.new(mode, (4, 4)).save(tmp_path / "a.png", **options)  # type: ignore[arg-type]  # options of the format
        message = (
            f"expected no transparency, got mode {mode} with it; do: compress it with run=photographs, which keeps"
        )
        refused(lambda: pack(rows, tmp_path / "a.png", tmp_path / "x.tkc"), tmp_path, message, capsys)


def test_a_model_that_cannot_keep_it_leaves_out_what_is_opaque_and_says_so(
    rows: Path, tmp_path: Path, capsys: Capture
) -> None:
    values = noise(9, 7, 3)
    Image.fromarray(np.dstack([values, np.full((9, 7), 255, np.uint8)])).save(tmp_path / "a.png")
    assert pack(rows, tmp_path / "a.png", tmp_path / "x.tkc") == 0
    assert "a.png: its alpha channel, which is opaque everywhere" in capsys.readouterr().err
    assert unpack(rows, tmp_path / "x.tkc", tmp_path / "b.png") == 0
    with Image.open(tmp_path / "b.png") as found:
        assert found.mode == "RGB" and np.array_equal(np.array(found), values)
    Image.new("RGB", (4, 4)).save(tmp_path / "c.png", transparency=(1, 2, 3))  # a colour that no pixel has
    assert read_image(tmp_path / "c.png").shape == (3, 4, 4)


@pytest.mark.parametrize(
    ("samples", "kind", "message"),
    [(4, 1, "got colours multiplied by it"), (4, 0, "got a fourth channel of no stated use")],
)
def test_channels_of_a_tiff_that_would_not_come_back_are_refused(
    samples: int, kind: int, message: str, tmp_path: Path
) -> None:
    made = io.BytesIO()
    Image.fromarray(noise(8, 8, samples)).save(made, "TIFF")
    tag = struct.pack("<HHIHH", 338, 3, 1, 2, 0)  # what the extra channel is
    assert tag in made.getvalue()
    (tmp_path / "a.tif").write_bytes(made.getvalue().replace(tag, struct.pack("<HHIHH", 338, 3, 1, kind, 0)))
    with pytest.raises(ValueError, match=message):
        describe(tmp_path / "a.tif", "a.tif", every=True)


@pytest.mark.parametrize("channels", [2, 4])
def test_other_codecs_keep_the_opacity_too(channels: int) -> None:
    values = np.random.default_rng(4).integers(0, 256, (channels, 9, 8), np.uint8)
    values[-1, :5] = 0
    for name, encode in baselines._codecs(9).items():
        with Image.open(io.BytesIO(encode(baselines._picture(values)))) as found:
            pixels = np.array(found.convert("LA" if channels == 2 else "RGBA"))
        assert np.array_equal(pixels.transpose(2, 0, 1), values), name


def test_metadata_stay_with_a_picture_that_has_an_opacity(tmp_path: Path) -> None:
    about = {"dpi": [72.0, 72.0], "text": {"Title": "a"}, "gamma": 0.45}
    write_image(tmp_path / "a.png", noise(4, 5, 6), about)
    _, found, left_out = describe(tmp_path / "a.png", "a.png", every=True)
    assert found["text"] == {"Title": "a"} and found["gamma"] == 0.45 and left_out == ""
