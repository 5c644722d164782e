"""A person's arrays of images (.npy, .pt) as uint8 [n, c, h, w], and back with their shape and dtype."""

import io
import math
import mmap
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from toolkit.container import plain
from toolkit.images.files import Item

# What the axes of an array mean; the channel axis has length 1 or 3.
AXES = ("hw", "nhw", "hwc", "nhwc", "nchw")
PART = 1 << 24  # values of a mapped file that are in memory at a time


class Array(NamedTuple):
    """All that it takes to restore an array from its rows."""

    name: str  # relative path with forward slashes
    format: str  # "npy" or "pt"
    dtype: str  # numpy's name with byte order, like "<i8"
    shape: tuple[int, ...]
    axes: str  # one of AXES

    @property
    def images(self) -> tuple[int, int, int, int]:
        """The shape (n, c, h, w) as images."""
        n, c, h, w = (self.shape[self.axes.index(axis)] if axis in self.axes else 1 for axis in "nchw")
        return n, c, h, w

    @property
    def item(self) -> Item:
        """What each image of the array is to `tiles` and `untile`; all are alike."""
        _, c, h, w = self.images
        return Item(self.name, "L" if c == 1 else "RGB", h, w)


def described(name: Any, format: Any, dtype: Any, shape: Any, axes: Any) -> Array:
    """The description of an array as a file holds it. Raises ValueError unless `open_array` could have made it."""
    whole = isinstance(shape, list) and len(shape) <= 4 and all(type(n) is int and 0 < n < 1 << 40 for n in shape)
    known = whole and isinstance(name, str) and format in ("npy", "pt") and isinstance(dtype, str)
    if not known or not re.fullmatch(r"\|[biu]1|[<>][iu][248]", dtype) or axes_of(tuple(shape)) != axes:
        raise ValueError(
            f"expected an array of integers in npy or pt, got {str((name, format, dtype, shape, axes))[:200]}"
        )
    return Array(name, format, dtype, tuple(shape), axes)


def axes_of(shape: tuple[int, ...]) -> str:
    """Decide what the axes of an array mean, by which of them has length 1 or 3: one of AXES.

    [h, w]; [h, w, c] if c is 1 or 3, else [n, h, w]; [n, c, h, w] if c is 1 or 3, else [n, h, w, c].
    Raises ValueError for any other shape, and for a shape without values.
    """
    if math.prod(shape) > 0:
        if len(shape) == 2:
            return "hw"
        if len(shape) == 3:
            return "hwc" if shape[2] in (1, 3) else "nhw"
        if len(shape) == 4 and shape[1] in (1, 3):
            return "nchw"
        if len(shape) == 4 and shape[3] in (1, 3):
            return "nhwc"
    raise ValueError(
        "expected images [h, w], [h, w, c], [n, h, w], [n, h, w, c] or [n, c, h, w] with c = 1 or 3, "
        f"got the shape {list(shape)}; do: reshape the array"
    )


def to_images(array: np.ndarray, axes: str) -> np.ndarray:
    """Turn an array of integers from 0 to 255 with these axes into uint8 [n, c, h, w]."""
    n_c_h_w = [axes.index(axis) for axis in "nchw" if axis in axes]
    array = array.transpose(n_c_h_w)
    for position, axis in enumerate("nchw"):
        if axis not in axes:
            array = np.expand_dims(array, position)
    # A copy in any case: a file that is mapped into memory can be neither changed nor closed safely under it.
    return np.array(array, dtype=np.uint8, order="C")


def load_array(path: str | Path, name: str | None = None) -> tuple[np.ndarray, Array]:
    """Read images from an array file: (uint8 [n, c, h, w], what restores the array from them); see `open_array`."""
    values, array = open_array(path, name)
    return to_images(values, array.axes), array


def one_image(values: np.ndarray, array: Array, i: int) -> np.ndarray:
    """Image i of an opened array: uint8 [c, h, w]; no other image is read."""
    found = to_images(values[i : i + 1] if array.axes[0] == "n" else values, array.axes)[0]
    if _is_last_of_part(i, found):
        _let_go(values)
    return found


def _is_last_of_part(i: int, image: np.ndarray) -> bool:
    """Whether image i is the last of about as many as have PART values, images being read or written in their order."""
    return (i + 1) % max(1, PART // image.size) == 0


def open_array(path: str | Path, name: str | None = None) -> tuple[np.ndarray, Array]:
    """Open images in a .npy file (mapped, not read) or a .pt file: (the array, what restores it from images).

    Takes any integer or bool dtype whose values lie from 0 to 255, and the shapes of `axes_of`; a .pt file must hold
    one tensor. `name`: the relative path to remember, by default the file's own name. Raises FileNotFoundError, and
    ValueError for anything else in the file; a file never runs code.
    """
    path = Path(path)
    array, kind = _read(path), path.suffix.lower()[1:]
    if array.dtype.kind not in "biu":
        raise ValueError(
            f"{path}: expected integers from 0 to 255, got dtype {array.dtype}; "
            'do: quantise them first, for instance (x * 255).round().astype("uint8")'
            + "; or if they are word vectors, use toolkit export_embeddings"
            * (array.ndim == 2)
        )
    try:
        axes = axes_of(array.shape)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    low, high = (0, 255) if array.dtype.itemsize == 1 and array.dtype.kind != "i" else _range(array)
    if low < 0 or high > 255:
        raise ValueError(
            f"{path}: expected integers from 0 to 255, got values from {low} to {high}; "
            "do: shift or split them into bytes first"
        )
    return array, Array(name or path.name, kind, array.dtype.str, array.shape, axes)


def _range(array: np.ndarray) -> tuple[int, int]:
    """The least and the largest value."""
    values = array if array.flags.c_contiguous else array.T  # in the order of the file
    rows = max(1, len(values) * PART // values.size)
    parts = [(int(part.min()), int(part.max())) for part in _parts(values, rows)]
    return min(low for low, _ in parts), max(high for _, high in parts)


def _parts(values: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    for first in range(0, len(values), rows):
        yield values[first : first + rows]
        _let_go(values)


def _let_go(values: np.ndarray) -> None:
    """Let the system take back the memory of a mapped file, which it reads again where it is needed."""
    while isinstance(values.base, np.ndarray):
        values = values.base
    if isinstance(values.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        values.base.madvise(mmap.MADV_DONTNEED)


def _read(path: Path) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"expected an array file (.npy, .pt), got {path}, which is no file; do: check the path")
    value: Any
    try:
        if path.suffix.lower() == ".npy":
            value = np.load(path, mmap_mode="r", allow_pickle=False)
            if isinstance(value, np.memmap) and (more := path.stat().st_size - value.offset - value.nbytes):
                raise ValueError(f"{more} bytes follow its first array; one array a file")
        elif path.suffix.lower() == ".pt":
            import torch  # takes longer than compressing a picture, and other files have no need of it

            value = torch.load(path, map_location="cpu", weights_only=True)
            if isinstance(value, torch.Tensor) and value.layout == torch.strided and value.dtype != torch.bfloat16:
                value = value.detach().numpy()
        else:
            raise ValueError("its name ends in neither")
    except Exception as error:  # numpy, zipfile and pickle raise whatever they like for a broken file
        reason = plain(error) or type(error).__name__
        raise ValueError(
            f"{path}: expected a .npy file, or a .pt file of a tensor, that can be read ({reason}); do: save it again"
        ) from error
    if not isinstance(value, np.ndarray):
        kind = f"{value.dtype} tensor" if hasattr(value, "dtype") else type(value).__name__
        raise ValueError(f"{path}: expected one array of integers, got a {kind}; do: save the array alone")
    return value


def restore_array(images: np.ndarray, array: Array) -> np.ndarray:
    """Undo `load_array`: uint8 [n, c, h, w] -> the array with its shape and dtype.

    Raises ValueError if the description, which may come from a file of someone else, does not fit the images.
    """
    shape = tuple(array.shape)
    fits = array.axes in AXES and len(array.axes) == len(shape)
    if not fits or list(array.images) != list(images.shape) or np.dtype(array.dtype).kind not in "biu":
        raise ValueError(
            f"expected the images of {array}, got {images.dtype} {list(images.shape)}; "
            "do: pass the rows and the description of the same file"
        )
    missing = [position for position, axis in enumerate("nchw") if axis not in array.axes]
    values = images.squeeze(tuple(missing))
    present = [axis for axis in "nchw" if axis in array.axes]
    values = values.transpose([present.index(axis) for axis in array.axes])
    return np.ascontiguousarray(values).astype(np.dtype(array.dtype))


def _allocate(path: str | Path) -> None:
    """Take the room of a sparse file now. Raises OSError: later, a full disk would end the process by a signal."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)


@contextmanager
def writer(path: str | Path, array: Array, resume: bool = False) -> Iterator[Callable[[int, np.ndarray], None]]:
    """Write an array image by image: yields write(i, uint8 [c, h, w]); a .npy file is mapped, so memory is bounded.

    Images that are not written are zeros, or, with resume, what the .npy file at `path` holds. Raises ValueError for an
    unknown format.
    """
    if array.format not in ("npy", "pt"):
        raise ValueError(f"expected the format npy or pt, got {array.format!r}; do: update this toolkit")
    values: np.ndarray
    if array.format == "npy":
        how = (np.dtype(array.dtype), tuple(array.shape))
        values = np.lib.format.open_memmap(path, "r+") if resume else np.lib.format.open_memmap(path, "w+", *how)
        _allocate(path)
    else:
        values = np.zeros(tuple(array.shape), np.dtype(array.dtype))
    one = array._replace(shape=(1, *array.shape[1:]) if array.axes[0] == "n" else array.shape)

    def write(i: int, image: np.ndarray) -> None:
        restored = restore_array(image[None], one)
        if array.axes[0] == "n":
            values[i : i + 1] = restored
        else:
            values[...] = restored
        if _is_last_of_part(i, image):
            _let_go(values)

    yield write
    if isinstance(values, np.memmap):
        values.flush()
    else:
        import torch

        data = io.BytesIO()  # for a full disk torch.save has errors of its own
        torch.save(torch.from_numpy(values.astype(values.dtype.newbyteorder("="), copy=False)), data)
        Path(path).write_bytes(data.getbuffer())
