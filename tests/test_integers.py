"""Conversions, products and quotients as compiled code does them: those of plain integers, bit for bit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolkit.coding import frequencies
from toolkit.coding.integers import divide, multiply, to_float64, to_int32, to_int64

BITS = 51


@pytest.fixture(params=[False, True], ids=["plain", "as compiled"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr("torch.compiler.is_compiling", lambda: request.param)
    return bool(request.param)


def edges(bits: int) -> list[int]:
    """Integers in [0, 2**bits) around powers of two, and some between."""
    found = {(1 << i) + d for i in range(bits + 1) for d in (-2, -1, 0, 1)} | {0x5DEECE66D % (1 << bits)}
    return sorted(x for x in found if 0 <= x < 1 << bits)


def test_integers_up_to_2_51_keep_their_value_in_either_type(way: bool) -> None:
    x = torch.tensor([*edges(BITS), 1 << BITS])
    x = torch.cat([x, -x])
    assert torch.equal(to_float64(x), x.double())
    assert torch.equal(to_int64(x.double()), x)
    small = x[x.abs() < 1 << 31]
    assert torch.equal(to_float64(small.int()), small.double())
    assert torch.equal(to_int32(small.double()), small.int())


@pytest.mark.parametrize("precision", [1, 8, 11, 12, 16, 24, 28])
def test_products_and_quotients_of_heads_are_exact(way: bool, precision: int) -> None:
    bits = 63 - precision  # of what a head holds above a symbol's bits
    freqs = [f for f in edges(precision + 1) if 1 <= f <= 1 << precision]
    a, b = torch.tensor([(a, b) for a in edges(bits) for b in freqs]).unbind(1)
    product = [x * y for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert multiply(a, b, bits).tolist() == product
    # Heads that leave every remainder, the first and the last included.
    for rest in (torch.zeros_like(b), b - 1, b // 2):
        quotient, left = divide(torch.tensor(product) + rest, b, bits)
        assert torch.equal(quotient, a)
        assert torch.equal(left, rest)


@given(st.integers(0, (1 << frequencies.CDF_BITS)), st.integers(1, 28), st.integers(1, 256), st.integers(0, 1))
def test_starts_are_those_of_integers_of_any_size(y: int, precision: int, bins: int, least: int) -> None:
    if least * bins > 1 << precision:
        return
    found = frequencies.start(torch.tensor(y).double(), torch.tensor(3).double(), bins, precision, least)
    assert int(found) == (y * ((1 << precision) - least * bins) >> frequencies.CDF_BITS) + least * 3
