"""The hooks on a pruned model: one call of it after the other.

Letters: B samples, T tokens that a call brings.
"""

import inspect
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pruners.cached import Continuation, record_of, remember
from pruners.calls import brings_features, read_continuation, read_ids, read_prefill, visual_mask
from pruners.compiled import forget_compiled
from pruners.errors import UnsupportedCallError, UnsupportedModelError
from pruners.families import Family
from pruners.masks import mask_form
from pruners.prefill import Prefill
from pruners.pruning import Pruning
from pruners.refusals import refuse_uncounted
from pruners.trace import Trace

_attached: WeakKeyDictionary[nn.Module, "Handle"] = WeakKeyDictionary()


class Handle:
    """A pruned model's other end. Made by `pruners.attach`."""

    def __init__(self, model: nn.Module, pruning: Pruning, family: Family) -> None:
        if family.decoder in _attached:
            raise UnsupportedCallError(
                f"this {type(model).__name__} is pruned already: detach() the other handle first"
            )
        #: what the model is pruned by, and what is known about its structure
        self.pruning, self.family = pruning, family
        #: what the last prefill kept
        self.trace = Trace()
        #: (B,) unpadded prompt tokens per row, visual ones included, where teacher-forced answers follow.
        #: Set it before a prefill; it serves that one alone
        self.prompt_lengths: Tensor | None = None
        #: (B, T) ids of a prefill made with `inputs_embeds`. Set it before; it serves that one alone
        self.input_ids: Tensor | None = None
        #: told of each prefill, and of its arguments, before it runs
        self.on_prefill: Callable[[Prefill, Mapping[str, Any]], None] | None = None
        self._signature = inspect.signature(family.entry.forward)
        self._call: Prefill | Continuation | None = None
        #: the thread whose call runs
        self._thread: int | None = None
        self._uncached_ids: Tensor | None = None
        modules = [module for layer in family.layers for module in layer.modules()]
        self._configs = list({id(m.config): m.config for m in modules if hasattr(m, "config")}.values())
        mask_form(family.text_config._attn_implementation)
        mlps = (
            [_mlp(number, layer) for number, layer in enumerate(family.layers)]
            if self._ranks_features
            else []
        )
        self._hooks = self._hook(mlps)
        _attached[family.decoder] = self

    def detach(self) -> None:
        """Take every hook away. May be called again."""
        self._abandon()
        if self._hooks:
            forget_compiled()
        while self._hooks:
            self._hooks.pop().remove()
        if _attached.get(self.family.decoder) is self:
            del _attached[self.family.decoder]

    def serves(self, call: Prefill) -> bool:
        """Whether a call is the one that runs."""
        return self._call is call

    @property
    def _ranks_features(self) -> bool:
        return self.pruning.ranker.signal == "features"

    def _hook(self, mlps: list[nn.Module]) -> list[RemovableHandle]:
        hooks = [
            self.family.entry.register_forward_pre_hook(self._begin, with_kwargs=True),
            self.family.entry.register_forward_hook(self._end, always_call=True),
        ]
        if self.family.embedding is not None:
            hooks.append(self.family.embedding.register_forward_pre_hook(self._see_ids))
        for number, layer in enumerate(self.family.layers):
            hooks.append(layer.register_forward_pre_hook(partial(self._enter, number), with_kwargs=True))
        for number, mlp in enumerate(mlps):
            hooks.append(mlp.register_forward_pre_hook(partial(self._see_mlp, number)))
        return hooks

    def _see_ids(self, _embedding: nn.Module, args: Any) -> None:
        """Before ids are embedded: keep them for the call that brings them as `inputs_embeds`."""
        if self._thread is None:
            self.input_ids = args[0]

    def _begin(
        self, model: nn.Module, args: Any, kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        """Before the model's forward: what kind of call it is, and whether it can be served."""
        me = threading.get_ident()
        if self._thread not in (None, me):
            raise UnsupportedCallError(
                "two calls at once on one pruned model: give each thread its own model"
            )
        # a call that this thread left half done (Ctrl-C in a notebook) is over
        self._abandon()
        # arguments given by place get their names; **kwargs stay as they are
        arguments = self._signature.bind_partial(*args).arguments | kwargs
        self._call = self._read(model, arguments)
        self._thread = me
        return self._with_positions(args, kwargs, arguments)

    def _read(self, model: nn.Module, arguments: dict[str, Any]) -> Prefill | Continuation | None:
        given, self.input_ids = self.input_ids, None
        ids = read_ids(arguments, given)
        cache = arguments.get("past_key_values")
        past = record_of(cache)
        form = mask_form(self.family.text_config._attn_implementation)
        visual = visual_mask(ids, self.family.traits.visual_token_ids)
        if not brings_features(arguments) or not visual.any():
            new = None if past is None else read_continuation(model, arguments, ids, past)
            return (
                None
                if new is None or past is None
                else Continuation(past, cache, new, form, self.family.windows)
            )
        prompt_lengths, self.prompt_lengths = self.prompt_lengths, None
        self._refuse_growth(ids, cache, prompt_lengths)
        two_way = self.family.traits.two_way_images
        call = read_prefill(model, arguments, ids, visual, past, prompt_lengths, two_way)
        prefill = Prefill(self.pruning, self.family, self._configs, call, form, past)
        if self.on_prefill is not None:
            self.on_prefill(prefill, arguments)
        return prefill

    def _with_positions(
        self, args: Any, kwargs: dict[str, Any], arguments: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        """Go on counting positions where the model would read them off a layer 0 that was pruned."""
        if self._call is None or arguments.get("position_ids") is not None:
            return None
        past = self._call.past
        if self.family.traits.axial_positions:
            refuse_uncounted(past, isinstance(self._call, Prefill) and self._call.call.start > 0)
        if past is None or past.whole:
            return None
        embeds = arguments.get("inputs_embeds")
        tokens = arguments["input_ids"] if embeds is None else embeds
        first = past.total + self.family.traits.first_position
        positions = torch.arange(first, first + tokens.shape[1], device=tokens.device)
        return args, kwargs | {"position_ids": positions[None]}

    def _enter(self, number: int, _layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        """Before a decoder layer."""
        if self._thread is None:
            raise UnsupportedCallError(
                "call the pruned model, not its decoder: ids tell which tokens are visual"
            )
        if self._call is None:
            return None
        if len(args) != 1:
            raise UnsupportedModelError(
                f"decoder layer {number} is not called as in transformers, with hidden_states alone by place"
            )
        hidden, kwargs = self._call.enter(number, args[0], kwargs)
        return (hidden,), kwargs

    def _see_mlp(self, number: int, _mlp: nn.Module, args: Any) -> None:
        if isinstance(self._call, Prefill):
            self._call.see_mlp(number, args[0])

    def _end(self, _model: nn.Module, _args: Any, output: Any) -> None:
        """After the model's forward; a forward that raised, or was refused, has no output."""
        if self._thread != threading.get_ident():
            return
        call = self._call
        self._abandon()
        if output is None or call is None:
            return
        if isinstance(call, Continuation):
            call.leave()
            return
        self.trace = Trace(call.stages, call.plan.counts)
        self._uncached_ids = call.call.ids if call.cache is None else None
        # a keep-all prefill on an unpruned cache leaves nothing to remember, whatever kind of cache it is
        if call.cache is not None and not (self.pruning.is_identity and call.past is None):
            remember(call.cache, call.record())

    def _abandon(self) -> None:
        if isinstance(self._call, Prefill):
            self._call.abandon()
        self._call, self._thread = None, None

    def _refuse_growth(self, ids: Tensor, cache: Any, prompt_lengths: Tensor | None) -> None:
        """generate(use_cache=False) repeats the prompt with its own answer, whose tokens would rank."""
        before, self._uncached_ids = self._uncached_ids, None
        if before is None or cache is not None or prompt_lengths is not None:
            return
        if before.shape == (ids.shape[0], ids.shape[1] - 1) and torch.equal(before, ids[:, :-1]):
            raise UnsupportedCallError(
                "this is the last call's row with one more token, and answer tokens must not rank: call "
                "generate with a cache, or set handle.prompt_lengths before each call"
            )


def _mlp(number: int, layer: nn.Module) -> nn.Module:
    mlp = getattr(layer, "mlp", None)
    if not isinstance(mlp, nn.Module):
        raise UnsupportedModelError(f"decoder layer {number} has no .mlp, whose input TopV ranks by")
    return mlp
