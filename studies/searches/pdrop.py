"""PyramidDrop: the same share of visual tokens stays at each of a few stages; a grid over that share."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pruners.errors import PruningError
from pruners.rankers import AttentionRanker
from pruners.schedules import PyramidDrop
from studies.context import Context, Dimensions, Wanted
from studies.errors import SpecError
from studies.searches.base import RankerOption, Rate, RatioOf, Search, SearchOptions, with_rates


class PyramidDropOptions(SearchOptions):
    """The paper's lambda is 0.5; its code ranks by the last token, in the reduced layer itself."""

    method: Literal["pdrop"] = "pdrop"
    #: what is left at each stage, of what was left before it
    lambdas: Annotated[tuple[Rate, ...], Field(strict=False, min_length=1)] = (0.3, 0.5, 0.7)
    #: first layer of each stage; by default a quarter, a half and three quarters of the depth
    stages: Annotated[tuple[int, ...], Field(strict=False, min_length=1)] | None = None
    ranker: RankerOption = AttentionRanker(queries="last", score_layer="next")


class PyramidDropSearch(Search[PyramidDropOptions]):
    """Every lambda at the same stages; recommended is what the goal asks for."""

    name: ClassVar[str] = "pdrop"
    Options = PyramidDropOptions

    def check(self, size: Dimensions, ratio_of: RatioOf) -> None:  # noqa: ARG002
        try:
            rates = self._schedule(self.options.lambdas[0]).keep_rates(size.num_layers)
        except PruningError as error:
            raise SpecError(f"search.stages: {error}") from None
        if any(rate < 1 for rate in rates[: size.first_prunable]):
            raise SpecError(
                f"search.stages: the first layer that this model may prune is {size.first_prunable}"
            )

    def run(self, context: Context) -> None:
        layers = context.num_layers
        wanted = (
            Wanted(
                self.name,
                {"lambda": share},
                with_rates(self.options.ranker, self._schedule(share).keep_rates(layers)),
            )
            for share in self.options.lambdas
        )
        tried = []
        for measured in context.measure_all(wanted):
            tried.append(measured)
            context.recommended[self.name] = context.choose(tried)

    def estimate_evaluations(self, size: Dimensions) -> int:  # noqa: ARG002
        return len(self.options.lambdas)

    def _schedule(self, share: float) -> PyramidDrop:
        stages = self.options.stages
        ratios = tuple(share**stage for stage in range(1, len(stages or (0, 0, 0)) + 1))
        return PyramidDrop(stages=stages, ratios=ratios)
