"""Threads for long loops, which end soon when nobody waits for what they make any more: after Ctrl-C, or an error."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")
AWAKE = 0.2  # seconds between looks at what a signal has left
# Of a thread: set when the block that it works for, or one around that, was left by an exception.
_left: ContextVar[tuple[threading.Event, ...]] = ContextVar("left", default=())


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
    end at their next `check`, those in blocks within them too.
    """
    left = threading.Event()
    with ThreadPoolExecutor(count, initializer=_left.set, initargs=((*_left.get(), left),)) as pool:
        try:
            yield pool.submit
        except BaseException:
            left.set()
            pool.shutdown(wait=False, cancel_futures=True)
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
