"""`searchsvc doctor`: what this machine has, and whether searchsvc can work on it."""

import typer

from searchsvc.cli.db import Url
from searchsvc.cli.output import Format, Output, show_rows


def doctor(output: Output = Format.TABLE, db: Url = None) -> None:
    """Check packages, devices, memory, model and database; exit status 2 when something is wrong."""
    from searchsvc.diagnosis import diagnose
    from searchsvc.settings import Settings

    findings = diagnose(Settings().database_url(db))
    show_rows([finding.row() for finding in findings], output, title="searchsvc doctor", key="checks")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(2)
