"""Speed and rate of the entropy coders beside other people's, on the same symbols, in one process.

    python scripts/bench_coders.py [--symbols N] [--lanes N] [--threads 1 2] [--device cpu] [--out docs/results/coders]
    python scripts/bench_coders.py --sweep lanes    # one distribution, 1 to 65,536 lanes
    python scripts/bench_coders.py --sweep symbols  # 10^4 to 10^8 symbols, with the memory that each takes

For each kind of distribution: millions of symbols a second of push and of pop, and end to end: encode (symbols and
parameters to bytes, growth of the message and serialisation included) and decode (bytes to symbols, compared with what
was encoded). Bits a symbol are those of the bytes; bytes a lane, how far these are above the
information of the integer frequencies; grid, how far that is above the information under the exact distribution, whose
samples the symbols are; x: how many times as fast as the best peer. Compiling is not timed: the first call of each is
thrown away. Each figure is the best of --repeat runs, because other programs only ever slow one down. Peers that are
installed take part: pip install
constriction compressai torchac ninja.
"""

import argparse
import functools
import math
import resource
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from coder_peers import (
    BINS,
    MOST_FOR_TABLES,
    Speed,
    bit_peers,
    gaussian_peers,
    mixture_peers,
    static_peers,
    table_peers,
    timed,
)
from matplotlib.figure import Figure
from torch import Tensor

from toolkit.coding import beta_binomial, frequencies
from toolkit.coding.codecs import Codec, bernoulli
from toolkit.coding.distributions import location_scale
from toolkit.coding.message import Message
from toolkit.coding.mixtures import mixture
from toolkit.coding.tables import categorical, of_starts


class Case(NamedTuple):
    name: str
    codec: Codec
    x: Tensor  # int64 [symbols], drawn from the exact distribution
    exact: float  # bits of x under it
    peers: Callable[[np.ndarray], Iterator[Speed]]


def information(codec: Codec, x: Tensor) -> float:
    """Bits that a long message grows by, which is the information but for 1e-6 of it."""
    message = Message.random(64, 4, 0, x.device)
    before = message.bits()
    codec.push(message, x)
    return message.bits() - before


class Make:
    """The cases, from parameters drawn with one seed."""

    def __init__(self, symbols: int, device: str, repeat: int) -> None:
        self.symbols, self.device, self.repeat = symbols, device, repeat
        self.rng = torch.Generator().manual_seed(0)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:  # float64
        return low + (high - low) * torch.rand(*shape, generator=self.rng, dtype=torch.float64)

    def static(self) -> Case:
        weight = frequencies.weights(frequencies.snap_logits(self.uniform(-3, 3, BINS, 1)))[:, 0]
        x = torch.multinomial(weight.double(), self.symbols, True, generator=self.rng)
        exact = float((16 - weight[x].double().log2()).sum())
        codec = categorical(weight.to(self.device), (self.symbols,), 16)
        return Case("static table", codec, x, exact, functools.partial(static_peers, weight, self.repeat))

    def mixture(self, kind: str, k: int) -> Case:
        n = self.symbols
        logits, loc, log_scale = (
            self.uniform(-2, 2, k, n),
            self.uniform(0, BINS - 1, k, n),
            self.uniform(0.5, 4, k, n),
        )
        chosen = (logits.log_softmax(0) - (-self.uniform(1e-12, 1, k, n).log()).log()).argmax(0)[None]
        u = self.uniform(1e-12, 1 - 1e-12, n)
        at, width = loc.gather(0, chosen)[0], log_scale.gather(0, chosen)[0].exp()
        x = (at + width * (torch.logit(u) if kind == "logistic" else torch.special.ndtri(u))).round()
        x = x.clamp(0, BINS - 1)
        mass = torch.zeros(n, dtype=torch.float64)
        for weight, m, s in zip(logits.softmax(0), loc, log_scale.exp(), strict=True):
            mass += weight * (upper(kind, (x + 0.5 - m) / s, x == BINS - 1) - lower(kind, (x - 0.5 - m) / s, x == 0))
        at, level = frequencies.snap_location(loc).to(self.device), frequencies.snap_scale(log_scale).to(self.device)
        exact, x = -float(mass.clamp(min=1e-300).log2().sum()), x.long()
        if k == 1:
            codec = location_scale(kind, at[0], level[0], BINS, 1)
            peers = functools.partial(gaussian_peers, loc[0].numpy(), log_scale[0].exp().numpy(), self.repeat)
            return Case(f"{kind}, own parameters", codec, x, exact, peers)
        weight = frequencies.weights(frequencies.snap_logits(logits)).to(self.device)
        codec = mixture(kind, weight, at, level, BINS)
        return Case(
            f"mixture of {k} {kind}s", codec, x, exact,
            functools.partial(mixture_peers, logits, loc, log_scale, self.repeat),
        )  # fmt: skip

    def tables(self) -> Case:
        n = min(self.symbols, MOST_FOR_TABLES)
        below = torch.rand(n, BINS, generator=self.rng).cumsum(1)
        starts = torch.zeros(n, BINS + 1, dtype=torch.int32)
        # A count for each symbol, of 2^16.
        starts[:, 1:] = (below / below[:, -1:] * (65536 - BINS)).int() + torch.arange(1, BINS + 1, dtype=torch.int32)
        starts[:, -1] = 65536
        freq = starts.diff(dim=1)
        x = torch.multinomial(freq.float(), 1, generator=self.rng)
        exact = float((16 - freq.gather(1, x).double().log2()).sum())
        there = torch.ones(n, dtype=torch.bool, device=self.device)
        codec = of_starts(starts.to(self.device), 16).codec(torch.arange(n, device=self.device), there)
        return Case("own table", codec, x[:, 0], exact, functools.partial(table_peers, starts, self.repeat))

    def bits(self) -> Case:
        ones = self.uniform(1, (1 << 16) - 1, self.symbols).round().long()
        x = (self.uniform(0, 1 << 16, self.symbols) < ones).long()
        exact = float((16 - torch.where(x == 1, ones, 65536 - ones).double().log2()).sum())
        codec = bernoulli(ones.to(self.device), 16)
        return Case("Bernoulli", codec, x, exact, functools.partial(bit_peers, ones, self.repeat))

    def beta_binomial(self) -> Case:
        logit, size = self.uniform(-4, 4, self.symbols), self.uniform(1, 6, self.symbols)
        table = beta_binomial.snap(logit, size)
        a, b = beta_binomial.parameters_of(table)
        torch.manual_seed(0)
        x = torch.binomial(torch.full_like(a, BINS - 1), torch.distributions.Beta(a, b).sample())
        logit, size = torch.log(a / b), torch.log2(a + b)  # of the grid, whose step is part of the model
        exact = -float(beta_binomial.log_probability(x, logit, size, BINS).sum()) / math.log(2)
        there = torch.ones(self.symbols, dtype=torch.bool, device=self.device)
        codec = beta_binomial.beta_binomial(table.to(self.device), BINS, 24, there)
        return Case("beta-binomial", codec, x.long(), exact, lambda x: iter(()))

    def all(self) -> Iterator[Case]:
        yield self.static()
        yield self.mixture("logistic", 1)
        yield self.mixture("gaussian", 1)
        yield self.tables()
        yield self.bits()
        yield self.beta_binomial()
        yield self.mixture("logistic", 3)
        yield self.mixture("logistic", 5)


def upper(kind: str, t: Tensor, last: Tensor) -> Tensor:
    y = torch.sigmoid(t) if kind == "logistic" else torch.special.ndtr(t)
    return torch.where(last, 1.0, y)


def lower(kind: str, t: Tensor, first: Tensor) -> Tensor:
    return upper(kind, t, torch.zeros_like(first)).masked_fill(first, 0.0)


class Speeds(NamedTuple):
    """Msymbols/s of push and pop, and with making the message and turning it into bytes, or back."""

    push: float
    pop: float
    encode: float
    decode: float


def ours(case: Case, lanes: int, repeat: int) -> tuple[Speeds, float]:
    """Speeds, and bits of the bytes, all ends of lanes included."""
    device, n = case.x.device.type, case.x.numel()
    kept: list[Message] = []
    data: list[bytes] = []

    def push() -> None:
        kept[:] = [Message.empty(lanes, device, first=0)]
        case.codec.push(kept[0], case.x)

    def pop() -> None:
        (m,) = kept
        again = Message(m.head.clone(), m.tail, m.size.clone(), m.floor.clone(), bound=m.bound, first=0)
        assert torch.equal(case.codec.pop(again), case.x)

    def encode() -> None:
        push()
        data[:] = [kept[0].to_bytes()]

    def decode() -> None:
        assert torch.equal(case.codec.pop(Message.from_bytes(data[0], device, first=0)), case.x)

    times = [timed(f, device, repeat) for f in (push, pop, encode, decode)]
    return Speeds(*(n / t / 1e6 for t in times)), 8.0 * len(data[0])


def repeated(symbols: int, device: str) -> Case:
    """Logistics with their own parameters: up to 10^6 drawn ones, and the same again as often as is wanted."""
    make = Make(min(symbols, 10**6), device, 1)
    loc = frequencies.snap_location(make.uniform(0, BINS - 1, make.symbols))
    level = frequencies.snap_scale(make.uniform(0.5, 4, make.symbols))
    t = torch.logit(make.uniform(1e-12, 1 - 1e-12, make.symbols))
    x = (frequencies.location_of(loc) + frequencies.scale_of(level) * t).round().clamp(0, BINS - 1).long()
    times = -(-symbols // make.symbols)
    x, loc, level = (v.to(device).repeat(times)[:symbols] for v in (x, loc, level))
    return Case("logistic", location_scale("logistic", loc, level, BINS, 1), x, 0.0, lambda x: iter(()))


def sweep(arguments: argparse.Namespace) -> list[str]:
    """The logistic with its own parameters, over lanes or over symbols."""
    lines = [
        f"Logistic, own parameters; {arguments.threads[-1]} threads; Msymbols/s.",
        "",
        "| symbols | lanes | push | pop | encode | decode | more memory, bytes a symbol |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    torch.set_num_threads(arguments.threads[-1])
    if arguments.sweep == "lanes":
        jobs = [(arguments.symbols, 1 << i) for i in range(0, 17, 2)]
    else:
        jobs = [(10**i, arguments.lanes) for i in range(4, 9)]
    for symbols, lanes in jobs:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        case = repeated(symbols, arguments.device)
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        speeds, _ = ours(case, lanes, arguments.repeat)
        memory = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before - held) / symbols
        lines.append(f"| {symbols} | {lanes} | {' | '.join(f'{v:.1f}' for v in speeds)} | {memory:.0f} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--symbols", type=int, default=1 << 22)
    parser.add_argument("--lanes", type=int, default=4096)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("coders"))
    parser.add_argument("--sweep", choices=["lanes", "symbols"])
    arguments = parser.parse_args()
    if arguments.sweep:
        arguments.out.with_name(f"{arguments.out.name}_{arguments.sweep}.md").write_text(
            "\n".join(sweep(arguments)) + "\n"
        )
        return
    lines = [
        "| distribution | coder | threads | push | pop | encode | decode | x push | x pop | bits a symbol "
        "| bytes a lane | grid, % |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    bars: dict[str, dict[str, tuple[float, float]]] = {}

    def line(case: str, coder: str, threads: int, push: float, pop: float, rest: str) -> None:
        lines.append(f"| {case} | {coder} | {threads} | {push:.1f} | {pop:.1f} | {rest} |")
        print(lines[-1], flush=True)
        bars.setdefault(case, {})[f"{coder}, {threads}"] = push, pop

    print("\n".join(lines), flush=True)
    for case in Make(arguments.symbols, arguments.device, arguments.repeat).all():
        case = case._replace(x=case.x.to(arguments.device))
        known = information(case.codec, case.x)
        peers = [] if arguments.no_peers else list(case.peers(case.x.cpu().numpy().astype(np.int32)))
        best = [max(speeds, default=math.nan) for speeds in ([p for _, p, _ in peers], [p for _, _, p in peers])]
        for threads in arguments.threads:
            torch.set_num_threads(threads)
            speeds, bits = ours(case, arguments.lanes, arguments.repeat)
            rest = (
                f"{speeds.encode:.1f} | {speeds.decode:.1f} | {speeds.push / best[0]:.1f} | {speeds.pop / best[1]:.1f}"
            )
            rest += f" | {bits / len(case.x):.4f} | {(bits - known) / 8 / arguments.lanes:.2f}"
            line(case.name, "ours", threads, speeds.push, speeds.pop, f"{rest} | {100 * (known / case.exact - 1):.4f}")
        for peer, push, pop in peers:
            line(case.name, peer, 1, push, pop, " | | | | | | ")
    title = f"# Coders\n\n`python {shlex.join(sys.argv)}`\n\nMillions of symbols a second; columns: see the script."
    arguments.out.with_suffix(".md").write_text(title + "\n\n" + "\n".join(lines) + "\n")
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
