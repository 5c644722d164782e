"""The order that alphabetical words stand in: a permutation of which one entry is read alone.

A tree over the rows: each node says of each of its words, in alphabetical order, whether its row is in the right half,
so that a word goes down by counting the bits before its own (a wavelet tree; Grossi, Gupta, Vitter 2003). Halves are
equal where rows have no rule, so that a plain bit is as short as a coded one. At the bottom are runs of rows that stand
in alphabetical order, and groups of at most 64 rows in any order: one number below the factorial of their count.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment, operator"
# Numba's functions have the types that they are called with.

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from toolkit.coding import binary
from toolkit.coding.compiled import inline, jit

LONG = 32  # rows of an alphabetical run that is worth an end of its own
MOST = 64  # rows of another end of the tree
_PLAIN, _CODED, _SORTED, _MIXED = range(4)  # kinds of nodes; the last two are ends
_KIND, _FIRST, _SIZE, _LEFT, _PLACE, _NEXT, _FIELDS = range(7)  # first row, rows, those on the left, bits, right child
_LIMBS = 10  # of 32 bits, for the factorial of MOST
_SCRATCH = MOST + _LIMBS
_DEEPEST = 128  # nodes above an end, at most: every second one halves its rows
_BITS = np.array([(math.factorial(n) - 1).bit_length() for n in range(MOST + 1)])


class Tree(NamedTuple):
    """A node stands before its children, the left one next to it."""

    nodes: NDArray[np.int64]  # [nodes, fields]
    plain: int  # bits: of equal halves, then of groups
    coded: int  # of other halves


class Order(NamedTuple):
    """What `row` reads."""

    tree: Tree
    bits: NDArray[np.uint64]
    ones: NDArray[np.int64]  # before each 512 bits


def runs(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Runs of rows that stand in alphabetical order: twice their length, and one if they are worth an end.

    order: int64 [words], the row of each word of the alphabet. The rows of a run without that one are in any order.
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


def tree(runs: NDArray[np.int64]) -> Tree:
    """The tree of what `runs` found. Rows without a rule are cut into 2^n parts of equal size."""
    rows, is_sorted = runs >> 1, runs & 1
    halvings = np.where(is_sorted, 0, np.frexp(-(-rows // MOST) - 1)[1])
    parts = 1 << halvings
    part = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    rows, halvings, is_sorted = (np.repeat(x, parts) for x in (rows, halvings, is_sorted))
    ends = (rows * (part + 1) >> halvings) - (rows * part >> halvings)
    nodes = np.zeros((2 * len(ends) - 1, _FIELDS), np.int64)
    stack = np.zeros((len(ends) + 1, 3), np.int64)
    plain = int(_build(np.concatenate([[0], np.cumsum(ends)]), is_sorted, nodes, stack))
    return Tree(nodes, plain, int(nodes[nodes[:, _KIND] == _CODED, _SIZE].sum()))


def encode(order: NDArray[np.int64], runs: NDArray[np.int64]) -> bytes:
    """The bytes of an order, int64 [words], the row of each word of the alphabet."""
    made = tree(runs)
    bits = np.zeros(_words(made), np.uint64)
    if not _sorted(False, made, bits, order):
        raise ValueError("expected runs of the order, got those of another")
    data = np.zeros(made.coded // 4 + 64, np.uint8)
    size = _code(np.zeros(binary.SIZE, np.int64), data, False, made.nodes, bits)
    return bits.astype("<u8").tobytes()[: -(-made.plain // 8)] + data[:size].tobytes()


def decode(payload: bytes | memoryview, runs: NDArray[np.int64]) -> Order:
    """What `encode` wrote, ready to be read. Raises ValueError for too few bytes."""
    made = tree(runs)
    size = -(-made.plain // 8)
    if len(payload) < size:
        raise ValueError(f"an order of {len(payload)} bytes instead of {size}")
    bits = np.zeros(_words(made), np.uint64)
    bits.view(np.uint8)[:size] = np.frombuffer(payload[:size], np.uint8)
    bits = bits.view("<u8").astype(np.uint64, copy=False)
    if made.plain & 63:  # where the coded bits go on
        bits[made.plain >> 6] &= np.uint64((1 << (made.plain & 63)) - 1)
    data = np.frombuffer(payload[size:], np.uint8).copy()
    _code(np.zeros(binary.SIZE, np.int64), data, True, made.nodes, bits)
    ones = np.zeros((len(bits) >> 3) + 2, np.int64)
    _count(bits, ones)
    return Order(made, bits, ones)


def row(order: Order, word: int) -> int:
    """The row of a word of the alphabet. Raises ValueError for damaged bits."""
    found = int(_row(order.tree.nodes, order.bits, order.ones, word, np.empty(_SCRATCH, np.int64)))
    if found < 0:
        raise ValueError("an order that is none")
    return found


def word(order: Order, row: int) -> int:
    """The word of the alphabet that has a row. Raises ValueError for damaged bits."""
    scratch, path = np.empty(_SCRATCH, np.int64), np.empty((_DEEPEST, 2), np.int64)
    found = int(_word(order.tree.nodes, order.bits, order.ones, row, scratch, path))
    if found < 0:
        raise ValueError("an order that is none")
    return found


def rows(order: Order) -> NDArray[np.int64]:
    """The row of each word of the alphabet, int64 [words]. Raises ValueError for damaged bits."""
    found = np.zeros(order.tree.nodes[0, _SIZE], np.int64)
    if not _sorted(True, order.tree, order.bits, found):
        raise ValueError("an order that is none")
    return found


def _sorted(decoding: bool, made: Tree, bits: NDArray[np.uint64], rows: NDArray[np.int64]) -> bool:
    words, spare = np.arange(len(rows)), np.empty(len(rows), np.int64)
    return bool(_sort(decoding, made.nodes, bits, rows, words, spare, np.empty(_SCRATCH, np.int64)) == 0)


def _words(made: Tree) -> int:
    """Of 64 bits, of all bits, and one more."""
    return (made.plain + made.coded >> 6) + 2


@jit
def _build(starts, is_sorted, nodes, stack):
    """Nodes int64 [2 ends - 1, fields] of ends that begin at rows int64 [ends + 1]; returns how many bits are plain.

    stack: int64 [ends + 1, 3], for use within: first end, last, and the node that it is the right child of.
    """
    stack[0, 0], stack[0, 1], stack[0, 2] = 0, len(is_sorted), -1
    n, at = np.int64(0), np.int64(1)
    while at > 0:
        at -= 1
        first, last, parent = stack[at, 0], stack[at, 1], stack[at, 2]
        if parent >= 0:
            nodes[parent, _NEXT] = n
        rows = starts[last] - starts[first]
        nodes[n, _FIRST], nodes[n, _SIZE] = starts[first], rows
        if last - first == 1:
            nodes[n, _KIND] = _SORTED if is_sorted[first] else _MIXED
        else:
            low, high = first + 1, last - 1  # the cut whose halves differ least
            while low < high:
                middle = (low + high) // 2
                if 2 * (starts[middle] - starts[first]) < rows:
                    low = middle + 1
                else:
                    high = middle
            if low > first + 1 and abs(2 * (starts[low - 1] - starts[first]) - rows) <= abs(
                2 * (starts[low] - starts[first]) - rows
            ):
                low -= 1
            left = starts[low] - starts[first]
            nodes[n, _LEFT] = left
            nodes[n, _KIND] = _PLAIN if 8 * abs(2 * left - rows) <= rows else _CODED
            stack[at, 0], stack[at, 1], stack[at, 2] = low, last, n
            stack[at + 1, 0], stack[at + 1, 1], stack[at + 1, 2] = first, low, -1
            at += 2
        n += 1
    plain = np.int64(0)
    for kind in (_PLAIN, _MIXED):
        for i in range(n):
            if nodes[i, _KIND] == kind:
                nodes[i, _PLACE] = plain
                plain += nodes[i, _SIZE] if kind == _PLAIN else _BITS[nodes[i, _SIZE]]
    place = plain
    for i in range(n):
        if nodes[i, _KIND] == _CODED:
            nodes[i, _PLACE] = place
            place += nodes[i, _SIZE]
    return plain


@inline
def _bit(bits, at):
    return np.int64(bits[at >> 6] >> np.uint64(at & 63) & np.uint64(1))


@inline
def _set(bits, at, value):
    """Set a bit that is 0."""
    bits[at >> 6] |= np.uint64(value) << np.uint64(at & 63)


@jit
def _code(state, data, decoding, nodes, bits):
    """Code the bits of nodes whose halves are unequal, or decode them; returns the bytes: int64."""
    binary.start(state, data, decoding)
    for n in range(len(nodes)):
        if nodes[n, _KIND] != _CODED:
            continue
        left, right = nodes[n, _LEFT], nodes[n, _SIZE] - nodes[n, _LEFT]
        for at in range(nodes[n, _PLACE], nodes[n, _PLACE] + nodes[n, _SIZE]):
            value = np.int64(1) if left == 0 else np.int64(0)
            if left > 0 and right > 0:
                value = binary.code(state, data, _bit(bits, at), right * 65536 // (left + right), decoding)
            if decoding:
                _set(bits, at, value)
            left -= 1 - value
            right -= value
    return binary.finish(state, data)


@inline
def _population(x):
    """How many of 64 bits are ones."""
    x = x - (x >> np.uint64(1) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + (x >> np.uint64(2) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64(x * np.uint64(0x0101010101010101) >> np.uint64(56))


@jit
def _count(bits, ones):
    for i in range(len(bits)):
        if i & 7 == 0:
            ones[(i >> 3) + 1] = ones[i >> 3]
        ones[(i >> 3) + 1] += _population(bits[i])


@inline
def _before(bits, ones, at):
    """How many ones are before a bit."""
    found = ones[at >> 9] + _population(bits[at >> 6] & ((np.uint64(1) << np.uint64(at & 63)) - np.uint64(1)))
    for i in range(at >> 9 << 3, at >> 6):
        found += _population(bits[i])
    return found


@inline
def _read_mixed(bits, place, size, scratch):
    """The order of the rows of an end, from its number, into scratch; returns what is left of the number, or 0."""
    limbs, count = scratch[MOST:], _BITS[size]
    for i in range(_LIMBS):
        limbs[i] = 0
    for i in range(count):
        limbs[i >> 5] |= _bit(bits, place + i) << (i & 31)
    used, left = (count + 31) >> 5, np.int64(0)
    for at in range(size - 1, -1, -1):
        rest, radix = np.int64(0), size - at
        for i in range(used - 1, -1, -1):
            whole = rest << 32 | limbs[i]
            limbs[i] = whole // radix
            rest = whole - limbs[i] * radix
        scratch[at] = rest
        for later in range(at + 1, size):
            scratch[later] += np.int64(scratch[later] >= rest)
    for i in range(used):
        left |= limbs[i]
    return left


@inline
def _write_mixed(bits, place, size, scratch):
    """The number of the order in scratch, which is lost, as bits."""
    limbs, count = scratch[MOST:], _BITS[size]
    for i in range(_LIMBS):
        limbs[i] = 0
    used = (count + 31) >> 5
    for at in range(size):
        carry, radix = scratch[at], size - at
        for later in range(at + 1, size):
            scratch[later] -= np.int64(scratch[later] > scratch[at])
        for i in range(used):
            carry += limbs[i] * radix
            limbs[i] = carry & 0xFFFFFFFF
            carry >>= 32
    for i in range(count):
        _set(bits, place + i, limbs[i >> 5] >> (i & 31) & 1)


@jit
def _row(nodes, bits, ones, word, scratch):
    """The row of a word, or -1."""
    n = np.int64(0)
    while word < nodes[n, _SIZE]:
        kind, place = nodes[n, _KIND], nodes[n, _PLACE]
        if kind == _SORTED:
            return nodes[n, _FIRST] + word
        if kind == _MIXED:
            _read_mixed(bits, place, nodes[n, _SIZE], scratch)
            return nodes[n, _FIRST] + scratch[word]
        right = _before(bits, ones, place + word) - _before(bits, ones, place)
        if _bit(bits, place + word):
            n, word = nodes[n, _NEXT], right
        else:
            n, word = n + 1, word - right
    return np.int64(-1)


@jit
def _word(nodes, bits, ones, row, scratch, path):
    """The word of a row, or -1: down to the row's end, then up again by where each node has the bit of the word.

    path: int64 [deepest, 2], for use within: nodes, and the bit that leads on.
    """
    n, depth = np.int64(0), np.int64(0)
    while nodes[n, _KIND] < _SORTED:
        right = np.int64(row >= nodes[n, _FIRST] + nodes[n, _LEFT])
        path[depth, 0], path[depth, 1] = n, right
        n, depth = nodes[n, _NEXT] if right else n + 1, depth + 1
    word, size = row - nodes[n, _FIRST], nodes[n, _SIZE]
    if nodes[n, _KIND] == _MIXED:
        _read_mixed(bits, nodes[n, _PLACE], size, scratch)
        place, word = word, np.int64(0)
        while word < size and scratch[word] != place:
            word += 1
    while depth > 0:
        depth -= 1
        n, right = path[depth, 0], path[depth, 1]
        place, size = nodes[n, _PLACE], nodes[n, _SIZE]
        low, high = np.int64(0), size  # the first words of the node that have so many of these bits
        before = _before(bits, ones, place)
        while low < high:
            middle = (low + high) // 2
            there = _before(bits, ones, place + middle + 1) - before
            if (there if right else middle + 1 - there) > word:
                high = middle
            else:
                low = middle + 1
        if low == size:
            return np.int64(-1)
        word = low
    return word


@jit
def _sort(decoding, nodes, bits, rows, words, spare, scratch):
    """Code all but the coded bits, or decode the rows, int64 [words], of the words of the alphabet; 0, or -1.

    words: int64 [words], 0, 1, 2 ... at first; spare: int64 [words].
    """
    for n in range(len(nodes)):
        kind, first, size, place = nodes[n, _KIND], nodes[n, _FIRST], nodes[n, _SIZE], nodes[n, _PLACE]
        if kind == _SORTED:
            for i in range(size):
                if decoding:
                    rows[words[first + i]] = first + i
                elif rows[words[first + i]] != first + i:
                    return -1
        elif kind == _MIXED:
            if decoding:
                if _read_mixed(bits, place, size, scratch) != 0:
                    return -1
                for i in range(size):
                    rows[words[first + i]] = first + scratch[i]
            else:
                for i in range(size):
                    scratch[i] = rows[words[first + i]] - first
                _write_mixed(bits, place, size, scratch)
        else:
            left, right, cut = first, np.int64(0), first + nodes[n, _LEFT]
            for i in range(size):
                word = words[first + i]
                if not decoding:
                    _set(bits, place + i, np.int64(rows[word] >= cut))
                if _bit(bits, place + i):
                    spare[right] = word
                    right += 1
                else:
                    words[left] = word
                    left += 1
            if left != cut:
                return -1
            for i in range(right):
                words[cut + i] = spare[i]
    return 0
