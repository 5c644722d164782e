"""The words of a file of word vectors: sorted and spelt, then the order that they stand in.

docs/format.md, section "Word vectors", is the specification. Version 1, front coding and then bzip2, is what old files
have, and the few vocabularies whose order has a rule that is not alphabetical: numbers that count up, say.
"""

from __future__ import annotations

import bz2
import heapq
import itertools
import struct
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from toolkit.coding import binary
from toolkit.container import inflate
from toolkit.embeddings import spelling

VERSIONS = (1, 2)  # the smaller is written
FRONT = struct.Struct("<II")  # version 1: bytes of all words with their ends; bytes of the stored prefix lengths
HEAD = struct.Struct("<II")  # version 2: bytes of the stored head; runs of words
WORDS_A_BYTE, WORDS_FREE, LETTERS = 1 << 11, 1 << 20, 64  # of the vocabulary; always so many; bytes of each, on average
BLOCK = 1 << 17  # words at most that are spelt one after the other: blocks are decoded side by side
LONG = 32  # words of a run that is worth an entry of its own


def pack(words: Sequence[str]) -> tuple[bytes, int]:
    """Words in any order -> bytes, and the version of the format."""
    encoded = [word.encode() for word in words]
    old, new = _pack_front_coded(encoded), _pack_spelt(encoded)
    return (new, 2) if len(new) <= len(old) else (old, 1)


def _pack_spelt(words: Sequence[bytes]) -> bytes:
    encoded = np.array(words, object)
    order = np.array(sorted(range(len(words)), key=encoded.__getitem__), np.int64)
    ordered = encoded[order].tolist()
    parts = [ordered[first:last] for first, last in itertools.pairwise(_blocks(len(words)))]
    texts = [np.frombuffer(b"\n".join(part) + b"\n", np.uint8) for part in parts]
    lengths = np.stack(
        [_huffman(np.sum([np.bincount(text, minlength=256) for text in texts], 0)), _huffman(_shared(parts))]
    )
    with ThreadPoolExecutor() as pool:
        spelt = list(pool.map(lambda text, part: _spell(text, len(part), lengths), texts, parts))
    runs = _runs(order)
    sizes = np.array([[len(text), len(data)] for text, data in zip(texts, spelt, strict=True)], "<u4")
    head = zlib.compress(lengths.tobytes() + sizes.tobytes() + runs.astype("<u4").tobytes(), 9)
    return HEAD.pack(len(head), len(runs)) + head + b"".join(spelt) + _encode_order(order, runs)


def unpack(payload: bytes, count: int, version: int) -> list[str]:
    """The words that `pack` wrote, so many. Raises ValueError, struct.error, EOFError or OSError for other bytes."""
    if version == 1:
        return _unpack_front_coded(payload, count)
    check_size(count, 0, len(payload))
    stored, n = HEAD.unpack_from(payload)
    bounds = _blocks(count)
    if not 0 < n <= count:
        raise ValueError(f"{n} runs of {count} words")
    body = memoryview(payload)[HEAD.size + stored :]
    head = inflate(payload[HEAD.size : HEAD.size + stored], 512 + 8 * (len(bounds) - 1) + 4 * n)
    lengths = np.frombuffer(head, np.uint8, 512).reshape(2, 256)
    sizes = np.frombuffer(head, "<u4", 2 * (len(bounds) - 1), 512).reshape(-1, 2).astype(np.int64)
    runs = np.frombuffer(head, "<u4", n, 512 + sizes.size * 4).astype(np.int64)
    check_size(count, int(sizes[:, 0].sum()), len(payload))
    if lengths[spelling.LENGTHS, spelling.SHARED + 1 :].any():
        raise ValueError(f"words that share more than {spelling.SHARED} letters")
    coded = [0, *itertools.accumulate(sizes[:, 1].tolist())]
    if coded[-1] > len(body) or (runs >> 1).sum() != count or (runs < 2).any():
        raise ValueError(f"{coded[-1]} bytes of {len(body)} and {(runs >> 1).sum()} words in runs")
    text = np.empty(int(sizes[:, 0].sum()), np.uint8)
    places = [0, *itertools.accumulate(sizes[:, 0].tolist())]

    def decode(i: int) -> None:
        data = np.frombuffer(body[coded[i] : coded[i + 1]], np.uint8).copy()
        model, bits = spelling.model(True, data, text[places[i] : places[i + 1]], lengths)
        if spelling.code_words(model, bounds[i + 1] - bounds[i], bits) < 0:
            raise ValueError(f"words of block {i} that do not end where they should")

    with ThreadPoolExecutor() as pool:
        list(pool.map(decode, range(len(sizes))))
    rows = _decode_order(np.frombuffer(body[coded[-1] :], np.uint8).copy(), count, runs)
    found, starts = np.empty_like(text), np.zeros(count + 1, np.int64)
    spelling.arrange(text, rows, starts, found)
    words = found[:-1].tobytes().decode().split("\n")  # all at once, which is several times as fast
    if len(words) != count:
        raise ValueError(f"{len(words)} words instead of {count}")
    return words


def _blocks(count: int) -> list[int]:
    """Where blocks of about as many words each begin, and the end."""
    n = -(-count // BLOCK)
    return [count * i // n for i in range(n + 1)]


def _spell(text: NDArray[np.uint8], words: int, lengths: NDArray[np.uint8]) -> bytes:
    room = 2 * len(text) + 64
    while True:
        data = np.zeros(room, np.uint8)
        model, bits = spelling.model(False, data, text.copy(), lengths)
        size = int(spelling.code_words(model, words, bits))
        if size < 0:
            raise ValueError("expected words without line feeds, got another")
        if not model.coder[binary.FULL]:
            return data[:size].tobytes()
        room *= 4


def _shared(parts: Sequence[Sequence[bytes]]) -> NDArray[np.int64]:
    """How often words share so many letters with the one before: int64 [256]."""
    counts = np.zeros(256, np.int64)
    for part in parts:
        for a, b in itertools.pairwise([b"", *part]):
            counts[min(_common(a, b), spelling.SHARED)] += 1
    return counts


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


def _runs(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Runs of rows that stand in alphabetical order: twice their length, and one if they are worth an entry.

    order: int64 [words], the row of each word of the alphabet. The rows of a run without that one are runs of one word.
    """
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    ends = [*(np.flatnonzero(np.diff(rank) < 0) + 1).tolist(), len(order)]
    found: list[list[int]] = []  # length, whether sorted
    for begin, end in itertools.pairwise([0, *ends]):
        is_sorted = end - begin >= LONG
        if is_sorted or not found or found[-1][1]:
            found.append([end - begin, is_sorted])
        else:
            found[-1][0] += end - begin
    return np.array([2 * length + is_sorted for length, is_sorted in found], np.int64)


def _leaves(runs: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many rows each leaf of the order's tree has."""
    return np.concatenate([[run >> 1] if run & 1 else np.ones(run >> 1, np.int64) for run in runs.tolist()])


def _tree(leaves: NDArray[np.int64]) -> tuple[int, NDArray[np.int64]]:
    """Half the size of a tree, and how many words are below each node, of which 1 is the root: int64 [size]."""
    half = 1 << (len(leaves) - 1).bit_length()
    tree = np.zeros(2 * half, np.int64)
    tree[half : half + len(leaves)] = leaves
    n = half
    while n > 1:
        tree[n // 2 : n] = tree[n : 2 * n].reshape(-1, 2).sum(1)
        n //= 2
    return half, tree


def _encode_order(order: NDArray[np.int64], runs: NDArray[np.int64]) -> bytes:
    leaves = _leaves(runs)
    run_of = np.repeat(np.arange(len(leaves)), leaves)[order]
    half, tree = _tree(leaves)
    data = np.zeros(4 * len(order) + 64, np.uint8)  # of fewer than 2^32 words
    state = np.zeros(binary.SIZE, np.int64)
    size = spelling.code_order(state, data, False, run_of, half, tree, np.zeros(1, np.int64))
    return data[:size].tobytes()


def _decode_order(data: NDArray[np.uint8], count: int, runs: NDArray[np.int64]) -> NDArray[np.int64]:
    """The row of each word of the alphabet, int64 [count], whatever the data."""
    leaves = _leaves(runs)
    half, tree = _tree(leaves)
    rows, place = np.zeros(count, np.int64), np.cumsum(leaves) - leaves
    spelling.code_order(np.zeros(binary.SIZE, np.int64), data, True, rows, half, tree, place)
    return rows


def _common(a: bytes, b: bytes) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _pack_front_coded(words: Sequence[bytes]) -> bytes:
    """How many bytes a word shares with the one before it (u8), and the rest of it; bzip2 of each."""
    shared = bytes(_common(a[:255], b) for a, b in itertools.pairwise([b"", *words]))
    rest = b"\n".join(word[n:] for word, n in zip(words, shared, strict=True))
    prefixes = bz2.compress(shared)
    return FRONT.pack(len(rest), len(prefixes)) + prefixes + bz2.compress(rest)


def _unpack_front_coded(payload: bytes, count: int) -> list[str]:
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
