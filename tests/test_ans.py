"""Batched rANS: its law, a plain big-integer reference, pinned words, exact rates, and every refusal."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.laws import contents
from toolkit.coding.ans import MAX_PRECISION, EmptyMessage, Message, _given, _push
from toolkit.coding.packing import LOW


class Stack:
    """One lane of rANS on plain Python integers (Duda 2009, arXiv:0902.0271): 63-bit head, 32-bit words."""

    def __init__(self, head: int = 2**31, words: list[int] | None = None) -> None:
        self.head, self.words = head, list(words or [])

    def push(self, start: int, freq: int, precision: int) -> None:
        if (self.head // freq << precision) >= 2**63:
            self.words.append(self.head % 2**32)
            self.head //= 2**32
        self.head = (self.head // freq << precision) + start + self.head % freq

    def pop(self, find: Callable[[int], tuple[int, int, int]], precision: int) -> int:
        u = self.head % 2**precision
        symbol, start, freq = find(u)
        assert start <= u < start + freq
        self.head = self.head // 2**precision * freq + u - start
        if self.head < 2**31:
            self.head = self.head * 2**32 + self.words.pop()
        return symbol


class Symbols(NamedTuple):
    """Random symbols under one table, and what push and pop need for them."""

    x: Tensor  # int64 [n, lanes]
    starts: Tensor  # int64 [k + 1]
    precision: int

    @property
    def start(self) -> Tensor:
        return self.starts[self.x]

    @property
    def freq(self) -> Tensor:
        return self.starts[self.x + 1] - self.starts[self.x]

    def bits(self) -> float:
        return float((self.precision - self.freq.double().log2()).sum())


def find_in(u: Tensor, starts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The interval of the table int64 [k + 1] that holds each u; comparisons only, so that it compiles."""
    symbol = (u[:, None] >= starts[1:-1]).sum(1)
    return symbol, starts[symbol], starts[symbol + 1] - starts[symbol]


def pop(message: Message, n: int, starts: Tensor, precision: int, steps: int = 8) -> Tensor:
    valid = torch.ones(n, message.lanes, dtype=torch.bool, device=message.head.device)
    return message.pop(valid, find_in, [], [starts], precision, steps)


def random_table(k: int, precision: int, rng: torch.Generator) -> Tensor:
    """int64 [k + 1] borders of k intervals of [0, 2**precision), each of at least 1."""
    inner: set[int] = set()
    while len(inner) < k - 1:
        inner.add(int(torch.randint(1, 1 << precision, (), generator=rng)))
    return torch.tensor([0, *sorted(inner), 1 << precision])


def spiked_table(k: int, precision: int, spike: int) -> Tensor:
    """The most extreme frequencies: 2**precision - k + 1 for symbol `spike` and 1 for the others."""
    freqs = torch.ones(k, dtype=torch.int64)
    freqs[spike] = (1 << precision) - k + 1
    return torch.cat([torch.zeros(1, dtype=torch.int64), freqs.cumsum(0)])


def random_symbols(starts: Tensor, n: int, lanes: int, precision: int, rng: torch.Generator) -> Symbols:
    """Symbols that follow the table's own probabilities."""
    u = torch.randint(1 << precision, (n, lanes), generator=rng)
    return Symbols(torch.searchsorted(starts, u, right=True) - 1, starts, precision)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def as_stacks(message: Message) -> list[Stack]:
    heads, words = contents(message)
    return [Stack(head, lane) for head, lane in zip(heads, words, strict=True)]


def push_reference(stacks: list[Stack], symbols: Symbols) -> None:
    for lane, stack in enumerate(stacks):
        for start, freq in reversed(list(zip(symbols.start[:, lane], symbols.freq[:, lane], strict=True))):
            stack.push(int(start), int(freq), symbols.precision)


def of_stacks(stacks: list[Stack]) -> tuple[list[int], list[list[int]]]:
    return [stack.head for stack in stacks], [stack.words for stack in stacks]


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
        symbols = Symbols(torch.full((2000, 4), x), starts, precision)
        message = Message.random(4, 1, 6)
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


# Storage.


def test_the_tail_grows_in_few_and_large_strides() -> None:
    n = 100_000
    symbols = random_symbols(random_table(9, 20, generator(0)), n, 1, 20, generator(1))
    message, capacities = Message.empty(1), {0}
    for i in range(n, 0, -n // 50):
        part = slice(i - n // 50, i)
        message.push(symbols.start[part], symbols.freq[part], 20, steps=100)
        capacities.add(message.tail.shape[1])
        assert message.tail.shape[1] <= max(3 * int(message.size.max()), 1000)
    # Each stride doubles what was there, so their sum is linear in the last.
    strides = sorted(capacities)[1:]
    assert all(b >= 2 * a for a, b in itertools.pairwise(strides))
    (stack,) = stacks = [Stack()]
    push_reference(stacks, symbols)
    assert len(stack.words) > 5000
    assert contents(message) == of_stacks([stack])


@pytest.mark.parametrize("precision", [1, 4, 16, 24, 28])
@pytest.mark.parametrize("steps", [1, 8])
def test_a_block_has_places_for_all_its_words(precision: int, steps: int) -> None:
    rarest = torch.ones(steps, 2, dtype=torch.int64)
    head = torch.tensor([(1 << 63) - 1, (1 << 31)])
    given = [0 * rarest, rarest]
    _, words, count = _push(head, given, (), 2, interval=_given, steps=steps, precision=precision)
    assert int(count.max()) <= len(words)
    assert len(words) <= 1 + steps * precision // 32


def test_pushing_and_popping_again_and_again_does_not_grow_the_tail() -> None:
    starts = random_table(4, 16, generator(0))
    symbols = random_symbols(starts, 24, 2, 16, generator(1))
    message = Message.empty(2)
    for _ in range(50):
        message.push(symbols.start, symbols.freq, 16)
        pop(message, 24, starts, 16)
    assert message.tail.shape[1] <= 64


def test_floor_is_the_least_size_and_taken_the_seed_words_below_it() -> None:
    message = Message.random(2, 10, 0)
    assert message.floor.tolist() == [10, 10]
    assert message.taken == 0
    one_word = torch.tensor([[1], [1], [1], [1], [1], [1], [1], [1]])
    pop(message, 8, torch.arange(257), 8)  # 64 bits a lane: two words
    assert message.size.tolist() == message.floor.tolist() == [8, 8]
    assert message.taken == 4
    ones = one_word.expand(8, 2)
    for _ in range(3):
        message.push(ones, ones, 8)
    assert message.size.tolist() == [14, 14]
    assert message.floor.tolist() == [8, 8]
    assert message.taken == 4
    pop(message, 16, torch.arange(257), 8)
    assert message.size.tolist() == [10, 10]
    assert message.taken == 4
    pop(message, 16, torch.arange(257), 8)
    assert message.floor.tolist() == [6, 6]
    assert message.taken == 8


def test_floor_counts_each_lane_for_itself() -> None:
    message = Message.random(2, 10, 0)
    valid = torch.tensor([[True, False]]).expand(8, 2)
    message.pop(valid, find_in, [], [torch.arange(257)], 8)
    assert message.floor.tolist() == [8, 10]
    assert message.taken == 2


def test_nothing_is_taken_from_an_empty_message() -> None:
    message = Message.empty(3)
    symbols = random_symbols(random_table(4, 16, generator(0)), 20, 3, 16, generator(1))
    message.push(symbols.start, symbols.freq, 16)
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
    first = torch.cat([pop(Message.random(4, 1, seed), 1, torch.arange(257), 8)[0] for seed in range(64)])
    assert len(set(first.tolist())) > 100


def test_a_message_is_random_when_all_is_undone() -> None:
    message = Message.random(3, 12, 4)
    starts = random_table(5, 16, generator(0))
    assert message.is_random(4)
    x = pop(message, 30, starts, 16)
    drawn = Symbols(x, starts, 16)
    message.push(drawn.start, drawn.freq, 16)
    assert message.is_random(4)
    message.push(drawn.start, drawn.freq, 16)
    assert not message.is_random(4)
    pop(message, 30, starts, 16)
    assert message.is_random(4)


def test_a_message_read_from_bytes_is_random_when_all_is_undone() -> None:
    message = Message.random(3, 12, 4)
    starts = random_table(5, 16, generator(0))
    valid = torch.rand(40, 3, generator=generator(1)) < torch.tensor([0.1, 0.5, 0.9])
    latents = message.pop(valid, find_in, [], [starts], 16)  # takes another number of words from each lane
    symbols = random_symbols(starts, 60, 3, 16, generator(2))
    message.push(symbols.start, symbols.freq, 16)

    read = Message.from_bytes(message.to_bytes())
    assert read.lanes == 3
    assert int(read.size.sum()) < int(message.size.sum())
    assert torch.equal(pop(read, 60, starts, 16), symbols.x)
    assert not read.is_random(4)
    again = Symbols(latents, starts, 16)
    read.push(torch.where(valid, again.start, 0), torch.where(valid, again.freq, 1 << 16), 16)
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
    message.pop(torch.rand(9, 5, generator=generator(seed + 1)) < 0.7, find_in, [], [starts], 24)
    symbols = random_symbols(starts, 30, 5, 24, generator(seed + 2))
    keep = torch.rand(30, 5, generator=generator(seed + 3)) < torch.tensor([0.0, 0.2, 0.5, 0.8, 1.0])
    message.push(torch.where(keep, symbols.start, 0), torch.where(keep, symbols.freq, 1 << 24), 24)
    return message


@settings(max_examples=30, deadline=None, derandomize=True)
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
    read = Message.from_bytes(lane_of_words(5))
    assert read.taken == 0
    pop(read, 8, torch.arange(257), 8)
    assert read.taken == 2


def lane_of_words(words: int) -> bytes:
    """A message of one lane with a head of 2**31 and so many words."""
    message = Message.empty(1)
    ones = torch.ones(4 * words, 1, dtype=torch.int64)
    message.push(ones, ones, 8)
    assert message.size.tolist() == [words]
    return message.to_bytes()


def test_bytes_of_an_unused_random_message_hold_no_words() -> None:
    message = Message.random(4, 1000, 0)
    # 9 bytes of header; all lanes are equally long, and of a head of 32 bits one need not be stored.
    assert len(message.to_bytes()) == 9 + -(-4 * 31 // 8)
    assert contents(Message.from_bytes(message.to_bytes())) == (message.head.tolist(), [[]] * 4)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.binary(max_size=40), st.integers(0, 200), st.integers(0, 255), st.booleans())
def test_damaged_bytes_are_a_message_or_a_value_error(noise: bytes, at: int, byte: int, whole: bool) -> None:
    data = bytearray(messy().to_bytes())
    data[at % len(data)] ^= byte
    try:
        message = Message.from_bytes(noise if whole else bytes(data))
    except ValueError:
        return
    assert min(contents(message)[0]) >= LOW


# More and fewer lanes.


def filled(lanes: int, seed: int, n: int = 40) -> Message:
    """A random message of which some seed words were popped, with n pushed symbols of 10 bits a lane on top."""
    message = Message.random(lanes, 6, seed)
    pop(message, 9, random_table(5, 24, generator(seed)), 24)
    symbols = random_symbols(torch.arange((1 << 10) + 1) << 10, n, lanes, 20, generator(seed + 1))
    message.push(symbols.start, symbols.freq, 20)
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
    message.push(symbols.start, symbols.freq, 16)
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
    message.push(symbols.start, symbols.freq, 16)
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


def test_lanes_in_which_a_search_misses_are_searched_again() -> None:
    def find(u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return u, torch.where(u % 5 == 0, u + 1, u), torch.ones_like(u)

    def sure(u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return u, u, torch.ones_like(u)

    n, lanes = 20, 6
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
