"""What is read off a configuration, and which structures are refused."""

from typing import Any

import pytest
from tiny_models import IMAGE, tiny_llava
from transformers import (
    Blip2Config,
    IdeficsConfig,
    InstructBlipConfig,
    MllamaConfig,
    OPTConfig,
    Qwen3VLConfig,
    T5Config,
)
from zoo import ARCHITECTURES, ONE, batch, model_for

from pruners.errors import UnsupportedModelError
from pruners.families import describe, traits


def test_llava() -> None:
    model = tiny_llava(side=32)
    family = describe(model)
    assert family.traits.visual_token_ids == (IMAGE,)
    assert family.traits.grid == (4, 4)
    assert family.traits.first_prunable == 2
    assert family.decoder is model.model.language_model
    assert list(family.layers) == list(model.model.language_model.layers)


def test_a_class_token_leaves_no_grid() -> None:
    config = tiny_llava().config
    config.vision_feature_select_strategy = "full"
    assert traits(config).grid is None


def test_layers_that_inject_features_are_not_searched() -> None:
    config = Qwen3VLConfig()
    config.vision_config.deepstack_visual_indexes = [1, 3, 5]
    found = traits(config)
    assert found.first_prunable == 3
    assert found.visual_token_ids == (config.image_token_id, config.video_token_id)


@pytest.mark.parametrize(
    ("name", "windows"),
    [
        ("llava-mistral", (12,) * 6),
        ("llava-qwen2", (None, None, None, 10, 10, 10)),
        ("gemma3", (10, 10, None, 10, 10, None)),
        ("llava-llama", (None,) * 6),
    ],
)
def test_windows_are_read_off_the_configuration(name: str, windows: tuple[int | None, ...]) -> None:
    assert describe(model_for(name)).windows == windows


@pytest.mark.parametrize(
    ("name", "grid"),
    [
        ("aya-vision", (4, 4)),
        ("gemma3", (4, 4)),
        ("idefics3", (4, 4)),
        ("internvl-qwen2", (4, 4)),
        ("paligemma", (4, 4)),
        ("smolvlm", (4, 4)),
        ("qwen2-vl", None),
    ],
)
def test_a_fixed_grid_holds_one_image(name: str, grid: tuple[int, int] | None) -> None:
    assert traits(model_for(name).config).grid == grid
    visual = batch(name, ONE)["input_ids"] == ARCHITECTURES[name].placeholder
    assert grid is None or int(visual.sum()) == grid[0] * grid[1]


def test_a_model_whose_generate_calls_an_inner_one_is_entered_there() -> None:
    model = model_for("instructblip")
    assert describe(model).entry is model.language_model
    assert describe(model_for("llava-llama")).entry is model_for("llava-llama")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (MllamaConfig(), "'mllama' model cannot be pruned: cross-attention layers read its images"),
        (IdeficsConfig(), "'idefics' model cannot be pruned: cross-attention layers read its images"),
        (InstructBlipConfig(text_config=T5Config()), "'instructblip' .* text model is an encoder-decoder"),
        (Blip2Config(text_config=OPTConfig()), "'blip-2' configuration has no image_token_id"),
    ],
)
def test_models_that_cannot_work_are_refused_by_name(config: Any, reason: str) -> None:
    with pytest.raises(UnsupportedModelError, match=reason):
        traits(config)


@pytest.mark.parametrize("kind", ["linear_attention", "chunked_attention"])
def test_other_kinds_of_attention_are_refused(kind: str) -> None:
    model = tiny_llava()
    model.get_decoder().config.layer_types = ["full_attention", kind]
    with pytest.raises(UnsupportedModelError, match=f"layers with {kind}: only full and sliding"):
        describe(model)


def test_layers_that_share_keys_are_refused() -> None:
    model = tiny_llava()
    model.get_decoder().config.num_kv_shared_layers = 2
    with pytest.raises(UnsupportedModelError, match="share their keys"):
        describe(model)
