"""Data modules over integer tensors, and a person's own files as rows of a model."""

from toolkit.data.tkc import TkcDataset, TkcIterableDataset

__all__ = ["TkcDataset", "TkcIterableDataset"]
