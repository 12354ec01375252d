"""The latency goal without a clock: what is measured, once; which member meets the goal; what is said if none does."""

import re
from dataclasses import replace

import pytest
from db_cases import latency, leased
from synthetic_study import make_context
from test_plots import point

from db.latencies import latencies as stored
from db.queue import claim, release
from pruners.profile import Latency
from searchsvc.candidates import candidates
from searchsvc.errors import GoalNotMetError, ServiceError
from searchsvc.latencies import ROUNDS, measure_front, read_latencies, shown
from searchsvc.outcome import summary
from searchsvc.points import rows
from studies.driver import run_search
from studies.latency import choose_fast, with_latencies
from studies.searches.fastv import FastVOptions
from studies.spec import GoalSpec, StudySpec

BASELINE = point(0, 1.0, 0.9, "baseline")
#: dearest first; the cheaper a member, the less accurate
FRONT = [BASELINE, point(1, 0.8, 0.9), point(2, 0.6, 0.88), point(3, 0.4, 0.85), point(4, 0.2, 0.5)]


def timed(ratio: float) -> Latency:
    return Latency(
        prefill_ms=10 * ratio,
        decode_ms=1,
        baseline_prefill_ms=10,
        baseline_decode_ms=1,
        batch_size=4,
        device="cpu, 1 threads",
        rounds=15,
        prefill_ratio=ratio,
        prefill_interval=(ratio - 0.01, ratio + 0.01),
    )


def all_timed(**ratios: float) -> dict[str, Latency]:
    """Latencies of the members by number: `m1=0.9`."""
    return {name[1:]: timed(ratio) for name, ratio in ratios.items()}


class TestChoice:
    @pytest.mark.parametrize(
        ("max_drop", "max_ratio", "measured", "number", "met"),
        [
            (0.05, 0.7, all_timed(m1=0.9, m2=0.7, m3=0.5, m4=0.3), 3, True),
            (0.02, 0.7, all_timed(m1=0.9, m2=0.7, m3=0.5, m4=0.3), 2, True),
            # The time decides, not the FLOPs: the cheapest member within the drop is slower than a dearer one.
            (0.05, 0.7, all_timed(m1=0.9, m2=0.6, m3=0.8, m4=0.3), 2, True),
            (0.02, 0.65, all_timed(m1=0.9, m2=0.7, m3=0.5, m4=0.3), 2, False),
            (0.02, 0.65, all_timed(m1=0.7, m2=0.8, m3=0.5, m4=0.3), 1, False),
            (0.02, 0.65, all_timed(m1=0.7), 1, False),
            (0.02, 0.65, all_timed(m3=0.5), 1, False),
        ],
        ids=["cheapest", "accurate", "slow", "nearest", "nearest is fastest", "part", "not timed"],
    )
    def test_cheapest_that_meets_both_else_the_nearest(
        self, max_drop, max_ratio, measured, number, met
    ) -> None:
        choice = choose_fast(FRONT, 0.9, max_drop, max_ratio, measured)
        assert choice.member is not None
        assert (choice.member.number, choice.meets_goal) == (number, met)

    def test_without_an_accurate_member_the_most_accurate_is_the_nearest(self) -> None:
        choice = choose_fast([BASELINE, *FRONT[3:]], 0.9, 0.01, 0.7, all_timed(m3=0.9, m4=0.1))
        assert choice.member is not None
        assert (choice.member.number, choice.meets_goal) == (3, False)

    def test_no_pruning_is_no_answer(self) -> None:
        """Neither the unpruned model nor a pruning that costs as much, however fast somebody timed it."""
        whole = replace(point(5, 1.0, 0.95))
        choice = choose_fast([BASELINE, whole], 0.9, 0.5, 1.0, all_timed(m0=0.5, m5=0.5))
        assert (choice.member, choice.meets_goal) == (None, False)


class Clock:
    """A worker that is simulated: every pruning takes its first reduced rate of the time; may die."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.asked: list[float] = []
        self.dies_at = dies_at

    def __call__(self, pruning, rounds):
        if len(self.asked) == self.dies_at:
            raise ConnectionError("killed")
        ratio = pruning.schedule.keep_rates[1]
        self.asked.append(ratio)
        return {
            "device_name": "NVIDIA H100", "device": "cuda:0", "batch_size": 4, "rounds": rounds,
            "pruned": {"prefill_ms": 10 * ratio, "decode_ms_per_token": 1.0}, "unpruned": {"prefill_ms": 10.0, "decode_ms_per_token": 2.0},
            "prefill_ratio": ratio, "prefill_interval_95": [ratio - 0.1, ratio + 0.1],
        }  # fmt: skip


class TestMeasuring:
    def test_members_are_measured_and_kept(self, database) -> None:
        told: list[tuple[int, int]] = []
        found = measure_front(database, leased(database), FRONT, clock := Clock(), lambda *n: told.append(n))
        assert clock.asked == [0.8, 0.6, 0.4, 0.2], "dearest first, never no pruning"
        assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
        assert found == read_latencies(database, "one")
        assert found["2"] == Latency(
            prefill_ms=6, decode_ms=1, baseline_prefill_ms=10, baseline_decode_ms=2, batch_size=4,
            device="NVIDIA H100", rounds=ROUNDS, prefill_ratio=0.6, prefill_interval=(0.5, 0.7),
        )  # fmt: skip

    def test_after_a_death_only_what_is_missing_is_measured(self, database) -> None:
        lease = leased(database)
        with pytest.raises(ConnectionError):
            measure_front(database, lease, FRONT, first := Clock(dies_at=2))
        before = stored(database, "one")
        assert [row.ratio for row in before] == first.asked == [0.8, 0.6]
        release(database, lease)
        again = claim(database, "one", owner="another", seconds=60)
        told: list[tuple[int, int]] = []
        found = measure_front(database, again, FRONT, second := Clock(), lambda *n: told.append(n))
        assert second.asked == [0.4, 0.2]
        assert told == [(3, 4), (4, 4)]
        assert stored(database, "one")[:2] == before
        assert sorted(found) == ["1", "2", "3", "4"]

    def test_what_is_measured_is_not_measured_again(self, database) -> None:
        lease = leased(database)
        measured = measure_front(database, lease, FRONT, Clock())
        assert measure_front(database, lease, FRONT, Clock(dies_at=0)) == measured

    def test_a_new_member_is_measured_beside_the_old_ones(self, database) -> None:
        lease = leased(database)
        measure_front(database, lease, FRONT[:3], Clock())
        found = measure_front(database, lease, FRONT[2:], clock := Clock())
        assert clock.asked == [0.4, 0.2]
        assert sorted(found) == ["2", "3", "4"], "a member that has left the front is not part of the result"

    def test_a_study_measures_for_itself(self, database) -> None:
        measure_front(database, leased(database, "one"), FRONT, Clock())
        measure_front(database, leased(database, "two"), FRONT, clock := Clock())
        assert len(clock.asked) == 4


@pytest.fixture(scope="module")
def result():
    return run_search(FastVOptions(method="fastv", layers=(2, 4), ratios=(0.25, 0.5, 0.75)), make_context())


class TestOutcome:
    """A whole simulated study, filtered by what was measured of its front, and the line about it."""

    def measured(self, result, ratio):
        return {member.key: timed(ratio(member)) for member in result.front if member.pruning is not None}

    def outcome(self, result, goal: GoalSpec, ratio) -> tuple:
        found = with_latencies(result, goal, self.measured(result, ratio))
        return found, summary("docs", goal, found)

    def test_met(self, result) -> None:
        goal = GoalSpec(max_drop=0.9, max_latency_ratio=0.8)
        found, line = self.outcome(result, goal, lambda member: member.flops_ratio)
        assert found.meets_goal
        assert found.result == result.front[0]
        assert found.result.flops_ratio == min(member.flops_ratio for member in result.front) < 0.8
        assert "; within 0.9 of it and 0.8 of the prefill time: trial " in line
        assert re.search(
            r"of the decoder FLOPs, 0\.\d{3} of the prefill time \(95 % 0\.\d{3} to 0\.\d{3}; cpu, 1 threads",
            line,
        )
        assert line.endswith("batch size 4, 15 rounds)")

    def test_too_slow_names_the_fastest_and_its_gap(self, result) -> None:
        goal = GoalSpec(max_drop=0.9, max_latency_ratio=0.7)
        found, line = self.outcome(result, goal, lambda member: 0.75 if member == result.front[-2] else 0.9)
        assert not found.meets_goal
        assert found.result == result.front[-2]
        assert (
            "; nothing within 0.9 of it takes at most 0.7 of the prefill time: the nearest is trial " in line
        )
        assert line.endswith(", 0.050 too slow")
        assert "\n" not in line

    def test_too_inaccurate_names_the_most_accurate_and_its_gap(self, result) -> None:
        goal = GoalSpec(max_drop=0.0, max_latency_ratio=0.7)
        context = replace(
            result, front=[member for member in result.front if member.accuracy < result.baseline.accuracy]
        )
        found, line = self.outcome(context, goal, lambda member: 0.5)
        assert not found.meets_goal
        lost = result.baseline.accuracy - max(member.accuracy for member in context.front)
        assert "; nothing cheaper is within 0 of it: the nearest is trial " in line
        assert line.endswith(f", {lost:.4f} too much lost")

    def test_nothing_pruned_on_the_front(self, result) -> None:
        goal = GoalSpec(max_latency_ratio=0.7)
        found, line = self.outcome(replace(result, front=[result.baseline]), goal, lambda _: 0.5)
        assert not found.meets_goal
        assert line.endswith("; no schedule on the front is cheaper than no pruning")

    def test_without_the_goal_nothing_changes(self, result) -> None:
        goal = GoalSpec(max_drop=0.9)
        found, line = self.outcome(result, goal, lambda _: 5.0)
        assert found == result
        assert "prefill" not in line


def spec(max_ratio: float | None) -> StudySpec:
    data = {"name": "docs", "model": {"id": "demo"}, "data": {"path": "x"}, "search": {"method": "fastv"}}
    return StudySpec.parse({**data, "goal": {"max_latency_ratio": max_ratio}}, "test")


class TestExport:
    def test_members_that_were_too_slow_are_left_out(self) -> None:
        measured = all_timed(m1=0.9, m2=0.6, m3=0.8, m4=0.3)
        assert [member.number for member in candidates(FRONT, spec(0.7), measured)] == [2, 4]
        assert [member.number for member in candidates(FRONT, spec(None), {})] == [1, 2, 3, 4]

    def test_nothing_fast_enough_names_the_nearest_and_its_gap(self) -> None:
        measured = all_timed(m1=0.9, m2=0.8, m3=0.75, m4=0.95)
        message = r"takes at most 0\.7 of the prefill time: the nearest, trial 3 \(fastv 3\), takes 0\.750 .* 0\.050 too slow"
        with pytest.raises(GoalNotMetError, match=message):
            candidates(FRONT, spec(0.7), measured)

    def test_members_not_timed_say_how_to_go_on(self) -> None:
        with pytest.raises(ServiceError, match=r"2 of 4 front members .* searchsvc study run docs"):
            candidates(FRONT, spec(0.7), all_timed(m1=0.5, m2=0.5))

    @pytest.mark.parametrize("max_ratio", [None, 0.7])
    def test_a_front_of_no_pruning(self, max_ratio: float | None) -> None:
        with pytest.raises(GoalNotMetError, match="no pruned schedule is on the front"):
            candidates([BASELINE], spec(max_ratio), {})


def test_rows_show_what_was_measured_and_nothing_where_nothing_was() -> None:
    first, second, *_ = rows(FRONT, all_timed(m1=0.75))
    assert (first["prefill_ratio"], first["prefill_interval_95"]) == (None, None)
    assert (second["prefill_ratio"], second["prefill_interval_95"]) == (0.75, [0.74, 0.76])
    assert not any("prefill" in name for row in rows(FRONT) for name in row)


def test_what_was_not_measured_is_said_to_be_so() -> None:
    assert shown(None) == "prefill time not measured"


def test_the_values_of_the_table_are_those_of_the_database(database) -> None:
    from db.latencies import save_latency

    full = {"prefill_ms": 5.0, "decode_ms": 1.0, "baseline_prefill_ms": 8.0, "baseline_decode_ms": 1.0}
    save_latency(database, leased(database), latency(times=full))
    found = read_latencies(database, "one")["k1"]
    assert (found.prefill_ratio, found.prefill_interval, found.baseline_prefill_ms) == (
        0.625,
        (0.5, 0.75),
        8.0,
    )
