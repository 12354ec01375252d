"""One prefill: layer after layer, which tokens go on, and the layer's arguments for them.

Letters: B samples, T tokens of the unpruned row, W places of a pruned row, M visual tokens to choose from.
"""

import copy
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pruners.cached import Record, reach
from pruners.calls import Call
from pruners.families import Family
from pruners.layout import Entries, Stage, compact, gather_tokens
from pruners.masks import MaskForm, Narrowing, image_blocks
from pruners.plan import Plan
from pruners.pruning import Pruning
from pruners.recovery import put_back
from pruners.refusals import refuse_cache
from pruners.signals import Signals
from pruners.watch import PeekedCache


class Prefill:
    """A forward that brings visual tokens; `enter` is called before each decoder layer, in order."""

    def __init__(
        self,
        pruning: Pruning,
        family: Family,
        configs: Sequence[Any],
        call: Call,
        form: MaskForm,
        past: Record | None,
    ) -> None:
        self.pruning, self.call, self.form = pruning, call, form
        #: what is known about the cache that the call continues
        self.past = past
        text = [length - n for length, n in zip(call.lengths, call.visual_tokens, strict=True)]
        self.plan = Plan(pruning, call.visual_tokens, text)
        #: what each layer entered so far sees
        self.stages: list[Stage] = []
        #: the cache that the layers were given
        self.cache: Any = None
        self._stage = Stage.of(call.real, full=sum(call.lengths) == call.real.numel())
        self._signals = Signals(pruning.ranker, family, configs, call, self.plan)
        self._windows = family.windows
        types = call.arguments.get("token_type_ids") if family.traits.two_way_images else None
        #: (B, tokens so far) number of the image whose tokens see each other in both directions; -1 for none
        self._blocks = None if types is None else image_blocks(types)
        self._narrowings: dict[tuple[int, int, int | None], Narrowing] = {}
        self._earlier: dict[int, Entries] = {}
        #: the first layer that runs, and the cache's layers before it (`resume`)
        self._first = 0
        self._given: Sequence[Any] = ()

    def resume(self, layer: int, stages: Sequence[Stage], cached: Sequence[Any]) -> None:
        """Begin at `layer`: what the layers before it saw, and left in the cache, is known."""
        self._first, self._given = layer, cached
        self.stages, self._stage = list(stages), stages[-1]

    def asks(self, layer: int) -> Hashable | None:
        """What the reduction before `layer` must be told by the layer before that; None for nothing."""
        return self._signals.asks(layer)

    def tells(self, layer: int) -> dict[Hashable, Any]:
        """What is known of it once that layer has run, under what `asks` returned."""
        return self._signals.tells(layer)

    def told(self, layer: int, signals: Mapping[Hashable, Any]) -> None:
        """Take what another prefill, alike up to `layer`, was told."""
        self._signals.told(layer, signals)

    def enter(self, layer: int, hidden: Tensor, kwargs: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Arguments of decoder layer `layer`; `hidden` (B, W, D) comes from the layer before."""
        if layer == 0:
            self._bind(kwargs.get("past_key_values"))
        if layer < self._first:
            return hidden, kwargs
        if self.plan.reduces(layer):
            stage = self._without(layer, self._kept(layer, hidden, kwargs))
            hidden, self._stage = gather_tokens(hidden, stage.slots, 1), stage
        self.stages.append(self._stage)
        kwargs = self._narrowed(layer, hidden, kwargs)
        self._signals.listen(layer + 1, self._stage, hidden)
        return hidden, kwargs

    def see_mlp(self, layer: int, hidden: Tensor) -> None:
        """What enters the MLP of `layer` (B, W, D)."""
        self._signals.see_mlp(layer + 1, self._stage, hidden)

    def record(self) -> Record:
        """What the layers of the cache hold once the forward is through."""
        held: dict[tuple[int, int], Entries] = {}
        for layer, stage in enumerate(self.stages):
            past = self._past(layer)
            if (id(stage), id(past)) not in held:
                held[id(stage), id(past)] = self._keys(stage, past)
        entries = [held[id(stage), id(self._past(layer))] for layer, stage in enumerate(self.stages)]
        earlier = self.call.seen.sum(1) if self.past is None else self.past.lengths
        total = self.call.start + self.call.tokens
        lengths, padded = earlier + self.call.real.sum(1), self.call.right_padded
        padded |= self.past is not None and self.past.right_padded
        return Record(entries, total, lengths, self.call.ends_visual(), padded)

    def abandon(self) -> None:
        """Leave nothing armed behind a forward that failed."""
        self._signals.silence()

    @torch.no_grad()
    def _kept(self, layer: int, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """(B, M) bool: which of the visual tokens so far stay before `layer`."""
        counts = torch.tensor(self.plan.counts[layer], device=self.call.ids.device)
        if not self.plan.chooses(layer):
            return self._signals.visual_slots(layer, self._stage)[1] & (counts > 0)[:, None]
        if self._signals.needs_probe():
            seen = self._narrowed(layer, hidden, kwargs)
            cache = PeekedCache(self.cache) if self.cache is not None and self.call.start else None
            self._signals.probe(layer, self._stage, hidden, seen | {"past_key_values": cache})
        inputs = self._signals.inputs(layer, self._stage, hidden)
        recovery = self.pruning.recovery
        ranked = torch.tensor(self.plan.ranked(layer), device=inputs.valid.device)
        kept = self.pruning.ranker.keep(inputs, ranked)
        return kept if recovery is None else put_back(kept, inputs.valid, counts, recovery.every)

    def _without(self, layer: int, keep: Tensor) -> Stage:
        """The stage after a reduction that keeps `keep` (B, M) of the visual tokens and all text."""
        stage = self._stage
        visual = self.call.visual.gather(1, stage.columns) & stage.valid
        number = (visual.long().cumsum(1) - 1).clamp(min=0)
        stays = stage.valid & (~visual | keep.to(visual.device).gather(1, number))
        lengths = self.plan.lengths(layer)
        slots, valid = compact(stays, max(lengths), left=not self.call.right_padded)
        full = min(lengths) == max(lengths)
        return Stage(stage.columns.gather(1, slots), valid, slots, whole=False, full=full)

    def _narrowed(self, layer: int, hidden: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        stage, past = self._stage, self._past(layer)
        whole = past is None or (past.whole and (self.past is None or self.past.whole))
        if stage.whole and whole:
            return kwargs
        key = (id(stage), id(past), self._windows[layer])
        if key not in self._narrowings:
            keys, sources = self._keys(stage, self._reached(layer)), self._position_sources(stage)
            self._narrowings[key] = Narrowing(
                stage.columns,
                self.call.start,
                keys,
                self.form,
                self._windows[layer],
                sources,
                self._blocks,
            )
        return self._narrowings[key].apply(kwargs, self.call.tokens, hidden.dtype)

    def _position_sources(self, stage: Stage) -> Tensor | None:
        """(B, W): the unpruned places whose position ids the tokens take; None leaves them alone."""
        if stage.whole:
            return None
        if self.pruning.schedule.position_ids == "keep":
            return stage.columns
        # numbered again without gaps: the i-th token that is left takes the position of the i-th there was
        first, _ = compact(self.call.real, max(self.call.lengths), left=False)
        return first.gather(1, (stage.valid.long().cumsum(1) - 1).clamp(min=0))

    def _bind(self, cache: Any) -> None:
        self.cache = cache
        if cache is not None and not self.pruning.is_identity:
            refuse_cache(cache)
        if cache is not None and self._given:
            cache.layers[: self._first] = [copy.copy(held) for held in self._given]

    def _past(self, layer: int) -> Entries | None:
        """What a layer of the cache holds before this call."""
        if not self.call.start:
            return None
        held = 0 if self.past is None else id(self.past.held[layer])
        if held not in self._earlier:
            # without a record an unpruned model filled the cache
            unpruned = Entries.of(self.call.seen, 0, full=bool(self.call.seen.all()))
            self._earlier[held] = unpruned if self.past is None else self.past.entries(layer)
        return self._earlier[held]

    def _reached(self, layer: int) -> Entries | None:
        """What attention still gets of that from the cache."""
        past = self._past(layer)
        if past is None:
            return None
        within = reach(self.cache, layer)
        return past.last(within) if self.past is None else self.past.reached(layer, within)

    def _keys(self, stage: Stage, past: Entries | None) -> Entries:
        new = stage.entries(self.call.start)
        return new if past is None else past.then(new)
