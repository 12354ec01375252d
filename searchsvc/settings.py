"""Where things are on this machine; every field can be set as an environment variable SEARCHSVC_<FIELD>."""

from pathlib import Path

from platformdirs import user_data_path
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from db.errors import Unreachable


class Settings(BaseSettings):
    """Settings of one installation."""

    model_config = SettingsConfigDict(env_prefix="SEARCHSVC_", extra="ignore", frozen=True)

    #: Folder for the embedded database and the demo's data.
    home: Path = Field(default_factory=lambda: user_data_path("searchsvc"))
    #: SQLAlchemy URL of the database; an SQLite file below `home` when empty.
    db_url: str | None = None
    #: Address of a running Ray cluster; a local one is started when empty.
    ray_address: str | None = None
    #: What visitors of the dashboard log in with; `--token-file` goes before it.
    dashboard_token: SecretStr | None = None

    @property
    def token(self) -> str | None:
        """The dashboard's token in the clear: not for messages."""
        return None if self.dashboard_token is None else self.dashboard_token.get_secret_value()

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
        return url if "://" in url else f"sqlite:///{Path(url).absolute()}"
