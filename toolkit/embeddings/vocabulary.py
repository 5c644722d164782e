"""The words of a file of word vectors: sorted and spelt, then the order that they stand in.

docs/format.md, section "Word vectors", is the specification. Version 1, front coding and then bzip2, is for the few
vocabularies whose order has a rule that is not alphabetical: numbers that count up, say.
"""

from __future__ import annotations

import bisect
import bz2
import functools
import heapq
import itertools
import operator
import struct
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from toolkit.coding import binary
from toolkit.container import inflate
from toolkit.embeddings import ordering, spelling

FRONT_CODED, SPELT = VERSIONS = (1, 4)  # the smaller is written; no release wrote version 2
FRONT = struct.Struct("<II")  # version 1: bytes of all words with their ends; bytes of the stored prefix lengths
HEAD = struct.Struct("<III")  # version 4: bytes of the stored head; runs of words; bytes of the blocks' first words
WORDS_A_BYTE, WORDS_FREE, LETTERS = 1 << 11, 1 << 20, 64  # of the vocabulary; always so many; bytes of each, on average
BLOCK = 1 << 14  # words at most that are spelt one after the other: what a first look-up waits for


def pack(words: Sequence[str]) -> tuple[bytes, int]:
    """Words in any order -> bytes, and the version of the format."""
    encoded = [word.encode() for word in words]
    old, new = _pack_front_coded(encoded), _pack_spelt(encoded)
    return (new, SPELT) if len(new) <= len(old) else (old, FRONT_CODED)


def _pack_spelt(words: Sequence[bytes]) -> bytes:
    encoded = np.array(words, object)
    order = np.array(sorted(range(len(words)), key=encoded.__getitem__), np.int64)
    ordered = encoded[order].tolist()
    parts = [ordered[first:last] for first, last in itertools.pairwise(_blocks(len(words)))]
    texts = [np.frombuffer(b"\n".join(part) + b"\n", np.uint8) for part in parts]
    letters = np.sum([np.bincount(text, minlength=256) for text in texts], 0)
    common = [_shared(text, len(part), spelling.SHARED) for text, part in zip(texts, parts, strict=True)]
    lengths = np.stack([_huffman(letters), _huffman(np.bincount(np.concatenate(common), minlength=256))])
    codes = spelling.codes(lengths)
    with ThreadPoolExecutor() as pool:
        spelt = list(pool.map(lambda text, part: _spell(text, len(part), codes), texts, parts))
    runs = ordering.runs(order)
    sizes = np.array([[len(text), len(data)] for text, data in zip(texts, spelt, strict=True)], "<u4")
    first = b"".join(part[0] + b"\n" for part in parts)
    head = zlib.compress(lengths.tobytes() + sizes.tobytes() + runs.astype("<u4").tobytes() + first, 9)
    return HEAD.pack(len(head), len(runs), len(first)) + head + b"".join(spelt) + ordering.encode(order, runs)


class Spelt:
    """The words that `pack` wrote as version 4, decoded when they are needed; blocks where words are sought are kept.

    Raises ValueError or struct.error for other bytes.
    """

    def __init__(self, payload: bytes, count: int) -> None:
        check_size(count, 0, len(payload))
        stored, n, first = HEAD.unpack_from(payload)
        self._bounds = _blocks(count)
        blocks = len(self._bounds) - 1
        if not 0 < n <= count or not blocks <= first <= 1 << 30:
            raise ValueError(f"{n} runs and {first} bytes of {blocks} first words, of {count} words")
        body = memoryview(payload)[HEAD.size + stored :]
        head = inflate(payload[HEAD.size : HEAD.size + stored], 512 + 8 * blocks + 4 * n + first)
        lengths = np.frombuffer(head, np.uint8, 512).reshape(2, 256)
        sizes = np.frombuffer(head, "<u4", 2 * blocks, 512).reshape(-1, 2).astype(np.int64)
        runs = np.frombuffer(head, "<u4", n, 512 + sizes.size * 4).astype(np.int64)
        *self._first, end = head[len(head) - first :].split(b"\n")  # word of each block
        check_size(count, int(sizes[:, 0].sum()), len(payload))
        if lengths[spelling.LENGTHS, spelling.SHARED + 1 :].any():
            raise ValueError(f"words that share more than {spelling.SHARED} letters")
        coded = [0, *itertools.accumulate(sizes[:, 1].tolist())]
        if coded[-1] > len(body) or (runs >> 1).sum() != count or (runs < 2).any():
            raise ValueError(f"{coded[-1]} bytes of {len(body)} and {(runs >> 1).sum()} words in runs")
        if len(self._first) != blocks or end or sorted({*self._first, b""}) != [b"", *self._first]:
            raise ValueError("first words of blocks that are not in alphabetical order")
        self._codes, self._sizes, self._runs = spelling.codes(lengths), sizes[:, 0].tolist(), runs
        self._coded = [bytes(body[i:j]) for i, j in itertools.pairwise(coded)]
        self._ordered = bytes(body[coded[-1] :])  # until it is decoded
        self._blocks: dict[int, list[bytes]] = {}

    def row(self, word: str) -> int:
        """The row of a word, or -1: decodes the block that it is in, if it is anywhere."""
        try:
            letters = word.encode()
        except UnicodeEncodeError:
            return -1
        i = bisect.bisect_right(self._first, letters) - 1
        if i < 0:
            return -1
        if i not in self._blocks:
            self._blocks[i] = self._block(i)[1]
        words = self._blocks[i]
        at = bisect.bisect_left(words, letters)
        found = at < len(words) and words[at] == letters
        return ordering.row(self._order, self._bounds[i] + at) if found else -1

    def named(self, rows: Sequence[int]) -> list[str]:
        """The words of some rows: decodes the blocks that they are in, one after the other."""
        places = {row: ordering.word(self._order, row) for row in rows}
        found, held = dict[int, str](), -1
        for row in sorted(rows, key=places.__getitem__):
            i = bisect.bisect_right(self._bounds, places[row]) - 1
            if i != held:
                held, text = i, self._text(i)
                ends = np.flatnonzero(text == spelling.END)
            at = places[row] - self._bounds[i]
            found[row] = text[ends[at - 1] + 1 if at else 0 : ends[at]].tobytes().decode()
        return [found[row] for row in rows]

    def words(self) -> list[str]:
        """All words, in the order of the rows."""
        with ThreadPoolExecutor() as pool:
            text = np.concatenate(list(pool.map(lambda i: self._block(i)[0], range(len(self._first)))))
        found, starts = np.empty_like(text), np.zeros(self._bounds[-1] + 1, np.int64)
        spelling.arrange(text, ordering.rows(self._order), starts, found)
        words = found[:-1].tobytes().decode().split("\n")  # all at once, which is several times as fast
        if len(words) != self._bounds[-1]:
            raise ValueError(f"{len(words)} words instead of {self._bounds[-1]}")
        return words

    @functools.cached_property
    def _order(self) -> ordering.Order:
        found, self._ordered = ordering.decode(self._ordered, self._runs), b""
        return found

    def _block(self, i: int) -> tuple[NDArray[np.uint8], list[bytes]]:
        """The letters of a block, with their ends, and its words."""
        count, text = self._bounds[i + 1] - self._bounds[i], self._text(i)
        words = text.tobytes().split(b"\n")[:-1]
        after = [*words[1:], *self._first[i + 1 : i + 2]]
        if len(words) != count or words[0] != self._first[i] or not all(map(operator.lt, words, after)):
            raise ValueError(f"words of block {i} that are not in alphabetical order")
        return text, words

    def _text(self, i: int) -> NDArray[np.uint8]:
        """The letters of a block, with an end after each word."""
        count, text = self._bounds[i + 1] - self._bounds[i], np.empty(self._sizes[i], np.uint8)
        data = np.frombuffer(self._coded[i], np.uint8).copy()
        if spelling.code_words(*spelling.model(True, data, text, self._codes, count)) < 0:
            raise ValueError(f"words of block {i} that do not end where they should")
        return text


def _blocks(count: int) -> list[int]:
    """Where blocks of about as many words each begin, and the end."""
    n = -(-count // BLOCK)
    return [count * i // n for i in range(n + 1)]


def _spell(text: NDArray[np.uint8], words: int, codes: spelling.Codes) -> bytes:
    room = 2 * len(text) + 64
    while True:
        data = np.zeros(room, np.uint8)
        model, *sizes = spelling.model(False, data, text.copy(), codes, words)
        size = int(spelling.code_words(model, *sizes))
        if size < 0:
            raise ValueError("expected words without line feeds, got another")
        if not model.coder[binary.FULL]:
            return data[:size].tobytes()
        room *= 4


def _shared(text: NDArray[np.uint8], words: int, most: int) -> NDArray[np.uint8]:
    """How many letters each word shares with the one before it, at most so many: uint8 [words]."""
    found = np.empty(words, np.uint8)
    spelling.shared(text, most, found)
    return found


def _huffman(counts: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Lengths of a prefix code, of two symbols at least: uint8 [256] (Huffman 1952)."""
    used = np.flatnonzero(counts).tolist()
    used += [symbol for symbol in (0, 1) if symbol not in used][: max(0, 2 - len(used))]
    lengths = np.zeros(256, np.uint8)
    heap = [(int(counts[symbol]), i, [symbol]) for i, symbol in enumerate(used)]
    heapq.heapify(heap)
    for i in range(len(used), 2 * len(used) - 1):
        (a, _, left), (b, _, right) = heapq.heappop(heap), heapq.heappop(heap)
        lengths[left + right] += 1
        heapq.heappush(heap, (a + b, i, left + right))
    return lengths


def _pack_front_coded(words: Sequence[bytes]) -> bytes:
    """How many bytes a word shares with the one before it (u8), and the rest of it; bzip2 of each."""
    shared = _shared(np.frombuffer(b"\n".join(words) + b"\n", np.uint8), len(words), 255).tobytes()
    rest = b"\n".join(word[n:] for word, n in zip(words, shared, strict=True))
    prefixes = bz2.compress(shared)
    return FRONT.pack(len(rest), len(prefixes)) + prefixes + bz2.compress(rest)


def unpack_front_coded(payload: bytes, count: int) -> list[str]:
    """The words of version 1. Raises ValueError, struct.error, EOFError or OSError for other bytes."""
    size, prefixes = FRONT.unpack_from(payload)
    at = FRONT.size + prefixes
    check_size(count, size, len(payload))
    shared = bz2.BZ2Decompressor().decompress(payload[FRONT.size : at], count)
    rest = bz2.BZ2Decompressor().decompress(payload[at:], size).split(b"\n")
    if len(shared) != count or len(rest) != count:
        raise ValueError(f"{len(shared)} prefixes and {len(rest)} words")
    # Words that share much with the one before may be many times as long as what is stored.
    check_size(count, sum(shared) + size, len(payload))
    word = b""
    words = [word := word[:n] + end for n, end in zip(shared, rest, strict=True)]
    found = b"\n".join(words).decode().split("\n")  # all at once, which is several times as fast
    if len(found) != count:
        raise ValueError(f"{len(found)} words instead of {count}")
    return found


def check_size(count: int, letters: int, stored: int) -> None:
    """Raise ValueError for more words, or longer ones, than a file may declare: see WORDS_A_BYTE."""
    most = WORDS_FREE + WORDS_A_BYTE * stored
    if count > most or letters > LETTERS * most:
        raise ValueError(
            f"expected at most {most} words of {LETTERS} bytes in a vocabulary of {stored} bytes, got {count} words of "
            f"{letters} bytes; leave some out"
        )


def checksum(words: Sequence[str]) -> int:
    """CRC-32 of the words with line feeds between them."""
    return zlib.crc32("\n".join(words).encode())
