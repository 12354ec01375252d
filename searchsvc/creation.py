"""Makes a study from a spec file and flags: everything is checked before anything is stored."""

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from db import studies
from db.errors import AlreadyExists
from db.session import Database
from pruners.strict_yaml import parse, read_file
from searchsvc.errors import ServiceError
from searchsvc.locations import DEMO
from searchsvc.storage import optuna_storage
from searchsvc.subject import Subject, read_subject
from searchsvc.warm_start import warmed
from studies.errors import SpecError
from studies.spec import StudySpec


@dataclass(frozen=True, kw_only=True)
class Created:
    """A stored study and what to tell about it."""

    name: str
    summary: str


def create_study(
    database: Database,
    file: Path | None,
    flags: Mapping[str, Any],
    options: Sequence[str],
    goals: Sequence[str] = (),
    warm_start: str | None = None,
    priority: int = 0,
) -> Created:
    """Check the spec, the data and the model, then queue the study.

    Args:
        database: where to.
        file: a spec, if there is one.
        flags: values by their dotted place in the spec; they win over the file, None is not given.
        options: KEY=VALUE of the method.
        goals: KEY=VALUE of the goal, keys as in `--max-drop`.
        warm_start: an earlier study of this model and method, whose best is tried first.
        priority: of those that wait, higher ones are run first.

    Raises:
        SpecError, DataError, ModelError, AlreadyExists, ServiceError: nothing is stored.
    """
    return _create(database, _spec(file, flags, options, goals), warm_start, priority)


def clone_study(
    database: Database, name: str, clone: str, changes: Sequence[str] = (), priority: int = 0
) -> Created:
    """Queue a study of an existing one's spec under another name.

    Args:
        database: where both are.
        name: of the existing one.
        clone: the new name.
        changes: KEY=VALUE by the key's place in the spec, as in search.trials=50.
        priority: of those that wait, higher ones are run first.

    Raises:
        NotFound: there is no such study; and as `create_study`.
    """
    data = copy.deepcopy(studies.get_study(database, name).spec)
    for change in changes:
        _set(data, *_pair("set", change, "search.trials=50"))
    return _create(database, StudySpec.parse({**data, "name": clone}, "the command line"), None, priority)


def _create(database: Database, spec: StudySpec, warm_start: str | None, priority: int) -> Created:
    spec = _anchored(spec)
    if studies.exists_study(database, spec.name):
        raise AlreadyExists(f"there is a study {spec.name!r} already; choose another name or delete it")
    subject = read_subject(spec)
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"metric": subject.search.metric})})
    if warm_start is not None:
        spec = warmed(database, spec, warm_start, subject.model.fingerprint)
    tried = try_subject(subject)
    model = replace(subject.model, architecture=tried.architecture)
    studies.create_study(
        database,
        spec.name,
        spec.model_dump(mode="json"),
        model=model,
        dataset=subject.dataset,
        priority=priority,
    )
    optuna_storage(database)  # its tables are made now, so that reading a study that never ran writes nothing
    minutes = tried.evaluations * tried.seconds / 60
    timed = "" if spec.goal.max_latency_ratio is None else ", and then the timing of its front"
    return Created(
        name=spec.name,
        summary=f"{spec.name}: {spec.search.method} on {spec.model.id}, {len(subject.search)} search and "
        f"{len(subject.test)} test samples, about {tried.evaluations} evaluations, "
        f"about {minutes:.1f} minutes{timed}",
    )


def _spec(
    file: Path | None, flags: Mapping[str, Any], options: Sequence[str], goals: Sequence[str] = ()
) -> StudySpec:
    """Lay the flags that were given over the file's keys."""
    data = {} if file is None else _read(file)
    for path, value in flags.items():
        if value is not None:
            _set(data, path, value)
    for option in options:
        key, value = _pair("option", option, "trials=30")
        _set(data, f"search.{key}", value)
    for goal in goals:
        key, value = _pair("goal", goal, "max-latency-ratio=0.7")
        place = f"goal.{key.replace('-', '_')}"
        if flags.get(place) is not None:
            raise ServiceError(f"--goal {goal}: --{key.replace('_', '-')} says it too; give one of them")
        _set(data, place, value)
    if isinstance(data.get("model"), dict) and data["model"].get("id") == DEMO:
        _demo_defaults(data)
    if file is not None and data == _read(file):
        return StudySpec.load(file)  # its errors know their line
    return StudySpec.parse(data, "the command line" if file is None else str(file))


def _read(file: Path) -> dict[str, Any]:
    data = parse(read_file(file, SpecError), str(file), SpecError).data
    if not isinstance(data, dict):
        raise SpecError(f"{file}: holds no keys; it must be a mapping such as 'name: value'")
    return data


def _anchored(spec: StudySpec) -> StudySpec:
    """Make local paths absolute: the study may run from another folder than the one it was created in."""
    model, data = spec.model, spec.data
    if model.id != DEMO and Path(model.id).expanduser().is_dir():
        model = model.model_copy(update={"id": str(Path(model.id).expanduser().absolute())})
    data = data.model_copy(update={"path": str(Path(data.path).expanduser().absolute())})
    return spec.model_copy(update={"model": model, "data": data})


def _pair(flag: str, text: str, example: str) -> tuple[str, Any]:
    """Split the KEY=VALUE of a flag, the value being YAML."""
    key, _, value = text.partition("=")
    if not key or not value.strip():
        raise ServiceError(f"--{flag} {text}: write KEY=VALUE, as in --{flag} {example}")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or "not YAML"
        raise ServiceError(f"--{flag} {text}: the value cannot be read ({reason})") from error


def _demo_defaults(data: dict[str, Any]) -> None:
    """Fill in what the embedded model leaves open: its data, and that it answers in one token."""
    data.setdefault("max_new_tokens", 1)
    section = data.setdefault("data", {})
    if isinstance(section, dict) and "path" not in section:
        from searchsvc.demo.data import write
        from searchsvc.settings import Settings

        folder = Settings().home / "demo-data"
        manifest = folder / "manifest.jsonl"
        section["path"] = str(manifest if manifest.exists() else write(folder))


def _set(data: dict[str, Any], path: str, value: Any) -> None:
    *sections, key = path.split(".")
    for section in sections:
        data = data.setdefault(section, {})
        if not isinstance(data, dict):
            raise ServiceError(f"{path}: the spec has a plain value at {section!r}, where keys are expected")
    data[key] = value


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What one batch of a study, run on this machine, lets expect."""

    #: the model's class
    architecture: str
    #: that the study takes
    evaluations: int
    #: of one evaluation, on all of its workers
    seconds: float


def try_subject(subject: Subject) -> Tried:
    """Load the model here and run a batch.

    Raises:
        ModelError, SpecError: it cannot be loaded or run, or the search cannot work on it.
    """
    from pruners.costs import decoder_ratio
    from pruners.rankers import UniformRanker
    from studies.context import Dimensions
    from studies.driver import check_search, estimate_evaluations
    from studies.evaluator import PlainEvaluator
    from studies.models import load
    from studies.searches.base import with_rates

    model, processor, _ = load(subject.location, device=subject.settings.device)
    evaluator = PlainEvaluator(
        model, processor, subject.search.samples, subject.search.metric, subject.settings
    )
    longest = evaluator.run(0, None)[0]
    layers = subject.shape.num_layers
    start = time.perf_counter()
    evaluator.run(0, with_rates(UniformRanker(), (1.0,) * layers))
    rounds = math.ceil(len(evaluator.batches) / subject.spec.workers.count)
    size = Dimensions(layers, subject.traits.first_prunable, longest.visual_tokens)
    sample = (longest.visual_tokens, longest.text_tokens)
    check_search(subject.spec.search, size, lambda rates: decoder_ratio(subject.shape, rates, [sample]))
    evaluations = estimate_evaluations(subject.spec.search, size)
    seconds = rounds * (time.perf_counter() - start)
    return Tried(architecture=type(model).__name__, evaluations=evaluations, seconds=seconds)
