"""Files of earlier commits: each must decode to the same bytes for ever, with the tiny run that lies beside it.

`python -m tests.test_golden NAME` makes a new one. None is ever changed or removed: a new version of a format, or a
model with new settings, gets files of its own.
"""

import hashlib
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from PIL import Image

from recipes.vae import VAE
from tests.tiny import configure, images, run_folder
from toolkit import compress, decompress, embeddings, inspect
from toolkit.container import Reader
from toolkit.data.files import read_image
from toolkit.recipe import build, save, save_exact

GOLDEN = Path(__file__).parent / "golden"
TINY = {"width": 4, "encoder_blocks": 1, "decoder_blocks": 1}
SMALL = {"latent_channels": [2, 2], "downscale": [2, 2], "blocks": [1, 1], "width": 4, "bins": 64}

# Folder -> SHA-256 of the decoded pixels, as `digest` computes it.
PICTURES = {
    "bitswap_v2": "0d7d47acba6a678a6dcc6c7f46b2bcd395320bbdbb20a59c5abf28f17989ca6f",
    "ikvae_v2": "0d7d47acba6a678a6dcc6c7f46b2bcd395320bbdbb20a59c5abf28f17989ca6f",  # the same pictures
}


def digest(folder: Path) -> str:
    """Of names, modes, sizes and pixels of all pictures in a folder."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.png")):
        with Image.open(path) as image:
            found.update(f"{path.relative_to(folder).as_posix()} {image.mode} {image.size} ".encode() + image.tobytes())
    return found.hexdigest()


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_decode_as_they_did(name: str, tmp_path: Path) -> None:
    folder = GOLDEN / name
    command = [f"run={folder}", f"input={folder / 'pictures.tkc'}", "device=cpu", "compile=false"]
    assert decompress.main([*command, f"output={tmp_path / 'all'}"]) == 0
    assert digest(tmp_path / "all") == PICTURES[name]
    assert decompress.main([*command, f"output={tmp_path / 'one'}", "only=deep/one.png"]) == 0
    one = (tmp_path / "one/deep/one.png", tmp_path / "all/deep/one.png")
    assert Image.open(one[0]).tobytes() == Image.open(one[1]).tobytes()


LOSSY = ["vae_v2"]  # beside each file, its pictures as they were decoded when it was made


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_pictures_decode_as_they_did(name: str, tmp_path: Path) -> None:
    """Their numbers to the bit, which the file's checksums say; their pixels but for the rounding of floats."""
    folder = GOLDEN / name
    command = [f"run={folder}", f"input={folder / 'pictures.tkc'}", "device=cpu", "compile=false"]
    assert decompress.main([*command, f"output={tmp_path / 'all'}"]) == 0
    paths = sorted(path.relative_to(folder / "decoded") for path in (folder / "decoded").rglob("*.png"))
    assert [str(path) for path in paths] == ["a.png", "b.png", "deep/c.png", "deep/one.png"]
    for path in paths:
        now, then = (read_image(top / path).astype(int) for top in (tmp_path / "all", folder / "decoded"))
        assert now.shape == then.shape and np.abs(now - then).max() <= 1


@pytest.mark.parametrize("path", sorted(GOLDEN.rglob("*.tkc")), ids=lambda path: path.relative_to(GOLDEN).as_posix())
def test_every_file_is_intact(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect.main([f"input={path}"]) == 0
    assert path.name == "words_v1.tkc" or path.parent.name in [*PICTURES, *LOSSY] or path.name in VECTORS


# File -> SHA-256 of its vectors, float32, little-endian, row by row, and of its words.
VECTORS = {
    "words_v2.tkc": "f8ff43ab76c2c350bb5951d51739526a2143c98e66fb412b5f170ef5b89dfcc6",
    # Stacks of as many rows as what is coded of them allows, in each group.
    "words_v2_groups.tkc": "898a5f19cd398160c04b55f4f8d75fc21c000cbd0c74b2cd8e5e766b63ea7ce6",
}


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_decode_as_they_did(name: str) -> None:
    assert vector_digest(GOLDEN / name) == VECTORS[name]


def vector_digest(path: Path) -> str:
    with embeddings.open(path) as file:
        vectors = file.vectors().numpy()
        assert all(np.array_equal(file[word], vector) for word, vector in zip(file.words, vectors, strict=True))
        return hashlib.sha256(vectors.astype("<f4").tobytes() + "\n".join(file.words).encode()).hexdigest()


def test_the_bytes_of_the_container_are_read_as_they_were_written() -> None:
    with Reader(GOLDEN / "bitswap_v2/pictures.tkc") as reader:
        assert (reader.version, reader.header["exact"], reader.header["chunk_rows"]) == (2, True, 7)
        assert [chunk.rows for chunk in reader.chunks] == [7] * (len(reader.chunks) - 1) + [reader.chunks[-1].rows]


def make(name: str) -> None:
    """Make the golden file NAME: RECIPE_vVERSION, or words_vVERSION....tkc."""
    target = GOLDEN / name
    if name.endswith(".tkc"):
        rng = torch.Generator().manual_seed(0)
        vectors, words = torch.randn(1200, 12, generator=rng), [f"w{'ö' * (i % 4)}{i}" for i in range(1200)]
        vectors *= torch.linspace(2, 0.01, 12)  # the last dimensions become constant, and more where words are rare
        sigma = torch.where(torch.arange(1200) < 512, 0.02, 0.3)[:, None].expand_as(vectors)
        embeddings.write(target, words, embeddings.quantise(vectors, sigma, 1.0))
        print(vector_digest(target))
        return
    recipe = name.partition("_")[0]
    torch.manual_seed(0)
    if recipe == "bitswap":
        run_folder(target, (1, 8, 8), **SMALL)
    elif recipe == "ikvae":
        target.mkdir()
        cfg = configure(recipe)
        module: Any = build(cfg).module
        module.learn_tables(images(64, seed=9), 16)
        save(target, cfg, module)
    else:
        target.mkdir()
        with initialize_config_module("configs", version_base="1.3"):
            cfg = compose("train", ["recipe=vae", *(f"recipe.module.{key}={n}" for key, n in TINY.items())])
        OmegaConf.set_struct(cfg, False)
        cfg.recipe.module.shape = [3, 16, 16]
        module = VAE(**{str(key): value for key, value in cfg.recipe.module.items() if key != "_target_"}).eval()
        for part in (module.net.analysis, module.net.synthesis):
            torch.nn.init.normal_(part.head.weight, std=0.01)
        module.fit_tables(images(16, (3, 16, 16), seed=9), steps=20)
        save(target, cfg, module)
    if recipe != "vae":
        save_exact(target, images(64, seed=9))
    pictures = target / "pictures"
    (pictures / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for path, size in {"a.png": (24, 17), "b.png": (9, 30, 3), "deep/one.png": (1, 1), "deep/c.png": (16, 16)}.items():
        slope = np.linspace(0, 180, size[1])[None, :, None]
        values = slope + rng.integers(0, 40, (*size[:2], size[2] if len(size) == 3 else 1))
        Image.fromarray(values.astype(np.uint8).squeeze(2) if len(size) == 2 else values.astype(np.uint8)).save(
            pictures / path
        )
    options = ["lambda=2"] if recipe == "vae" else ["chunk_rows=7", "exact=true"]
    command = [f"run={target}", "device=cpu", "compile=false"]
    assert compress.main([*command, f"input={pictures}", f"output={target / 'pictures.tkc'}", *options]) == 0
    back = target / "back"
    assert decompress.main([*command, f"input={target / 'pictures.tkc'}", f"output={back}"]) == 0
    print(digest(back), digest(pictures))
    shutil.rmtree(pictures)
    if recipe == "vae":
        back.rename(target / "decoded")
    else:
        shutil.rmtree(back)


if __name__ == "__main__":
    make(sys.argv[1])
