"""The service's own errors, and the exit status that each kind of error ends a command with."""

OWN_FAULT = 1
WRONG_INPUT = 2
GOAL_NOT_MET = 5
OUT_OF_REACH = 6
INTERRUPTED = 130


class ServiceError(Exception):
    """Something the person who typed the command can put right; the message says how."""


class GoalNotMetError(ServiceError):
    """The search ended and no schedule meets what was asked for."""


class RequestedError(ServiceError):
    """Somebody paused or cancelled the study while it ran."""

    def __init__(self, name: str, what: str) -> None:
        advice = f"; it goes on after: searchsvc study resume {name}" if what == "pause" else ""
        super().__init__(f"study {name} was {'paused' if what == 'pause' else 'cancelled'}{advice}")


class ClusterError(ServiceError):
    """Ray cannot be started, or the cluster cannot be reached."""


def exit_status(error: Exception) -> int | None:
    """Return the exit status that stands for `error`, or None when it is our own fault."""
    from db.errors import DatabaseError, Unreachable
    from pruners.errors import PruningError
    from studies.errors import StudyError

    if isinstance(error, (Unreachable, ClusterError)) or type(error).__name__ == "StorageInternalError":
        return OUT_OF_REACH  # the last is Optuna's, which need not be imported for this
    if isinstance(error, GoalNotMetError):
        return GOAL_NOT_MET
    if isinstance(error, RequestedError):
        return INTERRUPTED
    if isinstance(error, (ServiceError, PruningError, StudyError, DatabaseError)):
        return WRONG_INPUT
    return None
