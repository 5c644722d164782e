"""Pictures of 16 bits a value: read without loss from PNG, TIFF and PPM files, and written as PNG.

Pillow hands colours of 16 bits out as their high bytes. Its decoders also take the low ones, where they are told that
the bytes lie in the other order: so a file is read twice. Pillow writes such a PNG file in grey only.
"""

from __future__ import annotations

import io
import re
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

from toolkit.images import metadata

DEEP = ";16"  # ends the modes of such pictures
OTHER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}  # order of bytes
BLOCK = 1 << 22  # bytes of a picture that are filtered at a time


def mode_of(image: Image.Image) -> str:
    """The mode of an open picture of 16 bits, not yet loaded, whose values all come back from `pixels`; else ""."""
    if not isinstance(image, ImageFile.ImageFile) or not image.tile:
        return ""
    raw, tile = _raw(image), image.tile[0]
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        bits, meaning = (
            tags.get(TiffImagePlugin.BITSPERSAMPLE, ()),
            tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION),
        )
        # 0 is black, or RGB; no planes of their own.
        if set(bits) != {16} or meaning not in (1, 2) or tags.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) != 1:
            return ""
    elif image.format == "PPM":
        if (tile.codec_name, tile.args) == ("ppm", ("RGB", 65535)):
            return "RGB" + DEEP
        return "L" + DEEP if (tile.codec_name, raw) == ("raw", "I;16B") else ""
    elif image.format != "PNG":
        return ""
    key = "transparency" in image.info
    if image.mode.startswith("I;16") and re.fullmatch(r"I;16[BLNR]?", raw):
        return ("LA" if key else "L") + DEEP
    if found := re.fullmatch(r"(RGBA?|LA);16[BLN]", raw):
        return (found[1] + "A" if key and found[1] == "RGB" else found[1]) + DEEP
    return ""


def pixels(path: str | Path, image: Image.Image, mode: str) -> np.ndarray:
    """The values of a picture that `mode_of` knows, opened from a path and not yet loaded: uint16 [c, h, w]."""
    key = image.info.get("transparency")
    count = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}[mode.removesuffix(DEEP)]
    found = np.empty((count, image.height, image.width), np.uint16)
    values = found[: count - (key is not None)]
    if len(values) == 1:
        for rows, strip in _strips(image):
            values[0, rows] = strip
    elif len(values) == 2:  # both bytes of both values, as if they were four channels
        _retold(image, "RGBA")
        for rows, strip in _strips(image):
            values[:, rows] = (strip[..., ::2].astype(np.uint16) << 8 | strip[..., 1::2]).transpose(2, 0, 1)
    else:
        again = Image.open(path)  # not at the same time, as each is a large picture
        if image.format == "PPM":
            _retold(image, "RGB;16B")
        raw = _raw(image)
        _retold(again, raw[:-1] + OTHER[raw[-1]])
        for rows, strip in _strips(again):
            values[:, rows] = strip.transpose(2, 0, 1)
        again.close()
        for rows, strip in _strips(image):
            values[:, rows] |= strip.transpose(2, 0, 1).astype(np.uint16) << 8
    if key is not None:
        other = np.array(key).reshape(-1, 1, 1)
        for rows in _rows(image):
            found[-1, rows] = np.where((values[:, rows] != other).any(0), 65535, 0)
    return found


def _rows(image: Image.Image) -> Iterator[slice]:
    """Some rows of a picture at a time."""
    count = max(1, BLOCK // (8 * image.width))
    return (slice(y, min(y + count, image.height)) for y in range(0, image.height, count))


def _strips(image: Image.Image) -> Iterator[tuple[slice, np.ndarray]]:
    """Some rows of a picture at a time, and their values [h, w] or [h, w, c]."""
    return ((rows, np.asarray(image.crop((0, rows.start, image.width, rows.stop)))) for rows in _rows(image))


def _raw(image: Any) -> str:
    """How the values of a file are stored, as Pillow's decoders call it."""
    args = image.tile[0].args
    return str(args if isinstance(args, str) else (args or ("",))[0])


def _retold(image: Any, raw: str) -> None:
    """Let Pillow take a file's bytes for others."""

    def changed(tile: Any) -> Any:
        if image.format == "PPM":
            return tile._replace(codec_name="raw", args=(raw, 0, 1))
        return tile._replace(args=raw if isinstance(tile.args, str) else (raw, *tile.args[1:]))

    image.tile = [changed(tile) for tile in image.tile]


def png(image: np.ndarray, about: dict[str, Any]) -> bytes:
    """A PNG file of a picture uint16 [c, h, w], c from 1 to 4, with its metadata.

    Source: Portable Network Graphics (PNG) Specification, third edition, sections 9 and 11.
    """
    c, h, w = image.shape
    made = io.BytesIO()
    Image.new("L", (1, 1)).save(made, "PNG", **metadata.options(about))
    chunks = _chunks(made.getvalue())
    squeezed = zlib.compressobj(9)
    first = next(i for i, chunk in enumerate(chunks) if chunk[4:8] == b"IDAT")
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[c]
    chunks[0] = _chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 16, colour, 0, 0, 0))
    rows, above, parts = max(1, BLOCK // (2 * c * w)), np.zeros((1, 2 * c * w), np.uint8), []
    for y in range(0, h, rows):
        block = np.ascontiguousarray(image[:, y : y + rows].transpose(1, 2, 0)).astype(">u2").view(np.uint8)
        lines = np.concatenate([above, block.reshape(len(block), -1)])
        parts.append(squeezed.compress(_filtered(lines, 2 * c).tobytes()))
        above = lines[-1:]
    data = b"".join([*parts, squeezed.flush()])
    chunks[first] = b"".join(_chunk(b"IDAT", data[i : i + (1 << 30)]) for i in range(0, len(data), 1 << 30))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _chunks(file: bytes) -> list[bytes]:
    """The chunks of a PNG file, whole."""
    found, at = list[bytes](), 8
    while at < len(file):
        size = 12 + int(struct.unpack_from(">I", file, at)[0])
        found.append(file[at : at + size])
        at += size
    return found


def _filtered(lines: np.ndarray, step: int) -> np.ndarray:
    """Lines uint8 [1 + n, bytes], the first of them known, as PNG's filters have them: uint8 [n, 1 + bytes].

    step: bytes of a pixel. Of the five filters, a line has the one with the least sum of differences.
    """
    x, up = lines[1:].astype(np.int16), lines[:-1].astype(np.int16)
    left, corner = np.zeros_like(x), np.zeros_like(x)
    left[:, step:], corner[:, step:] = x[:, :-step], up[:, :-step]
    pa, pb, pc = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
    paeth = np.where((pa <= pb) & (pa <= pc), left, np.where(pb <= pc, up, corner))
    guesses = np.zeros_like(x), left, up, (left + up) >> 1, paeth
    found = np.stack([(x - guess).astype(np.uint8) for guess in guesses])
    best = abs(found.view(np.int8).astype(np.int64)).sum(2).argmin(0)
    return np.concatenate([best[:, None].astype(np.uint8), found[best, np.arange(len(x))]], 1)
