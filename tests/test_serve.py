"""`searchsvc serve` as real processes: studies are shared, taken over, given back; nothing is lost or done twice."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from db_cases import DATASET, MODEL, REPOSITORY

from db import results
from db.requests import request, resume
from db.session import Database
from db.studies import create_study, get_study, list_studies

TESTS = Path(__file__).parent
COUNTING = (sys.executable, TESTS / "counting_child.py")
LATE = ("sh", "-c", f'sleep 4; exec "{COUNTING[0]}" "{COUNTING[1]}"')
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


class Served:
    """One controller; its log is read as it comes."""

    def __init__(
        self, url: str, *options: object, cpus: int = 2, lease: float = 30.0, command=COUNTING
    ) -> None:
        words = [sys.executable, TESTS / "simulated_serve.py", url, cpus, lease, *options, *command]
        self.process = subprocess.Popen(
            [str(word) for word in words], stderr=subprocess.PIPE, text=True, cwd=REPOSITORY,
            env=os.environ | {"PYTHONPATH": f"{REPOSITORY}"},
        )  # fmt: skip
        self.log: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stderr:
            self.log.append(json.loads(line))

    def events(self, event: str) -> list[dict[str, Any]]:
        return [entry for entry in list(self.log) if entry["event"] == event]

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(60)
        self._reader.join(10)
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        self._reader.join(10)
        self.process.stderr.close()

    def page(self, path: str) -> tuple[int, str]:
        until(lambda: self.events("pages"))
        port = self.events("pages")[0]["port"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()


@pytest.fixture
def serve(database_url: str) -> Iterator[Callable[..., Served]]:
    started: list[Served] = []

    def start(*options: object, **more: Any) -> Served:
        started.append(Served(database_url, *options, **more))
        return started[-1]

    yield start
    for served in started:
        served.close()


def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
    return found


def make(
    database: Database, name: str, steps: int, *, count: int = 1, priority: int = 0, **more: Any
) -> None:
    spec = {"steps": steps, "workers": {"count": count, "threads": 1, "gpus_per_worker": 0.0}, **more}
    create_study(database, name, spec, model=MODEL, dataset=DATASET, priority=priority)


def steps(database: Database, name: str) -> list[str]:
    return [attempt.key for attempt in results.attempts(database, name)]


def status(database: Database, name: str) -> str:
    return get_study(database, name).status


def all_done(database: Database) -> bool:
    return all(study.status == "done" for study in list_studies(database))


def expected(name: str, count: int) -> list[str]:
    return [f"{name}-{number}" for number in range(count)]


def test_two_controllers_share_eight_studies(database: Database, serve: Callable[..., Served]) -> None:
    for number in range(8):
        make(database, f"s{number}", 8)
    both = [serve("--once"), serve("--once")]
    assert [served.process.wait(90) for served in both] == [0, 0]
    for served in both:
        served._reader.join(10)
        assert not served.events("output"), "a process ended with noise"
    claimed = [Counter(entry["study"] for entry in served.events("claimed")) for served in both]
    assert all(claimed), "one of them had nothing to do"
    assert sum(claimed, Counter()) == Counter({f"s{number}": 1 for number in range(8)})
    for number in range(8):
        assert steps(database, f"s{number}") == expected(f"s{number}", 8)
        study = get_study(database, f"s{number}")
        assert (study.status, study.lease_epoch) == ("done", 1)


def test_a_controller_that_is_killed_is_taken_over_by_another(
    database: Database, serve: Callable[..., Served]
) -> None:
    """Its studies' processes end with it, and on one host that is known at once: nobody waits for the lease."""
    for name in ("a", "b"):
        make(database, name, 60)
    first = serve()
    until(lambda: len(steps(database, "a")) > 3 and len(steps(database, "b")) > 3)
    pids = [entry["pid"] for entry in first.events("claimed")]
    first.process.kill()
    first.process.wait()
    second = serve("--once")
    until(lambda: all(not Path(f"/proc/{pid}").exists() for pid in pids), 10)
    assert second.process.wait(60) == 0
    for name in ("a", "b"):
        assert steps(database, name) == expected(name, 60)
        assert get_study(database, name).lease_epoch == 2
        assert status(database, name) == "done"


def test_sigterm_drains(database: Database, serve: Callable[..., Served]) -> None:
    for name in ("a", "b", "c"):
        make(database, name, 400)
    served = serve()
    until(lambda: steps(database, "a") and steps(database, "b"))
    assert served.end() == 0
    assert [entry["how"] for entry in served.events("ended")] == ["released", "released"]
    assert [status(database, name) for name in ("a", "b", "c")] == ["queued"] * 3
    assert served.log[-1]["event"] == "drained"
    for entry in served.log:
        assert {"time", "level", "event"} <= set(entry)


def test_a_second_sigterm_ends_at_once(database: Database, serve: Callable[..., Served]) -> None:
    make(database, "a", 400)
    served = serve()
    until(lambda: steps(database, "a"))
    (pid,) = [entry["pid"] for entry in served.events("claimed")]
    os.kill(pid, signal.SIGSTOP)  # it cannot give its lease back
    served.process.send_signal(signal.SIGTERM)
    until(lambda: served.events("draining"))
    time.sleep(0.3)
    assert served.process.poll() is None
    assert served.end() == 128 + signal.SIGTERM
    os.kill(pid, signal.SIGCONT)
    until(lambda: not Path(f"/proc/{pid}").exists(), 10)
    assert len(steps(database, "a")) < 400


def test_who_slept_past_its_lease_writes_nothing(database: Database, serve: Callable[..., Served]) -> None:
    make(database, "a", 60)
    first = serve(lease=1.5)
    until(lambda: len(steps(database, "a")) > 3)
    (pid,) = [entry["pid"] for entry in first.events("claimed")]
    for process in (first.process.pid, pid):
        os.kill(process, signal.SIGSTOP)
    slept = len(steps(database, "a"))
    second = serve(lease=1.5)
    until(lambda: len(steps(database, "a")) > slept + 3)
    for process in (pid, first.process.pid):
        os.kill(process, signal.SIGCONT)
    until(lambda: status(database, "a") == "done")
    until(lambda: first.events("ended"))
    assert [entry["how"] for entry in first.events("ended")] == ["lost"]
    assert steps(database, "a") == expected("a", 60)
    workers = [attempt.worker for attempt in results.attempts(database, "a")]
    assert workers == sorted(workers, key=lambda worker: worker != str(pid)), "the sleeper wrote again"
    assert (first.end(), second.end()) == (0, 0)


def test_a_process_that_starts_late_keeps_its_study(database: Database, serve: Callable[..., Served]) -> None:
    make(database, "a", 3)
    served = serve("--once", lease=1.5, command=LATE)
    assert served.process.wait(60) == 0
    served._reader.join(10)
    assert len(served.events("claimed")) == 1
    assert get_study(database, "a").lease_epoch == 1
    assert steps(database, "a") == expected("a", 3)


def test_a_study_whose_process_dies_is_tried_again_and_fails_at_last(
    database: Database, serve: Callable[..., Served]
) -> None:
    make(database, "bad", 5, crashes=True)
    make(database, "good", 5)
    assert serve("--once").process.wait(60) == 0
    bad = get_study(database, "bad")
    assert (bad.status, bad.lease_epoch) == ("failed", 3)
    assert "died 3 times without a new trial: SIGABRT" in bad.error
    assert status(database, "good") == "done"


def test_room_goes_by_priority_and_nobody_is_blocked_for_ever(
    database: Database, serve: Callable[..., Served]
) -> None:
    """Of two CPUs: one takes both and waits for room, and one asks for more than a single worker can have."""
    make(database, "first", 10)
    make(database, "impossible", 10, priority=9)
    with database.begin() as session:
        from db.rows import study_row

        row = study_row(session, "impossible")
        row.spec = row.spec | {"workers": {"count": 1, "threads": 3, "gpus_per_worker": 0.0}}
    make(database, "urgent", 10, priority=5)
    make(database, "wide", 10, count=2, priority=3)
    served = serve("--once")
    assert served.process.wait(60) == 0
    served._reader.join(10)
    assert [entry["study"] for entry in served.events("claimed")] == ["urgent", "wide", "first"]
    assert [entry["study"] for entry in served.events("no place for a single worker")] == ["impossible"]
    assert status(database, "impossible") == "queued"


def test_what_is_asked_of_a_study_is_done_while_it_runs(
    database: Database, serve: Callable[..., Served]
) -> None:
    for name in ("paused", "stopped", "cancelled"):
        make(database, name, 400)
    served = serve(cpus=3)
    until(lambda: all(steps(database, name) for name in ("paused", "stopped", "cancelled")))
    for name, what in (("paused", "pause"), ("stopped", "stop"), ("cancelled", "cancel")):
        request(database, name, what)
    until(lambda: len(served.events("ended")) == 3)
    assert [status(database, name) for name in ("paused", "stopped", "cancelled")] == [
        "paused",
        "done",
        "cancelled",
    ]
    before = steps(database, "paused")
    time.sleep(1.5)
    assert steps(database, "paused") == before, "it was claimed again"
    resume(database, "paused")
    until(lambda: len(steps(database, "paused")) > len(before))
    assert served.end() == 0
    after = steps(database, "paused")
    assert after == expected("paused", len(after))


def test_pages_say_how_it_goes(database: Database, serve: Callable[..., Served]) -> None:
    make(database, "a", 400)
    make(database, "waits", 5, count=2)
    served = serve()
    until(lambda: len(steps(database, "a")) > 5)
    code, health = served.page("/healthz")
    assert (code, json.loads(health)) == (200, {"status": "ok", "database": True, "running": 1})
    time.sleep(1.2)
    _, shown = served.page("/metrics")
    values = dict(line.rsplit(" ", 1) for line in shown.splitlines() if not line.startswith("#"))
    assert values['searchsvc_studies{status="queued"}'] == "1.0"
    assert values['searchsvc_studies{status="running"}'] == "1.0"
    assert values["searchsvc_running"] == "1.0"
    assert float(values["searchsvc_trials_total"]) > 5
    assert float(values['searchsvc_phase_seconds_total{phase="evaluating"}']) > 0.2
    assert served.end() == 0
