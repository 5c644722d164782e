"""Training that starts from the weights of another run, init=: settings, weights, the rate before, and refusals."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig, OmegaConf, open_dict
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.archives import noise
from tests.test_train import command
from tests.test_word_embeddings import configuration, write_text
from tests.tiny import SMALL, run_folder
from toolkit import zoo
from toolkit.runs import build, build_data, load, save
from toolkit.train import main, train
from toolkit.training import overrides, start

Capture = pytest.CaptureFixture[str]
ROWS = (1, 8, 8)  # of digits


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """An untrained run of bitswap on digits."""
    return run_folder(tmp_path / "first", ROWS, kl_warmup=7)


def configured(*typed: str, recipe: str = "bitswap") -> DictConfig:
    """A configuration with nothing small but what is typed."""
    with initialize_config_module("configs", version_base="1.3"):
        cfg = compose("train", [f"recipe={recipe}", *SMALL, *typed])
    OmegaConf.set_struct(cfg, False)
    return cfg


def begun(folder: Path, run: Path, *typed: str, **options: str) -> Any:
    """The module that a training would start with."""
    cfg = configured(f"init={run}", *typed, **options)
    return start.begin(cfg, folder, load(run, "cpu"), typed)[0].module


def same(module: Any, run: Path) -> bool:
    mine, theirs = module.state_dict(), load(run, "cpu").module.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


# Settings and weights.


def test_weights_and_settings_are_those_of_the_run_but_for_what_is_typed(run: Path, tmp_path: Path) -> None:
    cfg = configured(f"init={run}", "recipe.module.learning_rate=0.5", "seed=3")
    typed = ["recipe.module.learning_rate=0.5", "seed=3"]
    made, _ = start.begin(cfg, tmp_path, load(run, "cpu"), typed)
    assert same(made.module, run)
    module, first = made.cfg.recipe.module, load(run, "cpu").cfg.recipe.module
    assert {key for key in first if first[key] != module[key]} == {"learning_rate"}
    assert (module.learning_rate, module.kl_warmup, module.width) == (0.5, 7, 8)


@pytest.mark.parametrize("recipe", ["local", "vae_lossless", "ikvae"])
def test_any_recipe_of_rows_starts_from_a_run_of_its_own(recipe: str, tmp_path: Path) -> None:
    small = ["recipe.module.width=8", "recipe.module.blocks=1"]
    made, _ = build(configured(*small, recipe=recipe), tmp_path)
    save(tmp_path / "first", made.cfg, made.module)
    assert same(begun(tmp_path, tmp_path / "first", recipe=recipe), tmp_path / "first")


def test_rows_of_another_size_may_follow_where_no_weight_depends_on_it(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "first", (1, 16, 16))
    assert same(begun(tmp_path, run), run)


# Refusals.


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["recipe.module.width=12"], r"\[12.* and was \[8.*; leave out recipe.module.width=12, or give data of the sh"),
        (
            ["recipe.module.likelihood=mixture"],
            r"net\.\S+ is absent and was \[.*; leave out recipe.module.like",
        ),
    ],
)
def test_a_setting_that_changes_shapes_is_refused_by_name(
    typed: list[str], message: str, run: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=rf"expected the network of \S+first, whose weights init= takes, .*{message}"):
        begun(tmp_path, run, *typed)


def test_data_of_another_shape_are_refused_by_name(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "first", (3, 8, 8))
    message = r"net\.\S+ is \[.*\] and was \[.*\]; give data of the shape that it was trained on, \[3, 8, 8\]"
    with pytest.raises(ValueError, match=message):
        begun(tmp_path, run)


def test_a_model_of_another_recipe_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a model of recipe=local, got \S+first, of bitswap; give recipe=bitswap, or"):
        begun(tmp_path, run, recipe="local")


def test_a_training_that_goes_on_takes_no_other_weights(run: Path, tmp_path: Path) -> None:
    (run / "checkpoints").mkdir()
    (run / "checkpoints/last.ckpt").touch()
    with pytest.raises(ValueError, match=r"got init=mnist; leave it out: recipe, data and weights are those of"):
        overrides.resumed(run, [f"resume={run}", "init=mnist"])


def test_a_name_that_is_neither_a_run_nor_a_model_is_one_line_of_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = r"expected a run folder or a model of the zoo \(.*mnist, .*, got 'mnits'; did you mean mnist\? Or give"
    with pytest.raises(ValueError, match=message):
        train(configured("init=mnits"), tmp_path / "run")
    monkeypatch.setattr("sys.argv", ["toolkit train", "init=mnits", f"hydra.run.dir={tmp_path}/run"])
    with pytest.raises(SystemExit, match=rf"^error: {message}.*$"):
        main()
    assert not (tmp_path / "run").exists()


def test_a_model_that_ships_to_code_alone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "lean"
    shutil.copytree(zoo.FOLDER / "mnist", folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"got \S+lean without model.pt, which ships to code alone; .*training"):
        train(configured(f"init={folder}", recipe="local"), tmp_path)


def test_vectors_of_other_words_are_refused(tmp_path: Path) -> None:
    text, other = write_text(tmp_path / "text"), write_text(tmp_path / "other", seed=1)
    train(configuration(text, "max_steps=1"), tmp_path / "first")
    again = "max_steps=1", f"init={tmp_path / 'first'}"
    train(configuration(text, *again), tmp_path / "second")
    with pytest.raises(ValueError, match=r"expected the text and window of the training whose vectors go on, .*init="):
        train(configuration(other, *again), tmp_path / "third")


# Before and after.


def said(text: str) -> list[str]:
    return [line for line in text.splitlines() if " before training" in line]


@pytest.mark.training
def test_the_rate_before_is_logged_and_said_beside_that_after_and_outlives_the_first_run(
    run: Path, tmp_path: Path, capsys: Capture
) -> None:
    folder, cfg = tmp_path / "second", configured(f"init={run}", "max_steps=2", "ema=0")
    train(cfg, folder)
    module, rows = load(run, "cpu").module, build(cfg, folder)[1].validation
    [line] = said(capsys.readouterr().out)
    board = EventAccumulator(str(folder), {"scalars": 0}).Reload()
    for name in ("validation/elbo_bpd", "validation/file_bpd"):
        points = board.Scalars(name)
        assert [point.step for point in points] == [0, 1]
        assert points[0].value != points[1].value
    before, after = (point.value for point in board.Scalars("validation/elbo_bpd"))
    with torch.inference_mode():  # latents are drawn
        assert before == pytest.approx(float(module.bits(rows).mean()) / rows[0].numel(), rel=0.02)
    assert line.startswith(f"validation/elbo_bpd: {before:.4f} before training, {after:.4f} after; PNG ")
    assert "; WebP " in line
    shutil.rmtree(run)
    with open_dict(cfg):
        cfg.max_steps, cfg.resume = 3, str(folder)
    train(cfg, folder)
    [line] = said(capsys.readouterr().out)
    assert line.startswith(f"validation/elbo_bpd: {before:.4f} before training, ")
    assert OmegaConf.load(folder / "config.yaml").recipe.module.width == 8


def test_a_training_that_gains_nothing_says_so(tmp_path: Path) -> None:
    before, best = start.Before("validation/bpd", {"PNG": 4.0}), ModelCheckpoint(tmp_path)
    assert before.beside(best, "mnist") == ""  # of a training that started from nothing
    before.load_state_dict({"rate": 3.0})
    best.best_model_score = torch.tensor(2.5)
    line = "validation/bpd: 3.0000 before training, {} after; PNG 4.0000"
    assert before.beside(best, "mnist") == line.format("2.5000")
    best.best_model_score = torch.tensor(3.25)
    worse = "\nNothing was gained: mnist is no worse than this run."
    assert before.beside(best, "mnist") == line.format("3.2500") + worse


@pytest.mark.training
def test_a_training_without_init_says_nothing_of_before(tmp_path: Path, capsys: Capture) -> None:
    run = run_folder(tmp_path / "first", ROWS)
    cfg = load(run, "cpu").cfg
    with open_dict(cfg):
        cfg.max_steps, cfg.evaluation.rows, cfg.evaluation.test_rows, cfg.trainer.accelerator = 1, 16, 16, "cpu"
    train(cfg, tmp_path / "second")
    assert said(capsys.readouterr().out) == []
    steps = EventAccumulator(str(tmp_path / "second"), {"scalars": 0}).Reload().Scalars("validation/elbo_bpd")
    assert [point.step for point in steps] == [0]  # lightning counts the step that was made as 0


@pytest.mark.training
def test_a_model_that_ships_brings_its_recipe_and_is_tuned_to_pictures_of_which_some_are_held_out(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine").mkdir()
    for i in range(4):
        Image.fromarray(noise(24, 20 + i, 3)).save(tmp_path / f"mine/{i}.png")
    done = command(tmp_path, "init=photographs", f"data.folder={tmp_path}/mine", "epochs=1", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    assert "mine: 2 pictures to train on, 1 to validate, 1 to test" in done.stdout
    [line] = said(done.stdout)
    assert re.match(r"validation/bpd: \d\.\d{4} before training, \d\.\d{4} after; PNG \d", line)
    cfg = OmegaConf.load(tmp_path / "run/config.yaml")
    assert (cfg.recipe.name, cfg.init, cfg.recipe.coder) == (
        "photographs", "photographs", "toolkit.photographs.coder.Coder"
    )  # fmt: skip
    data = build_data(cfg)
    first, tuned = (load(folder, "cpu").module for folder in (zoo.FOLDER / "photographs", tmp_path / "run"))
    for module, rate in zip((first, tuned), re.findall(r"\d\.\d{4}", line), strict=False):
        assert f"{float(module.bits(data.validation[0][None])) / data.validation[0].numel():.4f}" == rate
