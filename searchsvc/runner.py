"""One study in a child process (`searchsvc.child`), as `searchsvc serve` sees it."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO, Any

from searchsvc.child import Order
from searchsvc.room import Need

#: What is started; it reads its order from stdin.
COMMAND = (sys.executable, "-m", "searchsvc.child")

#: So long a process may take until it keeps its study's lease itself, in seconds.
STARTING_SECONDS = 300.0

#: Called, in threads of the runner, with its study's name and every event, as `searchsvc.child` tells them;
#: lines that libraries print come as {"event": "output", "line": ...}.
OnEvent = Callable[[str, dict[str, Any]], None]


class Runner:
    """Starts at once; ends with its study."""

    def __init__(self, order: Order, need: Need, on_event: OnEvent, command: Sequence[str] = COMMAND) -> None:
        self.lease, self.need = order.lease, need
        #: whether the study has got any further in this process, and how it says that it has ended
        self.advanced, self.how = False, ""
        self._on_event = on_event
        self._heard, self._made = False, time.monotonic()
        # in a session of its own: Ctrl-C in a terminal is for who started it
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._readers = [
            threading.Thread(target=self._read, args=(stream, parse), daemon=True)
            for stream, parse in ((self._process.stdout, _event), (self._process.stderr, _output))
        ]
        for reader in self._readers:
            reader.start()
        self._send(order)

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._process.pid

    @property
    def starting(self) -> bool:
        """Whether the lease is still ours to keep: on a busy machine a start takes its time."""
        return not self._heard and time.monotonic() - self._made < STARTING_SECONDS

    def status(self) -> int | None:
        """Exit status, negative for a signal; None while it runs. All its events were told before."""
        status = self._process.poll()
        if status is not None:
            for reader in self._readers:
                reader.join(timeout=5)  # what it has started may still hold the pipes
        return status

    def drain(self) -> None:
        """Ask it to give its lease back and end."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()

    def _send(self, order: Order) -> None:
        assert self._process.stdin is not None
        try:  # and never closed: that it ends tells the child that we are gone
            self._process.stdin.write(order.to_json() + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it is dead already, which `status` tells

    def _read(self, stream: IO[str], parse: Callable[[str], dict[str, Any]]) -> None:
        for line in stream:
            event = parse(line)
            self._heard |= event["event"] == "started"
            self.advanced |= event["event"] == "trial"
            self.how = event["how"] if event["event"] == "ended" else self.how
            self._on_event(self.lease.name, event)


def _event(line: str) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(line)
    return event


def _output(line: str) -> dict[str, Any]:
    return {"event": "output", "line": line.rstrip("\n")}
