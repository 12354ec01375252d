"""The study that people see: one Optuna trial, with two values, for every pruning that was evaluated."""

import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from studies.errors import EvaluationError
from studies.measured import Evaluation, Measured, read_trial
from studies.trial_log import Direction, TrialLog, ended

DIRECTIONS: tuple[Direction, ...] = ("maximize", "minimize")
METRIC_NAMES = ("accuracy", "flops_ratio")
#: so many failed trials in a row are no matter of their schedules
MOST_FAILURES = 3


class MainStudy:
    """The two-objective study `name`: (accuracy, maximise) and (FLOPs ratio, minimise).

    Every key has at most one finished trial; a trial is written whole, or not at all. There is one writer,
    and it writes what it has taken in when `write` is called.
    """

    def __init__(self, storage: BaseStorage, name: str) -> None:
        self._log = TrialLog(storage, name, DIRECTIONS)
        self.study = self._log.study
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.set_metric_names(list(METRIC_NAMES))
        #: by key, in order of trial numbers
        self._measured: dict[str, Measured] = {}
        self._failed: dict[str, str] = {}
        #: by method, all that count
        self._trials: dict[str, list[FrozenTrial]] = defaultdict(list)
        for trial in self._log.standing:
            self._note(trial)

    def __iter__(self) -> Iterator[Measured]:
        """All that was measured, in order of trial numbers."""
        return iter(self._measured.values())

    def find(self, key: str) -> Measured | None:
        """Return what was measured under this key, by whatever method."""
        return self._measured.get(key)

    def failure(self, key: str) -> EvaluationError | None:
        """Return why the evaluation under this key failed before; None when it did not."""
        reason = self._failed.get(key)
        return None if reason is None else EvaluationError(reason)

    @property
    def newest_reason(self) -> str:
        """Why the newest failure failed."""
        return next(reversed(self._failed.values()), "nothing failed")

    @property
    def tried(self) -> int:
        """How many schedules were measured, no pruning aside."""
        return sum(measured.pruning is not None for measured in self._measured.values())

    def add(
        self, params: Mapping[str, float | int], attrs: Mapping[str, Any], evaluation: Evaluation
    ) -> Measured:
        """Take in one finished trial; `attrs` as `asked_attrs` returns them."""
        self._add(TrialState.COMPLETE, params, attrs, [evaluation.accuracy, evaluation.decoder_ratio])
        return self._measured[attrs["key"]]

    def add_failed(self, params: Mapping[str, float | int], attrs: Mapping[str, Any], reason: str) -> None:
        """Take in one failed trial, with its reason."""
        self._add(TrialState.FAIL, params, {**attrs, "reason": reason}, None)

    def _add(
        self,
        state: TrialState,
        params: Mapping[str, float | int],
        attrs: Mapping[str, Any],
        values: Sequence[float] | None,
    ) -> None:
        trial = optuna.create_trial(
            state=state,
            values=values,
            params=dict(params),
            distributions={name: _around(value) for name, value in params.items()},
            user_attrs=dict(attrs),
        )
        self._note(self._log.add(trial))

    def check_failures(self) -> None:
        """Raise EvaluationError when the newest `MOST_FAILURES` trials failed, one after the other."""
        newest = self._log.standing[-MOST_FAILURES:]
        if len(newest) == MOST_FAILURES and all(trial.state == TrialState.FAIL for trial in newest):
            reason = newest[-1].user_attrs["reason"]
            raise EvaluationError(f"{MOST_FAILURES} schedules failed in a row, the last one: {reason}")

    def trials_of(self, method: str) -> list[FrozenTrial]:
        """Return the trials that this method asked for in this study itself, in order."""
        return list(self._trials[method])

    def retried_of(self, method: str) -> list[FrozenTrial]:
        """Return its failed trials that are to be tried again."""
        return [trial for trial in self._log.retried if trial.user_attrs.get("method") == method]

    def finish(self, proposal: FrozenTrial, attrs: Mapping[str, Any], evaluation: Evaluation) -> Measured:
        """Take in a proposal with its values."""
        values = [evaluation.accuracy, evaluation.decoder_ratio]
        self._note(self._log.add(ended(proposal, TrialState.COMPLETE, values, attrs)))
        return self._measured[attrs["key"]]

    def give_up(self, proposal: FrozenTrial, state: TrialState, attrs: Mapping[str, Any]) -> None:
        """Take in a proposal that has no values; `attrs` say why."""
        self._note(self._log.add(ended(proposal, state, None, attrs)))

    def write(self) -> None:
        """Write all that was taken in."""
        self._log.write()

    @property
    def hours(self) -> float:
        """How long the study has been running, all runs of it together, in hours."""
        return float(self.study.user_attrs.get("hours", 0.0))

    @hours.setter
    def hours(self, hours: float) -> None:
        self.study.set_user_attr("hours", hours)

    def _note(self, trial: FrozenTrial) -> None:
        self._trials[trial.user_attrs["method"]].append(trial)
        if trial.state == TrialState.COMPLETE:
            measured = read_trial(trial)
            self._measured[measured.key] = measured
        elif trial.state == TrialState.FAIL:
            self._failed[trial.user_attrs["key"]] = trial.user_attrs["reason"]


def _around(value: Any) -> BaseDistribution:
    """Return a distribution that holds the value: Optuna wants one for each parameter of a finished trial."""
    if isinstance(value, int):
        return IntDistribution(min(0, value), max(1, value))
    return FloatDistribution(min(0.0, value), max(1.0, value))
