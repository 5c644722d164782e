"""Models small enough to code with in milliseconds, for the tests that need one but no training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from recipes.bitswap import BitSwap
from toolkit.recipe import save

BITSWAP: dict[str, Any] = {
    "likelihood": "interlaced", "components": 2, "latent_channels": [2, 2], "downscale": [2, 2], "blocks": [1, 1],
    "width": 8, "bins": 256, "bins_per_unit": 8, "learning_rate": 1e-3, "warmup": 1, "weight_decay": 0.0,
    "free_bits": 0.0, "kl_warmup": 0,
}  # fmt: skip


def bitswap(shape: Sequence[int] = (1, 8, 8), seed: int = 0, **changes: Any) -> BitSwap:
    """An untrained model in evaluation mode, whose outputs depend on what it sees: zero weights are replaced."""
    torch.manual_seed(seed)
    module = BitSwap(shape, **{**BITSWAP, **changes}).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if not bool(parameter.any()):
                parameter.normal_(std=0.05)
    return module


def configuration(shape: Sequence[int], *overrides: str, **changes: Any) -> DictConfig:
    """The configuration of a run of such a model."""
    with initialize_config_module("configs", version_base="1.3"):
        cfg = compose("train", ["recipe=bitswap", "data=digits", "coding.batch=16", *overrides])
    OmegaConf.set_struct(cfg, False)
    cfg.recipe.module = {"_target_": cfg.recipe.module._target_, **BITSWAP, **changes, "shape": list(shape)}
    return cfg


def run_folder(path: Path, shape: Sequence[int], seed: int = 0, **changes: Any) -> Path:
    """A run folder as toolkit.train leaves it, of an untrained model."""
    path.mkdir()
    save(path, configuration(shape, **changes), bitswap(shape, seed, **changes))
    return path
