"""Leases: one holder at a time, taken over when it is gone, and nothing written by one who has lost it."""

import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from db_cases import evaluation, leased, make_study
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from db import results
from db.errors import InvalidValue, LeaseLost, NotFound, StudyBusy, StudyFinished, Unreachable
from db.models import Base, StudyRow
from db.owners import current_owner, owner_is_dead
from db.queue import claim, claim_next, finish, heartbeat, release
from db.rows import study_row
from db.session import Database
from db.studies import delete_study, get_study
from db.values import NewAttempt, NewFront
from searchsvc.storage import optuna_storage

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    """The time that leases go by."""

    def __init__(self):
        self.time = NOW

    def __call__(self):
        return self.time

    def goes_on(self, seconds):
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("db.queue._now", lambda _session: clock())
    return clock


def test_who_is_silent_in_a_transaction_keeps_nobody_out(database_url, engine, monkeypatch):
    """A process that was stopped there, or whose host is gone, holds its locks, and says nothing."""
    if engine == "sqlite":
        pytest.skip("its locks are of this host, and end with their process")
    monkeypatch.setattr("db.engine.SILENT_SECONDS", 1)
    with Database.open(database_url) as silent, Database.open(database_url) as other:
        make_study(other)
        lease = claim(silent, "one", owner="far:1:1", seconds=0.1)
        storage = optuna_storage(silent, lease)
        locked = select(StudyRow.id).with_for_update(read=True)
        with storage.engine.connect() as connection:
            connection.execute(locked)
            assert claim_next(other, owner="near:1:1", seconds=60) is None
            deadline = time.monotonic() + 20
            while (taken := claim_next(other, owner="near:1:1", seconds=60)) is None:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert taken.epoch == lease.epoch + 1
            with pytest.raises(DBAPIError, match="idle-in-transaction timeout"):
                connection.execute(locked)

        def sleep_in_a_transaction():
            with silent.begin() as session:
                study_row(session, "one", lock=True)
                time.sleep(2)
                study_row(session, "one", lock=True)

        with pytest.raises(Unreachable, match="idle-in-transaction timeout"):
            sleep_in_a_transaction()


def test_a_server_s_clock_is_the_one_that_counts(database, engine, monkeypatch):
    monkeypatch.setattr("db.queue.utc_now", lambda: NOW)
    lease = leased(database, seconds=60)
    assert (lease.expires_at == NOW + timedelta(seconds=60)) == (engine == "sqlite")
    assert get_study(database, "one").started_at == lease.expires_at - timedelta(seconds=60)


def anyone(database, name="one", *, seconds=60.0, reopen=False, dead=False):
    return claim(database, name, owner="far:1:1", seconds=seconds, reopen=reopen, is_dead=lambda _: dead)


def test_a_claim_shows_in_the_study(database, clock):
    make_study(database)
    lease = anyone(database)
    study = get_study(database, "one")
    assert (study.status, study.lease_owner, study.lease_epoch) == ("running", "far:1:1", 1)
    assert study.lease_expires_at == lease.expires_at
    assert lease.expires_at == NOW + timedelta(seconds=60)
    assert study.started_at == NOW


def test_a_held_study_is_refused_with_its_holder(database):
    leased(database)
    with pytest.raises(StudyBusy, match=f"'one' is being run by {current_owner()}"):
        claim(database, "one", owner="far:1:1", seconds=60)
    with pytest.raises(NotFound, match="did you mean 'one'"):
        anyone(database, "ones")


def test_an_expired_lease_is_taken_over_and_the_epoch_counts(database, clock):
    make_study(database)
    assert anyone(database, seconds=60).epoch == 1
    clock.goes_on(59)
    with pytest.raises(StudyBusy):
        anyone(database)
    clock.goes_on(1)
    assert anyone(database).epoch == 2


def test_the_lease_of_a_dead_owner_is_taken_over_at_once(database, clock):
    make_study(database)
    anyone(database)
    clock.goes_on(1)
    assert anyone(database, dead=True).epoch == 2
    assert get_study(database, "one").started_at == NOW


def test_a_heartbeat_extends_the_lease(database, clock):
    make_study(database)
    lease = anyone(database, seconds=60)
    for _ in range(3):
        clock.goes_on(50)
        lease = heartbeat(database, lease)
    with pytest.raises(StudyBusy):
        anyone(database)
    assert get_study(database, "one").lease_expires_at == lease.expires_at == NOW + timedelta(seconds=210)


def test_an_expired_lease_that_nobody_took_is_still_good(database, clock):
    make_study(database)
    lease = anyone(database, seconds=60)
    clock.goes_on(3600)
    results.save_evaluation(database, evaluation(), lease=lease)
    assert heartbeat(database, lease).expires_at == NOW + timedelta(seconds=3660)


@pytest.mark.parametrize(("status", "error"), [("done", None), ("failed", "no memory"), ("cancelled", None)])
def test_a_finished_study_is_claimed_again_only_when_asked(database, status, error):
    lease = leased(database)
    finish(database, lease, status, error=error)
    study = get_study(database, "one")
    assert (study.status, study.error, study.lease_owner) == (status, error, None)
    assert study.finished_at is not None
    with pytest.raises(StudyFinished, match=f"'one' is {status} since"):
        anyone(database)
    assert claim_next(database, owner="far:1:1", seconds=60) is None
    assert anyone(database, reopen=True).epoch == 2
    study = get_study(database, "one")
    assert (study.status, study.error, study.finished_at) == ("running", None, None)


def test_reopen_does_not_take_what_somebody_holds(database):
    leased(database)
    with pytest.raises(StudyBusy):
        anyone(database, reopen=True)


def test_a_released_study_is_queued_again(database):
    release(database, leased(database))
    assert get_study(database, "one").status == "queued"
    assert anyone(database).epoch == 2


def test_the_next_study_is_the_oldest_that_is_free(database, clock):
    leased(database, "held")
    finish(database, leased(database, "ended"), "done")
    make_study(database, "gone")
    anyone(database, "gone", seconds=1)
    make_study(database, "new")
    clock.goes_on(2)
    taken = [claim_next(database, owner=current_owner(), seconds=60) for _ in range(3)]
    assert [lease and lease.name for lease in taken] == ["gone", "new", None]


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_lease_lasts(database, seconds):
    make_study(database)
    with pytest.raises(InvalidValue, match="longer than 0 seconds"):
        anyone(database, seconds=seconds)
    assert get_study(database, "one").status == "queued"


@pytest.mark.parametrize("take", ["by name", "next"])
def test_of_many_at_once_one_gets_the_study(database_url, database, take):
    make_study(database)
    start, got = threading.Barrier(8), []

    def run(number):
        with Database(database_url) as own:
            start.wait()
            try:
                if take == "next":
                    lease = claim_next(own, owner=f"far:{number}:1", seconds=60)
                else:
                    lease = claim(own, "one", owner=f"far:{number}:1", seconds=60)
            except StudyBusy:
                lease = None
            got.append(lease)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8
    assert [lease.epoch for lease in got if lease is not None] == [1]


ATTEMPT = NewAttempt(key="k1", worker="w", started_at=NOW, ended_at=NOW)
FRONT = NewFront(split="search", reason="final", points=(), hypervolume=0.0, reference=(0.0, 1.0))
WRITES = {
    "heartbeat": heartbeat,
    "finish": lambda database, lease: finish(database, lease, "done"),
    "release": release,
    "save_evaluation": lambda database, lease: results.save_evaluation(database, evaluation(), lease=lease),
    "link_evaluation": lambda database, lease: results.link_evaluation(database, lease, "known"),
    "record_attempt": lambda database, lease: results.record_attempt(database, lease, ATTEMPT),
    "save_front": lambda database, lease: results.save_front(database, lease, FRONT),
}
LOSSES = {
    "taken over": lambda database, lease: anyone(database, dead=True),
    "finished": lambda database, lease: finish(database, lease, "done"),
    "released": release,
    "deleted": lambda database, lease: (release(database, lease), delete_study(database, "one")),
}


def contents(database):
    with database.session() as session:
        return [row for table in Base.metadata.sorted_tables for row in session.execute(select(table)).all()]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("loss", LOSSES)
def test_who_lost_the_lease_writes_nothing(database, write, loss):
    results.save_evaluation(database, evaluation("known"))
    lease = leased(database)
    LOSSES[loss](database, lease)
    before = contents(database)
    with pytest.raises(LeaseLost, match="'one'"):
        WRITES[write](database, lease)
    assert len(before) >= 3
    assert contents(database) == before


def sleeping():
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)


def owner_of(pid):
    host, _, _ = current_owner().rsplit(":", 2)
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return f"{host}:{pid}:{stat[19]}"


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_an_owner_is_dead_when_its_process_is_killed_even_before_its_parent_noticed():
    with sleeping() as process:
        owner = owner_of(process.pid)
        assert not owner_is_dead(owner)
        os.kill(process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
        assert owner_is_dead(owner)
        process.wait()
        assert owner_is_dead(owner)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_an_owner_whose_number_another_process_uses_is_dead():
    host, pid, start = current_owner().rsplit(":", 2)
    assert not owner_is_dead(f"{host}:{pid}:{start}")
    assert owner_is_dead(f"{host}:{pid}:{int(start) - 1}")


def test_of_other_hosts_and_unknown_starts_nothing_is_assumed():
    host, pid, start = current_owner().rsplit(":", 2)
    assert not owner_is_dead(f"elsewhere:{pid}:{start}0")
    assert not owner_is_dead(f"{host}:999999999:?")


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_lease_of_a_killed_process_is_free_at_once(database):
    make_study(database)
    with sleeping() as process:
        claim(database, "one", owner=owner_of(process.pid), seconds=3600)
        with pytest.raises(StudyBusy):
            claim(database, "one", owner=current_owner(), seconds=60)
        process.kill()
    assert claim(database, "one", owner=current_owner(), seconds=60).epoch == 2
