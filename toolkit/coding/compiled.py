"""How loops are compiled by Numba: `jit` for those that Python calls, `inline` for what becomes part of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

# Without a run-time that counts references to arrays: counting took longer than coding.
OPTIONS: dict[str, Any] = {"error_model": "numpy", "boundscheck": False, "_nrt": False}
inline: Any = numba.njit(forceinline=True, **OPTIONS)


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled when it is first called; kept on disk where a folder for that can be written."""
    make: Any = numba.njit
    try:
        return make(function, cache=True, nogil=True, **OPTIONS)
    except RuntimeError:  # no such folder
        return make(function, nogil=True, **OPTIONS)
