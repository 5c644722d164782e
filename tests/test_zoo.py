"""The zoo: models that ship, made of runs, listed, named by run= and found by files; and what is refused."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from scripts.to_zoo import ship
from tests.archives import noise, pixels, refused, rewritten
from tests.test_vae import photo
from tests.tiny import bitswap, images, picture_run, run_folder
from toolkit import compress, decompress, evaluate, inspect, make_exact, runs, zoo
from toolkit.container import Reader
from toolkit.data.embedded import digits
from toolkit.images.rate_coder import psnr

ROOT = Path(__file__).parents[1]
Capture = pytest.CaptureFixture[str]
SHIPPED = sorted(path.parent for path in (ROOT / "toolkit/zoo").glob("*/*.yaml"))


def filled(model: Path) -> Path:
    """A model whose card has no blanks."""
    card = model / zoo.CARD
    card.write_text(card.read_text().replace("'?'", "something"))
    return model


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with an exact network."""
    run = run_folder(tmp_path_factory.mktemp("trained") / "run", (3, 8, 8))
    runs.save_exact(run, images(64, (3, 8, 8)))
    return run


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo of three, without exact networks, whose loading takes seconds."""
    top = tmp_path_factory.mktemp("zoo")
    filled(ship(run_folder(top.parent / "rgb_run", (3, 8, 8)), zoo.DEFAULT, top))
    filled(ship(run_folder(top.parent / "grey_run", (1, 8, 8)), "small", top))
    filled(ship(run_folder(top.parent / "other_run", (1, 8, 8), seed=1), "other", top))
    return top


@pytest.fixture
def here(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with some pictures, and that zoo."""
    monkeypatch.setattr(zoo, "FOLDER", models)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(noise(9, 12, 3)).save(tmp_path / "photos" / name)
    return tmp_path


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A zoo of none."""
    monkeypatch.setattr(zoo, "FOLDER", tmp_path / "none")
    yield


def restored(folder: Path) -> bool:
    return all(np.array_equal(pixels(folder / name), pixels(Path("photos") / name)) for name in ("a.png", "b.png"))


# What ships.


@pytest.mark.parametrize("model", SHIPPED, ids=lambda path: path.name)
def test_a_model_that_ships_is_small_and_its_card_is_filled_and_true(model: Path) -> None:
    assert {path.name for path in model.iterdir()} <= {
        zoo.CARD, runs.CONFIG, "model.safetensors", "exact.safetensors"
    }  # fmt: skip
    assert zoo.size(model.name) <= zoo.MOST_BYTES
    card = zoo.card(model.name)
    assert zoo.BLANK not in [str(value) for value in card.fields.values()]
    text = card.text + (model / runs.CONFIG).read_text()
    assert not any(wrong in text for wrong in ("/root/", "/home/", "/work/", "/tmp/", "../shared"))
    found = []
    for exact, name in ((True, "exact"), (False, "model")):
        if (model / f"{name}.safetensors").is_file():
            run = runs.load(model, "cpu", exact)
            assert run.name == card.fields["recipe"]
            found.append(run.head.identity(run)["model"])
    assert found == card.fields["fingerprints"]


def test_the_model_of_digits_codes_those_of_another_source_smaller_than_png(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digits").mkdir()
    for i, row in enumerate(digits().test[:32]):  # 8 x 8, in 17 levels
        digit = Image.fromarray(row[0].numpy()).resize((20, 20), Image.Resampling.BICUBIC)
        page = Image.new("L", (28, 28))
        page.paste(digit, (4, 4))
        page.save(f"digits/{i:02}.png")
    assert compress.main(["digits", "x.tkc", "run=mnist", "device=cpu"]) == 0
    assert Path("x.tkc").stat().st_size < sum(path.stat().st_size for path in Path("digits").iterdir())
    assert decompress.main(["x.tkc", "out"]) == 0  # finds its model
    for path in Path("digits").iterdir():
        assert np.array_equal(pixels(path), pixels(Path("out") / path.name))


def test_a_file_of_the_model_of_digits_decodes_as_it_did(tmp_path: Path) -> None:
    assert decompress.main([str(ROOT / "tests/golden/digits_of_mnist.tkc"), str(tmp_path / "out"), "device=cpu"]) == 0
    found = hashlib.sha256()
    for path in sorted((tmp_path / "out").iterdir()):
        found.update(path.name.encode() + pixels(path).tobytes())
    assert found.hexdigest() == "5c237b742aeb863dac1ce9b917e8df4872cc5c27129cfb544ef8d3d631461438"


def test_the_wheel_holds_what_ships(trained: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("toolkit", "recipes", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    ship(trained, "made", source / "toolkit/zoo")
    build = [sys.executable, "-c", "from setuptools import setup; setup()", "-q", "bdist_wheel", "-d", str(tmp_path)]
    done = subprocess.run(build, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = archive.namelist()
    for file in (source / "toolkit/zoo").glob("*/*"):
        if file.parent.name != "__pycache__":
            assert file.relative_to(source).as_posix() in held
    assert {"toolkit/zoo/__init__.py", "toolkit/zoo/made/exact.safetensors", "configs/train.yaml"} <= set(held)


def test_a_run_becomes_a_model_of_the_same_fingerprints_whose_card_has_blanks(trained: Path, tmp_path: Path) -> None:
    (trained / "evaluation.txt").write_text("a table\n")
    model = ship(trained, "made", tmp_path)
    (trained / "evaluation.txt").unlink()
    assert {path.name for path in model.iterdir()} == {
        zoo.CARD, runs.CONFIG, "model.safetensors", "exact.safetensors"
    }  # fmt: skip
    assert (model / runs.CONFIG).read_bytes() == (trained / runs.CONFIG).read_bytes()
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in model.iterdir())  # others may read what is installed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "FOLDER", tmp_path)
        fields, text = zoo.card("made")
    assert text.endswith("a table\n```\n") and fields["recipe"] == "bitswap" and fields["seed"] == 0
    assert [name for name, value in fields.items() if value == zoo.BLANK] == [
        "use", "rate", "data", "licence", "command", "figures"
    ]  # fmt: skip
    prints = [runs.identity(runs.load(trained, "cpu", exact))["model"] for exact in (True, False)]
    assert fields["fingerprints"] == prints and len(set(prints)) == 2


def test_what_cannot_ship_is_refused_and_leaves_nothing(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"expected a name of letters, digits, - and _, got '../x'"):
        ship(trained, "../x", tmp_path)
    with pytest.raises(FileNotFoundError, match="expected a run folder"):
        ship(tmp_path / "nowhere", "made", tmp_path)
    monkeypatch.setattr(zoo, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match=r"expected at most 1000 bytes, got .*; train a smaller network"):
        ship(trained, "made", tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "made").mkdir()
    with pytest.raises(FileExistsError, match=r"got .*made, which exists; remove it first"):
        ship(trained, "made", tmp_path)


# Listing.


def test_models_are_listed_with_what_a_person_wants_to_know(here: Path, capsys: Capture) -> None:
    assert zoo.main([]) == 0
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines() if line[:1] not in (" ", "")][:3] == zoo.names()
    assert zoo.names() == ["other", "photographs", "small"]
    assert "photographs  something (the default)\n" in said and " MB; something; something\n" in said
    assert "toolkit.compress PICTURES FILE.tkc run=photographs\n" in said
    assert "toolkit.decompress FILE.tkc FOLDER " in said
    assert zoo.main(["small"]) == 0
    assert capsys.readouterr().out == (zoo.FOLDER / "small/card.md").read_text()


def test_an_empty_zoo_says_what_to_do(empty: None, capsys: Capture) -> None:
    assert zoo.main([]) == 0
    assert "No models ship with this version. Train one:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smal", "expected a model of the zoo (other, photographs, small), got 'smal'; did you mean small?"),
        ("../small", "got '../small'; did you mean small?"),
        ("x", "got 'x'; toolkit zoo lists them"),
    ],
)
def test_a_name_that_the_zoo_does_not_have_is_refused(name: str, message: str, here: Path, capsys: Capture) -> None:
    refused(lambda: zoo.main([name]), here, message, capsys)


def test_a_card_without_its_fields_is_refused(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zoo/bad").mkdir(parents=True)
    monkeypatch.setattr(zoo, "FOLDER", tmp_path / "zoo")
    for text in ("", "# bad\n", "---\nuse: a\n---\n", "---\n- a\n---\n"):
        (tmp_path / "zoo/bad/card.md").write_text(text)
        with pytest.raises(ValueError, match=r"to begin with --- and use, rate, .*, got others; see docs/zoo.md"):
            zoo.card("bad")


def test_listing_and_finding_wait_for_no_torch(models: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom toolkit import zoo\n"
        f"zoo.FOLDER = Path({str(models)!r})\nzoo.main([])\n"
        f"assert zoo.by_fingerprint('bitswap', {zoo_print(models)!r}) == 'small'\n"
        "print({'torch', 'safetensors', 'numpy', 'hydra', 'omegaconf'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert done.stdout.endswith("\nset()\n")


def zoo_print(models: Path) -> str:
    card = yaml.safe_load((models / "small/card.md").read_text().split("---\n")[1])
    return str(card["fingerprints"][0])


# run=


def test_pictures_are_compressed_and_restored_without_naming_a_model(here: Path, capsys: Capture) -> None:
    assert compress.main(["photos", "x.tkc", "device=cpu"]) == 0
    said = capsys.readouterr().out
    given = sum(path.stat().st_size for path in Path("photos").iterdir())
    size = Path("x.tkc").stat().st_size
    assert f"2 input files: {given} bytes; the .tkc: {size}, {100 * size / given:.1f} %\n" in said
    assert decompress.main(["x.tkc", "out"]) == 0 and restored(Path("out"))
    capsys.readouterr()
    assert inspect.main(["input=x.tkc"]) == 0
    assert "\nthe model photographs, which ships, decodes it: decompress needs no run=\n" in capsys.readouterr().out
    assert inspect.main(["input=x.tkc", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["zoo"] == "photographs"


def test_whole_pictures_are_coded_with_a_model_that_ships(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    filled(ship(picture_run(here / "run"), zoo.DEFAULT, here / "zoo"))
    monkeypatch.setattr(zoo, "FOLDER", here / "zoo")
    Image.fromarray(noise(16, 16, 3)).save("photos/c.jpg")
    assert compress.main(["photos", "x.tkc", "effort=0", "compare=true"]) == 2  # without a JPEG file
    said = capsys.readouterr()
    assert "left out: photos/c.jpg: a JPEG file" in said.err and "\nPNG " in said.out
    assert decompress.main(["x.tkc", "out"]) == 0 and restored(Path("out")) and not Path("out/c.png").exists()
    assert compress.main(["photos", "y.tkc", "jpeg=pixels"]) == 0
    with Reader("y.tkc") as reader:
        sizes = [chunk.size for chunk in reader.chunks]
    lines = capsys.readouterr().out.splitlines()[-2:]
    for line, kind, names, after in zip(
        lines, ("1 JPEG file", "2 PNG files"), (["c.jpg"], ["a.png", "b.png"]), (sizes[2], sum(sizes[:2])), strict=True
    ):
        before = sum(Path("photos", name).stat().st_size for name in names)
        assert line == f"  {kind}: {before} bytes; their pixels: {after}, {100 * after / before:.1f} %"
    assert decompress.main(["y.tkc", "all"]) == 0 and restored(Path("all"))
    assert np.array_equal(pixels(Path("all/c.png")), pixels(Path("photos/c.jpg")))


def test_a_model_is_named_and_its_files_find_it(here: Path, capsys: Capture) -> None:
    assert compress.main(["photos", "x.tkc", "run=small"]) == 0
    for i, named in enumerate(([], ["run=small"])):
        assert decompress.main(["x.tkc", f"out{i}", *named]) == 0 and restored(Path(f"out{i}"))
    message = "expected a file of the model bitswap"
    refused(lambda: decompress.main(["x.tkc", "no", "run=other"]), here, message, capsys)


def test_a_run_folder_of_a_models_name_wins_and_any_other_folder_does_not(here: Path, capsys: Capture) -> None:
    Path("small").mkdir()
    assert zoo.folder_of("small") == zoo.FOLDER / "small"
    assert capsys.readouterr().err == ""
    shutil.copytree(zoo.FOLDER / "photographs", "small", dirs_exist_ok=True)
    assert compress.main(["photos", "x.tkc", "run=small"]) == 0
    assert (
        "note: run=small is the run folder of that name here, and not the model of the zoo" in capsys.readouterr().err
    )
    assert decompress.main(["x.tkc", "out", "run=./small"]) == 0 and restored(Path("out"))
    assert capsys.readouterr().err.count("note:") == 0


def test_a_name_that_is_neither_a_run_nor_a_model_is_refused(here: Path, capsys: Capture) -> None:
    message = "expected a run folder or a model of the zoo (other, photographs, small), got 'nowhere'; give the folder"
    refused(lambda: compress.main(["photos", "x.tkc", "run=nowhere"]), here, message, capsys)
    refused(lambda: evaluate.main(["run=nowhere"]), here, message, capsys)
    message = "got 'photograph'; did you mean photographs? Or give the folder"
    refused(lambda: compress.main(["photos", "x.tkc", "run=photograph"]), here, message, capsys)
    message = "expected a run folder with config.yaml"
    refused(lambda: compress.main(["photos", "x.tkc", "run=out/nowhere"]), here, message, capsys)


def test_without_the_default_model_compress_says_what_to_do(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(zoo, "DEFAULT", "absent")
    message = (
        "expected run=, got none, and this installation ships no model absent; give run=NAME of the zoo (other, "
        "photographs, small) or the folder of a training"
    )
    refused(lambda: compress.main(["photos", "x.tkc"]), here, message, capsys)


@pytest.mark.parametrize("model", ["ab" * 32, "", None, 7, ["x"], {"y": 1}])
def test_a_file_of_no_model_that_ships_is_refused(model: object, here: Path, capsys: Capture) -> None:
    assert compress.main(["photos", "x.tkc", "run=small"]) == 0
    rewritten(Path("x.tkc"), Path("y.tkc"), lambda header: header.update(model=model))
    message = (
        "y.tkc: expected a file of a model that ships (other, photographs, small), got one of another, of recipe "
        f"'bitswap' and fingerprint {str(model)[:16]!r}; give run="
    )
    refused(lambda: decompress.main(["y.tkc", "out"]), here, message, capsys)
    assert inspect.main(["input=y.tkc", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["zoo"] is None


def test_a_recipe_of_another_name_is_no_model_that_ships(here: Path) -> None:
    model = zoo.card("small").fields["fingerprints"][0]
    assert zoo.by_fingerprint("bitswap", model) == "small"
    assert zoo.by_fingerprint("vae", model) is None and zoo.by_fingerprint(["bitswap"], model) is None


def test_word_vectors_are_sent_to_their_command(here: Path, capsys: Capture) -> None:
    from toolkit import embeddings

    embeddings.export("v.tkc", ["a", "b"], torch.randn(2, 4), torch.ones(2, 4), "lambda", 1)
    message = "got one of word vectors; use python -m toolkit.export_embeddings input=v.tkc output=vectors.bin"
    refused(lambda: decompress.main(["v.tkc", "out"]), here, message, capsys)


def test_nothing_is_written_into_the_zoo(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    before = {path: path.stat().st_mtime_ns for path in zoo.FOLDER.rglob("*")}
    message = "expected the folder of a training, got small, which ships as it is"
    refused(lambda: make_exact.main(["run=small"]), here, message, capsys)
    assert evaluate.main(["run=small", "rows=20"]) == 0
    assert "small is evaluated in evaluation-small\n" in capsys.readouterr().out
    assert evaluate.main(["run=small", "rows=20"]) == 0  # and again
    assert {"card.md", "evaluation.txt", "evaluation.tkc"} <= {path.name for path in Path("evaluation-small").iterdir()}
    Path("evaluation-other").mkdir()
    message = "expected no evaluation-other here, or a copy of the model, got another"
    refused(lambda: evaluate.main(["run=other"]), here, message, capsys)
    assert {path: path.stat().st_mtime_ns for path in zoo.FOLDER.rglob("*")} == before


def test_a_model_that_ships_is_evaluated_without_the_pictures_that_it_was_trained_on(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    run, small = picture_run(here / "run"), torch.from_numpy(noise(3, 16, 24))
    config = (run / "config.yaml").read_text()
    config = config.replace("folder: null", "folder: photographs/train").replace("held_out: 1", "held_out: 0")
    (run / "config.yaml").write_text(config)
    filled(ship(run, zoo.DEFAULT, here / "zoo"))
    monkeypatch.setattr(zoo, "FOLDER", here / "zoo")
    monkeypatch.setattr("toolkit.data.pictures.whole", lambda photo: small)
    assert evaluate.main(["run=photographs", "effort=0"]) == 0
    assert "\n1 picture, effort 0, decoded equal; bits per dimension of file bytes:\n" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="got photographs/train, which does not exist"):
        runs.build_data(runs.load(run, "cpu").cfg)


# Weights that ship.


def test_weights_of_a_training_come_before_those_that_ship(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "photographs", tmp_path / "both")
    (tmp_path / "both/exact.safetensors").touch()
    first = runs.load(tmp_path / "both", "cpu")
    runs.save_weights(tmp_path / "both", bitswap((3, 8, 8), seed=2))
    assert not runs.has_exact(tmp_path / "both")  # it was of other weights
    second = runs.load(tmp_path / "both", "cpu")
    assert runs.identity(first)["model"] != runs.identity(second)["model"]
    (tmp_path / "both/model.pt").unlink()
    assert runs.identity(runs.load(tmp_path / "both", "cpu")) == runs.identity(first)


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"", lambda data: b"\xff" * 16 + data])
def test_broken_weights_that_ship_are_refused(damage: Callable[[bytes], bytes], models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "small", tmp_path / "small")
    file = tmp_path / "small/model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"expected weights of the model .*, got others in model.safetensors"):
        runs.load(tmp_path / "small")


def test_a_model_may_ship_with_exact_networks_alone(
    trained: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(zoo, "FOLDER", here / "zoo")
    filled(ship(trained, "lean", here / "zoo", codes_only=True))
    assert not (here / "zoo/lean/model.safetensors").exists()
    assert compress.main(["photos", "x.tkc", "run=lean"]) == 0
    assert decompress.main(["x.tkc", "out"]) == 0 and restored(Path("out"))
    with pytest.raises(FileNotFoundError, match=r"lean without model.pt, which ships to code alone; leave out exact=f"):
        runs.load(here / "zoo/lean", "cpu", False)


# Pictures at a rate.


def test_a_picture_has_the_size_or_quality_that_is_asked_for_without_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture = photo(240, 320)
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save("a.png")
    assert compress.main(["a.png", "x.tkc", "bpp=0.6", "device=cpu"]) == 0
    assert 8 * Path("x.tkc").stat().st_size / picture[0].numel() == pytest.approx(0.6, rel=0.02)
    assert decompress.main(["x.tkc", "out.png", "device=cpu"]) == 0  # finds its model
    assert psnr(picture, torch.from_numpy(pixels(Path("out.png"))).permute(2, 0, 1)) > 30
    assert compress.main(["a.png", "y.tkc", "psnr=36", "device=cpu"]) == 0
    assert decompress.main(["y.tkc", "good.png", "device=cpu"]) == 0
    assert psnr(picture, torch.from_numpy(pixels(Path("good.png"))).permute(2, 0, 1)) == pytest.approx(36, abs=0.1)


def test_a_file_of_the_model_of_any_rate_decodes_as_it_did(tmp_path: Path) -> None:
    golden = ROOT / "tests/golden"  # with a filter and turned colours
    assert decompress.main([str(golden / "any_rate.tkc"), str(tmp_path / "out"), "device=cpu"]) == 0
    before, after = (pixels(path).astype(int) for path in (golden / "any_rate.png", tmp_path / "out/a.png"))
    assert np.abs(before - after).max() <= 1  # floats may differ between machines


def test_without_the_lossy_model_a_rate_is_refused(here: Path, capsys: Capture) -> None:
    message = "this installation ships no model any-rate; give run=NAME of the zoo (other, photographs, small)"
    refused(lambda: compress.main(["photos", "x.tkc", "bpp=1"]), here, message, capsys)
