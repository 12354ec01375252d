"""What goes in and comes out: plain, frozen values, so that no caller holds a row of an open session."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

Status = Literal["queued", "running", "paused", "done", "failed", "cancelled"]
Request = Literal["pause", "stop", "cancel"]
FinalStatus = Literal["done", "failed", "cancelled"]


@dataclass(frozen=True, kw_only=True)
class ModelRef:
    """A model: sha256 of its configuration and weights, and where it came from."""

    fingerprint: str
    reference: str
    architecture: str
    revision: str | None = None


@dataclass(frozen=True, kw_only=True)
class DatasetRef:
    """A dataset: its sha256, where it was read, how many samples it has."""

    sha256: str
    path: str
    samples: int


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study as it is stored; `spec` is fully resolved, times are in UTC.

    `request` is what whoever runs it is asked to do; `outcome` the caller's JSON about one that is done.
    """

    id: int
    name: str
    spec: dict[str, Any]
    model: ModelRef
    dataset: DatasetRef
    status: Status
    priority: int
    request: Request | None
    lease_owner: str | None
    lease_expires_at: datetime | None
    lease_epoch: int
    error: str | None
    outcome: dict[str, Any] | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to run a study and to write its results, until `expires_at`, unless a later epoch began."""

    study_id: int
    name: str
    owner: str
    epoch: int
    seconds: float
    expires_at: datetime


@dataclass(frozen=True, kw_only=True)
class SampleSet:
    """The samples of a split in their order, and the tokens of their prompts; equal sets are stored once."""

    ids: tuple[str, ...]
    visual_tokens: tuple[int, ...]
    text_tokens: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class NewEvaluation:
    """One configuration measured on one split of one dataset.

    `key` stands for everything that decides the numbers. `pruning` is None for no pruning. `scores`,
    `divergences` (KL to the unpruned answer, nats) and `predictions` hold one entry per sample, in the order
    of the split, which `samples` describes; `tokens_per_layer` is the mean number of visual tokens at each
    decoder layer; `cost` is the caller's JSON; `seconds` the time that measuring took.
    """

    key: str
    model: ModelRef
    dataset: DatasetRef
    split: str
    metric: str
    pruning: dict[str, Any] | None
    tokens_per_layer: tuple[float, ...]
    accuracy: float
    scores: tuple[float, ...]
    cost: dict[str, Any]
    seconds: float
    worker: str
    samples: SampleSet | None = None
    divergences: tuple[float, ...] | None = None
    predictions: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluation(NewEvaluation):
    """A stored evaluation."""

    id: int
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class StudyEvaluation:
    """An evaluation as one study used it, and whether it was there before the study asked."""

    cached: bool
    evaluation: Evaluation


@dataclass(frozen=True, kw_only=True)
class NewAttempt:
    """One try of one worker at one evaluation; `error` is None when it succeeded; times carry their zone."""

    key: str
    worker: str
    started_at: datetime
    ended_at: datetime
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Attempt(NewAttempt):
    """A stored attempt."""

    id: int
    study_id: int


@dataclass(frozen=True, kw_only=True)
class NewFront:
    """A study's Pareto front on one split; `hypervolume` is measured from `reference`.

    `points` are the caller's JSON, one object per member; `reason` says why the front was kept.
    """

    split: str
    reason: str
    points: tuple[dict[str, Any], ...]
    hypervolume: float
    reference: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Front(NewFront):
    """A front as it was when it was stored; never changed."""

    id: int
    study_id: int
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class NewLatency:
    """One front member's prefill time beside no pruning, from interleaved rounds on one device.

    `key` is that of the member's evaluation; `ratio` the median over the rounds of pruned over unpruned
    prefill time, `low` and `high` its 95 % interval; `times` holds medians in milliseconds by name.
    """

    key: str
    device: str
    batch_size: int
    rounds: int
    ratio: float
    low: float
    high: float
    times: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Latency(NewLatency):
    """A stored latency."""

    id: int
    study_id: int
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class NewProfile:
    """An exported profile: its YAML byte for byte, the numbers measured with it, the trial it came from."""

    name: str
    yaml: str
    numbers: dict[str, Any]
    study: str | None = None
    trial: int | None = None


@dataclass(frozen=True, kw_only=True)
class Profile(NewProfile):
    """A stored profile; `sha256` is that of the YAML text in UTF-8."""

    id: int
    sha256: str
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Removed:
    """Evaluations of one model on one split of one dataset, scored by one metric.

    `model` and `data` say where model and dataset were read; `fingerprint` and `dataset` are their sha256.
    """

    model: str
    fingerprint: str
    data: str
    dataset: str
    split: str
    metric: str
    evaluations: int
    #: what measuring them took
    seconds: float
    #: what is stored of them, the database's own overhead left out
    bytes: int


@dataclass(frozen=True, kw_only=True)
class CacheGroup(Removed):
    """Such evaluations as they are remembered."""

    #: those that no study uses
    unused: int
    #: studies that use one of them or more
    studies: int
    #: answers of all of them
    samples: int
    first_made: datetime
    last_made: datetime


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What was deleted of the memory, and how many evaluations met the conditions but are used by a study."""

    groups: tuple[Removed, ...]
    kept: int
