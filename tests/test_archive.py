"""toolkit.compress and toolkit.decompress: every pixel of pictures and arrays comes back."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.archives import RESTORED, RNG, files_of, noise, pack, pixels, unpack
from toolkit.container import Reader


@pytest.mark.parametrize("model", ["rgb", "grey"])
def test_a_mixed_folder_comes_back_pixel_by_pixel(
    model: str, runs: dict[str, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pack(runs[model], photos, tmp_path / "photos.tkc", "jpeg=pixels") == 0
    shown = capsys.readouterr()
    size, values = (tmp_path / "photos.tkc").stat().st_size, 13 * 9 + 3 * (17 * 8 + 8 * 16 + 1 + 60) + 1 + 81
    assert f"7 pictures, {values} values" in shown.out
    assert f"{size} bytes, {8 * size / values:.4f} bits per dimension" in shown.out
    assert f"left out: {photos / 'notes.txt'}: not an image" in shown.err
    assert unpack(runs[model], tmp_path / "photos.tkc", tmp_path / "back") == 0
    assert "7 pictures restored" in capsys.readouterr().out
    assert files_of(tmp_path / "back") == set(RESTORED.values())
    for before, after in RESTORED.items():
        assert np.array_equal(pixels(photos / before), pixels(tmp_path / "back" / after)), before
    assert {path.name for path in tmp_path.iterdir()} == {"photos.tkc", "back"}


def test_pictures_that_lie_across_chunks_come_back(
    runs: dict[str, Path], photos: Path, packed: Path, tmp_path: Path
) -> None:
    with Reader(packed) as reader:
        assert [chunk.rows for chunk in reader.chunks] == [7, 7, 4]
    assert unpack(runs["rgb"], packed, tmp_path / "back") == 0
    for before, after in RESTORED.items():
        assert np.array_equal(pixels(photos / before), pixels(tmp_path / "back" / after)), before


@pytest.mark.parametrize("name", RESTORED)
def test_one_picture_comes_back_alone(
    name: str, runs: dict[str, Path], photos: Path, packed: Path, tmp_path: Path
) -> None:
    assert unpack(runs["rgb"], packed, tmp_path / "one", f"only={name}") == 0
    [restored] = files_of(tmp_path / "one")
    assert np.array_equal(pixels(photos / name), pixels(tmp_path / "one" / restored))


def test_one_picture_comes_back_though_another_chunk_is_damaged(
    runs: dict[str, Path], photos: Path, packed: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.tkc"
    with Reader(packed) as reader:
        at = reader.chunks[2].offset + 5
    data = bytearray(packed.read_bytes())
    data[at] ^= 1
    damaged.write_bytes(data)
    assert unpack(runs["rgb"], damaged, tmp_path / "one", "only=a.jpg") == 0
    assert np.array_equal(pixels(photos / "a.jpg"), pixels(tmp_path / "one/a.jpg.png"))
    assert unpack(runs["rgb"], damaged, tmp_path / "all") == 1
    assert not (tmp_path / "all").exists()


def test_a_single_image_comes_back(runs: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    assert pack(runs["rgb"], photos / "deep/palette.png", tmp_path / "p.tkc") == 0
    assert unpack(runs["rgb"], tmp_path / "p.tkc", tmp_path / "back") == 0
    assert np.array_equal(pixels(photos / "deep/palette.png"), pixels(tmp_path / "back/palette.png"))


def test_the_same_input_makes_the_same_bytes(runs: dict[str, Path], photos: Path, packed: Path, tmp_path: Path) -> None:
    assert pack(runs["rgb"], photos, tmp_path / "again.tkc", "chunk_rows=7", "jpeg=pixels") == 0
    assert (tmp_path / "again.tkc").read_bytes() == packed.read_bytes()


ARRAYS: dict[str, tuple[tuple[int, ...], str]] = {
    "one grey": ((9, 10), "|u1"), "greys": ((6, 9, 10), "<i8"), "one colour": ((9, 10, 3), "|i1"),
    "channels last": ((3, 5, 7, 3), ">u2"), "channels first": ((3, 3, 5, 7), "<i4"), "bits": ((2, 8, 8), "|b1"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["npy", "pt"])
@pytest.mark.parametrize("case", ARRAYS)
def test_an_array_comes_back_with_its_shape_and_dtype(
    case: str, kind: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    shape, dtype = ARRAYS[case]
    values = RNG.integers(0, 2 if dtype == "|b1" else 128, shape).astype(dtype)
    source, back = tmp_path / f"x.{kind}", tmp_path / f"back.{kind}"
    if kind == "npy":
        np.save(source, values)
    else:
        torch.save(torch.from_numpy(values.astype(values.dtype.newbyteorder("="))), source)
    assert pack(runs["rgb"], source, tmp_path / "x.tkc", "chunk_rows=7") == 0
    assert unpack(runs["rgb"], tmp_path / "x.tkc", back) == 0
    if kind == "npy":
        restored = np.load(back)
        assert restored.dtype == values.dtype and np.array_equal(restored, values)
    else:
        tensor, given = torch.load(back), torch.load(source)
        assert tensor.dtype == given.dtype and torch.equal(tensor, given)


def test_an_array_is_coded_in_as_many_chunks_as_asked(runs: dict[str, Path], tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", noise(20, 8, 8))
    assert pack(runs["grey"], tmp_path / "x.npy", tmp_path / "x.tkc", "chunk_rows=7") == 0
    with Reader(tmp_path / "x.tkc") as reader:
        assert [chunk.rows for chunk in reader.chunks] == [7, 7, 6]
