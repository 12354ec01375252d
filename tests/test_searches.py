"""What each search promises, on a synthetic study whose best answers can be computed outright."""

import itertools
from dataclasses import replace

import optuna
import pytest
from pydantic import ValidationError
from synthetic_study import (
    FIRST,
    LAYERS,
    VISUAL,
    SyntheticEvaluator,
    evaluate,
    key_of,
    make_context,
    search,
    sub_study,
)

from pruners.pruning import Pruning
from pruners.rankers import AttentionRanker, RandomRanker
from pruners.schedules import VTW, FastV, PyramidDrop
from studies.errors import SpecError, StudyError
from studies.searches import make_search
from studies.searches.base import with_rates
from studies.searches.fastv import FastVOptions
from studies.searches.g_search import GSearchOptions
from studies.searches.p_sigmoid import PSigmoidOptions
from studies.searches.pareto import ParetoOptions
from studies.searches.pdrop import PyramidDropOptions
from studies.searches.random import RandomOptions
from studies.searches.topv import TopvOptions
from studies.searches.vtw import VTWOptions

INSTRUCTION, LAST = AttentionRanker(queries="instruction"), AttentionRanker(queries="last")


# ------------------------------------------------------------------------------------------------ g-search


@pytest.mark.parametrize("sampler", ["skopt-ei", "tpe", "random", "brute-force"])
def test_g_search_loses_at_most_the_penalty(sampler):
    context = search(GSearchOptions(trials=5, sampler=sampler, stride=2))
    found = context.recommended["g-search"]
    assert found.accuracy >= context.baseline.accuracy - 0.01
    assert found.flops_ratio < 0.8


def test_g_search_always_tries_to_keep_all_and_nothing():
    context = search(GSearchOptions(trials=4, sampler="random"))
    kept = VISUAL
    for layer in range(FIRST, LAYERS):
        study = sub_study(context, f"layer-{layer:02d}")
        tried = [t.params["n"] for t in study.trials]
        assert tried[:2] == ([kept, 0] if kept else [0])
        assert max(tried) == kept
        assert len(set(tried)) == len(tried) == min(4, kept + 1)
        kept = study.best_params["n"]
        if not kept:
            break


def greedy(penalty):
    """The paper's algorithm by brute force, without any of our machinery."""
    kept = [VISUAL] * LAYERS
    for layer in range(FIRST, LAYERS):
        value = {}
        for n in range(kept[layer - 1], -1, -1):
            rates = [count / VISUAL for count in kept[:layer] + [n] * (LAYERS - layer)]
            value[n] = evaluate(with_rates(INSTRUCTION, rates)).accuracy - penalty * n / VISUAL
        kept[layer:] = [max(value, key=lambda n: (value[n], -n))] * (LAYERS - layer)
    return tuple(count / VISUAL for count in kept)


def test_g_search_by_brute_force_is_the_yardstick():
    context = search(GSearchOptions(sampler="brute-force"))
    assert context.recommended["g-search"].pruning.schedule.keep_rates == greedy(0.01)
    assert (
        make_search(GSearchOptions(sampler="brute-force")).estimate_evaluations(context.size)
        >= len(list(context.main)) - 1
    )


def test_g_search_tries_every_number_where_there_are_fewer_than_trials():
    sampled = search(GSearchOptions(trials=VISUAL + 1))
    assert sampled.recommended["g-search"].pruning.schedule.keep_rates == greedy(0.01)


def test_g_search_stride_inherits():
    context = search(GSearchOptions(trials=4, sampler="random", stride=3))
    rates = context.recommended["g-search"].pruning.schedule.keep_rates
    assert rates[:2] == (1, 1)
    assert rates[2] == rates[3] == rates[4]
    assert rates[5] == rates[6] == rates[7]


def test_g_search_stops_where_nothing_is_left():
    def blind(pruning):
        return replace(evaluate(pruning), accuracy=0.5)

    context = search(GSearchOptions(trials=3, sampler="random"), evaluate=blind)
    assert context.recommended["g-search"].pruning.schedule.keep_rates == VTW(k=FIRST).keep_rates(LAYERS)
    names = {s.study_name for s in optuna.get_all_study_summaries(context.storage)}
    assert names == {"study", "study/layer-02"}


# ----------------------------------------------------------------------------------------------- p-sigmoid


@pytest.mark.parametrize("budget", ["b", "flops"])
def test_p_sigmoid_is_never_worse_than_fastv(budget):
    budgets = (0.1, 0.25, 0.5) if budget == "b" else (0.5, 0.7)
    context = search(PSigmoidOptions(trials=5, sampler="tpe", budget=budget, budgets=budgets))
    for value in budgets:
        found = context.recommended[f"p-sigmoid@{budget}={value:g}"]
        fastv = context.compared[f"fastv@{budget}={value:g}"]
        assert found.accuracy >= fastv.accuracy
        assert sub_study(context, f"k@{budget}={value:g}").trials[0].params == {"k": 0.0}
        rates = fastv.pruning.schedule.keep_rates
        assert rates[:FIRST] == (1,) * FIRST
        assert len(set(rates[FIRST:])) == 1
    assert any(context.recommended[f"p-sigmoid@{budget}={v:g}"].params["k"] > 0 for v in budgets)


@pytest.mark.parametrize("r", [0.5, 0.75, 0.9])
def test_p_sigmoid_starts_from_exactly_fastv(r):
    context = search(PSigmoidOptions(trials=1, budgets=(round(1 - r, 12),)))
    (fastv,) = context.compared.values()
    published = with_rates(INSTRUCTION, FastV(k=FIRST, r=r).keep_rates(LAYERS))
    assert fastv.key == key_of(published)


def test_p_sigmoid_meets_its_budgets():
    context = search(PSigmoidOptions(trials=4, sampler="random", budget="flops", budgets=(0.6,)))
    for trial in sub_study(context, "k@flops=0.6").trials:
        assert 0.57 < context.main.find(trial.user_attrs["key"]).flops_ratio <= 0.6
    context = search(PSigmoidOptions(trials=4, sampler="random", budgets=(0.3,)))
    for trial in sub_study(context, "k@b=0.3").trials:
        rates = context.main.find(trial.user_attrs["key"]).pruning.schedule.keep_rates
        assert sum(rates[FIRST:]) / (LAYERS - FIRST) == pytest.approx(0.3)


@pytest.mark.parametrize("options", [PSigmoidOptions, TopvOptions, RandomOptions])
def test_budget_out_of_reach_is_refused_before_anything_runs(options):
    with pytest.raises(SpecError, match=r"search\.budgets: 0\.1 is out of reach: .* is still 0\.4"):
        search(options(budget="flops", budgets=(0.5, 0.1)))


# ---------------------------------------------------------------------------------------------------- topv


def test_topv_cuts_once_before_the_first_prunable_layer_and_finds_better_weights():
    context = search(TopvOptions(trials=12, initial=5, budgets=(0.3,)))
    tried = [m for m in context.main if m.method == "topv"]
    for measured in tried:
        pruning = measured.pruning
        assert pruning.schedule.keep_rates == (1.0,) * FIRST + (0.3,) * (LAYERS - FIRST)
        ranker = pruning.ranker
        assert ranker.alpha + ranker.beta + ranker.gamma == pytest.approx(1)
        assert 0.5 <= ranker.sigma <= 6
        assert 0.02 <= ranker.epsilon <= 0.5
    assert tried[0].pruning.ranker.alpha == pytest.approx(tried[0].pruning.ranker.gamma)
    assert {m.pruning.recovery and m.pruning.recovery.every for m in tried} == {None, 4, 6}
    assert context.recommended["topv@b=0.3"].accuracy == max(m.accuracy for m in tried)


# ------------------------------------------------------------------------------------- fastv, pdrop, random


def test_fastv_runs_its_grid_where_the_model_allows():
    context = search(FastVOptions(layers=(0, 1, 2, 5, 31), ratios=(0.5, 0.9), seed=3))
    tried = [m for m in context.main if m.method == "fastv"]
    assert [(m.params["K"], m.params["R"]) for m in tried] == list(itertools.product((0, 2, 5), (0.5, 0.9)))
    assert [m.pruning.ranker for m in tried] == [RandomRanker(seed=3)] * 2 + [LAST] * 4
    assert tried[2].pruning.schedule.keep_rates == FastV(k=2, r=0.5).keep_rates(LAYERS)


def test_fastv_needs_a_layer_that_can_be_cut():
    with pytest.raises(
        SpecError, match=r"search\.layers: no layer of \[1, 31\] can be cut: choose from 2 to 7"
    ):
        search(FastVOptions(layers=(1, 31)))


def test_pdrop_tries_every_lambda_and_the_published_one():
    context = search(PyramidDropOptions())
    tried = {m.params["lambda"]: m.pruning for m in context.main if m.method == "pdrop"}
    assert list(tried) == [0.3, 0.5, 0.7]
    assert tried[0.5].schedule.keep_rates == PyramidDrop().keep_rates(LAYERS)
    assert tried[0.7].schedule.keep_rates[-1] == pytest.approx(0.7**3)
    own = search(PyramidDropOptions(lambdas=(0.5,), stages=(3, 6)))
    assert own.recommended["pdrop"].pruning.schedule.keep_rates == (1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25)


@pytest.mark.parametrize(("stages", "message"), [((1, 4), "may prune is 2"), ((2, 99), "stages")])
def test_pdrop_refuses_stages_that_do_not_fit(stages, message):
    with pytest.raises(SpecError, match=rf"search\.stages: .*{message}"):
        search(PyramidDropOptions(stages=stages))


def test_random_recommends_the_seed_chosen_beforehand():
    context = search(RandomOptions(budgets=(0.25, 0.5)))
    assert [m.pruning.ranker.seed for m in context.recommended.values()] == [0, 0]
    assert list(context.recommended) == ["random@b=0.25", "random@b=0.5"]


# ----------------------------------------------------------------------------------------------------- vtw


def first_withdrawal(eta, samples=20):
    """K by the rule, by trying all."""
    for k in range(FIRST, LAYERS):
        kl = evaluate(with_rates(LAST, VTW(k=k).keep_rates(LAYERS))).kl[:samples]
        if sum(kl) / len(kl) <= eta:
            return k
    return None


@pytest.mark.parametrize("eta", [0.1, 0.3, 0.6])
def test_vtw_finds_the_first_layer_that_does_not_matter(eta):
    context = search(VTWOptions(eta=eta))
    k = first_withdrawal(eta)
    assert FIRST < k < LAYERS
    assert context.recommended["vtw"].pruning.schedule.keep_rates == VTW(k=k).keep_rates(LAYERS)
    assert [t.params["K"] for t in sub_study(context, "withdrawal").trials] == list(range(FIRST, k + 1))


def test_vtw_averages_over_its_samples_alone():
    whole, head = search(VTWOptions(eta=0.3, samples=40)), search(VTWOptions(eta=0.3, samples=1))
    for context, samples in ((whole, 40), (head, 1)):
        kl = evaluate(with_rates(LAST, VTW(k=FIRST).keep_rates(LAYERS))).kl[:samples]
        assert sub_study(context, "withdrawal").trials[0].value == pytest.approx(sum(kl) / samples)


def test_vtw_that_finds_no_layer_recommends_no_pruning():
    context = search(VTWOptions(eta=1e-9))
    assert context.recommended["vtw"] == context.baseline


def test_vtw_scales_its_first_layer_with_depth():
    search = make_search(VTWOptions())
    context = make_context()
    assert search.estimate_evaluations(context.size._replace(num_layers=32)) == 32 - 5
    assert search.estimate_evaluations(context.size._replace(num_layers=64)) == 64 - 10
    assert search.estimate_evaluations(context.size._replace(num_layers=3)) == 1


def test_vtw_needs_the_divergence():
    def without_kl(pruning):
        return replace(evaluate(pruning), kl=None)

    with pytest.raises(StudyError, match="vtw needs the KL"):
        search(VTWOptions(), evaluate=without_kl)


# ------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "values"),
    [
        (GSearchOptions, {"stride": 0}),
        (GSearchOptions, {"penalty": 0.0}),
        (PSigmoidOptions, {"budgets": ()}),
        (PSigmoidOptions, {"budgets": (0.0,)}),
        (PSigmoidOptions, {"trials": 3, "initial": 4}),
        (PSigmoidOptions, {"sampler": "brute-force"}),
        (TopvOptions, {"recoveries": (5,)}),
        (FastVOptions, {"ratios": (1.5,)}),
        (FastVOptions, {"trials": 3}),
        (ParetoOptions, {"sampler": "skopt-ei"}),
        (ParetoOptions, {"rankers": ("random",)}),
        (VTWOptions, {"eta": 0.0}),
    ],
)
def test_options_out_of_range_are_refused(options, values):
    with pytest.raises(ValidationError):
        options(**values)


def test_equal_integers_cost_one_evaluation():
    evaluator = SyntheticEvaluator()
    context = search(GSearchOptions(trials=6, sampler="random"), evaluate=evaluator)
    told = sum(
        len(optuna.load_study(study_name=s.study_name, storage=context.storage).trials)
        for s in optuna.get_all_study_summaries(context.storage)
        if "/" in s.study_name
    )
    assert evaluator.calls == evaluator.asked == len(list(context.main)) < told
    assert isinstance(context.recommended["g-search"].pruning, Pruning)
