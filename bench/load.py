"""Does the database stay quick when it is full? 1,000 studies and a million evaluations of 512 samples.

    python -m bench.load                                       # both kinds, each about 12 GB on disk
    python -m bench.load --evaluations 20000 --studies 50 --only sqlite

Fills a database with evaluations and Optuna's trials in the form in which the service writes them, then times
what the reading commands ask of it: the median of several calls of the function behind each command, database
and reading of rows together, printing left out. Prints a table and then one JSON line.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from sqlalchemy import create_engine, text

from bench.filling import MODEL, fill, study_name
from bench.output import console
from bench.postgres import postgres
from db import results, studies
from db.session import Database
from searchsvc import cache, queries
from searchsvc.candidates import candidates
from searchsvc.latencies import read_latencies
from searchsvc.points import on_front, rows
from searchsvc.subject import stored_spec

ENGINES = ("sqlite", "postgresql")
#: calls of which the median is taken; one before them is not counted
CALLS = 5


@dataclass(frozen=True, kw_only=True)
class Row:
    """One command on one kind of database."""

    engine: str
    command: str
    milliseconds: float


def main() -> None:
    """Fill, time, print."""
    given = _arguments()
    found: list[Row] = []
    sizes: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=given.dir) as folder:
        for engine in given.only:
            if engine == "sqlite":
                sizes[engine] = _measure(engine, f"sqlite:///{Path(folder) / 'load.db'}", given, found)
            else:
                with postgres(given.postgres) as url:
                    sizes[engine] = _measure(engine, url, given, found)
    _show(found, sizes, given)
    counts = {"evaluations": given.evaluations, "studies": given.studies, "samples": given.samples}
    print(json.dumps({"bench": "load", **counts, "bytes": sizes, "rows": [asdict(row) for row in found]}))


def _measure(engine: str, url: str, given: argparse.Namespace, found: list[Row]) -> dict[str, float]:
    """Add a row per command; return the bytes that an evaluation, and a trial, take on disk."""
    sizes, before = {}, 0
    with Database.open(url) as database:
        for what in fill(database, given.evaluations, given.studies, given.samples):
            now = _bytes(database)
            sizes[what], before = (now - before) / given.evaluations, now
        _settle(database)
        for command, call in _commands(database, given.studies // 2).items():
            found.append(Row(engine=engine, command=command, milliseconds=_time(call)))
    return sizes


def _settle(database: Database) -> None:
    """Do what a PostgreSQL server does by itself before long."""
    if database.optuna_url.startswith("postgresql"):
        engine = create_engine(database.optuna_url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql("VACUUM (ANALYZE)")
        engine.dispose()


def _commands(database: Database, number: int) -> dict[str, Callable[[], Any]]:
    """What the commands ask of the database, by their names."""
    name = study_name(number)

    def front() -> None:
        rows(on_front(queries.study_points(database, name)), read_latencies(database, name))

    def export() -> None:
        study = studies.get_study(database, name)
        members = candidates(
            queries.study_points(database, name), stored_spec(study), read_latencies(database, name)
        )
        for member in members:
            results.find_evaluation(database, member.key)

    return {
        "study list": lambda: queries.list_studies(database),
        "study show": lambda: queries.show_study(database, name),
        "study front": front,
        "profile export": export,
        "cache show": lambda: cache.show_cache(database),
        "cache prune --dry-run": lambda: cache.prune_cache(
            database, unused=True, older_than=None, model=MODEL.fingerprint, dry_run=True
        ),
    }


def _time(call: Callable[[], Any]) -> float:
    call()
    taken = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return 1000 * statistics.median(taken)


def _bytes(database: Database) -> int:
    """Bytes on disk, indices included."""
    with database.session() as session:
        if session.get_bind().dialect.name == "sqlite":
            pages = session.execute(text("PRAGMA page_count")).scalar_one()
            return int(pages * session.execute(text("PRAGMA page_size")).scalar_one())
        return int(session.execute(text("SELECT pg_database_size(current_database())")).scalar_one())


def _show(found: list[Row], sizes: dict[str, dict[str, float]], given: argparse.Namespace) -> None:
    title = f"{given.studies:,} studies, {given.evaluations:,} evaluations of {given.samples} samples"
    table = Table(title=title, title_justify="left")
    table.add_column("command")
    for engine in sizes:
        table.add_column(f"{engine}, ms", justify="right")
    for command in dict.fromkeys(row.command for row in found):
        times = [f"{row.milliseconds:.0f}" for row in found if row.command == command]
        table.add_row(command, *times)
    for what in ("evaluations", "trials"):
        table.add_row(f"bytes per {what[:-1]}", *(f"{taken[what]:,.0f}" for taken in sizes.values()))
    console().print(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--evaluations", type=int, default=1_000_000)
    parser.add_argument("--studies", type=int, default=1_000)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--dir", type=Path, help="where the databases are made; default: the system's")
    parser.add_argument("--postgres", help="URL of an empty database; default: a server of our own")
    return parser.parse_args()


if __name__ == "__main__":
    main()
