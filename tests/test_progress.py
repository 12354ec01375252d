"""Progress off a terminal: a line every tenth of the way, with the best so far."""

import pytest
from test_plots import point

from searchsvc.progress import Standing, bars


def test_a_line_every_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    baseline, best = point(0, 1.0, 0.95, "baseline"), point(3, 0.5, 0.94)
    with bars("docs") as told:
        for done in range(1, 41):
            told(Standing(done=done, expected=40, baseline=baseline, best=best))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11
    assert lines[1] == "docs: 4 of about 40 evaluations, 0.940 at 0.50 FLOPs (unpruned 0.950)"
    assert lines[-1].startswith("docs: 40 of about 40")
