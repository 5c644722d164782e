"""Pictures and tables of the training loop and of results, headless."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

matplotlib.use("Agg")  # no window, also where there is a display


def grid(images: Tensor, columns: int = 8) -> Tensor:
    """uint8 [n, c, h, w] -> one picture uint8 [c, ...], in rows of `columns`, small images enlarged, 2 pixels apart."""
    images = images.cpu()
    zoom = max(1, 64 // images.shape[-1])
    images = images.repeat_interleave(zoom, -1).repeat_interleave(zoom, -2)
    n, c, h, w = images.shape
    columns = min(columns, n)
    lines = -(-n // columns)
    canvas = torch.full((c, lines * (h + 2) - 2, columns * (w + 2) - 2), 255, dtype=torch.uint8)
    for i, image in enumerate(images):
        y, x = i // columns * (h + 2), i % columns * (w + 2)
        canvas[:, y : y + h, x : x + w] = image
    return canvas


def rate_figure(
    history: list[tuple[int, float, float]], baselines: dict[str, float], bound: str = "negative ELBO"
) -> Figure:
    """Bits/dim of files and of the bound over training steps, other codecs as lines; bound: its name."""
    figure = Figure((7, 4.5), layout="constrained")
    axes = figure.subplots()
    steps, files, bounds = zip(*history, strict=True)
    axes.plot(steps, files, "o-", label="file, decoded equal")
    axes.plot(steps, bounds, ".--", label=bound)
    for i, (name, rate) in enumerate(sorted(baselines.items(), key=lambda pair: -pair[1])):
        axes.axhline(rate, color=f"C{2 + i}", linewidth=1, linestyle=":", label=f"{name} {rate:.2f}")
    axes.set(xlabel="training steps", ylabel="bits per dimension", title="Rate of held-out data")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def layers_figure(layers: list[tuple[int, list[float]]], names: Sequence[str]) -> Figure:
    """Bits/dim of each part of the bound over training steps, on top of each other; layers: step and those of parts."""
    figure = Figure((7, 4.5), layout="constrained")
    latents, shares = figure.subplots(1, 2)
    steps = [step for step, _ in layers]
    parts = np.array([parts for _, parts in layers]).T
    for i, (name, part) in enumerate(zip(names, parts, strict=True)):
        if i:
            latents.plot(steps, part, "o-", color=f"C{i}", label=name)
    latents.set(xlabel="training steps", ylabel="bits per dimension", title="Latent layers")
    shares.stackplot(steps, 100 * parts / parts.sum(0), labels=names, colors=[f"C{i}" for i in range(len(names))])
    shares.set(xlabel="training steps", ylabel="per cent of all bits", title="Shares", ylim=(0, 100))
    for axes in (latents, shares):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def accuracy_figure(curves: dict[str, list[tuple[float, float]]], score: str) -> Figure:
    """A score over bits per dimension, a curve for each method; what has more than 8 bits is a horizontal line."""
    figure = Figure((7, 4.5), layout="constrained")
    axes = figure.subplots()
    for i, (name, points) in enumerate(curves.items()):
        bits, scores = zip(*sorted(points), strict=True)
        if min(bits) > 8:
            axes.axhline(scores[0], color=f"C{i}", linewidth=1, linestyle=":", label=f"{name} ({bits[0]:.1f} bits)")
        else:
            axes.plot(bits, scores, "o-", color=f"C{i}", label=name)
    axes.set(xlabel="bits per dimension, without the vocabulary", ylabel=score, title="Analogies answered by files")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def rate_table(title: str, result: dict[str, float], others: dict[str, float]) -> str:
    """The table that people read: rates beside those of `images.baselines`.

    result: of `evaluation.evaluate`, or of a model without bound and networks.
    """
    rates = {**others, "this model, file": result["file_bpd"]}
    width = max(map(len, rates))
    lines = [f"{title}, decoded equal; bits per dimension of file bytes:"]
    for name, rate in sorted(rates.items(), key=lambda pair: pair[1]):
        lines.append(f"  {name:{width}}  {rate:.4f}{'  <--' if name == 'this model, file' else ''}")
    if "elbo_bpd" in result:
        gap = {name[4:-4].replace("_", " "): value for name, value in result.items() if name.startswith("gap/")}
        parts = ", ".join(f"{name} {value:+.4f}" for name, value in gap.items())
        layers = [f"{name[7:-4]} {value:.4f}" for name, value in result.items() if name.startswith("layers/")]
        bound = f"{result['elbo_bpd']:.4f}" + f" ({', '.join(layers)})" * (len(layers) > 1)
        lines.append(f"of which: negative ELBO {bound}, {parts}; net {result['net_bpd']:.4f}")
    for way in ("encode", "decode"):
        line, share = f"{way}: {result[f'speed/{way}_MB_per_s']:.3f} MB/s", result.get(f"speed/{way}_coder_share")
        if share is not None:
            line += f"; entropy coder {100 * share:.1f} % of the time, "
            line += f"{100 * share / (1 - share):.1f} % of the networks' time"
        lines.append(line)
    return "\n".join(lines)


def rate_bars(result: dict[str, float], others: dict[str, float]) -> Figure:
    """Bars of the rates, the model's with its bound marked, if it has one."""
    rates = dict(sorted({**others, "this model": result["file_bpd"]}.items(), key=lambda pair: -pair[1]))
    plot = Figure((7, 0.4 * len(rates) + 1.2), layout="constrained")
    axes = plot.subplots()
    bars = axes.barh(list(rates), list(rates.values()), color=["C0" if n == "this model" else "0.75" for n in rates])
    axes.bar_label(bars, fmt="%.3f", padding=3, fontsize=8)
    axes.set(xlabel="bits per dimension (file bytes)", xlim=(0, 1.12 * max(rates.values())))
    if "elbo_bpd" in result:
        axes.axvline(result["elbo_bpd"], color="C0", linestyle=":", label="negative ELBO")
        axes.legend(loc="lower right", fontsize=8)
    return plot
