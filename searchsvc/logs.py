"""Structured logs: a JSON object per line on stderr, with `time`, `level`, `event` and what that is about."""

import logging
import sys

from pythonjsonlogger.json import JsonFormatter

log = logging.getLogger("searchsvc")


def log_as_json() -> None:
    """Have this process log so, warnings and what libraries log included."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(
            ["levelname", "message", "name"],
            rename_fields={"levelname": "level", "message": "event", "name": "logger"},
            timestamp="time",
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(True)
    log.setLevel(logging.INFO)
