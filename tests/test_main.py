"""toolkit COMMAND: the commands by name; and our own packages wherever a program is started."""

import importlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit import cli
from toolkit.__main__ import COMMANDS, main

ROOT = Path(__file__).parents[1]


def toolkit(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "toolkit", *arguments]
    return subprocess.run(program, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("asked", [[], ["--help"], ["-h"]])
def test_help_names_every_command(asked: list[str]) -> None:
    done = toolkit(*asked)
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()[2:]] == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_gets_the_arguments_that_follow_its_name(name: str) -> None:
    done = toolkit(name, "--help")
    assert done.returncode == 0
    assert name in done.stdout


def test_ctrl_c_while_libraries_are_loaded_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib, "import_module", interrupted)
    monkeypatch.setattr(sys, "argv", ["toolkit", "inspect", "a.tkc"])
    assert main() == 130
    assert capsys.readouterr().err == "error: interrupted; give the same command again\n"


def test_the_exit_status_is_that_of_the_command() -> None:
    done = toolkit("inspect", "input=absent.tkc")
    assert (done.returncode, done.stderr.splitlines()) == (1, ["error: absent.tkc: No such file or directory"])


@pytest.mark.parametrize(
    ("program", "name"),
    [("toolkit compress", "toolkit train"), ("python -m toolkit compress", "python -m toolkit train"),
     ("/env/lib/toolkit/compress.py", "python -m toolkit.train"), ("pytest", "python -m toolkit.train")],
)  # fmt: skip
def test_a_command_to_be_pasted_is_named_as_the_one_that_runs_and_quoted(
    program: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [program, "x"])
    line = cli.command_line("train", "FILE", "a b", "run=it's here", "lambda=1")
    assert line.startswith(f"{name} FILE ") and shlex.split(line)[-4:] == ["FILE", "a b", "run=it's here", "lambda=1"]
    assert (
        cli.command_line("train", "resume=outputs/my run", "minutes=3") == f"{name} resume='outputs/my run' minutes=3"
    )


def test_commands_started_as_toolkit_name_each_other_so(tmp_path: Path) -> None:
    script = f"import sys\nsys.argv[0] = {str(tmp_path / 'bin/toolkit')!r}\nfrom toolkit.__main__ import main\nmain()"
    done = subprocess.run([sys.executable, "-c", script, "zoo"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "\ntoolkit compress PICTURES FILE.tkc run=photographs\n" in done.stdout
    assert "\npython -m toolkit compress PICTURES FILE.tkc run=photographs\n" in toolkit("zoo").stdout


def test_a_command_that_there_is_not_is_refused() -> None:
    done = toolkit("compres")
    assert done.returncode == 1
    assert done.stderr.endswith("got 'compres'; did you mean compress?\n")


def test_folders_of_the_same_names_in_the_working_directory_are_not_ours(tmp_path: Path) -> None:
    for name in ("configs", "recipes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('not this one')\n")
    done = toolkit("train", "recipe=bitswap", "--cfg", "job", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "_target_: recipes.bitswap.BitSwap" in done.stdout
    program = "from toolkit import runs; runs.find_recipes(); import recipes.bitswap; print(recipes.bitswap.__file__)"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(ROOT / "recipes/bitswap.py"), done.stderr


def test_another_package_of_that_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipes.py").write_text("__path__ = ['/elsewhere']\n")
    program = "import recipes; from toolkit import runs; runs.find_recipes()"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "got /elsewhere, which this program imported; give it another name" in done.stderr


@pytest.mark.parametrize(
    ("given", "found"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
    ids=["nothing set", "a count", "a policy"],
)
def test_threads_that_wait_soon_sleep_unless_a_user_wants_something_else(given: dict[str, str], found: str) -> None:
    rest = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    program = [sys.executable, "-c", "import os, toolkit; print(os.environ.get('GOMP_SPINCOUNT'))"]
    done = subprocess.run(program, cwd=ROOT, env=rest | given, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == found
