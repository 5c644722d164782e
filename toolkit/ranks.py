"""Work dealt over the processes that torchrun started: the first hands out jobs and takes their results in order.

The others do jobs until there are none, and write nothing. Where torchrun started no process, threads do all.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

from toolkit.coding.threads import AWAKE, daemons, processors, threads
from toolkit.container import clean

MOST_AHEAD = 1 << 27  # values that the jobs of a rank hold at a time, unless it has one alone
QUEUED = 4  # jobs a thread, at most, whose results have not been taken, where there are several ranks
CLEANING = 2.0  # seconds
NEVER = timedelta(days=1000)  # a job takes as long as it takes; ranks that are gone are known by their connections
J = TypeVar("J")
R = TypeVar("R")


class Hello(NamedTuple):
    """What a rank tells the first one when it is ready."""

    threads: int
    work: str  # a digest of what the ranks must agree on
    error: str = ""  # instead


class Failed(NamedTuple):
    """Instead of a result."""

    error: Exception


class Done(NamedTuple):
    """Instead of a job: its result, which is known."""

    result: Any


class _Over(BaseException):
    """Leaves the block of `joined`, so that what it has opened is closed."""


class RankLostError(ConnectionError):
    """A process ended before its work was done."""


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """A block that Ctrl-C and SIGTERM end at once, with the process.

    A wait in C++ for a process that has died lets no handler of Python run, until torchrun kills this one after 30 s.
    """
    ours = threading.current_thread() is threading.main_thread()
    before = [(number, signal.signal(number, signal.SIG_DFL)) for number in (signal.SIGINT, signal.SIGTERM) if ours]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


class _Group:
    """The processes, as one of them sees them: a thread listens to each other one that it talks with."""

    def __init__(self) -> None:
        import torch
        import torch.distributed as dist

        torch.set_num_threads(processors())  # torchrun asks for one thread a process
        with _ended_by_signals():
            dist.init_process_group("gloo", timeout=NEVER)
        self._dist, self._sending = dist, threading.Lock()
        self.done = False  # whether the first one needs the others no more
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.others = range(1, self.size) if self.rank == 0 else range(1)
        self.inbox: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()  # (rank, message or Exception)
        self._listeners = [threading.Thread(target=self._listen, args=(other,), daemon=True) for other in self.others]
        for thread in self._listeners:
            thread.start()

    def send(self, message: Any, to: int) -> None:
        """Send an object to a rank. If that fails, `next` raises why: threads that send have nobody to tell."""
        try:
            with self._sending:
                self._dist.send_object_list([message], dst=to)
        except Exception as error:
            self._failed(to, error)

    def _listen(self, other: int) -> None:
        try:
            while True:
                found: list[Any] = [None]
                self._dist.recv_object_list(found, src=other)
                self.inbox.put((other, found[0]))
        except Exception as error:
            self._failed(other, error)

    def _failed(self, other: int, error: Exception) -> None:
        """Let `next` raise what went wrong between this rank and another: of gloo, RankLostError."""
        found = error
        if isinstance(error, RuntimeError):
            found = RankLostError(
                f"expected {self.size} processes until the work is done, got the end of rank {other}, which was killed "
                "or failed; see what it printed, and give the same command again"
            )
            found.__cause__ = error
        self.inbox.put((other, found))

    def next(self) -> tuple[int, Any] | None:
        """The next message and who sent it, or None after a while.

        Raises RankLostError, and what kept a message from being sent or received, such as MemoryError.
        """
        try:
            other, message = self.inbox.get(timeout=AWAKE)  # at once awake for signals
        except queue.Empty:
            return None
        if isinstance(message, Exception):
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, which must not disturb the cleaning up
            raise message
        return other, message

    def dismiss(self) -> None:
        """Let all others end, and leave the group."""
        for other in self.others:
            self.send(None, other)
        for thread in self._listeners:
            thread.join(timeout=10)
        self._dist.destroy_process_group()


_group: _Group | None = None


def first() -> bool:
    """Whether this process writes and prints: the first of its group, or one alone."""
    return _group is None or _group.rank == 0


def alone() -> bool:
    """Whether there is no other process, or none that has work to do any more."""
    return _group is None or _group.done


def single() -> None:
    """Raise ValueError if torchrun started several processes, for a command that has no work for them."""
    if "TORCHELASTIC_RUN_ID" in os.environ and (count := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise ValueError(f"expected one process for this command, got {count} from torchrun; start it without torchrun")


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Join the processes that torchrun started, if it did, while the block runs.

    All but the first end in `ordered`, or with the block: they print nothing, and their errors are raised in the first.
    """
    global _group
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("WORLD_SIZE") == "1":
        yield
        return
    _group = _Group()
    try:
        if _group.rank == 0:
            try:
                yield
            except BaseException:
                atexit.register(_leave)  # whatever its threads do; when the error has been told
                raise
            return
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            error, status = "its command ended before there was work", 1
            with contextlib.suppress(KeyboardInterrupt):
                try:
                    try:
                        yield
                    except (Exception, SystemExit) as failed:
                        error = str(failed)
                    _serve(_group, Hello(0, "", error), print)
                except _Over as over:
                    [status] = over.args
            _leave(status)  # whatever its threads do
    finally:
        _group.dismiss()
        _group = None


def _leave(status: int = 1) -> NoReturn:
    """End this process at once."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def ordered(
    function: Callable[[J], R],
    jobs: Iterable[tuple[int, J | Done]],
    count: int = 0,
    of: Any = None,
    output: str | Path = ".",
) -> Generator[R, None, None]:
    """Results of a function of jobs in their order, done by all ranks; all but the first end in here.

    A job comes with the number of values that it holds in memory. A rank has as many at a time as `count` threads do,
    and a job waits until those that the rank has, with those whose results have not been taken, hold less than
    MOST_AHEAD with it. count: 0: one, and in the thread that asks if there is one rank. of: what ranks must agree on;
    output: a file in the folder that the first rank writes to, where it leaves nothing if it is killed. Raises what the
    function does, in the order of jobs, and RankLostError as soon as a rank is gone.
    """
    hello = Hello(max(count, 1), hashlib.sha256(repr(of).encode(errors="surrogatepass")).hexdigest())
    if _group is not None and _group.rank:
        _serve(_group, hello, function, Path(output).parent)
    if alone() and count == 0:
        return (job.result if isinstance(job, Done) else function(job) for _, job in jobs)
    return _dealt(None if alone() else _group, hello, function, jobs)


def _dealt(
    group: _Group | None, hello: Hello, function: Callable[[J], R], jobs: Iterable[tuple[int, J | Done]]
) -> Generator[R, None, None]:
    limits = {0: hello.threads} | ({} if group is None else _greeted(group, hello))
    ahead: deque[tuple[int, int, Future[R]]] = deque()  # rank, values and result of each job that was not taken
    sent: dict[int, Future[R]] = {}  # by number of the job

    def free(values: int) -> int | None:
        """The rank that has least to do among those that may have a job of so many values."""
        found = []
        for rank, limit in limits.items():
            mine = [(held, future.done()) for other, held, future in ahead if other == rank]
            busy = sum(not done for _, done in mine)
            # Others have the next one there at once.
            most = (limit + (rank > 0), limit if group is None else QUEUED * limit)
            if not mine or (
                busy < most[0] and len(mine) < most[1] and values + sum(held for held, _ in mine) <= MOST_AHEAD
            ):
                found.append((busy / limit, rank))
        return min(found)[1] if found else None

    def listen() -> None:
        """Wait until something is done, here or elsewhere."""
        if group is None:
            wait([ahead[0][2]], AWAKE)
        elif (message := group.next()) is not None and message[0]:
            number, result = message[1]
            if isinstance(result, Failed):
                sent.pop(number).set_exception(result.error)
            else:
                sent.pop(number).set_result(result)

    with threads(hello.threads) if group is None else daemons() as submit:

        def give(rank: int, number: int, job: J | Done) -> Future[R]:
            future: Future[R]
            if isinstance(job, Done):
                future = Future()
                future.set_result(job.result)
                return future
            if rank == 0:
                future = submit(function, job)
                if group is not None:
                    future.add_done_callback(lambda _: group.inbox.put((0, None)))  # wakes `listen`
                return future
            assert group is not None
            future = sent[number] = Future()
            group.send((number, job), rank)
            return future

        for number, (values, job) in enumerate(jobs):
            while (rank := free(values)) is None:
                if ahead[0][2].done():
                    yield ahead.popleft()[2].result()
                else:
                    listen()
            ahead.append((rank, values, give(rank, number, job)))
        while ahead:
            if ahead[0][2].done():
                yield ahead.popleft()[2].result()
            else:
                listen()
    if group is not None:
        group.done = True


def _greeted(group: _Group, mine: Hello) -> dict[int, int]:
    """Threads of the other ranks, when all are ready. Raises ValueError for one that is not, or has other work."""
    found: dict[int, int] = {}
    while len(found) < group.size - 1:
        if (message := group.next()) is None:
            continue
        rank, hello = message
        if hello.error:
            raise ValueError(f"rank {rank}: {hello.error}")
        if hello.work != mine.work:
            raise ValueError(
                f"expected the same input, model, options and library versions for all processes, got others for rank "
                f"{rank}; make them the same on all machines"
            )
        found[rank] = hello.threads
    return found


def _serve(group: _Group, hello: Hello, function: Callable[[Any], Any], folder: Path | None = None) -> NoReturn:
    """Do what the first rank sends until it sends no more; then nothing is left to do here. Raises _Over(status).

    folder: where the first rank writes.
    """

    def answer(number: int, job: Any) -> None:
        try:
            result = function(job)
        except (ValueError, OSError, MemoryError) as error:
            result = Failed(error)
        except BaseException:  # a bug
            traceback.print_exc()
            _leave()
        group.send((number, result), 0)

    pool = ThreadPoolExecutor(max(hello.threads, 1))
    status = 0
    try:
        group.send(hello, 0)
        while (message := group.next()) is None or message[1] is not None:
            if message:
                pool.submit(answer, *message[1])
    except BaseException as error:  # a signal, too, which torchrun sends when the first rank is gone
        status = 1
        until = time.monotonic() + CLEANING
        while folder and time.monotonic() < until:  # until the system knows no process of that number any more
            clean(folder)
            time.sleep(0.1)
        if isinstance(error, RankLostError) and group.rank == 1:
            print(f"error: {error}", file=sys.stderr)
        elif isinstance(error, Exception) and not isinstance(error, RankLostError):
            print(f"error: rank {group.rank}: {type(error).__name__}: {error}", file=sys.stderr)
    raise _Over(status)
