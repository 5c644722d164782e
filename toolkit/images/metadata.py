"""What changes how a picture looks, and what is said of it: from image files into a file's header, and into PNG files.

A picture's entry is a dict of JSON values: "icc", "exif", "xmp" in base64; "gamma", "chromaticity", "srgb", "dpi" as
PNG has them, as "aspect", of pixels that are not square, and "cicp"; "text", a dict. docs/format.md describes it.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable
from typing import Any

from PIL import ExifTags, Image, PngImagePlugin

KEEP = ("all", "color", "none")  # what is kept; orientation is kept with colour, as it changes how a picture looks
MOST = 1_000_000  # bytes of one part: larger ones Pillow would not read again
EXIF, XMP = b"Exif\x00\x00", "XML:com.adobe.xmp"
CHUNKS = {  # of PNG files, that are read
    b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"pHYs", b"eXIf", b"tEXt",
    b"zTXt", b"iTXt", b"acTL", b"fcTL", b"fdAT",
}  # fmt: skip
LAYOUT = {  # tags of TIFF files that say how their pixels are stored
    254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 277, 278, 279, 280, 281, 284, 288, 289, 290, 291, 292,
    293, 297, 317, 320, 322, 323, 324, 325, 330, 332, 338, 339, 340, 341, 347, 512, 513, 514, 519, 520, 521, 529, 530,
    531, 532,
}  # fmt: skip
APART = {700, 34675}  # tags of TIFF files that are kept by themselves: XMP, ICC profile
SEGMENTS = (  # of JPEG files
    b"JFIF\0", b"JFXX\0", EXIF, b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0", b"MPF\0", b"Adobe",
)  # fmt: skip


def of_image(image: Image.Image, keep: str = "all") -> tuple[dict[str, Any], list[str]]:
    """The entry of an open picture, and what of it could not be kept; keep: see `KEEP`."""
    found = dict[str, Any]()
    if keep == "none":
        return found, []
    for name, part in (("colour", _colour), ("aspect", _aspect), ("orientation", _exif), ("text", _said)):
        try:
            if name != "text" or keep == "all":
                found.update(part(image, keep))
        except Exception:  # Pillow and struct raise whatever they like for broken metadata
            found[name] = None
    lost = [key for key, value in found.items() if value is None or not _fits(key, value)]
    others = _others(image) if keep == "all" else []
    return {key: value for key, value in found.items() if key not in lost}, lost + others


def _colour(image: Image.Image, keep: str) -> dict[str, Any]:
    info, found = image.info, dict[str, Any]()
    if isinstance(info.get("icc_profile"), bytes) and info["icc_profile"]:
        found["icc"] = _text(info["icc_profile"])
    found |= {key: info[key] for key in ("gamma", "srgb") if isinstance(info.get(key), int | float)}
    if len(info.get("chromaticity", ())) == 8:
        found["chromaticity"] = list(info["chromaticity"])
    if (cicp := _chunks(image).get(b"cICP")) is not None:
        found["cicp"] = list(cicp)
    return found


def _aspect(image: Image.Image, keep: str) -> dict[str, Any]:
    """Of pixels that are not square: what PNG, JPEG and TIFF say without a unit."""
    info = image.info
    found = info.get("aspect", () if "dpi" in info else info.get("resolution", ()))
    found = info["jfif_density"] if info.get("jfif_unit") == 0 else found
    if len(found) != 2 or found[0] == found[1]:
        return {}
    scale = 1 if all(x == int(x) for x in found) else 1000
    return {"aspect": [round(scale * x) for x in found]}


def _chunks(image: Image.Image) -> dict[bytes, bytes]:
    """The chunks of a PNG file by name, the first bytes of the first of each."""
    found = dict[bytes, bytes]()
    if image.format == "PNG":
        with open(image.filename, "rb") as file:  # type: ignore[attr-defined]
            file.seek(8)
            while len(head := file.read(8)) == 8:
                size, name = struct.unpack(">I4s", head)
                data = file.read(min(size, 16))
                found.setdefault(name, data)
                file.seek(size - len(data) + 4, 1)
    return found


def _others(image: Image.Image) -> list[str]:
    """The names of a file's chunks (PNG) and segments (JPEG) of which nothing is kept."""
    chunks = _chunks(image)
    named = {name.decode("latin-1") for name in chunks if name not in CHUNKS}
    if b"pHYs" in chunks and not {"dpi", "aspect"} & image.info.keys():
        named.add("pHYs")
    segments = getattr(image, "applist", [])
    return sorted(named | {name for name, data in segments if name != "COM" and not data.startswith(SEGMENTS)})


def _exif(image: Image.Image, keep: str) -> dict[str, Any]:
    exif = image.getexif()
    if image.format == "TIFF":
        stored, exif = exif.tobytes(), Image.Exif()  # a copy, as the image needs its own when it is read
        exif.load(stored)
        # Pillow turns these pictures when it reads them.
        for tag in exif.keys() & (LAYOUT | APART | {ExifTags.Base.Orientation}):
            del exif[tag]
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


def _whole(x: Any, count: int, least: int, most: int) -> bool:
    return isinstance(x, list) and len(x) == count and all(type(n) is int and least <= n <= most for n in x)


def _bytes(x: Any) -> bool:
    return isinstance(x, str) and 0 < len(_raw(x)) <= MOST


def _line(x: Any) -> bool:
    return isinstance(x, str) and len(x.encode()) <= MOST and "\0" not in x


_KINDS: dict[str, Callable[[Any], Any]] = {
    "icc": _bytes, "exif": _bytes, "xmp": _bytes, "gamma": lambda x: _number(x) and x > 0,
    "srgb": lambda x: type(x) is int and 0 <= x <= 3,
    "chromaticity": lambda x: isinstance(x, list) and len(x) == 8 and all(map(_number, x)),
    "dpi": lambda x: isinstance(x, list) and len(x) == 2 and all(map(_number, x)),
    "aspect": lambda x: _whole(x, 2, 1, (1 << 31) - 1), "cicp": lambda x: _whole(x, 4, 0, 255),
    "text": lambda x: isinstance(x, dict) and all(_line(part) for pair in x.items() for part in pair) and all(x),
}  # fmt: skip


def options(entry: dict[str, Any]) -> dict[str, Any]:
    """Arguments of Pillow's `save` that put an entry into a PNG file."""
    chunks, found = PngImagePlugin.PngInfo(), dict[str, Any]()
    if "gamma" in entry:
        chunks.add(b"gAMA", struct.pack(">I", round(entry["gamma"] * 100_000)))
    if "chromaticity" in entry:
        chunks.add(b"cHRM", struct.pack(">8I", *(round(x * 100_000) for x in entry["chromaticity"])))
    if "cicp" in entry:
        chunks.add(b"cICP", bytes(entry["cicp"]))
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


def with_aspect(png: bytes, entry: dict[str, Any]) -> bytes:
    """A PNG file with what an entry says of pixels that are not square, which Pillow does not write."""
    if "aspect" not in entry or "dpi" in entry:
        return png
    body, start = b"pHYs" + struct.pack(">IIB", *entry["aspect"], 0), 33  # behind the header
    return png[:start] + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) + png[start:]


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _raw(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
