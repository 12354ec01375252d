"""The dashboard's token: from a file or the environment, never from the command line, where others see it."""

from pathlib import Path

from searchsvc.errors import ServiceError

#: fewer characters could be guessed
SHORTEST = 16
_MAKE = "make one with: openssl rand -hex 32"


def read_token(file: Path | None, setting: str | None) -> str | None:
    """Return the token: the file's only line, else the setting; None where there is neither.

    Raises:
        ServiceError: the file cannot be read, or what is given is no token; the message does not repeat it.
    """
    if file is None:
        return None if setting is None else _checked(setting, "SEARCHSVC_DASHBOARD_TOKEN")
    try:
        return _checked(file.read_text(encoding="utf-8"), f"--token-file {file}")
    except UnicodeDecodeError:
        raise ServiceError(f"--token-file {file}: holds no text; {_MAKE}") from None
    except OSError as error:
        raise ServiceError(f"--token-file {file}: cannot be read ({error.strerror}); {_MAKE}") from error


def _checked(text: str, where: str) -> str:
    token = text.strip()
    if len(token) < SHORTEST:
        raise ServiceError(f"{where}: shorter than {SHORTEST} characters, so it could be guessed; {_MAKE}")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ServiceError(f"{where}: holds blanks, line breaks or letters beyond ASCII; {_MAKE}")
    return token
