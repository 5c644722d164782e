"""Fixtures that tests of several files share, made once; which tests train; how many threads each process has."""

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.archives import noise, pack
from tests.tiny import run_folder

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: more threads would wait for each other
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test of what a fixture `trained` has trained is one that trains."""
    for item in items:
        if "trained" in getattr(item, "fixturenames", ()):
            item.add_marker("training")


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Untrained models of RGB and of grey rows, 8 x 8, and another one of RGB rows."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        "rgb": run_folder(folder / "rgb", (3, 8, 8)),
        "grey": run_folder(folder / "grey", (1, 8, 8)),
        "other": run_folder(folder / "other", (3, 8, 8), seed=1),
    }


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixed folder: grey, RGB, palette, bilevel, 1 x 1, odd sizes, sub-folders, names that collide."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "deep/er").mkdir(parents=True)
    Image.fromarray(noise(13, 9)).save(folder / "grey.png")
    Image.fromarray(noise(17, 8, 3)).save(folder / "a.png")
    Image.fromarray(noise(8, 16, 3)).save(folder / "a.jpg")
    Image.fromarray(noise(1, 1, 3)).save(folder / "deep/one.bmp")
    Image.fromarray(noise(1, 1)).save(folder / "deep/er/one.png")
    Image.fromarray(noise(20, 3, 3)).quantize(16).save(folder / "deep/palette.png")
    Image.fromarray(noise(9, 9) > 100).save(folder / "deep/er/bilevel.tif")
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture(scope="session")
def packed(runs: dict[str, Path], photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mixed folder in chunks of 7 rows."""
    path = tmp_path_factory.mktemp("packed") / "photos.tkc"
    assert pack(runs["rgb"], photos, path, "chunk_rows=7", "jpeg=pixels") == 0
    return path
