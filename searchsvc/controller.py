"""Runs one study to its end: takes its lease, searches, keeps the front, and shows it in the dashboard."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from db import queue, results, studies
from db.errors import DatabaseError, LeaseLost
from db.owners import current_owner
from db.session import Database
from db.values import Lease, NewFront
from searchsvc.evaluations import Evaluations
from searchsvc.latencies import measure_front
from searchsvc.points import prefill_columns
from searchsvc.progress import SILENT, Standing, Told
from searchsvc.showcase import Showcase
from searchsvc.storage import optuna_storage
from searchsvc.subject import Subject, subject_of
from studies.context import Context, Dimensions
from studies.driver import SearchResult, estimate_evaluations, run_search
from studies.front import REFERENCE
from studies.latency import with_latencies
from studies.measured import Measured

LEASE_SECONDS = 30.0


def run_study(
    database: Database, name: str, *, ray_address: str | None = None, told: Told = SILENT
) -> SearchResult:
    """Run a queued, interrupted or finished study; what was told or measured already is not done again.

    With a latency goal the front's members are timed on a worker when the search has ended.

    Raises:
        NotFound, StudyBusy: no such study, or somebody else runs it.
        KeyboardInterrupt: passed on after the lease was given back.
    """
    subject = subject_of(studies.get_study(database, name))
    lease = queue.claim(database, name, owner=current_owner(), seconds=LEASE_SECONDS, reopen=True)
    try:
        with _heartbeat(database, lease), Showcase(database, subject, lease) as showcase:
            result = _search(database, subject, lease, ray_address, told, showcase)
            _keep_front(database, lease, result)
            showcase.show(result.evaluations, result.latencies)
    except KeyboardInterrupt:
        queue.release(database, lease)
        raise
    except Exception as error:
        queue.finish(database, lease, "failed", error=str(error))
        raise
    queue.finish(database, lease, "done")
    return result


def _search(
    database: Database,
    subject: Subject,
    lease: Lease,
    ray_address: str | None,
    told: Told,
    showcase: Showcase,
) -> SearchResult:
    spec, started = subject.spec, time.monotonic()
    with Evaluations(database, subject, "search", lease=lease, ray_address=ray_address) as evaluate:
        records = evaluate.baseline.records
        size = Dimensions(
            subject.shape.num_layers, subject.traits.first_prunable, max(r.visual_tokens for r in records)
        )
        expected = estimate_evaluations(spec.search, size)

        def tell(newest: Measured) -> None:
            points = list(context.main)
            showcase.show(points)
            best = context.choose(points)
            done = newest.number + 1
            told.trial(Standing(done=done, expected=expected, baseline=context.baseline, best=best))

        context = Context(
            storage=optuna_storage(database),
            name=spec.name,
            seed=spec.search.seed,
            num_layers=size.num_layers,
            first_prunable=size.first_prunable,
            visual_tokens=size.visual_tokens,
            samples=[(record.visual_tokens, record.text_tokens) for record in records],
            shape=subject.shape,
            evaluate=evaluate,
            begin=evaluate.begin,
            key_of=evaluate.key_of,
            grid=subject.longer_side(size.visual_tokens),
            max_drop=spec.goal.max_drop,
            try_first=getattr(spec.search, "try_first", {}),
            parallel_trials=spec.workers.parallel_trials,
            hours=spec.limits.hours_with(spec.workers),
            trials=spec.limits.trials,
            started=started,
            on_trial=tell,
            before_write=_LeaseCheck(database, lease),
        )
        result = run_search(spec.search, context)
        if spec.goal.max_latency_ratio is None:
            return result
        # Whatever `limits.hours` says: it ends the search, and without this the goal could not be judged.
        found = measure_front(database, lease, result.front[::-1], evaluate.side_by_side, told.timed)
        return with_latencies(result, spec.goal, found)


def _keep_front(database: Database, lease: Lease, result: SearchResult) -> None:
    members = [
        {
            "trial": point.number,
            "flops_ratio": point.flops_ratio,
            "accuracy": point.accuracy,
            **prefill_columns(point, result.latencies),
        }
        for point in result.front
    ]
    front = NewFront(
        split="search",
        reason="study ended",
        points=tuple(members),
        hypervolume=result.hypervolume,
        reference=REFERENCE,
    )
    results.save_front(database, lease, front)


class _LeaseCheck:
    """Raises LeaseLost where the lease is not ours any more; looks once a second, for it lasts far longer."""

    def __init__(self, database: Database, lease: Lease) -> None:
        self._database, self._lease, self._looked = database, lease, 0.0

    def __call__(self) -> None:
        # by the clock on the wall, which goes on while a process or its machine is stopped
        if not 0 <= time.time() - self._looked < 1:
            queue.check_lease(self._database, self._lease)
            self._looked = time.time()


@contextmanager
def _heartbeat(database: Database, lease: Lease) -> Iterator[None]:
    """Extend the lease from a thread; when it is lost, the next write under it raises LeaseLost."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(LEASE_SECONDS / 3):
            try:
                queue.heartbeat(database, lease)
            except LeaseLost:
                return
            except DatabaseError:
                continue  # out of reach for a moment; the lease may still be ours

    thread = threading.Thread(target=beat, name=f"heartbeat-{lease.name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
