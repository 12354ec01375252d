"""What each layer of a pruned cache holds, and the calls that continue it.

Letters: B samples, Q tokens that a call brings, L layers.
"""

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from pruners.errors import UnsupportedCallError
from pruners.layout import Entries
from pruners.masks import MaskForm, Narrowing


def reach(cache: Any, layer: int) -> int | None:
    """How many tokens a layer of a cache holds on to; None for all."""
    held: Any = cache.layers[layer] if layer < len(cache.layers) else None
    return held.sliding_window - 1 if getattr(held, "is_sliding", False) else None


class Record:
    """The unpruned positions that a cache's layers hold: counted here, not read off the cache."""

    def __init__(
        self,
        held: list[Entries],
        total: int,
        lengths: Tensor,
        ends_visual: Tensor,
        right_padded: bool,
    ) -> None:
        #: one per layer, as of the last prefill; layers that hold the same share one object
        self.held = held
        #: tokens of the unpruned row so far: where positions go on
        self.total = total
        #: (B,) the same without padding
        self.lengths = lengths
        #: (B,) whether the last prefill ended amid visual tokens
        self.ends_visual = ends_visual
        self.right_padded = right_padded
        #: (B, tokens since that prefill): which are no padding. Every layer holds all of them
        self.since = ends_visual.new_ones(ends_visual.shape[0], 0)
        self.since_full = True

    @property
    def whole(self) -> bool:
        """Whether layer 0, which the model's own mask is made for, still has every token."""
        return self.held[0].whole

    def entries(self, layer: int) -> Entries:
        """All that a layer was given so far."""
        if not self.since.shape[1]:
            return self.held[layer]
        start = self.total - self.since.shape[1]
        return self.held[layer].then(Entries.of(self.since, start, self.since_full))

    def reached(self, layer: int, reach: int | None) -> Entries:
        """What of it a cache still has that holds on to `reach` tokens."""
        entries = self.entries(layer)
        reached = entries.last(reach)
        if self.right_padded and reached is not entries:
            raise UnsupportedCallError(
                f"a cache layer that lets go of all but {reach} tokens keeps padding on the right instead: "
                "pad on the left"
            )
        return reached


#: Kept by cache, so that another handle, attached later, can go on where this one ended.
_records: WeakKeyDictionary[Any, Record] = WeakKeyDictionary()


def record_of(cache: Any) -> Record | None:
    """What is known about a cache; None where it was filled by an unpruned model, or is not there."""
    return None if cache is None else _records.get(cache)


def remember(cache: Any, record: Record) -> None:
    """Keep a record for as long as its cache lives."""
    _records[cache] = record


class Continuation:
    """One call without visual tokens on a pruned cache: a decoding step, or a further turn of text."""

    def __init__(
        self, record: Record, cache: Any, new: Tensor, form: MaskForm, windows: tuple[int | None, ...]
    ) -> None:
        self.past, self.cache, self.form, self._windows = record, cache, form, windows
        #: (B, Q) bool: which of the new tokens are no padding
        self.new = new
        self._full = bool(new.all())
        self._narrowings: dict[tuple[int, int | None, int | None], Narrowing] = {}

    def enter(self, layer: int, hidden: Tensor, kwargs: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """The arguments of decoder layer `layer`, its mask made for the keys that this layer holds."""
        held = self.past.held[layer]
        self._check(layer, held, hidden)
        if held.whole and self.past.whole:
            return hidden, kwargs
        return hidden, self._narrowing(layer, held).apply(kwargs, hidden.shape[1], hidden.dtype)

    def leave(self) -> None:
        """Count the tokens of a call that succeeded."""
        record = self.past
        record.since = torch.cat([record.since, self.new], 1)
        record.since_full &= self._full
        record.total += self.new.shape[1]
        record.lengths = record.lengths + self.new.sum(1)

    def _narrowing(self, layer: int, held: Entries) -> Narrowing:
        window, within = self._windows[layer], reach(self.cache, layer)
        key = (id(held), window, within)
        if key not in self._narrowings:
            new = Entries.of(self.new, self.past.total, self._full)
            keys = self.past.reached(layer, within).then(new)
            rows = torch.arange(self.new.shape[1], device=self.new.device).expand_as(self.new)
            self._narrowings[key] = Narrowing(rows, self.past.total, keys, self.form, window, None)
        return self._narrowings[key]

    def _check(self, layer: int, held: Entries, hidden: Tensor) -> None:
        expected = held.columns.shape[1] + self.past.since.shape[1]
        found = self.cache.get_seq_length(layer)
        if found != expected or hidden.shape[0] != held.columns.shape[0]:
            raise UnsupportedCallError(
                f"the pruned cache was changed since its prefill: layer {layer} held {expected} tokens of "
                f"{held.columns.shape[0]} samples, now {found} of {hidden.shape[0]} (cropping and selecting "
                "rows, as assisted decoding does, cannot be followed)"
            )
