"""What a person types behind `toolkit.train`: quoted where Hydra wants it, and compared with the run that goes on."""

from __future__ import annotations

import atexit
import difflib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from toolkit import places
from toolkit.run import CONFIG
from toolkit.runs import CHECKPOINT, PENDING, no_group, read_config


def quoted(arguments: Sequence[str]) -> list[str]:
    """Arguments key=value, quoted where Hydra's grammar wants it, as it does for paths with (, = or spaces.

    Raises ValueError for one that it does not take in quotes either.
    """
    return [
        argument if argument.startswith("-") or "=" not in argument else _quoted(argument) for argument in arguments
    ]


def with_file(arguments: Sequence[str]) -> list[str]:
    """Arguments in which data=FILE.tkc or data=FILE.npy, a path or a URL, is what Hydra knows: a group and its file."""
    known = {".tkc": ("tkc", "train"), ".npy": ("array", "splits.train")}
    found = list[str]()
    for argument in arguments:
        path = argument.removeprefix("data=")
        name, key = known.get(path.lower()[-4:], ("", "")) if path != argument else ("", "")
        found += [f"data={name}", f"data.{key}={path}"] if name else [argument]
    return found


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


def check_local(arguments: Sequence[str]) -> None:
    """Raise ValueError where arguments, quoted, put a run's folder at a URL, or go on with one there."""
    for key in ("hydra.run.dir", "resume", "init"):
        value = value_of(arguments, key)
        if value is not None and places.is_url(value):
            raise ValueError(
                f"expected {key}= a local folder, got {places.named(value)}; train in one, which is locked and written "
                "to all the time, and copy it; what a training ends with is read from a URL: run="
            )


def completed(arguments: Sequence[str]) -> list[str]:
    """What a person typed, quoted, with what follows from it and from how the command was started."""
    return of_torchrun(quoted(with_file(arguments)))


def of_torchrun(arguments: Sequence[str]) -> list[str]:
    """Arguments, with the processes and machines that torchrun has started where they say nothing else.

    A new run is in the folder that the first process chooses, so that of others is thrown away.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or {"--help", "-h"} & {*arguments}:
        return [*arguments]
    there = {argument.partition("=")[0] for argument in arguments}
    local, every = (int(os.environ[key]) for key in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    machines = int(os.environ.get("GROUP_WORLD_SIZE", every // local))
    if local * machines != every:
        raise ValueError(
            f"expected as many processes on each machine, got {local} here, and {every} on {machines} machines; give "
            "torchrun the same --nproc-per-node on all"
        )
    found = {"trainer.devices": str(local), "trainer.strategy": "ddp" if every > 1 else "auto"}
    if machines > 1:
        found["trainer.num_nodes"] = str(machines)
    if os.environ["RANK"] != "0" and "resume" not in there:
        folder = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        found["hydra.run.dir"] = folder
    return [*(f"{key}={value}" for key, value in found.items() if key not in there), *arguments]


def going_on(arguments: Sequence[str]) -> Path | None:
    """The run that resume= names, if arguments, quoted, do and ask for no help."""
    value = None if {"--help", "-h"} & {*arguments} else value_of(arguments, "resume")
    return None if value is None else Path(value)


def value_of(arguments: Sequence[str], key: str) -> str | None:
    """The value that arguments, quoted, give a key; None: none, or null."""
    named = [argument for argument in arguments if argument.startswith(f"{key}=")]
    value = OverridesParser.create().parse_override(named[-1]).value() if named else None
    return None if value is None else str(value)


def resumed(run: Path, overrides: Sequence[str]) -> DictConfig:
    """The configuration of a run whose training goes on, with overrides on top. Raises OSError or ValueError."""
    if not (run / CHECKPOINT).is_file():
        raise FileNotFoundError(
            f"expected resume= to name a run folder with {CHECKPOINT}, got {run}; give a folder that "
            "toolkit.train made (outputs/...)"
        )
    pending = run / PENDING
    saved = read_config(pending if pending.is_file() else run / CONFIG)
    known = _groups(saved)
    for text in overrides:
        override = OverridesParser.create().parse_override(text)
        key, value = str(override.key_or_group), override.value()
        if key in ("recipe", "data", "init") or override.type != OverrideType.CHANGE or override.is_sweep_override():
            raise ValueError(
                f"expected only values to change when resuming, got {text}; leave it out: recipe, data "
                f"and weights are those of {run}"
            )
        if key not in known and key != "resume":
            close = difflib.get_close_matches(key, known, 1)
            raise ValueError(
                f"expected a key of the configuration of {run}, got {text}; "
                + (f"did you mean {close[0]}=?" if close else f"see {run / CONFIG}")
            )
        if known.get(key):
            raise no_group(key, value)
        if isinstance(value, dict):
            raise ValueError(f"expected one value for {key}=, got {value}; it has no others below it")
        OmegaConf.update(saved, key, value)
    OmegaConf.update(saved, "resume", str(run))
    return saved


def _groups(cfg: DictConfig, above: str = "") -> dict[str, bool]:
    """All keys of a configuration, with dots, and whether each holds others."""
    found = dict[str, bool]()
    for key, value in cfg.items():
        name = f"{above}{key!s}"
        found[name] = isinstance(value, DictConfig)
        if isinstance(value, DictConfig):
            found |= _groups(value, f"{name}.")
    return found


def check_network(module: nn.Module, checkpoint: Path, changed: Sequence[str]) -> None:
    """Raise ValueError unless a checkpoint's weights are those of the network that a resumed training would make.

    changed: overrides, for the message.
    """
    try:
        state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    except Exception as error:  # torch, zipfile and pickle raise whatever they like for a broken file
        raise ValueError(f"{checkpoint}: expected a checkpoint, got a broken file; train anew") from error
    if found := differing(module, state):
        name, mine, theirs = found
        raise ValueError(
            f"expected the network of the run that goes on, got another with {' '.join(changed) or 'these settings'}: "
            f"{name} is {mine} and was {theirs}; leave it out, or train anew"
        )


def differing(module: nn.Module, state: Mapping[str, Tensor]) -> tuple[str, str, str] | None:
    """The first weight whose shape is another in a module than in a state: its name and both, or "absent"."""
    mine = {name: str(list(value.shape)) for name, value in module.state_dict().items()}
    theirs = {name: str(list(value.shape)) for name, value in state.items()}
    pairs = {name: (mine.get(name, "absent"), theirs.get(name, "absent")) for name in mine | theirs}
    return next(((name, *pair) for name, pair in sorted(pairs.items()) if pair[0] != pair[1]), None)
