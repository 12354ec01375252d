"""Read a call of the model: which tokens are real, prompt and visual; and refuse what would come out wrong.

Letters: B samples, T tokens that the call brings, P tokens that its cache has seen.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruners.cached import Record
from pruners.errors import UnsupportedCallError
from pruners.refusals import (
    refuse_arguments,
    refuse_candidates,
    refuse_packing,
    refuse_positions,
    refuse_two_way,
)

#: tensors that a call of text alone may have too
_TEXT = {
    "attention_mask",
    "cache_position",
    "image_grid_thw",
    "image_sizes",
    "input_ids",
    "labels",
    "logits_to_keep",
    "mm_token_type_ids",
    "position_ids",
    "token_type_ids",
    "video_grid_thw",
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Call:
    """A call that brings visual tokens: a prefill."""

    #: all that the model is called with, by name
    arguments: dict[str, Any]
    ids: Tensor
    #: (B, T) bool: no padding; no padding and no teacher-forced answer; a visual token's placeholder
    real: Tensor
    prompt: Tensor
    visual: Tensor
    #: P
    start: int
    #: (B, P) bool: which of the tokens seen before are no padding
    seen: Tensor
    #: real tokens and visual tokens (N) of each sample
    lengths: tuple[int, ...]
    visual_tokens: tuple[int, ...]
    #: whether a row ends in padding; then pruned rows are padded on the right as well
    right_padded: bool

    @property
    def tokens(self) -> int:
        """T."""
        return self.ids.shape[1]

    def ends_visual(self) -> Tensor:
        """(B,) bool: whether a sample's last token is visual."""
        return (self.visual & (self.real.flip(1).cumsum(1).flip(1) == 1)).any(1)

    def begins_visual(self) -> Tensor:
        """(B,) bool: whether a sample's first token is visual."""
        return (self.visual & (self.real.cumsum(1) == 1)).any(1)


def visual_mask(ids: Tensor, visual_token_ids: tuple[int, ...]) -> Tensor:
    """(B, T) bool: which ids are placeholders of visual tokens."""
    mask = ids == visual_token_ids[0]
    for other in visual_token_ids[1:]:
        mask |= ids == other
    return mask


def brings_features(arguments: dict[str, Any]) -> bool:
    """Whether a call has anything to put into placeholders: a model may also generate a placeholder's id."""
    others = [value for name, value in arguments.items() if name not in _TEXT]
    # pixel_values, image_sizes, inputs_embeds, ... or features encoded before
    return any(isinstance(value, Tensor | list) or (isinstance(value, dict) and value) for value in others)


def read_ids(arguments: dict[str, Any], given: Tensor | None) -> Tensor:
    """The call's ids (B, T); `given` are those that the user set for a call with `inputs_embeds`."""
    embeds, ids = arguments.get("inputs_embeds"), arguments.get("input_ids")
    if embeds is None and isinstance(ids, Tensor):
        return ids
    if given is None or embeds is None:
        raise UnsupportedCallError(
            "inputs_embeds do not tell which tokens are visual: set handle.input_ids before each such call"
        )
    if embeds.shape[0] % given.shape[0] or embeds.shape[1] != given.shape[1]:
        raise UnsupportedCallError(
            f"handle.input_ids has shape {tuple(given.shape)} and inputs_embeds {tuple(embeds.shape[:2])}: "
            "give the ids of this very call"
        )
    # beams, and several answers to one prompt, arrive repeated already
    return given.to(embeds.device).repeat_interleave(embeds.shape[0] // given.shape[0], 0)


def read_continuation(model: nn.Module, arguments: dict[str, Any], ids: Tensor, past: Record) -> Tensor:
    """(B, T): which tokens of a call without visual tokens, on a pruned cache, are no padding."""
    refuse_arguments(model, arguments)
    refuse_positions(arguments, past)
    return _padding_mask(arguments, past.total, ids)[:, past.total :]


def read_prefill(
    model: nn.Module,
    arguments: dict[str, Any],
    ids: Tensor,
    visual: Tensor,
    past: Record | None,
    prompt_lengths: Tensor | None,
    two_way_images: bool,
) -> Call:
    """The call as a value, or `UnsupportedCallError` where pruning would not leave its answer right."""
    refuse_arguments(model, arguments)
    if prompt_lengths is None:
        refuse_candidates(arguments)
    cache = arguments.get("past_key_values")
    start = 0 if cache is None else int(cache.get_seq_length())
    if past is not None:
        refuse_positions(arguments, past)
        start = past.total
    refuse_two_way(arguments, start, ids.shape[1], two_way_images)
    call = _call(arguments, ids, visual, _padding_mask(arguments, start, ids), prompt_lengths)
    if past is not None and bool((past.ends_visual & call.begins_visual()).any()):
        raise UnsupportedCallError(
            "the call goes on amid visual tokens where the one before it ended: a chunked prefill must not "
            "split them"
        )
    return call


def _call(
    arguments: dict[str, Any], ids: Tensor, visual: Tensor, mask: Tensor, prompt_lengths: Tensor | None
) -> Call:
    """The call with these ids; `mask` (B, P + T) tells padding."""
    start = mask.shape[1] - ids.shape[1]
    real = mask[:, start:]
    visual = visual & real
    prompt = real if prompt_lengths is None else real & _within(real, prompt_lengths)
    # all that shapes depend on, in one synchronisation with the device
    rows = torch.stack([real.sum(1), visual.sum(1), (visual & ~prompt).sum(1), (~real[:, -1]).long()])
    lengths, visual_tokens, outside, ends = rows.tolist()
    if any(outside):
        raise UnsupportedCallError(
            "handle.prompt_lengths ends amid the visual tokens: it counts each row's unpadded prompt tokens, "
            "visual ones included"
        )
    return Call(
        arguments=arguments,
        ids=ids,
        real=real,
        prompt=prompt,
        visual=visual,
        start=start,
        seen=mask[:, :start],
        lengths=tuple(lengths),
        visual_tokens=tuple(visual_tokens),
        right_padded=any(ends),
    )


def _padding_mask(arguments: dict[str, Any], start: int, ids: Tensor) -> Tensor:
    """(B, P + T) bool: which tokens are no padding, seen ones first."""
    mask = arguments.get("attention_mask")
    width = start + ids.shape[1]
    if mask is None:
        refuse_packing(arguments.get("position_ids"))
        return torch.ones(ids.shape[0], width, dtype=torch.bool, device=ids.device)
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        raise UnsupportedCallError("attention_mask must have two dimensions (samples, tokens) to be pruned")
    if mask.shape[1] != width:
        raise UnsupportedCallError(
            f"attention_mask has {mask.shape[1]} columns, the call {ids.shape[1]} tokens after {start} in "
            "the cache: give one column per token, cached ones included (a cache whose layer 0 was pruned "
            "must be continued with the new tokens alone)"
        )
    return mask.to(device=ids.device, dtype=torch.bool)


def _within(real: Tensor, prompt_lengths: Tensor) -> Tensor:
    lengths = prompt_lengths.to(real.device)
    if lengths.shape != real.shape[:1]:
        raise UnsupportedCallError(
            f"handle.prompt_lengths must hold one number for each of {real.shape[0]} rows, "
            f"and has shape {tuple(lengths.shape)}"
        )
    return real.cumsum(1) <= lengths[:, None]
