"""What a search works with: measure a pruning, optimise over prunings; both go on where a process died.

The order that makes this safe: evaluate (remembered by the caller), write the trial in the main study unless
its key is there, tell the sub-study. A process that dies between two of these repeats a look-up, never an
evaluation.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.storages import BaseStorage, get_storage
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from pruners.costs import ModelShape, decoder_ratio
from pruners.pruning import Pruning
from studies.asking import Ask, mix, propose
from studies.main_study import DIRECTIONS, Direction, MainStudy, open_study, stop, stopped_seconds, values_of
from studies.measured import Evaluation, Measured, cheapest_within
from studies.search_space import Best, Dimensions, SearchSpace
from studies.stopping import Judge, Stopped, WilcoxonJudge

__all__ = ["Best", "Context", "Dimensions", "OutOfTimeError", "SearchSpace"]


#: What a trial's parameters cost, in accuracy.
Price = Callable[[Mapping[str, Any]], float]


class OutOfTimeError(Exception):
    """`limits.hours` is used up. The driver ends the study with what it has; a user never sees this."""


@dataclass(kw_only=True)
class Context:
    """One study's surroundings: its storage, its model's shape, its samples, and the way to evaluate."""

    #: an Optuna storage or its URL
    storage: BaseStorage | str
    #: name of the study; sub-studies are called name/suffix
    name: str
    seed: int
    num_layers: int
    #: the first layer that the searches may reduce
    first_prunable: int
    #: N of the largest sample
    visual_tokens: int
    #: (visual tokens, text tokens) of every sample of the split
    samples: Sequence[tuple[int, int]]
    shape: ModelShape
    #: evaluates a pruning (None: none) on the split; must remember, so that a repeat costs nothing
    evaluate: Callable[[Pruning | None], Evaluation]
    #: the same, but given up as soon as the judge says that the pruning has lost; None where that is not
    #: possible. What was given up is not remembered
    evaluate_until: Callable[[Pruning, Judge], Evaluation | Stopped] | None = None
    #: the evaluation's key: equal integers, equal key
    key_of: Callable[[Pruning | None], str]
    #: longer side of the largest grid of visual tokens, in tokens
    grid: int
    split: str = "search"
    #: accuracy that a result may lose against no pruning
    max_drop: float = 0.01
    #: hours of evaluation, earlier runs of the same study included; None: no limit
    hours: float | None = None
    #: called after every new trial of the main study
    on_trial: Callable[[Measured], None] = lambda _: None
    #: called before every write to Optuna's studies; may raise where this process must not write any more
    before_write: Callable[[], None] = lambda: None

    main: MainStudy = field(init=False)
    #: what the search recommends, by label, and what it compares that with
    recommended: dict[str, Measured] = field(init=False, default_factory=dict)
    compared: dict[str, Measured] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._storage = get_storage(self.storage)
        self.main = MainStudy(self._storage, self.name)
        used = sum(measured.seconds for measured in self.main if not measured.cached)
        used += stopped_seconds(self._storage, self.name)
        self._deadline = float("inf") if self.hours is None else time.monotonic() + self.hours * 3600 - used

    @property
    def out_of_time(self) -> bool:
        return time.monotonic() >= self._deadline

    def ratio_of(self, keep_rates: Sequence[float]) -> float:
        """FLOPs ratio of these rates on the split, without evaluating anything."""
        return decoder_ratio(self.shape, tuple(keep_rates), self.samples)

    @property
    def size(self) -> Dimensions:
        return Dimensions(self.num_layers, self.first_prunable, self.visual_tokens)

    @property
    def baseline(self) -> Measured:
        """No pruning; evaluated when it has not been."""
        return self.measure("baseline", {}, None, "no pruning")

    def choose(self, tried: Sequence[Measured]) -> Measured:
        """Return the cheapest that loses at most `max_drop` against no pruning, else the most accurate."""
        return cheapest_within(tried, self.baseline.accuracy, self.max_drop)

    def measure(
        self,
        method: str,
        params: Mapping[str, float | int],
        pruning: Pruning | None,
        label: str | None = None,
    ) -> Measured:
        """Evaluate a pruning and write its trial, unless one with the same integers is there already.

        Raises OutOfTimeError when it would have to evaluate after the deadline; no pruning is always
        measured.
        """
        key = self.key_of(pruning)
        known = self._known(key, pruning)
        return known or self._add(method, params, pruning, key, self.evaluate(pruning), label)

    def _known(self, key: str, pruning: Pruning | None) -> Measured | None:
        """What the main study holds of a key; OutOfTimeError where it holds nothing and time is up."""
        known = self.main.find(key)
        if known is None and self.out_of_time and pruning is not None:
            raise OutOfTimeError
        return known

    def _add(
        self,
        method: str,
        params: Mapping[str, float | int],
        pruning: Pruning | None,
        key: str,
        evaluation: Evaluation,
        label: str | None = None,
    ) -> Measured:
        label = label or describe(method, params)
        self.before_write()
        measured = self.main.add(method, label, key, pruning, params, evaluation, self.split)
        self.on_trial(measured)
        return measured

    def optimise(
        self,
        suffix: str,
        method: str,
        space: SearchSpace,
        *,
        price: Price = lambda _: 0.0,
        value: Callable[[Mapping[str, Any]], float] | None = None,
        direction: Direction = "maximize",
        stop_when: Callable[[float], bool] = lambda _: False,
    ) -> Best:
        """Search one value in the sub-study `name/suffix` and return the best trial.

        The objective is accuracy less `price` of a trial's parameters, or `value` of them; `stop_when` may
        end the search early by the last value. Told trials are read, not run. Out of time it returns the best
        so far, and raises OutOfTimeError only when there is none.
        """
        study = open_study(self._storage, f"{self.name}/{suffix}", [direction])
        ask = self._ask(space, [direction], suffix)
        while True:
            told, running = _split(study.get_trials(deepcopy=False))
            ended = len(told) >= space.trials or (told and stop_when(values_of(told[-1])[0]))
            if self.out_of_time or (ended and running is None):
                return self._best(told, direction)
            if running is None:
                proposal = propose(ask, told, {trial.user_attrs["key"]: values_of(trial) for trial in told})
                if proposal is None:
                    return self._best(told, direction)
                self.before_write()
                study.add_trial(proposal)
                continue
            pruning = space.suggest(FixedTrial(running.params))
            params, key = {**space.constants, **running.params}, self.key_of(pruning)
            measured = self._known(key, pruning)
            if measured is None:
                judge = self._rival(space, told, running.params, price) if value is None else None
                evaluation = self._evaluate(pruning, judge)
                if isinstance(evaluation, Stopped):
                    self.before_write()
                    estimate = [evaluation.accuracy - price(running.params)]
                    stop(self._storage, study, running.number, evaluation, estimate)
                    continue
                measured = self._add(method, params, pruning, key, evaluation)
            found = measured.accuracy - price(running.params) if value is None else value(running.params)
            self.before_write()
            study.tell(running.number, found)

    def optimise_front(self, method: str, space: SearchSpace) -> None:
        """Search both values at once, in the main study itself."""
        ask = self._ask(space, DIRECTIONS, method)
        while True:
            told, running = _split(self.main.trials_of(method))
            if self.out_of_time or (len(told) >= space.trials and running is None):
                return
            if running is None:
                stopped = {trial.user_attrs["key"]: values_of(trial) for trial in told}
                proposal = propose(ask, told, {**stopped, **self.main.values})
                if proposal is None:
                    return
                pruning = space.suggest(FixedTrial(proposal.params))
                self.before_write()
                self.main.begin(proposal, method, describe(method, proposal.params), pruning)
                continue
            pruning = space.suggest(FixedTrial(running.params))
            schedule = (1.0,) * self.num_layers if pruning is None else pruning.schedule
            ratio = decoder_ratio(self.shape, schedule, self.samples)
            evaluation = self._evaluate(pruning, self._dominating(space, ratio))
            self.before_write()
            if isinstance(evaluation, Stopped):
                stop(self._storage, self.main.study, running.number, evaluation, [evaluation.accuracy, ratio])
            else:
                self.on_trial(self.main.finish(running.number, evaluation, self.split))

    def _evaluate(self, pruning: Pruning | None, judge: Judge | None) -> Evaluation | Stopped:
        if judge is None or pruning is None or self.evaluate_until is None:
            return self.evaluate(pruning)
        return self.evaluate_until(pruning, judge)

    def _rival(
        self, space: SearchSpace, told: Sequence[FrozenTrial], params: Mapping[str, Any], price: Price
    ) -> Judge | None:
        """Compares with the sub-study's best trial so far."""
        if not space.early_stopping or not any(trial.state == TrialState.COMPLETE for trial in told):
            return None
        best = self._best(told, "maximize")
        scores = self.evaluate(best.measured.pruning).scores
        return WilcoxonJudge(scores, price(params) - price(best.trial.params))

    def _dominating(self, space: SearchSpace, ratio: float) -> Judge | None:
        """Compares with the most accurate of what costs no more."""
        cheaper = [measured for measured in self.main if measured.flops_ratio <= ratio]
        if not space.early_stopping or not cheaper:
            return None
        rival = max(cheaper, key=lambda measured: (measured.accuracy, -measured.number))
        return Judge(self.evaluate(rival.pruning).scores)

    def _ask(self, space: SearchSpace, directions: Sequence[Direction], suffix: str) -> Ask:
        return Ask(
            directions=directions,
            suggest=space.suggest,
            key_of=self.key_of,
            sampler=space.sampler,
            initial=space.initial,
            seed=mix(self.seed, suffix),
            enqueue=space.enqueue,
        )

    def _best(self, told: Sequence[FrozenTrial], direction: Direction) -> Best:
        sign = 1 if direction == "maximize" else -1
        finished = [trial for trial in told if trial.state == TrialState.COMPLETE]
        for trial in sorted(finished, key=lambda t: (-sign * t.values[0], t.number)):
            measured = self.main.find(trial.user_attrs["key"])
            if measured is not None:
                return Best(trial=trial, measured=measured, told=told)
        raise OutOfTimeError


def describe(method: str, params: Mapping[str, Any]) -> str:
    """One line for people: the method and its parameters."""
    shown = (
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in params.items()
    )
    return f"{method}: {', '.join(shown)}" if params else method


def _split(trials: Sequence[FrozenTrial]) -> tuple[list[FrozenTrial], FrozenTrial | None]:
    """Split into finished trials and the running one, which a dead process may have left."""
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    return [trial for trial in trials if trial.state in ended], next(iter(running), None)
