"""What differs between model families: where the decoder is, which input ids are visual, the token grid.

The structural default follows the conventions of transformers (`get_decoder().layers`, `image_token_id`,
`layer_types`); `ROWS` holds only what a family says otherwise.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from pruners.errors import UnsupportedModelError

Grid = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What a configuration alone tells."""

    #: ids of the placeholders in `input_ids` that visual features replace
    visual_token_ids: tuple[int, ...]
    #: decoder layers after which the model adds visual features, by unpruned positions, layer 0 first
    injected_layers: int = 0
    #: rows and columns of one image's or tile's tokens, where all have the same
    grid: Grid | None = None
    #: position id of a row's first token
    first_position: int = 0
    #: position ids have several axes (M-RoPE)
    axial_positions: bool = False
    #: an image's tokens, which `token_type_ids` mark with 1, see each other in both directions
    two_way_images: bool = False

    @property
    def first_prunable(self) -> int:
        """Layers below this one see every visual token in a search."""
        return max(2, self.injected_layers)


@dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """What the runtime needs to know about one model."""

    decoder: nn.Module
    layers: tuple[nn.Module, ...]
    #: one per layer: a token sees this many, itself included; None sees all before it
    windows: tuple[int | None, ...]
    text_config: Any
    traits: Traits
    #: the module whose forward is a call: the model, but where its `generate` calls an inner one
    entry: nn.Module
    #: what embeds the ids on their way to such an inner module
    embedding: nn.Module | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one model type says otherwise."""

    #: why it cannot be pruned
    refused: str | None = None
    #: attribute of the module that `generate` calls instead of the model, with embedded ids
    entry: str | None = None
    first_position: int = 0
    two_way_images: bool = False
    grid: Callable[[Any], Grid | None] = lambda _: None


def traits(config: Any) -> Traits:
    """Read a model's configuration; raises `UnsupportedModelError` where it cannot be pruned."""
    row = ROWS.get(config.model_type, Row())
    text: Any = getattr(config, "text_config", None)
    encoder_decoder = any(getattr(part, "is_encoder_decoder", False) for part in (config, text))
    reason = _ENCODED if encoder_decoder else row.refused
    if reason:
        raise UnsupportedModelError(f"a '{config.model_type}' model cannot be pruned: {reason}")
    names = ("image_token_id", "video_token_id")
    ids = tuple(getattr(config, name) for name in names if getattr(config, name, None) is not None)
    if not ids:
        raise UnsupportedModelError(
            f"a '{config.model_type}' configuration has no image_token_id: only models that take images "
            "as placeholder tokens can be pruned"
        )
    vision: Any = getattr(config, "vision_config", None)
    return Traits(
        visual_token_ids=ids,
        injected_layers=len(getattr(vision, "deepstack_visual_indexes", None) or ()),
        grid=row.grid(config),
        first_position=row.first_position,
        two_way_images=row.two_way_images,
        axial_positions="mrope_section" in (getattr(text, "rope_parameters", None) or {}),
    )


def describe(model: nn.Module) -> Family:
    """Find the decoder of a transformers model; `UnsupportedModelError` where the structure is another."""
    name = type(model).__name__
    config: Any = getattr(model, "config", None)
    known = None if config is None else traits(config)
    inner = None if config is None else ROWS.get(config.model_type, Row()).entry
    entry: Any = getattr(model, inner) if inner else model
    find: Any = getattr(entry, "get_decoder", None)
    decoder = find() if find is not None else None
    layers = getattr(decoder, "layers", None)
    if (
        known is None
        or not isinstance(decoder, nn.Module)
        or not isinstance(layers, nn.ModuleList)
        or not len(layers)
    ):
        raise UnsupportedModelError(f"{name} has no get_decoder().layers: its decoder layers cannot be found")
    text_config: Any = decoder.config
    return Family(
        decoder=decoder,
        layers=tuple(layers),
        windows=_windows(name, text_config, len(layers)),
        text_config=text_config,
        traits=known,
        entry=entry,
        embedding=entry.get_input_embeddings() if inner else None,
    )


def _windows(name: str, text_config: Any, layers: int) -> tuple[int | None, ...]:
    """The sliding window of each layer; kinds of attention that are neither full nor sliding are refused."""
    window = getattr(text_config, "sliding_window", None)
    implied = "full_attention" if window is None else "sliding_attention"
    kinds = getattr(text_config, "layer_types", None) or [implied] * layers
    others = sorted(set(kinds) - {"full_attention", "sliding_attention"})
    if others:
        raise UnsupportedModelError(
            f"{name} has decoder layers with {', '.join(others)}: only full and sliding attention can be "
            "pruned"
        )
    if getattr(text_config, "num_kv_shared_layers", 0):
        raise UnsupportedModelError(
            f"{name} has decoder layers that share their keys, which cannot be pruned"
        )
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _llava(config: Any) -> Grid | None:
    """The patches of the one image size, row by row; `full` adds a class token."""
    return _patches(config) if config.vision_feature_select_strategy == "default" else None


def _patches(config: Any, merged: float = 1) -> Grid:
    """Patches of the one image size, `merged` x `merged` of them to a token."""
    size, patch = config.vision_config.image_size, config.vision_config.patch_size
    height, width = size if isinstance(size, list | tuple) else (size, size)
    rows, columns = patch if isinstance(patch, list | tuple) else (patch, patch)
    return int(height // rows // merged), int(width // columns // merged)


def _square(tokens: int) -> Grid:
    side = math.isqrt(tokens)
    return side, side


_CROSS = "cross-attention layers read its images, and no visual token is in the decoder's sequence"
_ENCODED = "its text model is an encoder-decoder, whose decoder does not hold the visual tokens"
_LAYERED = "its decoder layers take inputs of their own for every token, and share their keys"
_REMOTE = "its remote code does not call attention as transformers does: take the checkpoint that ends in -hf"

ROWS: dict[str, Row] = {
    "aya_vision": Row(grid=lambda config: _patches(config, config.downsample_factor)),
    "blip-2": Row(entry="language_model"),
    "gemma3": Row(two_way_images=True, grid=lambda config: _square(config.mm_tokens_per_image)),
    "gemma3n": Row(refused=_LAYERED),
    "idefics": Row(refused=_CROSS),
    "idefics3": Row(grid=lambda config: _patches(config, config.scale_factor)),
    "instructblip": Row(entry="language_model"),
    "instructblipvideo": Row(entry="language_model"),
    "internvl": Row(grid=lambda config: _patches(config, 1 / config.downsample_ratio)),
    "internvl_chat": Row(refused=_REMOTE),
    "llava": Row(grid=_llava),
    "mllama": Row(refused=_CROSS),
    "paligemma": Row(first_position=1, grid=_patches),
    "smolvlm": Row(grid=lambda config: _patches(config, config.scale_factor)),
}
