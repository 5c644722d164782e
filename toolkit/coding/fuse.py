"""One switch for compiling in the coders: what is fusible runs compiled while `fusing(True)` lasts, else eager.

Compiled and eager give the same integers: what is fused is integer arithmetic and float arithmetic of single rounded
operations (IEEE 754), with no multiplication whose result is added to before it is rounded to an integer.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from toolkit.coding import ahead

F = TypeVar("F", bound=Callable[..., Any])

_on = contextvars.ContextVar("on", default=False)


@contextlib.contextmanager
def fusing(on: bool) -> Iterator[None]:
    """Run functions that are `fusible` compiled, or not, while the block runs."""
    token = _on.set(on)
    try:
        yield
    finally:
        _on.reset(token)


def fusible(function: F) -> F:
    """A pointwise function of tensors that `fusing` compiles once for all sizes.

    What is not a tensor must be fixed by its closure; lists of tensors are unrolled.
    """

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        if not _on.get() or torch.compiler.is_compiling():
            return function(*arguments)
        return compiled(function)(*arguments)

    return cast(F, call)


# A kernel first met with few lanes must still share its work among threads when there are many. Indices are in range by
# construction: eager code, whose integers are the same, checks them in the tests.
_OPTIONS: dict[str, Any] = {
    "cpp.dynamic_threads": True,
    "assert_indirect_indexing": False,
    "cpp.enable_tiling_heuristics": False,  # which would do without vectors where much is looked up in tables
    # Expressions of more operations are values of their own where they are used twice. Inductor copies others, and
    # counts without repetitions what it copies with them: its own 30 made blocks of steps compile for minutes.
    "realize_opcount_threshold": 15,
    "max_fusion_size": 1024,  # one kernel, whose values stay in registers, however much it does to a symbol
}


def repeated(
    function: Callable[..., Any], fused: bool, carried: Sequence[Tensor], rounds: Iterable[Tensor], *fixed: Any
) -> Iterator[tuple[Tensor, ...]]:
    """What function(*carried, i, *fixed) returns, for each i: the next round's `carried` first, of the same shapes.

    Whoever is given them may change them before asking for the next.
    """
    call: Callable[..., Any] | None = None
    for i in rounds:
        if call is None:
            call = bound(function, fused, (*carried, i), fixed)
        found = call(*carried, i)
        carried = found[: len(carried)]
        yield found


def bound(
    function: Callable[..., Any], fused: bool, first: Sequence[Tensor], rest: Sequence[Any]
) -> Callable[..., Any]:
    """function(*first, *rest) as a function of other tensors for `first`, contiguous and of the same shapes."""
    if fused and first[0].is_cpu and not _failed:
        try:
            return _ahead(function).bound(first, rest)
        except ahead.CompilingFailed as error:
            _note(error)
    call = compiled(function) if fused else function
    return lambda *given: call(*given, *rest)


@functools.cache
def _ahead(function: Callable[..., Any]) -> ahead.Compiled:
    return ahead.Compiled(function, _OPTIONS)


@functools.cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of tensors, lists of tensors and None, the first a tensor; compiled once, and for all sizes.

    On a CPU ahead of time, so that calls cost little and other processes find it (see `ahead`); elsewhere by
    torch.compile.
    """

    def call(*arguments: Any) -> Any:
        if _failed:
            return function(*arguments)
        try:
            return (_ahead if arguments[0].is_cpu else _just_in_time)(function)(*arguments)
        except (ahead.CompilingFailed, torch._dynamo.exc.TorchDynamoException) as error:
            _note(error)
            return function(*arguments)

    return call


def _note(error: Exception) -> None:
    """Compile nothing more in this process, and say why."""
    _failed.append(error)
    reason = " ".join(str(error).split())[:200]
    warnings.warn(
        f"compiling failed ({reason}); the coders run without, slower, with the same bytes: install a C++ "
        "compiler (g++), or set compile=false",
        stacklevel=3,
    )


@functools.cache
def _just_in_time(function: Callable[..., Any]) -> Callable[..., Any]:
    import torch._dynamo  # here, because it takes a second to import
    import torch.fx.experimental._config as shapes

    torch._dynamo.config.recompile_limit = 64  # beyond the default of 8, code would quietly run eagerly
    shapes.use_duck_shape = False  # sizes that happen to be equal in the first call may differ in the next

    def own(*arguments: Any) -> Any:
        return function(*arguments)

    # What is compiled is looked up by code object: with one for all, each call would try the guards of all.
    own.__code__ = own.__code__.replace(co_name=f"fused_{id(function)}")
    return torch.compile(own, dynamic=True, options={**_OPTIONS, "guard_filter_fn": _of_arguments})


def _of_arguments(guards: Sequence[Any]) -> list[bool]:
    """Which guards each call must check: not those of functions, closures and globals, which are constants here.

    There are hundreds, and small blocks take less time than they do.
    """
    return [not guard.is_global and not guard.name.startswith("function") for guard in guards]


_failed: list[Exception] = []  # why nothing is compiled any more in this process


COLD, WARM = 120.0, 1.0  # seconds to compile a coder on two cores, and to load what is kept of one


def compiling_pays(name: str, spent: float, ahead: float) -> bool:
    """Whether to compile a coder that coded for `spent` seconds without and would for about `ahead` seconds more.

    Compiled, it takes a tenth. Without a forecast, to change once as much is spent as changing costs is at most twice
    as slow as the best choice. name: of what is coded, for which `keep_compiled` was called if it is kept on disk.
    """
    cost = WARM if _mark(name).exists() else COLD
    return not _failed and max(0.9 * ahead, spent) > cost


def keep_compiled(name: str) -> None:
    """Note that the compiled coder of this name is on disk."""
    with contextlib.suppress(OSError):
        _mark(name).touch()


def _mark(name: str) -> Path:
    return ahead.folder() / f"{metadata.version('toolkit')}-{torch.__version__}-{name}"
