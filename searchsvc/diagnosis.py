"""The checks behind `searchsvc doctor`: each one a function that returns what it found."""

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

#: The packages whose versions a bug report needs.
PACKAGES = (
    "searchsvc",
    "torch",
    "transformers",
    "optuna",
    "optuna-dashboard",
    "scikit-optimize",
    "ray",
    "sqlalchemy",
)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One check: what was found, and what to do where it is not well."""

    check: str
    ok: bool
    found: str
    advice: str = ""

    def row(self) -> dict[str, Any]:
        """Lay the finding out for `--output`."""
        return {"check": self.check, "ok": self.ok, "found": self.found, "advice": self.advice}


def diagnose(database_url: str) -> list[Finding]:
    """Run every check; none of them changes anything but an empty embedded database, which is created."""
    return [_packages(), _machine(), _devices(), _embedded_model(), _database(database_url)]


def _packages() -> Finding:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    return Finding(check="packages", ok=True, found=f"Python {platform.python_version()}, {versions}")


def _machine() -> Finding:
    import psutil

    memory = psutil.virtual_memory().available / 2**30
    found = f"{os.cpu_count()} cores, {memory:.1f} GiB of memory free"
    return Finding(
        check="machine", ok=memory > 2, found=found, advice="" if memory > 2 else "free 2 GiB of memory"
    )


def _devices() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding(check="devices", ok=True, found="CPU only")
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return Finding(check="devices", ok=True, found=names)


def _embedded_model() -> Finding:
    from searchsvc.locations import DEMO_MODEL
    from studies.folders import fingerprint

    return _tried(
        "embedded model", lambda: f"sha256 {fingerprint(DEMO_MODEL)[:12]}", "install searchsvc again"
    )


def _database(url: str) -> Finding:
    from db.session import Database

    def opened() -> str:
        with Database.open(url) as database:
            return database.shown_url

    return _tried("database", opened, "set --db or SEARCHSVC_DB_URL, or run: searchsvc db upgrade")


def _tried(check: str, look: Callable[[], str], advice: str) -> Finding:
    try:
        return Finding(check=check, ok=True, found=look())
    except Exception as error:
        return Finding(check=check, ok=False, found=str(error).splitlines()[0], advice=advice)
