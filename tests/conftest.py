"""What several test files share: a tiny random model with data, made once per test run; databases per test."""

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

# transformers copies the code that models bring to a place that it reads off the environment when it is imported
if "HF_MODULES_CACHE" not in os.environ:
    os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp(prefix="modules-")
    atexit.register(shutil.rmtree, os.environ["HF_MODULES_CACHE"], ignore_errors=True)

from databases import PostgresServer, postgres_server
from db_cases import sqlite_url
from tiny_vlm import save_tiny_vlm, write_images

from db.session import Database, upgrade


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaVA of eight layers in an ordinary Hugging Face folder."""
    return save_tiny_vlm(tmp_path_factory.mktemp("model") / "tiny", layers=8)


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the same kind, but deeper."""
    return save_tiny_vlm(tmp_path_factory.mktemp("model") / "deeper", layers=9)


@pytest.fixture(scope="session")
def tiny_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve search and eight test samples."""
    folder = tmp_path_factory.mktemp("data")
    rows = [
        {
            "id": f"s{number}",
            "image": f"images/{path.name}",
            "question": "what digit is red",
            "answers": ["one"],
            "split": "search" if number < 12 else "test",
        }
        for number, path in enumerate(write_images(folder / "images", 20))
    ]
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


@pytest.fixture(scope="session")
def tiny_study(tiny_model: Path, tiny_manifest: Path) -> list[str]:
    """Options of `study create` for a study of both, without a method."""
    return ["--model", str(tiny_model), "--data", str(tiny_manifest), "--metric", "fidelity"]


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server, started with the first test that wants it."""
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_template(postgres: PostgresServer) -> Iterator[str]:
    """The name of a PostgreSQL database that holds our tables, and which nobody is connected to."""
    with postgres.database() as url:
        upgrade(url)
        yield make_url(url).database or ""


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file that holds our tables."""
    folder = tmp_path_factory.mktemp("template")
    upgrade(sqlite_url(folder))
    return folder / "memory.db"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def engine(request: pytest.FixtureRequest) -> str:
    """Each kind of database that we support: what asks for this, or for what follows, runs on both."""
    return str(request.param)


@pytest.fixture
def empty_url(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database without any table."""
    if engine == "sqlite":
        yield sqlite_url(tmp_path)
        return
    with request.getfixturevalue("postgres").database() as url:
        yield url


@pytest.fixture
def database_url(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database with our tables, and nothing in them."""
    if engine == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "memory.db")
        yield sqlite_url(tmp_path)
        return
    template = request.getfixturevalue("postgres_template")
    with request.getfixturevalue("postgres").database(template) as url:
        yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """The same, opened."""
    with Database.open(database_url) as opened:
        yield opened


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that a process without privileges may enter; `tmp_path` is closed to others."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Root may write everywhere: be somebody else for the test."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
