"""The codec of photographs: vectors against NumPy, every shape, hostile pictures, damage, the same bytes everywhere."""

import hashlib
import os
import platform
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import numba
import numpy as np
import pytest

from toolkit.coding import vectors
from toolkit.coding.threads import Room, threads
from toolkit.photographs import codec, deep, experts
from toolkit.photographs.codec import Tile, decode, encode, initial, learn, tiles

STATE = initial()
GOLDEN = Path(__file__).parent / "golden"


@numba.njit
def _each(a, b, found):
    x, y = vectors.load(a, 0), vectors.load(b, 0)
    vectors.store(found, 0, vectors.exp2(x))
    vectors.store(found, 16, vectors.log2(y))
    vectors.store(found, 32, x / y)
    vectors.store(found, 48, vectors.least(x, y))
    vectors.store(found, 64, vectors.most(x, y))
    vectors.store(found, 80, x * y + vectors.splat(numba.float32(3)) - x)
    vectors.store(found, 96, vectors.load8(a, 8) * vectors.splat8(numba.float32(2)))
    return vectors.total(x), vectors.total(vectors.load8(b, 0)), vectors.first(y), vectors.bits(numba.float32(1.5))


def test_vectors_are_what_numpy_computes():
    a = np.linspace(-30, 30, 16).astype(np.float32)
    b = np.geomspace(1e-7, 1e5, 16).astype(np.float32)
    found = np.zeros(112, np.float32)
    sums = _each(a, b, found)
    np.testing.assert_allclose(found[:16], 2 ** a.astype(float), rtol=5e-6)
    np.testing.assert_allclose(found[16:32], np.log2(b.astype(float)), atol=5e-6)
    expected = a / b, np.minimum(a, b), np.maximum(a, b), (a * b + np.float32(3)) - a, a[8:] * np.float32(2)
    assert np.array_equal(found[32:104], np.concatenate(expected))
    np.testing.assert_allclose(sums[0], a.sum(), atol=1e-4)
    np.testing.assert_allclose(sums[1:3], [b[:8].sum(), b[0]], rtol=1e-6)
    assert sums[3] == 0x3FC00000


def pictures(shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """Photographs' worst: constant, noise, extremes, patterns, flat colours beside moving brightness."""
    _, h, w = shape
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:h, :w]
    noisy = rng.integers(0, 256, (h, w))
    return {
        name: np.broadcast_to(values, shape).astype(np.uint8).copy()
        for name, values in {
            "constant": np.full(shape, 200),
            "noise": rng.integers(0, 256, shape),
            "extremes": rng.integers(0, 2, shape) * 255,
            "chessboard": (x + y) % 2 * 255,
            "grey noise": noisy,  # all colour planes are constant
            "gradient": (3 * x + y) // 4 % 256,
            "one dot": (x == w // 2) * (y == h // 2) * 255,
            "half": np.where(x < w // 2, 0, noisy),
        }.items()
    }


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 1), (3, 1, 9), (3, 7, 1), (2, 5, 3), (4, 9, 8), (1, 33, 70)])
def test_every_shape_comes_back(shape):
    for name, picture in pictures(shape).items():
        assert np.array_equal(decode(encode(picture, STATE), shape, STATE), picture), name


@pytest.mark.parametrize("effort", [0, 1, 2])
def test_hostile_pictures_come_back_and_leave_nothing_that_is_not_finite(effort, monkeypatch):
    monkeypatch.setattr(codec, "FEW", -1)
    monkeypatch.setattr(codec, "FLAT", (2, 2))  # experts alone
    kept = []
    make = codec._work
    monkeypatch.setattr(codec, "_work", lambda *given: kept.append(make(*given)) or kept[-1])
    for name, picture in pictures((3, 64, 96)).items():
        data = encode(picture, STATE, effort)
        assert np.array_equal(decode(data, picture.shape, STATE), picture), name
        for work in kept:
            for field, values in work._asdict().items():
                if isinstance(values, np.ndarray) and values.dtype == np.float32:
                    assert np.isfinite(values).all(), (name, field)
                    small = np.abs(values[values != 0])
                    assert not small.size or small.min() > 1e-37, (name, field, "subnormal")
        kept.clear()


def drawn(rng: np.random.Generator) -> np.ndarray:
    """A small picture whose channels are any of: noise, steps, walks, another channel, what is near one, one value."""
    bits = int(rng.choice([8, 8, 16]))
    c, h, w = (int(rng.integers(1, most)) for most in (5, 40, 60))
    top = (1 << bits) - 1
    channels = list[np.ndarray]()
    for _ in range(c):
        channel = [
            lambda: rng.integers(0, top + 1, (h, w)),
            lambda: rng.choice(rng.integers(0, top + 1, rng.integers(1, 5)), (h, w)),
            lambda: rng.integers(-3, 4, (h, w)).cumsum(rng.integers(2)) * rng.choice([1, top // 256 + 1]) + top // 2,
            lambda: np.full((h, w), rng.choice([0, top, top // 2, 1])),
            lambda: np.where(rng.integers(0, 2, (h, w)), 0, top),
            lambda: np.where(np.arange(w) < rng.integers(w + 1), top // 3, rng.integers(0, top + 1, (h, w))),
            lambda: rng.choice(np.stack(channels)) + rng.choice([0, 0, 1, -1]) * rng.integers(0, 2, (h, w)),
        ][rng.choice([0, 1, 2, 3, 4, 5, 6, 6, 6]) if channels else rng.integers(6)]()
        channels.append(np.clip(channel, 0, top))
    return np.stack(channels).astype(f"u{bits // 8}")


@pytest.mark.parametrize("effort", [0, 1, 2])
def test_random_pictures_come_back_whatever_their_threads_do(effort, monkeypatch):
    monkeypatch.setattr(codec, "ROWS", 4)  # that are coded at a time
    monkeypatch.setattr(codec, "LARGE", 300)
    monkeypatch.setattr(codec, "processors", lambda: 4)
    loop, rng = experts.loop, np.random.default_rng(effort)

    def delayed(*given):
        if hash(given[4:6]) % 5 == 0:  # some rows of some planes
            time.sleep(0.001)
        return loop(*given)

    monkeypatch.setattr(experts, "loop", delayed)
    kinds = set()
    for number in range(40):
        picture = drawn(rng)
        monkeypatch.setattr(codec, "MOST_PIXELS", int(rng.choice([1 << 21, 500])))
        data = deep.encode(picture, STATE, effort)
        found = deep.decode(data, picture.shape, STATE)
        assert found.dtype == picture.dtype and np.array_equal(found, picture), number
        kinds.add(data[0])
    assert 16 + effort in kinds and kinds & {9 + effort, 4} and kinds & {3, 12}  # most ways of coding


def test_busy_pictures_of_few_colours_are_coded_in_two_halves(monkeypatch):
    picture = np.random.default_rng(3).choice([3, 90, 91, 250], (1, 65, 40)).astype(np.uint8).repeat(3, 0)
    assert encode(picture, STATE)[0] == 3  # small
    monkeypatch.setattr(codec, "LARGE", picture[0].size)
    data = encode(picture, STATE)
    assert data[0] == 12 and np.array_equal(decode(data, picture.shape, STATE), picture)
    assert encode(np.zeros_like(picture), STATE)[0] == 3  # not busy
    size = int.from_bytes(data[1:5], "little")
    broken = bytearray(data)
    broken[10] ^= 255  # in the upper half
    assert np.array_equal(decode(bytes(broken), picture.shape, STATE)[:, 32:], picture[:, 32:])
    sizes = [data[:1] + wrong * 4 + data[5:] for wrong in (b"\0", b"\xff")]
    for cut in (data[:1], data[:4], data[: 5 + size], *sizes):
        with pytest.raises(ValueError, match="expected two halves of a picture"):
            decode(cut, picture.shape, STATE)
    with pytest.raises(ValueError, match="expected two halves of a picture"):
        decode(data, (3, 1, 40), STATE)


@pytest.mark.parametrize("effort", [0, 1])
def test_what_tells_the_way_of_coding_is_coded_with_the_effort_that_is_asked_for(effort, monkeypatch):
    asked, code = [], codec._by_experts
    monkeypatch.setattr(codec, "_by_experts", lambda *given: asked.append(given[2]) or code(*given))
    encode(pictures((3, 64, 96))["half"], STATE, effort)  # neither a photograph at once nor of few colours
    assert set(asked) == {effort}


def test_planes_of_several_tiles_come_back(monkeypatch):
    monkeypatch.setattr(codec, "MOST_PIXELS", 900)
    monkeypatch.setattr(codec, "MOST_WIDTH", 50)
    picture = pictures((3, 70, 120))["half"]
    assert sum(tile.height * tile.width for tile in tiles(70, 120)) == 70 * 120 and len(tiles(70, 120)) > 6
    data = encode(picture, STATE)
    assert np.array_equal(decode(data, picture.shape, STATE), picture)
    monkeypatch.setattr(codec, "processors", lambda: 6)  # three tiles at a time
    assert encode(picture, STATE) == data
    assert np.array_equal(decode(data, picture.shape, STATE), picture)


@pytest.mark.parametrize("decoding", [False, True])
def test_a_plane_waits_for_all_before_it_though_the_nearest_has_one_value_alone(decoding, monkeypatch):
    grey = pictures((1, 70, 40))["noise"][0].astype(np.int16)
    planes, tile = np.stack([grey, np.zeros_like(grey), grey // 9]), Tile(0, 0, *grey.shape)
    monkeypatch.setattr(codec, "together", lambda count, each, *given: list(map(each, *given)))  # one after another
    data, learned = codec.encoded(planes, tile, codec.learned_of(STATE, 3), 0), codec.learned_of(STATE, 3)
    monkeypatch.undo()
    loop = experts.loop

    def slow(parts, experts_only, work, known, role, *others):
        if role == 0:
            time.sleep(0.02)  # others could overtake
        return loop(parts, experts_only, work, known, role, *others)

    monkeypatch.setattr(experts, "loop", slow)
    if not decoding:
        assert codec.encoded(planes, tile, learned, 0) == data
        return
    parts, at = [], 0
    for _ in planes:
        part, at = codec.plane_at(memoryview(data), at, -255, 255)
        parts.append(part)
    assert np.array_equal(codec.decoded(parts, tile, learned, 0), planes)


def test_coding_takes_less_memory_than_the_picture_beside_it(monkeypatch):
    monkeypatch.setattr(codec, "MOST_PIXELS", 1 << 17)
    monkeypatch.setattr(codec, "FEW", -1)
    monkeypatch.setattr(codec, "FLAT", (2, 2))  # experts alone, who have nothing to do
    picture = np.full((3, 2000, 3000), 7, np.uint8)
    tracemalloc.start()
    try:
        data = encode(picture, STATE)
        assert tracemalloc.get_traced_memory()[1] < picture.nbytes
        tracemalloc.reset_peak()
        assert np.array_equal(decode(data, picture.shape, STATE)[:, 999], picture[:, 999])
        assert tracemalloc.get_traced_memory()[1] < 2 * picture.nbytes  # what is decoded is one
    finally:
        tracemalloc.stop()


def test_what_is_learned_makes_the_next_picture_smaller():
    rng = np.random.default_rng(3)
    walk = rng.integers(-3, 4, (3, 80, 80)).cumsum(1).cumsum(2) // 4 + 128
    picture = np.clip(walk, 0, 255).astype(np.uint8)
    state, bits = learn(picture, STATE)
    assert bits == pytest.approx(8 * len(encode(picture, STATE)), rel=0.01)
    assert len(encode(picture, state)) < len(encode(picture, STATE))
    assert all(state[name].dtype == values.dtype and np.isfinite(values).all() for name, values in STATE.items())
    assert sum(values.nbytes for values in state.values()) < 2_000_000


def test_a_cut_payload_is_refused_and_a_damaged_one_is_refused_or_gives_another_picture():
    picture = pictures((3, 40, 40))["noise"]
    data = encode(picture, STATE)
    for cut in (b"", data[:1], data[:9], data[:-1], data + b"x", b"\xff" + data[1:]):
        with pytest.raises(ValueError, match="expected"):
            decode(cut, picture.shape, STATE)
    rng = np.random.default_rng(5)
    for _ in range(20):
        damaged = bytearray(data)
        damaged[rng.integers(30, len(data))] ^= 1 << rng.integers(8)
        try:
            assert decode(bytes(damaged), picture.shape, STATE).shape == picture.shape
        except ValueError as error:
            assert "expected" in str(error)


@pytest.mark.parametrize("order", range(len(codec.ORDERS)))
def test_channels_come_back_in_every_order(order):
    picture = pictures((3, 40, 30))["noise"]
    assert np.array_equal(codec.colours_of(codec.planes_of(picture, order), order), picture)
    data = codec._by_experts(picture, STATE, 0, order)
    assert np.array_equal(decode(data, picture.shape, STATE), picture)


@pytest.mark.parametrize("effort", [1, 2])
def test_the_order_of_channels_that_makes_the_smallest_file_is_taken(effort, monkeypatch):
    monkeypatch.setattr(codec, "PATCHED", 1.1)
    rng = np.random.default_rng(2)
    green = rng.integers(0, 256, (120, 140))
    picture = np.stack([green // 64 * 64, green, rng.integers(0, 9, green.shape)]).astype(np.uint8)  # steps tell most
    tried = effort - 1  # with which effort
    sizes = [len(codec._by_experts(picture, STATE, tried, order)) for order in range(len(codec.ORDERS))]
    assert min(sizes) < 0.99 * sizes[0]
    data = encode(picture, STATE, effort)
    assert data[0] == 16 + 3 * int(np.argmin(sizes)) + effort
    assert np.array_equal(decode(data, picture.shape, STATE), picture)


def test_patches_that_tell_the_order_are_few_and_from_all_over_a_picture():
    picture = np.arange(1000 * 1500, dtype=np.int32).reshape(1, 1000, 1500)
    patches = codec._patches(picture)
    assert patches.shape[0::2] == (1, 96) and 0.9 < patches.size * 50 / picture.size <= 1
    rows, columns = patches[0] // 1500, patches[0] % 1500
    for places, length in ((rows, 1000), (columns, 1500)):
        assert (np.bincount(places.ravel() * 4 // length, minlength=4) > 0.1 * places.size).all()
    assert codec._patches(picture[:, :900, :900]) is codec._patches(picture[:, :31]) is None


def test_an_unknown_effort_is_refused():
    with pytest.raises(ValueError, match="expected effort to be 0, 1 or 2, got 3"):
        encode(pictures((1, 2, 2))["noise"], STATE, 3)


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="names processors of x86-64")
@pytest.mark.parametrize(("processor", "registers"), [("x86-64", {"xmm"}), ("haswell", {"xmm", "ymm"})])
def test_a_processor_with_shorter_vectors_writes_the_same_bytes(processor, registers, tmp_path):
    program = (
        "import hashlib, numpy as np; from toolkit.photographs import experts; "
        "from toolkit.photographs.codec import encode, initial; "
        "x = np.random.default_rng(1).integers(-9, 9, (3, 30, 50)).cumsum(2).clip(0, 255).astype(np.uint8); "
        "print(hashlib.sha256(encode(x, initial())).hexdigest()); code = ''.join(experts.loop.inspect_asm().values()); "
        "print(*(name for name in ('xmm', 'ymm', 'zmm') if name in code))"
    )
    own = {"NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": ""}
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, **own}, check=True, capture_output=True)
    x = np.random.default_rng(1).integers(-9, 9, (3, 30, 50)).cumsum(2).clip(0, 255).astype(np.uint8)
    digest, *used = done.stdout.decode().split()
    assert set(used) == registers  # the setting was heard
    assert digest == hashlib.sha256(encode(x, STATE)).hexdigest()


def _drawn() -> np.ndarray:
    """A picture by integers alone: waves, an edge, and noise."""
    y, x = np.mgrid[:24, :40]
    noise = (x * 7919 + y * 104729 + x * y * 31) % 13
    planes = [128 + (x * y % 37) - 18 + noise, 90 + 2 * x + noise // 2, np.where(x > y, 200, 40) + noise // 3]
    return np.stack(planes).astype(np.uint8)


@pytest.mark.parametrize("effort", [0, 1, 2])
def test_bytes_of_other_machines_and_versions_are_the_same(effort):
    file = GOLDEN / f"photograph_effort{effort}.bin"
    assert encode(_drawn(), STATE, effort) == file.read_bytes()
    assert np.array_equal(decode(file.read_bytes(), (3, 24, 40), STATE), _drawn())


@pytest.mark.parametrize("effort", [0, 1, 2])
@pytest.mark.parametrize("bits", [8, 16])
def test_what_a_tile_is_said_to_take_is_what_it_takes(bits, effort, monkeypatch):
    monkeypatch.setattr(codec, "FEW", -1)
    monkeypatch.setattr(codec, "FLAT", (2, 2))  # experts alone
    asked, taken = [], codec.ROOM.taken
    monkeypatch.setattr(codec.ROOM, "taken", lambda size: asked.append(size) or taken(size))
    picture = np.random.default_rng(1).integers(0, 1 << bits, (3, 60, 600)).astype(f"u{bits // 8}")
    deep.encode(picture, STATE, effort)  # loads the loops
    asked.clear()
    tracemalloc.start()
    try:
        data = deep.encode(picture, STATE, effort)
        encoding = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        assert np.array_equal(deep.decode(data, picture.shape, STATE), picture)
        decoding = tracemalloc.get_traced_memory()[1] - len(data) - picture.nbytes
    finally:
        tracemalloc.stop()
    assert set(asked[-2:]) == {max(asked)}  # of all of it; parts are coded before, to choose the order of channels
    for found in (encoding, decoding):
        assert 0.6 * asked[-1] < found < 1.1 * asked[-1]


def test_tiles_wait_for_room_however_many_processors_there_are(monkeypatch):
    monkeypatch.setattr(codec, "processors", lambda: 64)
    monkeypatch.setattr(codec, "MOST_PIXELS", 100 * 100)
    tile = codec.memory(Tile(0, 0, 100, 100), 3, 1)
    monkeypatch.setattr(codec, "ROOM", Room(3 * tile + tile // 2))
    monkeypatch.setattr(codec, "FEW", -1)
    monkeypatch.setattr(codec, "FLAT", (2, 2))
    working, most, lock = 0, 0, threading.Lock()

    def slow(*given):
        nonlocal working, most
        with lock:
            working += 1
            most = max(most, working)
        time.sleep(0.01)
        with lock:
            working -= 1
        return b""

    monkeypatch.setattr(codec, "encoded", slow)
    with threads(4) as submit:  # several pictures at a time, of 24 tiles each
        found = [submit(codec._by_experts, np.zeros((3, 400, 600), np.uint8), STATE, 1, 0) for _ in range(4)]
    assert [len(future.result()) for future in found] == [1] * 4
    assert most == 3
