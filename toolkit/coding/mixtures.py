"""Codecs of symbols under mixtures of logistics or Gaussians, each symbol with parameters of its own.

Everything here is integer arithmetic on snapped parameters (see `frequencies`), pointwise over symbols, and written out
over the few components and channels so that `fuse` makes one kernel of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from toolkit.coding import frequencies
from toolkit.coding.ans import Message
from toolkit.coding.codecs import PRECISION, Codec, check_range, interval_codec, location_scale, searched
from toolkit.coding.fuse import fusible, fusing
from toolkit.coding.integers import to_float64, to_int32

COMPONENT_STEPS = 4  # a block of pops: a search among few components is little code


def mixture(
    kind: str,
    weight: Tensor,
    loc: Tensor,
    scale: Tensor,
    bins: int,
    precision: int = PRECISION,
    valid: Tensor | None = None,
) -> Codec:
    """Codec of symbols in [0, bins) under a mixture of k logistics or Gaussians, each symbol with its own.

    weight: int64 [k, ...] of `frequencies.weights`; loc, scale: int64 [k, ...]; valid: bool [...].
    """
    valid = torch.ones_like(loc[0], dtype=torch.bool) if valid is None else valid
    params = [weight.flatten(1), loc.flatten(1), scale.flatten(1)]
    # k components in log2(bins) rounds of search are much code: two steps a block bound what is compiled.
    return searched(kind, params, bins, 1, precision, valid, steps=2)


class Snap(NamedTuple):
    """How a mixture's parameters become integers, where they are not yet: pointwise functions, compiled with the rest.

    weights(logits [k, symbols], table of `frequencies.exponentials`) -> as `frequencies.normalise`; location, scale,
    coupling: tensors of any shape to what `frequencies.snap_location`, `snap_scale` and `snap_coupling` give: integers,
    of any dtype but for the scale's, which is int32 or int64. finite: no parameter can be infinite or NaN.
    """

    weights: Callable[[Tensor, Tensor], list[Tensor]]
    location: Callable[[Tensor], Tensor]
    scale: Callable[[Tensor], Tensor]
    coupling: Callable[[Tensor], Tensor]
    finite: bool


def _doubles(weight: Tensor, table: Tensor) -> list[Tensor]:
    return [row.double() for row in weight]


def _same(snapped: Tensor) -> Tensor:
    return snapped


SNAPPED = Snap(_doubles, _same, _same, _same, True)


class Pixels:
    """Mixtures for pixels of c channels, whose component is shared by the channels of a pixel.

    Channel j's location moves linearly with the channels before it, and the weights become posterior weights after each
    channel (Salimans, Karpathy, Chen, Kingma 2017, arXiv:1701.05517), all in integers.

    weight: [k, ...]; loc, scale: [c, k, ...]; coupling: [c (c - 1) / 2, k, ...], in the order (1, 0), (2, 0), (2, 1):
    as `snap` takes them; base: integers [c, ...] in 1/LOC_STEPS bin, of any dtype, which locations are relative to, and
    couplings act on the pixels' distance from it (None: the middle of the axis); symbols and valid: [c, ...] in
    [0, bins).
    """

    def __init__(
        self, kind: str, weight: Tensor, loc: Tensor, scale: Tensor, coupling: Tensor, bins: int, valid: Tensor,
        base: Tensor | None = None, snap: Snap = SNAPPED,
    ) -> None:  # fmt: skip
        self.kind, self.bins, self.valid = kind, bins, valid
        self.flat = _rows(valid, torch.int32)
        channels, symbols = self.flat.shape
        if base is None:
            base = torch.full((channels, symbols), (bins - 1) * frequencies.LOC_STEPS // 2, device=valid.device)
        # Contiguous, as compiled code wants them.
        self.weight, loc, scale = weight.flatten(1).contiguous(), *(p.flatten(2).contiguous() for p in (loc, scale))
        self.planes = loc, scale, coupling.flatten(2).contiguous(), _rows(base, torch.float64)
        if not snap.finite:  # fused code, which snaps them, has no exceptions
            frequencies.check_finite("parameter", self.weight, loc, scale, coupling)
        device = valid.device
        self.exponentials = frequencies.exponentials(device, torch.float64)
        self.tables = frequencies.cdf_table(kind, device), frequencies.inverse_scales(device)
        self.before = _before(channels, device)
        self.functions = _functions(kind, bins, snap)

    def coded(self, x: Tensor) -> Tensor:
        """Pixels [c, ...] as `pop` returns them, with 0 where nothing is coded, since others' locations see them."""
        if x.shape != self.valid.shape:
            raise ValueError(f"push: expected symbols of shape {list(self.valid.shape)}, got {list(x.shape)}")
        rows = torch.where(self.flat != 0, _rows(x, torch.int64), 0)
        check_range(rows, self.bins)
        return rows

    def at(self, j: int, x: Any, k: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Locations and scales of channel j given those before it, the first rows of x: int64 [symbols] each.

        int32 [k, symbols], or [symbols] for component k of each. Other rows do not count; with k there may be none.
        """
        loc, scale, coupling, base = self.planes
        # As many couplings for each channel, so that one function does for all; those of others act on nothing.
        first, others = j * (j - 1) // 2, loc.shape[0] - 1
        rows = list(x[:others])
        rows += [k] * (others - len(rows))
        return self.functions.at(
            base[j], k, self.before[j], loc[j], scale[j], coupling[first : first + others], base[:others], rows
        )

    def chosen(self, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Locations and scales of component k of each symbol given all channels, int32 [c, symbols] each."""
        return self.functions.chosen(x, k, *self.planes)

    def prior(self) -> Tensor:
        """Weights of the components, int32 [k, symbols]."""
        return self.functions.weights(self.weight, self.exponentials)

    def posterior(self, x: Tensor, prior: Tensor, possible: bool = False) -> Tensor:
        """Weights of the components after the first channels, int64 [channels, symbols]: int32 [k, symbols].

        possible: see `frequencies.keep_possible`.
        """
        n = x.shape[0]
        if not n:
            return prior
        loc, scale, coupling, base = self.planes
        function = self.functions.possible if possible else self.functions.posterior
        return function(
            prior, x, self.flat[:n], loc[:n], scale[:n], coupling[: n * (n - 1) // 2], base[:n], *self.tables
        )


@functools.cache
def _before(channels: int, device: torch.device) -> Tensor:
    """Of each channel, 1 for those before it: float64 [channels, channels - 1]."""
    return torch.ones(channels, max(channels - 1, 0), dtype=torch.float64, device=device).tril(-1)


def _rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """[c, ...] as [c, symbols], contiguous, in one copy where the dtype is another."""
    return x.to(dtype, memory_format=torch.contiguous_format).flatten(1).contiguous()


class _Functions(NamedTuple):
    weights: Callable[..., Tensor]
    at: Callable[..., tuple[Tensor, Tensor]]
    chosen: Callable[..., tuple[Tensor, Tensor]]
    posterior: Callable[..., Tensor]
    possible: Callable[..., Tensor]


@functools.cache  # the same functions for the same kind, so that they are compiled once
def _functions(kind: str, bins: int, snap: Snap) -> _Functions:
    def move(loc: Tensor, base: Tensor, couplings: Iterable[Tensor], off: Iterable[Tensor]) -> Tensor:
        """Locations of a channel as integers in float64."""
        at = snap.location(loc).double() + base
        shift = [snap.coupling(c).double() * o for c, o in zip(couplings, off, strict=True)]
        return at + torch.floor(functools.reduce(torch.add, shift) * (1 / frequencies.COUPLING_STEPS)) if shift else at

    def away(x: Iterable[Tensor], base: Tensor) -> list[Tensor]:
        return [to_float64(row) * frequencies.LOC_STEPS - about for row, about in zip(x, base, strict=True)]

    def at(
        base: Tensor, k: Tensor | None, before: Tensor, loc: Tensor, scale: Tensor, coupling: Tensor, others: Tensor,
        x: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        mine, level, *couplings = (p if k is None else _chosen(p, k) for p in (loc, scale, *coupling))
        off = [row * counts for row, counts in zip(away(x, others), before, strict=True)]
        return to_int32(move(mine, base, couplings, off)), snap.scale(level).int()

    def chosen(
        x: Tensor, k: Tensor, loc: Tensor, scale: Tensor, coupling: Tensor, base: Tensor
    ) -> tuple[Tensor, Tensor]:
        off, found = away(x, base), []
        for j, about in enumerate(base):
            mine, level, *couplings = (
                _chosen(p, k) for p in (loc[j], scale[j], *coupling[j * (j - 1) // 2 : j * (j + 1) // 2])
            )
            found.append((to_int32(move(mine, about, couplings, off[:j])), snap.scale(level).int()))
        locs, scales = zip(*found, strict=True)
        return torch.stack(locs), torch.stack(scales)

    def reweighed(
        weight: Tensor, x: Tensor, valid: Tensor, loc: Tensor, scale: Tensor, coupling: Tensor, base: Tensor,
        table: Tensor, inverses: Tensor,
    ) -> list[Tensor]:  # fmt: skip
        off = away(x, base)
        after = [to_float64(row) for row in weight]
        for j, row in enumerate(to_float64(x)):
            at = move(loc[j], base[j], coupling[j * (j - 1) // 2 : j * (j + 1) // 2], off[:j])
            inverse = inverses[snap.scale(scale[j])]
            low, high = (frequencies.cdf(kind, edge, at, inverse, bins, table) for edge in (row, row + 1))
            # Of all components at once, written to memory in few bytes, and read again by the kernel that does the rest
            # with all of them in registers: written out over the components, these many lines would compile for long.
            mass = torch.where(valid[j] != 0, to_int32(high - low), 0)  # without a symbol weights stay as they are
            after = frequencies.reweigh(after, [to_float64(row) for row in mass])
        return after

    return _Functions(
        fusible(lambda weight, table: _counts(snap.weights(weight, table))),
        fusible(at),
        fusible(chosen),
        fusible(lambda *arguments: _counts(reweighed(*arguments))),
        fusible(lambda prior, *rest: _counts(frequencies.keep_possible(reweighed(prior, *rest), prior))),
    )


def _counts(rows: Iterable[Tensor]) -> Tensor:
    return torch.stack([to_int32(row) for row in rows])


def _chosen(values: Tensor, k: Tensor) -> Tensor:
    """[k, symbols] and the component of each symbol, int64 [symbols] -> [symbols]."""
    if not torch.compiler.is_compiling():
        return values.gather(0, k[None])[0]
    result, which = values[0], k.int()
    for i, row in enumerate(values[1:], start=1):  # compiled, reading all in order is faster than to gather
        result = torch.where(which == i, row, result)
    return result


def coupled_mixture(*arguments: Any, precision: int = PRECISION, **options: Any) -> Codec:
    """Codec of `Pixels` (the same arguments) by a search in the whole mixture: needs no bits on the message."""
    p = Pixels(*arguments, **options)

    def channel(j: int, x: Tensor, prior: Tensor) -> Codec:
        return mixture(p.kind, p.posterior(x[:j], prior), *p.at(j, x), p.bins, precision, p.flat[j])

    def push(message: Message, x: Tensor) -> None:
        rows = p.coded(x)
        with fusing(message.compiled):
            prior = p.prior()
            for j in reversed(range(len(rows))):
                channel(j, rows, prior).push(message, rows[j])

    def pop(message: Message) -> Tensor:
        x = torch.zeros_like(p.flat, dtype=torch.int64)
        with fusing(message.compiled):
            prior = p.prior()
            for j in range(len(x)):
                x[j] = channel(j, x, prior).pop(message)
        return x.reshape(p.valid.shape)

    return Codec(push, pop)


def drawn_mixture(*arguments: Any, **options: Any) -> Codec:
    """Codec of `Pixels` (the same arguments) with each pixel's component as a latent variable, coded with bits back.

    The same expected cost as `coupled_mixture` and a search in one component instead of k; but the message must hold
    the bits that draw the components, at most log2(k) a pixel.
    """
    p = Pixels(*arguments, **options)
    some = functools.reduce(torch.maximum, p.flat)

    def posterior(x: Tensor, prior: Tensor) -> Codec:
        return _components(p.posterior(x, prior, possible=True), some)

    def push(message: Message, x: Tensor) -> None:
        rows = p.coded(x)
        with fusing(message.compiled):
            prior = p.prior()
            k = posterior(rows, prior).pop(message)
            loc, scale = p.chosen(rows, k)
            if len(k) % message.lanes:  # lanes are filled up after each channel
                for j in reversed(range(len(rows))):
                    location_scale(p.kind, loc[j], scale[j], p.bins, 1, valid=p.flat[j]).push(message, rows[j])
            else:  # the same words by fewer and larger calls
                location_scale(p.kind, loc, scale, p.bins, 1, valid=p.flat).push(message, rows)
            _components(prior, some).push(message, k)

    def pop(message: Message) -> Tensor:
        found: list[Tensor] = []
        with fusing(message.compiled):
            prior = p.prior()
            k = _components(prior, some).pop(message)
            for j, valid in enumerate(p.flat):
                found.append(location_scale(p.kind, *p.at(j, found, k), p.bins, 1, valid=valid).pop(message))
            x = torch.stack(found)
            posterior(x, prior).push(message, k)
        return x.reshape(p.valid.shape)

    return Codec(push, pop)


def weighted(weight: Tensor, valid: Tensor) -> Codec:
    """Codec of component numbers in [0, k) with weights of their own: int64 [k, ...] of `frequencies.weights`."""
    return _components(weight.flatten(1).int(), valid)


def _components(weight: Tensor, valid: Tensor) -> Codec:
    return interval_codec(
        _component_interval, _find_component, [weight], [], weight.shape[0], valid, frequencies.WEIGHT_BITS,
        COMPONENT_STEPS, light=True,
    )  # fmt: skip


def _component_interval(k: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    low = freq = torch.zeros_like(weight[0])
    for i, row in enumerate(weight):
        low = low + torch.where(k > i, row, 0)
        freq = torch.where(k == i, row, freq)
    return low.long(), freq.long()


def _find_component(u: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    k, start, freq, upper = (torch.zeros_like(weight[0]) for _ in range(4))
    u = u.int()
    for row in weight:
        here = (upper <= u) & (u < upper + row)
        start, freq = torch.where(here, upper, start), torch.where(here, row, freq)
        upper = upper + row
        k = k + (upper <= u)
    return k.long(), start.long(), freq.long()
