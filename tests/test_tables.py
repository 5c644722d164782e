"""Tables with names elsewhere: static sentence embeddings, safetensors, NumPy; there and back, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from toolkit import embeddings, export_embeddings
from toolkit.container import ContainerError, Reader, Writer
from toolkit.embeddings import sources, tables

WORDS = ["[PAD]", "[UNK]", "the", "of", "new\nline", " ", "naïve", *(f"##{i}" for i in range(290))]


def tokenizer(words: list[str] = WORDS) -> bytes:
    model = {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words[1:], 1)}, "unk_token": "[UNK]"}
    special = {"id": 0, "content": words[0], "single_word": False, "lstrip": False, "rstrip": False}
    return json.dumps(
        {
            "version": "1.0", "truncation": None, "padding": None, "normalizer": {"type": "Lowercase"},
            "added_tokens": [special | {"normalized": False, "special": True}],
            "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None, "model": model,
        }
    ).encode()  # fmt: skip


def numbers(rows: int = len(WORDS), d: int = 16) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(rows, d, generator=rng)


def model_folder(path: Path, kind: str) -> Path:
    """A folder as model2vec (with a mapping, weights) or sentence-transformers saves it."""
    inner = path / "0_StaticEmbedding" if kind == "nested" else path
    inner.mkdir(parents=True)
    (inner / "tokenizer.json").write_bytes(tokenizer())
    (path / "modules.json").write_text("[]")
    (path / "weights.pkl").write_bytes(b"no text")
    is_theirs = kind.startswith(("sentence", "nested"))
    (path / ("config_sentence_transformers.json" if is_theirs else "config.json")).write_text('{"normalize": true}')
    tensors = {
        "embedding.weight" if is_theirs else "embeddings": numbers(40 if kind == "mapped" else len(WORDS)).half()
    }
    if kind == "mapped":
        tensors["mapping"] = torch.arange(len(WORDS)) % 40
        tensors["weights"] = torch.linspace(0.1, 2, len(WORDS), dtype=torch.float64)
    save_file(tensors, inner / "model.safetensors")
    return path


def run(*arguments: object) -> int:
    return export_embeddings.main([str(argument) for argument in arguments])


@pytest.mark.parametrize("kind", ["model2vec", "mapped", "sentence", "nested"])
def test_a_folder_of_static_embeddings_comes_back_but_for_the_bits_of_its_table(kind: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", kind)
    assert run(f"input={folder}", f"output={tmp_path}/m.tkc", "lambda=0.0001") == 0
    assert run(f"input={tmp_path}/m.tkc", f"output={tmp_path}/back") == 0
    files = sorted(x.relative_to(folder).as_posix() for x in folder.rglob("*") if x.is_file() and x.suffix != ".pkl")
    assert files == sorted(
        x.relative_to(tmp_path / "back").as_posix() for x in (tmp_path / "back").rglob("*") if x.is_file()
    )
    for name in files:
        if name.endswith(".json"):
            assert (folder / name).read_bytes() == (tmp_path / "back" / name).read_bytes()
            continue
        before, after = load_file(folder / name), load_file(tmp_path / "back" / name)
        assert before.keys() == after.keys()
        for key, x in before.items():
            assert x.dtype == after[key].dtype and x.shape == after[key].shape
            if key in tables.BESIDE:
                assert torch.equal(x, after[key])
            else:
                assert float((x.float() - after[key].float()).abs().mean()) < 0.05
    with embeddings.open(tmp_path / "m.tkc") as opened:
        assert opened.words == (list(map(str, range(40))) if kind == "mapped" else WORDS)
        assert torch.equal(embeddings.layer(tmp_path / "m.tkc").weight, opened.vectors())
        np.testing.assert_array_equal(opened[opened.words[7]], opened.vectors()[7].numpy())


@pytest.mark.parametrize("ending", [".safetensors", ".npy"])
@pytest.mark.parametrize("names", ["names.txt", "list.json", "numbers.json", "tokenizer.json"])
def test_a_table_with_a_list_of_names_comes_back(ending: str, names: str, tmp_path: Path) -> None:
    words = WORDS if names == "tokenizer.json" else ["model", *(f"w{i * 7 % 300}" for i in range(1, len(WORDS)))]
    texts = {
        "names.txt": "".join(f"{word}\n" for word in words), "list.json": json.dumps(words),
        "numbers.json": json.dumps(dict(sorted((word, i) for i, word in enumerate(words)))),
        "tokenizer.json": tokenizer().decode(),
    }  # fmt: skip
    (tmp_path / names).write_text(texts[names], encoding="utf-8")
    values = numbers().half()
    if ending == ".npy":
        np.save(tmp_path / "t.npy", values.numpy())
    else:
        save_file({"embed_tokens.weight": values, "other": torch.zeros(3, 3)}, tmp_path / "t.safetensors")
    tensor = ["tensor=embed_tokens.weight"] if ending == ".safetensors" else []
    given = [f"input={tmp_path}/t{ending}", f"names={tmp_path / names}", *tensor]
    assert run(*given, f"output={tmp_path}/t.tkc", "lambda=0.0001") == 0
    with embeddings.open(tmp_path / "t.tkc") as opened:
        assert opened.words == words
        back = opened.vectors()
    assert float((back - values.float()).abs().mean()) < 0.05
    assert run(f"input={tmp_path}/t.tkc", f"output={tmp_path}/b{ending}") == 0
    if ending == ".npy":
        np.testing.assert_allclose(np.load(tmp_path / "b.npy"), back.numpy(), rtol=1e-3, atol=1e-4)
    else:
        [(name, x)] = load_file(tmp_path / "b.safetensors").items()
        if names == "tokenizer.json":
            assert name == "embed_tokens.weight" and torch.equal(x, back.half())
        else:  # which has its names with it
            assert torch.equal(x, back) and sources.read(tmp_path / "b.safetensors").words == words


@pytest.mark.parametrize("dtype", [">f4", "<f8", np.longdouble])
def test_a_table_of_any_byte_order_and_precision_comes_back(dtype: object, tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", numbers().numpy().astype(dtype))
    (tmp_path / "tokenizer.json").write_bytes(tokenizer())
    given = [f"input={tmp_path}/t.npy", f"names={tmp_path}/tokenizer.json"]
    assert run(*given, f"output={tmp_path}/t.tkc", "lambda=0.0001") == 0
    assert run(f"input={tmp_path}/t.tkc", f"output={tmp_path}/b.npy") == 0
    np.testing.assert_allclose(np.load(tmp_path / "b.npy"), numbers().numpy(), atol=0.2)


@pytest.mark.filterwarnings("error")
def test_numbers_that_float32_cannot_hold_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "t.npy", [[1.0, 2.0], [1e200, 0.0]])
    (tmp_path / "n.txt").write_text("a\nb\n")
    assert run(f"input={tmp_path}/t.npy", f"names={tmp_path}/n.txt", f"output={tmp_path}/t.tkc", "lambda=1") == 1
    assert "what float32 cannot hold for 'b'" in capsys.readouterr().err


def test_static_models_of_both_libraries_give_what_the_table_gives(tmp_path: Path) -> None:
    model2vec = pytest.importorskip("model2vec")
    folder = model_folder(tmp_path / "model", "mapped")
    assert run(f"input={folder}", f"output={tmp_path}/m.tkc", "lambda=0.0001") == 0
    texts = ["the of the", "naïve ##3"]
    found, theirs = embeddings.static(tmp_path / "m.tkc"), model2vec.StaticModel.from_pretrained(folder)
    assert isinstance(found, model2vec.StaticModel) and found.normalize
    np.testing.assert_allclose(found.encode(texts), theirs.encode(texts), atol=0.05)


def test_sentence_transformers_takes_the_table(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    folder = model_folder(tmp_path / "model", "sentence")
    assert run(f"input={folder}", f"output={tmp_path}/m.tkc", "lambda=0.0001") == 0
    found = embeddings.static(tmp_path / "m.tkc", "sentence_transformers")
    assert torch.equal(found.embedding.weight, embeddings.layer(tmp_path / "m.tkc").weight)


def test_rows_that_occur_often_or_weigh_much_are_more_exact() -> None:
    weights = np.where(np.arange(300) % 2, 1.0, 0.1)
    kept = tables.Kept({"tokenizer.json": b""}, {"weights": weights}, "embeddings", "float32", "")
    found = sources.Vectors([str(i) for i in range(300)], numbers(300), None, None, "ranks", 0, kept)
    sigma = sources.sigma_of(found)[:, 0]
    torch.testing.assert_close(sigma[0] / sigma[1], torch.tensor(10 * (2.7 / 3.7) ** 0.5))
    assert sources.metric_of(found) == "frequency"
    unit = found._replace(vectors=torch.nn.functional.normalize(found.vectors, dim=1), kept=None)
    assert sources.metric_of(unit) == "cosine" and sources.sigma_of(unit).unique().numel() < 30
    longer = sources.sigma_of(unit._replace(vectors=unit.vectors * torch.linspace(1, 3, 300)[:, None]), "cosine")
    torch.testing.assert_close(longer[-1, 0] / longer[0, 0], torch.tensor(3.0))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["input=t.npy"], "expected names= for the rows of a table, got none"),
        (
            ["input=v.txt", "names=n.txt"],
            "expected names= with a table in .safetensors or .npy only, got",
        ),
        (["input=t.npy", "names=n.txt", "tensor=a"], "expected tensor= with a table in .safetensors only"),
        (["input=t.npy", "names=short.txt"], "short.txt: expected a name for each of 297 rows, got 2"),
        (["input=t.npy", "names=bad.json"], "bad.json: expected names, one a line, or a JSON list"),
        (["input=t.npy", "names=gap.json"], "gap.json: expected names, one a line, or a JSON list"),
        (["input=t.npy", "names=few.json"], "few.json: expected tokens of 297 rows, got numbers from 0 to 400"),
        (["input=t.npy", "names=odd.json"], "odd.json: expected a tokenizer.json with a vocabulary, got another file"),
        (["input=ints.npy", "names=n.txt"], "expected a table of floating-point numbers [rows, d], got int64 [297, 2]"),
        (["input=cut.npy", "names=n.txt"], "cut.npy: expected a NumPy array, got another or a damaged file"),
        (["input=two.safetensors", "names=n.txt"], "expected one table [rows, d], got a, b; say which by tensor=NAME"),
        (["input=two.safetensors", "names=n.txt", "tensor=c"], "expected one table [rows, d] called c, got a, b"),
        (["input=cut.safetensors", "names=n.txt"], "cut.safetensors: expected a safetensors file, got another or"),
        (["input=none"], "none: expected a folder of model2vec or of sentence-transformers' StaticEmbedding"),
        (["input=model", "order=grouped"], "expected order=kept for tokens, whose tokenizer numbers the rows"),
        (["input=model", "metric=l1"], "expected metric= to be one of frequency, ranks, cosine, got 'l1'"),
    ],
)
def test_what_is_no_table_with_names_is_refused(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("t.npy", numbers(d=2).numpy())
    np.save("ints.npy", np.zeros((297, 2), np.int64))
    Path("cut.npy").write_bytes(Path("t.npy").read_bytes()[:-9])
    save_file({"a": numbers(d=2), "b": numbers(d=3)}, "two.safetensors")
    Path("cut.safetensors").write_bytes(Path("two.safetensors").read_bytes()[:-9])
    Path("n.txt").write_text("".join(f"w{i}\n" for i in range(297)))
    Path("short.txt").write_text("a\nb\n")
    Path("v.txt").write_text("a 1\nb 2\n")
    Path("bad.json").write_text("[1, 2]")
    Path("gap.json").write_text('{"a": 0, "b": 2}')
    Path("few.json").write_bytes(tokenizer([f"w{i}" for i in range(401)]))
    Path("odd.json").write_text('{"model": {"vocab": 3}}')
    Path("none").mkdir()
    model_folder(Path("model"), "model2vec")
    before = set(tmp_path.rglob("*"))
    assert run(*arguments, "output=out.tkc", "lambda=1") == 1
    assert said in capsys.readouterr().err
    assert set(tmp_path.rglob("*")) == before


def test_a_folder_with_more_tables_than_can_be_kept_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = model_folder(tmp_path / "model", "model2vec") / "model.safetensors"
    save_file({**load_file(file), "dense": torch.zeros(2, 2)}, file)
    assert run(f"input={tmp_path}/model", f"output={tmp_path}/m.tkc", "lambda=1") == 1
    assert "expected embeddings, weights and mapping in model.safetensors, got dense too" in capsys.readouterr().err
    assert not (tmp_path / "m.tkc").exists()


def test_outputs_that_a_file_cannot_become_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    embeddings.export(tmp_path / "w.tkc", ["a", "b"], numbers(2), torch.ones(2, 16), "lambda", 1)
    assert run(f"input={tmp_path}/w.tkc", f"output={tmp_path}/folder") == 1
    assert "a folder is for static sentence embeddings that came as one" in capsys.readouterr().err
    model_folder(tmp_path / "model", "model2vec")
    assert run(f"input={tmp_path}/model", f"output={tmp_path}/m.tkc", "lambda=1") == 0
    assert run(f"input={tmp_path}/m.tkc", f"output={tmp_path}/model") == 1
    assert "expected output= to name a new folder, got" in capsys.readouterr().err
    with pytest.raises(ValueError, match="expected static sentence embeddings with their tokenizer, got words"):
        embeddings.static(tmp_path / "w.tkc")
    with pytest.raises(ValueError, match="expected library to be model2vec or sentence_transformers, got 'x'"):
        embeddings.static(tmp_path / "m.tkc", "x")


@pytest.mark.parametrize(
    "changes",
    [
        {"files": [["../tokenizer.json", 9]]}, {"files": [["tokenizer.json", 9]]}, {"files": None},
        {"files": [["tokenizer.json", 1 << 40]]}, {"table": ["embeddings", "int8", ""]},
        {"table": ["a", "float16", "/b"]}, {"beside": [["weights", "|O", [3]]]}, {"beside": [["other", "<f4", [3]]]},
        {"beside": [["weights", "<f4", [-3]]]},
    ],
)  # fmt: skip
def test_a_header_that_no_folder_made_is_refused(changes: dict[str, object], tmp_path: Path) -> None:
    assert run(f"input={model_folder(tmp_path / 'model', 'model2vec')}", f"output={tmp_path}/m.tkc", "lambda=1") == 0
    with Reader(tmp_path / "m.tkc") as reader, Writer(tmp_path / "v.tkc", {**reader.header, **changes}) as writer:
        for i, chunk in enumerate(reader.chunks):
            writer.write(reader.read(i), chunk.rows, chunk.rows_crc)
    with pytest.raises(ContainerError, match=r"v\.tkc: expected"):
        embeddings.open(tmp_path / "v.tkc")
