"""Encode under each of 96 settings, decode under each other, and on processors that this one plays: the same rows?

    python scripts/mixed_settings.py RUN [RUN ...] [--rows 3600] [--words FILE.tkc] [--float] [--only eager]
    python scripts/mixed_settings.py --pictures RUN PICTURE [PICTURE ...]

RUN: folders of trained models with exact networks. Settings: {eager, compiled} x {1, 2 threads} x {1, 7, 64 rows a
network call} x {contiguous, channels_last} x {float32, float64} x {oneDNN on, off}. Where all settings write the same
bytes, one decoding for each covers all pairs; where not, each setting decodes each of the different payloads.
Processors: new processes whose libraries are told to use no instructions beyond AVX2, or beyond SSE. --float: the
trained networks instead, to see how often the test finds what it looks for. --pictures: of a lossy model, whose
coefficients must decode to the same, and whose pixels to within a level.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.mixed import SETTINGS, Setting, code_picture, decode, encode, picture_differs  # noqa: E402  # of the repository, which is no package
from toolkit import embeddings  # noqa: E402
from toolkit.data.files import read_image  # noqa: E402
from toolkit.head import Settings  # noqa: E402
from toolkit.nets.exact import exactly  # noqa: E402
from toolkit.recipe import build_data, load  # noqa: E402

CODING = Settings(512, 256, 0)
PROCESSORS: dict[str, dict[str, str]] = {
    "as it is": {},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "SSE": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
}


def same(head: Any) -> Any:
    return head


class Model:
    """A run's model and some of its test rows."""

    def __init__(self, run: Path, rows: int, floats: bool) -> None:
        recipe, cfg = load(run, "cpu", exact=not floats)
        test = build_data(cfg).test
        self.rows: Tensor = test.repeat(-(-rows // len(test)), 1, 1, 1)[:rows]
        self.module, self.head, self.guard = recipe.module, recipe.head, same if floats else exactly

    def encode(self, setting: Setting) -> bytes:
        return encode(setting, self.module, self.head, CODING, self.rows, self.guard)

    def wrong(self, setting: Setting, payload: bytes) -> int:
        """Rows that decode to others; all of them where decoding is an error."""
        try:
            found = decode(setting, self.module, self.head, CODING, payload, self.rows, self.guard)
        except ValueError:
            return len(self.rows)
        return int((found != self.rows).flatten(1).any(1).sum())


def all_settings(model: Model, settings: list[Setting]) -> None:
    payloads: dict[bytes, int] = {}
    read: set[tuple[int, Setting]] = set()
    wrong, failed = 0, list[Setting]()
    began = time.perf_counter()

    def check(setting: Setting, payload: bytes) -> None:
        nonlocal wrong
        count = model.wrong(setting, payload)
        wrong += count
        failed.extend([setting] * (count > 0))
        read.add((payloads[payload], setting))

    def report() -> None:
        minutes = (time.perf_counter() - began) / 60
        rows = len(read) * len(model.rows)
        print(
            f"  {len(payloads)} different payloads, {len(read)} decodings: {wrong} of {rows} rows wrong, in "
            f"{len(failed)} decodings; {minutes:.1f} minutes",
            flush=True,
        )

    for i, setting in enumerate(settings, start=1):
        payload = model.encode(setting)
        payloads.setdefault(payload, len(payloads))
        check(setting, payload)
        if i % 12 == 0:
            report()
    for payload, number in payloads.items():
        for setting in settings:
            if (number, setting) not in read:
                check(setting, payload)
    report()
    for setting in failed[:5]:
        print(f"    {setting}")


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
        payload = model.encode(Setting())
        (folder / name).write_bytes(payload)
        return
    for file in sorted(folder.iterdir()):
        for setting in (Setting(), Setting(False, 2, 7, False, True, False)):
            print(
                f"  processor {name}, {setting.rows} rows a call, of a file by {file.name}: "
                f"{model.wrong(setting, file.read_bytes())} of {len(model.rows)} rows wrong",
                flush=True,
            )


def words(path: Path) -> None:
    """Word vectors: all together, and word by word, compiled or not, with one thread or two."""
    with embeddings.open(path) as file:
        want = file.vectors()
        wrong = total = 0
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for compiled in (False, True):
                wrong += int((file.vectors(compiled) != want).any(1).sum())
                total += len(want)
            for i in range(0, len(want), max(1, len(want) // 2000)):
                wrong += int((torch.from_numpy(file[file.words[i]]) != want[i]).any())
                total += 1
    print(f"{path}: {wrong} of {total} decoded rows wrong", flush=True)


def pictures(run: Path, paths: list[Path], only: str | None) -> None:
    """Each setting writes each picture at two rates, and each reads what each wrote."""
    module = load(run, "cpu")[0].module
    settings = [
        s for s in SETTINGS if s.rows == 64 and not s.double and only in (None, ("eager", "compiled")[s.compiled])
    ]
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
    parser.add_argument("--rows", type=int, default=3600)
    parser.add_argument("--words", type=Path)
    parser.add_argument("--pictures", type=Path, nargs="+", metavar=("RUN", "PICTURE"))
    parser.add_argument("--float", action="store_true", dest="floats")
    parser.add_argument("--only", choices=["eager", "compiled"], help="half of the settings")
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
        processors(run, model, min(arguments.rows, 500), arguments.floats)
        settings = [s for s in SETTINGS if not (arguments.floats and s.double)]
        all_settings(model, [s for s in settings if arguments.only in (None, ("eager", "compiled")[s.compiled])])
    if arguments.pictures:
        pictures(arguments.pictures[0], arguments.pictures[1:], arguments.only)
    if arguments.words:
        words(arguments.words)


if __name__ == "__main__":
    main()
