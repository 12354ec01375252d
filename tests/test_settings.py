"""Settings from the environment: which database a command works on, and where its password comes from."""

from pathlib import Path

import pytest

from db.errors import InvalidUrl, Unreachable
from searchsvc.settings import Settings

TEAM = "postgresql://searchsvc@postgres/searchsvc"


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DB_URL", "DB_PASSWORD_FILE", "RAY_ADDRESS"):
        monkeypatch.delenv(f"SEARCHSVC_{name}", raising=False)
    monkeypatch.setenv("SEARCHSVC_HOME", str(tmp_path / "home"))


def test_the_option_comes_before_the_setting_and_the_file_last(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert Settings().database_url() == f"sqlite:///{tmp_path / 'home' / 'searchsvc.db'}"
    monkeypatch.setenv("SEARCHSVC_DB_URL", TEAM)
    assert Settings().database_url() == TEAM
    assert Settings().database_url(str(tmp_path / "a.db")) == f"sqlite:///{tmp_path / 'a.db'}"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (TEAM, "postgresql+psycopg://searchsvc:p%40ss%2Fw@postgres/searchsvc"),
        # its own password stays
        ("postgresql://me:mine@host/db", "postgresql+psycopg://me:mine@host/db"),
        ("sqlite:////tmp/a.db", "sqlite:////tmp/a.db"),
    ],
)
def test_the_password_may_be_in_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, expected: str
) -> None:
    secret = tmp_path / "password"
    secret.write_text("p@ss/w\n")
    monkeypatch.setenv("SEARCHSVC_DB_PASSWORD_FILE", str(secret))
    assert Settings().database_url(url) == expected


def test_a_password_file_that_cannot_be_read_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SEARCHSVC_DB_PASSWORD_FILE", str(tmp_path / "none"))
    with pytest.raises(Unreachable, match="none cannot be read"):
        Settings().database_url(TEAM)
    (tmp_path / "password").write_text("secret")
    monkeypatch.setenv("SEARCHSVC_DB_PASSWORD_FILE", str(tmp_path / "password"))
    with pytest.raises(InvalidUrl) as raised:
        Settings().database_url("mysql://me@host/db")
    assert "secret" not in str(raised.value)
