"""Pushes and pops of many symbols: as loops that Numba (CPU) or Triton (GPU) compiles, or as the tensor program.

All three write the same words. The loops are operators of PyTorch, `toolkit::push` and `toolkit::pop`, so that code
around them compiles with torch.compile, whole.
"""

from __future__ import annotations

import contextlib
import contextvars
import enum
import functools
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from toolkit.coding.message import WORD, Message, NoFrequency

EMPTY, NO_FREQUENCY = 1, 2  # bits of faults

if hasattr(os, "register_at_fork"):
    # A forked child inherits the state of OpenMP, which torch computes with, but not its threads: its first parallel
    # operation would hang. One thread avoids that.
    os.register_at_fork(after_in_child=functools.partial(torch.set_num_threads, 1))

_reference = contextvars.ContextVar("reference", default=False)


class Order(enum.IntEnum):
    """Which lane has which symbol, in the order in which they are popped."""

    SIDE_BY_SIDE = 0  # symbol i is on lane i % lanes
    LANE_BY_LANE = 1  # the first lane has the first symbols, each as many as the others, the last ones fewer


class Symbols(Protocol):
    """What a law of symbols offers: a NamedTuple of tensors, for n symbols."""

    @property
    def precision(self) -> int:
        """Intervals lie in [0, 2**precision)."""

    @property
    def bins(self) -> int:
        """Symbols lie in [0, bins)."""

    def at(self, here: Tensor | slice) -> Symbols:
        """The law of some of the symbols."""

    def interval(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Start and frequency of symbols: int64 [n] each; a frequency below 1: cannot be coded."""

    def find(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The symbols whose intervals hold places u, their starts and frequencies: int64 [n] each."""

    def parts(self) -> tuple[list[Tensor], list[int]]:
        """Tensors and numbers, as the kernels want them."""


@contextlib.contextmanager
def reference() -> Iterator[None]:
    """Run the tensor program, and no kernels, while the block runs: the same words."""
    token = _reference.set(True)
    try:
        yield
    finally:
        _reference.reset(token)


def push(
    message: Message, law: Any, x: Tensor, valid: Tensor, order: Order = Order.SIDE_BY_SIDE,
    steps: Callable[[Any, Tensor], Any] | None = None,
) -> None:  # fmt: skip
    """Push int64 [n] symbols, the last one first, so that `pop` returns them in order.

    law: see `Symbols`; valid: bool, the shape of x, where False nothing is pushed; steps: for laws of several symbols
    at once, [n, c], the tensor program of one step. Raises ValueError for a symbol that the law cannot code, and
    EmptyMessage where a law draws bits that are not there.
    """
    n = len(x)
    _check_lanes(message, n)
    per_lane = -(-n // max(message.lanes, 1))
    symbols, each = (1, law.precision) if x.dim() == 1 else (x.shape[1] + 1, law.precision * x.shape[1] + WORD // 2)
    words = min(per_lane * symbols, (per_lane * each + 62) // WORD + 1)
    before = None if torch.compiler.is_compiling() else (message.head.clone(), message.size.clone())
    loops = compiled(message.head.device.type)
    # What a law of several symbols pops before it pushes could not be put back. The loops of a CPU look themselves.
    if steps is not None and before is not None and not (loops and x.is_cpu) and not _in_range(law, x, valid):
        raise _no_frequency(law, x, valid)
    if loops:
        message.reserve(words)
        message.bound += words
        tensors, numbers = law.parts()
        state = message.head, message.tail, message.size, message.floor
        faults = torch.ops.toolkit.push(*state, x, valid, tensors, numbers, type(law).__name__, message.first, order)
        if before is None:
            message.faults = faults if message.faults is None else message.faults | faults
            return
        wrong = int(faults)
        if wrong & NO_FREQUENCY:
            message.head.copy_(before[0])  # in place: a part of a message shares its memory
            message.size.copy_(before[1])
            raise _no_frequency(law, x, valid)
        if wrong & EMPTY:
            message.check_floor()
        return
    if not _in_range(law, x, valid):
        raise _no_frequency(law, x, valid)
    if steps is None:
        low, freq = law.interval(torch.where(valid, x, 0))
        if bool((valid & (freq < 1)).any()):
            raise _no_frequency(law, x, valid)
    for at in reversed(list(places(n, message.lanes, order, x.device))):
        if steps is not None:
            steps(law.at(at), valid[at]).push(message, x[at])
        else:
            start = torch.where(valid[at], low[at], 0)
            message.push(start, torch.where(valid[at], freq[at], 1 << law.precision), law.precision)


def pop(
    message: Message, law: Any, valid: Tensor, order: Order = Order.SIDE_BY_SIDE,
    steps: Callable[[Any, Tensor], Any] | None = None,
) -> Tensor:  # fmt: skip
    """Pop what `push` pushed: int64 of the shape of valid, 0 where that is False.

    Raises EmptyMessage; the message is lost then.
    """
    _check_lanes(message, len(valid))
    if compiled(message.head.device.type):
        n = len(valid)
        if steps is not None:  # it may push, too
            words = (-(-n // max(message.lanes, 1)) * (WORD // 2) + 62) // WORD + 1
            message.reserve(words)
            message.bound += words
        tensors, numbers = law.parts()
        state = message.head, message.tail, message.size, message.floor
        x, faults = torch.ops.toolkit.pop(*state, valid, tensors, numbers, type(law).__name__, message.first, order)
        if torch.compiler.is_compiling():
            message.faults = faults if message.faults is None else message.faults | faults
        elif int(faults):
            message.check_floor()
        return x
    x = torch.zeros(valid.shape, dtype=torch.int64, device=valid.device)
    for at in places(len(valid), message.lanes, order, valid.device):
        if steps is not None:
            x[at] = steps(law.at(at), valid[at]).pop(message)
        else:
            here = law.at(at)
            symbol, start, freq = here.find(message.slots(len(at), law.precision))
            freq = torch.where(valid[at], freq, 1 << law.precision)
            message.take(torch.where(valid[at], start, 0), freq, law.precision)
            x[at] = torch.where(valid[at], symbol, 0)
    return x


def places(n: int, lanes: int, order: Order, device: torch.device) -> Iterator[Tensor]:
    """The numbers of the symbols of each step: int64, of the first lanes."""
    steps = -(-n // max(lanes, 1))
    lane = torch.arange(lanes, device=device)
    for step in range(steps):
        at = lane + step * lanes if order is Order.SIDE_BY_SIDE else lane * steps + step
        yield at[at < n]


def _check_lanes(message: Message, n: int) -> None:
    if n and not message.lanes:
        raise ValueError(f"expected a message of at least one lane for {n} symbols, got one without lanes")


def _in_range(law: Any, x: Tensor, valid: Tensor) -> bool:
    return bool(((x >= 0) & (x < law.bins) | ~valid).all())


def _no_frequency(law: Any, x: Tensor, valid: Tensor) -> ValueError:
    some = x[valid]
    if some.numel() and (int(some.min()) < 0 or int(some.max()) >= law.bins):
        return NoFrequency(
            f"push: expected symbols in [0, {law.bins}), got values from {int(some.min())} to {int(some.max())}"
        )
    i = int((valid & (law.interval(torch.where(valid, x, 0))[1] < 1)).nonzero()[0, 0])
    return NoFrequency(
        f"push: symbol {int(x.flatten()[i])} at position {i} has no frequency under its distribution; a codec without "
        "floor can only push what it popped"
    )


def compiled(device: str) -> bool:
    """Whether kernels run on a device."""
    return not _reference.get() and _available(device)


# As torch.compiler.assume_constant_result does, which takes seconds to import the compiler.
compiled._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def _available(device: str) -> bool:
    try:
        if device == "cpu":
            from toolkit.coding import cpu  # noqa: F401  # a second to import
        elif device == "cuda":
            from toolkit.coding import gpu  # noqa: F401
        else:
            return False
    except Exception as error:  # whatever a library does on a machine that it does not know
        reason = " ".join(str(error).split())[:200]
        warnings.warn(
            f"no kernels on {device} ({type(error).__name__}: {reason}); the coders run without, much slower, with the "
            f"same bytes: pip install --upgrade {'numba' if device == 'cpu' else 'triton'}",
            stacklevel=4,
        )
        return False
    return True


_STATE = "Tensor(a!) head, Tensor(b!) tail, Tensor(c!) size, Tensor(d!) floor"
_LAW = "Tensor[] tensors, int[] numbers, str law, int first, int order"
torch.library.define("toolkit::push", f"({_STATE}, Tensor x, Tensor valid, {_LAW}) -> Tensor")
torch.library.define("toolkit::pop", f"({_STATE}, Tensor valid, {_LAW}) -> (Tensor, Tensor)")


@torch.library.register_fake("toolkit::push")
def _(head: Tensor, *rest: Any) -> Tensor:
    return head.new_empty(1, dtype=torch.int32)


@torch.library.register_fake("toolkit::pop")
def _(head: Tensor, tail: Tensor, size: Tensor, floor: Tensor, valid: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return valid.new_empty(valid.shape, dtype=torch.int64), head.new_empty(1, dtype=torch.int32)
