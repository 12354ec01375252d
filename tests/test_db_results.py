"""Evaluations are stored once, exactly, and survive a kill; fronts never change."""

import itertools
import signal
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from db_cases import evaluation, leased, make_study, python
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from db import models, results, rows
from db.column_types import PackedFloats, PackedList
from db.errors import DatabaseError, InvalidValue, NotFound
from db.owners import current_owner
from db.queue import claim
from db.session import Database
from db.studies import get_study
from db.values import NewAttempt, NewFront, NewProfile, SampleSet

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
FRONT = NewFront(
    split="search",
    reason="final",
    points=(
        {"trial": 0, "accuracy": 0.9, "flops_ratio": 0.5},
        {"trial": 3, "accuracy": 0.8, "flops_ratio": 0.2},
    ),
    hypervolume=0.69,
    reference=(0.0, 1.0),
)


def stored(new):
    """What `new` is when it has been read again, whatever its row's number and time."""
    return {name: getattr(new, name) for name in type(evaluation()).__dataclass_fields__}


def count(database, table):
    with database.session() as session:
        return session.execute(text(f"SELECT count(*) FROM {table}")).scalar()


FULL = evaluation(
    "full",
    pruning=None,
    scores=(0.1, 1 / 3, -0.0, 5e-324, 1.7976931348623157e308),
    divergences=(0.0, 1e-9),
    predictions=("seven", "", "sept é 七 \x00", "\ud800"),
)


@pytest.mark.parametrize("new", [evaluation(), FULL], ids=["usual", "full"])
def test_an_evaluation_is_read_as_it_was_saved(database, new):
    saved = results.save_evaluation(database, new)
    found = results.find_evaluation(database, new.key)
    assert found == saved
    assert stored(found) == stored(new)
    assert [str(score) for score in found.scores] == [str(score) for score in new.scores]
    assert found.created_at.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - found.created_at) < timedelta(minutes=1)
    assert results.find_evaluation(database, "other") is None


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)))
@settings(max_examples=50, deadline=None)
def test_packed_floats_are_the_same_bit_for_bit(values):
    column = PackedFloats()
    back = column.process_result_value(column.process_bind_param(values, None), None)
    assert [value.hex() for value in back] == [value.hex() for value in values]


def test_scores_take_little_room():
    scores = tuple(float(number % 3 == 0) for number in range(512))
    assert len(PackedFloats().process_bind_param(scores, None)) < 200
    assert PackedList().process_bind_param(None, None) is None


NAN, INF = float("nan"), float("inf")
NOT_FINITE = {
    "accuracy": NAN,
    "scores": (1.0, NAN),
    "divergences": (INF, 0.0),
    "cost": {"counters": {"paper": {"ratio": [NAN]}}},
    "tokens_per_layer": (144.0, -INF),
    "seconds": INF,
    "pruning": {"keep_rates": [1.0, NAN]},
}


@pytest.mark.parametrize("field", NOT_FINITE)
def test_an_evaluation_that_is_not_finite_is_refused_whole(database, field):
    lease = leased(database)
    with pytest.raises(InvalidValue, match="only finite numbers are stored"):
        results.save_evaluation(database, evaluation(**{field: NOT_FINITE[field]}), lease=lease)
    assert results.find_evaluation(database, "k1") is None
    assert results.evaluations(database, "one") == []


def test_fronts_and_profiles_that_are_not_finite_are_refused(database):
    lease = leased(database)
    for wrong in ({"hypervolume": NAN}, {"reference": (0.0, INF)}, {"points": ({"accuracy": NAN},)}):
        with pytest.raises(InvalidValue):
            results.save_front(database, lease, replace(FRONT, **wrong))
    with pytest.raises(InvalidValue, match=r"value.latency is nan"):
        results.save_profile(database, NewProfile(name="p", yaml="a: 1", numbers={"latency": NAN}))
    assert results.fronts(database, "one") == results.profiles(database) == []


def test_saving_a_known_key_returns_what_is_there(database):
    first = results.save_evaluation(database, evaluation())
    assert results.save_evaluation(database, evaluation(accuracy=0.1, worker="late")) == first
    assert results.find_evaluation(database, "k1") == first


def test_writers_of_one_key_at_once_make_one_row(database_url, database):
    start, got = threading.Barrier(6), []

    def run(number):
        with Database(database_url) as own:
            start.wait()
            got.extend(
                results.save_evaluation(own, evaluation(f"k{key}", worker=f"w{number}")) for key in range(5)
            )

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 30
    assert len({(one.key, one.id, one.worker) for one in got}) == count(database, "ss_evaluations") == 5


def test_a_row_that_somebody_inserts_between_look_and_insert_is_found(database, monkeypatch):
    """On PostgreSQL two transactions may both see no row; here a patch plays the faster one."""
    mine = models.DatasetRow(sha256="d", path="mine", samples=1)
    faster = (
        "INSERT INTO ss_datasets (sha256, path, samples, created_at) VALUES ('d', 'theirs', 1, '2026-01-01')"
    )
    with database.begin() as session:

        def insert_first(begin=session.begin_nested):
            session.connection().exec_driver_sql(faster)
            return begin()

        monkeypatch.setattr(session, "begin_nested", insert_first)
        row = rows.insert_or_get(session, mine, models.DatasetRow.sha256)
        assert row is not mine
        assert row.path == "theirs"


def test_a_study_lists_its_evaluations_in_the_order_of_measuring(database):
    lease = leased(database)
    for key in ("b", "a", "c"):
        results.save_evaluation(database, evaluation(key), lease=lease)
    results.save_evaluation(database, evaluation("elsewhere"))
    found = results.evaluations(database, "one")
    assert [(used.evaluation.key, used.cached) for used in found] == [
        ("b", False),
        ("a", False),
        ("c", False),
    ]
    assert found[1].evaluation == results.find_evaluation(database, "a")


def test_an_evaluation_of_another_study_is_linked_as_cached(database):
    results.save_evaluation(database, evaluation(), lease=leased(database, "one"))
    lease = leased(database, "two")
    results.link_evaluation(database, lease, "k1")
    assert [one.cached for one in results.evaluations(database, "two")] == [True]
    assert [one.cached for one in results.evaluations(database, "one")] == [False]


def test_what_is_noted_of_an_evaluation_stays(database):
    lease = leased(database)
    results.save_evaluation(database, evaluation(), lease=lease)
    for cached in (True, False):
        results.link_evaluation(database, lease, "k1", cached=cached)
    assert [one.cached for one in results.evaluations(database, "one")] == [False]


SAMPLES = SampleSet(ids=("a", "é", "\x00", "d"), visual_tokens=(144, 0, 9, 9), text_tokens=(1, 2, 3, 4))


def test_evaluations_of_the_same_samples_share_them(database):
    other = replace(SAMPLES, ids=("a", "b", "c", "d"))
    for number, samples in enumerate((SAMPLES, SAMPLES, other, None)):
        saved = results.save_evaluation(database, evaluation(f"k{number}", samples=samples))
        assert saved.samples == samples
        assert results.find_evaluation(database, f"k{number}") == saved
    assert count(database, "ss_sample_sets") == 2


def test_only_a_stored_evaluation_is_linked(database):
    with pytest.raises(NotFound, match="no evaluation has the key k9"):
        results.link_evaluation(database, leased(database), "k9")


def test_attempts_keep_who_when_and_what_went_wrong(database):
    lease = leased(database)
    there = timezone(timedelta(hours=9))
    attempt = NewAttempt(
        key="k1",
        worker="gpu-1",
        started_at=NOW.astimezone(there),
        ended_at=NOW + timedelta(seconds=3),
        error="died",
    )
    saved = results.record_attempt(database, lease, attempt)
    again = results.record_attempt(database, lease, replace(attempt, worker="gpu-2", error=None))
    assert results.attempts(database, "one") == [saved, again]
    assert (saved.started_at, saved.ended_at, saved.error) == (NOW, NOW + timedelta(seconds=3), "died")
    assert results.attempts(database, "one")[0].started_at.utcoffset() == timedelta(0)


def test_a_time_without_its_zone_is_refused(database):
    lease = leased(database)
    attempt = NewAttempt(key="k1", worker="w", started_at=NOW.replace(tzinfo=None), ended_at=NOW)
    with pytest.raises(InvalidValue, match="a time needs a time zone: 2026-01-01T12:00:00"):
        results.record_attempt(database, lease, attempt)
    assert results.attempts(database, "one") == []


def test_a_front_is_kept_as_it_was(database):
    lease = leased(database)
    first = results.save_front(database, lease, FRONT)
    better = replace(FRONT, points=FRONT.points[:1], hypervolume=0.7)
    second = results.save_front(database, lease, better)
    assert results.fronts(database, "one") == [first, second]
    assert (first.points, first.reference, first.hypervolume) == (FRONT.points, (0.0, 1.0), 0.69)


@pytest.mark.parametrize("change", [{}, {"reason": "stopped"}, {"split": "test"}, {"reference": (0.0, 0.9)}])
def test_the_same_front_twice_is_one_snapshot(database, change):
    lease = leased(database)
    first = results.save_front(database, lease, FRONT)
    second = results.save_front(database, lease, replace(FRONT, **change))
    assert (first == second) == (change == {})
    assert len(results.fronts(database, "one")) == 1 + bool(change)


def test_a_front_cannot_be_changed(database):
    front = results.save_front(database, leased(database), FRONT)
    with pytest.raises(DatabaseError, match="snapshot and cannot be changed"), database.begin() as session:
        session.get(models.FrontRow, front.id).hypervolume = 1.0
    assert results.fronts(database, "one") == [front]


def test_a_profile_is_known_by_its_text(database):
    make_study(database)
    new = NewProfile(name="p", yaml="name: é\n", numbers={"accuracy": 0.9}, study="one", trial=7)
    first = results.save_profile(database, new)
    assert first.sha256 == "269832fa39d1ffd6244c2e606ab6ce8dfe90fb65dda62fb0adf762ad5dc75220"
    assert stored_profile(first) == stored_profile(new)
    verified = results.save_profile(database, replace(new, numbers={"accuracy": 0.91}))
    assert (verified.id, verified.numbers) == (first.id, {"accuracy": 0.91})
    stranger = results.save_profile(database, NewProfile(name="q", yaml="name: q\n", numbers={}))
    assert results.profiles(database) == [verified, stranger]
    assert results.profiles(database, "one") == [verified]
    with pytest.raises(NotFound, match="no study 'two'"):
        results.save_profile(database, replace(new, yaml="other", study="two"))


def stored_profile(profile):
    return profile.name, profile.yaml, profile.numbers, profile.study, profile.trial


WRITER = """
import itertools, sys
sys.path.insert(0, "tests")
from db_cases import evaluation, leased
from db.results import save_evaluation
from db.session import Database
database = Database.open(sys.argv[1])
lease = leased(database, seconds=3600)
for number in itertools.count():
    new = evaluation(f"k{number}", scores=(float(number),) * 512)
    save_evaluation(database, new, lease=lease)
    print(number, flush=True)
"""


@pytest.mark.parametrize("reported", [1, 10, 33])
def test_what_was_reported_as_saved_survives_a_kill(database_url, reported):
    with python(WRITER, database_url) as writer:
        said = list(itertools.islice(writer.stdout, reported))
        writer.send_signal(signal.SIGKILL)
        said += writer.stdout.read().splitlines()
    assert writer.returncode == -signal.SIGKILL
    assert len(said) >= reported
    with Database.open(database_url) as database:
        found = results.evaluations(database, "one")
        assert [used.evaluation.key for used in found] == [f"k{number}" for number in range(len(found))]
        assert len(found) - len(said) in (0, 1)  # one may have been saved and not yet reported
        assert all(used.evaluation.scores == (float(n),) * 512 for n, used in enumerate(found))
        assert get_study(database, "one").status == "running"
        assert claim(database, "one", owner=current_owner(), seconds=60).epoch == 2
        with database.session() as session:
            if session.get_bind().dialect.name == "sqlite":
                assert session.execute(text("PRAGMA integrity_check")).all() == [("ok",)]
                assert session.execute(text("PRAGMA foreign_key_check")).all() == []
