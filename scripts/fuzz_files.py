"""Mutate files, look at what readers do: python scripts/fuzz_files.py [cases] [seed] [--first N] [--keep FOLDER].

Word vectors, pictures and arrays of each recipe, and weights, all of untrained models; see tests/fuzz.py for what is
done to them and what is judged. Every 4,000 cases run in a process of their own, so that a crash is seen as one. Exit
status 1 if a case is bad. --first: the number of the case to begin with, a multiple of 4,000, to go on with a run that
was interrupted; --keep: a folder for bad files.
"""

from __future__ import annotations

import argparse
import collections
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))


from tests import fuzz  # the folder above is on the path by now

SHARD = 4000
WATCHDOG = 3600.0  # seconds of a shard, in case that a reader hangs where no signal reaches it


def shard(subjects: list[fuzz.Subject], number: int, cases: int, seed: int, keep: Path | None, queue: Any) -> None:
    """Judge the cases of one shard, and send (verdict, kind of subject, line about a bad one) for each."""
    with tempfile.TemporaryDirectory() as folder, fuzz.limited():
        box = Path(folder) / "box"
        box.mkdir()
        which = range(number * SHARD, min((number + 1) * SHARD, cases))
        for i, subject, case, mode in fuzz.cases(subjects, cases, seed, which):
            verdict, why = fuzz.judge(subject, case, mode, box)
            line = f"case {i}, {subject.name}, {case.what}, mode {mode}: {verdict}: {why[:500]}"
            if verdict not in fuzz.GOOD and keep:
                (keep / f"{seed}-{i}-{subject.name}.bin").write_bytes(case.data)
            queue.put((verdict, subject.name, line))
    queue.put(None)


def main() -> int:
    """Run it and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="?", type=int, default=100_000)
    parser.add_argument("seed", nargs="?", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, metavar="N")
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    if arguments.keep:
        arguments.keep.mkdir(exist_ok=True)
    began = time.monotonic()
    verdicts: collections.Counter[tuple[str, str]] = collections.Counter()
    bad: list[str] = []
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        subjects = fuzz.subjects(Path(folder))
        for number in range(arguments.first // SHARD, -(-arguments.cases // SHARD)):
            queue = fork.SimpleQueue()
            process = fork.Process(
                target=shard, args=(subjects, number, arguments.cases, arguments.seed, arguments.keep, queue)
            )
            process.start()
            end, last, done = time.monotonic() + WATCHDOG, "its first case", False
            while not done:
                if queue.empty():
                    if not process.is_alive() or time.monotonic() > end:
                        break
                    time.sleep(0.01)
                    continue
                item = queue.get()
                if item is None:
                    done = True
                    continue
                verdict, name, last = item
                verdicts[name, verdict] += 1
                if verdict not in fuzz.GOOD:
                    bad.append(last)
                    print(last, flush=True)
            if not done:
                process.kill()
                bad.append(f"shard {number}: crash or hang after {last}")
                print(bad[-1], flush=True)
            process.join()
            minutes = (time.monotonic() - began) / 60
            print(f"{sum(verdicts.values())} cases, {len(bad)} bad, {minutes:.1f} minutes", file=sys.stderr, flush=True)
    names = sorted({name for name, _ in verdicts})
    kinds = [*fuzz.GOOD, *sorted({verdict for _, verdict in verdicts} - set(fuzz.GOOD))]
    print(f"{'file':20} {'bytes':>7}", *(f"{kind:>9}" for kind in kinds))
    for subject in subjects:
        if subject.name in names:
            counts = (f"{verdicts[subject.name, kind]:>9}" for kind in kinds)
            print(f"{subject.name:20} {len(subject.data):>7}", *counts)
    total, minutes = sum(verdicts.values()), (time.monotonic() - began) / 60
    print(f"{total} mutated files, {len(bad)} of them bad; {minutes:.1f} minutes; seed {arguments.seed}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
