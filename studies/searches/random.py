"""The baseline as a study of its own: FastV's shape at each budget, tokens ranked at random."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pruners.rankers import RandomRanker
from studies.context import Context, Dimensions, Wanted
from studies.searches.base import (
    RANDOM_SEEDS,
    Budget,
    BudgetKind,
    RatioOf,
    Search,
    SearchOptions,
    full_until,
    with_rates,
)
from studies.searches.budgets import check_budgets, height


class RandomOptions(SearchOptions):
    """The default budgets are those of FastV's published R = 0.9, 0.75, 0.5."""

    method: Literal["random"] = "random"
    budget: BudgetKind = "b"
    budgets: Annotated[tuple[Budget, ...], Field(strict=False, min_length=1)] = (0.1, 0.25, 0.5)


class RandomSearch(Search[RandomOptions]):
    """A constant rate from the first prunable layer on.

    Recommended is the first seed, chosen beforehand: the best of several would not be random any more. The
    other seeds follow when the driver compares every result with random ranking.
    """

    name: ClassVar[str] = "random"
    Options = RandomOptions

    def check(self, size: Dimensions, ratio_of: RatioOf) -> None:
        check_budgets(self.options.budget, self.options.budgets, size, ratio_of)

    def run(self, context: Context) -> None:
        first = context.first_prunable
        seed, layers = RANDOM_SEEDS[0], context.num_layers
        wanted = {}
        for budget in self.options.budgets:
            rate = height(context, self.options.budget, budget, 0.0, first)
            pruning = with_rates(RandomRanker(seed=seed), full_until(first, rate, layers))
            wanted[f"{self.options.budget}={budget:g}"] = Wanted(
                self.name, {"rate": rate, "seed": seed}, pruning
            )
        for measured in context.measure_all(wanted.values()):
            for at, each in wanted.items():
                if context.key_of(each.pruning) == measured.key:
                    context.recommended[f"{self.name}@{at}"] = measured

    def estimate_evaluations(self, size: Dimensions) -> int:  # noqa: ARG002
        return len(self.options.budgets)

    def results(self) -> int:
        return len(self.options.budgets)
