"""What to prune, as frozen values: how many tokens each layer keeps, and which ranker chooses them."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from pruners.errors import ProfileError
from pruners.rankers import AnyRanker
from pruners.schedules.counts import Rounding, describe_rise, token_counts


class Strict(BaseModel):
    """Frozen, no unknown keys, no NaN or infinity, no silent conversion (1 may stand for 1.0)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Rate = Annotated[float, Field(ge=0, le=1)]


class KeepSchedule(Strict):
    """How many of a sample's N visual tokens enter each decoder layer: keep_rates[l] = n_l / N."""

    #: one rate per decoder layer, layer 0 first, in [0, 1] of the original N; never rises
    keep_rates: Annotated[tuple[Rate, ...], Field(strict=False, min_length=1)]
    #: how rate * N becomes a whole number (`pruners.schedules.counts.token_counts`)
    rounding: Rounding = "nearest"
    #: kept tokens keep their original position ids, or are numbered again without gaps
    position_ids: Literal["keep", "renumber"] = "keep"
    #: no layer keeps fewer visual tokens than this (or all of them, where a sample has fewer)
    min_tokens: int = Field(default=0, ge=0)

    @field_validator("keep_rates")
    @classmethod
    def _never_rises(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        if rise := describe_rise(rates):
            raise ValueError(f"keep_rates must not rise: {rise}")
        return rates

    @classmethod
    def for_depth(cls, num_layers: int, schedule: "KeepSchedule | Sequence[float]") -> "KeepSchedule":
        """A schedule, or keep rates alone, as a schedule for a model of this many decoder layers.

        Raises:
            ProfileError: there are more or fewer rates than layers.
        """
        if not isinstance(schedule, KeepSchedule):
            schedule = cls(keep_rates=tuple(schedule))
        given = len(schedule.keep_rates)
        if given != num_layers:
            raise ProfileError(f"keep_rates needs one rate per layer: {given} rates, {num_layers} layers")
        return schedule

    @property
    def is_identity(self) -> bool:
        """Whether no layer ever loses a token, whatever N is."""
        return all(rate == 1 for rate in self.keep_rates)

    def counts(self, visual_tokens: int) -> tuple[int, ...]:
        """n_l for a sample with this many visual tokens, one number per decoder layer."""
        return token_counts(self.keep_rates, visual_tokens, self.rounding, self.min_tokens)


class Recovery(Strict):
    """After a cut, every m-th pruned token in raster order is put back, and counts against the budget."""

    #: m
    every: int = Field(ge=2)


class Pruning(Strict):
    """All that the runtime needs: a ranker, a schedule, and a recovery if there is one. Hashable."""

    ranker: AnyRanker
    schedule: KeepSchedule
    recovery: Recovery | None = None

    @property
    def is_identity(self) -> bool:
        """Whether this prunes nothing, whatever the ranker says."""
        return self.schedule.is_identity
