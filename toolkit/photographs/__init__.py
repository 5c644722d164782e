"""Lossless pictures by models that learn while they code, in loops that need numpy and Numba alone."""
