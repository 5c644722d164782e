"""python -m toolkit.compress run=RUN input=PICTURES output=FILE.tkc: pictures or arrays into one file."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from toolkit import cli
from toolkit.container import check_new
from toolkit.images.source import source
from toolkit.runs import load

USAGE = """usage: python -m toolkit.compress run=RUN input=PICTURES output=FILE.tkc

Compress an image, a folder of images (sub-folders too) or an array of images (.npy, .pt) with a model that
toolkit.train made: losslessly, or with a lossy one at the rate that lambda=, bpp= or psnr= asks for. Grey and RGB, 8
bits a value, any size."""
KNOWN = {
    "run": "folder of the trained model (outputs/...)",
    "input": "an image, a folder, or an array file (.npy, .pt); - for a .npy file from standard input",
    "output": "the .tkc file to write; - for standard output",
    "lambda": "of a lossy model: 0.25 keeps most, 1024 least",
    "bpp": "of a lossy model instead: bits a pixel of each picture, for instance 0.5",
    "psnr": "of a lossy model instead: quality of each picture in dB, for instance 32",
    "effort": "of a model that learns while it codes: 0 is fast, 2 smallest and slowest (default 1)",
    "chunk_rows": "tiles coded together: more are smaller, fewer make single pictures quicker to get (default 16384)",
    "exact": "true: a file that decodes on any machine; false: only where networks give the same floats (default true, "
    "if the run has an exact network)",
    "on_bad": "error (default), or skip: leave out pictures that cannot be coded, and list them",
    "metadata": "all (default), color (profile, gamma, orientation) or none: what is kept beside the pixels",
    "overwrite": "true: replace a file that is there (default false: an error)",
    "device": "auto, cpu or cuda (default auto)",
}
OWN = {"run", "input", "output", "on_bad", "metadata", "overwrite", "device"}


@cli.command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    values = cli.arguments(argv, KNOWN, {"run", "input", "output"}, USAGE)
    with cli.streams(values, ".npy") as found:
        output = found["output"] + ".tkc" * (values["output"] == "-")
        check_new(output, cli.boolean(found, "overwrite"), [".tkc"], [found["input"]])
        # Before the model is loaded, so that a mistake is told at once.
        pictures = source(found["input"], found.get("on_bad", "error"), found.get("metadata", "all"))
        run = load(found["run"], found.get("device", "auto"), None)
        asked = cli.asked(found, OWN, run.head.compress_options, run.name)
        text = run.head.compress(run, pictures, output, asked)
        for file, why in pictures.left_out:
            print(f"left out: {file}: {why}", file=sys.stderr)
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
