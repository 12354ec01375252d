"""What a search works with: measure a pruning, optimise over prunings; both go on where a process died.

The order that makes this safe: evaluate (remembered by the caller), write the trial in the main study unless
its key is there, write that of the sub-study. A process that dies between two of these repeats a look-up,
never an evaluation.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import optuna
from optuna.storages import BaseStorage, get_storage

from pruners.costs import ModelShape, decoder_ratio
from pruners.costs.ratios import Schedule
from pruners.pruning import KeepSchedule, Pruning
from studies.asking import Ask, mix
from studies.errors import EvaluationError
from studies.main_study import DIRECTIONS, MainStudy
from studies.measured import Evaluation, Measured, asked_attrs, cheapest_within, costs_of
from studies.one_value import OneValue, Price
from studies.optimisation import Outcome, best_of, describe
from studies.search_space import Best, Dimensions, SearchSpace
from studies.stopping import Judge, Stopped
from studies.trial_log import Direction
from studies.whole_front import WholeFront

__all__ = ["Best", "Context", "Dimensions", "LimitReachedError", "SearchSpace"]


class LimitReachedError(Exception):
    """A limit is used up. The driver ends the study with what it has; a user never sees this."""


class Wanted(NamedTuple):
    """A pruning to be measured, what asks for it, and what its trial is called."""

    method: str
    params: Mapping[str, float | int]
    pruning: Pruning | None
    label: str | None = None


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
    #: the same, without waiting for the end, and given up as soon as the judge, if any, says that the pruning
    #: has lost (what was given up is not remembered); None: `evaluate`, here and now
    begin: Callable[[Pruning | None, Judge | None], Future[Evaluation | Stopped]] | None = None
    #: the evaluation's key: equal integers, equal key
    key_of: Callable[[Pruning | None], str]
    #: longer side of the largest grid of visual tokens, in tokens
    grid: int
    split: str = "search"
    #: accuracy that a result may lose against no pruning
    max_drop: float = 0.01
    #: parameters to try before a sampler is asked, by sub-study or, for a whole front, method
    try_first: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    #: trials that are under way at once
    parallel_trials: int = 1
    #: hours that the study may run, earlier runs included; None: no limit
    hours: float | None = None
    #: schedules that it may measure, no pruning aside; None: no limit
    trials: int | None = None
    #: when this run began, by `time.monotonic`
    started: float = field(default_factory=lambda: time.monotonic())
    #: called after every new trial of the main study
    on_trial: Callable[[Measured], None] = lambda _: None
    #: whether somebody wants the study to end now, with its best so far; may raise to end it in another way
    stopping: Callable[[], bool] = lambda: False
    #: entered for the time of a phase: "asking", "evaluating" (waiting for that) or "writing"
    phase: Callable[[str], AbstractContextManager[None]] = lambda _: nullcontext()

    main: MainStudy = field(init=False)
    #: what the search recommends, by label, and what it compares that with
    recommended: dict[str, Measured] = field(init=False, default_factory=dict)
    compared: dict[str, Measured] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._storage = get_storage(self.storage)
        self._lengths = Counter(self.samples)
        self._visual = sorted({visual for visual, _ in self._lengths})
        #: by the token counts of every number of visual tokens
        self._ratios: dict[tuple[tuple[int, ...], ...], float] = {}
        self.main = MainStudy(self._storage, self.name)
        self._earlier = self.main.hours if self.hours is not None else 0.0

    @property
    def limit_reached(self) -> bool:
        """Whether nothing may be evaluated any more."""
        if self.stopping():
            return True
        late = self.hours is not None and self._hours_used() >= self.hours
        return late or (self.trials is not None and self.main.tried >= self.trials)

    def _hours_used(self) -> float:
        return self._earlier + (time.monotonic() - self.started) / 3600

    def write(self) -> None:
        """Write what the main study has taken in, and how long it has taken so far."""
        with self.phase("writing"):
            self.main.write()
            if self.hours is not None:
                self.main.hours = self._hours_used()

    def wait_for(self, future: Future[Outcome]) -> Outcome:
        """Wait for an evaluation."""
        with self.phase("evaluating"):
            return future.result()

    def ratio_of(self, schedule: Schedule) -> float:
        """FLOPs ratio of a schedule, or keep rates, on the split, without evaluating anything.

        Whoever solves for a budget asks again and again for the same whole numbers.
        """
        keep = KeepSchedule.for_depth(self.num_layers, schedule)
        counts = tuple(keep.counts(visual) for visual in self._visual)
        if counts not in self._ratios:
            self._ratios[counts] = decoder_ratio(self.shape, keep, self._lengths)
        return self._ratios[counts]

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

        Raises:
            LimitReachedError: it would have to evaluate beyond a limit; no pruning is always measured.
            EvaluationError: it cannot be evaluated.
        """
        known = self.main.find(self.key_of(pruning))
        if known is not None:
            return known
        outcome = self.wait_for(self.begin_measuring(pruning))
        measured = self.keep(method, params, pruning, outcome, label)
        self.write()
        return measured

    def measure_all(self, wanted: Iterable[Wanted]) -> Iterator[Measured]:
        """As `measure`, `parallel_trials` at a time; those that cannot be evaluated are left out.

        They are given and written in order; what was given is written by the end at the latest.

        Raises:
            LimitReachedError: as `measure` does.
            EvaluationError: several have failed in a row.
        """
        under_way: deque[tuple[Wanted, str, Future[Outcome]]] = deque()

        def finish_first() -> Iterator[Measured]:
            self.write()  # what came before, while others are at work
            (method, params, pruning, label), _, future = under_way.popleft()
            try:
                yield self.keep(method, params, pruning, self.wait_for(future), label)
            except EvaluationError as error:
                self.keep_failure(method, params, pruning, error, label)

        try:
            for each in wanted:
                key = self.key_of(each.pruning)
                while len(under_way) >= self.parallel_trials or key in {known for _, known, _ in under_way}:
                    yield from finish_first()
                under_way.append((each, key, self.begin_measuring(each.pruning)))
            while under_way:
                yield from finish_first()
        finally:
            self.write()

    def begin_measuring(self, pruning: Pruning | None, judge: Judge | None = None) -> Future[Outcome]:
        """Begin an evaluation; what was measured, or failed, under its key already is the outcome at once.

        Raises LimitReachedError as `measure` does.
        """
        key = self.key_of(pruning)
        future: Future[Outcome] = Future()
        known = self.main.find(key)
        if known is not None:
            future.set_result(known)
        elif failure := self.main.failure(key):
            future.set_exception(failure)
        elif self.limit_reached and pruning is not None:
            raise LimitReachedError
        elif self.begin is not None:
            return self.begin(pruning, judge)  # type: ignore[return-value]
        else:
            try:
                future.set_result(self.evaluate(pruning))
            except Exception as error:  # what an evaluation raises belongs to whoever waits for it
                future.set_exception(error)
        return future

    def keep(
        self,
        method: str,
        params: Mapping[str, float | int],
        pruning: Pruning | None,
        outcome: Outcome,
        label: str | None = None,
    ) -> Measured:
        """Take an evaluation into the main study; one that was measured already is there. To be written."""
        if isinstance(outcome, Measured):
            return outcome
        assert isinstance(outcome, Evaluation)  # nothing is stopped without a judge
        measured = self.main.add(params, self.attrs(method, params, pruning, label), outcome)
        self.on_trial(measured)
        return measured

    def keep_failure(
        self,
        method: str,
        params: Mapping[str, float | int],
        pruning: Pruning | None,
        error: EvaluationError,
        label: str | None = None,
    ) -> None:
        """Take a failed trial into the main study, unless it is there already. To be written.

        Raises EvaluationError when several in a row have failed.
        """
        if self.main.failure(self.key_of(pruning)) is None:
            self.main.add_failed(params, self.attrs(method, params, pruning, label), str(error))
            self.main.check_failures()

    def attrs(
        self, method: str, params: Mapping[str, Any], pruning: Pruning | None, label: str | None = None
    ) -> dict[str, Any]:
        """What a trial of the main study says of itself before it is evaluated."""
        costs, samples = costs_of(pruning, self.shape, self._lengths), len(self.samples)
        label, key = label or describe(method, params), self.key_of(pruning)
        return asked_attrs(method, label, key, pruning, costs, samples, self.split)

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
        end the search early by a finished trial's value. Told trials are read, not run. At a limit it returns
        the best so far.

        Raises:
            LimitReachedError: there is none.
            EvaluationError: there is none, and no limit is to blame.
        """
        ask = self._ask(space, [direction], suffix)
        name = f"{self.name}/{suffix}"
        search = OneValue(self, method, space, ask, self._storage, name, direction, price, value)
        told = search.run(lambda told: any(stop_when(trial.values[0]) for trial in told if trial.values))
        best = best_of(told, direction, self.main)
        if best is None:
            if self.limit_reached:
                raise LimitReachedError
            raise EvaluationError(f"{method}: no schedule could be evaluated ({self.main.newest_reason})")
        return Best(trial=best[0], measured=best[1], told=told)

    def optimise_front(self, method: str, space: SearchSpace) -> None:
        """Search both values at once, in the main study itself."""
        WholeFront(self, method, space, self._ask(space, DIRECTIONS, method)).run()

    def _ask(self, space: SearchSpace, directions: Sequence[Direction], suffix: str) -> Ask:
        return Ask(
            directions=directions,
            suggest=space.suggest,
            key_of=self.key_of,
            sampler=space.sampler,
            initial=space.initial,
            seed=mix(self.seed, suffix),
            enqueue=[*space.enqueue, *(p for p in self.try_first.get(suffix, ()) if space.holds(p))],
        )
