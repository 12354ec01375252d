"""The pruning profile: a pruning, the model that it is for, what it gave and where it came from, as YAML."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from pruners.errors import ProfileError
from pruners.profile_parts import Expected, FlopsRatio, Latency, ModelRef, Provenance
from pruners.pruning import KeepSchedule, Pruning, Recovery
from pruners.strict_yaml import dump, parse, read_file
from pruners.validation import validate

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = [
    "SCHEMA",
    "Expected",
    "FlopsRatio",
    "KeepSchedule",
    "Latency",
    "ModelRef",
    "Provenance",
    "Pruning",
    "PruningProfile",
    "Recovery",
]

SCHEMA = "searchsvc/pruning-profile/v1"
_KEYS = ("schema", "name", "model", "ranker", "schedule", "recovery", "expected", "provenance")


class PruningProfile(Pruning):
    """A pruning for one model, as a YAML file.

    >>> profile = PruningProfile.load("profile.yaml")    # doctest: +SKIP
    >>> with pruned(model, profile):                     # doctest: +SKIP
    ...     model.generate(**inputs)
    """

    schema_id: Literal["searchsvc/pruning-profile/v1"] = Field(
        default="searchsvc/pruning-profile/v1", alias="schema"
    )
    name: str = Field(min_length=1)
    model: ModelRef
    expected: Expected | None = None
    provenance: Provenance | None = None

    @model_validator(mode="after")
    def _one_rate_per_layer(self) -> Self:
        rates, layers = len(self.schedule.keep_rates), self.model.num_layers
        if rates != layers:
            raise ValueError(f"schedule.keep_rates has {rates} rates, but model.num_layers is {layers}")
        return self

    def __hash__(self) -> int:
        return hash((self.name, self.model, self.ranker, self.schedule, self.recovery))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a profile from a YAML file.

        Raises:
            ProfileError: no such file, no YAML, or no valid profile: one line with file, line, key, remedy.
        """
        return cls.from_yaml(read_file(Path(path)), str(path))

    @classmethod
    def from_yaml(cls, text: str, source: str = "<string>") -> Self:
        """Read a profile from YAML text; `source` names it in errors (`ProfileError`)."""
        document = parse(text, source)
        if isinstance(document.data, dict) and "schema" not in document.data:
            raise ProfileError(f"{source}: 'schema' is missing; a profile begins with 'schema: {SCHEMA}'")
        return validate(cls, document)

    def to_yaml(self) -> str:
        """YAML text in a fixed order of keys, without what is not set; it reads and writes back the same."""
        values: dict[str, Any] = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return dump({key: values[key] for key in _KEYS if key in values})

    def save(self, path: str | Path) -> None:
        """Write `to_yaml()` to a file, in UTF-8 with Unix line ends everywhere."""
        Path(path).write_text(self.to_yaml(), encoding="utf-8", newline="\n")

    def check_model(self, config: "PretrainedConfig") -> None:
        """Refuse a model that this profile was not made for.

        Raises:
            ProfileError: another architecture, depth or width; the message names the key.
        """
        other = ModelRef.from_config(config, self.model.id)
        for key in ("architecture", "num_layers", "hidden_size"):
            ours, theirs = getattr(self.model, key), getattr(other, key)
            if ours != theirs:
                raise ProfileError(
                    f"profile '{self.name}' is not for this model: model.{key} is {ours} in the profile,"
                    f" {theirs} in the model"
                )
