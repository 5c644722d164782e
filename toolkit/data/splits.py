"""Splits: the three integer tensors that every image source returns, and the ways to cut pictures into rows."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor


class Splits(NamedTuple):
    """One data set, each part uint8 [rows, channels, height, width] with the same channels, height and width."""

    train: Tensor
    validation: Tensor
    test: Tensor
    name: str


def check(splits: Splits) -> Splits:
    """Return the splits unchanged if they are three uint8 tensors of rows of one shape.

    Raises ValueError otherwise, and for a part without rows.
    """
    for part, rows in zip(("train", "validation", "test"), splits[:3], strict=True):
        if rows.dtype != torch.uint8 or rows.ndim != 4:
            raise ValueError(
                f"expected the {part} part of {splits.name} as uint8 [rows, channels, height, width], "
                f"got {rows.dtype} {list(rows.shape)}; do: convert it in the function that returns the Splits"
            )
        if not len(rows):
            raise ValueError(f"expected at least one row in the {part} part of {splits.name}, got none; do: add images")
        if rows.shape[1:] != splits.train.shape[1:]:
            raise ValueError(
                f"expected rows of one shape in {splits.name}, got {list(splits.train.shape[1:])} in train and "
                f"{list(rows.shape[1:])} in {part}; do: cut both to the same shape"
            )
    return splits


def hold_out(train: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Split off the last rows of a training set for validation: (the others, the last `rows`).

    Raises ValueError unless 1 <= rows < the number of training rows.
    """
    if len(train) < 2:
        raise ValueError(f"expected at least two training rows, of which some validate, got {len(train)}; do: add some")
    if not 1 <= rows < len(train):
        raise ValueError(
            f"expected validation_rows from 1 to {len(train) - 1} (the training set has {len(train)} rows), "
            f"got {rows}; do: set data.splits.validation_rows"
        )
    return train[:-rows], train[-rows:]


def by_hash(files: Sequence[Path], root: Path) -> list[Path]:
    """Files below a folder in an order that names alone decide, so that new ones leave most others where they are."""
    return sorted(files, key=lambda file: hashlib.sha256(file.relative_to(root).as_posix().encode()).digest())


def downsample(image: Tensor, factor: int) -> Tensor:
    """Make a picture uint8 [c, h, w] smaller by an integer factor: uint8 [c, h // factor, w // factor].

    Lanczos: block and ringing artefacts of an earlier JPEG file sit at frequencies that it removes.
    """
    if factor == 1:
        return image
    height, width = image.shape[1] // factor, image.shape[2] // factor
    box = (0, 0, width * factor, height * factor)
    planes = [
        np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.LANCZOS, box))
        for plane in image.numpy()
    ]
    return torch.from_numpy(np.stack(planes))


def grid_crops(image: Tensor, size: int) -> Tensor:
    """Cut a picture uint8 [c, h, w] into its squares that do not overlap: uint8 [n, c, size, size], row by row.

    What is left over on the right and at the bottom is dropped.
    """
    crops = image.unfold(1, size, size).unfold(2, size, size)  # [c, rows, columns, size, size]
    return crops.flatten(1, 2).transpose(0, 1).contiguous()


def random_crops(image: Tensor, rows: int, size: int, generator: torch.Generator) -> Tensor:
    """Cut `rows` squares at random places out of a picture uint8 [c, h, w]: uint8 [rows, c, size, size]."""
    views = image.unfold(1, size, 1).unfold(2, size, 1)  # [c, h - size + 1, w - size + 1, size, size], no copy
    y = torch.randint(views.shape[1], (rows,), generator=generator)
    x = torch.randint(views.shape[2], (rows,), generator=generator)
    return views[:, y, x].transpose(0, 1).contiguous()


def shares(rows: int, parts: int) -> list[int]:
    """Divide a number of rows among parts as equally as integers allow."""
    return [rows // parts + (i < rows % parts) for i in range(parts)]


def spread(rows: Tensor, n: int) -> Tensor:
    """At most n of the rows, evenly spread over all."""
    return rows if len(rows) <= n else rows[torch.arange(n) * len(rows) // n]
