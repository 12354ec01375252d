"""PostgreSQL's own programs for copies, `pg_dump` and `pg_restore`."""

import os
import subprocess
from pathlib import Path

from sqlalchemy.engine import URL

from db.errors import ProgramFailed
from db.urls import display, secrets


def dump(url: URL, file: Path) -> None:
    """Write a consistent copy of a database in pg_dump's custom format.

    Raises:
        ProgramFailed: in one line, why.
    """
    _run("pg_dump", url, "--format=custom", f"--file={file}")


def restore(url: URL, file: Path) -> None:
    """Fill an empty database from such a copy, wholly or not at all.

    Raises:
        ProgramFailed: in one line, why.
    """
    whole = ("--exit-on-error", "--single-transaction")
    _run("pg_restore", url, *whole, "--no-owner", "--no-privileges", str(file))


def _run(program: str, url: URL, *arguments: str) -> None:
    # everybody on the machine may read a command line: the password goes by the environment
    query = {name: value for name, value in url.query.items() if name != "password"}
    place = URL.create("postgresql", url.username, None, url.host, url.port, url.database, query)
    password = url.password or url.query.get("password")
    environment = {**os.environ, **({"PGPASSWORD": str(password)} if password else {})}
    command = [program, f"--dbname={place.render_as_string()}", "--no-password", *arguments]
    try:
        ended = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise ProgramFailed(
            f"{program} is not at hand: install PostgreSQL's client programs, of the server's version "
            "or a newer one, where PATH leads"
        ) from error
    if ended.returncode:
        lines = [line for line in ended.stderr.splitlines() if "error" in line] or ended.stderr.splitlines()
        reason = lines[0] if lines else f"exit status {ended.returncode}"
        for secret in secrets(url):
            reason = reason.replace(secret, "***")
        raise ProgramFailed(f"{program} failed on {display(url)}: {reason}")
