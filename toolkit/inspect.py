"""Show what a .tkc file holds and check every checksum in it, with no model: python -m toolkit.inspect input=FILE."""

import json
import sys
from collections.abc import Sequence

from toolkit import cli, zoo
from toolkit.chunks.inventory import inventory, shown
from toolkit.container import Reader

USAGE = """usage: toolkit inspect FILE [--json]

Show the header, sizes and chunks of a .tkc file and check all its checksums; exit status 1 if one is wrong."""
KNOWN = {
    "input": "the .tkc file; - for standard input",
    "json": "true: everything as one JSON object, with nothing shortened",
}


@cli.command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 1 for a file that is damaged or cannot be read."""
    values = cli.arguments(argv, KNOWN, {"input"}, USAGE, flags=["json"], paths=["input"])
    as_json = cli.boolean(values, "json")
    with cli.streams(values, ".tkc") as (found, named), Reader(found["input"], salvage=True) as reader:
        report = inventory(reader)
        report["zoo"] = zoo.by_fingerprint(report["header"].get("recipe"), report["header"].get("model"))
        print(named(json.dumps(report) if as_json else shown(report)))
    return 0 if report["damage"] is None and all(chunk["intact"] for chunk in report["chunks"]) else 1


if __name__ == "__main__":
    sys.exit(main())
