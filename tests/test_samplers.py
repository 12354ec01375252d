"""SkoptSampler under Optuna's own contract tests, and what the contract does not ask for."""

from collections.abc import Callable

import optuna
import pytest
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)

from studies.errors import SpecError
from studies.samplers import MULTI_OBJECTIVE_SAMPLERS, SAMPLERS, SkoptSampler, make_sampler


# Python's warning filters belong to the process: where two threads ask, one puts back what the other set aside
@pytest.mark.filterwarnings("ignore::UserWarning")
class TestContract(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    """All of Optuna's sampler tests that apply: SkoptSampler models parameters jointly, for one objective."""

    @pytest.fixture
    def sampler(self) -> Callable[[], SkoptSampler]:
        return lambda: SkoptSampler(seed=0, n_startup=1)


def minimise(sampler, trials, direction="minimize"):
    sign = 1 if direction == "minimize" else -1
    study = optuna.create_study(sampler=sampler, direction=direction)
    study.optimize(lambda t: sign * (t.suggest_float("x", -5, 5) - 1.7) ** 2, n_trials=trials)
    return study


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_skopt_finds_a_parabola_in_either_direction(direction):
    best = minimise(SkoptSampler(seed=3, n_startup=5), 16, direction).best_params["x"]
    assert best == pytest.approx(1.7, abs=0.05)


def test_skopt_never_repeats_an_integer_while_others_are_left():
    study = optuna.create_study(sampler=SkoptSampler(seed=0, n_startup=1))
    study.enqueue_trial({"n": 4})
    study.optimize(lambda t: float(t.suggest_int("n", 0, 8) - 4) ** 2, n_trials=9)
    assert sorted(t.params["n"] for t in study.trials) == list(range(9))


def test_skopt_ignores_infinite_values():
    study = optuna.create_study(sampler=SkoptSampler(seed=0, n_startup=2))
    distribution = {"x": optuna.distributions.FloatDistribution(0, 1)}
    for x, value in ((0.1, 1.0), (0.5, float("inf")), (0.9, 2.0)):
        study.add_trial(optuna.create_trial(params={"x": x}, distributions=distribution, value=value))
    assert 0 <= study.ask(distribution).params["x"] <= 1


def proposals(name, multi_objective):
    """Twelve asks, each by a sampler of its own."""
    directions = ["maximize", "minimize"] if multi_objective else ["maximize"]
    study = optuna.create_study(directions=directions)
    for told in range(12):
        study.sampler = make_sampler(name, seed=5, told=told, n_startup=4, multi_objective=multi_objective)
        trial = study.ask()
        x, n = trial.suggest_float("x", 0, 1, step=0.125), trial.suggest_int("n", 0, 6)
        study.tell(trial, [x * n, x + n][: len(directions)])
    return [t.params for t in study.trials]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_new_sampler_per_ask_repeats_and_does_not_stand_still(name):
    first = proposals(name, multi_objective=False)
    assert first == proposals(name, multi_objective=False)
    assert len({tuple(p.items()) for p in first}) > 4


@pytest.mark.parametrize("name", MULTI_OBJECTIVE_SAMPLERS)
def test_multi_objective_samplers_repeat(name):
    first = proposals(name, multi_objective=True)
    assert first == proposals(name, multi_objective=True)
    assert len({tuple(p.items()) for p in first}) > 4


def test_unknown_sampler_names_the_nearest():
    with pytest.raises(SpecError, match=r"'skopt' is no sampler.*did you mean skopt-ei"):
        make_sampler("skopt", 0)


def test_single_objective_sampler_is_refused_for_a_front():
    with pytest.raises(SpecError, match="'skopt-ei' is no multi-objective sampler"):
        make_sampler("skopt-ei", 0, multi_objective=True)
