"""Where products of float32 are exact: `exact_products` switches off whatever a program lets torch shorten them by."""

from __future__ import annotations

import contextlib
import platform
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

# Where products of float32 can be trusted to be products of float32; elsewhere libraries may shorten them.
TRUSTED = platform.machine().lower() in ("x86_64", "amd64")
DEVICES = ("cpu", "cuda", "mps", "xpu")  # whose autocast is looked at
# Precisions of float32, by backend and operation. What says "none" follows its backend's, and that the generic one.
ABOVE = (("generic", "all"), ("cuda", "all"), ("mkldnn", "all"))
BELOW = (("cuda", "matmul"), ("mkldnn", "matmul"), ("mkldnn", "conv"))
NONE, IEEE, HIGHEST = "none", "ieee", "highest"
EXACT_MODES = (NONE, IEEE)

# Torch's own properties do not reach all of these, take longer, and raise where a program used both families.
_C: Any = torch._C
_lock = threading.Lock()
_running = 0  # blocks, of all threads


class _Switches(NamedTuple):
    """What was set before the first block that runs."""

    above: list[str]
    below: list[str]
    old: str  # the older switch of matrix products
    nnpack: bool
    onednn: bool
    intel: bool  # TF32 on Intel's GPUs


_before: _Switches


@contextlib.contextmanager
def exact_products(threads: int | None = None) -> Iterator[None]:
    """Products of float32 stay products of float32 while the block runs, whatever a program asked for.

    That is matrix products on any device, and convolutions on a CPU; those of a GPU have ways that are not sums of
    products, with which this does not meddle. Off are TF32 and bfloat16 as either family of torch's switches asks for
    them, autocast, NNPACK, and oneDNN but on x86.

    threads: how many the block runs on, or None for as many as before. That and autocast are switched for this thread
    alone, all else for the whole process: what other threads compute meanwhile is exact too, and as slow. Blocks may
    nest, and run in several threads at once: what was set before the first comes back when the last of them ends. They
    do not see what a program sets while they run: it counts until another block begins, and is lost in the end.
    """
    count = torch.get_num_threads()
    with _no_autocast() if _C._is_any_autocast_enabled() else contextlib.nullcontext():
        _enter()
        try:
            if threads is not None:
                torch.set_num_threads(threads)
            yield
        finally:
            if threads is not None:
                torch.set_num_threads(count)
            _leave()


@contextlib.contextmanager
def _no_autocast() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for device in DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def _enter() -> None:
    global _running, _before
    with _lock:
        found = _switch_off()
        if not _running:
            _before = found
        _running += 1


def _leave() -> None:
    global _running
    with _lock:
        _running -= 1
        if not _running:
            _restore(_before)


def _switch_off() -> _Switches:
    """Make all switches exact, and say how they were."""
    get, put = _C._get_fp32_precision_getter, _C._set_fp32_precision_setter
    above = []
    for place in ABOVE:
        above.append(value := get(*place))
        if value != NONE:
            put(*place, NONE)  # for a while: only then do those that follow say what is set for themselves
    below = [get(*place) for place in BELOW]
    for place, value in zip(BELOW, below, strict=True):
        if value not in EXACT_MODES:
            put(*place, IEEE)
    for place, value in zip(ABOVE, above, strict=True):
        if value != NONE:
            put(*place, IEEE)
    old = _C._get_float32_matmul_precision()  # torch refuses to say it where the new switches contradict it
    if old != HIGHEST:
        _C._set_float32_matmul_precision(HIGHEST)
    nnpack, onednn, intel = _C._get_nnpack_enabled(), _C._get_mkldnn_enabled(), _C._get_onednn_allow_tf32()
    if nnpack:  # Winograd's and Fourier's algorithms
        _C._set_nnpack_enabled(False)
    if onednn and not TRUSTED:  # Winograd's
        _C._set_mkldnn_enabled(False)
    if intel:
        _C._set_onednn_allow_tf32(False)
    return _Switches(above, below, old, nnpack, onednn, intel)


def _restore(was: _Switches) -> None:
    put = _C._set_fp32_precision_setter
    _C._set_float32_matmul_precision(was.old)  # first, as it sets some of the others
    for place, value in zip(BELOW, was.below, strict=True):
        put(*place, value)
    for place, value in zip(ABOVE, was.above, strict=True):
        put(*place, value)
    _C._set_nnpack_enabled(was.nnpack)
    if not TRUSTED:
        _C._set_mkldnn_enabled(was.onednn)
    if was.intel:  # without such a device torch warns of any setting
        _C._set_onednn_allow_tf32(True)
