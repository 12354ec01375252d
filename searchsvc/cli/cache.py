"""`searchsvc cache`: show, explain, prune."""

from collections.abc import Sequence
from typing import Annotated

import typer

from searchsvc.cli.db import Url
from searchsvc.cli.output import Format, Output, Row, message, show_record, show_rows
from searchsvc.cli.study import Name, open_database

app = typer.Typer(no_args_is_help=True, help="The memory of evaluations, which all studies share.")


@app.command()
def show(output: Output = Format.TABLE, db: Url = None) -> None:
    """Show what is remembered, by model, dataset, split and metric.

    Samples and seconds are those of all evaluations together, bytes what is stored of them. Unused
    evaluations belong to no study: of studies that were deleted, and those that `profile export` makes on the
    test split. A table shows the first 12 digits of a sha256; `cache prune --model` takes them.
    """
    from searchsvc.cache import SHORT, show_cache

    with open_database(db) as database:
        rows = show_cache(database, digits=SHORT if output is Format.TABLE else None)
        _show_groups(rows, output, "Remembered")
        if not rows:
            message("nothing is remembered yet")


@app.command()
def explain(
    name: Name,
    trial: Annotated[int, typer.Argument(min=0, help="Number of the trial, as `study front` shows it.")],
    output: Output = Format.TABLE,
    db: Url = None,
) -> None:
    """Show what a trial's evaluation is remembered by: the key and its parts, and the studies that use it.

    The key is the sha256 of `content` as JSON with sorted names. The study's data are read for it; where they
    have changed since, that is said instead.
    """
    from searchsvc.cache import explain_trial

    with open_database(db) as database:
        show_record(explain_trial(database, name, trial), output, title=f"Study {name}, trial {trial}")


@app.command()
def prune(
    unused: Annotated[
        bool, typer.Option("--unused", help="All that no study uses; the other conditions imply it.")
    ] = False,
    older_than: Annotated[
        int | None,
        typer.Option(min=1, max=36500, metavar="DAYS", help="Made more than so many days ago, and unused."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="FINGERPRINT", help="Of this model, and unused; the first digits are enough (4 or more)."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be deleted, and delete nothing.")
    ] = False,
    output: Output = Format.TABLE,
    db: Url = None,
) -> None:
    """Delete the evaluations that meet every condition given; at least one must be.

    An evaluation that a study uses is always kept, whatever its age and model: delete the study first.
    Evaluations that `profile export` made on the test split belong to no study, so they go, too. What is
    deleted is computed again when it is asked for. An SQLite file keeps its size and uses the room again.
    """
    from searchsvc.cache import SHORT, prune_cache

    with open_database(db) as database:
        rows, line = prune_cache(
            database,
            unused=unused,
            older_than=older_than,
            model=model,
            dry_run=dry_run,
            digits=SHORT if output is Format.TABLE else None,
        )
        _show_groups(rows, output, "Would be deleted" if dry_run else "Deleted")
        message(line)


def _show_groups(rows: Sequence[Row], output: Format, title: str) -> None:
    """Print a row per group; as tables they stand one below the other, since a terminal is too narrow."""
    if output is not Format.TABLE:
        show_rows(rows, output, title=title, key="groups")
    for row in rows if output is Format.TABLE else ():
        show_record(row, output, title=f"{title}: {row['model']}, {row['split']}, {row['metric']}")
