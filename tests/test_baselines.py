"""The usual codecs: real bytes that decode to the same pixels, counted in the right unit."""

import bz2
import importlib.util
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from toolkit.images import baselines
from toolkit.images.baselines import lossless, mosaics


def smooth(n: int, c: int, h: int, w: int) -> Tensor:
    """Pictures that compress: gradients with a little noise."""
    ramp = torch.arange(h)[:, None] * 3 + torch.arange(w) * 2
    noise = torch.randint(0, 4, (n, c, h, w), generator=torch.Generator().manual_seed(0))
    return ((ramp + noise + 5 * torch.arange(n).view(n, 1, 1, 1)) % 256).to(torch.uint8)


@pytest.mark.parametrize("c", [1, 3])
def test_every_codec_decodes_to_the_same_pixels(c: int) -> None:
    for image in smooth(2, c, 17, 23):
        picture = baselines._picture(image.numpy())
        for name, encode in baselines._codecs(23).items():
            with Image.open(io.BytesIO(encode(picture))) as decoded:
                pixels = np.array(decoded.convert(picture.mode))
            assert np.array_equal(pixels, np.array(picture)), name


def test_rates_are_eight_times_the_bytes_divided_by_the_values() -> None:
    images = smooth(9, 3, 16, 16)
    rates = lossless(images)
    buffer = io.BytesIO()
    mosaics(images)[0].save(buffer, "PNG", optimize=True)
    assert rates["PNG mosaic"] == 8 * len(buffer.getvalue()) / images.numel()
    assert rates["bzip2"] == 8 * len(bz2.compress(images.numpy().tobytes())) / images.numel()
    single = [len(baselines._codecs(16)["PNG"](baselines._picture(image.numpy()))) for image in images]
    assert rates["PNG"] == 8 * sum(single) / images.numel() > rates["PNG mosaic"]
    names = {"PNG", "WebP", "PNG mosaic", "WebP mosaic", "gzip", "bzip2", "xz"}
    assert set(rates) - {"JPEG XL", "JPEG XL mosaic"} == names


def test_noise_costs_eight_bits_and_a_constant_next_to_nothing() -> None:
    noise = torch.randint(0, 256, (16, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert all(7.95 < rate < 10 for rate in lossless(noise).values())
    mosaic = {name: rate for name, rate in lossless(torch.zeros_like(noise)).items() if "mosaic" in name}
    assert all(rate < 0.1 for rate in mosaic.values())


def test_jpeg_xl_is_measured_where_its_plugin_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ("JPEG XL" in lossless(smooth(1, 1, 8, 8))) == (importlib.util.find_spec("pillow_jxl") is not None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "JPEG XL" not in lossless(smooth(1, 1, 8, 8))


def test_a_mosaic_lays_the_tiles_out_row_by_row_and_leaves_free_places_black() -> None:
    images = smooth(5, 3, 4, 6) // 2 + 1
    (picture,) = mosaics(images)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    assert picture.size == (18, 8) and picture.mode == "RGB"
    assert torch.equal(pixels[:, 4:, 6:12], images[4]) and torch.equal(pixels[:, :4, 12:], images[2])
    assert not pixels[:, 4:, 12:].any()


def test_sizes_are_those_of_a_file_each_of_pictures_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [smooth(1, *shape)[0].numpy() for shape in ((3, 17, 23), (1, 1, 1), (3, 5, 40))]
    found = baselines.sizes(pictures)
    assert found["PNG"] == [len(baselines._codecs(40)["PNG"](baselines._picture(picture))) for picture in pictures]
    assert set(found) - {"JPEG XL"} == {"PNG", "WebP"} and all(len(sizes) == 3 for sizes in found.values())
    monkeypatch.setattr(baselines, "WEBP_LARGEST", 39)
    assert "WebP" not in baselines.sizes(pictures)


def test_images_that_exceed_one_mosaic_fill_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "WEBP_LARGEST", 20)
    pictures = mosaics(smooth(11, 1, 8, 8))
    assert [picture.size for picture in pictures] == [(16, 16), (16, 16), (16, 16)]


def test_fewer_rows_are_evenly_spread() -> None:
    images = torch.arange(100, dtype=torch.uint8).view(100, 1, 1, 1)
    assert baselines._spread(images, 4).flatten().tolist() == [0, 33, 66, 99]
    assert torch.equal(baselines._spread(images, 100), images)


@pytest.mark.parametrize(
    "images", [torch.zeros(2, 1, 4, 4), torch.zeros(2, 2, 4, 4).byte(), torch.zeros(1, 4, 4).byte()]
)
def test_lossless_refuses_other_tensors(images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected images uint8 \[n, 1 or 3, h, w\] .*do: pass the rows"):
        lossless(images)


def test_lossless_refuses_no_images() -> None:
    with pytest.raises(ValueError, match=r"with n of at least 1, got torch.uint8 \[0, 1, 4, 4\]"):
        lossless(torch.zeros(0, 1, 4, 4, dtype=torch.uint8))


def test_lossless_refuses_no_rows() -> None:
    with pytest.raises(ValueError, match="expected rows and mosaic_rows of at least 1, got 0 and 10000"):
        lossless(smooth(1, 1, 8, 8), rows=0)
