"""What the last prefill kept."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from pruners.errors import UnsupportedCallError
from pruners.layout import Stage


class Trace:
    """The positions that every layer of the last prefill saw. Empty before the first one."""

    def __init__(self, stages: Sequence[Stage] = (), counts: Sequence[Sequence[int]] = ()) -> None:
        self._stages = tuple(stages)
        #: number of visual tokens per layer and sample
        self.visual_tokens = tuple(tuple(layer) for layer in counts)

    @cached_property
    def kept(self) -> tuple[tuple[Tensor, ...], ...]:
        """`kept[layer][sample]`: int64 positions, text and visual, ascending, in the unpruned (padded) row.

        Padding is left out. The tensors lie on the CPU; layers that see the same tokens share them.
        """
        done: dict[int, tuple[Tensor, ...]] = {}
        for stage in self._stages:
            if id(stage) not in done:
                rows = zip(stage.columns.cpu(), stage.valid.cpu(), strict=True)
                done[id(stage)] = tuple(columns[valid] for columns, valid in rows)
        return tuple(done[id(stage)] for stage in self._stages)

    def rows(self, sample: int, positions: Tensor | Sequence[int]) -> Tensor:
        """Where the model's output holds unpruned positions of a sample: int64 rows of `logits[sample]`.

        Pruned rows are padded on the left, so that the last row is the last token of every sample; where
        the call itself was padded on the right, they are too. Raises `UnsupportedCallError` for a position
        that was pruned.
        """
        wanted = torch.as_tensor(positions, dtype=torch.int64).cpu()
        last = self._stages[-1]
        if last.whole:
            return wanted
        kept = self.kept[-1][sample]
        place = torch.searchsorted(kept, wanted).clamp(max=len(kept) - 1)
        if not torch.equal(kept[place], wanted):
            missing = wanted[kept[place] != wanted].tolist()
            raise UnsupportedCallError(
                f"sample {sample} has no output for positions {missing}: they were pruned"
            )
        padding = int(last.valid[sample].cpu().long().argmax())
        return place + padding
