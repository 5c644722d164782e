"""Every recipe of configs/recipe: it trains, resumes, codes near its own bound, and refuses what is not its own."""

import math
import pickle
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf, open_dict

from tests.tiny import configure, run_folder
from toolkit import compress, decompress, runs
from toolkit.chunks.chained import Coder
from toolkit.data.images import digits
from toolkit.run import CONFIG, WEIGHTS
from toolkit.runs import build, has_exact, identity, load, save, save_exact
from toolkit.train import train

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory")  # of the resumed training
FILES = sorted((Path(__file__).parents[1] / "configs/recipe").glob("*.yaml"))
# Those that code rows of data; others have a file of tests of their own.
RECIPES = [path.stem for path in FILES if OmegaConf.load(path).recipe.head._target_.endswith(".Rows")]


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_a_recipe_needs_no_other_argument(name: str) -> None:
    """`python -m toolkit.train recipe=NAME` composes: the recipe names its data set."""
    with initialize_config_module("configs", version_base="1.3"):
        cfg = compose("train", [f"recipe={name}"])
    assert cfg.recipe.name == name
    assert cfg.data._target_.startswith("toolkit.data.")


def settings(name: str) -> Iterator[tuple[str, Any]]:
    """The settings of a recipe's module and head, and their values."""
    cfg = OmegaConf.to_container(OmegaConf.load(FILES[0].with_name(f"{name}.yaml")))
    for part in ("module", "head"):
        values = cfg["recipe"][part]  # type: ignore[index, call-overload]
        yield from ((f"recipe.{part}.{key}", value) for key, value in values.items() if key != "_target_")


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_a_value_of_another_kind_than_a_setting_is_refused_with_an_example(name: str) -> None:
    number = "[3]", "(a whole|a) number"
    kinds = {list: ("3", "a list of (whole )?numbers"), int: number, float: number, str: ("[3]", "text")}
    plain = configure(name, "data=digits")
    OmegaConf.update(plain, "recipe.module.shape", [3, 8, 8], force_add=True)
    for key, value in settings(name):
        if type(value) not in kinds:
            continue
        cfg, (bad, expected) = plain.copy(), kinds[type(value)]
        OmegaConf.update(cfg, key, OmegaConf.create(f"x: {bad}").x, force_add=True)
        message = f"expected {key} to be {expected}, got {re.escape(bad)}; give for instance {key}="
        with pytest.raises(ValueError, match=message):
            runs._instantiate(cfg.recipe[key.split(".")[1]], runs.HEADS)


def test_a_setting_that_a_recipe_does_not_have_is_refused_by_name(tmp_path: Path) -> None:
    cfg = configure("bitswap", "+recipe.module.with=3")
    with (
        open_dict(cfg),
        pytest.raises(ValueError, match=r"BitSwap has, got recipe\.module\.with; did you mean width\?"),
    ):
        build(cfg, tmp_path)


class Trained(NamedTuple):
    name: str
    run: Path
    losses: list[float]
    first: dict[str, torch.Tensor]  # weights after two steps
    checkpoints: list[dict[str, Any]]  # after two and after four steps


@pytest.fixture(scope="module", params=RECIPES)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """Two steps, then a resumed training to four."""
    name, run = request.param, tmp_path_factory.mktemp(request.param)
    losses: list[float] = []
    checkpoints = []
    with pytest.MonkeyPatch.context() as patch:
        cfg = configure(name, "max_steps=2")
        target = type(build(cfg, run)[0].module)
        step = target.training_step

        def recorded(self: Any, *args: Any) -> Any:
            loss = step(self, *args)
            losses.append(float(loss.detach()))
            return loss

        patch.setattr(target, "training_step", recorded)
        for steps in (2, 4):
            with open_dict(cfg):
                cfg.max_steps, cfg.resume = steps, None if steps == 2 else str(run)
            result = train(cfg, run)
            assert math.isfinite(result["file_bpd"])
            checkpoints.append(torch.load(run / "checkpoints/last.ckpt", weights_only=True))
            if steps == 2:
                first = torch.load(run / WEIGHTS, weights_only=True)
    yield Trained(name, run, losses, first, checkpoints)


def loaded(trained: Trained, rows: int = 48) -> tuple[Any, Coder, torch.Tensor, torch.Tensor]:
    run: Any = load(trained.run, "cpu")
    x = digits().test[:rows]
    return run.module, run.head.coder(run, rows), x, torch.ones(x.shape, dtype=torch.bool)


def test_training_makes_finite_losses_and_only_as_many_steps_as_asked(trained: Trained) -> None:
    assert len(trained.losses) == 4
    assert all(map(math.isfinite, trained.losses))


def test_a_resumed_training_goes_on_where_the_first_one_ended(trained: Trained) -> None:
    assert [checkpoint["global_step"] for checkpoint in trained.checkpoints] == [2, 4]
    schedules = [checkpoint["callbacks"]["Schedule"]["spent"] for checkpoint in trained.checkpoints]
    assert 0 < schedules[0] < schedules[1] < 600
    moments = [checkpoint["optimizer_states"][0]["state"][0]["step"] for checkpoint in trained.checkpoints]
    assert [int(step) for step in moments] == [2, 4]
    history = trained.checkpoints[1]["callbacks"]["CodecEvaluation"]["history"]
    assert [point[0] for point in history] == [2, 4]


def test_a_resumed_training_changes_the_weights(trained: Trained) -> None:
    last = torch.load(trained.run / WEIGHTS, weights_only=True)
    assert last.keys() == trained.first.keys()
    assert any(not torch.equal(last[name], trained.first[name]) for name in last)


def test_the_saved_weights_are_those_of_the_best_checkpoint(trained: Trained) -> None:
    saved = torch.load(trained.run / WEIGHTS, weights_only=True)
    best = torch.load(trained.run / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    assert saved.keys() == best.keys()
    assert all(torch.equal(saved[name], best[name]) for name in saved)


def test_rows_come_back_and_cost_what_the_bound_says(trained: Trained) -> None:
    module, code, rows, valid = loaded(trained)
    payload, account = code.encode(rows, valid)
    assert torch.equal(code.decode(payload, valid), rows)
    torch.manual_seed(0)
    with torch.inference_mode():
        bits = sum(float(module.bits(rows).sum()) for _ in range(4)) / 4
    assert account.net == pytest.approx(bits, rel=0.03)
    assert account.file == 8 * len(payload)
    # What is not net is initial bits and a few bytes a stack, of which there is one a row where rows are coded alone.
    ends = 24 * len(rows) if module.alone else 64 * code.settings.lanes
    assert account.file == pytest.approx(bits + account.initial, rel=0.03, abs=ends)


def test_a_file_that_another_model_wrote_is_refused(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    torch.manual_seed(1)
    cfg = configure(trained.name)
    save(other, cfg, build(cfg, other)[0].module)
    if has_exact(trained.run):
        save_exact(other, digits().train[:64])
    torch.save(digits().test[:2], tmp_path / "rows.pt")
    assert (
        compress.main([f"run={trained.run}", f"input={tmp_path / 'rows.pt'}", f"output={tmp_path / 'rows.tkc'}"]) == 0
    )
    output = tmp_path / "back.pt"
    assert decompress.main([f"run={other}", f"input={tmp_path / 'rows.tkc'}", f"output={output}"]) == 1
    assert "expected a file of the model" in capsys.readouterr().err
    assert not output.exists()
    assert decompress.main([f"run={trained.run}", f"input={tmp_path / 'rows.tkc'}", f"output={output}"]) == 0
    assert torch.equal(torch.load(output), digits().test[:2])


def test_the_identity_is_that_of_weights_and_configuration(trained: Trained) -> None:
    run, again = load(trained.run, "cpu"), load(trained.run, "cpu")
    assert identity(run) == identity(again)
    with torch.no_grad():
        next(again.module.parameters()).add_(1)
    assert identity(run)["model"] != identity(again)["model"]


@pytest.mark.parametrize(
    "target", ["os.system", "recipesx.bitswap.BitSwap", "recipes.bitswap.torch.load", "toolkit.compress.main"]
)
@pytest.mark.parametrize("part", ["module", "head", "head.codec"])
def test_a_run_folder_that_names_foreign_code_is_refused(
    trained: Trained, tmp_path: Path, part: str, target: str
) -> None:
    cfg = OmegaConf.load(trained.run / CONFIG)
    OmegaConf.update(cfg, f"recipe.{part}._target_", target)
    OmegaConf.save(cfg, tmp_path / CONFIG)
    shutil.copy(trained.run / WEIGHTS, tmp_path)
    with pytest.raises(ValueError, match=f"expected _target_ to name something in recipes.*, got '{target}'"):
        load(tmp_path)


def test_foreign_code_deep_inside_a_configuration_is_refused(trained: Trained, tmp_path: Path) -> None:
    cfg: Any = OmegaConf.load(trained.run / CONFIG)
    cfg.recipe.module.blocks = [{"_target_": "os.getcwd"}]
    OmegaConf.save(cfg, tmp_path / CONFIG)
    shutil.copy(trained.run / WEIGHTS, tmp_path)
    with pytest.raises(ValueError, match=r"got 'os.getcwd'"):
        load(tmp_path)


@pytest.mark.parametrize("missing", [CONFIG, WEIGHTS])
def test_a_run_without_its_files_is_refused(trained: Trained, tmp_path: Path, missing: str) -> None:
    for name in {CONFIG, WEIGHTS} - {missing}:
        shutil.copy(trained.run / name, tmp_path)
    with pytest.raises(FileNotFoundError, match=f"expected a run folder .* without {missing}; give the folder"):
        load(tmp_path)


def test_a_run_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"expected a run folder .* without {CONFIG}"):
        load(tmp_path / "nowhere")


def test_weights_that_do_not_fit_the_configuration_are_refused(trained: Trained, tmp_path: Path) -> None:
    shutil.copy(trained.run / CONFIG, tmp_path)
    torch.save({"net.weight": torch.zeros(3)}, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=r"expected weights of the model that .* describes, got others"):
        load(tmp_path)


class Hostile:
    def __reduce__(self) -> Any:
        return open, ("pwned", "w")


def test_weights_that_are_no_weights_are_refused(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(trained.run / CONFIG, tmp_path)
    monkeypatch.chdir(tmp_path)
    good = (trained.run / WEIGHTS).read_bytes()
    torch.save(Hostile(), tmp_path / "hostile.pt")
    for data in (
        b"not a zip file", b"", good[: len(good) // 2], good[:-9], pickle.dumps(Hostile()),
        (tmp_path / "hostile.pt").read_bytes(),
    ):  # fmt: skip
        (tmp_path / WEIGHTS).write_bytes(data)
        with pytest.raises(ValueError, match=r"expected weights of the model that .* describes, got others"):
            load(tmp_path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"recipe: [", "to be the YAML file that toolkit.train wrote"),
        (b"- a\n- b\n", "to be the YAML file that toolkit.train wrote, got a list"),
        (b"\xff\xfe", "to be the YAML file that toolkit.train wrote"),
        (b"a: &x [1, 2]\nb: *x\n", r"to be the YAML file that toolkit.train wrote, got an alias"),
        (b"a: ${b}\n", "to be the YAML file that toolkit.train wrote"),
        (b"a: !!python/object/apply:os.getcwd []\n", "to be the YAML file that toolkit.train wrote"),
        (b"", "to describe a model"),
        (b"recipe: 7\n", "to describe a model"),
        (b"recipe: {module: {a: 1}}\n", "to describe a model"),
    ],
)
def test_a_broken_configuration_is_one_line_of_error(
    text: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / CONFIG).write_bytes(text)
    (tmp_path / WEIGHTS).write_bytes(b"PK")
    torch.save(digits().test[:2], rows := tmp_path / "rows.pt")
    assert compress.main([f"run={tmp_path}", f"input={rows}", f"output={tmp_path / 'y.tkc'}"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and shown.count("\n") == 1
    assert re.search(message, shown), shown


@pytest.mark.parametrize("change", [{"width": "many"}, {"width": -3}, {"speed": 9}, {"latent_channels": None}])
def test_a_configuration_of_no_model_is_one_line_of_error(
    change: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_folder(tmp_path / "run", (1, 8, 8))
    cfg = OmegaConf.load(run / CONFIG)
    cfg.recipe.module.update(change)
    OmegaConf.save(cfg, run / CONFIG)
    torch.save(digits().test[:2], rows := tmp_path / "rows.pt")
    assert compress.main([f"run={run}", f"input={rows}", f"output={tmp_path / 'y.tkc'}"]) == 1
    shown = capsys.readouterr().err
    assert re.match(r"error: expected .*config.yaml to describe a model", shown) and shown.count("\n") == 1
