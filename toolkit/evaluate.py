"""python -m toolkit.evaluate run=RUN: rate and speed on held-out data, beside the codecs that people use today."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from toolkit import cli, zoo
from toolkit.container import atomic_path
from toolkit.runs import load

USAGE = """usage: python -m toolkit.evaluate run=RUN

Encode data that training has not seen to real files, decode and compare them; print rates, where the bits went, and
speeds, beside other codecs; write evaluation.txt, evaluation.png and evaluation.tkc into the run folder. Of a lossless
model: test rows of its data set, or whole pictures. Of a lossy one: the rate-distortion curve of held-out pictures. Of
word vectors: analogies that files of several sizes answer. Of a model that ships, in a copy of it, evaluation-NAME
here."""
KNOWN = {
    "run": "folder of the trained model (outputs/...), or name of one that ships",
    "pictures": "of a model of whole pictures: folder of held-out ones (default: those of the training)",
    "rows": "test rows to code, evenly spread, or all (default 1000); more than there are come again, to time many",
    "effort": "of a model that learns while it codes: 0, 1 or 2, as of toolkit.compress",
    "exact": "true or false: with the networks whose files decode anywhere (default true, if the run has them)",
    "device": "auto, cpu or cuda (default auto)",
}


@cli.command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    values = cli.arguments(argv, KNOWN, {"run"}, USAGE)
    run = load(_folder(values["run"]), values.get("device", "auto"))
    text, figure = run.head.measure(run, cli.asked(values, {"run", "device"}, run.head.measure_options, run.name))
    print(text)
    with atomic_path(run.folder / "evaluation.txt") as path:
        path.write_text(text + "\n")
    with atomic_path(run.folder / "evaluation.png") as path:
        figure.savefig(path, dpi=150)
    return 0


def _folder(given: str) -> Path:
    """The folder of a run, or a copy of a model that ships, as the figures are written beside it."""
    folder = zoo.folder_of(given)
    if not zoo.is_ours(folder):
        return folder
    copy = Path(f"evaluation-{folder.name}")
    card = copy / zoo.CARD
    if not copy.exists():
        shutil.copytree(folder, copy)
    elif not card.is_file() or card.read_bytes() != (folder / zoo.CARD).read_bytes():
        raise FileExistsError(f"expected no {copy} here, or a copy of the model, got another; remove or rename it")
    print(f"{folder.name} is evaluated in {copy}", flush=True)
    return copy


if __name__ == "__main__":
    sys.exit(main())
