"""What the Optuna dashboard shows of a study beyond Optuna's own pages: a note and our three figures."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import optuna
import plotly.graph_objects as go
from optuna.storages import BaseStorage
from optuna_dashboard import save_note, save_plotly_graph_object

from db import results
from db.session import Database
from pruners.profile import Latency
from searchsvc.figures import BARE, front_figure, hypervolume_figure, schedule_figure
from searchsvc.latencies import shown
from searchsvc.points import on_front, thinned
from searchsvc.subject import Subject
from studies.intervals import Interval, interval
from studies.measured import Measured

#: Seconds from the beginning to the first update, and from one to the next, at least.
PAUSE = 5.0
#: The coordinator waits while the figures are written: they get at most this share of its time.
MOST_OF_TIME = 0.02


class Showcase:
    """Keeps one study's note and figures up to date.

    Args:
        database: where the scores lie.
        storage: the study's, through which it may be written; one with a lease writes nothing without it.
        subject: the study.
        clock: seconds, as `time.monotonic` tells them.
    """

    def __init__(
        self,
        database: Database,
        storage: BaseStorage,
        subject: Subject,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._storage = storage
        self._subject = subject
        self._clock = clock
        self._due = clock() + PAUSE
        self._intervals: dict[str, Interval] = {}
        #: the members whose schedules were drawn last
        self._drawn: list[str] = []

    def update(self, points: Sequence[Measured], verdict: str) -> None:
        """Show what a running study has come to, unless it was shown a moment ago; call it at a new trial.

        Raises:
            LeaseLost: somebody else has taken the study; nothing was written.
        """
        started = self._clock()
        if started < self._due:
            return
        self.publish(points, verdict, {})
        ended = self._clock()
        self._due = ended + max(PAUSE, (ended - started) / MOST_OF_TIME)

    def publish(self, points: Sequence[Measured], verdict: str, latencies: Mapping[str, Latency]) -> None:
        """Write the note and the figures in place of the last ones.

        Args:
            points: all that was measured, in the order of their trials.
            verdict: how the study stands, in one line.
            latencies: measured times of the front's members, by key.

        Raises:
            LeaseLost: somebody else has taken the study; nothing was written.
        """
        name, front = self._subject.spec.name, on_front(points)
        save_note(self._study, note(self._subject, front, verdict, latencies))
        sure = self._sure(points, front)
        self._save("front", front_figure(points, f"{name}: front", sure, template=BARE))
        self._save("hypervolume", hypervolume_figure(points, f"{name}: hypervolume", template=BARE))
        members = [member.key for member in front]
        if members != self._drawn:
            figure = schedule_figure(thinned(front), f"{name}: schedules", template=BARE)
            self._save("schedule", figure)
            self._drawn = members

    @cached_property
    def _study(self) -> optuna.Study:
        return optuna.load_study(study_name=self._subject.spec.name, storage=self._storage)

    def _save(self, part: str, figure: go.Figure) -> None:
        save_plotly_graph_object(self._study, figure, graph_object_id=part)

    def _sure(self, points: Sequence[Measured], front: Sequence[Measured]) -> Mapping[str, Interval]:
        """How sure the accuracies of the front and of no pruning are, by key."""
        unpruned = (point for point in points if point.pruning is None)
        for key in {point.key for point in (*front, *unpruned)} - self._intervals.keys():
            found = results.find_evaluation(self._database, key)
            if found is not None:  # else somebody has deleted it
                self._intervals[key] = interval(found.scores)
        return self._intervals


def note(subject: Subject, front: Sequence[Measured], verdict: str, latencies: Mapping[str, Latency]) -> str:
    """Return the note in Markdown: what was searched, on what, how it stands, how to export."""
    spec = subject.spec
    table = "\n".join(
        f"| {p.number} | {p.method} | {p.label} | {p.accuracy:.4f} | {p.flops_ratio:.3f} | {p.kv_ratio:.3f} |"
        for p in front
    )
    if latencies:
        times = (f"- trial {p.number}: {shown(latencies[p.key])}" for p in front if p.key in latencies)
        table += "\n\n" + "\n".join(times)
    model = f"`{spec.model.id}` (sha256 {subject.model.fingerprint[:12]})"
    export = f"searchsvc profile export {spec.name} --max-drop {spec.goal.max_drop:g} -o profile.yaml"
    return f"""# {spec.name}

Method `{spec.search.method}` on model {model}, data `{spec.data.path}`,
{len(subject.search)} `search` samples, metric `{subject.search.metric}`, seed {spec.search.seed}.

{verdict}.

| trial | method | schedule | accuracy | decoder FLOPs | KV cache |
|---|---|---|---|---|---|
{table}

FLOPs and KV cache are ratios to no pruning. Export with `{export}`.
"""
