"""Train probabilistic models and turn them into working compressors."""

import importlib
import os
from typing import Any

# Threads of torch (GNU OpenMP) that wait for work spin for a millisecond. Beside another program that does so, both
# become up to ten times as slow; after a thirtieth of the time they sleep instead, which costs an idle machine a few
# percent. It has to be said before torch is imported. What a user has set stays.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def __getattr__(name: str) -> Any:
    """`toolkit.open` and `toolkit.Writer`, imported when they are asked for."""
    names = {"open": "Archive", "Archive": "Archive", "Writer": "Writer"}
    if name not in names:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("toolkit.archive"), names[name])
