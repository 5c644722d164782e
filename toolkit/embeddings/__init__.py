"""Word vectors in a .tkc file: written at any rate, loaded into gensim, or read a word at a time.

docs/format.md, section "Word vectors", is the specification.
"""

from __future__ import annotations

import os
from typing import Any

import torch

from toolkit.embeddings import tables
from toolkit.embeddings.exporting import export
from toolkit.embeddings.file import Embeddings, Quantised, load, write
from toolkit.embeddings.search import METHODS, fit, groups, quantise

__all__ = [
    "METHODS", "Embeddings", "Quantised", "export", "fit", "groups", "layer", "load", "open", "quantise", "static",
    "write",
]  # fmt: skip


def open(path: str | os.PathLike[str]) -> Embeddings:
    """Open a file to read single words. Raises ValueError, or a subclass, for a file that is none or is damaged."""
    return Embeddings(path)


def layer(path: str | os.PathLike[str]) -> torch.nn.Embedding:
    """The vectors of a file as a layer that is not trained, row i for word i of the file: float32 [words, d]."""
    with Embeddings(path) as file:
        return torch.nn.Embedding.from_pretrained(file.vectors())


def static(path: str | os.PathLike[str], library: str = "model2vec") -> Any:
    """A file of static sentence embeddings as a model2vec StaticModel, or a sentence-transformers StaticEmbedding.

    library: model2vec or sentence_transformers, which must be installed (ImportError). Raises ValueError for a file
    without a tokenizer and for another library.
    """
    with Embeddings(path) as file:
        if file.kept is None:
            raise ValueError(
                f"{path}: expected static sentence embeddings with their tokenizer, got words; make the file from the "
                "model's folder, or from its table with names=tokenizer.json"
            )
        return tables.model(file.vectors(), file.kept, library)
