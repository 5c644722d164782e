"""toolkit.export_embeddings: vectors trained elsewhere become a file and come back; what it refuses."""

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gensim.models import KeyedVectors
from gensim.models.fasttext import load_facebook_vectors
from gensim.test.utils import datapath
from gensim.utils import SaveLoad

from tests.test_embeddings import posterior
from toolkit import embeddings, export_embeddings
from toolkit.embeddings.sources import FASTTEXT


def exported(tmp_path: Path, *arguments: str) -> int:
    return export_embeddings.main([f"output={tmp_path / 'out.tkc'}", *arguments])


@pytest.mark.parametrize("name", ["v.txt", "v.bin", "v.kv"])
def test_vectors_trained_elsewhere_go_to_a_file_and_back(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, vectors, _ = posterior(250)
    keyed = KeyedVectors(12)
    keyed.add_vectors(words, vectors.numpy())
    for i, word in enumerate(words):
        keyed.set_vecattr(word, "count", 250 - i)
    if name.endswith(".kv"):
        keyed.save(str(tmp_path / name))
    else:
        keyed.save_word2vec_format(str(tmp_path / name), binary=name.endswith(".bin"))
    assert exported(tmp_path, f"input={tmp_path / name}", "bits_per_dim=6") == 0
    said = capsys.readouterr().out
    assert f"{(tmp_path / 'out.tkc').stat().st_size} bytes" in said and "float16" in said
    loaded = embeddings.load(tmp_path / "out.tkc")
    assert loaded.index_to_key == words
    assert float(np.abs(loaded.vectors - vectors.numpy()).mean()) < 0.1
    assert export_embeddings.main([f"input={tmp_path / 'out.tkc'}", f"output={tmp_path / ('back' + name)}"]) == 0
    back = tmp_path / f"back{name}"
    again = (
        KeyedVectors.load(str(back)) if name.endswith(".kv")
        else KeyedVectors.load_word2vec_format(str(back), binary=name.endswith(".bin"))
    )  # fmt: skip
    assert again.index_to_key == words
    np.testing.assert_allclose(again.vectors, loaded.vectors, rtol=1e-5)


def as_gensim_reads(path: Path) -> KeyedVectors:
    if path.suffix in (".kv", ".model"):
        loaded = SaveLoad.load(str(path))
        return getattr(loaded, "wv", loaded)
    if path.read_bytes()[:4] == struct.pack("<i", FASTTEXT):
        return load_facebook_vectors(str(path))
    headed = path.suffix == ".bin" or len(path.read_text().splitlines()[0].split()) == 2
    return KeyedVectors.load_word2vec_format(str(path), binary=path.suffix == ".bin", no_header=not headed)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of gensim's own old files
@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("lee_fasttext.vec", ".vec"), ("EN.1-10.cbow1_wind5_hs0_neg10_size300_smpl1e-05.txt", ".txt"),
        ("test_glove.txt", ".txt"), ("word2vec_pre_kv_c", ".txt"), ("euclidean_vectors.bin", ".bin"),
        ("lee_fasttext_new.bin", ".bin"), ("crime-and-punishment.bin", ".bin"), ("old_keyedvectors_320.dat", ".kv"),
        ("model-from-gensim-3.8.0.w2v", ".model"), ("word2vec_3.3", ".model"), ("compatible-hash-true.model", ".model"),
    ],
)  # fmt: skip
def test_real_files_of_every_reader_go_to_a_file_and_back(name: str, ending: str, tmp_path: Path) -> None:
    """Of a fastText model the words alone: what subwords tell of others is not kept."""
    for part in Path(datapath("")).glob(f"{name}*"):
        shutil.copy(part, tmp_path / part.name.replace(name, f"v{ending}"))
    theirs = as_gensim_reads(tmp_path / f"v{ending}")
    assert exported(tmp_path, f"input={tmp_path}/v{ending}", "lambda=0.0001") == 0
    loaded = embeddings.load(tmp_path / "out.tkc")
    assert loaded.index_to_key == theirs.index_to_key
    scale = float(theirs.vectors.std())
    assert np.abs(loaded.vectors - theirs.vectors[: len(loaded)]).mean() < 0.05 * scale
    back = tmp_path / ("back" + ending.replace(".model", ".kv"))
    assert export_embeddings.main([f"input={tmp_path}/out.tkc", f"output={back}"]) == 0
    again = as_gensim_reads(back)
    assert again.index_to_key == theirs.index_to_key
    np.testing.assert_allclose(again.vectors, loaded.vectors, atol=1e-6 * scale)


@pytest.mark.parametrize("name", ["v.bin", "v.txt", "v.kv", "v.safetensors", "v.npy"])
def test_files_are_for_others_to_read_as_those_of_any_program(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And names of files need no key."""
    monkeypatch.chdir(tmp_path)
    Path("v.txt").write_text("a 1 2\nb 3 4\n")
    assert export_embeddings.main(["v.txt", "v.tkc", "lambda=1"]) == 0
    Path("v.txt").unlink()
    assert export_embeddings.main(["v.tkc", name]) == 0
    assert Path(name).stat().st_mode == Path("v.tkc").stat().st_mode
    assert ("without the words" in capsys.readouterr().out) == (name == "v.npy")


@pytest.mark.parametrize("metric", ["frequency", "ranks", "cosine"])
@pytest.mark.parametrize("order", ["kept", "grouped"])
@pytest.mark.parametrize("values", [[[3.0]], [[0.0]], [[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 2.0], [1.0, 2.0]]])
def test_tables_of_one_row_of_zeros_or_of_equal_rows_come_back(
    values: list[list[float]], order: str, metric: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "v.npy", values)
    (tmp_path / "names.txt").write_text("".join(f"w{i}\n" for i in range(len(values))))
    table = [f"input={tmp_path}/v.npy", f"names={tmp_path}/names.txt", f"metric={metric}", f"order={order}"]
    assert exported(tmp_path, *table, "lambda=0") == 0
    np.testing.assert_allclose(embeddings.load(tmp_path / "out.tkc").vectors, values, rtol=1e-6)


def test_counts_make_frequent_words_exact(tmp_path: Path) -> None:
    words, vectors, _ = posterior(250)
    lines = [f"{w} {' '.join(f'{x:.6f}' for x in v)}" for w, v in zip(words, vectors.tolist(), strict=True)]
    (tmp_path / "glove.txt").write_text("\n".join(lines) + "\n")  # GloVe: no first line with sizes
    (tmp_path / "counts").write_text("".join(f"{w} {10 if i < 125 else 100000}\n" for i, w in enumerate(words)))
    assert exported(tmp_path, f"input={tmp_path}/glove.txt", f"counts={tmp_path}/counts", "bits_per_dim=3") == 0
    error = np.square(embeddings.load(tmp_path / "out.tkc").vectors - vectors.numpy()).mean(1)
    assert error[125:].mean() < 0.1 * error[:125].mean()


def test_grouped_words_stand_among_those_of_similar_rank_in_a_smaller_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = [f"{n:x}" for n in rng.permutation(1 << 20)[:4000]]
    keyed = KeyedVectors(4)
    keyed.add_vectors(words, rng.normal(size=(4000, 4)))
    keyed.save_word2vec_format(str(tmp_path / "v.bin"), binary=True)
    sizes, vectors = [], []
    for order in ("kept", "grouped"):
        assert exported(tmp_path, f"input={tmp_path}/v.bin", "lambda=0.001", f"order={order}", "overwrite=true") == 0
        sizes.append((tmp_path / "out.tkc").stat().st_size)
        loaded = embeddings.load(tmp_path / "out.tkc")
        vectors.append(loaded.vectors[[loaded.key_to_index[word] for word in words]])
    assert loaded.index_to_key != words and sorted(words) == sorted(loaded.index_to_key)
    first = 0
    for n in embeddings.groups(4000):
        assert loaded.index_to_key[first : first + n] == sorted(words[first : first + n])
        first += n
    assert sizes[1] < sizes[0] - 3500
    np.testing.assert_allclose(vectors[0], vectors[1], atol=0.05)  # a part of the rows of a group is learnt from


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "expected one of run= and input=, got both or none"),
        (["run=a", "input=b"], "expected one of run= and input=, got both or none"),
        (["input=v.txt"], "bits_per_dim=, got none; give one, for instance bits_per_dim=2"),
        (["input=v.txt", "lambda=1", "bits_per_dim=2"], "expected one of lambda=, target_size="),
        (["input=v.txt", "lambda=-1"], "expected lambda= a number that is not negative, got '-1'"),
        (["input=v.txt", "target_size=5XiB"], "expected target_size= a number above 0, got '5XiB'"),
        (["input=v.txt", "target_size=9"], "expected a target size of at least"),
        (["input=v.txt", "lambda=1", "method=pq"], "expected method to be one of default, vbq, got 'pq'"),
        (["input=v.txt", "lambda=1", "order=rank"], "expected order= to be one of kept, grouped, got 'rank'"),
        (["input=nowhere.txt", "lambda=1"], "expected a file of word vectors, got nowhere.txt, which is not there"),
        (
            ["input=v.csv", "lambda=1"],
            "expected a file ending in .txt, .vec, .bin, .kv, .model, .safetensors, .npy, got v.csv",
        ),
        (["input=spaces.txt", "lambda=1"], "spaces.txt: expected a word and as many numbers on each line"),
        (["input=twice.txt", "lambda=1"], "got the word of an earlier row: 'a'"),
        (["input=latin.txt", "lambda=1"], "latin.txt, line 1: expected text in UTF-8, got b'\\xe9'"),
        (["input=nan.txt", "lambda=1"], "got NaN, infinity or what float32 cannot hold for 'b'"),
        (["input=v.TKC", "lambda=1"], "expected only output= with input=FILE.tkc, got lambda="),
        (["input=none.txt", "lambda=1"], "none.txt: expected vectors, got none\n"),
        (["input=empty.txt", "lambda=1"], "empty.txt: expected vectors, got an empty file"),
        (["input=short.bin", "lambda=1"], "expected 2 vectors of 2, got 1; the file is cut short"),
        (["input=huge.bin", "lambda=1"], "expected 999999999999 vectors of 999, got 25 bytes; the file is cut short"),
        (["input=text.bin", "lambda=1"], "expected word2vec's binary format"),
        (["input=v.txt", "counts=counts", "lambda=1"], "got none of 1, the first 'b'"),
        (["input=v.txt", "counts=bad", "lambda=1"], "bad, line 1: expected a new word and its count, got 'a x'"),
        (["run=.", "lambda=1"], "expected a run folder with config.yaml and model.pt, got ."),
        (["run=.", "lambda=1", "counts=counts"], "expected counts= with input= only"),
        (
            ["input=v.txt", "lambda=1", "output=none/out.tkc"],
            "out.tkc: expected output= in an existing folder",
        ),
        (["input=v.txt", "lambda=1", "output=out.bin"], "expected output= to end in .tkc, got out.bin"),
        (["input=v.tkc", "lambda=1"], "expected only output= with input=FILE.tkc, got lambda="),
        (["input=v.tkc", "output=out.csv"], "expected output= to end in .bin or .txt or .vec or .kv or"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        "v.txt": b"a 1 2\nb 3 4\n", "v.csv": b"a,1\n", "spaces.txt": b"a 1 2\nb 3 4 5\n", "empty.txt": b"",
        "none.txt": b"0 2\n",
        "twice.txt": b"a 1 2\na 3 4\n", "latin.txt": b"caf\xe9 1 2\n", "nan.txt": b"a 1 2\nb nan 4\n",
        "short.bin": b"2 2\na 1234\x00\x01\x02\x03\nb 1234", "text.bin": b"a 1 2\n",
        "huge.bin": b"999999999999 999\na 123456", "counts": b"a 3\n", "bad": b"a x\n",
    }  # fmt: skip
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    words, vectors, sigma = posterior(20, 3)
    embeddings.write(tmp_path / "v.tkc", words, embeddings.quantise(vectors, sigma, 1.0))
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    output = [] if any(argument.startswith("output=") for argument in arguments) else ["output=out.tkc"]
    assert export_embeddings.main([*arguments, *output]) == 1
    assert said in capsys.readouterr().err
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda keyed: keyed.set_vecattr("a", "count", 0), "counts that are none, for 2 words"),
        (lambda keyed: setattr(keyed, "vectors", np.eye(2, dtype=np.int64)), "int64 vectors [2, 2] for 2 words"),
        (lambda keyed: setattr(keyed, "vectors", np.ones((1, 2), np.float32)), "float32 vectors [1, 2] for 2 words"),
    ],
)
def test_what_gensim_saved_is_refused_where_it_is_no_vectors(
    change: Callable[[KeyedVectors], None], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keyed = KeyedVectors(2)
    keyed.add_vectors(["a", "b"], np.eye(2, dtype=np.float32))
    change(keyed)
    keyed.save(str(tmp_path / "v.kv"))
    assert exported(tmp_path, f"input={tmp_path}/v.kv", "lambda=1") == 1
    assert said in capsys.readouterr().err and not (tmp_path / "out.tkc").exists()
