"""Both counters, KV bytes and parameters against what torch itself counts on small random models."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    CLIPVisionConfig,
    DeepseekV3Config,
    GPT2Config,
    InternVLConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MambaConfig,
    MixtralConfig,
    OPTConfig,
    Phi3Config,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    SiglipVisionConfig,
    Starcoder2Config,
)

from pruners.costs import ModelShape, decoder_flops, decoder_ratio, kv_ratio, prefill_cost, vision_token_ratio
from pruners.errors import ProfileError, PruningError, UnsupportedModelError
from pruners.pruning import KeepSchedule, Pruning
from pruners.rankers import AttentionRanker, UniformRanker
from pruners.runtime import pruned

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
MIXTURE = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
TEXT_MODELS = {
    "llama": LlamaConfig(**SIZES),
    "tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "one kv head": LlamaConfig(**SIZES | {"num_key_value_heads": 1}),
    "explicit head size": LlamaConfig(**SIZES, head_dim=24),
    "biases": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=24),
    "phi3": Phi3Config(**SIZES),
    "no gate": Starcoder2Config(**SIZES),
    "opt": OPTConfig(
        hidden_size=64, ffn_dim=128, num_hidden_layers=3, num_attention_heads=4, vocab_size=300,
        word_embed_proj_dim=64, pad_token_id=0,
    ),
    "mixtral": MixtralConfig(**SIZES, num_local_experts=6, num_experts_per_tok=2),
    "shared expert, one dense layer": Qwen2MoeConfig(
        **SIZES, **MIXTURE, shared_expert_intermediate_size=80, mlp_only_layers=[1]
    ),
    "every second layer sparse": Qwen3MoeConfig(**SIZES, **MIXTURE, head_dim=16, decoder_sparse_step=2),
}  # fmt: skip
VISION_MODELS = {
    "clip": LlavaConfig(text_config=LlamaConfig(**SIZES), vision_config=CLIPVisionConfig(**VISION)),
    "class token": LlavaConfig(
        text_config=LlamaConfig(**SIZES),
        vision_config=CLIPVisionConfig(**VISION),
        vision_feature_select_strategy="full",
    ),
    "two feature layers": LlavaConfig(
        text_config=LlamaConfig(**SIZES),
        vision_config=CLIPVisionConfig(**VISION),
        vision_feature_layer=[-2, -1],
    ),
    "siglip, qwen2": LlavaConfig(
        text_config=Qwen2Config(**SIZES),
        vision_config=SiglipVisionConfig(**VISION),
        vision_feature_select_strategy="full",
    ),
    "siglip without head": LlavaConfig(
        text_config=Qwen2Config(**SIZES),
        vision_config=SiglipVisionConfig(**VISION, vision_use_head=False),
        vision_feature_select_strategy="full",
    ),
}


def counted_flops(model: Any, **inputs: Any) -> int:
    """What torch counts; only its plain attention kernel is counted on a CPU."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(**inputs)
    return int(counter.get_total_flops())


@pytest.mark.parametrize("config", TEXT_MODELS.values(), ids=TEXT_MODELS)
def test_a_text_model_costs_what_torch_counts(config: Any):
    # torch's counter has no formula for the fused kernel that runs experts by default
    config._experts_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).eval()
    cost = prefill_cost(ModelShape.from_config(config), 0, 20)
    counted = counted_flops(model, input_ids=torch.arange(20)[None])
    assert cost.exact.flops == counted
    assert cost.exact.macs * 2 == counted
    assert cost.exact.vision_flops == 0
    assert cost.params == sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("config", VISION_MODELS.values(), ids=VISION_MODELS)
def test_a_llava_costs_what_torch_counts(config: LlavaConfig, images: int):
    model = LlavaForConditionalGeneration(config).eval()
    model.config.image_token_id = 299
    shape = ModelShape.from_config(config)
    assert shape.vision is not None
    tokens = images * shape.vision.tokens_per_image
    ids = torch.cat([torch.arange(5), torch.full((tokens,), 299), torch.arange(20)])[None]
    pixels = torch.randn(images, 3, 32, 32)
    cost = prefill_cost(shape, tokens, 25)
    assert cost.exact.flops == counted_flops(model, input_ids=ids, pixel_values=pixels)
    assert cost.exact.flops_last == counted_flops(model, input_ids=ids, pixel_values=pixels, logits_to_keep=1)
    assert cost.params == sum(weight.numel() for weight in model.parameters())
    assert (
        cost.exact.flops == cost.exact.decoder_flops + cost.exact.vision_flops + 2 * (tokens + 25) * 64 * 300
    )


def llava_and_inputs(images: int = 2, **text: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """A random LLaVA and one sample: 16 visual tokens per image between 5 and 6 text tokens."""
    config = LlavaConfig(
        text_config=LlamaConfig(**SIZES | text),
        vision_config=CLIPVisionConfig(**VISION),
        image_token_index=299,
    )
    ids = torch.cat([torch.arange(1, 6), torch.full((16 * images,), 299), torch.arange(1, 7)])[None]
    pixels = torch.randn(images, 3, 32, 32)
    return LlavaForConditionalGeneration(config).eval(), {"input_ids": ids, "pixel_values": pixels}


RATES = [(1, 1, 0.5, 0.5), (1, 0.5, 0.3, 0.1), (1, 1, 0, 0), (0.7, 0.6, 0.6, 0), (1, 1, 1, 1)]


@pytest.mark.parametrize("kv_heads", [1, 4])
@pytest.mark.parametrize("rates", RATES)
def test_a_pruned_prefill_costs_what_torch_counts(rates: tuple[float, ...], kv_heads: int):
    model, inputs = llava_and_inputs(num_key_value_heads=kv_heads)
    shape = ModelShape.from_config(model.config)
    cost = prefill_cost(shape, 32, 11, rates)
    with pruned(model, Pruning(ranker=UniformRanker(), schedule=KeepSchedule(keep_rates=rates))) as handle:
        counted = counted_flops(model, **inputs)
        with torch.no_grad():
            cache = model(**inputs, use_cache=True).past_key_values
        kept = [len(layer[0]) for layer in handle.trace.kept]
    assert cost.exact.flops == counted
    assert cost.exact.decoder_flops == decoder_flops(shape, kept)
    stored = [part for layer in cache.layers for part in (layer.keys, layer.values)]
    assert cost.kv_bytes == sum(part.numel() * part.element_size() for part in stored)


def test_ranking_by_attention_is_left_out_and_small():
    model, inputs = llava_and_inputs()
    schedule = KeepSchedule(keep_rates=(1, 1, 0.5, 0.5))
    cost = prefill_cost(ModelShape.from_config(model.config), 32, 11, schedule)
    with pruned(model, Pruning(ranker=AttentionRanker(queries="last"), schedule=schedule)):
        ranking = counted_flops(model, **inputs) - cost.exact.flops
    assert 0 < ranking < 0.001 * cost.exact.flops


def test_a_folder_with_only_a_configuration_is_enough(tmp_path: Path):
    VISION_MODELS["clip"].save_pretrained(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]
    assert ModelShape.from_config(AutoConfig.from_pretrained(tmp_path)) == ModelShape.from_config(
        VISION_MODELS["clip"]
    )


@pytest.mark.parametrize(("dtype", "size"), [(None, 4), ("float32", 4), ("bfloat16", 2), ("float16", 2)])
def test_kv_bytes_follow_the_configured_dtype(dtype: str | None, size: int):
    shape = ModelShape.from_config(LlamaConfig(**SIZES, dtype=dtype))
    assert prefill_cost(shape, 10, 6, (1, 1, 0.5, 0)).kv_bytes == (16 + 16 + 11 + 6) * 2 * 2 * 16 * size


def test_reading_a_shape_leaves_the_random_state_and_the_configuration_alone():
    text = LlamaConfig(**SIZES, dtype="bfloat16")
    config = LlavaConfig(text_config=text, vision_config=CLIPVisionConfig(**VISION))
    before, state = config.to_dict(), torch.get_rng_state()
    ModelShape.from_config(config)
    assert config.to_dict() == before
    assert torch.equal(torch.get_rng_state(), state)


def test_the_json_has_exactly_these_keys():
    cost = prefill_cost(ModelShape.from_config(VISION_MODELS["clip"]), 16, 9, (1, 1, 0.5, 0.25)).to_dict()
    assert json.loads(json.dumps(cost)) == cost
    keys = ["visual_tokens", "text_tokens", "vision_token_ratio", "kv_bytes", "params", "decoder_ratio"]
    assert list(cost) == [*keys, "counters"]
    assert list(cost["counters"]) == ["paper", "exact"]
    assert list(cost["counters"]["paper"]) == ["flops_per_layer_mean", "flops", "ratio", "visual_ratio"]
    exact = ["flops", "flops_last", "macs", "ratio", "decoder_flops", "vision_flops"]
    assert list(cost["counters"]["exact"]) == exact
    whole_numbers = {"visual_tokens", "text_tokens", "kv_bytes", "params"}
    assert all(isinstance(cost[key], int) for key in whole_numbers)


def test_the_paper_counter_by_hand():
    # d = 64, m = 160; layers process 25, 25, 17, 13 tokens, of which 9 are text
    cost = prefill_cost(ModelShape.from_config(TEXT_MODELS["llama"]), 16, 9, (1, 1, 0.5, 0.25))

    def by_hand(*tokens: int) -> int:
        return sum(4 * n * 64 * 64 + 2 * n * n * 64 + 2 * n * 64 * 160 for n in tokens)

    assert cost.paper.flops == by_hand(25, 25, 17, 13)
    assert cost.paper.flops_per_layer_mean == by_hand(25, 25, 17, 13) / 4
    assert cost.paper.ratio == by_hand(25, 25, 17, 13) / by_hand(25, 25, 25, 25)
    assert cost.paper.visual_ratio == by_hand(16, 16, 8, 4) / by_hand(16, 16, 16, 16)
    assert cost.vision_token_ratio == (16 + 16 + 8 + 4) / 64


def test_without_visual_tokens_nothing_can_be_saved():
    cost = prefill_cost(ModelShape.from_config(VISION_MODELS["clip"]), 0, 9, (1, 0, 0, 0))
    assert (cost.vision_token_ratio, cost.decoder_ratio, cost.exact.ratio, cost.paper.visual_ratio) == (
        1,
        1,
        1,
        1,
    )
    assert cost.exact.vision_flops == 0


def test_ratios_of_a_set_are_ratios_of_sums():
    shape = ModelShape.from_config(TEXT_MODELS["llama"])
    samples, rates = [(16, 9), (16, 9), (144, 30), (0, 5)], (1, 1, 0.5, 0)
    pruned_costs = [prefill_cost(shape, *sample, rates) for sample in samples]
    whole_costs = [prefill_cost(shape, *sample) for sample in samples]

    def of(key: Any) -> float:
        return sum(map(key, pruned_costs)) / sum(map(key, whole_costs))

    assert decoder_ratio(shape, rates, samples) == of(lambda cost: cost.exact.decoder_flops)
    assert kv_ratio(shape, rates, samples) == of(lambda cost: cost.kv_bytes)
    assert vision_token_ratio(shape, rates, samples) == (176 * 2 + 88) / (176 * 4)
    assert decoder_ratio(shape, rates, samples[:1]) == pruned_costs[0].decoder_ratio


def test_a_schedule_brings_its_own_rounding():
    shape = ModelShape.from_config(TEXT_MODELS["llama"])
    schedule = KeepSchedule(keep_rates=(1, 1, 0.99, 0), rounding="floor", min_tokens=3)
    assert prefill_cost(shape, 10, 0, schedule).vision_token_ratio == (10 + 10 + 9 + 3) / 40
    assert vision_token_ratio(shape, schedule, [(10, 7)]) == (10 + 10 + 9 + 3) / 40


@pytest.mark.parametrize(
    ("visual", "text", "rates", "message"),
    [
        (-1, 5, None, "cannot prefill -1 visual and 5 text tokens"),
        (5, -1, None, "cannot prefill 5 visual and -1 text tokens"),
        (0, 0, None, "cannot prefill 0 visual and 0 text tokens"),
        (5, 5, (1, 1, 1), "keep_rates needs one rate per layer: 3 rates, 4 layers"),
    ],
)
def test_impossible_prefills_are_refused(visual: int, text: int, rates: Any, message: str):
    shape = ModelShape.from_config(TEXT_MODELS["llama"])
    with pytest.raises(PruningError, match=message):
        prefill_cost(shape, visual, text, rates)
    if rates:
        with pytest.raises(ProfileError, match=message):
            decoder_ratio(shape, rates, [(visual, text)])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            DeepseekV3Config(num_hidden_layers=4),
            "no cost formula for the decoder of 'deepseek_v3': its layers hold",
        ),
        (GPT2Config(), "the configuration of 'gpt2' has none of the keys intermediate_size, ffn_dim"),
        (MambaConfig(), "the configuration of 'mamba' has none of the keys num_attention_heads"),
        (BertConfig(is_decoder=True), "no cost formula for 'bert': it has no list of decoder layers"),
        (CLIPVisionConfig(), "cannot build a 'clip_vision_model' model from its configuration: "),
    ],
)
def test_a_model_without_a_formula_is_refused_in_one_line(config: Any, message: str):
    with pytest.raises(UnsupportedModelError) as caught:
        ModelShape.from_config(config)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_an_unknown_vision_tower_still_has_decoder_ratios():
    config = InternVLConfig(text_config=Qwen2Config(**SIZES).to_dict())
    shape = ModelShape.from_config(config)
    assert decoder_ratio(shape, (1, 1, 0.5, 0), [(16, 9)]) < 1
    with pytest.raises(
        UnsupportedModelError, match=r"no cost formula for the vision part .*'internvl_vision'"
    ):
        prefill_cost(shape, 256, 9)
