"""Rank by the attention that visual tokens receive: FastV, PyramidDrop, G-Search, P-Sigmoid.

Letters: B samples, T tokens of the unpruned row, M visual tokens to choose from.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from pruners.rankers.base import Ranker, RankingInputs, Signal


class AttentionRanker(Ranker):
    """Softmax over the whole causal row in fp32, mean over heads, mean over the rows that `queries` names.

    `last` is FastV's released code and PyramidDrop, `all` is FastV's text, `instruction` is G-Search
    and P-Sigmoid.
    """

    signal: ClassVar[Signal] = "attention"

    type: Literal["attention"] = "attention"
    #: whose attention counts: the last prompt token's, the text's after the last image, or every token's
    queries: Literal["last", "instruction", "all"] = "instruction"
    #: a reduction before layer l reads layer l-1, or layer l's own queries and keys (PyramidDrop)
    score_layer: Literal["previous", "next"] = "previous"

    def query_rows(self, prompt: Tensor, visual: Tensor) -> Tensor:
        """Which tokens vote: (B, T) bool, from the masks of prompt and of visual tokens, both (B, T) bool.

        A prompt that ends with its image has no instruction: its last token votes alone. A row without visual
        tokens has nothing to rank, and no voters.
        """
        prompt = prompt & visual.any(dim=1, keepdim=True)
        if self.queries == "all":
            return prompt
        last = prompt & (_count_from_end(prompt) == 1)
        if self.queries == "last":
            return last
        after = behind_visual(prompt, visual)
        return torch.where(after.any(dim=1, keepdim=True), after, last)

    def score(self, inputs: RankingInputs) -> Tensor:
        """The mean attention itself (B, M)."""
        if inputs.attention is None:
            raise ValueError("the attention ranker needs RankingInputs.attention")
        return inputs.attention


def behind_visual(prompt: Tensor, visual: Tensor) -> Tensor:
    """The prompt's tokens behind its last visual one: (B, T) bool, from masks of the same shape."""
    return prompt & (_count_from_end(visual) == 0)


def _count_from_end(mask: Tensor) -> Tensor:
    """(B, T): how many true places there are from each place to the end of its row, itself included."""
    return mask.flip(1).cumsum(1).flip(1)
