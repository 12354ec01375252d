"""The service as the benches of its faults and of its load run it: real processes, workers that sleep.

python -m bench.service serve DATABASE_URL RAY_ADDRESS [--once]     # a controller
python -m bench.service child                                       # as `searchsvc.child`
"""

import os
import random
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.simulated import SimulatedEvaluations
from db.session import Database
from db.studies import create_study
from searchsvc import child, controller
from searchsvc.demo.data import write
from searchsvc.subject import read_subject
from studies.spec import StudySpec

LEASE_SECONDS = 30.0
ROOT = Path(__file__).parent.parent


class Naps(SimulatedEvaluations):
    """Four batches of 50 ms."""

    seconds, batches = 0.05, 4


def make_spec(folder: Path, *, trials: int, workers: int) -> dict[str, Any]:
    """Return what all studies have in common; its data is written to the folder."""
    write(folder, search=8, test=1)
    return {
        "model": {"id": "demo"},
        "data": {"path": str(folder / "manifest.jsonl"), "split": {"search": 8, "test": 1}},
        "search": {"method": "pareto", "trials": trials, "rankers": ["last"]},
        "workers": {"count": workers},
    }


def study_name(number: int) -> str:
    """What a study is called."""
    return f"study-{number:03}"


def queue(database: Database, spec: Mapping[str, Any], number: int) -> None:
    """Queue a study whose trials are its own, and found in no other study's evaluations.

    Raises:
        AlreadyExists: somebody has queued it.
    """
    own = {"name": study_name(number), "search": {**spec["search"], "seed": number}}
    made = StudySpec.parse({**spec, **own, "max_new_tokens": number + 1}, "bench")
    subject = read_subject(made)
    record = made.model_dump(mode="json")
    create_study(database, made.name, record, model=subject.model, dataset=subject.dataset)


@contextmanager
def ray_cluster(cpus: int) -> Iterator[str]:
    """Start a Ray cluster of this machine, with a token that all processes started later have, too."""
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    port = random.SystemRandom().randrange(20_000, 30_000)
    head = subprocess.Popen(
        [Path(sys.executable).parent / "ray", "start", "--head", f"--port={port}", f"--num-cpus={cpus}",
         "--include-dashboard=false", "--disable-usage-stats", "--block"],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield f"127.0.0.1:{port}"
    finally:
        head.terminate()
        head.wait()


def start_controller(url: str, address: str, log: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start a controller; what it says is added to the log."""
    command = [sys.executable, "-m", "bench.service", "serve", url, address, *options]
    with log.open("a") as out:
        return subprocess.Popen(command, cwd=ROOT, stderr=out)


def _serve(url: str, address: str, *options: str) -> None:
    """What `searchsvc serve` does, but for its pages, and with children of our own."""
    from searchsvc.logs import log_as_json
    from searchsvc.metrics import Metrics
    from searchsvc.room import RayPlace
    from searchsvc.serving import Controller, drain_at_signals

    serving = Controller(
        url,
        RayPlace(address),
        Metrics(),
        max_studies=None,
        lease_seconds=LEASE_SECONDS,
        command=(sys.executable, "-m", "bench.service", "child"),
    )
    log_as_json()
    drain_at_signals(serving)
    serving.run(once="--once" in options)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _serve(*sys.argv[2:])
    else:
        setattr(controller, "Evaluations", Naps)  # noqa: B010 - a type is no variable to a type checker
        child.main()
