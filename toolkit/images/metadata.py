"""What changes how a picture looks, and what is said of it: from image files into a file's header, and into PNG files.

A picture's entry is a dict of JSON values: "icc", "exif", "xmp" in base64; "gamma", "chromaticity", "srgb", "dpi" as
PNG has them; "text", a dict. docs/format.md describes it.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from typing import Any

from PIL import ExifTags, Image, PngImagePlugin

KEEP = ("all", "color", "none")  # what is kept; orientation is kept with colour, as it changes how a picture looks
MOST = 1_000_000  # bytes of one part: larger ones Pillow would not read again
EXIF, XMP = b"Exif\x00\x00", "XML:com.adobe.xmp"


def of_image(image: Image.Image, keep: str = "all") -> tuple[dict[str, Any], list[str]]:
    """The entry of an open picture, and what of it could not be kept; keep: see `KEEP`."""
    found = dict[str, Any]()
    if keep == "none":
        return found, []
    for name, part in (("colour", _colour), ("orientation", _exif), ("text", _said)):
        try:
            if name != "text" or keep == "all":
                found.update(part(image, keep))
        except Exception:  # Pillow and struct raise whatever they like for broken metadata
            found[name] = None
    lost = [key for key, value in found.items() if value is None or not _fits(key, value)]
    return {key: value for key, value in found.items() if key not in lost}, lost


def _colour(image: Image.Image, keep: str) -> dict[str, Any]:
    info, found = image.info, dict[str, Any]()
    if isinstance(info.get("icc_profile"), bytes) and info["icc_profile"]:
        found["icc"] = _text(info["icc_profile"])
    found |= {key: info[key] for key in ("gamma", "srgb") if isinstance(info.get(key), int | float)}
    if len(info.get("chromaticity", ())) == 8:
        found["chromaticity"] = list(info["chromaticity"])
    return found


def _exif(image: Image.Image, keep: str) -> dict[str, Any]:
    exif = image.getexif()
    if keep == "color":
        turned = exif.get(ExifTags.Base.Orientation, 1)
        exif = Image.Exif()
        if turned != 1:
            exif[ExifTags.Base.Orientation] = turned
    # Without the thumbnail, which is another picture.
    return {"exif": _text(exif.tobytes().removeprefix(EXIF))} if len(exif) else {}


def _said(image: Image.Image, keep: str) -> dict[str, Any]:
    info, found = image.info, dict[str, Any]()
    if len(dpi := info.get("dpi", ())) == 2:
        found["dpi"] = [float(x) for x in dpi]
    if isinstance(xmp := info.get("xmp"), bytes) and xmp:
        found["xmp"] = _text(xmp)
    text = {str(k): str(v) for k, v in getattr(image, "text", {}).items() if str(k) != XMP}
    if isinstance(comment := info.get("comment"), bytes):
        try:
            text["Comment"] = comment.decode()
        except UnicodeDecodeError:
            text["Comment"] = comment.decode("latin-1")
    return {**found, "text": text} if text else found


def described(header: dict[str, Any], count: int) -> list[dict[str, Any] | None]:
    """The entries of a file of `count` pictures; None for what `of_image` cannot have made: pixels outlive it."""
    entries = header.get("metadata", [{}] * count)
    if not isinstance(entries, list) or len(entries) != count:
        return [None] * count
    return [entry if _is_entry(entry) else None for entry in entries]


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and all(_fits(key, value) for key, value in entry.items())


def _fits(key: Any, value: Any) -> bool:
    try:
        return bool(_KINDS[key](value))
    except Exception:  # of a hostile header
        return False


def _number(x: Any) -> bool:
    return type(x) in (int, float) and 0 <= x < 42_949  # as PNG's chunks hold in 1/100,000


def _bytes(x: Any) -> bool:
    return isinstance(x, str) and 0 < len(_raw(x)) <= MOST


def _line(x: Any) -> bool:
    return isinstance(x, str) and len(x.encode()) <= MOST and "\0" not in x


_KINDS: dict[str, Callable[[Any], Any]] = {
    "icc": _bytes, "exif": _bytes, "xmp": _bytes, "gamma": lambda x: _number(x) and x > 0,
    "srgb": lambda x: type(x) is int and 0 <= x <= 3,
    "chromaticity": lambda x: isinstance(x, list) and len(x) == 8 and all(map(_number, x)),
    "dpi": lambda x: isinstance(x, list) and len(x) == 2 and all(map(_number, x)),
    "text": lambda x: isinstance(x, dict) and all(_line(part) for pair in x.items() for part in pair) and all(x),
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
        chunks.add_itxt(XMP, _raw(entry["xmp"]).decode("utf-8", "replace"))
    if "icc" in entry:
        found["icc_profile"] = _raw(entry["icc"])
    if "exif" in entry:
        found["exif"] = EXIF + _raw(entry["exif"])
    if "dpi" in entry:
        found["dpi"] = tuple(entry["dpi"])
    return {**found, "pnginfo": chunks}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _raw(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
