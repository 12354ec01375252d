"""What the Optuna dashboard shows of a study beyond Optuna's pages: note and figures, as trials arrive."""

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import optuna
import plotly.graph_objects as go
from optuna.storages import InMemoryStorage
from optuna_dashboard import get_note, save_note, save_plotly_graph_object

from db.errors import DatabaseError, LeaseLost
from db.session import Database
from db.values import Lease
from pruners.profile import Latency
from searchsvc.attributes import write_attributes
from searchsvc.confidence import Intervals
from searchsvc.figures import front_figure, hypervolume_figure, schedule_figure
from searchsvc.note import note
from searchsvc.points import on_front
from searchsvc.report import thinned
from searchsvc.storage import optuna_storage
from searchsvc.subject import Subject
from studies.measured import Measured

#: Seconds between two pushes, and how many times as long as a push takes they are at least.
PERIOD, SPARING = 5.0, 20


class _Shown(NamedTuple):
    points: Sequence[Measured]
    latencies: Mapping[str, Latency]


class Showcase:
    """Pushes a running study's note and figures from a thread of its own, so that no trial waits for them.

    As a context: the newest that was given is there when it ends. What a database out of reach has missed is
    pushed with what comes next.

    Args:
        database: where the study lies.
        subject: its model and data.
        lease: under which all is written.
        period: seconds between two pushes, at least.
    """

    def __init__(self, database: Database, subject: Subject, lease: Lease, *, period: float = PERIOD) -> None:
        self._database, self._subject, self._lease, self._period = database, subject, lease, period
        self._intervals = Intervals(database)
        self._newest: _Shown | None = None
        self._told, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"showcase-{lease.name}", daemon=True)

    def show(self, points: Sequence[Measured], latencies: Mapping[str, Latency] | None = None) -> None:
        """Have these points shown, soon; no pruning must be among them."""
        self._newest = _Shown(tuple(points), latencies or {})
        self._told.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._stop.set()
        self._told.set()
        self._thread.join()
        # an error that is on its way already says more than one of ours
        with contextlib.suppress(*(() if kind is None else (DatabaseError,))):
            self._push()

    def _run(self) -> None:
        while self._told.wait() and not self._stop.is_set():
            self._told.clear()
            started = time.monotonic()
            try:
                self._push()
            except LeaseLost:
                return
            except DatabaseError:
                pass  # whoever writes a trial will say so
            self._stop.wait(max(self._period, SPARING * (time.monotonic() - started)))

    def _push(self) -> None:
        newest = self._newest
        if newest is None:
            return
        storage = optuna_storage(self._database)
        study_id = storage.get_study_id_from_name(self._lease.name)
        before = storage.get_study_system_attrs(study_id)
        after = shown_as(before, note(self._subject, *newest), self._figures(newest.points))
        changed = {key: value for key, value in after.items() if before.get(key) != value}
        write_attributes(self._database, self._lease, study_id, changed)
        if self._newest is newest:
            self._newest = None

    def _figures(self, points: Sequence[Measured]) -> dict[str, go.Figure]:
        name, front = self._lease.name, on_front(points)
        unpruned = [point for point in points if point.pruning is None]
        intervals = self._intervals.of([*front, *unpruned])
        return {
            "front": front_figure(points, f"{name}: accuracy against FLOPs", intervals),
            "schedule": schedule_figure(thinned(front), f"{name}: visual tokens kept per layer"),
            "hypervolume": hypervolume_figure(points, f"{name}: hypervolume over trials"),
        }


def shown_as(before: Mapping[str, Any], text: str, figures: Mapping[str, go.Figure]) -> dict[str, Any]:
    """Return the system attributes by which optuna-dashboard shows a note and figures.

    Args:
        before: the study's system attributes; how a note and a figure are cut up depends on them.
        text: the note, in Markdown.
        figures: by their ids.
    """
    storage = InMemoryStorage()
    study_id = storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "shown")
    for key, value in before.items():
        storage.set_study_system_attr(study_id, key, value)
    study = optuna.load_study(study_name="shown", storage=storage)
    if get_note(study) != text:  # a version more would look like an edit
        save_note(study, text)
    for name, figure in figures.items():
        save_plotly_graph_object(study, figure, graph_object_id=name)
    return storage.get_study_system_attrs(study_id)
