"""VTW: all visual tokens leave at layer K, the first at which the model does not notice.

K is the smallest K >= 5 (scaled from 32 layers to the model's depth) for which the mean over some samples of
KL(unpruned || pruned) of the answer's distribution is at most eta.
"""

import math
from typing import Annotated, ClassVar, Literal

from optuna.trial import BaseTrial
from pydantic import Field

from pruners.pruning import Pruning
from pruners.rankers import AttentionRanker
from pruners.schedules import VTW
from studies.context import Context, Dimensions, LimitReachedError, SearchSpace
from studies.errors import StudyError
from studies.searches.base import Search, SearchOptions, with_rates

#: the paper's first K and the depth it was meant for
FIRST_K, FIRST_K_DEPTH = 5, 32


class VTWOptions(SearchOptions):
    """The paper's threshold and number of samples."""

    method: Literal["vtw"] = "vtw"
    #: nats
    eta: Annotated[float, Field(gt=0)] = 0.003
    #: the KL is averaged over the first so many samples of the split
    samples: Annotated[int, Field(ge=1)] = 20


class VTWSearch(Search[VTWOptions]):
    """One sub-study `name/withdrawal`, whose value is the mean KL at each K, from shallow to deep.

    Where no K meets eta, the rule's answer is the model's depth, that is no pruning.
    """

    name: ClassVar[str] = "vtw"
    Options = VTWOptions

    def run(self, context: Context) -> None:
        layers = self._layers(context.size)

        def pruning(k: int) -> Pruning:
            # Withdrawal ranks nothing: the ranker is never asked.
            return with_rates(AttentionRanker(queries="last"), VTW(k=k).keep_rates(context.num_layers))

        def suggest(trial: BaseTrial) -> Pruning:
            return pruning(trial.suggest_int("K", layers[0], layers[-1]))

        space = SearchSpace(
            suggest=suggest,
            trials=len(layers),
            sampler="random",
            initial=1,
            enqueue=[{"K": k} for k in layers],
        )
        best = context.optimise(
            "withdrawal",
            self.name,
            space,
            value=lambda params: self._divergence(context, pruning(params["K"])),
            direction="minimize",
            stop_when=lambda kl: kl <= self.options.eta,
        )
        met = next((t for t in best.told if t.values and t.values[0] <= self.options.eta), None)
        if met is None and len(best.told) < len(layers):
            raise LimitReachedError
        found = None if met is None else pruning(met.params["K"])
        context.recommended[self.name] = context.measure(self.name, {}, found)

    def estimate_evaluations(self, size: Dimensions) -> int:
        return len(self._layers(size))

    def _layers(self, size: Dimensions) -> range:
        scaled = round(FIRST_K * size.num_layers / FIRST_K_DEPTH)
        return range(min(max(size.first_prunable, scaled), size.num_layers - 1), size.num_layers)

    def _divergence(self, context: Context, pruning: Pruning) -> float:
        kl = context.evaluate(pruning).kl
        if kl is None:
            raise StudyError("vtw needs the KL to the unpruned model, and this evaluation has none")
        head = list(kl)[: self.options.samples]
        return math.fsum(head) / len(head)
