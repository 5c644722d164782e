"""python -m toolkit.export_embeddings: word vectors, with their uncertainty, into a file of any size."""

import sys
from collections.abc import Sequence
from pathlib import Path

from toolkit import cli, ranks, zoo
from toolkit.container import check_new
from toolkit.embeddings import exporting, sources
from toolkit.runs import load

USAGE = """\
usage: toolkit export_embeddings run=RUN FILE.tkc bits_per_dim=2|target_size=5MB|lambda=1
       toolkit export_embeddings VECTORS FILE.tkc ...        (vectors trained elsewhere)
       toolkit export_embeddings FILE.tkc VECTORS.bin        (back to files of other programs)

Compress word vectors to the size you ask for: each coordinate as exactly as its uncertainty makes worthwhile."""
KNOWN = {
    "run": "folder of a trained recipe of word vectors (outputs/...), or name of one that ships",
    "input": "vectors trained elsewhere: word2vec .bin, .txt, .vec, GloVe .txt, gensim .kv, fastText .bin, a table in "
    ".safetensors or .npy, a folder of model2vec or StaticEmbedding; or a .tkc file",
    "output": "the .tkc file to write; for input=FILE.tkc a .bin, .txt, .vec, .kv, .safetensors or .npy file, or a new "
    "folder where it came as one",
    "names": "of a table's rows: a text file, a name on each line; a JSON list; or a tokenizer.json",
    "tensor": "the table's name, where a .safetensors file has several",
    **exporting.OPTIONS,
    "errors": "for input=: of words that are not UTF-8: strict (default), replace or skip",
    "overwrite": "true: replace a file that is there (default false: an error)",
    "counts": "for input=: a text file, a word and how often it occurs in training on each line",
}
OWN = {"run", "input", "output", "counts", "errors", "names", "tensor", "overwrite"}


@cli.command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    ranks.single()
    argv = sys.argv[1:] if argv is None else argv
    bare = ["output"] if any(argument.startswith("run=") for argument in argv) else ["input", "output"]
    given = cli.arguments(argv, KNOWN, {"output"}, USAGE, paths=bare)
    if ("run" in given) == ("input" in given):
        raise ValueError("expected one of run= and input=, got both or none; give a trained run or a file of vectors")
    for key in ("counts", "errors", "names", "tensor"):
        if "run" in given and key in given:
            raise ValueError(f"expected {key}= with input= only, got it with run=, which knows its own; leave it out")
    for key in ("input", "output", "counts"):
        if given.get(key) == "-":
            raise ValueError(f"expected {key}= to name a file, got -, which has no ending to tell its kind; give one")
    with cli.streams(given, "", beside=sources.GENSIM) as (values, shown):
        for text, file in zip(_export(values), (sys.stdout, sys.stderr), strict=False):
            print(shown(text), file=file)
    return 0


def _export(values: dict[str, str]) -> list[str]:
    """Write the file; what to say about it, and about what was left out."""
    output, given, overwrite = Path(values["output"]), values.get("input", ""), cli.boolean(values, "overwrite")
    if given.lower().endswith(".tkc"):
        if more := sorted(values.keys() - {"input", "output", "overwrite"}):
            raise ValueError(
                f"expected only output= with input=FILE.tkc, got {', '.join(f'{key}=' for key in more)}; a file of "
                "another size is made from what this one was made from"
            )
        return [exporting.convert(given, output, overwrite)]
    check_new(output, overwrite, [".tkc"], [given] if given else [])
    asked = {key: value for key, value in values.items() if key not in OWN}
    exporting.goal_of(asked)
    if given:
        options = [values.get(key) for key in ("names", "tensor")]
        found = sources.read(given, values.get("counts"), values.get("errors", "strict"), *options)
        text = exporting.export_vectors(output, found, asked)[1]
        left_out = f"left out: {found.left_out} words that are not UTF-8, by errors=skip"
        return [text, left_out] if found.left_out else [text]
    run = load(zoo.folder_of(values["run"]), "cpu")
    return [run.head.compress(run, None, output, asked)]


if __name__ == "__main__":
    sys.exit(main())
