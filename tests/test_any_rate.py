"""Photographs at any rate by a fixed lapped DCT and a network that restores: training, efforts, what ships."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as multiscale_ssim

import toolkit
from recipes.vae.any_rate import AnyRate
from recipes.vae.transform import CHANNELS, across_borders
from tests.test_vae import photo
from toolkit import compress, decompress
from toolkit.coding.coefficients import codec
from toolkit.images import colours, rate_coder, rate_distortion, rate_target, similarity
from toolkit.images.files import item_of, read_image, write_image
from toolkit.images.rate_coder import PictureCoder
from toolkit.images.rate_target import Target
from toolkit.runs import load, save
from toolkit.train import train

SMALL = [
    "data=digits", "trainer.accelerator=cpu", "recipe.module.width=8", "recipe.module.blocks=1",
    "recipe.module.warmup=2", "recipe.head.final_fit_rows=8", "recipe.head.final_fit_steps=2",
    "recipe.head.lambdas=[8,64]", "trainer.log_every_n_steps=1", "trainer.precision=32-true",
]  # fmt: skip


def configuration(*overrides: str) -> DictConfig:
    with initialize_config_module("configs", version_base="1.3"):
        cfg = compose("train", ["recipe=any_rate", *SMALL, *overrides])
    OmegaConf.set_struct(cfg, False)
    cfg.recipe.module.shape = [3, 64, 64]
    return cfg


def model(cfg: DictConfig) -> AnyRate:
    torch.manual_seed(0)
    settings: Any = OmegaConf.to_container(cfg.recipe.module)
    module = AnyRate(**{key: value for key, value in settings.items() if key != "_target_"})
    with torch.no_grad():  # a network that does something
        module.net.head.weight.normal_(std=0.01)
    module.eval().fit_tables(torch.stack([photo(64, 64, seed) for seed in range(8)]), steps=8)
    return module


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a model that was not trained."""
    folder, cfg = tmp_path_factory.mktemp("any_rate"), configuration()
    save(folder, cfg, model(cfg))
    return folder


@pytest.fixture(scope="module")
def module() -> AnyRate:
    return model(configuration())


def cost(module: AnyRate, picture: Tensor, effort: str, level: int) -> float:
    """Bits of a picture of one tile, and of its error at the balance that the level stands for."""
    coder, lam = PictureCoder(module, effort=effort), rate_target.lambda_of(level)
    _, fitted, [(payload, _)], _ = coder.encode(picture, Target("lambda", lam))
    [tile] = rate_coder.tiles(picture.shape[1], picture.shape[2], 0)
    k = coder.read(payload, level, (tile.height, tile.width))
    restored = coder.restore(k, item_of("", picture), level, fitted).double() / 255
    error = float((restored - picture / 255).square().sum()) / module.step(lam) ** 2
    return 8 * (len(payload) + len(fitted)) + rate_coder.BALANCE * error


def test_without_loss_the_transform_returns_the_pixels(module: AnyRate) -> None:
    pixels = photo(64, 72)[None].float() / 255
    with torch.no_grad():
        mu, sigma = module.latents(pixels)
        assert mu.shape == (1, CHANNELS, 8, 9) and sigma.unique().tolist() == pytest.approx([2 / 255])
        k = mu / module.step(4.0)
        restored = (k + module.net(k, torch.tensor([module.step(4.0)]))) * module.step(4.0)
        assert torch.allclose(module.latents(module.pixels(k, 4.0))[0], restored, atol=1e-5)
        error = module.pixels(k, 4.0) - pixels
        assert float(error.square().sum()) == pytest.approx(float((restored - mu).square().sum()), rel=1e-3)


def test_a_flat_picture_has_averages_alone_and_borders_of_blocks_are_crossed(module: AnyRate) -> None:
    averages = [c for c, (_, u, v) in enumerate(module.channel_names) if u == v == 0]
    mu, _ = module.latents(torch.full((1, 3, 32, 40), 0.7))
    rest = [c for c in range(CHANNELS) if c not in averages]
    assert float(mu[:, rest].abs().max()) < 1e-6 < 0.1 < float(mu[:, averages[0]].min())
    k = torch.zeros(1, CHANNELS, 4, 5)
    k[:, averages[0], 2, 2] = 1.0
    with torch.no_grad():
        blank = across_borders(torch.nn.functional.pixel_shuffle(
            torch.nn.functional.conv2d(k, module.transform[..., 0, 0].T[:, :, None, None]), 8
        ), module.border.T)  # fmt: skip
    seen = blank[0].abs().sum(0) > 1e-4
    assert seen.any(0).nonzero().flatten().tolist() == seen.any(1).nonzero().flatten().tolist() == [*range(12, 28)]


def test_each_effort_costs_no_more_than_the_one_below(module: AnyRate) -> None:
    pictures = [photo(96, 120, seed, 3) for seed in range(3)]
    totals = [sum(cost(module, x, effort, rate_target.level_of(16)) for x in pictures) for effort in rate_coder.EFFORTS]
    assert totals == sorted(totals, reverse=True) and totals[-1] < totals[1] < totals[0]


@pytest.mark.parametrize(("size", "channels"), [((1, 1), 3), ((5, 7), 1), ((5, 7), 3), ((48, 48), 3)])
def test_the_last_effort_costs_small_pictures_no_more(module: AnyRate, size: tuple[int, int], channels: int) -> None:
    for level in map(rate_target.level_of, (64, 16)):
        below, last = (cost(module, photo(*size, 2)[:channels], effort, level) for effort in ("2", "3"))
        assert last <= below


def test_code_points_that_are_found_with_the_filter_cost_less(module: AnyRate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "CAUTION", 1.0)  # which leads small pictures to where neither finds more
    monkeypatch.setitem(rate_coder.EFFORTS, "3", rate_coder.Effort(True, 8))  # nor do angles, which matter more here
    pictures, level = [photo(96, 120, seed, 3) for seed in range(3)], rate_target.level_of(16)
    seeing = sum(cost(module, x, "3", level) for x in pictures)
    refined = PictureCoder._refined
    monkeypatch.setattr(PictureCoder, "_refined", lambda *given: refined(*given[:-2], None, given[-1]))
    assert seeing < 0.9985 * sum(cost(module, x, "3", level) for x in pictures)


def test_turned_colours_save_bits_and_come_back(module: AnyRate, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = (photo(96, 120).float() * torch.tensor([1.0, 0.8, 0.5])[:, None, None]).round().to(torch.uint8)
    level = rate_target.level_of(4)
    turned = [cost(module, picture, effort, level) for effort in ("0", "1")]
    assert any(PictureCoder(module).angles(picture))
    monkeypatch.setattr(module, "turned", False)
    plain = [cost(module, picture, effort, level) for effort in ("0", "1")]
    assert turned[0] < 0.98 * plain[0] and turned[1] < 0.98 * plain[1]


def test_angles_nearby_are_those_of_least_cost() -> None:
    for wanted in ((10, -20, 30), (127, 0, -127)):
        found = colours.nearby(bytes([0, 0, 250]), lambda angles, wanted=wanted: miss(angles, wanted))
        assert miss(found, wanted) <= 3 * (colours.LAST / 2) ** 2


def miss(angles: bytes, wanted: tuple[int, int, int]) -> float:
    return float(np.square(np.frombuffer(angles, np.int8).astype(int) - wanted).sum())


@pytest.mark.parametrize("metric", rate_coder.METRICS)
def test_the_last_effort_turns_colours_so_that_files_cost_less(
    module: AnyRate, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cast = torch.tensor([1.0, 0.8, 0.5])[:, None, None]
    picture = (photo(208, 208).float() * cast).round().to(torch.uint8)
    picture[:, 72:] = torch.tensor([120, 110, 90], dtype=torch.uint8)[:, None, None]  # between code points
    for effort, turns in (("2", False), ("3", True)):  # alike in all else, and fast
        monkeypatch.setitem(rate_coder.EFFORTS, effort, rate_coder.Effort(True, 1, turns))
    files = [PictureCoder(module, effort=e, metric=metric).encode(picture, Target("lambda", 64)) for e in ("2", "3")]
    angles = [file.fitted[: colours.SIZE] for file in files]
    assert angles[0] == PictureCoder(module).angles(picture) != angles[1]
    if metric == "psnr":
        assert cost(module, picture, "3", rate_target.level_of(64)) < cost(module, picture, "2", files[0].level)


def test_angles_of_a_grey_picture_are_refused() -> None:
    for stored in (b"", bytes(3)):
        assert rate_coder.read_fitted(stored, True) == (b"", None)
    for stored, reason in ((b"\1\0\0", "no angles for the colours of a grey"), (b"\1\0", "3 angles")):
        with pytest.raises(ValueError, match=reason):
            rate_coder.read_fitted(stored, True)


def test_a_second_search_knows_what_a_choice_costs_those_after_it(module: AnyRate) -> None:
    level, picture = rate_target.level_of(64), photo(128, 160)
    coder = PictureCoder(module)
    [tile] = rate_coder.tiles(128, 160, 0)
    mu, sigma, _ = coder.latents(picture, tile)
    costs, before = [], None
    lam = rate_target.lambda_of(level)
    step = module.step(lam)
    for _ in range(2):
        before = codec.search(coder.tables, mu / step, sigma, step**2 / (2 * lam), rate_coder.rate_index(level), before)
        miss = float((before.k - mu / step).square().sum())
        costs.append(8 * len(before.payload) + rate_coder.BALANCE * miss)
    assert costs[1] < costs[0]


@pytest.mark.parametrize(("way", "value"), [("bpp", 0.8), ("psnr", 34.0)])
@pytest.mark.parametrize("effort", ["0", "1", "3"])
def test_a_target_is_met_at_each_effort(module: AnyRate, way: str, value: float, effort: str) -> None:
    picture, coder = photo(200, 240), PictureCoder(module, effort=effort)
    level, fitted, found, _ = coder.encode(picture, Target(way, value))
    assert (len(fitted) > colours.SIZE) == (effort != "0")
    k = coder.read(found[0][0], level, (25, 30))
    if way == "bpp":
        size = sum(len(payload) + rate_coder.CHUNK for payload, _ in found) + len(fitted)
        assert 8 * size / picture[0].numel() == pytest.approx(value, rel=0.02)
    else:
        restored = coder.restore(k, item_of("", picture), level, fitted)
        assert rate_coder.psnr(picture, restored) == pytest.approx(value, abs=0.1)


def test_a_psnr_is_met_where_the_tiles_that_were_looked_at_mislead(
    module: AnyRate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_coder, "TILE", 8)
    monkeypatch.setattr(rate_coder, "SAMPLE_TILES", 1)
    picture = photo(192, 64)
    picture[:, 64:128] = 128  # the middle one of three tiles is the sample
    picture[:, 64:72] = photo(8, 64)
    level, fitted, found, _ = PictureCoder(module).encode(picture, Target("psnr", 34.0))
    k = torch.cat([PictureCoder(module).read(payload, level, (8, 8)) for payload, _ in found], 2)
    restored = PictureCoder(module).restore(k, item_of("", picture), level, fitted)
    assert rate_coder.psnr(picture, restored) == pytest.approx(34, abs=0.1)


def test_a_psnr_takes_two_runs_of_the_whole_effort_where_it_gains_the_same_at_all_levels() -> None:
    target, runs = Target("psnr", 33.0), list[int]()

    def fast(level: int) -> float:
        return 50 - 2.2 * level / rate_target.OCTAVE

    def whole(level: int) -> float:
        runs.append(level)
        return fast(level) + 0.4

    tried = rate_target.approach(fast, target, rate_target.LEVELS // 2)
    level = rate_target.nearest(tried, target)
    slope = rate_target.slope_near(tried, level)
    assert slope == pytest.approx(-2.2) and rate_target.slope_near({level: 33.0}, level) == rate_target.SLOPE["psnr"]
    found = rate_target.approach(whole, target, level, rate_target.TRIES, slope)
    assert len(runs) == 2 and found[runs[-1]] == pytest.approx(33, abs=0.05)


@pytest.mark.parametrize("wanted", [40.0, 45.0])
def test_tries_are_enough_where_quality_falls_slowly_at_first(wanted: float) -> None:
    tried = rate_target.approach(
        lambda level: 50 - 20 * (level / rate_target.LEVELS) ** 4, Target("psnr", wanted), 384, rate_target.TRIES
    )
    assert min(abs(found - wanted) for found in tried.values()) < 0.1


@pytest.mark.parametrize("target", ["bpp=1.2", "bpp=0.9", "psnr=30"])
@pytest.mark.parametrize("effort", ["0", "1"])
def test_a_small_file_meets_its_target_with_its_header(run: Path, tmp_path: Path, target: str, effort: str) -> None:
    picture = photo(88, 120, 3)
    write_image(tmp_path / "a.png", picture.numpy())
    file, (way, value) = tmp_path / "a.tkc", target.split("=")
    assert compress.main([f"run={run}", str(tmp_path / "a.png"), str(file), target, f"effort={effort}"]) == 0
    if way == "bpp":
        assert 8 * file.stat().st_size / picture[0].numel() == pytest.approx(float(value), rel=0.02)
    else:
        assert decompress.main([f"run={run}", str(file), str(tmp_path / "b.png")]) == 0
        restored = torch.from_numpy(read_image(tmp_path / "b.png"))
        assert rate_coder.psnr(picture, restored) == pytest.approx(float(value), abs=0.1)


def test_files_of_all_efforts_are_read_alike(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(photo(70, 90).permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    sizes = []
    for effort in rate_coder.EFFORTS:
        file = tmp_path / f"{effort}.tkc"
        assert compress.main([f"run={run}", str(tmp_path / "a.png"), str(file), "lambda=16", f"effort={effort}"]) == 0
        assert decompress.main([f"run={run}", str(file), str(tmp_path / f"{effort}.png")]) == 0
        a, b = (torch.from_numpy(read_image(tmp_path / name)) for name in ("a.png", f"{effort}.png"))
        assert rate_coder.psnr(a, b) > 28
        sizes.append(file.stat().st_size)
    assert len(set(sizes)) > 1
    refused = [f"run={run}", str(tmp_path / "a.png"), str(tmp_path / "x.tkc"), "lambda=16", "effort=4"]
    assert compress.main(refused) == 1
    assert "expected effort to be one of 0, 1, 2, 3, got '4'; give one" in capsys.readouterr().err
    assert not (tmp_path / "x.tkc").exists()


def uneven(height: int, width: int) -> Tensor:
    """A picture with a flat and a busy half, uint8 [3, h, w]."""
    rng, picture = torch.Generator().manual_seed(8), 0.4 * photo(height, width, 7).float() + 80
    coarse = torch.randn(1, 1, height // 3, width // 6, generator=rng)
    busy = torch.nn.functional.interpolate(coarse, size=(height, width // 2), mode="bicubic")[0]
    picture[..., : width // 2] += 30 * busy
    return picture.round().clamp(0, 255).to(torch.uint8)


def test_basis_functions_are_those_of_the_transform(module: AnyRate) -> None:
    basis, errors = torch.tensor(module.basis), torch.zeros(1, CHANNELS, 3, 3)
    errors[0, module.channel_names.index((0, 1, 2)), 1, 1] = 1
    inverse = module.transform[..., 0, 0].T[:, :, None, None]
    blocks = torch.nn.functional.pixel_shuffle(torch.nn.functional.conv2d(errors, inverse), 8)
    found = across_borders(blocks, module.border.T)[0, :, 4:20, 4:20]
    assert torch.allclose(found * 3**0.5, torch.outer(basis[1], basis[2]).expand(3, -1, -1), atol=1e-6)


def test_a_search_for_ms_ssim_takes_fewer_bits_at_equal_ms_ssim(module: AnyRate, tmp_path: Path) -> None:
    def curve(metric: str, choice: str = "search") -> rate_distortion.Curve:
        coder = PictureCoder(module, choice=choice, metric=metric)
        return rate_distortion.of_files(coder, [uneven(192, 256)], (64, 16, 4, 1), tmp_path, {})[0]

    plain, similar = curve("psnr"), curve("ms-ssim")
    assert rate_distortion.bd_rate(similar, plain, axis="ms_ssim") < -3
    assert rate_distortion.bd_rate(plain, similar) < -3  # by PSNR
    assert curve("ms-ssim", "one sigma") == plain


def test_weights_say_what_errors_of_coefficients_take_from_ms_ssim(module: AnyRate) -> None:
    picture, names, rng = uneven(256, 320), module.channel_names, torch.Generator().manual_seed(9)
    weights = similarity.weights(similarity.sensitivity(picture.numpy()), b"", names, module.basis)
    pixels, basis = picture.double()[None], module.transform[..., 0, 0].T[:, :, None, None]
    for wanted in ((0, 0, 0), (0, 2, 1), (2, 6, 5)):
        c, errors = names.index(wanted), torch.zeros(1, CHANNELS, 32, 40)
        errors[:, c] = 12 * torch.randn(32, 40, generator=rng)
        blocks = torch.nn.functional.pixel_shuffle(torch.nn.functional.conv2d(errors, basis), 8)
        changed = pixels + across_borders(blocks, module.border.T)
        found = 1 - float(multiscale_ssim(changed, pixels, data_range=255.0))
        predicted = float((torch.from_numpy(weights[c]) * errors[0, c].square()).sum()) / picture[0].numel()
        assert predicted == pytest.approx(found, rel=0.1), wanted


@pytest.mark.parametrize("size", [(1, 1), (17, 40), (300, 31)])
def test_weights_of_a_grey_picture_are_those_of_three_equal_colours(size: tuple[int, int]) -> None:
    picture, angles = photo(*size, channels=1), b""
    grey, three = (
        similarity.weights(similarity.sensitivity(x.numpy()), angles, AnyRate.channel_names, AnyRate.basis)
        for x in (picture, picture.expand(3, -1, -1))
    )
    assert grey.shape == (CHANNELS, *(-(-n // 8) for n in size)) and (grey > 0).all() and np.allclose(grey, three)


def test_tiles_weigh_errors_as_the_whole_picture_does(module: AnyRate, monkeypatch: pytest.MonkeyPatch) -> None:
    picture, coder = uneven(144, 96), PictureCoder(module, metric="ms-ssim")
    known = coder.sensitivity(picture, b"")
    [whole] = [coder.latents(picture, tile, b"", known).sigma for tile in rate_coder.tiles(144, 96, 0)]
    for tile in rate_coder.tiles(144, 96, 1, side=8):
        part = coder.latents(picture, tile, b"", known).sigma
        assert torch.equal(part, whole[(..., *tile.place())])
    monkeypatch.setattr(similarity, "ROWS", 16)  # that are looked at at once
    assert torch.equal(coder.sensitivity(picture, b""), known)  # type: ignore[arg-type]
    assert float((whole / (2 / 255)).log().mean().exp()) == pytest.approx(rate_coder.MEAN_WEIGHT**-0.5, rel=1e-3)


def test_refined_code_points_cost_less_by_ms_ssim(module: AnyRate) -> None:
    picture, level, costs = uneven(96, 120), rate_target.level_of(16), []
    [tile] = rate_coder.tiles(96, 120, 0)
    for effort in ("1", "2"):
        coder = PictureCoder(module, effort=effort, metric="ms-ssim")
        angles = coder.angles(picture)
        mu, sigma, _ = coder.latents(picture, tile, angles, coder.sensitivity(picture, angles))
        _, fitted, [(payload, _)], *_ = coder.encode(picture, Target("lambda", 16))
        restored = coder.restore(coder.read(payload, level, (12, 15)), item_of("", picture), level, fitted)
        error = (coder.latents(restored, tile, angles)[0] - mu) / sigma
        costs.append(8 * (len(payload) + len(fitted)) + float(error.square().sum()) / (2 * 16))
    assert costs[1] < 0.99 * costs[0]


def test_another_metric_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "a.png", photo(40, 40).numpy())
    given = [str(tmp_path / "a.png"), str(tmp_path / "x.tkc")]
    assert compress.main([*given, f"run={run}", "lambda=16", "metric=ssim"]) == 1
    assert "expected metric to be one of psnr, ms-ssim, got 'ssim'; give one" in capsys.readouterr().err
    assert compress.main([*given, "metric=ms-ssim"]) == 1  # of the lossy model that ships
    assert "expected one of lambda=, bpp=, psnr=, got none" in capsys.readouterr().err
    assert not (tmp_path / "x.tkc").exists()


@pytest.mark.parametrize(("effort", "metric"), [("0", "psnr"), ("1", "psnr"), ("1", "ms-ssim"), ("3", "ms-ssim")])
def test_the_bytes_of_a_picture_do_not_depend_on_the_number_of_threads(
    module: AnyRate, effort: str, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = list[int]()
    transform = module.latents

    def noted(pixels: Tensor) -> Any:
        taken.append(torch.get_num_threads())
        return transform(pixels)

    monkeypatch.setattr(module, "latents", noted)
    monkeypatch.setitem(rate_coder.EFFORTS, "3", rate_coder.Effort(True, 1, turns=True))  # fast
    picture, before, found = photo(200, 300, 5), torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(PictureCoder(module, effort=effort, metric=metric).encode(picture, Target("bpp", 1.0)))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert found[0] == found[1] and set(taken) == {1}


def test_a_writer_makes_the_files_of_compress(run: Path, tmp_path: Path) -> None:
    pictures = {"a.png": photo(70, 90).numpy(), "b.png": photo(40, 30, 1).numpy()[:1]}
    (tmp_path / "in").mkdir()
    for name, picture in pictures.items():
        write_image(tmp_path / "in" / name, picture)
    asked = {"lambda": 16, "effort": 1, "metric": "ms-ssim"}
    options = [f"{key}={value}" for key, value in asked.items()]
    assert compress.main([f"run={run}", str(tmp_path / "in"), str(tmp_path / "c.tkc"), "metadata=none", *options]) == 0
    file = tmp_path / "w.tkc"
    with toolkit.Writer(file, run, **asked) as writer:
        for name, picture in pictures.items():
            writer.add(picture, name)
        with pytest.raises(ValueError, match="expected grey or RGB, 8 bits"):
            writer.add(picture.astype(np.uint16), "16.png")
        with pytest.raises(ValueError, match="for a lossy model, got an array"):
            writer.add(np.zeros((2, 3, 8, 8), np.uint8))
    assert file.read_bytes() == (tmp_path / "c.tkc").read_bytes()
    before = list(toolkit.open(file, run))
    with toolkit.Writer(file, run, append=True, bpp=1.5) as writer:
        writer.add(pictures["a.png"], "c.png")
    after = list(toolkit.open(file, run))
    assert len(after) == 3 and all(map(np.array_equal, before, after)) and not np.array_equal(after[0], after[2])
    with pytest.raises(ValueError, match="expected one of lambda=, bpp=, psnr=, got none"):
        toolkit.Writer(tmp_path / "x.tkc", run)
    assert not (tmp_path / "x.tkc").exists()


def of_rows(folder: Path, rows: int, *overrides: str) -> DictConfig:
    """Configuration of a training on rows of an array, of which a fifth validate, with one picture held out."""
    cfg = configuration(*overrides, "recipe.head.every_n_epochs=1000")
    np.save(folder / "rows.npy", torch.stack([photo(64, 64, seed) for seed in range(rows)]).numpy())
    splits = {"train": str(folder / "rows.npy"), "validation_rows": rows // 5}
    cfg.data.splits = {"_target_": "toolkit.data.images.array", "_partial_": True, **splits}
    cfg.data.batch_size = 8
    (folder / "held_out").mkdir()
    Image.fromarray(photo(72, 80, 99).permute(1, 2, 0).numpy()).save(folder / "held_out/a.png")
    cfg.recipe.head.pictures = str(folder / "held_out")
    return cfg


def test_training_brings_coefficients_closer_to_what_they_were(tmp_path: Path) -> None:
    cfg = of_rows(tmp_path, 40, "max_steps=40", "recipe.module.learning_rate=0.01")
    torch.manual_seed(0)
    train(cfg, tmp_path / "run")
    module: Any = load(tmp_path / "run", "cpu").module
    plain = model(cfg)
    errors = []
    for net in (plain.net.requires_grad_(False), module.net.requires_grad_(False)):
        if net is plain.net:
            torch.nn.init.zeros_(net.head.weight)
        module.net, error = net, 0.0
        for seed in range(4):
            picture, coder = photo(64, 64, 50 + seed), PictureCoder(module)
            [tile] = rate_coder.tiles(64, 64, 0)
            coded = coder.quantise(coder.latents(picture, tile), rate_target.level_of(64))
            restored = coder.restore(coded.k, item_of("", picture), rate_target.level_of(64)).float()
            error += float((restored - picture).square().mean())
        errors.append(error)
    assert errors[1] < 0.99 * errors[0]


def test_training_goes_on_from_a_run(run: Path, tmp_path: Path) -> None:
    cfg = of_rows(tmp_path, 12, f"init={run}", "max_steps=1")
    train(cfg, tmp_path / "run")
    assert (tmp_path / "run/model.pt").is_file()


def test_rows_that_blocks_do_not_fill_are_refused() -> None:
    cfg = configuration()
    cfg.recipe.module.shape = [1, 28, 28]
    with pytest.raises(ValueError, match=r"expected RGB rows with sides that are multiples of 8, got \[1, 28, 28\]"):
        model(cfg)


def test_tiles_are_refined_with_what_lies_beside_them(module: AnyRate, monkeypatch: pytest.MonkeyPatch) -> None:
    picture, target = photo(96, 200, 3), Target("lambda", 16.0)
    monkeypatch.setattr(rate_coder, "TILE", 8)
    found = {}
    for effort in ("1", "2"):
        coder = PictureCoder(module, effort=effort)
        level, fitted, coded, _ = coder.encode(picture, target)
        grid = rate_coder.tiles(96, 200, 0)
        k = torch.zeros(1, CHANNELS, 12, 25, dtype=torch.int16)
        for tile, (payload, _) in zip(grid, coded, strict=True):
            read = coder.read(payload, level, (tile.height, tile.width))
            k[(..., *tile.place())] = read
        error = coder.restore(k, item_of("", picture), level, fitted).double() / 255 - picture / 255
        bits = 8 * (sum(len(payload) for payload, _ in coded) + len(fitted))
        found[effort] = bits + rate_coder.BALANCE * float(error.square().sum()) / module.step(16.0) ** 2
    assert found["2"] < found["1"]


def test_a_psnr_of_several_tiles_is_that_of_the_whole_picture(module: AnyRate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_coder, "TILE", 4)
    picture, coder = photo(100, 130, 2), PictureCoder(module)
    level, fitted, coded, got = coder.encode(picture, Target("psnr", 35.0))
    k = torch.zeros(1, CHANNELS, 13, 17, dtype=torch.int16)
    for tile, (payload, _) in zip(rate_coder.tiles(100, 130, 0), coded, strict=True):
        read = coder.read(payload, level, (tile.height, tile.width))
        k[(..., *tile.place())] = read
    found = rate_coder.psnr(picture, coder.restore(k, item_of("", picture), level, fitted))
    assert found == pytest.approx(35, abs=0.1) and got == pytest.approx(found, abs=1e-3)
