"""python scripts/to_zoo.py RUN NAME: a run folder into a model that ships: configuration, safetensors, a card to fill.

`--half` rounds floats to 16 bits, which halves the size of a large network.

What the run does not know stands as "?" in the card; tests/test_zoo.py fails until it is filled.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save
from torch import Tensor

from toolkit import cli, zoo
from toolkit.container import temporary_of
from toolkit.run import CONFIG, EXACT, SHIPPED, WEIGHTS
from toolkit.runs import has_exact, head_of, load


def ship(run: Path, name: str, top: Path, codes_only: bool = False, half: bool = False) -> Path:
    """Write TOP/NAME of a run; codes_only: without the trained weights, which the exact ones stand for; half: floats of
    16 bits.

    Raises ValueError for a name that is no word, a folder that is there, or a model of more than `zoo.MOST_BYTES`.
    """
    if not name.replace("-", "_").isidentifier():
        raise ValueError(f"expected a name of letters, digits, - and _, got {name!r}; give one")
    head_of(run)  # raises for what is no run
    target = top / name
    if target.exists():
        raise FileExistsError(f"expected a new model, got {target}, which exists; remove it first")
    made = temporary_of(target)
    made.mkdir(parents=True)
    try:
        shutil.copy(run / CONFIG, made)
        fingerprints = []
        for exact in [True] * has_exact(run) + [False] * (not codes_only):
            loaded = load(run, "cpu", exact)
            file = made / (EXACT if exact else WEIGHTS)
            # As bytes, as its own function makes files that others cannot read.
            state = _apart(loaded.module.state_dict())
            if half and not exact:
                state = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
                loaded.module.load_state_dict(state)
            file.with_suffix(SHIPPED).write_bytes(save(state))
            fingerprints.append(loaded.head.identity(loaded)["model"])
            again = load(made, "cpu", exact)
            assert again.head.identity(again)["model"] == fingerprints[-1]
        (made / zoo.CARD).write_text(_card(run, name, loaded.cfg, fingerprints), encoding="utf-8")
        size = sum(file.stat().st_size for file in made.iterdir())
        if size > zoo.MOST_BYTES:
            raise ValueError(f"expected at most {zoo.MOST_BYTES} bytes, got {size}; train a smaller network")
        made.rename(target)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return target


def _apart(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share no memory, as safetensors wants them."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}


def _card(run: Path, name: str, cfg: Any, fingerprints: list[str]) -> str:
    measured = run / "evaluation.txt"
    fields = dict.fromkeys(zoo.FIELDS, zoo.BLANK) | {
        "recipe": str(cfg.recipe.name), "seed": int(cfg.seed), "hours": f"{cfg.minutes / 60:.2f} at most",
        "fingerprints": fingerprints,
    }  # fmt: skip
    text = f"# {name}\n"
    if measured.is_file():
        text += f"\n`toolkit evaluate` of the run says:\n\n```text\n{measured.read_text().rstrip()}\n```\n"
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=100)}---\n\n{text}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a training")
    parser.add_argument("name", help="of the model")
    parser.add_argument("--to", type=Path, default=zoo.FOLDER, help="folder of models (default: the zoo's)")
    parser.add_argument("--codes-only", action="store_true", help="with exact weights only")
    parser.add_argument("--half", action="store_true", help="floats of 16 bits")
    asked = parser.parse_args()
    try:
        target = ship(asked.run, asked.name, asked.to, asked.codes_only, asked.half)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {cli.said(error)}") from error
    print(f"{target}: {sum(file.stat().st_size for file in target.iterdir())} bytes; fill {target / zoo.CARD}")


if __name__ == "__main__":
    main()
