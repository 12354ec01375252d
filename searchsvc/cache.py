"""What the memory of evaluations holds, what an evaluation is known by, and deleting from it."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from optuna.trial import FrozenTrial

from db import cache, results, studies
from db.session import Database
from db.values import Removed
from pruners import Pruning
from searchsvc.errors import ServiceError
from searchsvc.storage import optuna_storage
from searchsvc.subject import Subject, recorded_subject
from studies.keys import key_of_content
from studies.measured import details

#: Digits of a sha256 that a table shows.
SHORT = 12


def show_cache(database: Database, *, digits: int | None = None) -> list[dict[str, Any]]:
    """Return a row per model, dataset, split and metric; sha256 with so many digits (None: with all)."""
    return [
        {
            **_row(group, digits),
            "first_made": group.first_made.isoformat(timespec="seconds"),
            "last_made": group.last_made.isoformat(timespec="seconds"),
        }
        for group in cache.cache_groups(database)
    ]


def explain_trial(database: Database, name: str, number: int) -> dict[str, Any]:
    """Return the key of a trial's evaluation, the content whose hash it is, and who uses the evaluation.

    Raises:
        NotFound: there is no such study.
        ServiceError: no such trial; or its key cannot be made again from what is at hand now.
        DataError: the study's data cannot be read.
    """
    study = studies.get_study(database, name)
    trial = _trial(database, name, number)
    content = _content(database, recorded_subject(study), trial)
    key = trial.user_attrs["key"]
    if key_of_content(content) != key:
        raise ServiceError(
            f"trial {number} of study {name}: its key {key} was made by another version of searchsvc "
            f"(evaluator {content['evaluator']} here), which this one cannot explain"
        )
    return {
        "study": name,
        "trial": number,
        "key": key,
        "content": content,
        "in_database": results.find_evaluation(database, key) is not None,
        "studies": cache.studies_using(database, key),
    }


def prune_cache(
    database: Database,
    *,
    unused: bool,
    older_than: int | None,
    model: str | None,
    dry_run: bool,
    digits: int | None = None,
) -> tuple[list[dict[str, Any]], str]:
    """Delete what meets all conditions and no study uses; return a row per group, and a line about all.

    Raises:
        ServiceError: no condition is given, or the fingerprint is none.
        NotFound, Ambiguous: no model, or several, have such a fingerprint.
    """
    if not unused and older_than is None and model is None:
        raise ServiceError("say what to delete: --unused, --older-than DAYS or --model FINGERPRINT")
    if model is not None and not re.fullmatch("[0-9a-f]{4,64}", model):
        raise ServiceError(f"--model {model!r}: give 4 to 64 hexadecimal digits of a fingerprint")
    removal = cache.remove_evaluations(database, older_than=older_than, model=model, dry_run=dry_run)
    rows = [_row(group, digits) for group in removal.groups]
    return rows, _summary(removal.groups, removal.kept, dry_run=dry_run)


def _summary(groups: Sequence[Removed], kept: int, *, dry_run: bool) -> str:
    number, size = sum(group.evaluations for group in groups), sum(group.bytes for group in groups)
    seconds = sum(group.seconds for group in groups)
    verbs = ("would delete", "would free") if dry_run else ("deleted", "freed")
    what = "1 evaluation" if number == 1 else f"{number:,} evaluations"
    also = f"; kept, because a study uses them: {kept:,}" if kept else ""
    return f"{verbs[0]} {what} of {seconds:,.1f} seconds' work, {verbs[1]} {size:,} bytes{also}"


def _row(group: Removed, digits: int | None) -> dict[str, Any]:
    short = {"fingerprint": group.fingerprint[:digits], "dataset": group.dataset[:digits]}
    return {**asdict(group), **short, "seconds": round(group.seconds, 3)}


def _trial(database: Database, name: str, number: int) -> FrozenTrial:
    storage = optuna_storage(database)
    try:
        study = storage.get_study_id_from_name(name)
        count = storage.get_n_trials(study)
    except KeyError:
        count = 0
    if not count:
        raise ServiceError(f"study {name} has no trial yet; run it with: searchsvc study run {name}")
    if number >= count:
        raise ServiceError(f"study {name} has no trial {number}: its trials are 0 to {count - 1}")
    return storage.get_trial(storage.get_trial_id_from_study_id_trial_number(study, number))


def _content(database: Database, subject: Subject, trial: FrozenTrial) -> dict[str, Any]:
    """Make the content as the study's run made it: the unpruned evaluation says how many tokens there are."""
    text = details(trial)["pruning"]
    unpruned = subject.key_content("search", None, ())
    if text is None:
        return unpruned
    stored = results.find_evaluation(database, key_of_content(unpruned))
    if stored is None or stored.samples is None:
        raise ServiceError(
            f"trial {trial.number} cannot be explained: the database does not hold the unpruned evaluation, "
            "which knows the samples' numbers of visual tokens"
        )
    return subject.key_content("search", Pruning.model_validate_json(text), stored.samples.visual_tokens)
