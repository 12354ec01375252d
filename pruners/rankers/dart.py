"""DART: a few pivots, then the visual tokens that duplicate them least.

Wen et al., "Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More",
EMNLP 2025 (arXiv 2502.11494): pivots by key norm, duplication as the cosine similarity of hidden states.
Letters: B samples, M visual tokens to choose from, P pivots, D width.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from pruners.rankers.base import Ranker, RankingInputs, Signal, rank_of
from pruners.rankers.similarity import cosine_similarity


class DartRanker(Ranker):
    """The tokens with the longest keys are pivots and are kept; then those least similar to any pivot.

    The paper finds that it matters little which tokens are pivots. Ours: visual tokens alone (the paper also
    takes text tokens), and one order by the nearest pivot, where the paper gives each pivot its share.
    """

    signal: ClassVar[Signal] = "keys"

    type: Literal["dart"] = "dart"
    #: P, or all tokens where a sample has fewer
    pivots: int = Field(default=8, ge=1)

    def score(self, inputs: RankingInputs) -> Tensor:
        """Pivots by key norm, all above 1; of the others minus the largest cosine to a pivot: (B, M)."""
        if inputs.key_norms is None or inputs.states is None:
            raise ValueError("the DART ranker needs RankingInputs.key_norms and states")
        rank = rank_of(inputs.key_norms, inputs.valid)
        pivots = rank.argsort(1)[:, : self.pivots]
        states = inputs.states.take_along_dim(pivots[:, :, None], 1)
        # a sample with fewer tokens than that has nothing but pivots, so padding among them does no harm
        duplication = cosine_similarity(inputs.states, states).amax(2)
        return torch.where(rank < self.pivots, self.pivots + 1.0 - rank, -duplication)
