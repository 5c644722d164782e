"""Images and their sources: splits, batches, and every way a data set can be wrong."""

import gzip
import os
import re
import struct
import urllib.error
import urllib.request
import warnings
from functools import partial
from pathlib import Path

import hydra
import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from toolkit.data import images
from toolkit.data.images import Batches, Images, Splits

CONFIGS = Path(__file__).parents[1] / "configs" / "data"


def numbered(rows: int = 50, validation: int = 10, test: int = 7) -> Splits:
    """Splits whose rows, 1 x 1 pixels, are their numbers."""
    numbers = torch.arange(rows + validation + test, dtype=torch.uint8).view(-1, 1, 1, 1)
    return Splits(numbers[:rows], numbers[rows:-test], numbers[-test:], "numbered")


def rows_of(loader: Batches) -> list[list[int]]:
    return [batch.flatten().tolist() for batch in loader]


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
            (self.folder / f"rank{self.global_rank}").write_text(repr((self.seen, self.trainer.callback_metrics["rows"])))


def trainer(folder: Path, **options: object) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
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
    assert len(set(sum(first, []))) == 48
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
    assert len(set(sum(sum(shares, []), []))) == 48


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


def test_training_with_images_raises_no_warning_about_workers(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module = Recorder()
        trainer(tmp_path, max_epochs=2).fit(module, datamodule=Images(numbered, batch_size=8))
    assert not [str(w.message) for w in caught if re.search("worker|loader|sampler|dataset", str(w.message), re.I)]
    assert len(module.seen) == 12 and module.seen[:6] != module.seen[6:]


def test_overfitting_some_batches_shows_the_same_rows_each_epoch(tmp_path: Path) -> None:
    module = Recorder()
    trainer(tmp_path, max_epochs=2, overfit_batches=2).fit(module, datamodule=Images(numbered, batch_size=8))
    assert module.seen == 2 * [list(range(8)), list(range(8, 16))]


@pytest.mark.parametrize("limit", [1.0, 4])
def test_a_resumed_training_sees_the_rows_that_the_unbroken_one_sees(tmp_path: Path, limit: float) -> None:
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    ends = ModelCheckpoint(tmp_path, "end-{step}", every_n_epochs=1, save_top_k=-1, save_on_train_epoch_end=True)
    options = {"max_epochs": 3, "limit_train_batches": limit, "enable_checkpointing": True}
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


def test_two_processes_train_on_different_rows_and_validate_on_all(tmp_path: Path) -> None:
    data = Images(partial(numbered, 50), batch_size=8)
    trainer(tmp_path, max_epochs=1, devices=2, strategy="ddp_spawn").fit(Recorder(tmp_path), datamodule=data)
    ranks = [(tmp_path / f"rank{rank}").read_text() for rank in range(2)]
    seen = [eval(text, {"tensor": float})[0] for text in ranks]
    assert [len(batches) for batches in seen] == [3, 3]
    assert len(set(sum(sum(seen, []), []))) == 48
    assert all("tensor(20.)" in text for text in ranks)  # 10 rows in each of two processes


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
    data.trainer = type("Two", (), {"global_rank": 0, "world_size": 2, "overfit_batches": 0})()  # type: ignore[assignment]  # all it reads
    with pytest.raises(ValueError, match="for each of 2 processes, got 50 in all; do: .* at most 25"):
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
    config = OmegaConf.load(path)
    if config.get("_target_") != "toolkit.data.images.Images":
        pytest.skip("not a data set of images")
    for key in ("train", "path"):
        if OmegaConf.is_missing(config.splits, key):
            config.splits[key] = "somewhere"
    data = hydra.utils.instantiate(config)
    assert isinstance(data, Images) and data.loaded is None
    assert data.splits.func is getattr(images, path.stem)  # type: ignore[attr-defined]  # a functools.partial


# Embedded data


def test_photos_are_the_same_crops_each_time_from_photographs_kept_apart() -> None:
    splits, again = images.photos(train_rows=500), images.photos(train_rows=500)
    assert [list(part.shape) for part in splits[:3]] == [[500, 3, 32, 32], [216, 3, 32, 32], [256, 3, 32, 32]]
    assert all(torch.equal(a, b) for a, b in zip(splits[:3], again[:3], strict=True))
    assert not torch.equal(splits.train, images.photos(train_rows=500, seed=1).train)
    assert splits.train.float().std() > 30  # pictures, not constants


def test_photos_of_the_test_set_are_the_grid_of_the_astronaut() -> None:
    from skimage.data import astronaut

    picture = torch.from_numpy(astronaut()).permute(2, 0, 1)
    assert torch.equal(images.photos(train_rows=1).test[17], picture[:, 32:64, 32:64])


def test_photos_refuses_a_size_larger_than_the_photographs_held_out() -> None:
    with pytest.raises(ValueError, match="expected size from 1 to 400, got 401"):
        images.photos(size=401)


def test_photos_refuses_no_training_rows() -> None:
    with pytest.raises(ValueError, match="expected train_rows of at least 1, got 0"):
        images.photos(train_rows=0)


def test_photos_says_which_package_lacks_its_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.data.embedded.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"chelsea.png inside the installed package skimage.*pip install"):
        images.photos()


def test_digits_are_seventeen_levels_spread_over_the_bytes() -> None:
    splits = images.digits()
    assert [list(part.shape) for part in splits[:3]] == [[1297, 1, 8, 8], [250, 1, 8, 8], [250, 1, 8, 8]]
    levels = torch.cat(splits[:3]).unique()
    assert levels.tolist() == [level * 255 // 16 for level in range(17)]
    assert not torch.equal(splits.train, images.digits(seed=1).train)


# Published data


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">BBBB{array.ndim}i", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_mnist_reads_the_layout_of_torchvision(tmp_path: Path, offline: None, name: str, folder: str) -> None:
    train = np.arange(20 * 28 * 28).reshape(20, 28, 28).astype(np.uint8)
    for part, n in (("train", 20), ("t10k", 4)):
        write_idx(tmp_path / folder / "raw" / f"{part}-images-idx3-ubyte", train[:n])
        write_idx(tmp_path / folder / "raw" / f"{part}-labels-idx1-ubyte", np.zeros(n, np.uint8))
    splits = getattr(images, name)(tmp_path, validation_rows=5)
    assert torch.equal(torch.cat([splits.train, splits.validation])[:, 0], torch.from_numpy(train))
    assert len(splits.validation) == 5 and len(splits.test) == 4 and splits.name == name


def test_mnist_reads_the_published_gz_files_where_they_lie(tmp_path: Path, offline: None) -> None:
    root = os.environ.get("TOOLKIT_TEST_MNIST")
    if not root:
        pytest.skip("TOOLKIT_TEST_MNIST names no folder with the four .gz files of MNIST")
    splits = images.mnist(root, validation_rows=1)
    assert [list(part.shape) for part in splits[:3]] == [[59999, 1, 28, 28], [1, 1, 28, 28], [10000, 1, 28, 28]]
    # The mean brightness of the two sets, as everyone who normalises MNIST knows it.
    assert splits.train.double().mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert splits.test.double().mean() / 255 == pytest.approx(0.1325, abs=5e-5)


def test_mnist_takes_gz_files_only_with_the_published_checksum(tmp_path: Path, offline: None) -> None:
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"something else"))
    with pytest.raises(FileNotFoundError, match="MD5 f68b3c2dcbeaaa9fbdd348bbdeb94873"):
        images.mnist(tmp_path)


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("mnist", "train-images-idx3-ubyte.gz and t10k-images-idx3-ubyte.gz of MNIST"),
        ("fashion_mnist", "train-images-idx3-ubyte.gz and t10k-images-idx3-ubyte.gz of FashionMNIST"),
        ("cifar10", "cifar-10-python.tar.gz"),
    ],
)
def test_without_files_and_network_the_error_says_what_to_put_where(
    tmp_path: Path, offline: None, source: str, wanted: str
) -> None:
    with pytest.raises(FileNotFoundError, match=f"expected {wanted}.*no network in tests.*data=photos or data=digits"):
        getattr(images, source)(tmp_path)


def test_cifar10_puts_the_channels_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)

    class Fake:
        def __init__(self, root: Path, train: bool, download: bool) -> None:
            self.data = pictures if train else pictures[:3]

    monkeypatch.setattr("torchvision.datasets.CIFAR10", Fake)
    splits = images.cifar10(tmp_path, validation_rows=10)
    assert [list(part.shape) for part in splits[:3]] == [[20, 3, 32, 32], [10, 3, 32, 32], [3, 3, 32, 32]]
    assert splits.train[4, 2, 5, 6] == pictures[4, 5, 6, 2] and splits.train.is_contiguous()


def write_imagenet32(root: Path, width: int = 3072, key: str = "data") -> np.ndarray:
    rows = np.random.default_rng(0).integers(0, 256, (33, width), dtype=np.uint8)
    for i in range(10):
        np.savez(root / f"train_data_batch_{i + 1}.npz", **{key: rows[3 * i : 3 * i + 3]}, labels=np.zeros(3))
    np.savez(root / "val_data.npz", **{key: rows[30:]})
    return rows


def test_imagenet32_joins_its_ten_files_in_order(tmp_path: Path) -> None:
    rows = torch.from_numpy(write_imagenet32(tmp_path)).view(-1, 3, 32, 32)
    splits = images.imagenet32(tmp_path, validation_rows=4)
    assert torch.equal(torch.cat(splits[:3]), rows) and len(splits.train) == 26


def test_imagenet32_names_the_files_it_misses(tmp_path: Path) -> None:
    write_imagenet32(tmp_path)
    (tmp_path / "train_data_batch_7.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"missing: train_data_batch_7.npz; do: download"):
        images.imagenet32(tmp_path)


@pytest.mark.parametrize(("width", "key", "got"), [(12, "data", r"uint8 \[3, 12\]"), (3072, "x", "no array named")])
def test_imagenet32_refuses_files_of_another_kind(tmp_path: Path, width: int, key: str, got: str) -> None:
    write_imagenet32(tmp_path, width, key)
    with pytest.raises(ValueError, match=rf"expected uint8 \[n, 3072\] .*got {got}"):
        images.imagenet32(tmp_path)


@pytest.mark.parametrize("rows", [0, 30])
def test_validation_rows_must_leave_something_to_train_on(tmp_path: Path, rows: int) -> None:
    write_imagenet32(tmp_path)
    with pytest.raises(ValueError, match=rf"expected validation_rows from 1 to 29 .*got {rows}"):
        images.imagenet32(tmp_path, validation_rows=rows)


# Own data


def save(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


@pytest.mark.parametrize("shape", [(9, 4, 5), (9, 4, 5, 3), (9, 3, 4, 5), (9, 4, 5, 1), (9, 1, 4, 5)])
def test_array_finds_the_channels_by_their_number(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    splits = images.array(save(tmp_path / "a.npy", values), validation_rows=2)
    rows = torch.cat([splits.train, splits.validation])
    channels = 3 if 3 in shape else 1
    assert list(rows.shape) == [9, channels, 4, 5] and len(splits.validation) == 2
    last = values.reshape(9, 4, 5, 1) if values.ndim == 3 else np.moveaxis(values, 1, 3) if shape[1] < 4 else values
    assert np.array_equal(rows.permute(0, 2, 3, 1).numpy(), last)
    assert torch.equal(splits.test, splits.validation)


def test_array_takes_files_for_validation_and_test(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{i}.npy", np.full((i, 2, 2), i, np.uint8)) for i in (5, 6, 7)]
    assert [len(part) for part in images.array(*paths)[:3]] == [5, 6, 7]


def test_array_asks_for_the_layout_where_the_shape_fits_two(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npy", np.arange(6 * 3 * 8 * 3).reshape(6, 3, 8, 3).astype(np.uint8))
    with pytest.raises(ValueError, match=r"got \[6, 3, 8, 3\], which fits .* do: set data.splits.layout"):
        images.array(path, validation_rows=1)
    assert images.array(path, validation_rows=1, layout="nchw").train.shape[1:] == (3, 8, 3)
    assert images.array(path, validation_rows=1, layout="nhwc").train.shape[1:] == (3, 3, 8)


def test_array_refuses_an_unknown_layout(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected layout nchw or nhwc, got 'chwn'"):
        images.array(save(tmp_path / "a.npy", np.zeros((3, 4, 4), np.uint8)), layout="chwn")


def test_array_refuses_a_layout_that_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"c = 1 or 3 and layout nhwc, got \[3, 3, 4, 4\]"):
        images.array(save(tmp_path / "a.npy", np.zeros((3, 3, 4, 4), np.uint8)), layout="nhwc")


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 4, 2), (3, 1, 4, 4, 1)])
def test_array_refuses_other_shapes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \[n, h, w\].*do: reshape"):
        images.array(save(tmp_path / "a.npy", np.zeros(shape, np.uint8)))


def test_array_refuses_other_dtypes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a uint8 array, got float64"):
        images.array(save(tmp_path / "a.npy", np.zeros((3, 4, 4))))


def test_array_says_which_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected a .npy file at .*a.npy, found none"):
        images.array(tmp_path / "a.npy")


def write_pictures(root: Path, count: int, size: int = 40, mode: str = "RGB") -> None:
    for i in range(count):
        path = root / ("inner" if i % 2 else "") / f"{i}.png"
        path.parent.mkdir(exist_ok=True, parents=True)
        Image.new(mode, (size, size + 7), (i,) * 3 if mode == "RGB" else i).save(path)


def test_folder_keeps_whole_pictures_apart(tmp_path: Path) -> None:
    write_pictures(tmp_path, 20)
    splits = images.folder(tmp_path, size=16, train_rows=100)
    seen = [set(part.unique().tolist()) for part in splits[:3]]  # each picture has one colour: its number
    assert [len(part) for part in seen] == [16, 2, 2] and len(set.union(*seen)) == 20
    assert [list(part.shape) for part in splits[:3]] == [[100, 3, 16, 16], [8, 3, 16, 16], [8, 3, 16, 16]]
    assert torch.equal(splits.train, images.folder(tmp_path, size=16, train_rows=100).train)


def test_folder_limits_the_rows_to_validate_and_test(tmp_path: Path) -> None:
    write_pictures(tmp_path, 3)
    assert [len(part) for part in images.folder(tmp_path, size=8, train_rows=9, evaluation_rows=5)[:3]] == [9, 5, 5]


def test_folder_downsamples_before_cropping(tmp_path: Path) -> None:
    write_pictures(tmp_path, 3)
    assert len(images.folder(tmp_path, size=10, downsample_by=4, train_rows=1).test) == 1


def test_folder_takes_grey_pictures_as_rgb_and_rgb_ones_as_planes(tmp_path: Path) -> None:
    write_pictures(tmp_path, 3, mode="L")
    assert images.folder(tmp_path, size=8, train_rows=5).train.shape == (5, 3, 8, 8)
    write_pictures(tmp_path, 3)
    splits = images.folder(tmp_path, size=40, channels=1, train_rows=5)
    assert splits.train.shape == (5, 1, 40, 40) and splits.test.shape == (3, 1, 40, 40)


def test_folder_warns_of_pictures_that_are_too_small(tmp_path: Path) -> None:
    write_pictures(tmp_path, 4)
    write_pictures(tmp_path / "small", 2, size=9)
    with pytest.warns(UserWarning, match="2 of 6 pictures in .* skipped: smaller than 10 x 10"):
        images.folder(tmp_path, size=10, train_rows=1)


def test_folder_refuses_fewer_than_three_pictures(tmp_path: Path) -> None:
    write_pictures(tmp_path, 4, size=20)
    (tmp_path / "inner" / "1.png").unlink()
    with pytest.raises(ValueError, match=r"at least 3 pictures of 32 x 32 pixels or more .* got 0 of 3"):
        images.folder(tmp_path)


def test_folder_names_a_picture_that_cannot_be_read(tmp_path: Path) -> None:
    write_pictures(tmp_path, 4)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"broken.png: expected an image that can be read"):
        images.folder(tmp_path)


@pytest.mark.parametrize("wrong", [{"size": 0}, {"downsample_by": 0}, {"channels": 2}, {"train_rows": 0}])
def test_folder_refuses_numbers_out_of_range(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="of at least 1, and channels 1 or 3"):
        images.folder(tmp_path, **wrong)  # type: ignore[arg-type]  # ints only
