"""Word vectors in a .tkc file: written at any rate, loaded into gensim, or read a word at a time.

docs/format.md, section "Word vectors", is the specification.
"""

from __future__ import annotations

import bisect
import bz2
import itertools
import math
import os
import struct
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from toolkit.coding import vbq
from toolkit.coding.ans import LOW, WORD, Message
from toolkit.coding.lanes import pack_lanes, read_lane, unpack_lanes
from toolkit.container import DamagedFile, Reader, Writer, inflate

if TYPE_CHECKING:
    from gensim.models import KeyedVectors

KIND = "embeddings"
LANE_VALUES = 2000  # values of a stack: what a single word may need decoded; more would cost fewer bytes
FIRST_GROUP, GROWTH, LAST_GROUP = 512, 1.5, 16384  # rows of the first group of ranks; of each next, at most
SAMPLE_VALUES = 400_000  # of the rows that a search for lambda begins with
BATCH_VALUES = 1 << 24  # values decoded at once, to bound memory
METHODS = ("default", "vbq")
VOCABULARY = struct.Struct("<II")  # bytes of all words with their ends; bytes of the stored prefix lengths
BOOK = struct.Struct("<HHII")  # code points, tables, bytes of the stored codebook, bytes of the stored lane sizes
# What a file may declare, so that a small one cannot take all memory; `write` keeps to it.
MOST_DIMENSIONS, MOST_POINTS, MOST_TABLE = 1 << 16, 1 << 14, 1 << 20  # of a vector; of a codebook; points times tables
VALUES_A_BYTE, MOST_LANE_VALUES = 1 << 14, 1 << 13  # of the whole file; of a stack of more than one row
WORDS_A_BYTE, WORDS_FREE, LETTERS = 1 << 11, 1 << 20, 64  # of the vocabulary; always so many; bytes of each, on average
_SPACES = frozenset(" \t\n\r\v\f")


class Quantised(NamedTuple):
    """Vectors moved to code points: for each group of ranks, first to last, a codebook and its symbols."""

    books: list[vbq.Codebook]
    symbols: list[Tensor]  # int64 [rows, d] each
    bits: float  # what the search reports: -log2 of all symbols' frequencies, and the codebooks as a file holds them

    def vectors(self) -> Tensor:
        """The vectors as a decoder will return them: float32 [words, d]."""
        return torch.cat([book.points[symbols] for book, symbols in zip(self.books, self.symbols, strict=True)])


def groups(rows: int) -> list[int]:
    """Rows of each group of ranks, the most frequent words first: small groups where certainty changes quickly."""
    sizes: list[int] = []
    wanted = float(FIRST_GROUP)
    while (left := rows - sum(sizes)) > 0:
        # What is left joins the last group if it is too little to pay for tables of its own.
        sizes.append(int(wanted) if left >= wanted + FIRST_GROUP else left)
        wanted = min(GROWTH * wanted, LAST_GROUP)
    return sizes


def quantise(
    vectors: Tensor, sigma: Tensor, lam: float, method: str = "default", rounds: int = 8, compiled: bool = False
) -> Quantised:
    """Choose code points for float32 [words, d] vectors, the most frequent word first, with sigma of the same shape.

    lam: bits of rate are worth so many nats of distortion, at least 0; method: default, or vbq for the published
    algorithm; rounds: of refinement; compiled: search through torch.compile. Raises ValueError for an unknown method,
    and what `toolkit.coding.vbq.check` says.
    """
    if method not in METHODS:
        raise ValueError(f"expected method to be one of {', '.join(METHODS)}, got {method!r}")
    vbq.check(vectors, sigma, lam)
    if method == "vbq":
        pairs = [vbq.plain(vectors, sigma, lam, compiled)]
    else:
        parts = groups(len(vectors))
        pairs = [
            vbq.refined(mu, s, lam, rounds, compiled=compiled)
            for mu, s in zip(vectors.split(parts), sigma.split(parts), strict=True)
        ]
    bits = sum(book.bits(symbols) + 8 * len(_pack_book(book)) for book, symbols in pairs)
    return Quantised([book for book, _ in pairs], [symbols for _, symbols in pairs], bits)


def fit(
    words: Sequence[str], vectors: Tensor, sigma: Tensor, target: int, method: str = "default",
    about: dict[str, Any] | None = None, compiled: bool = False,
) -> tuple[float, Quantised]:  # fmt: skip
    """The lambda, and the vectors quantised with it, whose file is as large as `target` bytes allow, to 1 %.

    Arguments as of `quantise` and `write`, whose header gets method and lambda too. Raises ValueError that names the
    smallest size if `target` is below it.
    """

    def size(lam: float, quantised: Quantised) -> int:
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "size.tkc")
            return write(file, words, quantised, _about(method, lam, about))["file"]

    def tried(lam: float, rows: slice = slice(None), rounds: int = 8) -> Quantised:
        return quantise(vectors[rows], sigma[rows], lam, method, rounds, compiled)

    scale = float((vectors.double().square() / (2 * sigma.double().square())).mean())
    dearest = 1e4 * max(scale, 1e-30)  # so much for a bit that no value is worth one
    quantised = tried(dearest)
    least = size(dearest, quantised)
    if least > target:
        raise ValueError(
            f"expected a target size of at least {least} bytes, which is what {len(words)} words take without their "
            f"vectors, got {target}; allow more, or leave out words"
        )
    # Bits of a sample of the rows find the neighbourhood of lambda in a fraction of the time.
    sample = slice(None, None, max(1, vectors.numel() // SAMPLE_VALUES))
    goal = 8 * (target - least) * len(vectors[sample]) / len(vectors)
    cheapest = math.log(dearest) - 40.0
    low, high = cheapest, math.log(dearest)
    for _ in range(9):
        middle = (low + high) / 2
        low, high = (low, middle) if tried(math.exp(middle), sample, 2).bits <= goal else (middle, high)
    guess, low, high = (low + high) / 2, -math.inf, math.log(dearest)
    best, other = (dearest, quantised), least - quantised.bits / 8  # bytes that are not the search's
    for _ in range(16):
        lam = math.exp(guess)
        quantised = tried(lam)
        found = other + quantised.bits / 8
        if abs(found / target - 0.995) < 0.006:  # near enough to write it and see
            found = size(lam, quantised)
            other = found - quantised.bits / 8
        if found <= target:
            high, best = guess, (lam, quantised)
            if found >= 0.99 * target or guess <= cheapest:
                break
        else:
            low = guess
        # A bit a value less for each factor of 4 in lambda, where lambda is small; at worst the bracket is halved.
        newton = guess + math.log(4) * 8 * (found - 0.995 * target) / vectors.numel()
        if not low < newton < high:
            newton = (max(low, high - 4) + high) / 2
        if abs(newton - guess) < 1e-4:
            break
        guess = newton
    while size(*best) > target and best[0] < dearest:  # an estimate that was a little too low
        lam = min(1.03 * best[0], dearest)
        best = (lam, tried(lam))
    return best


def check(words: Sequence[str], vectors: Tensor) -> None:
    """Raise ValueError that names the word unless all words can be stored and all vectors are finite.

    words: one for each row of vectors, float [words, d]; not empty, without spaces, each once, valid as UTF-8.
    """
    if vectors.dim() != 2 or len(words) != len(vectors) or not vectors.numel():
        raise ValueError(
            f"expected one word for each row of vectors [words, d], got {len(words)} words and {list(vectors.shape)}"
        )
    seen: set[str] = set()
    for row, word in enumerate(words):
        wrong = (
            "an empty word" if not word
            else "a word with a space or line end" if _SPACES.intersection(word)
            else "the word of an earlier row" if word in seen
            else "text that is not valid as UTF-8" if not _encodable(word)
            else ""
        )  # fmt: skip
        if wrong:
            raise ValueError(
                f"row {row}: expected words that are not empty, have no spaces, and occur once, got {wrong}: {word!r}; "
                "rename or remove it"
            )
        seen.add(word)
    bad = ~vectors.isfinite().all(1)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"row {row}: expected finite vectors, got NaN or infinity for {words[row]!r} ({int(bad.sum())} rows in "
            "all); remove these rows"
        )


def write(
    path: str | os.PathLike[str], words: Sequence[str], quantised: Quantised, about: dict[str, Any] | None = None
) -> dict[str, int]:
    """Write a file and return its bytes: of the vocabulary, tables, lanes and the whole file.

    words: str for each row, in the rows' order; about: JSON values for the header, for information.
    """
    d = quantised.symbols[0].shape[1]
    lane_rows = max(1, LANE_VALUES // d)
    vocabulary = _pack_words(words)
    _check_vocabulary(len(words), sum(len(word.encode()) for word in words), len(vocabulary))
    header = {
        "kind": KIND,
        "values": len(words) * d,
        "words": len(words),
        "dimensions": d,
        "precision": vbq.PRECISION,
        "lane_rows": lane_rows,
        **(about or {}),
    }
    tables = lanes = 0
    with Writer(path, header) as writer:
        writer.write(vocabulary, 0, _words_crc(words))
        for book, symbols in zip(quantised.books, quantised.symbols, strict=True):
            codebook = _pack_book(book)
            sizes, body = _encode_lanes(book, symbols, lane_rows)
            head = BOOK.pack(len(book.points), len(book.freqs), len(codebook), len(sizes))
            writer.write(head + codebook + sizes + body, len(symbols), _rows_crc(book.points[symbols]))
            tables, lanes = tables + len(head) + len(codebook), lanes + len(sizes) + len(body)
        if d > MOST_DIMENSIONS or len(words) * d > VALUES_A_BYTE * writer.size:
            raise ValueError(
                f"expected at most {MOST_DIMENSIONS} dimensions and {VALUES_A_BYTE} values a byte of the file, got "
                f"{len(words)} words of {d} dimensions in {writer.size} bytes; choose a smaller lambda"
            )
    return {"vocabulary": len(vocabulary), "tables": tables, "lanes": lanes, "file": writer.size}


def export(
    path: str | os.PathLike[str], words: Sequence[str], vectors: Tensor, sigma: Tensor, goal: str, number: float,
    method: str = "default", about: dict[str, Any] | None = None,
) -> dict[str, int]:  # fmt: skip
    """Quantise and write what a goal asks for; returns the bytes of the file's parts, as `write` does.

    goal: "lambda"; "target_size", bytes of the file; or "bits_per_dim", bits of the file without its vocabulary for
    each coordinate. Other arguments as of `quantise` and `write`.
    """
    if goal == "lambda":
        lam, quantised = number, quantise(vectors, sigma, number, method)
    else:
        target = number if goal == "target_size" else number * vectors.numel() / 8 + vocabulary_size(words)
        lam, quantised = fit(words, vectors, sigma, int(target), method, about)
    return write(path, words, quantised, _about(method, lam, about))


def _about(method: str, lam: float, about: dict[str, Any] | None) -> dict[str, Any]:
    return {"method": method, "lambda": lam, **(about or {})}


def summary(sizes: dict[str, int], words: Sequence[str], d: int, path: str | os.PathLike[str]) -> str:
    """Lines that say how large a file is, beside the same vectors as float32 and float16."""
    n, size = len(words) * d, sizes["file"]
    text = len("\n".join(words).encode())
    return (
        f"{len(words)} words of {d} dimensions -> {path}: {size} bytes, of which the vocabulary "
        f"{sizes['vocabulary']}; {8 * (size - sizes['vocabulary']) / n:.3f} bits per dimension without it, "
        f"{8 * size / n:.3f} with it\n"
        f"float32 {4 * n + text} bytes ({(4 * n + text) / size:.1f} times as large), "
        f"float16 {2 * n + text} bytes ({(2 * n + text) / size:.1f} times)"
    )


def vocabulary_size(words: Sequence[str]) -> int:
    """Bytes that words take in a file."""
    return len(_pack_words(words))


def load(path: str | os.PathLike[str]) -> KeyedVectors:
    """Decode a whole file into gensim's KeyedVectors, words in the file's order.

    Raises DamagedFile if anything is not as it was written, ValueError if it is no file of word vectors.
    """
    from gensim.models import KeyedVectors  # a second to import

    with open(path) as file:
        vectors = file.vectors()
        keyed = KeyedVectors(vectors.shape[1], dtype=np.float32)
        keyed.add_vectors(file.words, vectors.numpy())
    return keyed


class Embeddings:
    """An open file: `embeddings["word"]` decodes one word and, at most, the few before it on its stack.

    Use `open`; a context manager. `words`: list of str in the order of rows.
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
        names = ("words", "dimensions", "precision", "lane_rows")
        numbers = [header.get(name) for name in names]
        if not all(type(x) is int and 0 < x < 1 << 40 for x in numbers) or header["precision"] != vbq.PRECISION:
            raise self._damaged(f"a header with counts for {', '.join(names)}", str(numbers))
        self.dimensions, self._lane_rows = int(header["dimensions"]), int(header["lane_rows"])
        long = self._lane_rows > 1 and self._lane_rows * self.dimensions > MOST_LANE_VALUES
        if self.dimensions > MOST_DIMENSIONS or long:
            raise self._damaged("stacks of few rows", f"{self._lane_rows} rows of {self.dimensions} dimensions")
        if header["words"] * self.dimensions > VALUES_A_BYTE * self._reader.size:
            raise self._damaged(f"at most {VALUES_A_BYTE} values a byte", f"{numbers} in {self._reader.size} bytes")
        rows = [chunk.rows for chunk in self._reader.chunks]
        if len(rows) < 2 or rows[0] or not all(rows[1:]) or sum(rows) != header["words"]:
            raise self._damaged(f"a vocabulary and groups of {header['words']} rows in all", str(rows))
        self._first = [0, *itertools.accumulate(rows[1:])]  # row of each group, and the end
        self._groups: dict[int, _Group] = {}
        try:
            self.words = _unpack_words(self._reader.read(0), header["words"])
        except (OSError, ValueError, EOFError, struct.error) as error:  # OSError: bz2's way to say damaged
            if isinstance(error, DamagedFile):
                raise
            raise self._damaged(f"a vocabulary of {header['words']} words", str(error)) from error
        if _words_crc(self.words) != self._reader.chunks[0].rows_crc:
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
        return self._group(number).row(row - self._first[number], self._lane_rows)

    def vectors(self, compiled: bool = False) -> Tensor:
        """All vectors, float32 [words, d], checked against the file's checksums. compiled: through torch.compile."""
        parts: list[Tensor] = []
        batch: list[int] = []
        for number in range(len(self._first) - 1):
            batch.append(number)
            rows = self._first[number + 1] - self._first[batch[0]]
            if rows * self.dimensions >= BATCH_VALUES or number + 2 == len(self._first):
                parts += self._decode(batch, compiled)
                batch = []
        return torch.cat(parts)

    def _group(self, number: int) -> _Group:
        if number not in self._groups:
            rows = self._first[number + 1] - self._first[number]
            lanes = -(-rows // self._lane_rows)
            try:
                self._groups[number] = _Group(self._reader.read(number + 1), self.dimensions, lanes)
            except (ValueError, struct.error, zlib.error) as error:
                if isinstance(error, DamagedFile):
                    raise
                raise self._damaged(f"chunk {number + 1} as it was written", str(error)) from error
        return self._groups[number]

    def _decode(self, numbers: list[int], compiled: bool) -> list[Tensor]:
        """The vectors of some groups, whose lanes are popped together: float32 [rows, d] of each."""
        parts = [self._group(number) for number in numbers]
        rows = [self._first[number + 1] - self._first[number] for number in numbers]
        m = max(len(part.book.points) for part in parts)
        offsets = [0, *itertools.accumulate(len(part.book.freqs) for part in parts)]
        freqs = torch.cat([torch.nn.functional.pad(part.book.freqs, (0, m - len(part.book.points))) for part in parts])
        context = torch.cat(
            [
                _arrange((part.book.context + offset).expand(n, -1), self._lane_rows, 0)
                for part, offset, n in zip(parts, offsets, rows, strict=False)
            ],
            1,
        )
        valid = torch.cat(
            [_arrange(torch.ones(n, self.dimensions, dtype=torch.bool), self._lane_rows, False) for n in rows], 1
        )
        message = unpack_lanes([part.sizes for part in parts], [part.body for part in parts], compiled)
        symbols = vbq.conditional(freqs, context, valid).pop(message)
        if bool(message.head.any()) or bool(message.size.any()):
            raise self._damaged("stacks that end where they began", "bits that are left")
        found, lane = [], 0
        for number, part, n in zip(numbers, parts, rows, strict=True):
            lanes = len(part.sizes)
            mine = symbols[:, lane : lane + lanes].T.reshape(lanes * self._lane_rows, self.dimensions)[:n]
            lane += lanes
            vectors = part.book.points[mine]
            if _rows_crc(vectors) != self._reader.chunks[number + 1].rows_crc:
                raise self._damaged(f"vectors of chunk {number + 1} with the stored checksum", "another")
            found.append(vectors)
        return found

    def _damaged(self, expected: str, got: str) -> DamagedFile:
        return DamagedFile(f"{self._reader.path}: expected {expected}, got {got}; copy the file again or export again")


def open(path: str | os.PathLike[str]) -> Embeddings:
    """Open a file to read single words. Raises ValueError, or a subclass, for a file that is none or is damaged."""
    return Embeddings(path)


class _Group:
    """One chunk: its codebook, and where each lane's bytes lie."""

    def __init__(self, payload: bytes, d: int, lanes: int) -> None:
        m, tables, codebook, sizes = BOOK.unpack_from(payload)
        if not 0 < m <= MOST_POINTS or not 0 < tables <= 256 or m * tables > MOST_TABLE:
            raise ValueError(f"{m} code points in {tables} tables")
        at = BOOK.size
        self.book = _unpack_book(payload[at : at + codebook], m, tables, d)
        at += codebook
        self.sizes = np.frombuffer(inflate(payload[at : at + sizes], 4 * lanes), "<u1").reshape(4, lanes)
        self.sizes = np.ascontiguousarray(self.sizes.T).view("<u4")[:, 0].astype(np.int64)
        self.body = payload[at + sizes :]
        self._ends = np.cumsum(self.sizes)
        if int(self._ends[-1]) != len(self.body):
            raise ValueError(f"lanes of {int(self._ends[-1])} bytes in {len(self.body)}")
        starts = torch.cat([torch.zeros(tables, 1, dtype=torch.int64), self.book.freqs.cumsum(1)], 1)
        self._points = self.book.points.numpy()
        self._starts = starts.tolist()
        self._freqs = self.book.freqs.tolist()
        self._context = self.book.context.tolist()

    def row(self, row: int, lane_rows: int) -> np.ndarray[Any, Any]:
        """Decode one row, float32 [d], in plain integers: popping some hundred symbols is no work for tensors."""
        lane, place = divmod(row, lane_rows)
        end = int(self._ends[lane])
        head, words = read_lane(self.body[end - int(self.sizes[lane]) : end])
        mask = (1 << vbq.PRECISION) - 1
        tables = [(self._starts[t], self._freqs[t]) for t in self._context]
        symbols: list[int] = []
        for _ in range(place + 1):
            symbols = []
            for starts, freqs in tables:
                u = head & mask
                symbol = bisect.bisect_right(starts, u) - 1
                head = freqs[symbol] * (head >> vbq.PRECISION) + u - starts[symbol]
                if head < LOW and words:
                    head = head << WORD | words.pop()
                symbols.append(symbol)
        return self._points[symbols]


def _arrange(x: Tensor, lane_rows: int, fill: int) -> Tensor:
    """Rows [n, d] as the steps of lanes, [lane_rows * d, lanes]: lane i has the rows from i * lane_rows on."""
    n, d = x.shape
    padded = torch.cat([x, x.new_full((-n % lane_rows, d), fill)])
    return padded.view(-1, lane_rows * d).T


def _encode_lanes(book: vbq.Codebook, symbols: Tensor, lane_rows: int) -> tuple[bytes, bytes]:
    """int64 [n, d] symbols to the stored sizes of their lanes, and the lanes, one after the other."""
    x = _arrange(symbols, lane_rows, 0)
    context = _arrange(book.context.expand(len(symbols), -1), lane_rows, 0)
    valid = _arrange(torch.ones_like(symbols, dtype=torch.bool), lane_rows, 0)
    message = Message.empty(x.shape[1], small=True)
    book.codec(context, valid).push(message, torch.where(valid, x, 0))
    sizes, body = pack_lanes(message)
    # Bytes of one significance together: the high ones are all alike.
    return zlib.compress(sizes.astype("<u4").view(np.uint8).reshape(-1, 4).T.tobytes(), 9), body


def _pack_book(book: vbq.Codebook) -> bytes:
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


def _pack_words(words: Sequence[str]) -> bytes:
    """Front coding: how many bytes a word shares with the one before it (u8), and the rest of it; bzip2 of each.

    Words of equal counts stand in alphabetical order in our own vocabularies, which front coding is for.
    """
    encoded = [word.encode() for word in words]
    shared = bytes(_common(a[:255], b) for a, b in itertools.pairwise([b"", *encoded]))
    rest = b"\n".join(word[n:] for word, n in zip(encoded, shared, strict=True))
    prefixes = bz2.compress(shared)
    return VOCABULARY.pack(len(rest), len(prefixes)) + prefixes + bz2.compress(rest)


def _common(a: bytes, b: bytes) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _unpack_words(payload: bytes, count: int) -> list[str]:
    size, prefixes = VOCABULARY.unpack_from(payload)
    at = VOCABULARY.size + prefixes
    _check_vocabulary(count, size, len(payload))
    shared = bz2.BZ2Decompressor().decompress(payload[VOCABULARY.size : at], count)
    rest = bz2.BZ2Decompressor().decompress(payload[at:], size).split(b"\n")
    if len(shared) != count or len(rest) != count:
        raise ValueError(f"{len(shared)} prefixes and {len(rest)} words")
    words, word, letters = [], b"", 0
    for n, end in zip(shared, rest, strict=True):
        word = word[:n] + end
        words.append(word.decode())
        letters += len(word)
        if letters > size:  # words that share much with the one before may be many times as long as what is stored
            _check_vocabulary(count, letters, len(payload))
    return words


def _check_vocabulary(count: int, letters: int, stored: int) -> None:
    """Raise ValueError for more words, or longer ones, than a file may declare: see WORDS_A_BYTE."""
    most = WORDS_FREE + WORDS_A_BYTE * stored
    if count > most or letters > LETTERS * most:
        raise ValueError(
            f"expected at most {most} words of {LETTERS} bytes in a vocabulary of {stored} bytes, got {count} words of "
            f"{letters} bytes; leave some out"
        )


def _words_crc(words: Sequence[str]) -> int:
    return zlib.crc32("\n".join(words).encode())


def _rows_crc(vectors: Tensor) -> int:
    return zlib.crc32(vectors.contiguous().numpy().astype("<f4", copy=False).tobytes())


def _encodable(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:  # lone surrogates, which Python makes of bytes that are not UTF-8
        return False
    return True
