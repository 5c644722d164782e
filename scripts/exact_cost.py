"""What exact arithmetic costs: rate, and speed of networks and of coding, against the float networks of the same run.

    python scripts/exact_cost.py RUN [RUN ...] [--rows 200] [--repeats 3]

Rows of the test set are encoded both ways, in turn, in one process; speeds are of processor time with one thread, which
other programs disturb less than they do a clock, and the medians of the repeats.
"""

import argparse
import statistics
import time
from pathlib import Path
from types import SimpleNamespace

import torch

from toolkit.chunks import chained
from toolkit.data.splits import spread
from toolkit.runs import build_data, load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    chained.time = SimpleNamespace(perf_counter=time.process_time)  # type: ignore[attr-defined,assignment]  # of its clocks
    print("| run | net, float | net, exact | more, % | file, float | file, exact | more, % |", end="")
    print(" speed of networks, exact / float | of encoding |\n|---|---|---|---|---|---|---|---|---|")
    for folder in arguments.runs:
        runs = [load(folder, "cpu", exact) for exact in (False, True)]
        test = build_data(runs[0].cfg).test
        rows = spread(test, min(arguments.rows, len(test)))
        valid = torch.ones(rows.shape, dtype=torch.bool)
        coders = [run.head.coder(run, len(rows)) for run in runs]  # type: ignore[attr-defined]  # of Rows
        found = []
        for repeat in range(arguments.repeats + 1):  # the first, which loads the coder, tells the rate alone
            accounts = [each.encode(rows, valid)[1] for each in coders]
            if repeat:
                found.append([(a.seconds - a.coder_seconds, a.seconds) for a in accounts])
        ratios = [statistics.median(f[i] for f, _ in found) / statistics.median(e[i] for _, e in found) for i in (0, 1)]
        cells = []
        for rate in ([a.net / rows.numel() for a in accounts], [a.file / rows.numel() for a in accounts]):
            cells += [f"{rate[0]:.4f}", f"{rate[1]:.4f}", f"{100 * (rate[1] / rate[0] - 1):+.2f}"]
        print(f"| {folder} | {' | '.join(cells)} | {' | '.join(f'{x:.2f}' for x in ratios)} |", flush=True)


if __name__ == "__main__":
    main()
