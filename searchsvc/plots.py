"""The two pictures: accuracy against FLOPs with its front, and the keep rate per layer. PNG by matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from searchsvc.points import keep_rates, name, on_front
from studies.measured import Measured

WIDTH, HEIGHT, DPI = 8.0, 4.8, 130

#: Methods keep their colour and mark in every picture.
STYLES: Mapping[str, tuple[str, str]] = {
    "baseline": ("#111111", "*"),
    "random": ("#9e9e9e", "x"),
    "uniform": ("#9e9e9e", "+"),
    "fastv": ("#e07b39", "s"),
    "pdrop": ("#b8860b", "D"),
    "vtw": ("#8c564b", "v"),
    "topv": ("#7b52ab", "P"),
    "p-sigmoid": ("#2a7fb8", "o"),
    "g-search": ("#c8324b", "^"),
    "pareto": ("#2e8b57", "h"),
}


def front_png(points: Sequence[Measured], path: Path, title: str) -> Path:
    """Draw every evaluated schedule and the Pareto front; return `path`."""
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.add_subplot()
    for method in dict.fromkeys(point.method for point in points):
        colour, mark = STYLES.get(method, ("#555555", "."))
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
        colour, mark = STYLES.get(point.method, ("#555555", "."))
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
