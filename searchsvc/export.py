"""Chooses a schedule of a study and writes it as a profile, with its numbers measured on the `test` split."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from db import results, studies
from db.session import Database
from db.values import NewProfile
from pruners import Pruning, PruningProfile
from pruners.profile import Expected, FlopsRatio, Latency, ModelRef, Provenance
from searchsvc.artifacts import attach
from searchsvc.candidates import candidates
from searchsvc.costing import counter_ratios
from searchsvc.errors import GoalNotMetError, ServiceError
from searchsvc.evaluations import Evaluations
from searchsvc.latencies import read_latencies, shown
from searchsvc.queries import study_points
from searchsvc.subject import Subject, subject_of
from studies.front import knee
from studies.intervals import fixed_sequence_test, interval
from studies.measured import Evaluation, Measured

VERSIONS = ("searchsvc", "torch", "transformers", "optuna")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which schedule of a study to export; exactly one of the four must be given."""

    max_drop: float | None = None
    max_flops: float | None = None
    trial: int | None = None
    knee: bool = False

    def __post_init__(self) -> None:
        given = [self.max_drop is not None, self.max_flops is not None, self.trial is not None, self.knee]
        if sum(given) != 1:
            raise ServiceError("give exactly one of --max-drop, --max-flops, --trial, --knee")


def export_profile(
    database: Database,
    name: str,
    choice: Choice,
    out: Path,
    *,
    overwrite: bool = False,
    ray_address: str | None = None,
) -> str:
    """Write the chosen schedule to `out`; return one line about it.

    Of a study with a latency goal only the front's members that met it are chosen among, except by `trial`.

    Raises:
        GoalNotMetError: no schedule fits `choice`; the message names the nearest and its gap.
        ServiceError: the choice or the file cannot be.
    """
    if out.exists() and not overwrite:
        raise ServiceError(f"{out} exists; choose another file, or overwrite it with --force")
    if not out.parent.is_dir():
        raise ServiceError(f"{out}: the folder {out.parent} does not exist; create it first")
    study = studies.get_study(database, name)
    points = study_points(database, name)
    subject = subject_of(study)
    latencies = read_latencies(database, name)
    front = [] if choice.trial is not None else candidates(points, subject.spec, latencies)
    with Evaluations(database, subject, "test", ray_address=ray_address) as evaluate:
        chosen = _chosen(points, front, choice, evaluate)
        evaluation, baseline = evaluate(chosen.pruning), evaluate.baseline
    pruning = _pruning_of(chosen)
    latency = latencies.get(chosen.key)
    expected = _expected(subject, pruning, evaluation, baseline, latency)
    profile = _profile(subject, chosen, pruning, expected)
    _write(out, profile.to_yaml())
    numbers = expected.model_dump(mode="json")
    stored = NewProfile(
        name=profile.name, yaml=profile.to_yaml(), numbers=numbers, study=name, trial=chosen.number
    )
    attach(database, results.save_profile(database, stored))
    return (
        f"{out}: trial {chosen.number} ({chosen.label}); on `test` {evaluation.accuracy:.4f} against "
        f"{baseline.accuracy:.4f} unpruned, {evaluation.decoder_ratio:.3f} of the decoder FLOPs, "
        f"{evaluation.kv_ratio:.3f} of the KV cache" + ("" if latency is None else f", {shown(latency)}")
    )


def _chosen(
    points: list[Measured], front: list[Measured], choice: Choice, evaluate: Callable[..., Evaluation]
) -> Measured:
    if choice.trial is not None:
        return _by_trial(points, choice.trial)
    if choice.knee:
        return front[knee([point.point for point in front])]
    if choice.max_flops is not None:
        return _under(front, choice.max_flops)
    return confidently_within(front, choice.max_drop or 0.0, evaluate)


def confidently_within(
    front: list[Measured], max_drop: float, evaluate: Callable[..., Evaluation]
) -> Measured:
    """Return the cheapest front member that the fixed-sequence test on `test` lets pass (DESIGN: Data).

    Raises:
        GoalNotMetError: the dearest one fails already.
    """
    tested = fixed_sequence_test(
        front, lambda point: evaluate(point.pruning).scores, evaluate(None).scores, max_drop
    )
    passed = [result.member for result in tested if result.passed]
    if not passed:
        nearest = tested[0]
        raise GoalNotMetError(
            f"no schedule is confidently within {max_drop:g} on `test`: trial {nearest.member.number} "
            f"({nearest.member.label}) loses {nearest.drop:.4f}, at most {nearest.upper:.4f} at 95 %; "
            "allow a larger --max-drop, give more test samples, or search on"
        )
    return passed[-1]


def _by_trial(points: list[Measured], number: int) -> Measured:
    found = next((point for point in points if point.number == number), None)
    if found is None:
        raise ServiceError(
            f"--trial {number}: there is no such finished trial; `study front NAME --all` lists them"
        )
    return found


def _pruning_of(point: Measured) -> Pruning:
    if point.pruning is None:
        raise ServiceError(f"trial {point.number} is no pruning at all; there is nothing to export")
    return point.pruning


def _under(front: list[Measured], max_flops: float) -> Measured:
    within = [point for point in front if point.flops_ratio <= max_flops]
    if not within:
        raise GoalNotMetError(
            f"no schedule is within {max_flops:g} of the FLOPs: the cheapest, trial {front[-1].number} "
            f"({front[-1].label}), needs {front[-1].flops_ratio:.3f}"
        )
    return max(within, key=lambda point: (point.accuracy, -point.flops_ratio))


def _profile(subject: Subject, point: Measured, pruning: Pruning, expected: Expected) -> PruningProfile:
    spec = subject.spec
    return PruningProfile(
        name=f"{spec.name}-{point.number}",
        model=ModelRef.from_config(subject.config, spec.model.id, spec.model.revision),
        ranker=pruning.ranker,
        schedule=pruning.schedule,
        recovery=pruning.recovery,
        expected=expected,
        provenance=Provenance(
            study=spec.name,
            trial=point.number,
            method=point.method,
            dataset_sha256=subject.dataset.sha256,
            seed=spec.search.seed,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions={name: metadata.version(name) for name in VERSIONS},
        ),
    )


def _expected(
    subject: Subject,
    pruning: Pruning,
    evaluation: Evaluation,
    baseline: Evaluation,
    latency: Latency | None,
) -> Expected:
    bounds = interval(evaluation.scores)
    samples = [(record.visual_tokens, record.text_tokens) for record in evaluation.records]
    return Expected(
        accuracy=evaluation.accuracy,
        accuracy_interval=(bounds.low, bounds.high),
        baseline=baseline.accuracy,
        metric=subject.test.metric,
        split="test",
        samples=len(samples),
        flops_ratio=FlopsRatio(
            decoder=evaluation.decoder_ratio, **counter_ratios(subject.shape, pruning.schedule, samples)
        ),
        kv_ratio=evaluation.kv_ratio,
        vision_token_ratio=evaluation.vision_token_ratio,
        latency=latency,
    )


def _write(path: Path, text: str) -> None:
    """Write aside and rename, so that no reader ever sees half a profile."""
    aside = path.with_name(f".{path.name}.new")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise ServiceError(f"{path}: cannot be written ({error.strerror}); choose another place") from error
