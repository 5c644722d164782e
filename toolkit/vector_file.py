"""The bytes of a file of word vectors: codebooks and stacks of a few rows each, written and read.

docs/format.md, section "Word vectors", is the specification.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from toolkit import word_list
from toolkit.coding import vbq
from toolkit.coding.ans import WORD, Message
from toolkit.coding.lanes import pack_lanes, read_lane, unpack_lanes
from toolkit.coding.packing import LOW
from toolkit.container import DamagedFile, Reader, Writer, inflate

KIND = "embeddings"
LANE_VALUES = 4500  # coded values of a stack: what a word may need decoded, in a millisecond; more cost fewer bytes
BATCH_VALUES = 1 << 24  # values decoded at once, to bound memory
BOOK = struct.Struct("<HHII")  # code points, tables, bytes of the stored codebook, bytes of the stored lane sizes
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
    path: str | os.PathLike[str], words: Sequence[str], quantised: Quantised, about: dict[str, Any] | None = None
) -> dict[str, int]:
    """Write a file and return its bytes: of the vocabulary, tables, lanes and the whole file.

    words: str for each row, in the rows' order; about: JSON values for the header, for information.
    """
    d = quantised.symbols[0].shape[1]
    vocabulary = word_list.pack(words)
    word_list.check_size(len(words), sum(len(word.encode()) for word in words), len(vocabulary))
    header = {
        "kind": KIND,
        "values": len(words) * d,
        "words": len(words),
        "dimensions": d,
        "precision": vbq.PRECISION,
        "lane_rows": [_lane_rows(book, len(rows)) for book, rows in zip(*quantised[:2], strict=True)],
        **(about or {}),
    }
    tables = lanes = 0
    with Writer(path, header) as writer:
        writer.write(vocabulary, 0, word_list.checksum(words))
        stacks = _encode_lanes(quantised)
        for book, symbols, (sizes, body) in zip(quantised.books, quantised.symbols, stacks, strict=True):
            codebook = pack_book(book)
            head = BOOK.pack(len(book.points), len(book.freqs), len(codebook), len(sizes))
            writer.write(head + codebook + sizes + body, len(symbols), _rows_crc(book.points[symbols]))
            tables, lanes = tables + len(head) + len(codebook), lanes + len(sizes) + len(body)
        if d > MOST_DIMENSIONS or len(words) * d > VALUES_A_BYTE * writer.size:
            raise ValueError(
                f"expected at most {MOST_DIMENSIONS} dimensions and {VALUES_A_BYTE} values a byte of the file, got "
                f"{len(words)} words of {d} dimensions in {writer.size} bytes; choose a smaller lambda"
            )
    return {"vocabulary": len(vocabulary), "tables": tables, "lanes": lanes, "file": writer.size}


class Embeddings:
    """An open file: `embeddings["word"]` decodes one word and, at most, the few before it on its stack.

    Use `toolkit.embeddings.open`; a context manager. `words`: list of str in the order of rows.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._reader = Reader(path)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        header = self._reader.header
        if header.get("kind") != KIND:
            raise ValueError(
                f"{self._reader.path}: expected a file of word vectors, got kind {header.get('kind')!r}; give one that "
                "toolkit.export_embeddings wrote"
            )
        names = ("words", "dimensions", "precision")
        numbers = [header.get(name) for name in names]
        if not all(_is_count(x) for x in numbers) or header["precision"] != vbq.PRECISION:
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
        self._lane_rows: list[int] = lane_rows if isinstance(lane_rows, list) else [lane_rows] * (len(rows) - 1)
        if len(self._lane_rows) != len(rows) - 1 or not all(_is_count(x) for x in self._lane_rows):
            raise self._damaged(f"the rows of a stack in each of {len(rows) - 1} groups", str(lane_rows)[:60])
        self._groups: dict[int, _Group] = {}
        try:
            self.words = word_list.unpack(self._reader.read(0), header["words"])
        except (OSError, ValueError, EOFError, struct.error) as error:  # OSError: bz2's way to say damaged
            if isinstance(error, DamagedFile):
                raise
            raise self._damaged(f"a vocabulary of {header['words']} words", str(error)) from error
        if word_list.checksum(self.words) != self._reader.chunks[0].rows_crc:
            raise self._damaged("a vocabulary with the stored checksum", "another")
        self._row = {word: row for row, word in enumerate(self.words)}
        if len(self._row) != len(self.words) or "" in self._row:
            raise self._damaged("words that differ", f"{len(self._row)} different ones of {len(self.words)}")

    def __enter__(self) -> Embeddings:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; words in groups that were read before can still be decoded."""
        self._reader.__exit__()

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._row

    def __iter__(self) -> Iterator[str]:
        return iter(self.words)

    def __getitem__(self, word: str) -> np.ndarray[Any, Any]:
        """The vector of a word, float32 [d]. Raises KeyError for a word that the file does not have."""
        if word not in self._row:
            raise KeyError(f"expected a word of the vocabulary, got {word!r}; ask with `in` first")
        row = self._row[word]
        number = bisect.bisect_right(self._first, row) - 1
        return self._group(number).row(row - self._first[number])

    def vectors(self, compiled: bool = False) -> Tensor:
        """All vectors, float32 [words, d], checked against the file's checksums. compiled: see `coding.fuse`."""
        rows = [b - a for a, b in itertools.pairwise(self._first)]
        return torch.cat([x for batch in _batches(rows, self.dimensions) for x in self._decode(batch, compiled)])

    def _group(self, number: int) -> _Group:
        if number not in self._groups:
            rows = self._first[number + 1] - self._first[number]
            try:
                payload = self._reader.read(number + 1)
                self._groups[number] = _Group(payload, self.dimensions, rows, self._lane_rows[number])
            except (ValueError, struct.error, zlib.error) as error:
                if isinstance(error, DamagedFile):
                    raise
                raise self._damaged(f"chunk {number + 1} as it was written", str(error)) from error
        return self._groups[number]

    def _decode(self, numbers: list[int], compiled: bool) -> list[Tensor]:
        """The vectors of some groups, whose lanes are popped together: float32 [rows, d] of each."""
        parts = [self._group(number) for number in numbers]
        freqs, context, valid = _joined([(part.book, part.rows, part.lane_rows) for part in parts])
        message = unpack_lanes([part.sizes for part in parts], [part.body for part in parts], compiled)
        popped = vbq.conditional(freqs, context, valid).pop(message)
        if bool(message.head.any()) or bool(message.size.any()):
            raise self._damaged("stacks that end where they began", "bits that are left")
        found, lane = [], 0
        for number, part in zip(numbers, parts, strict=True):
            lanes, k = len(part.sizes), len(part.coded)
            mine = popped[: part.lane_rows * k, lane : lane + lanes].T.reshape(lanes * part.lane_rows, k)
            lane += lanes
            symbols = part.fixed.repeat(part.rows, 1)
            symbols[:, part.coded] = mine[: part.rows]
            vectors = part.book.points[symbols]
            if _rows_crc(vectors) != self._reader.chunks[number + 1].rows_crc:
                raise self._damaged(f"vectors of chunk {number + 1} with the stored checksum", "another")
            found.append(vectors)
        return found

    def _damaged(self, expected: str, got: str) -> DamagedFile:
        return DamagedFile(f"{self._reader.path}: expected {expected}, got {got}; copy the file again or export again")


class _Group:
    """One chunk: its codebook, and where each lane's bytes lie."""

    def __init__(self, payload: bytes, d: int, rows: int, lane_rows: int) -> None:
        m, tables, codebook, sizes = BOOK.unpack_from(payload)
        if not 0 < m <= MOST_POINTS or not 0 < tables <= 256 or m * tables > MOST_TABLE:
            raise ValueError(f"{m} code points in {tables} tables")
        at = BOOK.size
        self.book = _unpack_book(payload[at : at + codebook], m, tables, d)
        at += codebook
        self.rows, self.lane_rows = rows, min(rows, lane_rows)
        self.coded = self.book.coded
        values, lanes = self.lane_rows * len(self.coded), -(-rows // self.lane_rows)
        if self.lane_rows > 1 and values > MOST_LANE_VALUES:
            raise ValueError(f"stacks of {values} values")
        self.sizes = np.frombuffer(inflate(payload[at : at + sizes], 4 * lanes), "<u1").reshape(4, lanes)
        self.sizes = np.ascontiguousarray(self.sizes.T).view("<u4")[:, 0].astype(np.int64)
        self.body = payload[at + sizes :]
        self._ends = np.cumsum(self.sizes)
        if int(self._ends[-1]) != len(self.body):
            raise ValueError(f"lanes of {int(self._ends[-1])} bytes in {len(self.body)}")
        self._points = self.book.points.numpy()

    @functools.cached_property
    def _tables(self) -> list[tuple[Sequence[int], list[int], list[int]]]:
        """Of each coded dimension: the symbol of each place of its table, and the symbols' starts and frequencies."""
        freqs = self.book.freqs.numpy()
        # Bytes are small, and indexed fastest.
        small = freqs.shape[1] <= 256
        symbols = np.arange(freqs.shape[1], dtype=np.uint8 if small else np.uint16)
        places = [np.repeat(symbols, row).tobytes() for row in freqs]
        found: list[Sequence[int]] = [x if small else memoryview(x).cast("H") for x in places]
        tables = list(zip(found, (freqs.cumsum(1) - freqs).tolist(), freqs.tolist(), strict=True))
        return [tables[t] for t in self.book.context[self.coded].tolist()]

    @functools.cached_property
    def fixed(self) -> Tensor:
        """The symbol of each dimension that is not coded, and any symbol of the others: int64 [d]."""
        return self.book.freqs.argmax(1)[self.book.context]

    @functools.cached_property
    def _vector(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """A vector float32 [d] that is right where nothing is coded, and the dimensions where something is."""
        return self._points[self.fixed.numpy()], self.coded.numpy()

    def row(self, row: int) -> np.ndarray[Any, Any]:
        """Decode one row, float32 [d], in plain integers: popping some hundred symbols is no work for tensors."""
        lane, place = divmod(row, self.lane_rows)
        end = int(self._ends[lane])
        head, words = read_lane(self.body[end - int(self.sizes[lane]) : end])
        # Local names, and two loops where one would do, because this is what a word waits for.
        precision, mask, low, width, pop = vbq.PRECISION, (1 << vbq.PRECISION) - 1, LOW, WORD, words.pop
        for _ in range(place):  # the rows before it
            for symbol_at, starts, freqs in self._tables:
                u = head & mask
                symbol = symbol_at[u]
                head = freqs[symbol] * (head >> precision) + (u - starts[symbol])
                if head < low and words:
                    head = head << width | pop()
        symbols: list[int] = []
        for symbol_at, starts, freqs in self._tables:
            u = head & mask
            symbol = symbol_at[u]
            head = freqs[symbol] * (head >> precision) + (u - starts[symbol])
            if head < low and words:
                head = head << width | pop()
            symbols.append(symbol)
        vector, coded = self._vector
        vector = vector.copy()
        vector[coded] = self._points[symbols]
        return vector


def _is_count(x: object) -> bool:
    return type(x) is int and 0 < x < 1 << 40


def _lane_rows(book: vbq.Codebook, rows: int) -> int:
    """Rows of a stack, of so many in a group."""
    return min(rows, max(1, LANE_VALUES // max(1, len(book.coded))))


def _arrange(x: Tensor, lane_rows: int) -> Tensor:
    """Rows [n, k] as the steps of lanes, [lane_rows * k, lanes]: lane i has the rows from i * lane_rows on, then 0."""
    n, k = x.shape
    lanes = -(-n // lane_rows)
    return torch.cat([x, x.new_zeros(lanes * lane_rows - n, k)]).view(lanes, lane_rows * k).T


def _beside(parts: Sequence[Tensor]) -> Tensor:
    """Lanes [steps, lanes] of several groups side by side, filled up with 0 to the longest."""
    steps = max(len(x) for x in parts)
    return torch.cat([torch.nn.functional.pad(x, (0, 0, 0, steps - len(x))) for x in parts], 1)


def _joined(groups: Sequence[tuple[vbq.Codebook, int, int]]) -> tuple[Tensor, Tensor, Tensor]:
    """What `vbq.conditional` needs for the lanes of some groups side by side: frequencies, context, valid.

    groups: codebook, rows and rows of a stack of each.
    """
    books = [book for book, _, _ in groups]
    m, offsets = max(len(book.points) for book in books), itertools.accumulate(map(len, (x.freqs for x in books)))
    freqs = torch.cat([torch.nn.functional.pad(book.freqs, (0, m - len(book.points))) for book in books])
    contexts, valid = [], []
    for (book, rows, lane_rows), end in zip(groups, offsets, strict=True):
        context = book.context[book.coded] + end - len(book.freqs)
        contexts.append(_arrange(context.expand(rows, -1), lane_rows))
        valid.append(_arrange(torch.ones(rows, len(context), dtype=torch.bool), lane_rows))
    return freqs, _beside(contexts), _beside(valid)


def _batches(rows: Sequence[int], d: int) -> Iterator[list[int]]:
    """Numbers of groups of so many rows each that are coded together."""
    batch: list[int] = []
    for number in range(len(rows)):
        batch.append(number)
        if d * sum(rows[i] for i in batch) >= BATCH_VALUES or number + 1 == len(rows):
            yield batch
            batch = []


def _encode_lanes(quantised: Quantised) -> Iterator[tuple[bytes, bytes]]:
    """For each group, the stored sizes of its lanes, and the lanes, one after the other."""
    rows = [len(symbols) for symbols in quantised.symbols]
    for batch in _batches(rows, quantised.symbols[0].shape[1]):
        books = [quantised.books[i] for i in batch]
        groups = [(book, rows[i], _lane_rows(book, rows[i])) for book, i in zip(books, batch, strict=True)]
        coded = [quantised.symbols[i][:, book.coded] for book, i in zip(books, batch, strict=True)]
        parts = [_arrange(x, lane_rows) for x, (_, _, lane_rows) in zip(coded, groups, strict=True)]
        x = _beside(parts)
        message = Message.empty(x.shape[1], small=True)
        freqs, context, valid = _joined(groups)
        vbq.conditional(freqs, context, valid).push(message, x)
        sizes, body = pack_lanes(message)
        ends = [0, *np.cumsum(sizes).tolist()]
        lane = 0
        for part in parts:
            first, lane = lane, lane + part.shape[1]
            # Bytes of one significance together: the high ones are all alike.
            planes = sizes[first:lane].astype("<u4").view(np.uint8).reshape(-1, 4).T
            yield zlib.compress(planes.tobytes(), 9), body[ends[first] : ends[lane]]


def pack_book(book: vbq.Codebook) -> bytes:
    """zlib of: the points, float32, byte planes; the table of each dimension, u8; frequencies, u16, byte planes."""
    points = book.points.numpy().astype("<f4").view(np.uint8).reshape(-1, 4).T
    # 2**PRECISION, where a table has one symbol, fits u16 as PRECISION is below 16.
    freqs = book.freqs.T.numpy().astype("<u2").reshape(-1, 1).view(np.uint8).T
    return zlib.compress(points.tobytes() + book.context.numpy().astype(np.uint8).tobytes() + freqs.tobytes(), 9)


def _unpack_book(stored: bytes, m: int, tables: int, d: int) -> vbq.Codebook:
    raw = np.frombuffer(inflate(stored, 4 * m + d + 2 * tables * m), np.uint8)
    points = np.ascontiguousarray(raw[: 4 * m].reshape(4, m).T).view("<f4")[:, 0].astype(np.float32)
    context = raw[4 * m : 4 * m + d].astype(np.int64)
    freqs = np.ascontiguousarray(raw[4 * m + d :].reshape(2, -1).T).view("<u2").reshape(m, tables).T.astype(np.int64)
    wrong = (freqs.sum(1) != 1 << vbq.PRECISION).any() or context.max() >= tables or not np.isfinite(points).all()
    if wrong:
        raise ValueError("tables whose frequencies do not sum to the whole, or points that are not finite")
    return vbq.Codebook(torch.from_numpy(points), torch.from_numpy(context), torch.from_numpy(freqs.copy()))


def _rows_crc(vectors: Tensor) -> int:
    return zlib.crc32(vectors.contiguous().numpy().astype("<f4", copy=False).tobytes())
