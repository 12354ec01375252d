"""What pruning must equal on any architecture: the model's own, unpruned, eager forward, with keys masked.

No code of the runtime is used, and no layer is written out again: a hook before each decoder layer forbids, in
the mask that the model made for that layer, the keys that were pruned before it.

Letters: B samples, T tokens of the padded row, H heads.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

Kept = list[list[list[int]]]


@dataclass
class Run:
    """Logits (B, T, words); per layer mean attention (B, T, T), and which keys a token may see (B, T, T)."""

    logits: Tensor
    attention: list[Tensor] = field(default_factory=list)
    allowed: list[Tensor] = field(default_factory=list)

    def received(self, layer: int, sample: int, voters: list[int]) -> list[float]:
        """What each token (T) receives from some rows; a row counts for the tokens that its window reaches."""
        seen = self.allowed[layer][sample, voters].sum(0).clamp(min=1)
        return (self.attention[layer][sample, voters].sum(0) / seen).tolist()


@torch.no_grad()
def masked_forward(model: Any, inputs: dict[str, Tensor], kept: Kept, prompt: int | None = None) -> Run:
    """The unpruned model in which layer l's tokens see only `kept[l][sample]`.

    Tokens from place `prompt` on are answers: nothing before them sees them, whatever mask the model makes.
    """
    decoder = decoder_of(model)
    run = Run(torch.empty(0))
    before = decoder.config._attn_implementation
    decoder.config._attn_implementation = "eager"
    hooks = [
        layer.register_forward_pre_hook(partial(_forbid, run, places, prompt), with_kwargs=True)
        for layer, places in zip(decoder.layers, kept, strict=True)
    ]
    hooks += [
        layer.self_attn.register_forward_hook(lambda _m, _a, out: run.attention.append(out[1].mean(1)))
        for layer in decoder.layers
    ]
    try:
        run.logits = model(**inputs, use_cache=False).logits
    finally:
        decoder.config._attn_implementation = before
        for hook in hooks:
            hook.remove()
    return run


def decoder_of(model: Any) -> Any:
    """The module with the decoder layers; BLIP-2 names the language model around it."""
    decoder = model.get_decoder()
    return decoder if hasattr(decoder, "layers") else decoder.get_decoder()


def _forbid(
    run: Run, places: list[list[int]], prompt: int | None, _layer: Any, args: Any, kwargs: Any
) -> tuple[Any, Any]:
    mask = kwargs["attention_mask"].clone()
    seen = torch.zeros(mask.shape[0], mask.shape[3], dtype=torch.bool)
    for sample, sample_places in enumerate(places):
        seen[sample, sample_places] = True
    lowest = torch.finfo(mask.dtype).min
    mask = mask.masked_fill(~seen[:, None, None], lowest)
    if prompt is not None:
        future = torch.ones(mask.shape[2:], dtype=torch.bool).triu(1)
        future[:, :prompt] = False
        mask = mask.masked_fill(future, lowest)
    run.allowed.append(mask[:, 0] == 0)
    return args, kwargs | {"attention_mask": mask}
