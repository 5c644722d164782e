"""Models small enough to code with in milliseconds, for the tests that need one but no training."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from recipes.bitswap import BitSwap, head
from recipes.photographs import Photographs
from toolkit.chunks.chained import Coder
from toolkit.chunks.model import Settings
from toolkit.photographs import codec
from toolkit.runs import save

BITSWAP: dict[str, Any] = {
    "likelihood": "interlaced", "components": 2, "levels": 1, "refinements": 1, "latent_channels": [2, 2],
    "downscale": [2, 2], "blocks": [1, 1], "width": 8, "bins": 256, "bins_per_unit": 8, "learning_rate": 1e-3,
    "warmup": 1, "weight_decay": 0.0, "free_bits": 0.0, "kl_warmup": 0,
}  # fmt: skip

SMALL = [
    "data=digits", "evaluation.rows=16", "evaluation.test_rows=16", "coding.batch=16", "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1",
]  # fmt: skip
OWN = {  # what else makes a recipe small
    "bitswap": [
        "recipe.module.width=8", "recipe.module.blocks=[1,1]", "recipe.module.latent_channels=[2,2]",
        "recipe.module.components=2", "recipe.module.warmup=2", "recipe.module.finer=1",
        "recipe.module.downscale=[2,1]",
    ],
    "vae_lossless": [
        "recipe.module.width=8", "recipe.module.blocks=1", "recipe.module.latents=2", "recipe.module.components=2",
        "recipe.module.levels=1", "recipe.module.warmup=2",
    ],
    "ikvae": [
        "recipe.module.width=8", "recipe.module.blocks=1", "recipe.module.latents=4", "recipe.module.components=2",
        "recipe.module.warmup=2", "recipe.module.likelihood=logistic", "recipe.head.codec.sampler=ad_star",
    ],
}  # fmt: skip


def images(rows: int, shape: tuple[int, ...] = (1, 8, 8), seed: int = 0) -> Tensor:
    """Grey slopes with noise: neither constant nor incompressible."""
    rng = torch.Generator().manual_seed(seed)
    slope = torch.randint(0, 200, (rows, 1, 1, 1), generator=rng) + 3 * torch.arange(shape[2])[:, None]
    return (slope + torch.randint(0, 30, (rows, *shape), generator=rng)).clamp(max=255).to(torch.uint8)


def bitswap(shape: Sequence[int] = (1, 8, 8), seed: int = 0, **changes: Any) -> BitSwap:
    """An untrained model in evaluation mode, whose outputs depend on what it sees: zero weights are replaced."""
    torch.manual_seed(seed)
    module = BitSwap(shape, **{**BITSWAP, **changes}).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if not bool(parameter.any()):
                parameter.normal_(std=0.05)
    return module


def everything(rows: Tensor) -> Tensor:
    """That each value of the rows is coded."""
    return torch.ones(rows.shape, dtype=torch.bool)


def coder(module: Any = None, scheme: str = "bitswap", lanes: int = 16, seed: int = 0, batch: int = 16) -> Coder:
    """Rows coded by a model in blocks of `batch`."""
    return Coder(module or bitswap(), functools.partial(head, scheme=scheme), Settings(batch, lanes, seed))


def configuration(shape: Sequence[int], *overrides: str, **changes: Any) -> DictConfig:
    """The configuration of a run of such a model."""
    with initialize_config_module("configs", version_base="1.3"):
        cfg = compose("train", ["recipe=bitswap", "data=digits", "coding.batch=16", "recipe.head.tile=0", *overrides])
    OmegaConf.set_struct(cfg, False)
    cfg.recipe.module = {"_target_": cfg.recipe.module._target_, **BITSWAP, **changes, "shape": list(shape)}
    return cfg


def run_folder(path: Path, shape: Sequence[int], seed: int = 0, **changes: Any) -> Path:
    """A run folder as toolkit.train leaves it, of an untrained model."""
    path.mkdir()
    save(path, configuration(shape, **changes), bitswap(shape, seed, **changes))
    return path


def photographs(*overrides: str) -> DictConfig:
    """The configuration of a run of the model of whole pictures."""
    with initialize_config_module("configs", version_base="1.3"):
        cfg = compose("train", ["recipe=photographs", *overrides])
    OmegaConf.set_struct(cfg, False)
    return cfg


def picture_run(path: Path, *seen: Tensor) -> Path:
    """A run folder of that model, which has seen nothing but some pictures uint8 [c, h, w]."""
    module, cfg = Photographs((3,)).eval(), photographs()
    for picture in seen:
        module.net.state, _ = codec.learn(picture.numpy(), module.net.state)
    cfg.recipe.module.shape = [3]
    save(path, cfg, module)
    return path


def configure(name: str, *overrides: str) -> DictConfig:
    with initialize_config_module("configs", version_base="1.3"):
        cfg = compose("train", [f"recipe={name}", *SMALL, *OWN.get(name, []), *overrides])
    OmegaConf.set_struct(cfg, False)
    return cfg
