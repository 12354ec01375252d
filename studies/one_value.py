"""A search with one value: its trials are those of a sub-study, beside the main study."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from optuna.storages import BaseStorage
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from studies.asking import Ask
from studies.errors import EvaluationError
from studies.optimisation import Optimisation, Outcome, best_of, first_again, stopped_attrs
from studies.search_space import SearchSpace
from studies.stopping import Judge, Stopped, WilcoxonJudge
from studies.trial_log import Direction, TrialLog, ended, values_of

if TYPE_CHECKING:
    from studies.context import Context

#: What a trial's parameters cost, in accuracy.
Price = Callable[[Mapping[str, Any]], float]


class OneValue(Optimisation):
    """A sub-study with one value: accuracy less a price, or a function of the parameters."""

    def __init__(
        self,
        context: "Context",
        method: str,
        space: SearchSpace,
        ask: Ask,
        storage: BaseStorage,
        name: str,
        direction: Direction,
        price: Price,
        value: Callable[[Mapping[str, Any]], float] | None,
    ) -> None:
        self._log = TrialLog(storage, name, [direction])
        super().__init__(context, method, space, first_again(ask, space, self._log.retried))
        self._direction, self._price, self._value = direction, price, value

    def told(self) -> list[FrozenTrial]:
        return self._log.standing

    def known(self, known: Sequence[FrozenTrial]) -> dict[str, Sequence[float]]:
        return {trial.user_attrs["key"]: values_of(trial) for trial in known}

    def lie(self, trial: FrozenTrial, means: Sequence[float]) -> Sequence[float]:  # noqa: ARG002
        return means or [0.0]

    def begin(self, proposal: FrozenTrial, known: Sequence[FrozenTrial]) -> Future[Outcome]:
        pruning = self.space.suggest(FixedTrial(proposal.params))
        judge = self._rival(known, proposal.params) if self._value is None else None
        return self.context.begin_measuring(pruning, judge)

    def tell(self, proposal: FrozenTrial, outcome: Outcome) -> None:
        pruning = self.space.suggest(FixedTrial(proposal.params))
        if isinstance(outcome, Stopped):
            estimate = [outcome.accuracy - self._price(proposal.params)]
            self._log.add(ended(proposal, TrialState.PRUNED, None, stopped_attrs(outcome, estimate)))
            return
        params = {**self.space.constants, **proposal.params}
        measured = self.context.keep(self.method, params, pruning, outcome)
        found = measured.accuracy - self._price(proposal.params)
        found = found if self._value is None else self._value(proposal.params)
        self._log.add(ended(proposal, TrialState.COMPLETE, [found]))

    def fail(self, proposal: FrozenTrial, error: EvaluationError) -> None:
        worst = max if self._direction == "minimize" else min
        estimate = [worst((values_of(other)[0] for other in self._log.standing), default=0.0)]
        attrs = {"reason": str(error), "estimate": estimate}
        self._log.add(ended(proposal, TrialState.FAIL, None, attrs))
        pruning = self.space.suggest(FixedTrial(proposal.params))
        self.context.keep_failure(self.method, {**self.space.constants, **proposal.params}, pruning, error)

    def write(self) -> None:
        self.context.write()
        self._log.write()

    def _rival(self, known: Sequence[FrozenTrial], params: Mapping[str, Any]) -> Judge | None:
        """Compares with the sub-study's best trial so far."""
        if not self.space.early_stopping:
            return None
        best = best_of(known, "maximize", self.context.main)
        if best is None:
            return None
        scores = self.context.evaluate(best[1].pruning).scores
        return WilcoxonJudge(scores, self._price(params) - self._price(best[0].params))
