"""The same two pictures as interactive plotly figures: HTML files, and the dashboard's plots."""

from collections.abc import Sequence

import plotly.graph_objects as go

from searchsvc.plots import STYLES
from searchsvc.points import keep_rates, name, on_front
from studies.measured import Measured


def front_figure(points: Sequence[Measured], title: str) -> go.Figure:
    """Return accuracy against FLOPs: one trace per method, and the front as steps."""
    figure = go.Figure()
    for method in dict.fromkeys(point.method for point in points):
        chosen = [point for point in points if point.method == method]
        figure.add_scatter(
            x=[point.flops_ratio for point in chosen],
            y=[point.accuracy for point in chosen],
            mode="markers",
            name=method,
            marker={"color": STYLES.get(method, ("#555555", ""))[0], "size": 9},
            text=[f"trial {point.number}: {point.label}" for point in chosen],
        )
    front = on_front(points)[::-1]
    figure.add_scatter(
        x=[point.flops_ratio for point in front],
        y=[point.accuracy for point in front],
        mode="lines",
        name="Pareto front",
        line={"shape": "hv", "color": "#333333"},
    )
    return figure.update_layout(
        title=title,
        template="plotly_white",
        xaxis_title="decoder FLOPs over those without pruning",
        yaxis_title="accuracy on the search split",
    )


def schedule_figure(points: Sequence[Measured], title: str) -> go.Figure:
    """Return the keep rate per decoder layer, one line per point."""
    figure = go.Figure()
    for point in points:
        figure.add_scatter(
            x=list(range(len(keep_rates(point)))),
            y=list(keep_rates(point)),
            mode="lines+markers",
            line={"shape": "hvh", "color": STYLES.get(point.method, ("#555555", ""))[0]},
            name=name(point),
        )
    return figure.update_layout(
        title=title,
        template="plotly_white",
        xaxis_title="decoder layer",
        yaxis_title="visual tokens kept",
        yaxis_range=[-0.03, 1.05],
    )
