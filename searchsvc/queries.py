"""What reading commands show of studies."""

from collections.abc import Mapping
from typing import Any

import optuna

from db import results, studies
from db.session import Database
from pruners.profile import Latency
from searchsvc.errors import ServiceError
from searchsvc.latencies import read_latencies
from searchsvc.points import measured_in, on_front, rows
from searchsvc.storage import optuna_storage
from searchsvc.subject import stored_spec
from studies.latency import choose_fast, pruned_members
from studies.measured import Measured, cheapest_within
from studies.spec import GoalSpec


def list_studies(database: Database, *, limit: int | None = None, offset: int = 0) -> list[dict[str, Any]]:
    """Return a row per study, oldest first: `limit` of them, without the first `offset`."""
    return [
        {
            "name": study.name,
            "method": study.spec["search"]["method"],
            "model": study.model.reference,
            "status": study.status,
            "priority": study.priority,
            "evaluations": evaluations,
            "created": study.created_at.isoformat(timespec="seconds"),
        }
        for study, evaluations in studies.studies_with_counts(database, limit=limit, offset=offset)
    ]


def left_out(database: Database, shown: int, offset: int) -> str | None:
    """Say which studies a list of `shown` from `offset` leaves out; None where it is whole."""
    count, end = studies.count_studies(database), offset + shown
    if shown == count:
        return None
    more = f"; go on with --offset {end}" if shown and end < count else ""
    which = f"studies {offset + 1:,} to {end:,}" if shown else "none"
    return f"{which} of {count:,}{more}"


def show_study(database: Database, name: str) -> dict[str, Any]:
    """Return a study's state, resolved spec and front in short."""
    study = studies.get_study(database, name)
    points = _points(database, name)
    fronts = results.fronts(database, name)
    return {
        "name": name,
        "status": study.status,
        "priority": study.priority,
        "requested": study.request,
        "error": study.error,
        "trials": len(points),
        "front_members": len(on_front(points)),
        **_standing(points, stored_spec(study).goal, read_latencies(database, name)),
        "hypervolume": fronts[-1].hypervolume if fronts else None,
        "model_sha256": study.model.fingerprint,
        "data_sha256": study.dataset.sha256,
        "spec": study.spec,
    }


def _standing(points: list[Measured], goal: GoalSpec, latencies: Mapping[str, Latency]) -> dict[str, Any]:
    """The unpruned accuracy, and the best schedule so far: what the goal asks for, else the nearest to it."""
    unpruned = next((point for point in points if point.pruning is None), None)
    if unpruned is None:
        return {"unpruned_accuracy": None, "best": None}
    best = cheapest_within(points, unpruned.accuracy, goal.max_drop)
    found: dict[str, Any] = {"unpruned_accuracy": unpruned.accuracy}
    if goal.max_latency_ratio is not None and latencies:
        front = on_front(points)
        choice = choose_fast(front, unpruned.accuracy, goal.max_drop, goal.max_latency_ratio, latencies)
        best = choice.member or best
        found["latency"] = _timed(front, latencies) | {"goal_met": choice.meets_goal}
    return {**found, "best": next(iter(rows([best], latencies)))}


def _timed(front: list[Measured], latencies: Mapping[str, Latency]) -> dict[str, Any]:
    """How many of the front's members have been timed, and how."""
    members = pruned_members(front)
    found = [latencies[member.key] for member in members if member.key in latencies]
    return {
        "members": len(members),
        "timed": len(found),
        "device": sorted({str(latency.device) for latency in found}),
        "batch_size": sorted({latency.batch_size for latency in found}),
        "rounds": sorted({latency.rounds or 0 for latency in found}),
    }


def study_points(database: Database, name: str) -> list[Measured]:
    """Return every evaluated schedule of a study.

    Raises:
        NotFound: there is no such study.
        ServiceError: it has no finished trial yet.
    """
    studies.get_study(database, name)
    points = _points(database, name)
    if not points:
        raise ServiceError(f"study {name} has no finished trial yet; run it with: searchsvc study run {name}")
    return points


def goal(database: Database, name: str) -> GoalSpec:
    """Return what a study is for."""
    return stored_spec(studies.get_study(database, name)).goal


def delete_study(database: Database, name: str) -> None:
    """Delete our study, then Optuna's studies of the same name and below it."""
    studies.delete_study(database, name)
    storage = optuna_storage(database)
    for found in storage.get_all_studies():
        if found.study_name == name or found.study_name.startswith(f"{name}/"):
            storage.delete_study(found._study_id)


def _points(database: Database, name: str) -> list[Measured]:
    try:
        study = optuna.load_study(study_name=name, storage=optuna_storage(database))
    except KeyError:
        return []
    return measured_in(study)
