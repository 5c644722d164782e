"""Runs opened to code with; without torch, which takes seconds to import, where their models need numpy alone.

Such a recipe names a `coder` beside its `module`: a class of `toolkit.photographs` that codes with the same arrays. It
is taken where the run's weights are safetensors, as those of models that ship are.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import yaml

from toolkit.run import CONFIG, SHIPPED, WEIGHTS, Head, Run, described, other_weights


def head_of(folder: Path) -> tuple[Head, str]:
    """The head of a run and the name of its recipe, without its weights. Raises as `load` does."""
    recipe = _recipe(folder)
    if recipe is None:
        from toolkit import runs

        return runs.head_of(folder)
    with described(folder):
        return _head(recipe), str(recipe["name"])


def load(folder: Path, device: str = "auto", exact: bool | None = False) -> Run:
    """A run to code with; see `toolkit.runs.load`."""
    recipe = _recipe(folder)
    if recipe is None or exact or device not in ("auto", "cpu"):
        from toolkit import runs

        return runs.load(folder, device, exact)
    with described(folder):
        name, head, make = str(recipe["name"]), _head(recipe), _named(recipe["coder"], "toolkit.photographs")
    from safetensors.numpy import load_file

    file = _weights(folder)
    try:
        return Run(folder, name, make(load_file(file)), head)
    except Exception as error:  # safetensors raises errors of its own
        raise other_weights(file, error) from error


def _weights(folder: Path) -> Path:
    return (folder / WEIGHTS).with_suffix(SHIPPED)


def _recipe(folder: Path) -> dict[str, Any] | None:
    """What the configuration of a run that needs no torch says of its recipe; None for others, broken ones too."""
    if not (folder / CONFIG).is_file() or not _weights(folder).is_file():
        return None
    try:
        found = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))["recipe"]
        return found if "coder" in found and "head" in found else None
    except (ValueError, TypeError, KeyError, yaml.YAMLError, RecursionError):
        return None


def _head(recipe: dict[str, Any]) -> Head:
    options = dict(recipe["head"])
    made: Head = _named(options.pop("_target_"), "toolkit.heads")(**options)
    return made


def _named(target: Any, package: str) -> Any:
    """The class of a name that is defined in a package. Raises ValueError for any other name."""
    module, _, name = str(target).rpartition(".")
    found = getattr(importlib.import_module(module), name) if module.startswith(f"{package}.") else None
    if not isinstance(found, type) or not found.__module__.startswith(f"{package}."):
        raise ValueError(f"expected the name of a class in {package}, got {target!r}")
    return found
