"""FastV: one cut before layer K that removes a share R of the visual tokens; a grid over both."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pruners.rankers import AttentionRanker, RandomRanker
from pruners.schedules import FastV
from studies.context import Context, Dimensions, Wanted
from studies.errors import SpecError
from studies.searches.base import RankerOption, Rate, RatioOf, Search, SearchOptions, with_rates


class FastVOptions(SearchOptions):
    """Table 1 of the paper; the released code ranks by the last token."""

    method: Literal["fastv"] = "fastv"
    #: K. Those that the model is too shallow for, or may not prune, are left out; 0 ranks at random (no
    #: scores yet)
    layers: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False, min_length=1)] = (2, 3, 5)
    #: R
    ratios: Annotated[tuple[Rate, ...], Field(strict=False, min_length=1)] = (0.5, 0.75, 0.9)
    ranker: RankerOption = AttentionRanker(queries="last")


class FastVSearch(Search[FastVOptions]):
    """Every K with every R; recommended is what the goal asks for."""

    name: ClassVar[str] = "fastv"
    Options = FastVOptions

    def check(self, size: Dimensions, ratio_of: RatioOf) -> None:  # noqa: ARG002
        if not self._layers(size):
            raise SpecError(
                f"search.layers: no layer of {list(self.options.layers)} can be cut: "
                f"choose from {size.first_prunable} to {size.num_layers - 1}, or 0"
            )

    def run(self, context: Context) -> None:
        tried = []
        for measured in context.measure_all(self._grid(context)):
            tried.append(measured)
            context.recommended[self.name] = context.choose(tried)

    def _grid(self, context: Context) -> Iterator[Wanted]:
        for k in self._layers(context.size):
            for r in self.options.ratios:
                ranker = self.options.ranker if k else RandomRanker(seed=self.options.seed)
                rates = FastV(k=k, r=r).keep_rates(context.num_layers)
                yield Wanted(self.name, {"K": k, "R": r}, with_rates(ranker, rates))

    def estimate_evaluations(self, size: Dimensions) -> int:
        return len(self._layers(size)) * len(self.options.ratios)

    def _layers(self, size: Dimensions) -> list[int]:
        return [k for k in self.options.layers if k == 0 or size.first_prunable <= k < size.num_layers]
