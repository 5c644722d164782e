"""Runs opened to code with: without torch where a recipe names a coder, and the same model in both ways."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from toolkit import opened, runs, zoo
from toolkit.photographs.coder import Coder
from toolkit.run import CONFIG

WEIGHTS = "model.safetensors"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A run folder of the model that ships."""
    folder = tmp_path / "model"
    shutil.copytree(zoo.FOLDER / zoo.DEFAULT, folder)
    return folder


def changed(model: Path, **recipe: object) -> Path:
    """The run with other values in its recipe; None: without them."""
    cfg = yaml.safe_load((model / CONFIG).read_text())
    cfg["recipe"].update(recipe)
    cfg["recipe"] = {key: value for key, value in cfg["recipe"].items() if value is not None}
    (model / CONFIG).write_text(yaml.safe_dump(cfg))
    return model


def test_both_ways_open_the_same_model(model: Path) -> None:
    light = opened.load(model)
    assert isinstance(light.module, Coder) and light.cfg is None
    full = opened.load(changed(model, coder=None))
    assert not isinstance(full.module, Coder) and full.cfg is not None
    assert light.head.identity(light) == full.head.identity(full) and light.name == full.name
    assert opened.head_of(model)[1] == light.name
    picture = np.random.default_rng(0).integers(0, 256, (3, 5, 7)).astype(np.uint8)
    assert light.module.encode(picture) == full.module.encode(picture)


@pytest.mark.parametrize("coder", ["os.system", "toolkit.photographs.coder.np", "toolkit.zoo.find", 3])
def test_a_coder_from_elsewhere_is_refused(coder: object, model: Path) -> None:
    with pytest.raises(ValueError, match=r"config.yaml to describe a model .* a class in toolkit.photographs, got"):
        opened.load(changed(model, coder=coder))


@pytest.mark.parametrize("head", [{"_target_": "os.system"}, {"effort": 1}, {}, "x"])
def test_a_head_from_elsewhere_is_refused(head: object, model: Path) -> None:
    with pytest.raises(ValueError, match=r"expected .*config.yaml to describe a model"):
        opened.head_of(changed(model, head=head))


def test_other_weights_are_refused(model: Path) -> None:
    weights = load_file(model / WEIGHTS)
    save_file({**weights, "net.bias": weights["net.bias"][:1].copy()}, model / WEIGHTS)
    with pytest.raises(ValueError, match=r"expected weights of the model that .*config.yaml describes"):
        opened.load(model)
    (model / WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"expected weights of the model that .*config.yaml describes"):
        opened.load(model)


@pytest.mark.parametrize("text", ["[", "a: 1", "recipe: 3", "- 1"])
def test_a_broken_configuration_is_refused_as_that_of_any_run(text: str, model: Path) -> None:
    (model / CONFIG).write_text(text)
    for open_run in (opened.load, opened.head_of):
        with pytest.raises(ValueError, match=r"expected .*config.yaml to"):
            open_run(model)


def test_a_device_that_is_none_is_refused(model: Path) -> None:
    with pytest.raises(ValueError, match="expected device to be auto, cpu, or cuda"):
        opened.load(model, "nowhere")


def test_exact_weights_that_are_not_there_are_refused(model: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a run with an exact network"):
        opened.load(model, exact=True)
    assert runs.has_exact(model) is False
