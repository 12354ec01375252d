"""Which schedule is exported: the choice by trial, budget, knee, and the promise that is tested on `test`."""

from types import SimpleNamespace

import pytest
from test_plots import point

from searchsvc.errors import GoalNotMetError, ServiceError
from searchsvc.export import Choice, confidently_within
from studies.measured import Measured

SAMPLES = 1000


def evaluator(drops: dict[int, float]):
    """Scores on `test`: trial n gets `drops[n]` of the samples wrong that no pruning gets right."""
    asked: list[int] = []

    def evaluate(pruning: object) -> SimpleNamespace:
        if pruning is None:
            return SimpleNamespace(scores=[1.0] * SAMPLES)
        number = NUMBER_OF[id(pruning)]
        asked.append(number)
        wrong = round(drops[number] * SAMPLES)
        return SimpleNamespace(scores=[0.0] * wrong + [1.0] * (SAMPLES - wrong))

    return evaluate, asked


FRONT: list[Measured] = [point(1, 0.8, 0.9), point(2, 0.6, 0.89), point(3, 0.4, 0.88), point(4, 0.2, 0.87)]
NUMBER_OF = {id(p.pruning): p.number for p in FRONT}


def test_cheapest_before_the_first_that_fails() -> None:
    evaluate, asked = evaluator({1: 0.0, 2: 0.002, 3: 0.05, 4: 0.0})
    assert confidently_within(FRONT, 0.01, evaluate).number == 2
    assert asked == [1, 2, 3], "the sequence stops at the first failure, whatever comes after it"


def test_nothing_within_names_the_gap() -> None:
    evaluate, _ = evaluator({1: 0.03})
    with pytest.raises(GoalNotMetError, match=r"trial 1 .* loses 0\.0300"):
        confidently_within(FRONT, 0.01, evaluate)


def test_a_drop_within_the_goal_but_not_surely_is_refused() -> None:
    evaluate, _ = evaluator({1: 0.009})
    with pytest.raises(GoalNotMetError):
        confidently_within(FRONT, 0.01, evaluate)


@pytest.mark.parametrize("given", [{}, {"knee": True, "trial": 1}, {"max_drop": 0.1, "max_flops": 0.1}])
def test_exactly_one_choice(given: dict[str, object]) -> None:
    with pytest.raises(ServiceError, match="exactly one"):
        Choice(**given)
