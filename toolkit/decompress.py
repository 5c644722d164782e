"""python -m toolkit.decompress run=RUN input=FILE.tkc output=FOLDER: every pixel back."""

import sys
from collections.abc import Sequence

from toolkit import archive, cli
from toolkit.recipe import compression, load

USAGE = """usage: python -m toolkit.decompress run=RUN input=FILE.tkc output=FOLDER

Restore the pictures of a .tkc file as PNG files below a new folder, or its array as an array file."""
KNOWN = {
    "run": "folder of the model that compressed it",
    "input": "the .tkc file",
    "output": "the folder to make (pictures) or the file to write (.npy, .pt)",
    "only": "name of one picture: decode just the part of the file that holds it",
    "compile": "auto, true or false: compile the entropy coder (default auto: for large inputs)",
    "device": "auto, cpu or cuda (default auto)",
}


@cli.command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    values = cli.arguments(argv, KNOWN, {"run", "input", "output"}, USAGE)
    recipe, cfg = load(values["run"], values.get("device", "auto"))
    make_coder, identity = compression(recipe, cfg, values.get("compile"))
    count = archive.decompress(values["input"], values["output"], make_coder, identity, values.get("only"))
    print(f"{count} pictures restored to {values['output']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
