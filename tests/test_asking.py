"""Proposals: a pure function of the history, and never what is known."""

import optuna
import pytest

from studies.asking import Ask, Proposer


def ask(suggest, **changes):
    settings = {"directions": ["maximize"], "key_of": str, "sampler": "random", "initial": 1, "seed": 0}
    return Ask(suggest=suggest, **settings | changes)


def propose(asked, told, known):
    return Proposer(asked).propose(told, known)


def test_known_prunings_are_not_proposed_again():
    told, known = [], {}
    for _ in range(6):
        trial = propose(ask(lambda t: t.suggest_int("n", 0, 11) // 2), told, known)
        key = trial.user_attrs["key"]
        assert key not in known
        known[key] = [1.0]
        done = optuna.create_trial(
            params=trial.params, distributions=trial.distributions, user_attrs=trial.user_attrs, value=1.0
        )
        told.append(done)
    assert sorted(known) == list("012345")
    assert propose(ask(lambda t: t.suggest_int("n", 0, 11) // 2), told, known) is None


def test_enqueued_parameters_come_first_unless_known():
    asked = ask(lambda t: t.suggest_int("n", 0, 9), enqueue=[{"n": 4}, {"n": 7}])
    assert propose(asked, [], {}).params == {"n": 4}
    assert propose(asked, [], {"4": [1.0]}).params == {"n": 7}


@pytest.mark.parametrize("sampler", ["skopt-ei", "tpe", "nsga2"])
def test_same_history_same_proposal(sampler):
    def history():
        study = optuna.create_study(directions=["maximize"])
        for n in (1, 5, 9):
            study.enqueue_trial({"x": n / 10})
        study.optimize(lambda t: -((t.suggest_float("x", 0, 1) - 0.3) ** 2), n_trials=3)
        return study.trials

    asked = ask(lambda t: t.suggest_float("x", 0, 1), sampler=sampler)
    first, second = (propose(asked, history(), {}) for _ in range(2))
    assert first.params == second.params
    assert first.state == optuna.trial.TrialState.RUNNING


def test_nsga2_notes_its_generation_on_the_trial():
    trial = propose(
        ask(lambda t: t.suggest_float("x", 0, 1), sampler="nsga2", directions=["maximize"] * 2), [], {}
    )
    assert any("generation" in name for name in trial.system_attrs)
