"""A search with two values, accuracy and FLOPs ratio: its trials are those of the main study."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from optuna.trial import FixedTrial, FrozenTrial, TrialState

from pruners.pruning import Pruning
from studies.asking import Ask
from studies.dominance import FrontJudge
from studies.errors import EvaluationError
from studies.front import pareto_front
from studies.measured import Evaluation, Measured, accuracy_to_win
from studies.optimisation import Optimisation, Outcome, first_again, stopped_attrs
from studies.search_space import SearchSpace
from studies.stopping import Judge, Stopped
from studies.trial_log import values_of

if TYPE_CHECKING:
    from studies.context import Context


class WholeFront(Optimisation):
    """Accuracy and FLOPs ratio at once, in the main study itself."""

    def __init__(self, context: "Context", method: str, space: SearchSpace, ask: Ask) -> None:
        super().__init__(context, method, space, first_again(ask, space, context.main.retried_of(method)))
        #: of members of the front, and of what was proposed, by key
        self._scores: dict[str, Sequence[float]] = {}
        self._ratios: dict[str, float] = {}

    def told(self) -> list[FrozenTrial]:
        return self.context.main.trials_of(self.method)

    def known(self, known: Sequence[FrozenTrial]) -> dict[str, Sequence[float]]:
        return {
            **{trial.user_attrs["key"]: values_of(trial) for trial in known},
            **{measured.key: (measured.accuracy, measured.flops_ratio) for measured in self._others()},
        }

    def lie(self, trial: FrozenTrial, means: Sequence[float]) -> Sequence[float]:
        return [means[0] if means else 0.0, self._ratio(trial)]

    def begin(self, proposal: FrozenTrial, known: Sequence[FrozenTrial]) -> Future[Outcome]:
        return self.context.begin_measuring(self._pruning(proposal), self._dominating(proposal, known))

    def tell(self, proposal: FrozenTrial, outcome: Outcome) -> None:
        main, attrs = self.context.main, self._attrs(proposal)
        if isinstance(outcome, Stopped):
            stopped = stopped_attrs(outcome, [outcome.accuracy, self._ratio(proposal)])
            main.give_up(proposal, TrialState.PRUNED, attrs | stopped)
        else:
            assert isinstance(outcome, Evaluation)  # what is known is never proposed
            self.context.on_trial(main.finish(proposal, attrs, outcome))

    def fail(self, proposal: FrozenTrial, error: EvaluationError) -> None:
        failed = {"reason": str(error), "estimate": [0.0, self._ratio(proposal)]}
        self.context.main.give_up(proposal, TrialState.FAIL, self._attrs(proposal) | failed)
        self.context.main.check_failures()

    def write(self) -> None:
        self.context.write()

    def _attrs(self, proposal: FrozenTrial) -> dict[str, Any]:
        return self.context.attrs(self.method, proposal.params, self._pruning(proposal))

    def _others(self) -> Iterator[Measured]:
        return (measured for measured in self.context.main if measured.method != self.method)

    def _pruning(self, trial: FrozenTrial) -> Pruning | None:
        return self.space.suggest(FixedTrial(trial.params))

    def _ratio(self, trial: FrozenTrial) -> float:
        key, context = trial.user_attrs["key"], self.context
        if key not in self._ratios:
            pruning = self._pruning(trial)
            schedule = (1.0,) * context.num_layers if pruning is None else pruning.schedule
            self._ratios[key] = context.ratio_of(schedule)
        return self._ratios[key]

    def _dominating(self, proposal: FrozenTrial, known: Sequence[FrozenTrial]) -> Judge | None:
        """Compares with the front of what is known, where anything on it costs no more."""
        if not self.space.early_stopping:
            return None
        context, ratio = self.context, self._ratio(proposal)
        ours = [m for trial in known if (m := context.main.find(trial.user_attrs["key"]))]
        measured = [*self._others(), *ours]
        if all(each.flops_ratio > ratio for each in measured):
            return None
        front = [measured[i] for i in pareto_front([each.point for each in measured])]
        return FrontJudge(
            ratio,
            [(member.flops_ratio, self._scores_of(member)) for member in front],
            [(values_of(t)[1], t.user_attrs["bound"]) for t in known if t.state == TrialState.PRUNED],
            accuracy_to_win(ours, context.baseline.accuracy, context.max_drop, ratio),
        )

    def _scores_of(self, member: Measured) -> Sequence[float]:
        if member.key not in self._scores:
            self._scores[member.key] = self.context.evaluate(member.pruning).scores
        return self._scores[member.key]
