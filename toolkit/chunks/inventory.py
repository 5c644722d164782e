"""What a .tkc file holds, without its model: sizes, header, chunks and their checksums."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any

from toolkit.container import CHUNK_HEADER_SIZE, DamagedFile, Reader

TABLE_ROWS = 20  # chunks in the table; --json has all
DECODES = {  # kind of content -> where it decodes to what; docs/exact.md
    "embeddings": "to the same bits on every machine",
    "pictures": "to the same pixels on every machine",
    "lossy": "to the same coefficients on every machine, and to pixels that may differ by one grey level",
}
SHORT = reprlib.Repr()  # escapes what a terminal would obey, and cuts what is long or nested
SHORT.maxlist = SHORT.maxdict = 6
SHORT.maxlevel = 3
SHORT.maxstring = SHORT.maxlong = SHORT.maxother = 80


def inventory(reader: Reader) -> dict[str, Any]:
    """All that a file holds, its checksums checked; `reader` salvages."""
    damaged = {}  # number of the chunk -> what is wrong with it
    for i in reader.found:
        try:
            reader.read(i)
        except DamagedFile as error:
            damaged[i] = str(error)
    chunk_headers = len(reader.found) * CHUNK_HEADER_SIZE
    values = reader.header.get("values")  # any JSON value: the container does not know this key
    return {
        "file": str(reader.path),
        "version": reader.version,
        "bytes": {
            "header": reader.header_size,
            "chunk headers": chunk_headers,
            "payloads": reader.size - reader.overhead,
            "index and trailer" if reader.damage is None else "not understood": reader.overhead
            - reader.header_size
            - chunk_headers,
            "file": reader.size,
        },
        "damage": str(reader.damage) if reader.damage else None,
        "decodes": _decodes(reader.header),
        "zoo": None,  # the model that ships and decodes it, for whoever knows the zoo
        "rows": sum(chunk.rows for chunk in reader.found.values()),
        "bits_per_value": 8 * reader.size / values if type(values) is int and values > 0 else None,
        "header": reader.header,
        "chunks": [
            {"number": i, **chunk._asdict(), "intact": i not in damaged, "error": damaged.get(i)}
            for i, chunk in reader.found.items()
        ],
    }


def _decodes(header: dict[str, Any]) -> str | None:
    kind, exact = header.get("kind"), header.get("exact")
    if isinstance(kind, str) and kind in DECODES:
        return DECODES[kind]
    if exact is True:
        return "to the same rows on every machine: its networks are in exact arithmetic"
    if exact is False:
        return "only where its networks compute the same floats: another device or library may give an error"
    return None


def shown(report: dict[str, Any], pictures: Sequence[str] = (), apart: bool = False) -> str:
    """What people read of an inventory.

    pictures: lines about what the file holds, which the header's items need not say again; apart: each is one chunk.
    """
    chunks, unit = report["chunks"], "picture" if apart else "chunk"
    counted = f"{len(chunks)} {unit}{'s' * (len(chunks) != 1)}"
    lines = [
        f"{report['file']}: .tkc, format version {report['version']}",
        "",
        *pictures,
        *[""] * bool(pictures),
        "bytes",
    ]
    for part, size in report["bytes"].items():
        lines.append(f"  {part:17} {size:>15,}  {100 * size / report['bytes']['file']:6.2f} %")
    rows = "" if apart else f", {report['rows']:,} row{'s' * (report['rows'] != 1)}"
    lines += ["", f"{counted}{' found' * bool(report['damage'])}{rows}"]
    if report["bits_per_value"] is not None:
        values = report["header"]["values"]
        lines.append(f"{report['bits_per_value']:.4f} bits per value: the whole file, for {values:,} coded integers")
    if report["decodes"]:
        lines.append(f"decodes {report['decodes']}")
    if report["zoo"]:
        lines.append(f"the model {report['zoo']}, which ships, decodes it: decompress needs no run=")
    said = {"items", "metadata", "levels"} if pictures else set()
    header = {key: value for key, value in report["header"].items() if key not in said}
    lines += ["", "header", *(f"  {SHORT.repr(key)[1:-1]}: {_short(value)}" for key, value in header.items())]
    if chunks and not apart:
        lines += ["", f"{'chunk':>8} {'offset':>15} {'bytes':>13} {'rows':>11}  {'CRC-32':8}  {'of rows':8}"]
    for chunk in [] if apart else chunks[:TABLE_ROWS]:
        numbers = f"{chunk['number']:>8} {chunk['offset']:>15,} {chunk['size']:>13,} {chunk['rows']:>11,}"
        state = "intact" if chunk["intact"] else "DAMAGED"
        lines.append(f"{numbers}  {chunk['crc']:08x}  {chunk['rows_crc']:08x}  {state}")
    if len(chunks) > TABLE_ROWS and not apart:
        lines.append(f"     ... and {len(chunks) - TABLE_ROWS} more: --json shows all")
    damaged = {chunk["number"]: chunk["error"] for chunk in chunks if not chunk["intact"]}
    verdict = f"{'all ' * (len(chunks) != 1)}{counted} intact"
    if damaged:
        verdict = f"{len(damaged)} of {counted} damaged: {', '.join(map(str, damaged))}"
    if report["damage"]:
        lines += ["", report["damage"]]
        verdict += "; more may be lost: the chunks were found without an index"
    if damaged or report["damage"]:
        lines += ["", "decompress with on_damage=skip restores the pictures that are intact"]
    return "\n".join([*lines, "", *damaged.values(), verdict])


def _short(value: Any) -> str:
    count = f"  ({len(value)} in all)" if isinstance(value, list | dict) and len(value) > SHORT.maxlist else ""
    return SHORT.repr(value) + count
