"""Threads for long loops, which end soon when nobody waits for what they make any more: after Ctrl-C, or an error.

How many of them there are is up to the processors that this process may use, and to the memory that they need.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
AWAKE = 0.2  # seconds between looks at what a signal has left
PATIENCE = 2  # seconds that tasks have to end when their block is left
GROUPS = Path("/sys/fs/cgroup")  # of Linux: limits of containers and services
GROUP = Path("/proc/self/cgroup")  # where among them this process is
# Of a thread: set when the block that it works for, or one around that, was left by an exception.
_left: ContextVar[tuple[threading.Event, ...]] = ContextVar("left", default=())
_lost: list[Future[Any]] = []  # tasks that did not end when their block was left


class StoppedError(Exception):
    """Ends a task whose result nobody waits for; no one sees it."""


def check() -> None:
    """Raise StoppedError in a thread whose block was left by an exception: to be called a few times a second."""
    if any(event.is_set() for event in _left.get()):
        raise StoppedError


@contextmanager
def threads(count: int) -> Iterator[Callable[..., Future[Any]]]:
    """A block with some threads; yields what gives them a task, a function and its arguments, and returns its future.

    If the block is left by an exception, KeyboardInterrupt say, tasks that have not begun are cancelled, and others
    end at their next `check`, those in blocks within them too. Those that have none for PATIENCE are left behind.
    """
    left, running = threading.Event(), set[Future[Any]]()
    pool = ThreadPoolExecutor(count, initializer=_left.set, initargs=((*_left.get(), left),))

    def submit(function: Callable[..., T], *given: Any) -> Future[T]:
        future = pool.submit(function, *given)
        running.add(future)
        future.add_done_callback(running.discard)
        return future

    try:
        yield submit
    except BaseException:
        left.set()
        pool.shutdown(wait=False, cancel_futures=True)
        _lost.extend(running)
        if wait(running.copy(), PATIENCE).not_done:
            raise
        pool.shutdown()
        raise
    pool.shutdown()


def going_on() -> bool:
    """Whether tasks go on though nobody waits for them: compiling a loop takes half a minute, and nothing ends it."""
    _lost[:] = [future for future in _lost if not future.done()]
    return bool(_lost)


@contextmanager
def daemons() -> Iterator[Callable[..., Future[Any]]]:
    """As `threads`, a new one for each task; if the block is left by an exception, the process may end at once."""
    left = threading.Event()

    def run(future: Future[Any], function: Callable[..., Any], *arguments: Any) -> None:
        _left.set((left,))
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)

    def submit(function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        threading.Thread(target=run, args=(future, function, *arguments), daemon=True).start()
        return future

    try:
        yield submit
    except BaseException:
        left.set()
        raise


def result(future: Future[T]) -> T:
    """What a task returns or raises. Unlike the future's own method, it ends soon after Ctrl-C whatever happens.

    A signal that the system gives to another thread does not wake this one up.
    """
    while not wait([future], AWAKE).done:
        pass
    return future.result()


def together(count: int, function: Callable[..., T], *arguments: Iterable[Any]) -> list[T]:
    """Like `map`, in some threads. The first exception ends all, and is raised."""
    with threads(count) as submit:
        futures = [submit(function, *given) for given in zip(*arguments, strict=True)]
        waiting = True
        while waiting:
            done, others = wait(futures, AWAKE, FIRST_EXCEPTION)
            waiting = bool(others) and not any(future.exception() for future in done)
        for future in futures:
            if future.done():
                future.result()
        return [future.result() for future in futures]


class Room:
    """Memory, in bytes, that blocks of all threads share: a block waits until those before it leave enough of it."""

    def __init__(self, size: int) -> None:
        self.size = self._free = size
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """A block that takes so much, or all if that is less. What takes room must not ask for more within."""
        size = min(size, self.size)
        with self._changed:
            while self._free < size:
                self._changed.wait(AWAKE)
                check()
            self._free -= size
        try:
            yield
        finally:
            with self._changed:
                self._free += size
                self._changed.notify_all()


def return_memory() -> None:
    """Let arrays of a megabyte and more go back to the system when they are freed; of glibc, for the whole process.

    By itself it keeps what each thread has freed, up to 64 MB for every one of them.
    """
    with suppress(OSError, AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD


def processors() -> int:
    """How many processors this process may use: those of its affinity, or fewer if its container's time is limited.

    Where torchrun started several processes here, each has its share of them.
    """
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        count = os.cpu_count() or 1
    return max(1, math.ceil(min(count, _share())) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _share() -> float:
    """How many processors' time the control groups around this process allow it; infinite if there is no limit."""
    files = [(GROUPS / "cpu/cpu.cfs_quota_us", GROUPS / "cpu/cpu.cfs_period_us")]  # of version 1
    try:
        own = GROUP.read_text(encoding="utf-8").rpartition("0::/")[2].splitlines()[:1]
        inner = Path("/", *own)  # each group's limit is one for those within
        folders = [GROUPS / folder.relative_to("/") for folder in (inner, *inner.parents)]
        files += [(folder / "cpu.max", Path(os.devnull)) for folder in folders]
    except OSError:
        pass
    limit = math.inf
    for quota, period in files:
        try:
            allowed, each = f"{quota.read_text()} {period.read_text()}".split()
            limit = min(limit, int(allowed) / int(each) if int(allowed) > 0 else math.inf)
        except (OSError, ValueError):  # no such file, or "max" in it
            continue
    return limit
