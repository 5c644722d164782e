"""Loops that Numba compiles: the words of the tensor program under every law, on any machine, and what they refuse."""

import math
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tests.distributions import FREQS, KINDS, floats, holes, integers, locations, pixels, scales, weights
from tests.laws import contents
from tests.plain_rans import Stack, of_stacks, random_table
from toolkit.coding import cpu, frequencies, kernels
from toolkit.coding.codecs import Bit, Bits, Codec, Given, coded, uniform
from toolkit.coding.distributions import LocationScale, kind_number, location_scale
from toolkit.coding.kernels import Order
from toolkit.coding.message import FIRSTS, EmptyMessage, Message, NoFrequency
from toolkit.coding.mixtures import Mixture, mixture
from toolkit.coding.mixtures import pixels as pixels_codec
from toolkit.coding.tables import categorical, of_starts, tables
from toolkit.coding.wire import LOW

ROOT = Path(__file__).parents[1]
BINS = 60


class Case(NamedTuple):
    """A codec of n symbols, in some order, and symbols that it can code."""

    codec: Callable[[Tensor, Order], Codec]  # valid: bool, the shape of x
    x: Tensor


def of(law: Any, x: Tensor) -> Case:
    return Case(lambda valid, order: coded(law, valid, order), x)


def table_of(n: int, seed: int) -> Case:
    borders = torch.stack([random_table(9, 20, torch.Generator().manual_seed(i)) for i in range(5)])
    which = integers(seed, 5, n)
    return Case(lambda valid, order: of_starts(borders, 20).codec(which, valid, order), integers(seed + 1, 9, n))


def one_table(n: int, seed: int) -> Case:
    freqs = torch.tensor([[3, 0, 0, 4000, 0, 93, 0]])  # whose searches meet symbols without frequency
    x = torch.tensor([0, 3, 5])[integers(seed, 3, n)]
    return Case(lambda valid, order: tables(freqs, 12).codec(None, valid, order), x)


def curve_of(kind: str, least: int) -> Callable[[int, int], Case]:
    def build(n: int, seed: int) -> Case:
        loc, scale = locations(seed, BINS, n), scales(seed + 1, n, low=0.1, high=100)
        law = LocationScale(loc, scale, kind_number(kind), BINS, least, 24)
        if least:
            return of(law, integers(seed + 2, BINS, n))
        near = (loc + 32).div(64, rounding_mode="floor").clamp(0, BINS - 1)  # surely has a frequency
        return of(law, near.long())

    return build


def mixture_of(kind: str) -> Callable[[int, int], Case]:
    def build(n: int, seed: int) -> Case:
        loc, scale = locations(seed, BINS, 4, n), scales(seed + 1, 4, n)
        law = Mixture(weights(seed + 2, 4, n).int(), loc, scale, kind_number(kind), BINS, 24)
        return of(law, integers(seed + 3, BINS, n))

    return build


def pixels_of(c: int, k: int, drawn: bool) -> Callable[[int, int], Case]:
    def build(n: int, seed: int) -> Case:
        p = pixels(c, k, n, BINS, seed)
        codec: Callable[[Tensor, Order], Codec] = lambda valid, order: p.codec(valid, drawn, order=order)  # noqa: E731
        return Case(codec, integers(seed + 4, BINS, n, c))

    return build


def widths_of(n: int, seed: int) -> Case:
    width = integers(seed, 29, n)
    return of(Bits(width.int(), 28), integers(seed + 1, 1 << 28, n) >> (28 - width))


LAWS: dict[str, Callable[[int, int], Case]] = {
    "bits": widths_of,
    "bit": lambda n, seed: of(Bit(1 + integers(seed, (1 << 24) - 1, n).int(), 24), integers(seed + 1, 2, n)),
    "tables": table_of,
    "one table": one_table,
    **{kind: curve_of(kind, 1) for kind in KINDS},
    "gaussian without floor": curve_of("gaussian", 0),
    **{f"mixture of {kind}s": mixture_of(kind) for kind in KINDS},
    "pixels": pixels_of(3, 4, True),
    "grey pixels": pixels_of(1, 5, True),
    "summed pixels": pixels_of(3, 4, False),
    "summed pixels of two channels": pixels_of(2, 3, False),
}


def state(message: Message) -> tuple[Any, ...]:
    return (*contents(message), message.size.tolist(), message.floor.tolist())


def masks(x: Tensor) -> Tensor:
    """All but some symbols; of pixels also whole ones."""
    valid = holes(*x.shape, seed=len(x))
    if x.dim() == 2:
        valid &= holes(len(x), 1, seed=1)
    return valid


def trace(case: Case, valid: Tensor, order: Order, lanes: int, first: int) -> list[Any]:
    """All that a message holds as symbols go off and on, and the symbols; at last it is as it was."""
    codec, x = case.codec(valid, order), torch.where(valid, case.x, 0)
    message = Message.random(lanes, 4 * x.numel() // lanes + 4, 7)
    if first != LOW:
        message = Message.empty(lanes, first=first)
    before = contents(message)
    found: list[Any] = [drawn := codec.pop(message), state(message)]
    codec.push(message, torch.where(valid, case.x, -12345))  # whatever is in the holes
    found += [state(message), codec.pop(message), state(message)]
    assert torch.equal(found[-2], x)
    codec.push(message, drawn)
    assert contents(message) == before
    found.append(state(message))
    return [part.tolist() if isinstance(part, Tensor) else part for part in found]


# Lanes and symbols: some; more than symbols; several groups of lanes in either order; one lane.
SIZES = [(3, 20), (50, 31), (20, 61), (1, 9), (600, 1300)]


@pytest.mark.parametrize("first", FIRSTS, ids=["first 2**31", "first 0", "first 1"])
@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("name", LAWS)
def test_kernels_write_and_read_what_the_tensor_program_does(
    name: str, order: Order, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "ALONE", 50)  # so that the larger ones run on all threads
    monkeypatch.setattr(cpu, "PART", 100)  # and in more parts than threads
    for lanes, n in SIZES if first == LOW else SIZES[:2]:
        case = LAWS[name](n, lanes)
        valid = torch.ones(case.x.shape, dtype=torch.bool) if lanes == 1 else masks(case.x)
        with kernels.reference():
            wanted = trace(case, valid, order, lanes, first)
        for threads in (1, 2, 3) if n > 50 else (1,):
            with number_of_threads(threads):
                assert trace(case, valid, order, lanes, first) == wanted, (lanes, n, threads)


@pytest.mark.parametrize("seed", range(8))
def test_kernels_agree_with_the_tensor_program_at_random(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(seed)
    for _ in range(20):
        name, order, first = draw.choice(list(LAWS)), draw.choice(list(Order)), draw.choice([LOW, *FIRSTS])
        lanes, n = round(math.exp(draw.uniform(0, 6))), round(math.exp(draw.uniform(0, 7)))
        monkeypatch.setattr(cpu, "ALONE", draw.choice([1, cpu.ALONE]))
        monkeypatch.setattr(cpu, "PART", draw.choice([1, 30, 1000]))
        case = LAWS[name](n, draw.randrange(1 << 16))
        valid = masks(case.x) if draw.random() < 0.5 else torch.ones(case.x.shape, dtype=torch.bool)
        with kernels.reference():
            wanted = trace(case, valid, order, lanes, first)
        with number_of_threads(threads := draw.randint(1, 3)):
            assert trace(case, valid, order, lanes, first) == wanted, (name, order, first, lanes, n, threads)


class number_of_threads:
    def __init__(self, threads: int) -> None:
        self.threads, self.before = threads, torch.get_num_threads()

    def __enter__(self) -> None:
        torch.set_num_threads(self.threads)

    def __exit__(self, *error: object) -> None:
        torch.set_num_threads(self.before)


@pytest.mark.parametrize("order", list(Order))
def test_given_intervals_are_pushed_as_the_tensor_program_does(order: Order) -> None:
    n, found = 50, []
    freq = 1 + integers(0, 1000, n)
    law = Given(integers(1, 1 << 20, n), freq, 21)
    for context in (kernels.reference, lambda: number_of_threads(1)):
        with context():
            message = Message.random(7, 3, 0)
            coded(law, holes(n), order).push(message, torch.zeros(n, dtype=torch.int64))
            found.append(state(message))
    assert found[0] == found[1]


@pytest.mark.parametrize("first", FIRSTS)
@pytest.mark.parametrize("order", list(Order))
def test_words_are_those_of_plain_integer_rans(order: Order, first: int) -> None:
    lanes, n, precision = 4, 30, 20
    starts = random_table(9, precision, torch.Generator().manual_seed(0))
    x, valid = integers(1, 9, n), holes(n)
    message = Message.empty(lanes, first=first)
    of_starts(starts[None], precision).codec(None, valid, order).push(message, torch.where(valid, x, 0))
    stacks = [Stack(first, first=first) for _ in range(lanes)]
    steps = -(-n // lanes)
    lane_of = [i % lanes if order is Order.SIDE_BY_SIDE else i // steps for i in range(n)]
    for i in reversed(range(n)):
        if valid[i]:
            low, high = int(starts[x[i]]), int(starts[x[i] + 1])
            stacks[lane_of[i]].push(low, high - low, precision)
    assert contents(message) == of_stacks(stacks)


def test_symbols_lie_on_lanes_as_their_order_says() -> None:
    x = integers(0, 1 << 28, 7)
    lanes = {Order.SIDE_BY_SIDE: [[0, 3, 6], [1, 4], [2, 5]], Order.LANE_BY_LANE: [[0, 1, 2], [3, 4, 5], [6]]}
    for order, wanted in lanes.items():
        message = Message.empty(3, first=1)
        coded(Bits(torch.full((7,), 28, dtype=torch.int32), 28), torch.ones(7, dtype=torch.bool), order).push(
            message, x
        )
        stacks = [Stack(1, first=1) for _ in range(3)]
        for stack, places in zip(stacks, wanted, strict=True):
            for i in reversed(places):
                stack.push(int(x[i]), 1, 28)
        assert contents(message) == of_stacks(stacks)


# Threads, processes, machines.


def three_codecs() -> list[Codec]:
    n = 300
    loc, scale, all_pixels = locations(0, BINS, n), scales(1, n), torch.ones(n, 3, dtype=torch.bool)
    return [
        location_scale("logistic", loc, scale, BINS, 0),
        categorical(FREQS, (n,), 16),
        pixels(3, 2, n, BINS).codec(all_pixels, True),
    ]


def words(seed: int = 0) -> str:
    """What three codecs leave on a message, as text."""
    message = Message.random(6, 400, seed)
    curve, table, of_pixels = three_codecs()
    latents = curve.pop(message)
    table.push(message, latents % len(FREQS))
    of_pixels.push(message, integers(seed, BINS, 300, 3))
    return message.to_bytes().hex()


def test_python_threads_code_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "ALONE", 1)
    with number_of_threads(2):
        one_by_one = [words(seed) for seed in range(12)]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(words, range(12))) == one_by_one
    assert len(set(one_by_one)) == 12


def python(code: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own; environment: what is set besides."""
    every = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=every, capture_output=True, text=True, timeout=240, check=False
    )


# A child that hangs is ended by the alarm.
FORKED = """
import multiprocessing, os, signal
import torch
from tests.test_kernels import words
from toolkit.coding import cpu
cpu.ALONE = 1
torch.set_num_threads(2)

def run():
    before = words()
    torch.ones(1_000_000).exp()  # by threads that a fork will not have
    child = os.fork()
    if not child:
        signal.alarm(60)
        os._exit(0 if words() == before else 1)
    assert os.waitpid(child, 0)[1] == 0, "the fork"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(words) == before, "the spawned"
    assert words() == before
    print(before)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork here")
def test_a_forked_child_and_a_spawned_one_code_the_same_words_as_their_parent(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(FORKED + "\nif __name__ == '__main__':\n    run()\n")
    done = python("import runpy; runpy.run_path('program.py', run_name='__main__')", tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == words()


SHORT = """
import sys, warnings
{0}
import torch
from toolkit.coding.codecs import bernoulli, uniform
from toolkit.coding.message import Message
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    message, x = Message.random(3, 5, 0), torch.arange(40) % 2
    codec = bernoulli(torch.full((40,), 1000), 16)
    codec.push(message, x)
    data = message.to_bytes()
    assert torch.equal(codec.pop(message), x) and message.is_random(0)
print(data.hex())
for warning in seen:
    print(warning.message)
from toolkit.coding.kernels import compiled
print(compiled("cpu"))
"""


def short() -> str:
    message = Message.random(3, 5, 0)
    x = torch.arange(40) % 2
    coded(Bit(torch.full((40,), (1 << 16) - 1000, dtype=torch.int32), 16), x >= 0).push(message, x)
    return message.to_bytes().hex()


def test_a_machine_without_numba_codes_the_same_bytes_after_one_warning() -> None:
    done = python(SHORT.format("sys.modules['numba'] = None"))
    assert done.returncode == 0, done.stderr
    data, warning, compiled = done.stdout.splitlines()
    assert data == short()
    assert warning.startswith("no kernels on cpu (ModuleNotFoundError: ")
    assert warning.endswith("the coders run without, much slower, with the same bytes: pip install --upgrade numba")
    assert compiled == "False"


def test_a_machine_where_nothing_can_be_kept_compiles_each_time(tmp_path: Path) -> None:
    """Folders cannot be made below a file, nor in its place, by no user."""
    (tmp_path / "file").touch()
    shutil.copytree(ROOT / "toolkit/coding", tmp_path / "toolkit/coding", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "toolkit/coding/__pycache__").touch()
    nowhere = str(tmp_path / "file/folder")
    done = python(
        SHORT.format(""), tmp_path, HOME=nowhere, XDG_CACHE_HOME=nowhere, NUMBA_CACHE_DIR=nowhere,
        PYTHONPATH=str(tmp_path), PYTHONDONTWRITEBYTECODE="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [short(), "True"]


# Refusals, of kernels and of the tensor program.


@pytest.fixture(params=[False, True], ids=["kernels", "reference"])
def way(request: pytest.FixtureRequest) -> Any:
    if request.param:
        with kernels.reference():
            yield request.param
    else:
        yield request.param


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("lanes", [3, 20])  # few, and as many as take the loops that look at several at once
@pytest.mark.parametrize("name", LAWS)
def test_a_symbol_out_of_range_is_refused_and_the_message_kept_bit_for_bit(
    name: str, lanes: int, order: Order, way: bool
) -> None:
    case = LAWS[name](31, 0)
    valid = torch.ones(case.x.shape, dtype=torch.bool)
    valid.view(-1)[0] = False
    with kernels.reference():
        law_bins = {"bits": 1 << 28, "bit": 2, "tables": 9, "one table": 7}.get(name, BINS)
    for wrong in (-1, law_bins, 1 << 40):
        for at in (1, 17, case.x.numel() - 1):
            x = case.x.clone()
            x.view(-1)[at] = wrong
            message = Message.random(lanes, 80, 1)
            before = state(message)
            low, high = int(x[valid].min()), int(x[valid].max())
            expected = rf"push: expected symbols in \[0, {law_bins}\), got values from {low} to {high}"
            with pytest.raises(NoFrequency, match=expected):
                case.codec(valid, order).push(message, x)
            assert state(message) == before


@pytest.mark.parametrize("lanes", [3, 20])
@pytest.mark.parametrize("order", list(Order))
def test_a_symbol_without_frequency_is_refused_and_the_message_kept_bit_for_bit(
    lanes: int, order: Order, way: bool
) -> None:
    n, ones = 23, torch.ones(23, dtype=torch.bool)
    loc, scale = torch.full((n,), 100 * 64, dtype=torch.int32), torch.full((n,), 128, dtype=torch.int32)
    cases: dict[Any, tuple[int, int]] = {
        LocationScale(loc, scale, kind_number("gaussian"), 256, 0, 24): (100, 7),
        Bit(torch.zeros(n, dtype=torch.int32), 16): (1, 0),
        Bits(torch.full((n,), 3, dtype=torch.int32), 8): (7, 8),
    }
    for law, (right, wrong) in cases.items():
        for at in (0, 11, 22):
            message, x = Message.random(lanes, 9, 1), torch.full((n,), right)
            before = state(message)
            x[at] = wrong
            with pytest.raises(NoFrequency, match=rf"push: symbol {wrong} at position {at} has no frequency .* popped"):
                coded(law, ones, order).push(message, x)
            assert state(message) == before
            x[at] = right
            coded(law, ones, order).push(message, x)


def test_a_symbol_that_no_table_counts_is_refused(way: bool) -> None:
    codec = tables(torch.tensor([[0, 6, 250], [256, 0, 0]]), 8).codec(torch.tensor([0, 0, 1]), torch.ones(3) > 0)
    message = Message.random(2, 2, 0)
    codec.push(message, torch.tensor([1, 2, 0]))
    before = state(message)
    for x in ([0, 2, 0], [1, 2, 2]):
        with pytest.raises(NoFrequency, match=r"push: symbol \d at position \d has no frequency"):
            codec.push(message, torch.tensor(x))
        assert state(message) == before


@pytest.mark.parametrize("lanes", [5, 20])
@pytest.mark.parametrize("name", LAWS)
def test_a_pop_from_an_empty_message_is_refused(name: str, lanes: int, way: bool) -> None:
    case = LAWS[name](2000, 0)
    valid = torch.ones(case.x.shape, dtype=torch.bool)
    with pytest.raises(
        EmptyMessage, match=rf"lane \d+ of {lanes} needs \d+ more words than it holds; start from Message.random"
    ):
        case.codec(valid, Order.SIDE_BY_SIDE).pop(Message.empty(lanes))


def test_a_push_that_draws_from_an_empty_message_is_refused(way: bool) -> None:
    case = LAWS["pixels"](100, 0)
    codec = case.codec(torch.ones(100, 3, dtype=torch.bool), Order.SIDE_BY_SIDE)
    with pytest.raises(EmptyMessage, match=r"lane \d of 3 needs \d+ more words than it holds"):
        codec.push(Message.empty(3), case.x)


@pytest.mark.parametrize("shape", [(), (30,), (32,), (31, 1), (1, 31)])
def test_symbols_of_another_shape_are_refused(shape: tuple[int, ...], way: bool) -> None:
    message = Message.random(2, 5, 0)
    for name in LAWS:
        case = LAWS[name](31, 0)
        if case.x.shape == shape:
            continue
        with pytest.raises(ValueError, match=r"push: expected symbols of shape \[31"):
            valid = torch.ones(case.x.shape, dtype=torch.bool)
            case.codec(valid, Order.SIDE_BY_SIDE).push(message, torch.zeros(shape, dtype=torch.int64))
    assert state(message) == state(Message.random(2, 5, 0))


# Operators, and torch.compile.


def test_operators_are_as_they_say() -> None:
    utils = ("test_schema", "test_faketensor")
    for law in (Bits(torch.full((10,), 8, dtype=torch.int32), 8), Bit(torch.full((10,), 99, dtype=torch.int32), 8)):
        message, x, valid = Message.random(3, 9, 0), integers(1, 2, 10), holes(10)
        message.reserve(20)
        message_state = message.head, message.tail, message.size, message.floor
        tensors, numbers = law.parts()
        how = tensors, numbers, type(law).__name__, LOW, 0
        torch.library.opcheck(torch.ops.toolkit.push, (*message_state, x, valid, *how), test_utils=utils)
        torch.library.opcheck(torch.ops.toolkit.pop, (*message_state, valid, *how), test_utils=utils)


class Head(torch.nn.Module):
    """Snaps a network's outputs and pushes symbols under them: whole, as torch.compile takes it."""

    def forward(self, message: Message, mean: Tensor, log_scale: Tensor, rows: Tensor, x: Tensor, y: Tensor) -> Tensor:
        loc, scale = frequencies.snap_location(mean), frequencies.snap_scale(log_scale)
        latents = location_scale("logistic", loc, scale, BINS, 1).pop(message)
        location_scale("gaussian", loc + latents, scale, BINS, 1).push(message, x)
        valid = torch.ones(y.shape, dtype=torch.bool)
        for drawn in (True, False):
            pixels_codec((2 * rows).round(), 2, BINS, valid, drawn=drawn).push(message, y)
        return latents


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler (g++) on a CPU")
@pytest.mark.filterwarnings("error::UserWarning")
def test_a_compiled_head_codes_the_same_bytes() -> None:
    n, found = 40, []
    given = (
        floats(0, 0, BINS, n).float(), floats(1, -1, 3, n).float(), floats(2, -9, 9, n, 20).float(),
        integers(3, BINS, n), integers(4, BINS, n, 3),
    )  # fmt: skip
    for call in (Head(), torch.compile(Head(), fullgraph=True)):
        message = Message.random(3, 200, 0)
        latents = call(message, *given)
        message.check()
        found.append((latents.tolist(), message.to_bytes()))
    assert found[0] == found[1]


def test_compiled_code_says_afterwards_what_it_could_not_code() -> None:
    def push(message: Message, x: Tensor) -> None:
        uniform((8,), 8).push(message, x)

    def pop(message: Message) -> Tensor:
        return uniform((8,), 8).pop(message)

    message = Message.empty(2)
    torch.compile(push, fullgraph=True, backend="aot_eager")(message, torch.full((8,), 256))
    with pytest.raises(NoFrequency, match="push: expected symbols with frequencies of at least 1, got others"):
        message.check()
    message = Message.empty(2)
    torch.compile(pop, fullgraph=True, backend="aot_eager")(message)
    with pytest.raises(EmptyMessage, match=r"lane 0 of 2 needs [1-4] more words than it holds"):
        message.to_bytes()


@pytest.mark.parametrize("lanes", [3, 20])
def test_tensors_of_any_layout_are_taken_by_loops_that_are_compiled_once(lanes: int) -> None:
    n = 30
    weight, loc, scale = weights(0, 3, n), locations(1, BINS, n, 3).T, scales(2, 1).expand(3, n)

    def run(as_given: Callable[[Tensor], Tensor]) -> tuple[Any, ...]:
        w, at, level, x, y, valid = (
            as_given(part)
            for part in (
                weight,
                loc,
                scale,
                integers(3, BINS, 2 * n)[::2],
                integers(3, BINS, n, 2)[:, 1],
                holes(2 * n)[::2],
            )
        )
        message = Message.random(lanes, 90, 0)
        mixture("logistic", w, at, level, BINS).push(message, x)
        location_scale("gaussian", at[0], level[0], BINS, 1).push(message, y)
        location_scale("gaussian", at[0], level[0], BINS, 1, valid=valid).pop(message)
        return state(message)

    wanted = run(lambda part: part.contiguous())
    compiled: list[Any] = [cpu._push, cpu._pop, cpu._push_together, cpu._pop_together]
    before = [len(loop.signatures) for loop in compiled]
    assert run(lambda part: part) == wanted
    assert [len(loop.signatures) for loop in compiled] == before
    with kernels.reference():
        assert run(lambda part: part) == wanted
