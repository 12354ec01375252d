"""Real Ray, several nodes on this machine: one goes away with its worker, another one joins."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from searchsvc.cluster import Workers, disconnect
from searchsvc.executor import Executor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

BATCHES = 6


class Slow:
    """Answers after a moment, with the process that it is."""

    def __init__(self, job: float) -> None:
        self.seconds = job

    def run(self, batch: int, text: str) -> tuple[str, int]:
        import os

        time.sleep(self.seconds)
        return f"{text}-{batch}", os.getpid()


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """In Ray's processes, too."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def answers(found: dict[int, Any]) -> list[str]:
    return [found[batch][0] for batch in sorted(found)]


def test_a_node_that_is_removed_takes_nothing_with_it_and_one_that_joins_is_used() -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    failures: list[str] = []
    try:
        workers = Workers(count=2, threads=1, address=cluster.address)
        with Executor(Slow, 0.3, BATCHES, workers) as executor:
            first = executor.begin("run", "first")
            assert answers(first.result(120)) == [f"first-{n}" for n in range(BATCHES)]
            while len(executor._dispatcher.workers) < 2:
                time.sleep(0.1)
            futures = [
                executor.begin("run", str(n), on_failure=lambda _, message: failures.append(message))
                for n in range(6)
            ]
            threading.Timer(0.5, cluster.remove_node, (nodes[1],), {"allow_graceful": False}).start()
            for n, future in enumerate(futures):
                assert answers(future.result(120)) == [f"{n}-{batch}" for batch in range(BATCHES)]
            # the one in its place waits for a node
            cluster.add_node(num_cpus=1)
            deadline = time.monotonic() + 120
            while len(executor._dispatcher.workers) < 2 and time.monotonic() < deadline:
                time.sleep(0.1)
            found = [executor.begin("run", "again") for _ in range(4)]
            processes = {pid for future in found for _, pid in future.result(120).values()}
        assert len(processes) == 2
        assert len(failures) == 1
        assert failures[0].startswith("not to blame on the schedule: ")
    finally:
        disconnect()
        cluster.shutdown()


def test_what_a_worker_raises_comes_back_without_the_library_s_traceback() -> None:
    from searchsvc.errors import ServiceError
    from studies.errors import ModelError

    try:
        with (
            Executor(_refuse, "no such model", BATCHES, Workers(count=1, threads=1)) as executor,
            pytest.raises(ModelError, match=r"^no such model$"),
        ):
            executor.begin("run", "x").result(120)
        with (
            Executor(_die, None, BATCHES, Workers(count=1, threads=1)) as executor,
            pytest.raises(ServiceError, match="no worker could be started"),
        ):
            executor.begin("run", "x").result(120)
    finally:
        disconnect()


def _refuse(job: str) -> None:
    from studies.errors import ModelError

    raise ModelError(job)


def _die(job: None) -> None:
    import os

    os._exit(1)
