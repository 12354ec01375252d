"""How many visual tokens enter each layer of one prefill; numbers alone.

Letters: B samples, N visual tokens of a sample, L layers.
"""

from collections.abc import Hashable, Sequence
from functools import cached_property

from pruners.pruning import Pruning
from pruners.recovery import ranked_share


class Plan:
    """The integer table of a batch."""

    def __init__(self, pruning: Pruning, visual_tokens: Sequence[int], text_tokens: Sequence[int]) -> None:
        self._pruning = pruning
        #: N per sample, and the tokens that are never removed
        self.visual_tokens, self.text_tokens = tuple(visual_tokens), tuple(text_tokens)
        by_number = {n: pruning.schedule.counts(n) for n in set(visual_tokens)}
        #: [layer][sample]: visual tokens that enter the layer
        self.counts = tuple(zip(*(by_number[n] for n in visual_tokens), strict=True))

    def before(self, layer: int) -> tuple[int, ...]:
        """Visual tokens per sample that come out of the layer before `layer`."""
        return self.counts[layer - 1] if layer else self.visual_tokens

    def reduces(self, layer: int) -> bool:
        """Whether any sample loses tokens before `layer`."""
        return self.counts[layer] != self.before(layer)

    def chooses(self, layer: int) -> bool:
        """Whether the reduction before `layer` has to choose: all or nothing needs no ranker."""
        if layer >= len(self.counts):
            return False
        return any(0 < new < old for new, old in zip(self.counts[layer], self.before(layer), strict=True))

    @cached_property
    def any_choice(self) -> bool:
        """Whether any layer's reduction has to choose."""
        return any(self.chooses(layer) for layer in range(len(self.counts)))

    def prefix(self, layer: int) -> Hashable:
        """What decides all that the layers before `layer` do; equal ones do the same."""
        counts = self.counts[:layer]
        if not any(map(self.reduces, range(layer))):
            return counts
        return counts, self._pruning.ranker, self._pruning.recovery, self._pruning.schedule.position_ids

    def lengths(self, layer: int) -> list[int]:
        """Tokens per sample that enter `layer`, text and visual."""
        return [text + n for text, n in zip(self.text_tokens, self.counts[layer], strict=True)]

    def ranked(self, layer: int) -> list[int]:
        """Tokens per sample that are kept by rank; the others of the budget are put back by recovery."""
        recovery = self._pruning.recovery
        if recovery is None:
            return list(self.counts[layer])
        pairs = zip(self.before(layer), self.counts[layer], strict=True)
        return [ranked_share(old, new, recovery.every) for old, new in pairs]
