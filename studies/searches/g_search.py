"""G-Search: layer by layer, the fewest visual tokens that cost no accuracy (Scenario I of the paper).

At layer i it maximises f(r) = E(r | r_first .. r_(i-1)) - lambda * r over r in [0, r_(i-1)], all deeper
layers running at r too. r is n / N with n whole (N: the largest sample), so equal n are one evaluation.
"""

from typing import Annotated, ClassVar, Literal

from optuna.trial import BaseTrial
from pydantic import Field

from pruners.pruning import Pruning
from pruners.rankers import AttentionRanker
from studies.context import Best, Context, Dimensions, SearchSpace
from studies.searches.base import RankerOption, SampledOptions, Search, SingleSampler, with_rates


class GSearchOptions(SampledOptions):
    """The paper's 10 uniform points per layer and, our choice, 15 more; `brute-force` tries every number."""

    method: Literal["g-search"] = "g-search"
    sampler: SingleSampler | Literal["brute-force"] = "skopt-ei"
    #: price of a keep rate of 1, in accuracy
    penalty: Annotated[float, Field(gt=0, le=1)] = 0.01
    #: search every so many layers, the others inherit; the paper's large models use 3
    stride: Annotated[int, Field(ge=1)] = 1
    ranker: RankerOption = AttentionRanker(queries="instruction")


class GSearch(Search[GSearchOptions]):
    """One sub-study `name/layer-07` per searched layer.

    r = r_(i-1) and r = 0 are always tried, so the final accuracy is at least the unpruned one less `penalty`.
    """

    name: ClassVar[str] = "g-search"
    Options = GSearchOptions

    def run(self, context: Context) -> None:
        kept = [context.visual_tokens] * context.num_layers
        for layer in self._layers(context.size):
            if kept[layer - 1] == 0:
                return
            best = self._search_layer(context, layer, kept)
            kept[layer:] = [best.trial.params["n"]] * (context.num_layers - layer)
            context.recommended[self.name] = best.measured

    def estimate_evaluations(self, size: Dimensions) -> int:
        # r = r_(i-1) is the result of the layer before (at the first layer: no pruning)
        per_layer = self._trials(size.visual_tokens) - 1
        return per_layer * len(self._layers(size))

    def _layers(self, size: Dimensions) -> range:
        return range(size.first_prunable, size.num_layers, self.options.stride)

    def _trials(self, most: int) -> int:
        """Trials for n in [0, most]: never more than there are whole numbers."""
        return most + 1 if self.options.sampler == "brute-force" else min(self.options.trials, most + 1)

    def _search_layer(self, context: Context, layer: int, kept: list[int]) -> Best:
        most, total = kept[layer - 1], context.visual_tokens

        def suggest(trial: BaseTrial) -> Pruning:
            deeper = [trial.suggest_int("n", 0, most)] * (context.num_layers - layer)
            return with_rates(self.options.ranker, [n / total for n in kept[:layer] + deeper])

        trials = self._trials(most)
        exhaustive = trials == most + 1
        space = SearchSpace(
            suggest=suggest,
            trials=trials,
            sampler="brute-force" if exhaustive else self.options.sampler,
            initial=self.options.initial,
            early_stopping=self.options.early_stopping,
            enqueue=({"n": most}, {"n": 0}),
            constants={"layer": layer},
        )
        return context.optimise(
            f"layer-{layer:02d}",
            self.name,
            space,
            price=lambda params: self.options.penalty * params["n"] / total,
        )
