"""python -m toolkit.evaluate run=RUN: rate and speed on held-out data, beside the codecs that people use today."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from toolkit import cli, places, ranks, zoo
from toolkit.container import atomic_path
from toolkit.images.source import Source, coded, left_out, source
from toolkit.runs import head_of, load

USAGE = """usage: toolkit evaluate run=RUN

Encode data that training has not seen to real files, decode and compare them; print rates, where the bits went, and
speeds, beside other codecs; write evaluation.txt, evaluation.png and evaluation.tkc into the run folder. Of a lossless
model: test rows of its data set, or whole pictures. Of a lossy one: the rate-distortion curve of held-out pictures. Of
word vectors: analogies that files of several sizes answer. Of a model that ships, in a copy of it, evaluation-NAME
here. Exit status: 0, 1 for an error, 2 if pictures were left out that nobody asked to leave out."""
KNOWN = {
    "run": "folder of the trained model (outputs/...), or name of one that ships",
    "pictures": "of a model of whole pictures: one, or a folder of them (default: those that its training held out)",
    "on_bad": "of these, those that cannot be coded: error (default), or skip: leave them out, and list them",
    "jpeg": "of these, JPEG files and a lossless model: skip (default), or pixels: keep their pixels",
    "rows": "test rows to code, evenly spread, or all (default 1000); more than there are come again, to time many",
    "effort": "of a model that learns while it codes: 0 is fast, 2 smallest (default 1)",
    "metric": "of a lossy model, as of compress",
    "exact": "true or false: with the networks whose files decode anywhere (default true, if the run has them)",
    "device": "auto, cpu or cuda (default auto)",
}


@cli.command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    ranks.single()
    given = cli.arguments(argv, KNOWN, {"run"}, USAGE)
    with cli.streams(given, "", coded) as (values, shown):
        status = _evaluate(values, shown)
        if places.is_url(given["run"]):
            for file in sorted(Path(values["run"]).glob("evaluation.*")):
                places.put(file, places.join(given["run"], file.name))
    return status


def _evaluate(values: dict[str, str], shown: Callable[[str], str]) -> int:
    folder = zoo.folder_of(values["run"])
    head, name = head_of(folder)
    known = dict(head.measure_options)
    if "pictures" in known:
        known |= {key: KNOWN[key] for key in (["on_bad", "jpeg"] if head.lossless else ["on_bad"])}
    asked = cli.asked(values, {"run", "device"}, known, name)
    pictures = _pictures(values, "skip" if head.lossless else "pixels", head.every)
    with zoo.place_for(folder) as place:
        run = load(place, values.get("device", "auto"))
        text, figure = run.head.measure(run, pictures, asked)
        print(shown(text))
        with atomic_path(place / "evaluation.txt") as path:
            path.write_text(text + "\n")
        with atomic_path(place / "evaluation.png") as path:
            figure.savefig(path, dpi=150)
    lines, status = left_out(pictures, values) if pictures else ([], 0)
    print(shown("\n".join(lines)), end="\n" * bool(lines), file=sys.stderr)
    return status


def _pictures(values: dict[str, str], jpeg: str, every: bool) -> Source | None:
    """What pictures= names, JPEG files as asked or as `jpeg` says; every: see `source`."""
    if "pictures" in values:
        found = source(values["pictures"], values.get("on_bad", "error"), "none", values.get("jpeg", jpeg), every)
        if found.array:
            raise ValueError("expected pictures= a picture or a folder, got an array; save its images as PNG files")
        return found
    for key in {"on_bad", "jpeg"} & values.keys():
        raise ValueError(f"expected {key}= with pictures=, got none; give a folder of pictures, or leave it out")
    return None


if __name__ == "__main__":
    sys.exit(main())
