"""What changes how a picture looks, and what is said of it: from image files into a file's header, and into PNG files.

A picture's entry is a dict of JSON values: "icc", "exif", "xmp" in base64; "gamma", "chromaticity", "srgb", "dpi" as
PNG has them; "text", a dict. docs/format.md describes it.
"""

from __future__ import annotations

import base64
import binascii
import struct
from typing import Any

from PIL import ExifTags, Image, PngImagePlugin

KEEP = ("all", "color", "none")  # what is kept; orientation is kept with colour, as it changes how a picture looks
MOST = 1 << 24  # bytes of one entry
_EXIF = b"Exif\x00\x00"


def of_image(image: Image.Image, keep: str = "all") -> dict[str, Any]:
    """The entry of an open picture; keep: see `KEEP`."""
    info, found = image.info, dict[str, Any]()
    if keep == "none":
        return found
    if isinstance(info.get("icc_profile"), bytes) and info["icc_profile"]:
        found["icc"] = _text(info["icc_profile"])
    for key in ("gamma", "srgb"):
        if isinstance(info.get(key), int | float):
            found[key] = info[key]
    if len(info.get("chromaticity", ())) == 8:
        found["chromaticity"] = list(info["chromaticity"])
    exif = image.getexif()
    if keep == "color":
        turned = exif.get(ExifTags.Base.Orientation, 1)
        exif = Image.Exif()
        if turned != 1:
            exif[ExifTags.Base.Orientation] = turned
    if len(exif):
        found["exif"] = _text(exif.tobytes().removeprefix(_EXIF))  # without the thumbnail, which is another picture
    if keep == "all":
        if len(dpi := info.get("dpi", ())) == 2:
            found["dpi"] = [float(x) for x in dpi]
        if isinstance(xmp := info.get("xmp"), bytes):
            found["xmp"] = _text(xmp)
        text = {str(key): str(value) for key, value in getattr(image, "text", {}).items() if "xmp" not in key.lower()}
        if isinstance(comment := info.get("comment"), bytes):
            text["Comment"] = comment.decode("utf-8", "replace")
        if text:
            found["text"] = text
    return found


def described(header: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """The entries of a file of `count` pictures. Raises ValueError for what `of_image` cannot have made."""
    entries = header.get("metadata", [{}] * count)
    if not isinstance(entries, list) or len(entries) != count or not all(map(_is_entry, entries)):
        raise ValueError(f"expected the metadata of {count} pictures, got {str(entries)[:100]}")
    return entries


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or entry.keys() - _KINDS.keys():
        return False
    try:
        return all(_KINDS[key](value) for key, value in entry.items())
    except (TypeError, ValueError, binascii.Error):
        return False


def _number(x: Any) -> bool:
    return type(x) in (int, float) and 0 <= x < 1 << 20


def _bytes(x: Any) -> bool:
    return isinstance(x, str) and len(x) <= MOST and bool(_raw(x))


_KINDS = {
    "icc": _bytes, "exif": _bytes, "xmp": _bytes, "gamma": _number, "srgb": lambda x: x in (0, 1, 2, 3),
    "chromaticity": lambda x: len(x) == 8 and all(map(_number, x)),
    "dpi": lambda x: len(x) == 2 and all(map(_number, x)),
    "text": lambda x: all(isinstance(part, str) and len(part) < MOST for pair in x.items() for part in pair),
}  # fmt: skip


def options(entry: dict[str, Any]) -> dict[str, Any]:
    """Arguments of Pillow's `save` that put an entry into a PNG file."""
    chunks, found = PngImagePlugin.PngInfo(), dict[str, Any]()
    if "gamma" in entry:
        chunks.add(b"gAMA", struct.pack(">I", round(entry["gamma"] * 100_000)))
    if "chromaticity" in entry:
        chunks.add(b"cHRM", struct.pack(">8I", *(round(x * 100_000) for x in entry["chromaticity"])))
    if "srgb" in entry:
        chunks.add(b"sRGB", struct.pack(">B", entry["srgb"]))
    for key, value in entry.get("text", {}).items():
        chunks.add_itxt(key.encode("latin-1", "replace")[:79].decode("latin-1") or "Comment", value)
    if "xmp" in entry:
        chunks.add_itxt("XML:com.adobe.xmp", _raw(entry["xmp"]).decode("utf-8", "replace"))
    if "icc" in entry:
        found["icc_profile"] = _raw(entry["icc"])
    if "exif" in entry:
        found["exif"] = _EXIF + _raw(entry["exif"])
    if "dpi" in entry:
        found["dpi"] = tuple(entry["dpi"])
    return {**found, "pnginfo": chunks}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _raw(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
