"""Data sets that stay compressed: the same pictures, each once an epoch, and trainings the same as on their arrays."""

import functools
import itertools
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.utils.data import DataLoader

import toolkit
from tests.archives import noise
from tests.tiny import OWN, SMALL, images
from toolkit import opened
from toolkit.archive import Archive
from toolkit.data import TkcDataset, TkcIterableDataset
from toolkit.data.compressed import Compressed
from toolkit.data.images import Batches
from toolkit.train import train
from toolkit.training.overrides import with_file


@pytest.fixture(scope="module", autouse=True)
def each_model_is_loaded_once() -> Iterator[None]:
    """For speed: that takes longer than decoding so few rows."""
    load = opened.load
    opened.load = functools.cache(load)
    yield
    opened.load = load


ROWS = images(203, (1, 8, 8))
ROWS[:, 0, 0, 0] = torch.arange(203)  # to tell them apart


@pytest.fixture(scope="module")
def file(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An array of 203 rows in 21 chunks."""
    path = tmp_path_factory.mktemp("rows") / "rows.tkc"
    with toolkit.Writer(path, runs["grey"], device="cpu", chunk_rows=10) as writer:
        writer.add(ROWS.numpy())
    return path


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[np.ndarray]]:
    """Pictures of several sizes, each a chunk of its own."""
    path, pictures = (
        tmp_path_factory.mktemp("mixed") / "mixed.tkc",
        [noise(5 + i, 7, 3).transpose(2, 0, 1) for i in range(9)],
    )
    with toolkit.Writer(path, effort=0) as writer:
        for picture in pictures:
            writer.add(picture)
    return path, pictures


def numbers(batches: Any) -> list[int]:
    return [int(x) for batch in batches for x in batch.reshape(-1, 1, 8, 8)[:, 0, 0, 0]]


def stream(file: Path, runs: dict[str, Path], **options: Any) -> TkcIterableDataset:
    return TkcIterableDataset(file, runs["grey"], **{"batch_size": 8, "window": 40, **options})


def test_a_map_style_data_set_gives_each_picture_by_its_number(file: Path, runs: dict[str, Path]) -> None:
    data = TkcDataset(file, runs["grey"], transform=lambda x: x.float() / 255)
    assert len(data) == 203 and torch.equal(data[-1], ROWS[-1].float() / 255)
    assert torch.equal(data[7], ROWS[7].float() / 255)
    with pytest.raises(IndexError):
        data[203]
    plain = TkcDataset(file, runs["grey"])
    for workers in (0, 2):
        loader = DataLoader(plain, batch_size=50, num_workers=workers)
        assert torch.equal(torch.cat([*loader]), ROWS)
    assert torch.equal(pickle.loads(pickle.dumps(plain))[3], ROWS[3])


def test_an_epoch_has_each_picture_once_whatever_the_workers(file: Path, runs: dict[str, Path]) -> None:
    for workers in (0, 2):
        data = stream(file, runs, batch_size=None)
        found = numbers(DataLoader(data, batch_size=None, num_workers=workers))
        assert sorted(found) == [*range(203)] and found != sorted(found) and len(data) == 203
        data = stream(file, runs)
        batches = [*DataLoader(data, batch_size=None, num_workers=workers)]
        assert [len(batch) for batch in batches] == [8] * 25 and len(data) == 25
        assert len({*numbers(batches)}) == 200


def test_order_is_that_of_seed_and_epoch(file: Path, runs: dict[str, Path]) -> None:
    data, other = stream(file, runs), stream(file, runs, seed=1)
    first = numbers(data)
    assert numbers(stream(file, runs)) == first and numbers(other) != first
    data.set_epoch(1)
    assert numbers(data) != first
    data.set_epoch(0)
    assert numbers(data) == first
    assert numbers(stream(file, runs, shuffle=False)) == [*range(200)]


def test_workers_that_persist_learn_of_the_epoch(file: Path, runs: dict[str, Path]) -> None:
    data = stream(file, runs)
    loader = DataLoader(data, batch_size=None, num_workers=1, persistent_workers=True)
    found = []
    for epoch in range(2):
        data.set_epoch(epoch)
        found.append(numbers(loader))
    assert found[0] != found[1] and found[0] == numbers(stream(file, runs))


def test_no_more_than_a_window_is_in_memory_and_each_chunk_is_decoded_once(
    file: Path, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, taken = list[range](), Archive.part
    monkeypatch.setattr(Archive, "part", lambda self, which: parts.append(which) or taken(self, which))
    data = stream(file, runs)
    sizes = [len(window.order) for window in data.windows(0, 1, 0)]
    assert sum(sizes) == 203 and len(sizes) >= 4 and max(sizes) <= 40 + 20 + 10
    numbers(data)
    starts = [i // 10 for part in parts for i in (part.start, part.stop - 1)]
    assert len(parts) <= 21 and all(a == b for a, b in zip(starts[::2], starts[1::2], strict=True))
    # A small window mixes neighbours only within it.
    near = numbers(stream(file, runs, window=10, batch_size=None))
    assert all(len({x // 10 for x in near[i : i + 10]}) <= 3 for i in range(0, 200, 10))


def test_a_file_within_a_window_is_decoded_once(file: Path, runs: dict[str, Path], monkeypatch: Any) -> None:
    decoded, part = [], Archive.part
    monkeypatch.setattr(Archive, "part", lambda self, which: decoded.append(which) or part(self, which))
    kept, plain = (stream(file, runs, window=window, flip=True) for window in (203, 100))
    counts = []
    for epoch in range(3):
        for data in (kept, plain):
            data.set_epoch(epoch)
            found = [*data]
            counts.append(len(decoded))
            decoded.clear()
            if data is kept:
                batches = Batches(ROWS, 8, shuffle=True, flip=True, current_epoch=lambda epoch=epoch: epoch)
                assert all(torch.equal(a, b) for a, b in zip(found, batches, strict=True))
    assert counts == [counts[0], counts[1], 0, counts[1], 0, counts[1]] and min(counts[:2]) > 0
    assert len(pickle.dumps(kept)) < 2000 + len(pickle.dumps(plain))  # workers do without what is kept


def test_batches_may_be_larger_than_a_window(file: Path, runs: dict[str, Path]) -> None:
    found = [*stream(file, runs, window=5, batch_size=32)]
    assert [len(batch) for batch in found] == [32] * 6 and len({*numbers(found)}) == 192


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_share_an_epoch_equally_and_without_overlap(workers: int, file: Path, runs: dict[str, Path]) -> None:
    shares = []
    for rank in range(3):
        data = stream(file, runs, rank=rank, world=3)
        assert len(data) == 8  # 203 // 3 // 8
        shares.append(numbers(DataLoader(data, batch_size=None, num_workers=workers)))
    assert [len(share) for share in shares] == [64] * 3
    assert len({*itertools.chain(*shares)}) == 192


def test_the_rank_is_that_of_torch_distributed(file: Path, runs: dict[str, Path], monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    found = stream(file, runs)
    expected = numbers(stream(file, runs, rank=1, world=2))
    assert numbers(found) == expected
    sent = pickle.dumps(found)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    assert numbers(pickle.loads(sent)) == expected


def test_a_file_within_a_window_gives_the_batches_of_its_array(file: Path, runs: dict[str, Path]) -> None:
    data = stream(file, runs, window=1000, flip=True, seed=3, rows=(0, 190))
    for epoch in range(2):
        data.set_epoch(epoch)
        expected = Batches(ROWS[:190], 8, shuffle=True, flip=True, seed=3, current_epoch=lambda epoch=epoch: epoch)
        found = [*data]
        assert len(found) == len(expected) == 23
        assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("workers", [0, 2])
def test_what_was_seen_of_an_epoch_is_skipped(workers: int, file: Path, runs: dict[str, Path]) -> None:
    data = Compressed(str(file), str(runs["grey"]), validation_rows=23, window=40, batch_size=8, workers=workers)
    data.setup()
    loader = data.train_dataloader()
    whole = [*loader]
    assert loader.state_dict() == {"epoch": 0, "batch": 22}
    for seen in (5, 12, 22):
        loader.load_state_dict({"epoch": 0, "batch": seen})
        rest = [*loader]
        assert len(rest) == 22 - seen and all(map(torch.equal, rest, whole[seen:]))
    loader.load_state_dict({"epoch": 4, "batch": 5})
    assert len([*loader]) == 22


def test_pictures_of_several_sizes_come_one_by_one(mixed: tuple[Path, list[np.ndarray]]) -> None:
    path, pictures = mixed
    found = sorted((picture.numpy() for picture in TkcIterableDataset(path)), key=len)
    assert {x.tobytes() for x in found} == {x.tobytes() for x in pictures}
    shown = [*TkcIterableDataset(path, shuffle=False, transform=lambda x: tuple(x.shape))]
    assert shown == [picture.shape for picture in pictures]


def losses(run: Path) -> list[tuple[int, float]]:
    events = EventAccumulator(str(run))
    events.Reload()
    [name] = [tag for tag in events.Tags()["scalars"] if tag.startswith("train/") and "loss" in tag] or [
        "train/elbo_bpd"
    ]
    return [(event.step, event.value) for event in events.Scalars(name)]


def trained(folder: Path, *data: str) -> tuple[list[tuple[int, float]], dict[str, Tensor]]:
    small = [override for override in SMALL if not override.startswith("data=")]
    with initialize_config_module("configs", version_base="1.3"):
        cfg = compose(
            "train",
            ["recipe=bitswap", *data, *small, *OWN["bitswap"], "max_steps=6", "minutes=100000", "data.batch_size=16"],
        )
    OmegaConf.set_struct(cfg, False)
    train(cfg, folder)
    return losses(folder), torch.load(folder / "model.pt", weights_only=True)


@pytest.mark.training
def test_training_on_a_file_has_the_losses_of_training_on_its_array(
    file: Path, runs: dict[str, Path], tmp_path: Path
) -> None:
    np.save(tmp_path / "rows.npy", ROWS.numpy())
    held_out = "validation_rows=23"
    ours, weights = trained(
        tmp_path / "tkc", "data=tkc", f"data.train={file}", f"data.run={runs['grey']}", f"data.{held_out}"
    )
    array, same = trained(
        tmp_path / "array", "data=array", f"data.splits.train={tmp_path / 'rows.npy'}", f"data.splits.{held_out}"
    )
    assert len(ours) == 6 and ours == array
    assert weights.keys() == same.keys() and all(torch.equal(weights[name], same[name]) for name in weights)


def test_data_may_name_a_file() -> None:
    assert with_file(["recipe=local", "data=my/x.tkc"]) == ["recipe=local", "data=tkc", "data.train=my/x.tkc"]
    assert with_file(["data=s3://b/x.tkc", "data.run=r"]) == ["data=tkc", "data.train=s3://b/x.tkc", "data.run=r"]
    assert with_file(["data=a/x.npy"]) == ["data=array", "data.splits.train=a/x.npy"]
    assert with_file(["data=mnist", "x.tkc"]) == ["data=mnist", "x.tkc"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"batch_size": 0}, "expected batch_size and window of at least 1"),
        ({"window": 0}, "expected batch_size and window of at least 1"),
        ({"rank": 1}, "expected 0 <= rank < world, or neither, got rank=1, world=None"),
        ({"rank": 2, "world": 2}, "expected 0 <= rank < world"),
        ({"rows": (5, 5)}, "expected pictures to train on, got none from 5 to 5"),
        ({"batch_size": 200, "rank": 0, "world": 2}, "expected at least batch_size = 200 pictures for each of 2"),
    ],
)
def test_what_a_stream_cannot_do_is_refused(
    options: dict[str, Any], expected: str, file: Path, runs: dict[str, Path]
) -> None:
    with pytest.raises(ValueError, match=expected):
        stream(file, runs, **options)


def test_batches_of_several_sizes_are_refused(mixed: tuple[Path, list[np.ndarray]]) -> None:
    with pytest.raises(ValueError, match=r"mixed\.tkc: expected pictures of one size and mode for batches, got 9 ki"):
        TkcIterableDataset(mixed[0], batch_size=2, window=1)  # each window for itself has one size
    assert len(next(iter(TkcIterableDataset(mixed[0], batch_size=1, rows=(3, 4))))) == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"batch_size": 0}, "expected data.batch_size and data.window of at least 1"),
        ({"workers": -1}, "data.workers and data.seed of at least 0"),
        ({"validation_rows": 203}, "expected validation_rows from 1 to 202"),
        ({"train": "https://user:secret@host/x.tkc"}, "expected a URL without a password or a query"),
    ],
)
def test_what_a_training_cannot_do_is_refused(
    options: dict[str, Any], expected: str, file: Path, runs: dict[str, Path]
) -> None:
    with pytest.raises(ValueError, match=expected) as caught:
        Compressed(**{"train": str(file), "run": str(runs["grey"]), **options}).setup()
    assert "secret" not in str(caught.value)


def test_a_training_on_pictures_of_several_sizes_is_refused(mixed: tuple[Path, list[np.ndarray]]) -> None:
    with pytest.raises(ValueError, match="expected pictures of one size and mode, 8 bits a value, got 9 kinds"):
        Compressed(str(mixed[0]), validation_rows=1).setup()
