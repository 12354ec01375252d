"""What can be wrong with a study's inputs; every message says in one line what, where, and what to do."""

import difflib
from collections.abc import Iterable


class StudyError(Exception):
    """Anything about a study that its user can put right."""


class DataError(StudyError):
    """A manifest, an image or a split that cannot be used.

    `problems` holds every fault that was found, one line each; the message lists the first `LISTED` of them.
    """

    #: Faults that a message lists before it only counts the rest.
    LISTED = 20

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        lines = list(problems[: self.LISTED])
        if len(problems) > self.LISTED:
            lines.append(f"... and {len(problems) - self.LISTED} more of {len(problems)} problems")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[type["DataError"], tuple[str, ...]]:
        return type(self), self.problems


class SpecError(StudyError):
    """A study spec that does not hold."""


class MetricError(StudyError):
    """A metric that does not exist, or that these samples cannot be scored with."""


class ModelError(StudyError):
    """A model that cannot be found, loaded or evaluated."""


class EvaluationError(StudyError):
    """A schedule that cannot be evaluated: it failed again and again. The study goes on without it."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the nearest known name, or the list of them when none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else f" (known: {', '.join(names)})"
