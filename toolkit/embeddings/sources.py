"""Word vectors from files of other programs and from trained runs, with what is known of their uncertainty."""

from __future__ import annotations

import gzip
import pickle
import struct
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from toolkit.container import plain
from toolkit.embeddings import tables
from toolkit.embeddings.tables import Kept

VOCABULARY = "vocabulary.txt"  # in a run folder: "word count" on each line, as gensim's fvocab
TEXT, BINARY, GENSIM = (".txt", ".vec"), (".bin",), (".kv", ".model")
TABLES = (".safetensors", ".npy")
WRITTEN = (*BINARY, *TEXT, ".kv", *TABLES)
METRICS = ("frequency", "ranks", "cosine")
TRUSTED = {  # of pickles: what gensim's vectors are made of; none of these runs what it is given
    ("gensim.models.keyedvectors", "KeyedVectors"), ("gensim.models.keyedvectors", "Word2VecKeyedVectors"),
    ("gensim.models.keyedvectors", "Vocab"), ("gensim.models.keyedvectors", "CompatVocab"),
    ("gensim.models.keyedvectors", "EuclideanKeyedVectors"), ("gensim.models.word2vec", "Word2VecVocab"),
    ("gensim.models.word2vec", "Word2VecTrainables"), ("gensim.models.fasttext", "FastTextVocab"),
    ("gensim.models.fasttext", "FastTextTrainables"), ("gensim.models.keyedvectors", "FastTextKeyedVectors"),
    ("gensim.models.fasttext", "FastTextKeyedVectors"), ("gensim.models.fasttext", "FastText"),
    ("gensim.models.word2vec", "Word2Vec"), ("gensim.utils", "call_on_class_only"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    ("numpy", "ndarray"), ("numpy", "dtype"), ("numpy.random", "__RandomState_ctor"),
    ("numpy.random._pickle", "__randomstate_ctor"),
    ("numpy.random._pickle", "__bit_generator_ctor"), ("numpy.random._mt19937", "MT19937"),
    ("builtins", "set"), ("builtins", "slice"), ("builtins", "object"), ("__builtin__", "set"),
    ("__builtin__", "object"), ("collections", "defaultdict"), ("collections", "OrderedDict"), ("builtins", "int"),
    ("__builtin__", "long"), ("builtins", "hash"), ("__builtin__", "hash"),
    ("copyreg", "_reconstructor"), ("copy_reg", "_reconstructor"), ("_codecs", "encode"),
}  # fmt: skip
ERRORS = ("strict", "replace", "skip")
CONTROL = bytes(range(32))
PRINTABLE = bytes([9, 10, 13, *range(32, 127)])
GZIP, BOM = b"\x1f\x8b", b"\xef\xbb\xbf"
UTF16 = b"\xff\xfe", b"\xfe\xff"  # how such text begins
LONGEST_SIZE = 18  # digits
SAMPLE = 1000  # lines that tell how many numbers stand on each
FASTTEXT = 793712314  # first four bytes of a fastText model


class Vectors(NamedTuple):
    """Vectors of words, the most frequent first where that is known."""

    words: list[str]
    vectors: Tensor  # float32 [words, d]
    sigma: Tensor | None  # float32 [words, d], posterior standard deviations
    counts: Tensor | None  # int64 [words], how often each occurs in the training text
    rule: str  # what sigma is made from
    left_out: int = 0  # words that are not UTF-8
    kept: Kept | None = None  # of static sentence embeddings: tokenizer, weights ...


def metric_of(found: Vectors) -> str:
    """The metric that fits: cosine if all vectors have the same length, as normalised ones do, and are no tokens'."""
    lengths = found.vectors.norm(dim=1)
    even = bool((lengths - lengths.mean()).abs().max() <= 1e-3 * lengths.mean())
    return "cosine" if even and found.kept is None and found.counts is None else "frequency"


def with_sigma(found: Vectors, metric: str | None = None) -> Vectors:
    """The vectors with the sigma of `sigma_of`, whatever they had, and what it is made from as their rule."""
    metric = metric_of(found) if metric is None else metric
    counted = metric == "frequency" and found.counts is not None
    rule = "cosine" if metric == "cosine" else "counts" if counted else "ranks"
    return found._replace(sigma=sigma_of(found, metric), rule=rule)


def sigma_of(found: Vectors, metric: str | None = None) -> Tensor:
    """Standard deviations by a rule, up to a common factor, float32 [words, d].

    frequency: the squared error of a row counts as often as the row occurs, so 1 / sigma^2 is proportional to its
    count, times the square of a token's weight. That is the error of the mean of a text's vectors, where errors of rows
    are independent; and the information that a text has on a word grows so. ranks: the same, but counts are taken to
    fall as 1 / rank does (Zipf's law), the first row being the most frequent word; frequency takes them so where it has
    none. cosine: an error counts in proportion to the length of the vector, and rows alike. Default: `metric_of`.
    Raises ValueError for another metric.
    """
    metric = metric_of(found) if metric is None else metric
    if metric not in METRICS:
        raise ValueError(f"expected metric= to be one of {', '.join(METRICS)}, got {metric!r}")
    rows = torch.arange(len(found.words))
    if metric == "cosine":
        lengths = found.vectors.double().square().mean(1).sqrt()  # a coordinate's share
        sigma = lengths.clamp(min=max(1e-3 * float(lengths.mean()), 1e-12))
    else:
        known = found.counts if metric == "frequency" else None
        counts = known.double().clamp(min=1) if known is not None else (1 / (rows + 2.7)).double()
        counts = counts * tables.row_weights(found.kept, len(rows)).square()
        sigma = (counts / counts.median()).clamp(min=1e-12).rsqrt() * found.vectors.double().std(
            correction=int(found.vectors.numel() > 1)
        )
    return sigma.float().clamp(min=1e-12)[:, None].expand_as(found.vectors).contiguous()


def read(
    path: str | Path, counts: str | Path | None = None, errors: str = "strict", names: str | Path | None = None,
    tensor: str | None = None,
) -> Vectors:  # fmt: skip
    """Vectors of a word2vec .bin, .txt or .vec, a GloVe .txt, a gensim .kv, a fastText .bin, a table or a folder.

    A folder of static sentence embeddings: see `tables.folder`. A table is a .safetensors or .npy file, with its names
    in the file of `tables.names_of`; tensor: its name where a file has several. counts: file of `read_counts`. .txt and
    .vec may be compressed by gzip. errors: of words that are not UTF-8: "strict", "replace" or "skip". Raises
    FileNotFoundError, or ValueError that says where the file is not what its name promises. Of gensim's own files,
    which are pickles, only gensim's and numpy's classes are unpickled.
    """
    if errors not in ERRORS:
        raise ValueError(f"expected errors= to be one of {', '.join(ERRORS)}, got {errors!r}")
    path = Path(path)
    suffix = path.suffix.lower()
    for name, given in (("names", names), ("tensor", tensor)):
        if given is not None and (suffix not in TABLES or path.is_dir() or (name == "tensor" and suffix == ".npy")):
            where = ".safetensors or .npy" if name == "names" else ".safetensors"
            raise ValueError(f"expected {name}= with a table in {where} only, got it with {path}; leave it out")
    kept: Kept | None
    if path.is_dir():
        words, table, kept = tables.folder(path)
        return _counted(Vectors(words, table, None, None, "ranks", 0, kept), counts)
    if not path.is_file():
        what = "no regular file" if path.exists() else "not there"
        raise FileNotFoundError(f"expected a file of word vectors, got {path}, which is {what}; check the name")
    if suffix in TABLES:
        table, name, dtype, own = tables.table(path, tensor)
        if names is None and own is None:
            raise ValueError(
                f"{path}: expected names= for the rows of a table, got none; give a text file with a name a line, a "
                "JSON list, or the tokenizer.json"
            )
        words, kept = tables.names_of(Path(names), len(table)) if names is not None else (own or [], None)
        return _counted(
            Vectors(words, table, None, None, "ranks", 0, kept and kept._replace(name=name, dtype=dtype)), counts
        )
    left_out, known = 0, None
    if suffix in GENSIM or _is_fasttext(path):
        words, vectors, known = _gensim(path)
    elif suffix in BINARY:
        words, vectors, left_out = _binary(path, errors)
    elif suffix in TEXT or (suffix == ".gz" and path.with_suffix("").suffix.lower() in TEXT):
        words, vectors, left_out = _text(path, errors)
    else:
        raise ValueError(
            f"expected a file ending in {', '.join(TEXT + BINARY + GENSIM + TABLES)}, got {path}; rename it"
        )
    rule = "counts" if known is not None else "ranks"
    return _counted(Vectors(words, torch.from_numpy(vectors), None, known, rule, left_out), counts)


def _counted(found: Vectors, counts: str | Path | None) -> Vectors:
    """With counts from a file. Raises ValueError for words that it does not have; tokens without a count have 0."""
    if counts is None:
        return found
    table = read_counts(counts)
    missing = [word for word in found.words if word not in table]
    if missing and (found.kept is None or len(missing) == len(found.words)):
        raise ValueError(
            f"expected counts of all {len(found.words)} words in {counts}, got none of {len(missing)}, the first "
            f"{missing[0]!r}; add them, or leave counts= out"
        )
    known = torch.tensor([table.get(word, 0) for word in found.words])
    return found._replace(counts=known, rule="counts")


def save(keyed: Any, path: Path) -> None:
    """Write gensim's KeyedVectors as word2vec .bin, .txt or .vec, or as gensim's own .kv: path ends in one of these."""
    if path.suffix.lower() == ".kv":
        keyed.save(str(path), sep_limit=1 << 62)  # in one file, which takes its name at once
    else:
        keyed.save_word2vec_format(str(path), binary=path.suffix.lower() in BINARY, write_header=True)


def read_counts(path: str | Path) -> dict[str, int]:
    """A text file with a word and its count on each line -> counts by word. Raises ValueError that names the line."""
    table: dict[str, int] = {}
    for number, line in enumerate(_decoded(Path(path).read_bytes().removeprefix(BOM), path).split("\n"), 1):
        if not line.strip():
            continue
        word, _, count = line.rstrip("\r").replace("\t", " ").rpartition(" ")
        if not word or not count.isdecimal() or len(count) > LONGEST_SIZE or word in table:
            raise ValueError(f"{path}, line {number}: expected a new word and its count, got {line!r}; correct it")
        table[word] = int(count)
    return table


def _decoded(data: bytes, path: str | Path) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        _check_utf8(path, data)
        raise ValueError(
            f"{path}: expected text in UTF-8, got {error.object[error.start : error.end]!r} at byte {error.start}; "
            "convert the file"
        ) from error


def _check_utf8(path: str | Path, data: bytes) -> None:
    """Raise ValueError for what is surely no text in UTF-8."""
    if data.startswith(UTF16):
        raise ValueError(f"{path}: expected text in UTF-8, got UTF-16; convert it: iconv -f UTF-16 -t UTF-8")
    if (at := data.find(b"\0")) >= 0:
        line = data.count(b"\n", 0, at) + 1
        raise ValueError(
            f"{path}, line {line}: expected text in UTF-8, got a NUL byte, as in UTF-16 and binary files; convert it, "
            "or remove the byte"
        )


def _word(data: bytes, where: str, errors: str) -> str | None:
    """A word; None if it is not UTF-8 and is to be left out."""
    if errors == "strict":
        return _decoded(data, where)
    try:
        return data.decode("utf-8", "replace" if errors == "replace" else "strict")
    except UnicodeDecodeError:
        return None


def _text(path: Path, errors: str) -> tuple[list[str], np.ndarray[Any, Any], int]:
    """word2vec's text format, and GloVe's, which has no first line with sizes; a word may have spaces (GloVe 840B)."""
    with path.open("rb") as file:
        packed = file.read(2) == GZIP
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            data = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: expected text, or text that gzip compressed, got another file ({error})") from error
    _check_utf8(path, data)
    lines = data.removeprefix(BOM).split(b"\n")
    whole = not lines[-1].strip()  # else the last line, and perhaps its last number, was cut
    lines = [line.rstrip(b"\r \t").replace(b"\t", b" ") for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise ValueError(f"{path}: expected vectors, got an empty file")
    sizes = lines[0].split(b" ")
    headed = len(sizes) == 2 and all(size.isdigit() for size in sizes)
    if headed and max(map(len, sizes)) > LONGEST_SIZE:
        raise ValueError(
            f"{path}: expected how many words and how many numbers each in the first line, got a number of "
            f"{max(map(len, sizes))} digits; correct it"
        )
    if headed and int(sizes[0]) != len(lines) - 1:
        raise ValueError(
            f"{path}: expected {int(sizes[0])} vectors, as its first line says, got {len(lines) - 1}; the file is cut "
            "short, or of two files: get it again, or correct the first line"
        )
    lines = lines[headed:]
    d = _dimension(path, lines, int(sizes[1]) if headed else None)
    words, rows = list[str](), list[np.ndarray[Any, Any]]()
    for number, line in enumerate(lines, 1 + headed):
        fields = line.split(b" ")
        try:
            if len(fields) <= d:
                raise ValueError
            row = np.array(fields[-d:], np.float32)
        except ValueError:
            raise ValueError(
                f"{path}, line {number}: expected a word and {d} numbers with a space between them, got "
                f"{len(fields)} fields that begin {b' '.join(fields[:3])[:60]!r}{_first_line(lines) * (not headed)}"
            ) from None
        word = _word(b" ".join(fields[:-d]), f"{path}, line {number}", errors)
        if word is not None:
            words.append(word)
            rows.append(row)
    if not whole:
        raise ValueError(
            f"{path}: expected a line end after the last vector, got none; the file may be cut in a number: get it "
            "again, or add the line end if it is whole"
        )
    if not rows:
        raise ValueError(f"{path}: expected vectors, got none{' whose word is UTF-8' * bool(lines)}")
    return words, np.stack(rows), len(lines) - len(rows)


def _dimension(path: Path, lines: Sequence[bytes], declared: int | None) -> int:
    """How many numbers end each line: what the first line of the file declares, or what most lines have.

    Words end in numbers too ("route 66"), so that a line may have more.
    """
    found = Counter(map(_numbers, lines[:SAMPLE]))
    if declared is None:
        [(d, times), *_] = found.most_common(1)
        if not d or 2 * times <= found.total():
            shown = ", ".join(f"{n} numbers on {times} lines" for n, times in found.most_common(3))
            raise ValueError(
                f"{path}: expected a word and as many numbers on each line, got {shown}{_first_line(lines)}"
            )
        return d
    if not declared or (found and min(found) > declared):
        raise ValueError(
            f"{path}: expected a word and {declared} numbers, as its first line says, got {min(found, default=0)} "
            "numbers or more on each line; correct the first line"
        )
    return declared


def _first_line(lines: Sequence[bytes]) -> str:
    return f"; if words end in numbers, say how many words and how many numbers each by a first line: {len(lines)} 300"


def _numbers(line: bytes) -> int:
    """How many fields of a line, from its end and without its first, are numbers."""
    fields = line.split(b" ")
    return next((i for i, field in enumerate(reversed(fields[1:])) if not _is_number(field)), len(fields) - 1)


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _binary(path: Path, errors: str) -> tuple[list[str], np.ndarray[Any, Any], int]:
    """word2vec's binary format: "words d", then each word, a space, and d float32; line ends are allowed between."""
    with path.open("rb") as file:
        sizes = file.readline(64).split()
        if len(sizes) != 2 or not all(size.isdigit() for size in sizes):
            raise ValueError(
                f"{path}: expected word2vec's binary format, got {sizes[:2]}; if it is text, give it the ending .txt"
            )
        count, d = map(int, sizes)
        size = path.stat().st_size
        if not count * d or count * (4 * d + 2) > size:  # before memory is taken
            raise ValueError(
                f"{path}: expected {count} vectors of {d}, got {size} bytes; the file is cut short, or text: then give "
                "it the ending .txt"
            )
        start = file.tell()
        if not file.read(1 << 16).translate(None, PRINTABLE):
            raise ValueError(f"{path}: expected word2vec's binary format, got text; give it the ending .txt")
        file.seek(start)
        vectors = np.empty((count, d), np.float32)
        names = []
        for number in range(count):
            names.append(_until_space(file))
            data = file.read(4 * d)
            if len(data) != 4 * d:
                raise ValueError(f"{path}: expected {count} vectors of {d}, got {number}; the file is cut short")
            vectors[number] = np.frombuffer(data, "<f4")
        rest = len(file.read().strip(b"\n"))
        torn = next((number for number, name in enumerate(names) if name.translate(None, CONTROL) != name), None)
        if rest or torn is not None:
            what = f"{rest} bytes more" if torn is None else f"no word in the place of word {torn}"
            raise ValueError(
                f"{path}: expected {count} vectors of {d}, as its first line says, and no more, got {what}; there are "
                "more vectors, or a word has a space, which this format cannot hold: save it as .txt or .kv"
            )
    words = [_word(name, f"{path}, word {number}", errors) for number, name in enumerate(names)]
    kept = [number for number, word in enumerate(words) if word is not None]
    return [word for word in words if word is not None], vectors[kept], count - len(kept)


def _until_space(file: BinaryIO) -> bytes:
    word = b""
    while (byte := file.read(1)) not in (b" ", b"") and len(word) < 10_000:  # none is longer
        word += byte
    return word.lstrip(b"\n")


def _is_fasttext(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == struct.pack("<i", FASTTEXT)


class _Trusted(pickle.Unpickler):
    """Unpickles what gensim's files of vectors are made of and nothing else: a pickle can run any program."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in TRUSTED:
            raise ValueError(f"it names {module}.{name}, which no vectors need: do not trust it")
        return super().find_class(module, name)


def _with_arrays(made: Any, path: str) -> Any:
    """An unpickled object with the arrays that gensim put into files beside the pickle; they are no pickles."""
    parts = vars(made)
    names = [*parts.get("__numpys", ()), *parts.get("__recursive_saveloads", ())]
    if parts.get("__scipys") or not all(isinstance(name, str) and name.isidentifier() for name in names):
        raise ValueError("it names files beside it that no vectors need: do not trust it")
    for name in parts.get("__numpys", ()):
        setattr(made, name, np.load(f"{path}.{name}.npy", allow_pickle=False))
    for name in parts.get("__recursive_saveloads", ()):
        _with_arrays(getattr(made, name), f"{path}.{name}")
    return made


def _parts_of(keyed: dict[str, Any]) -> tuple[list[Any], Any, Any]:
    """Words, vectors and counts, or None, of the attributes of gensim's KeyedVectors."""
    if "index_to_key" in keyed:
        return list(keyed["index_to_key"]), keyed["vectors"], keyed.get("expandos", {}).get("count")
    words, table = list(keyed["index2word"]), keyed["vocab"]  # of gensim before version 4
    known = np.array([vars(table[word]).get("count", 0) for word in words]) if table else None
    return words, keyed["vectors"] if "vectors" in keyed else keyed["syn0"], known


def _gensim(path: Path) -> tuple[list[str], np.ndarray[Any, Any], Tensor | None]:
    from gensim.models.fasttext import FastTextKeyedVectors, load_facebook_vectors

    try:
        if _is_fasttext(path):
            loaded = load_facebook_vectors(str(path))
        else:
            with path.open("rb") as file:
                loaded = _with_arrays(_Trusted(file, encoding="latin1").load(), str(path))
        keyed = vars(loaded).get("wv", loaded)
        if isinstance(keyed, FastTextKeyedVectors) and vars(keyed).get("vectors") is None:
            keyed.recalc_char_ngram_buckets()
            keyed.adjust_vectors()
        words, vectors, known = _parts_of(vars(keyed))
        if vectors.dtype.kind != "f" or vectors.ndim != 2 or len(vectors) < len(words):
            raise ValueError(f"{vectors.dtype} vectors {list(vectors.shape)} for {len(words)} words")
        if known is not None and (np.shape(known) != (len(words),) or np.min(known) < 1):
            raise ValueError(f"counts that are none, for {len(words)} words")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path}: expected the files that gensim saved beside it, got no {Path(error.filename).name}; put them "
            "there, or save all in one file: save(path, sep_limit=1 << 62)"
        ) from error
    except Exception as error:  # pickle, gensim and numpy raise whatever they like for a broken file
        raise ValueError(
            f"{path}: expected vectors that gensim saved, with the files beside it, got another or a broken file "
            f"({type(error).__name__}: {plain(error)}); save it again"
        ) from error
    for word in words:
        if not isinstance(word, str):
            raise ValueError(f"{path}: expected words, got keys such as {word!r}; make them text: str(key)")
    counts = torch.from_numpy(np.asarray(known, np.int64).copy()) if known is not None else None
    return words, np.array(vectors[: len(words)], np.float32), counts
