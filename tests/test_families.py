"""What is read off a configuration, and which structures are refused."""

import pytest
from tiny_models import IMAGE, tiny_llava
from transformers import LlavaConfig, MistralConfig, Qwen3VLConfig

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


def test_windows_are_refused() -> None:
    config = LlavaConfig(text_config=MistralConfig(sliding_window=16), image_token_index=IMAGE)
    model = tiny_llava()
    model.get_decoder().config = config.text_config
    with pytest.raises(UnsupportedModelError, match=r"layers with a sliding window: only full attention"):
        describe(model)
    model.get_decoder().config.layer_types = ["full_attention", "sliding_attention"]
    with pytest.raises(UnsupportedModelError, match="layers with sliding_attention"):
        describe(model)
