"""Who may import whom: the table of the design, held against the imports that stand in the files."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for folder in ("toolkit", "recipes") for path in (ROOT / folder).rglob("*.py"))

COMMANDS = {
    f"toolkit.{name}"
    for name in ("train", "compress", "decompress", "export_embeddings", "inspect", "evaluate", "make_exact")
}
TOOLS = {
    "toolkit.recipe", "toolkit.head", "toolkit.alone", "toolkit.container", "toolkit.baselines", "toolkit.callbacks",
    "toolkit.archive", "toolkit.restore", "toolkit.pictures", "toolkit.cli", "toolkit.data", "toolkit.embeddings",
    "toolkit.lossy", "toolkit.picture_coder", "toolkit.rate_distortion", "toolkit.precision",
}  # fmt: skip
CODECS = {f"toolkit.coding.{part}" for part in ("message", "kernels", "frequencies", "codecs")}
SEARCH = {"toolkit.coding.hashing", "toolkit.coding.rec_gaussian", "toolkit.coding.rec_search"}

# A file, or all files of a folder -> what of ours they may import, files or folders.
TABLE: dict[str, set[str]] = {
    "toolkit.coding.hashing": set(),
    "toolkit.coding.wire": set(),
    "toolkit.coding.frequencies": set(),
    "toolkit.coding.exactness": set(),
    "toolkit.coding.message": {"toolkit.coding.wire", "toolkit.coding.hashing"},
    "toolkit.coding.cpu": {"toolkit.coding.frequencies"},
    "toolkit.coding.gpu": {"toolkit.coding.frequencies"},
    "toolkit.coding.kernels": {"toolkit.coding.message", "toolkit.coding.cpu", "toolkit.coding.gpu"},
    "toolkit.coding.codecs": {"toolkit.coding.kernels", "toolkit.coding.message"},
    "toolkit.coding.tables": CODECS,
    "toolkit.coding.distributions": CODECS,
    "toolkit.coding.mixtures": {"toolkit.coding.distributions", *CODECS},
    "toolkit.coding.beta_binomial": {"toolkit.coding.tables", *CODECS},
    "toolkit.coding.rec_gaussian": set(),
    "toolkit.coding.rec_search": {"toolkit.coding.hashing", "toolkit.coding.rec_gaussian"},
    "toolkit.coding.rec_greedy": SEARCH,
    "toolkit.coding.rec_blocks": SEARCH,
    "toolkit.coding.rec_index": {"toolkit.coding.tables", *SEARCH, *CODECS},
    "toolkit.coding.rec_shortest": {"toolkit.coding.rec_index", "toolkit.coding.rec_blocks", *SEARCH},
    "toolkit.coding.rec": {f"toolkit.coding.rec_{part}" for part in ("greedy", "blocks", "index", "shortest")} | SEARCH,
    "toolkit.coding.lattice_context": {"toolkit.coding.exactness"},
    "toolkit.coding.lattice": {
        "toolkit.coding.exactness", "toolkit.coding.lattice_context", "toolkit.coding.tables", *CODECS,
    },
    "toolkit.coding.lattice_fit": {
        "toolkit.coding.lattice", "toolkit.coding.lattice_context", "toolkit.coding.frequencies",
    },
    "toolkit.coding.vbq": {"toolkit.coding.tables", *CODECS},
    "toolkit.container": set(),
    "toolkit.precision": set(),
    "toolkit.baselines": set(),
    "toolkit.pictures": set(),
    "toolkit.cli": set(),
    "toolkit.data": {"toolkit.data"},
    "toolkit.nets": {"toolkit.nets", "toolkit.coding"},
    "toolkit.model": set(),
    "toolkit.head": {"toolkit.coding", "toolkit.container", "toolkit.model"},
    "toolkit.archive": {"toolkit.head", "toolkit.container", "toolkit.data"},
    "toolkit.restore": {"toolkit.archive", "toolkit.head", "toolkit.alone", "toolkit.container", "toolkit.data"},
    "toolkit.picture_coder": {"toolkit.coding", "toolkit.data"},
    "toolkit.lossy": {"toolkit.picture_coder", "toolkit.container", "toolkit.data", "toolkit.restore"},
    "toolkit.rate_distortion": {"toolkit.picture_coder", "toolkit.lossy", "toolkit.container", "toolkit.data"},
    "toolkit.word_tests": set(),
    "toolkit.vector_baselines": set(),
    "toolkit.word_list": set(),
    "toolkit.vector_file": {"toolkit.word_list", "toolkit.coding", "toolkit.container"},
    "toolkit.vector_search": {"toolkit.vector_file", "toolkit.coding"},
    "toolkit.embeddings": {"toolkit.vector_search", "toolkit.vector_file", "toolkit.word_list"},
    "toolkit.callbacks": {"toolkit.head", "toolkit.container", "toolkit.pictures"},
    "toolkit.alone": {"toolkit.head", "toolkit.coding", "toolkit.container"},
    "toolkit.recipe": {
        "toolkit.model",
        "toolkit.head", "toolkit.alone", "toolkit.callbacks", "toolkit.nets.exact", "toolkit.picture_coder",
    },
    **{command: TOOLS for command in COMMANDS},
    "recipes": {
        "toolkit.coding", "toolkit.nets", "toolkit.data", "toolkit.head", "toolkit.callbacks", "toolkit.container",
        "toolkit.pictures", "toolkit.embeddings", "toolkit.word_tests", "toolkit.vector_baselines",
        "toolkit.picture_coder", "toolkit.rate_distortion", "toolkit.model",
    },
}  # fmt: skip

# What may be imported of others, where that is limited: by the layers that know no model.
LIGHTNING_FREE = (
    "toolkit.coding",
    "toolkit.nets",
    "toolkit.container",
    "toolkit.baselines",
    "toolkit.cli",
    "toolkit.word_list",
    "toolkit.vector_file",
    "toolkit.vector_search",
    "toolkit.embeddings",
)
FORBIDDEN = {"lightning", "hydra", "omegaconf"}


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


def forbidden(module: str, imported: set[str]) -> list[str]:
    """The imports of a module that the table does not allow."""
    rows = [name for name in TABLE if within(module, name)]
    assert rows, f"{module} is in no row of the table: say what it may import"
    allowed = TABLE[max(rows, key=len)]
    ours = {name for name in imported if name.split(".")[0] in ("toolkit", "recipes", "tests", "scripts", "configs")}
    return sorted(name for name in ours if not any(within(name, folder) for folder in allowed))


@pytest.mark.parametrize("recipe", ["bitswap", "vae_lossless", "ikvae", "vae"])
def test_compressing_waits_for_no_library_that_only_training_needs(recipe: str) -> None:
    slow = "lightning", "torchmetrics", "torchvision", "matplotlib", "tensorboard", "gensim", "scipy", "torch._dynamo"
    program = (
        f"import sys, toolkit.compress, toolkit.decompress, recipes.{recipe}; print(*{set(slow)} & {{*sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("path", [path for path in FILES if path.name != "__init__.py"], ids=module_of)
def test_a_file_imports_only_what_the_table_allows(path: Path) -> None:
    module = module_of(path)
    imported = imports(path.read_text(), module.rpartition(".")[0])
    assert forbidden(module, imported) == []
    if any(within(module, folder) for folder in LIGHTNING_FREE):
        assert not {name.split(".")[0] for name in imported} & FORBIDDEN


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py"], ids=module_of)
def test_packages_import_nothing(path: Path) -> None:
    assert imports(path.read_text(), module_of(path)) == set()


def test_no_row_of_the_table_lets_layers_import_in_a_circle() -> None:
    reach = {name: set(allowed) for name, allowed in TABLE.items()}
    before = None
    while before != (before := {name: set(far) for name, far in reach.items()}):
        for name in reach:
            reach[name] |= {
                far
                for near in reach[name]
                for row in reach
                if within(row, near) or within(near, row)
                for far in reach[row]
            }
    folders = {"toolkit.data", "toolkit.nets"}  # files of one folder may import each other
    circles = [name for name in reach if name not in folders and any(within(name, far) for far in reach[name])]
    assert circles == []


def test_every_file_says_in_its_first_line_what_it_is() -> None:
    for path in FILES:
        first = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]
        assert len(first) > 20, path


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("toolkit.coding.message", "def f():\n    from toolkit.coding import codecs", ["toolkit.coding.codecs"]),
        ("toolkit.coding.codecs", "from . import message\nfrom .rec import x", ["toolkit.coding.rec"]),
        ("toolkit.head", "import toolkit.recipe as r", ["toolkit.recipe"]),
        ("toolkit.data.images", "from toolkit import head", ["toolkit.head"]),
        (
            "recipes.vae",
            "from recipes.bitswap import head\nfrom toolkit import train",
            ["recipes.bitswap", "toolkit.train"],
        ),
        ("toolkit.train", "from recipes import bitswap", ["recipes.bitswap"]),
        ("toolkit.recipe", "import torch\nfrom toolkit.head import Coder", []),
    ],
)
def test_an_import_against_the_table_is_found(module: str, source: str, found: list[str]) -> None:
    assert forbidden(module, imports(source, module.rpartition(".")[0])) == found
