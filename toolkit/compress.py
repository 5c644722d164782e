"""python -m toolkit.compress PICTURES FILE.tkc: pictures or arrays into one file."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from toolkit import cli, ranks, zoo
from toolkit.container import check_new
from toolkit.images.files import suffix_of
from toolkit.images.given import given
from toolkit.images.source import coded, left_out, source
from toolkit.images.verify import OPTION
from toolkit.opened import head_of, load

USAGE = """usage: toolkit compress PICTURES FILE.tkc [run=RUN]

Compress an image, a folder of images (sub-folders too) or an array of images (.npy, .pt) with a model that ships, or
one that toolkit.train made: losslessly, or with a lossy one at the rate that lambda=, bpp= or psnr= asks for. Grey and
RGB, 8 bits a value, any size; a model of whole pictures keeps transparency and 16 bits, too. Word vectors: toolkit
export_embeddings. Exit status: 0, 1 for an error, 2 if pictures were left out that nobody asked to leave out."""
KNOWN = {
    "run": "folder of a trained model (outputs/...), or name of one that ships (toolkit zoo lists them; default "
    f"{zoo.DEFAULT}, or {zoo.LOSSY} with lambda=, bpp= or psnr=)",
    "input": "an image, a folder, or, for a model of tiles, an array (.npy, .pt); - for an image or a .npy file on "
    "standard input",
    "output": "the .tkc file to write; - for standard output",
    "lambda": "of a lossy model: 0.25 keeps most, 1024 least",
    "bpp": "of a lossy model instead: bits a pixel of each picture, for instance 0.5",
    "psnr": "of a lossy model instead: quality of each picture in dB, for instance 32",
    "effort": "0 is fast; 2, or 3 of a lossy model, smallest and slowest (default 1, or 0)",
    "metric": "of a lossy model, what files are made small by: psnr (default) or ms-ssim",
    "chunk_rows": "tiles coded together: more are smaller, fewer give one picture sooner (default 16384 of small ones)",
    "exact": "true: a file that decodes on any machine; false: only where networks give the same floats (default true, "
    "if the run has an exact network)",
    "jpeg": "JPEG files: skip (default of a lossless model: their pixels mostly take more), or pixels: code these",
    "compare": "of a lossless model, true: also what lossless WebP, JPEG XL and PNG make of the pictures",
    "verify": f"of a lossless model, {OPTION}",
    "on_bad": "error (default), or skip: leave out pictures that cannot be coded, and list them",
    "metadata": "all (default), color (profile, gamma, orientation) or none: what is kept beside the pixels",
    "overwrite": "true: replace a file that is there (default false: an error)",
    "device": "auto, cpu or cuda (default auto)",
}
OWN = {"run", "input", "output", "on_bad", "metadata", "jpeg", "overwrite", "device"}


@cli.command
@ranks.joined()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    values = cli.arguments(argv, KNOWN, {"input", "output"}, USAGE, paths=["input", "output"])
    with cli.streams(values, suffix_of, coded) as (found, shown):
        output = found["output"] + ".tkc" * (values["output"] == "-")
        check_new(output, cli.boolean(found, "overwrite"), [".tkc"], [found["input"]])
        head, name = head_of(folder := zoo.folder_of(found.get("run"), zoo.LOSSY if zoo.RATES & found.keys() else None))
        comparable = {"compare": KNOWN["compare"]} if head.lossless else {}
        asked = cli.asked(found, OWN, head.compress_options | comparable, name)
        jpeg, compare = found.get("jpeg", "skip" if head.lossless else "pixels"), cli.boolean(asked, "compare")
        asked.pop("compare", None)
        # Before the model is loaded, so that a mistake is told at once.
        pictures = source(found["input"], found.get("on_bad", "error"), found.get("metadata", "all"), jpeg, head.every)
        run = load(folder, found.get("device", "auto"), None)
        began = time.monotonic()
        text = run.head.compress(run, pictures, output, asked)
        seconds = time.monotonic() - began
        print(shown(text), given(pictures, output, head.lossless), sep="\n")
        if compare:
            from toolkit.images import baselines  # imports torch

            every = map(pictures.picture, range(len(pictures.items)))
            print(baselines.comparison((Path(shown(output)).name, Path(output).stat().st_size, seconds), every))
        lines, status = left_out(pictures, found)
        print(shown("\n".join(lines)), end="\n" * bool(lines), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
