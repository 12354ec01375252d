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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial, TrialState

from studies.asking import Ask, Pending, Proposer
from studies.errors import EvaluationError
from studies.main_study import MainStudy
from studies.measured import Evaluation, Measured
from studies.search_space import SearchSpace
from studies.stopping import Stopped
from studies.trial_log import Direction, values_of

if TYPE_CHECKING:
    from studies.context import Context

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
        unwritten = 0
        try:
            while not self.context.limit_reached:
                self._fill(under_way, enough)
                if not under_way:
                    break
                proposal, future = under_way.popleft()
                # while others are at work; but whoever has nothing to do comes first
                if not future.done() or unwritten >= self.context.parallel_trials:
                    self.write()
                    unwritten = 0
                self._tell(proposal, future)
                unwritten += 1
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


def first_again(ask: Ask, space: SearchSpace, failed: Sequence[FrozenTrial]) -> Ask:
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
