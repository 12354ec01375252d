"""What can go wrong with the database; one class per situation, each message one line."""

# ruff: noqa: N818 (the names say what happened: NotFound, LeaseLost)


class DatabaseError(Exception):
    """Any error of this package."""


class InvalidUrl(DatabaseError):
    """The text is no database URL that we can use."""


class Unreachable(DatabaseError):
    """The database cannot be opened or cannot be written: no such folder, read-only, locked, no server."""


class SchemaMismatch(DatabaseError):
    """Our tables were made by an older or a newer version of searchsvc."""


class NotFound(DatabaseError):
    """There is nothing of that name."""


class Ambiguous(DatabaseError):
    """What was given stands for more than one thing."""


class AlreadyExists(DatabaseError):
    """The name is taken."""


class StudyBusy(DatabaseError):
    """Somebody else runs the study now."""


class StudyFinished(DatabaseError):
    """The study has ended; it is claimed again only when that is asked for."""


class LeaseLost(DatabaseError):
    """The lease under which this write was made has been taken over, or the study has ended or is gone."""


class InvalidValue(DatabaseError, ValueError):
    """A value that must never be stored: NaN, an infinity, a time without a time zone."""


class NotABackup(DatabaseError):
    """The file is no backup of a database of ours, or one of another kind of database."""


class NotEmpty(DatabaseError):
    """Something is there already that a backup or a restoration would overwrite."""


class ProgramFailed(DatabaseError):
    """PostgreSQL's own program for the task is missing, or has failed."""
