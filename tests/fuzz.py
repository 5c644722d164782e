"""Mutated files for every reader, and a judge: the right rows or a clear error, in bounded time and memory.

tests/test_fuzz.py takes a few hundred of them, scripts/fuzz_files.py 100,000.
"""

import contextlib
import copy
import errno
import functools
import itertools
import json
import os
import random
import resource
import shutil
import signal
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from gensim.models import KeyedVectors
from PIL import Image
from torch import Tensor

from recipes.vae import VAE
from tests.archives import restore_pictures, restore_rows
from tests.tiny import configure, images, picture_run, run_folder
from toolkit import embeddings, runs
from toolkit.chunks.model import ChunkCoder, Settings
from toolkit.coding import wire
from toolkit.container import (
    END,
    INDEX_ENTRY,
    INDEX_START,
    MAGIC,
    PREAMBLE,
    TRAILER,
    VERSION,
    Chunk,
    ContainerError,
    Reader,
    _chunk_header,
    _sealed,
)
from toolkit.embeddings import file as vector_file
from toolkit.embeddings.exporting import check
from toolkit.embeddings.file import BOOK
from toolkit.embeddings.sources import read as read_vectors
from toolkit.embeddings.sources import save as save_vectors
from toolkit.images import picture_archive, rate_archive, rate_coder, rate_target, row_archive
from toolkit.images.files import read_image, write_image
from toolkit.images.picture_archive import PictureContents
from toolkit.images.restore import Report, restore
from toolkit.images.source import source as source_of
from toolkit.run import CONFIG, WEIGHTS
from toolkit.runs import build, identity, load, save

SECONDS = 20.0  # of processor time, the most that a reader may take: a hang takes longer
MEMORY = 1 << 30  # most bytes more than the process had when it began
MOST_REMEMBERED = 1 << 12  # values, of arguments of decoders

Rows = dict[str, np.ndarray]  # by name, what a reader gave


class Subject(NamedTuple):
    """A file, what it decodes to, and a reader of such files."""

    name: str
    data: bytes
    read: Callable[
        [Path, Path, str], tuple[Rows, bool]
    ]  # file, output, mode -> rows, whether it says that some are lost
    rows: Rows
    modes: tuple[str, ...]


class Case(NamedTuple):
    """One mutated file."""

    what: str
    data: bytes
    forged: bool  # its header says something else under right checksums, so other rows than the original's may be right


# Subjects


def subjects(folder: Path) -> list[Subject]:
    """A small file of each kind, made in `folder` with models that are not trained."""
    pictures = folder / "pictures"
    (pictures / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in {"a.png": (4, 4), "b.png": (5, 4), "deep/c.png": (4, 3)}.items():
        more: dict[str, Any] = {"icc_profile": b"profile", "dpi": (300, 300)} if name == "a.png" else {}
        Image.fromarray((rng.integers(0, 30, size) + 100).astype(np.uint8)).save(pictures / name, **more)
    np.save(folder / "x.npy", images(3, (1, 4, 4))[:, 0].numpy().astype("<i2"))
    small: dict[str, Any] = {"likelihood": "logistic", "latent_channels": [2], "downscale": [2], "blocks": [1]}
    runs = {"bitswap": run_folder(folder / "bitswap", (1, 4, 4), **small)}
    for name, overrides in {"ikvae": [], "vae_lossless": ["recipe.module.likelihood=mixture"]}.items():
        torch.manual_seed(0)
        cfg, runs[name] = configure(name, *overrides), folder / name
        runs[name].mkdir()
        save(runs[name], cfg, build(cfg, runs[name])[0].module)
    found = [words_of(folder)]
    for name, run in runs.items():
        model: Any = load(run, "cpu")
        make_coder, about = remembering(functools.partial(model.head.coder, model)), identity(model)
        built(run)
        for source, rows in ((pictures, 2), (folder / "x.npy", 2)):
            file = folder / f"{name}.{source.stem}.tkc"
            row_archive.compress(source_of(source), file, make_coder, about, rows, progress=False)
            read = functools.partial(unpacked, make_coder=make_coder, about=about, suffix=source.suffix)
            modes = ("error", "skip") if source.suffix else ("error", "skip", "only")
            data = file.read_bytes()
            found.append(Subject(file.stem, data, read, read(file, folder / "out", "error")[0], modes))
            remove(folder / "out")
            remove(folder / "out.npy")
        found.append(
            Subject(f"{name} weights", (run / WEIGHTS).read_bytes(), functools.partial(loaded, run=run), {}, ("",))
        )
    wide = folder / "wide"
    (wide / "deep").mkdir(parents=True)
    for name, shape in {"a.png": (9, 20), "deep/c.png": (5, 12, 3)}.items():
        Image.fromarray((rng.integers(0, 60, shape) + 100).astype(np.uint8)).save(wide / name)
    return [
        *found, lossy_of(folder, pictures, "vae"), lossy_of(folder, wide, "vae tiles", 1), whole_of(folder, pictures),
        *sources_of(folder),
    ]  # fmt: skip


def lossy_of(folder: Path, pictures: Path, name: str, tile: int = rate_coder.TILE) -> Subject:
    """Pictures at a chosen rate; tile: blocks a side of a tile, so that small pictures have several."""
    torch.manual_seed(0)
    module = VAE((3, 16, 16), 4, 1, 1, 3, 2.0, [0.7, 500], 1e-3, 1, 0.0).eval()
    module.fit_tables(images(4, (3, 16, 16)), steps=2)
    source, coder = source_of(pictures), rate_coder.PictureCoder(module)
    remember(coder, ["read", "restore"])
    file, target = folder / f"{name}.tkc", rate_target.Target("lambda", 4.0)
    # As many tiles in the largest picture that a header can declare as there are in those of the usual tiles.
    most = rate_archive.MOST_PIXELS // rate_coder.TILE**2 * tile**2

    @contextlib.contextmanager
    def tiled() -> Iterator[None]:
        with mock.patch.object(rate_coder, "TILE", tile), mock.patch.object(rate_archive, "MOST_PIXELS", most):
            yield

    def read(file: Path, output: Path, mode: str) -> tuple[Rows, bool]:
        only, on_damage = "deep/c.png" if mode == "only" else None, "skip" if mode == "skip" else "error"
        with tiled():
            report = restore_pictures(file, output, coder, only, on_damage)
        return pictures_in(output, report)

    with tiled():
        rate_archive.compress(coder, source, file, target, {"recipe": "vae", "model": ""}, progress=False)
    rows = read(file, folder / "out", "error")[0]
    remove(folder / "out")
    return Subject(name, file.read_bytes(), read, rows, ("error", "skip", "only"))


def whole_of(folder: Path, pictures: Path) -> Subject:
    """Whole pictures, also with transparency and of 16 bits: of many values, and of few."""
    module, file = load(picture_run(folder / "whole"), "cpu").module, folder / "whole.tkc"
    rng, mixed = np.random.default_rng(1), folder / "mixed"
    shutil.copytree(pictures, mixed)
    write_image(mixed / "opacity.png", rng.integers(0, 256, (4, 4, 3), np.uint8))
    write_image(mixed / "planes.png", rng.integers(0, 1 << 16, (3, 9, 11), np.uint16))
    write_image(mixed / "values.png", rng.integers(0, 9, (2, 4, 3), np.uint16) * 7001)

    def read(file: Path, output: Path, mode: str) -> tuple[Rows, bool]:
        only, on_damage = "deep/c.png" if mode == "only" else None, "skip" if mode == "skip" else "error"
        with Reader(file, salvage=mode == "skip") as reader:
            report = restore(reader, PictureContents(reader, module), output, only, on_damage, progress=False)
        return pictures_in(output, report)

    picture_archive.compress(module, source_of(mixed, every=True), file, 1, {"recipe": "photographs"}, progress=False)
    rows = read(file, folder / "out", "error")[0]
    remove(folder / "out")
    return Subject("whole", file.read_bytes(), read, rows, ("error", "skip", "only"))


def remembering(make_coder: Any) -> row_archive.MakeCoder:
    """The same coders, which decode the same bytes once; see `remember`."""
    known: dict[Any, Any] = {}

    def make(rows: int, settings: Settings | None, shape: tuple[int, ...] | None) -> ChunkCoder:
        coder = make_coder(rows, settings, shape)
        remember(coder, ["decode"], known, coder.settings)
        return coder

    return make


def plain(x: Any) -> Any:
    """An argument as it can be a part of a key: equal where all its bytes are."""
    if isinstance(x, Tensor):
        return x.shape, x.dtype, x.numpy().tobytes()
    if isinstance(x, slice):
        return x.start, x.stop
    return tuple(x) if isinstance(x, list) else x


def remember(coder: Any, names: Sequence[str], known: dict[Any, Any] | None = None, about: Any = None) -> None:
    """Let some methods of a coder look up what they returned for the same arguments, if these are small.

    Decoding has no state, and most cases leave most chunks as they were, which then take no time.
    """
    known = {} if known is None else known

    def looked_up(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, progress: Any = None) -> Any:
            arguments = tuple(x for x in arguments if not callable(x))
            if any(isinstance(x, Tensor) and x.numel() > MOST_REMEMBERED for x in arguments):
                return method(*arguments)
            key = (name, about, *map(plain, arguments))
            if key not in known:
                known[key] = method(*arguments)
            return copy.deepcopy(known[key])

        return call

    for name in names:
        setattr(coder, name, looked_up(name, getattr(coder, name)))


def unpacked(
    file: Path, output: Path, mode: str, make_coder: Any, about: dict[str, Any], suffix: str
) -> tuple[Rows, bool]:
    """Restore a file of pictures or of an array."""
    output = output.with_suffix(suffix)
    only, on_damage = "deep/c.png" if mode == "only" else None, "skip" if mode == "skip" else "error"
    report = restore_rows(file, output, make_coder, about, only, on_damage)
    if suffix:
        values = np.load(output)
        lost = {int(line.split(" ")[0]) for line in report.lost + report.partly}
        return {str(i): value for i, value in enumerate(values) if i not in lost}, bool(report.damage)
    return pictures_in(output, report)


def pictures_in(output: Path, report: Report) -> tuple[Rows, bool]:
    paths = [path for path in output.rglob("*") if path.is_file() and not path.name.endswith(".damaged.png")]
    assert len(paths) == report.restored
    return {path.relative_to(output).as_posix(): read_image(path, every=True) for path in paths}, bool(report.damage)


def words_of(folder: Path) -> Subject:
    rng = torch.Generator().manual_seed(0)
    vectors = torch.randn(16, 4, generator=rng)
    words = [f"w{'ä' * (i % 3)}{i}" for i in range(16)]
    quantised = embeddings.quantise(vectors, torch.full((16, 4), 0.1), 0.5, rounds=2)
    with mock.patch.object(vector_file, "LANE_VALUES", 20):  # stacks are as quickly read as they are long
        embeddings.write(folder / "words.tkc", words, quantised)

    def read(file: Path, output: Path, mode: str) -> tuple[Rows, bool]:
        with embeddings.open(file) as opened:
            if mode == "all":
                return dict(zip(opened.words, opened.vectors().numpy(), strict=True)), False
            return {word: opened[word] for word in opened.words[::4]}, False

    rows = read(folder / "words.tkc", folder, "all")[0]
    return Subject("words", (folder / "words.tkc").read_bytes(), read, rows, ("all", "single"))


def sources_of(folder: Path) -> Iterator[Subject]:
    """Vectors in the formats of other programs, which have no checksums: what is read of them may be anything."""
    keyed = KeyedVectors(4)
    keyed.add_vectors([f"w{i}" for i in range(12)], np.random.default_rng(0).random((12, 4), np.float32))
    for suffix in (".txt", ".bin", ".kv"):
        save_vectors(keyed, folder / f"source{suffix}")
        data = (folder / f"source{suffix}").read_bytes()
        read = functools.partial(source_read, suffix=suffix)
        yield Subject(f"{suffix[1:]} source", data, read, read(folder / f"source{suffix}", folder, "")[0], ("",))


def source_read(file: Path, output: Path, mode: str, suffix: str) -> tuple[Rows, bool]:
    named = file.parent / "run" / f"source{suffix}"
    named.parent.mkdir(exist_ok=True)
    shutil.copy(file, named)
    found = read_vectors(named)
    check(found.words, found.vectors)
    return dict(zip(found.words, found.vectors.numpy(), strict=True)), False


def loaded(file: Path, output: Path, mode: str, run: Path) -> tuple[Rows, bool]:
    """Load a run with other weights. Wrong ones are no error here: their fingerprint fits no file."""
    folder = file.parent / "run"
    folder.mkdir(exist_ok=True)
    shutil.copy(run / CONFIG, folder)
    shutil.copy(file, folder / WEIGHTS)
    with mock.patch.multiple(runs, read_config=lambda _: built(run)[0], _module_and_head=lambda _: built(run)[1]):
        load(folder, "cpu")
    return {}, False


@functools.cache
def built(run: Path) -> tuple[Any, Any]:
    """The configuration of a run and its module and head, which take longer to make than weights to load."""
    cfg = runs.read_config(run / CONFIG)
    return cfg, runs._module_and_head(cfg)


# Mutations. Each takes a subject and a random generator.

NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    255,
    256,
    2**15,
    2**16,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**53,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
NAMES = (
    "../x.png", "../../../../../../tmp/x.png", "/x.png", "a/../../x.png", "..", ".", "", "a//b", "a/", "C:x.png",
    "C:\\x.png", "..\\x.png", "\\\\host\\share\\x.png", "a\0.png", "NUL", "com1.png", "a/" * 500 + "b", "x" * 300,
    "\ud800.png", "\udcff.png", "~/x.png", "$HOME/x.png", "a.png", "A.PNG", "deep", "deep/c.png/d.png", "result",
    "about.txt", "\x1b[2J.png", "a\n.png", "-rf", "{box}/escaped.png", "e\u0301.png", "\u202egnp.exe",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    *NUMBERS, *(-n for n in NUMBERS[1:]), *NAMES, None, True, False, 0.5, 1e308, -0.0, 10**400, [], {}, [[]], [0] * 50,
    {"_target_": "os.system"}, "<i8", "V1000000", "O", "nchw", "RGB", "L", "pt", ["a.png", "L", 8, 8], "9" * 5000,
)  # fmt: skip


def cut(subject: Subject, at: int) -> Case:
    return Case(f"cut at {at}", subject.data[:at], False)


def flip(subject: Subject, bit: int) -> Case:
    data = bytearray(subject.data)
    data[bit // 8] ^= 1 << bit % 8
    return Case(f"bit {bit} flipped", bytes(data), False)


def spliced(subject: Subject, rng: random.Random) -> Case:
    return Case("spliced", noisy(subject.data, rng), False)


def swapped(subject: Subject, rng: random.Random) -> Case:
    """Whole chunks in another order, twice, or left out; files one after the other."""
    with opened(subject) as reader:
        edges = [reader.header_size, *(chunk.offset + chunk.size for chunk in reader.chunks)]
    parts = [subject.data[a:b] for a, b in itertools.pairwise(edges)]
    rng.shuffle(parts)
    parts = rng.choice((parts, parts[1:], parts + parts[:1]))
    data = subject.data[: edges[0]] + b"".join(parts) + subject.data[edges[-1] :]
    return Case("chunks moved", rng.choice((data, data, subject.data + data, data[:40] + subject.data)), False)


def forged_header(subject: Subject, rng: random.Random) -> Case:
    """Another header under right checksums."""
    header, chunks = taken_apart(subject)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        change(header, rng)
    text = json.dumps(header).encode()
    if rng.random() < 0.1:
        text = noisy(text, rng)
    version = rng.choice((*[VERSION] * 8, VERSION - 1, VERSION + 1))
    return Case("another header", put_together(text, chunks, version), True)


def forged_names(subject: Subject, rng: random.Random) -> Case:
    """Hostile names under right checksums."""
    header, chunks = taken_apart(subject)
    for item in header.get("items", []):
        if rng.random() < 0.5:
            item[0] = rng.choice(NAMES)
    if "array" in header:
        header["array"]["name"] = rng.choice(NAMES)
    return Case("other names", put_together(json.dumps(header).encode(), chunks), True)


def forged_payload(subject: Subject, rng: random.Random) -> Case:
    """Other payloads under right checksums; those of the rows stay."""
    header, chunks = taken_apart(subject)
    i = rng.randrange(len(chunks))
    payload, rows, rows_crc = chunks[i]
    kind = rng.randrange(5)
    if kind == 0:
        payload = noisy(payload, rng)
    elif kind == 1:  # sizes that the first bytes declare
        at = rng.randrange(min(16, len(payload)))
        size = rng.choice((1, 2, 4, 8))
        payload = payload[:at] + (rng.choice(NUMBERS) % 2 ** (8 * size)).to_bytes(size, "little") + payload[at + size :]
    elif kind == 2:
        payload = rng.choice(chunks)[0]
    elif kind == 3:
        payload = bomb(payload, rng)
    else:
        bits = rng.randrange(8 * len(payload))
        payload = flip(subject._replace(data=payload), bits).data
    chunks[i] = (payload, rows, rows_crc)
    return Case("another payload", put_together(json.dumps(header).encode(), chunks), False)


def forged_sizes(subject: Subject, rng: random.Random) -> Case:
    """Other numbers of rows, another checksum of them, or another order of chunks, under right checksums."""
    header, chunks = taken_apart(subject)
    i = rng.randrange(len(chunks))
    payload, rows, rows_crc = chunks[i]
    kind = rng.randrange(4)
    if kind == 0:
        chunks[i] = (payload, rng.choice(NUMBERS) % 2**64, rows_crc)
    elif kind == 1:
        chunks[i] = (payload, rows, rows_crc ^ 1 << rng.randrange(32))
    elif kind == 2:
        rng.shuffle(chunks)
    else:
        chunks = [chunk for chunk in chunks for _ in range(rng.choice((0, 1, 2)))]
    # Chunks in another order, or twice, are another file where they are as large and as many.
    return Case("other sizes", put_together(json.dumps(header).encode(), chunks), kind >= 2)


def forged_bomb(subject: Subject, rng: random.Random) -> Case:
    """Consistent sizes that are far too large for the file."""
    header, chunks = taken_apart(subject)
    huge = rng.choice((10**5, 10**6, 10**8, 10**10, 2**31 - 1, 2**62))
    rows = huge
    if "array" in header:
        header["array"]["shape"][0] = huge
    elif "items" in header:
        header["items"] = [["a.png", "L", 8 * huge, 8]]
    else:
        stacks = [huge] * len(header["lane_rows"])
        header.update(rng.choice(({"words": huge}, {"dimensions": huge}, {"lane_rows": huge}, {"lane_rows": stacks})))
        rows = header["words"]
    if rng.random() < 0.7:
        header["chunk_rows"] = huge
    keep = 2 if "words" in header else 1
    chunks = [*chunks[: keep - 1], (chunks[keep - 1][0], rows, chunks[keep - 1][2])]
    return Case("a bomb", put_together(json.dumps(header).encode(), chunks), True)


SEALED = (forged_header, forged_header, forged_names, forged_payload, forged_payload, forged_sizes, forged_bomb)
RAW = (spliced, swapped)


def change(value: Any, rng: random.Random) -> None:
    """Change one place of a JSON value."""
    while True:
        places = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not places:
            return
        place = rng.choice(places)
        if isinstance(value[place], dict | list) and value[place] and rng.random() < 0.75:
            value = value[place]
            continue
        kind = rng.random()
        if kind < 0.15:
            del value[place]
        elif kind < 0.25 and isinstance(value, list):
            value.insert(rng.randrange(len(value) + 1), copy.deepcopy(value[place]))
        elif kind < 0.35 and isinstance(value, dict):
            value[rng.choice(NAMES)] = copy.deepcopy(value[place])
        elif kind < 0.5 and type(value[place]) is int:
            value[place] += rng.choice((-1, 1, 2**32))
        else:
            value[place] = copy.deepcopy(rng.choice(VALUES))  # which later changes may change in turn
        return


def noisy(data: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, moved, inserted or taken away."""
    for _ in range(rng.choice((1, 1, 2, 8))):
        a, b, at = (rng.randrange(len(data) + 1) for _ in range(3))
        a, b = min(a, b), max(a, b)
        data = rng.choice((
            data[:a] + data[b:], data[:at] + data[a:b] + data[at:], data[:a] + bytes(b - a) + data[b:],
            data[:a] + rng.randbytes(min(b - a, 16)) + data[a + 16 :], data[:at] + b"\xff" * 8 + data[at + 8 :],
            data[:at] + rng.randbytes(rng.randrange(40)),
        ))[: 1 << 16]  # fmt: skip
    return data


@functools.cache
def many_zeros() -> bytes:
    return zlib.compress(bytes(1 << 24), 9)


def bomb(payload: bytes, rng: random.Random) -> bytes:
    """Compressed zeros in the place of each zlib or bzip2 stream of a payload, or a message of huge sizes."""
    zeros = many_zeros()
    rows = rng.choice(NUMBERS) % 2**32
    return rng.choice((
        payload[: rng.choice((0, 1, 3, BOOK.size))] + b"".join(wire._number(rng.choice(NUMBERS)) for _ in range(3)),
        payload[: rng.choice((0, 1, 3))] + wire._number(rows) + bytes(2) + payload,
        BOOK.pack(rows % 2**16, rng.choice((1, 16, 256, 65535)), len(zeros)) + zeros + payload[BOOK.size :],
        payload[: BOOK.size] + zeros, struct.pack("<II", rows, len(zeros)) + zeros + zeros,
    ))  # fmt: skip


@contextlib.contextmanager
def opened(subject: Subject) -> Iterator[Reader]:
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"subject.{os.getpid()}.tkc"
    path.write_bytes(subject.data)
    try:
        with Reader(path) as reader:
            yield reader
    finally:
        path.unlink()


def taken_apart(subject: Subject) -> tuple[dict[str, Any], list[tuple[bytes, int, int]]]:
    with opened(subject) as reader:
        return reader.header, [(reader.read(i), c.rows, c.rows_crc) for i, c in enumerate(reader.chunks)]


def put_together(header: bytes, chunks: list[tuple[bytes, int, int]], version: int = VERSION) -> bytes:
    """A file with right checksums, whatever is in it."""
    stored = zlib.compress(header)
    data = _sealed(PREAMBLE.pack(MAGIC, version, len(stored), zlib.crc32(stored))) + stored
    entries = []
    for i, (payload, rows, rows_crc) in enumerate(chunks):
        entry = (len(payload), rows, zlib.crc32(payload), rows_crc)
        entries.append(INDEX_ENTRY.pack(*entry))
        data += _chunk_header(i, Chunk(0, *entry)) + payload
    index = _sealed(INDEX_START.pack(b"INDX", len(entries)) + b"".join(entries))
    return data + index + _sealed(TRAILER.pack(len(data), len(data) + len(index) + TRAILER.size + 4 + len(END))) + END


def cases(
    all_subjects: list[Subject], count: int, seed: int, which: range | None = None
) -> Iterator[tuple[int, Subject, Case, str]]:
    """Of `count` cases those with the numbers `which`, default all: number, subject, case, mode.

    Every cut and every flipped bit as far as they fit into half of the cases, and random ones, mixed.
    """
    systematic = [
        (subject, make, at)
        for subject in all_subjects
        if not subject.name.endswith("weights")
        for make, places in ((cut, len(subject.data)), (flip, 8 * len(subject.data)))
        for at in range(places)
    ]
    if len(systematic) > count // 2:
        systematic = random.Random(seed).sample(systematic, count // 2)
    order = list(range(count))
    random.Random(seed).shuffle(order)
    for i in (order[place] for place in which or range(count)):
        rng = random.Random(f"{seed} {i}")
        if i < len(systematic):
            subject, make, at = systematic[i]
            case = make(subject, at)
        else:
            subject = rng.choice(all_subjects)
            if subject.name.endswith("weights") and rng.random() < 0.8:  # they take time to load
                subject = all_subjects[0]
            ours = not subject.name.endswith(("weights", "source"))
            mutate = rng.choice(RAW if rng.random() < 0.2 else SEALED) if ours else spliced
            case = mutate(subject, rng)
        yield i, subject, case, rng.choice(subject.modes)


# The judge


class Hang(BaseException):
    """A reader took too long."""


def judge(subject: Subject, case: Case, mode: str, box: Path) -> tuple[str, str]:
    """Read one mutated file in the empty folder `box`: the verdict, and why.

    Verdicts: right (the original's rows, or a part of them and a word of what is lost), forged (a header that says
    something else, followed), refused; and what must not be: silent, outside, left, unclear, other, hang.
    """
    file, output = box / "in.tkc", box / "out/put"
    output.parent.mkdir()
    data = case.data.replace(b"{box}", str(box).encode())
    file.write_bytes(data)
    before = set(tree(box))
    verdict, why = "refused", ""
    rows: Rows = {}
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        rows, lost = subject.read(file, output, mode)
        verdict = "right"
    except Hang:
        verdict, why = "hang", f"longer than {SECONDS} s"
    except ValueError as error:
        if not isinstance(error, ContainerError) and "expected" not in str(error):
            verdict, why = "unclear", f"{type(error).__name__}: {error}"
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG and "expected" not in str(error):
            verdict, why = "other", f"{type(error).__name__}: {error}"
    except BaseException as error:
        verdict, why = "other", f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    after = set(tree(box)) - before
    outside = [path for path in after if not path.startswith(("out/put", "run"))]
    if outside or os.path.exists(box.parent / "x.png") or os.path.exists("/x.png"):
        verdict, why = "outside", str(outside)
    elif verdict == "refused" and any(path.startswith("out/put") for path in after):
        verdict, why = "left", str(sorted(after)[:5])
    elif verdict == "right" and not subject.name.endswith("weights"):
        expected = {name: value for name, value in subject.rows.items() if name in rows}
        whole = lost or mode in ("only", "single") or len(rows) == len(subject.rows)
        same = rows.keys() == expected.keys() and all(np.array_equal(rows[name], expected[name]) for name in rows)
        if not (whole and same):
            # One word of a file is read without the checksum of all, which is there for damage, not for forgers.
            forged = case.forged or (mode == "single" and case.what == "another payload")
            # A file of others has no checksum, but says how many vectors it has: one that is cut is found out.
            forged = forged or (subject.name.endswith("source") and not case.what.startswith("cut"))
            verdict, why = ("forged", "") if forged else ("silent", f"{list(rows)[:5]} of {list(subject.rows)[:5]}")
    for path in box.iterdir():
        remove(path)
    return verdict, why


GOOD = ("right", "forged", "refused")


def tree(folder: Path) -> list[str]:
    return [
        os.path.relpath(os.path.join(top, name), folder)
        for top, dirs, names in os.walk(folder)
        for name in names + dirs
    ]


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Within the block a hang is an exception, and so is memory beyond MEMORY."""

    def hang(*_: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, hang)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGPROF, before)
