"""P-Sigmoid of the G-Search paper (section 3.3): an S-curve that falls over the prunable layers.

Letters: L decoder layers, i a prunable layer (first .. L-1), b budget, k steepness, alpha middle.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from pruners.errors import ProfileError
from pruners.schedules.base import Schedule

#: steeper curves are one step; the paper searches [0, 4]
STEEPEST = 100.0


@dataclass(frozen=True)
class PSigmoid(Schedule):
    """r(i) = min(1, 2b / (1 + exp(k (i - alpha)))), whose mean over the prunable layers is exactly b.

    alpha is the middle of the prunable layers where nothing exceeds 1. Where something does, cutting it off
    would leave less than the budget, so alpha is moved deeper until the mean is b again. That is our choice:
    the paper does not say.
    """

    name: ClassVar[str] = "p-sigmoid"
    example: ClassVar[str] = "p-sigmoid:b=0.25,k=0.3"

    #: mean keep rate over the prunable layers
    b: float
    #: 0 is a constant rate (FastV's shape), larger is steeper
    k: float
    #: first layer that may be reduced
    first: int = 2

    def __post_init__(self) -> None:
        self._check("b", self.b, 0, 1)
        self._check("k", self.k, 0, STEEPEST)
        self._check("first", self.first, 0)

    def keep_rates(self, num_layers: int) -> tuple[float, ...]:
        """1 for layers before `first`, then the curve."""
        if self.first >= num_layers:
            raise ProfileError(
                f"p-sigmoid: first={self.first} leaves no layer of the model's {num_layers} to reduce"
            )
        layers = range(self.first, num_layers)
        curve = self._curve(layers, (self.first + num_layers - 1) / 2)
        if max(curve) > 1:
            curve = self._curve(layers, self._moved_middle(layers))
        clamped = (min(1.0, rate) for rate in curve)
        return (1.0,) * self.first + tuple(itertools.accumulate(clamped, min))

    def _curve(self, layers: range, alpha: float) -> list[float]:
        return [2 * self.b * _falling(self.k * (layer - alpha)) for layer in layers]

    def _moved_middle(self, layers: range) -> float:
        """The alpha at which the clamped mean is b; it rises with alpha, from less than b to 1."""

        def missing(alpha: float) -> float:
            return self.b * len(layers) - math.fsum(min(1.0, rate) for rate in self._curve(layers, alpha))

        reach = 1.0
        while missing(layers[-1] + reach) > 0:
            reach *= 2
        return _root(missing, layers[0], layers[-1] + reach)


def solve_budget(
    k: float, num_layers: int, first: int, target: float, ratio_of: Callable[[tuple[float, ...]], float]
) -> float:
    """The largest b at which the cost ratio, as `ratio_of` measures it on keep rates, is at most `target`.

    Token counts are whole, so the ratio moves in steps: the one below the target is met.

    Raises:
        ProfileError: even without any visual token from `first` on the ratio is above `target`.
    """

    def spare(b: float) -> float:
        return target - ratio_of(PSigmoid(b, k, first).keep_rates(num_layers))

    if spare(1.0) >= 0:
        return 1.0
    if spare(0.0) < 0:
        raise ProfileError(
            f"p-sigmoid: a cost ratio of {target:g} is out of reach: with no visual token from layer {first}"
            f" on it is still {target - spare(0.0):.3f}"
        )
    return _root(spare, 0.0, 1.0)


def _falling(x: float) -> float:
    """1 / (1 + exp(x)) that does not overflow."""
    return 1 / (1 + math.exp(x)) if x < 0 else math.exp(-x) / (1 + math.exp(-x))


def _root(surplus: Callable[[float], float], low: float, high: float) -> float:
    """Bisection to the last bit: where `surplus`, which falls from `low` to `high`, is still not negative."""
    while low < (middle := (low + high) / 2) < high:
        if surplus(middle) >= 0:
            low = middle
        else:
            high = middle
    return low
