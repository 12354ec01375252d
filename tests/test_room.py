"""Room for studies, waits that grow, and the pages of a controller: without any process."""

import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from db_cases import REPOSITORY
from prometheus_client import CollectorRegistry

from searchsvc import backoff, cluster
from searchsvc.backoff import LONGEST, Backoff
from searchsvc.errors import ClusterError
from searchsvc.health import served
from searchsvc.room import Need, RayPlace, left, need_of


def need(cpus: float, gpus: float = 0.0) -> Need:
    return Need(cpus=cpus, gpus=gpus)


@pytest.mark.parametrize(
    ("count", "threads", "gpus", "total", "expected"),
    [
        (2, 1, 0.0, need(8), need(2)),
        (4, 2, 0.0, need(8), need(8)),
        (16, 1, 0.0, need(8), need(8)),  # fewer workers: the same numbers, later
        (3, 3, 0.0, need(8), need(6)),
        (1, 9, 0.0, need(8), None),
        (1, 1, 1.0, need(8), None),
        (8, 1, 1.0, need(64, 4), need(4, 4)),
        (3, 1, 0.1, need(64, 0.3), need(3, 0.3)),
        (8, 4, 0.5, need(8, 4), need(8, 1)),
    ],
)
def test_a_study_takes_all_its_workers_or_as_many_as_there_can_be(
    count: int, threads: int, gpus: float, total: Need, expected: Need | None
) -> None:
    found = need_of({"workers": {"count": count, "threads": threads, "gpus_per_worker": gpus}}, total)
    assert (found is None) == (expected is None)
    if found and expected:
        assert (found.cpus, found.gpus) == (pytest.approx(expected.cpus), pytest.approx(expected.gpus))


def test_room_is_what_neither_we_nor_others_hold() -> None:
    ours = [need(2, 1), need(1)]
    assert left(need(8, 4), need(8, 4), ours) == need(5, 3)  # ours are still starting
    assert left(need(8, 4), need(1, 0), ours) == need(1, 0)  # others hold the rest
    assert need(3, 0.3).within(need(3, 0.1 + 0.2))
    assert not need(3, 1).within(need(8, 0))


def test_a_cluster_that_fails_is_out_of_reach_and_joined_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def fail() -> None:
        raise RuntimeError("the connection is gone\nmore")

    monkeypatch.setattr(cluster, "join", lambda address, cpus: calls.append(address) or "there:1")
    monkeypatch.setattr(cluster, "disconnect", lambda: calls.append("left"))
    monkeypatch.setattr(cluster, "free_resources", lambda: (2.0, 1.0))
    monkeypatch.setattr(cluster, "total_resources", fail)
    place = RayPlace(None)
    assert place.free() == need(2, 1)
    assert place.address == "there:1"
    with pytest.raises(ClusterError, match=r"Ray is out of reach: the connection is gone$"):
        place.total()
    assert calls == [None, None, "left"]


def test_waits_double_up_to_the_longest_and_end_with_a_success(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(backoff.time, "monotonic", lambda: now[0])
    waits = Backoff(1.0)
    assert waits.over
    assert [waits.failed() for _ in range(8)] == [1, 2, 4, 8, 16, 32, LONGEST, LONGEST]
    now[0] += LONGEST - 1
    assert not waits.over
    now[0] += 1
    assert waits.over
    waits.failed()
    waits.succeeded()
    assert waits.over
    assert waits.failed() == 1


def test_who_is_stuck_says_so_and_other_pages_are_not_there() -> None:
    with served(CollectorRegistry(), lambda: {"status": "stuck"}, "127.0.0.1", 0) as port:
        for path, code in (("/healthz", 503), ("/studies", 404)):
            with pytest.raises(urllib.error.HTTPError) as error:
                urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10)
            assert error.value.code == code
            if code == 503:
                assert json.loads(error.value.read()) == {"status": "stuck"}
            error.value.close()


@pytest.mark.parametrize("given", ["a port that is taken", "a host that is elsewhere"])
def test_a_place_to_listen_that_there_is_not_is_one_line(tmp_path: Path, given: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        place = ["--port", port] if "port" in given else ["--host", "192.0.2.1"]
        command = [sys.executable, "-m", "searchsvc", "serve", "--db", str(tmp_path / "x.db"), *place]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=REPOSITORY)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"searchsvc: --port {port if 'port' in given else 9090}: cannot listen on ")
