"""README.md and docs/: what they tell a reader to type is checked, and their links lead somewhere.

Every page is found by itself, and nothing has to be registered here. On a page

- a block of ```python runs, all of a page in order and as one program, in a folder of its own where RUN is a run folder
  (an untrained Bit-Swap of 8 x 8 RGB rows), `photos` a folder of pictures and `vectors.tkc` a file of word vectors;
- every command, in a shell block or in `code` of the text, is parsed: the command, its keys and its values exist;
- the commands of a shell block after the comment <!-- run --> run too, in that folder;
- a block after <!-- needs: WHAT --> is not run: it needs a GPU, a long training, another library ...;
- a block after <!-- tested in: tests/FILE.py --> runs there.

Blocks without a language are text or output. Lines in them that begin as a command does are checked as commands.
"""

from __future__ import annotations

import copy
import functools
import importlib
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image

from tests.archives import noise
from tests.tiny import images, run_folder
from toolkit import cli, embeddings
from toolkit.__main__ import COMMANDS
from toolkit.runs import save_exact
from toolkit.train import with_recipe
from toolkit.training.overrides import with_file

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
SHELL = ("bash", "sh", "shell", "console")
# Programs of others that pages may name; only that they are known is checked.
OTHERS = (
    "cd",
    "git",
    "jupyter",
    "ls",
    "mkdir",
    "mkdocs",
    "mypy",
    "pre-commit",
    "ruff",
    "source",
    "tensorboard",
    ".ci/run",
)
CONTROL = ("&&", "||", "|", ";")
MARK = re.compile(r"<!--\s*(run|needs|tested in)\s*:?\s*(.*?)\s*-->")
FENCE = re.compile(r"^(\s*)(`{3,}|~{3,})\s*([\w+-]*)")


class Block(NamedTuple):
    """A fenced block: the number of its first line, its language, its text, and the mark above it."""

    line: int
    language: str
    text: str
    mark: str  # run, needs, tested in, or ""
    said: str  # what the mark says


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a page."""
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        fence = FENCE.match(lines[at])
        at += 1
        if not fence:
            continue
        indent, mark, language = fence.groups()
        above = next((line for line in reversed(lines[: at - 1]) if line.strip()), "")
        found = MARK.search(above)
        first = at
        while at < len(lines) and lines[at].strip() != mark:
            at += 1
        body = "\n".join(line.removeprefix(indent) for line in lines[first:at])
        yield Block(first + 1, language, body, *(found.groups() if found else ("", "")))
        at += 1


def prose(text: str) -> str:
    """A page without its fenced blocks, as many lines as it has."""
    lines = text.splitlines()
    for block in blocks(text):
        for i in range(block.line - 2, min(block.line + len(block.text.split("\n")), len(lines))):
            lines[i] = ""
    return "\n".join(lines)


def words(line: str) -> list[list[str]]:
    """The commands of a line, each a list of words; comments and redirections are left out."""
    reader = shlex.shlex(line, posix=True, punctuation_chars="&|;")
    reader.whitespace_split, reader.commenters = True, "#"
    found: list[list[str]] = [[]]
    for word in reader:
        if word in CONTROL:
            found.append([])
        elif word not in ("...", "&"):
            found[-1].append(word.removeprefix("$ ") if not found[-1] else word)
    return [command for command in found if command]


def logical_lines(text: str) -> Iterator[str]:
    """The lines of a shell block, continued ones joined, prompts left out."""
    for line in re.sub(r"\\\s*\n\s*", " ", text).splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            yield re.sub(r"^\s*\$ ", "", line)


def begins_as_ours(line: str) -> bool:
    return (
        re.match(r"\s*(\$ )?(python3? (-m (toolkit|pytest)|scripts/)|toolkit [a-z]|pip install|pytest\b)", line)
        is not None
    )


class Parsed(Exception):
    """A command got as far as its arguments."""


def check(command: list[str], monkeypatch: pytest.MonkeyPatch, named: bool = False) -> None:
    """Fail unless a command of a page exists and takes these arguments; named: its text names it and gives none."""
    while command and re.match(r"[A-Z_]+=", command[0]):  # variables of the environment
        command = command[1:]
    program, *rest = command
    if program in ("python", "python3", "torchrun"):
        match rest:
            case ["-m", "toolkit", *arguments]:
                check_ours(arguments or ["--help"], monkeypatch, named)
            case ["-m", module, *arguments] if module.startswith("toolkit."):
                check_ours([module.removeprefix("toolkit."), *arguments], monkeypatch, named)
            case ["-m", "pytest", *arguments]:
                check_pytest(arguments)
            case ["-m", "venv", _]:
                pass
            case ["-c", source]:
                compile(source, "-c", "exec")
            case [script, *arguments] if script.startswith("scripts/"):
                check_script(script, arguments)
            case _:
                pytest.fail(f"not known: {shlex.join(command)}")
    elif program == "toolkit":
        check_ours(rest or ["--help"], monkeypatch, named)
    elif program == "pytest":
        check_pytest(rest)
    elif program == "pip":
        check_pip(rest)
    else:
        assert program in OTHERS, f"not known: {shlex.join(command)}; mark its block: <!-- needs: ... -->"


def check_ours(command: list[str], monkeypatch: pytest.MonkeyPatch, named: bool) -> None:
    """Fail unless a command of ours knows these arguments, and is given all that it requires."""
    name, *arguments = command
    if name in ("--help", "COMMAND"):
        return
    assert name in COMMANDS, f"no command toolkit.{name}"
    if named and not arguments:
        return
    if name == "train":
        check_overrides([argument for argument in arguments if argument != "--help"])
        return
    parse = cli.arguments

    def parsed(argv: Any, *rest: Any, **named: Any) -> dict[str, str]:
        parse(argv, *rest, **named)
        raise Parsed

    with monkeypatch.context() as patch:
        patch.setattr(cli, "arguments", parsed)
        try:
            importlib.import_module(f"toolkit.{name}").main(arguments)
        except Parsed:
            return
        except SystemExit as end:
            assert end.code == 0, f"toolkit.{name} {shlex.join(arguments)}: {str(end.code).splitlines()[0]}"


def check_overrides(overrides: list[str]) -> None:
    """Fail unless the configuration of a training composes with these overrides."""
    overrides = with_file(with_recipe(overrides))
    groups = tuple(override for override in overrides if override.partition("=")[0] in ("recipe", "data", "experiment"))
    try:
        cfg = copy.deepcopy(composed(groups))
        for override in OverridesParser.create().parse_overrides([o for o in overrides if o not in groups]):
            OmegaConf.update(cfg, override.key_or_group, override.value(), force_add=override.is_add())
    except (HydraException, OmegaConfBaseException) as error:
        pytest.fail(f"toolkit.train {shlex.join(overrides)}: {error}")


@functools.cache
def composed(groups: tuple[str, ...]) -> DictConfig:
    """The configuration of a recipe and a data set; composing one takes a third of a second."""
    with initialize_config_module("configs", version_base="1.3"):
        return compose("train", list(groups))


def check_script(script: str, arguments: list[str]) -> None:
    assert (ROOT / script).is_file(), f"no script {script}"
    source = (ROOT / script).read_text()
    for argument in arguments:
        if argument.startswith("--"):
            assert f'"{argument.partition("=")[0]}"' in source, f"{script} has no option {argument}"


def check_pytest(arguments: list[str]) -> None:
    for argument in arguments:
        if argument.endswith(".py"):
            assert (ROOT / argument).is_file(), f"no file {argument}"


def check_pip(arguments: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for found in re.findall(r"\.\[(.*?)\]", " ".join(arguments)):
        for extra in found.split(","):
            assert extra.strip() in extras, f"no optional dependencies {extra} in pyproject.toml"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = run_folder(tmp_path_factory.mktemp("docs") / "RUN", (3, 8, 8))
    save_exact(folder, images(64, (3, 8, 8)))
    return folder


@pytest.fixture
def workplace(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a page's blocks run in."""
    shutil.copytree(run, tmp_path / "RUN")
    (tmp_path / "photos/sub").mkdir(parents=True)
    for name, shape in (("photos/sea.png", (16, 24)), ("photos/sub/cat.png", (20, 9))):
        Image.fromarray(noise(*shape, 3)).save(tmp_path / name)
    vectors = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    names = ["king", "queen", "man", "woman", *(f"word{i}" for i in range(46))]
    embeddings.export(tmp_path / "vectors.tkc", names, vectors, torch.full((50, 8), 0.3), "lambda", 0.1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSTARTUP", raising=False)
    return tmp_path


def perform(line: str) -> None:
    """Run the commands of a line that are ours, in this process, and fail unless they succeed."""
    for command in words(line):
        match command:
            case ["python", "-m", module, *arguments] if module.startswith("toolkit."):
                status = importlib.import_module(module).main(arguments)
            case ["toolkit", name, *arguments]:
                status = importlib.import_module(f"toolkit.{name}").main(arguments)
            case ["python", "-c", source]:
                status = exec(compile(source, "-c", "exec"), {})
            case _:
                pytest.fail(f"cannot be run in a test: {line}")
        assert not status, f"exit status {status}: {line}"


@pytest.mark.parametrize("name", NAMES)
def test_blocks_run(name: str, request: pytest.FixtureRequest) -> None:
    found = list(blocks((ROOT / name).read_text()))
    if any(block.mark == "run" or (block.language == "python" and not block.mark) for block in found):
        request.getfixturevalue("workplace")  # made only where something runs
    program: dict[str, Any] = {"__name__": "__page__"}
    for block in found:
        where = f"{name}:{block.line}"
        if block.mark == "needs":
            assert block.said, f"{where}: say what it needs"
        elif block.mark == "tested in":
            assert (ROOT / block.said).is_file(), f"{where}: no file {block.said}"
        elif block.language == "python":
            # As many lines down as on the page, so that a traceback shows where it is.
            source = "\n" * (block.line - 1) + block.text
            exec(compile(source, str(ROOT / name), "exec"), program)
        elif block.mark == "run":
            for line in logical_lines(block.text):
                perform(line)


@pytest.mark.parametrize("name", NAMES)
def test_commands_exist_and_know_their_arguments(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / name).read_text()
    for block in blocks(text):
        if block.mark == "needs" or (block.language and block.language not in SHELL):
            continue
        for line in logical_lines(block.text):
            if block.language in SHELL or begins_as_ours(line):
                for command in words(line):
                    check(command, monkeypatch)
    for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(text)):
        code = " ".join(code.split())
        if begins_as_ours(code):
            for command in words(code):
                check(command, monkeypatch, named="=" not in code)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs.yml make them."""
    found: set[str] = set(re.findall(r'<a (?:id|name)="([^"]+)"', text))
    for heading in re.findall(r"^#+ +(.+?) *#*$", prose(text), re.MULTILINE):
        explicit = re.search(r"\{ *#([\w-]+) *\}$", heading)
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-")
        slug, count = explicit.group(1) if explicit else slug, 0
        while (unique := f"{slug}-{count}" if count else slug) in found:
            count += 1
        found.add(unique)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_files_and_headings_that_exist(name: str) -> None:
    page = ROOT / name
    text = re.sub(r"`[^`\n]*`", "", prose(page.read_text()))
    for target in re.findall(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)", text):
        if re.match(r"[a-z]+:", target):  # of the web, which a test does not ask
            continue
        file, _, anchor = target.partition("#")
        goal = (page.parent / file).resolve() if file else page
        assert goal.exists(), f"{name}: no {file}"
        if name.startswith("docs/"):
            assert goal.is_relative_to(ROOT / "docs"), f"{name}: {file} is not below docs/, so not on the built pages"
        if anchor:
            assert anchor in anchors(goal.read_text()), f"{name}: {file or 'this page'} has no heading #{anchor}"


@pytest.mark.parametrize("name", NAMES)
def test_pages_are_for_readers_anywhere(name: str) -> None:
    text = (ROOT / name).read_text()
    for wrong in (r"\.\./shared", r"/root/", r"/work/", r"/home/\w", r"/tmp/"):
        assert not re.search(wrong, text), f"{name}: {wrong}"


def test_the_readme_is_short_and_its_figures_are_those_of_the_results() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    results = "\n".join(
        page.read_text() for page in [ROOT / "docs/results.md", *sorted((ROOT / "docs/results").glob("**/*.md"))]
    )
    section = text.partition("\n## Results")[2].partition("\n## ")[0]
    figures = re.findall(r"\d+\.\d+", re.sub(r"\]\([^)]*\)", "", section))
    assert figures, "README.md has a section Results with figures"
    missing = [figure for figure in figures if not re.search(rf"(?<![\d.]){re.escape(figure)}(?!\d)", results)]
    assert not missing, f"not in docs/results.md or docs/results: {', '.join(missing)}"


def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    done = subprocess.run(  # without --quiet, which hides warnings from --strict
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    assert (tmp_path / "site/index.html").is_file()


# What the checks above would say of pages that are wrong.
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("python -m toolkit.compres run=RUN", "no command"),
        ("python -m toolkit.compress run=RUN input=a", "expected output="),
        ("python -m toolkit.compress run=RUN input=a output=b quality=3", "expected one of"),
        ("python -m toolkit.train recipe=bitswap recipe.module.depth=3", "depth"),
        ("python -m toolkit.train recipe=absent", "absent"),
        ("python scripts/absent.py", "no script"),
        ("python scripts/bench_coders.py --absent 3", "no option"),
        ("pytest tests/absent.py", "no file"),
        ('pip install -e ".[absent]"', "no optional dependencies"),
        ("rm -r outputs", "not known"),
    ],
)
def test_wrong_commands_are_found(line: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception), match=said):
        for command in words(line):
            check(command, monkeypatch)
