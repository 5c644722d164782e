"""Numbers rounded to integers one after another, so that the errors of a sum of products cancel."""

from __future__ import annotations

import math

from torch import Tensor


def compensated(weights: Tensor, factor: Tensor, most: float = math.inf) -> Tensor:
    """Rows of weights as integers, where each error is made up for by the weights after it.

    weights: float64 [rows, n], in units of the integers; factor: float64 [n, n], upper, of which factor^T factor is the
    inverse of the mean products of what the weights are multiplied with; most: magnitude of the integers. Returns
    float64 [rows, n]. (Frantar et al. 2022, arXiv:2210.17323.)
    """
    left = weights.clone()
    for i, row in enumerate(factor):
        exact = left[:, i].clone()
        left[:, i] = exact.round().clamp(-most, most)
        left[:, i + 1 :] -= ((exact - left[:, i]) / row[i])[:, None] * row[i + 1 :]
    return left
