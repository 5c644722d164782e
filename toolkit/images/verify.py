"""Whether a file that was just made gives back the pictures that it was made of."""

from __future__ import annotations

import numpy as np
from tqdm import tqdm

from toolkit.container import ContainerError
from toolkit.images.restore import Contents
from toolkit.images.source import Source

OPTION = "true: decode the file before it gets its name, and compare every pixel; takes as long again (default false)"


def verify(contents: Contents, origin: Source, progress: bool = True) -> None:
    """Decode the pictures of a file and compare them with those given. ValueError names one that differs."""
    with tqdm(
        total=contents.select(range(len(origin.items))), unit=contents.unit, desc="verifying", disable=not progress
    ) as bar:
        for i, item in enumerate(origin.items):
            cause, found = None, None
            try:
                found, _ = contents.picture(i, None, lambda _: None, bar.update)
            except ContainerError as error:
                cause = error
            given = origin.picture(i)
            if found is None or found.dtype != given.dtype or not np.array_equal(found, given):
                name = f"{item.name}, image {i}" if origin.array else item.name
                raise ValueError(
                    f"{name}: expected the pixels that were given, got others when the file was decoded, which is "
                    "not kept; keep the picture, and report this fault of the coder with it"
                ) from cause
