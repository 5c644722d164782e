"""The command line that the commands share: `key=value` arguments, and errors as one line instead of a traceback."""

import contextlib
import difflib
import functools
import io
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from toolkit import places
from toolkit.coding import threads

PLACES = "run", "input", "pictures", "counts", "names", "output"  # keys whose values may be URLs
P = ParamSpec("P")
R = TypeVar("R")


def arguments(
    argv: Sequence[str] | None, known: dict[str, str], required: set[str], usage: str, flags: Sequence[str] = (),
    paths: Sequence[str] = (),
) -> dict[str, str]:  # fmt: skip
    """Parse `key=value` arguments; `known` has one line of help for each key, `usage` opens the help text.

    argv: None for those of the process; flags: keys for which --KEY means KEY=true; paths: keys that arguments without
    "=" fill, in this order. Returns the given keys only, with the text behind the first "=".
    Raises SystemExit: 0 after --help or -h, else with a message, for an argument that is no key=value, an unknown
    key, a key given twice, an empty value, or a required key that is missing.
    """
    argv = sys.argv[1:] if argv is None else argv
    argv = [f"{argument[2:]}=true" if argument[2:] in flags and argument[:2] == "--" else argument for argument in argv]
    if "--help" in argv or "-h" in argv:
        width = max(map(len, known), default=0)
        lines = [f"  {key:{width}}  {line}{' (required)' if key in required else ''}" for key, line in known.items()]
        print(usage, "", *lines, sep="\n")
        raise SystemExit(0)
    given = {argument.partition("=")[0] for argument in argv if "=" in argument and not places.is_url(argument)}
    free = iter([key for key in paths if key not in given])
    for i, argument in enumerate(argv):
        bare = argument == "-" or places.is_url(argument) or ("=" not in argument and argument[:1] != "-")
        if bare and (key := next(free, "")):
            argv[i] = f"{key}={argument}"
    found: dict[str, str] = {}
    for argument in argv:
        key, equals, value = argument.lstrip("-").partition("=")
        dashed = argument.startswith("-")
        if key not in known and (equals or dashed):
            close = difflib.get_close_matches(key, known, 1)
            remedy = f"did you mean {close[0]}=?" if close else "see --help"
            if os.path.lexists(argument) and (file := next((one for one in paths if one not in given), "")):
                remedy = f"for the file of that name write {file}={argument}"
            raise _usage_error(f"one of {', '.join(known)}", repr(key), remedy, usage)
        if key not in known:  # most often a bare file name
            key = next((key for key in known if key in required - given - found.keys()), "KEY")
            raise _usage_error("key=value", repr(argument), f"write {key}={argument}", usage)
        if not equals or dashed:
            raise _usage_error("key=value", repr(argument), f"write {key}={value or 'VALUE'}", usage)
        if key in found:
            raise _usage_error(f"{key}= once", f"{found[key]!r} and {value!r}", "leave one of them out", usage)
        if not value:
            raise _usage_error(f"a value for {key}=", "nothing", f"give {known[key]}", usage)
        found[key] = value
    for key in known:
        if key in required and key not in found:
            raise _usage_error(f"{key}=", ", ".join(found) or "no arguments", f"give {known[key]}", usage)
    return found


def asked(values: dict[str, str], own: set[str], known: dict[str, str], name: str) -> dict[str, str]:
    """Arguments for the model, not the command. Raises ValueError for one that the model does not know."""
    found = {key: value for key, value in values.items() if key not in own}
    for key in found:
        if key not in known:
            takes = ", ".join(f"{other}=" for other in known) or "none of these"
            raise ValueError(f"expected no {key}= for a model of {name}, which takes {takes}; leave it out")
    return found


def boolean(values: dict[str, str], key: str) -> bool:
    """Return whether `key` is true; an absent key is false. Raises SystemExit for anything but true or false."""
    value = values.get(key, "false")
    if value not in ("true", "false"):
        raise SystemExit(f"error: expected {key}=true or {key}=false, got {value!r}; use one of these")
    return value == "true"


def positive(values: dict[str, str], key: str, default: int) -> int:
    """Return a whole number of at least 1. Raises SystemExit for anything else."""
    value = values.get(key, str(default))
    if not value.isdecimal() or int(value) < 1:
        raise SystemExit(f"error: expected {key}= a whole number of at least 1, got {value!r}; give one")
    return int(value)


def number(values: dict[str, str], key: str) -> float:
    """Return a number. Raises SystemExit for anything else."""
    try:
        return float(values[key])
    except ValueError:
        raise SystemExit(f"error: expected {key}= a number, got {values[key]!r}; give one") from None


def command(main: Callable[P, int]) -> Callable[P, int]:
    """Wrap a command's main: ValueError, OSError, MemoryError become "error: ..." on stderr and status 1, no traceback.

    Ctrl-C and SIGTERM end it in an orderly way, so that no temporary file stays; at once even while a loop is compiled.
    """

    @functools.wraps(main)
    @piped
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> int:
        if isinstance(sys.stdout, io.TextIOWrapper):  # a file name that the terminal cannot show is no reason to fail
            sys.stdout.reconfigure(errors="backslashreplace")
        ours = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGTERM, _terminate) if ours else None
        status = 128 + signal.SIGTERM
        try:
            status = main(*args, **kwargs)
        except BrokenPipeError:
            raise
        except KeyboardInterrupt:
            print("error: interrupted; give the same command again", file=sys.stderr)
            status = 130
        except (ValueError, OSError) as error:
            print(f"error: {said(error)}", file=sys.stderr)
            status = 1
        except MemoryError as error:
            print(f"error: not enough memory{f' ({error})' if str(error) else ''}; free some", file=sys.stderr)
            status = 1
        finally:
            if ours:
                signal.signal(signal.SIGTERM, before)
            if threads.going_on() and not args and not kwargs:  # a process of its own, which would wait for them
                sys.stdout.flush()
                os._exit(status)  # nothing is half written: all that was opened is closed
        return status

    return wrapped


@contextlib.contextmanager
def streams(
    values: dict[str, str], suffix: str | Callable[[bytes], str], wanted: Callable[[str], bool] = lambda _: True,
    in_parts: bool = False, beside: Sequence[str] = (),
) -> Iterator[tuple[dict[str, str], Callable[[str], str]]]:  # fmt: skip
    """Arguments in which standard streams ("-") and URLs are local files: read before, or written out at the end.

    suffix: of an input "-", or what tells it by the first 16 bytes. An output "-" is a name in a new folder, without
    suffix; what the command prints goes to standard error then. URLs: inputs are copied here, of
    folders only what is wanted by name; an output is copied there when it is complete. in_parts: an input stays a
    URL, for a reader of parts; beside: endings of inputs that have files beside them. Also yields what makes text that
    names these files say what they stand for; errors do.
    """
    with contextlib.ExitStack() as stack:
        values = {key: str(places.local(value)) for key, value in values.items()}
        piped = {key for key in ("input", "output") if values.get(key) == "-"}
        if piped and os.environ.get("WORLD_SIZE", "1") != "1" and "TORCHELASTIC_RUN_ID" in os.environ:
            raise ValueError("expected files, as torchrun started several processes, got -; give names of files")
        urls = {key: values[key] for key in PLACES if places.is_url(values.get(key, ""))}
        if in_parts:
            urls.pop("input", None)
        folder = Path(os.path.realpath(stack.enter_context(tempfile.TemporaryDirectory()))) if piped or urls else Path()
        names = {folder / key: f"standard {key}" for key in piped}

        def shown(text: str) -> str:
            for path, name in names.items():
                text = re.sub(
                    rf"{re.escape(str(path))}(\.\w+)*" if path.parent == folder else re.escape(str(path)), name, text
                )
            return text

        if "output" in urls:
            places.check_new(urls["output"], values.get("overwrite") == "true")
        for key, url in urls.items():
            path = folder / f"{key}s" / places.name_of(url)
            path.parent.mkdir()
            names[path], values[key] = str(places.named(url)), str(path)
            if key != "output":
                places.fetch(url, path, places.of_run if key == "run" else wanted)
                if key == "input" and path.suffix.lower() in beside:
                    places.fetch_beside(url, path)
        if "input" in piped:
            start = sys.stdin.buffer.read(16)
            values["input"] = str(folder / f"input{suffix if isinstance(suffix, str) else suffix(start)}")
            with open(values["input"], "wb") as file:
                file.write(start)
                shutil.copyfileobj(sys.stdin.buffer, file)
        if "output" in piped:
            values["output"] = str(folder / "output")
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        try:
            yield values, shown
        except (ValueError, OSError) as error:
            if not names or isinstance(error, BrokenPipeError):
                raise
            # Of an error on a full disk, just the system's: what it says to have kept is gone.
            gone = "output" in piped or "output" in urls
            full = gone and isinstance(error, OSError) and isinstance(error.__cause__, OSError)
            raise ValueError(shown(said(error.__cause__ if full and error.__cause__ else error))) from error
        if "output" in urls and os.path.lexists(values["output"]):  # else nothing is left of the one picture
            places.put(Path(values["output"]), urls["output"])
        if "output" in piped:
            for made in folder.glob("output*"):
                with open(made, "rb") as result:
                    shutil.copyfileobj(result, sys.__stdout__.buffer)  # type: ignore[union-attr]
            sys.__stdout__.buffer.flush()  # type: ignore[union-attr]


def command_line(name: str, *arguments: str) -> str:
    """One of our commands to be pasted into a shell: named as the one that runs was, its arguments quoted."""
    started = re.fullmatch(r"((?:python -m )?toolkit) \w+", sys.argv[0])  # as `toolkit.__main__` leaves it
    words = [f"{started[1]} {name}" if started else f"python -m toolkit.{name}"]
    for argument in arguments:
        key, equals, value = argument.partition("=")
        words.append(f"{shlex.quote(key)}{equals}{shlex.quote(value) if equals else ''}")
    return " ".join(words)


def said(error: BaseException) -> str:
    """What an error says to people: the system's without their numbers."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def piped(main: Callable[P, R]) -> Callable[P, R]:
    """Wrap a program's main: a reader of its output that has left, as in `... | head`, ends it in silence."""

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            try:
                return main(*args, **kwargs)
            finally:
                sys.stdout.flush()  # here and not at exit, so that a closed pipe is met by the next lines
        except BrokenPipeError:  # nobody to tell, and nothing went wrong
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(1) from None

    return wrapped


def _terminate(*_: Any) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _usage_error(expected: str, got: str, remedy: str, usage: str) -> SystemExit:
    return SystemExit(places.harmless(f"error: expected {expected}, got {got}; {remedy}\n\n{usage}"))
