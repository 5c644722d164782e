"""Ways to run one exact model: what a file's bytes, and its decoded rows, must not depend on."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from recipes.vae.transform import CHANNELS
from toolkit.chunks.chained import Coder
from toolkit.chunks.model import Settings
from toolkit.chunks.separate import AloneCoder
from toolkit.coding import kernels
from toolkit.images.files import item_of
from toolkit.images.rate_coder import STRIDE, PictureCoder, checksum, tiles
from toolkit.images.rate_target import Target
from toolkit.nets.exact import ExactLayer, Table, exactly

FORWARD: dict[type[nn.Module], Any] = {kind: kind.forward for kind in (ExactLayer, nn.Conv2d, nn.Linear)}


class Setting(NamedTuple):
    reference: bool = False  # the coder as the tensor program, not as kernels
    threads: int = 1
    rows: int = 64  # that networks see at a time
    channels_last: bool = True
    double: bool = False
    onednn: bool = True
    device: str = "cpu"


_FLAGS = (False, True)
SETTINGS = [Setting(*x) for x in itertools.product(_FLAGS, (1, 2), (1, 7, 64), _FLAGS, _FLAGS, _FLAGS)]


@contextlib.contextmanager
def under(setting: Setting, module: Any) -> Iterator[Any]:
    """A copy of a module that runs as the setting says, while the block lasts; only exact layers change their dtype."""
    module = copy.deepcopy(module).to(setting.device)
    order = torch.channels_last if setting.channels_last else torch.contiguous_format

    def forward(layer: nn.Module, x: Tensor) -> Tensor:
        form = order if x.dim() == 4 else torch.contiguous_format
        parts = [FORWARD[type(layer)](layer, part.contiguous(memory_format=form)) for part in x.split(setting.rows)]
        return torch.cat(parts).contiguous(memory_format=form)

    for part in module.modules():
        if isinstance(part, ExactLayer | Table):
            part.to(torch.float64 if setting.double else torch.float32)
        if isinstance(part, ExactLayer | nn.Conv2d):
            part.to(memory_format=order)
    threads = torch.get_num_threads()
    with (
        pytest.MonkeyPatch.context() as patch,
        torch.backends.mkldnn.flags(enabled=setting.onednn),
        _coded(setting),
    ):
        for kind in FORWARD:
            patch.setattr(kind, "forward", forward)
        torch.set_num_threads(setting.threads)
        try:
            yield module
        finally:
            torch.set_num_threads(threads)


class Coded(NamedTuple):
    """A picture as one setting coded it."""

    level: int
    payloads: list[tuple[bytes, int]]  # of its tiles, and the checksums of their coefficients
    shown: Tensor  # uint8 [c, h, w], as the same setting restores it


@contextlib.contextmanager
def lossy_under(setting: Setting, module: Any) -> Iterator[PictureCoder]:
    """A coder of pictures that runs as the setting says; its `rows` and `double` do not apply."""
    order = torch.channels_last if setting.channels_last else torch.contiguous_format
    module, threads = copy.deepcopy(module).to(setting.device), torch.get_num_threads()
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.to(memory_format=order)
    with torch.backends.mkldnn.flags(enabled=setting.onednn), _coded(setting):
        torch.set_num_threads(setting.threads)
        try:
            yield PictureCoder(module, setting.device)
        finally:
            torch.set_num_threads(threads)


def code_picture(setting: Setting, module: Any, picture: Tensor, lam: float) -> Coded:
    with lossy_under(setting, module) as coder:
        level, _, payloads, _ = coder.encode(picture, Target("lambda", lam))
        return Coded(level, payloads, _shown(coder, level, payloads, picture)[1])


def picture_differs(setting: Setting, module: Any, coded: Coded, like: Tensor) -> tuple[int, int]:
    """Tiles whose coefficients decode to others, and the largest difference of restored pixels, in levels."""
    with lossy_under(setting, module) as coder:
        wrong, shown = _shown(coder, coded.level, coded.payloads, like)
    return wrong, int((shown.int() - coded.shown.int()).abs().max())


def _shown(coder: PictureCoder, level: int, payloads: list[tuple[bytes, int]], like: Tensor) -> tuple[int, Tensor]:
    item, wrong = item_of("", like), 0
    k = torch.zeros(1, CHANNELS, -(-item.height // STRIDE), -(-item.width // STRIDE), dtype=torch.int16)
    grid = tiles(item.height, item.width, 0)
    for tile, (payload, crc) in zip(grid, payloads, strict=True):
        found = coder.read(payload, level, (tile.height, tile.width))
        wrong += checksum(found) != crc
        k[(..., *tile.place())] = found
    return wrong, coder.restore(k, item, level)


def _coded(setting: Setting) -> contextlib.AbstractContextManager[None]:
    return kernels.reference() if setting.reference else contextlib.nullcontext()


def encode(setting: Setting, module: Any, head: Any, settings: Settings, rows: Tensor, guard: Any = exactly) -> bytes:
    """The payload of a chunk of rows, uint8 [n, c, h, w]."""
    with under(setting, module) as used:
        code = _coder(used, guard(head), settings)
        return code.encode(rows, torch.ones(rows.shape, dtype=torch.bool))[0]


def decode(
    setting: Setting, module: Any, head: Any, settings: Settings, payload: bytes, like: Tensor, guard: Any = exactly
) -> Tensor:
    """Rows of a payload, as many as `like` has."""
    with under(setting, module) as used:
        code = _coder(used, guard(head), settings)
        return code.decode(payload, torch.ones(like.shape, dtype=torch.bool))


def _coder(module: Any, head: Any, settings: Settings) -> Coder:
    return (AloneCoder if module.alone else Coder)(module, head, settings)
