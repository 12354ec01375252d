"""Requests to whoever runs a study: done at once where nobody does, else found by the one who holds the lease."""

import pytest
from db_cases import leased, make_study, sqlite_url
from sqlalchemy import create_engine, text

from db.errors import LeaseLost, NotFound, StudyFinished
from db.fence import fence
from db.owners import current_owner
from db.queue import claim, claim_next, finish, hand_over, release
from db.requests import request, requested, resume
from db.session import Database
from db.studies import get_study

DEAD = {"owner": "far:1:1", "seconds": 60.0}


@pytest.fixture
def database(tmp_path):
    with Database.open(sqlite_url(tmp_path)) as opened:
        yield opened


def state(database, name="one"):
    study = get_study(database, name)
    return study.status, study.request


def queued(database):
    make_study(database)


def paused(database):
    make_study(database)
    request(database, "one", "pause")


def abandoned(database):
    make_study(database)
    claim(database, "one", owner="far:1:1", seconds=1e-6)


@pytest.mark.parametrize("before", [queued, paused, abandoned])
@pytest.mark.parametrize(
    ("what", "after"),
    [("pause", ("paused", None)), ("cancel", ("cancelled", None)), ("stop", ("queued", "stop"))],
)
def test_what_nobody_runs_is_done_at_once(database, before, what, after):
    before(database)
    study = request(database, "one", what)
    assert (study.status, study.request) == after == state(database)
    assert (study.finished_at is not None) == (what == "cancel")
    taken = claim_next(database, **DEAD)
    assert (taken is not None) == (what == "stop")
    if taken:
        assert requested(database, taken) == "stop"


@pytest.mark.parametrize(
    ("what", "after"),
    [("pause", ("paused", None)), ("cancel", ("cancelled", None)), ("stop", ("queued", "stop"))],
)
def test_who_runs_it_hears_of_it_and_gives_it_back_accordingly(database, what, after):
    lease = leased(database)
    assert requested(database, lease) is None
    assert request(database, "one", what).status == "running"
    assert requested(database, lease) == what
    release(database, lease)
    assert state(database) == after


@pytest.mark.parametrize(("what", "after"), [("pause", "paused"), ("cancel", "cancelled")])
def test_what_was_asked_of_an_owner_who_died_is_done_by_the_next(database, what, after):
    make_study(database)
    claim(database, "one", **DEAD)
    request(database, "one", what)
    assert claim_next(database, **DEAD, is_dead=lambda _: True) is None
    assert state(database) == (after, None)


def test_a_stop_outlives_its_owner(database):
    make_study(database)
    claim(database, "one", **DEAD)
    request(database, "one", "stop")
    lease = claim_next(database, **DEAD, is_dead=lambda _: True)
    assert requested(database, lease) == "stop"
    finish(database, lease, "done", outcome={"meets_goal": True})
    assert state(database) == ("done", None)
    assert get_study(database, "one").outcome == {"meets_goal": True}


@pytest.mark.parametrize("what", ["pause", "stop"])
def test_resume_takes_a_request_back(database, what):
    lease = leased(database)
    request(database, "one", what)
    assert resume(database, "one").status == "running"
    assert requested(database, lease) is None
    request(database, "one", what)
    release(database, lease)
    assert (resume(database, "one").status, state(database)) == ("queued", ("queued", None))


def test_a_paused_study_goes_on_when_it_is_claimed_by_name(database):
    paused(database)
    with pytest.raises(StudyFinished, match="is paused"):
        claim(database, "one", **DEAD)
    assert requested(database, claim(database, "one", **DEAD, reopen=True)) is None


@pytest.mark.parametrize("verb", [lambda d: request(d, "one", "pause"), lambda d: resume(d, "one")])
def test_what_has_ended_is_left_as_it_is(database, verb):
    finish(database, leased(database), "failed", error="no memory")
    with pytest.raises(StudyFinished, match="is failed since"):
        verb(database)
    assert state(database) == ("failed", None)


@pytest.mark.parametrize("verb", [lambda d: request(d, "ones", "stop"), lambda d: resume(d, "ones")])
def test_a_name_that_is_wrong_names_the_nearest(database, verb):
    make_study(database)
    with pytest.raises(NotFound, match="did you mean 'one'"):
        verb(database)


def test_priorities_come_first_and_what_does_not_fit_is_passed_over(database):
    for name, priority, size in (("old", 0, 1), ("huge", 9, 9), ("urgent", 5, 1), ("new", 0, 1)):
        make_study(database, name, priority=priority, size=size)
    taken = [claim_next(database, **DEAD, fits=lambda _, spec: spec["size"] < 5) for _ in range(4)]
    assert [lease and lease.name for lease in taken] == ["urgent", "old", "new", None]
    make_study(database, "behind", size=1)
    assert claim_next(database, **DEAD, fits=lambda name, _: None if name == "huge" else True) is None
    assert claim_next(database, **DEAD).name == "huge"


def test_a_lease_that_is_handed_over_is_the_same_lease(database):
    make_study(database)
    lease = claim(database, "one", **DEAD)
    handed = hand_over(database, lease, owner=current_owner())
    assert (handed.epoch, handed.owner) == (lease.epoch, current_owner())
    assert handed.expires_at > lease.expires_at
    assert get_study(database, "one").lease_owner == current_owner()
    claim(database, "one", owner="far:2:2", seconds=60, is_dead=lambda _: True)
    with pytest.raises(LeaseLost):
        hand_over(database, lease, owner=current_owner())


def test_a_fenced_engine_commits_nothing_once_the_lease_is_lost(database, tmp_path):
    lease = leased(database)
    engine = create_engine(sqlite_url(tmp_path))
    fence(engine, lease)

    def write(note):
        with engine.connect() as connection:
            connection.execute(text("CREATE TABLE IF NOT EXISTS theirs (note TEXT)"))
            connection.execute(text("INSERT INTO theirs VALUES (:note)"), {"note": note})
            connection.commit()

    write("held")
    claim(database, "one", **DEAD, is_dead=lambda _: True)
    with pytest.raises(LeaseLost, match="epoch 1"):
        write("lost")
    with Database(sqlite_url(tmp_path), lock_seconds=0.1) as other:
        request(other, "one", "stop")  # no lock is left behind
    with database.session() as session:
        assert session.execute(text("SELECT note FROM theirs")).scalars().all() == ["held"]
    engine.dispose()
