"""The dashboard's token: where it may come from, and that no message repeats it."""

from pathlib import Path

import pytest

from searchsvc.errors import ServiceError
from searchsvc.settings import Settings
from searchsvc.tokens import read_token

GOOD = "c0ffee" * 5


def test_a_file_goes_before_the_setting(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{GOOD}\n")
    assert read_token(file, "another" * 5) == GOOD
    assert read_token(None, GOOD) == GOOD
    assert read_token(None, None) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "shorter than 16"),
        (b"\n\n", "shorter than 16"),
        (b"short-secret", "shorter than 16"),
        (b"a secret with blanks in it", "holds blanks"),
        (b"first-line-secret\nsecond-line-secret", "holds blanks"),
        ("geheimer-schlüssel".encode(), "beyond ASCII"),
        (b"\xff\xfe" * 16, "no text"),
    ],
)
def test_what_is_no_token_is_refused_and_not_repeated(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(ServiceError, match=said) as caught:
        read_token(file, None)
    assert str(file) in str(caught.value)
    assert "openssl rand" in str(caught.value)
    for secret in ("short-secret", "secret with", "first-line", "geheimer"):
        assert secret not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for place in (tmp_path / "none", tmp_path):
        with pytest.raises(ServiceError, match=r"cannot be read"):
            read_token(place, GOOD)


def test_the_setting_is_hidden_where_settings_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEARCHSVC_DASHBOARD_TOKEN", GOOD)
    settings = Settings()
    assert settings.token == GOOD
    assert GOOD not in repr(settings)
    assert GOOD not in str(settings.model_dump())
