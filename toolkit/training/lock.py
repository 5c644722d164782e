"""A run's folder belongs to one training at a time."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

LOCK = "training.lock"  # in the folder, while a training goes on


@contextlib.contextmanager
def held(run: Path) -> Iterator[None]:
    """Keep a run's folder to this training. Raises ValueError if another has it.

    The system lets go of the lock when the process ends, however it does: a file that is left stops nobody.
    """
    run.mkdir(parents=True, exist_ok=True)
    path = run / LOCK
    with open(path, "a+") as file:
        if not _locked(file.fileno(), path):
            file.seek(0)
            raise ValueError(
                f"expected a run that no training works on, got {run}, on which {file.read() or 'another'} works; wait "
                "until it ends, or stop it"
            )
        try:
            file.truncate(0)
            file.write(f"process {os.getpid()} of {socket.gethostname()}")
            file.flush()
            yield
        finally:
            path.unlink(missing_ok=True)


def _locked(file: int, path: Path) -> bool:
    """Lock an open file; whether no other process has, and it is still the one of that name."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # a system, or a file system, without locks
        return True
    return path.exists() and os.path.samestat(os.fstat(file), os.stat(path))
