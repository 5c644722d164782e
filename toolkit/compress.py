"""python -m toolkit.compress run=RUN input=PICTURES output=FILE.tkc: pictures or arrays into one file."""

import sys
from collections.abc import Sequence

from toolkit import archive, cli
from toolkit.data.files import CHANNELS, left_out
from toolkit.recipe import compression, has_exact, load

USAGE = """usage: python -m toolkit.compress run=RUN input=PICTURES output=FILE.tkc

Compress an image, a folder of images (sub-folders too) or an array of images (.npy, .pt), losslessly, with a model that
toolkit.train made. Grey and RGB, 8 bits a value, any size."""
KNOWN = {
    "run": "folder of the trained model (outputs/...)",
    "input": "an image, a folder, or an array file (.npy, .pt)",
    "output": "the .tkc file to write",
    "chunk_rows": "tiles coded together: more are smaller, fewer make single pictures quicker to get (default 16384)",
    "compile": "auto, true or false: compile the entropy coder (default auto: for large inputs)",
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
    origin = archive.source(values["input"])
    make_coder, identity = compression(recipe, cfg, values.get("compile"))
    size = archive.compress(origin, values["output"], make_coder, tuple(cfg.recipe.module.shape), identity, chunk_rows)
    count = sum(CHANNELS[item.mode] * item.height * item.width for item in origin.items)
    for file in left_out(values["input"]) if origin.array is None else []:
        print(f"left out, not an image: {file}", file=sys.stderr)
    print(
        f"{len(origin.items)} pictures, {count} values -> {values['output']}: {size} bytes, "
        f"{8 * size / count:.4f} bits per dimension"
    )
    if not exact:
        print(
            "It decodes only where networks compute the same floats. To make files that decode anywhere: python -m "
            f"toolkit.make_exact run={values['run']}, and compress again" * ("exact" not in values),
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
