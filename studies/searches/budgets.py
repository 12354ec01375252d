"""Budgets that hold by construction: given a shape, how high it may be.

A budget is a mean keep rate over the prunable layers (`b`) or a FLOPs ratio of the decoder (`flops`). Token
counts are whole, so a FLOPs ratio is met from below.
"""

from collections.abc import Callable, Sequence

from pruners.errors import PruningError
from pruners.schedules.p_sigmoid import solve_budget
from studies.context import Context, Dimensions
from studies.errors import SpecError
from studies.searches.base import BudgetKind, RatioOf, full_until


def height(context: Context, kind: BudgetKind, budget: float, k: float, first: int) -> float:
    """Return the b at which P-Sigmoid with this k, from layer `first` on, meets the budget."""
    if kind == "b":
        return budget
    try:
        return solve_budget(k, context.num_layers, first, budget, context.ratio_of)
    except PruningError as error:
        raise SpecError(f"search.budgets: {error}") from None


def floor_ratio(first: int, num_layers: int, ratio_of: RatioOf) -> float:
    """Return the FLOPs ratio with no visual token from layer `first` on: no budget below it can be met."""
    return ratio_of(full_until(first, 0.0, num_layers))


def check_budgets(kind: BudgetKind, budgets: Sequence[float], size: Dimensions, ratio_of: RatioOf) -> None:
    """Raise SpecError for the smallest budget that cannot be met."""
    first = size.first_prunable
    if kind == "flops" and min(budgets) < (floor := floor_ratio(first, size.num_layers, ratio_of)):
        raise SpecError(
            f"search.budgets: {min(budgets):g} is out of reach: with no visual token from layer {first} on, "
            f"the FLOPs ratio on these samples is still {floor:.3f}"
        )


def largest(rates_at: Callable[[float], Sequence[float]], target: float, ratio_of: RatioOf) -> float:
    """Return the largest x in [0, 1] with `ratio_of(rates_at(x)) <= target`, 0 if none; rates rise with x."""
    low, high = 0.0, 1.0
    if ratio_of(rates_at(high)) <= target:
        return high
    while low < (middle := (low + high) / 2) < high:
        if ratio_of(rates_at(middle)) <= target:
            low = middle
        else:
            high = middle
    return low
