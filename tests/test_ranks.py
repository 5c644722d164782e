"""Work dealt over processes: the same bytes for any number of them, and all end when one is killed."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests import many
from tests.archives import files_of, noise, pack, unpack
from tests.many import several
from tests.tiny import configure, picture_run
from toolkit import compress, ranks, zoo
from toolkit.chunks.chained import Coder
from toolkit.runs import build, save

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests/golden"


def test_results_come_in_their_order_and_few_jobs_are_held() -> None:
    held, most, lock = 0, 0, threading.Lock()

    def task(i: int) -> int:
        time.sleep(0.002 * (i % 3 == 0))
        return i

    def jobs() -> Iterator[tuple[int, int]]:
        nonlocal held, most
        for i in range(20):
            with lock:
                held, most = held + 1, max(most, held + 1)
            yield 1, i

    found = []
    for result in ranks.ordered(task, jobs(), 3):
        found.append(result)
        held -= 1
    assert found == list(range(20))
    assert most == 4  # three of them, and one that waits


def test_large_jobs_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "MOST_AHEAD", 10)
    running, most, lock = 0, 0, threading.Lock()

    def task(values: int) -> int:
        nonlocal running, most
        with lock:
            running += values
            most = max(most, running)
        time.sleep(0.005)
        with lock:
            running -= values
        return values

    sizes = [4, 4, 4, 9, 30, 1, 2, 3, 4]
    assert list(ranks.ordered(task, ((size, size) for size in sizes), 8)) == sizes
    assert most == 30  # alone, and not with the one beside it


def test_an_error_comes_in_its_place_and_ends_the_rest() -> None:
    done = []

    def task(i: int) -> int:
        if i == 3:
            raise ValueError("three")
        done.append(i)
        return i

    results = ranks.ordered(task, ((1, i) for i in range(50)), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert set(done) <= {0, 1, 2, 4, 5}


# Files


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of seven small pictures, the first of which takes longest."""
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(7):
        Image.fromarray(noise(40 if i else 90, 8 + i, 3)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def models(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small model of each recipe that makes files of pictures, by recipe."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    cfg = configure("local", "recipe.module.width=8", "recipe.module.blocks=1", "recipe.module.components=2")
    save(folder / "local", cfg, build(cfg, folder / "local")[0].module)
    found = {recipe: GOLDEN / f"{recipe}_v4" for recipe in ("ikvae", "vae_lossless", "vae")}
    whole = picture_run(folder / "whole")
    return {
        **found,
        "bitswap": runs["rgb"],
        "photographs": whole,
        "local": folder / "local",
        "any_rate": zoo.find("any-rate"),
    }


@pytest.fixture(scope="module")
def whole(models: dict[str, Path]) -> Path:
    return models["photographs"]


def test_every_recipe_has_a_model_here(models: dict[str, Path]) -> None:
    recipes = {path.stem for path in (ROOT / "configs/recipe").glob("*.yaml")}
    assert recipes == models.keys() | {"word_embeddings"}  # whose command refuses several processes: see below


@pytest.mark.parametrize("recipe", ["any_rate", "bitswap", "ikvae", "local", "photographs", "vae", "vae_lossless"])
def test_any_number_of_processes_writes_the_same_file_and_restores_it(
    recipe: str, models: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    lossy, rows = recipe in ("any_rate", "vae"), recipe not in ("any_rate", "photographs", "vae")
    given = [f"run={models[recipe]}", *["lambda=16"] * lossy, *["chunk_rows=7"] * rows, "device=cpu", str(pictures)]
    one, many = tmp_path / "one.tkc", tmp_path / "many.tkc"
    assert compress.main([*given, str(one)]) == 0
    for count in (2, 4):
        done = several(count, "compress", *given, str(many), "overwrite=true", logs=tmp_path / "logs")
        assert done.status == [0] * count, done.err
        assert many.read_bytes() == one.read_bytes()
        assert "7 pictures" in done.out[0] and not any(done.out[1:]) and not any(done.err[1:])
    given = [f"run={models[recipe]}", str(many), str(tmp_path / "back"), "device=cpu"]
    done = several(2, "decompress", *given, logs=tmp_path / "logs")
    assert done.status == [0, 0], done.err
    expected = tmp_path / "expected" if lossy else pictures
    assert not lossy or unpack(models[recipe], one, expected) == 0
    for name in (names := files_of(pictures)):
        with Image.open(expected / name) as before, Image.open(tmp_path / "back" / name) as after:
            assert before.tobytes() == after.tobytes()
    made = {"one.tkc", "many.tkc", "back", "logs", *["expected"] * lossy}
    assert files_of(tmp_path / "back") == names and {*os.listdir(tmp_path)} == made


def spread(rank: int) -> None:
    """Each rank writes its number beside each chunk that it codes, and takes a while for it."""
    encode = Coder.encode

    def told(self: Coder, *given: Any, **options: Any) -> Any:
        print("coded", file=sys.stderr, flush=True)
        time.sleep(0.1)
        return encode(self, *given, **options)

    Coder.encode = told  # type: ignore[method-assign]


def test_each_process_codes_its_share(runs: dict[str, Path], pictures: Path, tmp_path: Path) -> None:
    given = [f"run={runs['rgb']}", str(pictures), str(tmp_path / "x.tkc"), "chunk_rows=20", "device=cpu"]
    done = several(2, "compress", *given, sabotage="tests.test_ranks:spread", logs=tmp_path / "logs")
    shares = [text.count("coded") for text in done.err]
    assert done.status == [0, 0] and sum(shares) == 4 and min(shares) > 0


def killed(rank: int, who: int) -> None:
    """Rank `who` is killed at its second chunk, when the others have hours of work before them."""
    encode, calls = Coder.encode, [0]

    def slow(self: Coder, *given: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] > 1 and rank == who:
            time.sleep(0.5)
            print(time.time(), flush=True, file=sys.__stdout__)
            os.kill(os.getpid(), signal.SIGKILL)
        if calls[0] > 1:
            time.sleep(7200)
        return encode(self, *given, **options)

    Coder.encode = slow  # type: ignore[method-assign]


def first_is_killed(rank: int) -> None:
    killed(rank, 0)


def last_is_killed(rank: int) -> None:
    killed(rank, 2)


@pytest.mark.parametrize(("who", "sabotage"), [(0, first_is_killed), (2, last_is_killed)])
def test_when_a_process_is_killed_all_end_and_no_file_is_left(
    who: int, sabotage: Any, runs: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    given = [f"run={runs['rgb']}", str(pictures), str(tmp_path / "x.tkc"), "chunk_rows=7", "device=cpu"]
    done = several(3, "compress", *given, sabotage=f"tests.test_ranks:{sabotage.__name__}", logs=tmp_path / "logs")
    assert done.at - float(done.out[who]) < 30
    assert done.status[who] == -signal.SIGKILL and 1 in done.status
    said = [line for text in done.err for line in text.splitlines() if line.startswith("error:")]
    assert len(said) == 1 and f"got the end of rank {who}, which was killed or failed" in said[0]
    assert os.listdir(tmp_path) == ["logs"]


def bad_third(rank: int) -> None:
    encode = Coder.encode

    def failing(self: Coder, rows: Any, *given: Any, **options: Any) -> Any:
        if rank == 1:
            raise ValueError("a chunk of rank 1")
        time.sleep(0.2)
        return encode(self, rows, *given, **options)

    Coder.encode = failing  # type: ignore[method-assign]


def test_an_error_of_another_process_is_told_by_the_first(
    runs: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    given = [f"run={runs['rgb']}", str(pictures), str(tmp_path / "x.tkc"), "chunk_rows=7", "device=cpu"]
    done = several(2, "compress", *given, sabotage="tests.test_ranks:bad_third", logs=tmp_path / "logs")
    assert done.status[0] == 1 and "error: a chunk of rank 1\n" in done.err[0]
    assert done.err[1] == "" and os.listdir(tmp_path) == ["logs"]


class TooLarge:
    """A payload for which there is no memory where it is sent, or where it is received."""

    def __init__(self, sent: bool) -> None:
        self.sent = sent

    def __reduce__(self) -> Any:
        if not self.sent:
            raise MemoryError("to send it")
        return no_memory, ()


def no_memory() -> None:
    raise MemoryError("to receive it")


def coded_too_large(rank: int, sent: bool) -> None:
    encode = Coder.encode

    def large(self: Coder, *given: Any, **options: Any) -> Any:
        return (TooLarge(sent), None) if rank else encode(self, *given, **options)

    Coder.encode = large  # type: ignore[method-assign]


def cannot_be_sent(rank: int) -> None:
    coded_too_large(rank, False)


def cannot_be_received(rank: int) -> None:
    coded_too_large(rank, True)


@pytest.mark.parametrize(
    ("sabotage", "first", "second"),
    [
        (cannot_be_sent, "error: expected 2 processes until the work is done, got the end of rank 1", "rank 1: Memory"),
        (cannot_be_received, "error: not enough memory (to receive it); free some", ""),
    ],
)
def test_a_result_that_does_not_reach_the_first_process_ends_all(
    sabotage: Any, first: str, second: str, runs: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    given = [f"run={runs['rgb']}", str(pictures), str(tmp_path / "x.tkc"), "chunk_rows=7", "device=cpu"]
    done = several(2, "compress", *given, sabotage=f"tests.test_ranks:{sabotage.__name__}", logs=tmp_path / "logs")
    assert done.status[0] == 1 and first in done.err[0] and second in done.err[1]
    assert os.listdir(tmp_path) == ["logs"]


def other_effort(rank: int) -> None:
    """Ranks are given different arguments."""
    main = compress.main
    compress.main = lambda argv: main([*argv, f"effort={rank}"])


def test_processes_that_do_not_agree_are_refused(whole: Path, pictures: Path, tmp_path: Path) -> None:
    given = [f"run={whole}", str(pictures), str(tmp_path / "x.tkc")]
    done = several(2, "compress", *given, sabotage="tests.test_ranks:other_effort", logs=tmp_path / "logs")
    message = "error: expected the same input, model, options and library versions for all processes, got others for "
    assert done.status[0] == 1 and message + "rank 1; make them the same on all machines" in done.err[0]
    assert os.listdir(tmp_path) == ["logs"]


def other_picture(rank: int) -> None:
    """Rank 1 finds another picture of the same name and size."""
    given = compress.source

    def found(*arguments: Any) -> Any:
        origin = given(*arguments)
        return origin._replace(sizes=[size + rank for size in origin.sizes])

    compress.source = found


@pytest.mark.parametrize("recipe", ["any_rate", "bitswap", "photographs"])
def test_processes_with_other_pictures_of_the_same_names_are_refused(
    recipe: str, models: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    given = [f"run={models[recipe]}", *["lambda=16"] * (recipe == "any_rate"), str(pictures), str(tmp_path / "x.tkc")]
    done = several(2, "compress", *given, sabotage="tests.test_ranks:other_picture", logs=tmp_path / "logs")
    assert done.status[0] == 1 and "error: expected the same input" in done.err[0]
    assert os.listdir(tmp_path) == ["logs"]


def test_a_process_that_waits_for_one_that_never_comes_ends_at_once(whole: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        port = taken.getsockname()[1]
    given = ["compress", [f"run={whole}", "x.png", str(tmp_path / "x.tkc")], None, tmp_path]
    process: Any = many.CONTEXT.Process(target=many._one, args=(0, 2, port, *given))
    process.start()
    while process.is_alive():  # until it listens for the other one
        with contextlib.suppress(OSError), socket.create_connection(("localhost", port)):
            break
        time.sleep(0.1)
    time.sleep(1)
    process.terminate()
    process.join(20)
    process.kill()
    assert process.exitcode == -signal.SIGTERM


@pytest.mark.parametrize("fault", ["missing.png", "-"])
def test_a_mistake_is_told_once(fault: str, whole: Path, tmp_path: Path) -> None:
    done = several(2, "compress", f"run={whole}", fault, str(tmp_path / "x.tkc"), logs=tmp_path / "logs")
    assert done.status[0] == 1 and done.err[0].count("error:") == 1 and done.err[1] == done.out[1] == ""
    text = "expected files, as torchrun started several processes, got -" if fault == "-" else "missing.png"
    assert text in done.err[0] and os.listdir(tmp_path) == ["logs"]


def test_torchrun_starts_them(whole: Path, pictures: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "toolkit.compress"]
    done = subprocess.run(
        [*torchrun, f"run={whole}", str(pictures), str(tmp_path / "many.tkc")],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert pack(whole, pictures, tmp_path / "one.tkc") == 0
    assert (tmp_path / "many.tkc").read_bytes() == (tmp_path / "one.tkc").read_bytes()
    assert done.stdout.count("7 pictures") == 1


@pytest.mark.parametrize("command", ["evaluate", "export_embeddings"])
def test_a_command_that_has_no_work_for_several_processes_refuses_them(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert import_module(f"toolkit.{command}").main(["run=x", *["output=x.tkc"] * (command != "evaluate")]) == 1
    assert "error: expected one process for this command, got 2 from torchrun; start it" in capsys.readouterr().err
