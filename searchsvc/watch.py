"""Keeps the lease of a study that runs here, and hears what others ask of the study."""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from db import queue, requests
from db.errors import DatabaseError, LeaseLost
from db.session import Database
from db.values import Lease
from searchsvc.errors import RequestedError

#: How often it is looked whether the lease still holds and whether anything is asked, in seconds.
LOOK_SECONDS = 1.0


class Watch:
    """A thread beside the study, from `with` on: it extends the lease and looks for requests."""

    def __init__(self, database: Database, lease: Lease) -> None:
        self.lease = lease
        self._database = database
        self._ended, self._stopping = threading.Event(), False
        #: why the study may not go on here
        self._error: Exception | None = None
        self._interrupt: Callable[[Exception], None] = lambda _: None
        self._thread = threading.Thread(target=self._look, name=f"watch-{lease.name}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def stopping(self) -> bool:
        """Whether the study shall end with its best so far.

        Raises:
            LeaseLost: somebody else has taken it.
            RequestedError: it was paused or cancelled.
        """
        if self._error is not None:
            raise self._error
        return self._stopping

    def on_interrupt(self, interrupt: Callable[[Exception], None]) -> None:
        """Have `interrupt` called, in the thread, with what `stopping` raises from then on."""
        self._interrupt = interrupt
        if self._error is not None:
            interrupt(self._error)

    def _look(self) -> None:
        every = self.lease.seconds / 3
        beaten = time.monotonic()
        while not self._ended.wait(min(LOOK_SECONDS, every)):
            try:
                if time.monotonic() - beaten >= every:
                    queue.heartbeat(self._database, self.lease)
                    beaten = time.monotonic()
                what = requests.requested(self._database, self.lease)
            except LeaseLost as error:
                self._give_up(error)
                return
            except DatabaseError:
                continue  # out of reach for a moment; the lease may still be ours
            self._stopping = what == "stop"
            if what in ("pause", "cancel"):
                self._give_up(RequestedError(self.lease.name, what))
                return

    def _give_up(self, error: Exception) -> None:
        self._error = error
        self._interrupt(error)
