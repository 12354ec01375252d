"""The Pareto front of accuracy against FLOPs: which points are on it, how much it covers, where it bends.

A point is (FLOPs ratio, accuracy): less of the first is better, more of the second.
"""

from collections.abc import Sequence

#: (FLOPs ratio, accuracy)
Point = tuple[float, float]

#: The worst that anyone would take: all FLOPs, nothing right. No point beyond it counts for the hypervolume,
#: which is therefore a share of the unit square, comparable between all studies.
REFERENCE: Point = (1.0, 0.0)


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Indices of the points that no other point beats, cheapest first.

    A point is beaten by one that is no worse in both values and better in one. Of equal points the first
    counts.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i))
    front: list[int] = []
    for i in order:
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front


def hypervolume(points: Sequence[Point], reference: Point = REFERENCE) -> float:
    """Area that the points dominate, cut off at `reference`: 0 for none, at most 1 with the default one."""
    worst_flops, floor = reference
    area = 0.0
    for i in pareto_front(points):
        flops, accuracy = points[i]
        if flops < worst_flops and accuracy > floor:
            area += (worst_flops - flops) * (accuracy - floor)
            floor = accuracy
    return area


def hypervolumes(points: Sequence[Point], reference: Point = REFERENCE) -> list[float]:
    """Hypervolume of the first point, of the first two, and so on."""
    front: list[Point] = []
    areas: list[float] = []
    for flops, accuracy in points:
        if not any(other[0] <= flops and other[1] >= accuracy for other in front):
            front = [other for other in front if other[0] < flops or other[1] > accuracy]
            front.append((flops, accuracy))
            areas.append(hypervolume(front, reference))
        else:
            areas.append(areas[-1])
    return areas


def knee(points: Sequence[Point]) -> int:
    """Index of the front's bend: the point furthest above the line from its cheapest to its dearest member.

    Both axes are scaled to the front's own extent. A front with no point above that line (fewer than three
    points, or a bend the other way) has no knee; its dearest, most accurate point is returned. ValueError
    without points.
    """
    front = pareto_front(points)
    if not front:
        raise ValueError("a front without points has no knee")
    (low, base), (high, top) = points[front[0]], points[front[-1]]

    def height(i: int) -> float:
        flops, accuracy = points[i]
        return (accuracy - base) / (top - base) - (flops - low) / (high - low)

    inner = front[1:-1]
    best = max(inner, key=height, default=front[-1])
    return best if inner and height(best) > 0 else front[-1]
