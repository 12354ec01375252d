"""Masks as flex attention takes them: a rule about indices, and which blocks of the matrix it fills.

A rule is called as `rule(sample, head, query, key)`, with index tensors that broadcast, and answers in bool.

Letters: B samples, Q tokens that enter the layer, R of them, K keys that they attend to.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def seen(own: Tensor, first: Tensor, columns: Tensor, valid: Tensor, blocks: Tensor | None) -> Rule:
    """The causal rule for tokens at unpruned positions `own` (B, Q) and `valid` keys at `columns` (B, K).

    A token sees nothing before position `first` (B, Q). Tokens that share a number, but -1, in `blocks`
    (B, positions) see each other in both directions. All are tensors: a new number would be compiled anew.
    """

    def rule(sample: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        token, other = own[sample, query], columns[sample, key]
        sees = other <= token
        if blocks is not None:
            block = blocks[sample, token]
            sees = sees | ((block == blocks[sample, other]) & (block >= 0))
        return sees & (other >= first[sample, query]) & valid[sample, key]

    return rule


def narrowed(rule: Rule, rows: Tensor, columns: Tensor, valid: Tensor) -> Rule:
    """A rule about unpruned tokens, for those at `rows` (B, Q) and the keys at `columns` that are `valid`."""

    def narrow(sample: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return rule(sample, head, rows[sample, query], columns[sample, key]) & valid[sample, key]

    return narrow


def block_mask(rule: Rule, samples: int, queries: int, keys: int, device: torch.device) -> BlockMask:
    """The rule with its blocks; finding them takes B x Q x K bools for a moment."""
    return create_block_mask(rule, samples, None, queries, keys, device)


def dense(rule: Rule, queries: Tensor, keys: int) -> Tensor:
    """(B, 1, R, K) bool: what a rule says about each sample's `queries` (B, R) and all keys."""
    samples = torch.arange(len(queries), device=queries.device)[:, None, None, None]
    key = torch.arange(keys, device=queries.device)
    answers = rule(samples, torch.zeros_like(samples), queries[:, None, :, None], key)
    return answers.expand(len(queries), 1, queries.shape[1], keys)
