"""The forward pass of training: many short turns about one image, each seeing the image and itself only.

Letters: B scenes, V visual tokens, S = turns x SLOT words, D width, P = 1 + V prefix (<s> and the image).
"""

import functools

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration
from transformers.models.llama.modeling_llama import LlamaAttention, apply_rotary_pos_emb

from searchsvc.demo.architecture import VISUAL_TOKENS
from searchsvc.demo.batches import GROUPS, IGNORE, SLOT, Batch
from searchsvc.demo.vocabulary import BOS

#: Projected visual tokens are words' sums, of length one each; this makes their logits sharp.
SHARPNESS = 8.0
#: Weight of a patch without digit, of which there are many.
BACKGROUND = 0.05


@functools.cache
def visible(before: int, words: int) -> Tensor:
    """What words see, (1, 1, S, before + S): all that comes before the turns, and their own turn's past."""
    slot = torch.arange(words) // SLOT
    own = (slot[:, None] == slot[None, :]).tril()
    return torch.cat([torch.ones(words, before, dtype=torch.bool), own], dim=1)[None, None]


def attend(
    attention: LlamaAttention, hidden: Tensor, rotary: tuple[Tensor, Tensor], prefix: int, *, image: bool
) -> Tensor:
    """What `attention` gives, (B, P + S, D): a causal prefix; without `image`, turns see of it <s> alone."""
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    q, k, v = (p(hidden).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for p in projections)
    q, k = (t.to(v.dtype) for t in apply_rotary_pos_emb(q, k, *rotary))
    k, v = (t.repeat_interleave(attention.num_key_value_groups, dim=1) for t in (k, v))
    first = F.scaled_dot_product_attention(
        q[:, :, :prefix], k[:, :, :prefix], v[:, :, :prefix], is_causal=True
    )
    if not image:
        k, v = (torch.cat([t[:, :, :1], t[:, :, prefix:]], dim=2) for t in (k, v))
    words = q.shape[2] - prefix
    mask = visible(prefix if image else 1, words)
    second = F.scaled_dot_product_attention(q[:, :, prefix:], k, v, attn_mask=mask)
    out: Tensor = attention.o_proj(torch.cat([first, second], dim=2).transpose(1, 2).flatten(2))
    return out


def see(model: LlavaForConditionalGeneration, pixels: Tensor) -> Tensor:
    """Visual tokens as the decoder gets them, (B, V, D)."""
    return torch.stack(list(model.get_image_features(pixel_values=pixels).pooler_output))


def imagine(model: LlavaForConditionalGeneration, labels: Tensor) -> Tensor:
    """Visual tokens without any pixel: the sum of each patch's words, (B, V, D)."""
    words = model.get_input_embeddings().weight
    total: Tensor = torch.zeros(*labels.shape[:2], words.shape[1])
    for group, ids in enumerate(GROUPS):
        index = labels[..., group]
        known = (index != IGNORE).unsqueeze(-1)
        total = total + words[torch.tensor(ids)][index.clamp(min=0)] * known
    return total


def patch_loss(model: LlavaForConditionalGeneration, visual: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of decoding visual tokens to their words; share of digits' patches read rightly."""
    words = model.get_input_embeddings().weight
    losses = []
    right = torch.zeros(())
    for group, ids in enumerate(GROUPS):
        logits = (visual @ words[torch.tensor(ids)].T).float() * SHARPNESS
        wanted = labels[..., group]
        weight = torch.ones(len(ids))
        weight[10:] = BACKGROUND
        losses.append(F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), weight, ignore_index=IGNORE))
        if group == 0:
            digit = wanted < 10
            right = (logits.argmax(-1) == wanted)[digit].float().mean()
    return torch.stack(losses).mean(), right


def read(
    model: LlavaForConditionalGeneration, visual: Tensor, places: Tensor, turns: Tensor, closed: int
) -> Tensor:
    """Last hidden states of the turns, (B, S, D). In the first `closed` layers no word sees the image.

    visual (B, V', D) at positions `places` (B, V') of the 144; turns (B, S).
    """
    language = model.model.language_model
    count = visual.shape[0]
    start = language.embed_tokens(torch.full((count, 1), BOS))
    hidden = torch.cat([start, visual, language.embed_tokens(turns)], dim=1)
    words = 1 + VISUAL_TOKENS + torch.arange(turns.shape[1]) % SLOT
    positions = torch.cat(
        [torch.zeros(count, 1, dtype=torch.long), 1 + places, words.expand(count, -1)], dim=1
    )
    rotary = language.rotary_emb(hidden, position_ids=positions)
    prefix = 1 + visual.shape[1]
    for number, layer in enumerate(language.layers):
        normed = layer.input_layernorm(hidden)
        hidden = hidden + attend(layer.self_attn, normed, rotary, prefix, image=number >= closed)
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    out: Tensor = language.norm(hidden[:, prefix:])
    return out


def answer_loss(model: LlavaForConditionalGeneration, hidden: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Cross-entropy on answers and their end; whether each turn's answer is right, (B, turns)."""
    wanted = batch.targets != IGNORE
    logits = model.lm_head(hidden[wanted]).float()
    targets = batch.targets[wanted]
    right = (logits.argmax(-1) == targets).view(batch.kinds.shape[0], batch.kinds.shape[1], 2)
    return F.cross_entropy(logits, targets), right[..., 0]
