"""Images: batches in one and in two processes, resumed and not, and every way splits can be wrong."""

import atexit
import contextlib
import json
import re
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import OmegaConf
from torch import Tensor
from torch.multiprocessing import ProcessExitedException

from toolkit.data import images
from toolkit.data.images import Batches, Images, Splits

CONFIGS = Path(__file__).parents[1] / "configs" / "data"


def numbered(rows: int = 50, validation: int = 10, test: int = 7) -> Splits:
    """Splits whose rows, 1 x 1 pixels, are their numbers."""
    numbers = torch.arange(rows + validation + test, dtype=torch.uint8).view(-1, 1, 1, 1)
    return Splits(numbers[:rows], numbers[rows:-test], numbers[-test:], "numbered")


def rows_of(loader: Batches) -> list[list[int]]:
    return [batch.flatten().tolist() for batch in loader]


def different(batches: list[list[int]]) -> int:
    return len({row for batch in batches for row in batch})


class Recorder(L.LightningModule):
    """A module that learns nothing and writes down the rows it sees."""

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []
        self.folder = folder

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        self.seen.append(batch.flatten().tolist())
        return self.weight * batch.float().mean()

    def validation_step(self, batch: Tensor, index: int) -> None:
        self.log("rows", float(len(batch)), reduce_fx="sum", sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_train_end(self) -> None:
        if self.folder:
            validated = float(self.trainer.callback_metrics["rows"])
            (self.folder / f"rank{self.global_rank}").write_text(json.dumps([self.seen, validated]))
            # Threads of a process group that is still there when its process ends can abort the process.
            atexit.register(torch.distributed.destroy_process_group)


def trainer(folder: Path, **options: Any) -> L.Trainer:
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
    }
    return L.Trainer(default_root_dir=folder, **(quiet | {"devices": 1, "enable_checkpointing": False} | options))


# Batches


def test_training_batches_are_a_new_permutation_each_epoch_and_repeat_with_the_seed() -> None:
    epoch = 0
    loader = Batches(numbered().train, 8, shuffle=True, seed=1, current_epoch=lambda: epoch)
    first, again = rows_of(loader), rows_of(loader)
    epoch = 1
    second = rows_of(loader)
    assert first == again != second
    assert [len(batch) for batch in first] == [8] * 6 and len(loader) == 6
    assert different(first) == 48
    assert rows_of(Batches(numbered().train, 8, shuffle=True, seed=2)) != first


def test_validation_batches_are_all_rows_in_order_with_a_smaller_last_batch() -> None:
    loader = Batches(numbered().train, 8)
    assert rows_of(loader) == [list(range(i, min(i + 8, 50))) for i in range(0, 50, 8)] and len(loader) == 7


def test_flip_mirrors_about_half_of_the_rows_left_to_right_and_nothing_else() -> None:
    rows = torch.randint(0, 256, (400, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plain = torch.cat(list(Batches(rows, 50, shuffle=True)))
    flipped = torch.cat(list(Batches(rows, 50, shuffle=True, flip=True)))
    same = (plain == flipped).flatten(1).all(1)
    mirrored = (plain.flip(-1) == flipped).flatten(1).all(1)
    assert bool((same ^ mirrored).all()) and 150 < int(mirrored.sum()) < 250
    assert torch.equal(rows, rows.clone()) and flipped.dtype == torch.uint8


def test_processes_share_the_training_rows_without_overlap_and_make_equally_many_steps() -> None:
    shares = [rows_of(Batches(numbered().train, 8, shuffle=True, rank=rank, world=3)) for rank in range(3)]
    assert [len(share) for share in shares] == [2, 2, 2]
    assert different([batch for share in shares for batch in share]) == 48


# Images


def test_images_loads_once_and_shows_its_parts() -> None:
    calls = []

    def splits() -> Splits:
        calls.append(1)
        return numbered()

    data = Images(splits, batch_size=8)
    assert not calls
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    assert len(calls) == 1 and data.shape == (1, 1, 1) and data.name == "numbered"
    assert [len(part) for part in (data.train, data.validation, data.test)] == [50, 10, 7]
    assert [len(batch) for batch in data.val_dataloader()] == [8, 2]
    assert [len(batch) for batch in data.test_dataloader()] == [7]
    assert len(data.train_dataloader()) == 6


@pytest.mark.training
def test_training_with_images_raises_no_warning_about_workers(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module = Recorder()
        trainer(tmp_path, max_epochs=2).fit(module, datamodule=Images(numbered, batch_size=8))
    assert not [str(w.message) for w in caught if re.search("worker|loader|sampler|dataset", str(w.message), re.I)]
    assert len(module.seen) == 12 and module.seen[:6] != module.seen[6:]


@pytest.mark.training
def test_overfitting_some_batches_shows_the_same_rows_each_epoch(tmp_path: Path) -> None:
    module = Recorder()
    trainer(tmp_path, max_epochs=2, overfit_batches=2).fit(module, datamodule=Images(numbered, batch_size=8))
    assert module.seen == 2 * [list(range(8)), list(range(8, 16))]


@pytest.mark.training
@pytest.mark.parametrize("limit", [1.0, 4])
def test_a_resumed_training_sees_the_rows_that_the_unbroken_one_sees(tmp_path: Path, limit: float) -> None:
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    ends = ModelCheckpoint(tmp_path, "end-{step}", every_n_epochs=1, save_top_k=-1, save_on_train_epoch_end=True)
    options: dict[str, Any] = {"max_epochs": 3, "limit_train_batches": limit, "enable_checkpointing": True}
    straight = Recorder()
    trainer(tmp_path, callbacks=[saver, ends], **options).fit(straight, datamodule=Images(numbered, batch_size=8))
    epoch = len(straight.seen) // 3
    assert epoch == (6 if limit == 1.0 else 4)
    for name, step in [("step=2", 2), (f"step={epoch + 1}", epoch + 1), (f"end-step={epoch}", epoch)]:
        resumed = Recorder()
        options["enable_checkpointing"] = False
        trainer(tmp_path, **options).fit(
            resumed, datamodule=Images(numbered, batch_size=8), ckpt_path=str(tmp_path / f"{name}.ckpt")
        )
        assert resumed.seen == straight.seen[step:], name


def test_a_checkpoint_of_one_epoch_skips_nothing_in_the_next() -> None:
    epoch = 1
    loader = Batches(numbered().train, 8, shuffle=True, current_epoch=lambda: epoch)
    batches = rows_of(loader)
    loader.load_state_dict({"epoch": 0, "batch": 4})
    assert rows_of(loader) == batches
    loader.load_state_dict({"epoch": 1, "batch": 4})
    assert rows_of(loader) == batches[4:]
    assert rows_of(loader) == batches and loader.state_dict() == {"epoch": 1, "batch": 6}


@pytest.mark.training
def test_two_processes_train_on_different_rows_and_validate_on_all(tmp_path: Path) -> None:
    data = Images(partial(numbered, 50), batch_size=8)
    # A process that ends may be aborted by threads of torch that still run; all that is tested is written before.
    with contextlib.suppress(ProcessExitedException):
        trainer(tmp_path, max_epochs=1, devices=2, strategy="ddp_spawn").fit(Recorder(tmp_path), datamodule=data)
    ranks = [json.loads((tmp_path / f"rank{rank}").read_text()) for rank in range(2)]
    seen = [batches for batches, _ in ranks]
    assert [len(batches) for batches in seen] == [3, 3]
    assert different([batch for batches in seen for batch in batches]) == 48
    assert [validated for _, validated in ranks] == [20, 20]  # the sum over processes: all 10 rows in each


def test_images_refuses_a_batch_without_rows() -> None:
    with pytest.raises(ValueError, match="expected batch_size of at least 1, got 0"):
        Images(numbered, batch_size=0)


def test_images_refuses_a_negative_seed() -> None:
    with pytest.raises(ValueError, match="expected seed of at least 0, got -1"):
        Images(numbered, batch_size=1, seed=-1)


def test_images_refuses_fewer_rows_than_a_batch() -> None:
    with pytest.raises(ValueError, match="at least batch_size = 51 training rows in numbered, got 50"):
        Images(numbered, batch_size=51).setup()


def test_images_refuses_fewer_rows_than_a_batch_for_each_process() -> None:
    data = Images(numbered, batch_size=30)
    data.setup()
    data.trainer = type("Two", (), {"global_rank": 0, "world_size": 2, "overfit_batches": 0})()  # all that it reads
    with pytest.raises(ValueError, match=r"for each of 2 processes, got 50 in all; do: .* at most 25"):
        data.train_dataloader()


def test_images_refuses_splits_of_floats() -> None:
    splits = numbered()._replace(test=torch.zeros(3, 1, 1, 1))
    with pytest.raises(ValueError, match=r"expected the test part of numbered as uint8 .* got torch.float32"):
        Images(lambda: splits, batch_size=1).setup()


def test_images_refuses_an_empty_part() -> None:
    splits = numbered()._replace(validation=numbered().validation[:0])
    with pytest.raises(ValueError, match="at least one row in the validation part"):
        Images(lambda: splits, batch_size=1).setup()


def test_images_refuses_parts_of_different_shapes() -> None:
    splits = numbered()._replace(test=torch.zeros(3, 1, 2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"rows of one shape in numbered, got \[1, 1, 1\] in train and \[1, 2, 2\]"):
        Images(lambda: splits, batch_size=1).setup()


# Configuration


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_data_configuration_builds_its_module(path: Path) -> None:
    config: Any = OmegaConf.load(path)
    if config.get("_target_") != "toolkit.data.images.Images":
        pytest.skip("not a data set of images")
    for key in ("train", "path"):
        if OmegaConf.is_missing(config.splits, key):
            config.splits[key] = "somewhere"
    data = hydra.utils.instantiate(config)
    assert isinstance(data, Images) and data.loaded is None
    named = path.stem.removeprefix("large_")  # the same pictures in other sizes
    assert data.splits.func is getattr(images, named)  # type: ignore[attr-defined]  # a functools.partial
