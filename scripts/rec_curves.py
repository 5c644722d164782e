"""Code length and cost of relative entropy coding against KL and D_inf, for every sampler, as a table and a plot.

    python scripts/rec_curves.py [--latents 20000] [--seed 0] [--out docs/results/rec_curves]

Targets of a Gaussian channel, D ~ N(0, 1 - s) with s = 2^(-2 KL). Depths are coded with a histogram learned on other
targets of the same channel, and with the best zeta exponent; figures are what the codecs spend, in bits a latent. The
second table holds KL at 3 bits and moves the target into the tail of the proposal, where D_inf grows.
"""

import argparse
import functools
import math
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from toolkit.coding import rec
from toolkit.coding.hashing import Keys
from toolkit.coding.rec import Choice, Target

BITS = (0.001, 0.01, 0.1, 0.25, 0.5, 1, 2, 4, 8, 12)
MEANS = (1.0, 1.8, 2.0, 2.03, 2.038, 2.0393)  # at 3 bits: D_inf from 3.7 to 20.7 bits
FEW = 1000  # latents of the samplers whose cost is a table or 2^D_inf steps each
Coder = tuple[Callable[[Target, Keys], Choice], bool]  # the search, and whether its nodes are paths
SAMPLERS: dict[str, Coder] = {
    "AD*": (rec.ad_star, False),
    "AS*": (rec.as_star, True),
    "GRC dyadic": (rec.greedy_dyadic, False),
    "GRC on sample": (rec.greedy_path, True),
    "GPRS on sample": (rec.gprs_path, True),
    "global A*": (rec.global_astar, False),
}


def channel(bits: float, n: int, seed: int) -> Target:
    s = 2.0 ** (-2 * bits)
    rng = torch.Generator().manual_seed(seed)
    mean = math.sqrt(1 - s) * torch.randn(n, generator=rng, dtype=torch.float64)
    return rec.target(mean, torch.full_like(mean, math.sqrt(s)))


def tail(mean: float, n: int, seed: int = 0) -> Target:
    """Targets of 3 bits with this mean, n times the same; the variance by bisection."""
    kappa = 3 * math.log(2)
    low, high = 1e-9, 60.0
    for _ in range(80):
        y = 0.5 * (low + high)
        low, high = (low, y) if 0.5 * (math.expm1(-y) + mean**2 + y) > kappa else (y, high)
    return rec.target(torch.full((n,), mean, dtype=torch.float64), torch.full((n,), math.exp(-0.5 * y)).double())


def usable(name: str, target: Target) -> bool:
    return name != "global A*" or (float(target.divergence().mean()) < 9 and float(target.divergence().max()) < 20)


def cost(name: str, make: Callable[[int, int], Target], n: int, seed: int) -> tuple[float, float, float, float, float]:
    """Bits with a learned histogram, bits with the best zeta, mean and most points, microseconds a latent."""
    search, path = SAMPLERS[name]
    n = n if name not in ("GPRS on sample", "global A*") else FEW
    learn, names = make(n, seed + 1), Keys.of(seed, torch.arange(n), torch.tensor(0))
    freqs = rec.learned(rec.count_depths(search(learn, names._replace(seed=seed + 1)).node[:, None]))
    target = make(n, seed + 2)
    began = time.perf_counter()
    found = search(target, names)
    seconds = time.perf_counter() - began
    which = torch.zeros_like(found.node)

    def bits(table: Tensor) -> float:
        one = rec.path_bits(found.node, table, which, names) if path else rec.node_bits(found.node, table, which)
        return float(one.mean()) - float(target.kl().mean())

    zeta = min(bits(rec.zeta(1 + 0.02 * 1.25**i)) for i in range(24))
    return bits(freqs), zeta, float(found.visited.double().mean()), float(found.visited.max()), 1e6 * seconds / n


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("rec_curves"))
    arguments = parser.parse_args()
    figure = Figure((13, 4.2), layout="constrained")
    rate, steps, far = figure.subplots(1, 3)
    lines = [
        "| sampler | KL | histogram - KL | best zeta - KL | points, mean | points, most | us a latent |",
        "|---|---|---|---|---|---|---|",
    ]
    for i, name in enumerate(SAMPLERS):
        rows = []
        for bits in BITS:
            if usable(name, channel(bits, FEW, arguments.seed + 2)):
                rows.append((bits, *cost(name, functools.partial(channel, bits), arguments.latents, arguments.seed)))
                print(name, *(f"{v:.3f}" for v in rows[-1]), flush=True)
        for bits, histogram, zeta, mean, most, micro in rows:
            lines.append(
                f"| {name} | {bits:g} | {histogram:.2f} | {zeta:.2f} | {mean:.2f} | {most:.0f} | {micro:.1f} |"
            )
        x = [row[0] for row in rows]
        rate.plot(x, [row[1] for row in rows], "o-", color=f"C{i}", label=name, markersize=3)
        rate.plot(x, [row[2] for row in rows], ":", color=f"C{i}")
        steps.plot(x, [row[3] for row in rows], "o-", color=f"C{i}", label=name, markersize=3)
    grid = torch.linspace(0.01, 12, 200)
    rate.plot(grid, torch.log2(grid + 1) + 1, "k--", label="log2(KL + 1) + 1", linewidth=1)
    rate.set(xlabel="KL, bits", ylabel="bits over KL (dotted: zeta code)", title="Rate")
    steps.plot(grid, grid, "k--", label="KL", linewidth=1)
    steps.set(xlabel="KL, bits", ylabel="points visited", title="Cost against KL", yscale="log")
    lines += ["", "| sampler | KL | D_inf | histogram - KL | points, mean |", "|---|---|---|---|---|"]
    for i, name in enumerate(SAMPLERS):
        points = []
        for mean in MEANS:
            peak = float(tail(mean, 1).divergence())
            if usable(name, tail(mean, 1)):
                found = cost(name, functools.partial(tail, mean), arguments.latents, arguments.seed)
                points.append((peak, found[2]))
                lines.append(f"| {name} | 3 | {peak:.1f} | {found[0]:.2f} | {found[2]:.2f} |")
        far.plot(*zip(*points, strict=True), "o-", color=f"C{i}", label=name, markersize=3)
    far.set(xlabel="D_inf, bits", ylabel="points visited", title="Cost against D_inf at 3 bits of KL", yscale="log")
    for axes in (rate, steps, far):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.savefig(arguments.out.with_suffix(".png"), dpi=150)
    title = f"# Curves of relative entropy coding\n\n`python {shlex.join(sys.argv)}`\n\nBits a latent; see the script."
    arguments.out.with_suffix(".md").write_text(title + "\n\n" + "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
