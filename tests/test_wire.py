"""The bytes of a message: what they are, that they come back, and that nothing else is taken for them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.coding.wire import LOW, MOST_LANES, ROOM, Array, Stacks, bit_length, check_room, index, pack, unpack


def table(words: list[list[int]]) -> Array:
    """int32 [lanes, longest], zeros above."""
    found = np.zeros((len(words), max(map(len, words))), np.int32)
    for row, lane in zip(found, words, strict=True):
        row[: len(lane)] = lane
    return found


TWO = Stacks(np.array([LOW, (1 << 63) - 1]), table([[1], [-2, 3]]), np.array([1, 2]))


def packed(stacks: Stacks, floor: Array | None = None) -> bytes:
    return pack(stacks.head, stacks.size, stacks.words, floor)


def some(seed: int, lanes: int = 7, longest: int = 9, small: bool = True) -> Stacks:
    """Heads of every length; small: below 2**31 in lanes without words, 0 among them."""
    rng = np.random.default_rng(seed)
    head = np.maximum(rng.integers(LOW, 1 << 63, lanes, np.int64) >> rng.integers(0, 32, lanes), LOW)
    size = rng.integers(0, longest + 1, lanes)
    if small:
        head = np.where(size == 0, head >> rng.integers(0, 64, lanes), head)
    return Stacks(head, rng.integers(-(1 << 31), 1 << 31, (lanes, longest)).astype(np.int32), size)


def same(found: Stacks, wanted: Stacks, low: Array | None = None) -> bool:
    low = np.zeros_like(wanted.size) if low is None else low
    words = [lane[a:b].tolist() for lane, a, b in zip(wanted.words, low, wanted.size, strict=True)]
    mine = [lane[:n].tolist() for lane, n in zip(found.words, found.size, strict=True)]
    return bool(np.array_equal(found.head, wanted.head)) and mine == words


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(0, 60), st.booleans())
def test_stacks_come_back(seed: int, lanes: int, longest: int, small: bool) -> None:
    stacks = some(seed, lanes, longest, small)
    data = packed(stacks)
    found = unpack(data)
    assert same(found, stacks)
    assert (found.head.dtype, found.words.dtype, found.size.dtype) == (np.int64, np.int32, np.int64)
    length = 32 * stacks.size + bit_length(stacks.head)
    bits = int(np.ptp(length)).bit_length() * lanes + int(np.maximum(bit_length(stacks.head) - 1, 0).sum())
    # A lane that is not as long as the shortest costs a few bits, not bytes; two numbers of the header are short.
    assert len(data) <= 4 + -(-bits // 8) + 4 * int(stacks.size.sum())


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 2**31), st.integers(1, 20), st.integers(0, 12))
def test_words_below_the_floor_are_left_out(seed: int, lanes: int, longest: int) -> None:
    stacks = some(seed, lanes, longest, small=False)
    low = np.random.default_rng(seed).integers(0, stacks.size + 1)
    data = packed(stacks, low)
    assert same(unpack(data), stacks, low)
    assert len(data) < 5 + 9 * lanes + 4 * int((stacks.size - low).sum())


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(0, 12), st.integers(0, 30), st.integers(0, 30))
def test_any_lanes_are_read_alone(seed: int, lanes: int, longest: int, a: int, b: int) -> None:
    stacks = some(seed, lanes, longest)
    data = packed(stacks)
    first, last = sorted((a % (lanes + 1), b % (lanes + 1)))
    found = unpack(data, first, last, index(data))
    here = slice(first, last)
    assert same(found, Stacks(stacks.head[here], stacks.words[here], stacks.size[here]))


def test_the_bytes_of_two_stacks() -> None:
    # 2 lanes, the shorter of 64 bits; lengths 0 and 32 + 31 more, of 6 bits; 31 zero bits and 62 ones; 3 to fill up.
    bits = 0b111111_000000 | ((1 << 62) - 1) << (12 + 31)
    words = np.array([1, -2, 3], "<i4").tobytes()
    assert packed(TWO) == bytes([2, 64, 6]) + bits.to_bytes(-(-(12 + 31 + 62) // 8), "little") + words


def test_the_bytes_of_short_stacks() -> None:
    # Heads 0, 1 and 0b101 have 0, 1 and 3 bits: 2 bits a length; the first two have nothing below their highest bit.
    heads = np.array([0, 1, 0b101])
    bits = 0b00 | 0b01 << 2 | 0b11 << 4 | 0b01 << 6
    assert packed(Stacks(heads, np.zeros((3, 0), np.int32), np.zeros(3, np.int64))) == bytes([3, 0, 2, bits])


def test_numbers_of_seven_bits_a_byte_say_how_many_lanes_there_are() -> None:
    empty = Stacks(np.zeros(300, np.int64), np.zeros((300, 0), np.int32), np.zeros(300, np.int64))
    assert packed(empty) == bytes([128 + 300 % 128, 300 // 128, 0, 0])
    assert same(unpack(packed(empty)), empty)


def test_a_long_lane_beside_a_short_one_comes_back() -> None:
    words = np.zeros((2, 8192), np.int32)
    words[1] = np.arange(8192)
    stacks = Stacks(np.array([LOW, LOW]), words, np.array([0, 8192]))
    assert same(unpack(packed(stacks)), stacks)


@pytest.mark.parametrize("x", [0, 1, 2, 3, LOW - 1, LOW, (1 << 53) - 1, (1 << 53) + 1, (1 << 62) - 1, (1 << 63) - 1])
def test_bit_lengths_are_those_of_the_integers(x: int) -> None:
    assert bit_length(np.array([x])).tolist() == [x.bit_length()]


# Refusals.


@pytest.mark.parametrize("size", [0, 1, 2])
def test_bytes_shorter_than_a_header_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"message: expected a number at byte {size} of {size}; the data are damaged"):
        unpack(packed(TWO)[:size])


def test_a_number_is_written_in_one_way_only() -> None:
    for data in (bytes([0x82, 0x00, 64, 6]), bytes([0x80] * 9), bytes([0xFF] * 20)):
        with pytest.raises(ValueError, match="expected a number at byte 0 of"):
            unpack(data + packed(TWO)[3:])


def number(x: int) -> bytes:
    return bytes([x & 127 | 128, *number(x >> 7)]) if x >= 128 else bytes([x])


@pytest.mark.parametrize(
    ("lanes", "least", "width"),
    [(0, 64, 6), (5, 64, 41), (5, (1 << 40) + 1, 6), (10**6, 64, 0), (10**6, 0, 0), (2**62, 64, 30), (300, 64, 6)],
)  # fmt: skip
def test_bytes_whose_lanes_do_not_fit_are_refused(lanes: int, least: int, width: int) -> None:
    data = number(lanes) + number(least) + number(width) + packed(some(0))[3:]
    with pytest.raises(ValueError, match=f"{lanes} lanes with lengths of {width} bits do not fit {len(data)} bytes"):
        unpack(data)


def test_lanes_that_may_all_be_empty_are_only_so_many() -> None:
    assert len(unpack(number(MOST_LANES) + bytes(2)).head) == MOST_LANES
    with pytest.raises(ValueError, match="65537 lanes with lengths of 0 bits do not fit 5 bytes"):
        unpack(number(MOST_LANES + 1) + bytes(2))


@pytest.mark.parametrize("change", [-4, -1, 1, 4])
def test_bytes_of_another_length_are_refused(change: int) -> None:
    data = packed(some(3))
    changed = data[:change] if change < 0 else data + bytes(change)
    with pytest.raises(ValueError, match=f"expected {len(data)} bytes, got {len(changed)}; the data are damaged"):
        unpack(changed)


def test_heads_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 65 bytes, got 9; the data are damaged"):
        unpack(bytes([8, 63, 0]) + bytes(6))


def test_sizes_of_more_words_than_there_are_bytes_are_refused() -> None:
    for least in (1 << 39, 1 << 40):
        data = bytes([1]) + number(least) + bytes([0]) + bytes(40)
        with pytest.raises(ValueError, match="the data are damaged"):
            unpack(data)


def test_bits_that_mean_nothing_must_be_zero() -> None:
    data = bytearray(packed(TWO))
    data[-13] |= 0x80
    with pytest.raises(ValueError, match="expected zero bits before its words; the data are damaged"):
        unpack(bytes(data))


def test_sizes_that_would_take_much_more_memory_than_the_bytes_are_refused() -> None:
    lanes, words = 40_000, 2_000  # a table of both has 80 million words
    size = np.zeros(lanes, np.int64)
    size[7] = words
    data = bytearray(packed(Stacks(np.full(lanes, LOW), np.zeros((lanes, 0), np.int32), np.zeros(lanes, np.int64))))
    assert data[:5] == number(lanes) + bytes([32, 0])
    width = (32 * words).bit_length()
    lengths = np.zeros((lanes, width), np.uint8)
    lengths[7] = np.unpackbits(np.array([32 * words], "<u4").view(np.uint8), bitorder="little")[:width]
    bits = np.concatenate([lengths.flatten(), np.zeros(31 * lanes, np.uint8)])
    data = number(lanes) + bytes([32, width]) + np.packbits(bits, bitorder="little").tobytes() + bytes(4 * words)
    with pytest.raises(ValueError, match="expected lanes of about equal lengths, got 40000, of which one has 2000"):
        unpack(data)
    assert unpack(data, 7, 8).size.tolist() == [2000]
    check_room(40_000, ROOM // 40_000, 1)
    with pytest.raises(ValueError, match="expected lanes of about equal lengths"):
        check_room(40_000, ROOM // 40_000 + 1, 1)
