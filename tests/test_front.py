"""The front against brute force: what dominates what, the area on a fine grid, the bend."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.front import REFERENCE, hypervolume, hypervolumes, knee, pareto_front

# A coarse grid, so that equal values are common.
POINTS = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 8)).map(lambda p: (p[0] / 8, p[1] / 8)), max_size=12
)


def beats(a, b):
    return a[0] <= b[0] and a[1] >= b[1] and a != b


@given(POINTS)
def test_front_is_what_nothing_beats(points):
    front = pareto_front(points)
    expected = {p for p in points if not any(beats(other, p) for other in points)}
    assert {points[i] for i in front} == expected
    assert len(front) == len(expected)
    assert [points[i] for i in front] == sorted(expected)


def test_of_equal_points_the_first_counts():
    assert pareto_front([(0.5, 0.5), (0.2, 0.1), (0.5, 0.5)]) == [1, 0]


@given(POINTS)
def test_hypervolume_counts_the_dominated_cells(points):
    # All coordinates are multiples of 1/8: a cell's centre is dominated, or no inner point of the cell is.
    centres = [(i / 8 + 1 / 16, j / 8 + 1 / 16) for i in range(8) for j in range(8)]
    cells = sum(any(f <= x and a >= y for f, a in points) for x, y in centres)
    assert hypervolume(points) == pytest.approx(cells / 64)


def test_hypervolume_ignores_what_the_reference_beats():
    assert hypervolume([(1.2, 0.9), (0.5, 0.2)], reference=(1.0, 0.3)) == 0
    assert hypervolume([(0.25, 0.5)], REFERENCE) == 0.375


@given(POINTS.filter(bool))
def test_knee_is_the_member_furthest_above_the_chord(points):
    front = [points[i] for i in pareto_front(points)]
    (x0, y0), (x1, y1) = front[0], front[-1]
    heights = {p: (p[1] - y0) * (x1 - x0) - (p[0] - x0) * (y1 - y0) for p in front}
    found = points[knee(points)]
    if max(heights.values()) > 1e-12:
        assert heights[found] == pytest.approx(max(heights.values()))
    else:
        assert found == front[-1]


def test_knee_by_hand():
    assert knee([(0.1, 0.2), (1.0, 1.0), (0.3, 0.9), (0.7, 0.95)]) == 2
    assert knee([(0.1, 0.2), (1.0, 1.0)]) == 1
    assert knee([(0.0, 0.0), (0.8, 0.1), (1.0, 1.0)]) == 2
    with pytest.raises(ValueError, match="without points"):
        knee([])


def test_hypervolumes_are_those_of_the_points_so_far():
    drawn = random.Random(3)
    points = [(drawn.randrange(9) / 8, drawn.randrange(9) / 8) for _ in range(60)]
    assert hypervolumes(points) == [hypervolume(points[: n + 1]) for n in range(len(points))]
    assert hypervolumes([]) == []
