"""The pictures as interactive plotly figures: HTML files, and the dashboard's plots.

Small, for the dashboard reads every study's figures whenever it lists them: numbers are rounded, and no
template is written into each.
"""

from collections.abc import Iterable, Mapping, Sequence

import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from searchsvc.plots import STYLES
from searchsvc.points import keep_rates, name, on_front
from studies.front import Point, hypervolume, pareto_front
from studies.intervals import Interval
from studies.measured import Measured

#: Of more schedules than these only the front's are named in full; the others have their trial's page.
NAMED = 200

#: matplotlib's marks in plotly's words
SYMBOLS = {
    "*": "star", "x": "x-thin-open", "+": "cross-thin-open", "s": "square", "D": "diamond",
    "v": "triangle-down", "P": "cross", "o": "circle", "^": "triangle-up", "h": "hexagon", "": "circle-open",
}  # fmt: skip

_FLOPS = "decoder FLOPs over those without pruning"


def front_figure(
    points: Sequence[Measured], title: str, intervals: Mapping[str, Interval] | None = None
) -> go.Figure:
    """Return accuracy against FLOPs: one trace per method, the front as steps, no pruning as a line.

    `intervals` by key are drawn where they are given: as a band about no pruning, as bars on the front.
    """
    figure, known = go.Figure(), intervals or {}
    for point in points:
        if point.pruning is None:
            _across(figure, point, known.get(point.key))
    front = on_front(points)[::-1]
    named = {point.key for point in (points if len(points) <= NAMED else front)}
    for method in dict.fromkeys(point.method for point in points):
        chosen = [point for point in points if point.method == method]
        figure.add_scatter(
            x=_rounded(point.flops_ratio for point in chosen),
            y=_rounded(point.accuracy for point in chosen),
            mode="markers",
            name=method,
            marker={"color": _colour(method), "symbol": SYMBOLS[STYLES.get(method, ("", ""))[1]], "size": 9},
            text=[
                f"trial {point.number}" + (f": {point.label}" if point.key in named else "")
                for point in chosen
            ],
        )
    figure.add_scatter(
        x=_rounded(point.flops_ratio for point in front),
        y=_rounded(point.accuracy for point in front),
        error_y=_bars(front, known),
        mode="lines",
        name="Pareto front",
        line={"shape": "hv", "color": "#333333"},
    )
    return _finished(figure, title, _FLOPS, "accuracy on the search split")


def schedule_figure(points: Sequence[Measured], title: str) -> go.Figure:
    """Return the keep rate per decoder layer, one line per point.

    Methods have their colours; where one method has several lines, they go from cheap to dear.
    """
    figure = go.Figure()
    colours = [_colour(point.method) for point in points]
    if len(set(colours)) < len(points):
        colours = sample_colorscale("Viridis", _ranks([point.flops_ratio for point in points]))
    for point, colour in zip(points, colours, strict=True):
        figure.add_scatter(
            x=list(range(len(keep_rates(point)))),
            y=_rounded(keep_rates(point)),
            mode="lines+markers",
            line={"shape": "hvh", "color": colour},
            name=name(point),
        )
    figure.update_yaxes(range=[-0.03, 1.05])
    return _finished(figure, title, "decoder layer", "visual tokens kept")


def hypervolume_figure(points: Sequence[Measured], title: str) -> go.Figure:
    """Return how much of the unit square the front had taken after each trial; steps where it grew."""
    steps = _growth(points)
    figure = go.Figure()
    figure.add_scatter(
        x=[number for number, _ in steps],
        y=_rounded(volume for _, volume in steps),
        mode="lines",
        name="hypervolume",
        line={"shape": "hv", "color": "#2a7fb8"},
    )
    return _finished(figure, title, "trial", "hypervolume of the front")


def _growth(points: Sequence[Measured]) -> list[tuple[int, float]]:
    """(trial, hypervolume) wherever it grew, and at the end."""
    front: list[Point] = []
    steps: list[tuple[int, float]] = []
    for measured in points:
        candidates = [*front, measured.point]
        front = [candidates[i] for i in pareto_front(candidates)]
        volume = hypervolume(front)
        if not steps or volume > steps[-1][1] or measured is points[-1]:
            steps.append((measured.number, volume))
    return steps


def _across(figure: go.Figure, unpruned: Measured, found: Interval | None) -> None:
    line = {"dash": "dot", "color": "#777777", "width": 1}
    figure.add_hline(y=round(unpruned.accuracy, 5), line=line, annotation_text="no pruning")
    if found is not None:
        figure.add_hrect(y0=round(found.low, 5), y1=round(found.high, 5), fillcolor="#bbbbbb", opacity=0.25,
                         line_width=0, layer="below")  # fmt: skip


def _bars(front: Sequence[Measured], known: Mapping[str, Interval]) -> dict[str, object] | None:
    if not all(point.key in known for point in front):
        return None
    intervals = [known[point.key] for point in front]
    return {
        "type": "data",
        "symmetric": False,
        "array": _rounded(found.high - found.estimate for found in intervals),
        "arrayminus": _rounded(found.estimate - found.low for found in intervals),
        "color": "#777777",
        "thickness": 1,
        "width": 3,
    }


def _colour(method: str) -> str:
    return STYLES.get(method, ("#555555", ""))[0]


def _ranks(values: Sequence[float]) -> list[float]:
    """Each one's place in order, from 0 to 0.85: beyond that the scale's colours are too light to read."""
    order = sorted(values)
    return [0.85 * order.index(value) / max(1, len(values) - 1) for value in values]


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(value, 5) for value in values]


def _finished(figure: go.Figure, title: str, x: str, y: str) -> go.Figure:
    axis = {"gridcolor": "#e5e5e5", "linecolor": "#999999", "zeroline": False}
    figure.update_xaxes(title=x, **axis)
    figure.update_yaxes(title=y, **axis)
    legend = {"orientation": "h", "y": -0.25}
    heading = {"text": title, "x": 0.02, "font": {"size": 15}}
    return figure.update_layout(title=heading, template="none", legend=legend, margin={"t": 60, "r": 20})
