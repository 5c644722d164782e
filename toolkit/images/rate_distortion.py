"""Rate-distortion curves of pictures: of real files, of the codecs people use today, and the area between two."""

from __future__ import annotations

import functools
import io
import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image, features
from torch import Tensor

from toolkit.container import Reader
from toolkit.images import rate_archive
from toolkit.images.files import item_of
from toolkit.images.rate_coder import STRIDE, PictureCoder, psnr, tiles
from toolkit.images.rate_target import LEVELS, Target, lambda_of
from toolkit.images.source import Source

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")

QUALITIES = {
    "JPEG 4:2:0": (4, 7, 10, 15, 20, 30, 40, 50, 60, 70, 80, 88, 94),
    "JPEG 4:4:4": (4, 7, 10, 15, 20, 30, 40, 50, 60, 70, 80, 88, 94),
    "WebP": (1, 5, 10, 20, 35, 50, 65, 80, 90, 96),
    "AVIF": (10, 20, 35, 50, 65, 80, 92),
    "JPEG XL": (10, 20, 35, 50, 65, 80, 90, 96),
}
KMEANS_SIZES = (3, 5, 9, 17, 33)  # code points of each point of a curve
KMEANS_SAMPLES = 1 << 19  # latents that codebooks are fitted to
MOST_BPP = 2.0  # of figures
SMALLEST_MS_SSIM = 161  # pixels a side that its five scales need


class Point(NamedTuple):
    """Means over pictures, of each picture's own value."""

    bpp: float  # bits of the file a pixel
    psnr: float  # dB, of all channels together
    ms_ssim: float  # NaN where a picture is too small for it


Curve = list[Point]  # by rising rate


class Times(NamedTuple):
    """Seconds of the parts of coding a picture, without reading and writing image files."""

    latents: float  # networks
    search: float  # of code points and of a filter, and coding them
    reading: float  # decoding code points
    pixels: float  # networks, and the filter


def quality(picture: Tensor, restored: Tensor) -> tuple[float, float]:
    """PSNR in dB and MS-SSIM of uint8 [c, h, w] pictures."""
    if min(picture.shape[1:]) < SMALLEST_MS_SSIM:
        return psnr(picture, restored), math.nan
    # Imported here: seconds that only curves pay.
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim

    a, b = (x[None].float() for x in (restored, picture))
    return psnr(picture, restored), float(ms_ssim(a, b, data_range=255.0))


def mean(points: Sequence[Sequence[float]]) -> Point:
    """The mean of points of several pictures."""
    return Point(*np.mean(np.array(points, dtype=np.float64), 0).tolist())


def of_files(
    coder: PictureCoder, pictures: Sequence[Tensor], lambdas: Iterable[float], folder: Path,
    identity: dict[str, Any],
) -> tuple[Curve, dict[float, Tensor]]:  # fmt: skip
    """The curve of real files, a file a picture and lambda, decoded; also the first picture as each lambda restores it.

    Raises DamagedFile if a file does not decode to the coefficients that were encoded.
    """
    found, shown = [], dict[float, Tensor]()
    for lam in lambdas:
        points = []
        for picture in pictures:
            file = folder / "evaluation.tkc"
            item = item_of("picture", picture)
            origin = Source([item], functools.partial(_same, picture.numpy()), None)
            size, _ = rate_archive.compress(coder, origin, file, Target("lambda", lam), identity, progress=False)
            with Reader(file) as reader:
                [item], [level], [fitted] = rate_archive.described(reader)
                restored = rate_archive.picture_of(reader, coder, item, level, fitted, 0)
            shown.setdefault(lam, restored)
            points.append((8 * size / picture[0].numel(), *quality(picture, restored)))
        found.append(mean(points))
    return sorted(found), shown


def times(coder: PictureCoder, picture: Tensor, lam: float) -> Times:
    """The times of a picture uint8 [c, h, w] at a lambda, the least of three of each part."""
    _, height, width = picture.shape
    grid, item = tiles(height, width, coder.model.latents_halo), item_of("", picture)
    _, first = _least(lambda: [coder.latents(picture, tile) for tile in grid])
    (level, fitted, coded, _), whole = _least(lambda: coder.encode(picture, Target("lambda", lam)))
    sizes = [(tile.height, tile.width) for tile in grid]
    found, reading = _least(lambda: [coder.read(one, level, size) for (one, _), size in zip(coded, sizes, strict=True)])
    k = torch.zeros(1, coder.tables.channels, -(-height // STRIDE), -(-width // STRIDE), dtype=torch.int16)
    for tile, one in zip(grid, found, strict=True):
        k[(..., *tile.place())] = one
    _, pixels = _least(lambda: coder.restore(k, item, level, fitted))
    return Times(first, max(whole - first, 0.0), reading, pixels)


def _least(work: Callable[[], T]) -> tuple[T, float]:
    found = []
    for _ in range(3):
        began = time.perf_counter()
        result = work()
        found.append(time.perf_counter() - began)
    return result, min(found)


def speed(spent: Times, pixels: int) -> str:
    """What people read of the times of a picture of so many pixels."""
    lines = []
    for name, networks, rest in (
        ("encoding", spent.latents, {"search and coding": spent.search}),
        ("decoding", spent.pixels, {"decoding": spent.reading}),
    ):
        whole = networks + sum(rest.values())
        parts = ", ".join(f"{part} {100 * x / whole:.0f} %" for part, x in {"networks": networks, **rest}.items())
        lines.append(f"{name}: {1e6 * whole / pixels:.2f} s a megapixel; {parts}")
    return "\n".join(lines)


def of_kmeans(coder: PictureCoder, pictures: Sequence[Tensor], sizes: Iterable[int]) -> Curve:
    """The curve of k-means quantisation of the same latents: one codebook of so many points for all, fitted to these.

    Rates are entropies, of each channel's points over all pictures; codebooks and tables cost nothing.
    """
    means = [_whole(coder, picture) for picture in pictures]
    pooled = torch.cat([mu.flatten()[:: max(1, mu.numel() * len(means) // KMEANS_SAMPLES)] for mu in means])
    found = []
    for size in sizes:
        points = kmeans(pooled, size)
        indices = [torch.bucketize(mu, (points[1:] + points[:-1]) / 2) for mu in means]
        counts = [torch.stack([torch.bincount(c.flatten(), minlength=size) for c in index[0]]) for index in indices]
        total = torch.stack(counts).sum(0)
        cost = (total.sum(1, keepdim=True) / total.clamp(min=1)).log2()
        errors = [float((points[index] - mu).square().mean()) for index, mu in zip(indices, means, strict=True)]
        # The decoder's network wants to know how coarse the points are: as a uniform grid of the same error.
        wanted = math.sqrt(12 * sum(errors) / len(errors))
        level = min(range(LEVELS + 1), key=lambda i: abs(coder.model.step(lambda_of(i)) - wanted))
        step, results = coder.model.step(lambda_of(level)), []
        for picture, index, count in zip(pictures, indices, counts, strict=True):
            restored = coder.restore(points[index] / step, item_of("picture", picture), level)
            results.append((float((count * cost).sum()) / picture[0].numel(), *quality(picture, restored)))
        found.append(mean(results))
    return sorted(found)


def kmeans(values: Tensor, size: int) -> Tensor:
    """The code points of least squared error near float [n] values, in order: float [size] (Lloyd 1982)."""
    low, high = float(values.min()), float(values.max())
    # The start: as dense as the cube root of the values' density, which is best for many points (Panter, Dite 1951).
    share = torch.histc(values, 4096, low, high).double().pow(1 / 3).cumsum(0)
    at = torch.searchsorted(share, (torch.arange(size) + 0.5) / size * share[-1])
    points = (low + (high - low) * (at + 0.5) / 4096).float()
    for _ in range(30):
        near = torch.bucketize(values, (points[1:] + points[:-1]) / 2)
        count = torch.bincount(near, minlength=size)
        sums = torch.bincount(near, values.double(), size)
        points = torch.where(count > 0, (sums / count.clamp(min=1)).float(), points).sort().values
    return points


def _whole(coder: PictureCoder, picture: Tensor) -> Tensor:
    """The latents' means of a whole picture: float32 [1, channels, h / 8, w / 8]."""
    rows: dict[int, list[Tensor]] = {}
    for tile in tiles(picture.shape[1], picture.shape[2], coder.model.latents_halo):
        rows.setdefault(tile.y, []).append(coder.latents(picture, tile)[0])
    return torch.cat([torch.cat(row, 3) for row in rows.values()], 2)


def of_codecs(pictures: Sequence[Tensor]) -> dict[str, Curve]:
    """Curves of the codecs that Pillow has, at several qualities; JPEG with optimised Huffman tables."""
    saves: dict[str, Callable[[Image.Image, io.BytesIO, int], None]] = {
        "JPEG 4:2:0": lambda image, file, q: image.save(file, "JPEG", quality=q, optimize=True, subsampling=2),
        "JPEG 4:4:4": lambda image, file, q: image.save(file, "JPEG", quality=q, optimize=True, subsampling=0),
        "WebP": lambda image, file, q: image.save(file, "WEBP", quality=q, method=6),
    }
    if features.check("avif"):
        saves["AVIF"] = lambda image, file, q: image.save(file, "AVIF", quality=q, speed=6)
    try:
        import pillow_jxl  # noqa: F401 - registers the format with Pillow; optional

        saves["JPEG XL"] = lambda image, file, q: image.save(file, "JXL", quality=q, effort=7)
    except ImportError:
        pass
    curves = {}
    for name, save in saves.items():
        found = []
        for q in QUALITIES[name]:
            points = []
            for picture in pictures:
                file = io.BytesIO()
                save(_image(picture), file, q)
                with Image.open(file) as image:
                    values = np.array(image.convert("L" if len(picture) == 1 else "RGB"))
                back = torch.from_numpy(values if values.ndim == 3 else values[..., None]).permute(2, 0, 1)
                points.append((8 * file.getbuffer().nbytes / picture[0].numel(), *quality(picture, back)))
            found.append(mean(points))
        curves[name] = sorted(found)
    return curves


def envelope(curves: Sequence[Curve]) -> Curve:
    """The best of several curves at each rate: linear in log rate between points, at 200 rates."""
    low, high = min(c[0].bpp for c in curves), max(c[-1].bpp for c in curves)
    rates = np.exp(np.linspace(math.log(low), math.log(high), 200))
    best, similarity = (np.fmax.reduce([_at(c, rates, axis) for c in curves]) for axis in ("psnr", "ms_ssim"))
    return [Point(*p) for p in zip(rates.tolist(), best.tolist(), similarity.tolist(), strict=True)]


def _at(curve: Curve, rates: Any, axis: str) -> Any:
    """Values of a curve at some rates, NaN outside."""
    return np.interp(np.log(rates), _log_rates(curve), [getattr(p, axis) for p in curve], left=np.nan, right=np.nan)


def _log_rates(curve: Curve) -> list[float]:
    return [math.log(max(p.bpp, 1e-6)) for p in curve]  # a picture of a few pixels may take no bytes


def decibels(ms_ssim: float) -> float:
    """MS-SSIM on a scale on which near-perfect pictures differ."""
    return -10 * math.log10(max(1 - ms_ssim, 1e-6))


def bd_rate(curve: Curve, anchor: Curve, least: float = 0.0, most: float = math.inf, axis: str = "psnr") -> float:
    """Mean difference of rate at equal quality, in per cent of the anchor's rate; negative: `curve` needs fewer bits.

    least, most: rates of the anchor between which qualities are compared; axis: "psnr", or "ms_ssim", in dB. Log rate
    is linear in quality between points (Bjontegaard 2001, VCEG-M33, fits a cubic instead). NaN where the curves share
    no quality.
    """
    if axis == "ms_ssim":
        curve, anchor = ([p._replace(psnr=decibels(p.ms_ssim)) for p in c] for c in (curve, anchor))
    within = [p.psnr for p in anchor if least <= p.bpp <= most]
    if least > anchor[0].bpp:
        within.append(float(_at(anchor, np.array([least]), "psnr")[0]))
    if most < anchor[-1].bpp:
        within.append(float(_at(anchor, np.array([most]), "psnr")[0]))
    within = [value for value in within if not math.isnan(value)]
    low = max(min(within, default=math.inf), curve[0].psnr, anchor[0].psnr)
    high = min(max(within, default=-math.inf), curve[-1].psnr, anchor[-1].psnr)
    if not low < high:
        return math.nan
    qualities = np.linspace(low, high, 500)
    rates = [np.interp(qualities, [p.psnr for p in c], _log_rates(c)) for c in (curve, anchor)]
    return 100 * (math.exp(float(np.mean(rates[0] - rates[1]))) - 1)


def differences(curves: dict[str, Curve], axis: str = "psnr") -> dict[str, float]:
    """BD-rates of the first curve against all others from 0.2 to 1.2 bits a pixel.

    JPEG is the better of its two samplings of chroma at each rate.
    """
    mine, *_ = curves.values()
    anchors = {"JPEG": envelope([c for name, c in curves.items() if name.startswith("JPEG 4")])}
    anchors |= {name: c for name, c in list(curves.items())[1:] if not name.startswith("JPEG 4")}
    return {name: bd_rate(mine, anchor, 0.2, 1.2, axis) for name, anchor in anchors.items()}


def figure(curves: dict[str, Curve], title: str) -> Figure:
    """PSNR and MS-SSIM (in dB) over bits a pixel."""
    from matplotlib.figure import Figure  # half a second, for those who draw

    plot = Figure((11, 5), layout="constrained")
    left, right = plot.subplots(1, 2)
    for i, (name, curve) in enumerate(curves.items()):
        style: dict[str, Any] = {"linewidth": 2.2, "marker": "o"} if i == 0 else {"linewidth": 1, "marker": "."}
        shown = [p for p in curve if p.bpp <= MOST_BPP]
        left.plot([p.bpp for p in shown], [p.psnr for p in shown], label=name, **style)
        right.plot([p.bpp for p in shown], [decibels(p.ms_ssim) for p in shown], **style)
    left.set(xlabel="bits per pixel of file bytes", ylabel="PSNR of RGB, dB", title=title)
    right.set(xlabel="bits per pixel of file bytes", ylabel="MS-SSIM, -10 log10(1 - x)")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.set_xlim(0, MOST_BPP)
    left.legend(fontsize=8)
    return plot


def channel_figure(bits: Tensor, names: Sequence[tuple[int, int, int]], pixels: int) -> Figure:
    """A square of frequencies for each component: the bits float [channels] of each channel, over so many pixels.

    names: component (luma, two of chroma) and frequencies (down, across) of each channel.
    """
    side = 1 + max(down for _, down, _ in names)
    squares = np.zeros((3, side, side))
    for (component, down, across), value in zip(names, (bits / pixels).tolist(), strict=True):
        squares[component, down, across] = value
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    plot = Figure((11, 4), layout="constrained")
    most = max(float(squares.max()), 1e-9)
    for axes, square, name in zip(plot.subplots(1, 3), squares, ("luma", "chroma 1", "chroma 2"), strict=True):
        shown = axes.imshow(np.maximum(square, most / 1e5), norm=LogNorm(most / 1e5, most))
        axes.set(xlabel="frequency across", title=f"{name}: {square.sum():.4f} bits/pixel")
    plot.axes[0].set_ylabel("frequency down")
    bar = plot.colorbar(shown, ax=plot.axes, label="bits per pixel of each channel", format="%g")
    bar.ax.yaxis.set_minor_formatter(NullFormatter())  # plain numbers: powers want fonts that may be missing
    return plot


def table(curves: dict[str, Curve]) -> str:
    """What people read: the points of each curve, and differences of rate."""
    lines = []
    for name, curve in curves.items():
        lines.append(f"{name}:")
        lines.append("  bits/pixel " + " ".join(f"{p.bpp:7.3f}" for p in curve))
        lines.append("  PSNR, dB   " + " ".join(f"{p.psnr:7.2f}" for p in curve))
        if not any(math.isnan(p.ms_ssim) for p in curve):  # else a side is below SMALLEST_MS_SSIM
            lines.append("  MS-SSIM    " + " ".join(f"{p.ms_ssim:7.4f}" for p in curve))
    lines.append("BD-rate over 0.2 to 1.2 bits/pixel (negative: fewer bits at equal quality), PSNR of RGB and MS-SSIM:")
    similar = differences(curves, "ms_ssim")
    lines += [f"  against {name}: {_percent(x)}, {_percent(similar[name])}" for name, x in differences(curves).items()]
    return "\n".join(lines)


def _percent(difference: float) -> str:
    return "no common range" if math.isnan(difference) else f"{difference:+.1f} %"


def _same(picture: np.ndarray, number: int) -> np.ndarray:
    return picture


def _image(picture: Tensor) -> Image.Image:
    values = picture.permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(values[..., 0] if values.shape[2] == 1 else values))
