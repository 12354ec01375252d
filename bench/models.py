"""Random LLaVA-shaped models and their inputs; the vision tower is tiny unless its sizes are given.

Visual tokens V, text tokens S, batch B, width D.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

#: id of the placeholder; other ids of a prompt are below it
VOCABULARY, PATCH = 512, 14


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a decoder and of its prompt."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    mlp: int
    #: visual tokens: `images` square grids of `side` x `side`
    side: int
    images: int = 1
    #: before and after the images
    text: tuple[int, int] = (32, 32)

    @property
    def visual_tokens(self) -> int:
        """V."""
        return self.images * self.side**2

    @property
    def text_tokens(self) -> int:
        """S."""
        return sum(self.text)

    def smaller(self, layers: int, width: int, side: int) -> "Shape":
        """The same proportions of heads and MLP at other sizes, one image."""
        head = self.width // self.heads
        heads = max(1, width // head)
        return replace(
            self,
            layers=layers,
            width=width,
            heads=heads,
            kv_heads=max(1, heads * self.kv_heads // self.heads),
            mlp=width * self.mlp // self.width,
            side=side,
            images=1,
        )


#: bench/prefill.py: 24 layers of 1024, 576 visual and 64 text tokens
CPU = Shape(layers=24, width=1024, heads=16, kv_heads=16, mlp=2816, side=24)

#: Text models of published checkpoints, from their config.json; InternVL2 sees 6 tiles and a thumbnail of
#: 256 tokens each. InternLM2 layers have Llama's matrices.
PUBLISHED = {
    "LLaVA-1.5-7B": Shape(layers=32, width=4096, heads=32, kv_heads=32, mlp=11008, side=24),
    "LLaVA-1.5-13B": Shape(layers=40, width=5120, heads=40, kv_heads=40, mlp=13824, side=24),
    "InternVL2-2B": Shape(layers=24, width=2048, heads=16, kv_heads=8, mlp=8192, side=16, images=7),
    "InternVL2-8B": Shape(layers=32, width=4096, heads=32, kv_heads=8, mlp=14336, side=16, images=7),
    "InternVL2-26B": Shape(layers=48, width=6144, heads=48, kv_heads=8, mlp=16384, side=16, images=7),
}


@dataclass(frozen=True, kw_only=True)
class Tower:
    """Sizes of a CLIP vision tower: heads of 64, an MLP of four times the width."""

    layers: int
    width: int


#: where features are encoded before, the tower is never run
UNUSED = Tower(layers=1, width=32)


def random_model(
    shape: Shape, device: str, dtype: torch.dtype, attention: str = "sdpa", tower: Tower = UNUSED
) -> Any:
    """A LLaVA of this shape with random weights, in eval mode. Its vocabulary is tiny."""
    text = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape.width,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=8192,
        eos_token_id=None,
        pad_token_id=0,
    )
    vision = CLIPVisionConfig(
        hidden_size=tower.width,
        intermediate_size=4 * tower.width,
        num_hidden_layers=tower.layers,
        num_attention_heads=max(1, tower.width // 64),
        image_size=shape.side * PATCH,
        patch_size=PATCH,
    )
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=VOCABULARY - 1, vision_feature_layer=-1
    )
    with torch.device(device):
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration._from_config(config, dtype=dtype, attn_implementation=attention)
    # what is measured is the decoder; the answer must hold no placeholder
    model.lm_head.weight.data[-1] = 0
    return model.eval()


def random_inputs(model: Any, shape: Shape, batch: int) -> dict[str, Any]:
    """What `generate` takes for B prompts: text, images, text; no padding, image features (B * V, D)."""
    generator = torch.Generator().manual_seed(1)
    before, after = shape.text
    ids = torch.randint(1, VOCABULARY - 1, (batch, before + shape.visual_tokens + after), generator=generator)
    ids[:, before : before + shape.visual_tokens] = VOCABULARY - 1
    features = torch.randn(batch * shape.visual_tokens, shape.width, generator=generator)
    encoded = BaseModelOutputWithPooling(pooler_output=[features.to(model.device, model.dtype)])
    ids = ids.to(model.device)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_encoder_outputs": {"image": encoded},
    }
