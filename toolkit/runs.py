"""A recipe: a module, its compression head and its data; built from a configuration, saved as a run, loaded again."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
import yaml
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn

from toolkit.chunks.chained import Coder, CompressionHead, Settings, choose_lanes, fingerprint
from toolkit.chunks.separate import AloneCoder
from toolkit.images.rate_coder import PictureCoder
from toolkit.model import Model, trainable
from toolkit.nets.exact import exactly, prove

if TYPE_CHECKING:
    from lightning import LightningDataModule

ROOT = Path(__file__).parents[1]  # where recipes/ and configs/ stand beside toolkit/
CONFIG, WEIGHTS, EXACT = "config.yaml", "model.pt", "exact.pt"
CALIBRATION = 256  # training rows that show an exact network how large its activations become


class Recipe(NamedTuple):
    """What one configuration makes: `module.bits(x)` is the bound that `head` codes `data`'s rows near to."""

    module: Model  # a LightningModule where it was made to train, see `toolkit.model`
    head: CompressionHead | None  # None where it is the model itself that is compressed: see `evaluation`
    data: LightningDataModule | None  # None where only a trained model was loaded
    exact: bool = False  # whether the module's networks are in exact arithmetic: made to code, not to train

    @property
    def lossy(self) -> bool:
        """Whether the module codes pictures at any rate: see `toolkit.images.rate_coder.LossyModel`."""
        return self.head is None and hasattr(self.module, "latents")


def build(cfg: DictConfig) -> Recipe:
    """Build a recipe from a composed configuration; the module gets the shape of the data's rows.

    Raises ValueError for a target outside recipes and toolkit, and whatever the parts say about their arguments.
    """
    data = build_data(cfg)
    OmegaConf.update(cfg, "recipe.module.shape", list(data.shape), force_add=True)
    module, head = _module_and_head(cfg, train=True)
    return Recipe(module, head, data)


def build_data(cfg: DictConfig) -> Any:
    """The data of a configuration, loaded: a LightningDataModule with train, validation, test, shape and name."""
    data = _instantiate(cfg.data, ["toolkit.data"])
    data.prepare_data()
    data.setup()
    return data


def evaluation(cfg: DictConfig, run: Path) -> Any:
    """The callback of a recipe without a head, which evaluates in the folder `run` what is compressed instead."""
    return _instantiate(cfg.recipe.evaluation, ["recipes"], train=True)(run=run)


def save(run: Path, cfg: DictConfig, module: Model) -> None:
    """Write a run, as `load` reads it: config.yaml and model.pt."""
    save_config(run, cfg)
    save_weights(run, module)


def save_config(run: Path, cfg: DictConfig) -> None:
    """Write the configuration of a run."""
    OmegaConf.save(cfg, run / CONFIG, resolve=True)


def save_weights(run: Path, module: Model) -> None:
    """Write the weights of a run: tensors only, no pickled code. An exact network of other weights goes."""
    (run / EXACT).unlink(missing_ok=True)
    _save_state(run / WEIGHTS, module)


def save_exact(run: Path, rows: Tensor) -> None:
    """Make and write the exact network of a saved run, as `load` reads it, from its weights.

    rows: uint8 [n, ...], training rows. Raises ValueError for a model that has no exact form.
    """
    module: Any = load(run, "cpu")[0].module
    _check_convertible(module)
    found = module.exact(rows[torch.linspace(0, len(rows) - 1, min(len(rows), CALIBRATION)).long()])
    prove(found)
    _save_state(run / EXACT, found)


def has_exact(run: str | Path) -> bool:
    """Whether a run has an exact network of its weights as they are."""
    return (Path(run) / EXACT).is_file()


def _check_convertible(module: Any) -> None:
    if not hasattr(module, "exact"):
        raise ValueError(f"expected a recipe with an exact form, got {type(module).__name__}; code with exact=false")


def _save_state(file: Path, module: Model) -> None:
    part = file.with_name(file.name + ".part")
    torch.save({name: value.detach().cpu() for name, value in module.state_dict().items()}, part)
    part.replace(file)  # never a half-written file under the final name


def load(run: str | Path, device: str = "auto", exact: bool = False) -> tuple[Recipe, DictConfig]:
    """Load what `save` wrote, in evaluation mode, without its data; also the configuration.

    exact: with the networks of `save_exact` instead of those that were trained. Raises FileNotFoundError or ValueError
    that says what is missing or does not fit.
    """
    run = Path(run)
    for name in (CONFIG, WEIGHTS):
        if not (run / name).is_file():
            raise FileNotFoundError(
                f"expected a run folder with {CONFIG} and {WEIGHTS}, got {run} without {name}; give the folder that "
                "toolkit.train printed (outputs/...), of a training that ran to its end"
            )
    cfg = read_config(run / CONFIG)
    try:
        module, head = _module_and_head(cfg)
        if not isinstance(module, nn.Module) or not (head is None or callable(head)):
            raise ValueError(f"expected a module and its head, got {type(module).__name__}, {type(head).__name__}")
        for key in ("name", "module.shape"):
            OmegaConf.select(cfg.recipe, key, throw_on_missing=True)
        Settings(cfg.coding.batch, 1, cfg.coding.seed).check()
    except Exception as error:  # a module given nonsense fails in ways of its own
        raise ValueError(
            f"expected {run / CONFIG} to describe a model as toolkit.train does, got {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}; give the folder of a training"
        ) from error
    if exact:
        if not has_exact(run):
            raise FileNotFoundError(
                f"expected a run with an exact network, got {run} without {EXACT}; to decode, give the run that wrote "
                f"the file, and to compress, make one: python -m toolkit.make_exact run={run}"
            )
        _check_convertible(module)
        module = cast(Any, module).exact()
    name = EXACT if exact else WEIGHTS
    try:
        with open(run / name, "rb") as file:
            if file.read(4) != b"PK\x03\x04":  # torch's older formats take memory by sizes that they only declare
                raise ValueError("a file that torch.save did not write")
        module.load_state_dict(torch.load(run / name, map_location="cpu", weights_only=True))
    except Exception as error:  # torch, zipfile and pickle raise whatever they like for broken weights
        raise ValueError(
            f"expected weights of the model that {run / CONFIG} describes, got others in {name}: "
            f"{' '.join(str(error).split())[:300]}; give a run folder whose files belong together"
        ) from error
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = Recipe(module.eval().to(device), head, None, exact)
    except (RuntimeError, AssertionError) as error:  # torch's ways to say that it has no such device
        raise ValueError(
            f"expected device to be auto, cpu, or cuda where there is one, got {device!r} "
            f"({str(error).splitlines()[0]}); leave it out"
        ) from error
    if exact:
        prove(found.module)
    if found.lossy:
        found.module.to(memory_format=torch.channels_last)  # convolutions of whole pictures are a quarter faster
    return found, cfg


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


def coder(recipe: Recipe, cfg: DictConfig, rows: int, settings: Settings | None = None) -> Coder:
    """A `Coder` for chunks of so many rows; settings: of the file, when decoding."""
    if recipe.head is None:
        raise ValueError(
            f"expected a recipe that codes rows of data, got {cfg.recipe.name}, whose model itself is compressed; use "
            "toolkit.export_embeddings"
        )
    symbols = rows * int(torch.tensor(list(cfg.recipe.module.shape)).prod())
    settings = settings or Settings(cfg.coding.batch, choose_lanes(symbols), cfg.coding.seed)
    make = AloneCoder if getattr(recipe.module, "alone", False) else Coder  # what the head is made for
    head = exactly(recipe.head) if recipe.exact else recipe.head
    return make(recipe.module, head, settings)


def compression(recipe: Recipe, cfg: DictConfig) -> tuple[Callable[[int, Settings | None], Coder], dict[str, Any]]:
    """What `images.archive` needs of a loaded run: a maker of coders, and what the header says about the model."""
    versions = {"torch": torch.__version__, "toolkit": metadata.version("toolkit")}
    identity = {
        "recipe": cfg.recipe.name, "model": identity_of(recipe, cfg), "exact": recipe.exact, "versions": versions,
    }  # fmt: skip
    return (lambda rows, settings: coder(recipe, cfg, rows, settings)), identity


def lossy_coder(recipe: Recipe) -> tuple[PictureCoder, dict[str, Any]]:
    """A coder of pictures of a loaded lossy run, and what a header says about the model."""
    module: Any = recipe.module
    # A short name of the model: a small picture takes a few hundred bytes.
    identity = {"recipe": type(module).__name__.lower(), "model": fingerprint(module, {})[:16]}
    return PictureCoder(module, module.device), identity


def identity_of(recipe: Recipe, cfg: DictConfig) -> str:
    """The fingerprint of the model that a file's header names; see `toolkit.chunks.chained.fingerprint`."""
    settings = OmegaConf.to_container(cfg.recipe, resolve=True)
    assert isinstance(settings, dict)
    return fingerprint(recipe.module, {str(key): value for key, value in settings.items()})


def _module_and_head(cfg: DictConfig, train: bool = False) -> tuple[Model, CompressionHead | None]:
    return (
        _instantiate(cfg.recipe.module, ["recipes"], train),
        _instantiate(cfg.recipe.head, ["recipes"]) if "head" in cfg.recipe else None,
    )


def _instantiate(cfg: DictConfig, packages: Sequence[str], train: bool = False) -> Any:
    """hydra's instantiate, for what is defined in some packages only.

    train: derived from Lightning's classes, see `trainable`.
    A run folder must be able to call neither os.system nor a command of ours, which writes where it is told to.
    """
    find_recipes()

    def ours(name: str) -> bool:
        return any(name == package or name.startswith(f"{package}.") for package in packages)

    for node in _nodes(cfg):
        target = node.get("_target_")
        # Where it is defined counts too: toolkit.images.files.os.system begins as our own names do.
        if target is not None and not (ours(str(target)) and ours(getattr(get_object(target), "__module__", ""))):
            raise ValueError(f"expected _target_ to name something in {', '.join(packages)}, got {target!r}")
    try:
        if not train:
            return instantiate(cfg)
        plain = instantiate(cfg, _partial_=True)
        if not isinstance(getattr(plain, "func", None), type):
            target = cfg.get("_target_", "none")
            raise ValueError(
                f"expected _target_ to name a class, got {cfg.get('_target_', 'none')!r}; see configs/recipe"
            )
    except InstantiationException as error:
        # The cause carries the message that our own code wrote; hydra's adds the target and a long chain.
        raise (error.__cause__ or error) from None
    kind: Any = trainable(plain.func)
    make: Callable[..., Any] = functools.partial(kind, *plain.args, **plain.keywords)
    return make if cfg.get("_partial_") else make()


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
