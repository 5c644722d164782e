"""Pictures that come one after another, or parts of an array, to chunks of a .tkc file; also behind those of a file.

The header is known when all have come. `toolkit.archive.Writer` keeps the chunks until then.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any, NamedTuple, Protocol

import numpy as np

from toolkit.container import Reader
from toolkit.images import arrays, files
from toolkit.images.files import CHANNELS, MOST_VALUES, PLAIN, Item, item_of
from toolkit.images.picture_archive import KIND, PictureModel, pixels_crc, shape_of

NAME = "array.npy"  # of an array that came in parts


class Payload(NamedTuple):
    """A chunk that is finished."""

    data: bytes
    rows: int
    rows_crc: int


class Encoder(Protocol):
    """What a head makes of pictures that come one after another."""

    kept: int  # chunks of the file that it goes on with, which stay as they are; they come first

    def picture(self, item: Item, pixels: np.ndarray) -> Iterator[Payload]:
        """Code a picture, uint8 or uint16 [c, h, w]. Yields the chunks that are finished now. Raises ValueError."""

    def images(self, values: np.ndarray) -> Iterator[Payload]:
        """Code images of an array, integers [n, c, h, w] or [n, h, w, c]. Raises ValueError."""

    def finish(self) -> Iterator[Payload]:
        """Yield the chunks that are left."""

    def header(self) -> dict[str, Any]:
        """The header of the file."""

    def close(self) -> None:
        """Leave off: threads end."""


class Listed:
    """The pictures of a file to be, or the one array that all are images of."""

    def __init__(self, reader: Reader | None, array: arrays.Array | None = None) -> None:
        header = reader.header if reader else {}
        self.items = [Item(*item) for item in header.get("items", [])]
        self.metadata: list[Any] = list(header.get("metadata", []))
        self.array, self._names = array, {item.name for item in self.items}
        self.values = int(header.get("values", 0))

    def add(self, item: Item, every: bool) -> None:
        """Note a picture. Raises ValueError for one that has no place in the file."""
        if self.array:
            raise ValueError(f"expected images of the array {list(self.array.shape)}, got a picture; write two files")
        if item.mode not in (CHANNELS if every else PLAIN):
            raise ValueError(f"{item.name}: expected grey or RGB, 8 bits a value, got {item.mode}; give another model")
        files.check_restorable([Item(files.check_name(item.name), *item[1:])])
        if item.name in self._names:
            raise ValueError(f"expected names that differ, got {item.name!r} twice; give each picture one of its own")
        self.items.append(item)
        self._names.add(item.name)
        self.values += CHANNELS[item.mode] * item.height * item.width

    def extend(self, values: np.ndarray) -> np.ndarray:
        """Note images of an array; returns them as uint8 [n, c, h, w]. Raises ValueError for others than before."""
        if values.dtype.kind not in "biu" or (values.size and not 0 <= int(values.min()) <= int(values.max()) <= 255):
            raise ValueError(f"expected integers from 0 to 255, got {values.dtype}; quantise them first")
        new = arrays.Array(NAME, "npy", values.dtype.str, values.shape, arrays.axes_of(values.shape))
        array = self.array or new._replace(shape=(0, *new.shape[1:]))
        if self.items or (array.dtype, array.shape[1:], array.axes) != (new.dtype, new.shape[1:], new.axes):
            got = "pictures and an array" if self.items else f"{new.dtype} {list(new.shape)}"
            raise ValueError(f"expected more images {array.dtype} [n, {str(list(array.shape[1:]))[1:]}, got {got}")
        self.array = array._replace(shape=(array.shape[0] + len(values), *array.shape[1:]))
        self.values += values.size
        return arrays.to_images(values, new.axes)

    def described(self) -> dict[str, Any]:
        """What a header says of them."""
        if self.array:
            return {"array": {**self.array._asdict(), "shape": list(self.array.shape)}}
        return {"items": [list(item) for item in self.items]}

    def kept_metadata(self) -> dict[str, Any]:
        """What a header says of the pictures that were there before; new ones have none."""
        rest: list[Any] = [{}] * (len(self.items) - len(self.metadata))
        return {"metadata": self.metadata + rest} if any(self.metadata) else {}


class PictureEncoder:
    """Whole pictures, each a chunk, as many at a time as there are processors: see `Encoder`."""

    def __init__(self, model: PictureModel, effort: int, identity: dict[str, Any], before: Reader | None) -> None:
        from toolkit.coding.threads import processors, threads

        self._model, self._effort, self._identity = model, effort, identity
        self._listed, self.kept = Listed(before), len(before.chunks) if before else 0
        self._stack, self._ahead = ExitStack(), deque[Future[Payload]]()
        self._most = processors()
        self._submit = self._stack.enter_context(threads(self._most))

    def picture(self, item: Item, pixels: np.ndarray) -> Iterator[Payload]:
        """See `Encoder`."""
        if (values := math.prod(shape_of(item))) > MOST_VALUES:
            raise ValueError(f"{item.name}: expected at most {MOST_VALUES} values, got {values}; cut it into parts")
        self._listed.add(item, True)
        self._ahead.append(self._submit(functools.partial(self._coded, item, pixels.copy())))
        return self._finished(self._most)

    def images(self, values: np.ndarray) -> Iterator[Payload]:
        """See `Encoder`."""
        raise ValueError("expected pictures [c, h, w] for a model of whole ones, got an array; give run=, one of tiles")

    def finish(self) -> Iterator[Payload]:
        """See `Encoder`."""
        return self._finished(0)

    def header(self) -> dict[str, Any]:
        """See `Encoder`."""
        listed = self._listed
        return {
            **self._identity, "kind": KIND, "values": listed.values, **listed.kept_metadata(), **listed.described()
        }  # fmt: skip

    def close(self) -> None:
        """See `Encoder`."""
        for future in self._ahead:
            future.cancel()
        self._stack.close()

    def _coded(self, item: Item, pixels: np.ndarray) -> Payload:
        try:
            return Payload(self._model.encode(pixels, self._effort), 1, pixels_crc(pixels))
        except ValueError as error:
            raise ValueError(f"{item.name}: {error}") from error

    def _finished(self, most: int) -> Iterator[Payload]:
        from toolkit.coding.threads import result

        while len(self._ahead) > most:
            yield result(self._ahead.popleft())


def item_named(name: str, pixels: Any) -> tuple[Item, np.ndarray]:
    """A picture of a name and its pixels as an array. Raises ValueError for what is no picture."""
    found = np.asarray(pixels)
    if found.ndim != 3 or not 1 <= len(found) <= 4 or found.dtype not in (np.uint8, np.uint16) or not found.size:
        raise ValueError(
            "expected a picture uint8 or uint16 [c, h, w] with c from 1 to 4, or images [n, c, h, w], got "
            f"{found.dtype} {list(found.shape)}; channels come first: array.transpose(2, 0, 1)"
        )
    return item_of(name, found), found
