"""Laws of every kind for the tests of the GPU's loops and for scripts/gpu_day.py; how one is compared and timed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from toolkit.coding import frequencies, kernels
from toolkit.coding.codecs import Bit, Bits, Given
from toolkit.coding.distributions import LocationScale
from toolkit.coding.kernels import Order
from toolkit.coding.message import Message
from toolkit.coding.mixtures import Mixture, Pixels, PixelsOf
from toolkit.coding.tables import Table, tables
from toolkit.coding.wire import LOW

NAMES = (
    "Bits", "Bit", "Table", "one Table", "logistic", "Gaussian", "Mixture", "Pixels, drawn", "Pixels",
)  # fmt: skip


def law(name: str, n: int, bins: int = 256, k: int = 5, seed: int = 0) -> Any:
    """A law of n symbols, or pixels of three channels, with parameters as images have them."""
    g = torch.Generator().manual_seed(seed)

    def scales(*shape: int) -> Tensor:
        return frequencies.snap_scale((torch.rand(*shape, generator=g) * bins / 32 + 1).log())

    def locations(*shape: int) -> Tensor:
        return frequencies.snap_location((torch.rand(*shape, generator=g) * 1.2 - 0.1) * bins)

    def weights() -> Tensor:
        return frequencies.weights(frequencies.snap_logits(3 * torch.randn(k, n, generator=g))).int()

    if name == "Bits":
        return Bits(torch.randint(0, 17, (n,), generator=g).int(), 16)
    if name == "Bit":  # of few bits: quotients are as large as they get
        return Bit(torch.randint(1, 8, (n,), generator=g).int(), 3)
    if "Table" in name:
        ready = tables(frequencies.of_counts(torch.randint(0, 1000, (7, bins), generator=g), 16), 16)
        return Table(torch.randint(0, 7, (0 if name == "one Table" else n,), generator=g).int(), *ready)
    if name == "logistic":
        return LocationScale(locations(n), scales(n), 0, bins, 1, 24)
    if name == "Gaussian":
        return LocationScale(locations(n), scales(n), 1, bins, 0, 28)
    if name == "Mixture":
        return Mixture(weights(), locations(k, n), scales(k, n), 0, bins, 24)
    parts = (
        torch.randn(n, k, generator=g) * 32, torch.randn(n, 3 * k, generator=g) * 8 * bins,
        torch.rand(n, 3 * k, generator=g) * 200 + 100, torch.randn(n, 3 * k, generator=g) * 100,
    )  # fmt: skip
    base = torch.full((n, 3), bins * 32).int()
    return Pixels(torch.cat(parts, 1).round(), base, k, 3, 0, 511, bins, 24, name.endswith("drawn"))


def valid_of(law: Any, n: int, holes: float = 0.1) -> Tensor:
    shape = (n, law.channels) if isinstance(law, Pixels) else (n,)
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) >= holes


def on(law: Any, device: torch.device | str) -> Any:
    return law._replace(**{name: x.to(device) for name, x in law._asdict().items() if isinstance(x, Tensor)})


def pop(message: Message, law: Any, valid: Tensor, order: Order = Order.SIDE_BY_SIDE) -> Tensor:
    return kernels.pop(message, law, valid, order, PixelsOf if isinstance(law, Pixels) else None)


def push(message: Message, law: Any, x: Tensor, valid: Tensor, order: Order = Order.SIDE_BY_SIDE) -> None:
    kernels.push(message, law, x, valid, order, PixelsOf if isinstance(law, Pixels) else None)


def words(message: Message) -> tuple[list[int], list[list[int]], list[int]]:
    """Heads, the words in use of each lane, and floors."""
    rows = zip(message.tail.tolist(), message.size.tolist(), strict=True)
    return message.head.tolist(), [row[:size] for row, size in rows], message.floor.tolist()


def histories(
    law: Any, n: int, lanes: int, order: Order, first: int, device: torch.device | str = "cpu"
) -> Iterator[tuple[Any, ...]]:
    """What a message holds as it is popped from, pushed onto and popped from again."""
    valid, law, mine = valid_of(law, n).to(device), on(law, device), valid_of(law, n)
    message = Message.random(lanes, 8 + 5 * n // lanes, 3, device)
    x = pop(message, law, valid, order)
    yield x.tolist(), words(message)
    push(message, law, x, valid, order)
    assert message.is_random(3)
    yield (words(message),)
    if first != LOW:
        message = Message.empty(lanes, device, first)
    elif isinstance(law, LocationScale):  # what is pushed may be known without its law
        low, freq = (torch.where(valid, part, 1) for part in law.interval(x))
        push(message, Given(low, freq, law.precision), torch.zeros_like(x), valid, order)
        yield (words(message),)
    push(message, law, x, valid, order)
    yield (words(message),)
    assert torch.equal(pop(message, law, valid, order).cpu(), torch.where(mine, x.cpu(), 0))
    yield (words(message),)


def speeds(law: Any, n: int, lanes: int, device: torch.device | str, repeats: int = 4) -> tuple[float, float]:
    """Millions of symbols a second of push and of pop, the best of some: the state is the same after both."""
    law, valid = on(law, device), valid_of(law, n, 0).to(device)
    message = Message.random(lanes, 4 + 4 * n // lanes, 3, device)
    best = [float("inf")] * 2

    def timed(which: int, run: Any) -> Any:
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        result = run()  # looks for faults, and so waits
        best[which] = min(best[which], time.perf_counter() - start)
        return result

    for _ in range(repeats):
        x = timed(1, lambda: pop(message, law, valid))
        timed(0, lambda x=x: push(message, law, x, valid))
    return valid.numel() / best[0] / 1e6, valid.numel() / best[1] / 1e6
