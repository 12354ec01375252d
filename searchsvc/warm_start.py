"""What an earlier study of the same model found best, for a new one to try first."""

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from db import studies
from db.session import Database
from searchsvc.errors import ServiceError
from searchsvc.points import measured_in, on_front
from searchsvc.storage import optuna_storage
from searchsvc.subject import stored_spec
from studies.measured import Measured
from studies.spec import StudySpec
from studies.stopping import spread

#: `SampledOptions.try_first`
TryFirst = dict[str, list[dict[str, Any]]]


def warmed(database: Database, spec: StudySpec, earlier: str, fingerprint: str) -> StudySpec:
    """Return a spec whose search first tries what an earlier study found best, in place of nothing.

    It is read once and becomes part of the spec: what the earlier study does later changes nothing.

    Raises:
        NotFound: there is no such study.
        ServiceError: it is another model's or another method's, or it has found nothing yet.
    """
    study = studies.get_study(database, earlier)
    other = stored_spec(study).search
    if study.model.fingerprint != fingerprint:
        raise ServiceError(f"--warm-start {earlier}: it searches another model ({study.model.reference})")
    if other.method != spec.search.method or "try_first" not in type(spec.search).model_fields:
        raise ServiceError(
            f"--warm-start {earlier}: it is a {other.method} study, and this one searches by "
            f"{spec.search.method}; only what a sampler leads can learn, and from its own method"
        )
    found = best_of(optuna_storage(database), earlier, other.method)
    if not found:
        raise ServiceError(f"--warm-start {earlier}: it has found nothing yet")
    return spec.model_copy(update={"search": spec.search.model_copy(update={"try_first": found})})


def best_of(storage: BaseStorage, name: str, method: str) -> TryFirst:
    """Return the parameters of the best trial of every sub-study, or those of the front of a whole search.

    A front's members come in an order in which the first few are spread over all of it: a search of few
    trials may try no more.
    """
    found: TryFirst = {}
    for other in optuna.get_all_study_names(storage):
        if other.startswith(f"{name}/"):
            study = optuna.load_study(study_name=other, storage=storage)
            if study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
                found[other.removeprefix(f"{name}/")] = [dict(study.best_trial.params)]
    if not found and name in optuna.get_all_study_names(storage):
        points = measured_in(optuna.load_study(study_name=name, storage=storage))
        members = front_params(points, method)
        found = {method: members} if members else {}
    return found


def front_params(points: Sequence[Measured], method: str) -> list[dict[str, Any]]:
    """Return the parameters of the front's members that a method asked for, spread over the front."""
    members = [dict(point.params) for point in on_front(points) if point.method == method]
    return [members[place] for place in spread(len(members))]
