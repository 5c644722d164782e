"""Stacks in Python's integers and in NumPy: the words of `Message`, and what is pushed comes back."""

import tracemalloc

import pytest
import torch
from torch import Tensor

from toolkit.coding.ans import Message
from toolkit.coding.codecs import tabled, uniform
from toolkit.coding.lanes import pack, unpack
from toolkit.coding.tabled_lanes import FewLanes, ManyLanes, Tables, raw_interval, stacks

PRECISION = 20


def tables(count: int = 5, symbols: int = 40) -> Tables:
    """Some steep: most symbols share a cell with others."""
    share = torch.exp2(-torch.arange(symbols) * torch.linspace(0.01, 0.6, count)[:, None])
    freqs = 1 + (share / share.sum(1, keepdim=True) * ((1 << PRECISION) - symbols)).long()
    freqs[:, 0] += (1 << PRECISION) - freqs.sum(1)
    return Tables(freqs, PRECISION)


def some(coder: Tables, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Tables and symbols as likely as they say: int64 [n] each."""
    rng = torch.Generator().manual_seed(seed)
    which = torch.randint(len(coder.rows), (n,), generator=rng)
    u = torch.randint(1 << PRECISION, (n,), generator=rng)
    return which, torch.searchsorted(torch.tensor(coder.rows)[which], u[:, None], right=True)[:, 0] - 1


@pytest.mark.parametrize("kind", [FewLanes, ManyLanes])
@pytest.mark.parametrize("lanes,n", [(1, 50), (3, 1), (16, 500), (17, 500), (64, 64), (64, 63)])
def test_words_are_those_of_a_message(kind: type, lanes: int, n: int) -> None:
    coder = tables()
    which, symbol = some(coder, n)
    stack, message = kind([Message.empty(lanes, small=True)]), Message.empty(lanes, small=True)
    stack.push([coder.interval(which, symbol)], PRECISION)
    tabled(torch.tensor(coder.rows), which, torch.ones(n, dtype=torch.bool), PRECISION).push(message, symbol)
    assert pack(stack.messages()[0]) == pack(message)


@pytest.mark.parametrize("kind", [FewLanes, ManyLanes])
@pytest.mark.parametrize("sizes", [[1], [5], [32], [3, 1, 8], [5, 40, 1, 5]])
def test_pops_undo_pushes_and_leave_nothing_and_messages_do_not_mix(kind: type, sizes: list[int]) -> None:
    coder, count = tables(), range(len(sizes))
    first, last = ([some(coder, n // (i + 1), n + i) for i in count] for n in (700, 300))
    first[-1] = some(coder, 0)  # as of a pass that has no place in a small lattice
    bits = [torch.arange(200 - 70 * (i % 3)) % 13 + 1 for i in count]
    raw = [torch.arange(len(n)) * 37 % (1 << n) for n in bits]

    def push(stack: FewLanes | ManyLanes, these: list[int]) -> list[bytes]:
        stack.push([coder.interval(*last[i]) for i in these], PRECISION)
        stack.push([raw_interval(raw[i], bits[i], 16) for i in these], 16)
        stack.push([coder.interval(*first[i]) for i in these], PRECISION)
        return [pack(message) for message in stack.messages()]

    data = push(kind([Message.empty(n, small=True) for n in sizes]), [*count])
    assert data == [push(stacks([Message.empty(n, small=True)]), [i])[0] for i, n in enumerate(sizes)]
    stack = kind([unpack(part) for part in data])
    assert_equal(stack.pop([which for which, _ in first], coder), [symbol for _, symbol in first])
    assert_equal(stack.pop_raw(bits, 16), raw)
    assert stack.empty() == [False] * len(sizes)
    assert_equal(stack.pop([which for which, _ in last], coder), [symbol for _, symbol in last])
    assert stack.empty() == [True] * len(sizes)


def assert_equal(found: list[Tensor], wanted: list[Tensor]) -> None:
    assert [x.tolist() for x in found] == [x.tolist() for x in wanted]


@pytest.mark.parametrize("lanes", [2, 40])
def test_symbols_of_random_bits_go_back_to_them(lanes: int) -> None:
    coder, message = tables(), Message.empty(lanes, small=True)
    uniform([2000], 16).push(message, torch.randint(1 << 16, (2000,), generator=torch.Generator().manual_seed(3)))
    data, which = pack(message), some(coder, 1000)[0]
    stack = stacks([unpack(data)])
    symbol = stack.pop([which], coder)[0]
    stack.push([coder.interval(which, symbol)], PRECISION)
    assert pack(stack.messages()[0]) == data


def test_few_lanes_and_many_have_stacks_of_their_own() -> None:
    assert isinstance(stacks([Message.empty(n, small=True) for n in (9, 7)]), FewLanes)
    assert isinstance(stacks([Message.empty(n, small=True) for n in (9, 8)]), ManyLanes)


def test_what_an_empty_stack_gives_is_the_same_in_both() -> None:
    coder = tables()
    which = some(coder, 100)[0]
    few, many = (kind([Message.empty(4, small=True)]).pop([which], coder) for kind in (FewLanes, ManyLanes))
    assert_equal(few, many)


def test_one_long_stack_beside_many_short_ones_takes_no_more_room_than_their_symbols() -> None:
    """A table of all steps by all lanes would take a gigabyte here."""
    coder = tables()
    which = [torch.zeros(30_000, dtype=torch.int64), torch.zeros(10_000, dtype=torch.int64)]
    stack = stacks([Message.empty(n, small=True) for n in (1, 5000)])
    stack.push([coder.interval(w, torch.zeros_like(w)) for w in which], PRECISION)
    tracemalloc.start()
    found = stack.pop(which, coder)
    assert tracemalloc.get_traced_memory()[1] < 100 << 20
    tracemalloc.stop()
    assert not any(symbol.any() for symbol in found)
    assert stack.empty() == [True, True]
