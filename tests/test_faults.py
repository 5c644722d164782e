"""Every command that writes, under a full disk and killed at five moments: nothing that was there is damaged, nothing
half-written has a final name, and the same command completes when it is given again."""

import gc
import io
import os
import resource
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from gensim.models import KeyedVectors
from PIL import Image
from tqdm import tqdm

from recipes.vae import VAE
from tests.archives import noise
from tests.test_tables import model_folder
from tests.test_vae import configuration, photo
from tests.tiny import images, picture_run, run_folder
from toolkit import compress, decompress, embeddings, export_embeddings, make_exact
from toolkit.runs import save

MOMENTS = 5
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")


class Case(NamedTuple):
    """A command that writes `output` in a folder that has all else that it needs."""

    main: Callable[[list[str]], int]
    arguments: tuple[str, ...]
    output: str


CASES = {
    "compress": Case(compress.main, ("run=run", "input=in", "output=new.tkc", "chunk_rows=2"), "new.tkc"),
    "compress over": Case(compress.main, ("run=run", "input=in", "output=x.tkc", "overwrite=true"), "x.tkc"),
    "compress at a rate": Case(compress.main, ("run=rate", "input=in", "output=new.tkc", "lambda=8"), "new.tkc"),
    "compress whole": Case(compress.main, ("run=whole", "input=in", "output=new.tkc"), "new.tkc"),
    "restore": Case(decompress.main, ("run=run", "input=x.tkc", "output=out"), "out"),
    "restore at a rate": Case(decompress.main, ("run=rate", "input=rate.tkc", "output=out"), "out"),
    "restore whole": Case(decompress.main, ("run=whole", "input=whole.tkc", "output=out"), "out"),
    "restore one": Case(decompress.main, ("run=run", "input=x.tkc", "output=one.png", "only=b.png"), "one.png"),
    "restore an array": Case(decompress.main, ("run=run", "input=a.tkc", "output=b.npy"), "b.npy"),
    "export": Case(export_embeddings.main, ("input=g.txt", "output=new.tkc", "lambda=1"), "new.tkc"),
    "export over": Case(export_embeddings.main, ("input=g.txt", "output=v.tkc", "lambda=1", "overwrite=true"), "v.tkc"),
    "export back": Case(export_embeddings.main, ("input=v.tkc", "output=v.bin"), "v.bin"),
    "export back to gensim": Case(export_embeddings.main, ("input=v.tkc", "output=v.kv"), "v.kv"),
    "export back to a table": Case(export_embeddings.main, ("input=v.tkc", "output=v.safetensors"), "v.safetensors"),
    "export back to a folder": Case(export_embeddings.main, ("input=static.tkc", "output=new"), "new"),
    "make exact": Case(make_exact.main, ("run=run",), "run/exact.pt"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the commands need."""
    folder = tmp_path_factory.mktemp("faults")
    run_folder(folder / "run", (1, 8, 8))
    (folder / "in").mkdir()
    for name in "ab":
        Image.fromarray(noise(9, 8)).save(folder / f"in/{name}.png")
    np.save(folder / "a.npy", noise(6, 8, 8))
    picture_run(folder / "whole")
    (folder / "rate").mkdir()
    torch.manual_seed(0)
    cfg = configuration()
    module = VAE(**{str(key): value for key, value in cfg.recipe.module.items() if key != "_target_"})
    module.eval().fit_tables(torch.stack([photo(64, 64, seed) for seed in range(4)]), steps=2)
    save(folder / "rate", cfg, module)
    words = [f"w{i}" for i in range(40)]
    vectors = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    lines = [f"{word} {' '.join(map(str, row))}\n" for word, row in zip(words, vectors.tolist(), strict=True)]
    (folder / "g.txt").write_text("".join(lines))
    embeddings.export(folder / "v.tkc", words, vectors, torch.ones(40, 6), "lambda", 1)
    model_folder(folder / "static", "nested")
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert export_embeddings.main(["static", "static.tkc", "lambda=1"]) == 0
        for arguments in (
            ["run=run", "input=in", "output=x.tkc", "chunk_rows=2"], ["run=run", "input=a.npy", "output=a.tkc"],
            ["run=rate", "input=in", "output=rate.tkc", "lambda=8"], ["run=whole", "input=in", "output=whole.tkc"],
        ):  # fmt: skip
            assert compress.main(arguments) == 0
        # So that forks find all modules imported.
        decompress.main(["run=run", "input=x.tkc", "output=warm"])
        shutil.rmtree("warm")
        embeddings.load("v.tkc")
    finally:
        os.chdir(before)
    return folder


@pytest.fixture(scope="module", autouse=True)
def data() -> Iterator[None]:
    """Few rows for exact networks, in place of a data set that every fork would read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("toolkit.runs.build_data", lambda cfg: SimpleNamespace(train=images(16, seed=5)))
        gc.collect()
        gc.freeze()  # a fork that looks through all objects copies all memory
        yield
        gc.unfreeze()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): meaning(path) for path in folder.rglob("*") if path.is_file()}


def meaning(path: Path) -> bytes:
    """What is in a file: its bytes, or what is read of it where it holds the time, too, when it was written."""
    data = path.read_bytes()
    try:
        if path.suffix == ".kv":
            return KeyedVectors.load(str(path)).vectors.tobytes()
        if path.suffix == ".pt":
            return str([(k, v.tolist()) for k, v in torch.load(io.BytesIO(data), weights_only=True).items()]).encode()
    except Exception:  # half-written
        return data
    return data


def child(case: Case, folder: Path, moment: int, sign: int | None, room: int | None = None) -> tuple[int, int]:
    """Run a command in a fork; its status, and how many file operations there were below the folder.

    sign: a signal that it gets before operation number `moment`; room: most bytes of a file, instead of a full disk.
    """
    reads, writes = os.pipe()
    process = os.fork()
    if process == 0:
        status, seen, armed = 99, [0], [True]
        try:
            os.chdir(folder)
            gc.disable()
            tqdm.set_lock(threading.RLock())  # its own is shared with forks, and stays locked where one is killed
            signal.alarm(60)
            sys.stdout = sys.stderr = io.StringIO()
            here = str(folder)

            def hook(event: str, arguments: tuple[Any, ...]) -> None:
                if (
                    armed[0]
                    and event in EVENTS
                    and str(arguments[0]).startswith((here, ".", "out", "new", "one", "b.", "v", "x"))
                ):
                    seen[0] += 1
                    if seen[0] == moment and sign is not None:
                        os.kill(os.getpid(), sign)

            sys.addaudithook(hook)
            if room is not None:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
            status = case.main(list(case.arguments))
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
        except BaseException:
            status = 98
        finally:
            armed[0] = False
            os.write(writes, b"%d" % seen[0])
            os._exit(status)
    os.close(writes)
    status = os.waitpid(process, 0)[1]
    with open(reads, "rb") as pipe:
        count = int(pipe.read() or 0)
    return os.waitstatus_to_exitcode(status), count


def check(case: Case, made: Path, folder: Path, whole: dict[str, bytes], died: str) -> None:
    """That what was there is there, the output is whole or as before, and the command given again makes it."""
    before = contents(made)
    after = contents(folder)
    new = {name for name in whole if name not in before or whole[name] != before[name]}
    for name, data in before.items():
        assert after.get(name) in ({data, whole[name]} if name in new else {data}), (died, name)
    complete = all(after.get(name) == whole[name] for name in new)
    final = [name for name in after if name in new and after[name] != before.get(name)]
    assert all(after[name] == whole[name] for name in final), (died, "half-written", final)
    if not complete or after.keys() != whole.keys():
        assert child(case, folder, 0, None)[0] == 0 or complete, died
    assert {name: data for name, data in contents(folder).items() if name in whole} == whole, died
    assert contents(folder).keys() == whole.keys(), (died, "left behind", contents(folder).keys() - whole.keys())


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def whole(case: Case, made: Path, tmp_path: Path) -> tuple[dict[str, bytes], int]:
    """What the folder holds when the command is done, and the file operations that it took."""
    shutil.copytree(made, tmp_path / "whole")
    status, count = child(case, tmp_path / "whole", 0, None)
    assert status == 0 and count >= 3
    return contents(tmp_path / "whole"), count


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork here")
def test_a_command_that_is_killed_damages_nothing_and_completes(
    case: Case, whole: tuple[dict[str, bytes], int], made: Path, tmp_path: Path
) -> None:
    result, count = whole
    for i in range(MOMENTS):
        moment = 1 + i * (count - 1) // (MOMENTS - 1)
        for sign in SIGNALS:
            folder = tmp_path / f"{i} {sign}"
            shutil.copytree(made, folder)
            status, _ = child(case, folder, moment, sign)
            died = f"{sign!r} at operation {moment} of {count}, status {status}"
            assert status in ({signal.SIGINT: (130, 0), signal.SIGTERM: (143, 0)}.get(sign, (-sign, 0))), died
            check(case, made, folder, result, died)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork here")
def test_a_command_on_a_full_disk_damages_nothing_and_completes(
    case: Case, whole: tuple[dict[str, bytes], int], made: Path, tmp_path: Path
) -> None:
    result, _ = whole
    before = contents(made)
    changed = [name for name, data in result.items() if before.get(name) != data]
    largest = max((tmp_path / "whole" / name).stat().st_size for name in changed)
    for room in (0, 1, largest // 3, largest * 7 // 8):
        folder = tmp_path / f"{room}"
        shutil.copytree(made, folder)
        status, _ = child(case, folder, 0, None, room)
        assert status == 1, room
        check(case, made, folder, result, f"{room} bytes of {largest}, status {status}")
