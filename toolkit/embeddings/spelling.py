"""The letters of words in alphabetical order, by `binary`'s coder.

A letter's decisions are those of a Huffman code. Each has a probability that is mixed, in the domain of logits, from
counters that saw the one to four letters before; the letters that a word shares with the word before it are told at
once. Integers only: the same bytes on every processor.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment, operator"
# Numba's functions have the types that they are called with.

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from toolkit.coding import binary, mixing
from toolkit.coding.compiled import inline, jit
from toolkit.coding.mixing import EVEN, SPAN

END = 10  # of a word: no word has a line feed
SHARED = 31  # letters that a word shares with the one before, at most
LETTERS, LENGTHS = 0, 1  # the two codes
ORDERS, RATE, LIMIT, LENGTH_LIMIT = 4, 12, 127, 1023  # counters of a letter; of learning; of their counts
_PLACES, _SETS = 16, 6  # of sets of weights: places in a word; how many contexts are known, and one for lengths
_FIRST_WEIGHT = 22938  # 0.35 in 65536ths
_SHARES, _PAIRS = 65536, 65536 + 1024  # where counters begin: order 1 at 0, then lengths by one and by two contexts
_HASHED = 65536 + 33 * 1024
_WIDE, _NARROW = 6, 4  # bits of a row of counters: of order 2, of higher ones
_A, _B = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1342543DE82EF95)

Array = Any  # numpy arrays, in a NamedTuple that Numba types


class Model(NamedTuple):
    """What a block of words is coded with."""

    decoding: bool
    coder: Array  # int64: binary's state
    data: Array  # uint8: the bytes
    text: Array  # uint8: words with their ends
    codes: Array  # int64 [2, 256]: bits of a letter, or of how many are shared
    lengths: Array  # int64 [2, 256]: how many bits
    trees: Array  # int64 [2, 256, 2]: next node of a code, or -1 less the symbol
    counters: Array  # uint32: 22 bits of probability, 10 of count
    weights: Array  # int32
    index: Array  # int64 [ORDERS]: counters of a decision
    inputs: Array  # int64 [ORDERS]: their logits
    squash: Array
    stretch: Array
    rates: Array


class Codes(NamedTuple):
    """Two prefix codes: of letters, and of how many are shared."""

    codes: NDArray[np.int64]  # [2, 256]
    lengths: NDArray[np.int64]  # [2, 256]
    trees: NDArray[np.int64]  # [2, 256, 2]


def codes(lengths: NDArray[np.uint8]) -> Codes:
    """The codes of uint8 [2, 256] lengths; ValueError as of `canonical`."""
    found, trees = zip(*map(canonical, lengths), strict=True)
    return Codes(np.stack(found), lengths.astype(np.int64), np.stack(trees))


def model(decoding: bool, data: Array, text: Array, codes: Codes, words: int) -> tuple[Model, int, int]:
    """What `code_words` takes: a model that knows nothing yet, so many words, and the bits of its hashed tables."""
    bits = min(max(len(text).bit_length() - 1, 8), 20)
    counters = np.full(_HASHED + 3 * (1 << bits), EVEN, np.uint32)
    weights = np.full(_PLACES * _SETS * ORDERS, _FIRST_WEIGHT, np.int32)
    return Model(
        decoding, np.zeros(binary.SIZE, np.int64), data, text, *codes,
        counters, weights, np.zeros(ORDERS, np.int64), np.zeros(ORDERS, np.int64), *mixing.tables(),
    ), words, bits  # fmt: skip


def canonical(lengths: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Bits int64 [256] and tree int64 [256, 2] of a code of uint8 [256] lengths, 0 where a symbol has none.

    The code counts upwards from zeros, from shorter to longer, of one length in the order of symbols; nodes are
    numbered as they are made. Raises ValueError for lengths that are those of no complete code.
    """
    codes, tree = np.zeros(256, np.int64), np.zeros((256, 2), np.int64)
    code = before = 0
    made = 1
    symbols = sorted(np.flatnonzero(lengths).tolist(), key=lambda symbol: (lengths[symbol], symbol))
    for symbol in symbols:
        length = int(lengths[symbol])
        code <<= length - before
        codes[symbol], before = code if length < 63 else -1, length
        node = 0
        if code >> length or length > 60:
            raise ValueError(f"a code of lengths {lengths[symbols].tolist()[:10]}")
        for at in range(length - 1, 0, -1):
            bit = code >> at & 1
            if tree[node, bit] == 0:
                if made > 255:
                    raise ValueError("a code of too many nodes")
                tree[node, bit], made = made, made + 1
            node = tree[node, bit]
        tree[node, code & 1] = -1 - symbol
        code += 1
    if not symbols or code != 1 << before or (tree[:made] == 0).any():
        raise ValueError(f"a code of lengths {lengths[symbols].tolist()[:10]} that is not complete")
    return codes, tree


@inline
def _bit(m, value, n, limit, weights):
    """Code a bit, or decode it and return it, by the first n counters of the index and the weights from a place on."""
    total = np.int64(0)
    for j in range(n):
        s = np.int64(m.stretch[m.counters[m.index[j]] >> np.uint32(20)])
        m.inputs[j] = s
        total += s * np.int64(m.weights[weights + j])
    p = np.int64(m.squash[min(max(total >> 16, 1 - SPAN), SPAN - 1) + SPAN])
    value = binary.code(m.coder, m.data, value, p, m.decoding)
    error = ((value << 16) - value - p) * RATE
    for j in range(n):
        m.weights[weights + j] += np.int32((m.inputs[j] * error + (1 << 17)) >> 18)
        v = np.int64(m.counters[m.index[j]])
        q, count = v >> 10, v & 1023
        q += (((value << 22) - value - q) * np.int64(m.rates[count])) >> 16
        m.counters[m.index[j]] = np.uint32((q << 10) | min(count + 1, limit))
    return value


@inline
def _known(m, place):
    return np.int64((m.counters[m.index[place]] & np.uint32(1023)) > 0)


@inline
def _row(key, bits, table, width):
    """Where the row of counters of a hashed context begins."""
    return _HASHED + (table << bits) + (np.int64(key * _A >> np.uint64(64 - bits + width)) << width)


@jit
def code_words(m, words, bits):
    """Code a block of so many words, or decode them into the text; returns the bytes, or -1 for damaged data: int64."""
    binary.start(m.coder, m.data, m.decoding)
    text, size = m.text, len(m.text)
    last, begin, length, shared = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    for word in range(words):
        # How many letters are those of the last word.
        symbol = np.int64(0)
        if not m.decoding and word > 0:
            while symbol < SHARED and text[begin + symbol] == text[last + symbol] and text[begin + symbol] != END:
                symbol += 1
        one = min(shared, 31) * 32
        two = (one + min(length, 31)) * 32
        path, left, node = m.codes[LENGTHS, symbol], m.lengths[LENGTHS, symbol], np.int64(0)
        while node >= 0:
            left -= 1
            m.index[0], m.index[1] = _SHARES + one + node, _PAIRS + two + node
            weights = (min(node, _PLACES - 1) * _SETS + _SETS - 1) * ORDERS
            node = m.trees[LENGTHS, node, _bit(m, path >> max(left, 0) & 1, 2, LENGTH_LIMIT, weights)]
        shared = -1 - node
        if shared > length or begin + shared >= size:
            return -1
        before = np.uint64(END)
        for j in range(shared):
            text[begin + j] = text[last + j]
            before = (before << np.uint64(8)) | np.uint64(text[begin + j])
        at = begin + shared
        # The letter that differs from the last word's is coded by that one.
        above = np.int64(text[last + shared]) if word > 0 else np.int64(END)
        symbol = np.int64(0)
        while symbol != END:
            if at >= size:
                return -1
            first = np.int64(before & np.uint64(255)) * 256
            key = (before & np.uint64(0xFFFF)) + np.uint64(1 << 16)
            if above:
                key = np.uint64(above) * _B
            second = _row(key, bits, np.int64(0), _WIDE)
            key = (before & np.uint64(0xFFFFFF)) + np.uint64(1 << 24) * np.uint64(1 + above)
            third = _row(key, bits, np.int64(1), _NARROW)
            fourth = _row((before & np.uint64(0xFFFFFFFF)) + np.uint64(1 << 32), bits, np.int64(2), _NARROW)
            symbol = np.int64(text[at])
            path, left, node = m.codes[LETTERS, symbol], m.lengths[LETTERS, symbol], np.int64(0)
            place = min(at - begin, _PLACES - 1) * _SETS
            while node >= 0:
                left -= 1
                m.index[0], m.index[1] = first + node, second + (node & ((1 << _WIDE) - 1))
                m.index[2], m.index[3] = third + (node & ((1 << _NARROW) - 1)), fourth + (node & ((1 << _NARROW) - 1))
                weights = (place + _known(m, 1) + _known(m, 2) + _known(m, 3)) * ORDERS
                node = m.trees[LETTERS, node, _bit(m, path >> max(left, 0) & 1, ORDERS, LIMIT, weights)]
            symbol = -1 - node
            text[at] = symbol
            before = (before << np.uint64(8)) | np.uint64(symbol)
            above = np.int64(0)
            at += 1
        last, begin, length = begin, at, at - 1 - begin
    if begin != size:
        return -1
    return binary.finish(m.coder, m.data)


@jit
def shared(text, most, found):
    """How many letters each word shares with the one before, at most so many, and 0 for the first: into uint8 [words].

    text: uint8, words with their ends.
    """
    last, begin = np.int64(0), np.int64(0)
    for word in range(len(found)):
        n = np.int64(0)
        while word > 0 and n < most and text[last + n] == text[begin + n] and text[begin + n] != END:
            n += 1
        found[word] = n
        last = begin
        while text[begin] != END:
            begin += 1
        begin += 1


@jit
def arrange(text, rows, starts, found):
    """Put words, with their ends, into the order of rows.

    text, found: uint8 [bytes]; rows: int64 [words], the row of each; starts: int64 [words + 1], for use within.
    """
    word, begin = np.int64(0), np.int64(0)
    for at in range(len(text)):
        if text[at] == END:
            starts[rows[word] + 1] = at + 1 - begin
            word, begin = word + 1, at + 1
    for row in range(len(rows)):
        starts[row + 1] += starts[row]
    word, at = np.int64(0), np.int64(0)
    to = starts[rows[0]]
    while at < len(text):
        found[to] = text[at]
        to += 1
        at += 1
        if text[at - 1] == END:
            word += 1
            if word < len(rows):
                to = starts[rows[word]]
