"""Who may import whom: the table of the design, held against the imports that stand in the files."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import toolkit.__main__

ROOT = Path(__file__).parents[1]
FILES = sorted(path for folder in ("toolkit", "recipes") for path in (ROOT / folder).rglob("*.py"))

# Rooms side by side, which are files or folders of toolkit/, or the recipes -> the rooms that each of them may import.
TABLE: dict[tuple[str, ...], set[str]] = {
    ("coding", "photographs", "places"): {"coding"},
    ("container", "model"): {"places"},
    ("cli", "nets"): {"coding", "places"},
    ("chunks", "ranks"): {"coding", "container", "model"},
    ("images",): {"chunks", "coding", "container", "model", "ranks"},
    ("embeddings",): {"coding", "container", "model"},
    ("run",): {"container", "images", "model"},
    ("runs",): {"chunks", "cli", "container", "model", "nets", "run"},
    ("opened", "training", "zoo"): {"chunks", "cli", "container", "model", "places", "run", "runs"},
    ("archive",): {"cli", "container", "images", "opened", "places", "run", "zoo"},
    ("data",): {"archive", "container", "images", "model", "places"},
    ("heads",): {
        "chunks", "cli", "container", "data", "embeddings", "images", "model", "nets", "run", "runs",
        "training",
    },
    ("recipes",): {"chunks", "coding", "data", "heads", "images", "model", "nets", "photographs"},
    # The commands; the zoo is one more, which others ask where a model is.
    (
        "train", "compress", "decompress", "export_embeddings", "inspect", "evaluate", "make_exact",
    ): {
        "archive", "chunks", "cli", "container", "embeddings", "images", "opened", "places", "ranks", "run", "runs",
        "training", "zoo",
    },
}  # fmt: skip
ALLOWED = {room: allowed for row, allowed in TABLE.items() for room in row}
COMMANDS = (*[*TABLE][-1], "zoo")

# Rooms that know neither Lightning nor Hydra.
LIGHTNING_FREE = tuple(
    f"toolkit.{name}"
    for name in ("coding", "photographs", "places", "nets", "container", "cli", "chunks", "images", "embeddings")
)
FORBIDDEN = {"lightning", "hydra", "omegaconf"}
TORCH_FREE = tuple(f"toolkit.{name}" for name in ("photographs", "places", "container", "cli", "zoo", "run"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(module: str, folder: str) -> bool:
    return module == folder or module.startswith(f"{folder}.")


def imports(source: str, package: str) -> set[str]:
    """Every module that a source imports, wherever the statement stands: toolkit.coding.message, torch, ..."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(
                    [*package.split(".")[: len(package.split(".")) - node.level + 1], *filter(None, [base])]
                )
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                path = ROOT / inner.replace(".", "/")
                is_module = base.split(".")[0] in ("toolkit", "recipes") and (
                    path.with_suffix(".py").exists() or path.is_dir()
                )
                found.add(inner if is_module else base)
    return found


def room(module: str) -> str:
    """coding of toolkit.coding.message, recipes.vae of recipes.vae.transform."""
    return ".".join(module.split(".")[:2]).removeprefix("toolkit.")


def forbidden(module: str, imported: set[str]) -> list[str]:
    """The imports of a module that the table does not allow."""
    ours = {name for name in imported if name.split(".")[0] in ("toolkit", "recipes", "tests", "scripts", "configs")}
    allowed = ALLOWED.get("recipes" if within(module, "recipes") else room(module), set())
    return sorted(name for name in ours if room(name) not in {room(module), *allowed})


def test_no_import_leads_back() -> None:
    """Modules can be put in an order in which each imports only those before it."""
    sources = {module_of(path): path for path in FILES}
    left = {}
    for name, path in sources.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        left[name] = {other for other in imports(path.read_text(), package) if other in sources} - {name}
    while left:
        ready = {name for name, needed in left.items() if not needed & left.keys()}
        assert ready, f"a circle of imports among {sorted(left)}"
        left = {name: needed for name, needed in left.items() if name not in ready}


@pytest.mark.parametrize("recipe", ["bitswap", "local", "vae_lossless", "ikvae", "vae", "vae.any_rate", "photographs"])
def test_compressing_waits_for_no_library_that_only_training_needs(recipe: str) -> None:
    slow = "lightning", "torchmetrics", "torchvision", "matplotlib", "tensorboard", "gensim", "scipy", "torch._dynamo"
    program = (
        f"import sys, toolkit.compress, toolkit.decompress, recipes.{recipe}; print(*{set(slow)} & {{*sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    # Numba, whose loops are all that these recipes code with, imports what there is of SciPy.
    assert set(done.stdout.split()) <= ({"scipy"} if recipe in ("photographs", "vae", "vae.any_rate") else set())


def test_a_picture_is_compressed_and_restored_by_the_model_that_ships_without_torch(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)).save(tmp_path / "a.png")
    slow = "torch", "lightning", "hydra", "omegaconf", "gensim", "matplotlib"
    program = (
        "import sys\nfrom toolkit import compress, decompress, inspect, zoo\n"
        "status = compress.main(['a.png', 'a.tkc']), decompress.main(['a.tkc', 'b.png']), inspect.main(['a.tkc'])\n"
        f"print(*status, zoo.main([]), {{*{slow}}} & {{*sys.modules}})"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 0 0 0 set()"
    with Image.open(tmp_path / "a.png") as before, Image.open(tmp_path / "b.png") as after:
        assert before.tobytes() == after.tobytes()


def test_what_needs_no_coder_needs_no_numba(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom toolkit import __main__, inspect, zoo\nprint({'numba', 'numpy', 'PIL'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["set()"]


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_file_imports_only_what_the_table_allows(path: Path) -> None:
    module = module_of(path)
    imported = imports(path.read_text(), module.rpartition(".")[0])
    assert forbidden(module, imported) == []
    if any(within(module, folder) for folder in LIGHTNING_FREE):
        assert not {name.split(".")[0] for name in imported} & FORBIDDEN
    if any(within(module, folder) for folder in TORCH_FREE):
        assert not {name.split(".")[0] for name in imported} & {"torch"}


def test_rooms_import_only_those_that_stand_above_them() -> None:
    assert len(TABLE) <= 14
    seen: set[str] = set()
    for row, allowed in TABLE.items():
        seen.update(row)
        assert allowed <= seen, row


def test_commands_are_short_and_ask_no_module_what_it_is() -> None:
    assert {*COMMANDS} == {*toolkit.__main__.COMMANDS}
    for name in {*COMMANDS} - {"zoo"}:
        text = (ROOT / f"toolkit/{name}.py").read_text()
        assert len(text.splitlines()) <= (140 if name == "train" else 80), name
        assert not re.search(r"\b(hasattr|getattr)\(|\bisinstance\((?!error, |array, dict)", text), name


def test_the_toolkit_names_no_recipe() -> None:
    names = {path.stem for path in (ROOT / "configs/recipe").glob("*.yaml")}
    plain = {"local", "photographs"}  # English words, one of them a room
    assert names > plain
    pattern = rf"\b({'|'.join(names - plain)})\b|\brecipes?[.=]({'|'.join(plain)})\b"
    for path in (ROOT / "toolkit").rglob("*.py"):
        assert not re.search(pattern, path.read_text()), path


def test_every_file_says_in_its_first_line_what_it_is() -> None:
    for path in FILES:
        first = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]
        assert len(first) > 20, path


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("toolkit.coding.message", "def f():\n    from toolkit.nets import exact", ["toolkit.nets.exact"]),
        ("toolkit.coding.codecs", "from . import message\nfrom ..nets.exact import x", ["toolkit.nets.exact"]),
        ("toolkit.chunks.chained", "import toolkit.runs as r", ["toolkit.runs"]),
        ("toolkit.data.images", "from toolkit.chunks import chained", ["toolkit.chunks.chained"]),
        (
            "recipes.vae",
            "from recipes.bitswap import head\nfrom toolkit import train",
            ["recipes.bitswap", "toolkit.train"],
        ),
        ("toolkit.train", "from recipes import bitswap", ["recipes.bitswap"]),
        ("toolkit.runs", "import torch\nfrom toolkit.chunks.chained import Coder", []),
    ],
)
def test_an_import_against_the_table_is_found(module: str, source: str, found: list[str]) -> None:
    assert forbidden(module, imports(source, module.rpartition(".")[0])) == found
