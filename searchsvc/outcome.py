"""What a finished study came to, in one line."""

from searchsvc.latencies import shown
from studies.driver import SearchResult
from studies.latency import prefill_ratio
from studies.measured import Measured, within_drop
from studies.spec import GoalSpec


def summary(name: str, goal: GoalSpec, result: SearchResult) -> str:
    """Return one line about a finished study for the person who waited."""
    unpruned = result.baseline.accuracy
    start = f"{name}: {len(result.evaluations)} schedules on `search`, unpruned {unpruned:.4f}"
    if result.limit_reached:
        start += ", stopped by its limits"
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
