"""python -m toolkit.make_exact run=RUN: give a trained model the exact networks with which files decode anywhere."""

import sys
from collections.abc import Sequence

from toolkit import cli, places, zoo
from toolkit.run import EXACT
from toolkit.runs import save_exact

USAGE = """usage: toolkit make_exact run=RUN

Write the exact form of a run's networks into its folder. toolkit.train does so at its end; this is for runs of earlier
versions. It calibrates on the training rows of the run's data set."""
KNOWN = {"run": "folder of the trained model (outputs/...)"}


@cli.command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    given = cli.arguments(argv, KNOWN, {"run"}, USAGE)["run"]
    if places.is_url(given):
        places.check_new(places.join(given, EXACT), overwrite=True)
    with cli.streams({"run": given}, "") as (values, shown):
        run = zoo.folder_of(values["run"])
        if zoo.is_ours(run):
            raise ValueError(f"expected the folder of a training, got {run.name}, which ships as it is; leave it so")
        save_exact(run)
        if places.is_url(given):
            places.put(run / EXACT, places.join(given, EXACT))
        print(shown(f"{run / EXACT}: files of this run now decode on any machine"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
