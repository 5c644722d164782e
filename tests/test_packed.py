"""Tensors of exact networks take half their bytes or fewer, and come back as they were."""

import pytest
import torch
from torch import Tensor

from tests.tiny import bitswap, images
from toolkit.nets.packed import SIDE, pack, unpack


def size(state: dict[str, Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in state.values())


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return list(first) == list(second) and all(
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
        for a, b in zip(first.values(), second.values(), strict=True)
    )


def test_an_exact_network_comes_back_from_half_its_bytes() -> None:
    state = bitswap(width=24).exact(images(64)).state_dict()
    packed = pack(state)
    assert same(unpack(packed), state)
    assert size(packed) < 0.5 * size(state)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (torch.tensor([[1.0, -3.0], [0.0, 0.0], [2.0**-20, 127 * 2.0**-20]]), torch.int8),
        (torch.tensor([[2.0**100, -(2.0**114)], [-32767.0, 1.0]]), torch.int16),
        (torch.arange(-90_000, 90_000, 3).float(), torch.int8),  # a table
        (torch.arange(5).float() * 1000 * 2.0**-30, torch.int8),  # 1000 and 2 to some power
        (torch.tensor([5.0, 5.0, 2.0**14]), torch.int16),
        (torch.tensor([[1.0, 32768.0]]), torch.float32),  # too far apart
        (torch.tensor([[1.0, 1.0 + 2.0**-23]]), torch.float32),
        (torch.tensor([1.0, 2.0**-130]), torch.float32),
        (torch.tensor([2.0**31, 2.0**31 + 2.0**8, 3.0]), torch.float32),
        (torch.tensor([float("inf"), 1.0]), torch.float32),
        (torch.tensor(3.0), torch.float32),  # a number alone
        (torch.zeros(0), torch.float32),
        (torch.zeros(0, 3), torch.float32),
        (torch.zeros(4), torch.int8),
        (torch.tensor([0.5, 1.5], dtype=torch.float64), torch.float64),
        (torch.arange(4), torch.int64),
    ],
    ids=str,
)
def test_a_tensor_is_packed_where_that_loses_nothing(value: Tensor, dtype: torch.dtype) -> None:
    packed = pack({"a.weight": value, "b": torch.ones(1, dtype=torch.int64)})
    assert packed["a.weight"].dtype == dtype and (("a.weight" + SIDE) in packed) == (dtype != value.dtype)
    assert same(unpack(packed), {"a.weight": value, "b": torch.ones(1, dtype=torch.int64)})


def test_random_floats_stay_as_they_are() -> None:
    state = {"weight": torch.randn(8, 5, generator=torch.Generator().manual_seed(0))}
    assert same(pack(state), state) and same(unpack(state), state)
