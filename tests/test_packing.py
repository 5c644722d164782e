"""The bytes of a message: what they are, that they come back, and that nothing else is taken for them."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.coding.packing import LOW, Array, bit_length, check_room, pack, unpack

TWO = (np.array([LOW, (1 << 63) - 1]), np.array([1, 2]), np.array([1, -2, 3], np.int32))
# TWO as files were written at first: lanes, least size, bytes a code; codes; heads; words.
OLD = bytes.fromhex("02000000 01000000 01 00 0c 00000080 ffffffffffffff7f 01000000 feffffff03000000")


def stacks(seed: int, lanes: int = 7, longest: int = 9) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    head = rng.integers(LOW, 1 << 63, lanes, np.int64) >> rng.integers(0, 32, lanes)
    size = rng.integers(0, longest + 1, lanes)
    return np.maximum(head, LOW), size, rng.integers(-(1 << 31), 1 << 31, int(size.sum())).astype(np.int32)


def same(found: tuple[Array, Array, Array], head: Array, size: Array, words: Array) -> bool:
    tail = found[2][np.arange(found[2].shape[1]) < size[:, None]]
    return all(np.array_equal(a, b) for a, b in ((found[0], head), (found[1], size), (tail, words)))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(0, 60))
def test_stacks_come_back(seed: int, lanes: int, longest: int) -> None:
    given = stacks(seed, lanes, longest)
    data = pack(*given)
    assert same(unpack(data), *given)
    length = 32 * given[1] + bit_length(given[0])
    bits = int(np.ptp(length)).bit_length() * lanes + int((bit_length(given[0]) - 1).sum())
    # A lane that is not as long as the shortest costs a few bits, not bytes.
    assert len(data) <= 9 + -(-(bits + 6 * lanes) // 8) + 4 * len(given[2])


def test_the_bytes_of_two_stacks() -> None:
    data = pack(*TWO)
    # Lengths 0 and 32 + 31, of 6 bits; 31 zero bits and 62 ones; 3 bits to fill up.
    bits = 0b111111_000000 | ((1 << 62) - 1) << (12 + 31)
    assert data == (
        struct.pack("<IIB", 2, 1, 64 + 6) + bits.to_bytes(-(-(12 + 31 + 62) // 8), "little") + TWO[2].tobytes()
    )


def test_bytes_of_the_first_files_are_read() -> None:
    assert same(unpack(OLD), *TWO)
    wide = np.array([0, 8 * 8192], "<u4")
    data = struct.pack("<IIB", 2, 0, 4) + wide.tobytes() + np.full(2, LOW, "<u4").tobytes() + bytes(4 * 8192)
    assert unpack(data)[1].tolist() == [0, 8192]


@pytest.mark.parametrize("x", [1, 2, 3, LOW - 1, LOW, (1 << 53) + 1, (1 << 62) - 1, 1 << 62, (1 << 63) - 1])
def test_bit_lengths_are_those_of_the_integers(x: int) -> None:
    assert bit_length(np.array([x])).tolist() == [x.bit_length()]


@pytest.mark.parametrize("data", [b"", pack(*TWO)[:8], OLD[:8]])
def test_bytes_shorter_than_a_header_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=f"at least 9 bytes, got {len(data)}; the data are cut short"):
        unpack(data)


@pytest.mark.parametrize(
    ("lanes", "kind", "width"),
    [
        (0, 64, "0 bits"), (5, 64 + 49, "49 bits"), (1_000_000, 64, "0 bits"), (2**32 - 1, 255, "191 bits"),
        (0, 1, "1 bytes"), (5, 0, "0 bytes"), (5, 3, "3 bytes"), (1_000_000, 1, "1 bytes"), (2**32 - 1, 8, "8 bytes"),
    ],
)  # fmt: skip
def test_bytes_whose_lanes_do_not_fit_are_refused(lanes: int, kind: int, width: str) -> None:
    data = struct.pack("<IIB", lanes, 1, kind) + pack(*stacks(0))[9:]
    with pytest.raises(ValueError, match=f"{lanes} lanes with lengths of {width} do not fit {len(data)} bytes"):
        unpack(data)


def test_heads_that_do_not_fit_are_refused() -> None:
    lengths = np.packbits(np.ones(8 * 5, np.uint8)).tobytes()  # 8 lanes with heads of 62 bits and 31 words at most
    for data in (struct.pack("<IIB", 8, 0, 64 + 5) + lengths + bytes(31), struct.pack("<IIBB", 1, 0, 1, 4) + bytes(7)):
        with pytest.raises(ValueError, match="do not fit"):
            unpack(data)


@pytest.mark.parametrize("data", [pack(*stacks(3)), OLD])
@pytest.mark.parametrize("change", [-4, -1, 1, 4])
def test_bytes_of_another_length_are_refused(data: bytes, change: int) -> None:
    changed = data[:change] if change < 0 else data + bytes(change)
    with pytest.raises(ValueError, match=f"expected {len(data)} bytes, got {len(changed)}; the data are damaged"):
        unpack(changed)


def test_bits_that_mean_nothing_must_be_zero() -> None:
    data = bytearray(pack(*TWO))
    data[-13] |= 0x80
    with pytest.raises(ValueError, match="expected zero bits before its words; the data are damaged"):
        unpack(bytes(data))


@pytest.mark.parametrize("code", [5, 6, 7])
def test_heads_longer_than_eight_bytes_are_refused(code: int) -> None:
    with pytest.raises(ValueError, match="the data are damaged"):
        unpack(struct.pack("<IIBB", 1, 0, 1, code) + b"\x7f" * (4 + code))


@pytest.mark.parametrize("code", [2**63, 2**64 - 8, 2**62])
def test_impossible_sizes_are_refused(code: int) -> None:
    with pytest.raises(ValueError, match="the data are damaged"):
        unpack(struct.pack("<IIBQ", 1, 0, 8, code) + b"\x7f" * 4)


def test_sizes_that_would_take_much_more_memory_than_the_bytes_are_refused() -> None:
    lanes, words = 40_000, 2_000  # a table of both has 80 million words
    size = np.zeros(lanes, np.int64)
    size[7] = words
    data = pack(np.full(lanes, LOW), size, np.zeros(words, np.int32))
    with pytest.raises(ValueError, match="expected lanes of about equal lengths, got 40000, of which one has 2000"):
        unpack(data)
    check_room(40_000, 1_600, 1)


@pytest.mark.parametrize(
    ("data", "head"),
    [
        (struct.pack("<IIBBI", 1, 0, 1, 0, LOW - 1), LOW - 1),
        (struct.pack("<IIBBQ", 1, 0, 1, 4, 1 << 63), -(1 << 63)),
    ],
)
def test_heads_outside_their_interval_are_refused(data: bytes, head: int) -> None:
    with pytest.raises(ValueError, match=rf"a head is below 2\*\*31 \({head}\); the data are damaged"):
        unpack(data)
