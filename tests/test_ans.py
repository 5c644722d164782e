"""Batched rANS: its law, a plain big-integer reference, pinned words, exact rates, and every refusal."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.laws import contents
from tests.plain_rans import (
    Symbols,
    as_stacks,
    find_in,
    generator,
    of_stacks,
    pop,
    push_reference,
    random_symbols,
    random_table,
    spiked_table,
)
from toolkit.coding import ans
from toolkit.coding.ans import MAX_PRECISION, EmptyMessage, Message
from toolkit.coding.packing import LOW


def counted(*shape: int) -> Tensor:
    """Fixed 31-bit integers that depend on no library's random numbers (Park, Miller 1988: the minimal standard)."""
    values, state = [], 20240501
    for _ in range(torch.Size(shape).numel()):
        state = state * 48271 % (2**31 - 1)
        values.append(state)
    return torch.tensor(values).reshape(shape)


cases = st.fixed_dictionaries(
    {
        "precision": st.integers(1, MAX_PRECISION),
        "k": st.integers(1, 6),
        "n": st.integers(0, 21),
        "lanes": st.integers(1, 5),
        "steps": st.integers(1, 9),
        "words": st.integers(0, 3),
        "spike": st.one_of(st.none(), st.integers(0, 5)),
        "seed": st.integers(0, 2**31),
    }
)


class Case(NamedTuple):
    symbols: Symbols
    message: Message
    n: int
    lanes: int
    steps: int


def build(
    precision: int, k: int, n: int, lanes: int, steps: int, words: int, spike: int | None, seed: int, extra: int = 0
) -> Case:
    """A message, empty where `words` is 0, and any symbols (not only likely ones) under a random or a spiked table."""
    rng, k = generator(seed), min(k, 1 << precision)
    starts = random_table(k, precision, rng) if spike is None else spiked_table(k, precision, spike % k)
    x = torch.randint(k, (n, lanes), generator=rng)
    message = Message.random(lanes, words + extra, seed) if words + extra else Message.empty(lanes)
    return Case(Symbols(x, starts, precision), message, n, lanes, steps)


# Law and reference.


@settings(max_examples=120, deadline=None, derandomize=True)
@given(cases)
def test_pop_undoes_push(case: dict[str, int]) -> None:
    symbols, message, n, _, steps = build(**case)
    before = contents(message)
    message.push(symbols.start, symbols.freq, symbols.precision, steps)
    assert torch.equal(pop(message, n, symbols.starts, symbols.precision, steps), symbols.x)
    assert contents(message) == before


@settings(max_examples=120, deadline=None, derandomize=True)
@given(cases)
def test_push_undoes_pop(case: dict[str, int]) -> None:
    # At most 28 bits a symbol: 21 words a lane are enough for 21 symbols.
    symbols, message, n, _, steps = build(**case, extra=21)
    before = contents(message)
    x = pop(message, n, symbols.starts, symbols.precision, steps)
    drawn = Symbols(x, symbols.starts, symbols.precision)
    message.push(drawn.start, drawn.freq, drawn.precision, steps)
    assert contents(message) == before


@settings(max_examples=80, deadline=None, derandomize=True)
@given(cases)
def test_pushed_words_are_those_of_plain_integer_rans(case: dict[str, int]) -> None:
    symbols, message, _, _, steps = build(**case)
    stacks = as_stacks(message)
    message.push(symbols.start, symbols.freq, symbols.precision, steps)
    push_reference(stacks, symbols)
    assert contents(message) == of_stacks(stacks)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(cases)
def test_popped_symbols_and_words_are_those_of_plain_integer_rans(case: dict[str, int]) -> None:
    symbols, message, n, lanes, steps = build(**case, extra=21)
    stacks, starts = as_stacks(message), symbols.starts.tolist()

    def find(u: int) -> tuple[int, int, int]:
        symbol = max(i for i in range(len(starts) - 1) if starts[i] <= u)
        return symbol, starts[symbol], starts[symbol + 1] - starts[symbol]

    x = pop(message, n, symbols.starts, symbols.precision, steps)
    expected = [[stack.pop(find, symbols.precision) for _ in range(n)] for stack in stacks]
    assert x.T.tolist() == (expected if n else [[]] * lanes)
    assert contents(message) == of_stacks(stacks)


def test_blocks_of_any_length_give_the_same_words() -> None:
    starts = random_table(5, 12, generator(1))
    symbols = random_symbols(starts, 45, 3, 12, generator(2))
    results = []
    for steps in (1, 2, 7, 8, 45, 64):
        message = Message.random(3, 2, 3)
        message.push(symbols.start, symbols.freq, 12, steps)
        results.append(contents(message))
    assert results == results[:1] * 6


def test_mixed_block_lengths_on_one_message_keep_what_is_below() -> None:
    message, pushed = Message.empty(2), []
    for i, steps in enumerate([1, 64, 2, 8, 33, 1, 100, 3]):
        starts = random_table(4, 28, generator(i))
        pushed.append((random_symbols(starts, 70, 2, 28, generator(i + 50)), steps))
        message.push(pushed[-1][0].start, pushed[-1][0].freq, 28, steps)
    for symbols, steps in reversed(pushed):
        assert torch.equal(pop(message, 70, symbols.starts, 28, steps), symbols.x)
    assert contents(message) == contents(Message.empty(2))


def test_golden_words_of_fixed_symbols() -> None:
    freq = counted(11, 2) % 200 + 1
    start = counted(2, 11).T % (65536 - freq)
    message = Message.empty(2)
    message.push(start, freq, 16)
    assert contents(message) == (
        [13199574056874, 136077483532213],
        [[1814579625, 496565033, 3561972476], [4115942063, 3015962095, 501183135]],
    )


def test_golden_seed_bits() -> None:
    # Decoders make these bits again and compare them: another random number generator would refuse old files.
    assert contents(Message.random(2, 3, seed=2024)) == (
        [2786483944, 2543595507],
        [[4228819385, 1153470534, 2592828275], [2265755610, 331291160, 1223638437]],
    )


def test_heads_at_both_ends_of_their_interval_obey_the_law() -> None:
    ends = [LOW, LOW + 1, (1 << 32) - 1, 1 << 32, (1 << 62) + 12345, (1 << 63) - 2, (1 << 63) - 1]
    for precision in (1, 2, 16, 27, 28):
        for freq in {1, (1 << precision) - 1, 1 << precision, 1 << (precision - 1)}:
            for start in {0, (1 << precision) - freq}:
                message = Message.empty(len(ends))
                message.head = torch.tensor(ends)
                stacks = as_stacks(message)
                message.push(torch.full((3, len(ends)), start), torch.full((3, len(ends)), freq), precision, steps=3)
                for stack in stacks:
                    for _ in range(3):
                        stack.push(start, freq, precision)
                assert contents(message) == of_stacks(stacks)
                assert min(contents(message)[0]) >= LOW
                starts = torch.tensor(sorted({0, start, start + freq, 1 << precision}))
                pop(message, 3, starts, precision, steps=3)
                assert message.head.tolist() == ends


def test_where_not_valid_nothing_is_popped() -> None:
    starts = random_table(6, 20, generator(0))
    symbols = random_symbols(starts, 19, 4, 20, generator(1))
    valid = torch.rand(19, 4, generator=generator(2)) < 0.5
    valid[:, 3] = False
    message = Message.random(4, 2, 3)
    before = contents(message)
    message.push(torch.where(valid, symbols.start, 0), torch.where(valid, symbols.freq, 1 << 20), 20)
    after = contents(message)
    assert (after[0][3], after[1][3]) == (before[0][3], before[1][3])
    x = message.pop(valid, find_in, [], [starts], 20)
    assert torch.equal(x[valid], symbols.x[valid])
    assert contents(message) == before


def test_each_step_gets_its_own_parameters() -> None:
    n, lanes, precision = 13, 3, 10
    border = torch.randint(1, 1 << precision, (n, lanes), generator=generator(0))  # two symbols: below and from border

    def find(u: Tensor, border: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        high = u >= border
        return high.long(), torch.where(high, border, 0), torch.where(high, (1 << precision) - border, border)

    x = torch.randint(2, (n, lanes), generator=generator(1))
    message = Message.empty(lanes)
    message.push(torch.where(x == 1, border, 0), torch.where(x == 1, (1 << precision) - border, border), precision)
    popped = message.pop(torch.ones(n, lanes, dtype=torch.bool), find, [border], [], precision)
    assert torch.equal(popped, x)


# Rate.


@pytest.mark.parametrize("precision", [1, 2, 8, 16, 24, 28])
def test_bits_grow_by_the_information_of_the_symbols(precision: int) -> None:
    starts = random_table(min(7, 1 << precision), precision, generator(precision))
    symbols = random_symbols(starts, 256, 256, precision, generator(precision + 1))
    message = Message.random(256, 1, 5)
    before = message.bits()
    message.push(symbols.start, symbols.freq, precision)
    assert message.bits() - before == pytest.approx(symbols.bits(), rel=1e-4)


@pytest.mark.parametrize("precision", [8, 16, 24])
def test_bits_grow_by_the_information_of_extreme_frequencies(precision: int) -> None:
    starts = spiked_table(16, precision, 5)
    for x in (0, 5, 15):
        symbols = Symbols(torch.full((500, 16), x), starts, precision)
        message = Message.random(16, 1, 6)
        before = message.bits()
        message.push(symbols.start, symbols.freq, precision)
        # The absolute term: 1e-6 bits a symbol, for one that costs next to nothing.
        assert message.bits() - before == pytest.approx(symbols.bits(), rel=1e-4, abs=8000e-6)


def test_an_empty_message_has_no_bits_and_a_random_one_has_those_of_its_seed() -> None:
    assert Message.empty(7).bits() == 0
    # 32 a word, and log2 of a head that is uniform in [2**31, 2**32): 2 - 1/ln 2 = 0.557 on average.
    assert Message.random(1000, 5, 0).bits() == pytest.approx(1000 * (5 * 32 + 0.557), rel=1e-3)


@pytest.mark.parametrize("precision", range(1, MAX_PRECISION + 1))
def test_certain_symbols_cost_nothing_and_change_nothing(precision: int) -> None:
    message = Message.random(3, 2, precision)
    message.head[0] = (1 << 63) - 1
    before = contents(message)
    message.push(torch.zeros(9, 3, dtype=torch.int64), torch.full((9, 3), 1 << precision), precision)
    assert contents(message) == before
    assert pop(message, 9, torch.tensor([0, 1 << precision]), precision).eq(0).all()
    assert contents(message) == before
    assert message.taken == 0


def test_no_symbols_change_nothing() -> None:
    message = Message.random(3, 1, 0)
    before = contents(message)
    message.push(torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, 3, dtype=torch.int64), 8)
    assert pop(message, 0, torch.tensor([0, 256]), 8).shape == (0, 3)
    assert contents(message) == before


# Refusals.


def test_a_pop_from_an_empty_message_is_refused() -> None:
    with pytest.raises(EmptyMessage, match="lane 0 of 1 needs 2 more words than it holds; start from"):
        pop(Message.empty(1), 8, torch.arange(257), 8)


def test_a_pop_of_more_than_a_lane_holds_names_the_lane() -> None:
    message = Message.random(3, 6, 0)
    message.size[1], message.floor[1] = 5, 5
    with pytest.raises(EmptyMessage, match="lane 1 of 3 needs 1 more words"):
        pop(message, 24, torch.arange(257), 8)


def test_a_pop_of_exactly_what_a_message_holds_is_not_refused() -> None:
    message = Message.random(3, 6, 0)
    pop(message, 24, torch.arange(257), 8)
    assert message.size.tolist() == [0, 0, 0]
    assert message.taken == 18
    assert message.bits() == pytest.approx(3 * 0.557, abs=1.5)


@pytest.mark.parametrize(("precision", "steps"), [(0, 8), (29, 8), (16, 0), (-1, 1)])
def test_precisions_and_steps_out_of_range_are_refused(precision: int, steps: int) -> None:
    message, ones = Message.random(2, 2, 0), torch.ones(4, 2, dtype=torch.int64)
    expected = f"expected 1 <= precision <= 28 and steps >= 1, got {precision} and {steps}"
    with pytest.raises(ValueError, match=expected):
        message.push(ones, ones, precision, steps)
    with pytest.raises(ValueError, match=expected):
        pop(message, 4, torch.tensor([0, 1]), precision, steps)


@pytest.mark.parametrize(("start", "freq"), [((4, 3), (4, 3)), ((4, 2), (5, 2)), ((2,), (2,)), ((1, 4, 2), (1, 4, 2))])
def test_pushed_shapes_that_are_not_in_lanes_are_refused(start: tuple[int, ...], freq: tuple[int, ...]) -> None:
    message = Message.random(2, 2, 0)
    with pytest.raises(ValueError, match=r"push: expected start and freq of shape \[n, 2\], got \["):
        message.push(torch.ones(start, dtype=torch.int64), torch.ones(freq, dtype=torch.int64), 8)


@pytest.mark.parametrize("shape", [(4, 3), (4, 1), (2,), (1, 4, 2)])
def test_popped_shapes_that_are_not_in_lanes_are_refused(shape: tuple[int, ...]) -> None:
    message = Message.random(2, 2, 0)
    with pytest.raises(ValueError, match=r"pop: expected valid of shape \[n, 2\], got \["):
        message.pop(torch.ones(shape, dtype=torch.bool), find_in, [], [torch.arange(257)], 8)


@pytest.mark.parametrize("misses", [2, 5, 200])  # every so many numbers
def test_lanes_in_which_a_search_misses_are_searched_again(misses: int) -> None:
    def find(u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return u, torch.where(u % misses == 0, u + 1, u), torch.ones_like(u)

    def sure(u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return u, u, torch.ones_like(u)

    n, lanes = 5 * ans.STEPS * ans.TOGETHER // 2, 6  # two groups of blocks, and half of one
    valid = torch.rand(n, lanes, generator=torch.Generator().manual_seed(0)) < 0.8
    results = []
    for search in (find, sure):
        message = Message.random(lanes, 40, 0)
        x = message.pop(valid, search, (), (), 10, sure=sure)
        results.append((x[valid].tolist(), message.to_bytes(), message.head.tolist()))
    assert results[0] == results[1]


# Identity; of eager and compiled code on a CPU see test_codecs.py, where one compilation tests both files.


def code_and_decode(device: str, compiled: bool) -> tuple[bytes, Tensor, bytes]:
    """Pops, pushes and pops again: the bytes after the pushes, all symbols, and the bytes at the end."""
    starts, lanes, steps = random_table(5, 16, generator(0)), 6, 3
    message = Message.random(lanes, 20, 1, device, compiled)
    valid = torch.rand(14, lanes, generator=generator(2)) < 0.8
    drawn = message.pop(valid.to(device), find_in, [], [starts.to(device)], 16, steps)
    symbols = random_symbols(starts, 50, lanes, 16, generator(3))
    message.push(symbols.start.to(device), symbols.freq.to(device), 16, steps)
    pushed = message.to_bytes()
    popped = pop(message, 50, starts.to(device), 16, steps)
    assert torch.equal(popped.cpu(), symbols.x)
    return pushed, torch.where(valid, drawn.cpu(), 0), message.to_bytes()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
def test_cpu_and_gpu_give_the_same_words(compiled: bool) -> None:
    cpu, gpu = code_and_decode("cpu", False), code_and_decode("cuda", compiled)
    assert gpu[0] == cpu[0]
    assert torch.equal(gpu[1], cpu[1])
    assert gpu[2] == cpu[2]
