"""DivPrune: keep the visual tokens that differ most from each other, whatever the question.

Alvar et al., "DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models", CVPR 2025
(arXiv 2503.02175): token pruning as the max-min diversity problem, solved greedily (its Algorithm 1).
Letters: B samples, M visual tokens to choose from, D width.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from pruners.rankers.base import Ranker, RankingInputs, Signal
from pruners.rankers.similarity import cosine_similarity

#: tokens nearer than this in cosine distance are duplicates of each other, and tie (ours)
_DUPLICATE = 1e-6


class DivPruneRanker(Ranker):
    """The token farthest from its nearest neighbour first, then ever the one farthest from those chosen.

    Distance is 1 - cosine. The paper prunes what the projector gives to layer 0; the signal here is the same
    for a cut before layer 0, and the tokens' hidden states for a deeper one (ours). Several images of one
    sample are one set (ours). Its code numbers the tokens that are left anew: `position_ids: renumber`.
    """

    signal: ClassVar[Signal] = "states"

    type: Literal["divprune"] = "divprune"

    def score(self, inputs: RankingInputs) -> Tensor:
        """Minus each token's place in the order of choice (B, M): M steps, where `keep` takes fewer."""
        places = inputs.valid.shape[1]
        order = self._order(inputs, places)
        rank = torch.arange(places, dtype=torch.float32, device=order.device).expand_as(order)
        # behind a sample's last token the order repeats token 0: the first mention counts
        unset = torch.full(order.shape, torch.inf, device=order.device)
        return -unset.scatter_reduce(1, order, rank, "amin")

    def keep(self, inputs: RankingInputs, counts: Tensor) -> Tensor:
        """The first `counts` (B,) of the order: as many steps as the largest count."""
        steps = int(counts.max())
        order = self._order(inputs, steps)
        wanted = torch.arange(steps, device=order.device) < counts[:, None]
        kept = torch.zeros_like(inputs.valid, dtype=torch.int64).scatter_add_(1, order, wanted.long())
        return (kept > 0) & inputs.valid

    def _order(self, inputs: RankingInputs, steps: int) -> Tensor:
        """The first `steps` tokens of each sample's order of choice: (B, steps) int64."""
        if inputs.states is None:
            raise ValueError("the DivPrune ranker needs RankingInputs.states")
        similarity = cosine_similarity(inputs.states, inputs.states).clamp(max=1 - _DUPLICATE)
        itself = torch.eye(similarity.shape[1], dtype=torch.bool, device=similarity.device)
        others = inputs.valid[:, None, :] & ~itself
        nearest = similarity.masked_fill(~others, -torch.inf).amax(2).masked_fill(~inputs.valid, torch.inf)
        # nothing is nearer to a chosen token than itself, and padding is near to all: neither is chosen
        similarity = similarity.masked_fill(~others, torch.inf)
        order = [nearest.argmin(1, keepdim=True)]
        nearest = _row(similarity, order[0])
        for _ in range(steps - 1):
            order.append(nearest.argmin(1, keepdim=True))
            nearest = torch.maximum(nearest, _row(similarity, order[-1]))
        return torch.cat(order, 1)[:, :steps]


def _row(similarity: Tensor, chosen: Tensor) -> Tensor:
    """(B, M): how like the `chosen` (B, 1) tokens are to all."""
    return similarity.take_along_dim(chosen[:, :, None], 1)[:, 0]
