"""What toolkit.compress and toolkit.decompress refuse: a message of its own, exit status 1, nothing left behind."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.archives import noise, pack, refused, rewritten, unpack
from toolkit import compress
from toolkit.container import PREAMBLE, Reader, Writer
from toolkit.images import row_archive


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


def of_version(data: bytes, version: int) -> bytes:
    magic, _, size, crc = PREAMBLE.unpack_from(data)
    fields = PREAMBLE.pack(magic, version, size, crc)
    return fields + zlib.crc32(fields).to_bytes(4, "little") + data[PREAMBLE.size + 4 :]


DAMAGE: dict[str, tuple[Callable[[bytes, Reader], bytes], str]] = {
    "cut short": (lambda data, reader: data[:-1], "b'TKCEND\\r\\n' at the end"),
    "half of it": (lambda data, reader: data[: len(data) // 2], "cut short"),
    "empty": (lambda data, reader: b"", "cut short"),
    "a flipped bit": (lambda data, reader: flip(data, reader.chunks[1].offset + 9), "expected chunk 1 intact"),
    "a flipped bit in the header": (lambda data, reader: flip(data, 40), "expected the header intact"),
    "a later version": (lambda data, reader: of_version(data, 5), "expected format version 4, got 5; use a newer one"),
    "an earlier version": (lambda data, reader: of_version(data, 3), "got 3; a file written before toolkit 0.2"),
    "another format": (lambda data, reader: b"PK\x03\x04" + data, "give a .tkc file of this toolkit"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_file_is_refused(
    case: str, runs: dict[str, Path], packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, message = DAMAGE[case]
    with Reader(packed) as reader:
        (tmp_path / "bad.tkc").write_bytes(damage(packed.read_bytes(), reader))
    refused(lambda: unpack(runs["rgb"], tmp_path / "bad.tkc", tmp_path / "back"), tmp_path, message, capsys)


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another recipe": (lambda h: h.update(recipe="vae"), "expected a file of the model bitswap"),
    "another kind": (lambda h: h.update(kind="sounds"), "expected kind images or array, got 'sounds'"),
    "fewer pictures": (lambda h: h["items"].pop(), "rows, got 18 in chunks"),
    "another seed": (lambda h: h["settings"].update(seed=9), "does not decode"),
    "an unsafe name": (lambda h: h["items"][0].__setitem__(0, "../out.png"), "unsafe name '../out.png'"),
    "a long name": (lambda h: h["items"][0].__setitem__(0, "x" * 256 + ".png"), "expected names of at most 255 bytes"),
    "no settings": (lambda h: h.pop("settings"), "KeyError: 'settings'"),
    "other settings": (lambda h: h["settings"].update(speed=9), "settings"),
    "no lanes": (lambda h: h["settings"].update(lanes=0), "settings"),
    "no batch": (lambda h: h["settings"].update(batch=0), "settings"),
    "no items": (lambda h: h.pop("items"), "items"),
    "broken items": (lambda h: h["items"][0].pop(), "items"),
    "other rows": (lambda h: h.update(rows=[3, 8]), "rows"),
    "rows of another shape": (lambda h: h.update(rows=[3, 8, 16]), "rows"),
    "rows of no whole numbers": (lambda h: h.update(rows=[3, 8.0, 8]), "expected 3 whole numbers above 0"),
    "a rows that is no list": (lambda h: h.update(rows={"c": 3}), "expected 3 whole numbers above 0"),
    "another chunk_rows": (lambda h: h.update(chunk_rows=8), "expected 8 rows in chunk 0, got 7"),
    "no exact": (lambda h: h.pop("exact"), "KeyError: 'exact'"),
    "an exact that is a word": (lambda h: h.update(exact="false"), "expected exact to be true or false"),
    "no chunk_rows": (lambda h: h.pop("chunk_rows"), "KeyError: 'chunk_rows'"),
    "a batch of all memory": (lambda h: h["settings"].update(batch=2**40), "expected batch to be a whole number"),
    "a batch of no whole number": (lambda h: h["settings"].update(batch=1.5), "expected batch to be a whole number"),
    "a batch that is true": (lambda h: h["settings"].update(batch=True), "expected batch to be a whole number"),
    "lanes of all memory": (lambda h: h["settings"].update(lanes=2**40), "expected lanes to be a whole number"),
    "a seed below 0": (lambda h: h["settings"].update(seed=-1), "expected seed to be a whole number"),
    "settings that are a list": (lambda h: h.update(settings=[16, 4, 0]), "settings"),
    "items that are a number": (lambda h: h.update(items=7), "items"),
    "a name that is a number": (lambda h: h["items"][0].__setitem__(0, 7), "expected a name, a mode and two sizes"),
    "another mode": (lambda h: h["items"][0].__setitem__(1, "CMYK"), "expected a name, a mode and two sizes"),
    "a mode that is a list": (lambda h: h["items"][0].__setitem__(1, ["L"]), "expected a name, a mode and two sizes"),
    "a huge picture": (lambda h: h["items"][0].__setitem__(2, 2**30), "rows, got 18 in chunks"),
    "an endless picture": (lambda h: h["items"][0].__setitem__(2, 10**4000), "expected a name, a mode and two sizes"),
    "a picture without pixels": (lambda h: h["items"][0].__setitem__(2, 0), "expected a name, a mode and two sizes"),
    "one name twice": (lambda h: h["items"].__setitem__(1, h["items"][0][:1] + h["items"][1][1:]), "twice"),
    "a kind that is a list": (lambda h: h.update(kind=["images"]), "expected kind images or array"),
    "an absolute name": (lambda h: h["items"][0].__setitem__(0, "/tmp/out.png"), "unsafe name"),
    "a name with a drive": (lambda h: h["items"][0].__setitem__(0, "C:out.png"), "unsafe name"),
    "a name with NUL": (lambda h: h["items"][0].__setitem__(0, "a\0.png"), "unsafe name"),
    "a name of a device": (lambda h: h["items"][0].__setitem__(0, "a/nul.png"), "unsafe name"),
    "no name": (lambda h: h["items"][0].__setitem__(0, ""), "unsafe name"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_sound_file_that_says_something_else_is_refused(
    case: str, runs: dict[str, Path], packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = CHANGES[case]
    path = rewritten(packed, tmp_path / "new.tkc", change)
    (tmp_path / "sub").mkdir()  # so that ../out.png would lie in tmp_path
    refused(lambda: unpack(runs["rgb"], path, tmp_path / "sub/back"), tmp_path, message, capsys)


ARRAY_CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "no dtype": ({"dtype": "<f4"}, "expected an array of integers"),
    "a dtype of many bytes": ({"dtype": "V1000000000"}, "expected an array of integers"),
    "a dtype that is a list": ({"dtype": ["<i8"]}, "expected an array of integers"),
    "another format": ({"format": "pkl"}, "expected an array of integers"),
    "other axes": ({"axes": "hw"}, "expected an array of integers"),
    "a negative shape": ({"shape": [-2, 8, 8]}, "expected an array of integers"),
    "more images": ({"shape": [3, 8, 8]}, "expected 3 rows, got 2 in chunks"),
    "very many images": ({"shape": [1 << 39, 8, 8]}, "rows, got 2 in chunks"),
    "a huge image": ({"shape": [2, 1 << 39, 1 << 39]}, "array"),
    "another key": ({"code": "import os"}, "unexpected keyword"),
}


@pytest.mark.parametrize("case", ARRAY_CHANGES)
def test_an_array_that_is_described_otherwise_is_refused(
    case: str, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = ARRAY_CHANGES[case]
    np.save(tmp_path / "x.npy", noise(2, 8, 8))
    assert pack(runs["grey"], tmp_path / "x.npy", tmp_path / "x.tkc") == 0
    path = rewritten(tmp_path / "x.tkc", tmp_path / "new.tkc", lambda header: header["array"].update(change))
    refused(lambda: unpack(runs["grey"], path, tmp_path / "y.npy"), tmp_path, message, capsys)


@pytest.mark.parametrize(("rows", "chunk_rows"), [(10**9, 10**9), (10**9, 10**4), (10**8, 10**7)])
def test_a_file_that_declares_much_more_than_it_can_hold_is_refused_before_memory_is_taken(
    rows: int, chunk_rows: int, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Reader(packed_array(runs, tmp_path)) as reader:
        header = {**reader.header, "chunk_rows": chunk_rows, "array": {**reader.header["array"], "shape": [rows, 8, 8]}}
        payload = reader.read(0)
    with Writer(tmp_path / "bomb.tkc", header) as writer:
        for first in range(0, rows, chunk_rows) if rows // chunk_rows < 10 else ():
            writer.write(payload, min(chunk_rows, rows - first), 0)
        if rows // chunk_rows >= 10:
            writer.write(payload, rows, 0)
    refused(
        lambda: unpack(runs["grey"], tmp_path / "bomb.tkc", tmp_path / "y.npy"),
        tmp_path,
        "a chunk, in a file of",
        capsys,
    )


def packed_array(runs: dict[str, Path], folder: Path) -> Path:
    np.save(folder / "x.npy", noise(2, 8, 8))
    assert pack(runs["grey"], folder / "x.npy", folder / "x.tkc") == 0
    return folder / "x.tkc"


@pytest.mark.parametrize("name", ["nul.png", "C:x.png", "a\\b.png"])
def test_a_picture_that_could_not_be_restored_is_refused_when_it_is_compressed(
    name: str, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(noise(4, 4)).save(tmp_path / "in" / name)
    refused(lambda: pack(runs["rgb"], tmp_path / "in", tmp_path / "x.tkc"), tmp_path, "unsafe name", capsys)


def test_too_many_rows_in_a_chunk_are_refused(
    runs: dict[str, Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(row_archive, "MOST_VALUES", 192 * 7)
    assert pack(runs["rgb"], photos, tmp_path / "a.tkc", "chunk_rows=7", "jpeg=pixels") == 0
    message = "expected chunk_rows of at most 7 for rows of [3, 8, 8], got 8; give a smaller one"
    refused(lambda: pack(runs["rgb"], photos, tmp_path / "b.tkc", "chunk_rows=8"), tmp_path, message, capsys)


def test_rows_that_decode_to_other_values_than_were_encoded_are_refused(
    runs: dict[str, Path], packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = rewritten(packed, tmp_path / "new.tkc", lambda header: None, rows_crc=1)
    message = "chunk 0 of 3 decodes to other rows than were encoded"
    refused(lambda: unpack(runs["rgb"], path, tmp_path / "back"), tmp_path, message, capsys)


def test_the_file_of_another_model_is_refused(
    runs: dict[str, Path], packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("other", "grey"):
        message = "give the run that compressed it"
        refused(lambda name=name: unpack(runs[name], packed, tmp_path / "back"), tmp_path, message, capsys)  # type: ignore[misc]


def test_an_output_that_exists_is_refused(
    runs: dict[str, Path], packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "back").mkdir()
    (tmp_path / "back/mine.txt").write_text("mine")
    refused(lambda: unpack(runs["rgb"], packed, tmp_path / "back"), tmp_path, "expected a new folder", capsys)


def test_a_name_that_is_not_in_the_file_is_refused(
    runs: dict[str, Path], packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = "expected only= to be a name in the file, got 'b.png'"
    refused(lambda: unpack(runs["rgb"], packed, tmp_path / "back", "only=b.png"), tmp_path, message, capsys)


def test_a_name_is_refused_for_an_array(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", noise(2, 8, 8))
    assert pack(runs["grey"], tmp_path / "x.npy", tmp_path / "x.tkc") == 0
    message = "expected only= for a file of pictures, got one of an array"
    refused(
        lambda: unpack(runs["grey"], tmp_path / "x.tkc", tmp_path / "y.npy", "only=x.npy"), tmp_path, message, capsys
    )
    message = "expected output= to end in .npy"
    refused(lambda: unpack(runs["grey"], tmp_path / "x.tkc", tmp_path / "y.pt"), tmp_path, message, capsys)


@pytest.mark.parametrize("missing", ["run", "input", "folder"])
def test_what_is_not_there_is_refused(
    missing: str, runs: dict[str, Path], packed: Path, photos: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    nowhere = tmp_path / "nowhere"
    run, output = nowhere if missing == "run" else runs["rgb"], (nowhere if missing == "folder" else tmp_path) / "x.tkc"
    message = {"run": "expected a run folder", "input": "nowhere", "folder": "make the folder first"}[missing]
    source = nowhere if missing == "input" else photos
    refused(lambda: pack(run, source, output), tmp_path, message, capsys)
    source = nowhere if missing == "input" else packed
    refused(lambda: unpack(run, source, output), tmp_path, message, capsys)


def alpha(folder: Path) -> None:
    Image.fromarray(noise(4, 4, 4), "RGBA").save(folder / "picture.png")


def deep(folder: Path) -> None:
    Image.fromarray(noise(4, 4).astype(np.uint16) * 7).save(folder / "picture.png")


def broken(folder: Path) -> None:
    Image.fromarray(noise(64, 64, 3)).save(folder / "picture.png")
    data = (folder / "picture.png").read_bytes()
    (folder / "picture.png").write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (alpha, "expected no transparency"),
        (deep, "expected 8 bits a value"),
        (broken, "expected a whole image, got one that is cut short"),
        (lambda folder: None, "expected images"),
    ],
    ids=["alpha", "16 bits", "broken", "empty"],
)
def test_a_folder_that_cannot_be_coded_without_loss_is_refused_by_name(
    make: Callable[[Path], None], message: str, runs: dict[str, Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = tmp_path / "folder"
    folder.mkdir()
    make(folder)
    if any(folder.iterdir()):
        Image.fromarray(noise(9, 9)).save(folder / "first.png")  # sound, and before it
        message_file = "picture.png"
        refused(lambda: pack(runs["rgb"], folder, tmp_path / "x.tkc"), tmp_path, message_file, capsys)
    refused(lambda: pack(runs["rgb"], folder, tmp_path / "x.tkc"), tmp_path, message, capsys)


def test_a_failure_leaves_the_file_that_was_there(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.tkc").write_bytes(b"an older file")
    broken(tmp_path)
    refused(lambda: pack(runs["rgb"], tmp_path, tmp_path / "x.tkc", "overwrite=true"), tmp_path, "picture.png", capsys)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("chunk_rows=0", "expected chunk_rows= a whole number of at least 1, got '0'"),
        ("device=gpu", "expected device to be auto, cpu, or cuda"),
    ],
)
def test_a_wrong_value_is_refused(
    argument: str, message: str, runs: dict[str, Path], photos: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    arguments = [f"run={runs['rgb']}", f"input={photos}", f"output={tmp_path / 'x.tkc'}", argument]
    try:
        assert compress.main(arguments) == 1
        shown = capsys.readouterr().err
    except SystemExit as error:
        shown = str(error)
    assert shown.startswith("error:") and message in shown
    assert not any(tmp_path.iterdir())
