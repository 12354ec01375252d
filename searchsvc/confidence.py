"""Confidence intervals of measured accuracies, each computed once from the scores that the database keeps."""

from collections.abc import Iterable

from db.results import find_evaluation
from db.session import Database
from studies.intervals import Interval, interval
from studies.measured import Measured


class Intervals:
    """95 % intervals by the evaluations' keys; those of an evaluation that is gone are left out."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, Interval] = {}

    def of(self, points: Iterable[Measured]) -> dict[str, Interval]:
        """Return the intervals of these points, by key."""
        keys = [point.key for point in points]
        for key in keys:
            if key not in self._known and (found := find_evaluation(self._database, key)) is not None:
                self._known[key] = interval(found.scores)
        return {key: self._known[key] for key in keys if key in self._known}
