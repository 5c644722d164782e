"""What decoding one image costs, against the number of images in the file, for a run whose rows are coded each alone.

    python scripts/random_access.py RUN [--rows 1000 10000] [--batch 50] [--draws 9]

Times are processor seconds of this process, medians over images evenly spread; the file is one chunk, in memory. It
repeats the lanes of `--distinct` images, a multiple of the batch, as sampler=codebook and those of blocks allow: for
them a row's lane depends on its place in its batch alone.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from toolkit.chunks.model import Settings
from toolkit.chunks.separate import AloneCoder
from toolkit.coding import wire
from toolkit.data.splits import spread
from toolkit.nets.exact import exactly
from toolkit.runs import build_data, load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--distinct", type=int, default=250)
    parser.add_argument("--draws", type=int, default=9)
    arguments = parser.parse_args()
    run = load(arguments.run, "cpu", exact=None)
    rows = spread(build_data(run.cfg).test, arguments.distinct)
    head: Any = run.head
    coder = AloneCoder(run.module, exactly(head.codec) if run.exact else head.codec, Settings(arguments.batch, 4, 0))
    valid = torch.ones(rows.shape, dtype=torch.bool)
    lanes = wire.unpack(coder.encode(rows, valid)[0])
    print("| images in the file | payload, bytes | one image, ms |\n|---|---|---|", flush=True)
    for count in arguments.rows:
        at = np.arange(count) % len(rows)
        payload = wire.pack(lanes.head[at], lanes.size[at], lanes.words[at])
        everything = torch.ones(count, *rows.shape[1:], dtype=torch.bool)
        coder.decode(payload, everything, slice(0, 1))  # what only the first call costs
        one = []
        for i in spread(torch.arange(count), arguments.draws).tolist():
            began = time.process_time()
            found = coder.decode(payload, everything, slice(i, i + 1))
            one.append(time.process_time() - began)
            assert torch.equal(found[0], rows[i % len(rows)]), i
        print(f"| {count} | {len(payload)} | {1000 * statistics.median(one):.0f} |", flush=True)


if __name__ == "__main__":
    main()
