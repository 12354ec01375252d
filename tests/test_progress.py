"""Progress off a terminal: a line every tenth of the way, with the best so far."""

import pytest
from test_plots import point

from searchsvc.progress import Standing, bars


def test_a_line_every_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    baseline, best = point(0, 1.0, 0.95, "baseline"), point(3, 0.5, 0.94)
    with bars("docs") as told:
        for done in range(1, 41):
            told.trial(Standing(done=done, expected=40, baseline=baseline, best=best))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11
    assert lines[1] == "docs: 4 of about 40 evaluations, 0.940 at 0.50 FLOPs (unpruned 0.950)"
    assert lines[-1].startswith("docs: 40 of about 40")


def test_a_line_for_every_member_timed(capsys: pytest.CaptureFixture[str]) -> None:
    with bars("docs") as told:
        told.timed(2, 3)
        told.timed(3, 3)
    assert capsys.readouterr().err.splitlines() == [
        "docs: 2 of 3 front members timed",
        "docs: 3 of 3 front members timed",
    ]


def test_on_a_terminal_the_bar_counts_the_members(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with bars("docs") as told:
        told.timed(2, 3)
    drawn = capsys.readouterr().err.splitlines()
    assert any("2/3" in line and "front members timed" in line for line in drawn)
