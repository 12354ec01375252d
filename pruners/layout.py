"""Which unpruned positions a decoder layer sees.

Letters: B samples, T tokens of the unpruned row, W places of a pruned row, K keys a layer attends to.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def compact(mask: Tensor, width: int, left: bool) -> tuple[Tensor, Tensor]:
    """Positions of each row's true places, in order: (B, width) int64, and which of them are valid (bool).

    Rows with fewer true places are padded, on the left or on the right, with a position of their own, so that
    whatever is gathered there is finite.
    """
    counts = mask.sum(1, keepdim=True)
    start = width - counts if left else torch.zeros_like(counts)
    places = torch.where(mask, mask.long().cumsum(1) - 1 + start, width)
    positions = torch.arange(mask.shape[1], device=mask.device).expand_as(places)
    index = positions.new_zeros(mask.shape[0], width + 1).scatter_(1, places, positions)[:, :width]
    slots = torch.arange(width, device=mask.device)
    valid = (slots >= start) & (slots < start + counts)
    if width:
        some = index[:, -1:] if left else index.gather(1, (counts - 1).clamp(min=0))
        index = torch.where(valid, index, some)
    return index, valid


@dataclass(frozen=True, eq=False)
class Entries:
    """The keys that a layer holds, or gets: unpruned positions (B, K), and which are no padding (B, K)."""

    columns: Tensor
    valid: Tensor
    #: nothing was removed: entry j is unpruned position j
    whole: bool
    #: every entry is valid
    full: bool

    def then(self, other: "Entries") -> "Entries":
        """These entries and, behind them, others."""
        return Entries(
            torch.cat([self.columns, other.columns], 1),
            torch.cat([self.valid, other.valid], 1),
            self.whole and other.whole,
            self.full and other.full,
        )

    def last(self, count: int | None) -> "Entries":
        """The last `count` entries; None stands for all."""
        width = self.columns.shape[1]
        if count is None or width <= count:
            return self
        return Entries(self.columns[:, width - count :], self.valid[:, width - count :], False, self.full)

    @staticmethod
    def of(valid: Tensor, start: int, full: bool) -> "Entries":
        """Unpruned tokens from position `start` on."""
        columns = torch.arange(start, start + valid.shape[1], device=valid.device).expand_as(valid)
        return Entries(columns, valid, whole=True, full=full)


@dataclass(frozen=True, eq=False)
class Stage:
    """What a run of layers sees of the row that a call brings."""

    #: (B, W): the place of each token in the call's own unpruned row
    columns: Tensor
    #: (B, W): which places hold a token
    valid: Tensor
    #: (B, W): the place of each token in the stage before
    slots: Tensor
    #: no token has been removed, and the model's own arguments fit as they are
    whole: bool
    full: bool

    @staticmethod
    def of(real: Tensor, full: bool) -> "Stage":
        """The unpruned row, from its (B, T) mask of tokens that are no padding."""
        columns = torch.arange(real.shape[1], device=real.device).expand_as(real)
        return Stage(columns, real, columns, whole=True, full=full)

    def entries(self, start: int) -> Entries:
        """The keys that this stage adds to a layer's cache, behind `start` earlier tokens."""
        return Entries(self.columns + start, self.valid, self.whole, self.full)

    def pick(self, mask: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Places here of the tokens that `mask` (B, T) marks, right-padded: (B, width), and validity."""
        return compact(mask.gather(1, self.columns) & self.valid, width, left=False)


def gather_tokens(value: Any, index: Tensor, trailing: int) -> Any:
    """Pick tokens (B, W) from a tensor (..., 1 or B, T, *trailing dimensions), or from each of a tuple."""
    if isinstance(value, tuple | list):
        return type(value)(gather_tokens(part, index, trailing) for part in value)
    index = index.to(value.device)
    samples = value.ndim - trailing - 2
    # whole rows at once: on a CPU many times as fast as gathering element by element
    if value.shape[samples] > 1:
        index = index + value.shape[samples + 1] * torch.arange(len(index), device=index.device)[:, None]
    rows = value.flatten(samples, samples + 1).index_select(samples, index.flatten())
    return rows.unflatten(samples, index.shape)
