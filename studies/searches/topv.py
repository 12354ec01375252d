"""TopV: one reduction by optimal transport before the first prunable layer; its cost's weights are searched.

alpha, beta and gamma lie on the simplex (a common scale only repeats epsilon). They are drawn as alpha and as
beta's share of the rest, so that every point of the square is one point of the simplex.
"""

from typing import Annotated, ClassVar, Literal

from optuna.trial import BaseTrial
from pydantic import Field

from pruners.pruning import KeepSchedule, Pruning, Recovery
from pruners.rankers import TopvRanker
from studies.context import Context, Dimensions, SearchSpace
from studies.searches.base import (
    Budget,
    BudgetKind,
    LogRange,
    RatioOf,
    SampledOptions,
    Search,
    SingleSampler,
    full_until,
)
from studies.searches.budgets import check_budgets, height


class TopvOptions(SampledOptions):
    """Weights, width, entropy and recovery are searched at every budget."""

    method: Literal["topv"] = "topv"
    sampler: SingleSampler = "tpe"
    budget: BudgetKind = "b"
    budgets: Annotated[tuple[Budget, ...], Field(strict=False, min_length=1)] = (0.25,)
    #: every m-th pruned token is put back; 0: none is
    recoveries: Annotated[tuple[Literal[0, 4, 6], ...], Field(strict=False, min_length=1)] = (0, 4, 6)
    epsilon: LogRange = (0.02, 0.5)


class TopvSearch(Search[TopvOptions]):
    """One sub-study `name/topv@b=0.25` per budget."""

    name: ClassVar[str] = "topv"
    Options = TopvOptions

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
        rate = height(context, self.options.budget, budget, 0.0, first)
        schedule = KeepSchedule(keep_rates=full_until(first, rate, context.num_layers))

        def suggest(trial: BaseTrial) -> Pruning:
            every = trial.suggest_categorical("recovery", self.options.recoveries)
            return Pruning(
                ranker=suggest_topv(trial, context.grid, self.options.epsilon),
                schedule=schedule,
                recovery=Recovery(every=every) if every else None,
            )

        space = SearchSpace(
            suggest=suggest,
            trials=self.options.trials,
            sampler=self.options.sampler,
            initial=self.options.initial,
            early_stopping=self.options.early_stopping,
            enqueue=(
                {"recovery": self.options.recoveries[0], **equal_weights(context.grid, self.options.epsilon)},
            ),
            constants={self.options.budget: budget},
        )
        at = f"{self.options.budget}={budget:g}"
        best = context.optimise(f"topv@{at}", self.name, space)
        context.recommended[f"{self.name}@{at}"] = best.measured


def suggest_topv(trial: BaseTrial, grid: int, epsilon: tuple[float, float]) -> TopvRanker:
    """Draw a TopV ranker; sigma goes up to `grid`, the longer side of the visual grid in tokens."""
    alpha = trial.suggest_float("alpha", 0.0, 1.0)
    beta = (1 - alpha) * trial.suggest_float("beta_share", 0.0, 1.0)
    return TopvRanker(
        alpha=alpha,
        beta=beta,
        gamma=max(0.0, 1 - alpha - beta),
        sigma=trial.suggest_float("sigma", 0.5, max(grid, 1), log=True),
        epsilon=trial.suggest_float("epsilon", *epsilon, log=True),
    )


def equal_weights(grid: int, epsilon: tuple[float, float]) -> dict[str, float]:
    """Return the parameters of the plainest TopV: equal weights, the ranker's own sigma and epsilon."""
    plain = TopvRanker()
    return {
        "alpha": 1 / 3,
        "beta_share": 0.5,
        "sigma": min(plain.sigma, max(grid, 1)),
        "epsilon": min(max(plain.epsilon, epsilon[0]), epsilon[1]),
    }
