"""A pretended GPU, for machines without one: tensors that say cuda:0 and hold data of the CPU.

Where tensors of both devices meet is an error, as on a GPU: a program that passes has made each of its tensors where it
is needed. What may meet, as PyTorch has it: copies, and numbers of the CPU (tensors without axes) in operations element
by element. Stricter than PyTorch: indices of the CPU are refused too, which a GPU would have to wait for.

Programs see CPU arithmetic, so bytes of both devices are equal even of float networks. Kernels of `toolkit.coding` are
the CPU's loops, which are given the data: their arguments have passed the same check by then.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from toolkit.coding import kernels

CUDA = torch.device("cuda:0")
COPIES = {"copy_", "_to_copy", "to"}
WITH_NUMBERS = {"index_put_", "fill_"}  # beside what PyTorch knows as element by element


class Pretended(torch.Tensor):
    """A tensor on the pretended device; made by `on_device`, or by any operation with `device="cuda"`."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Pretended:
        with torch.inference_mode(False):  # such tensors have no versions, which views of others want
            found = torch.Tensor._make_wrapper_subclass(
                cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
                device=CUDA,
            )  # fmt: skip
        found.held = held
        return found

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Pretended({self.held!r})"

    def tolist(self) -> Any:
        return self.held.tolist()

    def numpy(self, **options: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


class Mode(TorchDispatchMode):
    """Sees the operations that have no tensor on the device yet, but are to make one."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # which takes as long as the rest
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {} if kwargs is None else kwargs
        named = any(isinstance(x, torch.device) for x in (*args, *given.values()))
        return run(func, args, given) if named or Pretended in types else func(*args, **given)


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation of PyTorch, if its tensors are on one device. Raises RuntimeError if not, as PyTorch does."""
    leaves = [y for x in (*args, *kwargs.values()) for y in (x if isinstance(x, list | tuple) else (x,))]
    tensors = [x for x in leaves if isinstance(x, Tensor)]
    mine = [x for x in tensors if isinstance(x, Pretended)]
    wanted = next((x.type for x in leaves if isinstance(x, torch.device)), None)
    if not mine and wanted != "cuda":
        return func(*args, **kwargs)
    name = func.__name__.split(".")[0]
    numbers = torch.Tag.pointwise in func.tags or name in WITH_NUMBERS
    if mine and name not in COPIES and any(not isinstance(x, Pretended) and (x.dim() or not numbers) for x in tensors):
        raise RuntimeError(f"expected all tensors on one device, got cuda:0 and cpu in {func}")
    inputs, options = [_held(x) for x in args], {name: _held(x) for name, x in kwargs.items()}
    if func.namespace == "toolkit":  # whose loops would be compiled once more for lanes that lie side by side
        state = [x.contiguous() for x in inputs[:4]]
        out = func(*state, *inputs[4:])
        for x, y in zip(inputs, state, strict=False):
            x.copy_(y)
    else:
        out = func(*inputs, **options)
    if wanted == "cpu":
        # A copy, where PyTorch would have made one.
        return out.clone() if any(out is x.held for x in mine) else out
    if name == "copy_" and not isinstance(args[0], Pretended):
        return args[0]
    known = {id(x.held): x for x in mine}  # what is changed in place, and given back
    made = [known.get(id(x), x) for x in (out if isinstance(out, list | tuple) else [out])]
    made = [Pretended(x) if isinstance(x, Tensor) and not isinstance(x, Pretended) else x for x in made]
    return made if isinstance(out, list) else tuple(made) if isinstance(out, tuple) else made[0]


def _held(x: Any) -> Any:
    if isinstance(x, torch.device):
        return torch.device("cpu")
    if isinstance(x, list | tuple):
        return [_held(y) for y in x]
    return x.held if isinstance(x, Pretended) else x


def on_device(x: Any) -> Any:
    """A copy of a tensor or a module on the pretended device."""
    if isinstance(x, torch.nn.Module):
        found = copy.deepcopy(x)
        for part in found.modules():
            for tensors in (part._parameters, part._buffers):
                tensors.update({name: on_device(x.detach()) for name, x in tensors.items() if x is not None})
        found._device = CUDA  # type: ignore[assignment]  # what Lightning's modules say
        return found
    return Pretended(x.clone())


@contextlib.contextmanager
def pretended() -> Iterator[torch.device]:
    """The pretended device, which exists while the block runs."""
    from toolkit.coding import cpu  # noqa: F401  # whose loops the device runs

    torch._C._ensureCUDADeviceGuardSet()  # one that does nothing where there is no GPU, as torch's fake tensors have it
    lifted = torch._C._only_lift_cpu_tensors()
    _forget()
    with (
        mock.patch.object(torch.cuda, "_lazy_init", lambda: None),
        mock.patch.object(torch.cuda, "current_device", lambda: 0),
        mock.patch.object(torch.cuda, "synchronize", lambda device=None: None),
        mock.patch.object(kernels, "_available", lambda device: True),
        Mode(),
    ):
        torch._C._set_only_lift_cpu_tensors(True)  # else torch.tensor makes tensors where `run` does not see it
        try:
            yield CUDA
        finally:
            torch._C._set_only_lift_cpu_tensors(lifted)
            _forget()


def _forget() -> None:
    """Tables that the toolkit keeps for each device."""
    for name, module in list(sys.modules.items()):
        if name.startswith("toolkit."):
            for function in vars(module).values():
                if hasattr(function, "cache_clear"):
                    function.cache_clear()
