"""toolkit.evaluate: what it prints and keeps, of a run's own test rows."""

from pathlib import Path
from typing import Any

import pytest

from tests.tiny import run_folder
from toolkit import evaluate
from toolkit.container import Reader
from toolkit.heads import rows as rows_head


def rates(text: str) -> dict[str, float]:
    """The rates of the other codecs in the table."""
    lines = [line.rsplit(maxsplit=1) for line in text.splitlines() if line.startswith("  ") and "<--" not in line]
    return {name.strip(): float(rate) for name, rate in lines}


def test_it_codes_as_many_rows_as_asked_and_all_over_again_if_there_are_fewer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_head, "MANY", 80)
    build = rows_head.build_data

    def few(cfg: Any) -> Any:
        data = build(cfg)
        data.test = data.test[:50]
        return data

    monkeypatch.setattr(rows_head, "build_data", few)
    run, printed = run_folder(tmp_path / "run", (1, 8, 8)), {}
    for wish, rows in (("all", 50), ("20", 20), ("80", 80)):
        assert evaluate.main([f"run={run}", f"rows={wish}"]) == 0
        printed[wish] = capsys.readouterr().out
        assert f"{rows} test rows, decoded equal" in printed[wish]
        assert printed[wish].count("% of the networks' time") == 2
        assert ("time many by rows=80" in printed[wish]) == (rows < 80)
        assert (run / "evaluation.txt").read_text() == printed[wish]
        with Reader(run / "evaluation.tkc") as reader:
            assert sum(chunk.rows for chunk in reader.chunks) == rows
    # Rows that come again would make the others' rates look better.
    assert rates(printed["80"]) == rates(printed["all"]) != rates(printed["20"])


@pytest.mark.parametrize("rows", ["0", "-3", "few"])
def test_a_number_of_rows_that_is_none_is_refused(rows: str, tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", (1, 8, 8))
    with pytest.raises(SystemExit, match="expected rows= a whole number of at least 1, got"):
        evaluate.main([f"run={run}", f"rows={rows}"])
