"""python -m toolkit.train recipe=NAME: train, and encode and decode real files as training goes on."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import sys
import time
import warnings
from pathlib import Path
from typing import Any, cast

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor, nn

from toolkit import cli, embeddings
from toolkit.data.splits import spread
from toolkit.embeddings.sources import of_run
from toolkit.images import baselines
from toolkit.runs import (
    ROOT,
    Recipe,
    build,
    coder,
    evaluation,
    has_exact,
    load,
    read_config,
    save_config,
    save_exact,
    save_weights,
)  # fmt: skip
from toolkit.training import precision
from toolkit.training.evaluation import CodecEvaluation, Progress, RoundTripError, Schedule, evaluate
from toolkit.training.plots import rate_table

# Said by libraries to their own developers, or about things that this program does on purpose.
QUIET = (
    ".*does not have many workers.*", ".*isinstance.treespec, LeafSpec.*", ".*GPU available but not used.*",
    ".*exists and is not empty.*", ".*lr_scheduler.step.*", ".*across ranks.*", ".*sync_dist=True.*",
    ".*could not find the monitored key.*",  # of an interrupted training that goes on: its epoch has no validation
    ".*Trying to infer the `batch_size`.*", ".*barrier.*device.*", ".*smaller than the logging interval.*",
)  # fmt: skip


def train(cfg: DictConfig, run: Path) -> dict[str, float]:
    """Train a recipe in the folder `run`; returns the final held-out rates and speeds."""
    seed_everything(cfg.seed, verbose=False)
    recipe = build(cfg)
    data: Any = recipe.data
    module = recipe.module
    cfg.trainer.precision = _precision(cfg.trainer)
    if cfg.compile:
        cast(nn.Module, module.net).compile()  # in place: the names of the weights stay
    codes_rows = recipe.head is not None
    codec: Any = _codec_evaluation(recipe, cfg, run) if codes_rows else evaluation(cfg, run)
    max_steps = cfg.epochs * len(data.train_dataloader()) if cfg.epochs > 0 else cfg.max_steps
    schedule = Schedule(cfg.minutes, max_steps, cfg.recipe.module.warmup)
    bound = "validation/elbo_bpd" if codes_rows else codec.monitor
    best = ModelCheckpoint(run / "checkpoints", "best", monitor=bound, enable_version_counter=False)
    last = ModelCheckpoint(run / "checkpoints", "last", save_on_train_epoch_end=True, enable_version_counter=False)
    bars = [Progress(schedule)] if cfg.trainer.get("enable_progress_bar", True) else []
    trainer = Trainer(
        **OmegaConf.to_container(cfg.trainer, resolve=True),  # type: ignore[arg-type]  # keys are strings
        max_epochs=-1,
        max_steps=max_steps,
        num_sanity_val_steps=0,
        logger=TensorBoardLogger(run, name="", version=""),
        # The codec's evaluation stands before the averaging, whose weights it wants: hooks run in this order.
        callbacks=[schedule, codec, *([_averaging(cfg.ema)] if cfg.ema else []), best, last, *bars],
        enable_model_summary=False,
    )  # fmt: skip
    if trainer.is_global_zero:
        size = sum(p.numel() for p in module.parameters()) / 1e6
        print(f"{data.name}: {data.summary()}; model: {size:.2f} M parameters; run: {run}", flush=True)
        save_config(run, cfg)  # before training, so that an interrupted run can be resumed
    resume = run / "checkpoints" / "last.ckpt" if cfg.resume else None
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # else its threads can abort a process that ends
    if not trainer.is_global_zero:
        return {}
    if Path(best.best_model_path).is_file():
        state = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
        module.load_state_dict(state["state_dict"])
        save_weights(run, module)
    if trainer.interrupted:
        raise SystemExit(f"interrupted; go on with: python -m toolkit.train resume={run}")
    if not codes_rows:
        pictures = hasattr(codec, "report")  # a lossy model of pictures, not one of words
        return report_pictures(cfg, run, codec, module, data) if pictures else report_embeddings(cfg, run)
    try:
        save_exact(run, data.train)
    except ValueError as error:  # the training is none the worse for it
        print(f"\nfiles will decode only where networks compute the same floats: {error}", file=sys.stderr)
    return report(cfg, run, data.test)


def report(cfg: DictConfig, run: Path, test: Tensor) -> dict[str, float]:
    """Print what the saved model does on held-out rows, beside the usual codecs, and what to do next."""
    recipe, saved = load(run)
    codes = load(run, exact=True)[0] if has_exact(run) else recipe
    rows = test if cfg.evaluation.test_rows is None else spread(test, cfg.evaluation.test_rows)
    result = evaluate(recipe.module, coder(codes, saved, len(rows)), rows, run / "test.tkc")
    others = baselines.lossless(rows, rows=len(rows), mosaic_rows=len(rows))
    print("\n" + rate_table(f"{len(rows)} held-out test rows", result, others))
    print(
        f"\nNext:\n"
        f"  tensorboard --logdir {run}\n"
        f"  python -m toolkit.compress run={run} input=FOLDER_OR_IMAGE output=photos.tkc\n"
        f"  python -m toolkit.decompress run={run} input=photos.tkc output=restored\n"
        f"  python -m toolkit.evaluate run={run}\n"
        f"  python -m toolkit.train resume={run} minutes={2 * math.ceil(cfg.minutes)}   # train longer"
    )
    return result


def report_embeddings(cfg: DictConfig, run: Path) -> dict[str, float]:
    """Export the vectors of a run; print the file's size beside the usual formats, and what to do next."""
    found = of_run(run)
    assert found.sigma is not None
    bits, file = cfg.recipe.export_bits_per_dim, run / "vectors.tkc"
    sizes = embeddings.export(
        file, found.words, found.vectors, found.sigma, "bits_per_dim", bits, about={"sigma": found.rule}
    )
    size, word = sizes["file"], found.words[99 % len(found.words)]
    one = f"from toolkit import embeddings; print(embeddings.load('{file}').most_similar('{word}'))"
    print(
        f"\n{embeddings.summary(sizes, found.words, found.vectors.shape[1], file)}\n"
        f"\nNext:\n"
        f"  tensorboard --logdir {run}\n"
        f'  python -c "{one}"\n'
        f"  python -m toolkit.export_embeddings run={run} output=small.tkc target_size={size / 2e3:.0f}kB\n"
        f"  python -m toolkit.export_embeddings input={file} output=vectors.bin   # for word2vec, gensim, spaCy\n"
        f"  python -m toolkit.train recipe=word_embeddings data=corpus data.path=TEXT epochs=5 minutes=600"
    )
    return {"file_bytes": size, "file_bpd": 8 * size / found.vectors.numel()}


def report_pictures(cfg: DictConfig, run: Path, evaluation: Any, module: Any, data: Any) -> dict[str, float]:
    """Fit the coder of a trained lossy model; print its curve beside other codecs, and what to do next."""
    print("\nfitting the tables of the coder, and coding the held-out pictures", flush=True)
    text = evaluation.report(module.eval(), data.train)
    save_weights(run, module)
    print(
        f"\n{text}\n"
        f"\nNext:\n"
        f"  tensorboard --logdir {run}\n"
        f"  python -m toolkit.compress run={run} input=PICTURE_OR_FOLDER output=small.tkc bpp=0.5   # or psnr=32\n"
        f"  python -m toolkit.decompress run={run} input=small.tkc output=restored\n"
        f"  python -m toolkit.evaluate run={run} pictures=FOLDER\n"
        f"  python -m toolkit.train recipe=vae data=folder data.splits.path=FOLDER minutes=120   # train on your own"
    )
    return {"pictures": float(len(evaluation.pictures()))}


def _codec_evaluation(recipe: Recipe, cfg: DictConfig, run: Path) -> CodecEvaluation:
    data: Any = recipe.data
    rows = spread(data.validation, cfg.evaluation.rows)
    lines = baselines.lossless(rows, rows=len(rows))
    return CodecEvaluation(
        rows, functools.partial(_coder, recipe, cfg, len(rows)), run / "validation.tkc", cfg.evaluation.every_n_epochs,
        {name: lines[name] for name in ("PNG", "WebP", "JPEG XL", "WebP mosaic", "JPEG XL mosaic") if name in lines},
    )  # fmt: skip


def _precision(trainer: DictConfig) -> str:
    """The precision to train with; says so if the one that was asked for is slow here."""
    wish = str(trainer.precision)
    if wish.startswith("bf16") and not precision.bf16_is_faster(trainer.accelerator):
        print(
            f"trainer.precision={wish} is slower than 32-true on this machine, which has no instructions for it; "
            "precision=auto takes it where it is faster",
            file=sys.stderr,
        )
    return precision.resolve(wish, trainer.accelerator)


def _averaging(decay: float) -> WeightAveraging:
    """Exponential moving average of the weights that forgets the first steps' weights faster than `decay` would."""
    return WeightAveraging(avg_fn=functools.partial(_average, decay))


def _average(decay: float, mean: Tensor, new: Tensor, n: Tensor | int) -> Tensor:
    if not mean.is_floating_point():  # integer tables are no weights
        return new
    return mean.lerp(new, 1 - min(decay, (1 + int(n)) / (10 + int(n))))


def _coder(recipe: Recipe, cfg: DictConfig, rows: int, module: LightningModule) -> Any:
    return coder(recipe._replace(module=module), cfg, rows)


def _resumed(cfg: DictConfig, overrides: list[str]) -> tuple[DictConfig, Path]:
    """The configuration of the run to resume, with this command's own overrides on top."""
    run = Path(cfg.resume)
    if not (run / "checkpoints" / "last.ckpt").is_file():
        raise FileNotFoundError(
            f"expected resume= to name a run folder with checkpoints/last.ckpt, got {run}; give a folder that "
            "toolkit.train made (outputs/...)"
        )
    refused = [o for o in overrides if o.split("=")[0] in ("recipe", "data") or not o[0].isalpha()]
    if refused:
        raise ValueError(
            f"expected only values to change when resuming, got {' '.join(refused)}; leave out: recipe and data are "
            f"those of {run}"
        )
    saved = read_config(run / "config.yaml")
    saved.merge_with_dotlist(overrides)
    return saved, run


@hydra.main(version_base="1.3", config_path=str(ROOT / "configs"), config_name="train")
def _main(cfg: DictConfig) -> None:
    run = Path(HydraConfig.get().runtime.output_dir)
    run = run.relative_to(Path.cwd()) if run.is_relative_to(Path.cwd()) else run  # as a person would type it
    with open_dict(cfg):
        began = time.monotonic()
        try:
            if cfg.resume:
                run.rmdir()
                cfg, run = _resumed(cfg, list(HydraConfig.get().overrides.task))
            result = train(cfg, run)
        except (ValueError, FileNotFoundError, RoundTripError) as error:
            print(f"error: {error}", file=sys.stderr)
            with contextlib.suppress(OSError):  # a folder with files in it stays
                run.rmdir()
            raise SystemExit(1) from error
        if result:  # in the first process only
            print(f"\n{(time.monotonic() - began) / 60:.1f} minutes in all")


@cli.piped
def main() -> None:
    """The command line."""
    for message in QUIET:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    _main()


if __name__ == "__main__":
    main()
