"""P-Sigmoid: the best shape under a budget (Scenario II of the paper): r(i) = 2b / (1 + exp(k (i - alpha))).

k = 0 is a constant rate from the first prunable layer on, which is FastV with K = that layer and R = 1 - b.
It is tried first at every budget, so P-Sigmoid's result is never worse than FastV's with the same ranker,
budget and split.
"""

from typing import Annotated, ClassVar, Literal

from optuna.trial import BaseTrial
from pydantic import Field

from pruners.pruning import Pruning
from pruners.rankers import AttentionRanker
from pruners.schedules import PSigmoid
from studies.context import Context, Dimensions, SearchSpace, Wanted
from studies.searches.base import (
    Budget,
    BudgetKind,
    RankerOption,
    RatioOf,
    SampledOptions,
    Search,
    SingleSampler,
    Steepest,
    with_rates,
)
from studies.searches.budgets import check_budgets, height


class PSigmoidOptions(SampledOptions):
    """By default the budgets of FastV's published R = 0.9, 0.75, 0.5."""

    method: Literal["p-sigmoid"] = "p-sigmoid"
    sampler: SingleSampler = "skopt-ei"
    budget: BudgetKind = "b"
    budgets: Annotated[tuple[Budget, ...], Field(strict=False, min_length=1)] = (0.1, 0.25, 0.5)
    #: k is searched in [0, k_max]
    k_max: Steepest = 4.0
    ranker: RankerOption = AttentionRanker(queries="instruction")


class PSigmoidSearch(Search[PSigmoidOptions]):
    """One sub-study `name/k@b=0.25` (or `name/k@flops=0.5`) per budget."""

    name: ClassVar[str] = "p-sigmoid"
    Options = PSigmoidOptions

    def check(self, size: Dimensions, ratio_of: RatioOf) -> None:
        check_budgets(self.options.budget, self.options.budgets, size, ratio_of)

    def run(self, context: Context) -> None:
        for budget in self.options.budgets:
            self._search_budget(context, budget)

    def estimate_evaluations(self, size: Dimensions) -> int:  # noqa: ARG002
        return self.options.trials * len(self.options.budgets)

    def results(self) -> int:
        return len(self.options.budgets)

    def _search_budget(self, context: Context, budget: float) -> None:
        first = context.first_prunable

        def pruning(k: float) -> Pruning:
            b = height(context, self.options.budget, budget, k, first)
            return with_rates(
                self.options.ranker, PSigmoid(b=b, k=k, first=first).keep_rates(context.num_layers)
            )

        def suggest(trial: BaseTrial) -> Pruning:
            return pruning(trial.suggest_float("k", 0.0, self.options.k_max))

        space = SearchSpace(
            suggest=suggest,
            trials=self.options.trials,
            sampler=self.options.sampler,
            initial=self.options.initial,
            early_stopping=self.options.early_stopping,
            enqueue=({"k": 0.0},),
            constants={self.options.budget: budget},
        )
        at = f"{self.options.budget}={budget:g}"
        best = context.optimise(f"k@{at}", self.name, space)
        context.recommended[f"{self.name}@{at}"] = best.measured
        fastv = Wanted(self.name, {**space.constants, "k": 0.0}, pruning(0.0))
        for measured in context.measure_all([fastv]):
            context.compared[f"fastv@{at}"] = measured
