"""python -m toolkit.compress run=RUN input=PICTURES output=FILE.tkc: pictures or arrays into one file."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from toolkit import cli
from toolkit.images import archive, rate_archive, rate_coder
from toolkit.images.files import CHANNELS, left_out
from toolkit.runs import Recipe, compression, has_exact, load, lossy_coder

USAGE = """usage: python -m toolkit.compress run=RUN input=PICTURES output=FILE.tkc

Compress an image, a folder of images (sub-folders too) or an array of images (.npy, .pt) with a model that
toolkit.train made: losslessly, or with a lossy one (recipe=vae) at the rate that lambda=, bpp= or psnr= asks for. Grey
and RGB, 8 bits a value, any size."""
KNOWN = {
    "run": "folder of the trained model (outputs/...)",
    "input": "an image, a folder, or an array file (.npy, .pt)",
    "output": "the .tkc file to write",
    "lambda": "of a lossy model: 0.25 keeps most, 1024 least",
    "bpp": "of a lossy model instead: bits a pixel of each picture, for instance 0.5",
    "psnr": "of a lossy model instead: quality of each picture in dB, for instance 32",
    "chunk_rows": "tiles coded together: more are smaller, fewer make single pictures quicker to get (default 16384)",
    "exact": "true: a file that decodes on any machine; false: only where networks give the same floats (default true, "
    "if the run has an exact network)",
    "device": "auto, cpu or cuda (default auto)",
}


@cli.command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    values = cli.arguments(argv, KNOWN, {"run", "input", "output"}, USAGE)
    chunk_rows = cli.positive(values, "chunk_rows", 16384)
    exact = cli.boolean(values, "exact") if "exact" in values else has_exact(values["run"])
    recipe, cfg = load(values["run"], values.get("device", "auto"), exact)
    ways = [way for way in rate_coder.WAYS if way in values]
    origin = archive.source(values["input"])
    if recipe.lossy:
        return _compress_lossy(recipe, origin, values, ways)
    if ways:
        raise ValueError(
            f"expected no {ways[0]}= for {cfg.recipe.name}, which is lossless; leave it out, or give a run "
            "of recipe=vae"
        )
    make_coder, identity = compression(recipe, cfg)
    size = archive.compress(origin, values["output"], make_coder, tuple(cfg.recipe.module.shape), identity, chunk_rows)
    count = sum(CHANNELS[item.mode] * item.height * item.width for item in origin.items)
    _name_left_out(origin, values)
    print(
        f"{len(origin.items)} pictures, {count} values -> {values['output']}: {size} bytes, "
        f"{8 * size / count:.4f} bits per dimension"
    )
    if not exact and "exact" not in values:
        print(
            "It decodes only where networks compute the same floats. To make files that decode anywhere: python -m "
            f"toolkit.make_exact run={values['run']}, and compress again",
            file=sys.stderr,
        )
    return 0


def _compress_lossy(recipe: Recipe, origin: archive.Source, values: dict[str, str], ways: list[str]) -> int:
    if len(ways) != 1:
        raise ValueError(
            f"expected one of lambda=, bpp= and psnr=, got {' and '.join(ways) or 'none'}; give one, "
            "for instance bpp=0.5"
        )
    if origin.array:
        raise ValueError(
            f"expected pictures for a lossy model, got the array {values['input']}; save them as PNG files"
        )
    target = rate_coder.Target(ways[0], cli.number(values, ways[0]))
    rate_coder.check(target)
    coder, identity = lossy_coder(recipe)
    size = rate_archive.compress(coder, origin.items, origin.read, values["output"], target, identity)
    _name_left_out(origin, values)
    pixels = sum(item.height * item.width for item in origin.items)
    print(
        f"{len(origin.items)} pictures, {pixels} pixels -> {values['output']}: {size} bytes, "
        f"{8 * size / pixels:.4f} bits per pixel"
    )
    return 0


def _name_left_out(origin: archive.Source, values: dict[str, str]) -> None:
    for file in left_out(values["input"]) if origin.array is None else []:
        print(f"left out, not an image: {file}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
