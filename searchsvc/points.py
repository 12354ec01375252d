"""A study's evaluated schedules as tables, plots and exports take them."""

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import optuna

from pruners.profile import Latency
from studies.front import pareto_front
from studies.measured import Measured, read_trial

#: So many members of a front are drawn as schedules; more lines cannot be told apart.
SCHEDULES_SHOWN = 8


def measured_in(study: optuna.Study) -> list[Measured]:
    """Read the finished trials of a two-objective study, in the order of their numbers."""
    with _no_collection():
        finished = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        return [read_trial(trial) for trial in finished]


@contextmanager
def _no_collection() -> Iterator[None]:
    """Look for no garbage while thousands of rows are made and kept: each look would take in all of torch."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def on_front(points: Sequence[Measured]) -> list[Measured]:
    """Return the non-dominated ones, dearest first."""
    return [points[i] for i in reversed(pareto_front([point.point for point in points]))]


def thinned(front: Sequence[Measured]) -> list[Measured]:
    """Return at most SCHEDULES_SHOWN members, evenly spread, both ends among them."""
    if len(front) <= SCHEDULES_SHOWN:
        return list(front)
    step = (len(front) - 1) / (SCHEDULES_SHOWN - 1)
    return [front[round(step * i)] for i in range(SCHEDULES_SHOWN)]


def keep_rates(point: Measured) -> tuple[float, ...]:
    """Return the visual share kept per decoder layer; all ones without pruning."""
    return point.pruning.schedule.keep_rates if point.pruning else (1.0,) * len(point.tokens_per_layer)


def name(point: Measured) -> str:
    """Return a short name for a legend: method, trial, accuracy and FLOPs ratio."""
    return f"{point.method}, trial {point.number}: {point.accuracy:.3f} at {point.flops_ratio:.2f}"


def prefill_columns(point: Measured, latencies: Mapping[str, Latency]) -> dict[str, Any]:
    """Return a point's measured prefill ratio and interval, None where there is none; nothing of no front."""
    if not latencies:
        return {}
    found = latencies.get(point.key)
    return {
        "prefill_ratio": found and found.prefill_ratio,
        "prefill_interval_95": list(found.prefill_interval) if found and found.prefill_interval else None,
    }


def rows(points: Iterable[Measured], latencies: Mapping[str, Latency] | None = None) -> list[dict[str, Any]]:
    """Lay points out for `--output`, with what was measured of their prefill where anything was."""
    return [
        {
            "trial": point.number,
            "method": point.method,
            "schedule": point.label,
            "accuracy": point.accuracy,
            "flops_ratio": point.flops_ratio,
            "kv_ratio": point.kv_ratio,
            "samples": point.samples,
            **prefill_columns(point, latencies or {}),
        }
        for point in points
    ]
