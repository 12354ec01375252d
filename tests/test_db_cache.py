"""The memory of evaluations: what it holds by group, who uses it, and that nothing used is ever deleted."""

from datetime import UTC, datetime, timedelta

import pytest
from db_cases import DATASET, MODEL, evaluation, leased, make_study
from sqlalchemy import event, select

from db import cache, results
from db.errors import Ambiguous, NotFound
from db.models import EvaluationRow
from db.queue import claim, finish
from db.session import Database
from db.studies import create_study, delete_study
from db.values import DatasetRef, ModelRef, SampleSet

OTHER_MODEL = ModelRef(fingerprint="fa" * 32, reference="other", architecture="")
OTHER_DATA = DatasetRef(sha256="e" * 64, path="/data/other.jsonl", samples=2)
#: key -> (days since it was made, what differs from the usual evaluation); used by study "one", or "other": those in `USED`
HELD = {
    "new": (0, {}),
    "old": (40, {}),
    "old, used": (40, {}),
    "new, used": (0, {"seconds": 2.0}),
    "other model": (0, {"model": OTHER_MODEL}),
    "other model, old": (31, {"model": OTHER_MODEL, "split": "test"}),
    "other model, old, used": (90, {"model": OTHER_MODEL}),
    "other data": (20, {"dataset": OTHER_DATA}),
    "other metric": (29, {"metric": "anls"}),
}
SAMPLES = SampleSet(ids=("a", "b", "c", "d"), visual_tokens=(144,) * 4, text_tokens=(9,) * 4)
USED = {key for key in HELD if "used" in key}


@pytest.fixture
def held(database) -> Database:
    """A database with every evaluation of `HELD`."""
    lease = leased(database)
    create_study(database, "other", {}, model=OTHER_MODEL, dataset=DATASET)
    other = claim(database, "other", owner="far:1:1", seconds=60)
    for key, (days, changes) in HELD.items():
        user = other if "other" in key else lease
        new = evaluation(key, samples=SAMPLES, **changes)
        results.save_evaluation(database, new, lease=user if key in USED else None)
        with database.begin() as session:
            row = session.scalars(select(EvaluationRow).where(EvaluationRow.key == key)).one()
            row.created_at = datetime.now(UTC) - timedelta(days=days, minutes=1)
    for one in (lease, other):
        finish(database, one, "done")
    return database


def keys(database: Database) -> set[str]:
    with database.session() as session:
        return set(session.scalars(select(EvaluationRow.key)))


def groups(database):
    return cache.cache_groups(database)


def test_an_empty_memory_has_no_groups(database):
    make_study(database)
    assert groups(database) == []


def test_groups_count_what_they_hold(held):
    found = {(g.model, g.data, g.split, g.metric): g for g in groups(held)}
    counted = {what: (g.evaluations, g.unused, g.studies, g.samples) for what, g in found.items()}
    assert counted == {
        ("demo", DATASET.path, "search", "exact_match"): (4, 2, 1, 16),
        ("demo", DATASET.path, "search", "anls"): (1, 1, 0, 4),
        ("demo", OTHER_DATA.path, "search", "exact_match"): (1, 1, 0, 4),
        ("other", DATASET.path, "search", "exact_match"): (2, 1, 1, 8),
        ("other", DATASET.path, "test", "exact_match"): (1, 1, 0, 4),
    }
    usual = found["demo", DATASET.path, "search", "exact_match"]
    assert (usual.fingerprint, usual.dataset, usual.seconds) == (MODEL.fingerprint, DATASET.sha256, 6.5)
    assert usual.last_made - usual.first_made == pytest.approx(timedelta(days=40), abs=timedelta(minutes=1))
    assert usual.last_made.utcoffset() == timedelta(0)


def test_every_study_counts_once_and_no_link_multiplies(database):
    for name in ("one", "two", "three"):
        lease = leased(database, name)
        for key in ("a", "b"):
            results.save_evaluation(database, evaluation(key), lease=lease)
    (group,) = groups(database)
    assert (group.evaluations, group.unused, group.studies, group.samples) == (2, 0, 3, 0)
    assert group.seconds == 3.0
    assert cache.studies_using(database, "a") == ["one", "two", "three"]
    assert cache.studies_using(database, "c") == []


FIELDS = {"scores": (1.0, 0.5), "divergences": (0.25, 1 / 3), "predictions": ("ä", "b"), "pruning": None}


@pytest.mark.parametrize("left_out", [None, "divergences", "predictions"])
def test_bytes_are_those_of_the_stored_columns(database, left_out):
    fields = {**FIELDS, left_out: None} if left_out else FIELDS
    results.save_evaluation(database, evaluation(**fields))
    with database.session() as session:
        packed = "scores, divergences, predictions"
        written = ", ".join(f"CAST({name} AS TEXT)" for name in ("pruning", "tokens_per_layer", "cost"))
        select = f"SELECT {packed}, {written} FROM ss_evaluations"
        row = session.connection().exec_driver_sql(select).one()
    stored = [value.encode() if isinstance(value, str) else value for value in row if value is not None]
    assert groups(database)[0].bytes == sum(map(len, stored)) > 50


def test_groups_take_one_statement_and_unpack_nothing(held, monkeypatch):
    for kind in ("PackedFloats", "PackedList"):
        monkeypatch.setattr(f"db.column_types.{kind}.process_result_value", None)
    statements = []
    event.listen(held._reader, "before_cursor_execute", lambda *seen: statements.append(seen[2]))
    assert len(groups(held)) == 5
    assert [text.split()[0] for text in statements if text != "BEGIN"] == ["SELECT"]


def test_sqlite_looks_at_indices_alone_and_once_at_each_study(held, engine):
    """Plans decide: the rows are a hundred times as large as what is counted of them."""
    if engine != "sqlite":
        return
    asked = []
    event.listen(held._reader, "before_cursor_execute", lambda *seen: asked.append(seen[2:4]))
    groups(held)
    statement, parameters = asked[-1]
    with held.session() as session:
        found = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        plan = [row.detail for row in found]
    looked = [step for step in plan if "ss_evaluations" in step or "ss_study_evaluations" in step]
    assert looked == [
        "SCAN ss_evaluations USING COVERING INDEX ix_ss_evaluations_groups",
        "SEARCH ss_study_evaluations USING COVERING INDEX ix_ss_study_evaluations_evaluation_id (evaluation_id=?)",
        "SEARCH ss_study_evaluations USING COVERING INDEX sqlite_autoindex_ss_study_evaluations_1 (study_id=?)",
        "SEARCH ss_evaluations USING INTEGER PRIMARY KEY (rowid=?)",
    ]


#: conditions -> the keys of HELD that go, and how many that match are kept
REMOVALS = {
    "all": ({}, {key for key in HELD if key not in USED}, 3),
    "old": ({"older_than": 30}, {"old", "other model, old"}, 2),
    "a little less old": ({"older_than": 28}, {"old", "other model, old", "other metric"}, 2),
    "nothing so old": ({"older_than": 100}, set(), 0),
    "a model": ({"model": "fafa"}, {"other model", "other model, old"}, 1),
    "a whole fingerprint": ({"model": "f" * 64}, {"new", "old", "other data", "other metric"}, 2),
    "an old model": ({"model": "fafa", "older_than": 30}, {"other model, old"}, 1),
}


@pytest.mark.parametrize("case", REMOVALS)
def test_what_meets_all_conditions_goes_and_nothing_else(held, case):
    conditions, gone, kept = REMOVALS[case]
    before, links = groups(held), cache.studies_using(held, "new, used")
    would = cache.remove_evaluations(held, **conditions, dry_run=True)
    assert groups(held) == before
    assert cache.remove_evaluations(held, **conditions) == would
    assert would.kept == kept
    assert sum(group.evaluations for group in would.groups) == len(gone)
    assert keys(held) == HELD.keys() - gone
    assert cache.studies_using(held, "new, used") == links == ["one"]
    freed = sum(group.bytes for group in before) - sum(group.bytes for group in groups(held))
    assert sum(group.bytes for group in would.groups) == freed
    assert cache.remove_evaluations(held, **conditions).groups == ()


def test_what_was_removed_is_told_by_group(held):
    removed = cache.remove_evaluations(held, older_than=30).groups
    told = [(g.model, g.data, g.split, g.metric, g.evaluations, g.seconds) for g in removed]
    assert told == [
        ("demo", DATASET.path, "search", "exact_match", 1, 1.5),
        ("other", DATASET.path, "test", "exact_match", 1, 1.5),
    ]
    assert removed[1].fingerprint == OTHER_MODEL.fingerprint


def test_what_a_deleted_study_used_is_unused(held):
    for name in ("one", "other"):
        delete_study(held, name)
    assert cache.remove_evaluations(held).kept == 0
    assert keys(held) == set()


def test_one_study_of_two_keeps_an_evaluation(held):
    results.link_evaluation(held, leased(held, "two"), "old, used")
    for name in ("one", "other"):
        delete_study(held, name)
    cache.remove_evaluations(held)
    assert keys(held) == {"old, used"}


@pytest.mark.parametrize(
    ("prefix", "error", "said"),
    [
        ("abc", NotFound, "no model's fingerprint begins with 'abc'"),
        ("%", NotFound, "'%'"),
        ("f_", NotFound, "'f_'"),
        ("f", Ambiguous, "the fingerprints of 2 models begin with 'f'"),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_fingerprint_must_be_of_one_model(held, prefix, error, said, dry_run):
    with pytest.raises(error, match=said):
        cache.remove_evaluations(held, model=prefix, dry_run=dry_run)
    assert keys(held) == HELD.keys()


def test_more_than_one_statement_can_take(database, monkeypatch):
    monkeypatch.setattr(cache, "_AT_ONCE", 3)
    for number in range(8):
        results.save_evaluation(database, evaluation(f"k{number}"))
    (group,) = cache.remove_evaluations(database).groups
    assert group.evaluations == 8
    assert keys(database) == set()


def test_what_a_study_begins_to_use_meanwhile_is_kept(database, monkeypatch):
    """On PostgreSQL a link may be committed after the evaluations were chosen; here a patch makes it so."""
    lease = leased(database)
    for key in ("late", "free"):
        results.save_evaluation(database, evaluation(key))
    delete = cache._delete

    def link_first(session, ids):
        insert = (
            "INSERT INTO ss_study_evaluations (study_id, evaluation_id, cached)"
            f" SELECT {lease.study_id}, id, true FROM ss_evaluations WHERE key = 'late'"
        )
        session.connection().exec_driver_sql(insert)
        return delete(session, ids)

    monkeypatch.setattr(cache, "_delete", link_first)
    removal = cache.remove_evaluations(database)
    assert [group.evaluations for group in removal.groups] == [1]
    assert removal.kept == 1
    assert keys(database) == {"late"}
