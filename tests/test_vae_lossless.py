"""The lossless VAE: what it pushes costs what its bound says, in floats and in exact arithmetic, and comes back."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from recipes.vae_lossless import LosslessVAE, centres, head, location, scale, snap_location, snap_scale
from tests.tiny import configure, images
from toolkit import compress, decompress
from toolkit.chunks.chained import Coder
from toolkit.chunks.model import Settings
from toolkit.coding import frequencies
from toolkit.nets.exact import exactly
from toolkit.runs import build, save

SMALL = {
    "likelihood": "interlaced", "components": 2, "levels": 1, "refinements": 1, "latents": 3, "width": 8, "blocks": 1,
    "learning_rate": 1e-3, "warmup": 1, "weight_decay": 0.0, "kl_warmup": 0,
}  # fmt: skip


def model(shape: tuple[int, ...] = (1, 8, 8), likelihood: str = "interlaced") -> LosslessVAE:
    """An untrained model whose latents say something."""
    torch.manual_seed(0)
    module = LosslessVAE(shape, **{**SMALL, "likelihood": likelihood}).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in module.parameters():
            if not bool(parameter.any()) or parameter.dim() > 1:
                parameter.normal_(std=0.1)
        module.net.infer.get_parameter("1.3.weight").normal_(std=0.5)
    return module


@pytest.mark.parametrize("likelihood", ["interlaced", "mixture"])
@pytest.mark.parametrize("exact", [False, True])
def test_rows_come_back_and_cost_the_bound_at_their_latents(likelihood: str, exact: bool) -> None:
    module, x = model(likelihood=likelihood), images(40)
    valid = torch.ones(x.shape, dtype=torch.bool)
    coder = Coder(module, head, Settings(16, 8, 0))
    if exact:
        coder = Coder(module.exact(x), exactly(head), Settings(16, 8, 0))
    payload, account = coder.encode(x, valid, trace=True)
    assert torch.equal(coder.decode(payload, valid), x)
    latents = [torch.cat(layer) for layer in zip(*account.latents, strict=True)]
    with torch.inference_mode():
        parts = module.parts(x, latents).double().sum(0)
    assert account.net == pytest.approx(float(parts.sum()), rel=0.02 if exact else 0.003)
    assert abs(float(parts[1])) > 40  # the latents carry something


def test_locations_and_scales_keep_to_the_grid() -> None:
    raw = torch.linspace(-50, 50, 1001)
    assert float(location(raw).abs().max()) <= 6
    assert float(scale(raw).min()) >= 0.05 and float(scale(raw).max()) <= 1
    bins = torch.arange(1024)
    assert torch.equal(snap_location(centres(bins)), bins * frequencies.LOC_STEPS)
    assert float(frequencies.scale_of(snap_scale(torch.ones(1)))) == pytest.approx(64, rel=0.01)


def test_pictures_of_any_size_come_back(tmp_path: Path) -> None:
    cfg = configure("vae_lossless", "data=photos", "data.splits.train_rows=8", "data.batch_size=8")
    for folder in ("run", "in"):
        (tmp_path / folder).mkdir()
    save(tmp_path / "run", cfg, build(cfg, tmp_path / "run")[0].module)
    x = images(1, (3, 45, 45))[0, :, :37]
    Image.fromarray(x.permute(1, 2, 0).numpy()).save(tmp_path / "in/a.png")
    Image.fromarray(x[0, :5, :3].numpy()).save(tmp_path / "in/b.png")
    file = tmp_path / "a.tkc"
    assert compress.main([f"run={tmp_path / 'run'}", f"input={tmp_path / 'in'}", f"output={file}"]) == 0
    assert decompress.main([f"run={tmp_path / 'run'}", f"input={file}", f"output={tmp_path / 'out'}"]) == 0
    for name in ("a.png", "b.png"):
        with Image.open(tmp_path / "in" / name) as a, Image.open(tmp_path / "out" / name) as b:
            assert (a.mode, a.size, a.tobytes()) == (b.mode, b.size, b.tobytes())


def test_models_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="expected rows of even sides, got 7 x 8; change"):
        model((1, 7, 8))
    with pytest.raises(ValueError, match="expected likelihood to be one of interlaced, mixture, got 'logistic'"):
        model(likelihood="logistic")
