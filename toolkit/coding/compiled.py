"""How loops are compiled by Numba: `jit` for those that Python calls, `inline` for what becomes part of one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import numba
from numba.core import event
from tqdm import tqdm

# Without a run-time that counts references to arrays: counting took longer than coding.
OPTIONS: dict[str, Any] = {"error_model": "numpy", "boundscheck": False, "_nrt": False}
inline: Any = numba.njit(forceinline=True, **OPTIONS)
_made: dict[Any, bool] = {}  # loops, and whether they are kept on disk


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled when it is first called; kept on disk where a folder for that can be written."""
    make: Any = numba.njit
    try:
        loop = make(function, cache=True, nogil=True, **OPTIONS)
        _made[loop] = True
    except RuntimeError:  # no such folder
        loop = make(function, nogil=True, **OPTIONS)
        _made[loop] = False
    return loop  # type: ignore[no-any-return]


class _Note(event.Listener):
    """One line on standard error when loops are compiled, as that takes long; one from disk is no such event."""

    told = False

    def on_start(self, event: Any) -> None:
        loop = event.data["dispatcher"]
        if self.told or loop not in _made or os.environ.get("LOCAL_RANK", "0") != "0":  # of torchrun's, one says it
            return
        self.told = True
        often = "once" if _made[loop] else "each time, as there is no folder to keep it in: set NUMBA_CACHE_DIR to one"
        # Above progress bars.
        tqdm.write(f"compiling the coder for this processor, half a minute or more ({often})", file=sys.stderr)

    def on_end(self, event: Any) -> None:
        pass


event.register("numba:compile", _Note())
