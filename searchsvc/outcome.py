"""What a finished study came to: in one line, and the schedules that came closest to its goal."""

from typing import Any

from searchsvc.latencies import shown
from studies.driver import SearchResult
from studies.latency import prefill_ratio
from studies.measured import Measured, within_drop
from studies.spec import GoalSpec

#: So many schedules are named where none meets the goal.
CLOSEST = 3


def outcome(name: str, goal: GoalSpec, result: SearchResult) -> dict[str, Any]:
    """Return what is stored with a study that is done, and what `study wait` and `study run` say of it."""
    return {
        "meets_goal": result.meets_goal,
        "summary": summary(name, goal, result),
        "closest": [] if result.meets_goal else closest(goal, result),
    }


def closest(goal: GoalSpec, result: SearchResult) -> list[str]:
    """Name the schedules cheaper than no pruning that are nearest to the goal, each with what it lacks."""
    cheaper = [found for found in result.evaluations if found.flops_ratio < 1]
    if goal.max_latency_ratio is not None:
        cheaper = [found for found in cheaper if found.key in result.latencies]

    def lacks(found: Measured) -> tuple[float, float]:
        lost = result.baseline.accuracy - found.accuracy - goal.max_drop
        over = prefill_ratio(found, result.latencies) - (goal.max_latency_ratio or 0)
        return max(0.0, lost), 0.0 if goal.max_latency_ratio is None else max(0.0, over)

    nearest = sorted(cheaper, key=lambda found: (*lacks(found), found.flops_ratio, found.number))
    return [f"{_named(found)}: {_gap(*lacks(found))}" for found in nearest[:CLOSEST]]


def _gap(lost: float, over: float) -> str:
    gaps = [f"{lost:.4f} too much accuracy lost"] if lost > 1e-12 else []
    gaps += [f"{over:.3f} of the prefill time too slow"] if over else []
    return ", ".join(gaps) or "meets the goal, but is none of the method's recommendations"


def summary(name: str, goal: GoalSpec, result: SearchResult) -> str:
    """Return one line about a finished study for the person who waited."""
    unpruned = result.baseline.accuracy
    start = f"{name}: {len(result.evaluations)} schedules on `search`, unpruned {unpruned:.4f}"
    if result.limit_reached:
        start += ", stopped early"
    found = result.result
    if found is None and goal.max_latency_ratio is not None:
        return f"{start}; no schedule on the front is cheaper than no pruning"
    if found is None:
        return f"{start}; no schedule was recommended"
    if goal.max_latency_ratio is not None:
        return f"{start}; {_with_latency(goal, goal.max_latency_ratio, result, found)}"
    verdict = "within" if result.meets_goal else "nothing cheaper is within"
    nearest = "" if result.meets_goal else "the nearest is "
    return f"{start}; {verdict} {goal.max_drop:g} of it: {nearest}{_named(found)}"


def _with_latency(goal: GoalSpec, max_ratio: float, result: SearchResult, found: Measured) -> str:
    """The verdict by accuracy and prefill time; what is not met is named with its gap."""
    drop, unpruned = goal.max_drop, result.baseline.accuracy
    member = f"{_named(found)}, {shown(result.latencies.get(found.key))}"
    if result.meets_goal:
        return f"within {drop:g} of it and {max_ratio:g} of the prefill time: {member}"
    if not within_drop([found], unpruned, drop):
        over = unpruned - found.accuracy - drop
        return f"nothing cheaper is within {drop:g} of it: the nearest is {member}, {over:.4f} too much lost"
    over = prefill_ratio(found, result.latencies) - max_ratio
    return (
        f"nothing within {drop:g} of it takes at most {max_ratio:g} of the prefill time: the nearest is "
        f"{member}, {over:.3f} too slow"
    )


def _named(found: Measured) -> str:
    return (
        f"trial {found.number} ({found.label}), {found.accuracy:.4f} at {found.flops_ratio:.3f} "
        "of the decoder FLOPs"
    )
