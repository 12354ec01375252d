"""`searchsvc serve`: claims the studies that wait, and runs each in a process of its own, several at once.

Any number of such controllers share a database: a study is claimed by one of them, and claimed again when
that one is gone. What is out of reach, the database or Ray, is tried again with growing waits.
"""

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

from db import queue, studies
from db.errors import DatabaseError, Unreachable
from db.owners import current_owner
from db.session import Database
from searchsvc.backoff import Backoff
from searchsvc.child import Order
from searchsvc.errors import OUT_OF_REACH, ClusterError
from searchsvc.logs import log
from searchsvc.metrics import Metrics
from searchsvc.room import Need, Place, left, need_of
from searchsvc.runner import COMMAND, Runner

#: How often it is looked for studies, in seconds.
POLL_SECONDS = 1.0
#: `/healthz` calls a controller stuck that has done nothing for so long, in seconds.
STUCK_SECONDS = 120.0
#: A study whose process dies so often, without a new trial, has failed.
MOST_CRASHES = 3
#: Events of a study that are counted, not logged.
QUIET = ("phases",)


class Controller:
    """Claims and runs studies until it is told to drain.

    Args:
        database_url: where the studies are.
        place: where their workers run.
        metrics: what it counts.
        max_studies: that run at once; None: as many as there is room for.
        lease_seconds: after so long others take over the studies of a controller whose host is gone.
        command: what runs one study.
    """

    def __init__(
        self,
        database_url: str,
        place: Place,
        metrics: Metrics,
        *,
        max_studies: int | None,
        lease_seconds: float,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._url, self._place, self._metrics, self._command = database_url, place, metrics, command
        self._max_studies, self._lease_seconds = max_studies, lease_seconds
        self._database: Database | None = None
        self._runners: list[Runner] = []
        #: by study, deaths of its process since its last new trial
        self._crashes: Counter[str] = Counter()
        #: for what we ask ourselves, and for what studies found out of reach
        self._ours, self._theirs = Backoff(POLL_SECONDS), Backoff(POLL_SECONDS)
        self._draining = self._drained = False
        self._reachable, self._ticked = True, time.monotonic()
        self._wake = threading.Event()
        #: studies that there is no place for, each said once
        self._too_big: set[str] = set()

    def run(self, *, once: bool = False) -> None:
        """Work until told to drain; with `once`, until nothing can be claimed and no study runs here."""
        log.info("serving", extra={"pid": os.getpid()})
        while True:
            self._ticked = time.monotonic()
            self._collect()
            self._keep_leases()
            if self._draining:
                self._drain()
            idle = self._draining or not self._claim_all()
            if not self._runners and idle and (self._draining or once):
                break
            self._wake.wait(POLL_SECONDS)
            self._wake.clear()
        if self._database is not None:
            self._database.close()
        log.info("drained" if self._draining else "idle")

    def drain(self) -> None:
        """Have it claim nothing any more, running studies give their leases back, and `run` return.

        May be called in a signal handler: so it takes no lock.
        """
        self._draining = True

    def health(self) -> dict[str, Any]:
        """What `/healthz` shows."""
        stuck = time.monotonic() - self._ticked > STUCK_SECONDS
        status = "stuck" if stuck else "draining" if self._draining else "ok"
        return {"status": status, "database": self._reachable, "running": len(self._runners)}

    def _drain(self) -> None:
        if not self._drained:
            self._drained = True
            log.info("draining", extra={"running": len(self._runners)})
            for runner in self._runners:
                runner.drain()

    def _claim_all(self) -> bool:
        """Claim what there is room for; return whether there may be more to do."""
        if not (self._ours.over and self._theirs.over):
            return True
        try:
            if self._database is None:
                self._database = Database.open(self._url)
            self._metrics.counted(studies.count_by_status(self._database))
            while not self._draining and self._claim(self._database):
                pass
        except (Unreachable, ClusterError) as error:
            self._reachable = isinstance(error, ClusterError)
            self._metrics.database.set(self._reachable)
            wait = self._ours.failed()
            log.warning("out of reach", extra={"reason": str(error), "wait_seconds": wait})
            return True
        self._reachable = True
        self._ours.succeeded()
        return False

    def _claim(self, database: Database) -> bool:
        if self._max_studies is not None and len(self._runners) >= self._max_studies:
            return False
        total = self._place.total()
        room = left(total, self._place.free(), [runner.need for runner in self._runners])
        needs: list[Need] = []

        def fits(name: str, spec: Mapping[str, Any]) -> bool | None:
            need = need_of(spec, total)
            if need is None:
                self._note_too_big(name, total)
                return False
            if not need.within(room):
                return None  # nobody overtakes it, or it might wait for ever
            needs.append(need)
            return True

        if room.cpus < 1 and room.gpus <= 0:
            return False
        lease = queue.claim_next(database, owner=current_owner(), seconds=self._lease_seconds, fits=fits)
        if lease is None:
            return False
        order = Order(database_url=self._url, lease=lease, ray_address=self._place.address)
        runner = Runner(order, needs[-1], self._take, self._command)
        self._runners.append(runner)
        self._metrics.running.set(len(self._runners))
        log.info("claimed", extra={"study": lease.name, "epoch": lease.epoch, "pid": runner.pid})
        return True

    def _note_too_big(self, name: str, total: Need) -> None:
        if name not in self._too_big:
            self._too_big.add(name)
            log.warning("no place for a single worker", extra={"study": name, "cluster": vars(total)})

    def _take(self, name: str, event: Mapping[str, Any]) -> None:
        """An event of a study, in a thread of its runner."""
        self._metrics.take(event)
        if event["event"] == "trial":
            self._theirs.succeeded()
        if event["event"] not in QUIET:
            facts = {key: value for key, value in event.items() if key != "event"}
            log.info(event["event"], extra={"study": name, **facts})
        if event["event"] == "ended":
            self._wake.set()

    def _keep_leases(self) -> None:
        """Extend those of studies whose processes have not taken them over yet."""
        for runner in self._runners:
            if self._database is not None and runner.starting:
                with contextlib.suppress(DatabaseError):  # as in `_end`
                    queue.heartbeat(self._database, runner.lease)

    def _collect(self) -> None:
        """See which processes have ended, and how."""
        for runner in list(self._runners):
            status = runner.status()
            if status is not None:
                self._runners.remove(runner)
                self._metrics.running.set(len(self._runners))
                self._end(runner, status)

    def _end(self, runner: Runner, status: int) -> None:
        name, how = runner.lease.name, runner.how or "crashed"
        self._metrics.ended.labels(how).inc()
        if runner.advanced or how == "done":
            del self._crashes[name]
        if status == OUT_OF_REACH:
            self._theirs.failed()
        elif how in ("crashed", "failed") and not self._draining:
            self._crashes[name] += 1
            log.error("process ended", extra={"study": name, "status": status, "how": how})
        died = self._crashes[name] >= MOST_CRASHES
        with contextlib.suppress(DatabaseError):  # somebody else's now, or out of reach: then it expires
            if self._database is not None and died:
                error = f"its process died {MOST_CRASHES} times without a new trial: {_cause(status)}"
                queue.finish(self._database, runner.lease, "failed", error=error)
            elif self._database is not None:
                queue.release(self._database, runner.lease)


def _cause(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def drain_at_signals(controller: Controller) -> None:
    """Drain at the first SIGTERM or SIGINT; end at the second, and with this process its studies."""
    seen = False

    def ask(number: int, _frame: FrameType | None) -> None:
        nonlocal seen
        if seen:
            os._exit(128 + number)
        seen = True
        controller.drain()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
