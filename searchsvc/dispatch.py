"""Which worker runs which batch next. Knows nothing of Ray, models or records.

A worker *holds* the batches that it has run: it has their image features and snapshots, so it is first choice
for them. A worker with nothing to do takes a batch that nobody holds, up to its fair share, and then one from
whoever has more to do, which it holds from then on as well. So work spreads over workers of any speed,
and over those that join late; what a worker that left held is nobody's again.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

#: Tasks that a worker is given at once: while it runs one, the next has arrived.
DEPTH = 2
#: A worker takes over from one that has so many tasks more to do.
MUCH = 2


class Task(NamedTuple):
    """One batch of one evaluation."""

    evaluation: "Work"
    batch: int


@dataclass(eq=False)
class Work:
    """One evaluation's batches: what waits, and what each came to."""

    waiting: list[int]
    found: dict[int, Any] = field(default_factory=dict)
    #: batches that a worker has and has not answered
    under_way: set[int] = field(default_factory=set)

    @property
    def idle(self) -> bool:
        """Whether everything that was wanted so far has been answered."""
        return not self.waiting and not self.under_way


class Dispatcher:
    """Gives batches of several evaluations to workers, the oldest evaluation first."""

    def __init__(self, batches: int) -> None:
        self._batches = batches
        self._work: list[Work] = []
        #: by worker, the batches that it holds; and by batch, who holds it
        self._held: dict[int, set[int]] = {}
        self._holders: dict[int, set[int]] = {}
        #: by worker, its tasks in the order in which it runs them
        self._given: dict[int, list[Task]] = {}

    @property
    def workers(self) -> list[int]:
        """Those that are there, in the order in which they came."""
        return list(self._given)

    def add(self, work: Work) -> None:
        """Another evaluation, behind all others."""
        self._work.append(work)

    def remove(self, work: Work) -> None:
        """No more of it is given to anybody."""
        self._work = [other for other in self._work if other is not work]

    def join(self, worker: int) -> None:
        """A worker is ready."""
        self._held[worker], self._given[worker] = set(), []

    def leave(self, worker: int) -> list[Task]:
        """A worker is gone: its tasks wait again. Returns them; the first is the one that it was running."""
        for batch in self._held.pop(worker):
            self._holders[batch].remove(worker)
        given = self._given.pop(worker)
        for evaluation, batch in given:
            evaluation.under_way.discard(batch)
            evaluation.waiting.insert(0, batch)
        return given

    def running(self, worker: int) -> Task | None:
        """What a worker is working on."""
        return next(iter(self._given.get(worker, ())), None)

    def answered(self, worker: int, task: Task) -> None:
        """A worker has finished a task."""
        self._given[worker].remove(task)
        task.evaluation.under_way.discard(task.batch)

    def give(self) -> Iterator[tuple[int, Task]]:
        """Hand out what can be: first one task to everybody who has none, then up to `DEPTH`."""
        for depth in range(DEPTH):
            spare = self._spare()
            for worker, given in self._given.items():
                if not any(work.waiting for work in self._work):
                    return
                if len(given) > depth:
                    continue
                task = self._own(worker) or self._take_over(worker, spare)
                if task is not None:
                    self._hand(worker, task)
                    spare = self._spare()
                    yield worker, task

    def _hand(self, worker: int, task: Task) -> None:
        task.evaluation.waiting.remove(task.batch)
        task.evaluation.under_way.add(task.batch)
        self._held[worker].add(task.batch)
        self._holders.setdefault(task.batch, set()).add(worker)
        self._given[worker].append(task)

    def _own(self, worker: int) -> Task | None:
        """What it holds, or, up to its fair share, what nobody holds."""
        ours = self._held[worker]
        below_share = len(ours) * len(self._held) < self._batches
        for work in self._work:
            own = next((batch for batch in work.waiting if batch in ours), None)
            if own is not None:
                return Task(work, own)
            free = next((batch for batch in work.waiting if not self._holders.get(batch)), None)
            if free is not None and below_share:
                return Task(work, free)
        return None

    def _spare(self) -> Counter[int]:
        """By worker, how many of the batches that it holds wait, where any do."""
        waiting = (batch for work in self._work for batch in work.waiting)
        return Counter(holder for batch in waiting for holder in self._holders.get(batch, ()))

    def _take_over(self, worker: int, spare: Mapping[int, int]) -> Task | None:
        """From whoever has the most to do, where that is enough more than the worker has."""
        to_do = {other: waiting + len(self._given[other]) for other, waiting in spare.items()}
        busiest = max(to_do, key=lambda other: (to_do[other], -other), default=None)
        ours = to_do.get(worker, len(self._given[worker]))
        if busiest is None or to_do[busiest] - ours < MUCH:
            return None
        return self._last(self._held[busiest])

    def _last(self, held: set[int]) -> Task | None:
        """Of the oldest evaluation that has any, the one that would come last."""
        for work in self._work:
            batches = [batch for batch in work.waiting if batch in held]
            if batches:
                return Task(work, batches[-1])
        return None
