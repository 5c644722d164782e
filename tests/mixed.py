"""Ways to run one exact model: what a file's bytes, and its decoded rows, must not depend on."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from toolkit.alone import AloneCoder
from toolkit.head import Coder, Settings
from toolkit.nets.exact import ExactLayer, Table, exactly

MULTIPLY = ExactLayer.multiply


class Setting(NamedTuple):
    compiled: bool = False  # networks and coder, by torch.compile
    threads: int = 1
    rows: int = 64  # that networks see at a time
    channels_last: bool = True
    double: bool = False
    onednn: bool = True
    device: str = "cpu"


SETTINGS = [Setting(*x) for x in itertools.product(*[(False, True), (1, 2), (1, 7, 64), *[(False, True)] * 3])]


@contextlib.contextmanager
def under(setting: Setting, module: Any) -> Iterator[Any]:
    """A copy of an exact module that runs as the setting says, while the block lasts."""
    module = copy.deepcopy(module).to(setting.device)
    order = torch.channels_last if setting.channels_last else torch.contiguous_format

    def multiply(layer: ExactLayer, x: Tensor) -> Tensor:
        form = order if x.dim() == 4 else torch.contiguous_format
        parts = [MULTIPLY(layer, part.contiguous(memory_format=form)) for part in x.split(setting.rows)]
        return torch.cat(parts).contiguous(memory_format=form)

    for part in module.modules():
        if isinstance(part, ExactLayer | Table):
            part.to(torch.float64 if setting.double else torch.float32)
            part.to(memory_format=order)
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ExactLayer, "multiply", multiply)
        if setting.compiled:
            patch.setattr(torch._dynamo.config, "recompile_limit", 1000)
            for part in module.modules():
                if isinstance(part, ExactLayer):
                    part.compile()
        with torch.backends.mkldnn.flags(enabled=setting.onednn):
            torch.set_num_threads(setting.threads)
            try:
                yield module
            finally:
                torch.set_num_threads(threads)


def encode(setting: Setting, module: Any, head: Any, settings: Settings, rows: Tensor) -> bytes:
    """The payload of a chunk of rows, uint8 [n, c, h, w]."""
    with under(setting, module) as used:
        return _coder(setting, used, head, settings).encode(rows, torch.ones(rows.shape, dtype=torch.bool))[0]


def decode(setting: Setting, module: Any, head: Any, settings: Settings, payload: bytes, like: Tensor) -> Tensor:
    """Rows of a payload, as many as `like` has."""
    with under(setting, module) as used:
        return _coder(setting, used, head, settings).decode(payload, torch.ones(like.shape, dtype=torch.bool))


def _coder(setting: Setting, module: Any, head: Any, settings: Settings) -> Coder:
    make = AloneCoder if getattr(module, "alone", False) else Coder
    return make(module, exactly(head), settings, setting.compiled)
