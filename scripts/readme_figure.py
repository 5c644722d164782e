"""Draw the figure of README.md from figures in docs/results.md, which says how each was measured.

python scripts/readme_figure.py [--out docs/images/results.png]
"""

import argparse

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

matplotlib.use("Agg")

OURS, OTHERS = "#3f51b5", "#b0b4bd"
LOSSLESS = {  # bits a value of the CIFAR-10 test images
    "local": 3.4847, "bitswap": 3.6713, "Bit-Swap, published": 3.82, "JPEG XL, mosaic": 3.9763,
    "JPEG XL, single": 4.0864, "WebP, mosaic": 4.4462, "PNG, mosaic": 5.6195,
}  # fmt: skip
LOSSY = {"JPEG": -54.9, "JPEG XL": -32.4, "WebP": -32.2, "AVIF": -10.8}  # BD-rate of any_rate against each, per cent
WORDS = {  # (bits a coordinate without the vocabulary, share of the analogies that float32 answers)
    "word_embeddings": [(0.381, 0.74), (0.657, 0.91), (1.121, 1.00), (1.700, 1.02), (2.487, 1.01), (3.354, 1.01)],
    "published VBQ": [(0.677, 0.72), (1.198, 0.89), (1.821, 0.95), (2.547, 0.99), (3.179, 0.98)],
    "uniform quantisation": [(1.454, 0.70), (1.819, 0.84), (2.203, 0.90), (2.760, 0.97), (3.332, 0.99)],
    "product quantisation": [(0.645, 0.27), (1.125, 0.41), (2.085, 0.73), (4.085, 0.93)],
}


def bars(axes: Axes, values: dict[str, float], ours: set[str], form: str) -> None:
    """Horizontal bars, the first on top, each with its value."""
    names = list(values)[::-1]
    drawn = axes.barh(names, [values[n] for n in names], color=[OURS if n in ours else OTHERS for n in names])
    axes.bar_label(drawn, [form.format(values[n]) for n in names], padding=3, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def draw() -> Figure:
    """The figure: lossless pictures, lossy pictures, word vectors."""
    figure = Figure((11, 3.3), layout="constrained")
    lossless, lossy, words = figure.subplots(1, 3)
    bars(lossless, LOSSLESS, {"local", "bitswap"}, "{:.2f}")
    lossless.set(xlim=(0, 6.8), xlabel="bits per dimension", title="Lossless: CIFAR-10 test images")
    better = {name for name, rate in LOSSY.items() if rate < 0}
    bars(lossy, LOSSY, better, "{:+.1f} %")
    lossy.axvline(0, color="black", linewidth=0.8)
    lossy.set(xlim=(-72, 5), xlabel="BD-rate of any_rate; below 0: any_rate is smaller", title="Lossy: 16 photographs")
    styles = ((OURS, "o-"), ("#d1495b", "s--"), ("#7a7d85", "^--"), ("#b0b4bd", "v--"))
    for (name, points), (color, style) in zip(WORDS.items(), styles, strict=True):
        words.plot(*zip(*points, strict=True), style, color=color, markersize=4, label=name)
    words.set(xlim=(0, 4.3), ylim=(0, 1.08), xlabel="bits per dimension", title="Word vectors: analogies kept")
    words.set_ylabel("share of float32's score")
    words.grid(alpha=0.3)
    words.legend(fontsize=8)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="docs/images/results.png")
    draw().savefig(parser.parse_args().out, dpi=100)


if __name__ == "__main__":
    main()
