"""What deeper chains of latents buy: rate, initial bits and time of Bit-Swap with 1 to 8 layers after equal steps.

    python scripts/depth.py --data mnist [--depths 1 2 4 8] [--seeds 0 1] [--steps 2000] [--out depth_mnist]
        [OVERRIDE ...]

Layers lie on grids that fall to an odd side or to 2; those of one depth share the falls evenly. The net rate is that of
test rows, coded with the exact networks in one chain; initial bits are of single images, each on a message of its own,
and so is what an image takes alone, beside its net bits. Overrides, such as recipe.module.width=32, go to the training.
Models that an earlier call has trained into the same --runs are not trained again: delete the folder to change them.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_module
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from torch import Tensor

from recipes.bitswap import head
from toolkit.coding.message import Message
from toolkit.data.splits import spread
from toolkit.nets.exact import exactly
from toolkit.run import Run
from toolkit.runs import build_data, load
from toolkit.train import train

SCHEMES = ("bitswap", "bbans")


def falls(side: int, depth: int) -> list[int]:
    """`downscale` of layers: the first halves the sides, as do others, spread evenly, until they are odd or 2."""
    most = 1
    while side % 2 ** (most + 1) == 0 and side > 2 ** (most + 1):
        most += 1
    halvings = min(most, depth)
    return [2 if i * halvings // depth != (i - 1) * halvings // depth else 1 for i in range(depth)]


def trained(data: str, depth: int, seed: int, steps: int, folder: Path, overrides: list[str]) -> tuple[Run, float]:
    """A run of so many layers, all else equal, and its training's seconds of processor time."""
    seconds = folder / "training_seconds.txt"
    if seconds.exists():
        return load(folder, "cpu", True), float(seconds.read_text())
    with initialize_config_module("configs", version_base="1.3"):
        cfg = compose("train", [
            "recipe=bitswap", f"data={data}", f"seed={seed}", f"max_steps={steps}", "minutes=1e6",
            "evaluation.every_n_epochs=1000000", "trainer.enable_progress_bar=false", *overrides,
        ])  # fmt: skip
    OmegaConf.set_struct(cfg, False)
    module = cfg.recipe.module
    shape = build_data(cfg).train.shape[1:]
    module.latent_channels = [module.latent_channels[0]] * depth
    module.downscale, module.blocks = falls(shape[-1] >> module.finer, depth), [1] * depth
    began = time.process_time()
    train(cfg, folder)
    seconds.write_text(str(time.process_time() - began))
    return load(folder, "cpu", True), float(seconds.read_text())


@torch.inference_mode()
def alone(run: Run, images: Tensor, scheme: str) -> tuple[Tensor, Tensor]:
    """Initial and net bits of images, each the first one of a message: float64 [images]."""
    codec = exactly(head)(run.module, torch.ones(1, *images.shape[1:], dtype=torch.bool), scheme=scheme)
    initial, net = [], []
    for seed, image in enumerate(images):
        message = Message.random(1, 64 + 8 * image.numel(), seed)
        before = message.bits()
        codec.push(message, image[None].long())
        initial.append(32.0 * message.taken)
        net.append(message.bits() - before)
    return torch.tensor(initial).double(), torch.tensor(net).double()


def measured(run: Run, rows: Tensor, singles: int) -> dict[str, float]:
    """Rates in bits/dim, bits of single images, seconds."""
    valid = torch.ones(rows.shape, dtype=torch.bool)
    coder: Any = run.head.coder(run, len(rows))  # type: ignore[attr-defined]  # of rows
    began = time.process_time()
    payload, account = coder.encode(rows, valid)
    if not torch.equal(coder.decode(payload, valid), rows):
        raise RuntimeError(f"rows of {run.folder} did not come back")
    found = {"net": account.net / rows.numel(), "coding": time.process_time() - began}
    for scheme in SCHEMES:
        initial, net = alone(run, spread(rows, singles), scheme)
        found[f"{scheme} initial"] = float(initial.mean())
        found[f"{scheme} alone"] = float((initial + net).sum() / net.sum())
    with torch.inference_mode():
        parts = torch.cat([load(run.folder, "cpu", False).module.parts(part) for part in rows.split(64)])
    found["latents"] = float(parts[:, 1:].sum() / parts.sum())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--data", default="photos")
    parser.add_argument("--depths", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=1000, help="test rows whose net rate is measured")
    parser.add_argument("--singles", type=int, default=16, help="images that are coded alone")
    parser.add_argument("--runs", type=Path, default=Path("outputs/depth"), help="folder of the trained models")
    parser.add_argument("--out", type=Path, default=Path("depth"))
    arguments = parser.parse_args()
    lines = [
        "| L | seed | net | latents' share | initial bits, Bit-Swap | initial bits, BB-ANS | alone / net | training, s "
        "| coding, s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    figure = Figure((9, 4), layout="constrained")
    rate, initial = figure.subplots(1, 2)
    for number, seed in enumerate(arguments.seeds):
        rates, bits = [], []
        for depth in arguments.depths:
            folder = arguments.runs / f"{arguments.data}_{depth}_{seed}"
            run, seconds = trained(arguments.data, depth, seed, arguments.steps, folder, arguments.overrides)
            found = measured(run, spread(build_data(run.cfg).test, arguments.rows), arguments.singles)
            rates.append(found["net"])
            bits.append([found[f"{scheme} initial"] for scheme in SCHEMES])
            lines.append(
                f"| {depth} | {seed} | {found['net']:.4f} | {100 * found['latents']:.1f} % | "
                f"{found['bitswap initial']:.0f} | {found['bbans initial']:.0f} | {found['bitswap alone']:.3f} | "
                f"{seconds:.0f} | {found['coding']:.1f} |"
            )
            print(lines[-1], flush=True)
        rate.plot(arguments.depths, rates, "o-", color=f"C{number}", label=f"seed {seed}")
        for scheme, style, line in zip(SCHEMES, ("o-", "o--"), zip(*bits, strict=True), strict=True):
            initial.plot(arguments.depths, line, style, color=f"C{number}", label=f"{scheme}, seed {seed}")
    rate.set(xlabel="latent layers", ylabel="net bits per dimension", xscale="log", title=arguments.data)
    initial.set(xlabel="latent layers", ylabel="bits", xscale="log", title="Initial bits of a single image")
    for axes in (rate, initial):
        axes.set_xticks(arguments.depths, [str(depth) for depth in arguments.depths])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(arguments.out.with_suffix(".png"), dpi=150)
    title = (
        f"# Depth of the chain, {arguments.data}\n\n`python {shlex.join(sys.argv)}`\n\nBits/dim; L: layers; seconds of "
        f"processor time. {arguments.steps} steps each."
    )
    arguments.out.with_suffix(".md").write_text(title + "\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
