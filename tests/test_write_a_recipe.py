"""docs/write-a-recipe.md: its two files, taken from the page, train, code near their bound, and restore pictures."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from PIL import Image

import recipes
from tests.archives import pack, unpack
from tests.tiny import SMALL, everything
from toolkit.data.images import digits
from toolkit.images.files import read_image
from toolkit.runs import load
from toolkit.train import train

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/write-a-recipe.md"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flow")
    files = dict(re.findall(r'^```\w+ title="(.*?)"\n(.*?)^```', PAGE.read_text(), re.MULTILINE | re.DOTALL))
    assert sorted(files) == ["configs/recipe/flow.yaml", "recipes/flow.py"]
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    recipes.__path__.append(str(folder / "recipes"))
    with initialize_config_module("configs", version_base="1.3"):
        cfg = compose(
            "train", ["recipe=flow", f"hydra.searchpath=[file://{folder}/configs]", *SMALL, "max_steps=60"]
        )  # fmt: skip
    OmegaConf.set_struct(cfg, False)
    cfg.recipe.module.update(levels=2, width=8)
    (folder / "run").mkdir()
    train(cfg, folder / "run")
    return folder / "run"


def test_it_is_named_nowhere_else() -> None:
    for folder in ("toolkit", "recipes", "configs", "tests", "scripts"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".yaml") and path != Path(__file__):
                assert not re.search(r"\bflow\b", path.read_text(), re.IGNORECASE), path


def test_its_rows_come_back_and_cost_what_its_bound_says(run: Path) -> None:
    loaded: Any = load(run, "cpu")
    rows = digits().test[:200]
    coder = loaded.head.coder(loaded, len(rows))
    payload, account = coder.encode(rows, everything(rows))
    assert torch.equal(coder.decode(payload, everything(rows)), rows)
    with torch.inference_mode():
        bound = loaded.module.bits(rows)
    assert 0.8 * float(bound.sum()) < account.net < 1.01 * float(bound.sum())  # a rare symbol costs 24 bits at most


def test_it_learns_something(run: Path) -> None:
    module: Any = load(run, "cpu").module
    fresh, rows = type(module)(module.shape, 2, 8, 1e-3), digits().validation
    with torch.inference_mode():
        assert float(module.bits(rows).mean()) < 0.98 * float(fresh.bits(rows).mean())


def test_pictures_of_any_size_come_back(run: Path, tmp_path: Path) -> None:
    rng, sizes = np.random.default_rng(0), {"a.png": (8, 8), "b.png": (13, 5), "c.png": (1, 1)}
    (tmp_path / "in").mkdir()
    for name, size in sizes.items():
        Image.fromarray(rng.integers(0, 200, size).astype(np.uint8)).save(tmp_path / "in" / name)
    assert pack(run, tmp_path / "in", tmp_path / "a.tkc") == 0
    assert unpack(run, tmp_path / "a.tkc", tmp_path / "out") == 0
    for name in sizes:
        assert np.array_equal(*(read_image(tmp_path / folder / name) for folder in ("in", "out")))
