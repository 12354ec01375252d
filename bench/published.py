"""Pruning as the papers' released code does it: eager attention that returns its n x n weights.

An implementation of its own, for the benches' inputs alone (text, images, text; no padding), to be measured
against. Shares nothing with `pruners`; a test holds that both keep the same tokens.

B samples, H heads, n tokens that enter a layer, M visual tokens among them, S text tokens after the images.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

#: Which layers run eager attention: all, and the model returns every layer's weights, as the papers' code has
#: it; or, a stronger opponent, those layers alone whose weights are read, and none is kept.
Eager = Literal["output_attentions", "in scoring layers"]


@contextmanager
def output_attentions(
    model: Any, counts: Sequence[int], before: int, rows: int, eager: Eager = "output_attentions"
) -> Iterator[None]:
    """Prune to `counts` visual tokens per layer, which begin behind `before` text tokens.

    Ranked by the mean over heads and the last `rows` tokens of the attention weights of the layer before.
    """
    everywhere = eager == "output_attentions"
    configured = model.config.get_text_config()._attn_implementation
    returned = model.generation_config.output_attentions
    if everywhere:
        model.set_attn_implementation("eager")
        model.generation_config.output_attentions = True
    try:
        with ExitStack() as stack:
            for hook in _Hooks(model, counts, before, rows, everywhere).register():
                stack.callback(hook.remove)
            yield
    finally:
        model.set_attn_implementation(configured)
        model.generation_config.output_attentions = returned


class _Hooks:
    def __init__(self, model: Any, counts: Sequence[int], before: int, rows: int, everywhere: bool) -> None:
        self.layers = model.get_decoder().layers
        self.config = self.layers[0].self_attn.config
        self.name = self.config._attn_implementation
        self.counts, self.before, self.rows, self.everywhere = counts, before, rows, everywhere
        self.visual = counts[0]
        self.weights: Tensor | None = None
        #: arguments of the layers after the first reduction
        self.moved: dict[str, Any] = {}

    def register(self) -> Iterator[Any]:
        for number, layer in enumerate(self.layers):
            yield layer.register_forward_pre_hook(
                lambda _, args, kwargs, n=number: self._enter(n, args, kwargs), with_kwargs=True
            )
            if self._scores(number):
                yield layer.self_attn.register_forward_hook(self._see)

    def _scores(self, layer: int) -> bool:
        return layer + 1 < len(self.counts) and self.counts[layer + 1] < self.counts[layer]

    def _enter(self, layer: int, args: tuple[Tensor], kwargs: dict[str, Any]) -> Any:
        hidden = args[0]
        if hidden.shape[1] == 1:
            # decoding: the one new token sees all that the layer's cache holds
            return args, kwargs | {"attention_mask": None}
        if layer == 0:
            self.visual, self.moved = self.counts[0], {}
        if self.counts[layer] < self.visual:
            hidden = self._reduced(layer, hidden, kwargs | self.moved)
        kwargs = kwargs | self.moved
        if self._scores(layer) and not self.everywhere:
            self.config._attn_implementation = "eager"
        if self._scores(layer) or self.everywhere:
            kwargs = kwargs | {"attention_mask": _causal(hidden.shape[1], hidden)}
        return (hidden,), kwargs

    def _see(self, _module: Any, _args: Any, output: tuple[Tensor, Tensor | None]) -> None:
        weights = output[1]
        if weights is not None and weights.shape[2] > 1:
            self.weights = weights
        self.config._attn_implementation = "eager" if self.everywhere else self.name

    def _reduced(self, layer: int, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """The tokens that stay; what else the layers are given for them goes into `moved`."""
        if self.weights is None:
            raise RuntimeError(f"no attention weights before layer {layer}")
        scores = self.weights.mean(1)[:, -self.rows :].mean(1)  # (B, n)
        images = scores[:, self.before : self.before + self.visual]
        best = images.topk(self.counts[layer], dim=1).indices.sort(1).values + self.before
        text = torch.arange(hidden.shape[1], device=hidden.device).expand(hidden.shape[0], -1)
        index = torch.cat([text[:, : self.before], best, text[:, self.before + self.visual :]], 1)[:, :, None]
        self.visual, self.weights = self.counts[layer], None
        turned = tuple(
            part.expand(len(index), -1, -1).gather(1, index.expand(-1, -1, part.shape[-1]))
            for part in kwargs["position_embeddings"]
        )
        self.moved = {"position_embeddings": turned, "position_ids": None, "attention_mask": None}
        return hidden.gather(1, index.expand(-1, -1, hidden.shape[-1]))


def _causal(tokens: int, like: Tensor) -> Tensor:
    """(1, 1, n, n) to be added to the logits."""
    lowest = torch.finfo(like.dtype).min
    return torch.full((tokens, tokens), lowest, dtype=like.dtype, device=like.device).triu(1)[None, None]
