"""Refuse what would come out wrong from a pruned model: one line each that says what to do instead.

Letters: B samples, T tokens that a call brings.
"""

from typing import Any

from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from pruners.cached import Record
from pruners.errors import UnsupportedCallError

_UNPACK = "call with one sequence per row and an attention_mask"
_CAPTURES = ("output_attentions", "output_hidden_states")


def refuse_cache(cache: Any) -> None:
    """Only a cache whose layers may hold different numbers of tokens can be pruned."""
    kinds = {type(layer) for layer in getattr(cache, "layers", ())}
    if not isinstance(cache, DynamicCache) or kinds - {DynamicLayer, DynamicSlidingWindowLayer}:
        raise UnsupportedCallError(
            f"a {type(cache).__name__} gives every layer the same length, or values that are quantised as "
            "they come: call with a plain DynamicCache (the default), or without a cache"
        )
    if any(getattr(layer, "record_past", False) for layer in cache.layers):
        raise UnsupportedCallError("a cache that records its past, to be cropped, cannot be pruned")


def refuse_two_way(arguments: dict[str, Any], start: int, tokens: int, by_image: bool) -> None:
    """`token_type_ids` of a call behind `start` tokens: too few, or more than images see both ways."""
    types = arguments.get("token_type_ids")
    if types is None:
        return
    if start and not by_image:
        raise UnsupportedCallError(
            f"token_type_ids let the whole prompt see itself in both directions, after {start} tokens in the "
            "cache: give the whole conversation in one call"
        )
    if types.shape[1] != start + tokens:
        raise UnsupportedCallError(
            f"token_type_ids has {types.shape[1]} columns, the call {tokens} tokens after {start} in the "
            "cache: give one column per token, cached ones included"
        )


def refuse_arguments(model: nn.Module, arguments: dict[str, Any]) -> None:
    """Training mode, and arguments whose answer pruning would change or misplace."""
    if model.training:
        raise UnsupportedCallError("the model is in training mode: call model.eval() before pruning")
    if arguments.get("labels") is not None:
        raise UnsupportedCallError(
            "labels do not fit a pruned row: call without labels and compute the loss from the logits "
            "(handle.trace.rows finds the rows)"
        )
    if arguments.get("cu_seq_lens_q") is not None:
        raise UnsupportedCallError(f"cu_seq_lens_q means several sequences in one row: {_UNPACK}")
    for name in _CAPTURES:
        if arguments.get(name):
            raise UnsupportedCallError(f"{name}=True cannot be answered while layers see different tokens")
    if isinstance(arguments.get("logits_to_keep"), Tensor):
        raise UnsupportedCallError(
            "logits_to_keep as a tensor names rows that pruning moves: pass a number, or none and use "
            "handle.trace.rows"
        )


def refuse_candidates(arguments: dict[str, Any]) -> None:
    """Assisted decoding brings guessed answer tokens with the prompt, and asks for their logits."""
    asked = arguments.get("logits_to_keep")
    if arguments.get("past_key_values") is not None and isinstance(asked, int) and asked > 1:
        raise UnsupportedCallError(
            f"logits_to_keep={asked} on a cache means that answer tokens follow the prompt, as in assisted "
            "decoding, and those must not rank: generate without an assistant, or set handle.prompt_lengths"
        )


def refuse_positions(arguments: dict[str, Any], past: Record) -> None:
    """Positions that repeat: generate finds the new tokens of a conversation by the length of layer 0."""
    positions = arguments.get("position_ids")
    if past.whole or positions is None or positions.ndim != 2:
        return
    if bool((positions[:, 0] < past.lengths.to(positions.device)).any()):
        raise UnsupportedCallError(
            f"position_ids go on at {positions[:, 0].tolist()} after {past.lengths.tolist()} tokens in the "
            "cache: a cache whose layer 0 was pruned must be continued with the new tokens alone"
        )


def refuse_uncounted(past: Record | None, further_image: bool) -> None:
    """Positions of several axes that the model would count wrongly by itself."""
    if past is not None and not past.whole:
        raise UnsupportedCallError(
            "a cache whose layer 0 was pruned does not tell where positions of several axes go on: give "
            "position_ids, as generate does"
        )
    if further_image:
        raise UnsupportedCallError(
            "behind a cache the model numbers a further image as if it were text: give position_ids, the "
            "last of those that get_rope_index finds for the whole conversation"
        )


def refuse_packing(positions: Tensor | None) -> None:
    """Position ids (B, T) of a call without a mask that begin again within a row."""
    if positions is not None and positions.ndim == 2 and bool((positions.diff(dim=-1) != 1).any()):
        raise UnsupportedCallError(
            f"position_ids with jumps and no attention_mask mean several sequences in one row: {_UNPACK}"
        )
