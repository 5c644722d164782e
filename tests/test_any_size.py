"""Pictures in tiles larger than the rows that a model was trained on: cut, coded near the bound, restored, refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from tests.archives import noise, pack, pixels, refused, rewritten, unpack
from tests.tiny import bitswap, configure, everything, images, run_folder
from toolkit.container import Reader
from toolkit.heads.rows import Rows
from toolkit.runs import build, load, save, save_exact

SIZES = {"a.png": (40, 21, 3), "b.png": (3, 9, 3), "deep/c.png": (17, 30)}


def run_of(folder: Path, tile: int, **changes: Any) -> Path:
    """A run of RGB rows of 8 x 8 whose files have tiles of about such sides."""
    run = run_folder(folder, (3, 8, 8), **changes)
    cfg = OmegaConf.load(run / "config.yaml")
    cfg.recipe.head.tile = tile
    OmegaConf.save(cfg, run / "config.yaml")
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = run_of(tmp_path_factory.mktemp("any") / "run", 16)
    save_exact(made, images(32, (3, 8, 8)))
    return made


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    (folder / "deep").mkdir()
    for name, shape in SIZES.items():
        Image.fromarray(noise(*shape)).save(folder / name)
    return folder


def rows_of(file: Path) -> tuple[list[int], dict[str, int]]:
    with Reader(file) as reader:
        return reader.header["rows"], reader.header["settings"]


@pytest.mark.parametrize("exact", ["true", "false"])
def test_pictures_come_back_from_tiles_that_are_larger_than_training_rows(
    exact: str, run: Path, photos: Path, tmp_path: Path
) -> None:
    file = tmp_path / "x.tkc"
    assert pack(run, photos, file, f"exact={exact}") == 0
    rows, settings = rows_of(file)
    assert rows == [3, 16, 16] and settings["batch"] == 4  # of 16 rows a quarter as large
    assert unpack(run, file, tmp_path / "back") == 0
    for name in SIZES:
        assert np.array_equal(pixels(tmp_path / "back" / name), pixels(photos / name))
    assert unpack(run, file, tmp_path / "one.png", "only=deep/c.png") == 0
    assert np.array_equal(pixels(tmp_path / "one.png"), pixels(photos / "deep/c.png"))


@pytest.mark.parametrize(
    ("tile", "height", "width", "rows"),
    [
        (16, 5, 8, [3, 8, 8]),
        (16, 2, 9, [3, 4, 12]),  # multiples of 4, which its networks take, whatever they were trained on
        (16, 16, 17, [3, 16, 12]),
        (32, 33, 40, [3, 20, 20]),  # two halves rather than a whole and a rest
        (32, 8, 100, [3, 8, 28]),
        (0, 40, 40, [3, 8, 8]),
        (12, 12, 24, [3, 12, 12]),
    ],
)
def test_tiles_cover_the_largest_picture_in_parts_of_about_one_size(
    tile: int, height: int, width: int, rows: list[int], tmp_path: Path
) -> None:
    Image.fromarray(noise(height, width, 3)).save(tmp_path / "a.png")
    assert pack(run_of(tmp_path / "run", tile), tmp_path / "a.png", tmp_path / "x.tkc") == 0
    assert rows_of(tmp_path / "x.tkc")[0] == rows


def test_a_likelihood_with_a_scale_for_each_place_keeps_its_tiles(photos: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", 16, likelihood="logistic")
    assert pack(run, photos, tmp_path / "x.tkc") == 0
    assert rows_of(tmp_path / "x.tkc")[0] == [3, 8, 8]


@pytest.mark.parametrize("recipe", ["bitswap", "vae_lossless"])
def test_larger_rows_cost_what_their_bound_says(recipe: str, tmp_path: Path) -> None:
    made, _ = build(configure(recipe), tmp_path)
    save(tmp_path / "run", made.cfg, made.module)
    run: Any = load(tmp_path / "run", "cpu")
    rows = images(24, (1, 24, 24))
    coder = run.head.coder(run, len(rows), None, (1, 24, 24))
    payload, account = coder.encode(rows, everything(rows))
    assert torch.equal(coder.decode(payload, everything(rows)), rows)
    with torch.inference_mode():
        bound = float(run.module.of_shape((1, 24, 24)).bits(rows).sum())
    assert account.net == pytest.approx(bound, rel=0.03)
    assert run.module.shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("rows", "batch", "message"),
    [
        ([3, 16, 18], 16, "expected rows of [3, 8, 8], got [3, 16, 18]; do not trust the file"),
        ([1, 16, 16], 16, "expected rows of [3, 8, 8], got [1, 16, 16]; do not trust the file"),
        ([3, 16, 16], 2048, "expected a batch of at most 1024 such rows, got 2048; do not trust the file"),
    ],
)
def test_rows_that_a_model_cannot_have_are_refused(
    rows: list[int], batch: int, message: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(noise(16, 16)).save(tmp_path / "a.png")  # one row in each of these

    def change(header: dict[str, Any]) -> None:
        header["rows"], header["settings"]["batch"] = rows, batch

    assert pack(run, tmp_path / "a.png", tmp_path / "x.tkc") == 0
    rewritten(tmp_path / "x.tkc", tmp_path / "y.tkc", change)
    refused(lambda: unpack(run, tmp_path / "y.tkc", tmp_path / "back"), tmp_path, message, capsys)


def test_a_tile_below_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected recipe.head.tile of at least 0, got -1; give a number of pixels"):
        Rows(lambda: None, tile=-1)  # type: ignore[arg-type,return-value]


def test_weights_are_shared_with_a_model_of_another_shape() -> None:
    module = bitswap((3, 8, 8))
    other = module.of_shape((3, 16, 8))
    assert (other.shape, other.dims, module.shape) == ((3, 16, 8), 384, (3, 8, 8))
    assert all(a is b for a, b in zip(module.parameters(), other.parameters(), strict=True))
    assert module.of_shape([3, 8, 8]) is module
