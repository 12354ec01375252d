"""Waits that grow while something is out of reach."""

import time

#: The longest of them, in seconds.
LONGEST = 60.0


class Backoff:
    """Each failure doubles the wait; a success ends it."""

    def __init__(self, first: float) -> None:
        self._first = self._next = first
        self._until = 0.0

    @property
    def over(self) -> bool:
        """Whether it may be tried again."""
        return time.monotonic() >= self._until

    def failed(self) -> float:
        """Note a failure; return the seconds to wait."""
        wait, self._next = self._next, min(2 * self._next, LONGEST)
        self._until = time.monotonic() + wait
        return wait

    def succeeded(self) -> None:
        """Note that it is in reach."""
        self._next, self._until = self._first, 0.0
