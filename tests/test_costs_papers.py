"""The cost model against the published tables of FastV (arXiv 2403.06764) and of G-Search (CVPR 2025)."""

import json
from functools import cache
from pathlib import Path

import pytest
from transformers import AutoConfig, CLIPVisionConfig, LlamaConfig, LlavaConfig

from pruners.costs import Cost, ModelShape, prefill_cost
from pruners.schedules import parse_schedule

#: what the published config.json of LLaVA-1.5-7B says; everything else is a default of transformers
CONFIG_7B = {
    "architectures": ["LlavaForConditionalGeneration"],
    "model_type": "llava",
    "image_token_index": 32000,
    "projector_hidden_act": "gelu",
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "text_config": {"model_type": "llama", "max_position_embeddings": 4096, "vocab_size": 32064},
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dim": 768,
        "vocab_size": 32000,
    },
}
SIZES_13B = {
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
}
#: model, spec, GFLOPs per layer: Table 1 of FastV, its rows with K >= 2
FASTV = [
    ("7B", None, 99.3),
    ("7B", "fastv:k=2,r=0.9", 19.9),
    ("7B", "fastv:k=2,r=0.75", 32.8),
    ("7B", "fastv:k=2,r=0.5", 54.6),
    ("7B", "fastv:k=3,r=0.9", 22.8),
    ("7B", "fastv:k=3,r=0.75", 34.8),
    ("7B", "fastv:k=3,r=0.5", 56.6),
    ("7B", "fastv:k=5,r=0.9", 27.8),
    ("7B", "fastv:k=5,r=0.75", 39.7),
    ("7B", "fastv:k=5,r=0.5", 59.6),
    ("13B", None, 154.6),
    ("13B", "fastv:k=2,r=0.9", 29.7),
    ("13B", "fastv:k=2,r=0.75", 50.2),
    ("13B", "fastv:k=2,r=0.5", 84.6),
    ("13B", "fastv:k=3,r=0.9", 33.0),
    ("13B", "fastv:k=3,r=0.75", 52.9),
    ("13B", "fastv:k=3,r=0.5", 86.4),
    ("13B", "fastv:k=5,r=0.9", 39.6),
    ("13B", "fastv:k=5,r=0.75", 58.4),
    ("13B", "fastv:k=5,r=0.5", 90.1),
]
#: model, spec, TFLOPs, memory column where there is one: Tables 6 (13B), 8 and 9 (7B) of G-Search
G_SEARCH = [
    ("7B", None, 9.18, 1.0),
    ("7B", "vtw:k=16", 5.19, 0.500),
    ("7B", "pdrop", 4.95, 0.469),
    ("7B", "fastv:k=2,r=0.5", 5.47, 0.531),
    ("7B", "fastv:k=2,r=0.875", 2.74, 0.180),
    ("13B", None, 17.44, None),
    ("13B", "vtw:k=20", 9.77, None),
    ("13B", "pdrop", 9.29, None),
    ("13B", "fastv:k=2,r=0.5", 10.18, None),
]


@cache
def shape(size: str) -> ModelShape:
    """LLaVA-1.5, from a configuration alone."""
    text = {"vocab_size": 32064} | (SIZES_13B if size == "13B" else {})
    vision = CLIPVisionConfig(**CONFIG_7B["vision_config"])
    return ModelShape.from_config(LlavaConfig(text_config=LlamaConfig(**text), vision_config=vision))


def cost(size: str, spec: str | None, text_tokens: int) -> Cost:
    """One image's 576 visual tokens with this much text."""
    rates = parse_schedule(spec).keep_rates(shape(size).num_layers) if spec else None
    return prefill_cost(shape(size), 576, text_tokens, rates)


@pytest.mark.parametrize(("size", "spec", "giga_flops"), FASTV)
def test_fastv_table_1(size: str, spec: str | None, giga_flops: float):
    assert cost(size, spec, 36).paper.flops_per_layer_mean / 1e9 == pytest.approx(giga_flops, rel=0.012)


def test_fastv_equation_5():
    # K = 2, R = 50 % of LLaVA-1.5-7B: both sides divided by d, so that only whole numbers are left
    def layer(n: int) -> int:
        return 4 * n * 4096 + 2 * n * n + 2 * n * 11008

    expected = (2 * layer(576) + 30 * layer(288)) / (32 * layer(576))
    assert cost("7B", "fastv:k=2,r=0.5", 36).paper.visual_ratio == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("size", "spec", "tera_flops", "memory"), G_SEARCH)
def test_g_search_tables_6_8_and_9(size: str, spec: str | None, tera_flops: float, memory: float | None):
    ours = cost(size, spec, 75)
    assert ours.exact.flops / 1e12 == pytest.approx(tera_flops, rel=0.02)
    assert ours.exact.macs / 1e12 == pytest.approx(tera_flops / 2, rel=0.02)
    if memory is not None:
        assert ours.vision_token_ratio == pytest.approx(memory, rel=0.01)


def test_g_search_counts_parameters_without_the_vision_tower():
    tower = 303_507_456
    assert cost("7B", None, 75).params == 7_063_427_072
    assert (cost("7B", None, 75).params - tower) / 1e9 == pytest.approx(6.76, abs=0.005)


def test_the_published_configuration_file_gives_the_same_shape(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG_7B))
    assert ModelShape.from_config(AutoConfig.from_pretrained(tmp_path)) == shape("7B")
