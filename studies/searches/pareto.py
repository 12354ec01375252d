"""The whole front at once: schedule shape, budget and ranker together, in the main two-objective study.

Every trial draws a FLOPs ratio and a shape, and the shape is scaled to the ratio: no trial is spent on a
schedule that misses its budget. All trials have the same parameters, whatever the shape (TopV has more):

    flops      FLOPs ratio that the schedule must meet
    depth      where in the feasible layers the first cut comes: 0 the first prunable one, 1 the last
    shape      p-sigmoid (steepness 0: FastV's shape, VTW's when no token fits) or stages (PyramidDrop's)
    steepness  how fast the rates fall: k = k_max * steepness, or 1 - 0.9 * steepness from stage to stage
    ranker     what chooses the tokens
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from optuna.trial import BaseTrial
from pydantic import Field

from pruners.pruning import Pruning
from pruners.rankers import RANKERS, AnyRanker, parse_ranker
from pruners.schedules import VTW, FastV, PSigmoid, PyramidDrop, Schedule
from pruners.schedules.p_sigmoid import solve_budget
from studies.context import Context, Dimensions, SearchSpace
from studies.front import knee
from studies.searches.base import LogRange, SampledOptions, Search, Steepest, with_rates
from studies.searches.budgets import floor_ratio, largest
from studies.searches.topv import equal_weights, suggest_topv

#: whose attention counts, or a ranker that needs none
RankerName = Literal["instruction", "last", "all", "topv", "divprune", "knorm", "dart"]
#: What a stage keeps of the one before it at steepness 1 is 1 minus this.
STEEPEST_STAGE = 0.9
STAGES = 3


class ParetoOptions(SampledOptions):
    """The published schedules are tried first, then what the sampler proposes."""

    method: Literal["pareto"] = "pareto"
    trials: int = Field(default=60, ge=1)
    sampler: Literal["tpe", "gp", "nsga2", "random"] = "tpe"
    rankers: Annotated[tuple[RankerName, ...], Field(strict=False, min_length=1)] = (
        "instruction",
        "last",
        "topv",
    )
    k_max: Steepest = 4.0
    epsilon: LogRange = (0.02, 0.5)


class ParetoSearch(Search[ParetoOptions]):
    """Recommended: what the goal asks for, and the knee of the front."""

    name: ClassVar[str] = "pareto"
    Options = ParetoOptions

    def run(self, context: Context) -> None:
        shapes = Shapes(context, self.options.k_max)

        def suggest(trial: BaseTrial) -> Pruning:
            rates = shapes.suggest(trial)
            return with_rates(self._ranker(trial, context.grid), rates)

        context.optimise_front(
            self.name,
            SearchSpace(
                suggest=suggest,
                trials=self.options.trials,
                sampler=self.options.sampler,
                initial=self.options.initial,
                early_stopping=self.options.early_stopping,
                enqueue=list(self._published(context, shapes)),
            ),
        )
        tried = [measured for measured in context.main if measured.method == self.name]
        if tried:
            context.recommended[self.name] = context.choose(tried)
            context.recommended["knee"] = tried[knee([measured.point for measured in tried])]

    def estimate_evaluations(self, size: Dimensions) -> int:  # noqa: ARG002
        return self.options.trials

    def results(self) -> int:
        return 2

    def _ranker(self, trial: BaseTrial, grid: int) -> AnyRanker:
        name = trial.suggest_categorical("ranker", self.options.rankers)
        if name == "topv":
            return suggest_topv(trial, grid, self.options.epsilon)
        return parse_ranker(name if name in RANKERS else f"attention:queries={name}")

    def _published(self, context: Context, shapes: "Shapes") -> Iterator[Mapping[str, Any]]:
        """Parameters that give the published schedules, each with the ranker nearest to its own."""
        name = "last" if "last" in self.options.rankers else self.options.rankers[0]
        ranker = {
            "ranker": name,
            **(equal_weights(context.grid, self.options.epsilon) if name == "topv" else {}),
        }
        first, depth = context.first_prunable, context.num_layers
        for r in (0.5, 0.75, 0.9):
            yield ranker | shapes.params("p-sigmoid", FastV(k=first, r=r), first, 0.0)
        if depth // 2 >= first:
            yield ranker | shapes.params("p-sigmoid", VTW(k=depth // 2), depth // 2, 0.0)
        if depth // 4 >= first:
            yield ranker | shapes.params("stages", PyramidDrop(), depth // 4, 0.5 / STEEPEST_STAGE)


class Shapes:
    """Keep rates from (flops, depth, shape, steepness), for one model and one set of samples."""

    def __init__(self, context: Context, k_max: float) -> None:
        self._num_layers, self._first, self._ratio_of = (
            context.num_layers,
            context.first_prunable,
            context.ratio_of,
        )
        self._k_max = k_max
        #: least FLOPs ratio of a first cut at each prunable layer; it rises with the layer
        self._floors = [
            floor_ratio(layer, self._num_layers, self._ratio_of)
            for layer in range(self._first, self._num_layers)
        ]
        self._solved: dict[tuple[str, float, int, float], tuple[float, ...]] = {}

    def suggest(self, trial: BaseTrial) -> tuple[float, ...]:
        """Draw keep rates, one per layer, whose FLOPs ratio is at most the drawn one."""
        flops = trial.suggest_float("flops", self._floors[0], 1.0)
        feasible = self._feasible(flops)
        start = self._first + min(int(trial.suggest_float("depth", 0.0, 1.0) * feasible), feasible - 1)
        shape = trial.suggest_categorical("shape", ("p-sigmoid", "stages"))
        steepness = trial.suggest_float("steepness", 0.0, 1.0)
        wanted = (shape, flops, start, steepness)
        if wanted not in self._solved:
            self._solved[wanted] = self._solve(*wanted)
        return self._solved[wanted]

    def params(self, shape: str, schedule: Schedule, start: int, steepness: float) -> dict[str, Any]:
        """Return the parameters for which `suggest` gives a published schedule."""
        flops = self._ratio_of(schedule.keep_rates(self._num_layers))
        depth = (start - self._first + 0.5) / self._feasible(flops)
        return {"flops": flops, "depth": depth, "shape": shape, "steepness": steepness}

    def _feasible(self, flops: float) -> int:
        return sum(floor <= flops for floor in self._floors)

    def _solve(self, shape: str, flops: float, start: int, steepness: float) -> tuple[float, ...]:
        if shape == "p-sigmoid":
            k = self._k_max * steepness
            b = solve_budget(k, self._num_layers, start, flops, self._ratio_of)
            return PSigmoid(b=b, k=k, first=start).keep_rates(self._num_layers)
        stages = self._stages(start, 1 - STEEPEST_STAGE * steepness)
        return tuple(stages(largest(stages, flops, self._ratio_of)))

    def _stages(self, start: int, share: float) -> Callable[[float], Sequence[float]]:
        edges = [round(start + stage * (self._num_layers - start) / STAGES) for stage in range(STAGES)]

        def rates_at(height: float) -> list[float]:
            # At height 1 the last stage keeps everything too, so every FLOPs ratio up to 1 can be met.
            rates = [1.0] * self._num_layers
            for stage, edge in enumerate(edges):
                rates[edge:] = [min(1.0, height * share ** (stage - STAGES + 1))] * (self._num_layers - edge)
            return rates

        return rates_at
