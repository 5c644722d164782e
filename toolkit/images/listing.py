"""What pictures a .tkc file holds, without its model: names, sizes, bytes, how each was coded, its metadata."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any

from toolkit.container import Reader

# The first byte of a whole picture's payload.
CODED = {3: "few colours", 4: "few values", 5: "few colours", 12: "few colours"}
CODED |= {first + i: f"effort {i % 3}" for first, n in ((9, 3), (16, 12)) for i in range(n)}
TILE = 1024  # pixels a side of a tile of a lossy picture, which is a chunk
METADATA = {
    "icc": "ICC profile", "exif": "EXIF", "xmp": "XMP", "gamma": "gamma", "chromaticity": "chromaticities",
    "srgb": "sRGB", "dpi": "resolution", "aspect": "aspect ratio", "cicp": "CICP", "text": "text",
}  # fmt: skip
NAME = reprlib.Repr()  # escapes what a terminal would obey
NAME.maxstring = NAME.maxother = 200


def pictures(reader: Reader, intact: dict[int, bool]) -> list[dict[str, Any]] | None:
    """The pictures of a file, or None for a file of other things, or one whose header is not what `compress` writes.

    intact: of each chunk that was found and read. What is known of a picture alone: bytes, how it was coded, whether
    it is intact; None where several share a chunk.
    """
    header = reader.header
    items, kind = header.get("items"), header.get("kind")
    if kind not in ("pictures", "images", "lossy") or not isinstance(items, list) or not all(map(_is_item, items)):
        return None
    metadata, levels = header.get("metadata"), header.get("levels")
    found, chunk = list[dict[str, Any]](), 0
    for i, (name, mode, height, width) in enumerate(items):
        entry = metadata[i] if isinstance(metadata, list) and len(metadata) == len(items) else {}
        about = {
            "name": name, "mode": mode, "height": height, "width": width, "bytes": None, "coded": None, "intact": None,
            "metadata": [METADATA[key] for key in METADATA if isinstance(entry, dict) and key in entry],
        }  # fmt: skip
        if kind != "images":
            count = 1 if kind == "pictures" else -(-height // TILE) * -(-width // TILE)
            chunks = range(chunk, chunk + min(count, len(reader.found) + 1))  # of a hostile header, not more
            chunk += count
            about["bytes"] = sum(reader.found[n].size for n in chunks if n in reader.found)
            about["intact"] = all(intact.get(n, False) for n in chunks)
            level = levels[i] if isinstance(levels, list) and len(levels) == len(items) else None
            about["coded"] = _coded(reader, chunks[0]) if kind == "pictures" else _lambda(level)
        found.append(about)
    return found


def table(found: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each picture, as people read it, and one for all."""
    apart = all(about["bytes"] is not None for about in found)
    lines = [f"{'bytes':>13} {'bits/pixel':>11}  {'coded':12}" * apart + f"{'size':>15}  {'mode':6}  name"]
    for about in found:
        pixels = about["height"] * about["width"]
        line = f"{about['bytes']:>13,} {8 * about['bytes'] / pixels:>11.4f}  {about['coded'] or '':12}" if apart else ""
        line += f"{about['width']:>7} x {about['height']:<5}  {about['mode']:6}  {NAME.repr(about['name'])[1:-1]}"
        line += f"  [{', '.join(about['metadata'])}]" * bool(about["metadata"])
        lines.append(line + "  DAMAGED OR LOST" * (about["intact"] is False))
    pixels = sum(about["height"] * about["width"] for about in found)
    if apart and found:
        size = sum(about["bytes"] for about in found)
        lines.append(f"{size:>13,} {8 * size / pixels:>11.4f}  in all, {pixels:,} pixels")
    else:
        lines.append(f"{pixels:,} pixels in all")
    return lines


def _is_item(item: Any) -> bool:
    return (
        isinstance(item, list)
        and len(item) == 4
        and isinstance(item[0], str)
        and isinstance(item[1], str)
        and item[1].isprintable()
        and len(item[1]) < 20
        and all(type(n) is int and 0 < n < 1 << 31 for n in item[2:])
    )


def _coded(reader: Reader, chunk: int) -> str | None:
    first = reader.first_bytes.get(chunk)
    return CODED.get(first[0]) if first else None


def _lambda(level: Any) -> str | None:
    return f"lambda {2 ** (level / 64 - 2):.4g}" if type(level) is int and 0 <= level <= 768 else None
