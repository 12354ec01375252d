"""PyramidDrop (arXiv 2410.17247): a cut at each of a few depths."""

import itertools
from dataclasses import dataclass
from typing import ClassVar

from pruners.errors import ProfileError
from pruners.schedules.base import Schedule


@dataclass(frozen=True)
class PyramidDrop(Schedule):
    """From layer stages[j] on, ratios[j] of the visual tokens are kept; everything before stages[0].

    Without `stages` they are spread evenly over the depth: 1/4, 1/2 and 3/4 of it for three ratios, rounded
    down, as in the G-Search paper's row for LLaVA-1.5-13B. The method's own code rounds token counts down
    (`rounding: floor`).
    """

    name: ClassVar[str] = "pdrop"
    example: ClassVar[str] = "pdrop:stages=8/16/24,ratios=0.5/0.25/0.125"

    #: first layer of each stage
    stages: tuple[int, ...] | None = None
    #: share of the original visual tokens that each stage keeps
    ratios: tuple[float, ...] = (0.5, 0.25, 0.125)

    def __post_init__(self) -> None:
        for ratio in self.ratios:
            self._check("ratios", ratio, 0, 1)
        for stage in self.stages or ():
            self._check("stages", stage, 0)
        if any(after > before for before, after in itertools.pairwise(self.ratios)):
            raise ProfileError(f"pdrop: ratios must not rise: {self._listed(self.ratios)}")
        if self.stages is not None and any(
            after <= before for before, after in itertools.pairwise(self.stages)
        ):
            raise ProfileError(f"pdrop: stages must rise: {self._listed(self.stages)}")
        if self.stages is not None and len(self.stages) != len(self.ratios):
            raise ProfileError(
                f"pdrop: {len(self.stages)} stages and {len(self.ratios)} ratios are given; they go in pairs"
            )

    @staticmethod
    def _listed(values: tuple[float, ...]) -> str:
        return "/".join(f"{value:g}" for value in values)

    def keep_rates(self, num_layers: int) -> tuple[float, ...]:
        """1, then each stage's ratio from its first layer on."""
        stages = self.stages or self._spread(num_layers)
        self._check_layer("stages", max(stages, default=0), num_layers)
        rates = [1.0] * num_layers
        for stage, ratio in zip(stages, self.ratios, strict=True):
            rates[stage:] = [ratio] * (num_layers - stage)
        return tuple(rates)

    def _spread(self, num_layers: int) -> tuple[int, ...]:
        parts = len(self.ratios) + 1
        return tuple(num_layers * part // parts for part in range(1, parts))
