"""Pictures and small models, packed and unpacked by the commands, for the tests of files; fixtures: conftest.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from toolkit import compress, decompress
from toolkit.container import Reader, Writer
from toolkit.images.rate_archive import RateContents
from toolkit.images.rate_coder import PictureCoder
from toolkit.images.restore import Report, check_model, restore
from toolkit.images.row_archive import MakeCoder, RowContents

RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return (RNG.integers(0, 40, shape) + 90).astype(np.uint8)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert("L" if image.mode in ("1", "L") else "RGB"))


RESTORED = {
    "grey.png": "grey.png", "a.jpg": "a.jpg.png", "a.png": "a.png", "deep/one.bmp": "deep/one.png",
    "deep/er/one.png": "deep/er/one.png", "deep/palette.png": "deep/palette.png",
    "deep/er/bilevel.tif": "deep/er/bilevel.png",
}  # fmt: skip


def pack(run: Path, source: Path, output: Path, *more: str) -> int:
    return compress.main([f"run={run}", f"input={source}", f"output={output}", "device=cpu", *more])


def unpack(run: Path, file: Path, output: Path, *more: str) -> int:
    return decompress.main([f"run={run}", f"input={file}", f"output={output}", "device=cpu", *more])


def restore_rows(
    file: Path, output: Path, make_coder: MakeCoder, identity: dict[str, Any], only: str | None = None,
    on_damage: str = "error",
) -> Report:  # fmt: skip
    """What a lossless head does to restore a file."""
    with Reader(file, salvage=on_damage == "skip") as reader:
        check_model(reader, identity)
        return restore(reader, RowContents(reader, make_coder), output, only, on_damage, progress=False)


def restore_pictures(
    file: Path, output: Path, coder: PictureCoder, only: str | None = None, on_damage: str = "error"
) -> Report:
    """What a lossy head does to restore a file."""
    with Reader(file, salvage=on_damage == "skip") as reader:
        return restore(reader, RateContents(reader, coder), output, only, on_damage, progress=False)


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def refused(main: Callable[[], int], folder: Path, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Assert that a command fails with one line on stderr and leaves `folder` as it was."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    folders = {path for path in folder.rglob("*") if path.is_dir()}
    capsys.readouterr()
    assert main() == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and message in lines[0], lines
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert {path for path in folder.rglob("*") if path.is_dir()} == folders


def rewritten(packed: Path, path: Path, change: Callable[[dict[str, Any]], Any], rows_crc: int = 0) -> Path:
    """A sound file with another header, and with other checksums of the decoded rows."""
    with Reader(packed) as reader:
        header = reader.header
        change(header)
        with Writer(path, header) as writer:
            for i, chunk in enumerate(reader.chunks):
                writer.write(reader.read(i), chunk.rows, chunk.rows_crc ^ rows_crc)
    return path
