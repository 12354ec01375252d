"""The two pictures: accuracy against FLOPs with its front, and the keep rate per layer. PNG by matplotlib."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from searchsvc.points import keep_rates, name, on_front
from searchsvc.styles import style
from studies.measured import Measured

WIDTH, HEIGHT, DPI = 8.0, 4.8, 130


def front_png(points: Sequence[Measured], path: Path, title: str) -> Path:
    """Draw every evaluated schedule and the Pareto front; return `path`."""
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.add_subplot()
    for method in dict.fromkeys(point.method for point in points):
        colour, mark = style(method)
        chosen = [point for point in points if point.method == method]
        x, y = [point.flops_ratio for point in chosen], [point.accuracy for point in chosen]
        size = 160 if mark == "*" else 34
        axes.scatter(x, y, s=size, c=colour, marker=mark, alpha=0.75, label=method, zorder=3)
    front = on_front(points)[::-1]
    axes.step([p.flops_ratio for p in front], [p.accuracy for p in front], where="post", color="#333333",
              linewidth=1.2, label="Pareto front", zorder=2)  # fmt: skip
    _finish(axes, title, "decoder FLOPs over those without pruning", "accuracy on the search split")
    axes.legend(fontsize=8, ncols=2)
    figure.savefig(path, dpi=DPI)
    return path


def schedule_png(points: Sequence[Measured], path: Path, title: str) -> Path:
    """Draw the keep rate per decoder layer of each point; return `path`."""
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.add_subplot()
    for point in points:
        colour, mark = style(point.method)
        rates = keep_rates(point)
        label = name(point)
        (line,) = axes.plot(range(len(rates)), rates, label=label, color=colour, marker=mark, alpha=0.8)
        line.set_drawstyle("steps-mid")
    _finish(axes, title, "decoder layer", "visual tokens kept")
    axes.set_ylim(-0.03, 1.05)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=DPI)
    return path


def _finish(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
