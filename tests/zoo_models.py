"""The architectures that are promised, each built from a configuration, at a few thousand weights.

Vision towers that need packages beyond transformers (timm) are replaced by small ones of transformers.
"""

from typing import Any

import transformers as hf
from torch import Tensor, nn

PAD, STAMP, IMAGE, VIDEO, START, END, VOCABULARY = 0, 59, 60, 61, 62, 63, 64
WIDTH, LAYERS = 32, 6

TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": None,
}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
IDS = {"image_token_index": IMAGE, "pad_token_id": PAD}
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}


def clip(**options: Any) -> Any:
    return hf.CLIPVisionConfig(**VISION | options)


def siglip(**options: Any) -> Any:
    return hf.SiglipVisionConfig(**VISION | {"vision_use_head": False} | options)


def llama(**options: Any) -> Any:
    return hf.LlamaConfig(**TEXT | options)


def qwen2(**options: Any) -> Any:
    return hf.Qwen2Config(**TEXT | options)


def llava(text: Any) -> Any:
    config = hf.LlavaConfig(vision_config=clip(), text_config=text, vision_feature_layer=-1, **IDS)
    return hf.LlavaForConditionalGeneration(config)


def llava_llama() -> Any:
    return llava(llama())


def llava_mistral() -> Any:
    """Every layer has a window, shorter than a prompt."""
    return llava(hf.MistralConfig(**TEXT, sliding_window=12))


def llava_qwen2() -> Any:
    """Windows in the deeper layers alone."""
    return llava(qwen2(use_sliding_window=True, sliding_window=10, max_window_layers=3))


class AveragePool(nn.Module):
    """A projector that makes one token of four patches."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side, self.project = side, nn.Linear(16, WIDTH)

    def forward(self, features: Tensor) -> Tensor:
        """(images, patches, 16) -> (images, patches / 4, width), as DeCo does."""
        grid = features.transpose(1, 2).unflatten(2, (self.side, self.side))
        return self.project(nn.functional.avg_pool2d(grid, 2).flatten(2).transpose(1, 2))


class Packer(AveragePool):
    """Each pooled token asks its own four patches, as TokenPacker does."""

    def forward(self, features: Tensor) -> Tensor:
        """(images, patches, 16) -> (images, patches / 4, width)."""
        grid = features.unflatten(1, (self.side, self.side))
        cells = grid.unfold(1, 2, 2).unfold(2, 2, 2).flatten(1, 2).flatten(3).transpose(2, 3)
        weights = (cells.mean(2, keepdim=True) @ cells.transpose(2, 3)).softmax(-1)
        return self.project((weights @ cells)[:, :, 0])


def llava_reduced(projector: type[AveragePool]) -> Any:
    config = hf.LlavaConfig(
        vision_config=clip(image_size=64), text_config=llama(), vision_feature_layer=-1, **IDS
    )
    model = hf.LlavaForConditionalGeneration(config)
    model.model.multi_modal_projector = projector(side=8)
    return model


def llava_average_pool() -> Any:
    return llava_reduced(AveragePool)


def llava_token_packer() -> Any:
    return llava_reduced(Packer)


def llava_next() -> Any:
    config = hf.LlavaNextConfig(
        vision_config=clip(image_size=16),
        text_config=llama(),
        vision_feature_layer=-1,
        image_grid_pinpoints=[[16, 32], [32, 16], [32, 32]],
        **IDS,
    )
    return hf.LlavaNextForConditionalGeneration(config)


def llava_onevision() -> Any:
    config = hf.LlavaOnevisionConfig(
        vision_config=siglip(image_size=16),
        text_config=qwen2(),
        image_grid_pinpoints=[[16, 32], [32, 16], [32, 32]],
        video_token_index=VIDEO,
        **IDS,
    )
    return hf.LlavaOnevisionForConditionalGeneration(config)


def llava_next_video() -> Any:
    config = hf.LlavaNextVideoConfig(
        vision_config=clip(),
        text_config=llama(),
        vision_feature_layer=-1,
        image_grid_pinpoints=[[32, 64], [64, 32]],
        video_token_index=VIDEO,
        **IDS,
    )
    return hf.LlavaNextVideoForConditionalGeneration(config)


def video_llava() -> Any:
    config = hf.VideoLlavaConfig(
        vision_config=clip(image_size=16),
        text_config=llama(),
        vision_feature_layer=-1,
        video_token_index=VIDEO,
        **IDS,
    )
    return hf.VideoLlavaForConditionalGeneration(config)


QFORMER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "encoder_hidden_size": 16,
}


def instructblip() -> Any:
    qformer = hf.InstructBlipQFormerConfig(**QFORMER)
    config = hf.InstructBlipConfig(
        vision_config=hf.InstructBlipVisionConfig(**VISION),
        qformer_config=qformer,
        text_config=llama(),
        num_query_tokens=12,
        image_token_index=IMAGE,
    )
    return hf.InstructBlipForConditionalGeneration(config)


def instructblip_video() -> Any:
    qformer = hf.InstructBlipVideoQFormerConfig(**QFORMER)
    config = hf.InstructBlipVideoConfig(
        vision_config=hf.InstructBlipVideoVisionConfig(**VISION),
        qformer_config=qformer,
        text_config=llama(),
        num_query_tokens=12,
        video_token_index=VIDEO,
    )
    return hf.InstructBlipVideoForConditionalGeneration(config)


def blip2() -> Any:
    qformer = hf.Blip2QFormerConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        encoder_hidden_size=16,
    )
    config = hf.Blip2Config(
        vision_config=hf.Blip2VisionConfig(**VISION),
        qformer_config=qformer,
        text_config=llama(),
        num_query_tokens=12,
        image_token_index=IMAGE,
    )
    return hf.Blip2ForConditionalGeneration(config)


def internvl(text: Any) -> Any:
    vision = hf.InternVLVisionConfig(**VISION | {"image_size": [64, 64], "patch_size": [8, 8]})
    config = hf.InternVLConfig(vision_config=vision, text_config=text, image_token_id=IMAGE)
    return hf.InternVLForConditionalGeneration(config)


def internvl_qwen2() -> Any:
    return internvl(qwen2())


def internvl_llama() -> Any:
    return internvl(llama())


QWEN_VISION: dict[str, Any] = {"depth": 2, "num_heads": 2, "patch_size": 4, "hidden_size": 16}
QWEN_IDS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
}


def qwen2_vl() -> Any:
    config = hf.Qwen2VLConfig(
        vision_config=QWEN_VISION | {"embed_dim": 16, "hidden_size": WIDTH},
        text_config=TEXT | {"rope_parameters": MROPE},
        **QWEN_IDS,
    )
    return hf.Qwen2VLForConditionalGeneration(config)


def qwen2_5_vl() -> Any:
    vision = {"intermediate_size": 32, "out_hidden_size": WIDTH, "window_size": 16}
    config = hf.Qwen2_5_VLConfig(
        vision_config=QWEN_VISION | vision | {"fullatt_block_indexes": [1]},
        text_config=TEXT | {"rope_parameters": MROPE},
        **QWEN_IDS,
    )
    return hf.Qwen2_5_VLForConditionalGeneration(config)


#: three layers of the tower feed the first three decoder layers
QWEN3_VISION = QWEN_VISION | {
    "depth": 3,
    "intermediate_size": 32,
    "out_hidden_size": WIDTH,
    "num_position_embeddings": 64,
    "deepstack_visual_indexes": [0, 1, 2],
}


def qwen3_vl() -> Any:
    text = TEXT | {"head_dim": 8, "rope_parameters": MROPE | {"mrope_interleaved": True}}
    config = hf.Qwen3VLConfig(vision_config=QWEN3_VISION, text_config=text, **QWEN_IDS)
    return hf.Qwen3VLForConditionalGeneration(config)


def qwen3_vl_moe() -> Any:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    text = TEXT | experts | {"head_dim": 8, "rope_parameters": MROPE | {"mrope_interleaved": True}}
    config = hf.Qwen3VLMoeConfig(vision_config=QWEN3_VISION, text_config=text, **QWEN_IDS)
    return hf.Qwen3VLMoeForConditionalGeneration(config)


def idefics3() -> Any:
    config = hf.Idefics3Config(
        vision_config=VISION, text_config=llama(), image_token_id=IMAGE, scale_factor=1, pad_token_id=PAD
    )
    return hf.Idefics3ForConditionalGeneration(config)


def smolvlm() -> Any:
    config = hf.SmolVLMConfig(
        vision_config=VISION | {"image_size": 64},
        text_config=llama(),
        image_token_id=IMAGE,
        scale_factor=2,
        pad_token_id=PAD,
    )
    return hf.SmolVLMForConditionalGeneration(config)


def gemma3() -> Any:
    """Windows of 10 tokens in two layers of three, and images that see themselves in both directions."""
    text = TEXT | {
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": 10,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * (LAYERS // 3),
    }
    config = hf.Gemma3Config(
        vision_config=siglip(patch_size=4).to_dict(),
        text_config=text,
        mm_tokens_per_image=16,
        boi_token_index=START,
        eoi_token_index=END,
        image_token_index=IMAGE,
    )
    return hf.Gemma3ForConditionalGeneration(config)


def mistral3() -> Any:
    config = hf.Mistral3Config(
        vision_config=hf.PixtralVisionConfig(**VISION | {"image_size": 64}),
        text_config=hf.MistralConfig(**TEXT, sliding_window=None),
        image_token_index=IMAGE,
    )
    return hf.Mistral3ForConditionalGeneration(config)


def paligemma() -> Any:
    config = hf.PaliGemmaConfig(
        vision_config=siglip(),
        text_config=hf.GemmaConfig(**TEXT | {"head_dim": 8}),
        projection_dim=WIDTH,
        hidden_size=WIDTH,
        image_token_index=IMAGE,
    )
    return hf.PaliGemmaForConditionalGeneration(config)


def fast_vlm() -> Any:
    vision = hf.ConvNextConfig(hidden_sizes=[16, 16], depths=[1, 1], num_stages=2, patch_size=4)
    vision.hidden_size = 16
    config = hf.FastVlmConfig(vision_config=vision, text_config=qwen2(), **IDS)
    return hf.FastVlmForConditionalGeneration(config)


def glm4v() -> Any:
    vision = {"intermediate_size": 32, "out_hidden_size": WIDTH, "image_size": 32}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    config = hf.Glm4vConfig(
        vision_config=QWEN_VISION | vision,
        text_config=TEXT | {"rope_parameters": rope},
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        image_start_token_id=START,
        image_end_token_id=END,
    )
    return hf.Glm4vForConditionalGeneration(config)


def aya_vision() -> Any:
    """Cohere's text model: attention and MLP of a layer read the same norm."""
    config = hf.AyaVisionConfig(
        vision_config=siglip(image_size=64), text_config=hf.CohereConfig(**TEXT), image_token_index=IMAGE
    )
    return hf.AyaVisionForConditionalGeneration(config)


def perception_lm() -> Any:
    vision = clip(image_size=64)
    vision.model_args = {"embed_dim": 16}
    config = hf.PerceptionLMConfig(
        vision_config=vision,
        text_config=llama(),
        projector_pooling_ratio=2,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )
    return hf.PerceptionLMForConditionalGeneration(config)


def ovis2() -> Any:
    vision = hf.Ovis2VisionConfig(**VISION | {"image_size": 64, "vocab_size": 40, "hidden_stride": 2})
    config = hf.Ovis2Config(
        vision_config=vision,
        text_config=qwen2().to_dict(),
        image_token_id=IMAGE,
        visual_indicator_token_ids=[51, 52, 53, 54, 55],
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
    )
    return hf.Ovis2ForConditionalGeneration(config)
