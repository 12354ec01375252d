"""The study spec: everything that decides what a study does, as a YAML file and a frozen value.

    name: digits
    model: {id: demo}
    data: {path: heldout.jsonl, split: {search: 512, test: 2000}, metric: exact_match}
    search: {method: p-sigmoid, budgets: [0.1, 0.25], trials: 30}

Every other key has a default, which the parsed spec holds and `to_yaml` writes.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ByteSize, ConfigDict, Field, create_model, field_validator, model_validator

from pruners.strict_yaml import Document, dump, parse, read_file
from pruners.validation import validate
from studies.errors import MetricError, SpecError, did_you_mean
from studies.metrics import make_metric
from studies.searches import OPTIONS, SEARCHES

Dtype = Literal["float32", "bfloat16", "float16"]
#: transformers' attention implementation
Attention = Literal["sdpa", "flash_attention_2", "flash_attention_3", "flex_attention", "eager"]


class Part(BaseModel):
    """Frozen, no unknown keys, no NaN or infinity, no silent conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ModelSpec(Part):
    """Which model, and how it is loaded."""

    #: "demo", a local folder, or a Hugging Face hub id
    id: str = Field(min_length=1)
    #: of the hub; None: its default branch
    revision: str | None = None
    dtype: Dtype = "float32"
    attention: Attention = "sdpa"
    #: run code that the model's folder brings
    trust_remote_code: bool = False


class SplitSpec(Part):
    """How many samples trials see, and how many they never see. None: all that the manifest declares."""

    search: int | None = Field(default=None, ge=1)
    test: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)


class DataSpec(Part):
    """The held-out data, and how an answer is scored."""

    path: str = Field(min_length=1)
    split: SplitSpec = SplitSpec()
    #: None: what the manifest's rows name
    metric: str | None = None
    #: whether images may lie outside the manifest's folder: any image that the workers can read
    allow_outside_images: bool = False

    @field_validator("metric")
    @classmethod
    def _exists(cls, name: str | None) -> str | None:
        try:
            make_metric(name or "exact_match")
        except MetricError as error:
            raise ValueError(str(error)) from None
        return name


class GoalSpec(Part):
    """What the study is for."""

    #: accuracy, in [0, 1], that the result may lose against the measured, unpruned model
    max_drop: float = Field(default=0.01, ge=0, le=1)
    #: measured prefill time of the result over that of no pruning, at most, in (0, 1]; None: nothing is
    #: measured
    max_latency_ratio: float | None = Field(default=None, gt=0, le=1)


class LimitsSpec(Part):
    """When a study ends early, with the best so far."""

    #: hours that the study runs, over all its runs; None: no limit
    hours: float | None = Field(default=None, gt=0)
    #: hours times GPUs that it holds
    gpu_hours: float | None = Field(default=None, gt=0)
    #: schedules that it measures, no pruning aside
    trials: int | None = Field(default=None, ge=1)

    def hours_with(self, workers: "WorkersSpec") -> float | None:
        """The hours that both limits on time leave for these workers."""
        gpus = workers.count * workers.gpus_per_worker
        given = [self.hours, self.gpu_hours / gpus if self.gpu_hours and gpus else None]
        return min((hours for hours in given if hours is not None), default=None)


class WorkersSpec(Part):
    """Who evaluates. Batch size and threads can change a number, so they are part of an evaluation's key."""

    count: int = Field(default=1, ge=1)
    gpus_per_worker: float = Field(default=0.0, ge=0)
    #: samples that run together
    batch_size: int = Field(default=16, ge=1)
    #: CPU threads of a worker
    threads: int = Field(default=1, ge=1)
    #: trials that are under way at once: each is proposed before the results of the others are known, so
    #: another number is another study. 2 and more keep workers busy while the sampler thinks
    parallel_trials: int = Field(default=1, ge=1)
    #: a worker that takes longer over one batch is taken for dead, in seconds
    batch_timeout: float = Field(default=1800.0, gt=0)
    #: memory of a worker for what trials have in common ("4GiB", or bytes); 0: every trial runs the whole
    #: model; None: its part of half of what is free. It changes no number
    cache_memory: ByteSize | None = Field(default=None, ge=0)


class StudySpec(Part):
    """One study."""

    #: also the Optuna study's name; sub-studies are called name/..., so it holds no slash
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    model: ModelSpec
    data: DataSpec
    search: Annotated[OPTIONS, Field(discriminator="method")]
    goal: GoalSpec = GoalSpec()
    limits: LimitsSpec = LimitsSpec()
    workers: WorkersSpec = WorkersSpec()
    #: longest generated answer, in tokens
    max_new_tokens: int = Field(default=16, ge=1)

    @model_validator(mode="after")
    def _gpus_to_limit(self) -> Self:
        if self.limits.gpu_hours is not None and not self.workers.gpus_per_worker:
            raise ValueError("limits.gpu_hours: there are no GPUs to count (workers.gpus_per_worker is 0)")
        return self

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a spec from a YAML file; SpecError is one line with file, line and key."""
        return cls.from_yaml(read_file(Path(path), SpecError), str(path))

    @classmethod
    def from_yaml(cls, text: str, source: str = "<string>") -> Self:
        """Read a spec from YAML text; `source` names it in errors (SpecError)."""
        document = parse(text, source, SpecError)
        # Narrowed to its own method first, so that an error speaks of that method's keys alone.
        validate(_narrowed(cls, document), document, SpecError)
        return cls.model_validate(document.data)

    @classmethod
    def parse(cls, data: dict[str, Any], source: str) -> Self:
        """Make a spec of nested plain values, such as flags give; SpecError names no line then."""
        try:
            return cls.from_yaml(dump(data), source)
        except SpecError as error:
            raise SpecError(re.sub(rf"^{re.escape(source)}:\d+:", f"{source}:", str(error))) from None

    def to_yaml(self) -> str:
        """YAML text with every default filled in, without what is not set; it reads back as the same spec."""
        return dump(self.model_dump(mode="json", exclude_none=True))


def _narrowed(cls: type[StudySpec], document: Document) -> type[BaseModel]:
    """Return the spec's model with the options of the document's own method, if it names one."""
    if not isinstance(document.data, dict):
        return cls
    mistyped = not document.data.keys() <= cls.model_fields.keys()  # `search` may be among them
    search = document.data.get("search", None if mistyped else {})
    if not isinstance(search, dict):
        return cls
    line = document.find(["search", "method"])[1]
    where = f"{document.source}:{line}:" if line else f"{document.source}:"
    if "method" not in search:
        raise SpecError(f"{where} 'search.method' is missing (known: {', '.join(sorted(SEARCHES))})")
    method = search["method"]
    if not isinstance(method, str):  # not shown: aliases can make a short text endless
        raise SpecError(f"{where} search.method must be a text, such as fastv")
    if method not in SEARCHES:
        raise SpecError(f"{where} search.method {method!r} is not known{did_you_mean(method, SEARCHES)}")
    return create_model("StudySpec", __base__=cls, search=(SEARCHES[method].Options, ...))
