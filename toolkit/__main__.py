"""toolkit COMMAND key=value ...: the commands by name; the same as python -m toolkit.COMMAND key=value ..."""

import difflib
import importlib
import sys

COMMANDS = {
    "train": "train a model, with real files after each epoch",
    "compress": "pictures or arrays into one file",
    "decompress": "a file back into pictures or an array",
    "export_embeddings": "word vectors into a file of any size, and back",
    "inspect": "what a file holds, without its model",
    "zoo": "models that ship: what they are for, and how to use one",
    "evaluate": "a model's rates and speeds beside other codecs",
    "make_exact": "give an older run the networks whose files decode anywhere",
}


def main() -> int | None:
    """Run the command that the first argument names and return its exit status."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h"):
        width = max(map(len, COMMANDS))
        print("usage: toolkit COMMAND key=value ...   (toolkit COMMAND --help says more)", "", sep="\n")
        print(*(f"  {command:{width}}  {what}" for command, what in COMMANDS.items()), sep="\n")
        return 0
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, 1)
        remedy = f"did you mean {close[0]}?" if close else "see toolkit --help"
        raise SystemExit(f"error: expected a command of {', '.join(COMMANDS)}, got {name!r}; {remedy}")
    # What `cli.command_line` goes by.
    sys.argv = [f"{'python -m toolkit' if sys.argv[0].endswith('__main__.py') else 'toolkit'} {name}", *rest]
    try:
        command = importlib.import_module(f"toolkit.{name}")
    except KeyboardInterrupt:  # loading libraries takes a second or two; what comes after it, commands handle
        print("error: interrupted; give the same command again", file=sys.stderr)
        return 130
    status: int | None = command.main()
    return status


if __name__ == "__main__":
    sys.exit(main())
