"""The script that times rankers, at a small width."""

import json
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "bench" / "topv.py"


@pytest.mark.parametrize("ranker", ["topv", "divprune", "knorm", "dart"])
def test_a_table_and_a_json_line_are_printed(
    ranker: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--width", "8", "--batch", "1", "2", "--seconds", "0", "--ranker", ranker]
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, *options])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    *table, line = capsys.readouterr().out.splitlines()
    result = json.loads(line)
    assert (result["ranker"], result["tokens"], result["width"]) == (ranker, 576, 8)
    cpu = [row for row in result["rows"] if row["device"] == "cpu"]
    assert [row["batch"] for row in cpu] == [1, 2]
    assert all(0 < row["fastest_ms"] <= row["median_ms"] and row["calls"] == 5 for row in cpu)
    assert len(table) == 2 + len(result["rows"])
