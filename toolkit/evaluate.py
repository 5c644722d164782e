"""python -m toolkit.evaluate run=RUN: rate and speed on held-out rows, beside the codecs that people use today."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolkit import cli
from toolkit.data.splits import spread
from toolkit.images import baselines, rate_distortion
from toolkit.runs import Recipe, build_data, coder, evaluation, has_exact, load, lossy_coder
from toolkit.training.evaluation import evaluate
from toolkit.training.plots import rate_bars, rate_table

USAGE = """usage: python -m toolkit.evaluate run=RUN

Encode the test rows of a run's data set to a real file, decode and compare them; print bits per dimension, where they
went, and speeds; write evaluation.txt, evaluation.png and evaluation.tkc into the run folder. Of a lossy model
(recipe=vae): its rate-distortion curve on held-out pictures, beside other codecs, and its times."""
KNOWN = {
    "run": "folder of the trained model (outputs/...)",
    "pictures": "of a lossy model: folder of held-out pictures (default: that of the training's configuration)",
    "rows": "test rows to code, evenly spread, or all (default 1000); more than there are come again, to time many",
    "exact": "true or false: with the networks whose files decode anywhere (default true, if the run has them)",
    "device": "auto, cpu or cuda (default auto)",
}
MANY = 4096  # rows after which speeds hardly rise


@cli.command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    values = cli.arguments(argv, KNOWN, {"run"}, USAGE)
    run = Path(values["run"])
    device = values.get("device", "auto")
    recipe, cfg = load(run, device)
    if recipe.lossy:
        return _evaluate_lossy(recipe, cfg, run, values)
    exact = cli.boolean(values, "exact") if "exact" in values else has_exact(run)
    codes = load(run, device, exact)[0] if exact else recipe
    data = build_data(cfg)
    test = data.test
    count = len(test) if values.get("rows") == "all" else cli.positive(values, "rows", 1000)
    once = spread(test, count)
    # The codecs beside get each row once: some would find the second for nothing.
    rows = once.repeat(-(-count // len(once)), *[1] * (once.dim() - 1))[:count] if "rows" in values else once
    make = coder(codes, cfg, len(rows))
    evaluate(recipe.module, make, rows[:8], run / "evaluation.tkc")  # loading the coder is no part of a speed
    result = evaluate(recipe.module, make, rows, run / "evaluation.tkc")
    others = baselines.lossless(once, rows=len(once), mosaic_rows=len(once))
    text = rate_table(f"{data.name}, {len(rows)} test rows", result, others)
    if len(rows) < MANY:
        text += f"\nSpeeds of few rows are those of starting, with few stacks; time many by rows={MANY}."
    print(text)
    (run / "evaluation.txt").write_text(text + "\n")
    rate_bars(result, others).savefig(run / "evaluation.png", dpi=150)
    return 0


def _evaluate_lossy(recipe: Recipe, cfg: Any, run: Path, values: dict[str, str]) -> int:
    if "pictures" in values:
        cfg.recipe.evaluation.pictures = values["pictures"]
    held_out = evaluation(cfg, run)
    pictures = held_out.pictures()
    first, lam = pictures[0], sorted(held_out.lambdas)[len(held_out.lambdas) // 2]
    spent = rate_distortion.speed(rate_distortion.times(lossy_coder(recipe)[0], first, lam), first[0].numel())
    curves = held_out.curves(recipe.module, blind=True)
    text = f"{len(pictures)} pictures\n{rate_distortion.table(curves)}\nthe first, lambda {lam:g}:\n{spent}"
    print(text)
    (run / "evaluation.txt").write_text(text + "\n")
    rate_distortion.figure(curves, f"{len(pictures)} held-out pictures").savefig(run / "evaluation.png", dpi=150)
    return 0


if __name__ == "__main__":
    sys.exit(main())
