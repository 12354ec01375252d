"""The pictures: they are drawn, they show every method and the front, and they can be opened."""

from pathlib import Path

import pytest
from PIL import Image

from pruners.pruning import KeepSchedule, Pruning
from pruners.rankers import UniformRanker
from searchsvc.figures import front_figure, schedule_figure
from searchsvc.points import SCHEDULES_SHOWN, keep_rates, on_front, rows, thinned
from searchsvc.report import draw
from studies.measured import Measured


def point(number: int, flops: float, accuracy: float, method: str = "fastv") -> Measured:
    rates = (1.0, flops, flops)
    baseline = method == "baseline"
    return Measured(
        number=number, key=str(number), method=method, label=f"{method} {number}", params={},
        pruning=None if baseline else Pruning(ranker=UniformRanker(), schedule=KeepSchedule(keep_rates=rates)),
        accuracy=accuracy, flops_ratio=flops, kv_ratio=flops, vision_token_ratio=flops,
        tokens_per_layer=(4.0, 2.0, 2.0), samples=9,
    )  # fmt: skip


POINTS = [
    point(0, 1.0, 0.9, "baseline"),
    point(1, 0.5, 0.8),
    point(2, 0.5, 0.7, "random"),
    point(3, 0.2, 0.85, "g-search"),
]


def test_front_is_dearest_first_and_non_dominated() -> None:
    assert [p.number for p in on_front(POINTS)] == [0, 3]


def test_unpruned_keeps_all() -> None:
    assert keep_rates(POINTS[0]) == (1.0, 1.0, 1.0)
    assert keep_rates(POINTS[1]) == (1.0, 0.5, 0.5)


def test_rows_name_the_sample_count() -> None:
    assert [row["samples"] for row in rows(POINTS)] == [9, 9, 9, 9]


def test_four_files_are_drawn(tmp_path: Path) -> None:
    files = draw(POINTS, tmp_path / "plots", "Title")
    assert sorted(path.name for path in files) == ["front.html", "front.png", "schedule.html", "schedule.png"]
    for path in files:
        if path.suffix == ".png":
            with Image.open(path) as image:
                colours = image.convert("RGB").resize((80, 48)).getcolors(80 * 48)
                assert len(colours) > 20, "an empty picture"


def test_figures_hold_every_method_and_the_front() -> None:
    figure = front_figure(POINTS, "t")
    assert [trace.name for trace in figure.data] == [
        "baseline",
        "fastv",
        "random",
        "g-search",
        "Pareto front",
    ]
    assert tuple(figure.data[-1].x) == (0.2, 1.0)
    assert [tuple(trace.y) for trace in schedule_figure(POINTS[1:2], "t").data] == [(1.0, 0.5, 0.5)]


@pytest.mark.parametrize("count", [1, SCHEDULES_SHOWN, SCHEDULES_SHOWN + 1, 50])
def test_many_schedules_are_thinned_with_both_ends(count: int) -> None:
    front = [point(n, 1 - n / 100, 0.5) for n in range(count)]
    shown = thinned(front)
    assert len(shown) == min(count, SCHEDULES_SHOWN)
    assert (shown[0], shown[-1]) == (front[0], front[-1])
