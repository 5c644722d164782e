"""Time and memory of many rows: synthetic ones of 32 x 32 x 3, compressed and read back by processes of their own.

    python scripts/many_rows.py RUN FOLDER ROWS...

RUN: of a model of rows [3, 32, 32]; FOLDER: new, for 6 GB where ROWS is 1000000. Prints, for each number of rows, the
bytes, and of compress and decompress processor seconds and the most memory; fails if other values come back.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np

BLOCK = 4096  # rows that are made and compared at a time


def make(path: Path, rows: int) -> None:
    """Slopes with noise: uint8 [rows, 32, 32, 3]."""
    values = np.lib.format.open_memmap(path, "w+", np.uint8, (rows, 32, 32, 3))
    rng, slope = np.random.default_rng(0), np.arange(32, dtype=np.uint8)
    for first in range(0, rows, BLOCK):
        part = values[first : first + BLOCK]
        part[:] = rng.integers(0, 8, part.shape, np.uint8) + rng.integers(0, 150, (len(part), 1, 1, 3), np.uint8)
        part += 3 * slope[:, None, None] if first % (2 * BLOCK) else 3 * slope[None, :, None]


def same(one: Path, other: Path) -> bool:
    """Whether two arrays are equal."""
    a, b = (np.load(path, mmap_mode="r") for path in (one, other))
    return a.shape == b.shape and all(
        np.array_equal(a[first : first + BLOCK], b[first : first + BLOCK]) for first in range(0, len(a), BLOCK)
    )


def measured(*arguments: str) -> tuple[float, float]:
    """Processor seconds and the most megabytes of a command."""
    process = subprocess.Popen([sys.executable, "-m", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said, most = list[bytes](), 0
    reader = threading.Thread(target=lambda: said.append(process.stderr.read()))  # type: ignore[union-attr]
    reader.start()
    # Not what wait4 says, which counts the memory of this process, too, in which the command was born.
    while reader.is_alive():
        reader.join(0.1)
        status = Path(f"/proc/{process.pid}/status").read_text()
        most = max([most, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))])
    _, failed, used = os.wait4(process.pid, 0)
    if failed:
        raise SystemExit(said[0].decode(errors="replace")[-2000:])
    return used.ru_utime + used.ru_stime, most * 1024 / 1e6


def main() -> None:
    """The command line."""
    if len(sys.argv) < 4:
        raise SystemExit(__doc__)
    run, folder, counts = sys.argv[1], Path(sys.argv[2]), map(int, sys.argv[3:])
    folder.mkdir()
    rows, file, back = (folder / name for name in ("rows.npy", "rows.tkc", "back.npy"))
    print(f"{'rows':>9} {'bytes':>12} {'bits/dim':>9} {'compress':>18} {'decompress':>18}")
    for count in counts:
        make(rows, count)
        pairs = [
            measured("toolkit.compress", f"run={run}", str(rows), str(file), "device=cpu"),
            measured("toolkit.decompress", f"run={run}", str(file), str(back), "device=cpu"),
        ]
        if not same(rows, back):
            raise SystemExit(f"{count} rows: other values came back")
        size = file.stat().st_size
        used = " ".join(f"{seconds:8.0f} s {memory:5.0f} MB" for seconds, memory in pairs)
        print(f"{count:9} {size:12} {8 * size / (3072 * count):9.4f} {used}", flush=True)
        for path in (rows, file, back):
            path.unlink()
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
