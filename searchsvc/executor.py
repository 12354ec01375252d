"""Evaluations on Ray: actors that hold a model replica and a shard of the data. Only this file imports Ray.

A batch is the unit of sharding and of retry, and batches are formed once for the whole split, so the numbers
do not depend on how many workers share them. The coordinator retries, never Ray: a configuration that kills
its worker fails after `ATTEMPTS` and cannot be retried for ever.
"""

import logging
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Self

import ray
from ray.exceptions import RayActorError, RayTaskError

from pruners.profile import Pruning
from searchsvc.errors import ClusterError, ServiceError
from searchsvc.worker import Job, Worker
from studies.evaluator import SampleRecord
from studies.stopping import Judge, checkpoints

#: How often one batch is tried on a dying worker before the evaluation fails.
ATTEMPTS = 3

#: Called with (worker, error message) for every attempt that failed.
OnFailure = Callable[[str, str], None]

#: Called with (actor, batch): begins what is wanted of a batch, and returns Ray's reference to it.
Submit = Callable[[Any, int], Any]


@dataclass(frozen=True, kw_only=True)
class Workers:
    """How many actors run, and what each of them takes."""

    count: int
    threads: int
    gpus: float = 0.0
    address: str | None = None


class RayExecutor:
    """Evaluates prunings on one split, every worker on its own batches; start it with `with`."""

    def __init__(self, job: Job, workers: Workers) -> None:
        self._job = job
        self._workers = workers
        self._actors: list[Any] = []

    def __enter__(self) -> Self:
        _connect(self._workers)
        self._shared = ray.put(self._job)
        count = min(self._workers.count, len(self._job.batches))
        self._actors = [self._new_actor() for _ in range(count)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def evaluate(
        self, pruning: Pruning | None, on_failure: OnFailure, judge: Judge | None = None
    ) -> list[SampleRecord]:
        """Return the records of every sample of the split, in the split's order.

        With a judge they may be fewer: it is asked at the checkpoints of `studies.stopping`.

        Raises:
            ServiceError: a batch has killed its worker `ATTEMPTS` times.
        """
        text = None if pruning is None else pruning.model_dump_json()
        batches = self._job.batches
        records: dict[int, SampleRecord] = {}
        for group in [range(len(batches))] if judge is None else checkpoints(len(batches)):
            found = self._on(group, lambda actor, batch: actor.run.remote(batch, text), on_failure)
            for batch, measured in found.items():
                records.update(zip(batches[batch], measured, strict=True))
            whole = len(records) == sum(map(len, batches))
            if (
                judge is not None
                and not whole
                and judge({index: record.score for index, record in records.items()})
            ):
                break
        return [records[index] for index in sorted(records)]

    def side_by_side(self, pruning: Pruning, rounds: int, on_failure: OnFailure) -> dict[str, Any]:
        """Time a pruning beside none on the first worker and batch (the longest prompts), the others idle.

        Returns:
            As `Worker.side_by_side` does.

        Raises:
            ServiceError: it has killed its worker `ATTEMPTS` times.
        """
        text = pruning.model_dump_json()
        first = [0]  # one batch, so no other worker takes the machine's time meanwhile
        found = self._on(
            first, lambda actor, batch: actor.side_by_side.remote(batch, text, rounds), on_failure
        )
        timed: dict[str, Any] = found[first[0]]
        return timed

    def _on(self, batches: Iterable[int], submit: Submit, on_failure: OnFailure) -> dict[int, Any]:
        """Return what `submit` gives for every batch, each on the actor that holds it."""
        waiting = {submit(self._actor(batch), batch): Attempt(batch, 1) for batch in batches}
        found: dict[int, Any] = {}
        while waiting:
            done, _ = ray.wait(list(waiting), num_returns=1)
            attempt = waiting.pop(done[0])
            try:
                found[attempt.batch] = ray.get(done[0])
            except RayActorError as error:
                on_failure(f"worker-{attempt.batch % len(self._actors)}", str(error).splitlines()[0])
                waiting[self._again(attempt, submit, error)] = Attempt(attempt.batch, attempt.number + 1)
            except RayTaskError as error:
                raise _own_error(error) from None
        return found

    def _actor(self, batch: int) -> Any:
        return self._actors[batch % len(self._actors)]

    def _again(self, attempt: "Attempt", submit: Submit, error: Exception) -> Any:
        """Submit a batch again, to a new actor where the one it ran on is gone."""
        index = attempt.batch % len(self._actors)
        if attempt.number >= ATTEMPTS:
            raise ServiceError(
                f"worker-{index} died {attempt.number} times on batch {attempt.batch}; it may lack memory: "
                "try a smaller batch_size or fewer workers"
            ) from error
        if not self._answers(index):
            self._actors[index] = self._new_actor()
        return submit(self._actor(attempt.batch), attempt.batch)

    def _answers(self, index: int) -> bool:
        try:
            return bool(ray.get(self._actors[index].ping.remote()))
        except RayActorError:
            return False

    def _new_actor(self) -> Any:
        # No restarts by Ray: the coordinator builds a new actor, so that every attempt is seen and counted.
        return (
            ray.remote(Worker)
            .options(
                num_cpus=self._workers.threads,
                num_gpus=self._workers.gpus,
                max_restarts=0,
                max_task_retries=0,
                runtime_env={"env_vars": {"OMP_NUM_THREADS": str(self._workers.threads)}},
            )
            .remote(self._shared)
        )


def _own_error(error: RayTaskError) -> Exception:
    """What the worker raised, without Ray's traceback in its message."""
    cause = error.cause
    if type(cause).__name__ == "OutOfMemoryError":
        return ServiceError(f"a worker ran out of memory ({cause}): try a smaller batch_size")
    return cause if isinstance(cause, Exception) else error


class Attempt(NamedTuple):
    """One submission of one batch."""

    batch: int
    number: int


def _connect(workers: Workers) -> None:
    if ray.is_initialized():
        return
    local = (
        {}
        if workers.address
        else {"num_cpus": max(workers.count * workers.threads, 1), "include_dashboard": False}
    )
    try:
        ray.init(address=workers.address, log_to_driver=False, logging_level=logging.ERROR, **local)
    except Exception as error:  # Ray raises a bare Exception when a node does not come up in time
        where = workers.address or f"this machine ({socket.gethostname()})"
        raise ClusterError(f"Ray on {where} is out of reach: {str(error).splitlines()[0]}") from error


def disconnect() -> None:
    """Leave the cluster; a local one ends."""
    if ray.is_initialized():
        ray.shutdown()
