"""Whole pictures: the model that learns while it codes, its training, its files, and every refusal."""

import gc
import io
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import open_dict
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recipes.photographs import Photographs
from tests.archives import RESTORED, files_of, noise, pack, pixels, refused, rewritten, unpack
from tests.tiny import images, photographs, picture_run
from toolkit import compress, evaluate, inspect
from toolkit.chunks.model import fingerprint
from toolkit.container import Reader
from toolkit.data import pictures as data
from toolkit.heads.pictures import coded
from toolkit.images import picture_archive
from toolkit.images.files import read_image
from toolkit.photographs import codec, colours, experts
from toolkit.runs import load, save
from toolkit.train import train
from toolkit.training.evaluation import RoundTripError

Capture = pytest.CaptureFixture[str]
SIZES = {"a.png": (8, 8), "b.png": (20, 8, 3), "c.png": (8, 8), "deep/d.png": (16, 16), "e.png": (9, 17)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return picture_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five pictures."""
    folder = tmp_path_factory.mktemp("five")
    (folder / "deep").mkdir()
    for name, shape in SIZES.items():
        Image.fromarray(noise(*shape)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def packed_five(run: Path, five: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "five.tkc"
    assert pack(run, five, path) == 0
    return path


def restored(folder: Path, source: Path, *names: str) -> bool:
    return all(np.array_equal(pixels(folder / name), pixels(source / name)) for name in names)


# The model


def test_what_the_experts_know_comes_back_in_its_shapes_and_dtypes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3).T, "b": np.array(7, np.int64),
        "c": np.zeros((0, 3), np.uint8), "d": np.array([1, 2**16 - 1], np.uint16),
        "e": np.array([[True]]), "f": np.array([-1e300]), "g": np.full((2, 1, 2), -5, np.int16),
    }  # fmt: skip
    state["f"].flags.writeable = False
    monkeypatch.setattr(codec, "initial", lambda: {name: np.zeros_like(values) for name, values in state.items()})
    module = Photographs((3,))
    zeros = fingerprint(module, {})
    module.net.state = state
    cfg = photographs()
    cfg.recipe.module.shape = [3]
    save(tmp_path / "run", cfg, module)
    found: Any = load(tmp_path / "run", "cpu").module
    assert found.net.state.keys() == state.keys()
    for name, values in state.items():
        assert found.net.state[name].dtype == values.dtype and np.array_equal(found.net.state[name], values), name
    assert fingerprint(found, {}) == fingerprint(module, {}) != zeros


def test_what_it_learns_is_no_matter_of_the_arrays_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    first = codec.initial()
    monkeypatch.setattr(codec, "initial", lambda: first)
    module = Photographs((3,))
    before = {name: values.copy() for name, values in first.items()}
    module.net.state, _ = codec.learn(noise(3, 9, 8), module.net.state)
    assert all(np.array_equal(first[name], before[name]) for name in first)
    assert any(not np.array_equal(module.net.state[name], before[name]) for name in before)


def test_bits_are_those_of_the_payload_of_each_picture() -> None:
    module, x = Photographs((3,)), images(3, (3, 9, 9))[..., :7].contiguous()
    bits = module.bits(x)
    assert bits.tolist() == [8 * len(module.encode(picture)) for picture in x.numpy()]
    for picture, size in zip(x.numpy(), bits.tolist(), strict=True):
        payload = module.encode(picture)
        assert 8 * len(payload) == size
        assert np.array_equal(module.decode(payload, picture.shape), picture)


# Training


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Corners of the embedded photographs."""
    whole = data.whole
    monkeypatch.setattr(data, "whole", lambda photo: whole(photo)[:, :40, :56].contiguous())


@pytest.mark.training
def test_it_trains_evaluates_and_codes(small: None, five: Path, tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "run"
    run.mkdir()
    figures = train(photographs("epochs=2", "trainer.accelerator=cpu"), run)
    text = capsys.readouterr().out
    for part in (
        "photographs: 8 pictures to train on, 1 to validate, 1 to test", "1 held-out photograph, decoded equal", "PNG",
        "WebP", "this model, file", "<--", "encode:", "MB/s", "toolkit.compress run=", "effort=2",
        "toolkit.train recipe=photographs data.folder=",
    ):  # fmt: skip
        assert part in text, part
    assert 0 < figures["payload_bpd"] < figures["file_bpd"]
    with Reader(run / "test.tkc") as reader:
        assert figures["file_bpd"] == 8 * reader.size / (3 * 40 * 56)
    board = EventAccumulator(str(run), {"images": 0, "scalars": 0}).Reload()
    assert set(board.Tags()["images"]) == {"validation/rate", "images/original"}
    names = {
        "train/bpd", "validation/bpd", "validation/file_bpd", "validation/speed/encode_MB_per_s",
        "validation/speed/decode_MB_per_s", "epoch",
    }  # fmt: skip
    assert names == set(board.Tags()["scalars"])
    assert [point.step for point in board.Scalars("validation/file_bpd")] == [8 - 1, 16 - 1]
    saved = torch.load(run / "model.pt", weights_only=True)
    best = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    assert saved.keys() == best["state_dict"].keys()
    assert all(torch.equal(saved[name], best["state_dict"][name]) for name in saved)

    assert pack(run, five, tmp_path / "x.tkc") == 0
    assert unpack(run, tmp_path / "x.tkc", tmp_path / "back") == 0
    assert files_of(tmp_path / "back") == set(SIZES) and restored(tmp_path / "back", five, *SIZES)
    capsys.readouterr()
    assert inspect.main([f"input={tmp_path / 'x.tkc'}"]) == 0
    assert "decodes to the same pixels on every machine" in capsys.readouterr().out
    assert evaluate.main([f"run={run}"]) == 0
    assert "1 picture, effort 1, decoded equal" in (run / "evaluation.txt").read_text()
    assert (run / "evaluation.png").stat().st_size > 10_000


@pytest.mark.training
def test_a_training_that_goes_on_knows_what_it_has_learnt(
    small: None, five: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes] = []
    learn = codec.learn

    def counted(picture: np.ndarray, state: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], float]:
        seen.append(picture.tobytes())
        return learn(picture, state)

    monkeypatch.setattr(codec, "learn", counted)
    run, cfg = tmp_path / "run", photographs(f"data.folder={five}", "max_steps=3", "trainer.accelerator=cpu")
    run.mkdir()
    train(cfg, run)
    assert len(seen) == 3
    first = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    with open_dict(cfg):
        cfg.max_steps, cfg.resume = 7, str(run)
    train(cfg, run)
    last = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert len(seen) == 7 and (first["global_step"], last["global_step"]) == (3, 7)
    state = codec.initial()
    for values in seen:
        state, _ = learn(np.frombuffer(values, np.uint8).reshape(shape_of(five, values)), state)
    found = {name.removeprefix("net."): values.numpy() for name, values in last["state_dict"].items()}
    assert found.keys() == state.keys()
    assert all(np.array_equal(found[name], state[name]) for name in state)


def shape_of(folder: Path, data: bytes) -> tuple[int, ...]:
    [shape] = {found.shape for name in SIZES if (found := read_image(folder / name)).tobytes() == data}
    return shape


@pytest.mark.parametrize("override", ["trainer.precision=bf16-true", "trainer.precision=64-true"])
def test_a_precision_that_changes_what_is_known_is_refused(override: str, small: None, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected trainer\.devices=1 and trainer\.precision=32-true, got 1 and"):
        train(photographs("epochs=1", "trainer.accelerator=cpu", override), tmp_path)


def test_an_effort_of_the_configuration_that_is_none_is_refused(small: None, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected effort to be one of 0, 1, 2, got '3'"):
        train(photographs("recipe.head.effort=3"), tmp_path)


@pytest.mark.parametrize("broken", ["other pixels", "an error"])
def test_a_broken_codec_is_an_error_that_names_the_file(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(self: Photographs, data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
        if broken == "an error":
            raise ValueError("expected another payload")
        return np.zeros(shape, np.uint8)

    monkeypatch.setattr(Photographs, "decode", decode)
    with pytest.raises(RoundTripError, match=r"round trip failed: .*the file is kept as .*bug in the recipe's codec"):
        coded(Photographs((3,)), [images(1)[0].numpy()], 1, tmp_path / "v.tkc")
    assert (tmp_path / "v.tkc").exists()


def test_all_loops_are_loaded_before_speeds_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    met, before = set[Any](), set[Any]()
    loop, rows, timed = experts.loop, colours._rows, picture_archive.compress
    monkeypatch.setattr(experts, "loop", lambda *given: met.add(given[:2]) or loop(*given))
    monkeypatch.setattr(colours, "_rows", lambda *given: met.add("few colours") or rows(*given))
    monkeypatch.setattr(picture_archive, "compress", lambda *given, **more: before.update(met) or timed(*given, **more))
    monkeypatch.setattr(codec, "PATCH", (8, 8))  # so that even this small one is looked at by effort 0
    monkeypatch.setattr(codec, "PATCHED", 1)
    flat = np.zeros((1, 9, 9), np.uint8)
    coded(Photographs((3,)), [flat, noise(3, 40, 40)], 1, tmp_path / "v.tkc")
    assert len(met) == 5 and met == before


# Files


@pytest.mark.parametrize("effort", ["0", "1", "2"])
def test_a_mixed_folder_comes_back(effort: str, run: Path, photos: Path, tmp_path: Path, capsys: Capture) -> None:
    assert pack(run, photos, tmp_path / "x.tkc", f"effort={effort}", "jpeg=pixels") == 0
    shown = capsys.readouterr()
    assert "7 pictures, 1174 values -> " in shown.out and "notes.txt: not an image" in shown.err
    assert unpack(run, tmp_path / "x.tkc", tmp_path / "back") == 0
    assert files_of(tmp_path / "back") == set(RESTORED.values())
    for name, made in RESTORED.items():
        assert np.array_equal(pixels(tmp_path / "back" / made), pixels(photos / name)), name
    with Reader(tmp_path / "x.tkc") as reader:
        assert reader.header["kind"] == "pictures" and reader.header["values"] == 1174
        assert [chunk.rows for chunk in reader.chunks] == [1] * 7


def test_the_effort_of_a_run_is_taken_where_none_is_asked_for(five: Path, tmp_path: Path) -> None:
    cfg = photographs("recipe.head.effort=2")
    cfg.recipe.module.shape = [3]
    save(tmp_path / "run", cfg, Photographs((3,)))
    for name, more in {"run's": [], "2": ["effort=2"], "0": ["effort=0"]}.items():
        assert pack(tmp_path / "run", five, tmp_path / f"{name}.tkc", *more) == 0
    of_run, two, zero = ((tmp_path / f"{name}.tkc").read_bytes() for name in ("run's", "2", "0"))
    assert of_run == two != zero


def test_a_file_is_decoded_by_what_the_experts_know_and_no_setting(
    run: Path, five: Path, packed_five: Path, tmp_path: Path, capsys: Capture
) -> None:
    cfg = photographs("recipe.head.effort=0", "minutes=9")
    cfg.recipe.module.shape = [1]
    save(tmp_path / "same", cfg, Photographs((1,)))
    assert unpack(tmp_path / "same", packed_five, tmp_path / "back") == 0
    assert restored(tmp_path / "back", five, *SIZES)
    picture_run(tmp_path / "other", images(1, (3, 8, 8))[0])
    capsys.readouterr()
    command = lambda: unpack(tmp_path / "other", packed_five, tmp_path / "out")  # noqa: E731
    refused(command, tmp_path, "expected a file of the model photographs", capsys)


def test_one_picture_is_decoded_alone(
    run: Path, five: Path, packed_five: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = interrupted(monkeypatch, 99)
    assert unpack(run, packed_five, tmp_path / "one", "only=deep/d.png") == 0
    assert files_of(tmp_path / "one") == {"deep/d.png"} and restored(tmp_path / "one", five, "deep/d.png")
    assert unpack(run, packed_five, tmp_path / "b.png", "only=b.png") == 0
    assert np.array_equal(pixels(tmp_path / "b.png"), pixels(five / "b.png"))
    assert later == [(1, 16, 16), (3, 20, 8)]


def test_what_is_not_damaged_comes_back(
    run: Path, five: Path, packed_five: Path, tmp_path: Path, capsys: Capture
) -> None:
    content, bad = bytearray(packed_five.read_bytes()), tmp_path / "bad.tkc"
    with Reader(packed_five) as reader:
        for i in (1, 3):
            content[reader.chunks[i].offset + 3] ^= 16
        end = reader.chunks[2].offset + 5
    bad.write_bytes(content)
    refused(lambda: unpack(run, bad, tmp_path / "back"), tmp_path, "expected chunk 1 intact", capsys)
    assert unpack(run, bad, tmp_path / "back", "on_damage=skip") == 2
    shown = capsys.readouterr()
    assert files_of(tmp_path / "back") == {"a.png", "c.png", "e.png"}
    assert restored(tmp_path / "back", five, "a.png", "c.png", "e.png")
    assert "lost: b.png\nlost: deep/d.png\n" in shown.err and shown.err.count("damage:") == 2
    assert "3 pictures restored to" in shown.out and "; 2 lost, 0 in part" in shown.out

    bad.write_bytes(packed_five.read_bytes()[:end])
    refused(lambda: unpack(run, bad, tmp_path / "cut"), tmp_path, "cut short", capsys)
    assert unpack(run, bad, tmp_path / "cut", "on_damage=skip") == 2
    assert files_of(tmp_path / "cut") == {"a.png", "b.png"} and restored(tmp_path / "cut", five, "a.png", "b.png")


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another recipe": (lambda h: h.update(recipe="vae"), "expected a file of the model photographs"),
    "another kind": (lambda h: h.update(kind="images"), "expected kind pictures, got 'images'"),
    "no items": (lambda h: h.pop("items"), "KeyError: 'items'"),
    "items that are a number": (lambda h: h.update(items=7), "expected items that fit the file"),
    "broken items": (lambda h: h["items"][0].pop(), "expected items that fit the file"),
    "fewer pictures": (lambda h: h["items"].pop(), "4 pictures in 5 chunks"),
    "more pictures": (lambda h: h["items"].append(["f.png", "L", 1, 1]), "6 pictures in 5 chunks"),
    "another mode": (lambda h: h["items"][0].__setitem__(1, "CMYK"), "expected a name, a mode and two sizes"),
    "a mode of more channels": (lambda h: h["items"][0].__setitem__(1, "RGBA"), "chunk 0 of 5 d"),
    "no height": (lambda h: h["items"][0].__setitem__(2, 0), "expected a name, a mode and two sizes"),
    "an unsafe name": (lambda h: h["items"][0].__setitem__(0, "../out.png"), "unsafe name '../out.png'"),
    "a long name": (lambda h: h["items"][0].__setitem__(0, "x" * 256 + ".png"), "expected names of at most 255 bytes"),
    "a name twice": (lambda h: h["items"][0].__setitem__(0, "b.png"), "expected names that differ"),
    "a larger picture": (lambda h: h["items"][0].__setitem__(2, 9), "chunk 0 of 5 d"),
    "a picture of all memory": (lambda h: h["items"][0].__setitem__(2, 2**30), "values in a file of"),
    "pictures of all memory": (lambda h: [i.__setitem__(2, 2**25) for i in h["items"]], "values in a file of"),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGES)
def test_a_sound_file_that_says_something_else_is_refused(
    case: str, run: Path, packed_five: Path, tmp_path: Path, capsys: Capture
) -> None:
    change, message = CHANGES[case]
    bad = rewritten(packed_five, tmp_path / "bad.tkc", change)
    refused(lambda: unpack(run, bad, tmp_path / "back"), tmp_path, message, capsys)


def test_pixels_of_another_checksum_are_refused(run: Path, packed_five: Path, tmp_path: Path, capsys: Capture) -> None:
    bad = rewritten(packed_five, tmp_path / "bad.tkc", lambda header: None, rows_crc=1)
    message = "chunk 0 of 5 decodes to other pixels than were encoded"
    refused(lambda: unpack(run, bad, tmp_path / "back"), tmp_path, message, capsys)


def test_what_it_cannot_code_is_refused(run: Path, five: Path, tmp_path: Path, capsys: Capture) -> None:
    Image.new("F", (8, 8)).save(tmp_path / "a.tif")
    np.save(tmp_path / "x.npy", noise(3, 8, 8))
    for source, more, message in (
        (tmp_path / "a.tif", (), "expected 8 bits a value"),
        (tmp_path / "x.npy", (), "expected pictures for a model of whole ones, got an array"),
        (five, ("effort=3",), "expected effort to be one of 0, 1, 2, got '3'"),
        (five, ("chunk_rows=4",), "expected no chunk_rows= for a model of photographs, which takes effort="),
    ):
        refused(partial(pack, run, source, tmp_path / "y.tkc", *more), tmp_path, message, capsys)
    assert evaluate.main([f"run={run}", "effort=fast"]) == 1
    assert "expected effort to be one of 0, 1, 2, got 'fast'" in capsys.readouterr().err


def test_more_than_a_reader_would_take_is_refused(
    run: Path, five: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(picture_archive, "MOST_VALUES", 300)
    message = "b.png: expected at most 300 values, got 480; cut it into parts"
    refused(lambda: pack(run, five, tmp_path / "y.tkc"), tmp_path, message, capsys)
    monkeypatch.undo()
    monkeypatch.setattr(picture_archive, "CHEAPEST", 0.1)
    refused(lambda: pack(run, five, tmp_path / "y.tkc"), tmp_path, "which a reader would not believe", capsys)


def test_a_picture_that_the_codec_refuses_is_named(
    run: Path, five: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def encode(self: Photographs, picture: np.ndarray, effort: int) -> bytes:
        raise ValueError("expected another picture")

    monkeypatch.setattr(Photographs, "encode", encode)
    refused(lambda: pack(run, five, tmp_path / "y.tkc"), tmp_path, "a.png: expected another picture", capsys)


def test_a_picture_that_changes_meanwhile_is_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    Image.fromarray(noise(8, 8)).save(tmp_path / "a.png")
    look = compress.source

    def changed(*arguments: Any) -> Any:
        found = look(*arguments)
        Image.fromarray(noise(8, 9)).save(tmp_path / "a.png")
        return found

    monkeypatch.setattr(compress, "source", changed)
    assert pack(run, tmp_path / "a.png", tmp_path / "y.tkc") == 1
    assert "a.png: changed while it was compressed" in capsys.readouterr().err and os.listdir(tmp_path) == ["a.png"]


# Interruptions


def interrupted(monkeypatch: pytest.MonkeyPatch, after: int) -> list[tuple[int, ...]]:
    """Let decoding stop at picture number `after`, once; returns a list that gets the shapes of what is decoded."""
    decode, done, armed = Photographs.decode, list[tuple[int, ...]](), [True]

    def counted(self: Photographs, data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
        done.append(shape)
        if armed[0] and len(done) > after:
            armed[0] = False
            raise KeyboardInterrupt
        return decode(self, data, shape)

    monkeypatch.setattr(Photographs, "decode", counted)
    return done


def test_an_interrupted_decompress_goes_on(
    run: Path, five: Path, packed_five: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(picture_archive, "processors", lambda: 1)  # so that none is decoded that is not needed yet
    done = interrupted(monkeypatch, 3)
    assert unpack(run, packed_five, tmp_path / "back") == 130
    assert "error: interrupted; give the same command again" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["back.partial"]
    left = tmp_path / "back.partial/result"
    assert files_of(left) == {"a.png", "b.png", "c.png"}
    Image.fromarray(noise(8, 8)).save(left / "c.png")  # somebody has changed it
    done.clear()
    assert unpack(run, packed_five, tmp_path / "back") == 0
    assert sorted(done) == [(1, 8, 8), (1, 9, 17), (1, 16, 16)]
    assert os.listdir(tmp_path) == ["back"] and restored(tmp_path / "back", five, *SIZES)


def test_an_interrupted_compress_leaves_nothing(
    run: Path, five: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, calls = Photographs.encode, [0]

    def third(self: Photographs, picture: np.ndarray, effort: int) -> bytes:
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        return encode(self, picture, effort)

    monkeypatch.setattr(Photographs, "encode", third)
    assert pack(run, five, tmp_path / "x.tkc") == 130
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("processors", [1, 4])
@pytest.mark.parametrize("few_colours", [False, True])
@pytest.mark.parametrize("decoding", [False, True])
def test_ctrl_c_ends_the_coding_of_a_large_picture_at_once(
    decoding: bool, few_colours: bool, processors: int, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (picture_archive, codec):
        monkeypatch.setattr(module, "processors", lambda: processors)
    monkeypatch.setattr(codec, "MOST_PIXELS", 8000)  # of a tile: two at a time, if there are as many processors
    monkeypatch.setattr(colours, "STRIP", 64 * 8)
    picture = np.zeros((640, 64, 3), np.uint8) if few_colours else noise(640, 64, 3)
    Image.fromarray(picture).save(tmp_path / "a.png")
    work = partial(pack, run, tmp_path / "a.png", tmp_path / "a.tkc")
    if decoding:
        assert work() == 0
        (tmp_path / "a.png").unlink()
        work = partial(unpack, run, tmp_path / "a.tkc", tmp_path / "b")
    there, calls, others = os.listdir(tmp_path), [0], threading.enumerate()

    def slow(loop: Callable[..., Any], *given: Any) -> Any:
        calls[0] += 1
        if calls[0] == 5:
            os.kill(os.getpid(), signal.SIGINT)  # which the main thread meets while it waits
        if calls[0] >= 5:
            time.sleep(0.05)
        return loop(*given)

    monkeypatch.setattr(colours, "_rows", partial(slow, colours._rows))
    monkeypatch.setattr(experts, "loop", partial(slow, experts.loop))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        assert work() == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert 5 <= calls[0] < 40  # of 80 or 126
    for thread in threading.enumerate():
        if "ThreadPool" in thread.name and thread not in others:
            thread.join(5)
            assert not thread.is_alive()
    assert sorted(os.listdir(tmp_path)) == sorted([*there, "b.partial"] if decoding else there)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "ppm"])
def test_one_picture_goes_through_pipes(
    suffix: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    picture, given, out = noise(9, 8, 3), io.BytesIO(), io.BytesIO()
    Image.fromarray(picture).save(given, {"tif": "tiff"}.get(suffix, suffix), lossless=True)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(given.getvalue())))
    assert pack(run, Path("-"), tmp_path / "a.tkc") == 0
    assert unpack(run, tmp_path / "a.tkc", tmp_path / "back") == 0
    assert np.array_equal(pixels(tmp_path / "back/input.png"), picture)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO((tmp_path / "a.tkc").read_bytes())))
    monkeypatch.setattr(sys, "__stdout__", SimpleNamespace(buffer=out))
    assert unpack(run, Path("-"), Path("-")) == 0
    assert np.array_equal(np.array(Image.open(out)), picture)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(given.getvalue()[:40])))
    capsys.readouterr()
    assert pack(run, Path("-"), tmp_path / "b.tkc") == 1
    assert capsys.readouterr().err.startswith("error: standard input: expected ")


def workers() -> int:
    """Threads of pools."""
    return sum("ThreadPoolExecutor" in thread.name for thread in threading.enumerate())


@pytest.mark.parametrize("end", ["done", "refused", "interrupted", "full disk"])
def test_no_thread_outlives_a_command(
    end: str, run: Path, packed_five: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = packed_five
    if end == "refused":
        file = rewritten(file, tmp_path / "bad.tkc", lambda header: None, rows_crc=1)
    if end == "interrupted":
        interrupted(monkeypatch, 1)
    if end == "full disk":
        monkeypatch.setattr("toolkit.images.files.write_image", full_disk)
    before = workers()
    gc.disable()  # which would find them later
    try:
        assert unpack(run, file, tmp_path / "back") == {"done": 0, "interrupted": 130}.get(end, 1)
        assert workers() == before
    finally:
        gc.enable()


def full_disk(*_: Any) -> Any:
    raise OSError(28, "No space left on device")


# Measuring


def test_evaluate_leaves_out_what_compress_does_and_says_so(
    run: Path, five: Path, tmp_path: Path, capsys: Capture
) -> None:
    folder = tmp_path / "in"
    shutil.copytree(five, folder)
    Image.fromarray(noise(16, 16, 3)).save(folder / "f.jpg")
    arguments = [f"run={run}", f"pictures={folder}", "effort=0"]
    assert evaluate.main(arguments) == 2
    said = capsys.readouterr()
    assert said.out.startswith("5 pictures, effort 0") and f"left out: {folder / 'f.jpg'}: a JPEG file" in said.err
    assert said.err.splitlines()[-1].startswith("1 of 6 pictures left out, listed above; exit status 2, as nothing")
    assert evaluate.main([*arguments, "jpeg=pixels"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("6 pictures, effort 0") and "left out" not in said.err
    (folder / "g.png").write_bytes(b"text")
    refused(lambda: evaluate.main(arguments), tmp_path, "g.png: expected an image that can be read", capsys)
    assert evaluate.main([*arguments, "jpeg=skip", "on_bad=skip"]) == 0
    assert capsys.readouterr().err.endswith("\n2 of 7 pictures left out, listed above\n")


@pytest.mark.parametrize("option", ["jpeg=pixels", "on_bad=skip"])
def test_evaluate_refuses_options_of_pictures_without_any(option: str, run: Path, capsys: Capture) -> None:
    message = f"expected {option.split('=')[0]}= with pictures=, got none; give a folder of pictures, or leave it out"
    refused(lambda: evaluate.main([f"run={run}", option]), run, message, capsys)


def test_evaluate_shows_each_picture_of_a_folder_beside_other_codecs(
    run: Path, five: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evaluate.main([f"run={run}", f"pictures={five}", "effort=2"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("5 pictures, effort 2, decoded equal; bits per dimension of file bytes:\n")
    rates = {name.strip(): float(rate) for name, rate in re.findall(r"^  (.*?) {2,}([\d.]+)(?:  <--)?$", text, re.M)}
    table = text.partition("\n\n")[2].splitlines()
    assert table[0].split() == ["this", "model", "PNG", "WebP", *(["JPEG", "XL"] if "JPEG XL" in rates else [])]
    values = [np.prod(shape) for shape in SIZES.values()]
    assert [line.split()[0] for line in table[1:]] == ["a.png", "b.png", "c.png", "deep/d.png", "e.png"]
    for column, name in enumerate(["this model, file", "PNG", "WebP"], 1):
        shown = [float(line.split()[column]) for line in table[1:]]
        assert np.dot(shown, values) / sum(values) == pytest.approx(rates[name], abs=1e-3)
    with Reader(run / "evaluation.tkc") as reader:
        assert rates["this model, file"] == pytest.approx(8 * reader.size / sum(values), abs=1e-4)
