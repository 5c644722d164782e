"""A command in several processes, as torchrun starts them but sooner: forked from one that has imported all."""

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["toolkit.compress", "toolkit.decompress", "toolkit.runs", "recipes.bitswap"])


class Ended(NamedTuple):
    """How the processes ended, by rank, and when the last one did."""

    status: list[int | None]
    out: list[str]
    err: list[str]
    at: float


def several(count: int, command: str, *arguments: str, sabotage: str | None = None, logs: Path) -> Ended:
    """Run toolkit.COMMAND in so many ranks; sabotage: MODULE:FUNCTION, which each calls first with its rank."""
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        port = taken.getsockname()[1]
    logs.mkdir(exist_ok=True)
    until = time.monotonic() + 180
    every: list[Any] = [
        CONTEXT.Process(target=_one, args=(rank, count, port, command, arguments, sabotage, logs))
        for rank in range(count)
    ]
    for process in every:
        process.start()
    for process in every:
        process.join(max(until - time.monotonic(), 0))
        if process.exitcode is None:
            process.kill()
    at = time.time()
    texts = [[(logs / f"{rank}.{name}").read_text() for rank in range(count)] for name in ("out", "err")]
    return Ended([process.exitcode for process in every], *texts, at)


def _one(
    rank: int, count: int, port: int, command: str, arguments: Sequence[str], sabotage: str | None, logs: Path
) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(logs / f"{rank}.{name}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    # Those that a process inherits may be what pytest put there.
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    if sabotage:
        module, _, name = sabotage.partition(":")
        getattr(import_module(module), name)(rank)
    sys.exit(import_module(f"toolkit.{command}").main(list(arguments)))
