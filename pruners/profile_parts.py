"""What a profile says beside the pruning: which model it is for, what it gave, where it came from."""

from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, model_validator

from pruners.pruning import Rate, Strict

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class ModelRef(Strict):
    """Which model a profile is for: its name, and the sizes that a schedule depends on."""

    #: hub id or folder, for people; it is not compared
    id: str
    #: commit or branch on the hub, for people; it is not compared
    revision: str | None = None
    #: class name, as the model's own config.json has it
    architecture: str
    #: decoder layers
    num_layers: int = Field(ge=1)
    #: width of the decoder
    hidden_size: int = Field(ge=1)

    @classmethod
    def from_config(cls, config: "PretrainedConfig", id: str, revision: str | None = None) -> Self:
        """What a model's configuration says of it."""
        # InternVL's remote code has a name of its own for the text model's part
        text = getattr(config, "llm_config", None) or config.get_text_config()
        return cls(
            id=id,
            revision=revision,
            architecture=_architecture(config),
            num_layers=text.num_hidden_layers,
            hidden_size=text.hidden_size,
        )


class FlopsRatio(Strict):
    """Prefill FLOPs over those of no pruning, by counter (`pruners.costs`), summed over the samples."""

    decoder: float | None = Field(default=None, ge=0)
    paper: float | None = Field(default=None, ge=0)
    exact: float | None = Field(default=None, ge=0)


class Latency(Strict):
    """Measured milliseconds, beside those of no pruning on the same machine; medians over the rounds."""

    prefill_ms: float = Field(ge=0)
    #: per generated token
    decode_ms: float = Field(ge=0)
    baseline_prefill_ms: float = Field(ge=0)
    baseline_decode_ms: float = Field(ge=0)
    batch_size: int = Field(default=1, ge=1)
    device: str | None = None
    #: interleaved rounds, in each of which both were measured
    rounds: int | None = Field(default=None, ge=1)
    #: median over the rounds of the prefill time over that of no pruning
    prefill_ratio: float | None = Field(default=None, gt=0)
    #: 95 % interval of `prefill_ratio`: low, high
    prefill_interval: Annotated[tuple[float, float], Field(strict=False)] | None = None

    @model_validator(mode="after")
    def _interval_in_order(self) -> Self:
        _check_order("prefill_interval", self.prefill_interval)
        return self


class Expected(Strict):
    """What the profile gave where it was measured; every number is optional."""

    accuracy: Rate | None = None
    #: 95 % interval of the accuracy: low, high
    accuracy_interval: Annotated[tuple[Rate, Rate], Field(strict=False)] | None = None
    #: accuracy without pruning on the same samples
    baseline: Rate | None = None
    metric: str | None = None
    split: str | None = None
    #: how many samples were measured
    samples: int | None = Field(default=None, ge=1)
    flops_ratio: FlopsRatio | None = None
    #: bytes of the KV cache after prefill over those of no pruning, text included
    kv_ratio: float | None = Field(default=None, ge=0)
    #: mean over layers of n_l / N, visual tokens alone
    vision_token_ratio: Rate | None = None
    latency: Latency | None = None

    @model_validator(mode="after")
    def _interval_in_order(self) -> Self:
        _check_order("accuracy_interval", self.accuracy_interval)
        return self


class Provenance(Strict):
    """Where the profile came from."""

    study: str | None = None
    trial: int | None = Field(default=None, ge=0)
    #: the search that found it
    method: str | None = None
    dataset_sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    seed: int | None = None
    #: when, ISO 8601 in UTC
    created: str | None = None
    #: library name -> version
    versions: dict[str, str] = Field(default_factory=dict)


def _check_order(key: str, interval: tuple[float, float] | None) -> None:
    if interval and interval[0] > interval[1]:
        low, high = interval
        raise ValueError(f"{key} must be [low, high], not [{low}, {high}]")


def _architecture(config: "PretrainedConfig") -> str:
    """The model's class name; by its model type where the configuration was never saved with a model."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    if config.architectures:
        return str(config.architectures[0])
    names = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES | MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return str(names.get(config.model_type, config.model_type))
