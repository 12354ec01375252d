"""What to evaluate next, as a pure function of what has been told.

A proposal is made in a throw-away, in-memory copy of the study by a new sampler, and only the finished
proposal, with all its parameters, is written to the real study, in one transaction. So the same history gives
the same proposal on any day, and a process that dies leaves either no trial or one whose parameters are
complete.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

import numpy as np
import optuna
from optuna.storages import InMemoryStorage
from optuna.trial import BaseTrial, FixedTrial, FrozenTrial, TrialState

from pruners.pruning import Pruning
from studies.samplers import make_sampler
from studies.trial_log import values_of

#: From a trial's parameters to the pruning that they stand for.
Suggest = Callable[[BaseTrial], Pruning | None]

#: How often the study's own sampler, then a uniform one, may propose what is known before the space counts as
#: exhausted.
OWN_ATTEMPTS, UNIFORM_ATTEMPTS = 8, 64


@dataclass(frozen=True, kw_only=True)
class Ask:
    """Everything a proposal depends on beside the history."""

    directions: Sequence[Literal["maximize", "minimize"]]
    suggest: Suggest
    #: the identity of a pruning: two with equal keys are one evaluation
    key_of: Callable[[Pruning | None], str]
    sampler: str
    #: trials drawn uniformly first
    initial: int
    seed: int
    #: parameters to try first, in this order
    enqueue: Sequence[Mapping[str, Any]] = ()


class Pending(NamedTuple):
    """A trial that is under way, and the values that samplers are told of it meanwhile."""

    trial: FrozenTrial
    lie: Sequence[float]


class Proposer:
    """Proposes one trial after the other."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        #: what has been told, as samplers see it
        self._copies: list[_Told] = []

    def propose(
        self,
        told: Sequence[FrozenTrial],
        known: Mapping[str, Sequence[float]],
        pending: Sequence[Pending] = (),
    ) -> FrozenTrial | None:
        """Return the next trial to run (RUNNING, with user attribute `key`); None when nothing new is left.

        `told` is the study's told trials in order, none fewer than in the call before, and `pending` are
        those after them; `known` maps the keys that must not be proposed again to their values. A sampler
        that proposes a known pruning is told its value, without a trial, and asked again.
        """
        ask = self._ask
        self._copies += (_told(trial, values_of(trial)) for trial in told[len(self._copies) :])
        copies = self._copies + [_told(*each) for each in pending]
        known = {**known, **{trial.user_attrs["key"]: lie for trial, lie in pending}}
        for params in ask.enqueue:
            if ask.key_of(ask.suggest(FixedTrial(dict(params)))) not in known:
                return _draw(ask, copies, "random", 0, params)
        for attempt in range(OWN_ATTEMPTS + UNIFORM_ATTEMPTS):
            sampler = ask.sampler if attempt < OWN_ATTEMPTS else "random"
            drawn = _draw(ask, copies, sampler, attempt)
            values = known.get(drawn.user_attrs["key"])
            if values is None:
                return drawn
            copies.append(_told(drawn, values))
        return None


def mix(seed: int, text: str) -> int:
    """Return a seed of its own for the sub-study with this name."""
    return int(np.random.SeedSequence([seed, zlib.crc32(text.encode())]).generate_state(1)[0])


def _draw(
    ask: Ask, told: Sequence[FrozenTrial], sampler: str, attempt: int, params: Mapping[str, Any] | None = None
) -> FrozenTrial:
    made = make_sampler(sampler, ask.seed + attempt, len(told), ask.initial, len(ask.directions) > 1)
    storage = InMemoryStorage()
    study = optuna.create_study(storage=storage, directions=list(ask.directions), sampler=made)
    study_id = storage.get_study_id_from_name(study.study_name)
    history = () if sampler == "random" else told  # which looks at none
    for each in history:  # `Study.add_trial` would check them again
        storage.create_new_trial(study_id, template_trial=each)
    if params is not None:
        study.enqueue_trial(dict(params))
    trial = study.ask()
    key = ask.key_of(ask.suggest(trial))
    frozen = study.get_trials(deepcopy=False)[trial.number]
    return optuna.create_trial(
        state=TrialState.RUNNING,
        params=frozen.params,
        distributions=frozen.distributions,
        user_attrs={"key": key},
        system_attrs=_notes(frozen),
    )


class _Told(FrozenTrial):
    """A finished trial for samplers to learn from.

    A storage copies what it is given and numbers the copy. Nobody changes anything else of it, and its number
    is the same in every study that it is told in: all share one.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Told":
        return self


def _told(trial: FrozenTrial, values: Sequence[float]) -> _Told:
    now = datetime.now()
    return _Told(
        number=-1,
        trial_id=-1,
        state=TrialState.COMPLETE,
        value=None,
        values=list(values),
        datetime_start=now,
        datetime_complete=now,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={},
        system_attrs=_notes(trial),
        intermediate_values={},
    )


def _notes(trial: FrozenTrial) -> dict[str, Any]:
    """What a sampler noted on a trial, such as NSGA-II's generation."""
    return {name: note for name, note in trial.system_attrs.items() if name != "fixed_params"}
