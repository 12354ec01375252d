"""Runs one study to its end under its lease: searches, keeps the front, and shows it in the dashboard."""

import contextlib
import time
from collections.abc import Callable

from optuna.storages import BaseStorage

from db import queue, results, studies
from db.errors import DatabaseError, LeaseLost
from db.owners import current_owner
from db.session import Database
from db.values import Lease, NewFront
from searchsvc.errors import OUT_OF_REACH, RequestedError, exit_status
from searchsvc.evaluations import Evaluations
from searchsvc.latencies import measure_front
from searchsvc.outcome import outcome
from searchsvc.phases import Phases
from searchsvc.points import prefill_columns
from searchsvc.progress import SILENT, Standing, Told
from searchsvc.showcase import Showcase
from searchsvc.storage import optuna_storage
from searchsvc.subject import Subject, subject_of
from searchsvc.watch import Watch
from studies.context import Context
from studies.driver import SearchResult, estimate_evaluations, run_search
from studies.front import REFERENCE
from studies.latency import with_latencies
from studies.measured import Measured

LEASE_SECONDS = 30.0


def run_study(
    database: Database, name: str, *, ray_address: str | None = None, told: Told = SILENT
) -> SearchResult:
    """Run a queued, paused, interrupted or finished study; what was told or measured is not done again.

    With a latency goal the front's members are timed on a worker when the search has ended.

    Raises:
        NotFound, StudyBusy: no such study, or somebody else runs it.
        whatever `run_leased` raises.
    """
    subject = subject_of(studies.get_study(database, name))
    lease = queue.claim(database, name, owner=current_owner(), seconds=LEASE_SECONDS, reopen=True)
    with Watch(database, lease) as watch:
        return run_leased(database, watch, subject=subject, ray_address=ray_address, told=told)


def run_leased(
    database: Database,
    watch: Watch,
    *,
    subject: Subject | None = None,
    ray_address: str | None = None,
    told: Told = SILENT,
) -> SearchResult:
    """Run the study whose lease is watched; the study and the lease end, or the lease is given back.

    Raises:
        KeyboardInterrupt, RequestedError: interrupted, paused or cancelled; passed on after the lease was
            given back, as are a cluster and a database that are out of reach.
        LeaseLost: somebody else has taken the study; nothing was written since.
        whatever made the study fail.
    """
    lease, phase = watch.lease, Phases(told.phase)
    try:
        with phase("starting"):
            subject = subject or subject_of(studies.get_study(database, lease.name))
        storage = optuna_storage(database, lease)
        showcase = Showcase(database, storage, subject)
        result = _search(database, storage, subject, watch, ray_address, told, showcase)
        _keep_front(database, lease, result)
        found = outcome(lease.name, subject.spec.goal, result)
        showcase.publish(result.evaluations, found["summary"], result.latencies)
        queue.finish(database, lease, "done", outcome=found)
    except LeaseLost:
        raise
    except (KeyboardInterrupt, RequestedError):
        with contextlib.suppress(LeaseLost):  # it had just ended
            queue.release(database, lease)
        raise
    except Exception as error:
        if exit_status(error) == OUT_OF_REACH:  # that is no fault of the study
            with contextlib.suppress(DatabaseError):
                queue.release(database, lease)
        else:
            queue.finish(database, lease, "failed", error=str(error))
        raise
    return result


def _search(
    database: Database,
    storage: BaseStorage,
    subject: Subject,
    watch: Watch,
    ray_address: str | None,
    told: Told,
    showcase: Showcase,
) -> SearchResult:
    spec, started, phase = subject.spec, time.monotonic(), Phases(told.phase)
    lease = watch.lease
    with Evaluations(
        database, subject, "search", lease=lease, ray_address=ray_address, on_failure=told.failure
    ) as evaluate:
        watch.on_interrupt(evaluate.interrupt)
        with phase("starting"):
            context = _context(storage, subject, evaluate, watch, phase, started)
        context.on_trial = _teller(context, subject, told, showcase)
        result = run_search(spec.search, context)
        if spec.goal.max_latency_ratio is None:
            return result
        # Whatever `limits.hours` says: it ends the search, and without this the goal could not be judged.
        with phase("timing"):
            found = measure_front(database, lease, result.front[::-1], evaluate.side_by_side, told.timed)
        return with_latencies(result, spec.goal, found)


def _context(
    storage: BaseStorage,
    subject: Subject,
    evaluate: Evaluations,
    watch: Watch,
    phase: Phases,
    started: float,
) -> Context:
    """What the search works with; no pruning is evaluated for it, which starts the workers."""
    spec, records = subject.spec, evaluate.baseline.records
    visual_tokens = max(record.visual_tokens for record in records)
    return Context(
        storage=storage,
        name=spec.name,
        seed=spec.search.seed,
        num_layers=subject.shape.num_layers,
        first_prunable=subject.traits.first_prunable,
        visual_tokens=visual_tokens,
        samples=[(record.visual_tokens, record.text_tokens) for record in records],
        shape=subject.shape,
        evaluate=evaluate,
        begin=evaluate.begin,
        key_of=evaluate.key_of,
        grid=subject.longer_side(visual_tokens),
        max_drop=spec.goal.max_drop,
        try_first=getattr(spec.search, "try_first", {}),
        parallel_trials=spec.workers.parallel_trials,
        hours=spec.limits.hours_with(spec.workers),
        trials=spec.limits.trials,
        started=started,
        stopping=watch.stopping,
        phase=phase,
    )


def _teller(context: Context, subject: Subject, told: Told, showcase: Showcase) -> Callable[[Measured], None]:
    """What to call with every new trial: it tells how the study stands, and shows it."""
    expected = estimate_evaluations(subject.spec.search, context.size)

    def tell(newest: Measured) -> None:
        points = list(context.main)
        now = Standing(
            done=newest.number + 1,
            expected=expected,
            baseline=context.baseline,
            best=context.choose(points),
        )
        told.trial(now)
        with context.phase("writing"):
            showcase.update(points, now.sentence)

    return tell


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
