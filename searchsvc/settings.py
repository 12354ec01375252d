"""Where things are on this machine; every field can be set as an environment variable SEARCHSVC_<FIELD>."""

from pathlib import Path

from platformdirs import user_data_path
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from db.errors import Unreachable
from db.urls import with_password


class Settings(BaseSettings):
    """Settings of one installation."""

    model_config = SettingsConfigDict(env_prefix="SEARCHSVC_", extra="ignore", frozen=True)

    #: Folder for the embedded database and the demo's data.
    home: Path = Field(default_factory=lambda: user_data_path("searchsvc"))
    #: SQLAlchemy URL of the database; an SQLite file below `home` when empty.
    db_url: str | None = None
    #: File with the password of `db_url`, which then carries none: no environment or process list shows it.
    db_password_file: Path | None = None
    #: Address of a running Ray cluster; a local one is started when empty.
    ray_address: str | None = None

    def database_url(self, option: str | None = None) -> str:
        """Return the database URL: the command's `--db`, else the setting, else the embedded file.

        A bare path is taken as an SQLite file.
        """
        url = option or self.db_url
        if not url:
            try:
                self.home.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise Unreachable(
                    f"the folder {self.home} cannot be made ({error.strerror}); set SEARCHSVC_HOME or --db"
                ) from error
            url = str(self.home / "searchsvc.db")
        if "://" not in url:
            return f"sqlite:///{Path(url).absolute()}"
        if self.db_password_file is None or url.startswith("sqlite"):
            return url
        try:
            return with_password(url, self.db_password_file.read_text(encoding="utf-8").strip())
        except (OSError, UnicodeDecodeError) as error:
            raise Unreachable(
                f"SEARCHSVC_DB_PASSWORD_FILE {self.db_password_file} cannot be read ({error})"
            ) from error
