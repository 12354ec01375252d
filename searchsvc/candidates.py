"""Which members of a study's front an export may choose among."""

from collections.abc import Mapping, Sequence

from pruners.profile import Latency
from searchsvc.errors import GoalNotMetError, ServiceError
from searchsvc.latencies import shown
from searchsvc.points import on_front
from studies.latency import fast_enough, nearest_in_time, prefill_ratio, pruned_members
from studies.measured import Measured
from studies.spec import StudySpec


def candidates(
    points: Sequence[Measured], spec: StudySpec, latencies: Mapping[str, Latency]
) -> list[Measured]:
    """Return the front's pruned members, dearest first; with a latency goal those that are fast enough.

    The times were measured without a look at `test`, so leaving members out keeps the promise made there.

    Raises:
        GoalNotMetError: there is none; the message names the nearest and its gap.
        ServiceError: members have not been timed, because the study has not ended.
    """
    front = on_front(points)
    max_ratio = spec.goal.max_latency_ratio
    pruned = [point for point in front if point.pruning is not None]
    if not pruned or (max_ratio is not None and not pruned_members(front)):
        raise GoalNotMetError("no pruned schedule is on the front: none is as good as any cheaper one")
    return pruned if max_ratio is None else _fast(front, spec.name, max_ratio, latencies)


def _fast(
    front: Sequence[Measured], name: str, max_ratio: float, latencies: Mapping[str, Latency]
) -> list[Measured]:
    members = pruned_members(front)
    missing = [member for member in members if member.key not in latencies]
    if missing:
        raise ServiceError(
            f"study {name}: {len(missing)} of {len(members)} front members have not been timed yet; "
            f"time them with: searchsvc study run {name}"
        )
    fast = fast_enough(members, max_ratio, latencies)
    if not fast:
        nearest = nearest_in_time(members, latencies)
        raise GoalNotMetError(
            f"no schedule takes at most {max_ratio:g} of the prefill time: the nearest, trial "
            f"{nearest.number} ({nearest.label}), takes {shown(latencies.get(nearest.key))}, "
            f"{prefill_ratio(nearest, latencies) - max_ratio:.3f} too slow; --trial exports any"
        )
    return fast
