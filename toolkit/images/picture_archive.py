"""Whole pictures in a .tkc file, lossless: each is a chunk of its own, and threads and ranks code several at a time.

docs/format.md, section "Whole pictures", is the specification.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from tqdm import tqdm

from toolkit import ranks
from toolkit.coding.threads import processors
from toolkit.container import ContainerError, DamagedFile, Reader, Writer, digest
from toolkit.images.files import CHANNELS, CHEAPEST, MOST_VALUES, Earlier, Item, item_of
from toolkit.images.files import described as described_item
from toolkit.images.source import Source
from toolkit.images.verify import verify

KIND = "pictures"


class PictureModel(Protocol):
    """What codes pictures; in several threads at a time."""

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All that it knows, by name as in its file of weights: what its files' fingerprint is made of."""

    def encode(self, picture: np.ndarray, effort: int) -> bytes:
        """The payload of a picture, uint8 or uint16 [c, h, w]; effort: 0, 1 or 2."""

    def decode(self, data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
        """The picture of a payload of any effort, of the dtype that it had. Raises ValueError if it is damaged."""


def compress(
    model: PictureModel, origin: Source, output: str | Path, effort: int, identity: dict[str, Any],
    progress: bool = True, verified: bool = False,
) -> int:  # fmt: skip
    """Write pictures to a .tkc file; returns its size in bytes.

    identity: what the header says about recipe and model; verified: decode and compare all before the file gets its
    name. Raises ValueError for more than a decoder would take, and for what does not come back.
    """
    items = origin.items
    for item in items:
        if (values := math.prod(shape_of(item))) > MOST_VALUES:
            raise ValueError(f"{item.name}: expected at most {MOST_VALUES} values, got {values}; cut it into parts")
    header = {
        **identity, "kind": KIND, "values": origin.values, **origin.header, "items": [list(item) for item in items],
    }  # fmt: skip

    def coded(i: int) -> tuple[bytes, int]:
        picture = origin.picture(i)
        try:
            return model.encode(picture, effort), pixels_crc(picture)
        except ValueError as error:
            raise ValueError(f"{items[i].name}: {error}") from error

    def check(file: Path) -> None:
        with Reader(file) as reader:
            verify(PictureContents(reader, model), origin, progress)

    jobs = ((math.prod(shape_of(item)), i) for i, item in enumerate(items))
    every = ranks.ordered(coded, jobs, processors(), (header, effort, origin.sizes), output)
    with (
        Writer(output, header, check if verified else None) as writer,
        tqdm(total=len(items), unit="picture", disable=not progress) as bar,
    ):
        for payload, crc in every:
            writer.write(payload, 1, crc)
            bar.update()
        if origin.values > CHEAPEST * writer.size:
            raise ValueError(
                f"expected pictures with something in them, got {origin.values} values in {writer.size} bytes, which a "
                "reader would not believe; keep them as PNG"
            )
    return writer.size


class PictureContents:
    """The pictures of such a file: see `restore.Contents`. Raises DamagedFile for a header that does not fit it."""

    unit, array = "picture", None

    def __init__(self, reader: Reader, model: PictureModel) -> None:
        self.items = described(reader)
        self._decoder = _Decoder(reader, model, self.items)
        self._which: Sequence[int] = ()
        self._ahead: Generator[np.ndarray | ContainerError, None, None] | None = None  # of these, in their order

    def serve(self) -> None:
        """See `restore.Contents`."""
        self._decoder.ordered((), lambda _: None)

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
        """See `restore.Contents`. Others that were selected are decoded meanwhile."""
        if self._ahead is None:
            self._ahead = self._decoder.ordered(self._which, earlier)
        found = next(self._ahead)
        progress(1)
        if isinstance(found, np.ndarray):
            return found, True
        if damage is None:
            self._ahead.close()
            raise found
        damage.append(str(found))
        return None, False


class _Decoder(NamedTuple):
    """Decodes the chunks of a file."""

    reader: Reader
    model: PictureModel
    items: Sequence[Item]

    def ordered(self, which: Sequence[int], earlier: Earlier) -> Generator[np.ndarray | ContainerError, None, None]:
        """Pictures, or what is wrong with them. Files are read here, and not in threads or by other ranks."""

        def jobs() -> Iterator[tuple[int, Any]]:
            for i in which:
                try:
                    payload = self.reader.read(i)
                except ContainerError as error:
                    yield 0, ranks.Done(error)
                    continue
                there, shape = earlier(i), shape_of(self.items[i])
                if there is not None and tuple(there.shape) == shape and self._is(i, there):
                    yield there.size, ranks.Done(there)
                else:
                    yield math.prod(shape), (i, payload)

        of = self.reader.header, self.reader.found
        return ranks.ordered(self._decoded, jobs(), processors(), of)

    def _decoded(self, job: tuple[int, bytes]) -> np.ndarray | ContainerError:
        """A picture, or what is wrong with it."""
        i, payload = job
        where = f"{self.reader.path}: chunk {i} of {len(self.items)}"
        try:
            pixels = self.model.decode(payload, shape_of(self.items[i]))
        except ValueError as error:
            return DamagedFile(f"{where} does not decode: {error}")
        if not self._is(i, pixels):
            return DamagedFile(f"{where} decodes to other pixels than were encoded; do not trust the file")
        return pixels

    def _is(self, i: int, pixels: np.ndarray) -> bool:
        same = item_of("", pixels)[1:] == self.items[i][1:]
        return same and pixels_crc(pixels) == self.reader.found[i].rows_crc


def described(reader: Reader) -> list[Item]:
    """The pictures of a file. Raises DamagedFile for a header that does not fit it."""
    if reader.header.get("kind") != KIND:
        raise DamagedFile(
            f"{reader.path}: expected kind {KIND}, got {str(reader.header.get('kind'))[:40]!r}; update this toolkit"
        )
    try:
        items = [described_item(name, mode, h, w, CHANNELS) for name, mode, h, w in reader.header["items"]]
        values = [math.prod(shape_of(item)) for item in items]
        if max(values, default=0) > MOST_VALUES or sum(values) > CHEAPEST * reader.size:
            raise ValueError(f"{sum(values)} values in a file of {reader.size} bytes")
        if reader.damage is None and len(reader.chunks) != len(items):
            raise ValueError(f"{len(items)} pictures in {len(reader.chunks)} chunks")
        for i, chunk in reader.found.items():
            if chunk.rows != 1 or i >= len(items):
                raise ValueError(f"chunk {i} of {chunk.rows} rows")
        return items
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFile(
            f"{reader.path}: expected items that fit the file, got {type(error).__name__}: {str(error)[:300]}; copy it "
            "again, or update this toolkit"
        ) from error


def fingerprint(model: PictureModel) -> str:
    """Identity of a model in headers, as that of `chunks.model.fingerprint` without a configuration, but shorter."""
    arrays = sorted(model.arrays.items())
    values = ((name, f"torch.{array.dtype}", array.shape, array.tobytes()) for name, array in arrays)
    return digest({}, values)[:16]


def pixels_crc(picture: np.ndarray) -> int:
    """CRC-32 of the values of a picture, uint8 or uint16 [c, h, w], plane by plane, low bytes first."""
    return zlib.crc32(np.ascontiguousarray(picture, picture.dtype.newbyteorder("<")).data)


def shape_of(item: Item) -> tuple[int, int, int]:
    """Channels, height and width."""
    return CHANNELS[item.mode], item.height, item.width
