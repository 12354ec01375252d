"""What `searchsvc.cluster.Cluster` does, with threads of this process: workers that die, hang and move away."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from searchsvc.cluster import OutOfReachError, Started, WorkerLostError, Workers


class DieError(BaseException):
    """Raised in a worker: its process is gone."""


class Actor:
    """One thread that makes a worker and calls it."""

    def __init__(self, node: str) -> None:
        self.node, self.lost = node, threading.Event()
        self._thread = ThreadPoolExecutor(1)
        self._worker: Any = None
        self._open: list[Future[Any]] = []
        self._lock = threading.Lock()
        self.unreached = 0

    def submit(self, function: Callable[[], Any]) -> Future[Any]:
        answer: Future[Any] = Future()
        with self._lock:
            self._open.append(answer)

        def run() -> None:
            if self.lost.is_set():
                return
            try:
                found = function()
            except DieError as error:
                self.lose(str(error))
            except Exception as error:
                self._settle(answer, error)
            else:
                self._settle(answer, found)

        if self.lost.is_set():
            self.lose("it was killed")
        else:
            self._thread.submit(run)
        return answer

    def make(self, make: Callable[[Any], Any], job: Any) -> None:
        self._worker = make(job)

    def call(self, method: str, batch: int, *arguments: Any) -> Any:
        return getattr(self._worker, method)(batch, *arguments)

    def lose(self, reason: str) -> None:
        """The process is gone: nothing that is open will ever be answered."""
        self.lost.set()
        self.drop(WorkerLostError(reason))
        self._thread.shutdown(wait=False)

    def drop(self, error: Exception) -> None:
        """Whatever is open is answered with an error."""
        with self._lock:
            still = list(self._open)
        for answer in still:
            self._settle(answer, error)

    def _settle(self, answer: Future[Any], result: Any) -> None:
        with self._lock:
            if answer in self._open:
                self._open.remove(answer)
                answer.set_result(result)


class HereCluster:
    """One node per place; `places` may grow and shrink while studies run."""

    places: int = 1000

    def __init__(self, make: Callable[[Any], Any], job: Any, workers: Workers) -> None:
        self._make, self._job, self.workers = make, job, workers
        self.actors: list[Actor] = []
        self.waiting: list[tuple[Actor, Future[Any], Future[Any]]] = []
        self.gone: set[str] = set()

    def start(self) -> Started:
        actor = Actor(f"node-{len(self.actors)}")
        self.actors.append(actor)
        placed, ready = Future[Any](), Future[Any]()
        self.waiting.append((actor, placed, ready))
        self.place()
        return Started(actor, placed, ready)

    def place(self) -> None:
        """Find places for those that wait for one."""
        while self.waiting and self._taken() < self.places:
            actor, placed, ready = self.waiting.pop(0)
            _chain(actor.submit(lambda actor=actor: actor.node), placed)
            _chain(actor.submit(lambda actor=actor: actor.make(self._make, self._job)), ready)

    def _taken(self) -> int:
        waiting = [actor for actor, *_ in self.waiting]
        return sum(not actor.lost.is_set() for actor in self.actors if actor not in waiting)

    def remove_node(self, actor: Actor) -> None:
        """A machine goes away with its worker."""
        self.gone.add(actor.node)
        self.places -= 1
        actor.lose("node died")

    def call(self, actor: Actor, method: str, batch: int, *arguments: Any) -> Future[Any]:
        return actor.submit(lambda: actor.call(method, batch, *arguments))

    def answers(self, references: Sequence[Future[Any]], seconds: float) -> list[tuple[Any, Any]]:
        done, _ = wait(references, timeout=seconds, return_when=FIRST_COMPLETED)
        return [(reference, reference.result()) for reference in references if reference in done]

    def ping(self, actor: Actor) -> Future[Any]:
        if actor.unreached > 0:
            actor.unreached -= 1
            return _done(OutOfReachError("socket closed"))
        return actor.submit(lambda: actor.node)

    def hide(self, actor: Actor, pings: int) -> None:
        """Nobody reaches a worker for so many pings, and what it was asked is never answered."""
        actor.unreached = pings
        actor.drop(OutOfReachError("socket closed"))

    def kill(self, actor: Actor) -> None:
        actor.lose("killed")
        self.place()

    def has_node(self, name: str | None) -> bool:
        return name is not None and name not in self.gone

    def resources(self) -> str:
        return f"{self.places} places"


def _done(result: Any) -> Future[Any]:
    future = Future[Any]()
    future.set_result(result)
    return future


def _chain(source: Future[Any], target: Future[Any]) -> None:
    source.add_done_callback(lambda done: target.set_result(done.result()))
