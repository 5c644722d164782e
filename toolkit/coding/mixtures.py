"""Codecs of symbols under mixtures of logistics or Gaussians, each symbol with parameters of its own.

Everything here is integer arithmetic on snapped parameters (see `frequencies`), pointwise over symbols, and written out
over the few components and channels so that `fuse` makes one kernel of it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from toolkit.coding import frequencies
from toolkit.coding.ans import Message
from toolkit.coding.codecs import PRECISION, Codec, check_range, interval_codec, location_scale, searched
from toolkit.coding.fuse import fusible, fusing


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
        # Tensors of their own: torch.compile tells views of different offsets apart.
        self.flat = [row.flatten().clone() for row in valid]
        if base is None:
            base = torch.full(
                (len(valid), len(self.flat[0])), (bins - 1) * frequencies.LOC_STEPS // 2, device=valid.device
            )
        self.base = base.flatten(1).contiguous()
        # Contiguous, because torch.compile makes a slower graph of its own for other strides.
        self.planes = [weight.flatten(1).contiguous(), *(p.flatten(2).contiguous() for p in (loc, scale, coupling))]
        if not snap.finite:  # fused code, which snaps them, has no exceptions
            frequencies.check_finite("parameter", *self.planes)
        device = valid.device
        self.exponentials = frequencies.exponentials(device, torch.float64)
        self.tables = frequencies.cdf_table(kind, device), frequencies.inverse_scales(device), self.exponentials
        self.functions = _functions(kind, bins, snap)

    def coded(self, x: Tensor) -> list[Tensor]:
        """Pixels [c, ...] as `pop` returns them, with 0 where nothing is coded, since others' locations see them."""
        if x.shape != self.valid.shape:
            raise ValueError(f"push: expected symbols of shape {list(self.valid.shape)}, got {list(x.shape)}")
        rows = [torch.where(there, row.flatten().long(), 0) for there, row in zip(self.flat, x, strict=True)]
        for row in rows:
            check_range(row, self.bins)
        return rows

    def at(self, j: int, x: Sequence[Tensor], k: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Locations and scales of channel j given those before it: int32 [k, symbols], or [symbols] for component k."""
        return self.functions.at(j)(list(x[:j]), k, *self.planes[1:], self.base)

    def all_at(self, x: Sequence[Tensor], k: Tensor) -> tuple[Tensor, Tensor]:
        """Locations and scales of all channels for component k of each pixel: int32 [c, symbols]."""
        return self.functions.all_at(list(x), k, *self.planes[1:], self.base)

    def posterior(self, x: Sequence[Tensor]) -> Tensor:
        """Weights of the components after the channels in x, int64 [k, symbols]."""
        return self.functions.posterior(list(x), self.flat[: len(x)], *self.planes, self.base, *self.tables)


class _Functions(NamedTuple):
    at: Callable[[int], Callable[..., tuple[Tensor, Tensor]]]
    all_at: Callable[..., tuple[Tensor, Tensor]]
    posterior: Callable[..., Tensor]
    components: Callable[..., Tensor]
    components_after: Callable[..., Tensor]


@functools.cache  # the same functions for the same kind, so that they are compiled once
def _functions(kind: str, bins: int, snap: Snap) -> _Functions:
    def couplings(j: int) -> slice:
        return slice(j * (j - 1) // 2, j * (j + 1) // 2)

    def move(j: int, x: list[Tensor], base: Tensor, loc: Tensor, *coupling: Tensor) -> Tensor:
        """Locations of channel j as integers in float64."""
        at = snap.location(loc).double() + base[j].double()
        if j:
            off = [(x[i] * frequencies.LOC_STEPS - base[i]).double() for i in range(j)]
            shift = (snap.coupling(c).double() * off[i] for i, c in enumerate(coupling))
            at = at + torch.floor(functools.reduce(torch.add, shift) * (1 / frequencies.COUPLING_STEPS))
        return at

    def moved(
        j: int, x: list[Tensor], k: Tensor | None, loc: Tensor, scale: Tensor, coupling: Tensor, base: Tensor
    ) -> tuple[Tensor, Tensor]:
        mine = [p if k is None else _chosen(p, k) for p in (scale[j], loc[j], *coupling[couplings(j)])]
        return move(j, x, base, *mine[1:]).int(), snap.scale(mine[0]).int()

    def all_moved(x: list[Tensor], k: Tensor, *arguments: Tensor) -> tuple[Tensor, Tensor]:
        loc, scale = zip(*(moved(j, x, k, *arguments) for j in range(len(x))), strict=True)
        return torch.stack(loc), torch.stack(scale)

    def after(
        x: list[Tensor], valid: list[Tensor], weight: Tensor, loc: Tensor, scale: Tensor, coupling: Tensor,
        base: Tensor, table: Tensor, inverses: Tensor, exponentials: Tensor,
    ) -> list[Tensor]:  # fmt: skip
        weights, x = snap.weights(weight, exponentials), [row.double() for row in x]

        for j in range(len(x)):
            at, inverse = move(j, x, base, loc[j], *coupling[couplings(j)]), inverses[snap.scale(scale[j])]
            low, high = (frequencies.cdf(kind, edge, at, inverse, bins, table) for edge in (x[j], x[j] + 1))
            # Of all components at once, written to memory in few bytes, and read again by the kernel that does the rest
            # with all of them in registers: written out over the components, these many lines would compile for long.
            mass = (high - low).int()
            moved = frequencies.reweigh(weights, [row.double() for row in mass])
            weights = [torch.where(valid[j], new, old) for new, old in zip(moved, weights, strict=True)]
        return weights

    def components_after(*arguments: Any) -> Tensor:
        return _uppers(frequencies.keep_possible(after(*arguments), snap.weights(arguments[2], arguments[-1])))

    return _Functions(
        functools.cache(lambda j: fusible(functools.partial(moved, j))),
        fusible(all_moved),
        fusible(lambda *arguments: torch.stack(after(*arguments)).long()),
        fusible(lambda weight, table: _uppers(snap.weights(weight, table))),
        fusible(components_after),
    )


def _chosen(values: Tensor, k: Tensor) -> Tensor:
    """[k, symbols] and the component of each symbol, int64 [symbols] -> [symbols]."""
    if not torch.compiler.is_compiling():
        return values.gather(0, k[None])[0]
    result = values[0]
    for i, row in enumerate(values[1:], start=1):  # compiled, reading all in order is faster than to gather
        result = torch.where(k == i, row, result)
    return result


def coupled_mixture(*arguments: Any, precision: int = PRECISION, **options: Any) -> Codec:
    """Codec of `Pixels` (the same arguments) by a search in the whole mixture: needs no bits on the message."""
    p = Pixels(*arguments, **options)

    def channel(j: int, x: Sequence[Tensor]) -> Codec:
        return mixture(p.kind, p.posterior(x[:j]), *p.at(j, x), p.bins, precision, p.flat[j])

    def push(message: Message, x: Tensor) -> None:
        rows = p.coded(x)
        with fusing(message.compiled):
            for j in reversed(range(len(rows))):
                channel(j, rows).push(message, rows[j])

    def pop(message: Message) -> Tensor:
        x: list[Tensor] = []
        with fusing(message.compiled):
            for j in range(len(p.flat)):
                x.append(channel(j, x).pop(message))
        return torch.stack(x).reshape(p.valid.shape)

    return Codec(push, pop)


def drawn_mixture(*arguments: Any, **options: Any) -> Codec:
    """Codec of `Pixels` (the same arguments) with each pixel's component as a latent variable, coded with bits back.

    The same expected cost as `coupled_mixture` and a search in one component instead of k; but the message must hold
    the bits that draw the components, at most log2(k) a pixel.
    """
    p = Pixels(*arguments, **options)
    some = torch.stack(p.flat).any(0)

    def prior() -> Codec:
        return _components(p.functions.components(p.planes[0], p.exponentials), some)

    def posterior(x: list[Tensor]) -> Codec:
        return _components(p.functions.components_after(x, p.flat, *p.planes, p.base, *p.tables), some)

    def push(message: Message, x: Tensor) -> None:
        rows = p.coded(x)
        with fusing(message.compiled):
            k = posterior(rows).pop(message)
            loc, scale = p.all_at(rows, k)
            if len(k) % message.lanes:  # lanes are filled up after each channel
                for j in reversed(range(len(rows))):
                    location_scale(p.kind, loc[j], scale[j], p.bins, 1, valid=p.flat[j]).push(message, rows[j])
            else:  # the same words by fewer and larger calls
                location_scale(p.kind, loc, scale, p.bins, 1, valid=torch.stack(p.flat)).push(
                    message, torch.stack(rows)
                )
            prior().push(message, k)

    def pop(message: Message) -> Tensor:
        rows: list[Tensor] = []
        with fusing(message.compiled):
            k = prior().pop(message)
            for j in range(len(p.flat)):
                channel = location_scale(p.kind, *p.at(j, rows, k), p.bins, 1, valid=p.flat[j])
                rows.append(channel.pop(message))
            posterior(rows).push(message, k)
        return torch.stack(rows).reshape(p.valid.shape)

    return Codec(push, pop)


def weighted(weight: Tensor, valid: Tensor) -> Codec:
    """Codec of component numbers in [0, k) with weights of their own: int64 [k, ...] of `frequencies.weights`."""
    return _components(_uppers(weight.flatten(1)), valid)


def _uppers(weight: Iterable[Tensor]) -> Tensor:
    """Weights of each component summed up to and with each, int32 [k, symbols]."""
    return torch.stack(list(itertools.accumulate(weight))).int()


def _components(upper: Tensor, valid: Tensor) -> Codec:
    return interval_codec(
        _component_interval, _find_component, [upper], [], len(upper), valid, frequencies.WEIGHT_BITS, light=True
    )


def _component_interval(k: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    low = torch.where(k > 0, _chosen(upper, (k - 1).clamp(min=0)), 0)
    return low.long(), (_chosen(upper, k) - low).long()


def _find_component(u: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    k, low, high = torch.zeros_like(u), torch.zeros_like(u), upper[-1].long()
    for row in reversed(list(upper[:-1])):
        passed = row <= u
        k, low = k + passed, torch.maximum(low, torch.where(passed, row, 0))
        high = torch.where(passed, high, row)
    return k, low, high - low
