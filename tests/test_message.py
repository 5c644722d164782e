"""Batched rANS, a step at a time: its law, a plain big-integer twin, pinned words, rates, storage, and refusals."""

import itertools
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
    push,
    push_reference,
    random_symbols,
    random_table,
    spiked_table,
)
from toolkit.coding.codecs import uniform
from toolkit.coding.message import FIRSTS, MAX_PRECISION, EmptyMessage, Message, NoFrequency
from toolkit.coding.tables import categorical
from toolkit.coding.wire import LOW

BYTES = torch.arange(257)  # borders of equally likely symbols of 8 bits


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
        "words": st.integers(0, 3),
        "spike": st.one_of(st.none(), st.integers(0, 5)),
        "seed": st.integers(0, 2**31),
        "first": st.sampled_from(FIRSTS),
    }
)


class Case(NamedTuple):
    symbols: Symbols
    message: Message


def build(
    precision: int, k: int, n: int, lanes: int, words: int, spike: int | None, seed: int, first: int, extra: int = 0
) -> Case:
    """A message, empty where `words` is 0, and any symbols (not only likely ones) under a random or a spiked table."""
    rng, k = generator(seed), min(k, 1 << precision)
    starts = random_table(k, precision, rng) if spike is None else spiked_table(k, precision, spike % k)
    x = torch.randint(k, (n, lanes), generator=rng)
    message = Message.random(lanes, words + extra, seed) if words + extra else Message.empty(lanes, first=first)
    message.first = first
    return Case(Symbols(x, starts, precision), message)


# Law and twin.


@settings(max_examples=50, deadline=None, derandomize=True)
@given(cases)
def test_pop_undoes_push_and_the_words_are_those_of_plain_integer_rans(case: dict[str, int]) -> None:
    symbols, message = build(**case)
    stacks, before = as_stacks(message), contents(message)
    push(message, symbols)
    push_reference(stacks, symbols)
    assert contents(message) == of_stacks(stacks)
    assert torch.equal(pop(message, case["n"], symbols.starts, symbols.precision), symbols.x)
    assert contents(message) == before


@settings(max_examples=50, deadline=None, derandomize=True)
@given(cases)
def test_push_undoes_pop_and_the_symbols_are_those_of_plain_integer_rans(case: dict[str, int]) -> None:
    # At most 28 bits a symbol: 21 words a lane are enough for 21 symbols.
    symbols, message = build(**case, extra=21)
    stacks, before, find = as_stacks(message), contents(message), find_in(symbols.starts.tolist())
    x = pop(message, case["n"], symbols.starts, symbols.precision)
    assert x.T.tolist() == [[stack.pop(find, symbols.precision) for _ in range(case["n"])] for stack in stacks]
    assert contents(message) == of_stacks(stacks)
    push(message, Symbols(x, symbols.starts, symbols.precision))
    assert contents(message) == before


@settings(max_examples=40, deadline=None, derandomize=True)
@given(cases, st.sampled_from([0, 1]))
def test_a_small_message_pops_below_its_start_what_zeros_decode_to(case: dict[str, int], first: int) -> None:
    symbols, message = build(**{**case, "first": first})
    stacks, find = as_stacks(message), find_in(symbols.starts.tolist())
    x = pop(message, case["n"], symbols.starts, symbols.precision)
    assert x.T.tolist() == [[stack.pop(find, symbols.precision) for _ in range(case["n"])] for stack in stacks]
    assert contents(message) == of_stacks(stacks)
    push(message, Symbols(x, symbols.starts, symbols.precision))
    assert contents(message) == contents(build(**{**case, "first": first}).message)


def test_golden_words_of_fixed_symbols() -> None:
    freq = counted(11, 2) % 200 + 1
    start = counted(2, 11).T % (65536 - freq)
    message = Message.empty(2)
    for i in reversed(range(11)):
        message.push(start[i], freq[i], 16)
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
                stacks, starts = as_stacks(message), torch.tensor(sorted({0, start, start + freq, 1 << precision}))
                x = torch.full((3, len(ends)), starts.tolist().index(start))
                push(message, Symbols(x, starts, precision))
                push_reference(stacks, Symbols(x, starts, precision))
                assert contents(message) == of_stacks(stacks)
                assert min(contents(message)[0]) >= LOW
                assert torch.equal(pop(message, 3, starts, precision), x)
                assert message.head.tolist() == ends


def test_a_step_may_be_of_the_first_lanes_only() -> None:
    message = Message.random(4, 3, 0)
    before = contents(message)
    start, freq = torch.tensor([3, 40]), torch.tensor([1, 5])
    message.push(start, freq, 16)
    after = contents(message)
    assert (after[0][2:], after[1][2:]) == (before[0][2:], before[1][2:])
    assert message.slots(2, 16).sub(start).lt(freq).all()
    message.take(start, freq, 16)
    assert contents(message) == before


# Rate.


@pytest.mark.parametrize("precision", [1, 2, 8, 16, 24, 28])
def test_bits_grow_by_the_information_of_the_symbols(precision: int) -> None:
    starts = random_table(min(7, 1 << precision), precision, generator(precision))
    symbols = random_symbols(starts, 256, 256, precision, generator(precision + 1))
    message = Message.random(256, 1, 5)
    before = message.bits()
    push(message, symbols)
    assert message.bits() - before == pytest.approx(symbols.bits(), rel=1e-4)


@pytest.mark.parametrize("precision", [8, 16, 24])
def test_bits_grow_by_the_information_of_extreme_frequencies(precision: int) -> None:
    starts = spiked_table(16, precision, 5)
    for x in (0, 5, 15):
        symbols = Symbols(torch.full((500, 16), x), starts, precision)
        message = Message.random(16, 1, 6)
        before = message.bits()
        push(message, symbols)
        # The absolute term: 1e-6 bits a symbol, for one that costs next to nothing.
        assert message.bits() - before == pytest.approx(symbols.bits(), rel=1e-4, abs=8000e-6)


def test_an_empty_message_has_no_bits_and_a_random_one_has_those_of_its_seed() -> None:
    for first in FIRSTS:
        assert Message.empty(7, first=first).bits() == 0
    # 32 a word, and log2 of a head that is uniform in [2**31, 2**32): 2 - 1/ln 2 = 0.557 on average.
    assert Message.random(1000, 5, 0).bits() == pytest.approx(1000 * (5 * 32 + 0.557), rel=1e-3)
    assert Message.random(10, 5, 0).lane_bits().shape == (10,)


@pytest.mark.parametrize("precision", range(1, MAX_PRECISION + 1))
def test_certain_symbols_cost_nothing_and_change_nothing(precision: int) -> None:
    message = Message.random(3, 2, precision)
    message.head[0] = (1 << 63) - 1
    before, certain = contents(message), torch.tensor([0, 1 << precision])
    push(message, Symbols(torch.zeros(9, 3, dtype=torch.int64), certain, precision))
    assert contents(message) == before
    assert pop(message, 9, certain, precision).eq(0).all()
    assert contents(message) == before
    assert message.taken == 0


# Short lanes: those with a first head of 0 or 1 cost as many bits as they have significant ones.


def skewed(n: int, lanes: int, seed: int = 0) -> Tensor:
    """Mostly zeros, as the border of an image is: int64 [n * lanes]."""
    rng = generator(seed)
    x = torch.randint(0, 4, (n * lanes,), generator=rng)
    return torch.where(torch.rand(n * lanes, generator=rng) < 0.9, 0, x)


SKEWED = torch.tensor([29 << 11, 1 << 11, 1 << 11, 1 << 11])  # of 2**16


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize(("n", "lanes"), [(0, 3), (1, 1), (7, 5), (900, 4)])
def test_short_lanes_come_back_through_bytes_and_end_as_they_began(first: int, n: int, lanes: int) -> None:
    x, codec = skewed(n, lanes), categorical(SKEWED, (n * lanes,), 16)
    message = Message.empty(lanes, first=first)
    codec.push(message, x)
    data = message.to_bytes()
    back = Message.from_bytes(data, first=first)
    assert torch.equal(codec.pop(back), x)
    assert bool(back.ended().all())
    damaged = Message.from_bytes(data, first=first)
    damaged.head[0] += 1
    codec.pop(damaged)
    assert not bool(damaged.ended()[0])


def test_lanes_of_every_length_come_back() -> None:
    lengths = set()
    for n in range(60):
        x = torch.randint(0, 256, (n,), generator=generator(n))
        message, codec = Message.empty(1, first=0), uniform((n,), 8)
        codec.push(message, x)
        data = message.to_bytes()
        lengths.add(len(data))
        back = Message.from_bytes(data, first=0)
        assert torch.equal(codec.pop(back), x)
        assert bool(back.ended().all())
    assert len(lengths) > 50


def test_certain_symbols_leave_short_lanes_as_they_began() -> None:
    codec = categorical(torch.tensor([1 << 16, 0]), (2100,), 16)
    for first in FIRSTS:
        message = Message.empty(3, first=first)
        codec.push(message, torch.zeros(2100, dtype=torch.int64))
        assert bool(message.ended().all())
        assert len(message.to_bytes()) <= 3 + 3 * 4


def test_the_end_of_a_short_lane_costs_a_few_bits() -> None:
    """Against -log2 of the frequencies: the first symbols see a head that is small."""
    n, lanes = 900, 64
    x = skewed(n, lanes)
    information = torch.where(x == 0, -torch.log2(torch.tensor(29 / 32)), 5.0).view(n, lanes).sum(0)
    for first, most in ((0, 13), (1, 17)):
        message = Message.empty(lanes, first=first)
        categorical(SKEWED, (n * lanes,), 16).push(message, x)
        assert abs(float((message.lane_bits() - information).mean())) < most


# Refusals.


def test_a_first_head_that_no_message_has_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a first head of 2\*\*31, 0 or 1, got 2"):
        Message.empty(3, first=2)


def test_a_pop_from_an_empty_message_is_refused() -> None:
    with pytest.raises(EmptyMessage, match="lane 0 of 1 needs 1 more words than it holds; start from"):
        pop(Message.empty(1), 8, BYTES, 8)


def test_a_pop_of_more_than_a_lane_holds_names_the_lane() -> None:
    message = Message.random(3, 6, 0)
    message.size[1], message.floor[1] = 5, 5
    with pytest.raises(EmptyMessage, match="lane 1 of 3 needs 1 more words"):
        pop(message, 24, BYTES, 8)


def test_a_pop_of_exactly_what_a_message_holds_is_not_refused() -> None:
    message = Message.random(3, 6, 0)
    pop(message, 24, BYTES, 8)
    assert message.size.tolist() == [0, 0, 0]
    assert message.taken == 18
    assert message.bits() == pytest.approx(3 * 0.557, abs=1.5)


@pytest.mark.parametrize(("start", "freq"), [((3,), (3,)), ((2,), (1,)), ((1, 2), (1, 2)), ((2, 1), (2, 1))])
def test_a_step_of_another_shape_is_refused(start: tuple[int, ...], freq: tuple[int, ...]) -> None:
    message = Message.random(2, 2, 0)
    with pytest.raises(ValueError, match=r"push: expected start and freq of one shape \[n\], n at most 2, got \["):
        message.push(torch.ones(start, dtype=torch.int64), torch.ones(freq, dtype=torch.int64), 8)


def test_a_symbol_without_frequency_is_refused_and_the_message_kept() -> None:
    message = Message.random(2, 2, 0)
    with pytest.raises(NoFrequency, match="push: expected symbols with frequencies of at least 1, got others"):
        message.push(torch.tensor([0, 3]), torch.tensor([1, 0]), 8)
    assert contents(message) == contents(Message.random(2, 2, 0))


# Storage.


def test_the_tail_grows_in_few_and_large_strides() -> None:
    n = 1500  # half of them cost 28 bits, half next to nothing
    symbols = Symbols(torch.randint(2, (n, 1), generator=generator(0)), spiked_table(2, 28, 0), 28)
    message, capacities = Message.empty(1), {0}
    stacks = as_stacks(message)
    for i in reversed(range(n)):
        message.push(symbols.start[i], symbols.freq[i], 28)
        capacities.add(message.tail.shape[1])
        assert message.tail.shape[1] <= max(3 * int(message.size.max()), 1000)
    # Each stride doubles what was there, so their sum is linear in the last.
    strides = sorted(capacities)[1:]
    assert all(b >= 2 * a for a, b in itertools.pairwise(strides))
    push_reference(stacks, symbols)
    assert len(stacks[0].words) > 600
    assert contents(message) == of_stacks(stacks)


def test_pushing_and_popping_again_and_again_does_not_grow_the_tail() -> None:
    starts = random_table(4, 16, generator(0))
    symbols = random_symbols(starts, 24, 2, 16, generator(1))
    stepwise, at_once, codec = Message.empty(2), Message.empty(2), uniform((48,), 16)
    for _ in range(20):
        push(stepwise, symbols)
        pop(stepwise, 24, starts, 16)
        codec.push(at_once, symbols.x.flatten())
        codec.pop(at_once)
    assert stepwise.tail.shape[1] <= 64
    assert at_once.tail.shape[1] <= 64


def test_floor_is_the_least_size_and_taken_the_seed_words_below_it() -> None:
    message, codec = Message.random(2, 10, 0), uniform((16,), 8)
    assert message.floor.tolist() == [10, 10]
    assert message.taken == 0
    codec.pop(message)  # 64 bits a lane: two words
    assert message.size.tolist() == message.floor.tolist() == [8, 8]
    assert message.taken == 4
    for _ in range(3):
        codec.push(message, torch.ones(16, dtype=torch.int64))
    assert message.size.tolist() == [14, 14]
    assert message.floor.tolist() == [8, 8]
    assert message.taken == 4
    for _ in range(3):
        codec.pop(message)
    assert message.floor.tolist() == [8, 8]
    codec.pop(message)
    assert message.floor.tolist() == [6, 6]
    assert message.taken == 8


def test_floor_counts_each_lane_for_itself() -> None:
    message = Message.random(2, 10, 0)
    pop(message, 8, BYTES, 8, torch.tensor([[True, False]]).expand(8, 2))
    assert message.floor.tolist() == [8, 10]
    assert message.taken == 2


def test_nothing_is_taken_from_an_empty_message() -> None:
    message = Message.empty(3)
    symbols = random_symbols(random_table(4, 16, generator(0)), 20, 3, 16, generator(1))
    push(message, symbols)
    pop(message, 20, symbols.starts, 16)
    assert message.taken == 0


# Seed bits.


def test_random_messages_with_more_words_keep_those_on_top() -> None:
    short, long = Message.random(3, 4, 9), Message.random(3, 11, 9)
    assert torch.equal(short.head, long.head)
    assert torch.equal(short.tail, long.tail[:, 7:])
    assert torch.equal(Message.random(3, 0, 9).head, long.head)


def test_random_messages_differ_between_seeds_lanes_and_words() -> None:
    heads, words = contents(Message.random(50, 20, 1))
    assert len(set(heads)) == 50
    assert len({word for lane in words for word in lane}) == 1000
    others = contents(Message.random(50, 20, 2))
    assert not set(heads) & set(others[0])


def test_random_bits_are_even() -> None:
    heads, words = contents(Message.random(100, 100, 3))
    for bit in range(32):
        share = sum(word >> bit & 1 for lane in words for word in lane) / 10_000
        assert abs(share - 0.5) < 0.025  # five standard deviations
    for bit in range(31):
        assert 25 <= sum(head >> bit & 1 for head in heads) <= 75
    assert all(LOW <= head < 2 * LOW for head in heads)


def test_the_first_popped_symbol_varies_with_the_seed_and_the_lane() -> None:
    # The original Bit-Swap code began with zero low bits: its first symbol was always 0.
    first = torch.cat([pop(Message.random(4, 1, seed), 1, BYTES, 8)[0] for seed in range(64)])
    assert len(set(first.tolist())) > 100


def test_a_message_is_random_when_all_is_undone() -> None:
    message = Message.random(3, 12, 4)
    starts = random_table(5, 16, generator(0))
    assert message.is_random(4)
    drawn = Symbols(pop(message, 30, starts, 16), starts, 16)
    push(message, drawn)
    assert message.is_random(4)
    push(message, drawn)
    assert not message.is_random(4)
    pop(message, 30, starts, 16)
    assert message.is_random(4)


def test_a_message_read_from_bytes_is_random_when_all_is_undone() -> None:
    message = Message.random(3, 12, 4)
    starts = random_table(5, 16, generator(0))
    valid = torch.rand(40, 3, generator=generator(1)) < torch.tensor([0.1, 0.5, 0.9])
    latents = pop(message, 40, starts, 16, valid)  # takes another number of words from each lane
    symbols = random_symbols(starts, 60, 3, 16, generator(2))
    push(message, symbols)

    read = Message.from_bytes(message.to_bytes())
    assert read.lanes == 3
    assert int(read.size.sum()) < int(message.size.sum())
    assert torch.equal(pop(read, 60, starts, 16), symbols.x)
    assert not read.is_random(4)
    push(read, Symbols(latents, starts, 16), valid)
    assert len(set(read.size.tolist())) > 1
    assert read.is_random(4)
    assert not read.is_random(5)


def test_a_message_with_one_wrong_bit_is_not_random() -> None:
    for lane, word in ((0, 0), (2, 5)):
        message = Message.random(3, 6, 4)
        message.tail[lane, word] ^= 1 << 9
        assert not message.is_random(4)
    message = Message.random(3, 6, 4)
    message.head[1] += 1
    assert not message.is_random(4)
    assert Message.random(3, 0, 4).is_random(4)
    assert not Message.empty(3).is_random(4)


# Bytes.


def messy(seed: int = 0) -> Message:
    """Lanes of unequal sizes and heads, some without words, with popped seed words."""
    message = Message.random(5, 6, seed)
    starts = random_table(5, 24, generator(seed))
    pop(message, 9, starts, 24, torch.rand(9, 5, generator=generator(seed + 1)) < 0.7)
    symbols = random_symbols(starts, 30, 5, 24, generator(seed + 2))
    push(message, symbols, torch.rand(30, 5, generator=generator(seed + 3)) < torch.tensor([0.0, 0.2, 0.5, 0.8, 1.0]))
    return message


MESSY = messy().to_bytes()


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(0, 2**31))
def test_bytes_hold_the_heads_and_the_words_above_the_floor(seed: int) -> None:
    message = messy(seed)
    read = Message.from_bytes(message.to_bytes())
    heads, words = contents(message)
    kept = [lane[floor:] for lane, floor in zip(words, message.floor.tolist(), strict=True)]
    assert contents(read) == (heads, kept)
    assert read.floor.tolist() == read.size.tolist()
    assert read.taken == 0
    assert read.to_bytes() == Message.from_bytes(read.to_bytes()).to_bytes()


def test_taken_words_of_a_message_read_from_bytes_are_counted_from_its_own_start() -> None:
    message, codec = Message.empty(1), uniform((20,), 8)
    codec.push(message, torch.ones(20, dtype=torch.int64))
    assert message.size.tolist() == [5]
    read = Message.from_bytes(message.to_bytes())
    assert read.taken == 0
    uniform((8,), 8).pop(read)
    assert read.taken == 2


def test_bytes_of_an_unused_random_message_hold_no_words() -> None:
    message = Message.random(4, 1000, 0)
    # 3 bytes of header; all lanes are equally long, and of a head of 32 bits one need not be stored.
    assert len(message.to_bytes()) == 3 + -(-4 * 31 // 8)
    assert contents(Message.from_bytes(message.to_bytes())) == (message.head.tolist(), [[]] * 4)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.binary(max_size=40), st.integers(0, 200), st.integers(0, 255), st.booleans(), st.sampled_from(FIRSTS))
def test_damaged_bytes_are_a_message_or_a_value_error(
    noise: bytes, at: int, byte: int, whole: bool, first: int
) -> None:
    data = bytearray(MESSY)
    data[at % len(data)] ^= byte
    try:
        message = Message.from_bytes(noise if whole else bytes(data), first=first)
    except ValueError:
        return
    heads, words = contents(message)
    assert all(
        head >= 0 and (head >= LOW or not (lane or first == LOW)) for head, lane in zip(heads, words, strict=True)
    )


def test_heads_below_the_first_are_refused() -> None:
    for first in (0, 1):
        data = Message.empty(2, first=first).to_bytes()
        with pytest.raises(ValueError, match=rf"expected heads of at least 2\*\*31, got {first}; the data are damaged"):
            Message.from_bytes(data)
        assert bool(Message.from_bytes(data, first=first).ended().all())


# Parts, and more and fewer lanes.


def test_parts_of_a_message_are_messages_and_join_to_it_again() -> None:
    message = messy(5)
    parts = [message.part(0, 2), message.part(2, 2), message.part(2, 5)]
    heads, words = contents(message)
    assert [contents(part) for part in parts] == [(heads[:2], words[:2]), ([], []), (heads[2:], words[2:])]
    x = torch.arange(200) % 256
    uniform((200,), 8).push(parts[0], x)  # grows a tail of its own
    assert torch.equal(uniform((200,), 8).pop(parts[0]), x)
    joined = Message.joined(parts)
    assert contents(joined) == contents(message)
    assert joined.to_bytes() == message.to_bytes()


def filled(lanes: int, seed: int, n: int = 40) -> Message:
    """A random message of which some seed words were popped, with n pushed symbols of 10 bits a lane on top."""
    message = Message.random(lanes, 6, seed)
    pop(message, 9, random_table(5, 24, generator(seed)), 24)
    push(message, random_symbols(torch.arange((1 << 10) + 1) << 10, n, lanes, 20, generator(seed + 1)))
    return message


@pytest.mark.parametrize("lanes", [1, 2, 5])
def test_narrow_undoes_widen(lanes: int) -> None:
    message = filled(lanes, 3)
    before, bits, taken = contents(message), message.bits(), message.taken
    message.widen()
    message.widen()
    assert message.lanes == 4 * lanes
    assert message.taken == taken
    # Bits are moved, not made: `bits` counts log2(head / 2**31), 0 to 1, for the 31 bits that fill a head.
    assert bits <= message.bits() + 31 * 3 * lanes <= bits + 3 * lanes
    starts = random_table(7, 16, generator(4))
    symbols = random_symbols(starts, 30, 4 * lanes, 16, generator(5))
    push(message, symbols)
    assert torch.equal(pop(message, 30, starts, 16), symbols.x)
    message.narrow()
    message.narrow()
    assert contents(message) == before
    assert message.taken == taken


def test_narrow_undoes_widen_of_a_message_read_from_bytes() -> None:
    message = filled(3, 7, 400)
    heads, words = contents(message)
    kept = [lane[floor:] for lane, floor in zip(words, message.floor.tolist(), strict=True)]
    message.widen()
    starts = random_table(7, 16, generator(4))
    symbols = random_symbols(starts, 10, 6, 16, generator(5))
    push(message, symbols)
    read = Message.from_bytes(message.to_bytes())
    assert read.tail.shape[1] < max(map(len, kept)), "make room in `narrow`, or this test shows little"
    assert torch.equal(pop(read, 10, starts, 16), symbols.x)
    read.narrow()
    assert contents(read) == (heads, kept)
    assert read.bound >= int(read.size.max())


def test_widened_lanes_share_the_words_above_the_floor() -> None:
    message = filled(2, 3)
    own = message.size - message.floor
    assert int(own.min()) >= 8
    message.widen()
    shared = message.size - message.floor
    assert int(shared.sum()) in (int(own.sum()), int(own.sum()) - 1, int(own.sum()) - 2)
    assert int((shared[:2] - shared[2:]).abs().max()) <= 1


def test_lanes_without_words_cannot_be_widened() -> None:
    with pytest.raises(EmptyMessage, match="lane 0 of 2 needs 1 more words"):
        Message.empty(2).widen()


def test_lanes_that_were_not_widened_cannot_be_narrowed() -> None:
    for lanes in (1, 3):
        with pytest.raises(
            ValueError, match="narrow: the upper lanes are not as widen left them; the data are damaged"
        ):
            Message.random(lanes, 5, 0).narrow()
    message = filled(2, 3)
    message.widen()
    message.head[2] *= 2
    with pytest.raises(ValueError, match="narrow: the upper lanes are not as widen left them; the data are damaged"):
        message.narrow()
