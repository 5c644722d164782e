"""Photographs, lossless: a model whose experts learn while it codes, in loops that need numpy and Numba alone."""
