"""Pictures in a .tkc file at any rate, each coded by `toolkit.images.rate_coder`.

docs/format.md, section "Pictures at a chosen rate", is the specification.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from toolkit.container import DamagedFile, Reader, UnknownVersion, Writer
from toolkit.images.files import CHANNELS, GREY, Earlier, Item
from toolkit.images.files import described as described_item
from toolkit.images.rate_coder import (
    CHUNK,
    LEVELS,
    STRIDE,
    PictureCoder,
    Target,
    Tile,
    check,
    checksum,
    tile_count,
    tiles,
)
from toolkit.images.source import Source

LOSSY = "lossy"
CODER = 2  # of the coefficients' bytes: those of 1, before toolkit 0.2 was finished, are not read any more
EMPTY = 64  # bytes of a file without header and chunks
MOST_PIXELS = 1 << 28  # of a picture: more than are read from image files


def compress(
    coder: PictureCoder, origin: Source, output: str | Path, target: Target, identity: dict[str, Any],
    progress: bool = True,
) -> int:  # fmt: skip
    """Write pictures to a .tkc file, each at the target; returns the file's size in bytes."""
    check(target)
    items = origin.items
    header = {
        **identity,
        "kind": LOSSY,
        "coder": CODER,
        "values": origin.values,
        **origin.header,
        "items": [list(item) for item in items],
    }
    stored = zlib.compress(
        json.dumps({**header, "levels": [LEVELS // 2] * len(items)}, separators=(",", ":")).encode(), 9
    )
    share = (len(stored) + EMPTY) / len(items)
    chunks: list[tuple[bytes, int]] = []
    levels = []
    spent = pixels = 0
    with tqdm(total=len(items), unit="picture", disable=not progress) as bar:
        for i, item in enumerate(items):
            picture = torch.from_numpy(origin.picture(i))
            try:
                level, found = coder.encode(picture, target, share)
            except ValueError as error:
                raise ValueError(f"{item.name}: {error}") from error
            levels.append(level)
            chunks += found
            spent += sum(len(payload) + CHUNK for payload, _ in found)
            pixels += item.height * item.width
            bar.set_postfix_str(f"{8 * spent / pixels:.3f} bits/pixel", refresh=False)
            bar.update()
    with Writer(output, {**header, "levels": levels}) as writer:
        for payload, crc in chunks:
            writer.write(payload, 1, crc)
    return writer.size


class RateContents:
    """The pictures of a file at any rate: see `restore.Contents`. Raises DamagedFile for a header that does not fit."""

    unit, array = "picture", None

    def __init__(self, reader: Reader, coder: PictureCoder) -> None:
        self._reader, self._coder = reader, coder
        self.items, self._levels = described(reader)
        self._first = [0, *accumulate(map(tile_count, self.items))]

    def select(self, which: Sequence[int]) -> int:
        """See `restore.Contents`."""
        return len(which)

    def picture(
        self, i: int, damage: list[str] | None, earlier: Earlier, progress: Callable[[int], Any]
    ) -> tuple[np.ndarray | None, bool]:
        """See `restore.Contents`. What an earlier run has written is taken if it has the size: floats may differ."""
        item, there, lost = self.items[i], earlier(i), list[str]()
        progress(1)
        if there is not None and list(there.shape) == [CHANNELS[item.mode], item.height, item.width]:
            return there, True
        found = picture_of(
            self._reader, self._coder, item, self._levels[i], self._first[i], None if damage is None else lost
        )
        if damage is not None:
            damage.extend(lost)
        return (None if len(lost) == tile_count(item) else found.numpy()), not lost


@torch.inference_mode()
def picture_of(
    reader: Reader, coder: PictureCoder, item: Item, level: int, first: int, lost: list[str] | None = None
) -> Tensor:
    """Decode the picture whose tiles begin at chunk `first`: uint8 [c, h, w].

    lost: receives what is wrong with each damaged tile, which is left grey; None: raise it. A picture of which no tile
    is left is empty.
    """
    down, across = -(-item.height // STRIDE), -(-item.width // STRIDE)
    grey, k = [], None
    for number, tile in enumerate(tiles(item.height, item.width, 0), first):
        try:
            found = _read_tile(reader, coder, level, number, tile)
        except DamagedFile as error:
            if lost is None:
                raise
            lost.append(str(error))
            grey.append(tile)
            continue
        if k is None:  # not before there is a tile that decodes
            k = torch.zeros(1, coder.tables.channels, down, across, dtype=torch.int16)
        k[..., tile.y : tile.y + tile.height, tile.x : tile.x + tile.width] = found
    if k is None:
        return torch.zeros(CHANNELS[item.mode], 0, 0, dtype=torch.uint8)
    picture = coder.restore(k, item, level)
    for tile in grey:
        y, x = tile.y * STRIDE, tile.x * STRIDE
        picture[:, y : y + tile.height * STRIDE, x : x + tile.width * STRIDE] = GREY
    return picture


def _read_tile(reader: Reader, coder: PictureCoder, level: int, number: int, tile: Tile) -> Tensor:
    """The coefficients of the tile in a chunk. Raises DamagedFile."""
    k = coder.read(reader.read(number), level, (tile.height, tile.width))
    if checksum(k) != reader.found[number].rows_crc:
        raise DamagedFile(
            f"{reader.path}: chunk {number} decodes to other numbers than were encoded; copy the file again"
        )
    return k


def described(reader: Reader) -> tuple[list[Item], list[int]]:
    """The pictures of a file, and their levels of lambda.

    Raises DamagedFile for a header that does not fit it, UnknownVersion for chunks of another coder.
    """
    if reader.header.get("kind") != LOSSY:
        raise DamagedFile(
            f"{reader.path}: expected kind {LOSSY}, got {str(reader.header.get('kind'))[:40]!r}; update this toolkit"
        )
    if (coder := reader.header.get("coder", 1)) != CODER:
        hint = "compress the pictures again" if coder == 1 else "update this toolkit"
        raise UnknownVersion(f"{reader.path}: expected coder {CODER} of pictures at a rate, got {coder!r}; {hint}")
    try:
        items = [described_item(*item) for item in reader.header["items"]]
        levels = list(reader.header["levels"])
        if len(levels) != len(items) or not all(type(level) is int and 0 <= level <= LEVELS for level in levels):
            raise ValueError(f"levels out of their range, {str(levels)[:100]}")
        count, pixels = sum(map(tile_count, items)), max((item.height * item.width for item in items), default=0)
        if pixels > MOST_PIXELS or (reader.damage is None and count != len(reader.chunks)):
            raise ValueError(f"{count} tiles in {len(reader.chunks)} chunks, {pixels} pixels in the largest picture")
        return items, levels
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFile(
            f"{reader.path}: expected items and levels that fit the file, got {type(error).__name__}: {error}; copy it "
            "again, or update this toolkit"
        ) from error
