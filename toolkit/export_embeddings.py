"""python -m toolkit.export_embeddings: word vectors, with their uncertainty, into a file of any size."""

import sys
from collections.abc import Sequence
from pathlib import Path

from toolkit import cli, embeddings
from toolkit.container import atomic_path
from toolkit.embeddings.sources import WRITTEN, of_run, read, save, sigma_of

USAGE = """\
usage: python -m toolkit.export_embeddings run=RUN output=FILE.tkc lambda=1|target_size=5MB|bits_per_dim=2
       python -m toolkit.export_embeddings input=VECTORS output=FILE.tkc ...    (vectors trained elsewhere)
       python -m toolkit.export_embeddings input=FILE.tkc output=VECTORS.bin    (back to word2vec or gensim files)

Compress word vectors to the size you ask for: each coordinate as exactly as its uncertainty makes worthwhile."""
KNOWN = {
    "run": "folder of a trained recipe=word_embeddings (outputs/...)",
    "input": "vectors trained elsewhere: word2vec .bin, .txt, .vec, GloVe .txt, gensim .kv; or a .tkc file",
    "output": "the .tkc file to write; for input=FILE.tkc a .bin, .txt, .vec or .kv file",
    "lambda": "nats of distortion that a bit is worth: larger is smaller, 0 is largest",
    "target_size": "of the whole file: bytes, or with kB or MB",
    "bits_per_dim": "of the whole file without its vocabulary",
    "counts": "for input=: a text file, a word and how often it occurs in training on each line",
    "method": "default, or vbq for the published algorithm (default: default)",
}
GOALS = ("lambda", "target_size", "bits_per_dim")
UNITS = {"kB": 1e3, "MB": 1e6, "B": 1, "": 1}


@cli.command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    values = cli.arguments(argv, KNOWN, {"output"}, USAGE)
    if ("run" in values) == ("input" in values):
        raise ValueError("expected one of run= and input=, got both or none; give a trained run or a file of vectors")
    output = Path(values["output"])
    if not output.parent.is_dir():  # now, not after minutes of work
        raise ValueError(f"expected output= in an existing folder, got {output}; make {output.parent} first")
    if values.get("input", "").endswith(".tkc"):
        return _back(values, output)
    if output.suffix != ".tkc":
        raise ValueError(
            f"expected output= to end in .tkc, got {output}; other formats are made from this file: input=FILE.tkc "
            f"output={output.name}"
        )
    if "run" in values and "counts" in values:
        raise ValueError("expected counts= with input= only, got it with run=, which knows its own; leave it out")
    goals = [key for key in GOALS if key in values]
    if len(goals) != 1:
        raise ValueError(f"expected one of lambda=, target_size= and bits_per_dim=, got {goals or 'none'}; give one")
    number = _number(values[goals[0]], goals[0])
    found = of_run(values["run"]) if "run" in values else read(values["input"], values.get("counts"))
    embeddings.check(found.words, found.vectors)
    sigma = found.sigma if found.sigma is not None else sigma_of(found)
    method, about = values.get("method", "default"), {"sigma": found.rule}
    sizes = embeddings.export(output, found.words, found.vectors, sigma, goals[0], number, method, about)
    print(embeddings.summary(sizes, found.words, found.vectors.shape[1], output))
    return 0


def _back(values: dict[str, str], output: Path) -> int:
    """A .tkc file in another program's format."""
    more = sorted(values.keys() - {"input", "output"})
    if more:
        raise ValueError(
            f"expected only output= with input=FILE.tkc, got {', '.join(f'{key}=' for key in more)}; a file of another "
            "size is made from the run or the vectors that this one was made from"
        )
    if output.suffix not in WRITTEN:
        raise ValueError(f"expected output= to end in {', '.join(WRITTEN)}, got {output}; choose one")
    keyed = embeddings.load(values["input"])
    if output.suffix == ".kv":
        save(keyed, output)  # gensim puts large arrays into files beside it, named after it
    else:
        with atomic_path(output) as temporary:
            save(keyed, temporary)
    print(f"{values['input']} -> {output}: {output.stat().st_size} bytes")
    return 0


def _number(text: str, key: str) -> float:
    unit = next(unit for unit in UNITS if text.endswith(unit)) if key == "target_size" else ""
    try:
        number = float(text.removesuffix(unit)) * UNITS[unit]
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf") or (number == 0 and key != "lambda"):
        kind = "a number that is not negative" if key == "lambda" else "a number above 0"
        raise ValueError(f"expected {key}= {kind}, got {text!r}; for instance {key}=2{'MB' * (key == 'target_size')}")
    return number


if __name__ == "__main__":
    sys.exit(main())
