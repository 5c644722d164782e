"""What a person types behind `toolkit.train`: quoted where Hydra wants it, and compared with the run that goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from torch import nn

from toolkit.model import plain


def quoted(arguments: Sequence[str]) -> list[str]:
    """Arguments key=value, quoted where Hydra's grammar wants it, as it does for paths with (, = or spaces.

    Raises ValueError for one that it does not take in quotes either.
    """
    return [
        argument if argument.startswith("-") or "=" not in argument else _quoted(argument) for argument in arguments
    ]


def _quoted(argument: str) -> str:
    key, _, value = argument.partition("=")
    text = value.replace("\\", "\\\\").replace("'", "\\'")
    for wording in (argument, f"{key}='{text}'"):
        try:
            OverridesParser.create().parse_override(wording)
        except HydraException:
            continue
        return wording
    raise ValueError(f"expected key=value, got {argument!r}; put quotes around the value: \"{key}='VALUE'\"")


def going_on(arguments: Sequence[str]) -> Path | None:
    """The run that resume= names, if arguments, quoted, do and ask for no help."""
    if {"--help", "-h"} & {*arguments}:
        return None
    named = [argument for argument in arguments if argument.startswith("resume=")]
    value = OverridesParser.create().parse_override(named[-1]).value() if named else None
    return None if value is None else Path(str(value))


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Say what failed where compile=true asked for what this machine cannot do: ValueError instead of a compiler's."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        raise ValueError(
            f"expected that compile=true compiles the network, got {type(error).__name__}: {plain(error)}; leave it "
            "out, or install a C++ compiler (g++), and let TORCHINDUCTOR_CACHE_DIR name a folder that can be written"
        ) from error


def check_network(module: nn.Module, checkpoint: Path, changed: Sequence[str]) -> None:
    """Raise ValueError unless a checkpoint's weights are those of the network that a resumed training would make.

    changed: overrides, for the message.
    """
    try:
        state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    except Exception as error:  # torch, zipfile and pickle raise whatever they like for a broken file
        raise ValueError(f"{checkpoint}: expected a checkpoint, got a broken file; train anew") from error
    mine = {name: value.shape for name, value in module.state_dict().items()}
    theirs = {name: value.shape for name, value in state.items()}
    if mine != theirs:
        name = next(name for name in sorted(mine.keys() | theirs.keys()) if mine.get(name) != theirs.get(name))
        raise ValueError(
            f"expected the network of the run that goes on, got another with {' '.join(changed) or 'these settings'}: "
            f"{name} is {list(mine.get(name, []))} and was {list(theirs.get(name, []))}; leave it out, or train anew"
        )
