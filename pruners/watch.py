"""Listen to one layer's attention while the model's own implementation goes on doing the work.

transformers looks its attention function up by name at every call. While one layer is watched, the text
configuration names a function of ours, which computes the scores of `pruners.scores` from the layer's rotated
queries and keys, and then calls the implementation that it stands for: SDPA stays SDPA.

Letters: B samples, G key-value heads, Q tokens that enter the layer, K keys, D head size, R query rows
that vote, M visual tokens.
"""

import contextlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pruners.errors import UnsupportedModelError
from pruners.forwards import Forward, replaced_forward
from pruners.layout import gather_tokens
from pruners.scores import attention_received, key_norms

_SUFFIX = "_with_rows"


class RowsReadyError(Exception):
    """Ends the probe of a layer as soon as its rows are computed; never reaches a caller."""


class Watch(ABC):
    """Asks the next attention that runs about its visual tokens."""

    #: only the answer is wanted: stop the layer once it is there
    probing = False
    #: (B, R) places of the tokens whose queries `measure` reads; None for all of them
    read_rows: Tensor | None = None

    def __init__(self, visual: Tensor) -> None:
        #: (B, M) places of the visual tokens among those that enter the layer
        self.visual = visual
        #: (B, M) float32 once the layer has run
        self.answer: Tensor | None = None
        self._configured: list[tuple[Any, str]] = []

    @abstractmethod
    def measure(self, query: Tensor, key: Tensor, mask: Tensor | None, options: dict[str, Any]) -> Tensor:
        """The answer (B, M), from what the layer calls its attention with."""

    def arm(self, configs: Iterable[Any]) -> None:
        """Put our function's name in the text configurations, until the layer calls it."""
        for config in configs:
            name = config._attn_implementation
            self._configured.append((config, name))
            config._attn_implementation = _registered(name)
        _watched.set(self)

    def disarm(self) -> None:
        """Put the configured names back. May be called again."""
        while self._configured:
            config, name = self._configured.pop()
            config._attn_implementation = name
        if _watched.get() is self:
            _watched.set(None)

    def result(self, layer: int) -> Tensor:
        """(B, M) scores, or `UnsupportedModelError` where the layer did not come by our function."""
        self.disarm()
        if self.answer is None:
            raise UnsupportedModelError(
                f"decoder layer {layer} does not call its attention through AttentionInterface: "
                "use a ranker that needs none (topv, divprune, random, uniform)"
            )
        return self.answer


class RowWatch(Watch):
    """What the visual tokens receive from some query rows."""

    def __init__(self, visual: Tensor, rows: Tensor, voting: Tensor, probing: bool) -> None:
        super().__init__(visual)
        #: (B, R) places of the query rows among the tokens that enter the layer, and which are no padding
        self.rows = self.read_rows = rows
        self.voting = voting
        self.probing = probing

    def measure(self, query: Tensor, key: Tensor, mask: Tensor | None, options: dict[str, Any]) -> Tensor:
        """Attention, mean over heads and rows."""
        _refuse_other_softmax(options)
        places = self.rows, self.voting, self.visual
        return attention_received(query, key, mask, *places, scaling=options.get("scaling"))


class KeyWatch(Watch):
    """How long the visual tokens' keys are."""

    def measure(self, query: Tensor, key: Tensor, mask: Tensor | None, options: dict[str, Any]) -> Tensor:  # noqa: ARG002
        """Norms, mean over key-value heads."""
        return key_norms(query, key, self.visual)


_watched: ContextVar[Watch | None] = ContextVar("searchsvc_watched_layer", default=None)


def probe(
    layer: nn.Module, hidden: Tensor, kwargs: dict[str, Any], watch: Watch, configs: Iterable[Any]
) -> None:
    """Fill `watch` from a layer's own queries and keys without running the layer.

    Its forward is entered, and left by an exception at its attention: norm, projections and rotation are the
    layer's own code, whatever their names. It costs the keys once more, and, where the layer projects queries
    and values apart, nearly nothing for these. `kwargs` must hold no cache that stores.
    """
    watch.arm(configs)
    try:
        with torch.no_grad(), contextlib.suppress(RowsReadyError), _projecting(layer, watch.read_rows):
            layer.forward(hidden, **kwargs)
    finally:
        watch.disarm()


@contextlib.contextmanager
def _projecting(layer: nn.Module, rows: Tensor | None) -> Iterator[None]:
    """Have `q_proj` project the tokens `rows` (B, R) alone, `v_proj` none; what they leave out is zero."""
    attention = getattr(layer, "self_attn", None)
    with contextlib.ExitStack() as stack:
        # one row of values tells their width and dtype
        for name, wanted in (("q_proj", rows), ("v_proj", None if rows is None else rows[:, :1])):
            projection = getattr(attention, name, None)
            if wanted is not None and isinstance(projection, nn.Module):
                stack.enter_context(replaced_forward(projection, _narrowed(wanted)))
        yield


def _narrowed(rows: Tensor) -> Callable[[Forward], Forward]:
    def make(forward: Forward) -> Forward:
        def narrow(tokens: Tensor) -> Tensor:
            if tokens.ndim != 3:
                return forward(tokens)  # type: ignore[no-any-return]
            places = rows.to(tokens.device)
            projected: Tensor = forward(gather_tokens(tokens, places, 1))
            whole = projected.new_zeros(*tokens.shape[:2], projected.shape[-1])
            return whole.scatter(1, places[:, :, None].expand_as(projected), projected)

        return narrow

    return make


class PeekedCache:
    """A cache that shows a layer what it holds together with what is new, and stores nothing."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keys and values (B, G, K, D), the held ones first."""
        held = self._cache.layers[layer]
        return torch.cat([held.keys, keys], -2), torch.cat([held.values, values], -2)


def _registered(name: str) -> str:
    """Our function's name; it contains the one it stands for: transformers looks for "flash" in it."""
    ours = name + _SUFFIX
    if ours not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(ours, _around(name))
        AttentionMaskInterface.register(ours, ALL_MASK_ATTENTION_FUNCTIONS[name])
    return ours


def _around(name: str) -> Callable[..., Any]:
    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any
    ) -> Any:
        watch = _watched.get()
        if watch is not None:
            # the configured name is back before the implementation runs: FlashAttention reads it there
            watch.disarm()
            watch.answer = watch.measure(query, key, mask, options)
            if watch.probing:
                raise RowsReadyError
        return _implementation(name, module)(module, query, key, value, mask, **options)

    return attention


def _implementation(name: str, module: nn.Module) -> Callable[..., Any]:
    """The function that transformers itself would call: eager attention lives in each model's own file."""
    if name == "eager":
        return sys.modules[type(module).__module__].eager_attention_forward  # type: ignore[no-any-return]
    return ALL_ATTENTION_FUNCTIONS[name]  # type: ignore[no-any-return]


def _refuse_other_softmax(options: dict[str, Any]) -> None:
    for option in ("softcap", "s_aux", "position_bias"):
        if options.get(option) is not None:
            raise UnsupportedModelError(
                f"attention with '{option}' is not known to the attention ranker: use topv, divprune or knorm"
            )
