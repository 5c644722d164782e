"""The zoo: models that ship, a folder each, found by name or by the fingerprint in a file; without importing torch."""

from __future__ import annotations

import contextlib
import difflib
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from toolkit import cli

FOLDER = Path(__file__).parent  # NAME/{config.yaml, model.safetensors, card.md}
DEFAULT = "photographs"  # what `compress` takes without run=
LOSSY = "any-rate"  # and where a rate or a quality is asked for
RATES = {"lambda", "bpp", "psnr", "metric"}  # settings that ask for LOSSY
CARD, BLANK = "card.md", "?"
MOST_BYTES = 3_000_000  # of a model's folder
FIELDS = {  # of a card; all are filled in a model that ships
    "use": "what for",
    "rate": "in a few words",
    "recipe": "by name",
    "data": "what it was trained on, each source with its licence",
    "licence": "of the model",
    "command": "that trained it",
    "seed": "of the training",
    "hours": "of the training, and on what",
    "figures": "what was measured, and by which command",
    "fingerprints": "that headers of its files hold",
}

USAGE = """usage: toolkit zoo [NAME]

List the models that ship with the toolkit, or print the card of one: what it is for, what it was trained on, under
which licences, and what was measured."""
KNOWN = {"name": "of a model: its card"}

USED = {DEFAULT: " (the default)", LOSSY: " (the default where lambda=, bpp= or psnr= is given)"}


class Card(NamedTuple):
    """What a model's card says: `FIELDS` in YAML between two lines of dashes, and text."""

    fields: dict[str, Any]
    text: str  # the whole card


def names() -> list[str]:
    """The models that ship."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{CARD}"))


def find(name: str) -> Path:
    """The folder of a model. Raises ValueError for a name that the zoo does not have."""
    known = names()
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        remedy = f"did you mean {close[0]}?" if close else "toolkit zoo lists them"
        raise ValueError(f"expected a model of the zoo ({', '.join(known) or 'empty'}), got {name!r}; {remedy}")
    return FOLDER / name


def card(name: str) -> Card:
    """The card of a model. Raises ValueError for a name that the zoo does not have, or a card without its fields."""
    file = find(name) / CARD
    text = file.read_text(encoding="utf-8")
    _, _, rest = text.partition("---\n")
    fields = yaml.safe_load(rest.partition("\n---\n")[0])
    if not isinstance(fields, dict) or set(fields) != set(FIELDS):
        raise ValueError(f"expected {file} to begin with --- and {', '.join(FIELDS)}, got others; see docs/zoo.md")
    return Card(fields, text)


def by_fingerprint(recipe: object, model: object) -> str | None:
    """The model that wrote a file whose header says so, or None; a header may hold anything."""
    for name in names():
        fields = card(name).fields
        if recipe == fields["recipe"] and model in fields["fingerprints"]:
            return name
    return None


def folder_of(given: str | None, default: str | None = None) -> Path:
    """The folder that run= names: a run folder of that path, else a model of the zoo; None: `default` or `DEFAULT`.

    Raises ValueError where the zoo has no default, or for a bare name that is neither.
    """
    known = names()
    if given is None:
        default = default or DEFAULT
        if default not in known:
            raise ValueError(
                f"expected run=, got none, and this installation ships no model {default}; give run=NAME of the zoo "
                f"({', '.join(known) or 'empty'}) or the folder of a training: {cli.command_line('train')}"
            )
        return FOLDER / default
    path = Path(given)
    if given in known:
        if not (path / "config.yaml").is_file():  # a folder of pictures, say
            return FOLDER / given
        print(
            f"note: run={given} is the run folder of that name here, and not the model of the zoo; to take that one, "
            "work in another folder",
            file=sys.stderr,
        )
    elif not path.exists() and path.name == given:
        close = difflib.get_close_matches(given, known, 1, 0.8)
        likely = f"did you mean {close[0]}? Or " if close else ""
        raise ValueError(
            f"expected a run folder or a model of the zoo ({', '.join(known) or 'empty'}), got {given!r}; "
            f"{likely}give the folder that toolkit.train printed (outputs/...), or a "
            "name that toolkit zoo lists"
        )
    return path


def is_ours(folder: Path) -> bool:
    """Whether a run's folder is a model of the zoo, in which nothing is written."""
    return folder.parent == FOLDER


@contextlib.contextmanager
def place_for(folder: Path) -> Iterator[Path]:
    """Where the figures of a model are written: a run's folder, or a copy here of a model that ships.

    An error in the block leaves no copy that was not there. Raises FileExistsError where something else has its name.
    """
    if not is_ours(folder):
        yield folder
        return
    copy = Path(f"evaluation-{folder.name}")
    card, made = copy / CARD, not copy.exists()
    if made:
        shutil.copytree(folder, copy)
    elif not card.is_file() or card.read_bytes() != (folder / CARD).read_bytes():
        raise FileExistsError(f"expected no {copy} here, or a copy of the model, got another; remove or rename it")
    try:
        print(f"{folder.name} is evaluated in {copy}", flush=True)
        yield copy
    except BaseException:
        if made:
            shutil.rmtree(copy)
        raise


def size(name: str) -> int:
    """Bytes of a model's folder."""
    return sum(file.stat().st_size for file in find(name).iterdir())


def listing() -> str:
    """The models that ship, for people."""
    found = {name: card(name).fields for name in names()}
    if not found:
        return f"No models ship with this version. Train one: {cli.command_line('train')}"
    wide = max(map(len, found))
    lines = []
    for name, fields in found.items():
        lines.append(f"{name:{wide}}  {fields['use']}{USED.get(name, '')}")
        lines.append(f"{'':{wide}}  {size(name) / 1e6:.2f} MB; {fields['rate']}; {fields['licence']}")
    first = DEFAULT if DEFAULT in found else next(iter(found))
    return "\n".join(
        [
            *lines, "",
            cli.command_line("compress", "PICTURES", "FILE.tkc", f"run={first}"),
            cli.command_line("decompress", "FILE.tkc", "FOLDER") + "    # finds its model by itself",
            cli.command_line("zoo", first) + "    # its card: data, licences, figures",
        ]
    )  # fmt: skip


@cli.command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    values = cli.arguments(argv, KNOWN, set(), USAGE, paths=["name"])
    print(card(values["name"]).text.rstrip() if "name" in values else listing())
    return 0
