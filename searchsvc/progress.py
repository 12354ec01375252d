"""The progress bar of a running study: trial, best so far, time left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:  # whoever only passes it on need not load it
    from studies.measured import Measured


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far a study is after its newest trial."""

    done: int
    expected: int
    baseline: "Measured"
    #: what the goal asks for, of all trials so far
    best: "Measured"

    def __str__(self) -> str:
        return (
            f"{self.best.accuracy:.3f} at {self.best.flops_ratio:.2f} FLOPs "
            f"(unpruned {self.baseline.accuracy:.3f})"
        )

    @property
    def sentence(self) -> str:
        """The same with the schedule's name."""
        schedule = f"trial {self.best.number} ({self.best.label})"
        return f"{self.done} of about {self.expected} evaluations; the best so far is {schedule}: {self}"


@dataclass(frozen=True, kw_only=True)
class Told:
    """Whom a running study tells how far it is."""

    #: after every new trial
    trial: Callable[[Standing], None]
    #: after every front member that was timed: (members timed, members in all)
    timed: Callable[[int, int], None]
    #: after every failed attempt of a worker: why it failed
    failure: Callable[[str], None] = lambda _: None
    #: after every stretch of a phase: (its name, its seconds), see `searchsvc.phases`
    phase: Callable[[str, float], None] = lambda _name, _seconds: None


SILENT = Told(trial=lambda _: None, timed=lambda _done, _all: None)


@contextmanager
def bars(name: str) -> Iterator[Told]:
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

        def time(done: int, members: int) -> None:
            progress.update(task, completed=done, total=members, best="front members timed")

        yield Told(trial=advance, timed=time)


def _lines(name: str, console: Console) -> Told:
    shown = -1

    def write(line: str) -> None:
        console.print(f"{name}: {line}", highlight=False, markup=False, soft_wrap=True)

    def advance(now: Standing) -> None:
        nonlocal shown
        tenth = 10 * now.done // max(now.expected, 1)
        if tenth > shown:
            shown = tenth
            write(f"{now.done} of about {now.expected} evaluations, {now}")

    return Told(trial=advance, timed=lambda done, members: write(f"{done} of {members} front members timed"))
