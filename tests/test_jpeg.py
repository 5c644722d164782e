"""JPEG files are left out of lossless files unless their pixels are asked for; and what is said of sizes."""

import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from recipes.vae import VAE
from tests.archives import noise, pack, pixels, refused, unpack
from tests.test_vae import configuration, photo
from toolkit import compress
from toolkit.images import baselines
from toolkit.images.given import given as told
from toolkit.images.source import source
from toolkit.runs import save

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Two PNG files, one of them by the name of another kind, and JPEG files by their and by another name."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    Image.fromarray(noise(9, 12, 3)).save(folder / "a.png")
    Image.fromarray(noise(12, 9)).save(folder / "not.jpg", "PNG")
    frames = [Image.fromarray(noise(16, 16, 3)) for _ in range(2)]
    frames[0].save(folder / "b.jpg", "JPEG")
    frames[0].save(folder / "c.png", "JPEG")
    frames[0].save(folder / "phone.jpg", "MPO", save_all=True, append_images=frames[1:])
    return folder


JPEGS = "b.jpg", "c.png", "phone.jpg"


@pytest.fixture(scope="module")
def lossy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "lossy"
    run.mkdir()
    cfg = configuration()
    module = VAE(**{str(key): value for key, value in cfg.recipe.module.items() if key != "_target_"})
    module.eval().fit_tables(torch.stack([photo(64, 64, seed) for seed in range(4)]), steps=2)
    save(run, cfg, module)
    return run


def test_jpeg_files_are_known_by_their_content_and_left_out(
    runs: dict[str, Path], mixed: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert pack(runs["rgb"], mixed, tmp_path / "x.tkc") == 2
    shown = capsys.readouterr()
    why = "a JPEG file, whose pixels may take more bytes than it has; jpeg=pixels keeps them"
    lines = shown.err.splitlines()[-4:]
    assert lines[:3] == [f"left out: {mixed / name}: {why}" for name in JPEGS]
    assert lines[3] == (
        "3 of 5 pictures left out, listed above; exit status 2, as nothing asked for that; jpeg=skip would, and the "
        "status be 0"
    )
    given = sum((mixed / name).stat().st_size for name in ("a.png", "not.jpg"))
    assert f"\n2 input files: {given} bytes; the .tkc: {(tmp_path / 'x.tkc').stat().st_size}, " in shown.out
    assert "JPEG" not in shown.out
    assert pack(runs["rgb"], mixed, tmp_path / "x.tkc", "jpeg=skip", "overwrite=true") == 0
    assert capsys.readouterr().err.endswith("\n3 of 5 pictures left out, listed above\n")
    assert unpack(runs["rgb"], tmp_path / "x.tkc", tmp_path / "out") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.png", "not.png"}


def test_their_pixels_are_kept_where_that_is_asked_for_and_both_sizes_told(
    runs: dict[str, Path], mixed: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert pack(runs["rgb"], mixed, tmp_path / "x.tkc", "jpeg=pixels") == 0
    shown = capsys.readouterr()
    given, jpegs = (sum((mixed / name).stat().st_size for name in names) for names in (("a.png", "not.jpg"), JPEGS))
    size = (tmp_path / "x.tkc").stat().st_size
    assert shown.out.endswith(
        f"\n5 input files: {given + jpegs} bytes; the .tkc: {size}, {100 * size / (given + jpegs):.1f} %\n"
        f"  3 JPEG files: {jpegs} bytes\n  2 PNG files: {given} bytes\n"  # which are coded together
    )
    assert "phone.jpg: frames 2 to 2 of 2" in shown.err and "b.jpg" not in shown.err
    assert unpack(runs["rgb"], tmp_path / "x.tkc", tmp_path / "out") == 0
    for name in ("b.jpg", "phone.jpg"):
        assert np.array_equal(pixels(tmp_path / "out" / f"{name[:-4]}.png"), pixels(mixed / name))


def test_nothing_but_jpeg_files_is_an_error_that_says_what_to_do(
    runs: dict[str, Path], mixed: Path, tmp_path: Path, capsys: Capture
) -> None:
    for name in ("a.png", "not.jpg"):
        (mixed / name).unlink()
    size = sum(path.stat().st_size for path in mixed.iterdir())
    message = (
        f"expected pictures that are no JPEG files in {mixed}, got 3 JPEG files, {size} bytes; jpeg=pixels keeps every "
        "pixel, but their file may become larger than they are; or make them smaller with a lossy model"
    )
    refused(lambda: pack(runs["rgb"], mixed, tmp_path / "x.tkc"), tmp_path, message, capsys)
    message = f"in {mixed / 'b.jpg'}, got 1 JPEG file, "
    refused(lambda: pack(runs["rgb"], mixed / "b.jpg", tmp_path / "x.tkc"), tmp_path, message, capsys)
    assert pack(runs["rgb"], mixed, tmp_path / "x.tkc", "jpeg=pixels") == 0
    assert "%\nAll are JPEG files, whose pixels are kept, and not their bytes.\n" in capsys.readouterr().out


def test_they_are_left_out_before_they_are_read(mixed: Path) -> None:
    (mixed / "b.jpg").write_bytes((mixed / "b.jpg").read_bytes()[:100])
    with pytest.raises(
        ValueError, match=r"b.jpg: expected a whole image, got one that is cut short: it ends after 100"
    ):
        source(mixed)
    found = source(mixed, jpeg="skip")
    assert [item.name for item in found.items] == ["a.png", "not.jpg"] and found.kinds == ["PNG", "PNG"]
    with pytest.raises(ValueError, match="expected jpeg to be one of skip, pixels, got 'bytes'; give one of them"):
        source(mixed, jpeg="bytes")


def test_a_lossy_model_takes_them_and_no_options_of_lossless_ones(
    lossy: Path, mixed: Path, tmp_path: Path, capsys: Capture
) -> None:
    for option in ("compare=true", "verify=true"):
        message = f"expected no {option.split('=')[0]}= for a model of vae, which takes lambda=, bpp=, psnr=, effort="
        refused(
            lambda option=option: pack(lossy, mixed, tmp_path / "x.tkc", "lambda=8", option), tmp_path, message, capsys
        )
    assert pack(lossy, mixed, tmp_path / "fewer.tkc", "lambda=8", "jpeg=skip") == 0
    shown = capsys.readouterr()
    assert "2 pictures" in shown.out and "3 of 5 pictures left out" in shown.err
    assert pack(lossy, mixed, tmp_path / "x.tkc", "lambda=8", "jpeg=pixels") == 0
    assert pack(lossy, mixed, tmp_path / "x.tkc", "lambda=8", "overwrite=true") == 0
    shown = capsys.readouterr()
    assert "5 pictures" in shown.out and "JPEG" not in shown.out + shown.err
    given = sum(path.stat().st_size for path in mixed.iterdir())
    assert f"\n5 input files: {given} bytes; the .tkc: " in shown.out


def test_the_bytes_of_an_array_are_those_of_its_file(runs: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    np.save(tmp_path / "x.npy", noise(5, 8, 8))
    assert pack(runs["grey"], tmp_path / "x.npy", tmp_path / "x.tkc") == 0
    assert f"\n1 input file: {128 + 5 * 64} bytes; the .tkc: " in capsys.readouterr().out


@pytest.mark.parametrize(("size", "larger"), [(10, False), (5000, True)])
def test_a_file_that_is_larger_than_what_was_given_says_so(size: int, larger: bool, tmp_path: Path) -> None:
    Image.new("RGB", (3, 5)).save(tmp_path / "a.png")
    (tmp_path / "a.tkc").write_bytes(bytes(size))
    assert ("The .tkc is the larger one" in told(source(tmp_path / "a.png"), str(tmp_path / "a.tkc"), True)) is larger


def test_a_file_is_compared_with_what_other_codecs_make_of_its_pictures(
    runs: dict[str, Path], mixed: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert pack(runs["rgb"], mixed, tmp_path / "x.tkc", "compare=true", "jpeg=skip") == 0
    rows = {line[:24].strip(): line[24:].split() for line in capsys.readouterr().out.splitlines()}
    assert "compare" not in rows
    size = (tmp_path / "x.tkc").stat().st_size
    ours = rows["x.tkc"]
    assert ours[:2] == [str(size), f"{8 * size / (9 * 12 * 4):.4f}"] and len(ours) == 4
    for name, form, options in (
        ("PNG", "PNG", {"optimize": True}), ("WebP, lossless", "WEBP", {"lossless": True, "quality": 100, "method": 6}),
        ("JPEG XL, effort 7", "JXL", {"lossless": True, "effort": 7}),
    ):  # fmt: skip
        if form == "JXL":
            pytest.importorskip("pillow_jxl")
        sizes = []
        for file in ("a.png", "not.jpg"):
            with Image.open(mixed / file) as image:
                image.convert("RGB" if form == "WEBP" else image.mode).save(made := io.BytesIO(), form, **options)
            sizes.append(len(made.getvalue()))
        bits, share = f"{8 * sum(sizes) / 432:.4f}", 100 * (size / sum(sizes) - 1)
        said = ["ours", "is", f"{abs(share):.1f}", "%", "smaller" if share < 0 else "larger"]
        assert rows[name][:7] == [str(sum(sizes)), bits, *said] and float(rows[name][7]) >= 0


def test_a_codec_that_cannot_take_a_picture_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "WEBP_LARGEST", 10)
    pictures = [noise(1, 8, 8), noise(3, 8, 12)]
    table = baselines.comparison(("x.tkc", 100, 0.5), pictures)
    assert "WebP" not in table and "PNG" in table
    assert "x.tkc" + " " * 19 + f" {100:13} {8 * 100 / 352:9.4f}" in table


# INPUT OUTPUT


def test_input_and_output_need_no_keys_wherever_they_stand(
    runs: dict[str, Path], mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.move(mixed, "input")  # a name of a key
    run = f"run={runs['rgb']}"
    for i, arguments in enumerate(
        (["input", "{}"], [run, "input", "{}"], ["{}", "input=input"], ["output={}", "input"])
    ):
        file = f"{i}.tkc"
        given = [argument.format(file) for argument in arguments]
        assert compress.main([*given, "jpeg=pixels", *[run] * (run not in given)]) == 0
        assert Path(file).is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "b.tkc", "c"], "expected key=value, got 'c'; write KEY=c"),
        (["a", "b.tkc", "run"], "expected key=value, got 'run'; write run=VALUE"),
        (["a"], "expected output=, got input; give the .tkc file to write"),
        (["a", "input=b", "output=c"], "expected key=value, got 'a'; write KEY=a"),
        (["a", ""], "expected a value for output=, got nothing"),
        ([], "expected input=, got no arguments"),
    ],
)
def test_other_arguments_without_keys_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as end:
        compress.main(arguments)
    assert str(end.value).startswith("error: ") and message in str(end.value)


def test_a_dash_is_standard_input_or_output_there_too(runs: dict[str, Path], tmp_path: Path) -> None:
    np.save(made := io.BytesIO(), noise(2, 8, 8))
    done = subprocess.run(
        [sys.executable, "-m", "toolkit", "compress", "-", "-", f"run={runs['grey']}", "compare=true"],
        input=made.getvalue(), capture_output=True, check=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    (tmp_path / "x.tkc").write_bytes(done.stdout)
    assert b"1 input file: " in done.stderr and b"WebP, lossless" in done.stderr
    assert unpack(runs["grey"], tmp_path / "x.tkc", tmp_path / "x.npy") == 0
    assert (tmp_path / "x.npy").read_bytes() == made.getvalue()
