"""The study that people see: one Optuna trial, with two values, for every pruning that was evaluated."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from pruners.pruning import Pruning
from studies.errors import EvaluationError
from studies.measured import Evaluation, Measured, asked_attrs, read_trial, told_attrs

Direction = Literal["maximize", "minimize"]
DIRECTIONS: tuple[Direction, ...] = ("maximize", "minimize")
METRIC_NAMES = ("accuracy", "flops_ratio")
#: so many failed trials in a row are no matter of their schedules
MOST_FAILURES = 3


class MainStudy:
    """The two-objective study `name`: (accuracy, maximise) and (FLOPs ratio, minimise).

    Every key has at most one finished trial; a trial is written whole, or not at all. There is one writer.
    """

    def __init__(self, storage: BaseStorage, name: str) -> None:
        self._storage = storage
        self.study = open_study(storage, name, DIRECTIONS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.set_metric_names(list(METRIC_NAMES))
        self._study_id = storage.get_study_id_from_name(name)
        trials = self.study.get_trials(deepcopy=False)
        self._measured = {m.key: m for t in trials if t.state == TrialState.COMPLETE for m in [read_trial(t)]}
        self._failed: dict[str, str] = {
            t.user_attrs["key"]: t.user_attrs["reason"] for t in trials if t.state == TrialState.FAIL
        }

    def __iter__(self) -> Iterator[Measured]:
        """All that was measured, in order of trial numbers."""
        return iter(sorted(self._measured.values(), key=lambda m: m.number))

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

    @property
    def values(self) -> dict[str, tuple[float, float]]:
        """(accuracy, FLOPs ratio) of every key."""
        return {key: (m.accuracy, m.flops_ratio) for key, m in self._measured.items()}

    def add(
        self,
        method: str,
        label: str,
        key: str,
        pruning: Pruning | None,
        params: Mapping[str, float | int],
        evaluation: Evaluation,
        split: str,
    ) -> Measured:
        """Write one finished trial in one transaction."""
        attrs = asked_attrs(method, label, key, pruning) | told_attrs(evaluation, split)
        trial = optuna.create_trial(
            values=[evaluation.accuracy, evaluation.decoder_ratio],
            params=dict(params),
            distributions={name: _around(value) for name, value in params.items()},
            user_attrs=attrs,
        )
        self.study.add_trial(trial)
        return self._note(self.study.get_trials(deepcopy=False)[-1])

    def add_failed(
        self,
        method: str,
        label: str,
        key: str,
        pruning: Pruning | None,
        params: Mapping[str, float | int],
        reason: str,
    ) -> None:
        """Write one failed trial, with its reason, in one transaction."""
        trial = optuna.create_trial(
            state=TrialState.FAIL,
            params=dict(params),
            distributions={name: _around(value) for name, value in params.items()},
            user_attrs={**asked_attrs(method, label, key, pruning), "reason": reason},
        )
        self.study.add_trial(trial)
        self._failed[key] = reason

    def check_failures(self) -> None:
        """Raise EvaluationError when the newest `MOST_FAILURES` trials failed, one after the other."""
        ended = [t for t in self.study.get_trials(deepcopy=False) if t.state != TrialState.RUNNING]
        newest = ended[-MOST_FAILURES:]
        if len(newest) == MOST_FAILURES and all(trial.state == TrialState.FAIL for trial in newest):
            reason = newest[-1].user_attrs["reason"]
            raise EvaluationError(f"{MOST_FAILURES} schedules failed in a row, the last one: {reason}")

    def trials_of(self, method: str) -> list[FrozenTrial]:
        """Return the trials that this method asked for in this study itself, in order, running ones too."""
        trials = self.study.get_trials(deepcopy=False)
        return [trial for trial in trials if trial.user_attrs.get("method") == method]

    def begin(self, trial: FrozenTrial, method: str, label: str, pruning: Pruning | None) -> None:
        """Write a proposal as a running trial, with all it is known by."""
        for name, value in asked_attrs(method, label, trial.user_attrs["key"], pruning).items():
            trial.set_user_attr(name, value)
        self.study.add_trial(trial)

    def finish(self, number: int, evaluation: Evaluation, split: str) -> Measured:
        """Tell a running trial its values."""
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        for name, value in told_attrs(evaluation, split).items():
            self._storage.set_trial_user_attr(trial_id, name, value)
        return self._note(self.study.tell(number, [evaluation.accuracy, evaluation.decoder_ratio]))

    def end(
        self, number: int, state: TrialState, estimate: Sequence[float], attrs: Mapping[str, Any]
    ) -> None:
        """Tell a running trial that it has no values, and why."""
        end(self._storage, self.study, number, state, estimate, attrs)
        if state == TrialState.FAIL:
            trial = self.study.get_trials(deepcopy=False)[number]
            self._failed[trial.user_attrs["key"]] = trial.user_attrs["reason"]

    @property
    def hours(self) -> float:
        """How long the study has been running, all runs of it together, in hours."""
        return float(self.study.user_attrs.get("hours", 0.0))

    @hours.setter
    def hours(self, hours: float) -> None:
        self.study.set_user_attr("hours", hours)

    def _note(self, trial: FrozenTrial) -> Measured:
        measured = read_trial(trial)
        self._measured[measured.key] = measured
        return measured


def open_study(storage: BaseStorage, name: str, directions: Sequence[Direction]) -> optuna.Study:
    """Open or create a study. Its sampler is never asked: `studies.asking` proposes."""
    return optuna.create_study(
        study_name=name,
        storage=storage,
        directions=list(directions),
        sampler=optuna.samplers.RandomSampler(),
        load_if_exists=True,
    )


def end(
    storage: BaseStorage,
    study: optuna.Study,
    number: int,
    state: TrialState,
    estimate: Sequence[float],
    attrs: Mapping[str, Any],
) -> None:
    """Tell a running trial that it has no values, and why; and what samplers shall take them for.

    Optuna's samplers learn from finished trials alone: a proposal is made with `values_of` in their place.
    """
    study_id = storage.get_study_id_from_name(study.study_name)
    trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
    for name, value in {**attrs, "estimate": list(estimate)}.items():
        storage.set_trial_user_attr(trial_id, name, value)
    study.tell(number, state=state)


def values_of(trial: FrozenTrial) -> list[float]:
    """Return a finished trial's values, or what stands in for those of a stopped or failed one."""
    values: list[float] = trial.values if trial.state == TrialState.COMPLETE else trial.user_attrs["estimate"]
    return values


def _around(value: Any) -> BaseDistribution:
    """Return a distribution that holds the value: Optuna wants one for each parameter of a finished trial."""
    if isinstance(value, int):
        return IntDistribution(min(0, value), max(1, value))
    return FloatDistribution(min(0.0, value), max(1.0, value))
