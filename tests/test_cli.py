"""The command line's own behaviour: help, formats, exit statuses; the commands are tested where their work is."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from searchsvc.cli.app import app, run
from searchsvc.cli.output import Format, cell, flat, message, show_rows


def commands(group: Any = app, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command as the words that call it."""
    found = [(*path, info.name or info.callback.__name__) for info in group.registered_commands]
    for sub in group.registered_groups:
        found += commands(sub.typer_instance, (*path, sub.name))
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_has_help(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Usage: " in shown
    assert len(shown.split("Options")[0].strip().splitlines()) > 2, "a command without a sentence about it"


@pytest.fixture
def cost(tiny_model: Path) -> list[str]:
    return [
        "cost",
        str(tiny_model),
        "--visual-tokens",
        "16",
        "--text-tokens",
        "6",
        "--schedule",
        "fastv:k=2,r=0.5",
    ]


def test_cost_prints_the_documented_keys(cost: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*cost, "--output", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert set(shown) == {
        "schema_version", "visual_tokens", "text_tokens", "vision_token_ratio", "kv_bytes", "params", "decoder_ratio",
        "counters",
    }  # fmt: skip
    assert set(shown["counters"]["paper"]) == {"flops_per_layer_mean", "flops", "ratio", "visual_ratio"}
    exact = {"flops", "flops_last", "macs", "ratio", "decoder_flops", "vision_flops"}
    assert set(shown["counters"]["exact"]) == exact
    assert shown["vision_token_ratio"] == pytest.approx((2 + 6 * 0.5) / 8)


def test_formats_say_the_same(cost: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    shown = {}
    for name in ("json", "yaml", "csv"):
        assert run([*cost, "--output", name]) == 0
        shown[name] = capsys.readouterr().out
    record = json.loads(shown["json"])
    assert yaml.safe_load(shown["yaml"]) == record
    rows = {row["field"]: row["value"] for row in csv.DictReader(io.StringIO(shown["csv"]))}
    assert float(rows["decoder_ratio"]) == record["decoder_ratio"]
    assert float(rows["counters.exact.flops"]) == record["counters"]["exact"]["flops"]


def test_doctor_finds_the_embedded_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--db", str(tmp_path / "x.db"), "--output", "json"]) == 0
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert all(check["ok"] for check in checks)


def test_doctor_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--db", str(tmp_path / "no" / "x.db"), "--output", "json"]) == 2
    (check,) = [check for check in json.loads(capsys.readouterr().out)["checks"] if not check["ok"]]
    assert check["check"] == "database"
    assert check["advice"]


def test_no_colour_off_a_terminal(cost: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cost) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_upgrade_makes_the_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = ["--db", str(tmp_path / "new.db")]
    assert run(["db", "upgrade", *url]) == 0
    assert run(["study", "list", *url, "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["studies"] == []


def test_nested_records_are_flattened() -> None:
    assert flat({"a": {"b": 1, "c": {"d": 2}}, "e": 3}) == {"a.b": 1, "a.c.d": 2, "e": 3}


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (0.51234, "0.5123"), (1.0, "1"), (12345, "12,345"), (True, "True"), ([1, 2], "1 2")],
)
def test_cells_are_short(value: object, shown: str) -> None:
    assert cell(value) == shown


def test_text_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither `:100:` becomes an emoji nor `[a]` a style."""
    message("data.jsonl:100: image: is missing")
    show_rows([{"path": "/set[a]/m.jsonl:100:"}], Format.TABLE, title="[b] :100:", key="rows")
    shown = capsys.readouterr()
    assert "data.jsonl:100: image" in shown.err
    assert "/set[a]/m.jsonl:100:" in shown.out
    assert "[b] :100:" in shown.out


def test_what_ray_reports_is_not_in_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray prints on stdout what happens to its workers, whenever it hears of it, as long as it is joined."""

    def verify(*_: Any, **__: Any) -> dict[str, Any]:
        print("(raylet) A worker died")
        return {"split": "test"}

    monkeypatch.setattr("searchsvc.verification.verify_profile", verify)
    monkeypatch.setattr("searchsvc.cluster.ray.is_initialized", lambda: True)
    monkeypatch.setattr("searchsvc.cluster.ray.shutdown", lambda: print("(raylet) Another one"))
    words = ["profile", "verify", "p.yaml", "--db", str(tmp_path / "x.db"), "--output", "json"]
    assert run(words) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["split"] == "test"
    assert shown.err.count("(raylet)") == 2
