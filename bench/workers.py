"""What do workers wait for? The service's own studies: on the embedded model, and on workers that only sleep.

    python -m bench.workers                         # everything
    python -m bench.workers --only overhead --trials 40

*overhead*: what a trial costs beside its evaluation (ask, tell, database, Ray), on workers that take 50 ms,
and on workers that take none, where nothing can be done meanwhile; with SQLite and with PostgreSQL (a wheel
brings the server, or `--postgres URL`). *busy*: the share of their time that 64 workers are at work, one
evaluation each, or all of them sharing each evaluation, from when all of them are ready. *two*: the embedded
model on 1 and on 2 workers, one thread each. Prints a table and then one JSON line. Run it on idle cores.
"""

import argparse
import itertools
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rich.table import Table

from bench.output import console
from bench.postgres import postgres
from bench.simulated import Assembled
from db import studies
from db.session import Database
from searchsvc import controller
from searchsvc.cluster import disconnect
from searchsvc.demo.data import write
from searchsvc.progress import Standing, Told
from searchsvc.subject import read_subject
from studies.spec import StudySpec

PARTS = ("overhead", "busy", "two")
_NUMBERS = itertools.count(1)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One study."""

    study: str
    workers: int
    parallel_trials: int
    #: after no pruning, which starts the workers
    trials: int
    seconds: float
    #: share of the workers' time, or milliseconds per trial, or times as fast: see `unit`
    value: float
    unit: str


class Clock:
    """Notes when each new trial was told."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def told(self) -> Told:
        """Whom the controller tells."""
        return Told(trial=self._trial, timed=lambda _done, _all: None)

    def _trial(self, _: Standing) -> None:
        self.times.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """From no pruning to the last trial."""
        return self.times[-1] - self.times[0]

    @property
    def trials(self) -> int:
        """Without no pruning."""
        return len(self.times) - 1


def main() -> None:
    """Run the parts and print."""
    given = _arguments()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), search=given.samples, test=1)
        spec = {
            "model": {"id": "demo"},
            "data": {
                "path": str(Path(folder) / "manifest.jsonl"),
                "split": {"search": given.samples, "test": 1},
            },
            "max_new_tokens": 1,
        }
        for part in given.only:
            rows += {"overhead": _overhead, "busy": _busy, "two": _two}[part](spec, Path(folder), given)
    _show(rows)
    print(json.dumps({"bench": "workers", "rows": [asdict(row) for row in rows]}))


def _study(url: str, spec: dict[str, Any], **workers: Any) -> Clock:
    made = StudySpec.parse({"name": "bench", **spec, "workers": workers}, "bench")
    clock = Clock()
    with Database.open(url) as database:
        subject = read_subject(made)
        studies.create_study(
            database, made.name, made.model_dump(mode="json"), model=subject.model, dataset=subject.dataset
        )
        try:
            controller.run_study(database, made.name, told=clock.told())
        finally:
            disconnect()
    return clock


def _simulated(
    url: str, spec: dict[str, Any], trials: int, seconds: float, batches: int, **workers: Any
) -> Clock:
    """A study of random schedules on sleeping workers: the sampler's own fitting is not what is measured."""
    search = {"method": "pareto", "trials": trials, "sampler": "random", "rankers": ["last"]}
    # settings of its own: what another study evaluated is remembered
    number = next(_NUMBERS)
    own = {"name": f"bench-{number}", "max_new_tokens": number, "search": search}
    changes = {"seconds": seconds, "batches": batches}
    made = type("Evaluations", (Assembled,), changes)
    with patch.object(controller, "Evaluations", made):
        return _study(url, spec | own, **workers)


def _overhead(spec: dict[str, Any], folder: Path, given: argparse.Namespace) -> list[Row]:
    rows = []
    with postgres(given.postgres) as server:
        for name, url in (("SQLite", f"sqlite:///{folder / 'overhead.db'}"), ("PostgreSQL", server)):
            for seconds in (0.05, 0.0):
                clock = _simulated(url, spec, given.trials, seconds, 2, count=2)
                value = 1000 * (clock.seconds / clock.trials - seconds)
                rows.append(_row(f"{name}, {seconds:g} s each", clock, 2, 1, value, "ms more per trial"))
    return rows


def _busy(spec: dict[str, Any], folder: Path, given: argparse.Namespace) -> list[Row]:
    rows = []
    count = given.workers
    cases = (
        ("own", 2.0, 1, count, given.generations * count),
        ("shared", 0.5, count, 2, 4 * given.generations),
    )
    for name, seconds, batches, parallel, trials in cases:
        url = f"sqlite:///{folder / f'{name}.db'}"
        clock = _simulated(url, spec, trials, seconds, batches, count=count, parallel_trials=parallel)
        busy = clock.trials * batches * seconds / (count * clock.seconds)
        what = f"{seconds:g} s each, {name} evaluation" + ("s" if name == "own" else "")
        rows.append(_row(what, clock, count, parallel, busy, "of the time busy"))
    return rows


def _two(spec: dict[str, Any], folder: Path, given: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    search = {"method": "pareto", "trials": given.model_trials, "sampler": "random"}
    for parallel in (1, 2):
        alone = 0.0
        for count in (1, 2):
            url = f"sqlite:///{folder / f'two-{parallel}-{count}.db'}"
            clock = _study(url, {**spec, "search": search}, count=count, parallel_trials=parallel)
            alone = alone or clock.seconds
            value = alone / clock.seconds
            rows.append(_row("embedded model", clock, count, parallel, value, "times one worker"))
    return rows


def _row(study: str, clock: Clock, workers: int, parallel: int, value: float, unit: str) -> Row:
    return Row(
        study=study,
        workers=workers,
        parallel_trials=parallel,
        trials=clock.trials,
        seconds=clock.seconds,
        value=value,
        unit=unit,
    )


def _show(rows: list[Row]) -> None:
    table = Table(title="Workers", title_justify="left")
    for column in ("study", "workers", "parallel trials", "trials", "seconds", "result"):
        table.add_column(column, justify="left" if column in ("study", "result") else "right")
    for row in rows:
        cells = (str(row.workers), str(row.parallel_trials), str(row.trials), f"{row.seconds:.1f}")
        table.add_row(row.study, *cells, f"{row.value:.3g} {row.unit}")
    console().print(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--trials", type=int, default=200, help="of overhead")
    parser.add_argument("--workers", type=int, default=64, help="of busy")
    parser.add_argument("--generations", type=int, default=60, help="of busy: evaluations per worker")
    parser.add_argument("--model-trials", type=int, default=60, help="of two")
    parser.add_argument("--postgres", help="URL of an empty database; default: a server of our own")
    return parser.parse_args()


if __name__ == "__main__":
    main()
