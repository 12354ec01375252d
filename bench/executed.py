"""FLOPs that really run, two per multiply-accumulate, padding included: read off the tensors that pass.

Counted are the matrix products of the decoder layers (projections, MLP, attention as the full square), and of
the patch embedding, the vision tower and the projector. Left out are norms, softmax, activations, the word
embedding and the output head, and what ranking tokens costs.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pruners.costs import ModelShape
from pruners.families import describe


class Executed:
    """Counts what one LLaVA runs."""

    def __init__(self, model: Any) -> None:
        self.flops = 0
        self._layers: list[Any] = list(describe(model).layers)
        self._shape = ModelShape.from_config(model.config)
        base = model.base_model
        self._before = [*base.vision_tower.modules(), *base.multi_modal_projector.modules()]
        #: calls of decoder layers by (samples, tokens, keys)
        self._calls: Counter[tuple[int, int, int]] = Counter()
        self._encoded = 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count for the length of a block."""
        hooks = self._hook()
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self.flops = self._encoded + sum(
                calls * samples * layer_flops(self._shape, tokens, keys)
                for (samples, tokens, keys), calls in self._calls.items()
            )

    def _hook(self) -> list[RemovableHandle]:
        hooks = [
            layer.self_attn.register_forward_pre_hook(self._see_layer, with_kwargs=True)
            for layer in self._layers
        ]
        for module in self._before:
            if isinstance(module, nn.Linear | nn.Conv2d):
                hooks.append(module.register_forward_hook(self._see_product))
            if isinstance(attention := getattr(module, "self_attn", None), nn.Module):
                hooks.append(attention.register_forward_pre_hook(self._see_attention, with_kwargs=True))
        return hooks

    def _see_layer(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        samples, tokens = _entering(args, kwargs).shape[:2]
        cache = kwargs.get("past_key_values")
        held = 0 if cache is None else int(cache.get_seq_length(module.layer_idx))
        self._calls[samples, tokens, held + tokens] += 1

    def _see_product(self, module: Any, _args: Any, output: Tensor) -> None:
        """Each output is one row of weights times what it reads."""
        self._encoded += 2 * output.numel() * module.weight[0].numel()

    def _see_attention(self, _module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        samples, tokens, width = _entering(args, kwargs).shape
        self._encoded += 4 * samples * tokens**2 * width


def _entering(args: Any, kwargs: dict[str, Any]) -> Tensor:
    hidden: Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden


def layer_flops(shape: ModelShape, tokens: int, keys: int) -> int:
    """Of one decoder layer on `tokens` of one sample that attend to `keys`."""
    matrices = shape.attention_matrices + shape.mlp_matrices(0)
    return 2 * tokens * matrices + 4 * tokens * keys * shape.num_heads * shape.head_dim
