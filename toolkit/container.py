"""The .tkc file: a JSON header and checksummed chunks of coded rows, written as a stream, read at random.

docs/format.md is the specification. All integers are little-endian; sizes and offsets are in bytes.
"""

import hashlib
import json
import mmap
import os
import re
import secrets
import shutil
import socket
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from toolkit import places

# A byte above 127 and both kinds of line end: a copy in text mode or through a 7-bit channel changes them, as in PNG.
MAGIC = b"\x89TKC\r\n\x1a\n"
END = b"TKCEND\r\n"
VERSION = 4  # a new one for any new bytes, those of a chunk too: an old reader must say new, not damaged
HEADER_LIMIT = 64 * 2**20  # bytes of JSON
HEADER_FREE, HEADER_RATIO = 2**20, 64  # JSON up to the first is always read, beyond it so many bytes a stored byte

# Each block below is followed by the CRC-32 of its own bytes, 4 bytes: see _sealed.
PREAMBLE = struct.Struct("<8sIII")  # magic, version, size of the stored header, its CRC-32; the same in every version
CHUNK_HEADER = struct.Struct("<4sIQQII")  # b"CHNK", number of the chunk, then as INDEX_ENTRY
INDEX_START = struct.Struct("<4sI")  # b"INDX", number of chunks, then INDEX_ENTRY for each
INDEX_ENTRY = struct.Struct("<QQII")  # payload size, rows, CRC-32 of the payload, CRC-32 of the decoded rows
TRAILER = struct.Struct("<QQ")  # offset of the index, size of the whole file; after its CRC-32 comes END
CRC_SIZE = 4
START_SIZE, CHUNK_HEADER_SIZE = PREAMBLE.size + CRC_SIZE, CHUNK_HEADER.size + CRC_SIZE
TRAILER_SIZE = TRAILER.size + CRC_SIZE + len(END)
AGAIN = "copy the file again from where it came, or compress again"


class ContainerError(ValueError):
    """A file that cannot be trusted as a .tkc file."""


class NotOurFile(ContainerError):
    """The file does not start as a .tkc file does."""


class UnknownVersion(ContainerError):
    """The file is a sound .tkc file of a version that this code does not know."""


class TruncatedFile(ContainerError):
    """The end of the file is missing."""


class DamagedFile(ContainerError):
    """A checksum, or a value that the checksums vouch for, is wrong."""


def plain(error: Exception) -> str:
    """What a library says in an error, on one line; without advice to load files that may run programs."""
    text = " ".join(str(error).split())
    if "allow_pickle" in text:
        return "it is no array of numbers"
    return "it holds more than tensors" if "weights_only" in text else text[:300]


class Chunk(NamedTuple):
    """One entry of the index: where a payload lies and what it decodes to."""

    offset: int  # of the first byte of the payload
    size: int  # bytes of payload
    rows: int  # coded rows
    crc: int  # CRC-32 of the payload
    rows_crc: int  # CRC-32 of the decoded rows, for whoever decodes them


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the same folder; it becomes `path` at the end, or is deleted on any exception.

    The temporary name keeps the suffix, for libraries that choose a file format by it. A link is followed. What is to
    become a URL lies in a folder for temporary files (TMPDIR), and is copied at the end.
    Raises FileNotFoundError if the folder is missing, ValueError if `path` is there and is not a regular file.
    """
    path = places.local(path)
    if places.is_url(path):
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / places.name_of(str(path))
            yield made
            places.put(made, str(path))
        return
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{path}: expected an existing folder, got {target.parent}; make the folder first")
    if target.exists() and not target.is_file():  # os.replace would happily put a file in the place of /dev/null
        raise ValueError(f"{path}: expected a file or a new name, got a folder or device; give a file name")
    temporary = temporary_of(target)
    try:
        yield temporary
        with open(temporary, "r+b") as file:  # without it, a crash can leave the new name with no bytes behind it
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _here() -> str:
    """Where process numbers are those that we know: this machine since its start, and this container."""
    found = socket.gethostname()
    with suppress(OSError):
        found += Path("/proc/sys/kernel/random/boot_id").read_text() + str(os.stat("/proc/self/ns/pid").st_ino)
    return f"{zlib.crc32(found.encode()):08x}"


_HOST = _here()
_PARTIAL = re.compile(rf"\..*\.{_HOST}-(\d{{1,9}})-[0-9a-f]{{8}}\.partial(\..*)?", re.DOTALL)


def temporary_of(target: Path) -> Path:
    """A name beside a file or folder for what will become it; what dead processes left under such names is deleted."""
    clean(target.parent)
    # Not tempfile.mkstemp: its files are readable by their owner only, and stay so after the renaming.
    return target.with_name(f".{target.stem[:40]}.{_HOST}-{os.getpid()}-{secrets.token_hex(4)}.partial{target.suffix}")


def clean(folder: Path) -> None:
    """Delete what processes of this machine that are gone have left half-written in a folder."""
    with suppress(OSError):
        for path in folder.iterdir():
            match = _PARTIAL.fullmatch(path.name)
            if match and not _is_alive(int(match[1])):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    if os.name == "nt":  # where asking ends it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def check_new(
    path: str | os.PathLike[str], overwrite: bool = False, suffixes: Sequence[str] = (), inputs: Sequence[str] = ()
) -> None:
    """Raise ValueError or OSError for an output that cannot or must not be written: now, not after minutes of work.

    overwrite: a file that is there may go; suffixes: that the name may have; inputs: files that the output must not be.
    """
    path = places.local(path)
    target = Path(places.named(path))
    if suffixes and target.suffix.lower() not in suffixes:
        raise ValueError(f"expected output= to end in {' or '.join(suffixes)}, got {target}; give another name")
    if places.is_url(path):
        places.check_new(str(path), overwrite)
        return
    real = Path(os.path.realpath(target))
    if target.is_symlink() and not target.exists():
        raise ValueError(
            f"{path}: expected a file or a new name, got a link to {real}, which is not there; remove the link, or "
            "give another name"
        )
    if not real.parent.is_dir():
        raise FileNotFoundError(
            f"{path}: expected output= in an existing folder, got {target.parent}; make the folder first"
        )
    if target.is_symlink() and suffixes and real.suffix.lower() not in suffixes:
        raise ValueError(f"expected output= to be no link to another kind of file, got {path}, a link to {real}")
    for other in inputs:
        if os.path.exists(other) and os.path.exists(target) and os.path.samefile(other, target):
            raise ValueError(f"expected output= to be another file than input=, got {path} for both; give another name")
    if os.path.lexists(target) and not target.is_file():
        raise ValueError(f"{path}: expected a file or a new name, got a folder or device; give a file name")
    if target.exists() and not overwrite:
        raise FileExistsError(
            f"{path}: expected a new file, got one that exists; give another name, or overwrite=true to replace it"
        )


class Writer:
    """Write a .tkc file chunk by chunk: a context manager, and `path` appears only when its block ends cleanly.

    check: called with the path of the whole file before it becomes `path`; if it raises an error, nothing is left.
    Raises ValueError if the header is not a dict of plain JSON values that reads back equal, or is too large.
    """

    def __init__(
        self, path: str | os.PathLike[str], header: dict[str, Any], check: Callable[[Path], None] | None = None
    ) -> None:
        self.path = places.named(path)  # for people
        self._target, self._check, self._temporary = path, check, Path()
        self.size = 0  # bytes so far; after closing, bytes of the file
        self._start = _encode_header(header)
        self._chunks: list[Chunk] = []
        self._file: BinaryIO | None = None
        self._stack = ExitStack()

    def __enter__(self) -> "Writer":
        if self.size:
            raise ValueError(f"{self.path}: expected a new Writer, got one that was used; make one for each file")
        with ExitStack() as stack:
            self._temporary = stack.enter_context(atomic_path(self._target))
            self._file = stack.enter_context(open(self._temporary, "xb"))
            self._file.write(self._start)
            self._stack = stack.pop_all()
        self.size = len(self._start)
        return self

    def write(self, payload: bytes, rows: int, rows_crc: int) -> None:
        """Append one chunk: its payload, the number of rows in it, and the CRC-32 of the rows that decoding must give.

        Raises ValueError outside of a `with` block, or if an argument has the wrong type or range.
        """
        if self._file is None:
            raise ValueError(f"{self.path}: expected an open Writer, got a closed one; write inside its `with` block")
        if not isinstance(payload, bytes):  # len() of other buffers may count items, not bytes
            raise ValueError(f"{self.path}: expected bytes, got {type(payload).__name__}; convert the payload to bytes")
        for name, value, bits in (("rows", rows, 64), ("rows_crc", rows_crc, 32)):
            if not 0 <= value < 2**bits:
                raise ValueError(f"{self.path}: expected {name} in [0, 2**{bits}), got {value}; give a count, a CRC-32")
        offset = self.size + CHUNK_HEADER_SIZE
        chunk = Chunk(offset, len(payload), rows, zlib.crc32(payload), rows_crc)
        self._file.writelines((_chunk_header(len(self._chunks), chunk), payload))
        self._chunks.append(chunk)
        self.size = offset + len(payload)

    def __exit__(self, *error: Any) -> None:
        file, self._file = self._file, None
        with self._stack as stack:  # an error in here deletes the temporary file as well
            if file is None or error[0] is not None:
                stack.pop_all().__exit__(*error)
                return
            if file.tell() != self.size:  # write() was interrupted and the caller went on
                raise ValueError(f"{self.path}: expected {self.size} bytes, got {file.tell()}; write the file again")
            entries = b"".join(INDEX_ENTRY.pack(*chunk[1:]) for chunk in self._chunks)
            index = _sealed(INDEX_START.pack(b"INDX", len(self._chunks)) + entries)
            total = self.size + len(index) + TRAILER_SIZE
            file.write(index + _sealed(TRAILER.pack(self.size, total)) + END)
            self.size = total
            if self._check:
                file.flush()
                self._check(self._temporary)


class Reader:
    """Open a .tkc file, check everything but the chunks, and read chunks in any order: a context manager.

    path: local, or a URL, of which header, trailer, index and each chunk that is asked for are one request each.
    salvage: take a file whose index or end is damaged or missing too: `damage` says what is wrong, and the chunks are
    those that are found by their own headers. Raises NotOurFile, UnknownVersion, TruncatedFile or DamagedFile, and
    OSError if the file cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str], salvage: bool = False) -> None:
        self.path = places.named(path)  # for people
        self.damage: ContainerError | None = None  # of the index or the end
        self.first_bytes: dict[int, bytes] = {}  # of payloads that were read
        self._closed = False
        with ExitStack() as stack:
            self._file: BinaryIO = stack.enter_context(places.opened(path))
            self.size = self._file.seek(0, os.SEEK_END)  # bytes of the file
            self.header = self._open_header(0 if salvage else TRAILER_SIZE)
            try:
                self._check_size(self.header_size + TRAILER_SIZE)
                self.chunks = self._open_index(self._open_trailer())
                self.found = dict(enumerate(self.chunks))  # by number; `chunks` is empty where there is no index
            except ContainerError as error:
                if not salvage:
                    raise
                self.damage, self.chunks, self.found = error, [], self._find_chunks()
            self.overhead = self.size - sum(chunk.size for chunk in self.found.values())  # bytes that are not payload
            self._stack = stack.pop_all()

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *error: object) -> None:
        self._closed = True
        self._stack.close()

    def read(self, i: int) -> bytes:
        """Return the payload of chunk i, which lies in [0, len(chunks)); no other chunk is read.

        Raises DamagedFile, which names the chunk, if its header or its checksum is wrong, or if it was to be salvaged
        and is not there; ValueError for a closed file; and IndexError.
        """
        if self._closed:
            raise ValueError(f"{self.path}: expected an open file, got a closed one; open it again")
        if self.damage and i not in self.found:
            raise self._damaged(f"chunk {i}", "with a sound header", "none in the file")
        if i not in self.found:
            raise IndexError(f"{self.path}: expected a chunk in [0, {len(self.chunks)}), got {i}")
        chunk = self.found[i]
        expected = _chunk_header(i, chunk)
        block = self._bytes(chunk.offset - len(expected), len(expected) + chunk.size)
        header, payload = block[: len(expected)], block[len(expected) :]
        if header != expected:
            raise self._damaged(f"the header of chunk {i}", f"as in the index, {expected.hex()}", header.hex())
        self.first_bytes[i] = payload[:1]
        self._check_crc(f"chunk {i}", payload, chunk.crc)
        return payload

    def _open_header(self, after: int) -> dict[str, Any]:  # after: bytes that must follow
        start = self._bytes(0, min(self.size, START_SIZE))
        if not (start.startswith(MAGIC) or MAGIC.startswith(start)):
            raise self._error(NotOurFile, f"{MAGIC!r} at the start", start[:8], "give a .tkc file of this toolkit")
        self._check_size(START_SIZE)
        self._check_sealed("the preamble", start)
        _, self.version, stored_size, crc = PREAMBLE.unpack_from(start)
        if self.version != VERSION:
            old = "a file written before toolkit 0.2: decode it with 0.1"
            remedy = old if self.version < VERSION else "use a newer one"
            raise self._error(UnknownVersion, f"format version {VERSION}", self.version, remedy)
        self.header_size = START_SIZE + int(stored_size)  # bytes before the first chunk
        self._check_size(self.header_size + after)
        stored = self._bytes(START_SIZE, stored_size)
        self._check_crc("the header", stored, crc)
        try:
            return _decode_header(stored)
        except (ValueError, zlib.error) as error:
            raise self._damaged("the header", "as one JSON object in one zlib stream", error) from error

    def _find_chunks(self) -> dict[int, Chunk]:
        """Chunks by number, found by the headers that stand before them; of two with one number the first."""
        found: dict[int, Chunk] = {}
        with self._mapped() as data, memoryview(data) as view:
            at = self.header_size
            while (at := data.find(b"CHNK", at)) >= 0:
                offset = at + CHUNK_HEADER_SIZE
                block = data[at:offset]
                at += 1
                if len(block) < CHUNK_HEADER_SIZE or _sealed(block[:-CRC_SIZE]) != block:
                    continue
                _, number, *entry = CHUNK_HEADER.unpack_from(block)
                chunk = Chunk(offset, *entry)
                if (end := offset + chunk.size) <= self.size:
                    found.setdefault(number, chunk)
                    if zlib.crc32(view[offset:end]) == chunk.crc:  # else the next one may begin before this one's end
                        at = end
        return dict(sorted(found.items()))

    @contextmanager
    def _mapped(self) -> Iterator[mmap.mmap]:
        """All bytes of the file; those of a URL are copied here first."""
        with ExitStack() as stack:
            file: Any = self._file
            if not hasattr(file, "fileno"):
                file = stack.enter_context(tempfile.TemporaryFile())
                self._file.seek(0)
                while part := self._file.read(1 << 23):
                    file.write(part)
                file.flush()
            yield stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def _open_trailer(self) -> int:  # offset of the index
        trailer = self._bytes(self.size - TRAILER_SIZE, TRAILER_SIZE)
        fields, end = trailer[: -len(END)], trailer[-len(END) :]
        if end != END and _sealed(fields[:-CRC_SIZE]) != fields:
            raise self._error(TruncatedFile, f"{END!r} at the end", f"{end!r}: cut short, or bytes were appended")
        self._check_sealed("the trailer", fields)
        if end != END:
            raise self._damaged("the trailer", f"{END!r} at the end", end)
        offset, total = TRAILER.unpack_from(fields)
        if total != self.size:
            raise self._error(TruncatedFile if total > self.size else DamagedFile, f"{total} bytes", self.size)
        last = self.size - TRAILER_SIZE - INDEX_START.size - CRC_SIZE
        if not self.header_size <= offset <= last:
            raise self._damaged("the trailer", f"an index at a byte in [{self.header_size}, {last}]", offset)
        return int(offset)

    def _open_index(self, offset: int) -> list[Chunk]:
        index = self._bytes(offset, self.size - TRAILER_SIZE - offset)
        self._check_sealed("the index", index)
        tag, count = INDEX_START.unpack_from(index)
        size = INDEX_START.size + count * INDEX_ENTRY.size + CRC_SIZE
        if tag != b"INDX" or len(index) != size:
            raise self._damaged("the index", f"b'INDX' and {size} bytes for {count} chunks", f"{tag!r}, {len(index)}")
        # The index holds no offsets, as chunks lie back to back: they cannot overlap, nor leave bytes unaccounted for.
        chunks, end = [], self.header_size
        for entry in INDEX_ENTRY.iter_unpack(index[INDEX_START.size : -CRC_SIZE]):
            chunks.append(Chunk(end + CHUNK_HEADER_SIZE, *entry))
            end = chunks[-1].offset + chunks[-1].size
        if end != offset:
            raise self._damaged("the index", f"chunks that end where it begins, at {offset}", end)
        return chunks

    def _bytes(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        found = self._file.read(size)  # callers have checked the size against that of the file
        if len(found) != size:
            raise self._error(TruncatedFile, f"{size} bytes at {offset}", f"{len(found)}: it changed while it was read")
        return found

    def _check_size(self, size: int) -> None:
        if self.size < size:
            raise self._error(TruncatedFile, f"{size} bytes or more", f"{self.size}: cut short")

    def _check_crc(self, part: str, data: bytes, crc: int) -> None:
        if zlib.crc32(data) != crc:
            raise self._damaged(part, f"CRC-32 {crc:08x}", f"{zlib.crc32(data):08x}")

    def _check_sealed(self, part: str, block: bytes) -> None:
        self._check_crc(part, block[:-CRC_SIZE], int.from_bytes(block[-CRC_SIZE:], "little"))

    def _damaged(self, part: str, expected: str, got: object) -> ContainerError:
        return self._error(DamagedFile, f"{part} intact, {expected}", got)

    def _error(self, kind: type[ContainerError], expected: str, got: object, remedy: str = AGAIN) -> ContainerError:
        return kind(f"{self.path}: expected {expected}, got {got}; {remedy}")


def digest(settings: dict[str, Any], arrays: Iterable[tuple[str, str, Sequence[int], bytes]]) -> str:
    """Identity of a model in headers: SHA-256, in hex, over its configuration and its arrays.

    arrays: by name, in this order: name, dtype as torch calls it, shape, values.
    """
    found = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, dtype, shape, values in arrays:
        found.update(f"{name} {dtype} {list(shape)}".encode())
        found.update(values)
    return found.hexdigest()


def inflate(stored: bytes, size: int) -> bytes:
    """Exactly `size` bytes of one zlib stream, in no more memory than that. Raises ValueError for any other stream."""
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(stored, size + 1)  # one byte more: 0 would mean no limit
    except zlib.error as error:
        raise ValueError(f"a damaged zlib stream ({error})") from error
    if len(data) != size or not stream.eof or stream.unused_data:
        raise ValueError(f"a zlib stream that does not hold {size} bytes")
    return data


def _sealed(fields: bytes) -> bytes:
    return fields + zlib.crc32(fields).to_bytes(CRC_SIZE, "little")


def _chunk_header(i: int, chunk: Chunk) -> bytes:
    return _sealed(CHUNK_HEADER.pack(b"CHNK", i, *chunk[1:]))


def _encode_header(header: dict[str, Any]) -> bytes:
    try:
        # ASCII only: a file name that is not UTF-8 has lone surrogates in Python, and only escapes can carry these.
        text = json.dumps(header, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")
        stored = zlib.compress(text, 9)
        if _decode_header(stored) != header:
            raise ValueError("tuples or keys that are not strings, which JSON changes")
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"header: expected a dict of plain JSON values, got {error}; convert or shorten it") from error
    return _sealed(PREAMBLE.pack(MAGIC, VERSION, len(stored), zlib.crc32(stored))) + stored


def _decode_header(stored: bytes) -> dict[str, Any]:
    # A zlib stream can unpack to a thousand times its size, and JSON to Python objects of ten times its own.
    limit = min(HEADER_LIMIT, HEADER_FREE + HEADER_RATIO * len(stored))
    stream = zlib.decompressobj()
    text = stream.decompress(stored, limit + 1)
    if len(text) > limit:
        raise ValueError(f"more than {limit} bytes of JSON")
    if not stream.eof or stream.unused_data:
        raise ValueError(f"a zlib stream that {'has bytes after its end' if stream.eof else 'does not end'}")
    try:
        header = json.loads(text.decode(), object_pairs_hook=_unique)
        json.dumps(header, allow_nan=False)  # NaN, and numbers beyond a double such as 1e999, which load as infinite
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    if not isinstance(header, dict):
        raise ValueError(f"JSON of type {type(header).__name__}")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"a key twice among {[key for key, _ in pairs][:20]}")
    return found
