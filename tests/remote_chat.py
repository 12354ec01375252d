"""A model as remote code brings it: built like `InternVLChatModel`, of a few thousand weights.

This file is copied into a model's folder, whose config.json names its classes; nothing imports it from here.
The configuration does not tell the placeholder's id, the language model is called with embedded ids, and
`generate` is that of the language model.

Letters: I tiles, B samples, T tokens, D width of the language model.
"""

from typing import Any

from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CLIPVisionModel,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)


class TinyChatConfig(PreTrainedConfig):
    """The names that InternVL's remote configuration uses."""

    model_type = "internvl_chat"

    def __init__(
        self,
        vision_config: dict[str, Any] | None = None,
        llm_config: dict[str, Any] | None = None,
        downsample_ratio: float = 0.5,
        force_image_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.vision_config = _config(vision_config or {"model_type": "clip_vision_model"})
        self.llm_config = _config(llm_config or {"model_type": "qwen2"})
        self.downsample_ratio, self.force_image_size = downsample_ratio, force_image_size
        super().__init__(**kwargs)


def _config(values: Any) -> Any:
    """A saved configuration is a dictionary again."""
    return AutoConfig.for_model(**values) if isinstance(values, dict) else values


class TinyChatModel(PreTrainedModel, GenerationMixin):
    """Tiles -> tower -> four neighbours to one token -> language model."""

    config_class = TinyChatConfig
    main_input_name = "pixel_values"
    _supports_sdpa = True

    def __init__(self, config: TinyChatConfig) -> None:
        super().__init__(config)
        self.vision_model = CLIPVisionModel(config.vision_config)
        self.language_model = AutoModelForCausalLM.from_config(
            config.llm_config, attn_implementation=config._attn_implementation
        )
        merged = config.vision_config.hidden_size * round(1 / config.downsample_ratio) ** 2
        self.mlp1 = nn.Sequential(nn.LayerNorm(merged), nn.Linear(merged, config.llm_config.hidden_size))
        #: whoever has the tokenizer sets it
        self.img_context_token_id: int | None = None
        self.post_init()

    def extract_feature(self, pixel_values: Tensor) -> Tensor:
        """(I, 3, height, width) -> (I, tokens of a tile, D)."""
        patches = self.vision_model(pixel_values).last_hidden_state[:, 1:]
        side, step = round(patches.shape[1] ** 0.5), round(1 / self.config.downsample_ratio)
        cells = patches.unflatten(1, (side, side)).unfold(1, step, step).unfold(2, step, step)
        return self.mlp1(cells.flatten(1, 2).flatten(2))

    def _embed(self, pixel_values: Tensor | None, input_ids: Tensor) -> Tensor:
        embeds = self.language_model.get_input_embeddings()(input_ids).clone()
        if pixel_values is not None:
            embeds[input_ids == self.img_context_token_id] = self.extract_feature(pixel_values).flatten(0, 1)
        return embeds

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """The language model's output for (B, T) ids with tiles in the places of their placeholders."""
        embeds = self._embed(pixel_values, input_ids)
        return self.language_model(inputs_embeds=embeds, attention_mask=attention_mask, **kwargs)

    def generate(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """The language model's own `generate`; the ids that come back are the new ones alone."""
        embeds = self._embed(pixel_values, input_ids)
        return self.language_model.generate(inputs_embeds=embeds, attention_mask=attention_mask, **kwargs)
