"""DART: a few pivots, then the visual tokens that duplicate them least.

Wen et al., "Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More",
EMNLP 2025 (arXiv 2502.11494): pivots among visual and text tokens by key norm, duplication as the cosine
similarity of hidden states. The paper prunes once, behind its second layer: before our layer 2.
Letters: B samples, M visual tokens to choose from, I text tokens behind them, P pivots, D width.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from pruners.rankers.base import Instruction, Ranker, RankingInputs, Signal, rank_of
from pruners.rankers.similarity import cosine_similarity


class DartRanker(Ranker):
    """The tokens with the longest keys are pivots; each in turn keeps its share: the tokens least like it.

    Visual pivots are kept themselves; the others of the budget are shared equally among all pivots. As in the
    released code, text pivots come from the text behind the last visual token. Ours: norms are L2, mean over
    heads (the code's L1 norm of rotated keys changes with a token's position, and so with padding); shares
    fill the budget exactly, earlier pivots taking one more; visual pivots come first, the longest key first;
    hidden states are compared before the model's last norm.
    """

    signal: ClassVar[Signal] = "pivots"

    type: Literal["dart"] = "dart"
    #: visual tokens that are pivots, or all where a sample has, or may keep, fewer
    visual_pivots: int = Field(default=4, ge=1)
    #: text tokens that are pivots, or all where fewer follow the last visual token
    text_pivots: int = Field(default=4, ge=0)

    def score(self, inputs: RankingInputs) -> Tensor:
        """Minus each token's place (B, M) in the order of choice, were all kept; `keep` shares anew."""
        return -self._order(inputs, inputs.valid.sum(1)).float()

    def keep(self, inputs: RankingInputs, counts: Tensor) -> Tensor:
        """The visual pivots, and of the rest of `counts` (B,) every pivot's share."""
        return (self._order(inputs, counts) < counts[:, None]) & inputs.valid

    def _order(self, inputs: RankingInputs, counts: Tensor) -> Tensor:
        """(B, M) int64: when each token is chosen, from 0; those that are not have M."""
        if inputs.key_norms is None or inputs.states is None or inputs.instruction is None:
            raise ValueError("the DART ranker needs RankingInputs.key_norms, states and instruction")
        places = inputs.valid.shape[1]
        rank = rank_of(inputs.key_norms, inputs.valid)
        own = torch.minimum(inputs.valid.sum(1), counts).clamp(max=self.visual_pivots)[:, None]
        order = torch.where(rank < own, rank, places)
        pivots, voting = self._pivots(inputs.states, inputs.instruction, rank, own)
        similarity = cosine_similarity(inputs.states, pivots)
        shares, done = _shares(counts[:, None] - own, voting), own
        for number in range(pivots.shape[1]):
            share = shares[:, number, None]
            turn = rank_of(-similarity[:, :, number], inputs.valid & (order == places))
            order = torch.where((turn < share) & (order == places), done + turn, order)
            done = done + share
        return order

    def _pivots(self, states: Tensor, text: Instruction, rank: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states of the pivots (B, P, D), visual ones first, and which of them there are (B, P)."""
        visual = rank.argsort(1)[:, : self.visual_pivots]
        behind = rank_of(text.key_norms, text.valid).argsort(1)[:, : self.text_pivots]
        chosen = [
            states.take_along_dim(visual[:, :, None], 1),
            text.states.take_along_dim(behind[:, :, None], 1),
        ]
        there = torch.arange(visual.shape[1], device=own.device) < own
        return torch.cat(chosen, 1), torch.cat([there, text.valid.gather(1, behind)], 1)


def _shares(left: Tensor, voting: Tensor) -> Tensor:
    """(B, P) int64: `left` (B, 1) tokens divided among the pivots that there are."""
    number, pivots = voting.long().cumsum(1) - 1, voting.sum(1, keepdim=True).clamp(min=1)
    return torch.where(voting, left // pivots + (number < left % pivots), 0)
