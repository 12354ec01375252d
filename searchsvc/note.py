"""The note that the Optuna dashboard shows of a study, in Markdown."""

from collections.abc import Mapping, Sequence

from pruners.profile import Latency
from searchsvc.latencies import shown
from searchsvc.points import best_so_far, on_front
from searchsvc.subject import Subject
from studies.measured import Measured
from studies.spec import GoalSpec


def note(subject: Subject, points: Sequence[Measured], latencies: Mapping[str, Latency]) -> str:
    """Return what was searched, on what, the best so far, the front with its times, and how to export.

    Args:
        subject: the study's model and data.
        points: what was measured so far, no pruning among it.
        latencies: what was timed of the front's members, by key.
    """
    spec, front = subject.spec, on_front(points)
    return f"""# {spec.name}

Method `{spec.search.method}` on model `{spec.model.id}` (sha256 {subject.model.fingerprint[:12]}), data `{spec.data.path}`
(sha256 {subject.dataset.sha256[:12]}), {len(subject.search)} `search` samples, metric `{subject.search.metric}`, seed {spec.search.seed}.

{_best(subject, points, latencies)}

| trial | method | schedule | accuracy | decoder FLOPs | KV cache |
|---|---|---|---|---|---|
{_rows(front)}
{_times(front, latencies)}
FLOPs and KV cache are ratios to no pruning. Intervals in the figures are of 95 %. Export the cheapest schedule that is
confidently within {spec.goal.max_drop:g} on the `test` split, or any other by its trial:

    searchsvc profile export {spec.name} --max-drop {spec.goal.max_drop:g} -o profile.yaml
    searchsvc profile export {spec.name} --trial NUMBER -o profile.yaml
"""  # noqa: E501


def _best(subject: Subject, points: Sequence[Measured], latencies: Mapping[str, Latency]) -> str:
    goal = subject.spec.goal
    unpruned = next(point for point in points if point.pruning is None)
    start = f"After {len(points)} schedules: no pruning has {unpruned.accuracy:.4f}"
    choice = best_so_far(points, unpruned, goal, latencies)
    best = choice.member
    if best is None or best.pruning is None:
        return f"{start}; nothing cheaper is within {goal.max_drop:g} of it so far."
    timed = f", {shown(latencies[best.key])}" if best.key in latencies else ""
    return (
        f"{start}; best so far is **trial {best.number}** ({best.label}) with {best.accuracy:.4f} at "
        f"{best.flops_ratio:.3f} of the decoder FLOPs{timed}, which {_verdict(goal, choice.meets_goal)}."
    )


def _verdict(goal: GoalSpec, met: bool) -> str:
    asked = f"at most {goal.max_drop:g} lost"
    if goal.max_latency_ratio is not None:
        asked += f", at most {goal.max_latency_ratio:g} of the prefill time"
    return f"{'meets' if met else 'does not meet'} the goal ({asked})"


def _rows(front: Sequence[Measured]) -> str:
    return "\n".join(
        f"| {p.number} | {p.method} | {p.label} | {p.accuracy:.4f} | {p.flops_ratio:.3f} | {p.kv_ratio:.3f} |"
        for p in front
    )


def _times(front: Sequence[Measured], latencies: Mapping[str, Latency]) -> str:
    timed = (f"- trial {p.number}: {shown(latencies[p.key])}\n" for p in front if p.key in latencies)
    return "".join(timed)
