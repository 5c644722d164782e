"""What heads of pictures are given to compress."""

from __future__ import annotations

from pathlib import Path

from toolkit import cli
from toolkit.images.source import Source


def some(given: Source | None, folder: Path) -> Source:
    """The pictures that are given. Raises ValueError if there are none, of a run that codes pictures."""
    if given is None:
        line = cli.command_line("compress", "PICTURES", "FILE.tkc", f"run={folder}")
        raise ValueError(f"expected a run of word vectors, got {folder}, whose model codes pictures; use {line}")
    return given
