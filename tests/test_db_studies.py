"""Studies by name, and what deleting one takes with it."""

from datetime import UTC, datetime

import pytest
from db_cases import DATASET, MODEL, evaluation, latency, leased, make_study

from db import results
from db.errors import AlreadyExists, InvalidValue, NotFound, StudyBusy
from db.latencies import latencies, save_latency
from db.queue import finish, release
from db.studies import (
    count_studies,
    create_study,
    delete_study,
    exists_study,
    get_study,
    list_studies,
    studies_with_counts,
)
from db.values import DatasetRef, NewAttempt, NewFront, NewProfile

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_new_study_is_queued_and_read_as_it_was_made(database):
    made = make_study(database, "one", goal={"max_drop": 0.01}, model={"revision": None})
    assert get_study(database, "one") == made
    assert made.spec == {
        "search": {"method": "fastv"},
        "goal": {"max_drop": 0.01},
        "model": {"revision": None},
    }
    assert (made.status, made.lease_epoch, made.model, made.dataset) == ("queued", 0, MODEL, DATASET)
    assert made.created_at.utcoffset().total_seconds() == 0


def test_a_name_is_given_once(database):
    first = make_study(database)
    other = DatasetRef(sha256="e" * 64, path="/other.jsonl", samples=1)
    with pytest.raises(AlreadyExists, match="there is a study 'one' already"):
        create_study(database, "one", {}, model=MODEL, dataset=other)
    assert list_studies(database) == [first]


def test_studies_of_one_model_share_its_row(database):
    make_study(database, "one")
    make_study(database, "two")
    with database.session() as session:
        counts = [
            session.connection().exec_driver_sql(f"SELECT count(*) FROM {table}").scalar()
            for table in ("ss_models", "ss_datasets")
        ]
    assert counts == [1, 1]


def test_a_wrong_name_suggests_the_nearest(database):
    with pytest.raises(NotFound, match="no study 'llava'; see `searchsvc study list`"):
        get_study(database, "llava")
    make_study(database, "llava-7b")
    for call in (
        get_study,
        delete_study,
        results.evaluations,
        results.fronts,
        results.profiles,
        results.attempts,
        latencies,
    ):
        with pytest.raises(NotFound, match=r"no study 'lava-7b'; did you mean 'llava-7b'\?"):
            call(database, "lava-7b")


def test_studies_are_listed_oldest_first_and_by_status(database):
    for name in ("c", "a", "b"):
        make_study(database, name)
    finish(database, leased(database, "d"), "done")
    assert [study.name for study in list_studies(database)] == ["c", "a", "b", "d"]
    assert [study.name for study in list_studies(database, status="done")] == ["d"]
    assert list_studies(database, status="running") == []


def test_a_spec_holds_finite_numbers_only(database):
    with pytest.raises(InvalidValue, match=r"value.search.budgets\[1\] is nan"):
        make_study(database, "one", search={"budgets": [0.5, float("nan")]})
    assert list_studies(database) == []


def fill(database, lease):
    results.save_evaluation(database, evaluation(), lease=lease)
    attempt = NewAttempt(key="k1", worker="w", started_at=NOW, ended_at=NOW)
    results.record_attempt(database, lease, attempt)
    front = NewFront(split="search", reason="final", points=(), hypervolume=0.0, reference=(0.0, 1.0))
    results.save_front(database, lease, front)
    save_latency(database, lease, latency())
    results.save_profile(database, NewProfile(name="p", yaml=lease.name, numbers={}, study=lease.name))


def test_deleting_a_study_takes_its_rows_and_keeps_its_evaluations(database):
    for name in ("one", "two"):
        lease = leased(database, name)
        fill(database, lease)
        release(database, lease)
    delete_study(database, "one")
    assert [study.name for study in list_studies(database)] == ["two"]
    assert results.find_evaluation(database, "k1") is not None
    for rows in (results.evaluations, results.attempts, results.fronts, results.profiles, latencies):
        assert len(rows(database, "two")) == 1
    with database.session() as session:
        tables = ("ss_study_evaluations", "ss_attempts", "ss_fronts", "ss_latencies", "ss_profiles")
        for table in tables:
            assert session.connection().exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() == 1
    make_study(database, "one")
    assert results.evaluations(database, "one") == []


def test_a_running_study_is_not_deleted(database):
    lease = leased(database)
    with pytest.raises(StudyBusy, match="stop that first"):
        delete_study(database, "one")
    finish(database, lease, "failed", error="x")
    delete_study(database, "one")
    assert list_studies(database) == []


def test_studies_are_counted_without_reading_what_they_evaluated(database, monkeypatch):
    for name, keys in (("none", ""), ("two", "ab"), ("three", "abc")):
        lease = leased(database, name)
        for key in keys:
            results.save_evaluation(database, evaluation(key), lease=lease)
    monkeypatch.setattr("db.column_types.PackedFloats.process_result_value", None)
    counted = [(study.name, count) for study, count in studies_with_counts(database)]
    assert counted == [("none", 0), ("two", 2), ("three", 3)]
    assert [study.name for study, _ in studies_with_counts(database, limit=1, offset=1)] == ["two"]
    assert count_studies(database) == 3
    assert [exists_study(database, name) for name in ("two", "four")] == [True, False]
