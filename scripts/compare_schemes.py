"""Bit-Swap against BB-ANS on one trained model: initial bits, and the rate after 1, 10 and 100 images of one chain.

    python scripts/compare_schemes.py RUN [RUN ...] [--chains 10] [--out docs/results/schemes]

Each chain codes 100 test images one after the other on 16 lanes, from seed bits of its own. Figures are means over
chains, with standard deviations; initial bits are the low-water mark of the message, tracked through the whole chain.
"""

import argparse
import shlex
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from recipes.bitswap import head
from toolkit.coding.message import Message
from toolkit.data.splits import spread
from toolkit.run import Run
from toolkit.runs import build_data, load

LANES = 16
SCHEMES = ("bitswap", "bbans")


@torch.inference_mode()
def chain(run: Run, images: Tensor, scheme: str, seed: int) -> tuple[list[float], list[float]]:
    """Initial bits and net bits after each image of a chain: float lists [images]."""
    message = Message.random(LANES, 64 + 8 * images[0].numel() // LANES, seed)
    before = message.bits()
    initial, net = [], []
    valid = torch.ones(1, *images.shape[1:], dtype=torch.bool)
    codec = head(run.module, valid, scheme=scheme)
    for image in images:
        codec.push(message, image[None].long())
        initial.append(32.0 * message.taken)
        net.append(message.bits() - before)
    return initial, net


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--chains", type=int, default=10)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("schemes"))
    arguments = parser.parse_args()
    figure = Figure((8, 4.5), layout="constrained")
    axes = figure.subplots()
    lines = ["| L | scheme | initial bits | after 1 | after 10 | after 100 | net |", "|---|---|---|---|---|---|---|"]
    for number, folder in enumerate(arguments.runs):
        run = load(folder, "cpu")
        data = build_data(run.cfg)
        test = spread(data.test, arguments.chains * arguments.images)
        depth = len(run.cfg.recipe.module.latent_channels)
        for scheme in SCHEMES:
            chains = [chain(run, test[c :: arguments.chains], scheme, seed=c) for c in range(arguments.chains)]
            initial = torch.tensor([c[0] for c in chains])  # [chains, images]
            net = torch.tensor([c[1] for c in chains])
            count = torch.arange(1, initial.shape[1] + 1)
            rate = (initial + net) / count / test[0].numel()
            mean, deviation = rate.mean(0), rate.std(0)
            at = [f"{mean[n - 1]:.3f} ± {deviation[n - 1]:.3f}" for n in (1, 10, 100) if n <= len(mean)]
            bits = f"{initial[:, -1].mean():.0f} ± {initial[:, -1].std():.0f}"
            final = f"{net[:, -1].mean() / len(count) / test[0].numel():.4f}"
            lines.append(f"| {depth} | {scheme} | {bits} | {' | '.join(at)} | {final} |")
            print(lines[-1], flush=True)
            style = "-" if scheme == "bitswap" else "--"
            axes.plot(count, mean, style, color=f"C{number}", label=f"{scheme}, L = {depth}")
    axes.set(xlabel="images in the chain", ylabel="bits per dimension, initial bits included", xscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(arguments.out.with_suffix(".png"), dpi=150)
    title = f"# Bit-Swap and BB-ANS\n\n`python {shlex.join(sys.argv)}`\n\nBits/dim, initial bits in bits; L: layers."
    arguments.out.with_suffix(".md").write_text(title + "\n\n" + "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
