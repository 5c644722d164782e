"""The lossy recipe: its start as a DCT, files at any rate, targets, tiles, odd pictures, and every refusal."""

import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

import toolkit
from recipes.vae import VAE, Prior, step_of
from recipes.vae.transform import CHANNELS, bands, block_transform
from tests.archives import restore_pictures
from tests.mixed import Setting, code_picture, picture_differs
from tests.tiny import images
from toolkit import compress, decompress, evaluate, inspect
from toolkit.container import DamagedFile, Reader, Writer
from toolkit.images import rate_archive, rate_coder, rate_distortion, rate_target
from toolkit.images.files import item_of, read_image, write_image
from toolkit.images.rate_coder import PictureCoder
from toolkit.images.rate_distortion import Point, bd_rate
from toolkit.images.rate_target import Target
from toolkit.images.source import Source
from toolkit.runs import load, save
from toolkit.train import train

SMALL = [
    "data=digits", "trainer.accelerator=cpu", "recipe.module.width=8", "recipe.module.encoder_blocks=1",
    "recipe.module.decoder_blocks=1", "recipe.module.warmup=2", "recipe.head.fit_rows=4",
    "recipe.head.fit_steps=2", "recipe.head.final_fit_rows=4", "recipe.head.final_fit_steps=2",
    "recipe.head.lambdas=[8,64]", "trainer.log_every_n_steps=1", "trainer.precision=32-true",
]  # fmt: skip


def configuration(*overrides: str) -> DictConfig:
    with initialize_config_module("configs", version_base="1.3"):
        cfg = compose("train", ["recipe=vae", *SMALL, *overrides])
    OmegaConf.set_struct(cfg, False)
    cfg.recipe.module.shape = [3, 64, 64]
    return cfg


def photo(height: int, width: int, seed: int = 0, channels: int = 3) -> Tensor:
    """A smooth picture with edges and a little noise, uint8 [channels, h, w]."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, channels, height // 24 + 3, width // 24 + 3, generator=rng) * 255
    x = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")[0]
    x = torch.where(x > 128, x + 30, x) + 4 * torch.randn(x.shape, generator=rng)
    return x.round().clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an untrained model, which is a DCT, with fitted tables."""
    folder = tmp_path_factory.mktemp("vae")
    cfg = configuration()
    torch.manual_seed(0)
    module = VAE(**{k: v for k, v in OmegaConf.to_container(cfg.recipe.module).items() if k != "_target_"})  # type: ignore[union-attr, misc]
    with torch.no_grad():  # networks that do something
        module.net.analysis.head.weight.normal_(std=0.01)
        module.net.synthesis.head.weight.normal_(std=0.01)
    module.eval().fit_tables(torch.stack([photo(64, 64, seed) for seed in range(8)]), steps=8)
    save(folder, cfg, module)
    return folder


@pytest.fixture(scope="module")
def coder(run: Path) -> PictureCoder:
    module: Any = load(run, "cpu").module
    return PictureCoder(module)


def file_of(coder: PictureCoder, picture: Tensor, path: Path, way: str, value: float) -> tuple[int, Tensor]:
    item = item_of("a.png", picture)
    size, _ = rate_archive.compress(
        coder, Source([item], lambda i: picture.numpy(), None), path, Target(way, value), {}, progress=False
    )
    with Reader(path) as reader:
        [found], [level], [fitted] = rate_archive.described(reader)
        return size, rate_archive.picture_of(reader, coder, found, level, fitted, 0)


def test_the_transform_starts_as_an_orthonormal_one_whose_first_channel_is_the_mean() -> None:
    matrix = block_transform().double()
    assert torch.allclose(matrix @ matrix.T, torch.eye(CHANNELS, dtype=torch.float64), atol=1e-5)
    assert torch.allclose(matrix[0], torch.full((CHANNELS,), 1 / math.sqrt(CHANNELS), dtype=torch.float64), atol=1e-6)
    assert sum(map(len, bands())) == CHANNELS
    assert len({channel for band in bands() for channel in band}) == CHANNELS


def test_the_prior_is_a_density_at_every_amount_of_noise() -> None:
    prior = Prior(3, 0.01)
    z = torch.linspace(-30, 30, 30_001)
    for noise in (0.01, 0.3):
        density = prior.log_prob(z.expand(1, CHANNELS, 1, -1), torch.tensor([noise])).exp()
        assert torch.allclose(density.sum(-1) * (z[1] - z[0]), torch.ones(1, CHANNELS, 1), atol=2e-3)


def test_steps_balance_bits_and_distortion() -> None:
    sigma, lam = 0.02, 3.0
    step = float(step_of(torch.tensor(lam), sigma))
    distortion = step**2 / 12 / (2 * sigma**2)
    assert 2 * math.log(2) * distortion == pytest.approx(lam)


@pytest.mark.training
def test_it_trains_evaluates_and_saves_what_compress_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_distortion, "QUALITIES", dict.fromkeys(rate_distortion.QUALITIES, (20, 80)))
    np.save(tmp_path / "rows.npy", torch.stack([photo(64, 64, seed) for seed in range(20)]).numpy())
    (tmp_path / "held_out").mkdir()
    Image.fromarray(photo(72, 90, 99).permute(1, 2, 0).numpy()).save(tmp_path / "held_out/a.png")
    cfg = configuration(
        "data=array", f"data.splits.train={tmp_path / 'rows.npy'}", "data.splits.validation_rows=4",
        "data.batch_size=4", "max_steps=4", f"recipe.head.pictures={tmp_path / 'held_out'}",
    )  # fmt: skip
    run = tmp_path / "run"
    run.mkdir()
    train(cfg, run)
    text = capsys.readouterr().out
    for part in ("this model:", "bits/pixel", "JPEG 4:4:4", "against JPEG", "toolkit.compress run=", "bpp=0.5"):
        assert part in text, part
    arguments = [f"run={run}", f"input={tmp_path / 'held_out'}", f"output={tmp_path / 'a.tkc'}", "lambda=16"]
    assert compress.main(arguments) == 0
    assert evaluate.main([f"run={run}"]) == 0
    printed = (run / "evaluation.txt").read_text()
    assert "against JPEG" in printed
    shares = re.findall(r"(\w+): [\d.]+ s a megapixel; (.*)", printed)
    assert [name for name, _ in shares] == ["encoding", "decoding"]
    assert all(98 <= sum(map(int, re.findall(r"(\d+) %", parts))) <= 102 for _, parts in shares)
    assert (run / "evaluation.png").stat().st_size > 10_000
    board = EventAccumulator(str(run), {"images": 0}).Reload()
    shown = {"original", "lambda_8", "lambda_64"}
    assert {f"images/{name}" for name in shown} | {"validation/curve", "validation/bits_of_channels"} <= set(
        board.Tags()["images"]
    )


def test_a_folder_comes_back_under_its_names_near_its_pixels(run: Path, tmp_path: Path) -> None:
    sizes = {"a.png": (40, 56), "sub/b.png": (9, 7), "sub/c.png": (1, 1), "d.png": (3, 130)}
    for i, (name, (h, w)) in enumerate(sizes.items()):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo(h, w, i).permute(1, 2, 0).numpy()).save(tmp_path / "in" / name)
    Image.fromarray(photo(30, 20, 9, channels=1)[0].numpy()).save(tmp_path / "in/grey.png")
    file = tmp_path / "a.tkc"
    assert compress.main([f"run={run}", f"input={tmp_path / 'in'}", f"output={file}", "lambda=0.5"]) == 0
    assert inspect.main([f"input={file}"]) == 0
    assert decompress.main([f"run={run}", f"input={file}", f"output={tmp_path / 'out'}"]) == 0
    for name in (*sizes, "grey.png"):
        a, b = (torch.from_numpy(read_image(tmp_path / folder / name)) for folder in ("in", "out"))
        assert a.shape == b.shape
        assert rate_coder.psnr(a, b) > 36, name
    assert decompress.main([f"run={run}", f"input={file}", f"output={tmp_path / 'one'}", "only=sub/b.png"]) == 0
    assert [p.name for p in (tmp_path / "one").rglob("*.png")] == ["b.png"]
    assert (tmp_path / "one/sub/b.png").read_bytes() == (tmp_path / "out/sub/b.png").read_bytes()


@pytest.mark.parametrize("how", [{"choice": "rounding"}, {"choice": "one sigma"}, {"metric": "ms-ssim"}])
def test_files_of_other_choices_of_code_points_decode_alike(
    coder: PictureCoder, tmp_path: Path, how: dict[str, str]
) -> None:
    picture, other = photo(72, 90), PictureCoder(coder.model, **how)
    _, restored = file_of(other, picture, tmp_path / "a.tkc", "lambda", 16)
    file_of(coder, picture, tmp_path / "b.tkc", "lambda", 16)
    assert (tmp_path / "a.tkc").read_bytes() != (tmp_path / "b.tkc").read_bytes()
    with Reader(tmp_path / "a.tkc") as reader:
        [item], [level], [fitted] = rate_archive.described(reader)
        assert torch.equal(rate_archive.picture_of(reader, coder, item, level, fitted, 0), restored)


def test_bits_of_channels_are_those_of_the_picture(coder: PictureCoder) -> None:
    picture, level = photo(72, 90), rate_target.level_of(16)
    bits = coder.channel_bits(picture, level)
    coded = coder.quantise(coder.latents(picture, rate_coder.tiles(72, 90, 0)[0]), level)
    assert float(bits.sum()) == pytest.approx(float(coded.channel_bits.sum()))
    assert bits.shape == (CHANNELS,) and bool((bits >= 0).all())


def test_a_larger_lambda_makes_a_smaller_and_worse_file(coder: PictureCoder, tmp_path: Path) -> None:
    picture = photo(64, 80)
    points = []
    for lam in (1, 16, 256):
        size, restored = file_of(coder, picture, tmp_path / "a.tkc", "lambda", lam)
        points.append((size, rate_coder.psnr(picture, restored)))
    assert points == sorted(points, reverse=True)


@pytest.mark.parametrize("bpp", [0.8])
def test_a_file_has_the_size_that_was_asked_for(coder: PictureCoder, tmp_path: Path, bpp: float) -> None:
    picture = photo(120, 160)
    size, _ = file_of(coder, picture, tmp_path / "a.tkc", "bpp", bpp)
    assert 8 * size / picture[0].numel() == pytest.approx(bpp, rel=0.03)


@pytest.mark.parametrize("psnr", [36.0])
def test_a_picture_has_the_quality_that_was_asked_for(coder: PictureCoder, tmp_path: Path, psnr: float) -> None:
    picture = photo(96, 120)
    _, restored = file_of(coder, picture, tmp_path / "a.tkc", "psnr", psnr)
    assert rate_coder.psnr(picture, restored) == pytest.approx(psnr, abs=0.1)


@pytest.mark.parametrize(("way", "value", "end"), [
    ("bpp", 90.0, "most"), ("bpp", 0.0001, "least"), ("psnr", 90.0, "most"), ("psnr", 1.0, "least"),
])  # fmt: skip
@pytest.mark.parametrize("effort", ["0", "1", "3"])
def test_a_picture_takes_the_nearest_end_where_its_target_is_out_of_reach(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], way: str, value: float, end: str, effort: str
) -> None:
    write_image(tmp_path / "a.png", photo(64, 72).numpy())
    targets, files = (f"{way}={value:g}", f"lambda={0.25 if end == 'most' else 1024}"), list[Path]()
    for target in targets:
        files.append(tmp_path / f"{len(files)}.tkc")
        given = [f"run={run}", str(tmp_path / "a.png"), str(files[-1]), "metadata=none", f"effort={effort}", target]
        assert compress.main(given) == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    if way == "bpp":
        got = 8 * files[0].stat().st_size / (64 * 72)
    else:
        assert decompress.main([f"run={run}", str(files[0]), str(tmp_path / "b.png")]) == 0
        got = rate_coder.psnr(*(torch.from_numpy(read_image(tmp_path / name)) for name in ("a.png", "b.png")))
    [line] = re.findall(r"^a.png: .*", capsys.readouterr().out, re.M)
    said = re.fullmatch(rf"a.png: {way}={value:g} is out of reach, ([\d.]+)( dB)? is the {end}; took that", line)
    assert said and float(said[1]) == pytest.approx(got, rel=0.02) and bool(said[2]) == (way == "psnr")


def test_of_a_folder_pictures_that_miss_their_target_are_told_and_the_others_meet_it(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in/z.png", photo(200, 240).numpy())
    for i in range(7):
        write_image(tmp_path / f"in/{i}.png", photo(8, 8, i).numpy())
    assert compress.main([f"run={run}", str(tmp_path / "in"), str(tmp_path / "a.tkc"), "bpp=1.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("8 pictures, ") and lines[7].startswith("8 input files: ")
    for i in range(5):
        assert re.fullmatch(rf"{i}.png: bpp=1.5 is out of reach, [\d.]+ is the least; took that", lines[1 + i])
    assert lines[6] == "and 2 more pictures like that"
    with Reader(tmp_path / "a.tkc") as reader:
        assert reader.header["levels"][:7] == [rate_target.LEVELS] * 7
        size = len(reader.read(7)) + rate_coder.CHUNK
    assert 8 * size / (200 * 240) == pytest.approx(1.5, rel=0.03)


def test_a_writer_warns_of_pictures_that_miss_their_target(run: Path, tmp_path: Path) -> None:
    message = r"^a/b.png: bpp=0.001 is out of reach, [\d.]+ is the least; took that$"
    with pytest.warns(UserWarning, match=message) as told, toolkit.Writer(tmp_path / "a.tkc", run, bpp=0.001) as writer:
        writer.add(photo(40, 30).numpy(), "a/b.png")
    assert [one.filename for one in told] == [__file__]
    assert toolkit.open(tmp_path / "a.tkc", run).names == ["a/b.png"]


def test_a_target_that_lies_between_two_neighbouring_levels_is_told_of() -> None:
    target = Target("bpp", 1.0)
    assert rate_target.missed(400, 1.019, target) == ""
    assert rate_target.missed(400, 1.031, target) == "bpp=1 is not met, 1.03 is the nearest that was found; took that"
    assert rate_target.missed(400, None, Target("lambda", 4)) == ""


def test_tiles_leave_no_seams(coder: PictureCoder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Latents and pixels are those of the whole picture; only what the contexts of the coder know ends at a border."""
    picture = photo(70, 64)
    _, whole = file_of(coder, picture, tmp_path / "a.tkc", "lambda", 1)
    mu = coder.latents(picture, rate_coder.tiles(70, 64, coder.model.latents_halo)[0])[0]
    monkeypatch.setattr(rate_coder, "TILE", 5)
    monkeypatch.setattr(rate_coder, "WINDOW", 5)
    grid = rate_coder.tiles(70, 64, coder.model.latents_halo)
    assert len(grid) == 4
    for tile in grid:
        expected = mu[(..., *tile.place())]
        assert torch.allclose(coder.latents(picture, tile)[0], expected, atol=1e-5)
    _, tiled = file_of(coder, picture, tmp_path / "a.tkc", "lambda", 1)
    assert rate_coder.psnr(whole, tiled) > 40
    k = torch.randint(-3, 4, (1, CHANNELS, 9, 8))
    together = coder.restore(k, item_of("", picture), 300)
    monkeypatch.setattr(rate_coder, "WINDOW", 256)
    assert int((coder.restore(k, item_of("", picture), 300).int() - together.int()).abs().max()) <= 1


@pytest.mark.filterwarnings("ignore:TF32")  # of switching oneDNN off and on
def test_coefficients_decode_the_same_under_all_settings_and_pixels_within_a_level(coder: PictureCoder) -> None:
    picture = photo(43, 50)
    settings = [Setting(False, threads, 64, last, False, onednn) for threads, last, onednn in (
        (1, True, True), (2, False, True), (1, False, False), (2, True, False))]  # fmt: skip
    for writer in settings:
        coded = code_picture(writer, coder.model, picture, 16.0)
        for reader in settings:
            wrong, difference = picture_differs(reader, coder.model, coded, picture)
            assert wrong == 0 and difference <= 1, (writer, reader)


def test_quantisation_by_posterior_has_a_lower_objective_than_rounding(coder: PictureCoder) -> None:
    picture = photo(96, 120)
    latents = coder.latents(picture, rate_coder.tiles(96, 120, 0)[0])
    level = rate_target.level_of(32)
    step = coder.model.step(32.0)
    scores = []
    for choice in ("search", "rounding"):
        coded = PictureCoder(coder.model, choice=choice).quantise(latents, level)
        distortion = ((coded.k * step - latents[0]) / latents[1]).square().sum() / 2
        scores.append(float(distortion) + 32 * float(coded.channel_bits.sum()))
    assert scores[0] < scores[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lambda=0"], "expected lambda from 0.25 .* to 1024 .* got 0"),
        (["lambda=-3"], "expected lambda from 0.25"),
        (["lambda=nan"], "expected lambda from 0.25"),
        (["lambda=5000"], "expected lambda from 0.25"),
        (["bpp=0"], "expected bpp above 0, got 0"),
        (["psnr=-1"], "expected psnr above 0, got -1"),
        ([], "expected one of lambda=, bpp=, psnr=, got none"),
        (["bpp=1", "psnr=30"], "expected one of lambda=, bpp=, psnr=, got bpp and psnr"),
    ],
)
def test_a_wrong_target_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    output = tmp_path / "a.tkc"
    assert compress.main([f"run={run}", f"input={tmp_path / 'a.png'}", f"output={output}", *arguments]) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not output.exists()


def test_a_target_that_is_no_number_is_refused(run: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(SystemExit, match="expected bpp= a number, got 'half'"):
        compress.main([f"run={run}", f"input={tmp_path / 'a.png'}", f"output={tmp_path / 'a.tkc'}", "bpp=half"])


def bad_picture(folder: Path, kind: str) -> Path:
    path = folder / ("a.jpg" if kind == "cmyk" else "a.gif" if kind == "animated" else "a.png")
    if kind == "cmyk":
        Image.new("CMYK", (16, 16)).save(path)
    elif kind == "alpha":
        Image.new("RGBA", (16, 16), (1, 2, 3, 4)).save(path)
    elif kind == "deep":
        Image.fromarray(np.full((16, 16), 40_000, np.uint16)).save(path)
    elif kind == "animated":
        frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
        frames[0].save(path, save_all=True, append_images=frames[1:])
    else:
        Image.fromarray(photo(64, 64).permute(1, 2, 0).numpy()).save(path)
        path.write_bytes(path.read_bytes()[:-2000])
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cmyk", "expected grey, RGB or palette, got CMYK"),
        ("alpha", "expected no transparency"),
        ("deep", "expected 8 bits a value"),
        ("animated", "expected one frame, got 2"),
        ("truncated", "expected a whole image, got one that is cut short"),
    ],
)
def test_a_picture_that_cannot_be_kept_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, message: str
) -> None:
    path, output = bad_picture(tmp_path, kind), tmp_path / "a.tkc"
    assert compress.main([f"run={run}", f"input={path}", f"output={output}", "lambda=8"]) == 1
    assert message in capsys.readouterr().err
    assert not output.exists()


def test_an_array_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(images(2, (3, 8, 8)), tmp_path / "a.pt")
    output = tmp_path / "a.tkc"
    assert compress.main([f"run={run}", f"input={tmp_path / 'a.pt'}", f"output={output}", "lambda=8"]) == 1
    assert "expected pictures for a lossy model, got an array" in capsys.readouterr().err


def test_rows_that_do_not_fit_the_blocks_are_refused() -> None:
    cfg = configuration()
    arguments: Any = {k: v for k, v in OmegaConf.to_container(cfg.recipe.module).items() if k != "_target_"}  # type: ignore[union-attr]
    for shape in ([3, 60, 64], [1, 64, 64]):
        with pytest.raises(ValueError, match="expected RGB rows with sides that are multiples of 8"):
            VAE(**{**arguments, "shape": shape})


def test_a_model_without_tables_is_refused() -> None:
    cfg = configuration()
    module = VAE(**{k: v for k, v in OmegaConf.to_container(cfg.recipe.module).items() if k != "_target_"})  # type: ignore[union-attr, misc]
    with pytest.raises(ValueError, match="fit the tables first"):
        PictureCoder(module)


def test_a_model_with_the_coder_before_is_refused_by_name(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "run")
    weights = torch.load(run / "model.pt")
    torch.save({**weights, "coder_freqs": torch.zeros(1)}, tmp_path / "run/model.pt")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    arguments = [f"run={tmp_path / 'run'}", f"input={tmp_path / 'a.png'}", f"output={tmp_path / 'a.tkc'}", "lambda=8"]
    assert compress.main(arguments) == 1
    assert "from before toolkit 0.2 was finished, with another coder; train the model again" in capsys.readouterr().err
    assert not (tmp_path / "a.tkc").exists()


def test_a_file_of_another_model_or_kind_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, header in enumerate(({"kind": "lossy", "recipe": "vae", "model": "0" * 16}, {"kind": "images"})):
        with Writer(tmp_path / f"{i}.tkc", header):
            pass
        assert decompress.main([f"run={run}", f"input={tmp_path / f'{i}.tkc'}", f"output={tmp_path / 'out'}"]) == 1
        assert "expected a file of the model vae" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_damage_inside_a_chunk_or_header_is_refused(coder: PictureCoder, tmp_path: Path) -> None:
    picture, path = photo(40, 40), tmp_path / "a.tkc"
    file_of(coder, picture, path, "lambda", 8)
    with Reader(path) as reader:
        header, payload, crc = reader.header, reader.read(0), reader.chunks[0].rows_crc
    for changed, found in (({}, payload[:-3]), ({}, b""), ({}, b"\x07" + payload[1:])):
        with Writer(path, {**header, **changed}) as writer:
            writer.write(found, 1, crc)
        with pytest.raises(DamagedFile, match="chunk 0 decodes to other numbers"):
            restore_pictures(path, tmp_path / "out", coder)
    with Writer(path, header) as writer:
        writer.write(payload, 1, crc ^ 1)
    with pytest.raises(DamagedFile, match="decodes to other numbers"):
        restore_pictures(path, tmp_path / "out", coder)
    huge = 2**30
    for changes in (
        {"levels": [9999]}, {"levels": []}, {"items": [["a", "RGB", 0, 4]]}, {"items": 3}, {"levels": ["4"]},
        {"items": [["a", "RGB", huge, huge]]}, {"items": [["a", "RGB", 40.0, 40]]}, {"items": [[7, "RGB", 40, 40]]},
        {"items": [["a", ["RGB"], 40, 40]]},
    ):  # fmt: skip
        with Writer(path, {**header, **changes}) as writer:
            writer.write(payload, 1, crc)
        with pytest.raises(DamagedFile, match="expected items and levels that fit the file"):
            restore_pictures(path, tmp_path / "out", coder)
    with Writer(path, header):
        pass
    with pytest.raises(DamagedFile, match="1 tiles in 0 chunks"):
        restore_pictures(path, tmp_path / "out", coder)
    assert not (tmp_path / "out").exists()


def test_what_is_in_sound_tiles_comes_back(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    for name, size in {"a.png": (24, 32), "b.png": (16, 1100), "c.png": (20, 24)}.items():  # b has two tiles
        Image.fromarray(photo(*size).permute(1, 2, 0).numpy()).save(tmp_path / "in" / name)
    file, bad = tmp_path / "f.tkc", tmp_path / "bad.tkc"
    assert compress.main([f"run={run}", f"input={tmp_path / 'in'}", f"output={file}", "lambda=16"]) == 0
    assert decompress.main([f"run={run}", f"input={file}", f"output={tmp_path / 'all'}"]) == 0
    data = bytearray(file.read_bytes())
    with Reader(file) as reader:
        for chunk in (reader.chunks[0], reader.chunks[2]):
            data[chunk.offset] ^= 1
        end = reader.chunks[3].offset
    command = [f"run={run}", f"input={bad}", f"output={tmp_path / 'back'}"]
    for content, left in ((data, {"b.damaged.png", "c.png"}), (file.read_bytes()[:end], {"a.png", "b.png"})):
        bad.write_bytes(content)
        assert decompress.main(command) == 1 and not (tmp_path / "back").exists()
        capsys.readouterr()
        assert decompress.main([*command, "on_damage=skip"]) == 2
        assert {path.name for path in (tmp_path / "back").iterdir()} == left
        assert f"lost: {'a.png' if 'c.png' in left else 'c.png'}" in capsys.readouterr().err
        for name in left - {"b.damaged.png"}:
            assert np.array_equal(read_image(tmp_path / "back" / name), read_image(tmp_path / "all" / name))
        if "b.damaged.png" in left:
            part, whole = read_image(tmp_path / "back/b.damaged.png"), read_image(tmp_path / "all/b.png")
            assert (part[..., 1024:] == 128).all() and np.abs(part[..., :900].astype(int) - whole[..., :900]).max() <= 1
        shutil.rmtree(tmp_path / "back")


def test_bd_rate_of_a_curve_that_needs_half_the_bits() -> None:
    anchor = [Point(0.2 * 2**i, 28.0 + 3 * i, 0.9) for i in range(4)]
    half = [p._replace(bpp=p.bpp / 2) for p in anchor]
    assert bd_rate(half, anchor) == pytest.approx(-50)
    assert bd_rate(anchor, half) == pytest.approx(100)
    assert bd_rate(anchor, anchor, 0.3, 0.7) == pytest.approx(0)
    assert math.isnan(bd_rate(half, [p._replace(psnr=p.psnr + 50) for p in anchor]))
    empty = [Point(0.0, 20.0, 0.5), *anchor]  # a picture of a few pixels may take no bytes
    assert bd_rate(half, empty, 0.2, 1.2) == pytest.approx(-50, abs=0.5) and math.isfinite(bd_rate(empty, half))


def test_bd_rate_by_similarity_is_that_of_its_decibels() -> None:
    anchor = [Point(0.2 * 2**i, 0.0, 1 - 10 ** -(1 + i)) for i in range(4)]
    third = [p._replace(bpp=p.bpp / 3) for p in anchor]
    assert bd_rate(third, anchor, axis="ms_ssim") == pytest.approx(-200 / 3)
    assert math.isnan(bd_rate(third, [p._replace(ms_ssim=math.nan) for p in anchor], axis="ms_ssim"))


def test_curves_that_share_no_quality_are_said_to() -> None:
    anchor = [Point(0.2 * 2**i, 28.0 + 3 * i, 0.9) for i in range(4)]
    half = [p._replace(bpp=p.bpp / 2) for p in anchor]
    far = [p._replace(psnr=p.psnr + 50) for p in anchor]
    text = rate_distortion.table({"this": half, "JPEG 4:2:0": anchor, "JPEG 4:4:4": anchor, "other": far})
    assert "against JPEG: -50.0 %, " in text
    assert "against other: no common range, " in text and "nan" not in text and "  MS-SSIM" in text
    small = [p._replace(ms_ssim=math.nan) for p in anchor]  # of pictures too small for it
    text = rate_distortion.table({"this": small, "JPEG 4:2:0": small, "JPEG 4:4:4": small})
    assert "against JPEG: +0.0 %, no common range" in text and "nan" not in text and "  MS-SSIM" not in text


def test_the_envelope_is_the_better_curve_at_each_rate() -> None:
    a, b = [Point(0.2, 20, 0.5), Point(2.0, 40, 0.9)], [Point(0.2, 26, 0.6), Point(2.0, 34, 0.8)]
    best = rate_distortion.envelope([a, b])
    assert best[0].psnr == pytest.approx(26) and best[-1].psnr == pytest.approx(40)
    assert all(p.psnr >= 29.9 for p in best[100:])


def test_kmeans_finds_separate_clusters_and_keeps_empty_points() -> None:
    values = torch.tensor([-1.0, -1.1, 0.0, 0.1, 0.0, 5.0, 5.2])
    assert torch.allclose(rate_distortion.kmeans(values, 3), torch.tensor([-1.05, 0.1 / 3, 5.1]))
    points = rate_distortion.kmeans(values, 40)
    assert torch.equal(points, points.sort().values) and len(points) == 40
    assert float((values[:, None] - points).abs().min(1).values.max()) < 1e-6


def test_kmeans_gives_a_curve_of_the_same_latents(coder: PictureCoder) -> None:
    pictures = [photo(80, 100, 1), photo(64, 72, 2, channels=1)]
    coarse, fine = rate_distortion.of_kmeans(coder, pictures, [5, 129])
    assert 0 < coarse.bpp < fine.bpp
    assert coarse.psnr + 5 < fine.psnr
    # A fine codebook comes near what the latents themselves give.
    [item] = [item_of("a", pictures[0])]
    level, latents = rate_target.level_of(0.25), coder.latents(pictures[0], rate_coder.tiles(80, 100, 4)[0])[0]
    best = rate_coder.psnr(pictures[0], coder.restore(latents / coder.model.step(0.25), item, level))
    assert fine.psnr < best + 1
