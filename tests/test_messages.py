"""What a message holds: its tail, its seed bits, its bytes, and its lanes as they become more and fewer."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.laws import contents
from tests.plain_rans import (
    Stack,
    Symbols,
    find_in,
    generator,
    of_stacks,
    pop,
    push_reference,
    random_symbols,
    random_table,
    spiked_table,
)
from toolkit.coding.ans import EmptyMessage, Message, _given, _most_words, _push
from toolkit.coding.packing import LOW

# Storage.


def test_the_tail_grows_in_few_and_large_strides() -> None:
    n = 12_000  # half of them cost 28 bits, half next to nothing: blocks fill half of the places that they may need
    symbols = Symbols(torch.randint(2, (n, 1), generator=generator(0)), spiked_table(2, 28, 0), 28)
    message, capacities = Message.empty(1), {0}
    for i in range(n, 0, -n // 50):
        part = slice(i - n // 50, i)
        message.push(symbols.start[part], symbols.freq[part], 28, steps=80)
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
def test_a_block_has_places_for_all_its_words(precision: int, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rarest = torch.ones(steps, 2, dtype=torch.int64)
    head = torch.tensor([(1 << 63) - 1, (1 << 31)])
    given = [0 * rarest, rarest]
    most = _most_words(steps, precision)

    def pushed() -> tuple[Tensor, Tensor, list[list[int]]]:
        tail = torch.zeros(2 * most, dtype=torch.int32)
        heads, size = _push(
            head, torch.zeros_like(head), torch.zeros(1, dtype=torch.int64), tail, given, (),
            interval=_given, steps=steps, precision=precision,
        )  # fmt: skip
        assert int(size.max()) <= most <= 1 + steps * precision // 32
        return heads, size, [lane[:n].tolist() for lane, n in zip(tail.view(2, most), size.tolist(), strict=True)]

    heads, size, words = pushed()
    # What torch.compile sees finds a place for each word in another way.
    monkeypatch.setattr("torch.compiler.is_compiling", lambda: True)
    again, sizes, others = pushed()
    assert torch.equal(again, heads) and torch.equal(sizes, size) and others == words


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


MESSY = messy().to_bytes()


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
    data = bytearray(MESSY)
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
