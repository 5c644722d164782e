"""Rounding whose errors make up for each other."""

import pytest
import torch

from toolkit.coding.rounding import compensated


def test_sums_of_products_are_nearer_than_by_rounding_each_number() -> None:
    rng = torch.Generator().manual_seed(0)
    shared = torch.randn(4000, 1, generator=rng).double()
    inputs = shared + 0.2 * torch.randn(4000, 12, generator=rng).double()
    weights = 4 * torch.randn(50, 12, generator=rng).double()
    factor = torch.linalg.cholesky(torch.linalg.inv(inputs.T @ inputs / len(inputs))).T
    found = compensated(weights, factor)
    assert torch.equal(found, found.round())

    def error(of: torch.Tensor) -> float:
        return float((inputs @ (of - weights).T).square().mean())

    assert error(found) < 0.3 * error(weights.round())
    assert torch.equal(
        compensated(weights, torch.eye(12).double()), weights.round()
    )  # inputs that have nothing in common


@pytest.mark.parametrize("most", [1.0, 3.0])
def test_integers_do_not_exceed_the_largest(most: float) -> None:
    weights = torch.tensor([[9.0, -9.0, 0.4]]).double()
    assert torch.equal(compensated(weights, torch.eye(3).double(), most), torch.tensor([[most, -most, 0.0]]).double())
