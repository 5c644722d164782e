"""A person's image files as pixels, and back: read and write them, and choose the names of those that are written."""

import os
import re
import struct
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, count
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from toolkit.images import deep, metadata
from toolkit.images.deep import DEEP

CHANNELS = {"L": 1, "RGB": 3, "LA": 2, "RGBA": 4}  # of each mode, those with an opacity last
CHANNELS |= {mode + DEEP: c for mode, c in CHANNELS.items()}  # of 16 bits a value
PLAIN = "L", "RGB"  # what every model takes
BEGINS: dict[str, bytes | tuple[bytes, ...]] = {  # of files
    "JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG", "WebP": b"RIFF", "BMP": b"BM", "TIFF": (b"II", b"MM"), "GIF": b"GIF8",
    "PNM": (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"),
}  # fmt: skip
SUFFIXES = {
    "JPEG": ".jpg", "PNG": ".png", "WebP": ".webp", "BMP": ".bmp", "TIFF": ".tif", "GIF": ".gif", "PNM": ".pnm",
}  # fmt: skip
GREY = 128  # of what is lost in a picture
STRIP = 1 << 20  # pixels that go between arrays and image files at a time
MOST_VALUES = 1 << 30  # in a chunk: what its decoder holds in memory
CHEAPEST = 1 << 19  # values a byte that a file may declare; entropy coders leave each value some 2**-16 bits at least
MOST_PARTS = 200  # folders of a name
MOST_NAME = 255  # bytes that a file system takes
DEVICE = re.compile(  # not a file on Windows, in any folder
    r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9¹²³]) *(\..*)?", re.IGNORECASE | re.DOTALL
)


Earlier = Callable[[int], np.ndarray | None]  # number of a picture -> [c, h, w], if an earlier run has written it


class Item(NamedTuple):
    """One picture as the decoder knows it before its pixels."""

    name: str  # relative path with forward slashes
    mode: str  # one of CHANNELS
    height: int
    width: int


def described(name: Any, mode: Any, height: Any, width: Any, modes: Collection[str] = PLAIN) -> Item:
    """The description of a picture as a file holds it. Raises ValueError unless `describe` could have made it."""
    sizes = all(type(n) is int and 0 < n < 1 << 31 for n in (height, width))
    if not isinstance(name, str) or mode not in list(modes) or not sizes:
        raise ValueError(f"expected a name, a mode and two sizes, got {str((name, mode, height, width))[:100]}")
    return Item(name, mode, height, width)


def item_of(name: str, image: Any) -> Item:
    """Describe a picture uint8 or uint16 [c, h, w], c from 1 to 4."""
    mode = ("L", "LA", "RGB", "RGBA")[len(image) - 1] + DEEP * (image.dtype == np.uint16)
    return Item(name, mode, int(image.shape[1]), int(image.shape[2]))


def read_image(path: str | Path, every: bool = False) -> np.ndarray:
    """Read the pixels of an image file as stored: uint8 [c, h, w], c = 1 (grey, bilevel) or 3 (RGB, palette).

    every: also pictures with transparency, c = 2 or 4, the last channel the opacity, which else must be opaque and is
    dropped; and pictures of 16 bits a value, as uint16. The orientation tag of cameras is not applied: `metadata` keeps
    it. Of a phone's several frames (MPO) the first is read. Raises ValueError for a file that cannot be read, or whose
    pixels would not all come back: other bits a value, other colour spaces, several frames.
    """
    with _opened(path, every) as image:
        mode = deep.mode_of(image)
        return deep.pixels(path, image, mode) if mode else _pixels(path, image, every)


def _pixels(path: str | Path, image: Image.Image, every: bool) -> np.ndarray:
    grey = image.mode in ("1", "L", "LA")
    if not image.has_transparency_data:
        return _planes(image, "L" if grey else "RGB")
    found = _with_opacity(image, grey)
    if every:
        return found
    if found[-1].min() < 255:
        raise ValueError(
            f"{path}: expected no transparency, got mode {image.mode} with it; do: compress it with run=photographs, "
            'which keeps it, or convert it: Image.open(path).convert("RGBA").convert("RGB").save(new_path)'
        )
    return found[:-1]


def _with_opacity(image: Image.Image, grey: bool) -> np.ndarray:
    """uint8 [c, h, w], the opacity last."""
    if image.mode in ("LA", "RGBA"):
        return _planes(image, image.mode)
    if image.mode in ("P", "PA"):
        return _planes(image, "RGBA")
    key = np.array(image.info["transparency"]).reshape(-1, 1, 1)  # one grey or colour
    planes = _planes(image, "L" if grey else "RGB")
    return np.concatenate([planes, np.where((planes == key).all(0), 0, 255).astype(np.uint8)[None]])


def _planes(image: Image.Image, mode: str) -> np.ndarray:
    """An image in a mode: uint8 [c, h, w]. A strip at a time, as each copy of a large picture is a large one."""
    found = np.empty((CHANNELS[mode], image.height, image.width), np.uint8)
    for y, end in _strips(image.height, image.width):
        strip = np.asarray(image.crop((0, y, image.width, end)).convert(mode))
        found[:, y:end] = strip if strip.ndim == 2 else strip.transpose(2, 0, 1)
    return found


def _strips(height: int, width: int) -> list[tuple[int, int]]:
    """First rows of strips of about STRIP pixels, and the rows behind their last."""
    rows = max(1, STRIP // width)
    return [(y, min(y + rows, height)) for y in range(0, height, rows)]


def kind_of(path: Path) -> str:
    """The kind of an image file by how it begins, whatever it is called: a phone's several frames (MPO) are JPEG."""
    start = b""
    with suppress(OSError), open(path, "rb") as file:
        start = file.read(4)
    return _kind(start)


def _kind(start: bytes) -> str:
    return next((kind for kind, begin in BEGINS.items() if start.startswith(begin)), "other")


def suffix_of(start: bytes) -> str:
    """The ending of what standard input holds, by how it begins. Raises ValueError for no image and no .npy file."""
    if start.startswith(b"\x93NUMPY"):
        return ".npy"
    if (kind := _kind(start)) in SUFFIXES:
        return SUFFIXES[kind]
    got = f"something that begins with {start!r}" if start else "nothing"
    raise ValueError(
        f"standard input: expected a .npy file or an image ({', '.join(SUFFIXES)}), got {got}; do: give one of these, "
        "or a file or a folder by its name"
    )


@contextmanager
def _opened(path: str | Path, every: bool) -> Iterator[Image.Image]:
    """An open image whose pixels can all be kept; Pillow's many errors, when opening or reading it, as ValueError."""
    try:
        with warnings.catch_warnings():  # Pillow's, of large pictures, half the size of those that it refuses
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
        with image:
            refused = _refusal(image, every)
            if refused:
                raise ValueError(f"{path}: {refused}")
            # Pillow says which grey is transparent as the file does, also where it has scaled the pixels.
            scale = {"L;2": 85, "L;4": 17}.get("".join(_raw_modes(image)))
            if scale and "transparency" in image.info:
                image.info["transparency"] *= scale
            yield image
    except FileNotFoundError:
        raise
    except ValueError as error:
        if str(error).startswith(f"{path}: "):
            raise
        raise ValueError(f"{path}: expected an image that can be read, got one that is broken ({error})") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: expected a picture of fewer pixels ({error}); do: cut it into parts") from error
    except (UnidentifiedImageError, OSError, SyntaxError, EOFError, struct.error) as error:  # Pillow's ways to say it
        raise ValueError(f"{path}: {_broken(path, error)}") from error


def _broken(path: str | Path, error: Exception) -> str:
    """What is wrong with a file that Pillow cannot read, and what to do."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        kind, rest = struct.unpack("<4sI", file.read(8).ljust(8))
    if not size:
        return "expected an image, got an empty file; do: copy it again from where it came, or leave it out"
    if "truncated" in str(error).lower() or (kind == b"RIFF" and size < rest):  # of WebP, Pillow does not say it
        return (
            f"expected a whole image, got one that is cut short: it ends after {size} bytes, before its last pixel; "
            "do: copy it again from where it came, or leave it out"
        )
    if isinstance(error, UnidentifiedImageError):
        # Pillow raises whatever it likes for a broken file, or warns.
        with suppress(Exception), warnings.catch_warnings(action="ignore"), open(path, "rb") as file:
            start = file.read(16)
            if start[:2] in BEGINS["TIFF"]:
                tags = TiffImagePlugin.ImageFileDirectory_v2(start[: 8 if 42 in start[2:4] else 16])
                file.seek(tags.next)
                tags.load(file)
                if refused := _refused_tiff(tags):
                    return refused
        return (
            "expected an image that can be read, got a file of an unknown kind, or one whose beginning is damaged; do: "
            "copy it again from where it came, convert it to PNG, or leave it out"
        )
    return (
        f"expected an image that can be read, got one that is damaged ({error}); do: copy it again from where it came, "
        "or leave it out"
    )


def describe(path: str | Path, name: str, keep: str = "all", every: bool = False) -> tuple[Item, dict[str, Any], str]:
    """What `read_image` will give, what `metadata` keeps of the file, and what is left out of it, "" if nothing.

    The file is read whole, so that one that is cut short is found before others are coded. Raises ValueError as
    `read_image` does.
    """
    with _opened(path, every) as image:
        mode = deep.mode_of(image)
        frames = getattr(image, "n_frames", 1)
        about, lost = metadata.of_image(image, keep)
        rest = [f"frames 2 to {frames} of {frames}: previews or depth, not the photograph"] if frames > 1 else []
        if mode:
            image.load()
            item = Item(name, mode, image.height, image.width)
        elif image.has_transparency_data:
            item = item_of(name, _pixels(path, image, every))
            rest += [] if every else ["its alpha channel, which is opaque everywhere"]
        else:
            image.load()
            item = Item(name, "L" if image.mode in ("1", "L") else "RGB", image.height, image.width)
        return item, about, "; ".join(rest + [f"metadata that cannot be kept: {', '.join(lost)}"] * bool(lost))


def _raw_modes(image: Image.Image) -> list[str]:
    """How the values of a file's parts are stored, as Pillow's decoders call it."""
    tiles_of_file = image.tile if isinstance(image, ImageFile.ImageFile) else []
    return [str(tile.args if isinstance(tile.args, str) else (tile.args or ("",))[0]) for tile in tiles_of_file]


def _refused_tiff(tags: Any) -> str:
    """Why a TIFF file with these tags is refused, "" if they do not tell."""
    bits, formats = (tags.get(tag, (default,)) for tag, default in (
        (TiffImagePlugin.BITSPERSAMPLE, 1), (TiffImagePlugin.SAMPLEFORMAT, 1)
    ))  # fmt: skip
    meaning, most = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION), max(bits)
    remedy = "do: convert it to PNG of 8 or 16 bits with an image editor, which rounds, and keep the file beside it"
    if 3 in formats:
        return f"expected 8 bits a value, or 16, as whole numbers, got floating-point numbers of {most} bits; {remedy}"
    if colours := {8: "LAB", 9: "ICC LAB", 10: "ITU LAB", 32844: "LogL", 32845: "LogLuv"}.get(meaning):
        return f"expected grey, RGB or palette, got {colours}; {remedy}"
    if 2 in formats and most > 8:
        return f"expected 8 bits a value, or 16, without a sign, got signed numbers of {most} bits; {remedy}"
    if most > 16:
        return f"expected 8 bits a value, or 16, got {most}; {remedy}"
    return ""


def _refusal(image: Image.Image, every: bool) -> str:
    mode = deep.mode_of(image)
    if mode and not every:
        return "expected 8 bits a value, got 16; do: compress it with run=photographs, which keeps them, or convert it"
    if mode:
        return _frames(image)
    if isinstance(image, TiffImagePlugin.TiffImageFile) and (refused := _refused_tiff(image.tag_v2)):
        return refused
    # Pillow hands 48-bit colour files out as 8-bit RGB without a word; only the raw mode of the decoder tells.
    tiles_of_file, raw_modes = image.tile if isinstance(image, ImageFile.ImageFile) else [], _raw_modes(image)
    more = any(re.match(r"(RGB|RGBA|RGBX|L|LA|I|CMYK);16", raw) for raw in raw_modes)
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # planes of their own have raw modes without the depth
        more = more or max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (8,))) > 8
    if more or image.mode.startswith(("I", "F")):
        return "expected 8 bits a value, or 16 in a common order, got others; do: convert it to PNG of 8 or 16 bits"
    parts: list[Any] = [tile.args for tile in tiles_of_file if tile.codec_name in ("ppm", "ppm_plain")]
    most = [args[1] for args in parts if len(args) > 1]
    if image.format == "PPM" and any(value != 255 for value in most):
        return f"expected values from 0 to 255, got a PPM file of 0 to {most[0]}; do: convert it to PNG of 8 or 16 bits"
    if image.mode in ("RGBa", "La") or any(raw.startswith("RGBa") for raw in raw_modes):
        return (
            "expected colours apart from their opacity, got colours multiplied by it; do: save it as PNG with an image "
            "editor, or with Pillow, which rounds them: Image.open(path).save(new_path)"
        )
    if any("X" in raw for raw in raw_modes) and isinstance(image, TiffImagePlugin.TiffImageFile):
        return "expected grey, RGB or RGBA, got a fourth channel of no stated use; do: save it again as PNG"
    if image.mode not in ("1", "L", "P", "RGB", "LA", "PA", "RGBA"):
        return (
            f"expected grey, RGB or palette, got {image.mode}; do: convert it to RGB with an image editor, or, "
            'from CMYK and YCbCr: Image.open(path).convert("RGB").save(new_path)'
        )
    return _frames(image)


def _frames(image: Image.Image) -> str:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # of phones, whose first frame is the photograph
        return f"expected one frame, got {frames} ({image.format}); do: save each frame as a file of its own"
    return ""


def write_image(path: str | Path, image: np.ndarray, about: dict[str, Any] | None = None) -> None:
    """Write uint8 or uint16 [c, h, w], c from 1 to 4, as PNG, with its metadata; folders above it are made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if image.dtype == np.uint16:
        Path(path).write_bytes(metadata.with_aspect(deep.png(image, about or {}), about or {}))
        return
    _, mode, height, width = item_of("", image)
    made = Image.new(mode, (width, height))
    for y, end in _strips(height, width):
        strip = image[:, y:end]
        made.paste(Image.fromarray(strip[0] if len(strip) == 1 else strip.transpose(1, 2, 0).copy()), (0, y))
    made.save(path, "PNG", **metadata.options(about or {}))
    if about and "aspect" in about:
        Path(path).write_bytes(metadata.with_aspect(Path(path).read_bytes(), about))


def check_name(name: str, windows: bool = os.name == "nt") -> str:
    """Return the name of an item unchanged if writing to it below any folder stays below that folder.

    windows: also refuse what is a name of its own kind there, or another one's. Raises ValueError for absolute paths,
    "..", drive letters, backslashes, empty or "." parts, NUL, names of devices, folders deeper than MOST_PARTS.
    """
    parts = name.split("/")
    device = any(DEVICE.fullmatch(part) for part in parts)
    unsafe = device or any(part in ("", ".", "..") for part in parts) or len(parts) > MOST_PARTS
    unsafe = unsafe or bool(re.search(r"[\\\0]", name) or re.match(r"[A-Za-z]:", name) or not _storable(name))
    if unsafe or (windows and any(re.search(r'[<>:"|?*\x01-\x1f]|[. ]$', part) for part in parts)):
        raise ValueError(
            f"expected a relative path like folder/picture.png, got the unsafe name {name[:200]!r}"
            f"{', which is a device on Windows' * device}; do: rename the file before compressing it; if you did not "
            "make this .tkc file, do not trust it"
        )
    return name


def _storable(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:  # lone surrogates other than those of file names that are not UTF-8
        return False
    return True


def output_names(items: Sequence[Item], taken: set[str]) -> list[str]:
    """Choose the relative path that `decompress` writes each item to; all differ, in lower case too. Fills `taken`.

    The item's own name with the suffix .png; where that is taken, or is a folder of another item, the full old name +
    ".png". An item that is called .png keeps its name. Raises ValueError for an unsafe name, and for two items of one
    name.
    """
    for item in items:
        path = PurePosixPath(check_name(item.name))
        taken.update(_same(str(folder)) for folder in path.parents)
    if len({item.name for item in items}) < len(items):
        name = next(name for name, n in Counter(item.name for item in items).items() if n > 1)
        raise ValueError(
            f"expected names that differ, got {name!r} twice; this .tkc file is damaged, or do not trust it"
        )
    order = sorted(range(len(items)), key=lambda i: not items[i].name.endswith(".png"))
    names = {i: new_name(items[i].name, taken) for i in order}
    return [names[i] for i in range(len(items))]


def check_restorable(items: Sequence[Item]) -> None:
    """Raise ValueError for pictures whose names, once restored, no file system takes."""
    for item, name in zip(items, output_names(items, set()), strict=True):
        # A damaged picture's name is longer by ".damaged".
        if max(len(os.fsencode(part)) for part in name.split("/")) + len(".damaged") > MOST_NAME:
            raise ValueError(
                f"expected names of at most {MOST_NAME - len('.damaged')} bytes once restored, got "
                f"{item.name[:40]}...; rename the file"
            )


def check_lengths(names: Sequence[str]) -> None:
    """Raise ValueError for names of a file that no file system takes, which no honest file has."""
    for name in names:
        if max(len(os.fsencode(part)) for part in name.split("/")) > MOST_NAME:
            raise ValueError(
                f"expected names of at most {MOST_NAME} bytes, got {name[:40]}...; this .tkc file is damaged, or do "
                "not trust it"
            )


def new_name(name: str, taken: set[str], suffix: str = ".png") -> str:
    """A name for a picture that no other has; added to `taken`, which holds names as `_same` makes them."""
    path = PurePosixPath(name)
    # Soon from a number that is surely free: a hostile file may have a million names that differ in case only.
    numbered = (f"{path}.{i}{suffix}" for i in chain(range(2, 10), count(len(taken))))
    names = chain((str(path.with_suffix(suffix)), f"{path}{suffix}"), numbered)
    chosen = next(name for name in names if _same(name) not in taken)
    taken.add(_same(chosen))
    return chosen


def _same(name: str) -> str:
    """Equal for names that some file systems take for one: a.png and A.png, or two ways to write an accent."""
    return unicodedata.normalize("NFD", name.casefold())
