"""The bytes of a file of word vectors: codebooks and stacks of a few rows each, written and read.

docs/format.md, section "Word vectors", is the specification.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import lzma
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from toolkit.coding import kernels, vbq, wire
from toolkit.coding.codecs import check_numbers
from toolkit.coding.kernels import Order
from toolkit.coding.message import Message
from toolkit.coding.tables import Table
from toolkit.coding.tables import tables as ready
from toolkit.container import DamagedFile, Reader, UnknownVersion, Writer, inflate
from toolkit.embeddings import tables
from toolkit.embeddings import vocabulary as word_list
from toolkit.embeddings.tables import Kept

if TYPE_CHECKING:
    from gensim.models import KeyedVectors

VECTORS = "embeddings"
STATIC = 3  # version of a file whose first chunk has, instead of words, what names them: a tokenizer, and more
LANE_VALUES = 4500  # coded values of a stack: what a word may need decoded, in a millisecond; more cost fewer bytes
BATCH_VALUES, SEARCH_VALUES = 1 << 22, 1 << 15  # values coded at once, to bound memory; the same in a search
BOOK = struct.Struct("<HHI")  # code points, tables, bytes of the stored codebook
# What a file may declare, so that a small one cannot take all memory; `write` keeps to it.
MOST_DIMENSIONS, MOST_POINTS, MOST_TABLE = 1 << 16, 1 << 14, 1 << 20  # of a vector; of a codebook; points times tables
VALUES_A_BYTE, MOST_LANE_VALUES = 1 << 14, 1 << 13  # of the whole file; coded ones of a stack of more than one row


class Quantised(NamedTuple):
    """Vectors moved to code points: for each group of ranks, first to last, a codebook and its symbols."""

    books: list[vbq.Codebook]
    symbols: list[Tensor]  # int64 [rows, d] each
    bits: float  # what the search reports: -log2 of all symbols' frequencies, and the codebooks as a file holds them

    def vectors(self) -> Tensor:
        """The vectors as a decoder will return them: float32 [words, d]."""
        return torch.cat([book.points[symbols] for book, symbols in zip(self.books, self.symbols, strict=True)])


def write(
    path: str | os.PathLike[str],
    words: Sequence[str],
    quantised: Quantised,
    about: dict[str, Any] | None = None,
    first: tuple[bytes, int] | None = None,
    kept: Kept | None = None,
) -> dict[str, int]:
    """Write a file and return its bytes: of the vocabulary, tables, lanes and the whole file.

    words: str for each row, in the rows' order; about: JSON values for the header, for information; kept: what stands
    beside a table of tokens, whose names are then words; first: what `first_chunk` says of these, where it is known.
    """
    d = quantised.symbols[0].shape[1]
    if d > MOST_DIMENSIONS:
        raise ValueError(f"expected vectors of at most {MOST_DIMENSIONS} dimensions, got {d}; make them shorter")
    vocabulary, version = first or first_chunk(words, kept)
    header = {
        "kind": VECTORS,
        "version": version,
        "values": len(words) * d,
        "words": len(words),
        "dimensions": d,
        "precision": vbq.CODE_BITS,
        "lane_rows": [_lane_rows(book, len(rows)) for book, rows in zip(*quantised[:2], strict=True)],
        **(kept.header() if kept else {}),
        **(about or {}),
    }
    tables = lanes = 0
    with Writer(path, header) as writer:
        writer.write(vocabulary, 0, word_list.checksum(words))
        for book, symbols in zip(quantised.books, quantised.symbols, strict=True):
            codebook, body = pack_book(book), _encode(book, symbols)
            head = BOOK.pack(len(book.points), len(book.freqs), len(codebook))
            writer.write(head + codebook + body, len(symbols), _rows_crc(book.points[symbols]))
            tables, lanes = tables + len(head) + len(codebook), lanes + len(body)
        if len(words) * d > VALUES_A_BYTE * writer.size:
            raise ValueError(
                f"expected at most {VALUES_A_BYTE} values a byte of the file, got {len(words)} words of {d} dimensions "
                f"in {writer.size} bytes; choose a smaller lambda"
            )
    return {"vocabulary": len(vocabulary), "tables": tables, "lanes": lanes, "file": writer.size}


def first_chunk(words: Sequence[str], kept: Kept | None) -> tuple[bytes, int]:
    """The payload of the words, or of what is kept instead, and the version. Raises ValueError for too many words."""
    if kept is not None:
        return kept.pack(), STATIC
    vocabulary, version = word_list.pack(words)
    word_list.check_size(len(words), sum(len(word.encode()) for word in words), len(vocabulary))
    return vocabulary, version


class Embeddings:
    """An open file: `embeddings["word"]` decodes one word and, at most, the few before it on its stack.

    Use `toolkit.embeddings.open`; a context manager. `kept`: tokenizer and more, of static sentence embeddings. Words
    are decoded when they are first needed: for `[word]` and `in` a block of them, for all else the whole. What raises
    DamagedFile where anything is not as it was written.
    """

    kept: Kept | None = None
    _spelt: word_list.Spelt | None = None

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._reader = Reader(path)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        header = self._reader.header
        if header.get("kind") != VECTORS:
            raise ValueError(
                f"{self._reader.path}: expected a file of word vectors, got kind {header.get('kind')!r}; give one that "
                "toolkit.export_embeddings wrote"
            )
        version = header.get("version", 1)
        if type(version) is not int or version not in (*word_list.VERSIONS, STATIC):
            known = "{}, {} or {}".format(*sorted((*word_list.VERSIONS, STATIC)))
            raise UnknownVersion(
                f"{self._reader.path}: expected word vectors of version {known}, got {version!r}; update the toolkit"
            )
        names = ("words", "dimensions", "precision")
        numbers = [header.get(name) for name in names]
        if not all(_is_count(x) for x in numbers) or header["precision"] != vbq.CODE_BITS:
            raise self._damaged(f"a header with counts for {', '.join(names)}", str(numbers))
        self.dimensions = int(header["dimensions"])
        if self.dimensions > MOST_DIMENSIONS:
            raise self._damaged(f"at most {MOST_DIMENSIONS} dimensions", str(self.dimensions))
        if header["words"] * self.dimensions > VALUES_A_BYTE * self._reader.size:
            raise self._damaged(f"at most {VALUES_A_BYTE} values a byte", f"{numbers} in {self._reader.size} bytes")
        rows = [chunk.rows for chunk in self._reader.chunks]
        if len(rows) < 2 or rows[0] or not all(rows[1:]) or sum(rows) != header["words"]:
            raise self._damaged(f"a vocabulary and groups of {header['words']} rows in all", str(rows))
        self._first = [0, *itertools.accumulate(rows[1:])]  # row of each group, and the end
        lane_rows: Any = header.get("lane_rows")
        if not isinstance(lane_rows, list) or len(lane_rows) != len(rows) - 1 or not all(map(_is_count, lane_rows)):
            raise self._damaged(f"the rows of a stack in each of {len(rows) - 1} groups", str(lane_rows)[:60])
        self._lane_rows: list[int] = lane_rows
        self._groups: dict[int, _Group] = {}
        with self._vocabulary():
            payload = self._reader.read(0)
            if version == word_list.SPELT:
                self._spelt = word_list.Spelt(payload, header["words"])
            elif version == STATIC:
                self.kept = tables.unpack(payload, header)
                self.words = self._checked(tables.names_of_rows(self.kept, header["words"]))
            else:
                self.words = self._checked(word_list.unpack_front_coded(payload, header["words"]))

    @functools.cached_property
    def words(self) -> list[str]:
        """All words, in the order of the rows."""
        with self._vocabulary():
            assert self._spelt is not None
            return self._checked(self._spelt.words())

    @functools.cached_property
    def rows(self) -> dict[str, int]:
        """The row of each word."""
        return dict(zip(self.words, range(len(self.words)), strict=True))

    def _row(self, word: object) -> int:
        """The row of a word, or -1."""
        if not isinstance(word, str):
            return -1
        if self._spelt is None or "rows" in self.__dict__:
            return self.rows.get(word, -1)
        with self._vocabulary():
            return self._spelt.row(word)

    def _checked(self, words: list[str]) -> list[str]:
        if word_list.checksum(words) != self._reader.chunks[0].rows_crc:
            raise self._damaged("a vocabulary with the stored checksum", "another")
        different = len(words) if self._spelt is not None else len(set(words))  # sorted words were compared
        if different != len(words) or "" in words:
            raise self._damaged("words that differ", f"{different} different ones of {len(words)}")
        return words

    @contextmanager
    def _vocabulary(self) -> Iterator[None]:
        """What is wrong with a vocabulary, as an error that names the file."""
        try:
            yield
        # OSError: bz2's way to say damaged
        except (OSError, ValueError, EOFError, struct.error, lzma.LZMAError) as error:
            if isinstance(error, DamagedFile):
                raise
            raise self._damaged(f"a vocabulary of {self._reader.header['words']} words", str(error)) from error

    def __enter__(self) -> Embeddings:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; words in groups that were read before can still be decoded."""
        self._reader.__exit__()

    def __len__(self) -> int:
        return self._first[-1]

    def __contains__(self, word: object) -> bool:
        return self._row(word) >= 0

    def __iter__(self) -> Iterator[str]:
        return iter(self.words)

    def __getitem__(self, word: str) -> np.ndarray[Any, Any]:
        """The vector of a word, float32 [d]. Raises KeyError for a word that the file does not have."""
        row = self._row(word)
        if row < 0:
            raise KeyError(f"expected a word of the vocabulary, got {word!r}; ask with `in` first")
        number = bisect.bisect_right(self._first, row) - 1
        return self._group(number).row(row - self._first[number])

    def vectors(self) -> Tensor:
        """All vectors, float32 [words, d], checked against the file's checksums."""
        found = torch.empty(len(self), self.dimensions)
        for first, part in self._parts(BATCH_VALUES):
            found[first : first + len(part)] = part
        return found

    def nearest(self, queries: Tensor, n: int = 10) -> tuple[Tensor, Tensor]:
        """The n rows of the largest cosine with each query, float32 [queries, d], the largest first.

        Returns cosines float32 and rows int64, [queries, n] each, or as many as there are words. A few rows are decoded
        at a time and none kept, so that a search takes little memory. Raises ValueError for queries of another shape.
        """
        if queries.dim() != 2 or queries.shape[1] != self.dimensions or n < 0:
            raise ValueError(
                f"expected queries [queries, {self.dimensions}] and their n nearest, n at least 0, got "
                f"{list(queries.shape)} and {n}; give a row for each query"
            )
        unit = torch.nn.functional.normalize(queries.float(), dim=1)
        best, rows = unit.new_empty(len(unit), 0), torch.empty(len(unit), 0, dtype=torch.int64)
        for first, part in self._parts(SEARCH_VALUES):
            both = torch.cat([best, unit @ torch.nn.functional.normalize(part, dim=1).T], 1)
            at = torch.cat([rows, torch.arange(first, first + len(part)).expand(len(unit), -1)], 1)
            best, chosen = both.topk(min(n, both.shape[1]), dim=1)
            rows = at.gather(1, chosen)
        return best, rows

    def most_similar(self, word: str, topn: int = 10) -> list[tuple[str, float]]:
        """The words nearest to a word by cosine, with the cosines, as in gensim. Raises KeyError as `[word]` does."""
        [best], [rows] = self.nearest(torch.from_numpy(self[word])[None], topn + 1)
        found = zip(self._named(rows.tolist()), best.tolist(), strict=True)
        return [(other, cosine) for other, cosine in found if other != word][:topn]

    def _named(self, rows: list[int]) -> list[str]:
        """The words of some rows."""
        if self._spelt is None or "words" in self.__dict__:
            return [self.words[row] for row in rows]
        with self._vocabulary():
            return self._spelt.named(rows)

    def _parts(self, values: int) -> Iterator[tuple[int, Tensor]]:
        """All rows in order, about so many values at a time, float32 [rows, d] each with its first row's number.

        Groups are checked when all of their rows are there.
        """
        for number, first in enumerate(self._first[:-1]):
            checksum, group = 0, self._groups.get(number) or self._read(number)
            for part in group.parts(values, self._damaged):
                checksum = _rows_crc(part, checksum)
                yield first, part
                first += len(part)
            if checksum != self._reader.chunks[number + 1].rows_crc:
                raise self._damaged(f"vectors of chunk {number + 1} with the stored checksum", "another")

    def _group(self, number: int) -> _Group:
        if number not in self._groups:
            self._groups[number] = self._read(number)
        return self._groups[number]

    def _read(self, number: int) -> _Group:
        rows = self._first[number + 1] - self._first[number]
        payload = self._reader.read(number + 1)
        try:
            return _Group(payload, self.dimensions, rows, self._lane_rows[number])
        except (ValueError, struct.error, zlib.error) as error:
            raise self._damaged(f"chunk {number + 1} as it was written", str(error)) from error

    def _damaged(self, expected: str, got: str) -> DamagedFile:
        return DamagedFile(f"{self._reader.path}: expected {expected}, got {got}; copy the file again or export again")


def load(path: str | os.PathLike[str]) -> KeyedVectors:
    """Decode a whole file into gensim's KeyedVectors, words in the file's order.

    Raises DamagedFile if anything is not as it was written, ValueError if it is no file of word vectors.
    """
    from gensim.models import KeyedVectors  # a second to import

    with Embeddings(path) as file:
        vectors = file.vectors()
        keyed = KeyedVectors(vectors.shape[1], dtype=np.float32)
        # As `add_vectors` does, but not word by word.
        keyed.vectors, keyed.index_to_key, keyed.key_to_index = vectors.numpy(), file.words, file.rows
    return keyed


class _Group:
    """One chunk: its codebook, and where each lane's bytes lie."""

    def __init__(self, payload: bytes, d: int, rows: int, lane_rows: int) -> None:
        m, tables, codebook = BOOK.unpack_from(payload)
        if not 0 < m <= MOST_POINTS or not 0 < tables <= 256 or m * tables > MOST_TABLE:
            raise ValueError(f"{m} code points in {tables} tables")
        end = BOOK.size + codebook
        self.book = _unpack_book(payload[BOOK.size : end], m, tables, d)
        self.rows, self.lane_rows = rows, min(rows, lane_rows)
        self.coded = self.book.coded
        values, lanes = self.lane_rows * len(self.coded), -(-rows // self.lane_rows)
        if self.lane_rows > 1 and values > MOST_LANE_VALUES:
            raise ValueError(f"stacks of {values} values")
        self._stacks = wire.unpack(payload[end:])
        if len(self._stacks.size) != lanes:
            raise ValueError(f"{len(self._stacks.size)} lanes instead of {lanes}")
        self._tables = ready(self.book.freqs, vbq.CODE_BITS)
        self._context = self.book.context[self.coded].int().repeat(self.lane_rows)
        check_numbers("numbers of tables", self._context, len(self.book.freqs))
        self._law, self._whole = Table(self._context, *self._tables), torch.ones(len(self._context), dtype=torch.bool)
        self._points, self._places = self.book.points.numpy(), self.coded.numpy()
        # A vector that is right where nothing is coded.
        self._fixed = self.book.points[self.book.freqs.argmax(1)[self.book.context]]

    def parts(self, values: int, damaged: Callable[[str, str], DamagedFile]) -> Iterator[Tensor]:
        """Decode all rows, whole lanes of about so many values at a time: float32 [rows, d] each."""
        k, lanes = len(self.coded), len(self._stacks.size)
        for first in range(0, lanes, step := _together(self.lane_rows * k, values)):
            last = min(first + step, lanes)
            message = self._message(first, last)
            rows = min(last * self.lane_rows, self.rows) - first * self.lane_rows
            codec = self._tables.codec(*_arranged(self._context, rows, last - first, self.lane_rows, k))
            symbols = codec.pop(message)[: rows * k]
            if not bool(message.ended().all()):
                raise damaged("stacks that end where they began", "bits that are left")
            part = self.book.points.index_select(0, symbols).view(rows, k)
            if k < len(self._fixed):
                coded, part = part, self._fixed.repeat(rows, 1)
                part[:, self.coded] = coded
            yield part

    def _message(self, first: int, last: int) -> Message:
        """Some lanes, which are changed as they are popped."""
        return Message.of(wire.Stacks(*(x[first:last].copy() for x in self._stacks)), first=0)

    def row(self, row: int) -> np.ndarray[Any, Any]:
        """Decode one row, float32 [d], and those before it on its lane."""
        lane, place = divmod(row, self.lane_rows)
        k = len(self.coded)
        message = self._message(lane, lane + 1)
        # Without the checks of `Tables.codec`: the constructor has made them for the whole group.
        coded = slice(0, (place + 1) * k)
        symbols = kernels.pop(message, self._law.at(coded), self._whole[coded])
        vector = self._fixed.numpy().copy()
        vector[self._places] = self._points[symbols[place * k :].numpy()]
        return vector


def _is_count(x: object) -> bool:
    return type(x) is int and 0 < x < 1 << 40


def _lane_rows(book: vbq.Codebook, rows: int) -> int:
    """Rows of a stack, of so many in a group."""
    return min(rows, max(1, LANE_VALUES // max(1, len(book.coded))))


def _together(values: int, most: int) -> int:
    """Lanes of so many values each that are coded at once."""
    return max(most // max(values, 1), 1)


def _arranged(context: Tensor, rows: int, lanes: int, lane_rows: int, k: int) -> tuple[Tensor, Tensor, Order]:
    """What `Tables.codec` needs for rows [rows, k] on lanes, lane after lane, the last one filled up.

    context: int32 [lane_rows * k], the table of each value of a lane.
    """
    valid = torch.ones(lanes * lane_rows * k, dtype=torch.bool)
    valid[rows * k :] = False
    return context.repeat(lanes), valid, Order.LANE_BY_LANE


def _encode(book: vbq.Codebook, symbols: Tensor) -> bytes:
    """The stacks of a group's symbols, int64 [rows, d]."""
    tables, coded = ready(book.freqs, vbq.CODE_BITS), symbols[:, book.coded]
    rows, k = coded.shape
    lane_rows = _lane_rows(book, rows)
    context = book.context[book.coded].int().repeat(lane_rows)
    parts = []
    for part in coded.split(lane_rows * _together(lane_rows * k, BATCH_VALUES)):
        lanes = -(-len(part) // lane_rows)
        message = Message.empty(lanes, first=0)
        short = lanes * lane_rows * k - part.numel()
        codec = tables.codec(*_arranged(context, len(part), lanes, lane_rows, k))
        codec.push(message, torch.cat([part.flatten(), part.new_zeros(short)]))
        parts.append(message)
    return Message.joined(parts).to_bytes()


def pack_book(book: vbq.Codebook) -> bytes:
    """zlib of: the points, float32, byte planes; the table of each dimension, u8; frequencies, u16, byte planes."""
    points = book.points.numpy().astype("<f4").view(np.uint8).reshape(-1, 4).T
    # 2**CODE_BITS, where a table has one symbol, fits u16 as CODE_BITS is below 16.
    freqs = book.freqs.T.numpy().astype("<u2").reshape(-1, 1).view(np.uint8).T
    return zlib.compress(points.tobytes() + book.context.numpy().astype(np.uint8).tobytes() + freqs.tobytes(), 9)


def _unpack_book(stored: bytes, m: int, tables: int, d: int) -> vbq.Codebook:
    raw = np.frombuffer(inflate(stored, 4 * m + d + 2 * tables * m), np.uint8)
    points = np.ascontiguousarray(raw[: 4 * m].reshape(4, m).T).view("<f4")[:, 0].astype(np.float32)
    context = raw[4 * m : 4 * m + d].astype(np.int64)
    freqs = np.ascontiguousarray(raw[4 * m + d :].reshape(2, -1).T).view("<u2").reshape(m, tables).T.astype(np.int64)
    wrong = (freqs.sum(1) != 1 << vbq.CODE_BITS).any() or context.max() >= tables or not np.isfinite(points).all()
    if wrong:
        raise ValueError("tables whose frequencies do not sum to the whole, or points that are not finite")
    return vbq.Codebook(torch.from_numpy(points), torch.from_numpy(context), torch.from_numpy(freqs.copy()))


def _rows_crc(vectors: Tensor, before: int = 0) -> int:
    return zlib.crc32(vectors.contiguous().numpy().astype("<f4", copy=False).tobytes(), before)
