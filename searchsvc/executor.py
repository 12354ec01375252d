"""Keeps workers busy with the batches of evaluations, and tries again what fails.

A batch is the unit of work and of retry, and batches are formed once for the whole split, so the numbers do
not depend on how many workers share them, which of them runs what, or when. A thread of its own waits for
answers, so no worker waits while a sampler thinks. What fails `ATTEMPTS` times fails for good.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

from searchsvc.cluster import Cluster, OutOfReachError, WorkerLostError, Workers
from searchsvc.dispatch import Dispatcher, Task, Work
from searchsvc.errors import ClusterError, ServiceError
from studies.errors import EvaluationError
from studies.stopping import checkpoints

#: How often one batch of one evaluation is tried.
ATTEMPTS = 2
#: So long a cluster may take to find a place for the first worker, in seconds.
PLACE_SECONDS = 300.0
#: A worker that is out of reach for so long is gone, in seconds.
REACH_SECONDS = 60.0
#: How long the thread looks at one set of references before it looks whether there are more.
POLL_SECONDS = 0.05

#: Called with (worker, error message) for every attempt that failed.
OnFailure = Callable[[str, str], None]


@dataclass(eq=False)
class Running(Work):
    """One call of every batch, or of some: what is called, and who is told how it ends."""

    #: method of the worker, and its arguments behind the batch
    method: str = ""
    arguments: tuple[Any, ...] = ()
    on_failure: OnFailure = lambda _worker, _message: None
    #: called, outside of all locks, with the answers by batch; what it returns is the future's result
    finish: Callable[[Mapping[int, Any]], Any] = dict
    #: asked whenever nothing is under way: the next batches to run, none to end
    more: Callable[[Mapping[int, Any]], list[int]] = lambda _: []
    future: "Future[Any]" = field(default_factory=Future)
    #: failures by batch
    failures: Counter[int] = field(default_factory=Counter)


class Awaited(NamedTuple):
    """What a reference stands for."""

    worker: int
    #: that a worker has a place, that it is ready, that it is in reach again, or that it has answered a task
    what: Literal["place", "ready", "reach"] | Task


class Executor:
    """Runs the batches of a job on workers; start it with `with`.

    The caller's thread begins evaluations and waits for their futures; it may do anything else meanwhile.
    """

    def __init__(self, make: Callable[[Any], Any], job: Any, batches: int, workers: Workers) -> None:
        self._make, self._job, self._workers, self._batches = make, job, workers, batches
        self._dispatcher = Dispatcher(batches)
        self._open: list[Running] = []
        self._actors: dict[int, Any] = {}
        #: by worker, the node that it is on
        self._nodes: dict[int, str] = {}
        #: by reference
        self._awaited: dict[Any, Awaited] = {}
        #: by worker, when it began with what it is running
        self._since: dict[int, float] = {}
        #: since when workers are out of reach
        self._unreached: dict[int, float] = {}
        #: since when no worker has had a place, and how many died before they were ready
        self._without, self._failed_starts = time.monotonic(), 0
        self._newest = 0
        #: why nothing can be evaluated any more
        self._broken: Exception | None = None
        self._stopping = False
        #: guards all of the above, and what waits in evaluations; notified of every change
        self._lock = threading.Condition()
        self._thread = threading.Thread(target=self._serve, name="executor", daemon=True)

    def __enter__(self) -> Self:
        self._cluster = Cluster(self._make, self._job, self._workers)
        with self._lock:
            for _ in range(self._workers.count):
                self._start_worker()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._stopping = True
            self._lock.notify_all()
        self._thread.join()
        for actor in self._actors.values():
            self._cluster.kill(actor)

    def begin(
        self,
        method: str,
        *arguments: Any,
        finish: Callable[[Mapping[int, Any]], Any] = dict,
        on_failure: OnFailure = lambda _worker, _message: None,
        judge: Callable[[Mapping[int, Any]], bool] | None = None,
    ) -> "Future[Any]":
        """Have every batch called: `method(batch, *arguments)` of some worker.

        With a judge, batches are called in the groups of `studies.stopping`, and it is asked after each but
        the last whether that was enough. The future's result is `finish(answers by batch)`.

        The future raises:
            EvaluationError: a batch failed, or killed its worker, `ATTEMPTS` times.
            ServiceError: no worker can be started.
            whatever `finish` raises.
        """
        groups = [list(group) for group in checkpoints(self._batches)] if judge else []
        waiting = groups.pop(0) if groups else list(range(self._batches))

        def more(found: Mapping[int, Any]) -> list[int]:
            return groups.pop(0) if groups and judge and not judge(found) else []

        running = Running(
            waiting, method=method, arguments=arguments, on_failure=on_failure, finish=finish, more=more
        )
        return self._add(running)

    def alone(self, method: str, *arguments: Any, on_failure: OnFailure) -> Any:
        """Call a method for the first batch (the longest prompts) on one worker, the others idle, and wait.

        What else was begun is given up. Raises as `begin`'s future does.
        """
        with self._lock:
            for other in list(self._open):
                self._forget(other)
            self._lock.wait_for(lambda: not any(map(self._dispatcher.running, self._dispatcher.workers)))
        running = Running([0], method=method, arguments=arguments, on_failure=on_failure)
        return self._add(running).result()[0]

    def interrupt(self, error: Exception) -> None:
        """Have every future, those to come included, raise this error at once."""
        with self._lock:
            self._break(error)

    def _add(self, running: Running) -> "Future[Any]":
        with self._lock:
            if self._broken is not None:
                running.future.set_exception(self._broken)
                return running.future
            self._open.append(running)
            self._dispatcher.add(running)
            self._hand_out()
            self._lock.notify_all()
        return running.future

    def _serve(self) -> None:
        """Wait for answers and hand out more, until the end; in a thread of its own."""
        try:
            self._serve_until_stopped()
        except Exception as error:  # whoever waits must hear of it
            with self._lock:
                self._break(ClusterError(f"Ray fails: {_first_line(error)}"))

    def _serve_until_stopped(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._awaited or self._stopping)
                if self._stopping:
                    return
                references = list(self._awaited)
            answers = self._cluster.answers(references, POLL_SECONDS)
            with self._lock:
                for reference, answer in answers:
                    self._take(reference, answer)
                self._look_for_hung()
                ended = self._ended()
                self._hand_out()
                self._lock.notify_all()
                unreached = bool(self._unreached)
            if unreached:  # it says so at once, again and again
                time.sleep(POLL_SECONDS)
            for running in ended:  # takes its time: it may write to a database
                _settle(running)

    def _take(self, reference: Any, answer: Any) -> None:
        if reference not in self._awaited:  # of a worker that was given up meanwhile
            return
        worker, what = self._awaited.pop(reference)
        if isinstance(answer, OutOfReachError):
            self._reach(worker, str(answer))
        elif what == "reach":
            # if it can be reached again: what became of its tasks nobody knows, and it is not to blame
            lost = isinstance(answer, WorkerLostError)
            self._lost(worker, str(answer) if lost else "it was out of reach", to_blame=lost)
        elif isinstance(what, Task):
            self._take_answer(worker, what, answer)
        elif isinstance(answer, Exception):
            self._not_started(worker, answer)
        elif what == "place":
            self._nodes[worker] = answer
        else:
            self._failed_starts = 0
            self._dispatcher.join(worker)

    def _take_answer(self, worker: int, task: Task, answer: Any) -> None:
        if isinstance(answer, WorkerLostError):
            self._lost(worker, str(answer))
            return
        self._dispatcher.answered(worker, task)
        self._since[worker] = time.monotonic()
        if isinstance(answer, Exception):
            self._failed(_running(task), task.batch, worker, answer)
        else:
            _running(task).found[task.batch] = answer

    def _not_started(self, worker: int, error: Exception) -> None:
        """One more try for those that died; what else went wrong would again."""
        self._discard(worker)
        self._failed_starts += 1
        died = isinstance(error, WorkerLostError)
        if died and self._failed_starts < ATTEMPTS * self._workers.count:
            self._start_worker()
        elif not self._actors:
            message = f"no worker could be started: {_first_line(error)}"
            self._break(ServiceError(message) if died else error)

    def _reach(self, worker: int, reason: str) -> None:
        """Find out whether a worker is gone: its machine may be, and that is not known at once."""
        since = self._unreached.setdefault(worker, time.monotonic())
        if time.monotonic() - since > REACH_SECONDS:
            self._lost(worker, reason)
            return
        self._awaited = {ref: awaited for ref, awaited in self._awaited.items() if awaited.worker != worker}
        self._awaited[self._cluster.ping(self._actors[worker])] = Awaited(worker, "reach")

    def _lost(self, worker: int, reason: str, *, to_blame: bool = True) -> None:
        """A worker is gone: another one in its place, and what it was running is tried again."""
        on_its_own = to_blame and self._cluster.has_node(self._nodes.get(worker))
        if worker not in self._dispatcher.workers:  # it was not ready yet
            self._not_started(worker, WorkerLostError(reason))
            return
        tasks = self._dispatcher.leave(worker)
        self._discard(worker)
        self._start_worker()
        if not tasks:
            return
        running, batch = _running(tasks[0]), tasks[0].batch  # of the others nothing is known
        if on_its_own:
            self._failed(running, batch, worker, ServiceError(f"{_name(worker)} is gone: {reason}"))
        else:  # a machine that left says nothing of the schedule
            running.on_failure(_name(worker), f"not to blame on the schedule: {reason}")

    def _discard(self, worker: int) -> None:
        self._awaited = {ref: awaited for ref, awaited in self._awaited.items() if awaited.worker != worker}
        self._nodes.pop(worker, None)
        self._unreached.pop(worker, None)
        self._without = time.monotonic()
        self._cluster.kill(self._actors.pop(worker))

    def _failed(self, running: Running, batch: int, worker: int, error: Exception) -> None:
        """Try again, unless that was done before."""
        if not any(running is other for other in self._open):  # given up, or failed already
            return
        message = _first_line(error)
        running.on_failure(_name(worker), message)
        running.failures[batch] += 1
        if running.failures[batch] < ATTEMPTS:
            if batch not in running.waiting:
                running.waiting.insert(0, batch)
            return
        hint = "; a smaller batch_size takes less memory" if "memory" in message or "gone" in message else ""
        self._end(running, EvaluationError(f"{message} (batch {batch}, tried {ATTEMPTS} times){hint}"))

    def _look_for_hung(self) -> None:
        now, limit = time.monotonic(), self._workers.batch_timeout
        for worker in self._dispatcher.workers:
            busy = self._dispatcher.running(worker) is not None and worker not in self._unreached
            if busy and now - self._since[worker] > limit:
                self._lost(worker, f"it took more than {limit:g} s over one batch (workers.batch_timeout)")
        # one that has a place may take its time to load a model
        if self._open and not self._nodes and now - self._without > PLACE_SECONDS:
            asked = f"{self._workers.threads} CPUs and {self._workers.gpus:g} GPUs"
            self._break(
                ClusterError(
                    f"no place for a worker in {PLACE_SECONDS:g} s: it takes {asked}, and the cluster has "
                    f"{self._cluster.resources()}"
                )
            )

    def _ended(self) -> list[Running]:
        """Those that need no more batches."""
        idle = [running for running in self._open if running.idle]
        for running in idle:
            running.waiting = running.more(running.found)
        ended = [running for running in idle if running.idle]
        for running in ended:
            self._forget(running)
        return ended

    def _end(self, running: Running, error: Exception) -> None:
        self._forget(running)
        running.future.set_exception(error)

    def _break(self, error: Exception) -> None:
        self._broken = error
        for running in list(self._open):
            self._end(running, error)
        self._lock.notify_all()

    def _forget(self, running: Running) -> None:
        self._open = [other for other in self._open if other is not running]
        self._dispatcher.remove(running)

    def _hand_out(self) -> None:
        for worker, task in self._dispatcher.give():
            if self._dispatcher.running(worker) is task:
                self._since[worker] = time.monotonic()
            running = _running(task)
            reference = self._cluster.call(
                self._actors[worker], running.method, task.batch, *running.arguments
            )
            self._awaited[reference] = Awaited(worker, task)

    def _start_worker(self) -> None:
        worker, self._newest = self._newest, self._newest + 1
        started = self._cluster.start()
        self._actors[worker] = started.actor
        self._awaited[started.placed] = Awaited(worker, "place")
        self._awaited[started.ready] = Awaited(worker, "ready")


def _running(task: Task) -> Running:
    assert isinstance(task.evaluation, Running)
    return task.evaluation


def _settle(running: Running) -> None:
    try:
        running.future.set_result(running.finish(running.found))
    except BaseException as error:
        running.future.set_exception(error)


def _name(worker: int) -> str:
    return f"worker-{worker}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
