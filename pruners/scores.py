"""What visual tokens are worth to a layer's attention, from its rotated queries and keys.

Letters: B samples, H heads, G key-value heads, Q tokens that enter the layer, K keys, D head size,
R query rows that vote, M visual tokens.
"""

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from pruners.block_masks import dense
from pruners.layout import gather_tokens

#: floats that one block of attention rows may take
_BLOCK = 2**24


@torch.no_grad()
def attention_received(
    query: Tensor,
    key: Tensor,
    mask: Tensor | BlockMask | None,
    rows: Tensor,
    voting: Tensor,
    visual: Tensor,
    scaling: float | None = None,
) -> Tensor:
    """Mean over heads and voting rows of the attention that the visual tokens receive: (B, M) float32.

    `query` (B, H, Q, D) and `key` (B, G, K, D) are rotated; the last Q keys are the queries' own tokens.
    `rows` and `voting` (B, R) and `visual` (B, M) count places among the Q. `mask` is the layer's own: None
    (causal), (B, K), (B, 1 or H, Q, K) bool or additive, or a BlockMask. The softmax is over the whole row,
    in float32; a row counts for the tokens that it can see. Work and memory are R K per head, in row blocks.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    # a model spread over devices keeps its ids on the first one
    rows, voting, visual = (places.to(query.device) for places in (rows, voting, visual))
    keys = key.float().transpose(2, 3)
    columns = visual + key.shape[2] - query.shape[2]
    total = torch.zeros(visual.shape, dtype=torch.float32, device=query.device)
    seen = torch.zeros_like(total)
    block = max(1, _BLOCK // (query.shape[0] * query.shape[1] * key.shape[2]))
    for chosen, counting in zip(torch.split(rows, block, 1), torch.split(voting, block, 1), strict=True):
        weights, allowed = _attention_rows(query, keys, mask, chosen, scaling)
        vote = allowed & counting[:, :, None]
        total += (weights * vote).sum(1).gather(1, columns)
        seen += vote.sum(1).gather(1, columns)
    return total / seen.clamp(min=1)


@torch.no_grad()
def key_norms(query: Tensor, key: Tensor, visual: Tensor) -> Tensor:
    """L2 norms of the visual tokens' keys, mean over key-value heads: (B, M) float32; shapes as above."""
    places = visual.to(key.device) + key.shape[2] - query.shape[2]
    keys: Tensor = gather_tokens(key.transpose(1, 2), places, 2)
    norms: Tensor = torch.linalg.vector_norm(keys.float(), dim=-1)
    return norms.mean(2)


def _attention_rows(
    query: Tensor, keys: Tensor, mask: Tensor | BlockMask | None, rows: Tensor, scaling: float
) -> tuple[Tensor, Tensor]:
    """Attention of some rows, mean over heads, and what they may see: (B, R, K) float32 and bool."""
    samples, heads, _, width = query.shape
    groups, total = keys.shape[1], keys.shape[3]
    chosen = gather_tokens(query.transpose(1, 2), rows, 2).transpose(1, 2).float()
    # query head h reads key-value head h // (H / G): a view, no repeated keys
    grouped = chosen.reshape(samples, groups, -1, width)
    logits = (grouped @ keys).view(samples, heads, -1, total) * scaling
    bias, allowed = _row_mask(mask, rows, query.shape[2], total)
    logits = (logits if bias is None else logits + bias).masked_fill(~allowed, float("-inf"))
    # a padding row that may see nothing is no voter; keep it finite
    return logits.softmax(-1).nan_to_num(0.0).mean(1), allowed.any(1).expand(samples, -1, -1)


def _row_mask(
    mask: Tensor | BlockMask | None, rows: Tensor, queries: int, keys: int
) -> tuple[Tensor | None, Tensor]:
    """What is added to the rows' logits, if anything, and what they may see, (B, 1 or H, R, K) bool."""
    if isinstance(mask, BlockMask):
        return None, dense(mask.mask_mod, rows, keys)
    if mask is not None and mask.ndim == 4:
        picked = mask.expand(rows.shape[0], -1, -1, -1).take_along_dim(rows[:, None, :, None], 2)
        if picked.dtype == torch.bool:
            return None, picked
        return picked.float(), picked > torch.finfo(picked.dtype).min / 2
    places = torch.arange(keys, device=rows.device)
    allowed = (places <= rows[:, :, None] + keys - queries)[:, None]
    return None, allowed if mask is None else allowed & mask.bool()[:, None, None, :]
