"""toolkit.inspect shows a file and judges it, without a model and without a traceback; and the argument parser."""

import json
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from toolkit import cli
from toolkit.chunks.inventory import shown
from toolkit.container import Reader, Writer
from toolkit.images import listing
from toolkit.inspect import main
from toolkit.photographs import codec, deep

ROOT = Path(__file__).parents[1]
KNOWN = {"input": "the file to read", "output": "the file to write", "lambda": "rate against distortion"}


def make(path: Path, header: dict[str, Any] | None = None, chunks: int = 3) -> Path:
    with Writer(path, {"recipe": "bitswap", **(header or {})}) as writer:
        for i in range(chunks):
            payload = bytes([i % 256]) * (100 + i)
            writer.write(payload, rows=10, rows_crc=zlib.crc32(payload))
    return path


def damage(path: Path, *chunks: int) -> None:
    with Reader(path) as reader:
        offsets = [reader.chunks[i].offset for i in chunks]
    data = bytearray(path.read_bytes())
    for offset in offsets:
        data[offset] ^= 1
    path.write_bytes(data)


def parse(*argv: str) -> dict[str, str]:
    return cli.arguments(argv, KNOWN, {"input", "output"}, "usage: a test")


# ------------------------------------------------------------------------------------------------------- inspect


def test_a_sound_file_is_shown_and_judged_intact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make(tmp_path / "a.tkc", {"values": 606, "items": list(range(1000))})
    assert main([f"input={path}"]) == 0
    out = capsys.readouterr().out
    assert out.endswith("\nall 3 chunks intact\n")
    assert "format version 4" in out and "3 chunks, 30 rows" in out
    assert "recipe: 'bitswap'" in out
    assert "items: [0, 1, 2, 3, 4, 5, ...]  (1000 in all)" in out
    assert f"{8 * path.stat().st_size / 606:.4f} bits per value" in out


def test_one_chunk_is_no_chunks() -> None:
    report = {
        "file": "a.tkc", "version": 4, "bytes": {"file": 9}, "rows": 1, "bits_per_value": None, "decodes": None,
        "zoo": None, "header": {}, "damage": None,
        "chunks": [{"number": 0, "offset": 0, "size": 1, "rows": 1, "crc": 0, "rows_crc": 0, "intact": True}],
    }  # fmt: skip
    assert "\n1 chunk, 1 row\n" in shown(report) and shown(report).endswith("\n1 chunk intact")
    assert shown(report, apart=True).endswith("\n1 picture intact")


@pytest.mark.parametrize(
    "header, words",
    [
        ({"kind": "images", "exact": True}, "decodes to the same rows on every machine"),
        ({"kind": "array", "exact": False}, "decodes only where its networks compute the same floats"),
        ({"kind": "lossy"}, "decodes to the same coefficients on every machine, and to pixels that may differ by one"),
        ({"kind": "embeddings"}, "decodes to the same bits on every machine"),
        ({"kind": ["lossy"], "exact": 1}, ""),
    ],
)
def test_it_says_where_a_file_decodes(
    header: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make(tmp_path / "a.tkc", header)
    assert main([f"input={path}"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("decodes ")]
    assert len(lines) == bool(words) and all(line.startswith(words) for line in lines)
    assert main([f"input={path}", "--json"]) == 0
    assert f"decodes {json.loads(capsys.readouterr().out)['decodes']}" == (lines[0] if lines else "decodes None")


def test_the_sizes_of_the_parts_add_up_to_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make(tmp_path / "a.tkc")
    assert main([f"input={path}", "json=true"]) == 0
    sizes = json.loads(capsys.readouterr().out)["bytes"]
    assert sizes.pop("file") == path.stat().st_size == sum(sizes.values())
    assert sizes["payloads"] == 100 + 101 + 102
    assert sizes["chunk headers"] == 3 * 36
    assert sizes["index and trailer"] == 12 + 3 * 24 + 28


def test_json_holds_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make(tmp_path / "a.tkc", {"items": list(range(1000))}, chunks=30)
    damage(path, 7)
    assert main(["--json", f"input={path}"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["header"] == {"recipe": "bitswap", "items": list(range(1000))}
    assert (report["version"], report["rows"], report["bits_per_value"]) == (4, 300, None)
    assert [chunk["intact"] for chunk in report["chunks"]] == [i != 7 for i in range(30)]
    assert "chunk 7 intact, CRC-32" in report["chunks"][7]["error"]


def test_a_file_without_its_end_is_shown_with_the_chunks_that_are_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make(tmp_path / "a.tkc", chunks=5)
    with Reader(path) as reader:
        end = reader.chunks[3].offset + 7
    path.write_bytes(path.read_bytes()[:end])
    assert main([f"input={path}"]) == 1
    out = capsys.readouterr().out
    assert "3 chunks found, 30 rows" in out and "cut short" in out and "on_damage=skip" in out
    assert out.endswith("\nall 3 chunks intact; more may be lost: the chunks were found without an index\n")
    assert main([f"input={path}", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert "cut short" in report["damage"] and [chunk["number"] for chunk in report["chunks"]] == [0, 1, 2]


def test_damaged_chunks_are_named_and_the_status_is_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make(tmp_path / "a.tkc", chunks=30)
    damage(path, 2, 25)
    assert main([f"input={path}"]) == 1
    out = capsys.readouterr().out
    assert out.endswith("\n2 of 30 chunks damaged: 2, 25\n")
    assert out.count("DAMAGED") == 1 and "and 10 more" in out  # the table ends before chunk 25, the verdict does not


ITEMS = [["a.png", "RGB", 20, 30], ["deep/b\x1b[2J.png", "L", 1500, 2], ["c.png", "L", 7, 8]]


@pytest.mark.parametrize(
    ("kind", "chunks", "expected"),
    [
        (
            "pictures", 3,
            [
                "100 1.3333 effort 1 30 x 20 RGB a.png [ICC profile, text]",
                "101 0.2693 effort 2 2 x 1500 L deep/b\\x1b[2J.png",
                "102 14.5714 few colours 8 x 7 L c.png",
                "303 0.6630 in all, 3,656 pixels",
            ],
        ),
        (
            "lossy", 4,
            [
                "100 1.3333 lambda 0.25 30 x 20 RGB a.png [ICC profile, text]",
                "203 0.5413 lambda 16 2 x 1500 L deep/b\\x1b[2J.png",  # of two tiles
                "103 14.7143 lambda 1024 8 x 7 L c.png",
                "406 0.8884 in all, 3,656 pixels",
            ],
        ),
        (
            "images", 2,
            [
                "30 x 20 RGB a.png [ICC profile, text]", "2 x 1500 L deep/b\\x1b[2J.png", "8 x 7 L c.png",
                "3,656 pixels in all",
            ],
        ),
    ],
)  # fmt: skip
def test_pictures_are_listed_with_what_is_known_of_each(
    kind: str, chunks: int, expected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, metadata = tmp_path / "a.tkc", [{"text": {"a": "b"}, "icc": "eA=="}, {}, {}]
    with Writer(path, {"kind": kind, "items": ITEMS, "metadata": metadata, "levels": [0, 384, 768]}) as writer:
        for i in range(chunks):
            payload = bytes([[17, 18, 3, 3][i]]) * (100 + i)  # how a whole picture was coded
            writer.write(payload, rows=1, rows_crc=zlib.crc32(payload))
    assert main([str(path)]) == 0
    out = capsys.readouterr().out
    assert [" ".join(line.split()) for line in out.splitlines()[3:7]] == expected
    assert "items:" not in out and "metadata:" not in out and "\x1b" not in out
    one = kind == "pictures"
    assert (" rows" not in out) == one and out.endswith(f"\nall {chunks} {'pictures' if one else 'chunks'} intact\n")
    damage(path, 1)
    assert main([str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()[3:6]
    assert [line.endswith("DAMAGED OR LOST") for line in lines] == [False, kind != "images", False]
    path.write_bytes(path.read_bytes()[: -100 - 36 - chunks])  # without the end of the last chunk
    assert main([str(path), "--json"]) == 1
    listed = json.loads(capsys.readouterr().out)["pictures"]
    assert [[about[key] for key in ("name", "mode", "height", "width")] for about in listed] == ITEMS
    assert [about["intact"] for about in listed] == ([None] * 3 if kind == "images" else [True, False, False])
    assert listed[0]["metadata"] == ["ICC profile", "text"]


def test_how_a_picture_was_coded_is_known_of_all_payloads() -> None:
    orders = range(codec._EXPERTS, codec._EXPERTS + 3 * len(codec.ORDERS))
    for number in orders:
        assert listing.CODED[number] == f"effort {(number - codec._EXPERTS) % 3}"
    for effort, number in enumerate(deep._KINDS):
        assert listing.CODED[number] == f"effort {effort}"
    assert listing.CODED[deep.VALUES] == "few values"
    assert {listing.CODED[kind] for kind in (deep.COLOURS, codec._COLOURS, codec._HALVES)} == {"few colours"}


@pytest.mark.parametrize(
    "items",
    [None, "many", [3], [[]], [["a", "L", 1]], [["a", "L", 0, 1]], [["a", "L", 1, True]], [["a", "\x1b", 1, 1]],
     [[1, "L", 1, 1]], [["a", "L" * 99, 1, 1]], [["a", "L", 1 << 40, 1]]],
)  # fmt: skip
def test_items_that_nobody_wrote_are_shown_as_they_are(
    items: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(make(tmp_path / "a.tkc", {"kind": "pictures", "items": items}))]) == 0
    out = capsys.readouterr().out
    assert "\n  items: " in out and "bits/pixel" not in out and out.endswith("\nall 3 chunks intact\n")


@pytest.mark.parametrize("more", [{"metadata": 3}, {"metadata": [3, [], "x"]}, {"levels": ["x", -1, 9999]}, {}])
@pytest.mark.parametrize("kind", ["pictures", "lossy"])
def test_a_header_with_other_things_beside_its_items_is_listed_without_them(
    kind: str, more: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large = [*ITEMS[:2], ["c", "L", (1 << 31) - 1, (1 << 31) - 1]]
    assert main([str(make(tmp_path / "a.tkc", {"kind": kind, "items": large, **more}))]) == 0
    assert "a.png\n" in capsys.readouterr().out


@pytest.mark.parametrize("values", [None, 0, -5, "many", True, 1.5, [3]])
def test_a_key_values_that_is_no_count_gives_no_bits_per_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], values: object
) -> None:
    assert main([f"input={make(tmp_path / 'a.tkc', {'values': values})}"]) == 0
    assert "bits per value" not in capsys.readouterr().out


def test_a_file_without_chunks_is_intact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"input={make(tmp_path / 'a.tkc', chunks=0)}"]) == 0
    assert capsys.readouterr().out.endswith("\nall 0 chunks intact\n")


def test_a_header_cannot_send_commands_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make(tmp_path / "a.tkc", {"\x1b[2J": ["\x1b]0;title\x07", os.fsdecode(b"\xff\x9b")]})
    assert main([f"input={path}"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and r"\x1b[2J: ['\x1b]0;title\x07', '\udcff\udc9b']" in out


def test_a_deeply_nested_header_is_shown_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = 0
    for depth in (10, 100, 300, 600, 800, 850, 900, 925, 950, 975, 990, 1100):
        nested: list[Any] = []
        for _ in range(depth):
            nested = [nested]
        try:
            path = make(tmp_path / "a.tkc", {"nested": nested})
        except ValueError:
            continue
        for json_too in ("false", "true"):
            shown += main([f"input={path}", f"json={json_too}"]) == 0
    assert shown >= 6
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"PK\x03\x04 a zip file", "error: .*at the start, got b'PK"),
        (b"\x89TKC", "error: .*cut short"),
        (None, "No such file"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error_without_a_traceback(
    tmp_path: Path, data: bytes | None, match: str
) -> None:
    path = tmp_path / "a.tkc"
    if data is not None:
        path.write_bytes(data)
    command = [sys.executable, "-m", "toolkit.inspect", f"input={path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.search(match, done.stderr) and done.stderr.count("\n") == 1


def test_inspect_loads_neither_torch_nor_hydra() -> None:
    code = "import sys, toolkit.inspect; print([name for name in ('torch', 'numpy', 'hydra') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_help_names_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--help", "-h"):
        with pytest.raises(SystemExit) as caught:
            main([flag])
        assert caught.value.code == 0
        out = capsys.readouterr().out
        assert "toolkit inspect FILE [--json]" in out
        assert "input  the .tkc file; - for standard input (required)" in out and "json   true: " in out


def test_json_must_be_true_or_false(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="expected json=true or json=false, got 'yes'"):
        main([f"input={tmp_path}", "json=yes"])


# ---------------------------------------------------------------------------------------------- key=value arguments


def test_arguments_come_back_as_given() -> None:
    assert parse("output=b", "input=runs/a=1.tkc") == {"output": "b", "input": "runs/a=1.tkc"}


def test_arguments_of_the_process_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["program", "input=a", "output=b"])
    assert cli.arguments(None, KNOWN, {"input"}, "usage") == {"input": "a", "output": "b"}


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        (["inptu=a"], "expected one of input, output, lambda, got 'inptu'; did you mean input="),
        (["zzz=a"], "expected one of input, output, lambda, got 'zzz'; see --help"),
        (["--outptu", "b"], "got 'outptu'; did you mean output="),
        (["input=a", "input=b"], "expected input= once, got 'a' and 'b'; leave one of them out"),
        (["input=a"], "expected output=, got input; give the file to write"),
        ([], "expected input=, got no arguments; give the file to read"),
        (["input="], "expected a value for input=, got nothing; give the file to read"),
        (["photos.tkc"], "expected key=value, got 'photos.tkc'; write input=photos.tkc"),
        (["input=a", "photos.tkc"], "expected key=value, got 'photos.tkc'; write output=photos.tkc"),
        (["--input=a"], "expected key=value, got '--input=a'; write input=a"),
        (["input", "a"], "expected key=value, got 'input'; write input=VALUE"),
    ],
)
def test_wrong_arguments_are_refused_with_what_to_do(argv: Sequence[str], match: str) -> None:
    with pytest.raises(SystemExit, match=match) as caught:
        parse(*argv)
    assert str(caught.value).startswith("error: ") and str(caught.value).endswith("usage: a test")


@pytest.mark.parametrize("name", ["-a.tkc", "a=b.tkc"])
def test_a_file_that_looks_like_an_option_is_explained(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / name)
    with pytest.raises(SystemExit, match=f"got '-?a.*; for the file of that name write input={name}\n"):
        main([name])
    assert main([f"input={name}"]) == 0


def test_a_command_reports_expected_errors_and_lets_bugs_through(capsys: pytest.CaptureFixture[str]) -> None:
    def raising(error: Exception) -> int:
        raise error

    assert cli.command(lambda: 3)() == 3
    assert cli.command(raising)(ValueError("expected 1, got 2")) == 1
    assert cli.command(raising)(FileNotFoundError(2, "No such file or directory", "a.tkc")) == 1
    assert cli.command(raising)(OSError(28, "No space left on device")) == 1
    assert cli.command(raising)(MemoryError("Unable to allocate 68.0 GiB")) == 1
    assert cli.command(raising)(MemoryError()) == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: expected 1, got 2",
        "error: a.tkc: No such file or directory",
        "error: No space left on device",
        "error: not enough memory (Unable to allocate 68.0 GiB); free some",
        "error: not enough memory; free some",
    ]
    with pytest.raises(KeyError):
        cli.command(raising)(KeyError("a bug"))


@pytest.mark.parametrize("chunks", [1, 3000])  # the output fits into the buffer of stdout, or does not
def test_a_closed_pipe_prints_no_error(tmp_path: Path, chunks: int) -> None:
    path = make(tmp_path / "a.tkc", chunks=chunks)
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "toolkit.inspect", f"input={path}", "json=true"]
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, cwd=ROOT, stdout=write_end, stderr=subprocess.PIPE, text=True, env=buffered)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_terminal_that_cannot_show_a_name_shows_it_escaped(tmp_path: Path) -> None:
    path = make(tmp_path / "a.tkc", {"items": ["\u6f22.png"]})
    command = [sys.executable, "-m", "toolkit.inspect", f"input={path}"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"items: ['\u6f22.png']" in done.stdout


def test_a_file_needs_no_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="expected"):
        main(["a.tkc", "b.tkc"])
    assert main([str(tmp_path / "none.tkc")]) == 1
    assert "none.tkc" in capsys.readouterr().err
