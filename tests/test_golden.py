"""Files of earlier commits: each must decode to the same bytes for ever, with the tiny run that lies beside it.

From version 4 on, bytes are kept for ever: none of these files is ever changed or removed, once a release wrote such
ones. A new version of a format, or a model with new settings, gets files of its own: `python -m tests.test_golden NAME
...` makes them. Those of the newest version are what is written today, too.
"""

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Iterable
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
from toolkit.coding.coefficients.codec import given
from toolkit.container import PREAMBLE, VERSION, Reader, UnknownVersion, _sealed
from toolkit.embeddings.file import Quantised
from toolkit.images import rate_archive
from toolkit.images.files import read_image
from toolkit.images.rate_coder import PictureCoder, rate_index
from toolkit.runs import build, load, save, save_exact

GOLDEN = Path(__file__).parent / "golden"
TINY = {"width": 4, "encoder_blocks": 1, "decoder_blocks": 1}
SMALL = {"latent_channels": [2, 2], "downscale": [2, 2], "blocks": [1, 1], "width": 4, "bins": 64}

# File -> SHA-256 of the decoded pixels, as `digest` computes it. All are of the same pictures.
PICTURES = dict.fromkeys(
    ["bitswap_v4/pictures.tkc", "ikvae_v4/pictures.tkc", "vae_lossless_v4/pictures.tkc"],
    "0d7d47acba6a678a6dcc6c7f46b2bcd395320bbdbb20a59c5abf28f17989ca6f",
)
LOSSY = ["vae_v4/pictures.tkc"]  # beside it, its pictures as they were decoded once

UNREAD = "vae_coder1_v4.tkc"  # of a coder that no release had
SHIPPED = ["digits_of_mnist.tkc", "any_rate.tkc"]  # of models of the zoo: see test_zoo


def digest(folder: Path) -> str:
    """Of names, modes, sizes and pixels of all pictures in a folder."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.png")):
        with Image.open(path) as image:
            found.update(f"{path.relative_to(folder).as_posix()} {image.mode} {image.size} ".encode() + image.tobytes())
    return found.hexdigest()


def decode(name: str, output: Path, *options: str) -> Path:
    path = GOLDEN / name
    command = [f"run={path.parent}", f"input={path}", f"output={output}", "device=cpu"]
    assert decompress.main([*command, *options]) == 0
    return output


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_decode_as_they_did(name: str, tmp_path: Path) -> None:
    every, one = decode(name, tmp_path / "all"), decode(name, tmp_path / "one", "only=deep/one.png")
    assert digest(every) == PICTURES[name]
    assert Image.open(one / "deep/one.png").tobytes() == Image.open(every / "deep/one.png").tobytes()


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_pictures_decode_as_they_did(name: str, tmp_path: Path) -> None:
    """Their numbers to the bit, which the file's checksums say; their pixels but for the rounding of floats."""
    found, folder = decode(name, tmp_path / "all"), (GOLDEN / name).with_name("decoded")
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*.png"))
    assert [str(path) for path in paths] == ["a.png", "b.png", "deep/c.png", "deep/one.png"]
    for path in paths:
        now, then = (read_image(top / path).astype(int) for top in (found, folder))
        assert now.shape == then.shape and np.abs(now - then).max() <= 1


@pytest.mark.parametrize("path", sorted(GOLDEN.rglob("*.tkc")), ids=lambda path: path.relative_to(GOLDEN).as_posix())
def test_every_file_is_intact(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect.main([f"input={path}"]) == 0
    assert path.relative_to(GOLDEN).as_posix() in [*PICTURES, *LOSSY, *VECTORS, UNREAD, *SHIPPED]


def test_a_lossy_file_from_before_toolkit_0_2_is_refused_by_name() -> None:
    with (
        Reader(GOLDEN / UNREAD) as reader,
        pytest.raises(UnknownVersion, match=r"expected coder 2 or 4 .* got 1; compress"),
    ):
        rate_archive.described(reader)


# File -> SHA-256 of its vectors, float32, little-endian, row by row, and of its words.
VECTORS = {
    "words_v4.tkc": "898a5f19cd398160c04b55f4f8d75fc21c000cbd0c74b2cd8e5e766b63ea7ce6",
    "words2_v4.tkc": "eba0c9ab4584da3795be8168c00fef475b7eddf39f49832b1a632d07685e8e97",  # vocabulary: version 4
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
    with Reader(GOLDEN / "bitswap_v4/pictures.tkc") as reader:
        assert (reader.version, reader.header["exact"], reader.header["chunk_rows"]) == (4, True, 7)
        assert [chunk.rows for chunk in reader.chunks] == [7] * (len(reader.chunks) - 1) + [reader.chunks[-1].rows]


@pytest.mark.parametrize("name", ["bitswap_v4/pictures.tkc", "vae_v4/pictures.tkc", "words_v4.tkc"])
def test_a_file_of_an_earlier_version_is_refused_by_name(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, file = (GOLDEN / name).read_bytes(), tmp_path / "old.tkc"
    magic, _, *rest = PREAMBLE.unpack_from(data)
    file.write_bytes(_sealed(PREAMBLE.pack(magic, 3, *rest)) + data[PREAMBLE.size + 4 :])
    with pytest.raises(UnknownVersion, match=r"format version 4, got 3; a file written before toolkit 0\.2"):
        Reader(file)
    if name.startswith("words"):
        with pytest.raises(UnknownVersion):
            embeddings.load(file)
    else:
        assert decompress.main([f"run={(GOLDEN / name).parent}", f"input={file}", f"output={tmp_path / 'out'}"]) == 1
        assert "a file written before toolkit 0.2: decode it with 0.1" in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == ["old.tkc"]


# What is written today. Where one of these fails, readers of the last release call today's files damaged: a change of
# the bytes takes a new `container.VERSION`, and golden files of it, which then stand here.


def content(path: Path) -> tuple[dict[str, Any], list[bytes]]:
    """Header and payloads of a file of the newest version."""
    with Reader(path) as reader:
        assert reader.version == VERSION
        header = {key: value for key, value in reader.header.items() if key != "versions"}
        return header, [reader.read(i) for i in range(len(reader.chunks))]


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_written_as_they_were(name: str, tmp_path: Path) -> None:
    pack((GOLDEN / name).parent, decode(name, tmp_path / "all"), tmp_path / "again.tkc", LOSSLESS)
    assert content(tmp_path / "again.tkc") == content(GOLDEN / name)


def test_lossy_pictures_are_written_as_they_were() -> None:
    path = GOLDEN / LOSSY[-1]
    header, payloads = content(path)
    coder = PictureCoder(load(path.parent, "cpu").module)
    for payload, level, (_, _, height, width) in zip(payloads, header["levels"], header["items"], strict=True):
        k = coder.read(payload, level, (-(-height // 8), -(-width // 8)))
        assert given(coder.tables, k, rate_index(level)).payload == payload


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_are_written_as_they_were(name: str, tmp_path: Path) -> None:
    path = GOLDEN / name
    with embeddings.open(path) as file:
        groups = [file._group(i) for i in range(len(file._first) - 1)]
        vectors = file.vectors().split([group.rows for group in groups])
        books = [group.book for group in groups]
        symbols = [(x[..., None] == book.points).int().argmax(-1) for x, book in zip(vectors, books, strict=True)]
        embeddings.write(tmp_path / "again.tkc", file.words, Quantised(books, symbols, 0.0))
    (found, now), (header, then) = content(tmp_path / "again.tkc"), content(path)
    assert (found, now) == ({**header, "version": found["version"]}, then)  # without one, it is 1
    assert found["version"] == (1 if name == "words_v4.tkc" else 4)


LOSSLESS = ("chunk_rows=7", "exact=true")


def pack(run: Path, pictures: Path, output: Path, options: Iterable[str]) -> None:
    command = [f"run={run}", f"input={pictures}", f"output={output}", "device=cpu"]
    assert compress.main([*command, *options]) == 0


def make(name: str) -> None:
    """Make the golden file NAME: words2_vVERSION.tkc, or RECIPE_vVERSION/NAME.tkc and, where there is none, its run.

    VERSION is the run's: a file of a newer one beside older ones needs no run of its own.
    """
    target = GOLDEN / name
    if target.exists():
        raise FileExistsError(f"{target}: expected a new name: golden files stay as they are")
    if target.parent == GOLDEN:
        rng = torch.Generator().manual_seed(0)
        vectors, words = torch.randn(1200, 12, generator=rng), [f"w{'ö' * (i % 4)}{i}" for i in range(1200)]
        vectors *= torch.linspace(2, 0.01, 12)  # the last dimensions become constant, and more where words are rare
        if name.startswith("words2"):
            words = [
                f"{'wv'[i % 2]}{'abcdefg'[i * i % 7]}{'ö' * (i % 4)}{i * 7919 % 1201:x}{'aeiou'[i * i % 5]}"
                for i in range(1200)
            ]
        sigma = torch.where(torch.arange(1200) < 512, 0.02, 0.3)[:, None].expand_as(vectors)
        embeddings.write(target, words, embeddings.quantise(vectors, sigma, 1.0))
        print(vector_digest(target))
        return
    run, recipe = target.parent, target.parent.name.rpartition("_")[0]
    if not run.exists():
        make_run(run, recipe)
    with tempfile.TemporaryDirectory() as folder:
        pictures, rng = Path(folder) / "pictures", np.random.default_rng(0)
        (pictures / "deep").mkdir(parents=True)
        sizes = {"a.png": (24, 17), "b.png": (9, 30, 3), "deep/one.png": (1, 1), "deep/c.png": (16, 16)}
        for path, size in sizes.items():
            slope = np.linspace(0, 180, size[1])[None, :, None]
            values = slope + rng.integers(0, 40, (*size[:2], size[2] if len(size) == 3 else 1))
            image = values.astype(np.uint8)
            Image.fromarray(image.squeeze(2) if len(size) == 2 else image).save(pictures / path)
        pack(run, pictures, target, ["lambda=2"] if recipe == "vae" else LOSSLESS)
        back = decode(name, Path(folder) / "back")
        print(digest(back), digest(pictures))
        if recipe == "vae" and not (run / "decoded").exists():
            shutil.copytree(back, run / "decoded")


def make_run(target: Path, recipe: str) -> None:
    """A run of an untrained model, with an exact network where the recipe is lossless."""
    torch.manual_seed(0)
    if recipe == "bitswap":
        run_folder(target, (1, 8, 8), **SMALL)
    elif recipe == "vae":
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
    else:
        target.mkdir()
        cfg = configure(recipe)
        other: Any = build(cfg, target)[0].module
        if recipe == "ikvae":
            other.learn_tables(images(64, seed=9), 16)
        save(target, cfg, other)
    if recipe != "vae":
        save_exact(target, images(64, seed=9))


if __name__ == "__main__":
    for each in sys.argv[1:]:
        make(each)
