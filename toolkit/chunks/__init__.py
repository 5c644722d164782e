"""Rows of any shape and dtype, and a model, to bytes and back."""
