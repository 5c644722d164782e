"""Show what a .tkc file holds and check every checksum in it, with no model: python -m toolkit.inspect input=FILE."""

import json
import sys
from collections.abc import Sequence

from toolkit import cli, zoo
from toolkit.chunks.inventory import inventory, shown
from toolkit.container import Reader
from toolkit.images import listing

USAGE = """usage: toolkit inspect FILE [--json]

List the pictures of a .tkc file with their sizes, bytes and metadata; show the rest of its header and its chunks, and
check all its checksums; exit status 1 if one is wrong."""
KNOWN = {
    "input": "the .tkc file; - for standard input",
    "json": "true: everything as one JSON object, with nothing shortened",
}


@cli.command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 1 for a file that is damaged or cannot be read."""
    values = cli.arguments(argv, KNOWN, {"input"}, USAGE, flags=["json"], paths=["input"])
    as_json = cli.boolean(values, "json")
    with (
        cli.streams(values, ".tkc", in_parts=True) as (given, named),
        Reader(given["input"], salvage=True) as reader,
    ):
        report = inventory(reader)
        report["zoo"] = zoo.by_fingerprint(report["header"].get("recipe"), report["header"].get("model"))
        found = listing.pictures(reader, {chunk["number"]: chunk["intact"] for chunk in report["chunks"]})
        report["pictures"] = found
        lines, apart = listing.table(found) if found else [], bool(found) and reader.header["kind"] == "pictures"
        print(named(json.dumps(report) if as_json else shown(report, lines, apart)))
    return 0 if report["damage"] is None and all(chunk["intact"] for chunk in report["chunks"]) else 1


if __name__ == "__main__":
    sys.exit(main())
