"""Several trials under way at once: the same study whoever is ready first, and after every kind of failure."""

import random
from concurrent.futures import Future
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from synthetic_study import SyntheticEvaluator, key_of, make_context
from test_driver import SHORT, short

from studies.context import Wanted
from studies.driver import run_search
from studies.errors import EvaluationError
from studies.main_study import MOST_FAILURES
from studies.measured import Measured
from studies.searches import SEARCHES
from studies.searches.fastv import FastVOptions
from studies.searches.g_search import GSearchOptions
from studies.searches.pareto import ParetoOptions
from studies.trial_log import retry_failed

PARALLEL = 3


class Pool:
    """`Context.begin` with nobody in a hurry: a future is settled when somebody looks, in any order."""

    def __init__(self, seed: int, evaluate: Any = None, patience: int | None = None) -> None:
        self.evaluate = evaluate or SyntheticEvaluator()
        self.order, self.open = random.Random(seed), []
        self.most, self.patience = 0, patience

    def __call__(self, pruning: Any, judge: Any) -> Future[Any]:
        pool = self

        class Slow(Future):
            def result(self, timeout: float | None = None) -> Any:
                while not self.done():
                    pool.settle_one()
                return super().result(timeout)

        future = Slow()
        self.open.append((future, pruning))
        self.most = max(self.most, len(self.open))
        return future

    def settle_one(self) -> None:
        if self.patience is not None:
            self.patience -= 1
            if self.patience < 0:
                raise KeyboardInterrupt
        future, pruning = self.open.pop(self.order.randrange(len(self.open)))
        try:
            future.set_result(self.evaluate(pruning))
        except EvaluationError as error:
            future.set_exception(error)


def study(options: Any, pool: Pool, parallel: int = PARALLEL, **changes: Any) -> Any:
    context = make_context(evaluate=pool.evaluate, begin=pool, parallel_trials=parallel, **changes)
    return context, run_search(options, context)


def trials(context: Any) -> list[Any]:
    """Every trial of the study and its sub-studies."""
    names = sorted(summary.study_name for summary in optuna.get_all_study_summaries(context.storage))
    return [
        (name, t.number, t.state, t.params, t.values, t.user_attrs.get("key"))
        for name in names
        for t in optuna.load_study(study_name=name, storage=context.storage).trials
    ]


@pytest.mark.parametrize("method", sorted(SEARCHES))
def test_who_is_ready_first_changes_nothing(method: str) -> None:
    ran = [study(short(method), Pool(seed)) for seed in range(3)]
    assert ran[0][1] == ran[1][1] == ran[2][1]
    assert trials(ran[0][0]) == trials(ran[1][0]) == trials(ran[2][0])
    alone = study(short(method), Pool(0), parallel=1)
    if "trials" not in SHORT[method] and method != "vtw":
        assert trials(ran[0][0]) == trials(alone[0])  # a grid does not depend on results


def test_so_many_are_under_way_and_no_more() -> None:
    pool = Pool(0)
    study(ParetoOptions(trials=12), pool)
    assert pool.most == PARALLEL
    pool = Pool(0)
    study(FastVOptions(), pool, parallel=5)
    assert pool.most == 5
    pool = Pool(0)
    study(GSearchOptions(trials=5, stride=3), pool, parallel=1)
    assert pool.most == 1


@pytest.mark.parametrize("parallel", [1, PARALLEL])
def test_where_workers_wait_trials_are_written_later_but_not_much(parallel: int) -> None:
    late = []
    context = make_context(parallel_trials=parallel)  # every evaluation is ready at once

    def told(newest: Measured) -> None:
        late.append(newest.number + 1 - len(context.main.study.get_trials(deepcopy=False)))

    context.on_trial = told
    run_search(ParetoOptions(trials=12), context)
    assert max(late) == parallel


@pytest.mark.parametrize("method", ["g-search", "pareto", "fastv", "vtw"])
def test_interrupted_again_and_again_it_is_the_undisturbed_study(method: str) -> None:
    whole, result = study(short(method), Pool(0))
    storage, evaluate = InMemoryStorage(), SyntheticEvaluator()
    for attempt in range(100):
        try:
            context, again = study(short(method), Pool(attempt, evaluate, patience=3), storage=storage)
            break
        except KeyboardInterrupt:
            continue
    assert attempt >= 1
    assert trials(context) == trials(whole)
    assert again == result
    assert evaluate.calls == len(result.evaluations)


def failing(bad: Any) -> Any:
    """Evaluates, but for the prunings that are `bad`."""
    evaluator = SyntheticEvaluator()

    def evaluate(pruning: Any) -> Any:
        if pruning is not None and bad(pruning):
            raise EvaluationError("worker-1 is gone")
        return evaluator(pruning)

    return evaluate


@pytest.mark.parametrize("parallel", [1, PARALLEL])
@pytest.mark.parametrize("method", ["g-search", "p-sigmoid", "pareto", "fastv", "pdrop", "random"])
def test_a_schedule_that_cannot_be_evaluated_fails_with_its_reason_and_the_study_goes_on(
    method: str, parallel: int
) -> None:
    whole = study(short(method), Pool(0), parallel)[1]
    lost = [m for m in whole.evaluations if m.method == method][1]
    context, result = study(
        short(method), Pool(0, failing(lambda pruning: key_of(pruning) == lost.key)), parallel
    )
    failed = [t for t in context.main.study.trials if t.state == TrialState.FAIL]
    assert {t.user_attrs["key"] for t in failed} == {lost.key}
    assert {t.user_attrs["reason"] for t in failed} == {"worker-1 is gone"}
    assert len({t.user_attrs["key"] for t in failed}) == len(failed)
    assert result.recommended
    assert lost.key not in {m.key for m in result.evaluations}
    assert TrialState.RUNNING not in {t.state for t in context.main.study.trials}
    # run again: the failed one is not tried again, and nothing changes
    pool = Pool(0)
    again = run_search(
        short(method),
        make_context(context.storage, evaluate=pool.evaluate, begin=pool, parallel_trials=parallel),
    )
    assert again == result
    assert pool.most == 0
    # unless that is asked for: then it is measured, and the failed trials stay as they are
    assert retry_failed(context.storage, "study") > 0
    assert retry_failed(context.storage, "study") == 0
    before = trials(context)
    context, retried = study(short(method), Pool(0), parallel, storage=context.storage)
    now = trials(context)
    assert all(trial in now for trial in before)
    assert lost.key in {m.key for m in retried.evaluations}
    of_method = [m.key for m in retried.evaluations if m.method == method]
    assert len(of_method) == len(set(of_method))
    if method != "g-search":  # whose further layers were searched without it
        assert len(of_method) == len([m for m in whole.evaluations if m.method == method])
    assert study(short(method), Pool(0), parallel, storage=context.storage)[1] == retried


@pytest.mark.parametrize("options", [GSearchOptions(trials=9), FastVOptions(), ParetoOptions(trials=9)])
def test_when_all_fail_the_study_says_why(options: Any) -> None:
    context = make_context()
    pool = Pool(0, failing(lambda pruning: True))
    with pytest.raises(EvaluationError, match=f"{MOST_FAILURES} schedules failed in a row.*worker-1 is gone"):
        study(options, pool, storage=context.storage, name="all")
    failed = optuna.load_study(study_name="all", storage=context.storage).get_trials(states=[TrialState.FAIL])
    assert len(failed) == MOST_FAILURES
    whole = study(options, Pool(0))[1]
    assert retry_failed(context.storage, "all") >= MOST_FAILURES
    _, retried = study(options, Pool(0), storage=context.storage, name="all")
    keys = [[m.key for m in each.evaluations] for each in (whole, retried)]
    assert keys[0] == keys[1], "tried again, it is the study that it would have been"


def test_no_pruning_must_work() -> None:
    def evaluate(pruning: Any) -> Any:
        raise EvaluationError("worker-1 is gone")

    with pytest.raises(EvaluationError, match="worker-1 is gone"):
        study(FastVOptions(), Pool(0, evaluate))


@pytest.mark.parametrize("parallel", [1, PARALLEL])
def test_a_limit_on_trials_ends_a_study_with_the_best_so_far(parallel: int) -> None:
    context, result = study(ParetoOptions(trials=30), Pool(0), parallel, trials=7)
    assert result.limit_reached
    assert len(result.evaluations) == 1 + 7
    assert result.front
    _, longer = study(ParetoOptions(trials=30), Pool(0), parallel, storage=context.storage)
    assert longer == study(ParetoOptions(trials=30), Pool(0), parallel)[1]


def test_equal_prunings_asked_for_at_once_are_evaluated_once() -> None:
    pool = Pool(0)
    context = make_context(evaluate=pool.evaluate, begin=pool, parallel_trials=4)
    pruned = FastVOptions(layers=(2,), ratios=(0.5,))
    result = run_search(pruned, context)
    pruning = result.recommended["fastv"].pruning
    fresh = make_context(evaluate=pool.evaluate, begin=pool, parallel_trials=4)
    calls = pool.evaluate.asked
    found = list(fresh.measure_all([Wanted("x", {}, pruning)] * 2))
    assert [m.key for m in found] == [key_of(pruning)] * 2
    assert pool.evaluate.asked == calls + 1
