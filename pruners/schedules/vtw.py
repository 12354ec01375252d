"""Visual Tokens Withdrawal, VTW (arXiv 2405.05803): all visual tokens leave at one layer."""

from dataclasses import dataclass
from typing import ClassVar

from pruners.schedules.base import Schedule


@dataclass(frozen=True)
class VTW(Schedule):
    """Layers before `k` keep everything, all others nothing. How `k` is found is a search's affair."""

    name: ClassVar[str] = "vtw"
    example: ClassVar[str] = "vtw:k=16"

    #: first layer without visual tokens
    k: int

    def __post_init__(self) -> None:
        self._check("k", self.k, 0)

    def keep_rates(self, num_layers: int) -> tuple[float, ...]:
        """1 for layers before k, then 0."""
        self._check_layer("k", self.k, num_layers)
        return (1.0,) * self.k + (0.0,) * (num_layers - self.k)
