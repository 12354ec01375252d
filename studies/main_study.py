"""The study that people see: one Optuna trial, with two values, for every pruning that was evaluated."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from pruners.pruning import Pruning
from studies.measured import Evaluation, Measured, asked_attrs, read_trial, told_attrs
from studies.stopping import Stopped

Direction = Literal["maximize", "minimize"]
DIRECTIONS: tuple[Direction, ...] = ("maximize", "minimize")
METRIC_NAMES = ("accuracy", "flops_ratio")


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
        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        self._measured = {m.key: m for m in map(read_trial, done)}

    def __iter__(self) -> Iterator[Measured]:
        """All that was measured, in order of trial numbers."""
        return iter(sorted(self._measured.values(), key=lambda m: m.number))

    def find(self, key: str) -> Measured | None:
        """Return what was measured under this key, by whatever method."""
        return self._measured.get(key)

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


def stop(
    storage: BaseStorage, study: optuna.Study, number: int, stopped: Stopped, estimate: Sequence[float]
) -> None:
    """Tell a running trial that it was given up, with what its values would have been by what was seen.

    Optuna's samplers learn from finished trials alone: a proposal is made with `values_of` in their place.
    """
    study_id = storage.get_study_id_from_name(study.study_name)
    trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
    seen = {"samples": stopped.samples, "seconds": stopped.seconds, "estimate": list(estimate)}
    for name, value in seen.items():
        storage.set_trial_user_attr(trial_id, name, value)
    study.tell(number, state=TrialState.PRUNED)


def stopped_seconds(storage: BaseStorage, name: str) -> float:
    """Return what the stopped trials of a study and its sub-studies took."""
    names = [study.study_name for study in storage.get_all_studies()]
    ids = [
        storage.get_study_id_from_name(each) for each in names if each == name or each.startswith(f"{name}/")
    ]
    trials = [
        trial
        for each in ids
        for trial in storage.get_all_trials(each, deepcopy=False, states=(TrialState.PRUNED,))
    ]
    return sum(float(trial.user_attrs.get("seconds", 0)) for trial in trials)


def values_of(trial: FrozenTrial) -> list[float]:
    """Return a finished trial's values, or a stopped one's estimate of them."""
    values: list[float] = trial.user_attrs["estimate"] if trial.state == TrialState.PRUNED else trial.values
    return values


def _around(value: Any) -> BaseDistribution:
    """Return a distribution that holds the value: Optuna wants one for each parameter of a finished trial."""
    if isinstance(value, int):
        return IntDistribution(min(0, value), max(1, value))
    return FloatDistribution(min(0.0, value), max(1.0, value))
