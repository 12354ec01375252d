"""What is said of a study that is done."""

from synthetic_study import make_context

from searchsvc.outcome import closest, outcome
from studies.driver import run_search
from studies.searches.fastv import FastVOptions
from studies.spec import GoalSpec


def test_where_nothing_meets_the_goal_the_closest_are_named_with_what_they_lack():
    result = run_search(FastVOptions(layers=(2,), ratios=(0.8, 0.95)), make_context(max_drop=0.0))
    goal = GoalSpec(max_drop=0.0)
    nearest = sorted(
        (m for m in result.evaluations if m.flops_ratio < 1), key=lambda m: (-m.accuracy, m.flops_ratio)
    )[:3]
    assert not result.meets_goal
    assert [line.split(" (")[0] for line in closest(goal, result)] == [f"trial {m.number}" for m in nearest]
    lost = result.baseline.accuracy - nearest[0].accuracy
    assert closest(goal, result)[0].endswith(f"of the decoder FLOPs: {lost:.4f} too much accuracy lost")
    assert outcome("one", goal, result)["meets_goal"] is False
