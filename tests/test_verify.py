"""compress verify=true: a coder that is wrong is found out before its file gets a name."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.archives import noise, pack
from toolkit import zoo
from toolkit.chunks.chained import Coder
from toolkit.images import picture_archive, row_archive
from toolkit.photographs import deep

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A folder of three pictures, of one size so that one can come back as another."""
    folder = tmp_path / "three"
    folder.mkdir()
    for name in "abc":
        Image.fromarray(noise(9, 12, 3)).save(folder / f"{name}.png")
    return folder


def one_pixel(encode: Callable[..., Any], *given: Any, **options: Any) -> Any:
    """Codes another pixel where the second picture begins with 77."""
    where = next(i for i, value in enumerate(given) if hasattr(value, "shape"))
    wrong = given[where].clone() if hasattr(given[where], "clone") else given[where].copy()
    first = wrong.reshape(-1)[:1]
    if int(first[0]) == 77:
        wrong.reshape(-1)[0] = 78
    return encode(*given[:where], wrong, *given[where + 1 :], **options)


@pytest.mark.parametrize("checksum", ["right", "wrong, too"])
@pytest.mark.parametrize("recipe", ["photographs", "bitswap"])
def test_a_picture_that_does_not_come_back_is_named_and_nothing_is_replaced(
    recipe: str, checksum: str, runs: dict[str, Path], three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:  # fmt: skip
    run = zoo.find(zoo.DEFAULT) if recipe == "photographs" else runs["rgb"]
    picture = noise(9, 12, 3)
    picture[0, 0] = 77
    Image.fromarray(picture).save(three / "b.png")
    output, more = tmp_path / "x.tkc", ["overwrite=true", "chunk_rows=1"][: 1 + (recipe == "bitswap")]
    output.write_bytes(b"there before")
    assert pack(run, three, output, "verify=true", *more) == 0
    assert ", verified" in capsys.readouterr().out
    output.write_bytes(b"there before")
    owner, name = (deep, "encode") if recipe == "photographs" else (Coder, "encode")
    encode = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *given, **options: one_pixel(encode, *given, **options))
    if checksum != "right":
        monkeypatch.setattr(picture_archive, "pixels_crc", lambda picture: 7)
        monkeypatch.setattr(row_archive, "rows_crc", lambda rows, valid: 7)
    there = sorted(os.listdir(tmp_path))
    assert pack(run, three, output, "verify=true", *more) == 1
    error = capsys.readouterr().err
    assert "error: b.png: expected the pixels that were given, got others when the file was decoded" in error
    assert sorted(os.listdir(tmp_path)) == there and output.read_bytes() == b"there before"
    assert pack(run, three, output, *more) == 0  # nobody has looked


def test_an_array_is_compared_image_by_image(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    images = np.stack([noise(3, 8, 8) for _ in range(3)])
    images[1, 0, 0, 0] = 77
    np.save(tmp_path / "x.npy", images)
    assert pack(runs["rgb"], tmp_path / "x.npy", tmp_path / "a.tkc", "verify=true") == 0
    encode = Coder.encode
    monkeypatch.setattr(Coder, "encode", lambda *given, **options: one_pixel(encode, *given, **options))
    assert pack(runs["rgb"], tmp_path / "x.npy", tmp_path / "b.tkc", "verify=true", "chunk_rows=1") == 1
    assert "error: x.npy, image 1: expected the pixels that were given" in capsys.readouterr().err
    assert not (tmp_path / "b.tkc").exists()
