"""The progress bar of a running study: trial, best so far, time left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far a study is after its newest trial."""

    done: int
    expected: int
    baseline: Measured
    #: what the goal asks for, of all trials so far
    best: Measured

    def __str__(self) -> str:
        return (
            f"{self.best.accuracy:.3f} at {self.best.flops_ratio:.2f} FLOPs "
            f"(unpruned {self.baseline.accuracy:.3f})"
        )


OnTrial = Callable[[Standing], None]


@contextmanager
def bars(name: str) -> Iterator[OnTrial]:
    """Show a bar on stderr while a study runs; off a terminal, a plain line every tenth of the way."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(name, console)
        return
    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[best]}"),
               TimeElapsedColumn(), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(name, total=None, best="")

        def advance(now: Standing) -> None:
            progress.update(task, completed=now.done, total=max(now.expected, now.done), best=str(now))

        yield advance


def _lines(name: str, console: Console) -> OnTrial:
    shown = -1

    def advance(now: Standing) -> None:
        nonlocal shown
        tenth = 10 * now.done // max(now.expected, 1)
        if tenth > shown:
            shown = tenth
            line = f"{name}: {now.done} of about {now.expected} evaluations, {now}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)

    return advance
