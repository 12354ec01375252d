"""Many clients queue studies while two controllers run them: is every study made once, and done once?

    python -m bench.clients                                        # 200 studies, 16 clients, both databases
    python -m bench.clients --studies 20 --clients 4 --only sqlite

Every client is a process that tries to queue every study, in an order of its own; of all that try a name,
one may get it. Controllers, a process per study, Ray and the database are the service's own; workers sleep.
In the end every study must be done, once, and have evaluated each of its schedules once; a claim may be given
back, as when the cluster has no place for long. Prints a table and then one JSON line; exits with 1 if
anything was done twice or not at all.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from bench.output import console
from bench.postgres import postgres
from bench.service import ROOT, make_spec, queue, ray_cluster, start_controller, study_name
from db import results, studies
from db.errors import AlreadyExists
from db.session import Database

ENGINES = ("sqlite", "postgresql")
CONTROLLERS = 2
#: seconds in which some study must end
PATIENCE = 300.0
#: seconds in which a process ends whose study is done
ENDING = 30.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of it on one kind of database."""

    engine: str
    studies: int
    clients: int
    #: studies that every client made
    made: list[int]
    #: studies that every controller did
    done: list[int]
    #: claims that came to another end than a study that is done, by what came of them
    given_back: dict[str, int]
    evaluations: int
    #: seconds until all were queued, and until all were done
    queued_after: float
    done_after: float
    #: studies that were made by several clients, done more than once, or not done
    made_twice: int
    done_twice: int
    not_done: int
    #: evaluations made more than once
    doubled: int

    @property
    def good(self) -> bool:
        """Whether everything was done, and once."""
        return not (self.made_twice or self.done_twice or self.not_done or self.doubled)


def main() -> None:
    """Run on each kind of database, and print."""
    given = _arguments()
    if given.client is not None:
        _client(*given.client)
        return
    outcomes = []
    for engine in given.only:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            sqlite = f"sqlite:///{folder / 'studies.db'}"
            url = sqlite if engine == "sqlite" else stack.enter_context(postgres(given.postgres))
            address = stack.enter_context(ray_cluster(given.cpus))
            outcomes.append(_run(engine, url, address, folder, given))
    _show(outcomes)
    print(json.dumps({"bench": "clients", "rows": [asdict(outcome) for outcome in outcomes]}))
    sys.exit(0 if all(outcome.good for outcome in outcomes) else 1)


def _run(engine: str, url: str, address: str, folder: Path, given: argparse.Namespace) -> Outcome:
    spec = folder / "spec.json"
    spec.write_text(json.dumps(make_spec(folder, trials=given.trials, workers=1)))
    logs = [folder / f"controller-{number}.log" for number in range(CONTROLLERS)]
    with Database.open(url) as database:
        started = time.monotonic()
        controllers = [start_controller(url, address, log) for log in logs]
        clients = [_start_client(url, spec, number, given.studies) for number in range(given.clients)]
        made = [json.loads(client.communicate()[0]) for client in clients]
        queued_after = time.monotonic() - started
        _wait(database, given.studies)
        done_after = time.monotonic() - started
        _wait_for_ends(logs, given.studies)
        for controller in controllers:
            controller.terminate()
            controller.wait()
        ends = [_ends(log) for log in logs]
        names = [study_name(number) for number in range(given.studies)]
        by_client = Counter(name for one in made for name in one)
        by_controller = Counter(name for one in ends for name, how in one if how == "done")
        attempts = [
            Counter(a.key for a in results.attempts(database, name) if a.error is None) for name in names
        ]
        return Outcome(
            engine=engine,
            studies=given.studies,
            clients=given.clients,
            made=[len(one) for one in made],
            done=[sum(how == "done" for _, how in one) for one in ends],
            given_back=dict(Counter(how for one in ends for _, how in one if how != "done")),
            evaluations=sum(len(one) for one in attempts),
            queued_after=queued_after,
            done_after=done_after,
            made_twice=sum(by_client[name] != 1 for name in names),
            done_twice=sum(by_controller[name] > 1 for name in names),
            not_done=sum(studies.get_study(database, name).status != "done" for name in names),
            doubled=sum(one.total() - len(one) for one in attempts),
        )


def _wait(database: Database, count: int) -> None:
    """Wait until so many studies have ended; TimeoutError when nothing goes on."""
    ended, since = 0, time.monotonic()
    while ended < count:
        time.sleep(1)
        states = studies.count_by_status(database)
        now = sum(states.get(state, 0) for state in ("done", "failed", "cancelled"))
        if now > ended:
            ended, since = now, time.monotonic()
        elif time.monotonic() - since > PATIENCE:
            raise TimeoutError(f"no study has ended for {PATIENCE:.0f} s: {states}")


def _wait_for_ends(logs: list[Path], count: int) -> None:
    """Let the last processes end by themselves: one that is drained then says that it gave its study back."""
    until = time.monotonic() + ENDING
    while time.monotonic() < until and sum(how == "done" for log in logs for _, how in _ends(log)) < count:
        time.sleep(0.5)


def _ends(log: Path) -> list[tuple[str, str]]:
    """Name and outcome of every claim of a controller."""
    whole = log.read_text().rpartition("\n")[0]  # the last line may be half written
    entries = (json.loads(line) for line in whole.splitlines() if line.startswith("{"))
    return [(entry["study"], entry["how"]) for entry in entries if entry["event"] == "ended"]


def _start_client(url: str, spec: Path, number: int, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bench.clients", "--client", url, spec, number, count]
    return subprocess.Popen([str(word) for word in command], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def _client(url: str, spec: str, number: str, count: str) -> None:
    """Queue all studies that nobody has queued yet; print which those were."""
    common: dict[str, Any] = json.loads(Path(spec).read_text())
    order = list(range(int(count)))
    random.Random(int(number)).shuffle(order)
    made = []
    with Database.open(url) as database:
        for study in order:
            if studies.exists_study(database, study_name(study)):
                continue
            try:
                queue(database, common, study)
                made.append(study_name(study))
            except AlreadyExists:
                pass
    print(json.dumps(made))


def _show(outcomes: list[Outcome]) -> None:
    (first, *_) = outcomes
    title = f"{first.studies} studies, {first.clients} clients that all try each, {CONTROLLERS} controllers"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for outcome in outcomes:
        table.add_column(outcome.engine, justify="right")
    rows: dict[str, Callable[[Outcome], str]] = {
        "made by each client": lambda o: f"{min(o.made)} to {max(o.made)}",
        "done by each controller": lambda o: " and ".join(map(str, o.done)),
        "claims given back": lambda o: str(sum(o.given_back.values())),
        "evaluations": lambda o: f"{o.evaluations:,}",
        "all queued after, s": lambda o: f"{o.queued_after:.0f}",
        "all done after, min": lambda o: f"{o.done_after / 60:.1f}",
        "studies made twice": lambda o: str(o.made_twice),
        "studies done twice": lambda o: str(o.done_twice),
        "studies not done": lambda o: str(o.not_done),
        "evaluations made twice": lambda o: str(o.doubled),
    }
    for label, cell in rows.items():
        table.add_row(label, *(cell(outcome) for outcome in outcomes))
    console().print(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--trials", type=int, default=4, help="of a study, beside those it always makes")
    parser.add_argument("--cpus", type=int, default=8, help="of the Ray cluster: so many studies run at once")
    parser.add_argument("--postgres", help="URL of an empty database; default: a server of our own")
    parser.add_argument("--client", nargs=4, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
