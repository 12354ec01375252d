"""The loop of a search: propose, evaluate, tell. Several trials are under way at once.

With P of them (`Context.parallel_trials`), trial n is proposed by what trials 0 to n - P have told; for
those in between the sampler is told the mean so far (a constant liar: Ginsbourger, Le Riche, Carraro 2010,
section 4.2), so that it looks elsewhere. Trials are told in the order in which they were proposed. So what a
study does depends on P but neither on who evaluates, nor on which trial is ready first, nor on when a process
died.
"""

import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from optuna.storages import BaseStorage
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from pruners.costs import decoder_ratio
from pruners.pruning import Pruning
from studies.asking import Ask, Pending, propose
from studies.dominance import FrontJudge
from studies.errors import EvaluationError
from studies.front import pareto_front
from studies.main_study import MainStudy
from studies.measured import Evaluation, Measured, accuracy_to_win
from studies.search_space import SearchSpace
from studies.stopping import Judge, Stopped, WilcoxonJudge
from studies.trial_log import Direction, TrialLog, values_of

if TYPE_CHECKING:
    from studies.context import Context

#: What a trial's parameters cost, in accuracy.
Price = Callable[[Mapping[str, Any]], float]

#: What comes of a trial: what it had been measured already, a fresh evaluation, or that it was given up.
Outcome = Measured | Evaluation | Stopped


class Optimisation(ABC):
    """The trials of one sampler: where they are written, and what is told of them."""

    def __init__(self, context: "Context", method: str, space: SearchSpace, ask: Ask) -> None:
        self.context, self.method, self.space, self.ask = context, method, space, ask

    def run(self, ended: Callable[[Sequence[FrozenTrial]], bool] = lambda _: False) -> list[FrozenTrial]:
        """Go on until all trials are told, nothing new is left, `ended` says so, or a limit is reached.

        Returns the told trials in order. Those that are under way at a limit stay as they are.
        """
        under_way: dict[int, Future[Outcome]] = {}
        exhausted = False
        while True:
            trials = [trial for trial in self.trials() if trial.state in _KNOWN]
            told = [trial for trial in trials if trial.state != TrialState.RUNNING]
            running = [trial for trial in trials if trial.state == TrialState.RUNNING]
            if self.context.limit_reached:
                return told
            for trial in running:
                if trial.number not in under_way:
                    under_way[trial.number] = self.begin(trial, self._known_to(trials.index(trial), trials))
            room = len(running) < self.context.parallel_trials and len(trials) < self.space.trials
            if room and not exhausted and not ended(told):
                proposal = self._propose(told, running)
                exhausted = proposal is None
                if proposal is not None:
                    self.context.before_write()
                    self.add(proposal)
                    continue
            if not running:
                return told
            oldest = running[0]
            self._tell(oldest, under_way.pop(oldest.number), told)

    def _known_to(self, index: int, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """The trials that had been told when trial number `index` was proposed."""
        return list(trials[: max(0, index - self.context.parallel_trials + 1)])

    def _propose(self, told: Sequence[FrozenTrial], running: Sequence[FrozenTrial]) -> FrozenTrial | None:
        means = [statistics.fmean(column) for column in zip(*map(values_of, told), strict=True)]
        pending = [Pending(trial, self.lie(trial, means)) for trial in running]
        return propose(self.ask, told, self.known(told), pending)

    def _tell(self, trial: FrozenTrial, future: Future[Outcome], told: Sequence[FrozenTrial]) -> None:
        try:
            outcome = future.result()
        except EvaluationError as error:
            self.fail(trial, error, told)
        else:
            self.tell(trial, outcome)

    @abstractmethod
    def trials(self) -> Sequence[FrozenTrial]:
        """All of them, in order."""

    @abstractmethod
    def known(self, told: Sequence[FrozenTrial]) -> dict[str, Sequence[float]]:
        """The values of every key that must not be proposed again."""

    @abstractmethod
    def lie(self, trial: FrozenTrial, means: Sequence[float]) -> Sequence[float]:
        """What the sampler is told of a trial under way; `means` are those of the told ones, if any."""

    @abstractmethod
    def add(self, proposal: FrozenTrial) -> None:
        """Write a proposal as a running trial."""

    @abstractmethod
    def begin(self, trial: FrozenTrial, told: Sequence[FrozenTrial]) -> Future[Outcome]:
        """Begin its evaluation, by what trials had been told when it was proposed."""

    @abstractmethod
    def tell(self, trial: FrozenTrial, outcome: Outcome) -> None:
        """Write what came of it."""

    @abstractmethod
    def fail(self, trial: FrozenTrial, error: EvaluationError, told: Sequence[FrozenTrial]) -> None:
        """Write that it cannot be evaluated."""


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
        super().__init__(context, method, space, ask)
        self._log = TrialLog(storage, name, [direction])
        self._direction, self._price, self._value = direction, price, value

    def trials(self) -> Sequence[FrozenTrial]:
        return self._log.trials

    def known(self, told: Sequence[FrozenTrial]) -> dict[str, Sequence[float]]:
        return {trial.user_attrs["key"]: values_of(trial) for trial in told}

    def lie(self, trial: FrozenTrial, means: Sequence[float]) -> Sequence[float]:  # noqa: ARG002
        return means or [0.0]

    def add(self, proposal: FrozenTrial) -> None:
        self._log.add(proposal)

    def begin(self, trial: FrozenTrial, told: Sequence[FrozenTrial]) -> Future[Outcome]:
        pruning = self.space.suggest(FixedTrial(trial.params))
        judge = self._rival(told, trial.params) if self._value is None else None
        return self.context.begin_measuring(pruning, judge)

    def tell(self, trial: FrozenTrial, outcome: Outcome) -> None:
        pruning = self.space.suggest(FixedTrial(trial.params))
        if isinstance(outcome, Stopped):
            self.context.before_write()
            estimate = [outcome.accuracy - self._price(trial.params)]
            self._log.end(trial.number, TrialState.PRUNED, None, stopped_attrs(outcome, estimate))
            self.context.told()
            return
        params = {**self.space.constants, **trial.params}
        measured = self.context.keep(self.method, params, pruning, outcome)
        found = measured.accuracy - self._price(trial.params)
        found = found if self._value is None else self._value(trial.params)
        self.context.before_write()
        self._log.end(trial.number, TrialState.COMPLETE, [found])

    def fail(self, trial: FrozenTrial, error: EvaluationError, told: Sequence[FrozenTrial]) -> None:
        worst = max if self._direction == "minimize" else min
        estimate = [worst((values_of(other)[0] for other in told), default=0.0)]
        pruning = self.space.suggest(FixedTrial(trial.params))
        self.context.before_write()
        attrs = {"reason": str(error), "estimate": estimate}
        self._log.end(trial.number, TrialState.FAIL, None, attrs)
        self.context.keep_failure(self.method, {**self.space.constants, **trial.params}, pruning, error)

    def _rival(self, told: Sequence[FrozenTrial], params: Mapping[str, Any]) -> Judge | None:
        """Compares with the sub-study's best trial so far."""
        if not self.space.early_stopping:
            return None
        best = best_of(told, "maximize", self.context.main)
        if best is None:
            return None
        scores = self.context.evaluate(best[1].pruning).scores
        return WilcoxonJudge(scores, self._price(params) - self._price(best[0].params))


class Front(Optimisation):
    """Accuracy and FLOPs ratio at once, in the main study itself."""

    def __init__(self, context: "Context", method: str, space: SearchSpace, ask: Ask) -> None:
        super().__init__(context, method, space, ask)
        #: of members of the front, by key
        self._scores: dict[str, Sequence[float]] = {}

    def trials(self) -> Sequence[FrozenTrial]:
        return self.context.main.trials_of(self.method)

    def known(self, told: Sequence[FrozenTrial]) -> dict[str, Sequence[float]]:
        ended = {trial.user_attrs["key"]: values_of(trial) for trial in told}
        return {**ended, **self.context.main.values}

    def lie(self, trial: FrozenTrial, means: Sequence[float]) -> Sequence[float]:
        return [means[0] if means else 0.0, self._ratio(trial)]

    def add(self, proposal: FrozenTrial) -> None:
        attrs = self.context.attrs(self.method, proposal.params, self._pruning(proposal))
        self.context.main.begin(proposal, attrs)

    def begin(self, trial: FrozenTrial, told: Sequence[FrozenTrial]) -> Future[Outcome]:
        return self.context.begin_measuring(self._pruning(trial), self._dominating(trial, told))

    def tell(self, trial: FrozenTrial, outcome: Outcome) -> None:
        self.context.before_write()
        main = self.context.main
        if isinstance(outcome, Stopped):
            estimate = [outcome.accuracy, self._ratio(trial)]
            main.end(trial.number, TrialState.PRUNED, stopped_attrs(outcome, estimate))
        else:
            assert isinstance(outcome, Evaluation)  # what is known is never proposed
            self.context.on_trial(main.finish(trial.number, outcome))
        self.context.told()

    def fail(self, trial: FrozenTrial, error: EvaluationError, told: Sequence[FrozenTrial]) -> None:  # noqa: ARG002
        self.context.before_write()
        attrs = {"reason": str(error), "estimate": [0.0, self._ratio(trial)]}
        self.context.main.end(trial.number, TrialState.FAIL, attrs)
        self.context.main.check_failures()

    def _pruning(self, trial: FrozenTrial) -> Pruning | None:
        return self.space.suggest(FixedTrial(trial.params))

    def _ratio(self, trial: FrozenTrial) -> float:
        pruning, context = self._pruning(trial), self.context
        schedule = (1.0,) * context.num_layers if pruning is None else pruning.schedule
        return decoder_ratio(context.shape, schedule, context.samples)

    def _dominating(self, trial: FrozenTrial, told: Sequence[FrozenTrial]) -> Judge | None:
        """Compares with the front of what had been told, where anything on it costs no more."""
        if not self.space.early_stopping:
            return None
        context, ratio, seen = self.context, self._ratio(trial), {other.number for other in told}
        known = [m for m in context.main if m.method != self.method or m.number in seen]
        if all(measured.flops_ratio > ratio for measured in known):
            return None
        front = [known[i] for i in pareto_front([measured.point for measured in known])]
        ours = [measured for measured in known if measured.method == self.method]
        return FrontJudge(
            ratio,
            [(member.flops_ratio, self._scores_of(member)) for member in front],
            [(values_of(t)[1], t.user_attrs["bound"]) for t in told if t.state == TrialState.PRUNED],
            accuracy_to_win(ours, context.baseline.accuracy, context.max_drop, ratio),
        )

    def _scores_of(self, member: Measured) -> Sequence[float]:
        if member.key not in self._scores:
            self._scores[member.key] = self.context.evaluate(member.pruning).scores
        return self._scores[member.key]


def best_of(
    told: Sequence[FrozenTrial], direction: Direction, main: MainStudy
) -> tuple[FrozenTrial, Measured] | None:
    """The best finished trial of a sub-study with what was measured for it; of equals the first."""
    sign = 1 if direction == "maximize" else -1
    finished = [trial for trial in told if trial.state == TrialState.COMPLETE]
    for trial in sorted(finished, key=lambda t: (-sign * t.values[0], t.number)):
        measured = main.find(trial.user_attrs["key"])
        if measured is not None:
            return trial, measured
    return None


def stopped_attrs(stopped: Stopped, estimate: Sequence[float]) -> dict[str, Any]:
    """User attributes of a trial that was given up."""
    return {
        "samples": stopped.samples,
        "seconds": stopped.seconds,
        "estimate": list(estimate),
        "bound": stopped.bound,
    }


def describe(method: str, params: Mapping[str, Any]) -> str:
    """One line for people: the method and its parameters."""
    shown = (
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in params.items()
    )
    return f"{method}: {', '.join(shown)}" if params else method


#: those of other states are nobody's
_KNOWN = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
