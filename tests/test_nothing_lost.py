"""Nothing lost, nothing silent: cases from bug reports of programs like this one, each by its number (A1 to H30)."""

from __future__ import annotations

import functools
import gzip
import io
import os
import pickle
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gensim.models import KeyedVectors
from omegaconf import OmegaConf, open_dict
from PIL import Image, PngImagePlugin

from recipes.bitswap import BitSwap
from tests.archives import files_of, noise, pack, refused, rewritten, unpack
from tests.tiny import configure, picture_run, run_folder
from toolkit import compress, container, decompress, embeddings, export_embeddings, inspect
from toolkit.container import atomic_path
from toolkit.data import images
from toolkit.data.text import corpus
from toolkit.embeddings.exporting import check, goal_of
from toolkit.embeddings.sources import read, read_counts
from toolkit.images import arrays
from toolkit.images.files import read_image, write_image
from toolkit.run import CONFIG
from toolkit.runs import CHECKPOINT, read_config
from toolkit.train import train
from toolkit.training.lock import LOCK
from toolkit.training.overrides import quoted, resumed

ROOT = Path(__file__).parents[1]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_folder(tmp_path_factory.mktemp("runs") / "grey", (1, 8, 8))


def picture(path: Path, *shape: int, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(*(shape or (9, 7)))).save(path, **options)
    return path


def full_disk(*_: Any, **__: Any) -> Any:
    raise OSError(28, "No space left on device")


# A. A failed command damages nothing that was there.


@pytest.mark.training
def test_a1_a_resumed_training_of_another_network_is_refused_and_the_run_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    cfg = configure("bitswap", "max_steps=2")
    train(cfg, run)
    before = (run / CONFIG).read_bytes()
    with open_dict(cfg):
        cfg.resume, cfg.recipe.module.width, cfg.max_steps = str(run), 12, 4
    with pytest.raises(ValueError, match=r"network of the run .* recipe.module.width=12: .* and was .*; leave it out"):
        train(cfg, run, ["recipe.module.width=12"])
    assert (run / CONFIG).read_bytes() == before
    monkeypatch.setattr("toolkit.heads.rows.Rows.watch", full_disk)  # which writes, for word vectors
    (run / CHECKPOINT).write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(ValueError, match="expected a checkpoint, got a broken file"):
        train(cfg, run)
    assert (run / CONFIG).read_bytes() == before


@pytest.mark.training
def test_a1_a_finished_run_outlives_a_training_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    run.mkdir()
    cfg = configure("bitswap", "max_steps=2")
    train(cfg, run)
    before = {name: (run / name).read_bytes() for name in ("model.pt", "exact.pt")}
    train(resumed(run, []), run)  # no steps are left
    assert {name: (run / name).read_bytes() for name in before} == before

    def interrupted(self: Any, x: torch.Tensor, index: int) -> torch.Tensor:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(BitSwap, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt) as ended:
            train(resumed(run, ["recipe.module.free_bits=0.1", "max_steps=9"]), run)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning leaves it ignored
    assert ended.value.args == (130,)
    assert {name: (run / name).read_bytes() for name in before} == before
    assert read_config(run / CONFIG).recipe == cfg.recipe  # which files' fingerprints are made of
    assert resumed(run, []).recipe.module.free_bits == 0.1


@pytest.mark.training
def test_a1_two_trainings_of_one_run_are_refused_until_the_first_is_gone_even_killed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    program = f"""
import time
from toolkit.training.lock import Path, held
with held(Path({str(run)!r})):
    print(1, flush=True)
    time.sleep(999)
"""
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None and first.stdout.read(1) == b"1"
        before = files_of(run)
        with pytest.raises(ValueError, match=rf"got .*, on which process {first.pid} of .* works; wait"):
            train(configure("bitswap", "max_steps=2"), run)
        assert files_of(run) == before
        first.kill()
    train(configure("bitswap", "max_steps=1"), run)  # and no file that is left stops it
    assert not (run / LOCK).exists() and (run / "model.pt").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("minuts=3", r"expected a key of the configuration of .*, got minuts=3; did you mean minutes=\?"),
        ("recipe.module.widht=8", r"did you mean recipe.module.width=\?"),
        ("coding=5", "expected one value of coding to change, got coding=5; give coding.NAME=VALUE"),
        ("trainer={devices: 2}", "expected one value of trainer to change"),
        ("minutes={a: 2}", "expected one value for minutes="),
        ("recipe.module=null", "expected one value of recipe.module to change"),
        ("~minutes", "expected only values to change when resuming, got ~minutes"),
        ("++more=1", "expected only values to change when resuming"),
        ("minutes=1,2", "expected only values to change when resuming"),
        ("coding.batch=0", "expected batch to be a whole number"),
        ("coding.batch=x", "expected batch to be a whole number"),
        ("coding.seed=-1", "expected seed to be a whole number"),
    ],
)
def test_a1_overrides_of_a_resumed_training_are_checked_as_those_of_a_new_one(
    override: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / CHECKPOINT).touch()
    OmegaConf.save(configure("bitswap"), tmp_path / CONFIG)
    before = (tmp_path / CONFIG).read_bytes(), files_of(tmp_path)
    with pytest.raises(ValueError, match=message):
        train(resumed(tmp_path, [override]), tmp_path)
    assert ((tmp_path / CONFIG).read_bytes(), files_of(tmp_path)) == before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("coding=5", "expected one value of coding to change"),
        ("recipe.module=3", "expected one value of recipe.module to change"),
        ("coding.batch=1.5", "expected batch to be a whole number"),
    ],
)
def test_a1_overrides_of_a_new_training_are_checked_before_data_are_read(
    override: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.runs.build_data", full_disk)
    with pytest.raises(ValueError, match=message):
        train(configure("bitswap", override), tmp_path)


def test_a1_a_value_that_only_the_recipe_of_the_run_has_can_change(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / CHECKPOINT).touch()
    OmegaConf.save(configure("vae_lossless"), run / CONFIG)
    before = files_of(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "toolkit.train", "resume=run", "recipe.module.latents=4"], capture_output=True,
        text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stderr == f"error: run/{CHECKPOINT}: expected a checkpoint, got a broken file; train anew\n"
    assert done.returncode == 1 and files_of(tmp_path) == before


@pytest.mark.training
def test_a3_checkpoints_outlive_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    run.mkdir()
    train(configure("bitswap", "max_steps=2"), run)
    files = [run / "checkpoints/best.ckpt", run / CHECKPOINT]
    before = [file.read_bytes() for file in files]

    def half(source: Any, target: Any) -> None:  # from /tmp, as on another file system
        Path(target).write_bytes(b"half")
        full_disk()

    def full(self: Path, data: Any) -> None:
        with self.open("wb") as file:
            file.write(data[:10])
        full_disk()

    monkeypatch.setattr("shutil.move", half)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            train(resumed(run, ["max_steps=4"]), run)
    assert [file.read_bytes() for file in files] == before
    assert [path.name for path in (run / "checkpoints").iterdir() if "partial" in path.name] == []
    train(resumed(run, ["max_steps=4"]), run)
    assert torch.load(files[0], weights_only=True)["global_step"] == 4


@pytest.mark.parametrize("link", [False, True])
def test_a2_an_output_that_is_the_input_is_refused(link: bool, run: Path, tmp_path: Path, capsys: Capture) -> None:
    file = picture(tmp_path / "a.png")
    if link:
        (tmp_path / "b.tkc").symlink_to(file)
    output = tmp_path / ("b.tkc" if link else "a.png")
    message = "to be no link to another kind of file" if link else "expected output= to end in .tkc"
    refused(lambda: pack(run, file, output, "overwrite=true"), tmp_path, message, capsys)


def test_a3_vectors_that_stand_there_outlive_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    keyed = KeyedVectors(8)
    keyed.add_vectors([f"w{i}" for i in range(20)], np.random.default_rng(0).random((20, 8), np.float32))
    keyed.save(str(tmp_path / "v.kv"))
    embeddings.export(
        tmp_path / "v.tkc", keyed.index_to_key, torch.from_numpy(keyed.vectors), torch.ones(20, 8), "lambda", 1
    )
    for name in ("v.kv", "v.bin", "v.txt"):
        (tmp_path / name).touch()
        convert = [f"input={tmp_path / 'v.tkc'}", f"output={tmp_path / name}", "overwrite=true"]
        with monkeypatch.context() as patch:
            patch.setattr("toolkit.embeddings.exporting.save", half_written)
            refused(functools.partial(export_embeddings.main, convert), tmp_path, "No space left", capsys)
        assert export_embeddings.main(convert) == 0
        assert sorted(path.suffix for path in tmp_path.iterdir() if "partial" in path.name) == []


def half_written(keyed: KeyedVectors, path: Path) -> None:
    path.write_bytes(b"half")
    full_disk()


def test_a4_no_file_is_replaced_without_being_asked_to(run: Path, tmp_path: Path, capsys: Capture) -> None:
    np.save(tmp_path / "x.npy", noise(3, 8, 8))
    (tmp_path / "x.tkc").write_text("mine")
    (tmp_path / "y.npy").write_text("mine")
    message = "expected a new file, got one that exists; give another name, or overwrite=true to replace it"
    refused(lambda: pack(run, tmp_path / "x.npy", tmp_path / "x.tkc"), tmp_path, message, capsys)
    assert pack(run, tmp_path / "x.npy", tmp_path / "x.tkc", "overwrite=true") == 0
    refused(lambda: unpack(run, tmp_path / "x.tkc", tmp_path / "y.npy"), tmp_path, message, capsys)
    assert unpack(run, tmp_path / "x.tkc", tmp_path / "y.npy", "overwrite=true") == 0
    (tmp_path / "g.txt").write_text("a 1 2\nb 3 4\n")
    command = [f"input={tmp_path / 'g.txt'}", f"output={tmp_path / 'x.tkc'}", "lambda=1"]
    refused(lambda: export_embeddings.main(command), tmp_path, message, capsys)
    assert export_embeddings.main([*command, "overwrite=true"]) == 0
    back = [f"input={tmp_path / 'x.tkc'}", f"output={tmp_path / 'g.txt'}"]
    refused(lambda: export_embeddings.main(back), tmp_path, message, capsys)


# B. Interrupted.


@pytest.mark.training
@pytest.mark.parametrize(("sign", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_b5_an_interrupted_training_says_how_to_go_on(sign: signal.Signals, status: int, tmp_path: Path) -> None:
    folder, command = tmp_path / "my run", [sys.executable, "-m", "toolkit.train"]
    small = [
        "recipe=bitswap", "data=digits", "minutes=600", "trainer.enable_progress_bar=false", "recipe.module.width=8",
        "recipe.module.finer=1", "recipe.module.downscale=[2,1,1]", "evaluation.rows=16", "trainer.accelerator=cpu",
        f"hydra.run.dir={folder}",
    ]  # fmt: skip
    options: dict[str, Any] = {"text": True, "cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}
    process = subprocess.Popen([*command, *small], stderr=subprocess.PIPE, **options)
    until = time.monotonic() + 120
    kept = folder / CHECKPOINT, folder / "checkpoints/best.ckpt"
    while not all(path.is_file() for path in kept) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.2)
    process.send_signal(sign)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == status, said
    assert "interrupted; go on with: python -m toolkit.train resume='my run'\n" in said
    assert (folder / "model.pt").is_file()
    again = [*command, f"resume={folder}", "max_steps=1", "evaluation.test_rows=16"]
    done = subprocess.run(again, capture_output=True, **options)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["my run"]


def test_b6_what_is_restored_outlives_a_full_disk(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    for name in "abcd":
        picture(tmp_path / f"in/{name}.png")
    assert pack(run, tmp_path / "in", tmp_path / "x.tkc", "chunk_rows=2") == 0
    save, saved = Image.Image.save, []

    def limited(self: Image.Image, *arguments: Any, **options: Any) -> None:
        if len(saved) == 2:
            full_disk()
        saved.append(save(self, *arguments, **options))

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", limited)
        assert unpack(run, tmp_path / "x.tkc", tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert "No space left on device; what is restored is kept in" in said and ": make room, and give the same" in said
    assert files_of(tmp_path / "out.partial/result") == {"a.png", "b.png"}
    assert unpack(run, tmp_path / "x.tkc", tmp_path / "out") == 0
    assert files_of(tmp_path / "out") == {"a.png", "b.png", "c.png", "d.png"}
    assert not (tmp_path / "out.partial").exists()


def test_b7_what_killed_processes_left_is_cleaned_up(run: Path, tmp_path: Path) -> None:
    program = f"""
import os, signal
from toolkit.container import atomic_path
with atomic_path({str(tmp_path / "x.tkc")!r}) as path:
    path.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert [path.name.endswith(".partial.tkc") for path in tmp_path.iterdir()] == [True]
    other = tmp_path / ".mine.partial.tkc"
    other.write_text("of somebody else")
    with atomic_path(tmp_path / "y.tkc") as mine, atomic_path(tmp_path / "z.tkc") as path:
        mine.write_text("whole")
        path.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.partial.tkc", "y.tkc", "z.tkc"]


def test_b8_room_for_an_array_is_taken_before_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = arrays.Array("x.npy", "npy", "|u1", (64, 64, 64), "nhw")
    with arrays.writer(tmp_path / "x.npy", array):
        assert os.stat(tmp_path / "x.npy").st_blocks * 512 >= 64**3
    monkeypatch.setattr(os, "posix_fallocate", full_disk)
    with pytest.raises(OSError, match="No space left"), arrays.writer(tmp_path / "y.npy", array):
        raise AssertionError("written where there is no room")


# C. No part of a folder is lost in silence.


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_c9_a_folder_that_cannot_be_read_is_an_error(run: Path, tmp_path: Path, capsys: Capture) -> None:
    picture(tmp_path / "in/a.png")
    picture(tmp_path / "in/sub/b.png")
    (tmp_path / "in/sub").chmod(0)
    assert pack(run, tmp_path / "in", tmp_path / "x.tkc") == 1
    (tmp_path / "in/sub").chmod(0o700)
    assert "Permission denied" in capsys.readouterr().err and not (tmp_path / "x.tkc").exists()


def test_c9_an_error_below_a_folder_is_not_passed_over(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    picture(tmp_path / "in/a.png")
    picture(tmp_path / "in/sub/b.png")
    scandir = os.scandir

    def forbidden(path: Any) -> Any:
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("toolkit.images.folder.os.scandir", forbidden)
    refused(lambda: pack(run, tmp_path / "in", tmp_path / "x.tkc"), tmp_path, "sub: Permission denied", capsys)


def test_c10_all_that_is_left_out_is_named_with_its_reason(run: Path, tmp_path: Path, capsys: Capture) -> None:
    folder, elsewhere = tmp_path / "in", tmp_path / "elsewhere"
    picture(folder / "a.png")
    picture(elsewhere / "b.png")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "loop").symlink_to(folder)
    (folder / "nothing.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(folder / "pipe.png")
    (folder / ".hidden.png").touch()
    (folder / "notes.txt").touch()
    (folder / "phone.heic").touch()
    (folder / "self.png").symlink_to(folder / "self.png")
    (folder / "deep.ppm").write_bytes(b"P6 1 1 65535\n123456")
    for suffix in ("ppm", "jfif"):
        picture(folder / f"c.{suffix}", 16, 16, **({"format": "JPEG"} if suffix == "jfif" else {}))
    refused(lambda: pack(run, folder, tmp_path / "x.tkc"), tmp_path, "expected 8 bits a value, got 16", capsys)
    (folder / "deep.ppm").unlink()
    assert pack(run, folder, tmp_path / "x.tkc", "jpeg=pixels") == 2  # of the pictures, phone.heic is not there
    error = capsys.readouterr().err
    assert "\n1 of 5 pictures left out, listed above; exit status 2, as nothing asked for that; on_bad=skip" in error
    said = [line for line in error.splitlines() if line.startswith("left out:")]
    reasons = {
        "loop": "a link to a folder that is there already", "nothing.png": "a link to nothing", "pipe.png": "a pipe",
        "self.png": "a link to nothing",
        ".hidden.png": "hidden", "notes.txt": "not an image", "phone.heic": "an image of a kind that is not read",
    }  # fmt: skip
    assert len(said) == len(reasons)
    assert all(any(f"/{name}: {why}" in line for line in said) for name, why in reasons.items())
    assert unpack(run, tmp_path / "x.tkc", tmp_path / "out") == 0
    assert len(files_of(tmp_path / "out")) == 4 and (tmp_path / "out/linked/b.png").is_file()
    assert np.array_equal(read_image(tmp_path / "out/c.ppm.png"), read_image(folder / "c.ppm"))


def test_c11_all_broken_pictures_are_named_before_anything_is_coded(run: Path, tmp_path: Path, capsys: Capture) -> None:
    for name in "abcdef":
        picture(tmp_path / f"in/{name}.png", 40, 40)
    cut, junk = picture(tmp_path / "in/cut.png", 40, 40), tmp_path / "in/junk.jpg"
    cut.write_bytes(cut.read_bytes()[:600])
    junk.write_bytes(b"junk")
    unloadable = run_folder(tmp_path / "run", (1, 8, 8))
    (unloadable / "model.pt").write_bytes(b"")
    before = set(tmp_path.iterdir())
    assert pack(unloadable, tmp_path / "in", tmp_path / "x.tkc") == 1
    said = capsys.readouterr().err
    assert "2 of 8 pictures cannot be coded" in said and "cut.png" in said and "junk.jpg" in said
    assert "leave them out by on_bad=skip" in said and set(tmp_path.iterdir()) == before
    assert pack(run, tmp_path / "in", tmp_path / "x.tkc", "on_bad=skip") == 0
    said = capsys.readouterr().err
    cut_short = "cannot be coded: expected a whole image, got one that is cut short: it ends after 600 bytes, before"
    assert f"left out: {cut}: {cut_short}" in said and f"left out: {junk}: cannot be coded: expected" in said
    assert said.endswith("\n2 of 8 pictures left out, listed above\n")
    assert unpack(run, tmp_path / "x.tkc", tmp_path / "out") == 0
    assert files_of(tmp_path / "out") == {f"{name}.png" for name in "abcdef"}


# D. What changes how a picture looks is kept.


LOOKS = "icc_profile", "gamma", "chromaticity", "srgb"


def described(path: Path) -> dict[str, Any]:
    with Image.open(path) as image:
        found = {key: image.info.get(key) for key in (*LOOKS, "Title", "Comment", "comment")}
        exif = image.getexif()
        return {
            **found,
            "dpi": tuple(round(x) for x in image.info.get("dpi", ())),
            "turned": exif.get(0x0112),
            "maker": exif.get(0x010F),
        }


def chunks_of(path: Path) -> dict[bytes, bytes]:
    data, at, found = path.read_bytes(), 8, dict[bytes, bytes]()
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        found[data[at + 4 : at + 8]] = data[at + 8 : at + 8 + size]
        assert zlib.crc32(data[at + 4 : at + 8 + size]) == int.from_bytes(data[at + 8 + size : at + 12 + size], "big")
        at += 12 + size
    return found


def with_chunk(path: Path, name: bytes, body: bytes) -> None:
    data = path.read_bytes()
    chunk = struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    path.write_bytes(data[:33] + chunk + data[33:])


def test_d12_the_shape_of_pixels_and_code_points_of_colour_are_kept(run: Path, tmp_path: Path, capsys: Capture) -> None:
    cases = {
        "ratio": (b"pHYs", struct.pack(">IIB", 10, 11, 0)), "dense": (b"pHYs", struct.pack(">IIB", 11811, 5906, 1)),
        "hdr": (b"cICP", bytes([9, 16, 0, 1])),
    }  # fmt: skip
    for name, chunk in cases.items():
        with_chunk(picture(tmp_path / f"in/{name}.png"), *chunk)
    picture(tmp_path / "in/a.jpg", 16, 16)
    data = bytearray((tmp_path / "in/a.jpg").read_bytes())
    data[13:18] = struct.pack(">BHH", 0, 4, 3)  # JFIF: no unit, and so a ratio
    (tmp_path / "in/a.jpg").write_bytes(data)
    picture(tmp_path / "in/t.tif", tiffinfo={282: 2.5, 283: 1.0, 296: 1})
    for keep in ("all", "color"):
        assert pack(run, tmp_path / "in", tmp_path / f"{keep}.tkc", f"metadata={keep}", "jpeg=pixels") == 0
        assert "metadata" not in capsys.readouterr().err
        assert unpack(run, tmp_path / f"{keep}.tkc", tmp_path / keep) == 0
        for name, (key, body) in cases.items():
            if keep == "all" or name != "dense":
                assert chunks_of(tmp_path / keep / f"{name}.png")[key] == body
        for name, ratio in (("a", (4, 3)), ("t", (2500, 1000))):
            assert chunks_of(tmp_path / keep / f"{name}.png")[b"pHYs"] == struct.pack(">IIB", *ratio, 0)
        assert np.array_equal(read_image(tmp_path / keep / "hdr.png"), read_image(tmp_path / "in/hdr.png"))


def test_d12_chunks_and_segments_of_which_nothing_is_kept_are_named(run: Path, tmp_path: Path, capsys: Capture) -> None:
    for name, chunk, body in (
        ("time", b"tIME", bytes(7)), ("unit", b"pHYs", struct.pack(">IIB", 1, 2, 9)), ("short", b"cICP", b"\1"),
        ("private", b"prIv", b"mine"),
    ):  # fmt: skip
        with_chunk(picture(tmp_path / f"in/{name}.png"), chunk, body)
    picture(tmp_path / "in/a.jpg", 16, 16)
    data = (tmp_path / "in/a.jpg").read_bytes()
    (tmp_path / "in/a.jpg").write_bytes(data[:2] + b"\xff\xed\0\x0fPhotoshop 3.0" + data[2:])
    assert pack(run, tmp_path / "in", tmp_path / "x.tkc", "jpeg=pixels") == 0
    said = capsys.readouterr().err
    for name, what in (
        ("time.png", "tIME"), ("unit.png", "pHYs"), ("short.png", "cicp"), ("private.png", "prIv"), ("a.jpg", "APP13")
    ):  # fmt: skip
        assert f"{name}: metadata that cannot be kept: {what}\n" in said


@pytest.mark.parametrize("keep", ["all", "color", "none"])
def test_d12_orientation_colour_and_text_are_kept(keep: str, run: Path, tmp_path: Path) -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add(b"gAMA", struct.pack(">I", 45455))
    chunks.add(b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000))
    chunks.add_itxt("Title", "Blüte")
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"  # turned; who made the camera
    picture(tmp_path / "in/a.png", 9, 7, pnginfo=chunks, exif=exif, dpi=(300, 300))
    picture(tmp_path / "in/b.png", 9, 7, icc_profile=b"a profile" * 40)
    picture(tmp_path / "in/c.jpg", 16, 16, exif=exif, icc_profile=b"another" * 40, comment="said", dpi=(72, 72))
    picture(tmp_path / "in/d.png")
    assert pack(run, tmp_path / "in", tmp_path / "x.tkc", f"metadata={keep}", "jpeg=pixels") == 0
    assert unpack(run, tmp_path / "x.tkc", tmp_path / "out") == 0
    for name in ("a.png", "b.png", "c.jpg", "d.png"):
        before, after = tmp_path / "in" / name, (tmp_path / "out" / name).with_suffix(".png")
        was, now = described(before), described(after)
        assert np.array_equal(read_image(before), read_image(after))
        if keep == "none":
            assert not any(now.values())
            continue
        for key in (*LOOKS, "turned"):
            assert now[key] == was[key], (name, key)
        for key in ("Title", "maker", "dpi"):
            assert now[key] == (was[key] if keep == "all" else type(was[key])() if key == "dpi" else None), (name, key)
        assert (now["Comment"] or "") == ((was["comment"] or b"").decode() if keep == "all" else "")


def test_d12_metadata_that_nobody_wrote_are_left_out_and_pixels_come_back(
    run: Path, tmp_path: Path, capsys: Capture
) -> None:
    picture(tmp_path / "a.png")
    assert pack(run, tmp_path / "a.png", tmp_path / "x.tkc") == 0
    hostile: list[Any] = [
        [], 3, [{"icc": "?"}], [{"run": "rm"}], [{"gamma": -1}], [{"text": {"a": 1}}], [{"exif": 7}], [7],
        [{"gamma": 1e6}], [{"chromaticity": [1e6] * 8}], [{"srgb": 1.0}], [{"text": []}], [{"text": {"k": "\ud800"}}],
        [{"aspect": [0, 1]}], [{"aspect": [1 << 31, 1]}], [{"cicp": [1, 2, 3]}], [{"cicp": [256] * 4}],
        [{"xmp": ""}], [{"dpi": [1 << 20, 1]}], [{"text": {"a\0b": "c"}}],
    ]  # fmt: skip
    for i, wrong in enumerate(hostile):
        file = rewritten(tmp_path / "x.tkc", tmp_path / "y.tkc", functools.partial(changed, wrong))
        assert unpack(run, file, tmp_path / f"out{i}.png") == 0
        assert "note: a.png: its metadata are not what this toolkit knows" in capsys.readouterr().err
        assert np.array_equal(read_image(tmp_path / f"out{i}.png"), read_image(tmp_path / "a.png"))


def test_d12_metadata_that_cannot_be_kept_are_named_and_what_is_packed_can_be_unpacked(
    run: Path, tmp_path: Path, capsys: Capture
) -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add(b"pHYs", struct.pack(">IIB", 0xFFFFFFFF, 0xFFFFFFFF, 1))
    chunks.add(b"sRGB", b"\x09")
    picture(tmp_path / "in/a.png", 9, 7, pnginfo=chunks)
    letters = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x02A\0\0\0\0\0\0\0"  # in the place of a number
    picture(tmp_path / "in/b.jpg", 16, 16, exif=letters)
    assert pack(run, tmp_path / "in", tmp_path / "x.tkc", "jpeg=pixels") == 0
    assert "a.png: metadata that cannot be kept: srgb" in (said := capsys.readouterr().err)
    assert "b.jpg: metadata that cannot be kept: orientation" in said or "b.jpg" not in said
    assert unpack(run, tmp_path / "x.tkc", tmp_path / "out") == 0
    assert files_of(tmp_path / "out") == {"a.png", "b.png"}


def changed(metadata: Any, header: dict[str, Any]) -> None:
    header["metadata"] = metadata


def test_d13_the_photograph_of_a_phone_is_coded_and_its_other_frames_are_named(
    run: Path, tmp_path: Path, capsys: Capture
) -> None:
    frames = [Image.fromarray(noise(16, 16, 3)) for _ in range(2)]
    (tmp_path / "in").mkdir()
    frames[0].save(tmp_path / "in/a.jpg", "MPO", save_all=True, append_images=frames[1:])
    assert pack(run, tmp_path / "in", tmp_path / "x.tkc", "jpeg=pixels") == 0
    assert "a.jpg: frames 2 to 2 of 2: previews or depth, not the photograph" in capsys.readouterr().err
    assert unpack(run, tmp_path / "x.tkc", tmp_path / "out") == 0
    assert np.array_equal(read_image(tmp_path / "out/a.png"), read_image(tmp_path / "in/a.jpg"))


@pytest.mark.parametrize("mode", ["I;16", "RGBA"])
def test_d14_deep_pictures_and_transparency_are_refused_where_a_model_cannot_keep_them(
    mode: str, run: Path, tmp_path: Path, capsys: Capture
) -> None:
    Image.new(mode, (8, 8)).save(tmp_path / "a.png")
    message = "expected 8 bits a value, got 16" if mode == "I;16" else "expected no transparency, got mode RGBA with it"
    message += "; do: compress it with run=photographs, which keeps"
    refused(lambda: pack(run, tmp_path / "a.png", tmp_path / "x.tkc"), tmp_path, message, capsys)


@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_d14_they_come_back_where_it_can_with_what_lies_below_no_opacity(kind: str, tmp_path: Path) -> None:
    values = noise(4, 6, 7).astype(kind) * (257 if kind == "u2" else 1) + noise(4, 6, 7) // 9
    values[3, :3] = 0
    write_image(tmp_path / "a.png", values.astype(kind))
    whole = picture_run(tmp_path / "run")
    assert pack(whole, tmp_path / "a.png", tmp_path / "x.tkc") == 0
    assert unpack(whole, tmp_path / "x.tkc", tmp_path / "b.png") == 0
    found = read_image(tmp_path / "b.png", every=True)
    assert found.dtype == kind and np.array_equal(found, values)


# E. Sizes that vectors' files declare are compared with what is there.


def exported(tmp_path: Path, name: str, data: bytes, *options: str) -> int:
    (tmp_path / name).write_bytes(data)
    return export_embeddings.main([f"input={tmp_path / name}", f"output={tmp_path / 'v.tkc'}", "lambda=1", *options])


def binary(words: list[bytes], count: int | None = None) -> bytes:
    rows = [word + b" " + np.float32([i, 1]).tobytes() + b"\n" for i, word in enumerate(words)]
    return b"%d 2\n" % (len(words) if count is None else count) + b"".join(rows)


ROWS = [b"w%d %d 0.25" % (i, i) for i in range(30)]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("v.txt", b"50 2\n" + b"\n".join(ROWS) + b"\n", "expected 50 vectors, as its first line says, got 30"),
        ("v.vec", b"20 2\n" + b"\n".join(ROWS) + b"\n", "expected 20 vectors, as its first line says, got 30"),
        ("v.txt", b"30 3\n" + b"\n".join(ROWS) + b"\n", "line 2: expected a word and 3 numbers"),
        ("v.txt", b"30 2\n" + b"\n".join(ROWS)[:-1], "the file may be cut in a number"),
        ("v.txt", b"\n".join(ROWS)[:-1], "the file may be cut in a number"),
        ("v.bin", binary([b"a", b"new york", b"c"]), "a word has a space, which this format cannot hold"),
        ("v.bin", binary([b"a", b"b", b"c"], 2), "there are more vectors"),
        ("v.bin", b"\n".join(ROWS), "is it text|if it is text, give it the ending .txt"),
        ("v.bin", b"30 2\n" + b"\n".join(ROWS) + b"\n", "cut short|more vectors|UTF-8|text"),
        ("v.txt", b"a 1 2\nb 3 4 5\n", "got 2 numbers on 1 lines, 3 numbers on 1 lines; if words end in numbers, say"),
        ("v.txt", b"1 1 2\nb 3 4 5\nc 3 4 5\n", "line 1: expected a word and 3 numbers|if words end in numbers"),
        ("v.txt", b"text\nof\nwords\n", "got 0 numbers on 3 lines"),
        ("v.txt", b"2 1\na 1 2\nb 3 4\n", "expected a word and 1 numbers, as its first line says, got 2 numbers"),
        ("v.txt", b"2 0\na 1 2\nb 3 4\n", "expected a word and 0 numbers, as its first line says"),
        ("v.txt", b"9" * 5000 + b" 2\na 1 2\n", "got a number of 5000 digits; correct it"),
        ("v.bin", b"9" * 5000 + b" 2\na 1 2\n", "expected word2vec's binary format"),
        ("v.txt", "a 1 2\nb 3 4\n".encode("utf-16"), "got UTF-16; convert it: iconv -f UTF-16 -t UTF-8"),
        ("v.vec", gzip.compress("a 1 2\n".encode("utf-16"), mtime=0), "got UTF-16; convert it"),
        ("v.txt", "a 1 2\nb 3 4\n".encode("utf-16-le"), "line 1: expected text in UTF-8, got a NUL byte"),
        ("v.txt", b"a 1 2\nb\0c 3 4\n", "line 2: expected text in UTF-8, got a NUL byte"),
        ("v.bin", binary([b"a", b"b\0c"]), "no word in the place of word 1"),
    ],
)
def test_e15_e16_e17_files_that_are_not_what_they_say_are_refused(
    name: str, data: bytes, message: str, tmp_path: Path, capsys: Capture
) -> None:
    assert exported(tmp_path, name, data) == 1
    said = capsys.readouterr().err
    assert any(part in said for part in message.split("|")), said
    assert not (tmp_path / "v.tkc").exists()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("v.txt", b"\xef\xbb\xbfa 1 2\nb 3 4\n"), ("v.txt", b"a 1 2\r\nb 3 4\r\n"), ("v.txt", b"a\t1\t2\nb\t3\t4\n"),
        ("v.txt", b"2 2\na 1 2\nb 3 4\n\n\n"), ("v.txt", gzip.compress(b"a 1 2\nb 3 4\n", mtime=0)),
        ("v.txt.gz", gzip.compress(b"2 2\na 1 2\nb 3 4\n", mtime=0)), ("v.vec", b"2 2 \na 1 2 \nb 3 4 \n"),
        ("v.bin", b"2 2\na " + np.float32([1, 2]).tobytes() + b"b " + np.float32([3, 4]).tobytes()),
    ],
)  # fmt: skip
def test_e17_files_as_other_systems_write_them_are_read(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    found = read(tmp_path / name)
    assert found.words == ["a", "b"] and found.vectors.tolist() == [[1, 2], [3, 4]]


def test_e18_words_may_have_spaces(tmp_path: Path, capsys: Capture) -> None:
    data = b". . . 1 2 3\nat name@domain.com 4 5 6\nking 7 8 9\n"
    assert exported(tmp_path, "glove.txt", data) == 0
    words = [". . .", "at name@domain.com", "king"]
    assert embeddings.load(tmp_path / "v.tkc").index_to_key == words
    capsys.readouterr()
    for name in ("v.txt", "v.bin"):
        assert export_embeddings.main([f"input={tmp_path / 'v.tkc'}", f"output={tmp_path / name}"]) == 1
        assert "expected words without spaces" in capsys.readouterr().err and not (tmp_path / name).exists()
    assert export_embeddings.main([f"input={tmp_path / 'v.tkc'}", f"output={tmp_path / 'v.kv'}"]) == 0
    assert KeyedVectors.load(str(tmp_path / "v.kv")).index_to_key == words


def test_e18_words_may_end_in_numbers(tmp_path: Path) -> None:
    ends = ["route 66", "area 51", "king", "1", "nan", "to infinity", "queen", "top 10 of 1999", "man", "woman"]
    body = "".join(f"{word} {i} 0.5 {i}e-3\n" for i, word in enumerate(ends))
    for name, text in (("glove.txt", body), ("headed.txt", f"{len(ends)} 3\n{body}")):
        (tmp_path / name).write_text(text)
        found = read(tmp_path / name)
        assert found.words == ends and found.vectors[:, 0].tolist() == list(range(len(ends)))


def test_e18_words_of_all_kinds_with_nul_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"row 1: .*, got a word with a tab, a line end, NUL or the like"):
        check(["a", "b\0"], torch.ones(2, 2))
    (tmp_path / "t.txt").write_bytes("some words of a text".encode("utf-16-le"))
    with pytest.raises(ValueError, match="a NUL byte, as in UTF-16"):
        list(corpus(tmp_path / "t.txt").sentences())
    (tmp_path / "c.txt").write_bytes("a 3".encode("utf-16"))
    with pytest.raises(ValueError, match="got UTF-16; convert it"):
        read_counts(tmp_path / "c.txt")


def test_e19_words_that_are_cut_inside_a_letter_are_replaced_or_left_out(tmp_path: Path, capsys: Capture) -> None:
    for name, data in (("v.txt", b"caf\xc3 1 2\nb 3 4\n"), ("v.bin", binary([b"caf\xc3", b"b"]))):
        for errors, words in (("replace", ["caf\ufffd", "b"]), ("skip", ["b"])):
            assert exported(tmp_path, name, data, f"errors={errors}", "overwrite=true") == 0
            assert embeddings.load(tmp_path / "v.tkc").index_to_key == words
            said = "left out: 1 words that are not UTF-8, by errors=skip\n" if errors == "skip" else ""
            assert capsys.readouterr().err == said
        assert exported(tmp_path, name, data, "overwrite=true") == 1
        assert "expected text in UTF-8" in capsys.readouterr().err
    assert exported(tmp_path, "v.txt", b"a 1 2\n", "errors=ignore", "overwrite=true") == 1
    assert "expected errors= to be one of strict, replace, skip" in capsys.readouterr().err


# F. Errors of libraries do not reach the user.


class Named:
    """Pickled, a call of what a module names: numpy and gensim import much that runs programs."""

    def __init__(self, module: str, name: str, *arguments: Any) -> None:
        self.call = module, name, arguments

    def pickled(self) -> bytes:
        module, name, arguments = self.call
        data = b"\x80\x04" + b"".join(b"\x8c" + bytes([len(x)]) + x.encode() for x in (module, name)) + b"\x93("
        return data + b"".join(b"\x8c" + bytes([len(x)]) + x.encode() for x in arguments) + b"tR."


@pytest.mark.parametrize(
    "call",
    [
        Named("gensim.models.word2vec", "os.system", "touch pwned"), Named("numpy", "memmap", "pwned"),
        Named("gensim.models.keyedvectors", "utils.unpickle", "pwned"),
        Named("gensim.models.word2vec", "Word2Vec.load", "pwned"),
    ],
)  # fmt: skip
def test_f20_a_pickle_that_names_more_than_vectors_need_runs_nothing(
    call: Named, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exported(tmp_path, "v.kv", call.pickled()) == 1
    assert "which no vectors need: do not trust it" in capsys.readouterr().err and not Path("pwned").exists()


def test_f20_files_beside_a_pickle_are_no_pickles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    keyed = KeyedVectors(2)
    keyed.add_vectors(["a", "b"], np.eye(2, dtype=np.float32))
    for attribute in ("__scipys", "__numpys"):
        setattr(keyed, attribute, ["evil"])
        Path("v.kv.evil.npy").write_bytes(pickle.dumps(Harmful()))
        assert exported(tmp_path, "v.kv", pickle.dumps(keyed)) == 1
        assert "expected vectors that gensim saved" in capsys.readouterr().err and not Path("pwned").exists()
        delattr(keyed, attribute)
    keyed.save("large.kv", sep_limit=1)  # as gensim saves large ones: arrays beside it
    assert Path("large.kv.vectors.npy").is_file()
    assert read("large.kv").vectors.tolist() == [[1, 0], [0, 1]]


def test_f20_models_that_gensim_trained_are_read(tmp_path: Path) -> None:
    from gensim.models import FastText, Word2Vec

    text = [["a", "b", "c", "d"]] * 50
    for kind in (Word2Vec, FastText):
        model = kind(text, vector_size=4, min_count=1, seed=1, workers=1)
        model.save(str(tmp_path / "m.model"))
        found = read(tmp_path / "m.model")
        assert sorted(found.words) == ["a", "b", "c", "d"]
        np.testing.assert_allclose(found.vectors.numpy(), model.wv.vectors[:4], rtol=1e-5)


class Harmful:
    def __reduce__(self) -> Any:
        return os.system, ("touch pwned",)


def test_f20_files_of_gensim_that_are_none_are_one_line_and_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    keyed = KeyedVectors(2)
    keyed.add_vectors(["a", "b"], np.eye(2, dtype=np.float32))
    keyed.save("good.kv")
    cases = {
        "junk": b"junk", "empty": b"", "cut": Path("good.kv").read_bytes()[:-20], "dict": pickle.dumps({"a": 1}),
        "harmful": pickle.dumps(Harmful()),
    }  # fmt: skip
    for name, data in cases.items():
        assert exported(tmp_path, f"{name}.kv", data) == 1, name
        said = capsys.readouterr().err
        assert "expected vectors that gensim saved" in said and said.count("\n") == 1, said
    assert not Path("pwned").exists()
    assert exported(tmp_path, "again.kv", Path("good.kv").read_bytes()) == 0
    numbers = KeyedVectors(2)
    numbers.add_vectors([3, 4], np.eye(2, dtype=np.float32))
    numbers.save("numbers.kv")
    capsys.readouterr()
    assert exported(tmp_path, "numbers.kv", Path("numbers.kv").read_bytes(), "overwrite=true") == 1
    assert "expected words, got keys such as 3; make them text" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["/my photos/a=b (1)/~x", "it's here", "C:\\x y", "a,b", "[x", "${x}y", ""])
def test_f21_values_are_quoted_where_hydra_wants_it(value: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    [argument] = quoted([f"data.splits.path={value}"])
    found = OverridesParser.create().parse_override(argument)
    if value not in ("a,b", "${x}y"):  # which Hydra has meanings for
        assert str(found.value()) == value
    assert quoted(["--help", "+trainer.x=1", "minutes=3"]) == ["--help", "+trainer.x=1", "minutes=3"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hydra.run.dir=/proc/nowhere/x"], "give a folder for the run that can be made: hydra.run.dir=FOLDER"),
        (["minuts=3"], "minuts"),
        (["recipe=nothing"], "nothing"),
        (["data=folder", "data.splits.path=/my photos/(1)"], "/my photos/(1)"),
    ],
)
def test_f21_mistakes_in_training_are_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "toolkit.train", *arguments], capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1 and message in done.stderr, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_f22_no_message_says_how_to_switch_safety_off(run: Path, tmp_path: Path, capsys: Capture) -> None:
    torch.save(Harmful(), tmp_path / "x.pt")
    assert pack(run, tmp_path / "x.pt", tmp_path / "x.tkc") == 1
    other = run_folder(tmp_path / "other", (1, 8, 8))
    torch.save(Harmful(), other / "model.pt")
    assert pack(other, picture(tmp_path / "a.png"), tmp_path / "x.tkc") == 1
    said = capsys.readouterr().err
    assert said.count("it holds more than tensors") == 2 and "weights_only" not in said


# G. Names.


def test_g23_a_name_that_could_not_be_restored_is_refused_at_once(run: Path, tmp_path: Path, capsys: Capture) -> None:
    good, bad = "a" * 240 + ".bmp", "b" * 245 + ".bmp"
    picture(tmp_path / "in" / good, 16, 16)
    assert pack(run, tmp_path / "in", tmp_path / "x.tkc") == 0
    assert unpack(run, tmp_path / "x.tkc", tmp_path / "out") == 0
    picture(tmp_path / "in" / bad, 16, 16)
    refused(
        lambda: pack(run, tmp_path / "in", tmp_path / "y.tkc"), tmp_path, "expected names of at most 247 bytes", capsys
    )


@pytest.mark.parametrize("name", ["con.png", "Aux .b.png", "conin$.png", "com¹.png"])
def test_g23_a_picture_that_windows_takes_for_a_device_is_refused_or_left_out(
    name: str, run: Path, tmp_path: Path, capsys: Capture
) -> None:
    for each in (name, "console.png"):
        picture(tmp_path / "in" / each)
    refused(lambda: pack(run, tmp_path / "in", tmp_path / "x.tkc"), tmp_path, "a device on Windows; do: rename", capsys)
    assert pack(run, tmp_path / "in", tmp_path / "x.tkc", "on_bad=skip") == 0
    assert f"{name}: cannot be coded: expected a relative path" in capsys.readouterr().err
    assert unpack(run, tmp_path / "x.tkc", tmp_path / "out") == 0
    assert files_of(tmp_path / "out") == {"console.png"}


def test_g23_a_link_to_nothing_and_a_folder_are_told_apart(run: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "x.tkc").symlink_to(tmp_path / "nowhere/y.tkc")
    message = f"got a link to {tmp_path / 'nowhere/y.tkc'}, which is not there; remove the link"
    file = picture(tmp_path / "a.png")
    refused(lambda: pack(run, file, tmp_path / "x.tkc"), tmp_path, message, capsys)
    (tmp_path / "v.txt").mkdir()
    os.mkfifo(tmp_path / "pipe.txt")
    for name, what in (
        ("v.txt", "v.txt: expected a folder of model2vec"), ("pipe.txt", "pipe.txt, which is no regular file; check"),
        ("w.txt", "w.txt, which is not there; check"),
    ):  # fmt: skip
        command = [f"input={tmp_path / name}", f"output={tmp_path / 'v.tkc'}", "lambda=1"]
        refused(lambda: export_embeddings.main(command), tmp_path, what, capsys)  # noqa: B023


def test_g24_a_png_keeps_its_name_beside_others_and_either_name_is_found(
    run: Path, tmp_path: Path, capsys: Capture
) -> None:
    for name in ("a.jpg", "a.png", "b.bmp"):
        picture(tmp_path / "in" / name, 16, 16)
    assert pack(run, tmp_path / "in", tmp_path / "x.tkc", "jpeg=pixels") == 0
    assert unpack(run, tmp_path / "x.tkc", tmp_path / "out") == 0
    assert files_of(tmp_path / "out") == {"a.png", "a.jpg.png", "b.png"}
    assert "note: a.jpg -> a.jpg.png, as another has its name\n" in capsys.readouterr().err
    pairs = {"a.jpg": "a.jpg.png", "a.jpg.png": "a.jpg.png", "a.png": "a.png", "b.png": "b.png"}
    for i, (only, name) in enumerate(pairs.items()):
        folder = tmp_path / f"one{i}"
        assert unpack(run, tmp_path / "x.tkc", folder, f"only={only}") == 0
        assert files_of(folder) == {name}


def test_g25_one_picture_is_restored_as_the_file_that_is_named(run: Path, tmp_path: Path, capsys: Capture) -> None:
    picture(tmp_path / "in/a.png")
    assert pack(run, tmp_path / "in", tmp_path / "one.tkc") == 0
    picture(tmp_path / "in/b.png")
    assert pack(run, tmp_path / "in", tmp_path / "two.tkc") == 0
    assert unpack(run, tmp_path / "one.tkc", tmp_path / "one.png") == 0
    assert np.array_equal(read_image(tmp_path / "one.png"), read_image(tmp_path / "in/a.png"))
    message = "expected a new folder for the 2 pictures of the file, got the name of one"
    refused(lambda: unpack(run, tmp_path / "two.tkc", tmp_path / "two.png"), tmp_path, message, capsys)
    message = "expected a name that ends in .png, or a folder"
    refused(lambda: unpack(run, tmp_path / "two.tkc", tmp_path / "b.jpg", "only=b.png"), tmp_path, message, capsys)
    assert unpack(run, tmp_path / "two.tkc", tmp_path / "two.png", "only=b.png") == 0
    assert np.array_equal(read_image(tmp_path / "two.png"), read_image(tmp_path / "in/b.png"))
    refused(lambda: unpack(run, tmp_path / "one.tkc", tmp_path / "two.png"), tmp_path, "overwrite=true", capsys)


# H. Text, units, pipes.


def test_h26_no_word_has_white_space_of_any_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.data.text.LONGEST", 3)
    odd = ["\x0c", "\u2028", "\t", "\x85", "\u00a0", "  "]
    (tmp_path / "t").write_text(
        "".join(f"w{i}{space}" for i, space in enumerate(odd * 9)), encoding="utf-8", newline=""
    )
    tokens = [token for sentence in corpus(tmp_path / "t").sentences() for token in sentence]
    assert tokens == [f"w{i}" for i in range(9 * len(odd))]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5mb", 5e6), ("5MB", 5e6), ("5MiB", 5 * 2**20), ("5 mib", 5 * 2**20), ("10GB", 1e10), ("1.5kB", 1500),
        ("2KiB", 2048), ("7", 7), ("7B", 7), ("3k", 3000),
    ],
)  # fmt: skip
def test_h27_units_mean_what_they_say(text: str, size: float) -> None:
    assert goal_of({"target_size": text}) == ("target_size", size)


@pytest.mark.parametrize("text", ["5XB", "MB", "-5MB", "5M B", "nan"])
def test_h27_units_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected target_size= a number above 0"):
        goal_of({"target_size": text})


def test_h28_a_compiler_that_cannot_work_is_one_line(tmp_path: Path) -> None:
    from toolkit.training.trainer import _explained

    class BackendCompilerFailed(RuntimeError):
        __module__ = "torch._dynamo.exc"

    with pytest.raises(ValueError, match="TORCHINDUCTOR_CACHE_DIR name a folder that can be written"), _explained():
        raise BackendCompilerFailed("read-only file system")
    with pytest.raises(RuntimeError, match="other"), _explained():
        raise RuntimeError("other")


def piped(
    main: Any, data: bytes, monkeypatch: pytest.MonkeyPatch, capsys: Capture, *arguments: str
) -> tuple[int, bytes, str]:
    """A command's status, and what it wrote to standard output and said, given data on standard input."""
    out = io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
        patch.setattr(sys, "__stdout__", SimpleNamespace(buffer=out))
        capsys.readouterr()
        status = main(list(arguments))
    said = "".join(capsys.readouterr())
    assert tempfile.gettempdir() not in said and "allow_pickle" not in said, said
    return status, out.getvalue(), said


def test_h30_messages_name_standard_input_and_output(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    given = []
    for values in (noise(3, 8, 8), np.array([{}], object)):
        buffer = io.BytesIO()
        np.save(buffer, values, allow_pickle=True)
        given.append(buffer.getvalue())
    here = f"run={os.path.relpath(run)}"
    status, packed, said = piped(compress.main, given[0], monkeypatch, capsys, here, "input=-", "output=-")
    assert status == 0 and "3 pictures, 192 values -> standard output: " in said
    for junk in (given[1], b"junk", b""):
        status, _, said = piped(compress.main, junk, monkeypatch, capsys, here, "input=-", "output=x.tkc")
        assert status == 1 and said.startswith("error: standard input: expected a .npy file")
        assert junk == given[1] or f"got {'something that begins with' if junk else 'nothing'}" in said
    status, _, said = piped(compress.main, 2 * given[0], monkeypatch, capsys, here, "input=-", "output=x.tkc")
    assert status == 1 and said.startswith("error: standard input: expected a .npy file")
    assert f"({len(given[0])} bytes follow its first array; one array a file)" in said
    status, out, said = piped(decompress.main, packed, monkeypatch, capsys, here, "input=-", "output=-")
    assert status == 0 and out == given[0] and said.endswith("3 pictures restored to standard output\n")
    status, _, said = piped(decompress.main, packed[:-9], monkeypatch, capsys, here, "input=-", "output=-")
    assert status == 1 and said.startswith("error: standard input: expected ")
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full_disk)
        status, out, said = piped(decompress.main, packed, patch, capsys, here, "input=-", "output=-")
    assert status == 1 and out == b"" and said.endswith("error: No space left on device\n")
    for data, status in ((packed, 0), (packed[:-9], 1)):
        for flag in ("json=false", "json=true"):
            found, _, said = piped(inspect.main, data, monkeypatch, capsys, "input=-", flag)
            assert found == status and "standard input" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["input", "output", "counts"])
def test_h30_vectors_do_not_go_through_pipes(key: str, tmp_path: Path, capsys: Capture) -> None:
    given = {"input": str(tmp_path / "v.txt"), "output": str(tmp_path / "v.tkc"), "lambda": "1", key: "-"}
    command = [f"{name}={value}" for name, value in given.items()]
    message = f"expected {key}= to name a file, got -, which has no ending to tell its kind"
    refused(lambda: export_embeddings.main(command), tmp_path, message, capsys)


def test_f22_numpy_does_not_say_how_to_run_pickles(tmp_path: Path, capsys: Capture) -> None:
    for values in (pickle.dumps([1]), b""):
        (tmp_path / "x.npy").write_bytes(values)
        with pytest.raises(ValueError, match=r"x.npy: expected a .npy file of a uint8 array") as error:
            images.array(tmp_path / "x.npy")
        assert "pickle" not in str(error.value)
    keyed = KeyedVectors(2)
    keyed.add_vectors(["a", "b"], np.eye(2, dtype=np.float32))
    keyed.save(str(tmp_path / "v.kv"), sep_limit=1)
    (tmp_path / "v.kv.vectors.npy").write_bytes(pickle.dumps([1]))
    with pytest.raises(ValueError, match="expected vectors that gensim saved") as error:
        read(tmp_path / "v.kv")
    assert "pickle" not in str(error.value)


def test_h30_arrays_and_files_go_through_pipes(run: Path, tmp_path: Path) -> None:
    values = noise(3, 8, 8)
    buffer = io.BytesIO()
    np.save(buffer, values)
    command = [sys.executable, "-m"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    packed = subprocess.run(
        [*command, "toolkit.compress", f"run={run}", "input=-", "output=-"], input=buffer.getvalue(), cwd=tmp_path,
        capture_output=True, check=True, env=environment,
    )  # fmt: skip
    assert packed.stdout.startswith(container.MAGIC) and b"3 pictures" in packed.stderr
    back = subprocess.run(
        [*command, "toolkit.decompress", f"run={run}", "input=-", "output=-"], input=packed.stdout, cwd=tmp_path,
        capture_output=True, check=True, env=environment,
    )  # fmt: skip
    assert np.array_equal(np.load(io.BytesIO(back.stdout)), values)
    assert list(tmp_path.iterdir()) == []
