"""Rank at random: the baseline that every method must beat."""

import hashlib
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pruners.rankers.base import Ranker, RankingInputs, Signal


class RandomRanker(Ranker):
    """A permutation per sample, seeded by `seed` and the prompt's own ids.

    So a sample keeps the same tokens in any batch, at any row, on any device and in every beam; and
    what one layer keeps, every deeper layer chooses from by the same permutation.
    """

    signal: ClassVar[Signal] = "prompts"

    type: Literal["random"] = "random"
    seed: int = Field(default=0, ge=0)

    def score(self, inputs: RankingInputs) -> Tensor:
        """Each token's place in its sample's permutation (B, M): whole numbers, so that nothing ties."""
        if inputs.prompts is None:
            raise ValueError("the random ranker needs RankingInputs.prompts")
        pairs = zip(inputs.prompts, inputs.visual_tokens, strict=True)
        places = pad_sequence([self._permutation(ids, count) for ids, count in pairs], batch_first=True)
        return places.to(inputs.tokens.device).gather(1, inputs.tokens)

    def _permutation(self, ids: Tensor, visual_tokens: int) -> Tensor:
        text = f"{self.seed}:{','.join(map(str, ids.tolist()))}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)
        generator = torch.Generator().manual_seed(seed)
        return torch.randperm(visual_tokens, generator=generator).float()
