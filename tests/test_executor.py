"""Workers that die, hang, fail, leave and come: every batch is answered once, or the evaluation fails for a reason."""

import threading
import time
from typing import Any

import pytest
from here_cluster import DieError, HereCluster

from searchsvc import executor as executor_module
from searchsvc.cluster import Workers
from searchsvc.errors import ClusterError, ServiceError
from searchsvc.executor import ATTEMPTS, Executor
from studies.errors import EvaluationError, ModelError

BATCHES = 6


class Echo:
    """A worker that answers with what it was asked, after what the job does to it."""

    def __init__(self, job: Any) -> None:
        self.job = job
        job(self, "start", None)

    def run(self, batch: int, text: str) -> str:
        self.job(self, batch, text)
        return f"{text}-{batch}"


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor_module, "Cluster", HereCluster)
    monkeypatch.setattr(HereCluster, "places", 1000)


def started(job: Any, count: int = 2, **options: Any) -> Executor:
    return Executor(Echo, job, BATCHES, Workers(count=count, threads=1, **options))


class Trouble:
    """Calls `act` the first `times` that a batch (or the start of a worker) comes by."""

    def __init__(self, where: Any, act: Any, times: int = 1) -> None:
        self.where, self.act, self.left = where, act, times
        self.lock = threading.Lock()

    def __call__(self, worker: Echo, batch: Any, text: str | None) -> None:
        with self.lock:
            due = batch == self.where and self.left > 0 and text != "fine"
            self.left -= due
        if due:
            self.act()


def die() -> None:
    raise DieError("killed by signal 9")


def raise_memory() -> None:
    raise MemoryError("cannot allocate memory")


def nothing(worker: Echo, batch: Any, text: str | None) -> None:
    pass


def expected(text: str) -> dict[int, str]:
    return {batch: f"{text}-{batch}" for batch in range(BATCHES)}


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_many_evaluations_at_once_are_all_answered(workers: int) -> None:
    with started(nothing, workers) as executor:
        futures = [executor.begin("run", str(n)) for n in range(20)]
        assert [future.result(30) for future in futures] == [expected(str(n)) for n in range(20)]


@pytest.mark.parametrize("act", [die, raise_memory])
def test_a_batch_that_fails_once_is_tried_again(act: Any) -> None:
    failures: list[tuple[str, str]] = []
    with started(Trouble(3, act)) as executor:
        future = executor.begin("run", "a", on_failure=lambda *given: failures.append(given))
        assert future.result(30) == expected("a")
    assert len(failures) == 1
    assert "killed by signal 9" in failures[0][1] or "memory" in failures[0][1]


@pytest.mark.parametrize("act", [die, raise_memory])
def test_one_that_fails_again_and_again_fails_for_good_and_others_go_on(act: Any) -> None:
    failures: list[tuple[str, str]] = []
    trouble = Trouble(3, act, times=10**6)
    with started(trouble) as executor:
        poison = executor.begin("run", "poison", on_failure=lambda *given: failures.append(given))
        fine = executor.begin("run", "fine")
        with pytest.raises(
            EvaluationError, match=rf"\(batch 3, tried {ATTEMPTS} times\); a smaller batch_size"
        ):
            poison.result(30)
        assert fine.result(30) == expected("fine")
    assert len(failures) == ATTEMPTS
    assert 10**6 - trouble.left == ATTEMPTS


def test_a_worker_that_hangs_is_replaced() -> None:
    release = threading.Event()
    failures: list[tuple[str, str]] = []
    with started(Trouble(2, release.wait), batch_timeout=0.3) as executor:
        future = executor.begin("run", "a", on_failure=lambda *given: failures.append(given))
        assert future.result(30) == expected("a")
        release.set()
    assert [message for _, message in failures] == [
        f"{failures[0][0]} is gone: it took more than 0.3 s over one batch (workers.batch_timeout)"
    ]


def test_a_machine_that_leaves_is_no_failure_of_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often that happens to one batch."""
    failures: list[str] = []
    busy, go = threading.Semaphore(0), threading.Event()

    def wait(worker: Echo, batch: Any, text: str | None) -> None:
        if batch == 0 and not go.is_set():
            busy.release()
            go.wait(30)

    with started(wait, count=1) as executor:
        future = executor.begin("run", "a", on_failure=lambda _, message: failures.append(message))
        for _ in range(ATTEMPTS + 1):
            assert busy.acquire(timeout=30)
            cluster: Any = executor._cluster
            cluster.remove_node(cluster.actors[-1])
        go.set()
        assert future.result(30) == expected("a")
    assert len(failures) == ATTEMPTS + 1
    assert all(message == "not to blame on the schedule: node died" for message in failures)


@pytest.mark.parametrize(
    ("then", "blamed"), [("back", False), ("died", True), ("machine", False), ("never", True)]
)
def test_one_out_of_reach_is_pinged_until_it_is_known_what_became_of_it(
    monkeypatch: pytest.MonkeyPatch, then: str, blamed: bool
) -> None:
    monkeypatch.setattr(executor_module, "REACH_SECONDS", 0.5)
    failures: list[str] = []
    busy, go = threading.Event(), threading.Event()

    def wait(worker: Echo, batch: Any, text: str | None) -> None:
        if batch == 0 and not go.is_set():
            busy.set()
            go.wait(30)

    with started(wait, count=1) as executor:
        future = executor.begin("run", "a", on_failure=lambda _, message: failures.append(message))
        assert busy.wait(30)
        cluster: Any = executor._cluster
        (actor,) = cluster.actors
        if then == "machine":
            cluster.gone.add(actor.node)
        cluster.hide(actor, pings=10**6 if then == "never" else 3)
        go.set()
        if then in ("died", "machine"):
            actor.lose("gone")
        assert future.result(30) == expected("a")
    assert len(failures) == 1
    assert failures[0].startswith("not to blame") is not blamed


def test_workers_that_find_a_place_later_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HereCluster, "places", 1)
    ran: set[int] = set()

    def note(worker: Echo, batch: Any, text: str | None) -> None:
        if batch != "start":
            ran.add(id(worker))
            time.sleep(0.01)

    with started(note, count=3) as executor:
        assert executor.begin("run", "a").result(30) == expected("a")
        assert len(ran) == 1
        cluster: Any = executor._cluster
        cluster.places = 3
        cluster.place()
        while len(executor._dispatcher.workers) < 3:
            time.sleep(0.01)
        futures = [executor.begin("run", str(n)) for n in range(10)]
        assert [future.result(30) for future in futures] == [expected(str(n)) for n in range(10)]
    assert len(ran) == 3


def test_no_place_for_anybody_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HereCluster, "places", 0)
    monkeypatch.setattr(executor_module, "PLACE_SECONDS", 0.2)
    with started(nothing, gpus=1.0) as executor:
        with pytest.raises(
            ClusterError, match=r"no place .* 1 CPUs and 1 GPUs, and the cluster has 0 places"
        ):
            executor.begin("run", "a").result(30)
        with pytest.raises(ClusterError, match="no place"):
            executor.begin("run", "b").result(30)


def test_a_model_that_cannot_be_loaded_is_the_error() -> None:
    def refuse() -> None:
        raise ModelError("no such model")

    with (
        started(Trouble("start", refuse, times=10**6)) as executor,
        pytest.raises(ModelError, match="no such"),
    ):
        executor.begin("run", "a").result(30)


def test_workers_that_die_while_they_start_are_tried_again_and_then_given_up() -> None:
    with started(Trouble("start", die)) as executor:
        assert executor.begin("run", "a").result(30) == expected("a")
    with (
        started(Trouble("start", die, times=10**6)) as executor,
        pytest.raises(ServiceError, match="no worker could be started: killed by signal 9"),
    ):
        executor.begin("run", "a").result(30)


def test_a_judge_is_asked_at_the_checkpoints_and_may_end_it() -> None:
    asked: list[int] = []

    def judge(found: Any) -> bool:
        asked.append(len(found))
        return len(found) >= 2

    with started(nothing) as executor:
        few = executor.begin("run", "a", judge=judge).result(30)
        assert len(few) == asked[-1] < BATCHES
        asked.clear()
        everything = executor.begin("run", "b", judge=lambda found: bool(asked.append(len(found)))).result(30)
    assert everything == expected("b")
    assert asked == sorted(set(asked))
    assert asked[-1] < BATCHES


def test_alone_waits_until_nobody_else_is_at_work() -> None:
    at_work, most = [], []
    lock = threading.Lock()

    def note(worker: Echo, batch: Any, text: str | None) -> None:
        if batch == "start":
            return
        with lock:
            at_work.append(text)
            most.append((text, len(at_work)))
        time.sleep(0.02)
        with lock:
            at_work.remove(text)

    with started(note, count=3) as executor:
        for n in range(5):
            executor.begin("run", str(n))
        assert executor.alone("run", "timed", on_failure=lambda *_: None) == "timed-0"
    assert [count for text, count in most if text == "timed"] == [1]


def test_what_goes_wrong_with_an_answer_reaches_whoever_waits() -> None:
    def fail(found: Any) -> None:
        raise RuntimeError("disk full")

    with started(nothing) as executor:
        with pytest.raises(RuntimeError, match="disk full"):
            executor.begin("run", "a", finish=fail).result(30)
        assert executor.begin("run", "b").result(30) == expected("b")
