"""`searchsvc.child` with a study that only counts: an attempt every 50 ms, `steps` of them, each once.

Light enough for many of them. What others ask of it, and its lease, are heard of as in a real study.
"""

import os
import time
from datetime import UTC, datetime

from db import queue, results
from db.studies import get_study
from db.values import NewAttempt
from searchsvc import child
from searchsvc.progress import Standing


def count(database, watch, order, told):
    spec = get_study(database, order.lease.name).spec
    done = len(results.attempts(database, order.lease.name))
    if spec.get("crashes"):
        os.abort()
    while done < spec["steps"] and not stopping(database, watch):
        time.sleep(0.05)
        now = datetime.now(UTC)
        key = f"{order.lease.name}-{done}"
        results.record_attempt(
            database, watch.lease, NewAttempt(key=key, worker=f"{os.getpid()}", started_at=now, ended_at=now)
        )
        done += 1
        told.phase("evaluating", 0.05)
        told.trial(Standing(done=done, expected=spec["steps"], baseline=BEST, best=BEST))
    queue.finish(database, watch.lease, "done", outcome={"meets_goal": True})
    return True


def stopping(database, watch):
    try:
        return watch.stopping()
    except child.RequestedError:
        queue.release(database, watch.lease)
        raise


class BEST:
    """Of no interest."""

    accuracy, flops_ratio, number = 1.0, 0.5, 0


if __name__ == "__main__":
    child._study = count
    child.main()
