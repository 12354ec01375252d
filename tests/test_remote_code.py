"""Models that bring code of their own: pruned as others are, or refused by name."""

from typing import Any

import pytest
import torch
from remote_models import internvl_chat
from torch import nn
from transformers import AutoConfig, PreTrainedConfig
from zoo import ONE, batch, model_for
from zoo_models import IMAGE

from pruners import PruningProfile, attach, pruned
from pruners.errors import ProfileError, UnsupportedModelError
from pruners.families import describe, traits
from pruners.profile_parts import ModelRef
from pruners.pruning import KeepSchedule
from pruners.rankers import parse_ranker

RATES = (1, 1, 0.5, 0.5, 0.25, 0)


def test_the_language_model_is_the_entry_and_the_model_knows_its_placeholder() -> None:
    model = model_for("internvl-chat")
    assert type(model).__module__.startswith("transformers_modules.")
    family = describe(model)
    assert family.entry is model.language_model
    assert family.traits.visual_token_ids == (IMAGE,)
    assert family.traits.grid == (4, 4)


def test_tiles_of_another_size_than_the_towers() -> None:
    config = model_for("internvl-chat").config
    other = AutoConfig.for_model(**config.vision_config.to_dict())
    forced = type(config)(vision_config=other, llm_config=config.llm_config, force_image_size=32)
    assert traits(forced, IMAGE).grid == (2, 2)


def test_a_placeholder_that_nobody_has_set() -> None:
    model = internvl_chat()
    model.img_context_token_id = None
    with pytest.raises(UnsupportedModelError, match=r"set model\.img_context_token_id = tokenizer\."):
        describe(model)


def test_a_decoder_of_its_own_code_is_refused() -> None:
    model = internvl_chat()
    layers = model.language_model.model.layers
    own = type("OwnLayer", (nn.Module,), {"__module__": type(model).__module__})
    model.language_model.model.layers = nn.ModuleList([own() for _ in layers])
    with pytest.raises(UnsupportedModelError, match=r"layers of its own code \(OwnLayer\).* ends in -hf"):
        describe(model)


def test_a_decoder_without_placeholders_is_refused_by_name() -> None:
    config: Any = PreTrainedConfig()
    config.model_type = "qwen"
    with pytest.raises(UnsupportedModelError, match="a 'qwen' model cannot be pruned: its decoder is code"):
        traits(config)


def test_a_profile_names_its_depth_and_width() -> None:
    model = model_for("internvl-chat")
    reference = ModelRef.from_config(model.config, "tiny")
    assert (reference.architecture, reference.num_layers, reference.hidden_size) == ("TinyChatModel", 6, 32)
    profile = PruningProfile(
        name="tiny",
        model=reference,
        ranker=parse_ranker("divprune"),
        schedule=KeepSchedule(keep_rates=RATES),
    )
    with torch.no_grad(), pruned(model, profile) as handle:
        model(**batch("internvl-chat", ONE))
    assert [int(row[0]) for row in handle.trace.visual_tokens] == [16, 16, 8, 8, 4, 0]
    deeper = profile.model_copy(update={"model": reference.model_copy(update={"num_layers": 7})})
    with pytest.raises(ProfileError, match=r"model\.num_layers is 7"):
        attach(model, deeper)
