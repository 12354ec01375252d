"""Key norms: keep the tokens whose keys are short, which attention tends to favour.

Devoto et al., "A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression", EMNLP 2024
(arXiv 2406.11430): the lower the L2 norm of a key, the more attention it receives while decoding.
Letters: B samples, M visual tokens to choose from.
"""

from typing import ClassVar, Literal

from torch import Tensor

from pruners.rankers.base import Ranker, RankingInputs, Signal


class KeyNormRanker(Ranker):
    """Shortest keys first, in the layer before the cut, mean over the key-value heads (ours).

    The paper evicts in every layer and head by itself; here a token leaves all heads at once. What is read
    are the rotated keys that attention is called with: a rotation leaves a norm as it is. Models that
    normalise their keys (Qwen3, Gemma 3) leave little to rank by.
    """

    signal: ClassVar[Signal] = "keys"

    type: Literal["knorm"] = "knorm"

    def score(self, inputs: RankingInputs) -> Tensor:
        """Minus the mean norm (B, M)."""
        if inputs.key_norms is None:
            raise ValueError("the key-norm ranker needs RankingInputs.key_norms")
        return -inputs.key_norms
