"""Run one study from its spec: no pruning first, the search, then random and uniform ranking at its results.

Calling it again goes on where a dead process stopped: told trials are read, the rest is the same as if
nothing had happened (`studies.context`).
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pruners.profile import Latency
from pruners.pruning import Pruning
from pruners.rankers import RandomRanker, UniformRanker
from studies.context import Context, Dimensions, LimitReachedError, Wanted
from studies.errors import SpecError
from studies.front import hypervolume, knee, pareto_front
from studies.measured import Measured
from studies.searches import make_search
from studies.searches.base import RANDOM_SEEDS, RatioOf, SearchOptions


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A result's own schedule with the tokens chosen at random, and at even distances."""

    #: one per seed of `RANDOM_SEEDS`, less those that could not be evaluated
    random: Sequence[Measured]
    uniform: Measured

    @property
    def random_mean(self) -> float:
        """Mean accuracy over the seeds."""
        return statistics.fmean(measured.accuracy for measured in self.random)

    @property
    def random_spread(self) -> float:
        """Sample standard deviation of the accuracy over the seeds."""
        return float(statistics.stdev(measured.accuracy for measured in self.random))


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a study came to. All accuracies are of its search split."""

    baseline: Measured
    #: what the method recommends, by label; empty only when time ran out before the first
    recommended: Mapping[str, Measured]
    #: what the method compares itself with, by label (P-Sigmoid: FastV at each of its budgets)
    compared: Mapping[str, Measured]
    #: random and uniform ranking, by the label of the recommendation
    chance: Mapping[str, Comparison]
    #: every evaluated schedule, in order
    evaluations: Sequence[Measured]
    #: the non-dominated ones, cheapest first
    front: Sequence[Measured]
    #: of the front, with the reference point of `studies.front`
    hypervolume: float
    #: the front's bend
    knee: Measured
    #: the recommendation that the goal asks for; None when there is none at all. With a latency goal: the
    #: front's member that it asks for (`studies.latency`)
    result: Measured | None
    #: whether `result` loses at most `max_drop` and costs less than no pruning, and is as fast as asked for
    meets_goal: bool
    #: whether one of its limits ended the study early
    limit_reached: bool
    #: what was measured of the front's members, by key; empty without a latency goal
    latencies: Mapping[str, Latency] = field(default_factory=dict)

    @property
    def pruning(self) -> Pruning | None:
        """The result's pruning; None when it is no pruning, or there is none."""
        return self.result.pruning if self.result else None


def check_search(options: SearchOptions, size: Dimensions, ratio_of: RatioOf) -> None:
    """Raise SpecError when these options cannot work on a model of this size and samples of these costs.

    `ratio_of` gives the FLOPs ratio of keep rates on the samples. Nothing is evaluated.
    """
    if size.first_prunable >= size.num_layers:
        raise SpecError(
            f"search: nothing can be pruned: the model has {size.num_layers} layers, and the first that may"
            f" be reduced is layer {size.first_prunable}"
        )
    make_search(options).check(size, ratio_of)


def run_search(options: SearchOptions, context: Context) -> SearchResult:
    """Run the study, or what is left of it, and return all that it found.

    Raises SpecError when the options cannot work on this model; whatever `context.evaluate` raises goes
    through.
    """
    check_search(options, context.size, context.ratio_of)
    baseline, chance = context.baseline, dict[str, Measured]()
    try:
        make_search(options).run(context)
        by_chance = (wanted for each in context.recommended.items() for wanted in _by_chance(*each))
        chance.update((measured.key, measured) for measured in context.measure_all(by_chance))
        complete = not context.limit_reached
    except LimitReachedError:
        complete = False
    return _result(context, baseline, chance, complete)


def _by_chance(label: str, result: Measured) -> list[Wanted]:
    """Random (every seed of `RANDOM_SEEDS`) and uniform ranking at a result's own schedule."""
    if result.pruning is None:
        return []
    schedule = result.pruning.schedule
    return [
        *(
            Wanted(
                "random",
                {"seed": seed},
                Pruning(ranker=RandomRanker(seed=seed), schedule=schedule),
                f"random, seed {seed}, at {label}",
            )
            for seed in RANDOM_SEEDS
        ),
        Wanted("uniform", {}, Pruning(ranker=UniformRanker(), schedule=schedule), f"uniform at {label}"),
    ]


def _compare(
    context: Context, chance: Mapping[str, Measured], label: str, result: Measured
) -> Comparison | None:
    """A result with what chance gives at its schedule; None where too little of that could be evaluated."""
    found = [chance.get(context.key_of(wanted.pruning)) for wanted in _by_chance(label, result)]
    if not found or found[-1] is None:
        return None
    random = [measured for measured in found[:-1] if measured is not None]
    return Comparison(random=random, uniform=found[-1]) if len(random) > 1 else None


def estimate_evaluations(options: SearchOptions, size: Dimensions) -> int:
    """At most so many evaluations in a whole study: no pruning, the search, and what it is compared with."""
    search = make_search(options)
    per_result = len(RANDOM_SEEDS) + 1
    return 1 + search.estimate_evaluations(size) + per_result * search.results()


def _result(
    context: Context, baseline: Measured, chance: Mapping[str, Measured], complete: bool
) -> SearchResult:
    evaluations = list(context.main)
    points = [measured.point for measured in evaluations]
    recommended = dict(context.recommended)
    comparisons = {label: _compare(context, chance, label, each) for label, each in recommended.items()}
    best = context.choose(list(recommended.values())) if recommended else None
    return SearchResult(
        baseline=baseline,
        recommended=recommended,
        compared=dict(context.compared),
        chance={label: comparison for label, comparison in comparisons.items() if comparison},
        evaluations=evaluations,
        front=[evaluations[i] for i in pareto_front(points)],
        hypervolume=hypervolume(points),
        knee=evaluations[knee(points)],
        result=best,
        meets_goal=best is not None
        and best.flops_ratio < 1
        and best.accuracy >= baseline.accuracy - context.max_drop - 1e-12,
        limit_reached=not complete,
    )
