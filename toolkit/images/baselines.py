"""The codecs people would use instead, measured in bits per dimension of real encoded bytes."""

import bz2
import functools
import gzip
import importlib.util
import io
import lzma
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from toolkit.images import deep

LABELS = {"JPEG XL": "JPEG XL, effort 7", "WebP": "WebP, lossless", "PNG": "PNG"}
WEBP_LARGEST = 16_383  # pixels a side, a limit of the WebP format


def lossless(images: Tensor, rows: int = 500, mosaic_rows: int = 10_000) -> dict[str, float]:
    """Measure lossless codecs on images uint8 [n, c, h, w], c = 1 or 3: bits per dimension, by name of the codec.

    "PNG", "WebP", "JPEG XL": each image is a file of its own; at most `rows` images, evenly spread. "PNG mosaic" and so
    on: the images as tiles of one square picture, row by row, which is kinder to the codec: one header, and a context
    that learns across images. "gzip", "bzip2", "xz": the bytes [n, c, h, w] as one stream. Both of these: at most
    `mosaic_rows` images, evenly spread. JPEG XL is absent unless pillow-jxl-plugin is installed, WebP where an image is
    larger than its format allows. Raises ValueError for another dtype or shape, or for no images.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or not images.numel():
        raise ValueError(
            f"expected images uint8 [n, 1 or 3, h, w] with n of at least 1, got {images.dtype} {list(images.shape)}; "
            "do: pass the rows of a data module, for instance data.test"
        )
    if min(rows, mosaic_rows) < 1:
        raise ValueError(f"expected rows and mosaic_rows of at least 1, got {rows} and {mosaic_rows}; do: raise them")
    few, many = _spread(images.cpu(), rows), _spread(images.cpu(), mosaic_rows)
    pictures = [_picture(image.numpy()) for image in few]
    result = {}
    for name, encode in _codecs(max(images.shape[2:])).items():
        result[name] = 8 * sum(len(encode(picture)) for picture in pictures) / few.numel()
    for name, encode in _codecs(max(images.shape[2:])).items():
        result[f"{name} mosaic"] = 8 * sum(len(encode(picture)) for picture in mosaics(many)) / many.numel()
    data = many.numpy().tobytes()
    for name, stream in (
        ("gzip", gzip.compress(data, 9, mtime=0)),
        ("bzip2", bz2.compress(data, 9)),
        ("xz", lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)),
    ):
        result[name] = 8 * len(stream) / many.numel()
    return result


def comparison(ours: tuple[str, int, float], pictures: Iterable[np.ndarray]) -> str:
    """A table of our file, (name, bytes, seconds), beside other lossless codecs of the same pictures, each one file.

    pictures: uint8 or uint16 [c, h, w], c from 1 to 4, of any sizes. A codec that cannot take one of them is absent.
    """
    sizes, coded, seconds, values, count = Counter[str](), Counter[str](), dict.fromkeys(LABELS, 0.0), 0, 0
    for picture in pictures:
        for name, encode in _files(picture).items():
            began = time.perf_counter()
            sizes[name] += len(encode())
            seconds[name] += time.perf_counter() - began
            coded[name] += 1
        values, count = values + picture.size, count + 1
    rows = [ours, *((LABELS[name], sizes[name], seconds[name]) for name in LABELS if coded[name] == count)]
    lines = [f"{'':24} {'bytes':>13} {'bits/dim':>9} {'':21} {'seconds':>9} {'MB/s':>8}"]
    for name, size, spent in rows:
        beside = _compared(ours[1], size) if name != ours[0] else ""
        lines.append(
            f"{name[-24:]:24} {size:13} {8 * size / values:9.4f} {beside:21} {spent:9.2f} {values / 1e6 / spent:8.2f}"
        )
    return "\n".join([*lines, "MB/s: millions of values; other codecs on all threads that they take"])


def _compared(ours: int, theirs: int) -> str:
    share = 100 * (ours / theirs - 1)
    return f"ours is {abs(share):.1f} % {'smaller' if share < 0 else 'larger'}"


def sizes(pictures: Sequence[np.ndarray]) -> dict[str, list[int]]:
    """Bytes of each picture, uint8 or uint16 [c, h, w], as a file of PNG, WebP and JPEG XL, by name of the codec.

    A codec that cannot take one of them is absent: WebP where one is larger than its format allows, or has 16 bits a
    value, JPEG XL without its plugin, which takes 16 bits in grey alone.
    """
    files = list(map(_files, pictures))
    common = [name for name in files[0] if all(name in other for other in files)]
    return {name: [len(other[name]()) for other in files] for name in common}


def mosaics(images: Tensor) -> list[Image.Image]:
    """Lay images uint8 [n, c, h, w] out as tiles of one square picture, row by row; free places are black.

    Several pictures only where one would be larger than WebP allows, so that all codecs get the same.
    """
    n, c, h, w = images.shape
    side = max(1, min(math.ceil(math.sqrt(n)), WEBP_LARGEST // max(h, w)))
    pictures = []
    for part in torch.split(images, side * side):
        down = math.ceil(len(part) / side)
        tiles = torch.zeros(down * side, c, h, w, dtype=torch.uint8)
        tiles[: len(part)] = part
        picture = tiles.view(down, side, c, h, w).permute(2, 0, 3, 1, 4).reshape(c, down * h, side * w)
        pictures.append(_picture(picture.numpy()))
    return pictures


def _files(picture: np.ndarray) -> dict[str, Callable[[], bytes]]:
    """What makes files of a picture, by name of the codec."""
    if picture.dtype == np.uint16 and len(picture) > 1:  # which Pillow has no mode for
        return {"PNG": lambda: deep.png(picture, {})}
    image, codecs = _picture(picture), _codecs(max(picture.shape[1:]))
    if picture.dtype == np.uint16:
        codecs.pop("WebP", None)
    return {name: functools.partial(encode, image) for name, encode in codecs.items()}


def _picture(values: np.ndarray) -> Image.Image:  # uint8 [c, h, w] -> mode L, LA, RGB or RGBA; uint16 [1, h, w]
    return Image.fromarray(values[0] if len(values) == 1 else np.ascontiguousarray(values.transpose(1, 2, 0)))


def _spread(images: Tensor, rows: int) -> Tensor:
    """At most `rows` images, evenly spread: the first ones may all be of one photograph or one class."""
    if len(images) <= rows:
        return images.contiguous()
    return images[torch.linspace(0, len(images) - 1, rows, dtype=torch.float64).round().long()]


def _codecs(side: int) -> dict[str, Callable[[Image.Image], bytes]]:
    codecs: dict[str, Callable[[Image.Image], bytes]] = {"PNG": lambda image: _save(image, "PNG", optimize=True)}
    if side <= WEBP_LARGEST:
        codecs["WebP"] = _webp
    if importlib.util.find_spec("pillow_jxl"):
        import pillow_jxl  # noqa: F401 - registers the format with Pillow; optional, so imported only where used

        codecs["JPEG XL"] = lambda image: _save(image, "JXL", lossless=True, effort=7)
    return codecs


def _webp(image: Image.Image) -> bytes:
    # WebP has no grey mode; its own transform finds that the three channels are equal.
    colour = image.convert("RGBA" if image.has_transparency_data else "RGB")
    return _save(colour, "WEBP", lossless=True, quality=100, method=6, exact=True)  # below opacity 0, too


def _save(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()
