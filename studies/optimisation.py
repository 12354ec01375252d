"""The loop of a search: propose, evaluate, tell. Several trials are under way at once.

With P of them (`Context.parallel_trials`), trial n is proposed by what trials 0 to n - P have told; for
those in between the sampler is told the mean so far (a constant liar: Ginsbourger, Le Riche, Carraro 2010,
section 4.2), so that it looks elsewhere. Trials are told in the order in which they were proposed. So what a
study does depends on P but neither on who evaluates, nor on which trial is ready first, nor on when a process
died.
"""

import statistics
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from optuna.storages import BaseStorage
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from pruners.pruning import Pruning
from studies.asking import Ask, Pending, Proposer
from studies.dominance import FrontJudge
from studies.errors import EvaluationError
from studies.front import pareto_front
from studies.main_study import MainStudy
from studies.measured import Evaluation, Measured, accuracy_to_win
from studies.search_space import SearchSpace
from studies.stopping import Judge, Stopped, WilcoxonJudge
from studies.trial_log import Direction, TrialLog, ended, values_of

if TYPE_CHECKING:
    from studies.context import Context

#: What a trial's parameters cost, in accuracy.
Price = Callable[[Mapping[str, Any]], float]

#: What comes of a trial: what it had been measured already, a fresh evaluation, or that it was given up.
Outcome = Measured | Evaluation | Stopped


class Optimisation(ABC):
    """The trials of one sampler: where they are written, and what is told of them."""

    def __init__(self, context: "Context", method: str, space: SearchSpace, ask: Ask) -> None:
        self.context, self.method, self.space = context, method, space
        self._proposer = Proposer(ask)

    def run(self, enough: Callable[[Sequence[FrozenTrial]], bool] = lambda _: False) -> list[FrozenTrial]:
        """Go on until all trials are told, nothing new is left, `enough` says so, or a limit is reached.

        Returns the told trials in order. Those that are under way at a limit are forgotten.
        """
        under_way: deque[tuple[FrozenTrial, Future[Outcome]]] = deque()
        try:
            while not self.context.limit_reached:
                self._fill(under_way, enough)
                if not under_way:
                    break
                self.write()  # while others are at work
                self._tell(*under_way.popleft())
        finally:
            self.write()
        return self.told()

    def _fill(
        self,
        under_way: deque[tuple[FrozenTrial, Future[Outcome]]],
        enough: Callable[[Sequence[FrozenTrial]], bool],
    ) -> None:
        """Propose and begin what there is room for."""
        trials = [*self.told(), *(proposal for proposal, _ in under_way)]
        most = self.context.parallel_trials
        while len(under_way) < most and len(trials) < self.space.trials:
            known = trials[: max(0, len(trials) - most + 1)]
            proposal = None if enough(known) else self._propose(known, trials[len(known) :])
            if proposal is None or self.context.limit_reached:
                return
            under_way.append((proposal, self.begin(proposal, known)))
            trials.append(proposal)

    def _propose(self, known: Sequence[FrozenTrial], later: Sequence[FrozenTrial]) -> FrozenTrial | None:
        means = [statistics.fmean(column) for column in zip(*map(values_of, known), strict=True)]
        pending = [Pending(trial, self.lie(trial, means)) for trial in later]
        with self.context.phase("asking"):
            return self._proposer.propose(known, self.known(known), pending)

    def _tell(self, proposal: FrozenTrial, future: Future[Outcome]) -> None:
        try:
            outcome = self.context.wait_for(future)
        except EvaluationError as error:
            self.fail(proposal, error)
        else:
            self.tell(proposal, outcome)

    @abstractmethod
    def told(self) -> list[FrozenTrial]:
        """All that have ended, in order."""

    @abstractmethod
    def known(self, told: Sequence[FrozenTrial]) -> dict[str, Sequence[float]]:
        """The values of every key that must not be proposed again."""

    @abstractmethod
    def lie(self, trial: FrozenTrial, means: Sequence[float]) -> Sequence[float]:
        """What the sampler is told of a trial under way; `means` are those of the told ones, if any."""

    @abstractmethod
    def begin(self, proposal: FrozenTrial, known: Sequence[FrozenTrial]) -> Future[Outcome]:
        """Begin its evaluation; a judge may look at the trials that are `known`."""

    @abstractmethod
    def tell(self, proposal: FrozenTrial, outcome: Outcome) -> None:
        """Take in what came of it."""

    @abstractmethod
    def fail(self, proposal: FrozenTrial, error: EvaluationError) -> None:
        """Take in that it cannot be evaluated."""

    @abstractmethod
    def write(self) -> None:
        """Write what was taken in."""


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
        super().__init__(context, method, space, _first_again(ask, space, self._log.retried))
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


class Front(Optimisation):
    """Accuracy and FLOPs ratio at once, in the main study itself."""

    def __init__(self, context: "Context", method: str, space: SearchSpace, ask: Ask) -> None:
        super().__init__(context, method, space, _first_again(ask, space, context.main.retried_of(method)))
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


def _first_again(ask: Ask, space: SearchSpace, failed: Sequence[FrozenTrial]) -> Ask:
    """Ask for what failed and shall be tried again before anything else."""
    again = [trial.params for trial in failed if space.holds(trial.params)]
    return replace(ask, enqueue=[*again, *ask.enqueue])


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
