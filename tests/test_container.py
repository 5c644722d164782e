"""The .tkc file: what is written reads back, and whatever else a file can be is refused with its own error."""

import io
import json
import os
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit import container, places
from toolkit.container import (
    CHUNK_HEADER_SIZE,
    END,
    MAGIC,
    VERSION,
    ContainerError,
    DamagedFile,
    NotOurFile,
    Reader,
    TruncatedFile,
    UnknownVersion,
    Writer,
    atomic_path,
)

HEADER = {"recipe": "bitswap", "values": 24, "settings": {"lanes": 4, "scale": 0.5}}
PAYLOADS = [b"first payload", b"", b"the third, a bit longer"]


def write(path: Path, payloads: list[bytes] = PAYLOADS, header: dict[str, Any] = HEADER) -> bytes:
    with Writer(path, header) as writer:
        for i, payload in enumerate(payloads):
            writer.write(payload, rows=i, rows_crc=zlib.crc32(b"rows of " + payload))
    return path.read_bytes()


def read_all(path: Path) -> list[bytes]:
    with Reader(path) as reader:
        return [reader.read(i) for i in range(len(reader.chunks))]


def sealed(fields: bytes) -> bytes:
    return fields + struct.pack("<I", zlib.crc32(fields))


def preamble(stored: bytes, version: int = VERSION) -> bytes:
    return sealed(MAGIC + struct.pack("<III", version, len(stored), zlib.crc32(stored)))


def ending(offset: int, index: bytes | None = None, size_error: int = 0) -> bytes:
    """Index and trailer for a file whose first `offset` bytes are written: no chunks unless `index` says otherwise."""
    index = sealed(b"INDX" + struct.pack("<I", 0)) if index is None else index
    return index + sealed(struct.pack("<QQ", offset, offset + len(index) + 28 + size_error)) + END


def with_header(stored: bytes) -> bytes:
    """A file with no chunks, sound but for what is in its stored header."""
    return preamble(stored) + stored + ending(24 + len(stored))


def refused(path: Path, data: bytes, kind: type[ContainerError], match: str) -> None:
    path.write_bytes(data)
    with pytest.raises(kind, match=match) as caught:
        read_all(path)
    assert type(caught.value) is kind
    assert str(path) in str(caught.value)


# ---------------------------------------------------------------------------------------------------- round trip


def test_a_file_reads_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a.tkc"
    data = write(path)
    with Reader(path) as reader:
        assert reader.version == VERSION == 4
        assert reader.header == HEADER
        assert [reader.read(i) for i in (2, 0, 1)] == [PAYLOADS[i] for i in (2, 0, 1)]
        for i, (chunk, payload) in enumerate(zip(reader.chunks, PAYLOADS, strict=True)):
            assert data[chunk.offset : chunk.offset + chunk.size] == payload
            assert chunk[2:] == (i, zlib.crc32(payload), zlib.crc32(b"rows of " + payload))
        assert reader.size == len(data)
        assert reader.overhead == len(data) - sum(map(len, PAYLOADS))
        assert reader.header_size == reader.chunks[0].offset - CHUNK_HEADER_SIZE


def test_the_bytes_of_a_file_are_those_of_the_specification(tmp_path: Path) -> None:
    stored = zlib.compress(b'{"a":1}', 9)
    entries = [struct.pack("<QQII", 3, 5, zlib.crc32(b"xyz"), 77), struct.pack("<QQII", 1, 6, zlib.crc32(b"!"), 78)]
    start = preamble(stored) + stored
    start += sealed(b"CHNK" + struct.pack("<I", 0) + entries[0]) + b"xyz"
    start += sealed(b"CHNK" + struct.pack("<I", 1) + entries[1]) + b"!"
    index = sealed(b"INDX" + struct.pack("<I", 2) + entries[0] + entries[1])
    with Writer(tmp_path / "a.tkc", {"a": 1}) as writer:
        writer.write(b"xyz", rows=5, rows_crc=77)
        writer.write(b"!", rows=6, rows_crc=78)
    assert (tmp_path / "a.tkc").read_bytes() == start + ending(len(start), index)


def test_a_file_without_chunks_costs_64_bytes_and_its_header_and_each_chunk_60(tmp_path: Path) -> None:
    stored = len(zlib.compress(b"{}", 9))
    assert len(write(tmp_path / "a.tkc", [], {})) == 64 + stored
    assert len(write(tmp_path / "b.tkc", [b"", b"abc"], {})) == 64 + stored + 2 * 60 + 3


def test_a_writer_knows_its_size_at_any_time(tmp_path: Path) -> None:
    path = tmp_path / "a.tkc"
    with Writer(path, HEADER) as writer:
        start = writer.size
        writer.write(b"abc", 1, 0)
        assert writer.size == start + CHUNK_HEADER_SIZE + 3
    assert writer.size == path.stat().st_size


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.binary(max_size=200), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)), max_size=8),
    st.dictionaries(
        st.text(st.characters()),  # lone surrogates too: they stand for bytes of file names that are not UTF-8
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
            max_leaves=8,
        ),
        max_size=4,
    ),
)
def test_any_chunks_and_any_json_header_come_back(chunks: list[tuple[bytes, int, int]], header: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tkc"
        with Writer(path, header) as writer:
            for chunk in chunks:
                writer.write(*chunk)
        with Reader(path) as reader:
            assert reader.header == header
            assert [(reader.read(i), c.rows, c.rows_crc) for i, c in enumerate(reader.chunks)] == chunks


def test_file_names_that_are_not_utf_8_come_back_from_a_header(tmp_path: Path) -> None:
    header = {"items": [os.fsdecode(b"caf\xe9.png"), "\u6f22.png"]}
    write(tmp_path / "a.tkc", [], header)
    with Reader(tmp_path / "a.tkc") as reader:
        assert reader.header == header


def test_reading_one_chunk_reads_just_this_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tkc"
    write(path, [bytes(2**20) for _ in range(8)])
    counts: list[int] = []

    class Counting(io.FileIO):
        def readinto(self, buffer: Any) -> int:
            counts.append(super().readinto(buffer))
            return counts[-1]

        def readall(self) -> bytes:
            raise AssertionError("reads to the end")

    monkeypatch.setattr(places, "open", lambda name, mode: io.BufferedReader(Counting(name, "r")), raising=False)
    with Reader(path) as reader:
        assert 0 < sum(counts) < 2**16
        counts.clear()
        assert reader.read(5) == bytes(2**20)
        assert 2**20 <= sum(counts) < 2**20 + 2**16


def test_damage_in_one_chunk_leaves_the_others_readable(tmp_path: Path) -> None:
    path = tmp_path / "a.tkc"
    data = bytearray(write(path))
    with Reader(path) as reader:
        first, _, third = reader.chunks
    data[first.offset] ^= 1
    data[third.offset - 1] ^= 1
    path.write_bytes(data)
    with Reader(path) as reader:
        with pytest.raises(DamagedFile, match="chunk 0 intact, CRC-32"):
            reader.read(0)
        assert reader.read(1) == PAYLOADS[1]
        with pytest.raises(DamagedFile, match="header of chunk 2 intact"):
            reader.read(2)


# ------------------------------------------------------------------------------------------------------- damage


def test_every_flip_of_a_single_bit_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "a.tkc"
    data = write(path)
    with Reader(path) as reader:
        chunks = reader.chunks
    assert 300 < len(data) < 600
    for position in range(len(data)):
        owner = [i for i, c in enumerate(chunks) if c.offset - CHUNK_HEADER_SIZE <= position < c.offset + c.size]
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(ContainerError) as caught:
                read_all(path)
            assert type(caught.value) is (NotOurFile if position < len(MAGIC) else DamagedFile)
            assert all(f"chunk {i} " in str(caught.value) for i in owner)


def test_a_file_cut_short_at_any_length_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "a.tkc"
    data = write(path)
    for size in range(len(data)):
        refused(path, data[:size], TruncatedFile, "cut short")


def test_bytes_missing_in_the_middle_are_detected(tmp_path: Path) -> None:
    data = write(tmp_path / "a.tkc")
    refused(
        tmp_path / "a.tkc", data[:150] + data[160:], TruncatedFile, f"expected {len(data)} bytes, got {len(data) - 10}"
    )


def test_bytes_added_in_the_middle_are_detected(tmp_path: Path) -> None:
    data = write(tmp_path / "a.tkc")
    refused(
        tmp_path / "a.tkc",
        data[:150] + b"x" + data[150:],
        DamagedFile,
        f"expected {len(data)} bytes, got {len(data) + 1}",
    )


def test_bytes_appended_are_detected(tmp_path: Path) -> None:
    data = write(tmp_path / "a.tkc")
    for extra in (b"\0", b"\n", b"\0" * 512, data):
        path = tmp_path / "a.tkc"
        path.write_bytes(data + extra)
        with pytest.raises(ContainerError, match=r"bytes were appended|expected 3.. bytes, got"):
            Reader(path)


def test_chunks_that_changed_places_are_detected(tmp_path: Path) -> None:
    path = tmp_path / "a.tkc"
    data = write(path, [b"one", b"two"])
    with Reader(path) as reader:
        start, size = reader.header_size, CHUNK_HEADER_SIZE + 3
    swapped = (
        data[:start] + data[start + size : start + 2 * size] + data[start : start + size] + data[start + 2 * size :]
    )
    refused(path, swapped, DamagedFile, "header of chunk 0 intact, as in the index")


def test_a_file_that_shrinks_while_it_is_read_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "a.tkc"
    write(path, [bytes(2**16)] * 2)
    with Reader(path) as reader:
        os.truncate(path, 2**16)
        with pytest.raises(TruncatedFile, match=r"expected 65572 bytes at .*it changed while it was read"):
            reader.read(0)


# ----------------------------------------------------------------------------------------------------- refusals


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    refused(
        tmp_path / "a.tkc",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        NotOurFile,
        r"at the start, got b'\\x89PNG.*; give a \.tkc",
    )
    refused(tmp_path / "a.tkc", b"{}", NotOurFile, r"got b'{}'")


@pytest.mark.parametrize(
    ("version", "remedy"), [(5, "use a newer one"), (3, "a file written before toolkit 0.2: decode it with 0.1")]
)
def test_another_version_is_refused(tmp_path: Path, version: int, remedy: str) -> None:
    data, message = preamble(b"", version) + b"anything", f"expected format version 4, got {version}; {remedy}"
    refused(tmp_path / "a.tkc", data, UnknownVersion, message)


def test_a_header_larger_than_the_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    data = sealed(MAGIC + struct.pack("<III", VERSION, 2**32 - 1, 0)) + bytes(100)
    refused(tmp_path / "a.tkc", data, TruncatedFile, f"expected {2**32 - 1 + 24 + 28} bytes or more, got 124")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"[1]", "JSON of type list"),
        (b"null", "JSON of type NoneType"),
        (b'{"a":NaN}', "not JSON compliant"),
        (b'{"a":-Infinity}', "not JSON compliant"),
        (b'{"a":1e999}', "not JSON compliant"),
        (b'{"a":1,"a":1}', r"a key twice among \['a', 'a'\]"),
        (b'{"x":[{"b":1,"a":2,"b":1}]}', "a key twice among"),
        (b'{"a":1', "Expecting ',' delimiter"),
        (b'{"a":1}{}', "Extra data"),
        (b"", "Expecting value"),
        (b'{"a":"\xff"}', "utf-8"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"a":' + b"9" * 10_000 + b"}", "Exceeds the limit"),
    ],
)
def test_a_header_that_is_not_strict_json_is_refused(tmp_path: Path, text: bytes, match: str) -> None:
    refused(
        tmp_path / "a.tkc", with_header(zlib.compress(text)), DamagedFile, f"the header intact, as one JSON .*{match}"
    )


@pytest.mark.parametrize(
    ("stored", "match"),
    [
        (b"{}", "incorrect header check"),
        (b"", "does not end"),
        (zlib.compress(b"{}")[:-1], "does not end"),
        (zlib.compress(b"{}") + b"x", "bytes after its end"),
        (zlib.compress(b"{}")[:-1] + b"x", "incorrect data check"),
    ],
)
def test_a_header_that_is_not_one_zlib_stream_is_refused(tmp_path: Path, stored: bytes, match: str) -> None:
    refused(tmp_path / "a.tkc", with_header(stored), DamagedFile, match)


def test_a_header_that_unpacks_to_more_than_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "HEADER_LIMIT", 1000)
    path = tmp_path / "a.tkc"
    path.write_bytes(with_header(zlib.compress(b"{" + b" " * 998 + b"}")))
    assert read_all(path) == []
    refused(path, with_header(zlib.compress(b"{" + b" " * 999 + b"}")), DamagedFile, "more than 1000 bytes of JSON")


@pytest.mark.parametrize(
    ("end", "kind", "match"),
    [
        (lambda at: ending(at, size_error=1), TruncatedFile, "expected .* bytes, got"),
        (lambda at: ending(at, size_error=-1), DamagedFile, "expected .* bytes, got"),
        (lambda at: ending(at)[:-1] + b"x", DamagedFile, "the trailer intact, .* at the end"),
        (lambda at: ending(at)[:-12] + b"1234" + END, DamagedFile, "the trailer intact, CRC-32 34333231"),
        (lambda at: sealed(struct.pack("<QQ", at, at + 28)) + END, DamagedFile, "an index at a byte in"),
        (
            lambda at: b"x" * 12 + sealed(struct.pack("<QQ", 2**64 - 1, at + 40)) + END,
            DamagedFile,
            "an index at a byte in",
        ),
        (
            lambda at: b"x" * 12 + sealed(struct.pack("<QQ", at - 1, at + 40)) + END,
            DamagedFile,
            "an index at a byte in",
        ),
        (lambda at: ending(at, b"INDX" + bytes(8)), DamagedFile, "the index intact, CRC-32 00000000"),
        (
            lambda at: ending(at, sealed(b"INDY" + bytes(4))),
            DamagedFile,
            "b'INDX' and 12 bytes for 0 chunks, got b'INDY'",
        ),
        (lambda at: ending(at, sealed(b"INDX" + bytes(5))), DamagedFile, "12 bytes for 0 chunks, got b'INDX', 13"),
        (lambda at: ending(at, sealed(b"INDX" + b"\xff" * 4)), DamagedFile, "for 4294967295 chunks"),
        (lambda at: ending(at, sealed(b"INDX\1\0\0\0" + bytes(24))), DamagedFile, "chunks that end where it begins"),
        (lambda at: ending(at, sealed(b"INDX\1\0\0\0" + b"\xff" * 24)), DamagedFile, "chunks that end where it begins"),
    ],
)
def test_an_end_that_does_not_fit_the_file_is_refused(
    tmp_path: Path, end: Callable[[int], bytes], kind: type[ContainerError], match: str
) -> None:
    stored = zlib.compress(b"{}")
    start = preamble(stored) + stored
    refused(tmp_path / "a.tkc", start + end(len(start)), kind, match)


def test_bytes_between_the_last_chunk_and_the_index_are_refused(tmp_path: Path) -> None:
    stored = zlib.compress(b"{}")
    start = preamble(stored) + stored + b"unaccounted"
    refused(tmp_path / "a.tkc", start + ending(len(start)), DamagedFile, "chunks that end where it begins")


def test_a_chunk_that_is_not_there_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.tkc")
    with Reader(tmp_path / "a.tkc") as reader:
        for i in (3, -1):
            with pytest.raises(IndexError, match=rf"expected a chunk in \[0, 3\), got {i}"):
                reader.read(i)


@pytest.mark.parametrize(
    ("header", "match"),
    [
        ({"a": float("nan")}, "not JSON compliant"),
        ({"a": (1, 2)}, "tuples or keys that are not strings"),
        ({1: "a"}, "tuples or keys that are not strings"),
        ({1: "a", "1": "b"}, "a key twice"),
        ({"a": b"bytes"}, "type bytes is not JSON serializable"),
        ([1], "JSON of type list"),
    ],
)
def test_a_header_that_would_not_read_back_equal_is_refused(tmp_path: Path, header: Any, match: str) -> None:
    with pytest.raises(ValueError, match=f"header: expected a dict of plain JSON values, got .*{match}"):
        Writer(tmp_path / "a.tkc", header)


def test_a_header_over_the_limit_is_refused_on_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "HEADER_LIMIT", 1000)
    with pytest.raises(ValueError, match="more than 1000 bytes of JSON; convert or shorten it"):
        Writer(tmp_path / "a.tkc", {"a": "b" * 1000})


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((bytearray(b"a"), 1, 0), "expected bytes, got bytearray"),
        ((b"a", -1, 0), r"expected rows in \[0, 2\*\*64\), got -1"),
        ((b"a", 2**64, 0), r"expected rows in \[0, 2\*\*64\)"),
        ((b"a", 1, 2**32), r"expected rows_crc in \[0, 2\*\*32\), got 4294967296"),
    ],
)
def test_a_chunk_with_wrong_arguments_is_refused_and_harms_nothing(tmp_path: Path, arguments: Any, match: str) -> None:
    with Writer(tmp_path / "a.tkc", HEADER) as writer:
        with pytest.raises(ValueError, match=match):
            writer.write(*arguments)
        writer.write(b"sound", 1, 0)
    assert read_all(tmp_path / "a.tkc") == [b"sound"]


def test_writing_outside_of_the_with_block_is_refused(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "a.tkc", HEADER)
    with pytest.raises(ValueError, match="expected an open Writer, got a closed one"):
        writer.write(b"a", 1, 0)
    with writer:
        pass
    with pytest.raises(ValueError, match="expected an open Writer, got a closed one"):
        writer.write(b"a", 1, 0)
    with pytest.raises(ValueError, match="expected a new Writer, got one that was used"), writer:
        pass


# ------------------------------------------------------------------------------------------- all or nothing on disk


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_nothing_behind(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), Writer(tmp_path / "a.tkc", HEADER) as writer:
        writer.write(b"a", 1, 0)
        assert len(list(tmp_path.iterdir())) == 1
        raise error
    assert list(tmp_path.iterdir()) == []


def test_an_exception_leaves_the_old_file_as_it_was(tmp_path: Path) -> None:
    data = write(tmp_path / "a.tkc")
    with pytest.raises(KeyboardInterrupt), Writer(tmp_path / "a.tkc", {}):
        raise KeyboardInterrupt
    assert (tmp_path / "a.tkc").read_bytes() == data
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failing_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk on fire")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="on fire"):
                write(tmp_path / "a.tkc")
        assert list(tmp_path.iterdir()) == []


def test_a_chunk_that_was_interrupted_half_way_makes_no_file(tmp_path: Path) -> None:
    refusal = pytest.raises(ValueError, match=r"expected \d+ bytes, got \d+; write the file again")
    with refusal, Writer(tmp_path / "a.tkc", HEADER) as writer:
        assert writer._file is not None
        writer._file.write(b"half a chunk header")  # what an interrupt in write(), caught by the caller, leaves
    assert list(tmp_path.iterdir()) == []


def test_the_file_appears_only_at_the_end(tmp_path: Path) -> None:
    with Writer(tmp_path / "a.tkc", HEADER) as writer:
        writer.write(b"a", 1, 0)
        assert not (tmp_path / "a.tkc").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a.tkc"]


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected an existing folder, got .*missing; make the folder first"):
        write(tmp_path / "missing" / "a.tkc")


def test_a_folder_or_a_device_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # stands for /dev/null, which a broken atomic_path would take from the whole machine
    for target in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ValueError, match="expected a file or a new name, got a folder or device"):
            write(target)
    assert (tmp_path / "pipe").is_fifo()


def test_a_link_is_followed_and_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.tkc").symlink_to(tmp_path / "folder" / "a.tkc")
    data = write(tmp_path / "link.tkc")
    assert (tmp_path / "link.tkc").is_symlink()
    assert (tmp_path / "folder" / "a.tkc").read_bytes() == data


def test_a_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    write(tmp_path / "a.tkc")
    (tmp_path / "usual").write_bytes(b"")
    assert (tmp_path / "a.tkc").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_atomic_path_keeps_folder_and_suffix_and_cleans_up(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.png") as path:
        assert path.parent == tmp_path and path.suffix == ".png" and path.name.startswith(".a.")
        path.write_text("new")
    assert (tmp_path / "a.png").read_text() == "new"
    with pytest.raises(KeyError), atomic_path(tmp_path / "a.png") as path:
        path.write_text("newer")
        raise KeyError
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.png", "new")]


def test_the_header_is_json_that_any_language_reads(tmp_path: Path) -> None:
    data = write(tmp_path / "a.tkc")
    size = struct.unpack_from("<I", data, 12)[0]
    assert json.loads(zlib.decompress(data[24 : 24 + size])) == HEADER
