"""16 bits a value: read as an independent reader does, coded and restored equal, refused where they would not be."""

import functools
import io
import struct
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests import plain_png
from tests.archives import files_of, pack, refused, rewritten, unpack
from tests.test_opacity import png as png_of
from tests.tiny import picture_run, run_folder
from toolkit import inspect
from toolkit.images import baselines
from toolkit.images import deep as image_files
from toolkit.images.deep import png
from toolkit.images.files import describe, read_image, write_image
from toolkit.photographs import codec, deep
from toolkit.photographs.deep import decode, encode

Capture = pytest.CaptureFixture[str]
STATE = codec.initial()
MODES = {1: "L;16", 2: "LA;16", 3: "RGB;16", 4: "RGBA;16"}
COLOUR = {1: 0, 2: 4, 3: 2, 4: 6}  # of PNG


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return picture_run(tmp_path_factory.mktemp("runs") / "whole")


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << 16, shape, np.uint16)


def scene(channels: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth, with noise of some hundred grey levels, as of a camera: uint16 [c, h, w]."""
    y, x = np.mgrid[:height, :width]
    base = 20000 + 9000 * np.sin(x / 9) + 7000 * np.cos(y / 7) + 80 * x
    found = base + np.random.default_rng(seed).normal(0, 200, (channels, height, width))
    return np.clip(found, 0, 65535).astype(np.uint16)


# Files


@pytest.mark.parametrize("channels", MODES)
def test_a_large_file_is_read_in_little_memory_beside_its_values(
    channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_files, "BLOCK", 1 << 15)
    values = np.tile(noise(1, 400, channels), (800, 1, 1))
    (tmp_path / "a.png").write_bytes(png_of(COLOUR[channels], 16, values))
    read_image(tmp_path / "a.png", every=True)
    tracemalloc.start()  # knows what NumPy takes, and not Pillow: its picture takes up to 4 bytes a pixel more
    try:
        found = read_image(tmp_path / "a.png", every=True)
        assert tracemalloc.get_traced_memory()[1] < found.nbytes + (1 << 18)
    finally:
        tracemalloc.stop()
    assert np.array_equal(found, values.transpose(2, 0, 1))


@pytest.mark.parametrize("channels", MODES)
def test_a_png_file_is_read_as_it_is_stored(channels: int, tmp_path: Path) -> None:
    values = noise(9, 7, channels)
    (tmp_path / "a.png").write_bytes(png_of(COLOUR[channels], 16, values))
    found = read_image(tmp_path / "a.png", every=True)
    assert found.dtype == np.uint16 and np.array_equal(found, values.transpose(2, 0, 1))
    assert np.array_equal(found, plain_png.read((tmp_path / "a.png").read_bytes()))
    item, _, left_out = describe(tmp_path / "a.png", "a.png", every=True)
    assert item == ("a.png", MODES[channels], 9, 7) and left_out == ""


@pytest.mark.parametrize("channels", [1, 3])
def test_the_value_that_is_transparent_is_found(channels: int, tmp_path: Path) -> None:
    values = noise(9, 7, channels) % 2 + 511
    key = struct.pack(f">{channels}H", *[511, 512, 511][:channels])
    (tmp_path / "a.png").write_bytes(png_of(COLOUR[channels], 16, values, tRNS=key))
    found = read_image(tmp_path / "a.png", every=True)
    transparent = (values == np.frombuffer(key, ">u2")).all(-1)
    assert np.array_equal(found[:-1], values.transpose(2, 0, 1)) and transparent.any()
    assert np.array_equal(found[-1], np.where(transparent, 0, 65535))
    assert describe(tmp_path / "a.png", "a.png", every=True)[0].mode == MODES[channels + 1]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_tiff_file_is_read_as_it_is_stored(
    channels: int, compression: str | None, order: Any, tmp_path: Path
) -> None:
    values = noise(70, 7, channels)
    kind: Any = "minisblack" if channels == 1 else "rgb"
    more: Any = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    stored = values[..., 0] if channels == 1 else values
    tifffile.imwrite(
        tmp_path / "a.tif", stored, byteorder=order, photometric=kind, compression=compression, rowsperstrip=16, **more
    )
    assert np.array_equal(read_image(tmp_path / "a.tif", every=True), values.transpose(2, 0, 1))


@pytest.mark.parametrize("keep", ["all", "color"])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_file_is_turned_once_and_how_it_is_stored_is_not_kept(bits: int, keep: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 1 << bits, (9, 7, 3), f"uint{bits}")
    tags: Any = [(0x0112, "H", 1, 6, True), (0x010F, "s", 0, "Maker", True)]  # turned; who made the camera
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", rowsperstrip=1, extratags=tags)
    item, about, _ = describe(tmp_path / "a.tif", "a.tif", keep, every=True)
    found = read_image(tmp_path / "a.tif", every=True)
    assert item[2:] == (7, 9) and np.array_equal(found, np.rot90(values, -1).transpose(2, 0, 1))
    write_image(tmp_path / "a.png", found, about)
    with Image.open(tmp_path / "a.png") as image:
        exif = image.getexif()
        assert exif.get(0x0112, 1) == 1 and exif.get(0x010F) == ("Maker" if keep == "all" else None)
        assert not {256, 258, 273, 279} & exif.keys()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_ppm_file_is_read_as_it_is_stored(channels: int, tmp_path: Path) -> None:
    values = noise(5, 7, channels)
    head = b"P%d\n# of 16 bits\n7 5\n65535\n" % (5 if channels == 1 else 6)
    (tmp_path / "a.ppm").write_bytes(head + values.astype(">u2").tobytes())
    assert np.array_equal(read_image(tmp_path / "a.ppm", every=True), values.transpose(2, 0, 1))
    (tmp_path / "a.ppm").write_bytes(head + values.astype(">u2").tobytes()[:-3])
    with pytest.raises(ValueError, match=r"cut short|not enough image data"):
        describe(tmp_path / "a.ppm", "a.ppm", every=True)


def tiff(path: Path, **options: Any) -> None:
    tifffile.imwrite(path, noise(8, 9, 3) if options.get("photometric") == "rgb" else noise(8, 9), **options)


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "signed": (lambda path: tifffile.imwrite(path, noise(8, 9).astype(np.int16)), "got signed numbers of 16 bits; do:"),
    "32 bits": (
        lambda path: tifffile.imwrite(path, noise(8, 9).astype(np.uint32)),
        "8 bits a value, or 16, got 32; do:",
    ),
    "floats": (
        lambda path: tifffile.imwrite(path, noise(8, 9).astype(np.float32)),
        "floating-point numbers of 32 bits",
    ),
    "half floats": (
        lambda path: tifffile.imwrite(path, np.ones((8, 9), np.float16)),
        "point numbers of 16 bits; do: conv",
    ),
    "half floats in a large file": (
        lambda path: tifffile.imwrite(path, np.ones((8, 9, 3), np.float16), photometric="rgb", bigtiff=True),
        "expected 8 bits a value, or 16, as whole numbers, got floating-point numbers of 16 bits; do: convert",
    ),
    "Lab": (
        lambda path: tifffile.imwrite(path, np.zeros((8, 9, 3), np.uint8), photometric="cielab"),
        "got LAB; do: c",
    ),
    "Lab of 16 bits": (
        lambda path: tifffile.imwrite(path, noise(8, 9, 3), photometric="cielab", byteorder=">"),
        "expected grey, RGB or palette, got LAB; do: convert it to PNG",
    ),
    "half a TIFF file": (lambda path: path.write_bytes(b"II*\0" + bytes(9)), "of an unknown kind"),
    "0 is white": (lambda path: tiff(path, photometric="miniswhite"), "or 16 in a common order"),
    "planes apart": (
        lambda path: tifffile.imwrite(path, noise(3, 8, 9), photometric="rgb", planarconfig="separate"),
        "or 16 in a common order",
    ),
    "multiplied": (
        lambda path: tifffile.imwrite(path, noise(8, 9, 4), photometric="rgb", extrasamples=["assocalpha"]),
        "or 16 in a common order",
    ),
    "4,095 levels": (lambda path: path.write_bytes(b"P5 3 1 4095\n" + bytes(6)), "or 16|got a PPM file of 0 to 4095"),
    "plain": (lambda path: path.write_bytes(b"P3 1 1 65535\n1 2 3\n"), "got a PPM file of 0 to 65535"),
    "cut": (lambda path: path.write_bytes(png(noise(3, 50, 50), {})[:9000]), "expected a whole image"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_not_come_back_is_refused(case: str, tmp_path: Path) -> None:
    make, message = REFUSED[case]
    make(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=message):
        describe(tmp_path / "a.tif", "a.tif", every=True)


@pytest.mark.parametrize("channels", MODES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (40, 1), (33, 20)])
def test_a_written_png_file_is_what_an_independent_reader_reads(
    channels: int, shape: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.images.deep.BLOCK", 1000)  # several blocks of rows
    about = {"dpi": [72.0, 72.0], "text": {"Title": "a"}, "gamma": 0.45}
    for picture in (noise(channels, *shape), scene(channels, *shape)):
        write_image(tmp_path / "a.png", picture, about)
        file = (tmp_path / "a.png").read_bytes()
        assert np.array_equal(plain_png.read(file), picture)
        assert np.array_equal(read_image(tmp_path / "a.png", every=True), picture)
        _, found, _ = describe(tmp_path / "a.png", "a.png", every=True)
        assert found["text"] == {"Title": "a"} and found["gamma"] == 0.45


def test_the_filters_make_a_written_png_file_smaller() -> None:
    picture = scene(3, 64, 64)
    assert len(png(picture, {})) < 0.92 * picture.nbytes
    with Image.open(io.BytesIO(png(picture, {}))) as found:
        found.verify()


# The codec


def test_values_are_counted_in_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = noise(3, 1500, 1000)
    monkeypatch.setattr(deep, "_planes", lambda *_: b"planes")
    tracemalloc.start()
    assert encode(picture, STATE) == b"planes"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * picture.nbytes


def test_a_plane_that_fails_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    make, found = codec._work, list[BaseException]()

    def without_room(pixels: Any, errors: Any, role: int, *others: Any) -> Any:
        if role == 0:
            raise MemoryError
        return make(pixels, errors, role, *others)

    def encoding() -> None:
        try:
            codec.encode(noise(3, 20, 20).astype(np.uint8), STATE, 1)
        except MemoryError as error:
            found.append(error)

    monkeypatch.setattr(codec, "_work", without_room)
    thread = threading.Thread(target=encoding, daemon=True)
    thread.start()
    thread.join(30)
    assert found


def pictures(channels: int, height: int, width: int) -> dict[str, np.ndarray]:
    """By the way that they are coded; and what is worst for each."""
    shape, rng = (channels, height, width), np.random.default_rng(1)
    y, x = np.mgrid[:height, :width]
    colours = rng.integers(0, 1 << 16, (channels, 400), np.uint16)
    return {
        "photograph": scene(*shape), "noise": noise(*shape), "extremes": 65535 * rng.integers(0, 2, shape, np.uint16),
        "constant": np.full(shape, 51234, np.uint16), "of 8 bits": (scene(*shape) >> 8).astype(np.uint16) * 257,
        "of 12 bits": scene(*shape) & 0xFFF0, 
        "ramp": np.broadcast_to((1200 * x + 7 * y).astype(np.uint16), shape).copy(),
        "few colours": np.kron(colours[:, rng.integers(0, 400, (-(-height // 4), -(-width // 4)))],
                               np.ones((1, 4, 4), np.uint16))[:, :height, :width].copy(),
        "half": np.where(x < width // 2, 0, noise(*shape)).astype(np.uint16),
        "one dot": ((x == width // 2) & (y == height // 2)) * np.full(shape, 65535, np.uint16),
        "wide": np.where(rng.random(shape) < 0.02, 65535, 30000 + x % 7).astype(np.uint16),
    }  # fmt: skip


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 1), (4, 1, 9), (2, 7, 1), (2, 5, 3), (3, 9, 8), (1, 33, 70)])
def test_every_shape_comes_back(shape: tuple[int, int, int]) -> None:
    for name, picture in pictures(*shape).items():
        found = decode(encode(picture, STATE), shape, STATE)
        assert found.dtype == np.uint16 and np.array_equal(found, picture), name


@pytest.mark.parametrize("effort", [0, 1, 2])
def test_every_kind_comes_back_and_no_number_of_the_experts_is_lost(
    effort: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []
    make = codec._work
    monkeypatch.setattr(codec, "_work", lambda *given: kept.append(make(*given)) or kept[-1])
    kinds = {}
    for name, picture in pictures(3, 64, 96).items():
        data = encode(picture, STATE, effort)
        kinds[name] = data[0]
        assert np.array_equal(decode(data, picture.shape, STATE), picture), name
        for work in kept:
            for field, values in work._asdict().items():
                if isinstance(values, np.ndarray) and values.dtype == np.float32:
                    assert np.isfinite(values).all(), (name, field)
                    small = np.abs(values[values != 0])
                    assert not small.size or small.min() > 1e-37, (name, field, "subnormal")
        kept.clear()
    assert kinds["photograph"] == kinds["noise"] == deep.PLANES + effort
    assert kinds["of 8 bits"] == kinds["of 12 bits"] == deep.VALUES
    assert kinds["few colours"] == deep.COLOURS


def test_what_a_table_says_is_not_coded_again() -> None:
    sizes = {name: len(encode(picture, STATE)) for name, picture in pictures(3, 64, 96).items()}
    values, raw = 3 * 64 * 96, noise(3, 64, 96).nbytes
    assert sizes["noise"] < 1.04 * raw
    assert sizes["photograph"] < values * 10.2 / 8  # the noise alone has log2(200 sqrt(2 pi e)) = 9.69 bits
    as_bytes = (scene(3, 64, 96) >> 8).astype(np.uint8)
    assert sizes["of 8 bits"] < len(encode(as_bytes, STATE)) + 100
    assert sizes["of 12 bits"] < sizes["photograph"] - 3.5 / 8 * values
    assert sizes["constant"] < 60


def test_tiles_of_a_large_picture_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "MOST_PIXELS", 900)
    monkeypatch.setattr(codec, "MOST_WIDTH", 50)
    picture = scene(4, 70, 120)
    assert len(codec.tiles(70, 120)) > 6
    assert np.array_equal(decode(encode(picture, STATE), picture.shape, STATE), picture)


@pytest.mark.parametrize("name", ["photograph", "of 8 bits", "of 12 bits", "few colours"])
def test_damage_is_an_error_or_another_picture_and_nothing_else(name: str) -> None:
    picture = pictures(3, 24, 40)[name]
    data, rng, wrong = encode(picture, STATE), np.random.default_rng(5), 0
    for cut in (b"", data[:1], data[:4], data[: len(data) // 8]):
        with pytest.raises(ValueError, match="expected"):
            decode(cut, picture.shape, STATE)
    for _ in range(120):
        bad = bytearray(data)
        at = rng.integers(0, min(len(bad), 60) if rng.random() < 0.6 else len(bad))
        bad[at] ^= 1 << rng.integers(0, 8)
        if rng.random() < 0.3:
            bad[int(at) :] = rng.bytes(int(rng.integers(0, 30)))
        try:
            found = decode(bytes(bad), picture.shape, STATE)
        except ValueError as error:
            assert "expected" in str(error)
            wrong += 1
            continue
        assert found.shape == picture.shape and found.dtype in (np.uint8, np.uint16)
    assert wrong > 10


def drawn(kind: str) -> np.ndarray:
    """A picture of 16 bits that is coded as planes, by a table of values, or of colours."""
    if kind == "colours":
        y, x = np.mgrid[:48, :64]
        one = x // 8 + y // 3 * 8
        return np.stack([one * 401, one * one * 3 + 1, 60000 - one * 77]).astype(np.uint16)
    y, x = np.mgrid[:24, :40]
    one = np.stack([900 * x + 13 * y * y, 500 * y + 7 * x * x, 300 * (x + y)]) + (x * y * 2654435761 >> 7) % 500
    return (one & 0xFFF0 if kind == "values" else one).astype(np.uint16)


@pytest.mark.parametrize("kind", ["planes", "values", "colours"])
def test_a_file_of_an_earlier_version_is_decoded_and_written_again(kind: str) -> None:
    file = Path(__file__).parent / f"golden/photograph_16_{kind}.bin"
    assert file.read_bytes()[0] == {"planes": 10, "values": 4, "colours": 5}[kind]
    assert encode(drawn(kind), STATE) == file.read_bytes()
    assert np.array_equal(decode(file.read_bytes(), drawn(kind).shape, STATE), drawn(kind))


def test_another_effort_is_refused() -> None:
    with pytest.raises(ValueError, match="expected effort to be 0, 1 or 2, got 3"):
        encode(noise(1, 4, 4), STATE, 3)


# Commands


def test_a_mixed_folder_comes_back_and_a_file_says_what_it_holds(whole: Path, tmp_path: Path, capsys: Capture) -> None:
    folder, made = tmp_path / "in", {}
    folder.mkdir()
    for channels in MODES:
        made[f"{channels}.png"] = scene(channels, 20, 30)
        write_image(folder / f"{channels}.png", made[f"{channels}.png"])
    tifffile.imwrite(folder / "t.tif", made["3.png"].transpose(1, 2, 0), photometric="rgb")
    made["t.png"] = made["3.png"]
    Image.fromarray((made["3.png"] >> 8).astype(np.uint8).transpose(1, 2, 0)).save(folder / "plain.png")
    assert pack(whole, folder, tmp_path / "x.tkc", "compare=true") == 0
    shown = capsys.readouterr().out
    assert "6 pictures" in shown and "PNG" in shown and "WebP" not in shown
    assert unpack(whole, tmp_path / "x.tkc", tmp_path / "out") == 0
    assert files_of(tmp_path / "out") == {*made, "plain.png"}
    for name, picture in made.items():
        assert np.array_equal(plain_png.read((tmp_path / "out" / name).read_bytes()), picture), name
    assert read_image(tmp_path / "out/plain.png").dtype == np.uint8
    assert inspect.main([f"input={tmp_path / 'x.tkc'}"]) == 0
    for change, message in (
        (lambda header: header["items"][0].__setitem__(1, "L"), "decodes to other pixels than were encoded"),
        (lambda header: header["items"][0].__setitem__(1, "L;12"), "expected a name, a mode and two sizes"),
        (lambda header: header["items"][5].__setitem__(1, "LA;16"), "chunk 5 of 6 d"),
    ):
        bad = rewritten(tmp_path / "x.tkc", tmp_path / "bad.tkc", change)
        refused(lambda: unpack(whole, tmp_path / "bad.tkc", tmp_path / "no"), tmp_path, message, capsys)
        bad.unlink()


def test_an_interrupted_decompress_takes_what_is_there(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    for i in range(3):
        write_image(tmp_path / f"in/{i}.png", scene(3, 9, 9, i))
    assert pack(whole, tmp_path / "in", tmp_path / "x.tkc") == 0
    write, calls = write_image, [0]

    def stopped(*given: Any) -> None:
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        write(*given)

    monkeypatch.setattr("toolkit.images.files.write_image", stopped)
    assert unpack(whole, tmp_path / "x.tkc", tmp_path / "out") == 130
    assert files_of(tmp_path / "out.partial/result") == {"0.png", "1.png"}
    assert unpack(whole, tmp_path / "x.tkc", tmp_path / "out") == 0
    assert calls[0] == 4  # the third again, and no other
    for i in range(3):
        assert np.array_equal(read_image(tmp_path / f"out/{i}.png", every=True), scene(3, 9, 9, i))


@pytest.mark.parametrize("channels", MODES)
def test_a_model_that_cannot_keep_them_says_which_can(channels: int, tmp_path: Path, capsys: Capture) -> None:
    rows = run_folder(tmp_path / "rows", (3, 8, 8))
    write_image(tmp_path / "a.png", noise(channels, 9, 7))
    message = "a.png: expected 8 bits a value, got 16; do: compress it with run=photographs, which keeps them"
    refused(functools.partial(pack, rows, tmp_path / "a.png", tmp_path / "x.tkc"), tmp_path, message, capsys)


def test_sizes_of_other_codecs_are_of_those_that_take_16_bits() -> None:
    colour, grey = scene(3, 20, 30), scene(1, 20, 30)
    assert set(baselines.sizes([colour, grey])) == {"PNG"}
    found = baselines.sizes([grey])
    assert "WebP" not in found and found["PNG"][0] < grey.nbytes
