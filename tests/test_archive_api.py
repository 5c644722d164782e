"""toolkit.open and toolkit.Writer: pictures one by one, the same bytes as `compress` writes, complete or absent."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image

import toolkit
from tests.archives import noise, pack, unpack
from tests.places import Counting
from tests.tiny import images, run_folder
from toolkit import inspect
from toolkit.container import Reader

ROOT = Path(__file__).parents[1]
fsspec.register_implementation("counting", Counting, clobber=True)


def pictures(count: int = 5) -> list[np.ndarray]:
    return [noise(20 + i, 30 - i, 3).transpose(2, 0, 1) for i in range(count)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the model that ships, written picture by picture."""
    path = tmp_path_factory.mktemp("alone") / "photos.tkc"
    with toolkit.Writer(path, effort=0) as writer:
        for i, picture in enumerate(PICTURES):
            writer.add(picture, f"deep/{i}.png")
    return path


PICTURES = pictures()


def test_a_file_is_a_sequence_of_its_pictures(alone: Path) -> None:
    with toolkit.open(alone) as file:
        assert len(file) == 5 and file.names == [f"deep/{i}.png" for i in range(5)]
        assert all(map(np.array_equal, file, PICTURES))
        assert np.array_equal(file[-1], PICTURES[-1]) and np.array_equal(file["deep/2.png"], PICTURES[2])
        found = []
        for picture in file:  # asking for another one meanwhile
            found.append(picture)
            assert np.array_equal(file[1], PICTURES[1])
        assert all(map(np.array_equal, found, PICTURES)) and len(found) == 5
        with pytest.raises(IndexError):
            file[5]
        with pytest.raises(KeyError, match="expected a name in the file"):
            file["6.png"]
    assert all(map(np.array_equal, toolkit.open(alone), PICTURES))


def test_pictures_of_rows_are_read_in_any_order(packed: Path, runs: dict[str, Path], tmp_path: Path) -> None:
    assert unpack(runs["rgb"], packed, tmp_path / "back") == 0
    with toolkit.open(packed, runs["rgb"], "cpu") as file:
        order = np.random.default_rng(0).permutation(len(file))
        for i in [*order, *range(len(file))]:
            name = {"a.jpg": "a.jpg.png"}.get(file.names[i], str(Path(file.names[i]).with_suffix(".png")))
            with Image.open(tmp_path / "back" / name) as image:
                expected = np.asarray(image)
            assert np.array_equal(file[int(i)].transpose(1, 2, 0).squeeze(), expected.squeeze())


@pytest.mark.parametrize("shape", [(9, 3, 8, 8), (9, 8, 8, 3), (9, 12, 8), (12, 10)])
def test_an_array_comes_back_image_by_image_as_it_was(shape: Any, runs: dict[str, Path], tmp_path: Path) -> None:
    array = noise(*shape).astype("<i4")
    np.save(tmp_path / "x.npy", array)
    assert pack(runs["rgb"], tmp_path / "x.npy", tmp_path / "x.tkc", "chunk_rows=4") == 0
    with toolkit.open(tmp_path / "x.tkc", runs["rgb"], "cpu") as file:
        found = np.stack([*file]) if len(shape) > 2 else file[0]
        assert found.dtype == array.dtype and np.array_equal(found, array)


def test_the_writer_writes_the_bytes_of_compress(runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for i, picture in enumerate(PICTURES):
        Image.fromarray(picture.transpose(1, 2, 0)).save(tmp_path / f"photos/{i}.png")
    rows = images(50, (3, 8, 8)).numpy()
    np.save(tmp_path / "array.npy", rows)
    for chunk_rows in (7, 16384):
        assert pack(runs["rgb"], tmp_path / "photos", tmp_path / "a.tkc", f"chunk_rows={chunk_rows}") == 0
        with toolkit.Writer(tmp_path / "b.tkc", runs["rgb"], device="cpu", chunk_rows=chunk_rows) as writer:
            for i, picture in enumerate(PICTURES):
                writer.add(picture, f"{i}.png")
        assert (tmp_path / "a.tkc").read_bytes() == (tmp_path / "b.tkc").read_bytes()
        assert pack(runs["rgb"], tmp_path / "array.npy", tmp_path / "c.tkc", f"chunk_rows={chunk_rows}") == 0
        with toolkit.Writer(tmp_path / "d.tkc", runs["rgb"], device="cpu", chunk_rows=chunk_rows) as writer:
            for part in np.split(rows, [1, 20, 20]):
                writer.add(part)
        assert (tmp_path / "c.tkc").read_bytes() == (tmp_path / "d.tkc").read_bytes()
        for name in "abcd":
            (tmp_path / f"{name}.tkc").unlink()


@pytest.mark.parametrize("chunk_rows", [4, 100])
def test_a_file_goes_on(chunk_rows: int, runs: dict[str, Path], tmp_path: Path) -> None:
    rows, path = images(23, (3, 8, 8)).numpy(), tmp_path / "x.tkc"
    with toolkit.Writer(path, runs["rgb"], device="cpu", chunk_rows=chunk_rows) as writer:
        writer.add(rows[:10])
    with Reader(path) as reader:
        before = [reader.read(i) for i in range(len(reader.chunks))]
    with toolkit.Writer(path, runs["rgb"], append=True, device="cpu") as writer:
        writer.add(rows[10:12])
        writer.add(rows[12:])
    with toolkit.open(path, runs["rgb"], "cpu") as file, Reader(path) as reader:
        assert np.array_equal(np.stack([*file]), rows)
        assert reader.header["values"] == rows.size and reader.header["array"]["shape"] == [23, 3, 8, 8]
        assert [chunk.rows for chunk in reader.chunks] == ([4] * 5 + [3] if chunk_rows == 4 else [23])
        if chunk_rows == 4:
            assert [reader.read(i) for i in range(2)] == before[:2]
    assert inspect.main([str(path)]) == 0


def test_whole_pictures_go_on_and_keep_their_metadata(tmp_path: Path) -> None:
    Image.fromarray(PICTURES[0].transpose(1, 2, 0)).save(tmp_path / "a.png", dpi=(90, 90))
    from toolkit import compress

    assert compress.main([str(tmp_path / "a.png"), str(tmp_path / "x.tkc"), "effort=0"]) == 0
    with toolkit.Writer(tmp_path / "x.tkc", append=True, effort=0) as writer:
        writer.add(PICTURES[1])
        writer.add(noise(6, 7)[None])
    with toolkit.open(tmp_path / "x.tkc") as file:
        assert file.names == ["a.png", "000001.png", "000002.png"]
        assert np.array_equal(file[1], PICTURES[1]) and file[2].shape == (1, 6, 7)
        assert [bool(about) for about in file.header["metadata"]] == [True, False, False]


def test_an_error_in_the_block_leaves_what_was_there(alone: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.tkc"
    path.write_bytes(alone.read_bytes())
    with pytest.raises(RuntimeError), toolkit.Writer(path, append=True, effort=0) as writer:
        writer.add(PICTURES[0], "new.png")
        raise RuntimeError
    assert path.read_bytes() == alone.read_bytes() and [*tmp_path.iterdir()] == [path]


def test_a_file_from_which_a_part_is_missing_is_never_written(tmp_path: Path, monkeypatch: Any) -> None:
    path, message = tmp_path / "x.tkc", "expected every part to be coded, got an error for one before"
    with pytest.raises(ValueError, match=message), toolkit.Writer(path, effort=0) as writer:
        monkeypatch.setattr(writer._encoder, "_most", 0)
        monkeypatch.setattr(writer._encoder, "_coded", lambda item, pixels: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            writer.add(PICTURES[0])
        with pytest.raises(ValueError, match=message):
            writer.add(PICTURES[1])
    assert not [*tmp_path.iterdir()]


def test_a_writer_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    program = (
        "import sys, numpy as np, toolkit\nwriter = toolkit.Writer('x.tkc', effort=0)\n"
        "for i in range(8): writer.add(np.full((3, 8, 8), i, np.uint8))\nprint('ready', flush=True)\nsys.stdin.read()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
    assert not [*tmp_path.iterdir()]


def test_files_at_urls_are_opened_and_written(alone: Path) -> None:
    Counting.empty()
    with toolkit.Writer("counting://bucket/x.tkc", effort=0) as writer:
        for i, picture in enumerate(PICTURES):
            writer.add(picture, f"deep/{i}.png")
        assert not Counting.objects
    assert Counting.objects["bucket/x.tkc"] == alone.read_bytes()
    with toolkit.open("counting://bucket/x.tkc") as file:
        asked = len(Counting.asked)
        assert np.array_equal(file[3], PICTURES[3]) and len(Counting.asked) == asked + 1
    with toolkit.Writer("counting://bucket/x.tkc", append=True, effort=0) as writer:
        writer.add(PICTURES[0], "again.png")
    with toolkit.open("counting://bucket/x.tkc") as file:
        assert file.names[-1] == "again.png" and np.array_equal(file[5], PICTURES[0])
    Counting.empty()


@pytest.mark.parametrize(
    ("pixels", "name", "expected"),
    [
        (np.zeros((2, 2), np.uint8), None, r"expected a picture uint8 or uint16 \[c, h, w\].*got uint8 \[2, 2\]"),
        (np.zeros((5, 4, 4), np.uint8), None, "channels come first"),
        (np.zeros((3, 4, 4), np.float32), None, "got float32"),
        (np.zeros((3, 4, 4), np.uint8), "../a.png", "unsafe name"),
        (np.zeros((3, 4, 4), np.uint8), "a.png", "expected names that differ, got 'a.png' twice"),
        (np.zeros((2, 3, 4, 4), np.uint8), None, "expected pictures .* for a model of whole ones, got an array"),
        (np.zeros((2, 3, 4, 4), np.uint8), "x", "expected no name for images of an array"),
    ],
)
def test_what_is_no_picture_of_the_file_is_refused(pixels: Any, name: Any, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=expected), toolkit.Writer(tmp_path / "x.tkc", effort=0) as writer:
        writer.add(np.ones((3, 4, 4), np.uint8), "a.png")
        writer.add(pixels, name)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.zeros((2, 3, 8, 9), np.uint8), r"expected more images \|u1 \[n, 3, 8, 8\], got \|u1 \[2, 3, 8, 9\]"),
        (np.zeros((2, 3, 8, 8), np.int64), r"expected more images"),
        (np.full((2, 3, 8, 8), 300), "expected integers from 0 to 255"),
        (np.zeros((3, 8, 8), np.uint8), "expected images of the array"),
        (np.zeros((2, 5, 8, 8), np.uint8), "got the shape"),
    ],
)
def test_what_does_not_go_on_with_an_array_is_refused(
    pixels: Any, expected: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=expected), toolkit.Writer(tmp_path / "x.tkc", runs["rgb"]) as writer:
        writer.add(np.ones((2, 3, 8, 8), np.uint8))
        writer.add(pixels)
    assert not [*tmp_path.iterdir()]


def test_options_and_files_that_do_not_fit_are_refused(alone: Path, runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected no chunk_rows= for a model of"):
        toolkit.Writer(tmp_path / "x.tkc", chunk_rows=3)
    with pytest.raises(ValueError, match="expected no verify= for a model of"):
        toolkit.Writer(tmp_path / "x.tkc", verify=True)
    with pytest.raises(ValueError, match=r"expected output= to end in \.tkc"):
        toolkit.Writer(tmp_path / "x.png")
    with pytest.raises(FileNotFoundError):
        toolkit.Writer(tmp_path / "x.tkc", append=True)
    with pytest.raises(FileExistsError, match="overwrite=true"):
        toolkit.Writer(alone)
    with pytest.raises(ValueError, match="expected a file of the model"):
        toolkit.Writer(alone, runs["rgb"], append=True)
    with pytest.raises(ValueError, match="expected a file of the model"):
        toolkit.open(alone, runs["rgb"])
    with pytest.raises(ValueError, match="expected at least one picture, got none"):
        toolkit.Writer(tmp_path / "x.tkc", runs["rgb"]).close()
    with toolkit.Writer(tmp_path / "y.tkc", runs["rgb"], chunk_rows=2) as writer:
        writer.add(np.zeros((2, 3, 8, 8), np.uint8))
    with pytest.raises(ValueError, match="expected an open Writer, got a closed one"):
        writer.add(np.zeros((2, 3, 8, 8), np.uint8))
    with pytest.raises(ValueError, match="expected no chunk_rows for a file that goes on"):
        toolkit.Writer(tmp_path / "y.tkc", runs["rgb"], append=True, chunk_rows=3)
    with pytest.raises(AttributeError, match="has no attribute 'opne'"):
        toolkit.opne  # noqa: B018
    other = run_folder(tmp_path / "grey", (1, 8, 8))
    with pytest.raises(ValueError, match="got RGBA"), toolkit.Writer(tmp_path / "z.tkc", other) as writer:
        writer.add(np.zeros((4, 8, 8), np.uint8))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grey", "y.tkc"]
