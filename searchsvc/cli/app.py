"""The `searchsvc` program: its commands, and the one place where errors become a line and an exit status."""

import sys
import traceback
from typing import Annotated

import typer
from typer.exceptions import TyperException

from searchsvc.cli import cache, dashboard, db, demo, doctor, model, profile, serve, steering, study
from searchsvc.cli import cost as cost_command
from searchsvc.cli.output import message
from searchsvc.errors import INTERRUPTED, OWN_FAULT, WRONG_INPUT, exit_status

app = typer.Typer(
    name="searchsvc",
    help="Search visual-token pruning schedules for vision-language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
steering.add_to(study.app)
app.add_typer(study.app, name="study")
app.add_typer(profile.app, name="profile")
app.add_typer(model.app, name="model")
app.add_typer(demo.app, name="demo")
app.add_typer(cache.app, name="cache")
app.add_typer(db.app, name="db")
app.command("cost")(cost_command.cost)
app.command("dashboard")(dashboard.dashboard)
app.command("serve")(serve.serve)
app.command("doctor")(doctor.doctor)


@app.callback()
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Print the traceback of an error.")] = False,
) -> None:
    """Search visual-token pruning schedules for vision-language models."""
    context.ensure_object(dict)["debug"] = debug


def main() -> None:
    """Run the command line and exit with the status that DESIGN's table of errors gives."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; user errors are one line on stderr, without a traceback."""
    try:
        status = app(arguments, standalone_mode=False)
    except typer.Abort:
        status = INTERRUPTED
    except TyperException as error:
        message(f"searchsvc: {error.format_message()}")
        return WRONG_INPUT
    except Exception as error:
        return _report(error, debug="--debug" in arguments)
    if status == INTERRUPTED:
        message("searchsvc: interrupted; nothing finished is lost, run the command again to go on")
    return status if isinstance(status, int) else 0


def _report(error: Exception, *, debug: bool) -> int:
    status = exit_status(error)
    if status is None and isinstance(error, OSError) and error.filename:
        message(f"searchsvc: {error.filename}: {error.strerror}; choose another place")
        return WRONG_INPUT
    if debug or status is None:
        traceback.print_exception(error)
    if status is not None:
        message(f"searchsvc: {error}")
        return status
    message("searchsvc: this is a fault of searchsvc, not yours; please report it with the lines above")
    return OWN_FAULT
