"""The progress bar of a running study: trial, best so far, time left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from studies.measured import Measured

#: Called with (the newest trial, how many the study is expected to have).
OnTrial = Callable[[Measured, int], None]


@contextmanager
def bars(name: str) -> Iterator[OnTrial]:
    """Show a bar on stderr while a study runs; off a terminal, a plain line every tenth of the way."""
    console = Console(stderr=True)
    best = Best()
    if not console.is_terminal:
        yield _lines(name, console, best)
        return
    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[best]}"),
               TimeElapsedColumn(), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(name, total=None, best="")

        def advance(newest: Measured, expected: int) -> None:
            done = newest.number + 1
            progress.update(task, completed=done, total=max(expected, done), best=best.text(newest))

        yield advance


class Best:
    """The cheapest schedule seen that loses at most a point against no pruning, in words."""

    def __init__(self) -> None:
        self._baseline: float | None = None
        self._best: tuple[float, float] | None = None

    def text(self, newest: Measured) -> str:
        """Take in one more trial; return the best so far."""
        found = (newest.flops_ratio, newest.accuracy)
        if self._baseline is None:
            self._baseline = newest.accuracy
        if newest.accuracy >= self._baseline - 0.01 and (self._best is None or found < self._best):
            self._best = found
        if self._best is None:
            return f"unpruned {self._baseline:.3f}"
        return f"{self._best[1]:.3f} at {self._best[0]:.2f} FLOPs (unpruned {self._baseline:.3f})"


def _lines(name: str, console: Console, best: Best) -> OnTrial:
    shown = -1

    def advance(newest: Measured, expected: int) -> None:
        nonlocal shown
        done, text = newest.number + 1, best.text(newest)
        tenth = 10 * done // max(expected, 1)
        if tenth > shown:
            shown = tenth
            console.print(
                f"{name}: {done} of about {expected} evaluations, {text}", highlight=False, markup=False
            )

    return advance
