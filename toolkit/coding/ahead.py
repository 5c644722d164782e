"""Functions of tensors on a CPU, compiled by Inductor ahead of time and kept on disk: a call costs some microseconds.

What torch.compile compiled is found again by Dynamo, at a hundred microseconds a call, longer than a block of symbols
takes; and each process traces it anew, for seconds. Here the exported graph is compiled once a machine (AOTInductor).
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import inspect
import json
import logging
import os
import platform
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Function = Callable[..., Any]


class CompilingFailed(RuntimeError):
    """Export, Inductor or the C++ compiler could not do it."""


class Version(NamedTuple):
    """What was compiled, and the arguments that it is for."""

    structure: list[int]  # of each argument: how many tensors it is, a list of them; -1: a tensor itself; -2: None
    axes: list[tuple[torch.dtype, list[int | str]]]  # of each tensor; sizes that have one name are equal
    single: bool  # it returns one tensor and no tuple
    run: Callable[[list[Tensor]], list[Tensor]]

    def fits(self, structure: list[int], tensors: Sequence[Tensor]) -> bool:
        if structure != self.structure:
            return False
        sizes: dict[int | str, int] = {}
        for x, (dtype, shape) in zip(tensors, self.axes, strict=True):
            if x.dtype is not dtype or x.dim() != len(shape):
                return False
            for size, wanted in zip(x.shape, shape, strict=True):
                if type(wanted) is not int and size < 2:  # what broadcasts is compiled apart
                    return False
                if size != (wanted if type(wanted) is int else sizes.setdefault(wanted, size)):
                    return False
        return True

    def __call__(self, tensors: Sequence[Tensor]) -> Any:
        # Without Python's own call of a package, which takes longer than the rest.
        found = self.run([x if x.is_contiguous() else x.contiguous() for x in tensors])
        return found[0] if self.single else tuple(found)


class Compiled:
    """`function`, compiled when it is first called and not on disk; for all sizes of its arguments.

    Its arguments are tensors on a CPU, lists of them, or None, and no numbers; its results tensors. Sizes that decide
    what is computed, and those below 2, are compiled apart; with a last axis below 2 the first argument is for the
    function as it is. options: of Inductor. Raises CompilingFailed.
    """

    def __init__(self, function: Function, options: dict[str, Any]) -> None:
        self.function, self.options = function, options
        # By all that a version depends on, which is quicker than to ask each.
        self.known: dict[tuple[Any, ...], Version] = {}
        self.versions: list[Version] = []

    def __call__(self, *arguments: Any) -> Any:
        structure, tensors = _flat(arguments)
        if tensors[0].shape[-1] < 2:
            return self.function(*arguments)
        return self._version(structure, tensors)(tensors)

    def bound(self, first: Sequence[Tensor], rest: Sequence[Any]) -> Function:
        """function(*first, *rest) as a function of other tensors in the place of `first`.

        They must be contiguous, and of the same shapes and dtypes: nothing is checked, so that calls cost the least.
        """
        structure, tensors = _flat([*first, *rest])
        if first[0].shape[-1] < 2:
            return lambda *given: self.function(*given, *rest)
        version = self._version(structure, tensors)
        run, others = version.run, [x.contiguous() for x in tensors[len(first) :]]
        if version.single:
            return lambda *given: run([*given, *others])[0]
        return lambda *given: run([*given, *others])

    def _version(self, structure: list[int], tensors: Sequence[Tensor]) -> Version:
        key = (*structure, *[x.dtype for x in tensors], *[x.shape for x in tensors])
        version = self.known.get(key)
        if version is None:
            version = next((version for version in self.versions if version.fits(structure, tensors)), None)
            if version is None:
                try:
                    version = _version(self.function, structure, tensors, self.options)
                except Exception as error:
                    raise CompilingFailed(f"{type(error).__name__}: {error}") from error
                self.versions.append(version)
            self.known[key] = version
        return version


def _flat(arguments: Sequence[Any]) -> tuple[list[int], list[Tensor]]:
    """The structure of arguments (see `Version`), and their tensors in a row."""
    structure: list[int] = []
    tensors: list[Tensor] = []
    for x in arguments:
        if isinstance(x, Tensor):
            structure.append(-1)
            tensors.append(x)
        elif x is None:
            structure.append(-2)
        else:
            structure.append(len(x))
            tensors.extend(x)
    return structure, tensors


class _Graph(nn.Module):
    """A function of tensors alone."""

    def __init__(self, function: Function, structure: Sequence[int]) -> None:
        super().__init__()
        self.function, self.structure = function, structure

    def forward(self, *tensors: Tensor) -> Any:
        left = iter(tensors)
        arguments: list[Any] = [
            next(left) if count == -1 else None if count == -2 else [next(left) for _ in range(count)]
            for count in self.structure
        ]
        return self.function(*arguments)


def _version(function: Function, structure: list[int], tensors: Sequence[Tensor], options: dict[str, Any]) -> Version:
    """What fits, of those on disk; else a new one."""
    kind = [(str(x.dtype), x.dim()) for x in tensors]
    name = _hash([identity(function), structure, kind, _machine(), str(options)])
    for path in sorted(folder().glob(f"{name}-*.pt2")):
        try:
            version = _load(path)
        except RuntimeError:  # a damaged file, which a new one takes the place of when it is wanted
            continue
        if version.fits(structure, tensors):
            return version
    version = _load(_compile(function, structure, tensors, options, name))
    assert version.fits(structure, tensors)
    return version


def _compile(
    function: Function, structure: list[int], tensors: Sequence[Tensor], options: dict[str, Any], name: str
) -> Path:
    """Its file, which has the name of the function and of what it is for: no other version takes its place."""
    # What it says about machines with CUDA's tools and no GPU helps nobody here.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    import torch.export  # here, because it takes a second to import
    import torch.fx.experimental._config as shapes

    _own_headers()
    shapes.use_duck_shape = False  # sizes that happen to be equal in the first call may differ in the next
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library about itself
        program, found = _exported(_Graph(function, structure), tensors)
        axes = [(str(x.dtype).removeprefix("torch."), [_size(size) for size in x.shape]) for x in found]
        single = program.call_spec.out_spec.num_children == 0
        about = {"structure": json.dumps(structure), "axes": json.dumps(axes), "single": json.dumps(single)}
        path = folder() / f"{name}-{_hash(about)}.pt2"
        own = path.with_name(f"{os.getpid()}-{path.name}")  # beside other processes that compile the same
        try:
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(own), inductor_configs={**options, "aot_inductor.metadata": about}
            )
            own.replace(path)
        finally:
            own.unlink(missing_ok=True)
    return path


@functools.cache
def _own_headers() -> None:
    """Have the library's compiled headers, 300 MB, end with the process.

    The library keeps them for others, under names that hold a temporary file's, so that no other ever finds them.
    """
    from torch._inductor import codecache

    own = tempfile.mkdtemp(prefix="toolkit-headers-")
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    for name, path in (("_HEADER_DIR", own), ("_HEADER_LOCK_DIR", f"{own}/locks")):
        if hasattr(codecache, name):
            setattr(codecache, name, path)


def _hash(what: Any) -> str:
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]


def _exported(graph: nn.Module, tensors: Sequence[Tensor]) -> tuple[Any, list[Tensor]]:
    """The graph for all sizes above 1 but those that it asks something of, which are as they are; and its inputs."""
    examples = tuple(torch.empty(x.shape, dtype=x.dtype) for x in tensors)
    free = [{i for i, size in enumerate(x.shape) if size > 1} for x in tensors]
    while True:
        shapes = {"tensors": tuple(dict.fromkeys(axes, torch.export.Dim.AUTO) for axes in free)}
        program = torch.export.export(graph, examples, dynamic_shapes=shapes, strict=False)
        found = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"]
        spans = program.range_constraints.items()
        asked = {str(name) for name, span in spans if span.lower > 2 or span.upper <= 1 << 60}
        if not asked:
            return program, found
        before = sum(map(len, free))
        for axes, x in zip(free, found, strict=True):
            axes -= {i for i in axes if str(x.shape[i]) in asked}
        assert sum(map(len, free)) < before, f"sizes {asked} that are no sizes of arguments"


def _size(size: int | torch.SymInt) -> int | str:
    name = str(size)
    if name.isdecimal():  # as it was, or because the function asks for its value
        return int(name)
    assert name.isidentifier(), f"a size that depends on others: {name}"
    return name


def _load(path: Path) -> Version:
    # Not by `torch._inductor.aoti_load_package`, which imports for a second and looks at its call specification each
    # time it is called, for longer than a block takes.
    loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, -1)
    about = {key: json.loads(text) for key, text in loader.get_metadata().items() if key in Version._fields}
    axes = [(getattr(torch, dtype), shape) for dtype, shape in about["axes"]]
    return Version(about["structure"], axes, about["single"], loader.boxed_run)


def folder() -> Path:
    """Where compiled code is kept: TORCHINDUCTOR_CACHE_DIR, if that is set, or the user's cache."""
    base = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    found = Path(base).expanduser() / "toolkit"
    try:
        found.mkdir(parents=True, exist_ok=True)
    except OSError:  # of a user without a home
        found = Path(tempfile.gettempdir()) / f"toolkit-{os.getuid()}"
        found.mkdir(mode=0o700, exist_ok=True)
    return found


@functools.cache
def _machine() -> str:
    """What code is compiled for: the processor's instructions, and the library."""
    try:
        flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        flags = platform.processor()
    return f"{platform.machine()} {platform.python_version()} {torch.__version__} {flags}"


def identity(function: Function) -> str:
    """Of what a function computes: its code, what it closes over, and the globals and functions of ours that it uses.

    Raises TypeError for closures over anything but functions, numbers, strings, and collections of them.
    """
    return hashlib.sha256(_described(function, {}).encode()).hexdigest()


def _described(value: Any, seen: dict[int, str]) -> str:
    if value is None or value is ... or isinstance(value, bool | int | float | str | bytes | slice | torch.dtype):
        return repr(value)
    if isinstance(value, frozenset):
        return _described(sorted(value), seen)
    if isinstance(value, tuple | list):
        return f"[{' '.join(_described(x, seen) for x in value)}]"
    if isinstance(value, dict):
        return _described(sorted(value.items()), seen)
    if isinstance(value, functools.partial):
        return f"partial {_described([value.func, value.args, value.keywords], seen)}"
    if isinstance(value, CodeType):
        return f"code {value.co_code!r} {value.co_names} {_described(value.co_consts, seen)}"
    value = inspect.unwrap(value) if callable(value) else value
    if inspect.isfunction(value):
        if id(value) not in seen:
            seen[id(value)] = f"function {len(seen)}"
            inside = [value.__code__, value.__defaults__, [cell.cell_contents for cell in value.__closure__ or ()]]
            return f"{value.__qualname__} {_described(inside, seen)} {_described(_globals_of(value), seen)}"
        return seen[id(value)]
    if inspect.isbuiltin(value) or inspect.isclass(value):
        return f"{value.__module__}.{value.__qualname__}"
    raise TypeError(f"expected a function that closes over functions, numbers and strings, got {value!r}")


def _globals_of(function: FunctionType) -> dict[str, Any]:
    """What a function's code may use of its module, and of modules of ours that it names; of the libraries nothing."""
    names = set[str]()
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        names.update(code.co_names)
        codes.extend(x for x in code.co_consts if isinstance(x, CodeType))
    found = {name: function.__globals__[name] for name in names if name in function.__globals__}
    for module in [x for x in found.values() if isinstance(x, ModuleType) and x.__name__.startswith("toolkit.")]:
        found.update({f"{module.__name__}.{name}": getattr(module, name) for name in names if hasattr(module, name)})
    plain = (bool, int, float, str, tuple, dict)
    return {name: x for name, x in found.items() if isinstance(x, plain) or inspect.isfunction(inspect.unwrap(x))}
