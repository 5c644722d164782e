"""python -m toolkit.decompress FILE.tkc FOLDER: pictures or an array back."""

import sys
from collections.abc import Callable, Sequence

from toolkit import cli, ranks
from toolkit.archive import model_of
from toolkit.container import Reader
from toolkit.images.restore import restore
from toolkit.opened import load

USAGE = """usage: toolkit decompress FILE.tkc FOLDER [run=RUN]

Restore the pictures of a .tkc file as PNG files below a new folder, or its array as an array file. Interrupted, it goes
on when it is run again. Exit status: 0, 1 for an error, 2 if on_damage=skip left something out."""
KNOWN = {
    "run": "folder of the model that compressed it, or name of one that ships (default: the one that ships and fits)",
    "input": "the .tkc file; - for standard input",
    "output": "the folder to make, or the file to write: .png for one picture, .npy or .pt for an array; - for one "
    "of these on standard output",
    "only": "name of one picture: decode just the part of the file that holds it",
    "on_damage": "error (default), or skip: restore all that is not damaged, and list what is lost",
    "overwrite": "true: replace a file that is there (default false: an error)",
    "device": "auto, cpu or cuda (default auto)",
}


@cli.command
@ranks.joined()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    values = cli.arguments(argv, KNOWN, {"input", "output"}, USAGE, paths=["input", "output"])
    with cli.streams(values, ".tkc", in_parts=True) as (found, shown):
        return _decompress(found, values["output"] == "-", shown)


def _decompress(values: dict[str, str], piped: bool, shown: Callable[[str], str]) -> int:
    on_damage, overwrite = values.get("on_damage", "error"), cli.boolean(values, "overwrite")
    with Reader(values["input"], salvage=on_damage == "skip") as reader:
        run = load(
            model_of(reader, values.get("run")), values.get("device", "auto"), reader.header.get("exact") is True
        )
        array = reader.header.get("array")
        output = values["output"] + (f".{array.get('format')}" if isinstance(array, dict) else ".png") * piped
        contents = run.head.contents(run, reader)
        contents.serve()
        report = restore(reader, contents, output, values.get("only"), on_damage, overwrite)
    for title, lines in (
        ("damage", report.damage),
        ("lost", report.lost),
        ("lost in part", report.partly),
        ("note", report.notes),
    ):
        for line in lines:
            print(shown(f"{title}: {line}"), file=sys.stderr)
    left = f"; {len(report.lost)} lost, {len(report.partly)} in part" if report.damage else ""
    print(shown(f"{report.restored} picture{'s' * (report.restored != 1)} restored to {output}{left}"))
    return 2 if report.damage else 0


if __name__ == "__main__":
    sys.exit(main())
