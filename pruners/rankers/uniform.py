"""Keep every n-th visual token: the baseline that looks at nothing."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from pruners.rankers.base import Ranker, RankingInputs, Signal


class UniformRanker(Ranker):
    """Evenly spaced tokens in raster order: of n, the numbers floor((2 i + 1) n / (2 k)) for i = 0 .. k-1."""

    signal: ClassVar[Signal] = "nothing"

    type: Literal["uniform"] = "uniform"

    def score(self, inputs: RankingInputs) -> Tensor:
        """All alike (B, M): the choice is made by place, in `keep`."""
        return torch.zeros(inputs.valid.shape, dtype=torch.float32, device=inputs.valid.device)

    def keep(self, inputs: RankingInputs, counts: Tensor) -> Tensor:
        """A stride over the valid places."""
        valid = inputs.valid
        places = valid.long().cumsum(1)
        total, wanted = valid.sum(1, keepdim=True).clamp(min=1), counts[:, None]
        # how many of the chosen numbers lie below a place: ceil((2 k place - n) / (2 n)), in whole numbers
        below = -((total - 2 * wanted * places) // (2 * total))
        before = -((total - 2 * wanted * (places - 1)) // (2 * total))
        return (below > before) & valid
