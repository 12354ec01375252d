"""The whole loop on a tiny random model, typed as a person types it: real Ray, real database, real kills."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from PIL import Image
from test_standalone import ALONE
from tiny_vlm import save_tiny_vlm

import pruners
from db import results
from db.session import Database
from searchsvc.points import measured_in
from searchsvc.storage import optuna_storage
from studies.measured import Measured

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


SEARCH = ["--method", "p-sigmoid", "-O", "budgets=[0.5, 0.25]", "-O", "trials=10"]


def searchsvc(*arguments: object, status: int = 0) -> str:
    """Run a command in a process of its own; return what it printed on stdout."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done.stdout


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "searchsvc", *map(str, arguments)]


def create(db: Path, model: Path, manifest: Path, *arguments: object) -> list[object]:
    return [
        "study", "create", "loop", "--model", model, "--data", manifest, "--metric", "fidelity", "--db", db,
        "--batch-size", 4, "--max-drop", 0.9, *arguments,
    ]  # fmt: skip


def trials(db: Path) -> list[Measured]:
    with Database.open(f"sqlite:///{db}") as database:
        return measured_in(optuna.load_study(study_name="loop", storage=optuna_storage(database)))


def same(points: list[Measured]) -> list[Any]:
    """Everything of the trials that must not depend on where, when and how often the study ran."""
    return [(p.number, p.key, p.method, p.label, p.params, p.accuracy, p.flops_ratio) for p in points]


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_manifest: Path) -> Path:
    """A database with one finished study on two workers."""
    db = tmp_path_factory.mktemp("loop") / "studies.db"
    search = [*SEARCH, "--workers", 2]
    searchsvc(*create(db, tiny_model, tiny_manifest, *search), "--run")
    return db


def test_front_is_drawn_and_printed(loop: Path, tmp_path: Path) -> None:
    shown = json.loads(
        searchsvc("study", "front", "loop", "--db", loop, "--output", "json", "--plots", tmp_path)
    )
    assert shown["schema_version"] == 1
    ratios = [point["flops_ratio"] for point in shown["points"]]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[-1] < 1
    for name in ("front", "schedule"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.size[0] > 800
        assert "plotly" in (tmp_path / f"{name}.html").read_text()


def test_every_method_is_compared_with_chance(loop: Path) -> None:
    methods = [point.method for point in trials(loop)]
    assert methods[0] == "baseline"
    assert methods.count("random") == 2 * 5
    assert methods.count("uniform") == 2


def test_running_again_evaluates_nothing(loop: Path) -> None:
    before, tried = same(trials(loop)), attempts(loop)
    searchsvc("study", "run", "loop", "--db", loop)
    assert same(trials(loop)) == before
    assert attempts(loop) == tried


def attempts(db: Path) -> list[str]:
    with Database.open(f"sqlite:///{db}") as database:
        return [attempt.key for attempt in results.attempts(database, "loop")]


def test_front_snapshot_is_kept_once(loop: Path) -> None:
    with Database.open(f"sqlite:///{loop}") as database:
        (front,) = results.fronts(database, "loop")
    assert 0 < front.hypervolume <= 1


def test_workers_do_not_change_a_number(
    loop: Path, tmp_path: Path, tiny_model: Path, tiny_manifest: Path
) -> None:
    alone = tmp_path / "alone.db"
    search = [*SEARCH, "--workers", 1]
    searchsvc(*create(alone, tiny_model, tiny_manifest, *search), "--run")
    assert same(trials(alone)) == same(trials(loop))


def test_profile_prunes_the_model_and_verifies_to_the_sample(
    loop: Path, tmp_path: Path, tiny_model: Path
) -> None:
    path = tmp_path / "profile.yaml"
    searchsvc("profile", "export", "loop", "--max-drop", 0.99, "-o", path, "--db", loop)
    profile = pruners.PruningProfile.load(path)
    assert profile.expected is not None
    assert profile.expected.split == "test"
    assert profile.expected.samples == 8
    verified = json.loads(searchsvc("profile", "verify", path, "--db", loop, "--output", "json"))
    assert verified["as_exported"] is True
    assert verified["pruned"]["accuracy"] == profile.expected.accuracy
    assert verified["flops"]["decoder_ratio"] == profile.expected.flops_ratio.decoder
    assert verified["speed"]["pruned"]["prefill_ms"] > 0
    program = [sys.executable, "-c", ALONE + TWO_LINES, str(tiny_model), str(path)]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = 5  # <s> and four words
    assert json.loads(done.stdout) == [text + count for count in profile.schedule.counts(16)]


def test_profile_is_verified_on_any_manifest(loop: Path, tmp_path: Path, tiny_manifest: Path) -> None:
    path = tmp_path / "profile.yaml"
    searchsvc("profile", "export", "loop", "--trial", 1, "-o", path, "--db", loop)
    rows = [json.loads(line) for line in tiny_manifest.read_text().splitlines()][:5]
    for row in rows:
        del row["split"]
    other = tiny_manifest.with_name("undivided.jsonl")
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for db in (loop, tmp_path / "empty.db"):
        shown = searchsvc("profile", "verify", path, "--data", other, "--db", db, "--output", "json")
        verified = json.loads(shown)
        assert (verified["samples"], verified["metric"], verified["as_exported"]) == (5, "fidelity", None)


def test_schedule_transfers_to_another_model_of_the_same_depth(loop: Path, tmp_path: Path) -> None:
    other = save_tiny_vlm(tmp_path / "wider", layers=8, width=48)
    path = tmp_path / "profile.yaml"
    searchsvc("profile", "export", "loop", "--trial", 1, "-o", path, "--db", loop)
    refused = ["profile", "verify", path, "--model", other, "--db", loop]
    searchsvc(*refused, status=2)
    verified = json.loads(searchsvc(*refused, "--transfer", "--output", "json"))
    assert (verified["transfer"], verified["model"], verified["samples"]) == (True, str(other), 8)
    assert verified["as_exported"] is None
    assert verified["vision_token_ratio"] < 1


#: What a user of a profile writes, and what the tests want to know.
TWO_LINES = """\
import json
import pruners
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained(sys.argv[1])
processor = AutoProcessor.from_pretrained(sys.argv[1])
image = Image.new("RGB", (32, 32), "red")
inputs = processor(text="<s> <image> what digit is red", images=image, return_tensors="pt")
profile = pruners.PruningProfile.load(sys.argv[2])
with pruners.pruned(model, profile) as handle:
    model.generate(**inputs, max_new_tokens=2, do_sample=False)
print(json.dumps([len(layer[0]) for layer in handle.trace.kept]))
"""


def test_kill_and_run_again_is_the_undisturbed_study(
    loop: Path, tmp_path: Path, tiny_model: Path, tiny_manifest: Path
) -> None:
    """`kill -9` on the coordinator again and again: nothing lost, nothing repeated, the same in the end."""
    db = tmp_path / "killed.db"
    search = [*SEARCH, "--workers", 2]
    searchsvc(*create(db, tiny_model, tiny_manifest, *search))
    finished: list[Any] = []
    for more in (1, 3, 4):
        process = subprocess.Popen(
            command("study", "run", "loop", "--db", db), stderr=subprocess.DEVNULL, start_new_session=True
        )
        wanted = ended(db) + more
        while ended(db) < wanted:
            assert process.poll() is None
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        now = told(db)
        assert now[: len(finished)] == finished
        finished = now
    resumed = subprocess.run(command("study", "run", "loop", "--db", db), capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert f"(unpruned {trials(db)[0].accuracy:.3f})" in resumed.stderr.splitlines()[0]
    assert same(trials(db)) == same(trials(loop))
    with Database.open(f"sqlite:///{db}") as database, Database.open(f"sqlite:///{loop}") as undisturbed:
        assert results.fronts(database, "loop")[-1].points == results.fronts(undisturbed, "loop")[-1].points
        attempts = [attempt.key for attempt in results.attempts(database, "loop") if attempt.error is None]
    assert len(attempts) == len(set(attempts))


def told(db: Path) -> list[Any]:
    try:
        return same(trials(db))
    except KeyError:
        return []


def test_worker_that_dies_is_replaced(
    loop: Path, tmp_path: Path, tiny_model: Path, tiny_manifest: Path
) -> None:
    db = tmp_path / "worker.db"
    search = [*SEARCH, "--workers", 2]
    searchsvc(*create(db, tiny_model, tiny_manifest, *search))
    process = subprocess.Popen(command("study", "run", "loop", "--db", db), stderr=subprocess.DEVNULL)
    while len(workers := ray_workers(process.pid)) < 2:
        assert process.poll() is None
    while ended(db) < 1:  # evaluations take milliseconds: no time to look for workers now
        assert process.poll() is None
        time.sleep(0.002)
    for number in (signal.SIGSTOP, signal.SIGKILL):  # whoever is stopped has something to do before it dies
        for worker in workers:
            os.kill(worker, number)
        time.sleep(1)
    assert process.wait() == 0
    assert same(trials(db)) == same(trials(loop))
    with Database.open(f"sqlite:///{db}") as database:
        assert [attempt for attempt in results.attempts(database, "loop") if attempt.error is not None]


def ended(db: Path) -> int:
    """How many trials have ended, by the quickest way to know."""
    with contextlib.closing(sqlite3.connect(f"file:{db}?mode=ro", uri=True)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM trials WHERE state = 'COMPLETE'").fetchone()
    return int(count)


def ray_workers(coordinator: int) -> list[int]:
    """Processes below the coordinator that hold an evaluator."""
    import psutil

    found = []
    for child in psutil.Process(coordinator).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it may end while we look
            words = child.cmdline()
            found += [child.pid] if words and "Replica" in words[0] else []
    return found


def test_interrupt_gives_the_lease_back(tmp_path: Path, tiny_model: Path, tiny_manifest: Path) -> None:
    db = tmp_path / "interrupted.db"
    searchsvc(*create(db, tiny_model, tiny_manifest, "--method", "fastv"))
    process = subprocess.Popen(
        command("study", "run", "loop", "--db", db),
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background jobs ignore Ctrl-C, and so would their children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while len(told(db)) < 1:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in err
    listed = json.loads(searchsvc("study", "list", "--db", db, "--output", "json"))
    assert listed["studies"][0]["status"] == "queued"
    searchsvc("study", "run", "loop", "--db", db)


def test_goal_out_of_reach_exits_with_five(tmp_path: Path, tiny_model: Path, tiny_manifest: Path) -> None:
    db = tmp_path / "goal.db"
    arguments = create(db, tiny_model, tiny_manifest, "--method", "random")
    arguments[arguments.index("--max-drop") + 1] = 0
    searchsvc(*arguments, "--run", status=5)
    assert len(trials(db)) > 1
