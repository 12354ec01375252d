"""bench/load.py at a small size: what it fills in is what the service reads, and every command is timed."""

import json
import sys

import pytest

from bench import load
from bench.filling import PATTERNS, fill, study_name
from db import results
from db.session import Database
from searchsvc import cache, queries


def test_what_is_filled_in_is_read_as_the_service_s_own(empty_url: str) -> None:
    with Database.open(empty_url) as database:
        assert list(fill(database, count=200, number=4, samples=16)) == ["evaluations", "trials"]
        listed = {row["name"]: row["evaluations"] for row in queries.list_studies(database)}
        assert listed == {"pattern": PATTERNS, **{study_name(number): 50 for number in range(4)}}
        keys = {one.evaluation.key for n in range(4) for one in results.evaluations(database, study_name(n))}
        assert len(keys) == 200
        shown = queries.show_study(database, study_name(1))
        points = queries.study_points(database, study_name(1))
        assert shown["trials"] == len(points) == 50
        assert [point.number for point in points] == list(range(50))
        found = results.find_evaluation(database, max(keys))
        assert found is not None
        assert len(found.scores) == len(found.samples.ids) == 16
        (group,) = cache.show_cache(database)
        assert (group["evaluations"], group["studies"], group["unused"]) == (200 + PATTERNS, 5, 0)
        for call in load._commands(database, 2).values():
            call()


def test_a_table_and_a_json_line_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--evaluations", "60", "--studies", "2", "--samples", "8", "--only", "sqlite"]
    monkeypatch.setattr(sys, "argv", ["load", *options])
    load.main()
    *table, line = capsys.readouterr().out.splitlines()
    result = json.loads(line)
    assert (result["evaluations"], result["studies"], result["samples"]) == (60, 2, 8)
    assert all(row["milliseconds"] > 0 for row in result["rows"])
    assert result["bytes"]["sqlite"]["evaluations"] > 0
    shown = "\n".join(table)
    for row in result["rows"]:
        assert row["command"] in shown
