"""A .tkc file in Python: `toolkit.open` gives its pictures one by one, `toolkit.Writer` takes them as they come."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

from toolkit import cli, container, opened, places, zoo
from toolkit.container import Reader, check_new
from toolkit.images import arrays
from toolkit.images.files import Item
from toolkit.images.restore import Contents
from toolkit.images.streaming import Encoder, Payload, item_named
from toolkit.run import Run


class Archive:
    """An open file of pictures, or of an array of images: they are decoded when they are asked for, and none is kept.

        with toolkit.open("photos.tkc") as file:
            for picture in file: ...        # in order; each chunk is decoded once
            file[3], file["pets/cat.png"]   # one of them

    Pictures are uint8 or uint16 [c, h, w]. What was an array gives its images as they were: file[i] equals array[i], of
    the same shape and dtype. `items`: name, mode, height and width of each picture; `names`; `header`, as of the file.
    One thread at a time may use it.
    """

    def __init__(
        self, path: str | PathLike[str], run: str | PathLike[str] | None = None, device: str = "auto"
    ) -> None:  # fmt: skip
        with ExitStack() as stack:
            self._reader = stack.enter_context(Reader(path))
            self.header = self._reader.header
            model = _run(stack, self._reader, run, device)
            self._contents: Contents = model.head.contents(model, self._reader)
            self._stack = stack.pop_all()
        self.close = weakref.finalize(self, self._stack.close)
        self.items: Sequence[Item] = self._contents.items
        array = self._contents.array
        self.names = [] if array else [item.name for item in self.items]
        self._array, self._numbers = array, {name: i for i, name in enumerate(self.names)}
        self._turn: object = None  # of whom the file's contents were told last what comes next

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._contents.select(())
        self.close()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: int | str) -> np.ndarray:
        if isinstance(key, str):
            if key not in self._numbers:
                raise KeyError(f"expected a name in the file, for instance one of {self.names[:3]}, got {key!r}")
            key = self._numbers[key]
        i = range(len(self))[key]  # IndexError
        self._turn = None
        self._contents.select([i])
        return self._picture(i)

    def __iter__(self) -> Iterator[np.ndarray]:
        turn = object()
        for i in range(len(self)):
            if self._turn is not turn:  # at the beginning, and where others were asked for meanwhile
                self._contents.select(range(i, len(self)))
                self._turn = turn
            yield self._picture(i)

    def together(self) -> list[range]:
        """Numbers of pictures that share chunks, and so are best decoded together; one each where none share."""
        return self._contents.together()

    def part(self, which: range) -> list[np.ndarray]:
        """Some pictures that follow each other, [c, h, w], those of an array too."""
        self._turn = None
        self._contents.select(which)
        return [self._stored(i) for i in which]

    def _stored(self, i: int) -> np.ndarray:
        picture, _ = self._contents.picture(i, None, lambda _: None, lambda _: None)
        assert picture is not None  # damage raises
        return picture

    def _picture(self, i: int) -> np.ndarray:
        picture = self._stored(i)
        if self._array is None:
            return picture
        if self._array.axes[0] != "n":
            return arrays.restore_array(picture[None], self._array)
        return arrays.restore_array(picture[None], self._array._replace(shape=(1, *self._array.shape[1:])))[0]


class Writer:
    """Write a .tkc file of pictures that come one after another, or of an array that comes in parts.

        with toolkit.Writer("photos.tkc") as writer:
            writer.add(picture, "pets/cat.png")      # uint8 or uint16 [c, h, w]
        with toolkit.Writer("rows.tkc", run="RUN") as writer:
            writer.add(rows)                         # [n, c, h, w] or [n, h, w, c], any number of times

    The file appears, or replaces the one before, when the block ends without an error. Until then finished chunks wait
    in a file without a name beside it (of a URL: in the folder for temporary files), of which a crash leaves nothing.
    Memory is that of a chunk, or of as many pictures as there are processors.

    run: as of `toolkit compress`; options: as of it, too (effort, chunk_rows, exact; bpp, psnr or lambda, with which
    the model is the lossy one that ships, if run is None, and metric). append: go on with a file that is there, with
    its model, which is copied; its last chunk is coded again if it is not full. overwrite: a file that is there may go.
    Raises ValueError or OSError for what cannot be done. A UserWarning when the block ends names pictures that missed
    the bpp or psnr that was asked for.
    """

    def __init__(
        self, path: str | PathLike[str], run: str | PathLike[str] | None = None, *, append: bool = False,
        overwrite: bool = False, device: str = "auto", **options: Any,
    ) -> None:  # fmt: skip
        check_new(path, overwrite or append, [".tkc"])
        asked = {key: str(value).lower() for key, value in options.items()}
        self._path, self._chunks, self._count = path, list[tuple[int, int, int]](), 0
        self._failed = False  # whether chunks are missing
        self._before: Reader | None = None
        with ExitStack() as stack:
            if append:
                self._before = stack.enter_context(Reader(path))
                self._count = len(self._before.header.get("items", []))
                model = _run(stack, self._before, run, device)
            else:
                folder = _folder(stack, run, zoo.LOSSY if zoo.RATES & asked.keys() else None)
                exact = None if "exact" not in asked else asked["exact"] == "true"
                model = opened.load(folder, device, exact)
            known = dict(model.head.compress_options)
            known.pop("verify", None)  # pictures are not kept: there is nothing to compare with
            self._encoder: Encoder = model.head.encoder(model, cli.asked(asked, set(), known, model.name), self._before)
            stack.callback(self._encoder.close)
            place = None if places.is_url(path) else Path(path).resolve().parent
            self._spool: BinaryIO = stack.enter_context(tempfile.TemporaryFile(dir=place))
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:  # fmt: skip
        if kind is None:
            self.close()
        else:
            self._stack.close()

    def add(self, pixels: Any, name: str | None = None) -> None:
        """Code a picture, uint8 or uint16 [c, h, w], or images of an array, [n, c, h, w] or [n, h, w, c].

        name: of a picture, a relative path; None: its number, as in 000000.png. Raises ValueError for others.
        """
        if self._spool.closed:
            raise ValueError(f"{places.named(self._path)}: expected an open Writer, got a closed one; make another")
        self._check_whole()
        values = np.asarray(pixels)
        if values.ndim == 4:
            if name is not None:
                raise ValueError(f"expected no name for images of an array, got {name!r}; leave it out")
            self._keep(self._encoder.images(values) if len(values) else iter(()))
            return
        item, values = item_named(name or f"{self._count:06}.png", values)
        self._keep(self._encoder.picture(item, values))
        self._count += 1

    def close(self) -> None:
        """Finish the file. Raises ValueError for one without pictures."""
        if self._spool.closed:
            return
        with self._stack:
            self._check_whole()
            self._keep(self._encoder.finish())
            with container.Writer(self._path, self._encoder.header()) as writer:
                for i in range(self._encoder.kept):
                    assert self._before is not None
                    chunk = self._before.chunks[i]
                    writer.write(self._before.read(i), chunk.rows, chunk.rows_crc)
                self._spool.seek(0)
                for size, rows, crc in self._chunks:
                    writer.write(self._spool.read(size), rows, crc)

    def _keep(self, chunks: Iterator[Payload]) -> None:
        try:
            for chunk in chunks:
                self._spool.write(chunk.data)
                self._chunks.append((len(chunk.data), chunk.rows, chunk.rows_crc))
        except BaseException:
            self._failed = True
            raise

    def _check_whole(self) -> None:
        """Raise ValueError where a part could not be coded or kept: without it, those behind it would not fit."""
        if self._failed:
            raise ValueError(
                f"{places.named(self._path)}: expected every part to be coded, got an error for one before; make a new "
                "Writer, and leave that part out"
            )


def model_of(reader: Reader, run: str | PathLike[str] | None) -> Path:
    """The folder of the model that `run` names, or of one that ships and wrote the file. Raises ValueError."""
    if run is not None:
        return zoo.folder_of(str(run))
    recipe, model = (reader.header.get(key) for key in ("recipe", "model"))
    if found := zoo.by_fingerprint(recipe, model):
        return zoo.find(found)
    if reader.header.get("kind") == "embeddings":
        raise ValueError(
            f"{reader.path}: expected a file of pictures, got one of word vectors; use "
            f"{cli.command_line('export_embeddings', f'input={reader.path}', 'output=vectors.bin')}, or in Python "
            "toolkit.embeddings.open"
        )
    raise ValueError(
        f"{reader.path}: expected a file of a model that ships ({', '.join(zoo.names()) or 'none do'}), got one of "
        f"another, of recipe {str(recipe)[:40]!r} and fingerprint {str(model)[:16]!r}; give run=, the folder of the "
        "model that compressed it, or, if the model shipped with another version of this toolkit, use that version"
    )


def _folder(stack: ExitStack, run: str | PathLike[str] | None, default: str | None = None) -> Path:
    """The folder of a run, None: of a model that ships; of a URL a copy until the stack is closed."""
    if run is None or not places.is_url(run):
        return zoo.folder_of(None if run is None else str(run), default)
    target = Path(stack.enter_context(tempfile.TemporaryDirectory())) / places.name_of(str(run))
    return places.fetch(str(run), target, places.of_run)


def _run(stack: ExitStack, reader: Reader, run: str | PathLike[str] | None, device: str) -> Run:
    """The run that wrote a file."""
    folder = model_of(reader, None) if run is None else _folder(stack, run)
    return opened.load(folder, device, reader.header.get("exact") is True)
