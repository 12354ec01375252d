"""How long a running study spends in each of its phases."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Phases:
    """Tells, after every stretch of a phase, its name and the seconds that it took.

    "starting": data read, workers started, no pruning evaluated; then, in turns, "asking" a sampler,
    "evaluating" (waiting for workers) and "writing" trials and, now and then, what the dashboard shows;
    "timing" the front, where that is asked for.
    """

    tell: Callable[[str, float], None]

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the time of the block."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.tell(name, time.monotonic() - began)
