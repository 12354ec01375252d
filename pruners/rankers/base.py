"""What a ranker is: one function from what the model knows about its visual tokens to a score for each.

Letters: B samples, M visual tokens that a reduction chooses from (padded to the largest sample of the
batch), I text tokens behind the last visual token (padded likewise), D width.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

#: What a ranker must be given: nothing, the prompts' ids, the hidden states at the cut, the keys of the layer
#: before it, both of these for the text as well, that layer's attention rows, or its features.
Signal = Literal["nothing", "prompts", "states", "keys", "pivots", "attention", "features"]
#: The signals that there are before layer 0, too.
BEFORE_ANY_LAYER: tuple[Signal, ...] = ("nothing", "prompts", "states")


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """The prompt's text behind its last visual token; a sample may have none."""

    #: (B, I) bool: which places hold a token; the others are padding
    valid: Tensor
    #: (B, I, D): the tokens as they enter the layer that is reduced
    states: Tensor
    #: (B, I) float32: L2 norm of each token's key in the layer before, mean over key-value heads
    key_norms: Tensor


@dataclass(frozen=True, kw_only=True)
class RankingInputs:
    """What one reduction knows. Only the fields of the ranker's `signal` are filled; the others are None."""

    #: (B, M) bool: which places hold a visual token; the others are padding
    valid: Tensor
    #: (B, M) int64: the token's number among the N visual tokens of its sample, in raster order
    tokens: Tensor
    #: N of each sample, before any reduction
    visual_tokens: tuple[int, ...]
    #: one 1-D tensor of ids per sample, without padding and without answer tokens ("prompts")
    prompts: tuple[Tensor, ...] | None = None
    #: (B, M, D): the tokens as they enter the layer that is reduced ("states", "pivots")
    states: Tensor | None = None
    #: (B, M) float32: L2 norm of each token's key in the layer before, mean over key-value heads ("keys",
    #: "pivots")
    key_norms: Tensor | None = None
    #: the text behind the last visual token ("pivots")
    instruction: Instruction | None = None
    #: (B, M) float32: attention that each visual token receives, mean over heads and query rows ("attention")
    attention: Tensor | None = None
    #: (B, M, D): the tokens as they enter the source layer ("features")
    sources: Tensor | None = None
    #: (B, M, D): the same tokens as they enter that layer's MLP ("features")
    targets: Tensor | None = None
    #: (B, M, 2) float32: row and column on the grid of the token's own image ("features")
    grid: Tensor | None = None
    #: (B, M) int64: number of the token's image in its sample ("features")
    image: Tensor | None = None
    #: (B, M, 2) float32: centre of the grid of the token's own image ("features")
    centre: Tensor | None = None


class Ranker(BaseModel, ABC):
    """A frozen value that scores visual tokens. A subclass adds its options, `type`, `signal` and `score`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    #: what `score` needs to be given
    signal: ClassVar[Signal]
    #: the name in profiles and specs
    type: str

    @abstractmethod
    def score(self, inputs: RankingInputs) -> Tensor:
        """(B, M) float32, higher is kept first. Places where `inputs.valid` is false may hold anything."""

    def keep(self, inputs: RankingInputs, counts: Tensor) -> Tensor:
        """Choose `counts` (B,) tokens per sample, the best by `score`; returns a (B, M) bool mask."""
        return top_k(self.score(inputs), inputs.valid, counts)

    def spec(self) -> str:
        """What `parse_ranker` reads back: the type, and the options that are not at their defaults."""
        chosen = self.model_dump(exclude_defaults=True, exclude={"type"})
        options = ",".join(f"{name}={value}" for name, value in chosen.items())
        return f"{self.type}:{options}" if options else self.type


def top_k(scores: Tensor, valid: Tensor, counts: Tensor) -> Tensor:
    """The `counts` (B,) highest of `scores` (B, M) among `valid`; of equal scores the lower index wins."""
    return (rank_of(scores, valid) < counts[:, None]) & valid


def rank_of(scores: Tensor, valid: Tensor) -> Tensor:
    """Each token's place (B, M) from the highest score down, 0 first; what is not `valid` comes last."""
    ranked = scores.masked_fill(~valid, float("-inf")).sort(dim=1, descending=True, stable=True).indices
    # a valid -inf and a padding place compare equal: padding goes last whatever its index is
    ranked = ranked.gather(1, (~valid).gather(1, ranked).sort(dim=1, stable=True).indices)
    places = torch.arange(scores.shape[1], device=scores.device).expand_as(ranked)
    return torch.empty_like(ranked).scatter_(1, ranked, places)
