"""What a study is about, resolved: the model's facts and the two splits of its data."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from db.values import DatasetRef, ModelRef, Study
from pruners import Pruning
from pruners.costs import ModelShape
from pruners.families import Traits, traits
from searchsvc.costing import read_config
from searchsvc.errors import ServiceError
from searchsvc.locations import model_location
from studies.folders import fingerprint
from studies.keys import key_content
from studies.records import EvaluationSettings
from studies.samples import Dataset
from studies.spec import ModelSpec, StudySpec

Split = Literal["search", "test"]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A spec with its model identified and its data read."""

    spec: StudySpec
    model: ModelRef
    search: Dataset
    test: Dataset

    @cached_property
    def location(self) -> ModelSpec:
        """The spec's model, `demo` replaced by its folder."""
        return self.spec.model.model_copy(update={"id": model_location(self.spec.model.id)})

    @cached_property
    def config(self) -> Any:
        """The model's configuration; no weights are read."""
        model = self.spec.model
        return read_config(model.id, model.trust_remote_code, model.revision)

    @cached_property
    def shape(self) -> ModelShape:
        """What the cost model needs of the configuration."""
        return ModelShape.from_config(self.config)

    @cached_property
    def dataset(self) -> DatasetRef:
        """The manifest as the database knows it: the hash covers both splits."""
        whole = self.search.only([*self.search.samples, *self.test.samples])
        return DatasetRef(sha256=whole.sha256, path=str(self.spec.data.path), samples=len(whole))

    @cached_property
    def traits(self) -> Traits:
        """What the model's family says: first prunable layer, token grid."""
        return traits(self.config)

    def longer_side(self, visual_tokens: int) -> int:
        """Of the visual grid, in tokens; where only calls tell it, of a square of so many tokens."""
        return max(self.traits.grid or (math.isqrt(visual_tokens),))

    @property
    def settings(self) -> EvaluationSettings:
        """How every evaluation of this study runs."""
        return EvaluationSettings(
            batch_size=self.spec.workers.batch_size,
            threads=self.spec.workers.threads,
            device="cuda" if self.spec.workers.gpus_per_worker else "cpu",
            dtype=self.spec.model.dtype,
            attention=self.spec.model.attention,
            max_new_tokens=self.spec.max_new_tokens,
        )

    def samples(self, split: Split) -> Dataset:
        """Return one of the two splits."""
        return self.search if split == "search" else self.test

    def key_content(
        self, split: Split, pruning: Pruning | None, visual_tokens: Sequence[int]
    ) -> dict[str, Any]:
        """Return what an evaluation of one split is remembered by (`studies.keys`)."""
        samples = self.samples(split)
        return key_content(
            self.model.fingerprint,
            samples.sha256,
            split,
            samples.metric,
            self.settings,
            pruning,
            visual_tokens,
        )


def read_subject(spec: StudySpec) -> Subject:
    """Identify the model and read the data that `spec` names.

    Raises:
        DataError, ModelError: what is wrong with them, in one line each.
    """
    return _divided(spec, _identified(spec))


def read_test_subject(spec: StudySpec) -> Subject:
    """Identify the model and read data that no study has divided: rows declared `test`, else all, are tested.

    Raises:
        DataError, ModelError: what is wrong with them, in one line each.
    """
    model = _identified(spec)
    whole = _whole(spec)
    declared = [sample for sample in whole.samples if sample.split == "test"]
    return Subject(spec=spec, model=model, search=whole.only([]), test=whole.only(declared or whole.samples))


def _divided(spec: StudySpec, model: ModelRef) -> Subject:
    from studies.data import split

    whole = _whole(spec)
    search, test = split(whole, spec.data.split.search, spec.data.split.test, spec.data.split.seed)
    return Subject(spec=spec, model=model, search=search, test=test)


def _whole(spec: StudySpec) -> Dataset:
    from studies.data import read_manifest

    data = spec.data
    return read_manifest(Path(data.path), data.metric, images_anywhere=data.allow_outside_images)


def _identified(spec: StudySpec) -> ModelRef:
    found = fingerprint(
        model_location(spec.model.id),
        spec.model.revision,
        trust_remote_code=spec.model.trust_remote_code,
    )
    return ModelRef(fingerprint=found, reference=spec.model.id, architecture="", revision=spec.model.revision)


def subject_of(study: Study) -> Subject:
    """Read a stored study's subject again, and refuse a model or data that have changed since.

    Raises:
        ServiceError: the fingerprint or the data's hash is another one than when the study was created.
    """
    return _unchanged(study, read_subject(stored_spec(study)))


def recorded_subject(study: Study) -> Subject:
    """As `subject_of`, but take the database's word for the model, which is not looked at.

    Raises:
        ServiceError: the data's hash is another one than when the study was created.
    """
    return _unchanged(study, _divided(stored_spec(study), study.model))


def _unchanged(study: Study, subject: Subject) -> Subject:
    changed = [
        f"model {subject.spec.model.id}" if subject.model.fingerprint != study.model.fingerprint else "",
        f"data {subject.spec.data.path}" if subject.dataset.sha256 != study.dataset.sha256 else "",
    ]
    if any(changed):
        what = " and ".join(filter(None, changed))
        raise ServiceError(
            f"study {study.name}: {what} changed since the study was created; create a new study"
        )
    return subject


def stored_spec(study: Study) -> StudySpec:
    """Return the spec that a study was created with."""
    return StudySpec.parse(study.spec, f"study {study.name}")
