"""Lossless pictures with nothing to train: models that learn while they code."""
