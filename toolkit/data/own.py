"""A person's own images as training data: an array file for each part, or a folder of pictures."""

import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from toolkit import places
from toolkit.container import plain
from toolkit.data.splits import Splits, by_hash, downsample, grid_crops, hold_out, random_crops, shares
from toolkit.images.arrays import to_images
from toolkit.images.files import read_image
from toolkit.images.folder import find
from toolkit.images.source import coded


def array(
    train: str | Path,
    validation: str | Path | None = None,
    test: str | Path | None = None,
    validation_rows: int = 5_000,
    layout: str | None = None,
    name: str = "array",
) -> Splits:
    """Images from .npy files, also at URLs: rows uint8 [n, c, h, w].

    Files hold uint8 [n, h, w], [n, h, w, c] or [n, c, h, w] with c = 1 or 3.

    Without a file for validation: the last `validation_rows` of train. Without one for test: the validation rows, so
    that a test figure exists but says no more than the validation one. `layout`: "nchw" or "nhwc", only needed where
    the shape fits both. Raises FileNotFoundError, and ValueError for another dtype, shape or layout.
    """
    rows = _read_rows(train, layout)
    if validation is None:
        rows, held_out = hold_out(rows, validation_rows)
    else:
        held_out = _read_rows(validation, layout)
    return Splits(rows, held_out, held_out if test is None else _read_rows(test, layout), name)


def _read_rows(path: str | Path, layout: str | None) -> Tensor:  # uint8 [n, c, h, w]
    if places.is_url(str(path)):
        places.check_plain(str(path))
        with tempfile.TemporaryDirectory() as here:
            return _read_rows(places.fetch(str(path), Path(here) / places.name_of(str(path))), layout)
    if not Path(path).is_file():
        raise FileNotFoundError(f"expected a .npy file at {path}, found none; do: set data.splits.train to your file")
    try:
        with open(path, "rb") as file:
            values = np.load(file, allow_pickle=False)
            if isinstance(values, np.ndarray) and file.read(1):
                raise ValueError("bytes follow its first array; one array a file")
    except Exception as error:  # numpy and zipfile raise whatever they like for a broken file
        raise ValueError(f"{path}: expected a .npy file of a uint8 array ({plain(error)}); save it again") from error
    if not isinstance(values, np.ndarray) or values.dtype != np.uint8:
        got = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
        raise ValueError(f"{path}: expected a uint8 array, got {got}; do: save it with array.astype('uint8')")
    shape = values.shape
    if layout not in (None, "nchw", "nhwc"):
        raise ValueError(f"expected layout nchw or nhwc, got {layout!r}; do: set data.splits.layout")
    fits = {"nchw": len(shape) == 4 and shape[1] in (1, 3), "nhwc": len(shape) == 4 and shape[3] in (1, 3)}
    if len(shape) == 3:
        return torch.from_numpy(to_images(values, "nhw"))
    if layout is None and all(fits.values()):
        raise ValueError(
            f"{path}: expected a shape with one axis of channels, got {list(shape)}, which fits [n, c, h, w] and "
            "[n, h, w, c]; do: set data.splits.layout to nchw or nhwc"
        )
    axes = layout or next((axes for axes, fit in fits.items() if fit), "nchw")
    if not fits[axes]:
        raise ValueError(
            f"{path}: expected [n, h, w], [n, h, w, c] or [n, c, h, w] with c = 1 or 3"
            f"{f' and layout {layout}' if layout else ''}, got {list(shape)}; do: reshape the array"
        )
    return torch.from_numpy(to_images(values, axes))


def folder(
    path: str | Path,
    size: int = 32,
    channels: int = 3,
    downsample_by: int = 1,
    train_rows: int = 20_000,
    evaluation_rows: int = 2_000,
    seed: int = 0,
) -> Splits:
    """Square crops of the pictures below a folder, also at a URL: rows uint8 [n, channels, size, size].

    Whole pictures go to train, validation or test, 80 / 10 / 10 and at least one each, in the order of a hash of their
    relative names. Training: `train_rows` crops at random places, drawn once with `seed`, equally many from each
    picture. Validation and test: squares that do not overlap, at most `evaluation_rows` of them, evenly spread.
    `downsample_by`: makes each picture smaller first; 2 or more removes the traces of JPEG files. A grey picture among
    RGB rows stands in all three channels; an RGB picture among grey rows becomes three planes. Pictures smaller than
    `size` are skipped with a warning. Raises ValueError if fewer than 3 are left, or if one cannot be read exactly.
    """
    if min(size, downsample_by, train_rows, evaluation_rows) < 1 or channels not in (1, 3):
        raise ValueError(
            "expected size, downsample_by, train_rows and evaluation_rows of at least 1, and channels 1 or 3, got "
            f"{size}, {downsample_by}, {train_rows}, {evaluation_rows} and {channels}; do: set them in data.splits"
        )
    if places.is_url(str(path)):
        places.check_plain(str(path))
        with tempfile.TemporaryDirectory() as here:
            copy = places.fetch(str(path), Path(here) / places.name_of(str(path)), coded)
            return folder(copy, size, channels, downsample_by, train_rows, evaluation_rows, seed)
    root = Path(path)
    found = find(root)
    files = [file for file in found if min(_header_size(file)) // downsample_by >= size]
    if len(files) < 3:
        raise ValueError(
            f"expected at least 3 pictures of {size * downsample_by} x {size * downsample_by} pixels or more in {root} "
            f"(one each to train, validate and test), got {len(files)} of {len(found)}; do: add pictures, or set a "
            "smaller data.splits.size or data.splits.downsample_by"
        )
    if len(files) < len(found):
        warnings.warn(
            f"{len(found) - len(files)} of {len(found)} pictures in {root} skipped: smaller than "
            f"{size * downsample_by} x {size * downsample_by} pixels",
            stacklevel=2,
        )
    files = by_hash(files, root)
    tenth = max(1, round(len(files) / 10))
    validation, test, train = files[:tenth], files[tenth : 2 * tenth], files[2 * tenth :]

    generator = torch.Generator().manual_seed(seed)
    crops = []
    for file, rows in zip(train, shares(train_rows, len(train)), strict=True):  # one picture in memory at a time
        planes = list(_pictures(file, channels, downsample_by))
        for plane, n in zip(planes, shares(rows, len(planes)), strict=True):
            crops.append(random_crops(plane, n, size, generator))
    together = torch.cat(crops)
    return Splits(
        together[torch.randperm(len(together), generator=generator)],
        _evaluation(validation, size, channels, downsample_by, evaluation_rows),
        _evaluation(test, size, channels, downsample_by, evaluation_rows),
        root.name or "folder",
    )


def _header_size(file: Path) -> tuple[int, int]:
    try:
        with Image.open(file) as image:  # reads the header only
            return image.size
    except Exception:
        read_image(file)  # says what is wrong with it
        raise


def _pictures(file: Path, channels: int, factor: int) -> Iterator[Tensor]:  # each uint8 [channels, h, w]
    image = downsample(torch.from_numpy(read_image(file)), factor)
    yield from torch.split(image.expand(max(len(image), channels), -1, -1), channels)


def _evaluation(files: list[Path], size: int, channels: int, factor: int, rows: int) -> Tensor:
    crops = []
    for file, most in zip(files, shares(rows, len(files)), strict=True):
        squares = torch.cat([grid_crops(picture, size) for picture in _pictures(file, channels, factor)])
        keep = torch.linspace(0, len(squares) - 1, min(len(squares), most)).round().long()
        crops.append(squares[keep])
    return torch.cat(crops)
