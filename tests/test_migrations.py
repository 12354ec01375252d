"""Our schema: migrations equal the models, and live beside Optuna's without touching them."""

import shutil
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from db_cases import evaluation, latency, leased, make_study
from sqlalchemy import JSON, create_engine, inspect, text
from sqlalchemy.exc import IntegrityError

from db import queue, requests, results, schema
from db.errors import SchemaMismatch
from db.latencies import latencies, save_latency
from db.models import Base
from db.session import Database, check, upgrade
from db.studies import get_study
from db.values import NewFront, SampleSet

OURS = {
    "ss_alembic_version",
    "ss_attempts",
    "ss_datasets",
    "ss_evaluations",
    "ss_fronts",
    "ss_latencies",
    "ss_models",
    "ss_profiles",
    "ss_sample_sets",
    "ss_studies",
    "ss_study_evaluations",
}


@pytest.fixture
def url(empty_url):
    return empty_url


@pytest.fixture
def connect(url):
    """An engine of no configuration of ours, as a stranger would open the database."""
    engine = create_engine(url)
    yield engine.begin
    engine.dispose()


def tables(connect):
    with connect() as connection:
        return set(inspect(connection).get_table_names())


def definitions(connection):
    """What the database says of our tables: columns, indexes, constraints and their names."""
    found = inspect(connection)
    kinds = ("pk_constraint", "foreign_keys", "unique_constraints", "check_constraints", "indexes")
    return {
        table: [
            sorted(
                (column["name"], str(column["type"]), column["nullable"], column["default"])
                for column in found.get_columns(table)
            ),
            *(_sorted(getattr(found, f"get_{kind}")(table)) for kind in kinds),
        ]
        for table in filter(schema.is_ours, found.get_table_names())
    }


def _sorted(constraints):
    return constraints if isinstance(constraints, dict) else sorted(constraints, key=lambda one: one["name"])


def test_migrations_equal_the_models(url, connect):
    upgrade(url)
    with connect() as connection:
        connection.execute(text("CREATE TABLE studies (theirs INTEGER)"))
        options = {"version_table": schema.VERSION_TABLE, "include_object": schema.include_object}
        context = MigrationContext.configure(connection, opts={"compare_server_default": True, **options})
        assert compare_metadata(context, Base.metadata) == []
        migrated = definitions(connection)
        Base.metadata.drop_all(connection)
        assert definitions(connection) == {}
        Base.metadata.create_all(connection)
        assert migrated == definitions(connection)


def test_every_table_bears_our_prefix(url, connect):
    upgrade(url)
    assert tables(connect) == OURS
    assert {name for name in Base.metadata.tables if not schema.is_ours(name)} == set()


def optuna_storage(database):
    return optuna.storages.RDBStorage(database.optuna_url, engine_kwargs=database.optuna_engine_options)


def run_trials(storage, count):
    study = optuna.create_study(storage=storage, study_name="one", load_if_exists=True)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1) ** 2, n_trials=count)
    return len(study.trials)


def close(storage):
    storage.remove_session()
    storage.engine.dispose()


def test_optuna_first_then_we(url, connect):
    with Database(url) as database:
        storage = optuna_storage(database)
        assert run_trials(storage, 2) == 2
        assert database.revision() is None
        before = tables(connect)
        database.upgrade()
        make_study(database)
        assert run_trials(storage, 2) == 4
        close(storage)
        again = optuna_storage(database)
        assert again.get_current_version() == again.get_head_version()
        assert run_trials(again, 1) == 5
        close(again)
    assert tables(connect) == before | OURS


def test_we_first_then_optuna(url):
    with Database.open(url) as database:
        make_study(database)
        storage = optuna_storage(database)
        assert run_trials(storage, 2) == 2
        storage.upgrade()
        close(storage)
    with Database.open(url) as database:
        assert get_study(database, "one").status == "queued"
        assert database.revision() == schema.needed_revision()


def test_both_write_while_the_other_is_connected(url):
    with Database.open(url) as database:
        storage = optuna_storage(database)
        for number in range(5):
            make_study(database, f"study-{number}")
            assert run_trials(storage, 1) == number + 1
        close(storage)


def test_down_and_up_again_leaves_optuna_alone(url, connect):
    with Database.open(url) as database:
        storage = optuna_storage(database)
        run_trials(storage, 2)
        with connect() as connection:
            command.downgrade(schema.alembic_config(connection), "base")
        assert tables(connect) & OURS == {schema.VERSION_TABLE}
        assert database.revision() is None
        database.upgrade()
        assert tables(connect) >= OURS
        make_study(database)
        assert run_trials(storage, 1) == 3
        close(storage)


def test_upgrade_of_what_is_up_to_date_changes_nothing(url):
    with Database.open(url) as database:
        lease = leased(database)
        assert upgrade(url) == schema.needed_revision()
        assert get_study(database, "one").lease_epoch == lease.epoch


def migrate(connect, how, revision):
    with connect() as connection:
        how(schema.alembic_config(connection), revision)


def test_latencies_come_and_go_and_what_was_stored_before_stays(url, connect):
    """0001, the newest, 0001, the newest, with a study and its front in the database."""
    front = NewFront(
        split="search", reason="final", points=({"trial": 0},), hypervolume=0.5, reference=(1.0, 0.0)
    )
    upgrade(url)
    migrate(connect, command.downgrade, "0001")
    assert tables(connect) == OURS - {"ss_latencies", "ss_sample_sets"}
    with pytest.raises(SchemaMismatch, match="older version"):
        check(url)
    migrate(connect, command.upgrade, "head")
    with Database.open(url) as database:
        lease = leased(database)
        kept = results.save_front(database, lease, front)
        saved = save_latency(database, lease, latency())
        assert latencies(database, "one") == [saved]
    migrate(connect, command.downgrade, "0001")
    with connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM ss_fronts")).scalar() == 1
    assert upgrade(url) == schema.needed_revision()
    with Database.open(url) as database:
        assert results.fronts(database, "one") == [kept]
        assert latencies(database, "one") == [], "a downgrade gives the measurements up"


def test_requests_come_and_go_and_what_refers_to_a_study_stays(url, connect):
    """0003 changes a rule of the studies' table, which SQLite does by copying and dropping it."""
    with Database.open(url) as database:
        lease = leased(database, "old")
        results.save_evaluation(database, evaluation(), lease=lease)
        queue.release(database, lease)
        make_study(database, "new")
        requests.request(database, "new", "pause")
    migrate(connect, command.downgrade, "0002")
    with connect() as connection:
        assert "priority" not in {column["name"] for column in inspect(connection).get_columns("ss_studies")}
        statuses = connection.execute(text("SELECT status FROM ss_studies")).scalars()
        assert set(statuses) == {"queued"}
    assert upgrade(url) == schema.needed_revision()
    with Database.open(url) as database:
        assert len(results.evaluations(database, "old")) == 1
        assert (get_study(database, "new").priority, get_study(database, "new").status) == (0, "queued")
        with pytest.raises(IntegrityError), database.begin() as session:
            session.execute(text("UPDATE ss_studies SET status = 'lost'"))


SAMPLES = SampleSet(ids=("a", "b", "c", "é"), visual_tokens=(144, 144, 16, 9), text_tokens=(7, 8, 9, 10))
LISTS = {name: list(value) for name, value in vars(SAMPLES).items()}


def test_samples_move_out_of_the_evaluations_and_back(url, connect):
    """The newest, 0002, the newest, with evaluations of two sample sets, of none, and their links in the database."""
    other = replace(SAMPLES, ids=("a", "b", "c", "d"))
    news = [evaluation(f"k{n}", samples=samples) for n, samples in enumerate((SAMPLES, other, None, SAMPLES))]
    with Database.open(url) as database:
        lease = leased(database)
        saved = [results.save_evaluation(database, new, lease=lease) for new in news]
    with connect() as connection:
        before = connection.execute(text("SELECT bytes FROM ss_evaluations ORDER BY id")).scalars().all()
    migrate(connect, command.downgrade, "0002")
    with connect() as connection:
        chosen = text("SELECT cost FROM ss_evaluations ORDER BY key").columns(cost=JSON)
        costs = connection.execute(chosen).scalars().all()
        assert connection.execute(text("SELECT trial FROM ss_study_evaluations")).all() == [(None,)] * 4
    assert costs[0] == costs[3] == {**LISTS, "decoder_ratio": 0.5}
    assert costs[1:3] == [{**costs[0], "ids": list(other.ids)}, {"decoder_ratio": 0.5}]
    upgrade(url)
    with connect() as connection:
        sizes = connection.execute(text("SELECT bytes FROM ss_evaluations ORDER BY id")).scalars().all()
    assert sizes == before
    with Database.open(url) as database:
        used = results.evaluations(database, "one")
        assert [one.evaluation for one in used] == saved
        assert results.save_evaluation(database, evaluation("new", samples=SAMPLES)).samples == SAMPLES
        third = results.save_evaluation(
            database, evaluation("newer", samples=replace(other, text_tokens=(1,) * 4))
        )
        assert third.samples.text_tokens == (1,) * 4
        with database.session() as session:
            assert session.execute(text("SELECT count(*) FROM ss_sample_sets")).scalar() == 3


NEXT = """
import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{head}"


def upgrade():
    with op.batch_alter_table("ss_studies") as table:
        table.add_column(sa.Column("note", sa.Text))


def downgrade():
    with op.batch_alter_table("ss_studies") as table:
        table.drop_column("note")
"""


@pytest.fixture
def next_version(tmp_path, monkeypatch):
    """A program that is one revision ahead, installed in a folder with a percent sign."""
    folder = tmp_path / "50%" / "migrations"
    shutil.copytree(Path(schema.__file__).parent / "migrations", folder)
    (folder / "versions" / "v9999_next.py").write_text(NEXT.format(head=schema.needed_revision()))

    def install():
        monkeypatch.setattr(schema, "_MIGRATIONS", folder)

    return install


def test_older_tables_are_refused_with_the_way_out_and_the_way_out_works(url, next_version):
    with Database.open(url) as database:
        make_study(database)
    next_version()
    advice = r"older version \(revision \d{4}, this program needs 9999\): run `searchsvc db upgrade`"
    for refuses in (check, Database.open):
        with pytest.raises(SchemaMismatch, match=advice):
            refuses(url)
    assert upgrade(url) == check(url) == "9999"
    with Database.open(url) as database:
        assert get_study(database, "one").status == "queued"


def test_newer_tables_are_refused_and_stay_as_they_are(url, next_version, monkeypatch, connect):
    next_version()
    upgrade(url)
    monkeypatch.undo()
    for refuses in (check, Database.open, upgrade):
        with pytest.raises(SchemaMismatch, match=r"newer version \(revision 9999 .*`searchsvc db upgrade`"):
            refuses(url)
    with connect() as connection:
        assert connection.execute(text("SELECT version_num FROM ss_alembic_version")).scalar() == "9999"


def test_our_tables_without_a_version_are_refused(url, connect):
    upgrade(url)
    with connect() as connection:
        connection.execute(text("DROP TABLE ss_alembic_version"))
    for refuses in (check, Database.open, upgrade):
        with pytest.raises(SchemaMismatch, match="our tables without their version"):
            refuses(url)


def test_migrations_are_found_from_anywhere(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert upgrade(url) == schema.needed_revision()


def test_a_migration_that_fails_leaves_nothing_behind(url, connect, monkeypatch):
    def fail(*_args, **_options):
        raise RuntimeError("power cut")

    monkeypatch.setattr("alembic.op.create_index", fail)
    with pytest.raises(RuntimeError, match="power cut"):
        upgrade(url)
    assert tables(connect) == set()
    monkeypatch.undo()
    assert upgrade(url) == schema.needed_revision()
