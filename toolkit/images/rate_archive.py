"""Pictures in a .tkc file at any rate, each coded by `toolkit.images.rate_coder`.

docs/format.md, section "Pictures at a chosen rate", is the specification.
"""

from __future__ import annotations

import base64
import json
import math
import tempfile
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from toolkit import ranks
from toolkit.coding.exactness import exact_products
from toolkit.coding.threads import processors, result, threads
from toolkit.container import DamagedFile, Reader, UnknownVersion, Writer
from toolkit.images.files import CHANNELS, GREY, Earlier, Item
from toolkit.images.files import described as described_item
from toolkit.images.rate_coder import (
    CHUNK,
    STRIDE,
    Encoded,
    PictureCoder,
    Tile,
    checksum,
    read_fitted,
    tile_count,
    tiles,
)
from toolkit.images.rate_target import LEVELS, Target, check, missed
from toolkit.images.source import Source
from toolkit.images.streaming import Listed, Payload

LOSSY = "lossy"
# Versions of what stands in a file: 4 has what was fitted to the pictures, 3 filters alone, 2 nothing; those of 1,
# before toolkit 0.2 was finished, are not read any more.
CODER, BARE = 4, 2
EMPTY = 64  # bytes of a file without header and chunks
SHOWN = 5  # pictures that miss their target
MOST_PIXELS = 1 << 28  # of a picture: more than are read from image files

Decoded = tuple[np.ndarray, list[DamagedFile]]  # a picture, empty where all is lost, and what is wrong with its tiles


def compress(
    coder: PictureCoder, origin: Source, output: str | Path, target: Target, identity: dict[str, Any],
    progress: bool = True,
) -> tuple[int, str]:  # fmt: skip
    """Write pictures to a .tkc file, each at the target; returns the file's size in bytes, and `said` of it."""
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
    settings = _settings([LEVELS // 2] * len(items), [b""] * len(items))
    stored = zlib.compress(json.dumps({**header, **settings}, separators=(",", ":")).encode(), 9)
    share = (len(stored) + EMPTY) / len(items)

    def coded(i: int) -> Encoded:
        return coder.encode(torch.from_numpy(origin.picture(i)), target, share)

    jobs = ((origin.values_of(i), i) for i in range(len(items)))
    agreed = header, target, coder.effort, coder.weighs, origin.sizes
    every = ranks.ordered(coded, jobs, _at_a_time(coder), agreed, output)
    levels, fitted, chunks, misses = list[int](), list[bytes](), list[tuple[int, int]](), list[str]()
    # The header, which stands first, has all levels: until these are known, payloads are kept in a file without a name.
    folder = Path(output).parent
    with tempfile.TemporaryFile(dir=folder if folder.is_dir() else None) as kept:
        spent = pixels = 0
        with tqdm(total=len(items), unit="picture", disable=not progress) as bar:
            for item, one in zip(items, every, strict=True):
                levels.append(one.level)
                fitted.append(one.fitted)
                misses += _missed(item, one, target)
                for payload, crc in one.tiles:
                    kept.write(payload)
                    chunks.append((len(payload), crc))
                spent += sum(len(payload) + CHUNK for payload, _ in one.tiles) + len(one.fitted)
                pixels += item.height * item.width
                bar.set_postfix_str(f"{8 * spent / pixels:.3f} bits/pixel", refresh=False)
                bar.update()
        kept.seek(0)
        with Writer(output, {**header, **_settings(levels, fitted)}) as writer:
            for size, crc in chunks:
                writer.write(kept.read(size), 1, crc)
    return writer.size, said(misses)


def said(misses: Sequence[str]) -> str:
    """Lines of pictures that miss their target, a few of them and how many more there are; empty for none."""
    rest = len(misses) - SHOWN
    return "\n".join([*misses[:SHOWN], *[f"and {rest} more picture{'s' * (rest != 1)} like that"] * (rest > 0)])


def _missed(item: Item, encoded: Encoded, target: Target) -> list[str]:
    text = missed(encoded.level, encoded.got, target)
    return [f"{item.name}: {text}"] * bool(text)


class RateEncoder:
    """Pictures at a target that come one after another: see `streaming.Encoder`."""

    def __init__(self, coder: PictureCoder, target: Target, identity: dict[str, Any], before: Reader | None) -> None:
        check(target)
        self._coder, self._target, self._identity = coder, target, identity
        self._levels, self._fitted, self._misses = list[int](), list[bytes](), list[str]()
        if before:
            _, self._levels, self._fitted = described(before)
        self._listed, self.kept = Listed(before), len(before.chunks) if before else 0

    def picture(self, item: Item, pixels: np.ndarray) -> Iterator[Payload]:
        """See `streaming.Encoder`."""
        if (size := item.height * item.width) > MOST_PIXELS:
            raise ValueError(f"{item.name}: expected at most {MOST_PIXELS} pixels, got {size}; cut it into parts")
        self._listed.add(item, False)
        return self._coded(item, pixels)

    def images(self, values: np.ndarray) -> Iterator[Payload]:
        """See `streaming.Encoder`."""
        raise ValueError("expected pictures [c, h, w] for a lossy model, got an array; give run=, one of tiles")

    def finish(self) -> Iterator[Payload]:
        """See `streaming.Encoder`."""
        if self._misses:
            warnings.warn(said(self._misses), stacklevel=4)  # where the block of a `Writer` stands
        return iter(())

    def header(self) -> dict[str, Any]:
        """See `streaming.Encoder`."""
        listed = self._listed
        return {
            **self._identity, "kind": LOSSY, "coder": CODER, "values": listed.values,
            **listed.kept_metadata(), **listed.described(), **_settings(self._levels, self._fitted),
        }  # fmt: skip

    def close(self) -> None:
        """See `streaming.Encoder`."""

    def _coded(self, item: Item, pixels: np.ndarray) -> Iterator[Payload]:
        # The first picture carries what files have only once.
        known = self.header() if not self._levels else list(item)
        share = len(zlib.compress(json.dumps(known).encode(), 9)) + (0 if self._levels else EMPTY)
        encoded = self._coder.encode(torch.from_numpy(pixels.copy()), self._target, share)
        self._levels.append(encoded.level)
        self._fitted.append(encoded.fitted)
        self._misses += _missed(item, encoded, self._target)
        for payload, crc in encoded.tiles:
            yield Payload(payload, 1, crc)


def _settings(levels: list[int], fitted: list[bytes]) -> dict[str, Any]:
    """What a header says of how pictures were coded."""
    return {"levels": levels, "fitted": [base64.b64encode(one).decode() for one in fitted]}


class RateContents:
    """The pictures of a file at any rate: see `restore.Contents`. Raises DamagedFile for a header that does not fit."""

    unit, array = "picture", None

    def __init__(self, reader: Reader, coder: PictureCoder) -> None:
        self._reader, self._coder = reader, coder
        self.items, self._levels, self._fitted = described(reader)
        self._first = [0, *accumulate(map(tile_count, self.items))]
        self._which: Sequence[int] = ()
        self._ahead: Generator[Decoded, None, None] | None = None  # of these, in their order

    def serve(self) -> None:
        """See `restore.Contents`."""
        self._ordered((), lambda _: None)

    def select(self, which: Sequence[int]) -> int:
        """See `restore.Contents`."""
        self._which, self._ahead = which, None
        return len(which)

    def together(self) -> list[range]:
        """See `restore.Contents`: each alone."""
        return [range(i, i + 1) for i in range(len(self.items))]

    def picture(
        self, i: int, damage: list[str] | None, earlier: Earlier, progress: Callable[[int], Any]
    ) -> tuple[np.ndarray | None, bool]:
        """See `restore.Contents`. What an earlier run has written is taken if it has the size: floats may differ."""
        if self._ahead is None:
            self._ahead = self._ordered(self._which, earlier)
        found, lost = next(self._ahead)
        progress(1)
        if damage is None and lost:
            self._ahead.close()
            raise lost[0]
        if damage is not None:
            damage.extend(map(str, lost))
        return found if found.size else None, not lost

    def _ordered(self, which: Sequence[int], earlier: Earlier) -> Generator[Decoded, None, None]:
        """Pictures, and what is wrong with each. The file is read here, and not by other ranks."""

        def jobs() -> Iterator[tuple[int, Any]]:
            for i in which:
                item, there = self.items[i], earlier(i)
                shape = CHANNELS[item.mode], item.height, item.width
                if there is not None and there.shape == shape:
                    yield there.size, ranks.Done((there, []))
                else:
                    yield math.prod(shape), (i, [_payload(self._reader, n) for n in range(*self._first[i : i + 2])])

        count = _at_a_time(self._coder) if len(which) != 1 else 0
        return ranks.ordered(self._decoded, jobs(), count, (self._reader.header, self._reader.found))

    def _decoded(self, job: tuple[int, list[bytes | DamagedFile]]) -> Decoded:
        i, payloads = job
        lost = list[DamagedFile]()
        known = self.items[i], self._levels[i], self._fitted[i]
        alone = len(self._which) == 1  # else others are decoded meanwhile
        with exact_products(threads=None if alone else 1):
            return _restored(self._reader, self._coder, *known, self._first[i], payloads, lost, alone).numpy(), lost


def _at_a_time(coder: PictureCoder) -> int:
    """How many pictures are coded at a time, in threads of their own; 0: one, in this thread."""
    return processors() if torch.device(coder.device).type == "cpu" else 0


def picture_of(reader: Reader, coder: PictureCoder, item: Item, level: int, fitted: bytes, first: int) -> Tensor:
    """Decode the picture whose tiles begin at chunk `first`: uint8 [c, h, w]. Raises DamagedFile."""
    payloads = [_payload(reader, number) for number in range(first, first + tile_count(item))]
    lost = list[DamagedFile]()
    found = _restored(reader, coder, item, level, fitted, first, payloads, lost)
    if lost:
        raise lost[0]
    return found


@torch.inference_mode()
def _restored(
    reader: Reader, coder: PictureCoder, item: Item, level: int, fitted: bytes, first: int,
    payloads: Sequence[bytes | DamagedFile], lost: list[DamagedFile], alone: bool = True,
) -> Tensor:  # fmt: skip
    """The picture uint8 [c, h, w] of the payloads of its tiles, which begin at chunk `first`.

    lost: receives what is wrong with each damaged tile, which is left grey. A picture of which no tile is left is
    empty. alone: its tiles may take all processors.
    """
    down, across = -(-item.height // STRIDE), -(-item.width // STRIDE)
    grey, k, grid = [], None, tiles(item.height, item.width, 0)
    with threads(min(processors() if alone else 1, len(grid))) as submit:
        read = deque(
            submit(_read_tile, reader, coder, level, number, tile, payload)
            for number, (tile, payload) in enumerate(zip(grid, payloads, strict=True), first)
        )
        for tile in grid:
            try:
                found = result(read.popleft())  # which lets its memory go
            except DamagedFile as error:
                lost.append(error)
                grey.append(tile)
                continue
            if k is None:  # not before there is a tile that decodes
                k = torch.zeros(1, coder.tables.channels, down, across, dtype=torch.int16)
            k[(..., *tile.place())] = found
    if k is None:
        return torch.zeros(CHANNELS[item.mode], 0, 0, dtype=torch.uint8)
    picture = coder.restore(k, item, level, fitted)
    for tile in grey:
        picture[(..., *tile.place(STRIDE))] = GREY
    return picture


def _payload(reader: Reader, number: int) -> bytes | DamagedFile:
    try:
        return reader.read(number)
    except DamagedFile as error:
        return error


def _read_tile(
    reader: Reader, coder: PictureCoder, level: int, number: int, tile: Tile, payload: bytes | DamagedFile
) -> Tensor:
    """The coefficients of the tile in a chunk. Raises DamagedFile."""
    if isinstance(payload, DamagedFile):
        raise payload
    k = coder.read(payload, level, (tile.height, tile.width))
    if checksum(k) != reader.found[number].rows_crc:
        raise DamagedFile(
            f"{reader.path}: chunk {number} decodes to other numbers than were encoded; copy the file again"
        )
    return k


def described(reader: Reader) -> tuple[list[Item], list[int], list[bytes]]:
    """The pictures of a file, their levels of lambda, and what was fitted to them, empty where that is nothing.

    Raises DamagedFile for a header that does not fit it, UnknownVersion for chunks of another coder.
    """
    if reader.header.get("kind") != LOSSY:
        raise DamagedFile(
            f"{reader.path}: expected kind {LOSSY}, got {str(reader.header.get('kind'))[:40]!r}; update this toolkit"
        )
    if (coder := reader.header.get("coder", 1)) not in (CODER, BARE):
        hint = "compress the pictures again" if coder in (1, 3) else "update this toolkit"
        raise UnknownVersion(
            f"{reader.path}: expected coder {BARE} or {CODER} of pictures at a rate, got {coder!r}; {hint}"
        )
    try:
        items = [described_item(*item) for item in reader.header["items"]]
        levels = list(reader.header["levels"])
        if len(levels) != len(items) or not all(type(level) is int and 0 <= level <= LEVELS for level in levels):
            raise ValueError(f"levels out of their range, {str(levels)[:100]}")
        count, pixels = sum(map(tile_count, items)), max((item.height * item.width for item in items), default=0)
        if pixels > MOST_PIXELS or (reader.damage is None and count != len(reader.chunks)):
            raise ValueError(f"{count} tiles in {len(reader.chunks)} chunks, {pixels} pixels in the largest picture")
        stored = list(reader.header["fitted"]) if coder == CODER else [""] * len(items)
        fitted = [base64.b64decode(text, validate=True) for text in stored]
        for item, one in zip(items, fitted, strict=True):
            read_fitted(one, item.mode == "L")
        return items, levels, fitted
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFile(
            f"{reader.path}: expected items and levels that fit the file, got {type(error).__name__}: {error}; copy it "
            "again, or update this toolkit"
        ) from error
