"""The table and the lines that bench/search.py prints."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from bench.output import console

#: the sum over all searches, in the place of a search's name
ALL = "whole bench"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One engine on one search."""

    search: str
    engine: str
    #: samples that it ran; what it took is scaled up to all of them
    timed_on: int
    evaluations: int
    #: of everything but the sampler, and with it
    seconds: float
    whole_seconds: float
    #: that ran
    flops: int
    #: share of its scores that are replay's
    same_scores: float


def totals(rows: Sequence[Row]) -> list[Row]:
    """Each engine's sum over all searches."""
    found = []
    for engine in dict.fromkeys(row.engine for row in rows):
        own = [row for row in rows if row.engine == engine]
        evaluations = sum(row.evaluations for row in own)
        found.append(
            Row(
                search=ALL,
                engine=engine,
                timed_on=own[0].timed_on,
                evaluations=evaluations,
                seconds=sum(row.seconds for row in own),
                whole_seconds=sum(row.whole_seconds for row in own),
                flops=sum(row.flops for row in own),
                same_scores=sum(row.same_scores * row.evaluations for row in own) / evaluations,
            )
        )
    return found


def show(title: str, rows: Sequence[Row], floors: Mapping[str, int], rate: float) -> None:
    """Print every search, and the whole bench where there are several."""
    if len(floors) > 1:
        rows, floors = [*rows, *totals(rows)], {**floors, ALL: sum(floors.values())}
    out = console()
    out.print(_table(title, rows))
    for search, least in floors.items():
        by = {row.engine: row for row in rows if row.search == search}
        out.print(f"{search}: {' '.join(_sentences(by, least, rate))}")


def _table(title: str, rows: Sequence[Row]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("search", "engine", "timed on", "evaluations", "seconds", "with sampler", "GFLOP"):
        table.add_column(column, justify="left" if column in ("search", "engine") else "right")
    for row in rows:
        table.add_row(
            row.search,
            row.engine,
            str(row.timed_on),
            str(row.evaluations),
            f"{row.seconds:.1f}",
            f"{row.whole_seconds:.1f}",
            f"{row.flops / 1e9:.0f}",
        )
    return table


def _sentences(by: Mapping[str, Row], least: int, rate: float) -> Iterable[str]:
    replay = by["replay"]
    if plain := by.get("plain"):
        faster, promised = plain.seconds / replay.seconds, plain.flops / replay.flops
        yield (
            f"replay is {faster:.2f} times faster than plain, with the sampler "
            f"{plain.whole_seconds / replay.whole_seconds:.2f}; the FLOPs promise {promised:.2f}: "
            f"{faster / promised:.2f} of it. Same schedules, same records."
        )
    if reference := by.get("reference"):
        yield (
            f"replay is {reference.seconds / replay.seconds:.1f} times faster than the reference, "
            f"{reference.same_scores:.1%} of whose scores are the same."
        )
    yield (
        f"Floor {least / 1e9:.0f} GFLOP, {least / rate:.1f} s: "
        f"replay takes {replay.seconds * rate / least:.1f} times that."
    )
