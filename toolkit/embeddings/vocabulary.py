"""The words of a file of word vectors: front coding, then bzip2; what a file may declare of them."""

from __future__ import annotations

import bz2
import itertools
import struct
import zlib
from collections.abc import Sequence

VOCABULARY = struct.Struct("<II")  # bytes of all words with their ends; bytes of the stored prefix lengths
WORDS_A_BYTE, WORDS_FREE, LETTERS = 1 << 11, 1 << 20, 64  # of the vocabulary; always so many; bytes of each, on average


def pack(words: Sequence[str]) -> bytes:
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


def unpack(payload: bytes, count: int) -> list[str]:
    """The words that `pack` wrote, so many. Raises ValueError, struct.error, EOFError or OSError for other bytes."""
    size, prefixes = VOCABULARY.unpack_from(payload)
    at = VOCABULARY.size + prefixes
    check_size(count, size, len(payload))
    shared = bz2.BZ2Decompressor().decompress(payload[VOCABULARY.size : at], count)
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
