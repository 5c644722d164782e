"""Tables of vectors that have names elsewhere: safetensors, .npy, and folders of static sentence embeddings.

Such a folder (model2vec's, or sentence-transformers' StaticEmbedding) has a table, a row for each token; a tokenizer;
and perhaps a weight for each token and the row of each token. All but the table is kept as it is.
"""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as packed
from torch import Tensor

TOKENIZER, MODEL = "tokenizer.json", "model.safetensors"
CONFIGS = ("config.json", "config_sentence_transformers.json")
TABLES = ("embeddings", "embedding.weight")  # model2vec's name, sentence-transformers'
BESIDE = ("weights", "mapping")  # of each token: model2vec's names
KEPT = (".json", ".md", ".txt")  # files of a folder that are kept
SAFE = re.compile(r"\w[\w.-]*(/\w[\w.-]*){0,3}")  # their names
MOST = 64 * 2**20  # bytes of them
FLOATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}


class Kept(NamedTuple):
    """What stands beside a table and is kept as it is."""

    files: dict[str, bytes]  # by their names below the folder; a tokenizer.json among them
    beside: dict[str, np.ndarray[Any, Any]]  # weights or mapping, by name
    name: str  # of the table's tensor
    dtype: str  # of the table, as torch names it
    at: str  # the folder's file that holds the table; "" where it was a file alone

    @property
    def tokenizer(self) -> bytes:
        """The tokenizer.json."""
        return self.files[next(name for name in self.files if name.rpartition("/")[2] == TOKENIZER)]

    def header(self) -> dict[str, Any]:
        """What a file's header says of it."""
        return {
            "files": [[name, len(data)] for name, data in self.files.items()],
            "beside": [[name, x.dtype.str, list(x.shape)] for name, x in self.beside.items()],
            "table": [self.name, self.dtype, self.at],
        }

    def pack(self) -> bytes:
        """Files and arrays one after the other, as one .xz stream."""
        parts = [*self.files.values(), *(x.tobytes() for x in self.beside.values())]
        return lzma.compress(b"".join(parts), preset=9)


def unpack(payload: bytes, header: dict[str, Any]) -> Kept:
    """What `Kept.pack` wrote. Raises ValueError, or lzma's error, for other bytes."""
    try:
        files = {_safe(name): int(size) for name, size in header["files"]}
        beside = {str(name): (np.dtype(kind), [int(n) for n in shape]) for name, kind, shape in header["beside"]}
        name, dtype, at = map(str, header["table"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"a header without files, arrays and table ({error})") from error
    known = all(name in BESIDE and kind.kind in "fiu" and len(shape) == 1 for name, (kind, shape) in beside.items())
    sizes = [*files.values(), *(kind.itemsize * int(np.prod(shape)) for kind, shape in beside.values())]
    if not known or min(sizes, default=0) < 0 or sum(sizes) > MOST or dtype not in FLOATS or (at and not _safe(at)):
        raise ValueError(f"files and arrays of {sizes[:9]} bytes and a table of {dtype}")
    data = lzma.LZMADecompressor(memlimit=1 << 28).decompress(payload, sum(sizes) + 1)
    if len(data) != sum(sizes):
        raise ValueError(f"{len(data)} bytes of {sum(sizes)}")
    parts, first = [], 0
    for size in sizes:
        parts.append(data[first : first + size])
        first += size
    arrays = {
        name: np.frombuffer(part, kind).reshape(shape).copy()
        for (name, (kind, shape)), part in zip(beside.items(), parts[len(files) :], strict=True)
    }
    kept = Kept(dict(zip(files, parts, strict=False)), arrays, name, dtype, at)
    if not any(name.rpartition("/")[2] == TOKENIZER for name in files):
        raise ValueError(f"no {TOKENIZER}")
    return kept


def _safe(name: str) -> str:
    if not SAFE.fullmatch(name):
        raise ValueError(f"a file name {name[:80]!r}")
    return name


def tokens(data: bytes, rows: int, where: str) -> list[str]:
    """The token of each row of a tokenizer.json, `[unused 17]` where it has none. Raises ValueError for another file.

    Tokens of the same text but the first are called as the unused ones.
    """
    try:
        parsed = json.loads(data)
        vocabulary = parsed["model"]["vocab"]
        listed = [] if isinstance(vocabulary, dict) else [(token, row) for row, (token, *_) in enumerate(vocabulary)]
        pairs = listed or list(vocabulary.items())
        pairs += [(token["content"], token["id"]) for token in parsed.get("added_tokens") or []]
        found = {int(number): str(token) for token, number in pairs}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{where}: expected a tokenizer.json with a vocabulary, got another file ({type(error).__name__}); give "
            "the one of these vectors"
        ) from error
    if not found or min(found) < 0 or max(found) >= rows:
        raise ValueError(
            f"{where}: expected tokens of {rows} rows, got numbers from {min(found, default=0)} to "
            f"{max(found, default=0)}; give the tokenizer.json of this table"
        )
    names, seen = [], set[str]()
    for row in range(rows):
        name = found.get(row, "")
        name = f"[unused {row}]" if not name or name in seen else name
        seen.add(name)
        names.append(name)
    return names


def names_of(path: Path, rows: int) -> tuple[list[str], Kept | None]:
    """Names of a table's rows from a text file, a name a line; a JSON list, or object of numbers by name; a tokenizer.

    What is kept, but the table's name and type, for a tokenizer. Raises ValueError for other files or numbers of names.
    """
    try:
        data = path.read_bytes()
        if path.suffix.lower() != ".json":
            names = data.decode("utf-8-sig").split("\n")
            names = [name.removesuffix("\r") for name in (names[:-1] if not names[-1] else names)]
        else:
            parsed = json.loads(data)
            if isinstance(parsed, dict) and isinstance(parsed.get("model"), dict):
                return tokens(data, rows, str(path)), Kept({TOKENIZER: data}, {}, TABLES[0], "float32", "")
            if isinstance(parsed, dict):
                if sorted(parsed.values()) != list(range(len(parsed))):
                    raise ValueError("numbers that are not 0, 1, 2 ...")
                parsed = sorted(parsed, key=parsed.__getitem__)
            names = parsed
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError("neither a list of names nor their numbers")
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path}: expected names, one a line, or a JSON list of them, or a tokenizer.json, got another file "
            f"({error}); give another one"
        ) from error
    if len(names) != rows:
        raise ValueError(f"{path}: expected a name for each of {rows} rows, got {len(names)}; give those of this table")
    return names, None


def table(path: Path, tensor: str | None) -> tuple[Tensor, str, str, list[str] | None]:
    """The table of a .safetensors or .npy file: float32 [rows, d]; its name, its type; names that the file has itself.

    tensor: its name where there are several. Raises ValueError for another file.
    """
    if path.suffix.lower() == ".npy":
        try:
            array = np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(f"{path}: expected a NumPy array, got another or a damaged file ({error})") from error
        if array.ndim != 2 or array.dtype.kind != "f" or not array.size:
            raise ValueError(
                f"{path}: expected a table of floating-point numbers [rows, d], got {array.dtype} {list(array.shape)}"
            )
        dtype = f"float{8 * min(array.itemsize, 8)}"  # of any order of bytes; a long double becomes the nearest double
        return torch.from_numpy(array.astype(dtype)).float(), TABLES[0], dtype, None
    try:
        with safe_open(path, "pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118, no dictionary
            found = [name for name, shape in shapes.items() if len(shape) == 2 and name not in BESIDE]
            chosen = [name for name in found if tensor in (None, name)]
            if len(chosen) > 1:
                chosen = [name for name in chosen if name in TABLES] or chosen
            if len(chosen) != 1:
                raise ValueError(
                    f"{path}: expected one table [rows, d]{f' called {tensor}' * (tensor is not None)}, got "
                    f"{', '.join(found[:8]) or 'none'}; say which by tensor=NAME"
                )
            values, names = file.get_tensor(chosen[0]), (file.metadata() or {}).get("names")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: expected a safetensors file, got another or a damaged one ({error})") from error
    dtype = str(values.dtype).removeprefix("torch.")
    if dtype not in FLOATS or not values.numel():
        raise ValueError(f"{path}: expected a table of floating-point numbers, got {dtype} {list(values.shape)}")
    own = json.loads(names) if names else None
    return values.float(), chosen[0], dtype, own


def folder(path: Path) -> tuple[list[str], Tensor, Kept]:
    """A folder of static embeddings: names of the rows, table float32 [rows, d], and what is kept.

    Rows are called as their tokens, or by numbers where a mapping gives each token a row. Raises ValueError for another
    folder.
    """
    inner = next((f"{part}/" for part in ("0_StaticEmbedding",) if (path / part / MODEL).is_file()), "")
    missing = [name for name in (inner + MODEL, inner + TOKENIZER) if not (path / name).is_file()]
    if missing or not any((path / name).is_file() for name in CONFIGS):
        raise ValueError(
            f"{path}: expected a folder of model2vec or of sentence-transformers' StaticEmbedding, with {MODEL}, "
            f"{TOKENIZER} and {' or '.join(CONFIGS)}, got one without {', '.join(missing) or 'the last'}; give "
            "the folder that save_pretrained wrote, or a file of vectors"
        )
    vectors, name, dtype, _ = table(path / inner / MODEL, None)
    beside = {}
    with safe_open(path / inner / MODEL, "np") as file:
        for other in file.keys():  # noqa: SIM118
            if other != name and other not in BESIDE:
                raise ValueError(f"{path}: expected {name}, {' and '.join(BESIDE)} in {MODEL}, got {other} too")
            if other in BESIDE:
                beside[other] = file.get_tensor(other)
    files = {}
    for file_path in sorted(path.rglob("*")):
        below = file_path.relative_to(path).as_posix()
        if file_path.is_file() and file_path.suffix.lower() in KEPT and SAFE.fullmatch(below):
            files[below] = file_path.read_bytes()
    if sum(map(len, files.values())) > MOST:
        raise ValueError(f"{path}: expected at most {MOST} bytes of files beside the table, got more; move them away")
    rows = len(vectors)
    kept = Kept(files, beside, name, dtype, inner + MODEL)
    return names_of_rows(kept, rows, f"{path}/{inner}{TOKENIZER}"), vectors, kept


def names_of_rows(kept: Kept, rows: int, where: str = TOKENIZER) -> list[str]:
    """What rows are called: as their tokens, or by numbers where a mapping gives each token a row."""
    mapping = kept.beside.get("mapping")
    if mapping is None:
        return tokens(kept.tokenizer, rows, where)
    if not mapping.size or mapping.min() < 0 or mapping.max() >= rows:
        raise ValueError(f"{where}: expected a mapping of tokens to {rows} rows, got another; take the whole folder")
    return [str(row) for row in range(rows)]


def row_weights(kept: Kept | None, rows: int) -> Tensor:
    """How much the vectors of rows count in means, beside how often they occur: float64 [rows]."""
    weights = torch.ones(rows, dtype=torch.float64)
    if kept is not None and "weights" in kept.beside and "mapping" not in kept.beside:
        found = torch.from_numpy(kept.beside["weights"].astype(np.float64)).flatten().abs()
        weights[: len(found)] = found[:rows].clamp(min=float(found.max()) * 1e-3 or 1.0)
    return weights


def save(path: Path, vectors: Tensor, names: Sequence[str], kept: Kept | None) -> None:
    """Write vectors as the table of a .safetensors or .npy file, in the type that it had; names as metadata."""
    values = vectors.to(FLOATS[kept.dtype]) if kept is not None else vectors
    if path.suffix.lower() == ".npy":
        with path.open("wb") as file:
            np.save(file, vectors.numpy() if values.dtype == torch.bfloat16 else values.numpy())
        return
    name = kept.name if kept is not None else TABLES[0]
    beside = {key: torch.from_numpy(x) for key, x in kept.beside.items()} if kept is not None else {}
    about = {"names": json.dumps(list(names))} if kept is None else None
    path.write_bytes(packed({name: values.contiguous(), **beside}, about))  # save_file's are for their owner alone


def save_folder(path: Path, vectors: Tensor, kept: Kept) -> None:
    """Write the folder that was read, into a new folder."""
    if not kept.at:
        raise ValueError("expected a file that was made from a folder, got one of a table; give output= .safetensors")
    for name, data in kept.files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    save(path / kept.at, vectors, (), kept)


def model(vectors: Tensor, kept: Kept, library: str) -> Any:
    """A model2vec StaticModel, or a sentence-transformers StaticEmbedding. Raises ValueError for another library."""
    if library not in ("model2vec", "sentence_transformers"):
        raise ValueError(f"expected library to be model2vec or sentence_transformers, got {library!r}")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(kept.tokenizer.decode())
    if library == "sentence_transformers":
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding

        if kept.beside:
            raise ValueError(f"expected a table of tokens alone, got {' and '.join(kept.beside)} too; take model2vec")
        return StaticEmbedding(tokenizer, embedding_weights=vectors)
    from model2vec import StaticModel

    config = json.loads(kept.files.get("config.json", b"{}"))
    return StaticModel(
        vectors.numpy(), tokenizer, config, normalize=bool(config.get("normalize", False)),
        weights=kept.beside.get("weights"), token_mapping=kept.beside.get("mapping"),
        max_length=config.get("max_length", 512),
    )  # fmt: skip
