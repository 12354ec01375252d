"""A study with a latency goal, typed as a person types it: its front timed on real Ray, kept, exported, resumed."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from test_end_to_end import SEARCH, command, create, ray_workers, same, searchsvc, trials
from tiny_vlm import save_tiny_vlm

import pruners
from db import results
from db.latencies import latencies
from db.session import Database
from db.values import Latency
from searchsvc.latencies import ROUNDS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

GOAL = 0.95


def timed(db: Path) -> list[Latency]:
    with Database.open(f"sqlite:///{db}") as database:
        return latencies(database, "loop")


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory, tiny_manifest: Path) -> Path:
    """A finished study of a model so wide that half of its visual tokens take longer than our hooks."""
    folder = tmp_path_factory.mktemp("fast")
    model, db = save_tiny_vlm(folder / "wide", layers=8, width=512), folder / "studies.db"
    search = ["--method", "fastv", "-O", "layers=[2]", "-O", "ratios=[0.75]", "--batch-size", 12]
    given = create(db, model, tiny_manifest, *search, "--goal", f"max-latency-ratio={GOAL}", "--run")
    done = subprocess.run(command(*given), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"; within 0.9 of it and {GOAL:g} of the prefill time: trial " in done.stderr.splitlines()[-1]
    return db


@pytest.fixture(scope="module")
def shown(fast: Path) -> list[dict[str, Any]]:
    """The pruned members of that study's front, as they are shown."""
    return front(fast)


def front(db: Path) -> list[dict[str, Any]]:
    points = json.loads(searchsvc("study", "front", "loop", "--db", db, "--output", "json"))["points"]
    return [point for point in points if point["method"] != "baseline"]


def test_the_front_shows_what_was_measured(fast: Path, shown: list[dict[str, Any]]) -> None:
    stored = timed(fast)
    assert len(stored) == len(shown) > 0
    for row, member in zip(stored, shown, strict=True):
        assert (row.device, row.batch_size, row.rounds) == ("cpu, 1 threads", 12, ROUNDS)
        assert member["prefill_ratio"] == row.ratio
        assert member["prefill_interval_95"] == [row.low, row.high]
        assert 0 < row.low <= row.ratio <= row.high
        assert row.times["prefill_ms"] < row.times["baseline_prefill_ms"]


def test_the_snapshot_of_the_front_and_the_study_tell_it(fast: Path, shown: list[dict[str, Any]]) -> None:
    with Database.open(f"sqlite:///{fast}") as database:
        (kept,) = results.fronts(database, "loop")
    snapshot = [(point["trial"], point["prefill_ratio"]) for point in kept.points if point["prefill_ratio"]]
    assert snapshot[::-1] == [(member["trial"], member["prefill_ratio"]) for member in shown]
    study = json.loads(searchsvc("study", "show", "loop", "--db", fast, "--output", "json"))
    assert study["latency"] == {
        "members": len(shown), "timed": len(shown), "device": ["cpu, 1 threads"], "batch_size": [12], "rounds": [ROUNDS],
        "goal_met": True,
    }  # fmt: skip
    assert study["best"]["prefill_ratio"] <= GOAL


def test_the_profile_records_it(fast: Path, tmp_path: Path, shown: list[dict[str, Any]]) -> None:
    path = tmp_path / "profile.yaml"
    searchsvc("profile", "export", "loop", "--max-drop", 0.99, "-o", path, "--db", fast)
    profile = pruners.PruningProfile.load(path)
    assert profile.provenance is not None
    (member,) = [member for member in shown if member["trial"] == profile.provenance.trial]
    assert profile.expected is not None
    latency = profile.expected.latency
    assert latency is not None
    assert latency.prefill_ratio == member["prefill_ratio"] <= GOAL
    assert list(latency.prefill_interval or ()) == member["prefill_interval_95"]
    assert (latency.rounds, latency.batch_size, latency.device) == (ROUNDS, 12, "cpu, 1 threads")


def test_kill_amid_the_measuring_and_run_again(tmp_path: Path, tiny_model: Path, tiny_manifest: Path) -> None:
    """`kill -9` on the coordinator, then on its worker: no trial lost, no member measured twice."""
    db = tmp_path / "killed.db"
    searchsvc(*create(db, tiny_model, tiny_manifest, *SEARCH, "--goal", "max-latency-ratio=0.01"))
    process = start(db)
    wait_for(process, db, 1)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before, finished = timed(db), same(trials(db))
    members = len(front(db))
    assert 1 <= len(before) < members
    searchsvc("profile", "export", "loop", "--knee", "-o", tmp_path / "p.yaml", "--db", db, status=2)

    process = start(db)
    wait_for(process, db, len(before) + 1)
    os.kill(ray_workers(process.pid)[0], signal.SIGKILL)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 5
    last = said.splitlines()[-1]
    assert "nothing within 0.9 of it takes at most 0.01 of the prefill time: the nearest is trial " in last
    assert last.endswith(" too slow")
    assert f"loop: {members} of {members} front members timed" in said
    assert f"loop: {len(before)} of" not in said
    after = timed(db)
    assert after[: len(before)] == before
    assert len({row.key for row in after}) == len(after) == members
    assert same(trials(db)) == finished
    with Database.open(f"sqlite:///{db}") as database:
        assert [attempt for attempt in results.attempts(database, "loop") if attempt.error is not None]

    again = subprocess.run(command("study", "run", "loop", "--db", db), capture_output=True, text=True)
    assert again.returncode == 5
    assert "timed" not in again.stderr
    assert timed(db) == after
    refused = subprocess.run(
        command("profile", "export", "loop", "--knee", "-o", tmp_path / "p.yaml", "--db", db),
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 5
    assert "no schedule takes at most 0.01 of the prefill time" in refused.stderr


def start(db: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command("study", "run", "loop", "--db", db), stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for(process: "subprocess.Popen[str]", db: Path, count: int) -> None:
    """Until so many members have been timed."""
    while len(timed(db)) < count:
        assert process.poll() is None
        time.sleep(0.05)
