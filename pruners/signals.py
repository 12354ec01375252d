"""Collect what a ranker must be given: prompts, states, attention or features, and nothing that it is not.

Letters: B samples, W tokens that enter a layer, M visual tokens to choose from, D width.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pruners.calls import Call
from pruners.errors import UnsupportedModelError
from pruners.families import Family
from pruners.grids import Places, token_places
from pruners.layout import Stage, gather_tokens
from pruners.plan import Plan
from pruners.rankers import AttentionRanker, Instruction, Ranker, RankingInputs
from pruners.rankers.attention import behind_visual
from pruners.watch import KeyWatch, RowWatch, Watch, probe


class Signals:
    """Listens to one prefill for its ranker."""

    def __init__(
        self, ranker: Ranker, family: Family, configs: Sequence[Any], call: Call, plan: Plan
    ) -> None:
        self._ranker, self._family, self._configs, self._call, self._plan = (
            ranker,
            family,
            configs,
            call,
            plan,
        )
        #: the features of the layer that runs now, where the next reduction ranks by them
        self._sources: Tensor | None = None
        self._targets: Tensor | None = None
        self._places: Places | None = None
        self._watch: Watch | None = None
        #: what the layer passed over would have answered (`told`)
        self._received: Tensor | None = None
        #: (B, T) which tokens vote, and how many at most in one sample; None where attention is not asked for
        self._votes: Tensor | None = None
        self._voters = 0
        #: whether visual tokens are among them, which a reduction may remove
        self._voters_go = False
        self._count_voters()
        self._slots: tuple[Stage, int, tuple[Tensor, Tensor]] | None = None

    def listen(self, layer: int, stage: Stage, hidden: Tensor) -> None:
        """Collect in the layer about to run, on `hidden` (B, W, D), what ranks before the next, `layer`."""
        self._sources = self._targets = None
        if not self._plan.chooses(layer):
            return
        if self._ranker.signal == "features":
            self._sources = gather_tokens(hidden, self.visual_slots(layer, stage)[0], 1)
        elif self._ranker.signal in ("attention", "keys", "pivots") and not self.needs_probe():
            self._watch = self._watch_for(layer, stage)
            self._watch.arm(self._configs)

    def see_mlp(self, layer: int, stage: Stage, hidden: Tensor) -> None:
        """Keep what visual tokens enters an MLP (B, W, D), where they rank before the next, `layer`."""
        if self._sources is not None:
            self._targets = gather_tokens(hidden, self.visual_slots(layer, stage)[0], 1)

    def asks(self, layer: int) -> Hashable | None:
        """What the reduction before `layer` must be told by the layer before that; None for nothing."""
        if not self._plan.chooses(layer) or self.needs_probe():
            return None
        if isinstance(self._ranker, AttentionRanker):
            return self._ranker.signal, self._ranker.queries
        return self._ranker.signal if self._ranker.signal in ("keys", "pivots", "features") else None

    def tells(self, layer: int) -> dict[Hashable, Any]:
        """What that layer, which has run, has told, under what `asks` returned."""
        asked = self.asks(layer)
        if asked is None:
            return {}
        if self._ranker.signal == "features":
            return {asked: (self._sources, self._targets)}
        return {asked: None if self._watch is None else self._watch.result(layer - 1)}

    def told(self, layer: int, signals: Mapping[Hashable, Any]) -> None:
        """Take what another prefill, alike up to `layer`, was told."""
        asked = self.asks(layer)
        if asked is None:
            return
        if self._ranker.signal == "features":
            self._sources, self._targets = signals[asked]
        else:
            self._received = signals[asked]

    def silence(self) -> None:
        """Leave nothing armed behind."""
        if self._watch is not None:
            self._watch.disarm()

    def visual_slots(self, layer: int, stage: Stage) -> tuple[Tensor, Tensor]:
        """Places (B, M) in `stage` of what a reduction before `layer` chooses from, and their validity."""
        width = max(self._plan.before(layer))
        if self._slots is None or self._slots[0] is not stage or self._slots[1] != width:
            self._slots = stage, width, stage.pick(self._call.visual, width)
        return self._slots[2]

    def needs_probe(self) -> bool:
        """Whether the reduction now due ranks by the attention of the layer that has not run yet."""
        return isinstance(self._ranker, AttentionRanker) and self._ranker.score_layer == "next"

    def probe(self, layer: int, stage: Stage, hidden: Tensor, kwargs: dict[str, Any]) -> None:
        """Rank by `layer`'s own queries and keys, on input and arguments that are not reduced yet."""
        self._watch = self._watch_for(layer, stage, probing=True)
        module: nn.Module = self._family.layers[layer]
        probe(module, hidden, kwargs, self._watch, self._configs)

    def inputs(self, layer: int, stage: Stage, hidden: Tensor) -> RankingInputs:
        """What the reduction before `layer`, whose input is `hidden` (B, W, D), ranks by."""
        slots, valid = self.visual_slots(layer, stage)
        number = (self._call.visual.long().cumsum(1) - 1).clamp(min=0)
        tokens = number.gather(1, stage.columns.gather(1, slots))
        given: dict[str, Any] = {}
        if self._ranker.signal == "prompts":
            given["prompts"] = self._prompts()
        elif self._ranker.signal == "attention":
            given["attention"] = self._answer(layer).to(valid.device)
        elif self._ranker.signal == "features":
            given = self._features(tokens)
        elif self._ranker.signal == "keys":
            given["key_norms"] = self._answer(layer).to(valid.device)
        elif self._ranker.signal == "pivots":
            given = self._norms_and_text(self._answer(layer).to(valid.device), stage, hidden)
        if self._ranker.signal in ("states", "pivots"):
            given["states"] = gather_tokens(hidden, slots, 1).to(valid.device)
        return RankingInputs(valid=valid, tokens=tokens, visual_tokens=self._plan.visual_tokens, **given)

    def _count_voters(self) -> None:
        if not isinstance(self._ranker, AttentionRanker) or not self._plan.any_choice:
            return
        self._votes = self._ranker.query_rows(self._call.prompt, self._call.visual)
        voters = self._votes.sum(1).max()
        # one synchronisation with the device
        self._voters, visual = torch.stack([voters, (self._votes & self._call.visual).sum()]).tolist()
        self._voters_go = visual > 0

    def _watch_for(self, layer: int, stage: Stage, probing: bool = False) -> Watch:
        visual = self.visual_slots(layer, stage)[0]
        if not isinstance(self._ranker, AttentionRanker) or self._votes is None:
            text = [self._text_slots(stage)[0]] if self._ranker.signal == "pivots" else []
            return KeyWatch(torch.cat([visual, *text], 1))
        votes = self._votes
        if self._voters_go and not stage.whole:
            # a removed token has no vote: where the prompt ends with an image, the last one left has it
            there = torch.zeros_like(self._call.ids).scatter_add_(1, stage.columns, stage.valid.long()) > 0
            votes = self._ranker.query_rows(self._call.prompt & there, self._call.visual)
        return RowWatch(visual, *stage.pick(votes, self._voters), probing)

    def _answer(self, layer: int) -> Tensor:
        if self._received is not None:
            received, self._received = self._received, None
            return received
        watch, self._watch = self._watch, None
        if watch is None:
            raise RuntimeError(f"nothing was watched before layer {layer}")
        return watch.result(layer if watch.probing else layer - 1)

    def _text_slots(self, stage: Stage) -> tuple[Tensor, Tensor]:
        """Places (B, I) in `stage` of the prompt's text behind its last visual token, and their validity."""
        text = behind_visual(self._call.prompt, self._call.visual)
        return stage.pick(text, int(text.sum(1).max()))

    def _norms_and_text(self, norms: Tensor, stage: Stage, hidden: Tensor) -> dict[str, Any]:
        """`norms` (B, M + I) of visual tokens and of the text behind them, each to its own."""
        slots, valid = self._text_slots(stage)
        visual = norms.shape[1] - slots.shape[1]
        states = gather_tokens(hidden, slots, 1).to(valid.device)
        text = Instruction(valid=valid, states=states, key_norms=norms[:, visual:])
        return {"key_norms": norms[:, :visual], "instruction": text}

    def _prompts(self) -> tuple[Tensor, ...]:
        pairs = zip(self._call.ids.cpu(), self._call.prompt.cpu(), strict=True)
        return tuple(ids[prompt] for ids, prompt in pairs)

    def _features(self, tokens: Tensor) -> dict[str, Any]:
        if self._places is None:
            self._places = token_places(
                self._call.ids, self._call.visual, self._family.layout(self._call.arguments)
            )
        grid, centre, image = (part.to(tokens.device) for part in self._places)
        if self._sources is None or self._targets is None:
            raise UnsupportedModelError("the decoder layer did not run its .mlp, whose input TopV ranks by")
        return {
            "sources": self._sources.to(tokens.device),
            "targets": self._targets.to(tokens.device),
            "grid": gather_tokens(grid, tokens, 1),
            "centre": gather_tokens(centre, tokens, 1),
            "image": torch.take_along_dim(image, tokens, 1),
        }
