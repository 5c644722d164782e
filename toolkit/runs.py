"""Runs of networks: built to train, saved, loaded again."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import inspect
import io
import re
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.errors import InstantiationException
from hydra.utils import get_class, get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from toolkit import cli
from toolkit.chunks.model import Settings, fingerprint
from toolkit.container import atomic_path
from toolkit.model import Model, trainable
from toolkit.nets.exact import prove
from toolkit.run import CONFIG, EXACT, SHIPPED, WEIGHTS, Head, Run, described, other_weights

ROOT = Path(__file__).parents[1]  # where recipes/ and configs/ stand beside toolkit/
CHECKPOINT = "checkpoints/last.ckpt"  # of a training that may go on
PENDING = "checkpoints/config.yaml"  # of a training that goes on, where the weights are still those of the one before
CALIBRATION = 256  # training rows that show an exact network how large its activations become


def build(cfg: DictConfig, folder: Path) -> tuple[Run, Any]:
    """A run to train from a composed configuration, and its data; the module gets the shape of the data's rows.

    Raises ValueError for a target outside recipes and toolkit, and whatever the parts say about their arguments.
    """
    for key in ("trainer", "coding", "evaluation", "data", "recipe", "recipe.module"):
        if not isinstance(value := OmegaConf.select(cfg, key), DictConfig):
            raise no_group(key, value)
    Settings(cfg.coding.batch, 1, cfg.coding.seed).check()
    data = build_data(cfg)
    OmegaConf.update(cfg, "recipe.module.shape", list(data.shape), force_add=True)
    module = _instantiate(cfg.recipe.module, RECIPES, train=True)
    return Run(folder, str(cfg.recipe.name), module, _head(cfg), cfg), data


def build_data(cfg: DictConfig, stage: str | None = None) -> Any:
    """The data of a configuration, loaded: a LightningDataModule with train, validation, test, shape and name.

    stage: "test" if nothing else is needed, as of a model that was trained elsewhere.
    """
    data = _instantiate(cfg.data, ["toolkit.data"])
    data.prepare_data()
    data.setup(stage)
    return data


def save(run: Path, cfg: DictConfig, module: Model) -> None:
    """Write a run, as `load` reads it: config.yaml and model.pt."""
    save_config(run, cfg)
    save_weights(run, module)


def save_config(run: Path, cfg: DictConfig) -> None:
    """Write the configuration of a run."""
    run.mkdir(parents=True, exist_ok=True)
    with atomic_path(run / CONFIG) as temporary:
        OmegaConf.save(cfg, temporary, resolve=True)


def save_weights(run: Path, module: Model) -> None:
    """Write the weights of a run: tensors only, no pickled code. An exact network of other weights goes."""
    _save_state(run / WEIGHTS, module, [run / EXACT, (run / EXACT).with_suffix(SHIPPED)])


def save_exact(run: Path, rows: Tensor | None = None) -> None:
    """Make and write the exact network of a saved run, as `load` reads it, from its weights.

    rows: uint8 [n, ...], training rows; None: those of the run's data. Raises ValueError for a model that has no exact
    form.
    """
    loaded = load(run, "cpu")
    loaded.module.exact()  # refuses before data are read
    rows = build_data(loaded.cfg).train if rows is None else rows
    found = loaded.module.exact(rows[torch.linspace(0, len(rows) - 1, min(len(rows), CALIBRATION)).long()])
    prove(found)
    _save_state(run / EXACT, found)


def has_exact(run: str | Path) -> bool:
    """Whether a run has an exact network of its weights as they are."""
    return _weights(Path(run), EXACT) is not None


def _weights(run: Path, name: str) -> Path | None:
    """A file of weights: torch's, or where there is none that of a model that ships."""
    return next((file for file in (run / name, (run / name).with_suffix(SHIPPED)) if file.is_file()), None)


def _save_state(file: Path, module: Model, stale: Sequence[Path] = ()) -> None:
    with atomic_path(file) as temporary:
        data = io.BytesIO()  # for a full disk torch.save has errors of its own
        torch.save({name: value.detach().cpu() for name, value in module.state_dict().items()}, data)
        temporary.write_bytes(data.getbuffer())
        for old in stale:  # now that nothing can fail but the renaming
            old.unlink(missing_ok=True)


def _state(file: Path) -> dict[str, Tensor]:
    """The tensors of a file of weights. Raises whatever torch, zipfile, pickle and safetensors do for broken ones."""
    if file.suffix == SHIPPED:
        from safetensors.torch import load_file

        return load_file(file)
    with open(file, "rb") as opened:
        if opened.read(4) != b"PK\x03\x04":  # torch's older formats take memory by sizes that they only declare
            raise ValueError("a file that torch.save did not write")
    found: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return found


def head_of(run: str | Path) -> tuple[Head, str]:
    """The head of a run and the name of its recipe, without its weights. Raises as `load` does."""
    cfg = _config(Path(run))
    with described(Path(run)):
        return _head(cfg), str(cfg.recipe.name)


def _config(run: Path) -> DictConfig:
    """The configuration of a run, which has weights, too."""
    if not (run / CONFIG).is_file() or not (_weights(run, WEIGHTS) or has_exact(run)):
        name = WEIGHTS if (run / CONFIG).is_file() else CONFIG
        raise FileNotFoundError(
            f"expected a run folder with {CONFIG} and {WEIGHTS}, got {run} without {name}; give the folder that "
            "toolkit.train printed (outputs/...), of a training that ran to its end"
        )
    return read_config(run / CONFIG)


def load(run: str | Path, device: str = "auto", exact: bool | None = False) -> Run:
    """Load what `save` wrote, in evaluation mode.

    exact: with the networks of `save_exact` instead of those that were trained; None: if there are any. Raises
    FileNotFoundError or ValueError that says what is missing or does not fit.
    """
    run = Path(run)
    cfg = _config(run)
    with described(run):
        module, head = _module_and_head(cfg)
        for key in ("name", "module.shape"):
            OmegaConf.select(cfg.recipe, key, throw_on_missing=True)
        Settings(cfg.coding.batch, 1, cfg.coding.seed).check()
    exact = has_exact(run) if exact is None else exact
    if exact:
        if not has_exact(run):
            raise FileNotFoundError(
                f"expected a run with an exact network, got {run} without {EXACT}; to decode, give the run that wrote "
                f"the file, and to compress, make one: {cli.command_line('make_exact', f'run={run}')}"
            )
        module = module.exact()
    file = _weights(run, EXACT if exact else WEIGHTS)
    if file is None:
        raise FileNotFoundError(
            f"expected a run with trained weights, got {run} without {WEIGHTS}, which ships to code alone; leave out "
            "exact=false, or give the folder of a training"
        )
    try:
        module.load_state_dict(_state(file))
    except Exception as error:  # torch, zipfile and pickle raise whatever they like for broken weights
        raise other_weights(file, error) from error
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        module = module.eval().to(device)
    except (RuntimeError, AssertionError) as error:  # torch's ways to say that it has no such device
        raise ValueError(
            f"expected device to be auto, cpu, or cuda where there is one, got {device!r} "
            f"({str(error).splitlines()[0]}); leave it out"
        ) from error
    if exact:
        prove(module)
    return Run(run, str(cfg.recipe.name), module, head, cfg, exact)


def no_group(key: str, value: Any) -> ValueError:
    """The error for a group of settings that was given one value."""
    return ValueError(f"expected one value of {key} to change, got {key}={value}; give {key}.NAME=VALUE, see --help")


def read_config(path: Path) -> DictConfig:
    """The configuration of a run. Raises ValueError for a file that is none, or has aliases, which we never write."""
    try:
        text = path.read_text()
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):  # some lines of them take all memory
            raise ValueError("an alias (*name)")
        cfg = OmegaConf.create(text)
        if not isinstance(cfg, DictConfig):
            raise ValueError("a list")
        OmegaConf.resolve(cfg)
    except (ValueError, OmegaConfBaseException, yaml.YAMLError, RecursionError) as error:
        raise ValueError(
            f"expected {path} to be the YAML file that toolkit.train wrote, got {' '.join(str(error).split())[:300]}; "
            "copy it again"
        ) from error
    return cfg


def identity(run: Run) -> dict[str, Any]:
    """What a file's header says about the model that wrote it: see `toolkit.chunks.model.fingerprint`."""
    settings: Any = OmegaConf.to_container(run.cfg.recipe, resolve=True)
    versions = {"torch": torch.__version__, "toolkit": metadata.version("toolkit")}
    return {
        "recipe": run.name, "model": fingerprint(run.module, settings), "exact": run.exact, "versions": versions,
    }  # fmt: skip


def _module_and_head(cfg: DictConfig) -> tuple[Any, Head]:
    module, head = _instantiate(cfg.recipe.module, RECIPES), _head(cfg)
    if not isinstance(module, Model):
        raise ValueError(f"expected a model, got {type(module).__name__}")
    return module, head


def _head(cfg: DictConfig) -> Head:
    """The head of a recipe. Runs from before heads name the codec of their rows instead, or a callback of that name."""
    made: Any = _instantiate(cfg.recipe.head if "head" in cfg.recipe else cfg.recipe.evaluation, HEADS)
    if isinstance(made, functools.partial):
        more = {"bits_per_dim": cfg.recipe.export_bits_per_dim} if "export_bits_per_dim" in cfg.recipe else {}
        made = made(**more) if isinstance(made.func, type) else get_class("toolkit.heads.rows.Rows")(made)
    return made  # type: ignore[no-any-return]


RECIPES, HEADS = ["recipes"], ["recipes", "toolkit.heads"]  # where what a configuration names may be defined


def _instantiate(cfg: DictConfig, packages: Sequence[str], train: bool = False) -> Any:
    """hydra's instantiate, for what is defined in some packages only.

    train: derived from Lightning's classes, see `trainable`.
    A run folder must be able to call neither os.system nor a command of ours, which writes where it is told to.
    """
    find_recipes()

    def ours(name: str) -> bool:
        return any(name == package or name.startswith(f"{package}.") for package in packages)

    targets = []
    for node in _nodes(cfg):
        target = node.get("_target_")
        if target is None:
            continue
        found = get_object(target) if ours(str(target)) else None
        # Where it is defined counts too: toolkit.images.files.os.system begins as our own names do.
        if not ours(getattr(found, "__module__", "")):
            raise ValueError(f"expected _target_ to name something in {', '.join(packages)}, got {target!r}")
        if not isinstance(found, type) and (not node.get("_partial_") or "." in getattr(found, "__qualname__", ".")):
            raise ValueError(f"expected _target_ to name a class, or a function with _partial_: true, got {target!r}")
        targets.append((node, found))
    for node, found in targets:
        _check_settings(node, found)
    try:
        if not train:
            return instantiate(cfg)
        plain = instantiate(cfg, _partial_=True)
        if not isinstance(getattr(plain, "func", None), type):
            raise ValueError(
                f"expected _target_ to name a class, got {cfg.get('_target_', 'none')!r}; see configs/recipe"
            )
    except InstantiationException as error:
        # The cause carries the message that our own code wrote; hydra's adds the target and a long chain.
        raise (error.__cause__ or error) from None
    return trainable(plain.func)(*plain.args, **plain.keywords)


_KINDS: dict[str, tuple[type | tuple[type, ...], str, str]] = {  # of annotations; what people call them; an example
    "bool": (bool, "true or false", "true"), "int": (int, "a whole number", "1"), "str": (str, "text", "TEXT"),
    "float": ((int, float), "a number", "0.5"),
}  # fmt: skip


def _check_settings(node: DictConfig, target: Any) -> None:
    """Raise ValueError for a setting that a target does not have, or whose value is not what its annotation says."""
    known = inspect.signature(target).parameters
    open_ended = any(parameter.kind == parameter.VAR_KEYWORD for parameter in known.values())
    for key in map(str, node):
        if key.startswith("_") or (open_ended and key not in known):
            continue
        name = node._get_full_key(key)
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            remedy = f"did you mean {close[0]}?" if close else "leave it out"
            raise ValueError(f"expected a setting that {target.__name__} has, got {name}; {remedy}")
        said = known[key].annotation
        kinds = (said if isinstance(said, str) else inspect.formatannotation(said)).split(" | ")
        wanted = [found for kind in kinds if kind != "None" and (found := _kind(kind))]
        if node[key] is None or len(wanted) < len([kind for kind in kinds if kind != "None"]):
            continue
        if not any(fits(node[key]) for fits, _, _ in wanted):
            _, expected, example = wanted[0]
            raise ValueError(f"expected {name} to be {expected}, got {node[key]}; give for instance {name}={example}")


def _kind(annotation: str) -> tuple[Callable[[Any], bool], str, str] | None:
    """Whether a value is of a kind, what people call that, and an example; None for kinds that no one types."""
    many = re.fullmatch(r"(?:Sequence|list)\[(\w+)\]", annotation)
    if (found := _KINDS.get(many[1] if many else annotation)) is None:
        return None
    types, expected, example = found

    def fits(value: Any) -> bool:
        return isinstance(value, types) and (types is bool or not isinstance(value, bool))

    if not many:
        return fits, expected, example
    said = f"a list of {expected.removeprefix('a ')}s" if expected.startswith("a ") else f"a list of {expected}"
    return (
        lambda value: isinstance(value, ListConfig) and all(map(fits, value)),
        said,
        f"[{example},{example}]",
    )


def find_recipes() -> None:
    """Import our own `recipes`, and not a folder of that name in the working directory.

    Raises ValueError if the program has imported another package of that name.
    """
    folder = ROOT / "recipes"
    if "recipes" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "recipes", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None and spec.loader is not None
        sys.modules["recipes"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["recipes"])
    found = list(sys.modules["recipes"].__path__)
    if str(folder) not in found:
        raise ValueError(
            f"expected the package recipes to be that of {folder}, got {', '.join(found)}, which this program "
            "imported; give it another name"
        )


def _nodes(cfg: Any) -> list[DictConfig]:
    """All mappings of a configuration, those inside lists too: hydra instantiates them all."""
    if isinstance(cfg, ListConfig):
        return [node for value in cfg for node in _nodes(value)]
    if not isinstance(cfg, DictConfig):
        return []
    return [cfg, *(node for value in cfg.values() for node in _nodes(value))]
