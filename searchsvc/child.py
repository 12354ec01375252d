"""The process in which `searchsvc serve` runs one study: a fault of one study ends no other.

It reads an order from stdin and tells what happens on stdout, one JSON object per line, each with an
`event`: "started" (from then on it keeps the lease itself), "trial", "timed", "failure", "phases" and, at
last, "ended" with how the study ended. When stdin ends, whoever started it is gone, and so is it at once, so
that the study's lease is free. SIGTERM gives the lease back.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import traceback
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import IO, Any, Self

from db import queue
from db.errors import LeaseLost
from db.owners import current_owner
from db.session import Database
from db.values import Lease
from searchsvc.errors import GOAL_NOT_MET, INTERRUPTED, OWN_FAULT, RequestedError, exit_status
from searchsvc.progress import Standing, Told
from searchsvc.watch import Watch


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to run, and where."""

    database_url: str
    lease: Lease
    ray_address: str | None

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self), default=datetime.isoformat)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        data = json.loads(text)
        expires = datetime.fromisoformat(data["lease"]["expires_at"])
        return cls(**data | {"lease": Lease(**data["lease"] | {"expires_at": expires})})


class Reporter:
    """Writes events; phases are summed up and told with the trials."""

    def __init__(self, out: IO[str]) -> None:
        self._out, self._lock = out, threading.Lock()
        self._seconds: dict[str, float] = defaultdict(float)

    def tell(self, event: str, **facts: Any) -> None:
        """Write one event."""
        with self._lock:
            print(json.dumps({"event": event, **facts}), file=self._out, flush=True)

    def told(self) -> Told:
        """Whom the running study tells."""
        return Told(
            trial=self._trial,
            timed=lambda done, members: self.tell("timed", done=done, members=members),
            failure=lambda reason: self.tell("failure", reason=reason),
            phase=self._phase,
        )

    def end(self, how: str, **facts: Any) -> None:
        """Write the last event."""
        self._phases()
        self.tell("ended", how=how, **facts)

    def _trial(self, now: Standing) -> None:
        best = {"accuracy": now.best.accuracy, "flops_ratio": now.best.flops_ratio, "trial": now.best.number}
        self.tell("trial", done=now.done, expected=now.expected, best=best)
        self._phases()

    def _phase(self, name: str, seconds: float) -> None:
        self._seconds[name] += seconds

    def _phases(self) -> None:
        self.tell("phases", seconds=dict(self._seconds))
        self._seconds.clear()


def main() -> None:
    """Run what stdin orders, and exit as `study run` would."""
    reporter = Reporter(os.fdopen(os.dup(1), "w"))
    os.dup2(2, 1)  # whatever libraries print is no event
    order = Order.from_json(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(run(order, reporter, _study))


def run(order: Order, reporter: Reporter, study: Callable[[Database, Watch, Order, Told], bool]) -> int:
    """Take the lease over and run the study; return the exit status."""
    try:
        with Database.open(order.database_url) as database:
            lease = queue.hand_over(database, order.lease, owner=current_owner())
            try:
                with Watch(database, lease) as watch:
                    reporter.tell("started")
                    meets_goal = study(database, watch, order, reporter.told())
            except KeyboardInterrupt:
                with contextlib.suppress(LeaseLost):  # the study may have done that
                    queue.release(database, lease)
                raise
    except KeyboardInterrupt:
        reporter.end("released")
        return INTERRUPTED
    except RequestedError as error:
        reporter.end("requested", reason=str(error))
        return INTERRUPTED
    except LeaseLost as error:
        reporter.end("lost", reason=str(error))
        return INTERRUPTED
    except Exception as error:
        status = exit_status(error) or OWN_FAULT
        if status == OWN_FAULT:
            traceback.print_exception(error)
        reporter.end("failed", reason=str(error), kind=type(error).__name__, status=status)
        return status
    reporter.end("done", meets_goal=meets_goal)
    return 0 if meets_goal else GOAL_NOT_MET


def _study(database: Database, watch: Watch, order: Order, told: Told) -> bool:
    from searchsvc.cluster import disconnect
    from searchsvc.controller import run_leased  # takes seconds: the lease is watched meanwhile

    try:
        return run_leased(database, watch, ray_address=order.ray_address, told=told).meets_goal
    finally:
        disconnect()


def _end_with_parent() -> None:
    while os.read(0, 1):  # not by `sys.stdin`, whose lock this would hold when the process ends
        pass
    os._exit(OWN_FAULT)


if __name__ == "__main__":
    main()
