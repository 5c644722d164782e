"""toolkit.decompress of damaged files and after interruptions: what is sound comes back, nothing else is touched."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.archives import files_of, noise, pack, pixels, refused, unpack
from tests.tiny import run_folder
from toolkit.chunks.chained import Coder
from toolkit.container import Reader

SIZES = {"a.png": (8, 8), "b.png": (20, 8), "c.png": (8, 8), "deep/d.png": (16, 16), "e.png": (9, 17)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_folder(tmp_path_factory.mktemp("runs") / "grey", (1, 8, 8))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows in alphabetical order: a 0, b 1 2 3, c 4, d 5 6 7 8, e 9 to 14."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "deep").mkdir()
    for name, size in SIZES.items():
        Image.fromarray(noise(*size)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def packed(run: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In chunks of rows 0 1 2, 3 4 5, 6 7 8, 9 10 11, 12 13 14."""
    path = tmp_path_factory.mktemp("packed") / "photos.tkc"
    assert pack(run, photos, path, "chunk_rows=3") == 0
    with Reader(path) as reader:
        assert [item[0] for item in reader.header["items"]] == ["a.png", "b.png", "c.png", "deep/d.png", "e.png"]
        assert len(reader.chunks) == 5
    return path


def flipped(packed: Path, path: Path, *chunks: int, header: bool = False) -> Path:
    """A copy with one wrong bit in each of some chunks, or in their headers."""
    data = bytearray(packed.read_bytes())
    with Reader(packed) as reader:
        for i in chunks:
            data[reader.chunks[i].offset - (20 if header else -3)] ^= 16
    path.write_bytes(data)
    return path


def restored(folder: Path, photos: Path, *names: str) -> bool:
    return all(np.array_equal(pixels(folder / name), pixels(photos / name)) for name in names)


# Damage


@pytest.mark.parametrize("header", [False, True])
def test_what_is_in_sound_chunks_comes_back(
    header: bool, run: Path, photos: Path, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = flipped(packed, tmp_path / "bad.tkc", 1, header=header)
    assert unpack(run, bad, tmp_path / "back", "on_damage=skip") == 2
    shown = capsys.readouterr()
    assert files_of(tmp_path / "back") == {"a.png", "b.damaged.png", "deep/d.damaged.png", "e.png"}
    assert restored(tmp_path / "back", photos, "a.png", "e.png")
    b, whole = pixels(tmp_path / "back/b.damaged.png"), pixels(photos / "b.png")
    assert np.array_equal(b[:16], whole[:16]) and (b[16:] == 128).all()
    assert "lost: c.png\n" in shown.err and "lost in part: b.png -> b.damaged.png\n" in shown.err
    assert "chunk 1 intact" in shown.err and shown.err.count("damage:") == 1
    assert "2 pictures restored to" in shown.out and "; 1 lost, 2 in part" in shown.out
    assert sorted(os.listdir(tmp_path)) == ["back", "bad.tkc"]


def test_a_file_without_its_end_gives_what_it_has(
    run: Path, photos: Path, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Reader(packed) as reader:
        cuts = {4: reader.chunks[4].offset + 2, 3: reader.chunks[3].offset - 9, 0: reader.header_size}
        whole = reader.size - 1
    for left, size in {5: whole, **cuts}.items():
        (tmp_path / "bad.tkc").write_bytes(packed.read_bytes()[:size])
        out = tmp_path / f"back{left}"
        assert unpack(run, tmp_path / "bad.tkc", out, "on_damage=skip") == 2
        names = {5: list(SIZES), 4: list(SIZES)[:4], 3: list(SIZES)[:4], 0: []}[left]
        assert restored(out, photos, *names)
        assert files_of(out) == {*names, *(["e.damaged.png"] if left == 4 else [])}
        assert "cut short" in capsys.readouterr().err


def test_bytes_that_are_missing_in_one_chunk_leave_the_others(
    run: Path, photos: Path, packed: Path, tmp_path: Path
) -> None:
    with Reader(packed) as reader:
        at = reader.chunks[0].offset + 4
    data = packed.read_bytes()
    (tmp_path / "bad.tkc").write_bytes(data[:at] + data[at + 5 :])
    assert unpack(run, tmp_path / "bad.tkc", tmp_path / "back", "on_damage=skip") == 2
    assert restored(tmp_path / "back", photos, "c.png", "deep/d.png", "e.png")
    assert files_of(tmp_path / "back") == {"b.damaged.png", "c.png", "deep/d.png", "e.png"}


def test_a_sound_file_leaves_nothing_to_skip(run: Path, photos: Path, packed: Path, tmp_path: Path) -> None:
    assert unpack(run, packed, tmp_path / "back", "on_damage=skip") == 0
    assert files_of(tmp_path / "back") == set(SIZES) and restored(tmp_path / "back", photos, *SIZES)


def test_one_picture_is_lost_only_by_damage_to_its_own_chunks(
    run: Path, photos: Path, packed: Path, tmp_path: Path
) -> None:
    bad = flipped(packed, tmp_path / "bad.tkc", 1, 4)
    assert unpack(run, bad, tmp_path / "one", "on_damage=skip", "only=a.png") == 0
    assert restored(tmp_path / "one", photos, "a.png")
    assert unpack(run, bad, tmp_path / "two", "on_damage=skip", "only=c.png") == 2
    assert files_of(tmp_path / "two") == set()


def test_sound_images_of_a_damaged_array_come_back(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = noise(6, 8, 8).astype("<i4")
    np.save(tmp_path / "x.npy", values)
    assert pack(run, tmp_path / "x.npy", tmp_path / "x.tkc", "chunk_rows=2") == 0
    bad = flipped(tmp_path / "x.tkc", tmp_path / "bad.tkc", 1)
    assert unpack(run, bad, tmp_path / "y.npy", "on_damage=skip") == 2
    assert "lost: 2\nlost: 3\n" in capsys.readouterr().err
    back = np.load(tmp_path / "y.npy")
    assert np.array_equal(back[[0, 1, 4, 5]], values[[0, 1, 4, 5]]) and not back[2:4].any()


def test_a_header_that_is_damaged_cannot_be_skipped(
    run: Path, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(packed.read_bytes())
    data[40] ^= 1
    (tmp_path / "bad.tkc").write_bytes(data)
    command = lambda: unpack(run, tmp_path / "bad.tkc", tmp_path / "back", "on_damage=skip")  # noqa: E731
    refused(command, tmp_path, "expected the header intact", capsys)


def test_an_unknown_wish_for_damage_is_refused(
    run: Path, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = "expected on_damage to be one of error, skip, got 'ignore'"
    refused(lambda: unpack(run, packed, tmp_path / "back", "on_damage=ignore"), tmp_path, message, capsys)


# Interruptions


def interrupted(monkeypatch: pytest.MonkeyPatch, after: int, stop: Callable[[], None]) -> list[int]:
    """Let decoding stop after so many chunks, once; returns a list that counts what is decoded later."""
    decode, calls, later = Coder.decode, [0], list[int]()

    def counted(self: Coder, payload: bytes, valid: torch.Tensor, *options: Any) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == after + 1:
            stop()
        if calls[0] > after:
            later.append(len(valid))
        return decode(self, payload, valid, *options)

    monkeypatch.setattr(Coder, "decode", counted)
    return later


def ctrl_c() -> None:
    raise KeyboardInterrupt


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("stop", [ctrl_c, terminate])
def test_an_interrupted_decompress_goes_on(
    stop: Callable[[], None], run: Path, photos: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    later = interrupted(monkeypatch, 3, stop)
    if stop is ctrl_c:
        assert unpack(run, packed, tmp_path / "back") == 130
        assert "error: interrupted; give the same command again" in capsys.readouterr().err
    else:
        with pytest.raises(SystemExit) as ended:
            unpack(run, packed, tmp_path / "back")
        assert ended.value.code == 143
    assert os.listdir(tmp_path) == ["back.partial"]
    later.clear()
    assert unpack(run, packed, tmp_path / "back") == 0
    assert later == [3, 3], "chunks whose pictures were there were decoded again"
    assert os.listdir(tmp_path) == ["back"]
    assert files_of(tmp_path / "back") == set(SIZES) and restored(tmp_path / "back", photos, *SIZES)


def test_pictures_that_an_interruption_or_somebody_changed_are_decoded_again(
    run: Path, photos: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(monkeypatch, 3, ctrl_c)
    assert unpack(run, packed, tmp_path / "back") == 130
    left = tmp_path / "back.partial/result"
    (left / "a.png").write_bytes((left / "a.png").read_bytes()[:60])
    Image.fromarray(noise(8, 8)).save(left / "c.png")
    (left / "deep/d.png").unlink()
    assert unpack(run, packed, tmp_path / "back") == 0
    assert restored(tmp_path / "back", photos, *SIZES)


def test_an_interrupted_array_goes_on(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = noise(9, 8, 8).astype("<u2")
    np.save(tmp_path / "x.npy", values)
    assert pack(run, tmp_path / "x.npy", tmp_path / "x.tkc", "chunk_rows=2") == 0
    later = interrupted(monkeypatch, 3, ctrl_c)
    assert unpack(run, tmp_path / "x.tkc", tmp_path / "y.npy") == 130
    assert sorted(os.listdir(tmp_path)) == ["x.npy", "x.tkc", "y.npy.partial"]
    later.clear()
    assert unpack(run, tmp_path / "x.tkc", tmp_path / "y.npy") == 0
    assert later == [2, 1]
    assert np.array_equal(np.load(tmp_path / "y.npy"), values)
    assert sorted(os.listdir(tmp_path)) == ["x.npy", "x.tkc", "y.npy"]


def test_what_an_interrupted_run_of_another_file_left_is_not_touched(
    run: Path, photos: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    interrupted(monkeypatch, 1, ctrl_c)
    assert unpack(run, packed, tmp_path / "back") == 130
    assert pack(run, photos / "a.png", tmp_path / "other.tkc") == 0
    message = "expected no such folder, or one that this very command left when it was interrupted"
    refused(lambda: unpack(run, tmp_path / "other.tkc", tmp_path / "back"), tmp_path, message, capsys)
    refused(lambda: unpack(run, packed, tmp_path / "back", "only=a.png"), tmp_path, message, capsys)


@pytest.mark.parametrize("kind", ["own folder", "file", "link to a folder", "link for the mark"])
def test_a_folder_of_somebody_else_is_not_touched(
    kind: str, run: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    partial = tmp_path / "back.partial"
    if kind in ("own folder", "file"):
        partial.mkdir() if kind == "own folder" else partial.write_text("mine")
        (partial / "mine.txt").write_text("mine") if kind == "own folder" else None
    else:
        interrupted(monkeypatch, 1, ctrl_c)
        assert unpack(run, packed, tmp_path / "back") == 130
        (tmp_path / "elsewhere").mkdir()
        if kind == "link to a folder":
            partial.rename(tmp_path / "elsewhere/there")
            partial.symlink_to(tmp_path / "elsewhere/there")
        else:
            (partial / "about.txt").rename(tmp_path / "elsewhere/about.txt")
            (partial / "about.txt").symlink_to(tmp_path / "elsewhere/about.txt")
    refused(lambda: unpack(run, packed, tmp_path / "back"), tmp_path, "expected no such folder", capsys)


def test_no_link_is_followed_out_of_the_folder(
    run: Path, packed: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.png").write_text("mine")
    interrupted(monkeypatch, 3, ctrl_c)
    assert unpack(run, packed, tmp_path / "back") == 130
    left = tmp_path / "back.partial/result"
    (left / "a.png").unlink()
    (left / "a.png").symlink_to(outside / "a.png")
    (left / "e.png").symlink_to(outside / "e.png")
    (tmp_path / "back.partial/picture.png").symlink_to(outside / "picture.png")
    assert unpack(run, packed, tmp_path / "back") == 0
    assert os.listdir(outside) == ["a.png"] and (outside / "a.png").read_text() == "mine"
    assert restored(tmp_path / "back", photos, *SIZES)
    assert not any(path.is_symlink() for path in (tmp_path / "back").rglob("*"))

    interrupted(monkeypatch, 3, ctrl_c)
    assert unpack(run, packed, tmp_path / "again") == 130
    left = tmp_path / "again.partial/result"
    (left / "deep/d.png").unlink()
    (left / "deep").rmdir()
    (left / "deep").symlink_to(outside)
    assert unpack(run, packed, tmp_path / "again") == 1
    assert "expected a folder of this command, got a link" in capsys.readouterr().err
    assert os.listdir(outside) == ["a.png"]


@pytest.mark.parametrize("stop", [ctrl_c, terminate])
def test_an_interrupted_compress_leaves_nothing(
    stop: Callable[[], None], run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, calls = Coder.encode, [0]

    def second(self: Coder, *args: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2:
            assert len(os.listdir(tmp_path)) == 1
            stop()
        return encode(self, *args, **options)

    monkeypatch.setattr(Coder, "encode", second)
    if stop is ctrl_c:
        assert pack(run, photos, tmp_path / "x.tkc", "chunk_rows=3") == 130
    else:
        with pytest.raises(SystemExit):
            pack(run, photos, tmp_path / "x.tkc", "chunk_rows=3")
    assert calls[0] == 2 and os.listdir(tmp_path) == []
