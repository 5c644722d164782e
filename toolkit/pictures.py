"""Pictures of the training loop and of results: image grids and figures, headless."""

from __future__ import annotations

import matplotlib
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


def rate_figure(history: list[tuple[int, float, float]], baselines: dict[str, float]) -> Figure:
    """Bits/dim of files and of the bound over training steps, other codecs as lines."""
    figure = Figure((7, 4.5), layout="constrained")
    axes = figure.subplots()
    steps, files, bounds = zip(*history, strict=True)
    axes.plot(steps, files, "o-", label="file, decoded equal")
    axes.plot(steps, bounds, ".--", label="negative ELBO")
    for (name, rate), colour in zip(sorted(baselines.items(), key=lambda b: -b[1]), "C3 C1 C2 C4 C5 C6 C7 C8".split()):
        axes.axhline(rate, color=colour, linewidth=1, linestyle=":", label=f"{name} {rate:.2f}")
    axes.set(xlabel="training steps", ylabel="bits per dimension", title="Rate of held-out rows")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure
