"""The demo: a study per method on the embedded model, their results on `test`, one front, one profile."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from db.session import Database
from db.studies import get_study, list_studies
from searchsvc.cli.output import as_table, message, stdout
from searchsvc.cluster import disconnect
from searchsvc.controller import run_study
from searchsvc.creation import create_study
from searchsvc.demo.data import write
from searchsvc.errors import GoalNotMetError
from searchsvc.evaluations import Evaluations
from searchsvc.export import Choice, confidently_within, export_profile
from searchsvc.locations import DEMO
from searchsvc.outcome import summary
from searchsvc.points import on_front
from searchsvc.progress import bars
from searchsvc.queries import goal
from searchsvc.report import draw
from searchsvc.subject import subject_of
from studies.driver import SearchResult
from studies.intervals import interval, paired_interval
from studies.measured import Evaluation, Measured


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How large the demo is."""

    search_samples: int
    test_samples: int
    #: What the exported profile may lose, confidently.
    max_drop: float
    workers: int = 2
    #: Options of each method's study, in the order in which they run.
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


QUICK = Plan(
    search_samples=128,
    test_samples=1000,
    max_drop=0.02,
    methods={
        "fastv": {},
        "pdrop": {},
        "vtw": {},
        "p-sigmoid": {"trials": 8},
        "g-search": {"trials": 8, "stride": 2},
        "topv": {"trials": 16},
        "pareto": {"trials": 32},
        "random": {},
    },
)
FULL = Plan(
    search_samples=512,
    test_samples=2000,
    max_drop=0.01,
    methods={
        "fastv": {},
        "pdrop": {},
        "vtw": {},
        "p-sigmoid": {"trials": 25},
        "g-search": {},
        "topv": {"trials": 40},
        "pareto": {"trials": 100},
        "random": {},
    },
)


def demonstrate(folder: Path, *, full: bool) -> None:
    """Run, or go on with, the demo in `folder`; what was evaluated before is not evaluated again."""
    plan = FULL if full else QUICK
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / "data" / "manifest.jsonl"
    if not manifest.exists():
        write(manifest.parent)
    message(f"{plan.search_samples} search and {plan.test_samples} test samples in {manifest}")
    try:
        with Database.open(f"sqlite:///{(folder / 'searchsvc.db').absolute()}") as database:
            found = {method: _study(database, method, plan, manifest) for method in plan.methods}
            _show_results(database, found)
            _show_front(found, folder)
            _show_profile(database, found, folder, plan)
            message(f"see every study with: searchsvc dashboard --db {folder / 'searchsvc.db'}")
    finally:
        disconnect()


def study_name(method: str) -> str:
    """Name of a method's study in the demo's database."""
    return f"demo-{method}"


def _study(database: Database, method: str, plan: Plan, manifest: Path) -> SearchResult:
    name = study_name(method)
    if name not in {study.name for study in list_studies(database)}:
        flags = {
            "name": name,
            "model.id": DEMO,
            "data.path": str(manifest),
            "data.split.search": plan.search_samples,
            "data.split.test": plan.test_samples,
            "search.method": method,
            "workers.count": plan.workers,
        }
        options = [f"{key}={value}" for key, value in plan.methods[method].items()]
        message(create_study(database, None, flags, options).summary)
    with bars(name) as progress:
        result = run_study(database, name, told=progress)
    message(summary(name, goal(database, name), result))
    return result


def _show_results(database: Database, found: Mapping[str, SearchResult]) -> None:
    """One row per method: what it recommends, measured on `test`; below, chance at the best one's budget."""
    subject = subject_of(get_study(database, study_name(next(iter(found)))))
    with Evaluations(database, subject, "test") as evaluate:
        rows = [_row("no pruning", evaluate.baseline, evaluate.baseline)]
        for method, result in found.items():
            if result.result is not None:
                rows.append(_row(method, evaluate(result.pruning), evaluate.baseline))
        method, best = cheapest(found)
        for name, measured in _chance(best).items():
            rows.append(_row(f"{name}, as {method}", evaluate(measured.pruning), evaluate.baseline))
    stdout.print(as_table(rows, f"On {len(subject.test)} test samples that no search has seen"))


def _row(name: str, evaluation: Evaluation, baseline: Evaluation) -> dict[str, Any]:
    bounds, drop = interval(evaluation.scores), paired_interval(evaluation.scores, baseline.scores)
    return {
        "method": name,
        "accuracy": f"{evaluation.accuracy:.3f}",
        "95%": f"{bounds.low:.3f}..{bounds.high:.3f}",
        "difference, 95%": "-" if evaluation is baseline else f"{drop.low:+.3f}..{drop.high:+.3f}",
        "FLOPs": f"{evaluation.decoder_ratio:.3f}",
        "KV": f"{evaluation.kv_ratio:.3f}",
    }


def cheapest(found: Mapping[str, SearchResult]) -> tuple[str, SearchResult]:
    """Return the method whose result meets the goal for the fewest FLOPs; else the most accurate one's."""
    ended = {method: result for method, result in found.items() if result.result is not None}
    within = [item for item in ended.items() if item[1].meets_goal]
    if within:
        return min(within, key=lambda item: _found(item[1]).flops_ratio)
    return max(ended.items(), key=lambda item: _found(item[1]).accuracy)


def _chance(result: SearchResult) -> dict[str, Measured]:
    """Return what the result's own schedule gives with tokens chosen at random and at even distances."""
    for comparison in result.chance.values():
        if comparison.uniform.flops_ratio == _found(result).flops_ratio:
            return {"random": comparison.random[0], "uniform": comparison.uniform}
    return {}


def _found(result: SearchResult) -> Measured:
    if result.result is None:
        raise ValueError("the study recommends nothing")
    return result.result


def _show_front(found: Mapping[str, SearchResult], folder: Path) -> None:
    points = [point for result in found.values() for point in result.evaluations]
    origin = {id(point): method for method, result in found.items() for point in result.evaluations}
    rows = [
        {
            "study": origin[id(point)],
            "trial": point.number,
            "ranked by": point.pruning.ranker.type if point.pruning else "-",
            "accuracy": f"{point.accuracy:.3f}",
            "FLOPs": f"{point.flops_ratio:.3f}",
            "KV": f"{point.kv_ratio:.3f}",
        }
        for point in on_front(points)
    ]
    stdout.print(as_table(rows, "The front of all studies (search split)"))
    schedules = [_found(result) for result in found.values() if result.result is not None]
    for path in draw(points, folder / "plots", "Demo", schedules):
        message(f"drawn: {path}")


def _show_profile(database: Database, found: Mapping[str, SearchResult], folder: Path, plan: Plan) -> None:
    """Export the cheapest member of the common front that keeps the promise on `test`."""
    path = folder / "profile.yaml"
    method, point = _promised(database, found, plan.max_drop)
    choice = Choice(trial=point.number)
    message(export_profile(database, study_name(method), choice, path, overwrite=True))
    message(f"verify it with: searchsvc profile verify {path} --db {folder / 'searchsvc.db'}")


def _promised(database: Database, found: Mapping[str, SearchResult], max_drop: float) -> tuple[str, Measured]:
    origin = {id(point): method for method, result in found.items() for point in result.evaluations}
    front = on_front([point for result in found.values() for point in result.evaluations])
    pruned = [point for point in front if point.pruning is not None]
    subject = subject_of(get_study(database, study_name(next(iter(found)))))
    with Evaluations(database, subject, "test") as evaluate:
        try:
            point = confidently_within(pruned, max_drop, evaluate)
            return origin[id(point)], point
        except GoalNotMetError as error:
            method, best = cheapest(found)
            message(f"{error}; the demo exports what {method} recommends instead")
            return method, _found(best)
