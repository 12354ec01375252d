"""Measures a profile beside no pruning, afresh: nothing is read from the memory of evaluations."""

from pathlib import Path
from typing import Any

from db import results, studies, values
from db.errors import NotFound
from db.session import Database
from pruners import Pruning, PruningProfile
from searchsvc.costing import counter_ratios
from searchsvc.errors import ServiceError
from searchsvc.evaluations import Evaluations
from searchsvc.speed import side_by_side
from searchsvc.subject import Subject, read_subject, read_test_subject, stored_spec, subject_of
from studies.intervals import Interval, interval, paired_interval
from studies.measured import Evaluation
from studies.models import load
from studies.prompts import encode_prompts
from studies.spec import StudySpec


def verify_profile(
    database: Database,
    path: Path,
    *,
    data: Path | None = None,
    model: str | None = None,
    transfer: bool = False,
    trust_remote_code: bool = False,
    ray_address: str | None = None,
) -> dict[str, Any]:
    """Return accuracy, costs and speed of the profile and of no pruning, on `test`.

    Args:
        database: where the profile's study is looked up.
        path: the profile.
        data: a manifest; default: the `test` split of the profile's study.
        model: another model than the profile's own.
        trust_remote_code: run code that the folder of `model` brings; a study's own model keeps its setting.
        transfer: allow another architecture or width; the depth must be the same (G-Search, Table 4).

    Raises:
        ProfileError, ServiceError: the profile, the model and the data do not go together.
    """
    profile = PruningProfile.load(path)
    subject = _subject(database, profile, data, model, trust_remote_code)
    _check_model(profile, subject, transfer=transfer)
    with Evaluations(database, subject, "test", ray_address=ray_address, remember=False) as evaluate:
        pruning = Pruning(ranker=profile.ranker, schedule=profile.schedule, recovery=profile.recovery)
        evaluation, baseline = evaluate(pruning), evaluate.baseline
        remembered = results.find_evaluation(database, evaluate.key_of(pruning))
    as_exported = None
    if data is None and model is None:
        as_exported = _as_exported(profile, evaluation, baseline, remembered)
    return {
        "profile": profile.name,
        "model": subject.spec.model.id,
        "transfer": transfer,
        "split": "test",
        "samples": len(evaluation.scores),
        "metric": subject.test.metric,
        "as_exported": as_exported,
        "pruned": _measured(evaluation),
        "unpruned": _measured(baseline),
        "difference": _bounds(paired_interval(evaluation.scores, baseline.scores)),
        "flops": _flops(subject, profile, evaluation),
        "kv_ratio": evaluation.kv_ratio,
        "vision_token_ratio": evaluation.vision_token_ratio,
        "speed": _speed(subject, pruning),
    }


def _subject(
    database: Database,
    profile: PruningProfile,
    data: Path | None,
    model: str | None,
    trust_remote_code: bool,
) -> Subject:
    """Find the profile's study, and lay the given data and model over its spec."""
    name = profile.provenance.study if profile.provenance else None
    try:
        if name is None:
            raise NotFound("the profile names no study")
        study = studies.get_study(database, name)
    except NotFound as error:
        if data is None:
            raise ServiceError(
                f"{profile.name}: {error}, so give the data to verify on with --data"
            ) from error
        return _without_study(profile, data, model, trust_remote_code)
    if data is None and model is None:
        return subject_of(study)
    spec = stored_spec(study)
    return _read(spec, data, model, trust_remote_code)


def _without_study(
    profile: PruningProfile, data: Path, model: str | None, trust_remote_code: bool
) -> Subject:
    metric = profile.expected.metric if profile.expected else None
    spec = StudySpec.parse(
        {
            "name": profile.name,
            "model": {
                "id": profile.model.id if model is None else model,
                "trust_remote_code": trust_remote_code,
            },
            "data": {"path": str(data), "metric": metric},
            "search": {"method": "fastv"},
        },
        "the profile",
    )
    return _read(spec, data, model, trust_remote_code)


def _read(spec: StudySpec, data: Path | None, model: str | None, trust_remote_code: bool) -> Subject:
    """Read the subject of `spec` with other data or another model in it."""
    record = spec.model_dump(mode="json")
    if model is not None:
        # that the study's own model was trusted says nothing of another
        other = {"id": model, "revision": None, "trust_remote_code": trust_remote_code}
        record["model"] = {**record["model"], **other}
    if data is not None:
        # nor does what its own manifest may name say anything of another
        record["data"] = {**record["data"], "path": str(data), "allow_outside_images": False}
    changed = StudySpec.parse(record, f"study {spec.name}")
    return read_subject(changed) if data is None else read_test_subject(changed)


def _check_model(profile: PruningProfile, subject: Subject, *, transfer: bool) -> None:
    if not transfer:
        profile.check_model(subject.config)
    elif profile.model.num_layers != subject.shape.num_layers:
        raise ServiceError(
            f"profile '{profile.name}' has {profile.model.num_layers} layers, model {subject.spec.model.id} "
            f"has {subject.shape.num_layers}: a schedule transfers between models of the same depth only"
        )


def _as_exported(
    profile: PruningProfile,
    evaluation: Evaluation,
    baseline: Evaluation,
    remembered: values.Evaluation | None,
) -> bool | None:
    """Whether the profile's own numbers came out again, sample by sample where the export is remembered.

    None where the profile has no numbers of this many samples.
    """
    expected = profile.expected
    if expected is None or expected.samples != len(evaluation.scores):
        return None
    if remembered is not None and tuple(remembered.scores) != tuple(evaluation.scores):
        return False
    return (expected.accuracy, expected.baseline) == (evaluation.accuracy, baseline.accuracy)


def _measured(evaluation: Evaluation) -> dict[str, Any]:
    bounds = interval(evaluation.scores)
    return {"accuracy": evaluation.accuracy, "interval_95": [bounds.low, bounds.high]}


def _bounds(found: Interval) -> dict[str, Any]:
    return {"accuracy": found.estimate, "interval_95": [found.low, found.high]}


def _flops(subject: Subject, profile: PruningProfile, evaluation: Evaluation) -> dict[str, float]:
    samples = [(record.visual_tokens, record.text_tokens) for record in evaluation.records]
    by_counter = counter_ratios(subject.shape, profile.schedule, samples)
    return {"decoder_ratio": evaluation.decoder_ratio, **{f"{k}_ratio": v for k, v in by_counter.items()}}


def _speed(subject: Subject, pruning: Pruning) -> dict[str, Any]:
    model, processor, _ = load(subject.location, device=subject.settings.device)
    samples = subject.test.samples[: subject.settings.batch_size]
    inputs = encode_prompts(processor, samples).to(device=model.device, dtype=model.dtype)
    found = side_by_side(model, inputs, pruning, rounds=7)
    return {name: found[name] for name in ("device", "batch_size", "pruned", "unpruned", "prefill_ratio")}
