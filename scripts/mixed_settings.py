"""Encode under each of 96 settings, decode under each other, and on processors that this one plays: the same rows?

    python scripts/mixed_settings.py RUN [RUN ...] [--rows 8192] [--progress FILE] [--words FILE.tkc] [--float]
    python scripts/mixed_settings.py --pictures RUN PICTURE [PICTURE ...]

RUN: folders of trained models with exact networks. Settings: {kernels, reference} x {1, 2 threads} x {1, 7, 64 rows a
network call} x {contiguous, channels_last} x {float32, float64} x {oneDNN on, off}. Each writes the first rows, one in
eight all of them, and each decodes all rows as the first setting wrote them; with one row a call, an eighth of them,
because that takes longest. Where all write the same bytes, one decoding for each covers all pairs; where not, each
setting decodes each of the different payloads. Rows are those of the run's data, then these turned and mirrored.

--progress: a file of what is done, from which an interrupted run goes on. Processors: new processes whose libraries are
told to use no instructions beyond AVX2, or beyond SSE. --float: the trained networks instead, to see how often the test
finds what it looks for. --pictures: of a lossy model, whose coefficients must decode to the same, and whose pixels to
within a level.
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.mixed import SETTINGS, Setting, code_picture, decode, encode, picture_differs  # noqa: E402  # of the repository, which is no package
from toolkit import embeddings  # noqa: E402
from toolkit.chunks.model import Settings, fingerprint  # noqa: E402
from toolkit.coding import kernels  # noqa: E402
from toolkit.images.files import read_image  # noqa: E402
from toolkit.nets.exact import exactly  # noqa: E402
from toolkit.runs import build_data, load  # noqa: E402

CODING = Settings(4096, 4096, 0)  # whole batches and many lanes: for the tensor program rows are cheap, steps are not
FEW = 128  # rows that each setting writes
HALVES = ("kernels", "reference")
PROCESSORS: dict[str, dict[str, str]] = {
    "as it is": {},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "SSE": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
}


def same(head: Any) -> Any:
    return head


class Model:
    """A run's model, and rows of its data."""

    def __init__(self, run: Path, count: int, floats: bool) -> None:
        loaded: Any = load(run, "cpu", exact=not floats)
        data = build_data(loaded.cfg)
        rows = torch.cat([data.test, data.validation, data.train])
        turned = [x.rot90(k, (2, 3)) for x in (rows, rows.flip(3)) for k in range(4)]
        self.rows: Tensor = torch.cat([x for x in turned if x.shape == rows.shape] * (1 + count // len(rows)))[:count]
        self.module, self.head, self.guard = loaded.module, loaded.head.codec, same if floats else exactly
        self.name = f"{run} {fingerprint(loaded.module, {})} {count}"

    def encode(self, setting: Setting, count: int) -> bytes:
        """The payload of the first so many rows."""
        return encode(setting, self.module, self.head, CODING, self.rows[:count], self.guard)

    def wrong(self, setting: Setting, payload: bytes, count: int) -> int:
        """Rows that decode to others; all of them where decoding is an error."""
        rows = self.rows[:count]
        try:
            found = decode(setting, self.module, self.head, CODING, payload, rows, self.guard)
        except ValueError:
            return count
        return int((found != rows).flatten(1).any(1).sum())


class Done(NamedTuple):
    """What one setting did."""

    written: str  # digest of its payload of the first rows
    others: int  # rows that it encoded to other bytes than the first setting did
    rows: int  # decoded
    wrong: int  # of them


def all_settings(model: Model, settings: list[Setting], progress: Path | None) -> None:
    began, done = time.perf_counter(), _done_before(model, progress)
    payloads: dict[str, bytes] = {}  # of the first rows, the different ones
    counts = {1: len(model.rows) // 8}  # by rows a network call; else all
    reference: dict[int, bytes] = {}

    def report(setting: Setting) -> None:
        others, rows, wrong = (sum(column) for column in list(zip(*done.values(), strict=True))[1:])
        print(
            f"  {len(done)} settings, {len({x.written for x in done.values()})} different payloads, {others} rows of "
            f"other bytes; {wrong} of {rows} decoded rows wrong; {(time.perf_counter() - began) / 60:.1f} minutes; "
            f"{setting}",
            flush=True,
        )

    for i, setting in enumerate(settings):
        if setting in done:
            continue
        count = counts.get(setting.rows, len(model.rows))
        if count not in reference:
            reference[count] = model.encode(Setting(), count)
        payload = model.encode(setting, FEW)
        digest = hashlib.sha256(payload).hexdigest()
        payloads[digest] = payload
        others = count if i % 8 == 0 and model.encode(setting, count) != reference[count] else 0
        done[setting] = Done(digest, others, count, model.wrong(setting, reference[count], count))
        if progress:
            with progress.open("a") as file:
                file.write(json.dumps([model.name, setting, done[setting]]) + "\n")
        report(setting)
    for setting in settings if len({x.written for x in done.values()}) > 1 else []:
        for payload in payloads.values():
            wrong, before = model.wrong(setting, payload, FEW), done[setting]
            done[setting] = before._replace(rows=before.rows + FEW, wrong=before.wrong + wrong)
        report(setting)


def _done_before(model: Model, progress: Path | None) -> dict[Setting, Done]:
    if progress is None or not progress.exists():
        return {}
    lines = [json.loads(line) for line in progress.read_text().splitlines()]
    return {Setting(*setting): Done(*done) for name, setting, done in lines if name == model.name}


def processors(run: Path, model: Model, rows: int, floats: bool) -> None:
    """Each processor encodes, and each decodes what the others wrote."""
    with tempfile.TemporaryDirectory() as folder:
        for step in ("encode", "decode"):
            for name, variables in PROCESSORS.items():
                arguments = [str(run), "--rows", str(rows), "--step", step, "--folder", folder, "--name", name]
                subprocess.run(
                    [sys.executable, __file__, *arguments, *(["--float"] if floats else [])],
                    env={**os.environ, **variables}, check=True,
                )  # fmt: skip


def one_step(model: Model, step: str, folder: Path, name: str) -> None:
    if step == "encode":
        payload = model.encode(Setting(), len(model.rows))
        (folder / name).write_bytes(payload)
        return
    for file in sorted(folder.iterdir()):
        for setting in (Setting(), Setting(False, 2, 7, False, True, False)):
            print(
                f"  processor {name}, {setting.rows} rows a call, of a file by {file.name}: "
                f"{model.wrong(setting, file.read_bytes(), len(model.rows))} of {len(model.rows)} rows wrong",
                flush=True,
            )


def words(path: Path) -> None:
    """Word vectors: all together, and word by word, by kernels or the tensor program, with one thread or two."""
    with embeddings.open(path) as file:
        want = file.vectors()
        wrong = total = 0
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for how, some in ((contextlib.nullcontext, 2000), (kernels.reference, 20)):
                with how():
                    wrong += int((file.vectors() != want).any(1).sum())
                    total += len(want)
                    for i in range(0, len(want), max(1, len(want) // some)):
                        wrong += int((torch.from_numpy(file[file.words[i]]) != want[i]).any())
                        total += 1
    print(f"{path}: {wrong} of {total} decoded rows wrong", flush=True)


def pictures(run: Path, paths: list[Path], only: str | None) -> None:
    """Each setting writes each picture at two rates, and each reads what each wrote."""
    module = load(run, "cpu").module
    settings = [s for s in SETTINGS if s.rows == 64 and not s.double and only in (None, HALVES[s.reference])]
    tiles = rows = wrong = largest = 0
    different = set[bytes]()
    for path, lam in itertools.product(paths, (4.0, 64.0)):
        picture = torch.from_numpy(read_image(path))
        for writer in settings:
            coded = code_picture(writer, module, picture, lam)
            different.add(b"".join(payload for payload, _ in coded.payloads))
            for reader in settings:
                bad, difference = picture_differs(reader, module, coded, picture)
                tiles, wrong, largest = tiles + len(coded.payloads), wrong + bad, max(largest, difference)
                rows += -(-picture.shape[1] // 8)
        print(
            f"{path.name}, lambda {lam:g}: so far {len(different)} different payloads, {tiles} tiles decoded ({rows} "
            f"rows of coefficients), {wrong} wrong; pixels differ by {largest} at most",
            flush=True,
        )


def main() -> None:
    warnings.filterwarnings("ignore", "TF32 acceleration")  # of switching oneDNN off and on
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--progress", type=Path)
    parser.add_argument("--words", type=Path)
    parser.add_argument("--pictures", type=Path, nargs="+", metavar=("RUN", "PICTURE"))
    parser.add_argument("--float", action="store_true", dest="floats")
    parser.add_argument("--only", choices=HALVES, help="half of the settings")
    parser.add_argument("--step", choices=["encode", "decode"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--name", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for run in arguments.runs:
        model = Model(run, arguments.rows, arguments.floats)
        if arguments.step:
            one_step(model, arguments.step, arguments.folder, arguments.name)
            continue
        print(f"{run}, {'float' if arguments.floats else 'exact'} networks", flush=True)
        settings = [s for s in SETTINGS if not (arguments.floats and s.double)]
        chosen = [s for s in settings if arguments.only in (None, HALVES[s.reference])]
        all_settings(model, sorted(chosen, key=lambda s: (s.reference, -s.rows)), arguments.progress)
        processors(run, model, min(arguments.rows, 500), arguments.floats)
    if arguments.pictures:
        pictures(arguments.pictures[0], arguments.pictures[1:], arguments.only)
    if arguments.words:
        words(arguments.words)


if __name__ == "__main__":
    main()
