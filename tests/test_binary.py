"""The binary arithmetic coder: what is coded comes back, at the cost that the probabilities say."""

from typing import Any

import numba
import numpy as np
import pytest

from toolkit.coding import binary


@numba.njit
def _encode(bits: Any, p: Any, buffer: Any, state: Any) -> int:
    binary.start(state, buffer, False)
    for i in range(len(bits)):
        binary.code(state, buffer, np.int64(bits[i]), p[i], False)
    return binary.finish(state, buffer)


@numba.njit
def _decode(bits: Any, p: Any, buffer: Any, state: Any) -> None:
    binary.start(state, buffer, True)
    for i in range(len(bits)):
        bits[i] = binary.code(state, buffer, 0, p[i], True)


def encode(bits: np.ndarray, p: np.ndarray, room: int = 1 << 20) -> tuple[bytes, int]:
    state, buffer = np.zeros(binary.SIZE, np.int64), np.zeros(room, np.uint8)
    size = _encode(bits, p, buffer, state)
    return buffer[:size].tobytes(), int(state[binary.FULL])


def decode(data: bytes, p: np.ndarray) -> np.ndarray:
    bits = np.empty(len(p), np.uint8)
    _decode(bits, p, np.frombuffer(data, np.uint8).copy(), np.zeros(binary.SIZE, np.int64))
    return bits


def plain(data: bytes, p: np.ndarray) -> list[bool]:
    """The decoder of docs/format.md on plain integers."""
    low, high, found, ahead = 0, 2**32 - 1, list[bool](), iter(data)
    value = int.from_bytes(bytes(next(ahead, 0) for _ in range(4)), "big")
    for chance in p.clip(1, 65535).tolist():
        middle = low + (high - low) * chance // 65536
        found.append(value <= middle)
        low, high = (low, middle) if found[-1] else (middle + 1, high)
        while low >> 24 == high >> 24:
            low, high, value = (256 * n % 2**32 + more for n, more in ((low, 0), (high, 255), (value, next(ahead, 0))))
    return found


def test_a_decoder_made_by_the_description_of_the_format_finds_the_bits() -> None:
    rng = np.random.default_rng(4)
    for n in (0, 1, 2, 9, 3000):
        p = rng.choice([rng.integers(0, 65537, n), rng.integers(0, 30, n), rng.integers(65500, 65537, n)])
        bits = rng.integers(0, 65536, n) < p
        data, _ = encode(bits.astype(np.uint8), p)
        assert plain(data, p) == bits.tolist()
        assert not data.endswith(b"\0")


@pytest.mark.parametrize("n", [0, 1, 2, 7, 100, 5000])
@pytest.mark.parametrize("seed", range(5))
def test_random_bits_come_back(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    p = rng.choice([rng.integers(-10, 65546, n), rng.integers(0, 40, n), rng.integers(65500, 65537, n)])
    bits = (rng.integers(0, 65536, n) < p).astype(np.uint8)
    bits[rng.random(n) < 0.01 * seed] ^= 1
    data, full = encode(bits, p)
    assert not full
    assert np.array_equal(decode(data, p), bits)


@pytest.mark.parametrize(("least", "most"), [(1, 65536), (1, 40), (65400, 65536), (32768, 32769), (60000, 65000)])
def test_the_cost_is_what_the_probabilities_say(least: int, most: int) -> None:
    rng = np.random.default_rng(1)
    p = rng.integers(least, most, 400_000)
    bits = (rng.integers(0, 65536, len(p)) < p).astype(np.uint8)
    ideal = -np.log2(np.where(bits, p, 65536 - p) / 65536).sum()
    data, _ = encode(bits, p)
    assert 8 * len(data) < 1.001 * ideal + 16


@pytest.mark.parametrize("bit", [0, 1])
@pytest.mark.parametrize("p", [-5, 0, 1, 65535, 65536, 1 << 20])
def test_extremes_come_back(bit: int, p: int) -> None:
    bits, probabilities = np.full(3000, bit, np.uint8), np.full(3000, p)
    data, full = encode(bits, probabilities)
    assert not full
    assert np.array_equal(decode(data, probabilities), bits)
    assert len(data) <= (2 if bit == (p > 100) else 6010)


def test_what_is_cut_or_damaged_is_read_to_its_end() -> None:
    rng = np.random.default_rng(2)
    p = rng.integers(1, 65536, 3000)
    bits = (rng.integers(0, 65536, len(p)) < p).astype(np.uint8)
    data, _ = encode(bits, p)
    for size in (0, 1, 3, 4, len(data) // 2, len(data) - 1):
        found = decode(data[:size], p)
        assert set(found) <= {0, 1}
        right = max(0, size - 4) * 8 // 16  # bits of at most 16 each
        assert np.array_equal(found[:right], bits[:right])
    decode(rng.bytes(len(data)), p)


@pytest.mark.parametrize("room", [0, 1, 5, 100])
def test_a_full_buffer_is_told_and_not_left(room: int) -> None:
    bits = np.random.default_rng(3).integers(0, 2, 3000).astype(np.uint8)
    buffer, state = np.full(room + 8, 77, np.uint8), np.zeros(binary.SIZE, np.int64)
    size = _encode(bits, np.full(3000, 32768), buffer[:room], state)
    assert state[binary.FULL] == 1 and size <= room
    assert set(buffer[room:]) == {77}
