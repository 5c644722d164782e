"""Python threads for tensor operations that are too small to be shared among threads each."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch


@contextlib.contextmanager
def workers(most: int) -> Iterator[Callable[..., list[Any]]]:
    """A `map` that returns a list and calls its function in as many threads as torch uses, `most` at most.

    Tensor operations give the interpreter away while they compute. Each thread runs its own on one core, in inference
    mode where the caller does.
    """
    count = min(torch.get_num_threads(), most)
    if count < 2:
        yield lambda function, *items: list(itertools.starmap(function, zip(*items, strict=True)))
        return
    inference = torch.is_inference_mode_enabled()

    def here(function: Callable[..., Any], *arguments: Any) -> Any:
        with torch.inference_mode(inference):
            return function(*arguments)

    with ThreadPoolExecutor(count, "tiles", torch.set_num_threads, (1,)) as pool:

        def each(function: Callable[..., Any], *items: Any) -> list[Any]:
            jobs = [pool.submit(here, function, *arguments) for arguments in zip(*items, strict=True)]
            return [job.result() for job in jobs]

        yield each
