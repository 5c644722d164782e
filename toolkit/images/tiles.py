"""Pictures cut into tiles, which are the rows of a model [channels, th, tw], and back; as many as cover a picture."""

from __future__ import annotations

import torch
from torch import Tensor

from toolkit.images.files import CHANNELS, PLAIN, Item, item_of


def _grid(item: Item, channels: int, size: tuple[int, int]) -> tuple[int, int]:
    """Tiles down and across."""
    if item.mode not in PLAIN or channels not in (1, 3) or min(item.height, item.width, *size) < 1:
        raise ValueError(
            f"expected a picture of mode L or RGB, a model of 1 or 3 channels, and sizes of at least 1, got {item}, "
            f"{channels} channels and tiles of {size}; do: give arrays as the Item of their images"
        )
    return -(-item.height // size[0]), -(-item.width // size[1])


def _cut(image: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    """Any dtype [c, down * th, across * tw] -> [n, channels, th, tw], row by row, plane after plane if c > channels."""
    c, (th, tw) = len(image), size
    parts = image.reshape(c, image.shape[1] // th, th, image.shape[2] // tw, tw)
    if c > channels:
        return parts.permute(0, 1, 3, 2, 4).reshape(-1, 1, th, tw)
    return parts.permute(1, 3, 0, 2, 4).reshape(-1, c, th, tw).expand(-1, channels, -1, -1)


def count_tiles(item: Item, channels: int, size: tuple[int, int]) -> int:
    """Count the rows that an item becomes in a model of `channels` channels and tiles of `size` (height, width)."""
    down, across = _grid(item, channels, size)
    return down * across * (CHANNELS[item.mode] if channels == 1 else 1)


def valid_of(item: Item, channels: int, size: tuple[int, int]) -> Tensor:
    """Say which values of an item's rows are coded: bool [n, channels, th, tw], from what the decoder knows too.

    False: padding beyond the right and lower border, and green and blue of a grey picture in an RGB model.
    """
    down, across = _grid(item, channels, size)
    inside_y = torch.arange(down * size[0]) < item.height
    inside_x = torch.arange(across * size[1]) < item.width
    inside = (inside_y[:, None] & inside_x).expand(CHANNELS[item.mode], -1, -1)
    valid = _cut(inside, channels, size).contiguous()
    if CHANNELS[item.mode] < channels:
        valid[:, 1:] = False
    return valid


def tiles(image: Tensor, channels: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Cut a picture uint8 [c, h, w], c = 1 or 3, into rows of a model: (rows uint8, valid bool), [n, channels, th, tw].

    Tiles of `size` = (th, tw), row by row; beyond the border the last value is repeated. A grey picture in an RGB model
    stands in all three channels; an RGB picture in a grey model becomes three planes, one after the other. `valid`: see
    `valid_of`. Raises ValueError for another dtype or shape.
    """
    if image.dtype != torch.uint8 or image.ndim != 3 or len(image) not in (1, 3):
        raise ValueError(
            f"expected a picture uint8 [1 or 3, height, width], got {image.dtype} {list(image.shape)}; "
            "do: read it with read_image or load_array"
        )
    if image.shape == (channels, *size):  # one tile, as images of an array mostly are
        return image.contiguous()[None], torch.ones(1, *image.shape, dtype=torch.bool)
    item = item_of("", image)
    down, across = _grid(item, channels, size)
    y = torch.arange(down * size[0]).clamp_(max=item.height - 1)
    x = torch.arange(across * size[1]).clamp_(max=item.width - 1)
    return _cut(image[:, y][:, :, x], channels, size).contiguous(), valid_of(item, channels, size)


def untile(rows: Tensor, item: Item, channels: int, size: tuple[int, int]) -> Tensor:
    """Put the rows uint8 [n, channels, th, tw] of an item together again: uint8 [c, h, w].

    Raises ValueError unless the rows have the shape that `tiles` gives the item.
    """
    down, across = _grid(item, channels, size)
    expected = [count_tiles(item, channels, size), channels, *size]
    if list(rows.shape) != expected:
        raise ValueError(
            f"expected rows {expected} for {item}, got {list(rows.shape)}; do: pass all rows of this item and no others"
        )
    c = CHANNELS[item.mode]
    parts = rows[:, : min(c, channels)]
    if c > channels:
        parts = parts.reshape(c, down, across, *size).permute(0, 1, 3, 2, 4)
    else:
        parts = parts.reshape(down, across, c, *size).permute(2, 0, 3, 1, 4)
    return parts.reshape(c, down * size[0], across * size[1])[:, : item.height, : item.width].contiguous()
