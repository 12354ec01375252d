"""Narrow a decoder layer's own arguments to the tokens that it still sees.

Letters: B samples, T tokens of the unpruned row, Q tokens that enter the layer, K keys that they attend to.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from pruners.block_masks import Rule, block_mask, dense, narrowed, seen
from pruners.errors import UnsupportedCallError, UnsupportedModelError
from pruners.layout import Entries, gather_tokens

#: Form of an attention mask: (B, 1, Q, K) bool, the same in floats to be added, (B, K) for FlashAttention, or
#: a BlockMask for flex attention.
MaskForm = Literal["bool", "float", "flat", "block"]
_FORMS: dict[str, MaskForm] = {"sdpa": "bool", "eager": "float", "flex_attention": "block"}

_NARROWED = {"attention_mask", "position_ids", "position_embeddings"}


def mask_form(implementation: str) -> MaskForm:
    """The masks that an attention implementation of transformers takes, or `UnsupportedModelError`."""
    if "flash" in implementation:
        return "flat"
    if implementation in _FORMS:
        return _FORMS[implementation]
    raise UnsupportedModelError(
        f"attention implementation '{implementation}' cannot be pruned: load the model with sdpa, eager, "
        "flex_attention or flash_attention_2"
    )


class Narrowing:
    """One set of tokens and keys. Layers that share it share the narrowed tensors."""

    def __init__(
        self,
        rows: Tensor,
        start: int,
        keys: Entries,
        form: MaskForm,
        window: int | None,
        positions: Tensor | None,
        blocks: Tensor | None = None,
    ) -> None:
        #: (B, Q): the tokens' places in the call's unpruned row, which begins behind `start` earlier tokens
        self.rows, self.start = rows, start
        self.keys, self.form = keys, form
        #: a token sees this many unpruned positions, its own included; None sees all before it
        self.window = window
        #: (B, Q): the places whose position ids the tokens take; None leaves the position arguments alone
        self.positions = positions
        #: (B, start + T) tokens of one number, but -1, see each other in both directions
        self.blocks = blocks
        self._done: dict[tuple[str, int], tuple[Any, Any]] = {}

    def apply(self, kwargs: dict[str, Any], tokens: int, dtype: torch.dtype) -> dict[str, Any]:
        """A copy of a layer's keyword arguments for these tokens; the call brought `tokens` (T) of them."""
        if self.positions is not None:
            _refuse_unknown(kwargs, tokens)
        width = self.start + tokens
        mask = kwargs.get("attention_mask")
        narrowed = kwargs | {
            "attention_mask": self._once("mask", mask, lambda m: self._mask(m, width, dtype))
        }
        return narrowed if self.positions is None else narrowed | self._positional(kwargs, self.positions)

    def _positional(self, kwargs: dict[str, Any], positions: Tensor) -> dict[str, Any]:
        found = {}
        for name, trailing in (("position_ids", 0), ("position_embeddings", 1)):
            if kwargs.get(name) is not None:
                gather = partial(gather_tokens, index=positions, trailing=trailing)
                found[name] = self._once(name, kwargs[name], gather)
        return found

    def _once(self, name: str, source: Any, make: Callable[[Any], Any]) -> Any:
        key = (name, id(source))
        if key not in self._done:
            # the source is kept beside the result, so that its id is not given to another tensor meanwhile
            self._done[key] = (source, make(source))
        return self._done[key][1]

    def _mask(self, mask: Any, width: int, dtype: torch.dtype) -> Any:
        """The model's own mask gathered where it speaks of the unpruned row, else a causal one of our own."""
        beyond = self.window is not None and width > self.window
        if self.keys.full and self.rows.shape[1] == 1 and not beyond:
            # one token, the last, sees all there is
            return None
        if self.form == "flat":
            if beyond:
                raise UnsupportedCallError(
                    f"FlashAttention counts its window of {self.window} tokens in what pruning leaves of "
                    f"{width}: load the model with sdpa"
                )
            # never None: without a mask FlashAttention takes positions with gaps for packed sequences
            return self.keys.valid
        if mask is None or mask.shape[-1] != width:
            return self._causal(dtype)
        if isinstance(mask, BlockMask):
            return self._blocked(narrowed(mask.mask_mod, self.rows, self.keys.columns, self.keys.valid))
        # whole rows first, then columns by an index that is only expanded: no integers of the mask's size
        rows = gather_tokens(mask.transpose(1, 2), self.rows, 2).transpose(1, 2)
        columns = self.keys.columns.to(mask.device)[:, None, None, :]
        picked: Tensor = rows.gather(3, columns.expand(*rows.shape[:3], -1))
        return picked if self.keys.full else _forbid(picked, self.keys.valid.to(mask.device)[:, None, None])

    def _causal(self, dtype: torch.dtype) -> Any:
        """None where the implementation's own causal rule is right: nothing before the call, no padding."""
        if self.keys.full and self.form == "bool" and self.start == 0:
            return None
        own = self.rows + self.start
        first = torch.zeros_like(own) if self.window is None else own - self.window + 1
        blocks = None if self.blocks is None else self.blocks.to(own.device)
        rule = seen(own, first, self.keys.columns, self.keys.valid, blocks)
        if self.form == "block":
            return self._blocked(rule)
        places = torch.arange(own.shape[1], device=own.device).expand_as(own)
        allowed = dense(rule, places, self.keys.columns.shape[1])
        if self.form == "bool":
            return allowed
        return _forbid(torch.zeros(allowed.shape, dtype=dtype, device=allowed.device), allowed)

    def _blocked(self, rule: Rule) -> BlockMask:
        samples, queries = self.rows.shape
        return block_mask(rule, samples, queries, self.keys.columns.shape[1], self.rows.device)


def image_blocks(types: Tensor) -> Tensor:
    """(B, T): the runs of tokens whose type (B, T) is 1, numbered from 1 on; -1 elsewhere."""
    image = (types == 1).long()
    begins = image.diff(prepend=torch.zeros_like(image[:, :1])).clamp(min=0)
    return torch.where(image > 0, begins.cumsum(1), -1)


def _forbid(mask: Tensor, allowed: Tensor) -> Tensor:
    if mask.dtype == torch.bool:
        return mask & allowed
    return mask.masked_fill(~allowed, torch.finfo(mask.dtype).min)


def _refuse_unknown(kwargs: dict[str, Any], tokens: int) -> None:
    """A tensor with one entry per token that nobody narrows would be read at the wrong places."""
    for name, value in kwargs.items():
        if name not in _NARROWED and isinstance(value, Tensor) and tokens in value.shape:
            raise UnsupportedModelError(
                f"the decoder layers take a tensor '{name}' with one entry per token, which cannot be pruned"
            )
