"""Word vectors in a .tkc file: written at any rate, loaded into gensim, or read a word at a time.

docs/format.md, section "Word vectors", is the specification.
"""

from __future__ import annotations

import os

from toolkit.embeddings.exporting import export
from toolkit.embeddings.file import Embeddings, Quantised, load, write
from toolkit.embeddings.search import METHODS, fit, groups, quantise

__all__ = ["METHODS", "Embeddings", "Quantised", "export", "fit", "groups", "load", "open", "quantise", "write"]


def open(path: str | os.PathLike[str]) -> Embeddings:
    """Open a file to read single words. Raises ValueError, or a subclass, for a file that is none or is damaged."""
    return Embeddings(path)
