"""Tensors of exact networks in half their bytes or fewer: they hold integers, times a power of two for each output."""

from __future__ import annotations

import torch
from torch import Tensor

SIDE = ".packed"  # after the name of a packed tensor: what unpacks it; no module's tensor is called so


def pack(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by name, those that fit in integers of 8 or 16 bits; others stay as they are.

    float32 [n, ...], weights, become integers of that shape and, under the name with `SIDE`, int16 [n], powers of two
    that rows are multiplied by. float32 [n], tables, become differences of neighbours [n] and int32 [2]: a power of two
    and the number that the first differs from.
    """
    found = {}
    for name, value in state.items():
        packed = None
        if value.dtype == torch.float32 and value.numel() and bool(value.isfinite().all()):
            packed = _weights(value) if value.dim() > 1 else _table(value) if value.dim() else None
        if packed is None:
            found[name] = value
        else:
            found[name], found[name + SIDE] = packed
    return found


def unpack(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What `pack` was given; tensors that it did not change come back as they are."""
    found = {}
    for name, value in state.items():
        side = state.get(name + SIDE)
        if side is None:
            if not name.endswith(SIDE):
                found[name] = value
        elif value.dim() > 1:
            found[name] = torch.ldexp(value.double(), side.view(-1, *[1] * (value.dim() - 1))).float()
        else:
            found[name] = torch.ldexp((value.long().cumsum(0) + side[1]).double(), side[0]).float()
    return found


def _weights(value: Tensor) -> tuple[Tensor, Tensor] | None:
    powers = _powers(value.flatten(1)).amin(1)
    whole = _narrow(torch.ldexp(value.double(), -powers.view(-1, *[1] * (value.dim() - 1))))
    return None if whole is None else (whole, powers.to(torch.int16))


def _table(value: Tensor) -> tuple[Tensor, Tensor] | None:
    power = _powers(value).amin()
    whole = torch.ldexp(value.double(), -power)
    differences = _narrow(whole.diff(prepend=whole[:1]))
    if differences is None or float(whole.abs().max()) >= 1 << 31:
        return None
    return differences, torch.stack([power, whole[0].long()]).to(torch.int32)


def _powers(value: Tensor) -> Tensor:
    """Of each number the largest power of two that it is a multiple of: float32 [...] -> int64 [...]; 127 of 0."""
    mantissa, exponent = torch.frexp(value.double())
    digits = torch.ldexp(mantissa, torch.tensor(24)).long()  # all that float32 has
    low = torch.frexp((digits & -digits).double())[1].long() - 1
    return torch.where(digits == 0, 127, low + exponent - 24)


def _narrow(whole: Tensor) -> Tensor | None:
    """Integers in float64 as the narrowest type that holds them; None: 16 bits are too few."""
    most = float(whole.abs().max())
    return None if most >= 1 << 15 else whole.to(torch.int8 if most < 1 << 7 else torch.int16)
