"""The free schedule: one keep rate per decoder layer, as a search found it or a person wrote it."""

from dataclasses import dataclass
from typing import ClassVar

from pruners.errors import ProfileError
from pruners.schedules.base import Schedule
from pruners.schedules.counts import describe_rise


@dataclass(frozen=True)
class Table(Schedule):
    """Keep rates outright; they fit models of exactly that depth."""

    name: ClassVar[str] = "table"
    example: ClassVar[str] = "table:rates=1/1/0.5/0.25"

    #: one rate per decoder layer, layer 0 first
    rates: tuple[float, ...]

    def __post_init__(self) -> None:
        for rate in self.rates:
            self._check("rates", rate, 0, 1)
        if rise := describe_rise(self.rates):
            raise ProfileError(f"table: rates must not rise: {rise}")

    def keep_rates(self, num_layers: int) -> tuple[float, ...]:
        """The rates, if there are as many as layers."""
        if len(self.rates) != num_layers:
            raise ProfileError(f"table: {len(self.rates)} rates are given, the model has {num_layers} layers")
        return self.rates
