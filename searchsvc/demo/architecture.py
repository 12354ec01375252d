"""The embedded model before training: a LLaVA of three million parameters."""

import math

import torch
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)
from transformers.models.llama.modeling_llama import LlamaAttention

from searchsvc.demo.scenes import PATCH, SIDE
from searchsvc.demo.vocabulary import BOS, EOS, IMAGE, PAD, WORDS

WIDTH = 128
VISION_LAYERS = 4
DECODER_LAYERS = 12
#: Until the last stage of training, words do not see the image in this many first layers.
CLOSED = 5
VISUAL_TOKENS = (SIDE // PATCH) ** 2


def configuration() -> LlavaConfig:
    """CLIP tower (patch 8, 144 visual tokens), two-layer projector, Llama decoder with grouped queries."""
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        hidden_act="gelu",
    )
    text = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=WIDTH,
        intermediate_size=352,
        num_hidden_layers=DECODER_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        rms_norm_eps=1e-5,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        tie_word_embeddings=True,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=IMAGE,
        image_seq_length=VISUAL_TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )


def plane_waves() -> Tensor:
    """Sine and cosine of rows and columns, (144, WIDTH): neighbours start alike, shifts are rotations."""
    side, quarter = SIDE // PATCH, WIDTH // 4
    speed = torch.logspace(math.log10(torch.pi / 2), math.log10(torch.pi / 24), quarter)
    angle = torch.arange(side)[:, None] * speed
    wave = torch.cat([angle.sin(), angle.cos()], dim=1)
    rows = wave[:, None].expand(side, side, -1)
    columns = wave[None, :].expand(side, side, -1)
    return torch.cat([rows, columns], dim=-1).reshape(VISUAL_TOKENS, WIDTH)


def _like_finds_like(attention: LlamaAttention) -> None:
    """Starts a layer so that a word attends to tokens made of the same word, and copies what they hold."""
    size, shared = attention.head_dim, attention.num_key_value_groups
    for source, target, gain in (("k_proj", "q_proj", 1.0), ("v_proj", "o_proj", 0.25)):
        given = getattr(attention, source).weight
        torch.nn.init.orthogonal_(given)
        repeated = given.unflatten(0, (-1, size)).repeat_interleave(shared, 0).flatten(0, 1) * gain
        getattr(attention, target).weight.copy_(repeated if target == "q_proj" else repeated.T)


def build(seed: int) -> LlavaForConditionalGeneration:
    """A fresh model; the words start as orthogonal vectors of length one, residual outputs near zero."""
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(configuration())
    words = model.get_input_embeddings().weight
    with torch.no_grad():
        torch.nn.init.orthogonal_(words)
        words[PAD] = 0
        places = model.model.vision_tower.embeddings.position_embedding.weight
        places[1:] = 0.15 * plane_waves()
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "out_proj.weight", "fc2.weight")):
                weight.mul_(0.3)
        for layer in model.model.language_model.layers[CLOSED : CLOSED + 4]:
            _like_finds_like(layer.self_attn)
    model.generation_config = GenerationConfig(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, max_new_tokens=4, do_sample=False
    )
    return model
