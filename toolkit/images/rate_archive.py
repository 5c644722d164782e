"""Pictures in a .tkc file at any rate, each coded by `toolkit.images.rate_coder`.

docs/format.md, section "Pictures at a chosen rate", is the specification.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from toolkit.container import DamagedFile, Reader, Writer
from toolkit.images.files import CHANNELS, Item
from toolkit.images.files import described as described_item
from toolkit.images.rate_coder import (
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
from toolkit.images.restore import GREY, ON_DAMAGE, Report, new_folder, pictures, work

KIND = "lossy"
EMPTY = 64  # bytes of a file without header and chunks
MOST_PIXELS = 1 << 28  # of a picture: more than are read from image files


def compress(
    coder: PictureCoder, items: Sequence[Item], read: Callable[[int], Tensor], output: str | Path, target: Target,
    identity: dict[str, Any], progress: bool = True,
) -> int:  # fmt: skip
    """Write pictures to a .tkc file, each at the target; returns the file's size in bytes."""
    check(target)
    header = {
        **identity,
        "kind": KIND,
        "values": sum(CHANNELS[item.mode] * item.height * item.width for item in items),
        "items": [list(item) for item in items],
    }
    stored = zlib.compress(
        json.dumps({**header, "levels": [LEVELS // 2] * len(items)}, separators=(",", ":")).encode(), 9
    )
    share = (len(stored) + EMPTY) / len(items)
    chunks: list[tuple[bytes, int]] = []
    levels = []
    with tqdm(total=len(items), unit="picture", disable=not progress) as bar:
        for i, item in enumerate(items):
            picture = read(i)
            if tuple(picture.shape) != (CHANNELS[item.mode], item.height, item.width):
                raise ValueError(f"{item.name}: changed while it was compressed; compress again")
            try:
                level, found = coder.encode(picture, target, share)
            except ValueError as error:
                raise ValueError(f"{item.name}: {error}") from error
            levels.append(level)
            chunks += found
            bar.update()
    with Writer(output, {**header, "levels": levels}) as writer:
        for payload, crc in chunks:
            writer.write(payload, 1, crc)
    return writer.size


def decompress(
    path: str | Path, output: str | Path, coder: PictureCoder, only: str | None = None, on_damage: str = "error",
    progress: bool = True,
) -> Report:  # fmt: skip
    """Restore the pictures of a .tkc file as PNG files below the new folder `output`.

    only: the name of one picture; on_damage: "skip" restores what is in sound tiles, and the rest of their pictures is
    grey. An interrupted run goes on with the pictures that it has not written; an error leaves nothing. Raises
    ContainerError for damage, ValueError for a name that is not in the file.
    """
    if on_damage not in ON_DAMAGE:
        raise ValueError(f"expected on_damage to be one of {', '.join(ON_DAMAGE)}, got {on_damage!r}")
    with Reader(path, salvage=on_damage == "skip") as reader:
        items, levels = described(reader)
        names = [item.name for item in items]
        if only is not None and only not in names:
            raise ValueError(f"expected only= to be a name in the file, got {only!r}; names are, e.g., {names[:3]}")
        wanted = [i for i in range(len(items)) if only is None or names[i] == only]
        first = [0, *accumulate(map(tile_count, items))]
        report = Report(0, [], [], [str(reader.damage)] if reader.damage else [])
        state = f"{only!r} {on_damage} {reader.header} {list(reader.found.values())}".encode(errors="surrogatepass")
        with (
            work(new_folder(output), hashlib.sha256(state).hexdigest()) as (result, resumed),
            pictures(result, items) as (read, write),
        ):
            for i in tqdm(wanted, unit="picture", disable=not progress):
                there, item = read(i) if resumed else None, items[i]
                if there is not None and list(there.shape) == [CHANNELS[item.mode], item.height, item.width]:
                    continue
                lost: list[str] = []
                picture = picture_of(reader, coder, item, levels[i], first[i], lost if on_damage == "skip" else None)
                report.damage.extend(lost)
                if len(lost) == tile_count(item):
                    report.lost.append(item.name)
                else:
                    written = write(i, picture, not lost)
                    report.partly.extend([f"{item.name} -> {written}"] if lost else [])
        return report._replace(restored=len(wanted) - len(report.lost) - len(report.partly))


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
    if k is None or checksum(k) != reader.found[number].rows_crc:
        what = "does not decode" if k is None else "decodes to other numbers than were encoded"
        raise DamagedFile(f"{reader.path}: chunk {number} {what}; copy the file again")
    return k


def described(reader: Reader) -> tuple[list[Item], list[int]]:
    """The pictures of a file, and their levels of lambda. Raises DamagedFile for a header that does not fit it."""
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


def check_model(path: str | Path, identity: dict[str, Any], salvage: bool = False) -> None:
    """Raise ValueError unless a .tkc file holds pictures that this model wrote; salvage: as of `Reader`."""
    with Reader(path, salvage) as reader:
        header = reader.header
    if header.get("kind") != KIND or any(header.get(key) != identity[key] for key in ("recipe", "model")):
        raise ValueError(
            f"{path}: expected a file of the model {identity['recipe']} {identity['model']} that run= names, got "
            f"one of {header.get('recipe')} {header.get('model')}; give the run that compressed it"
        )
