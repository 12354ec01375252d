"""`searchsvc study`, continued: the verbs that steer and follow a study, whoever runs it."""

from typing import Annotated, Any

import typer

from searchsvc.cli.db import Url
from searchsvc.cli.output import Format, Output, RowStream, message, show_rows
from searchsvc.cli.study import Name, Priority, conclude, open_database
from searchsvc.errors import INTERRUPTED, WRONG_INPUT


def add_to(app: typer.Typer) -> None:
    """Add the commands to those of `searchsvc study`."""
    for command in (pause, resume, stop, cancel, retry, clone, preflight, tail, wait):
        app.command()(command)


def pause(name: Name, db: Url = None) -> None:
    """Have a study give its lease back, and be taken by nobody until it is resumed."""
    _ask(name, db, "pause")


def stop(name: Name, db: Url = None) -> None:
    """End a study with its best so far, as if one of its limits were reached: it is done then."""
    _ask(name, db, "stop")


def cancel(name: Name, db: Url = None) -> None:
    """End a study now; what was evaluated stays, and no result is chosen."""
    _ask(name, db, "cancel")


def resume(name: Name, db: Url = None) -> None:
    """Queue a paused study again, or take back that it was to pause or stop."""
    from searchsvc.steering import resume as resume_study

    with open_database(db) as database:
        message(resume_study(database, name))


def retry(
    name: Name,
    failed: Annotated[
        bool,
        typer.Option("--failed", help="Try its failed schedules again, too; of any study that has some."),
    ] = False,
    db: Url = None,
) -> None:
    """Queue a study again that failed or was cancelled; it goes on where it was."""
    from searchsvc.steering import retry as retry_study

    with open_database(db) as database:
        message(retry_study(database, name, failed=failed))


def clone(
    name: Name,
    new: Annotated[str, typer.Argument(help="Name of the new study.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE by its place in the spec, as in search.trials=50; repeatable."),
    ] = None,
    priority: Priority = 0,
    db: Url = None,
) -> None:
    """Queue a new study of the same spec, with changes; checked as `study create` does."""
    from searchsvc.creation import clone_study

    with open_database(db) as database:
        message(clone_study(database, name, new, set_ or [], priority).summary)
        message(f"queued; run it with: searchsvc study run {new}, or searchsvc serve")


def preflight(name: Name, output: Output = Format.TABLE, db: Url = None) -> None:
    """Check on this machine that a study can run: data, model, one forward, memory, expected hours.

    Exit status 2 when something is wrong.
    """
    from searchsvc.preflight import preflight as check

    with open_database(db) as database:
        findings = check(database, name)
    show_rows([finding.row() for finding in findings], output, title=f"Preflight of {name}", key="checks")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(WRONG_INPUT)


def tail(name: Name, output: Output = Format.TABLE, db: Url = None) -> None:
    """Print a study's trials, those to come as they are told, until it has ended."""
    from searchsvc.following import new_trials

    stream = RowStream(output)
    with open_database(db) as database:
        for row in new_trials(database, name, message):
            stream.show(row)


def wait(name: Name, db: Url = None) -> None:
    """Wait until a study has ended, and exit as `study run` would have: 0 done, 5 nothing meets the goal.

    Of a study that failed: 2, with the reason; of one that was cancelled: 130.
    """
    from searchsvc.errors import ServiceError
    from searchsvc.following import wait_for

    with open_database(db) as database:
        study = wait_for(database, name, message)
        if study.status == "failed":
            raise ServiceError(f"study {name} failed: {study.error}")
        if study.status == "cancelled":
            raise typer.Exit(INTERRUPTED)
        conclude(database, name)


def _ask(name: str, db: str | None, what: Any) -> None:
    from searchsvc.steering import ask

    with open_database(db) as database:
        message(ask(database, name, what))
