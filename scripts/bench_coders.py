"""Speed and rate of the entropy coders beside constriction's, on the same symbols, in one process.

    python scripts/bench_coders.py [--symbols 4194304] [--lanes 4096] [--threads 1 2] [--device cpu] [--out docs/coders]

For each kind of distribution: millions of symbols a second of push and of pop, and end to end (symbols and parameters
to bytes and back to symbols, growth of the message, serialisation and the decoder's checks included), eager and
compiled; bits a symbol above the information of the integer frequencies. Compiling is not timed: the first call of each
is thrown away. Each figure is the best of --repeat runs, because other programs only ever slow one down.
"""

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from toolkit.coding import frequencies
from toolkit.coding.ans import Message
from toolkit.coding.codecs import Codec, categorical, location_scale
from toolkit.coding.mixtures import mixture

BINS = 256
MOST_FOR_TABLES = 1 << 18  # symbols for which a peer is given a table of 256 probabilities each


class Case(NamedTuple):
    name: str
    codec: Codec
    x: Tensor  # int64 [symbols], drawn from the distribution
    bits: float  # information of x under the integer frequencies
    peer: Callable[[], tuple[str, float, float]]  # what, Msymbols/s encoding and decoding


def timed(function: Callable[[], object], device: str, repeat: int) -> float:
    """Seconds of the fastest of `repeat` calls after one that does not count."""
    best = float("inf")
    for i in range(repeat + 1):
        began = time.perf_counter()
        function()
        if device != "cpu":
            torch.cuda.synchronize()
        if i:
            best = min(best, time.perf_counter() - began)
    return best


def information(codec: Codec, x: Tensor) -> float:
    """Bits that a long message grows by, which is the information but for 1e-6 of it."""
    message = Message.random(64, 4, 0, x.device)
    before = message.bits()
    codec.push(message, x)
    return message.bits() - before


def drawn(codec: Codec, symbols: int, lanes: int, device: str) -> Tensor:
    """Symbols that random bits decode to: samples of exactly the codec's distribution."""
    return codec.pop(Message.random(lanes, 2 * symbols // lanes + 64, 1, device))


def cases(symbols: int, lanes: int, device: str, repeat: int, peers: bool) -> list[Case]:
    rng = torch.Generator().manual_seed(0)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=rng)

    found = []

    def add(name: str, codec: Codec, peer: Callable[[np.ndarray], tuple[str, float, float]]) -> None:
        x = drawn(codec, symbols, lanes, device)
        array = x.cpu().numpy().astype(np.int32)
        found.append(Case(name, codec, x, information(codec, x), lambda: peer(array) if peers else ("", 0.0, 0.0)))

    weight = frequencies.weights(frequencies.snap_logits(uniform(-3, 3, BINS, 1)))[:, 0]
    add("static table", categorical(weight.to(device), (symbols,), 16), lambda x: static_peer(x, weight, repeat))
    loc, scale = uniform(0, BINS - 1, symbols), uniform(0.5, 4.0, symbols)
    at, level = frequencies.snap_location(loc).to(device), frequencies.snap_scale(scale).to(device)
    for kind in ("logistic", "gaussian"):
        add(f"{kind}, own parameters", location_scale(kind, at, level, BINS, 1),
            lambda x: gaussian_peer(x, loc, scale.exp(), repeat))  # fmt: skip
    for k in (3, 5):
        logits, locs, scales = uniform(-2, 2, k, symbols), uniform(0, BINS - 1, k, symbols), uniform(0.5, 4, k, symbols)
        snapped = (
            frequencies.weights(frequencies.snap_logits(logits)).to(device),
            frequencies.snap_location(locs).to(device),
            frequencies.snap_scale(scales).to(device),
        )
        peer = functools.partial(mixture_peer, logits=logits, loc=locs, log_scale=scales, repeat=repeat)
        add(f"mixture of {k} logistics", mixture("logistic", *snapped, BINS), peer)
    return found


def static_peer(x: np.ndarray, weight: Tensor, repeat: int) -> tuple[str, float, float]:
    import constriction

    model = constriction.stream.model.Categorical(weight.double().numpy() / 65536, perfect=False)
    return ("constriction, static", *constriction_speed(x, model, (), repeat))


def gaussian_peer(x: np.ndarray, loc: Tensor, scale: Tensor, repeat: int) -> tuple[str, float, float]:
    import constriction

    model = constriction.stream.model.QuantizedGaussian(0, BINS - 1)
    arrays = loc.double().numpy(), scale.double().numpy()
    return ("constriction, Gaussian", *constriction_speed(x, model, arrays, repeat))


def mixture_peer(
    x: np.ndarray, logits: Tensor, loc: Tensor, log_scale: Tensor, repeat: int
) -> tuple[str, float, float]:
    """A table for each symbol: what constriction offers for distributions that it does not know; making it counts."""
    import constriction

    n = min(len(x), MOST_FOR_TABLES)
    edges = torch.arange(1, BINS)[:, None] - 0.5

    def tables() -> np.ndarray:
        below = torch.zeros(BINS + 1, n)
        below[BINS] = 1
        for w, at, s in zip(logits.softmax(0)[:, :n], loc[:, :n], log_scale[:, :n], strict=True):
            below[1:-1] += w * torch.sigmoid((edges - at) / s.exp())
        return below.diff(dim=0).clamp(min=1e-7).T.contiguous().numpy()

    model = constriction.stream.model.Categorical(perfect=False)
    making = timed(tables, "cpu", 1)
    push, pop = constriction_speed(x[:n], model, (tables(),), repeat)
    return "constriction, tables", n / (n / push + making * 1e6), n / (n / pop + making * 1e6)


def constriction_speed(
    x: np.ndarray, model: object, arrays: tuple[np.ndarray, ...], repeat: int
) -> tuple[float, float]:  # Msymbols/s, encoding and decoding
    import constriction

    coders: list[constriction.stream.stack.AnsCoder] = []

    def encode() -> None:
        coder = constriction.stream.stack.AnsCoder()
        coder.encode_reverse(x, model, *arrays)
        coders[:] = [coder]

    def decode() -> None:
        coder = constriction.stream.stack.AnsCoder(coders[0].get_compressed().copy())
        out = coder.decode(model, *arrays) if arrays else coder.decode(model, len(x))
        assert np.array_equal(out, x)

    encoding = timed(encode, "cpu", repeat)
    return len(x) / encoding / 1e6, len(x) / timed(decode, "cpu", repeat) / 1e6


def ours(case: Case, lanes: int, compiled: bool, repeat: int) -> tuple[float, float, float, float]:
    """Msymbols/s of push, of pop, and end to end; bits a symbol above the information, all ends of lanes included."""
    device, n = case.x.device.type, case.x.numel()
    message = Message.empty(lanes, device, compiled)
    data: list[bytes] = []

    def push() -> None:
        nonlocal message
        message = Message.empty(lanes, device, compiled)
        case.codec.push(message, case.x)

    def pop() -> None:
        again = Message(message.head, message.tail, message.size, message.floor, bound=message.bound, compiled=compiled)
        assert torch.equal(case.codec.pop(again), case.x)

    def whole() -> None:
        push()
        data[:] = [message.to_bytes()]
        assert torch.equal(case.codec.pop(Message.from_bytes(data[0], device, compiled)), case.x)

    figures = [n / timed(f, device, repeat) / 1e6 for f in (push, pop, whole)]
    return figures[0], figures[1], figures[2], (8 * len(data[0]) - case.bits) / n


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--symbols", type=int, default=1 << 22)
    parser.add_argument("--lanes", type=int, default=4096)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("coders"))
    arguments = parser.parse_args()
    lines = [
        "| distribution | coder | threads | push | pop | end to end | bits above information |",
        "|---|---|---|---|---|---|---|",
    ]
    bars: dict[str, dict[str, tuple[float, float]]] = {}

    def line(case: str, coder: str, threads: int, push: float, pop: float, rest: str) -> None:
        lines.append(f"| {case} | {coder} | {threads} | {push:.1f} | {pop:.1f} | {rest} |")
        print(lines[-1], flush=True)
        bars.setdefault(case, {})[f"{coder}, {threads}"] = push, pop

    print("\n".join(lines), flush=True)
    for case in cases(arguments.symbols, arguments.lanes, arguments.device, arguments.repeat, not arguments.no_peers):
        for compiled in (False, True):
            for threads in arguments.threads:
                torch.set_num_threads(threads)
                push, pop, whole, above = ours(case, arguments.lanes, compiled, arguments.repeat)
                mode = "compiled" if compiled else "eager"
                line(case.name, mode, threads, push, pop, f"{whole:.1f} | {above:.6f}")
        peer, push, pop = case.peer()
        if peer:
            line(case.name, peer, 1, push, pop, " | ")
    arguments.out.with_suffix(".md").write_text("Msymbols/s.\n\n" + "\n".join(lines) + "\n")
    figure = Figure((10, 2.2 * len(bars)), layout="constrained")
    for axes, (name, rows) in zip(figure.subplots(len(bars), squeeze=False)[:, 0], bars.items(), strict=True):
        place = np.arange(len(rows))
        axes.barh(place - 0.2, [v[0] for v in rows.values()], 0.4, label="push")
        axes.barh(place + 0.2, [v[1] for v in rows.values()], 0.4, label="pop")
        axes.set_yticks(place, list(rows))
        axes.invert_yaxis()
        axes.set_title(name, loc="left")
    axes.set_xlabel("Msymbols/s")
    axes.legend()
    figure.savefig(arguments.out.with_suffix(".png"), dpi=150)


if __name__ == "__main__":
    main()
