"""Pictures as interactive plotly figures: HTML files, and the dashboard's plots."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from searchsvc.points import keep_rates, name, on_front
from searchsvc.styles import style
from studies.front import hypervolumes
from studies.intervals import Interval
from studies.measured import Measured

#: Plotly's templates. The dashboard's is small: plotly copies a template into each figure, and the dashboard
#: keeps it with each, where it would be most of what is written.
WHITE, BARE = "plotly_white", "none"


def front_figure(
    points: Sequence[Measured],
    title: str,
    intervals: Mapping[str, Interval] | None = None,
    *,
    template: str = WHITE,
) -> go.Figure:
    """Return accuracy against FLOPs: one trace per method, and the front as steps.

    The accuracies of no pruning and of the front get bars where `intervals`, by key, has theirs.
    """
    figure, known = go.Figure(layout={"template": template}), intervals or {}
    for method in dict.fromkeys(point.method for point in points):
        chosen = [point for point in points if point.method == method]
        figure.add_scatter(
            x=[point.flops_ratio for point in chosen],
            y=[point.accuracy for point in chosen],
            mode="markers",
            name=method,
            marker={"color": style(method).colour, "size": 9},
            text=[f"trial {point.number}: {point.label}" for point in chosen],
            error_y=_bars([point for point in chosen if point.pruning is None], known),
        )
    front = on_front(points)[::-1]
    figure.add_scatter(
        x=[point.flops_ratio for point in front],
        y=[point.accuracy for point in front],
        mode="lines",
        name="Pareto front",
        line={"shape": "hv", "color": "#333333"},
        error_y=_bars(front, known),
    )
    return figure.update_layout(
        title=title,
        xaxis_title="decoder FLOPs over those without pruning",
        yaxis_title="accuracy on the search split",
    )


def schedule_figure(points: Sequence[Measured], title: str, *, template: str = WHITE) -> go.Figure:
    """Return the keep rate per decoder layer, one line per point."""
    figure = go.Figure(layout={"template": template})
    for point in points:
        figure.add_scatter(
            x=list(range(len(keep_rates(point)))),
            y=list(keep_rates(point)),
            mode="lines+markers",
            line={"shape": "hvh", "color": style(point.method).colour},
            name=name(point),
        )
    return figure.update_layout(
        title=title,
        xaxis_title="decoder layer",
        yaxis_title="visual tokens kept",
        yaxis_range=[-0.03, 1.05],
    )


def hypervolume_figure(points: Sequence[Measured], title: str, *, template: str = WHITE) -> go.Figure:
    """Return the front's hypervolume after each trial, the points being in the order of their trials."""
    figure = go.Figure(layout={"template": template})
    figure.add_scatter(
        x=[point.number for point in points],
        y=hypervolumes([point.point for point in points]),
        mode="lines",
        line={"shape": "hv", "color": "#333333"},
        name="hypervolume",
    )
    return figure.update_layout(
        title=title,
        xaxis_title="trial",
        yaxis_title="hypervolume of the front",
    )


def _bars(points: Sequence[Measured], intervals: Mapping[str, Interval]) -> dict[str, Any] | None:
    """Plotly's error bars; none at points whose interval is not known."""
    if not any(point.key in intervals for point in points):
        return None
    found = [intervals.get(point.key) for point in points]
    return {
        "type": "data",
        "symmetric": False,
        "array": [known.high - known.estimate if known else None for known in found],
        "arrayminus": [known.estimate - known.low if known else None for known in found],
        "thickness": 1,
    }
