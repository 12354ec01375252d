"""Pictures of a study in a folder: front and schedule per layer, each as PNG and HTML."""

from collections.abc import Sequence
from pathlib import Path

from searchsvc.figures import front_figure, schedule_figure
from searchsvc.plots import front_png, schedule_png
from searchsvc.points import on_front, thinned
from studies.measured import Measured


def draw(
    points: Sequence[Measured], folder: Path, title: str, schedules: Sequence[Measured] | None = None
) -> list[Path]:
    """Draw the front of `points`, and the schedules given (default: the front's own); return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = list(schedules) if schedules is not None else thinned(on_front(points))
    front_title, schedule_title = f"{title}: accuracy against FLOPs", f"{title}: visual tokens kept per layer"
    front_html, schedule_html = folder / "front.html", folder / "schedule.html"
    front_figure(points, front_title).write_html(front_html, include_plotlyjs=True)
    schedule_figure(shown, schedule_title).write_html(schedule_html, include_plotlyjs=True)
    return [
        front_png(points, folder / "front.png", front_title),
        schedule_png(shown, folder / "schedule.png", schedule_title),
        front_html,
        schedule_html,
    ]
