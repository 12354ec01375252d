"""The search for a whole front: every trial within the budget it drew, published schedules first."""

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_study import FIRST, LAYERS, SAMPLES, SHAPE, key_of, make_context, search

from pruners.costs import decoder_ratio
from pruners.rankers import AttentionRanker
from pruners.schedules import VTW, FastV, PyramidDrop
from studies.searches.base import with_rates
from studies.searches.budgets import largest
from studies.searches.pareto import ParetoOptions, Shapes

LAST = AttentionRanker(queries="last")


def ratio(rates):
    return decoder_ratio(SHAPE, rates, SAMPLES)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_pareto_trials_meet_the_budget_that_they_drew(sampler):
    context = search(ParetoOptions(trials=24, sampler=sampler))
    trials = [t for t in context.main.study.trials if t.user_attrs["method"] == "pareto"]
    assert len(trials) == 24
    assert len({t.user_attrs["key"] for t in trials}) == 24
    for trial in trials:
        assert trial.params["flops"] - 0.06 < trial.values[1] <= trial.params["flops"]
    assert {t.params["shape"] for t in trials} == {"p-sigmoid", "stages"}


def test_pareto_with_a_gaussian_process():
    context = search(ParetoOptions(trials=7, initial=2, sampler="gp", rankers=("last", "instruction")))
    assert len([m for m in context.main if m.method == "pareto"]) == 7


def test_pareto_tries_the_published_schedules_first():
    context = search(ParetoOptions(trials=5))
    keys = [m.key for m in context.main if m.method == "pareto"]
    published = [
        *(FastV(k=FIRST, r=r) for r in (0.5, 0.75, 0.9)),
        VTW(k=LAYERS // 2),
        PyramidDrop(),
    ]
    assert keys == [key_of(with_rates(LAST, schedule.keep_rates(LAYERS))) for schedule in published]


def test_pareto_recommends_for_the_goal_and_at_the_knee():
    context = search(ParetoOptions(trials=16, sampler="random"))
    tried = [m for m in context.main if m.method == "pareto"]
    good = [m for m in tried if m.accuracy >= context.baseline.accuracy - 0.01]
    assert context.recommended["pareto"].flops_ratio == min(m.flops_ratio for m in good)
    assert context.recommended["knee"] in tried


def test_pareto_draws_topv_parameters_only_for_topv():
    context = search(ParetoOptions(trials=12, rankers=("topv", "instruction")))
    for trial in context.main.study.trials[1:]:
        assert ("sigma" in trial.params) == (trial.params["ranker"] == "topv")


def test_pareto_chooses_among_rankers_that_need_no_attention():
    names = ("divprune", "knorm", "dart")
    context = search(ParetoOptions(trials=12, sampler="random", rankers=names))
    drawn = {t.params["ranker"] for t in context.main.study.trials[1:]}
    assert drawn == {m.pruning.ranker.spec() for m in context.main if m.method == "pareto"} == set(names)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.sampled_from(["p-sigmoid", "stages"]))
@settings(max_examples=60, deadline=None)
def test_every_drawn_shape_is_a_schedule_within_its_ratio(flops, depth, steepness, shape):
    context = CONTEXT
    low = ratio((1.0,) * FIRST + (0.0,) * (LAYERS - FIRST))
    flops = low + flops * (1 - low)
    params = {"flops": flops, "depth": depth, "steepness": steepness, "shape": shape}
    rates = Shapes(context, 4.0).suggest(optuna.trial.FixedTrial(params))
    pruning = with_rates(LAST, rates)  # refuses rates that rise or leave [0, 1]
    assert pruning.schedule.keep_rates[:FIRST] == (1,) * FIRST
    assert flops - 0.06 < ratio(rates) <= flops + 1e-12


CONTEXT = make_context()


def test_largest_is_the_last_that_fits():
    assert largest(lambda x: [x], 0.25, lambda rates: rates[0] ** 2) == pytest.approx(0.5)
    assert largest(lambda x: [x], 2.0, lambda rates: rates[0]) == 1.0
    assert largest(lambda x: [x], -1.0, lambda rates: rates[0]) == 0.0
