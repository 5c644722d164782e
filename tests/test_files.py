"""A person's files: every pixel comes back, and what would not come back is refused by name."""

import io
import json
import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from toolkit.images import arrays, files
from toolkit.images.arrays import Array, axes_of, load_array, restore_array, writer
from toolkit.images.files import Item, check_name, output_names, read_image
from toolkit.images.folder import find, look
from toolkit.images.tiles import count_tiles, tiles, untile, valid_of

RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


# Tiles


@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    c=st.sampled_from([1, 3]),
    channels=st.sampled_from([1, 3]),
    size=st.tuples(st.integers(1, 33), st.integers(1, 33)),
    seed=st.integers(0, 2**32),
)
@example(height=4, width=6, c=3, channels=3, size=(4, 6), seed=0)
@settings(max_examples=150, deadline=None)
def test_tiles_come_back_from_their_valid_values_alone(
    height: int, width: int, c: int, channels: int, size: tuple[int, int], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (c, height, width), dtype=torch.uint8, generator=generator)
    item = Item("a.png", "L" if c == 1 else "RGB", height, width)
    rows, valid = tiles(image, channels, size)
    assert rows.dtype == torch.uint8 and valid.dtype == torch.bool
    assert list(rows.shape) == list(valid.shape) == [count_tiles(item, channels, size), channels, *size]
    assert torch.equal(valid, valid_of(item, channels, size))
    assert int(valid.sum()) == image.numel()  # each value of the picture is coded exactly once
    garbage = torch.randint(0, 256, rows.shape, dtype=torch.uint8, generator=generator)
    decoded = torch.where(valid, rows, garbage)
    assert torch.equal(untile(decoded, item, channels, size), image)


def test_tiles_go_row_by_row_and_repeat_the_border() -> None:
    image = torch.tensor([[[1, 2, 3], [4, 5, 6], [7, 8, 9]]], dtype=torch.uint8)
    rows, valid = tiles(image, 1, (2, 2))
    assert rows[:, 0].tolist() == [[[1, 2], [4, 5]], [[3, 3], [6, 6]], [[7, 8], [7, 8]], [[9, 9], [9, 9]]]
    assert valid[3, 0].tolist() == [[True, False], [False, False]]


def test_a_grey_picture_stands_in_all_channels_of_an_rgb_model_and_is_coded_once() -> None:
    image = torch.from_numpy(noise(1, 4, 4))
    rows, valid = tiles(image, 3, (4, 4))
    assert torch.equal(rows, image.expand(1, 3, 4, 4)) and valid.sum((0, 2, 3)).tolist() == [16, 0, 0]


def test_an_rgb_picture_becomes_three_planes_of_a_grey_model() -> None:
    image = torch.from_numpy(noise(3, 4, 8))
    rows, _ = tiles(image, 1, (4, 4))
    assert torch.equal(rows[:, 0], torch.stack([plane[:, x : x + 4] for plane in image for x in (0, 4)]))


@pytest.mark.parametrize("image", [torch.zeros(3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.uint8)])
def test_tiles_refuses_anything_but_bytes_of_one_or_three_channels(image: Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected a picture uint8 \[1 or 3, height, width\], got"):
        tiles(image, 3, (4, 4))


@pytest.mark.parametrize(
    ("item", "channels", "size"),
    [
        (Item("a", "array", 4, 4), 3, (4, 4)),
        (Item("a", "L", 0, 4), 3, (4, 4)),
        (Item("a", "L", 4, 4), 2, (4, 4)),
        (Item("a", "L", 4, 4), 1, (4, 0)),
    ],
)
def test_count_tiles_refuses_other_modes_channels_and_sizes(item: Item, channels: int, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="expected a picture of mode L or RGB, a model of 1 or 3 channels"):
        count_tiles(item, channels, size)


def test_untile_refuses_rows_of_another_item() -> None:
    rows, _ = tiles(torch.from_numpy(noise(3, 9, 9)), 3, (4, 4))
    with pytest.raises(ValueError, match=r"expected rows \[4, 3, 4, 4\] .* got \[9, 3, 4, 4\]"):
        untile(rows, Item("a.png", "RGB", 8, 8), 3, (4, 4))


# Finding


def test_find_lists_visible_images_sorted_by_their_relative_path(tmp_path: Path) -> None:
    for name in ("b/z.JPG", "b.png", "a/2.webp", "a/1.tiff", ".hidden/x.png", "a/._1.png", "notes.txt", "x.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [path.relative_to(tmp_path).as_posix() for path in find(tmp_path)]
    assert names == ["a/1.tiff", "a/2.webp", "b.png", "b/z.JPG"]
    assert [path.name for path, why, _ in look(tmp_path).left_out if "hidden" not in why] == ["notes.txt", "x.npy"]
    assert find(tmp_path / "b.png") == [tmp_path / "b.png"]


def test_find_refuses_a_path_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected a folder or an image, got .*nowhere, which does not exist"):
        find(tmp_path / "nowhere")


def test_find_refuses_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "x.npy").touch()
    with pytest.raises(ValueError, match=r"expected images \(.png .*found none.*; do: .* arrays"):
        find(tmp_path)


# Reading and writing pictures


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "gif"])
def test_grey_and_rgb_pixels_are_read_as_stored_and_written_back(tmp_path: Path, suffix: str) -> None:
    for c in (1, 3) if suffix != "gif" else (1,):
        pixels = noise(c, 5, 7)
        Image.fromarray(pixels[0] if c == 1 else pixels.transpose(1, 2, 0)).save(tmp_path / f"a.{suffix}")
        read = read_image(tmp_path / f"a.{suffix}")
        assert read.dtype == np.uint8
        assert np.array_equal(read, pixels) or (suffix == "gif" and np.array_equal(read, pixels.repeat(3, 0)))
        files.write_image(tmp_path / "new" / "b.png", read)
        assert np.array_equal(read_image(tmp_path / "new" / "b.png"), read)
        with Image.open(tmp_path / "new" / "b.png") as image:
            assert image.format == "PNG" and image.mode == ("L" if len(read) == 1 else "RGB")


def test_bilevel_and_palette_pictures_become_grey_and_rgb(tmp_path: Path) -> None:
    Image.fromarray(noise(4, 4)).convert("1").save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (1, 4, 4)
    palette = Image.fromarray(noise(4, 4, 3)).quantize(7)
    palette.save(tmp_path / "p.png")
    assert np.array_equal(read_image(tmp_path / "p.png"), np.array(palette.convert("RGB")).transpose(2, 0, 1))


def test_the_orientation_of_a_camera_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.fromarray(noise(4, 6, 3)).save(tmp_path / "a.png", exif=exif)
    assert read_image(tmp_path / "a.png").shape == (3, 4, 6)


def png16(color: int, values: int) -> bytes:
    """A 2 x 2 PNG of 16 bits a value, which Pillow writes only in grey."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    body = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IDAT", zlib.compress(2 * bytes(1 + 4 * values))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("color", "values"), [(0, 1), (2, 3)], ids=["grey", "rgb"])
def test_sixteen_bits_in_a_png_are_refused(tmp_path: Path, color: int, values: int) -> None:
    (tmp_path / "a.png").write_bytes(png16(color, values))
    with pytest.raises(ValueError, match=r"a.png: expected 8 bits a value, got 16; do: compress it with"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_deep_pixels_in_a_tiff_are_refused(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a.tif: expected 8 bits a value, "):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB"])
def test_other_colour_spaces_are_refused(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=rf"a.tif: expected grey, RGB or palette, got {mode}; do: convert it"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_several_frames_are_refused(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(noise(8, 8, 3)) for _ in range(3)]
    if suffix == "gif":
        frames = [frame.quantize(8) for frame in frames]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], lossless=True)
    with pytest.raises(ValueError, match=rf"a.{suffix}: expected one frame, got 3 .*do: save each frame"):
        read_image(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif"])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(noise(64, 64, 3)).save(tmp_path / f"a.{suffix}")
    data = (tmp_path / f"a.{suffix}").read_bytes()
    (tmp_path / f"a.{suffix}").write_bytes(data[: len(data) // 2])
    said = f"expected a whole image, got one that is cut short: it ends after {len(data) // 2} bytes, before its last"
    with pytest.raises(ValueError, match=rf"a.{suffix}: {said} pixel; do: copy it again"):
        read_image(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "got an empty file"), (b"text", "of an unknown kind"), (bytes(100), "unknown kind")]
)
def test_files_that_are_no_images_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a.png: expected an image.*{said}"):
        read_image(tmp_path / "a.png")


def test_pictures_of_too_many_pixels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (100, 100)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    with pytest.raises(ValueError, match=r"a.png: expected a picture of fewer pixels"):
        read_image(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6000)  # above it, and below twice as many, Pillow only warns
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "a.png").shape == (1, 100, 100)


# Names


def test_output_names_are_png_and_never_meet() -> None:
    names = ["a.jpg", "a.png", "A.webp", "b/a.tar.gif", "a.jpg.bmp", "a.jpg.gif", "noSuffix", "x.jpg", "X.png/in.jpg"]
    assert output_names([Item(name, "L", 1, 1) for name in names], set()) == [
        "a.jpg.png",  # the next one keeps its name
        "a.png",
        "A.webp.png",  # a.png on a file system that does not tell upper from lower case
        "b/a.tar.png",
        "a.jpg.bmp.png",
        "a.jpg.gif.png",
        "noSuffix.png",
        "x.jpg.png",  # x.png would be the folder of the next
        "X.png/in.png",
    ]


def test_a_million_names_that_differ_in_case_only_do_not_take_for_ever() -> None:
    names = ["".join(c.upper() if i >> j & 1 else c for j, c in enumerate("abcdefghijkl")) for i in range(4096)]
    found = output_names([Item(name, "L", 1, 1) for name in names], set())
    assert len({name.casefold() for name in found}) == 4096


def test_names_that_differ_in_the_way_to_write_an_accent_only_do_not_meet() -> None:
    assert output_names([Item(name, "L", 1, 1) for name in ("\u00e9.png", "e\u0301.png")], set()) == [
        "\u00e9.png", "e\u0301.png.png",
    ]  # fmt: skip


def test_a_name_that_occurs_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected names that differ, got 'b.png' twice"):
        output_names([Item(name, "L", 1, 1) for name in ("a.png", "b.png", "b.png")], set())


@pytest.mark.parametrize(
    "name",
    [
        "/a.png",
        "../a.png",
        "a/../../b.png",
        "..",
        "a//b.png",
        "",
        "a/",
        "./a.png",
        "C:a.png",
        "c:/a.png",
        "a\\b",
        "a\0",
        "NUL",
        "con.png",
        "a/lpt1.tar.gz/b.png",
        "\ud800.png",
        "a/" * 200 + "b.png",
    ],
)
def test_unsafe_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="the unsafe name"):
        output_names([Item(name, "L", 1, 1)], set())


@pytest.mark.parametrize("name", ["10:30.png", "a./b.png", "a /b.png", "why?.png", "a\nb.png"])
def test_names_that_mean_something_else_on_windows_are_refused_there(name: str) -> None:
    assert check_name(name, windows=False) == name
    with pytest.raises(ValueError, match="the unsafe name"):
        check_name(name, windows=True)


@pytest.mark.parametrize("name", ["a.png", "console.png", "a b/ä.png", ".hidden/a", "com.png", "a..png", "...", "-"])
def test_safe_names_are_taken(name: str) -> None:
    assert check_name(name, windows=False) == name


# Arrays


def _write(path: Path, rows: torch.Tensor, array: Array) -> None:
    with writer(path, array) as write:
        for i, row in enumerate(rows):
            write(i, row)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="a system that does not tell a process its peak")
def test_an_image_file_is_read_and_written_with_one_copy_beside_its_pixels(tmp_path: Path) -> None:
    program = """
import re, sys
from pathlib import Path
import numpy as np
from toolkit.images.files import read_image, write_image

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

if sys.argv[1] == "write":
    picture = np.full((3, 3000, 4000), 7, np.uint8)
    picture[1] = 9
    before = peak()
    write_image("a.png", picture)
else:
    before = peak()
    picture = read_image("a.png")
    assert (picture == [[[7]], [[9]], [[7]]]).all()
print((peak() - before) / picture.nbytes)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    for what, most in (("write", 2.0), ("read", 3.2)):  # Pillow's image is 4/3, and the array 1 where it is made
        done = subprocess.run(
            [sys.executable, "-c", program, what], cwd=tmp_path, env=environment, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        assert 1 < float(done.stdout) < most, what


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3), (4, 5, 1), (7, 4, 5), (7, 4, 5, 3), (7, 3, 4, 5), (7, 1, 4, 3)])
@pytest.mark.parametrize("dtype", ["u1", "i1", "<i8", ">i4", "<u2", "?"])
def test_arrays_come_back_with_their_shape_and_dtype(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    values = (noise(*shape) % (2 if dtype == "?" else 128)).astype(dtype)
    np.save(tmp_path / "a.npy", values)
    rows, array = load_array(tmp_path / "a.npy", "folder/a.npy")
    assert rows.dtype == np.uint8 and tuple(rows.shape) == array.images and rows.shape[1] in (1, 3)
    array = Array(**json.loads(json.dumps(array._asdict())))  # as it travels in the header of a file
    cut, _ = tiles(torch.from_numpy(rows[0]), 3, (4, 4))
    assert np.array_equal(untile(cut, array.item, 3, (4, 4)), rows[0])
    _write(tmp_path / "b.npy", rows, array)
    again = np.load(tmp_path / "b.npy")
    assert again.dtype == values.dtype and again.shape == shape and np.array_equal(again, values)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.int16, torch.bool, torch.uint16])
def test_tensors_come_back_with_their_shape_and_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.from_numpy(noise(7, 4, 5, 3) % 2).to(dtype).transpose(1, 2)  # not contiguous
    torch.save(values, tmp_path / "a.pt")
    rows, array = load_array(tmp_path / "a.pt")
    _write(tmp_path / "b.pt", rows, array)
    again = torch.load(tmp_path / "b.pt", weights_only=True)
    assert again.dtype == dtype and torch.equal(again.long(), values.long()) and array.format == "pt"


def test_the_images_of_an_array_have_their_channels_first() -> None:
    rows = arrays.to_images(np.arange(24).reshape(2, 2, 2, 3), "nhwc")
    assert rows[1, 2].tolist() == [[14, 17], [20, 23]]


@pytest.mark.parametrize("shape", [(5,), (2, 4, 4, 2), (2, 1, 4, 4, 1), (0, 4, 4), (0, 4), ()])
def test_arrays_of_other_shapes_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected images \[h, w\].* got the shape \[.*do: reshape"):
        axes_of(shape)
    np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match=r"a.npy: expected images \[h, w\]"):
        load_array(tmp_path / "a.npy")


@pytest.mark.parametrize("dtype", ["f4", "c8", "U3"])
def test_arrays_of_anything_but_integers_are_refused(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 4), dtype))
    with pytest.raises(ValueError, match=r"a.npy: expected integers from 0 to 255, got dtype .*do: quantise"):
        load_array(tmp_path / "a.npy")


@pytest.mark.parametrize("value", [-1, 256])
def test_arrays_beyond_bytes_are_refused(tmp_path: Path, value: int) -> None:
    np.save(tmp_path / "a.npy", np.array([[0, value]]))
    with pytest.raises(ValueError, match=r"expected integers from 0 to 255, got values from (-1 to 0|0 to 256)"):
        load_array(tmp_path / "a.npy")


def test_array_files_that_are_broken_missing_or_hold_objects_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([None, {}]), allow_pickle=True)
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros((3, 3), np.uint8))
    (tmp_path / "several.npy").write_bytes(buffer.getvalue())
    (tmp_path / "broken.npy").write_bytes(b"nothing")
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    (tmp_path / "a.txt").write_bytes(b"nothing")
    torch.save({"a": torch.zeros(3)}, tmp_path / "dict.pt")
    torch.save(Path("code"), tmp_path / "code.pt")
    torch.save(torch.zeros(3, 3, dtype=torch.bfloat16), tmp_path / "half.pt")
    for name in ("objects.npy", "broken.npy", "broken.pt", "code.pt", "a.txt"):
        with pytest.raises(ValueError, match=rf"{name}: expected a .npy file, or a .pt file of a tensor, that can be"):
            load_array(tmp_path / name)
    for name, got in (("several.npy", "NpzFile"), ("dict.pt", "dict"), ("half.pt", "torch.bfloat16 tensor")):
        with pytest.raises(ValueError, match=rf"{name}: expected one array of integers, got a {got}"):
            load_array(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"expected an array file .*nowhere.npy, which is no file"):
        load_array(tmp_path / "nowhere.npy")


@pytest.mark.parametrize(
    "wrong", [{"shape": (3, 4, 5)}, {"axes": "nhwc"}, {"axes": "xyz"}, {"dtype": "<f4"}, {"shape": (2, 5, 4)}]
)
def test_a_description_that_does_not_fit_the_images_is_refused(wrong: dict[str, Any]) -> None:
    array = Array("a.npy", "npy", "|u1", (2, 4, 5), "nhw")._replace(**wrong)
    with pytest.raises(ValueError, match=r"expected the images of Array\(.*got uint8 \[2, 1, 4, 5\]"):
        restore_array(np.zeros((2, 1, 4, 5), np.uint8), array)


def test_the_writer_refuses_an_unknown_format(tmp_path: Path) -> None:
    array = Array("a.npy", "mat", "|u1", (2, 4, 5), "nhw")
    with pytest.raises(ValueError, match="expected the format npy or pt, got 'mat'"):
        _write(tmp_path / "a", np.zeros((2, 1, 4, 5), np.uint8), array)
