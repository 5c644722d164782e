"""The sources of images: what each reads, and every way its files and arguments can be wrong."""

import gzip
import os
import struct
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from toolkit.data import images
from toolkit.data.embedded import held_out
from toolkit.data.pictures import Pictures

# Embedded data


def test_photos_are_the_same_crops_each_time_from_photographs_kept_apart() -> None:
    splits, again = images.photos(train_rows=500), images.photos(train_rows=500)
    assert [list(part.shape) for part in splits[:3]] == [[500, 3, 32, 32], [216, 3, 32, 32], [256, 3, 32, 32]]
    assert all(torch.equal(a, b) for a, b in zip(splits[:3], again[:3], strict=True))
    assert not torch.equal(splits.train, images.photos(train_rows=500, seed=1).train)
    assert splits.train.float().std() > 30  # pictures, not constants


def test_photos_of_the_test_set_are_the_grid_of_the_astronaut() -> None:
    import skimage

    astronaut: Any = skimage.data.astronaut
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


# Whole pictures


def sizes(pictures: Any) -> list[list[int]]:
    return [list(pictures[i].shape) for i in range(len(pictures))]


def test_whole_photographs_are_those_of_the_crops_and_were_jpeg_files_come_at_half_size() -> None:
    data = Pictures()
    data.prepare_data()
    data.setup()
    assert sizes(data.train) == [
        [3, 300, 451], [3, 500, 741], [3, 500, 741], [3, 213, 320], [3, 436, 500], [3, 705, 705], [3, 213, 320],
        [3, 213, 320],
    ]  # fmt: skip
    for mine, photo in zip((data.validation, data.test), held_out(), strict=True):
        assert len(mine) == 1 and torch.equal(mine[0], photo)
    assert (data.name, data.shape) == ("photographs", (3,))


def test_batches_of_whole_pictures_are_one_picture_each_in_an_order_of_the_seed(tmp_path: Path) -> None:
    for i in range(6):
        Image.fromarray(np.full((4, 5 + i), 9, np.uint8)).save(tmp_path / f"{i}.png")

    def order(seed: int) -> list[tuple[int, ...]]:
        data = Pictures(str(tmp_path), seed)
        data.setup()
        return [tuple(batch.shape) for batch in data.train_dataloader()]

    assert sorted(order(0)) == [(1, 1, 4, 5 + i) for i in range(6)]
    assert order(0) == order(0) != order(1)
    [validation] = Pictures().val_dataloader()
    assert torch.equal(validation[0], held_out()[0])


def test_whole_pictures_of_a_folder_are_its_pixels_and_jpeg_files_come_at_half_size(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    (tmp_path / "deep").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "b.png", "JPEG")  # what it is, not what it is called
    Image.fromarray(pixels[:1, :5]).save(tmp_path / "deep/c.jpg")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "deep/d.png")
    data = Pictures(str(tmp_path))
    data.setup()
    assert sizes(data.train) == [[3, 9, 7], [3, 4, 3], [3, 1, 5], [1, 9, 7]]
    assert torch.equal(data.train[0], torch.from_numpy(pixels).permute(2, 0, 1))
    assert data.name == tmp_path.name and len(data.validation) == len(data.test) == 1
    assert data.summary() == "4 pictures to train on, 1 to validate, 1 to test"


def test_a_folder_that_whole_pictures_cannot_come_from_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Pictures(str(tmp_path / "absent")).setup()
    with pytest.raises(ValueError, match=r"expected images .* found none"):
        Pictures(str(tmp_path)).setup()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(ValueError, match=r"b.png: expected an image that can be read"):
        Pictures(str(tmp_path)).setup()
    with pytest.raises(ValueError, match="expected seed and held_out of at least 0, got -1 and 0"):
        Pictures(seed=-1)
    (tmp_path / "b.png").unlink()
    message = r"expected more than 2 pictures in .*, of which 1 validate and 1 test, got 1; add some, or set data"
    with pytest.raises(ValueError, match=message):
        Pictures(str(tmp_path), held_out=1).setup()


def test_pictures_of_a_folder_that_are_held_out_stay_the_same_ones_and_validate_by_their_middle(tmp_path: Path) -> None:
    for i in range(7):
        Image.fromarray(np.full((3, 1100 + i), i, np.uint8)).save(tmp_path / f"{i}.png")
    data = Pictures(str(tmp_path), held_out=2)
    data.setup()
    parts = [[int(part[i].max()) for i in range(len(part))] for part in (data.train, data.validation, data.test)]
    assert [len(part) for part in parts] == [3, 2, 2] and sorted(i for part in parts for i in part) == [*range(7)]
    assert sizes(data.validation) == [[1, 3, 1024]] * 2
    assert sizes(data.test) == [[1, 3, 1100 + i] for i in parts[2]]
    tested = Pictures(str(tmp_path), seed=5, held_out=2)
    tested.setup("test")
    assert sizes(tested.test) == sizes(data.test)


def test_digits_are_seventeen_levels_spread_over_the_bytes() -> None:
    splits = images.digits()
    assert [list(part.shape) for part in splits[:3]] == [[1297, 1, 8, 8], [250, 1, 8, 8], [250, 1, 8, 8]]
    levels = set(torch.cat(splits[:3]).flatten().tolist())
    assert sorted(levels) == [level * 255 // 16 for level in range(17)]
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
        batch: dict[str, Any] = {key: rows[3 * i : 3 * i + 3], "labels": np.zeros(3)}
        np.savez(root / f"train_data_batch_{i + 1}.npz", **batch)
    batch = {key: rows[30:], "labels": np.zeros(3)}
    np.savez(root / "val_data.npz", **batch)
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


def test_a_training_set_that_is_empty_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "none.npy", np.zeros((0, 8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"expected at least two training rows, .*got 0; do: add some"):
        images.array(path, validation_rows=1)


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
    train, validation, test = (save(tmp_path / f"{i}.npy", np.full((i, 2, 2), i, np.uint8)) for i in (5, 6, 7))
    assert [len(part) for part in images.array(train, validation, test)[:3]] == [5, 6, 7]


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


def test_an_array_file_with_more_than_one_array_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "a.npy", "wb") as file:
        for _ in range(2):
            np.save(file, np.zeros((3, 4, 4), np.uint8))
    with pytest.raises(ValueError, match=r"a.npy: expected a .npy file .*bytes follow its first array; one array a f"):
        images.array(tmp_path / "a.npy", validation_rows=1)


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
    seen = [set(part.flatten().tolist()) for part in splits[:3]]  # each picture has one colour: its number
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
def test_folder_refuses_numbers_out_of_range(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="of at least 1, and channels 1 or 3"):
        images.folder(tmp_path, **wrong)
