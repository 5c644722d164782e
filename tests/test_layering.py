"""Who may import whom: the table of the design, held against the imports that stand in the files."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for folder in ("toolkit", "recipes") for path in (ROOT / folder).rglob("*.py"))

# A room, which is a file or a folder of toolkit/ or a recipe -> the rooms that it may import beside itself.
TABLE: dict[str, set[str]] = {
    "toolkit.coding": set(),
    "toolkit.container": set(),
    "toolkit.cli": set(),
    "toolkit.zoo": {"cli"},
    "toolkit.model": set(),
    "toolkit.photographs": {"coding"},
    "toolkit.nets": {"coding"},
    "toolkit.chunks": {"coding", "container", "model"},
    "toolkit.images": {"chunks", "coding", "container", "model"},
    "toolkit.embeddings": {"coding", "container", "model"},
    "toolkit.data": {"container", "images", "model"},
    "toolkit.training": {"chunks", "container", "model"},
    "toolkit.runs": {"chunks", "container", "images", "model", "nets"},
    "toolkit.heads": {
        "chunks",
        "cli",
        "container",
        "data",
        "embeddings",
        "images",
        "model",
        "nets",
        "runs",
        "training",
    },
    "recipes": {"chunks", "coding", "data", "heads", "images", "model", "nets", "photographs"},
    "toolkit": {"chunks", "cli", "container", "embeddings", "images", "runs", "training", "zoo"},  # the commands
}

# Rooms that know neither Lightning nor Hydra.
LIGHTNING_FREE = tuple(
    f"toolkit.{name}"
    for name in ("coding", "photographs", "nets", "container", "cli", "chunks", "images", "embeddings")
)
FORBIDDEN = {"lightning", "hydra", "omegaconf"}
TORCH_FREE = ("toolkit.photographs",)


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
    return ".".join(module.split(".")[:2])


def forbidden(module: str, imported: set[str]) -> list[str]:
    """The imports of a module that the table does not allow."""
    allowed = {f"toolkit.{name}" for name in TABLE[max((row for row in TABLE if within(module, row)), key=len)]}
    ours = {name for name in imported if name.split(".")[0] in ("toolkit", "recipes", "tests", "scripts", "configs")}
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


@pytest.mark.parametrize("recipe", ["bitswap", "vae_lossless", "ikvae", "vae", "photographs"])
def test_compressing_waits_for_no_library_that_only_training_needs(recipe: str) -> None:
    slow = "lightning", "torchmetrics", "torchvision", "matplotlib", "tensorboard", "gensim", "scipy", "torch._dynamo"
    program = (
        f"import sys, toolkit.compress, toolkit.decompress, recipes.{recipe}; print(*{set(slow)} & {{*sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    # Numba, whose loops are all that this recipe codes with, imports what there is of SciPy.
    assert set(done.stdout.split()) <= ({"scipy"} if recipe == "photographs" else set())


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
    seen: set[str] = set()
    for name, allowed in TABLE.items():
        assert allowed <= seen, name
        seen.add(name.removeprefix("toolkit."))


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
