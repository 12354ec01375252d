"""The latency goal: which member of a front it asks for, by the prefill time that was measured of each."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pruners.profile import Latency
from studies.driver import SearchResult
from studies.measured import Measured, cheapest_within, within_drop
from studies.spec import GoalSpec


@dataclass(frozen=True, kw_only=True)
class FastChoice:
    """What a goal of accuracy and latency comes to on a front."""

    #: the cheapest that meets the goal, else the nearest to it; None: no member is cheaper than no pruning
    member: Measured | None
    meets_goal: bool


def pruned_members(front: Iterable[Measured]) -> list[Measured]:
    """Return the members whose prefill time is worth measuring: those that cost less than no pruning."""
    return [member for member in front if member.pruning is not None and member.flops_ratio < 1]


def prefill_ratio(member: Measured, latencies: Mapping[str, Latency]) -> float:
    """Return the median of pruned over unpruned prefill time; infinity for a member that was not measured."""
    found = latencies.get(member.key)
    return float("inf") if found is None or found.prefill_ratio is None else found.prefill_ratio


def fast_enough(
    front: Iterable[Measured], max_ratio: float, latencies: Mapping[str, Latency]
) -> list[Measured]:
    """Return the members whose measured prefill ratio is at most `max_ratio`, in the front's order."""
    return [member for member in pruned_members(front) if prefill_ratio(member, latencies) <= max_ratio]


def nearest_in_time(members: Iterable[Measured], latencies: Mapping[str, Latency]) -> Measured:
    """Return the member with the lowest measured prefill ratio; ValueError without members."""
    return min(members, key=lambda member: (prefill_ratio(member, latencies), member.number))


def choose_fast(
    front: Sequence[Measured],
    baseline: float,
    max_drop: float,
    max_ratio: float,
    latencies: Mapping[str, Latency],
) -> FastChoice:
    """Return the cheapest member within `max_drop` and `max_ratio`, else the nearest one.

    Nearest is the fastest of those within `max_drop`; where there are none, the most accurate of all.

    Args:
        front: measured members; one that is not in `latencies` does not meet the goal.
        baseline: accuracy without pruning.
        max_drop: accuracy that may be lost against it.
        max_ratio: prefill time over that of no pruning, at most.
        latencies: what was measured, by the members' keys.
    """
    members = pruned_members(front)
    accurate = within_drop(members, baseline, max_drop)
    fast = fast_enough(accurate, max_ratio, latencies)
    if fast:
        return FastChoice(member=cheapest_within(fast, baseline, max_drop), meets_goal=True)
    if accurate:
        return FastChoice(member=nearest_in_time(accurate, latencies), meets_goal=False)
    nearest = cheapest_within(members, baseline, max_drop) if members else None
    return FastChoice(member=nearest, meets_goal=False)


def with_latencies(result: SearchResult, goal: GoalSpec, latencies: Mapping[str, Latency]) -> SearchResult:
    """Return the result with the member of the front that a goal with `max_latency_ratio` asks for."""
    if goal.max_latency_ratio is None:
        return result
    baseline = result.baseline.accuracy
    choice = choose_fast(result.front, baseline, goal.max_drop, goal.max_latency_ratio, latencies)
    return replace(result, result=choice.member, meets_goal=choice.meets_goal, latencies=latencies)
