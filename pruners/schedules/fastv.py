"""FastV (arXiv 2403.06764): one cut by a fixed share after a few layers."""

from dataclasses import dataclass
from typing import ClassVar

from pruners.schedules.base import Schedule


@dataclass(frozen=True)
class FastV(Schedule):
    """Layers before `k` keep everything, all others keep 1 - r. The paper's K=2, R=50% is k=2, r=0.5.

    With k=0 the cut comes before any attention: only a ranker that needs none can choose (random).
    """

    name: ClassVar[str] = "fastv"
    example: ClassVar[str] = "fastv:k=2,r=0.5"

    #: first layer that is reduced
    k: int
    #: share of the visual tokens that is removed
    r: float

    def __post_init__(self) -> None:
        self._check("k", self.k, 0)
        self._check("r", self.r, 0, 1)

    def keep_rates(self, num_layers: int) -> tuple[float, ...]:
        """1 for layers before k, then 1 - r."""
        self._check_layer("k", self.k, num_layers)
        # 1 - 0.9 is less than 0.1, and would round to fewer tokens
        return (1.0,) * self.k + (round(1.0 - self.r, 12),) * (num_layers - self.k)
