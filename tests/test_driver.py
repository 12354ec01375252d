"""The driver: trials in the main study, what a study always measures, and life after a crash."""

import multiprocessing
import os
import random
import sys
from types import SimpleNamespace

import optuna
import pytest
from dying_study import DIED, DiskEvaluator, open_storage, run_until
from synthetic_study import LAYERS, SAMPLES, SyntheticEvaluator, evaluate, make_context

from pruners.pruning import Pruning
from pruners.rankers import AttentionRanker, RandomRanker
from studies import context as context_module
from studies.driver import check_search, estimate_evaluations, run_search
from studies.errors import SpecError
from studies.searches import SEARCHES
from studies.searches.base import with_rates
from studies.searches.fastv import FastVOptions
from studies.searches.g_search import GSearchOptions
from studies.searches.p_sigmoid import PSigmoidOptions
from studies.searches.pareto import ParetoOptions
from studies.searches.topv import TopvOptions

#: Short runs of every method.
SHORT = {
    "g-search": {"trials": 4, "stride": 2},
    "p-sigmoid": {"trials": 4, "budgets": (0.25, 0.5)},
    "topv": {"trials": 4},
    "fastv": {},
    "pdrop": {},
    "vtw": {},
    "random": {},
    "pareto": {"trials": 9},
}


def short(method):
    return SEARCHES[method].Options(**SHORT[method])


def rates(*deep):
    return (1.0,) * (LAYERS - len(deep)) + deep


@pytest.mark.parametrize("method", sorted(SEARCHES))
def test_every_evaluation_is_one_trial_and_the_estimate_holds(method):
    evaluator = SyntheticEvaluator()
    context = make_context(evaluate=evaluator)
    result = run_search(short(method), context)
    trials = context.main.study.trials
    assert [t.number for t in trials] == list(range(len(trials)))
    assert {t.user_attrs["key"] for t in trials} == set(evaluator.memory)
    assert len(trials) == evaluator.calls <= estimate_evaluations(short(method), context.size)
    assert [m.number for m in result.evaluations] == list(range(len(trials)))
    for trial in trials:
        expected = evaluator.memory[trial.user_attrs["key"]]
        assert trial.values == [expected.accuracy, expected.decoder_ratio]
        assert trial.user_attrs["schedule"]["tokens_per_layer"] == list(expected.tokens_per_layer)


@pytest.mark.parametrize("method", sorted(SEARCHES))
def test_running_again_asks_for_nothing_and_gives_the_same(method):
    storage = optuna.storages.InMemoryStorage()
    first = run_search(short(method), make_context(storage))
    again = SyntheticEvaluator()
    assert run_search(short(method), make_context(storage, evaluate=again)) == first
    assert again.asked == 0


def test_trials_say_what_they_are():
    context = make_context()
    run_search(FastVOptions(layers=(2,), ratios=(0.5,)), context)
    study = context.main.study
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == ["accuracy", "flops_ratio"]
    baseline, fastv, *chance = study.trials
    assert (baseline.user_attrs["method"], baseline.params, baseline.values[1]) == ("baseline", {}, 1.0)
    assert fastv.params == {"K": 2, "R": 0.5}
    schedule = fastv.user_attrs["schedule"]
    pruning = Pruning.model_validate_json(schedule["pruning"])
    assert pruning.schedule.keep_rates == (1, 1, *[0.5] * (LAYERS - 2))
    assert pruning.ranker.spec() == "attention:queries=last"
    assert (schedule["split"], schedule["samples"]) == ("search", len(SAMPLES))
    assert [t.user_attrs["method"] for t in chance] == ["random"] * 5 + ["uniform"]


def test_result_stands_beside_chance_at_its_own_schedule():
    result = run_search(FastVOptions(), make_context())
    (comparison,) = result.chance.values()
    assert [m.pruning.ranker for m in comparison.random] == [RandomRanker(seed=s) for s in range(5)]
    assert comparison.uniform.pruning.ranker.type == "uniform"
    for measured in (*comparison.random, comparison.uniform):
        assert measured.pruning.schedule == result.result.pruning.schedule
    accuracies = [m.accuracy for m in comparison.random]
    assert comparison.random_mean == pytest.approx(sum(accuracies) / 5)
    assert comparison.random_spread >= 0


def test_result_is_the_cheapest_that_meets_the_goal():
    result = run_search(FastVOptions(), make_context(max_drop=0.0))
    good = [m for m in result.evaluations if m.method == "fastv" and m.accuracy >= result.baseline.accuracy]
    assert result.meets_goal
    assert result.result.flops_ratio == min(m.flops_ratio for m in good) < 1
    strict = run_search(FastVOptions(layers=(2,), ratios=(0.9,)), make_context(max_drop=0.0))
    assert not strict.meets_goal
    assert strict.result is not None


def test_front_holds_what_nothing_beats():
    result = run_search(FastVOptions(), make_context())
    for measured in result.evaluations:
        beaten = any(
            o.flops_ratio <= measured.flops_ratio
            and o.accuracy >= measured.accuracy
            and o.point != measured.point
            for o in result.evaluations
        )
        assert beaten or measured.point in {m.point for m in result.front}
    assert 0 < result.hypervolume < 1


def test_equal_integers_are_one_trial():
    evaluator, seen = SyntheticEvaluator(), []
    context = make_context(evaluate=evaluator, on_trial=seen.append)
    ranker = AttentionRanker()
    first = context.measure("a", {"r": 0.5}, with_rates(ranker, rates(0.5)))
    assert context.measure("b", {"r": 0.501}, with_rates(ranker, rates(0.501))) == first
    assert context.measure("c", {}, with_rates(RandomRanker(), rates(0.5))) != first
    assert (evaluator.calls, seen[0], len(seen)) == (2, first, 2)


def test_values_of_the_objective_are_told_in_the_sub_study():
    context = make_context()
    run_search(PSigmoidOptions(trials=3, budgets=(0.25,)), context)
    study = optuna.load_study(study_name="study/k@b=0.25", storage=context.storage)
    assert len(study.trials) == 3
    for trial in study.trials:
        assert trial.value == context.main.find(trial.user_attrs["key"]).accuracy


def test_hours_end_a_study_with_the_best_so_far(monkeypatch):
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(context_module, "time", clock)
    storage, options = optuna.storages.InMemoryStorage(), PSigmoidOptions(trials=6, budgets=(0.25, 0.5))

    def tick():
        clock.now += 1.0  # the synthetic evaluator says that each evaluation took a second

    def run(hours):
        context = make_context(storage, evaluate=SyntheticEvaluator(tick), hours=hours)
        return run_search(options, context), context.evaluate.calls

    short, calls = run(4 / 3600)
    assert short.limit_reached
    assert calls == 4
    assert list(short.recommended) == ["p-sigmoid@b=0.25"]
    assert short.result.accuracy == max(m.accuracy for m in short.evaluations if m.method == "p-sigmoid")
    again, calls = run(4 / 3600)
    assert (again, calls) == (short, 0)
    longer, calls = run(None)
    assert not longer.limit_reached
    assert longer == run_search(options, make_context())
    assert calls == len(longer.evaluations) - 4


def test_baseline_is_measured_however_short_the_time():
    context = make_context(hours=1e-12)
    result = run_search(FastVOptions(), context)
    assert result.limit_reached
    assert result.result is None
    assert [m.method for m in result.evaluations] == ["baseline"]


@pytest.mark.parametrize("method", sorted(SEARCHES))
def test_model_too_shallow_to_prune_is_refused(method):
    size = make_context().size._replace(num_layers=2)
    with pytest.raises(SpecError, match="has 2 layers, and the first that may be reduced is layer 2"):
        check_search(short(method), size, sum)


def test_failed_evaluation_leaves_the_trial_to_be_run_again():
    def fail_once(pruning, failed=[]):  # noqa: B006
        if pruning is not None and pruning.schedule.keep_rates[-1] == 0 and not failed:
            failed.append(True)
            raise RuntimeError("worker lost")
        return evaluate(pruning)

    storage, options = optuna.storages.InMemoryStorage(), GSearchOptions(trials=4, stride=3)
    with pytest.raises(RuntimeError, match="worker lost"):
        run_search(options, make_context(storage, evaluate=fail_once))
    resumed = run_search(options, make_context(storage, evaluate=fail_once))
    assert resumed == run_search(options, make_context())


def everything(storage):
    """Every trial of every study, but for times."""
    return {
        summary.study_name: [
            (t.number, t.state, t.params, t.values, t.user_attrs)
            for t in optuna.load_study(study_name=summary.study_name, storage=storage).trials
        ]
        for summary in optuna.get_all_study_summaries(storage)
    }


@pytest.fixture(scope="module")
def server():
    """A process that has imported everything, from which the dying ones are forked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["dying_study", "skopt", "sklearn.gaussian_process"])
        yield context


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        GSearchOptions(trials=4, initial=3, stride=3),
        ParetoOptions(trials=10, sampler="nsga2"),
        TopvOptions(trials=5, initial=3),
    ],
    ids=lambda options: options.method,
)
def test_study_that_dies_again_and_again_ends_as_one_that_never_did(options, tmp_path, server):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    commits, opening = run_until(whole, options), run_until(whole, options)
    expected = everything(open_storage(whole))
    dice, deaths, code = random.Random(options.method), 0, DIED
    while code == DIED:
        life = dice.randrange(opening // 2, opening + commits // 4)
        process = server.Process(target=run_until, args=(broken, options, life))
        process.start()
        process.join()
        code = process.exitcode
        deaths += code == DIED
    assert code == 0
    assert deaths >= 3
    assert everything(open_storage(broken)) == expected
    computed = DiskEvaluator(broken).computed
    assert computed == DiskEvaluator(whole).computed
    assert len(set(computed)) == len(computed)
    results = [run_search(options, make_context(open_storage(folder))) for folder in (whole, broken)]
    assert results[0] == results[1]


def test_a_study_that_is_stopped_ends_with_its_best_and_one_that_is_interrupted_keeps_its_trials():
    class AskedError(Exception):
        pass

    def after(trials, act):
        def stopping():
            return len(list(context.main)) >= trials and act()

        return stopping

    def interrupt():
        raise AskedError

    for options in (ParetoOptions(trials=9), GSearchOptions(trials=4, stride=3)):
        context = make_context()
        context.stopping = after(4, lambda: True)
        result = run_search(options, context)
        assert result.limit_reached
        assert len(result.evaluations) == 4
        context = make_context()
        context.stopping = after(4, interrupt)
        with pytest.raises(AskedError):
            run_search(options, context)
        assert len(context.main.study.trials) == 4
