"""Places: files at URLs are read by the parts that are needed, written whole or not at all; errors say what to do."""

import gc
import io
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from gensim.models import KeyedVectors
from PIL import Image
from torch.utils.data import DataLoader

from tests.archives import noise, pixels
from tests.places import Counting, clean_memory, serve
from tests.tiny import picture_run, run_folder
from toolkit import compress, decompress, evaluate, export_embeddings, inspect, make_exact, places, train, zoo
from toolkit.container import CHUNK_HEADER_SIZE, Reader, TruncatedFile, Writer
from toolkit.data import TkcDataset, images
from toolkit.training import overrides

fsspec.register_implementation("counting", Counting, clobber=True)


@pytest.fixture(autouse=True)
def nothing_there() -> Iterator[None]:
    Counting.empty()
    clean_memory()
    yield
    Counting.empty()
    clean_memory()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures, one of them in a sub-folder, and a file that is no picture."""
    made = tmp_path_factory.mktemp("pictures")
    (made / "deep").mkdir()
    Image.fromarray(noise(24, 32, 3)).save(made / "a.png")
    Image.fromarray(noise(40, 20, 3)).save(made / "b.png")
    Image.fromarray(noise(9, 9)).save(made / "deep/c.png")
    (made / "notes.txt").write_text("no picture")
    return made


@pytest.fixture(scope="module")
def packed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "photos.tkc"
    assert compress.main([str(folder), str(path)]) == 0
    return path


def upload(folder: Path, url: str) -> None:
    fs, inner = fsspec.core.url_to_fs(url)
    for path in folder.rglob("*"):
        if path.is_file():
            fs.pipe_file(f"{inner}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def expected_of_one(packed: Path, i: int) -> int:
    """Bytes of header, trailer, index and chunk i."""
    with Reader(packed) as reader:
        last = reader.chunks[-1]
        rest = reader.size - (last.offset + last.size)
        return reader.header_size + rest + CHUNK_HEADER_SIZE + reader.chunks[i].size


def test_one_picture_of_a_remote_file_costs_its_header_its_index_and_its_chunk(packed: Path, tmp_path: Path) -> None:
    Counting.objects["bucket/photos.tkc"] = packed.read_bytes()
    assert decompress.main(["counting://bucket/photos.tkc", str(tmp_path / "b.png"), "only=b.png"]) == 0
    assert sum(end - start for start, end in Counting.asked) == expected_of_one(packed, 1)
    assert len(Counting.asked) == 5  # preamble, header, trailer, index, chunk
    assert len({*Counting.asked}) == 5


def test_one_picture_over_http_costs_as_much(packed: Path, tmp_path: Path) -> None:
    with serve(packed.parent) as served:
        assert decompress.main([f"{served.url}/photos.tkc", str(tmp_path / "c.png"), "only=deep/c.png"]) == 0
    assert sum(end - start for start, end in served.ranges) == expected_of_one(packed, 2)
    assert len(served.ranges) == 5 and served.heads == 1


def test_pictures_arrays_and_runs_go_to_urls_and_back(folder: Path, tmp_path: Path, capsys: Any) -> None:
    upload(folder, "memory://bucket/photos")
    upload(zoo.FOLDER / zoo.DEFAULT, "memory://bucket/model")
    run = "run=memory://bucket/model"
    assert compress.main(["memory://bucket/photos", "memory://bucket/x/photos.tkc", run]) == 0
    said = capsys.readouterr()
    assert "-> memory://bucket/x/photos.tkc: " in said.out
    assert "left out: memory://bucket/photos/notes.txt: not an image" in said.err
    local = tmp_path / "local.tkc"
    assert compress.main([str(folder), str(local)]) == 0
    assert MemoryFileSystem().cat_file("/bucket/x/photos.tkc") == local.read_bytes()
    assert inspect.main(["memory://bucket/x/photos.tkc"]) == 0
    assert "all 3 pictures intact" in capsys.readouterr().out
    assert decompress.main(["memory://bucket/x/photos.tkc", "memory://bucket/restored", run]) == 0
    assert "restored to memory://bucket/restored" in capsys.readouterr().out
    for name in ("a.png", "b.png", "deep/c.png"):
        with Image.open(io.BytesIO(MemoryFileSystem().cat_file(f"/bucket/restored/{name}"))) as image:
            assert np.array_equal(np.asarray(image), pixels(folder / name).squeeze()) or image.mode == "L"


def test_the_figures_of_a_remote_run_are_written_beside_it(tmp_path: Path, capsys: Any) -> None:
    upload(picture_run(tmp_path / "run"), "memory://bucket/run")
    Image.fromarray(noise(24, 32, 3)).save(tmp_path / "a.png")
    upload_one(tmp_path / "a.png", "memory://bucket/photos/a.png")
    assert evaluate.main(["run=memory://bucket/run", "pictures=memory://bucket/photos", "effort=0"]) == 0
    assert "a.png" in capsys.readouterr().out
    names = {path.rpartition("/")[2] for path in MemoryFileSystem().find("/bucket/run")}
    assert {"evaluation.txt", "evaluation.png", "evaluation.tkc"} <= names


def test_an_exact_network_is_written_beside_a_remote_run(tmp_path: Path, capsys: Any) -> None:
    upload(run_folder(tmp_path / "run", (1, 8, 8)), "memory://bucket/run")
    assert make_exact.main(["run=memory://bucket/run"]) == 0
    assert "memory://bucket/run/exact.pt: files of this run now decode on any machine" in capsys.readouterr().out
    assert make_exact.main([f"run={tmp_path / 'run'}"]) == 0
    assert MemoryFileSystem().cat_file("/bucket/run/exact.pt") == (tmp_path / "run/exact.pt").read_bytes()
    assert make_exact.main(["run=https://host/run"]) == 1
    assert "expected a place that can be written, got a web server" in capsys.readouterr().err


def test_vectors_go_to_urls_and_back(tmp_path: Path, capsys: Any) -> None:
    lines = [f"w{i} {' '.join(f'{np.sin(i * j):.3f}' for j in range(1, 9))}" for i in range(40)]
    (tmp_path / "v.txt").write_text("\n".join(["40 8", *lines, ""]))
    (tmp_path / "counts.txt").write_text("".join(f"w{i} {90 - i}\n" for i in range(40)))
    local = [f"input={tmp_path / 'v.txt'}", f"counts={tmp_path / 'counts.txt'}", f"output={tmp_path / 'v.tkc'}"]
    assert export_embeddings.main([*local, "bits_per_dim=16"]) == 0
    for name in ("v.txt", "counts.txt"):
        upload_one(tmp_path / name, f"memory://bucket/{name}")
    remote = ["input=memory://bucket/v.txt", "counts=memory://bucket/counts.txt", "output=memory://bucket/v.tkc"]
    assert export_embeddings.main([*remote, "bits_per_dim=16"]) == 0
    assert MemoryFileSystem().cat_file("/bucket/v.tkc") == (tmp_path / "v.tkc").read_bytes()
    assert export_embeddings.main([*remote, "bits_per_dim=16"]) == 1
    assert "memory://bucket/v.tkc: expected a new file, got one that exists" in capsys.readouterr().err
    assert export_embeddings.main(["input=memory://bucket/v.tkc", "output=memory://bucket/back.txt"]) == 0
    assert MemoryFileSystem().cat_file("/bucket/back.txt").startswith(b"40 8\nw0 ")


def test_arrays_that_gensim_saved_beside_its_file_come_with_it(tmp_path: Path, capsys: Any) -> None:
    keyed = KeyedVectors(8)
    keyed.add_vectors([f"w{i}" for i in range(40)], np.sin(np.arange(320.0)).reshape(40, 8).astype(np.float32))
    keyed.save(str(tmp_path / "v.kv"), sep_limit=1)
    assert (tmp_path / "v.kv.vectors.npy").is_file()
    assert export_embeddings.main([str(tmp_path / "v.kv"), str(tmp_path / "v.tkc"), "bits_per_dim=16"]) == 0
    upload(tmp_path, "memory://bucket/v")
    MemoryFileSystem().pipe_file("/bucket/v/v.kvs", b"another file")
    given = ["memory://bucket/v/v.kv", str(tmp_path / "w.tkc"), "bits_per_dim=16"]
    assert export_embeddings.main(given) == 0
    assert (tmp_path / "w.tkc").read_bytes() == (tmp_path / "v.tkc").read_bytes()
    MemoryFileSystem().rm_file("/bucket/v/v.kv.vectors.npy")
    assert export_embeddings.main([*given, "overwrite=true"]) == 1
    said = capsys.readouterr().err
    assert "memory://bucket/v/v.kv: expected the files that gensim saved beside it, got no v.kv.vectors.npy" in said


def upload_one(file: Path, url: str) -> None:
    fs, inner = fsspec.core.url_to_fs(url)
    fs.pipe_file(inner, file.read_bytes())


def test_a_file_url_is_the_local_path(packed: Path, tmp_path: Path) -> None:
    assert inspect.main([f"file://{packed}"]) == 0
    assert decompress.main([f"file://{packed}", f"file://{tmp_path / 'back'}"]) == 0
    assert (tmp_path / "back/deep/c.png").is_file()


def test_a_damaged_remote_file_gives_what_is_left(packed: Path, tmp_path: Path, capsys: Any) -> None:
    Counting.objects["bucket/photos.tkc"] = packed.read_bytes()[:-10]
    assert inspect.main(["counting://bucket/photos.tkc"]) == 1
    assert "counting://bucket/photos.tkc: expected" in capsys.readouterr().out
    with pytest.raises(TruncatedFile, match=r"counting://bucket/photos\.tkc: expected"):
        Reader("counting://bucket/photos.tkc")
    assert decompress.main(["counting://bucket/photos.tkc", str(tmp_path / "back"), "on_damage=skip"]) == 2
    assert len([*(tmp_path / "back").rglob("*.png")]) == 3


@pytest.mark.parametrize("when", ["coding", "upload"])
def test_an_upload_is_complete_or_absent_and_what_was_there_stays(
    when: str, folder: Path, capsys: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    Counting.objects["bucket/photos.tkc"] = b"before"
    Counting.wrong["write"] = OSError("the line is cut")
    target = "counting://bucket/photos.tkc"
    if when == "coding":
        with pytest.raises(RuntimeError), Writer(target, {}) as writer:
            writer.write(b"x", 1, 0)
            raise RuntimeError
        assert not [*tmp_path.iterdir()]
    else:
        assert compress.main([str(folder), target, "overwrite=true"]) == 1
        said = capsys.readouterr().err
        assert "expected to read or write it, got OSError: the line is cut" in said and "is kept here: " in said
        kept = Path(said.partition("is kept here: ")[2].strip())
        with Reader(kept) as reader:
            assert len(reader.chunks) == 3
    assert Counting.objects == {"bucket/photos.tkc": b"before"}
    Counting.wrong.clear()
    assert compress.main([str(folder), target]) == 1  # without overwrite=true
    assert "expected a new file, got one that exists" in capsys.readouterr().err
    assert compress.main([str(folder), target, "overwrite=true"]) == 0
    assert Counting.objects["bucket/photos.tkc"][:4] == b"\x89TKC"


def test_of_a_folder_all_arrives_or_nothing(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "made").mkdir()
    for name in "ab":
        (tmp_path / "made" / name).write_bytes(b"1")
    sent, put = list[str](), Counting.put_file

    def second_fails(self: Any, source: str, target: str, **options: Any) -> None:
        if sent:
            raise PermissionError("no more")
        put(self, source, target, **options)
        sent.append(target)

    monkeypatch.setattr(Counting, "put_file", second_fails)
    with pytest.raises(OSError, match=r"expected permission, got none .*what was made is kept here"):
        places.put(tmp_path / "made", "counting://bucket/made")
    assert sent == ["bucket/made/a"] and not Counting.objects


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            FileNotFoundError("x"),
            r"photos\.tkc: expected a file, folder or bucket that exists, got none; check the URL",
        ),
        (
            PermissionError("x"),
            r"photos\.tkc: expected permission, got none \(PermissionError\); do: ask for it, or give",
        ),
        (type("NoCredentialsError", (Exception,), {})("x"), r"expected permission, got none \(NoCredentialsError\)"),
        (ImportError("install it"), r"expected the package of this kind of place, got none installed \(install it\)"),
        (ConnectionError("x"), r"expected to read or write it, got ConnectionError: x; check the network"),
    ],
)
def test_what_goes_wrong_at_a_url_says_what_to_do(error: Exception, expected: str, capsys: Any, tmp_path: Path) -> None:
    Counting.wrong["info"] = error
    for command in (
        lambda: inspect.main(["counting://bucket/photos.tkc"]),
        lambda: decompress.main(["counting://bucket/photos.tkc", str(tmp_path / "back")]),
        lambda: compress.main(["counting://bucket/photos.tkc", str(tmp_path / "x.tkc")]),
    ):
        assert command() == 1
        assert re.search(expected, capsys.readouterr().err)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("hf", "huggingface_hub")])
def test_a_missing_package_is_named(scheme: str, package: str, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    assert inspect.main([f"{scheme}://bucket/photos.tkc"]) == 1
    assert f"expected the package {package}, got none installed; do: pip install {package}" in capsys.readouterr().err


def test_a_url_of_no_known_kind_is_refused(capsys: Any) -> None:
    assert inspect.main(["nosuch://bucket/photos.tkc"]) == 1
    assert "expected a URL of a kind that fsspec knows, got nosuch://" in capsys.readouterr().err


def test_a_url_that_names_nothing_is_refused(folder: Path, capsys: Any) -> None:
    assert compress.main([str(folder), "memory://"]) == 1
    assert "expected a URL that ends in a name" in capsys.readouterr().err


def test_a_web_server_is_nothing_to_write_to(folder: Path, capsys: Any) -> None:
    assert compress.main([str(folder), "https://localhost/x.tkc"]) == 1
    assert "expected a place that can be written, got a web server" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "expected"),
    [(404, "that exists, got none"), (403, "expected permission, got none"), (500, "got ClientResponseError: 500")],
)
def test_what_a_web_server_refuses_is_said(status: int, expected: str, tmp_path: Path, capsys: Any) -> None:
    with serve(tmp_path, status=status) as served:
        assert inspect.main([f"{served.url}/photos.tkc"]) == 1
    assert expected in capsys.readouterr().err


def test_a_web_server_that_is_not_there_is_not_a_missing_file(tmp_path: Path, capsys: Any) -> None:
    with serve(tmp_path) as served:
        pass
    assert inspect.main([f"{served.url}/photos.tkc"]) == 1
    assert re.search(r"got ClientConnector\w*Error: .*; check the network, and try again", capsys.readouterr().err)


def test_a_web_server_that_fails_for_a_moment_is_asked_again(packed: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(places, "AGAIN", (0.0, 0.0))
    with serve(packed.parent) as served, Reader(f"{served.url}/{packed.name}") as reader, Reader(packed) as there:
        served.failing = 2
        assert reader.read(1) == there.read(1)
        served.failing = 3
        with pytest.raises(OSError, match="got ClientResponseError: 503"):
            reader.read(1)
        assert served.failing == 0 and reader.read(1) == there.read(1)


def test_workers_that_are_forked_leave_the_connection_of_their_parent(packed: Path) -> None:
    with serve(packed.parent) as served:
        pictures = TkcDataset(f"{served.url}/{packed.name}", transform=lambda picture: gc.collect())
        loader = DataLoader(pictures, batch_size=None, num_workers=1, multiprocessing_context="fork")
        assert len([*loader]) == 3
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(pictures[1]), daemon=True)
        thread.start()
        thread.join(30)
        assert len(found) == 1


def test_an_interrupted_download_does_not_ask_for_room(packed: Path, tmp_path: Path, capsys: Any) -> None:
    Counting.objects["bucket/photos.tkc"] = packed.read_bytes()
    read = Reader.read

    def cut(self: Reader, i: int) -> bytes:
        Counting.wrong |= {"read": ConnectionError("x")} if i else {}
        return read(self, i)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reader, "read", cut)
        assert decompress.main(["counting://bucket/photos.tkc", str(tmp_path / "back")]) == 1
    said = capsys.readouterr().err
    assert re.search(r"got ConnectionError: x; .*; what is restored is kept in \S+: give the same command again", said)
    Counting.wrong.clear()
    assert decompress.main(["counting://bucket/photos.tkc", str(tmp_path / "back")]) == 0


@pytest.mark.parametrize("ranges", [False, None])
def test_a_web_server_without_ranges_is_refused_and_nothing_is_downloaded(
    ranges: bool | None, packed: Path, capsys: Any
) -> None:
    with serve(packed.parent, ranges) as served:
        assert inspect.main([f"{served.url}/photos.tkc"]) == 1
    assert "expected a server that sends parts of a file (HTTP range requests)" in capsys.readouterr().err


def test_credentials_are_never_printed(tmp_path: Path, capsys: Any) -> None:
    with serve(tmp_path, status=403) as served:
        url = served.url.replace("://", "://user:hunter2@") + "/photos.tkc?X-Signature=hunter2"
        assert inspect.main([url]) == 1
        assert compress.main([url, str(tmp_path / "x.tkc")]) == 1
    said = "".join(capsys.readouterr())
    assert "hunter2" not in said and "http://127.0.0.1" in said
    assert "hunter2" not in str(places.named("ftp://user:p@ss@hunter2@host/x")) + places.harmless(
        "no s3://a:@hunter2@b/"
    )
    assert "hunter2" not in places.harmless("401 for https://user:hunter2@host/x?key=hunter2#hunter2, see 'a'")


def test_objects_whose_names_lead_elsewhere_are_refused(tmp_path: Path, capsys: Any) -> None:
    Counting.objects["bucket/photos/../../evil.png"] = b"x"
    assert compress.main(["counting://bucket/photos", str(tmp_path / "x.tkc")]) == 1
    assert "expected names that stay below it, got '../../evil.png'" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_training_data_may_lie_at_a_url(folder: Path, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (9, 8, 8)).astype(np.uint8)
    np.save(tmp_path / "rows.npy", rows)
    upload_one(tmp_path / "rows.npy", "memory://bucket/rows.npy")
    found = images.array("memory://bucket/rows.npy", validation_rows=2)
    assert np.array_equal(found.train.numpy()[:, 0], rows[:7])
    upload(folder, "memory://bucket/photos")
    here = images.folder(folder, size=8, train_rows=20, evaluation_rows=4)
    there = images.folder("memory://bucket/photos", size=8, train_rows=20, evaluation_rows=4)
    assert all(map(torch.equal, here[:3], there[:3])) and there.name == "photos"


def test_a_training_does_not_print_a_password(monkeypatch: Any) -> None:
    for argument in ("data=https://user:hunter2@host/rows", "https://user:hunter2@host/rows", "x='s3://a:hunter2@b"):
        monkeypatch.setattr(sys, "argv", ["train", argument])
        with pytest.raises(SystemExit, match="error: ") as caught:
            train.main()
        assert "hunter2" not in str(caught.value)


def test_a_password_does_not_get_into_the_configuration_of_a_run() -> None:
    for read in (images.array, images.folder):
        with pytest.raises(ValueError, match="expected a URL without a password or a query") as caught:
            read("https://user:hunter2@host/rows.npy")
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("argument", ["hydra.run.dir=s3://bucket/run", "resume=gs://bucket/run", "init=s3://b/run"])
def test_a_run_that_trains_is_a_local_folder(argument: str) -> None:
    with pytest.raises(ValueError, match=r"= a local folder, got .*; train in one"):
        overrides.check_local(overrides.quoted([argument]))
    overrides.check_local(overrides.quoted(["hydra.run.dir=my/run", "data.train=s3://bucket/x.tkc"]))


def test_an_existing_remote_folder_is_not_written_into(packed: Path, capsys: Any) -> None:
    MemoryFileSystem().pipe_file("/bucket/restored/a.png", b"mine")
    assert decompress.main([str(packed), "memory://bucket/restored", "overwrite=true"]) == 1
    assert "expected a new directory, got one that exists" in capsys.readouterr().err
    assert MemoryFileSystem().cat_file("/bucket/restored/a.png") == b"mine"


def test_nothing_stays_of_what_was_copied_here(packed: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    Counting.objects["bucket/photos.tkc"] = packed.read_bytes()
    assert decompress.main(["counting://bucket/photos.tkc", "memory://bucket/b.png", "only=b.png"]) == 0
    gc.collect()
    assert not [*tmp_path.iterdir()]
