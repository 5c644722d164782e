"""Embedded image data: photographs and digits that scikit-image and scikit-learn carry inside their wheels."""

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from toolkit.data.splits import Splits, downsample, grid_crops, random_crops, shares


class Photo(NamedTuple):
    """A photograph inside an installed package, and the factors by which it is made smaller before it is cropped."""

    package: str
    file: str
    factors: tuple[int, ...]


# Whole photographs are held out, never cropped for training: crops of one photograph share its noise, its colours
# and its lens, and a model that saw some of them predicts the others better than it predicts any new photograph.
# The two held out ones are PNG files at their full size: their pixels are the same integers with every version of
# every JPEG decoder, so that a figure on them means the same on each machine.
VALIDATION = Photo("skimage", "data/coffee.png", (1,))
TEST = Photo("skimage", "data/astronaut.png", (1,))
# Two scales each, for more variety; one for the sky and the eye, so that they are but a seventh of the rows. JPEG files
# start at factor 2, which removes the traces of their 8 x 8 blocks.
TRAIN = (
    Photo("skimage", "data/chelsea.png", (1, 2)),
    Photo("skimage", "data/motorcycle_left.png", (1, 2)),
    Photo("skimage", "data/motorcycle_right.png", (1, 2)),
    Photo("skimage", "data/rocket.jpg", (2, 3)),
    Photo("skimage", "data/hubble_deep_field.jpg", (2,)),
    Photo("skimage", "data/retina.jpg", (2,)),
    Photo("sklearn", "datasets/images/china.jpg", (2, 3)),
    Photo("sklearn", "datasets/images/flower.jpg", (2, 3)),
)


def photos(size: int = 32, train_rows: int = 20_000, seed: int = 0) -> Splits:
    """RGB crops of ten photographs, without any download: rows uint8 [n, 3, size, size].

    Training: `train_rows` crops at random places, drawn once with `seed`, equally many from each photograph at each of
    its scales. Validation and test: one photograph each that training never sees, cut into squares that do not
    overlap (216 and 256 rows at size 32). Photographs smaller than `size` are left out of training. Raises ValueError
    if a part would be empty, FileNotFoundError if an installed package lacks its photographs.
    """
    if train_rows < 1:
        raise ValueError(f"expected train_rows of at least 1, got {train_rows}; do: set data.splits.train_rows")
    images = [downsample(image, factor) for photo in TRAIN for image in [_read(photo)] for factor in photo.factors]
    images = [image for image in images if min(image.shape[1:]) >= size]
    validation, test = _read(VALIDATION), _read(TEST)
    largest = min(*validation.shape[1:], *test.shape[1:])
    if not 1 <= size <= largest:
        raise ValueError(f"expected size from 1 to {largest}, got {size}; do: use data=folder with larger photographs")
    generator = torch.Generator().manual_seed(seed)
    train = torch.cat(
        [
            random_crops(image, rows, size, generator)
            for image, rows in zip(images, shares(train_rows, len(images)), strict=True)
        ]
    )
    train = train[torch.randperm(len(train), generator=generator)]  # so that the first k rows show every photograph
    return Splits(train, grid_crops(validation, size), grid_crops(test, size), "photos")


def held_out() -> list[Tensor]:
    """The two photographs that no training on `photos` sees, whole: uint8 [3, h, w] each."""
    return [_read(VALIDATION), _read(TEST)]


def whole(photo: Photo) -> Tensor:
    """A photograph that is not cut, uint8 [3, h, w]; at half size if it is a JPEG file, which removes its traces."""
    return downsample(_read(photo), photo.factors[0])


def _read(photo: Photo) -> Tensor:  # uint8 [3, h, w]
    # The file itself and not skimage.data or sklearn.datasets: the former may ask the network for what it misses, the
    # latter costs a second of imports.
    spec = find_spec(photo.package)
    path = Path(spec.origin).parent / photo.file if spec and spec.origin else Path(photo.package) / photo.file
    if not path.is_file():
        raise FileNotFoundError(
            f"expected the photograph {path} inside the installed package {photo.package}, found none; "
            "do: pip install --force-reinstall 'scikit-image>=0.26' scikit-learn"
        )
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def digits(seed: int = 0) -> Splits:
    """The 1,797 handwritten digits of scikit-learn, without any download: rows uint8 [n, 1, 8, 8].

    The 17 grey levels 0 to 16 are spread over 0 to 255 as x * 255 // 16, so that a model of bytes needs no option for
    them; a good model finds out that only 17 values occur. Split 1,297 / 250 / 250 by a permutation drawn with `seed`.
    Source: Alpaydin and Kaynak 1998, UCI "Optical Recognition of Handwritten Digits" (its test set).
    """
    from sklearn.datasets import load_digits  # imported here: a second that other data do not pay

    levels = torch.from_numpy(load_digits().images).to(torch.int64)  # 0..16, [1797, 8, 8]
    rows = (levels * 255 // 16).to(torch.uint8).unsqueeze(1)
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
    return Splits(rows[:-500], rows[-500:-250], rows[-250:], "digits")
