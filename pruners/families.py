"""What differs between model families: where the decoder is, which input ids are visual, the tokens' grids.

The structural default follows the conventions of transformers (`get_decoder().layers`, `image_token_id`,
`layer_types`); `ROWS` holds only what a family says otherwise.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from pruners import pictures
from pruners.costs.shape import REMOTE_MODULES
from pruners.errors import UnsupportedModelError
from pruners.grids import Layout
from pruners.pictures import Arguments, FindPictures

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
    #: what a call's arguments tell about its pictures
    layout: Callable[[Arguments], Layout]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one model type says otherwise."""

    #: why it cannot be pruned
    refused: str | None = None
    #: attribute of the module that `generate` calls instead of the model, with embedded ids
    entry: str | None = None
    #: attribute of the model that holds the placeholder's id, where the configuration does not
    placeholder: str | None = None
    first_position: int = 0
    two_way_images: bool = False
    grid: Callable[[Any], Grid | None] = lambda _: None
    #: where the pictures of a call differ: what tells their rows and columns
    pictures: FindPictures = pictures.by_patch_grid


def traits(config: Any, placeholder: int | None = None) -> Traits:
    """Read a model's configuration; raises `UnsupportedModelError` where it cannot be pruned.

    `placeholder` is the id of visual tokens that the model itself may know.
    """
    row = ROWS.get(config.model_type, Row())
    # InternVL's remote code has a name of its own for it
    text: Any = getattr(config, "text_config", None) or getattr(config, "llm_config", None)
    encoder_decoder = any(getattr(part, "is_encoder_decoder", False) for part in (config, text))
    reason = _ENCODED if encoder_decoder else row.refused
    if reason:
        raise UnsupportedModelError(f"a '{config.model_type}' model cannot be pruned: {reason}")
    names = ("image_token_id", "video_token_id")
    found = [placeholder, *(getattr(config, name, None) for name in names)]
    ids = tuple(number for number in found if number is not None)
    if not ids and row.placeholder:
        raise UnsupportedModelError(
            f"a '{config.model_type}' configuration does not tell the placeholder's id, and the model does "
            f"not know it yet: set model.{row.placeholder} = tokenizer.convert_tokens_to_ids('<IMG_CONTEXT>')"
        )
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
    row = Row() if config is None else ROWS.get(config.model_type, Row())
    placeholder = getattr(model, row.placeholder, None) if row.placeholder else None
    known = None if config is None else traits(config, placeholder)
    inner = row.entry
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
    if type(layers[0]).__module__.startswith(REMOTE_MODULES):
        raise UnsupportedModelError(
            f"{name} has decoder layers of its own code ({type(layers[0]).__name__}), whose arguments and "
            "cache need not be those of transformers: take a checkpoint whose decoder transformers has "
            "(InternVL: one that ends in -hf)"
        )
    decoder_config: Any = decoder.config
    return Family(
        decoder=decoder,
        layers=tuple(layers),
        windows=_windows(name, decoder_config, len(layers)),
        text_config=decoder_config,
        traits=known,
        entry=entry,
        embedding=entry.get_input_embeddings() if inner else None,
        layout=lambda arguments: _layout(config, arguments),
    )


def _layout(config: Any, arguments: Arguments) -> Layout:
    row = ROWS.get(config.model_type, Row())
    return Layout(row.pictures(config, arguments), pictures.tiles(config, arguments), row.grid(config))


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


def _internvl_chat(config: Any) -> Grid:
    """Tiles may be of another size than the tower was made for."""
    side = config.force_image_size or config.vision_config.image_size
    tokens = int(side // config.vision_config.patch_size * config.downsample_ratio)
    return tokens, tokens


def _ovis(config: Any) -> Grid:
    """The last rows and columns are filled up to the stride."""
    rows, columns = _patches(config)
    stride = config.vision_config.hidden_stride
    return math.ceil(rows / stride), math.ceil(columns / stride)


def _square(tokens: int) -> Grid:
    side = math.isqrt(tokens)
    return side, side


_CROSS = "cross-attention layers read its images, and no visual token is in the decoder's sequence"
_ENCODED = "its text model is an encoder-decoder, whose decoder does not hold the visual tokens"
_LAYERED = "its decoder layers take inputs of their own for every token, and share their keys"
_OWN_DECODER = (
    "its decoder is code of its own, which does not call layers as transformers does: take Qwen2-VL or later"
)

ROWS: dict[str, Row] = {
    "aya_vision": Row(grid=lambda config: _patches(config, config.downsample_factor)),
    "blip-2": Row(entry="language_model"),
    "gemma3": Row(two_way_images=True, grid=lambda config: _square(config.mm_tokens_per_image)),
    "gemma3n": Row(refused=_LAYERED),
    "glm4v": Row(pictures=pictures.by_patch_grid_of_one_kind),
    "glm4v_moe": Row(pictures=pictures.by_patch_grid_of_one_kind),
    "idefics": Row(refused=_CROSS),
    "idefics3": Row(grid=lambda config: _patches(config, config.scale_factor)),
    "instructblip": Row(entry="language_model"),
    "instructblipvideo": Row(entry="language_model"),
    "internvl": Row(grid=lambda config: _patches(config, 1 / config.downsample_ratio)),
    "internvl_chat": Row(entry="language_model", placeholder="img_context_token_id", grid=_internvl_chat),
    "llava": Row(grid=_llava, pictures=pictures.llava),
    "llava_next": Row(pictures=pictures.llava_next),
    "llava_next_video": Row(pictures=pictures.llava_next_video),
    "llava_onevision": Row(pictures=pictures.llava_onevision),
    "mistral3": Row(pictures=pictures.by_size),
    "mllama": Row(refused=_CROSS),
    "ovis2": Row(grid=_ovis),
    "paligemma": Row(first_position=1, grid=_patches),
    "qwen": Row(refused=_OWN_DECODER),
    "smolvlm": Row(grid=lambda config: _patches(config, config.scale_factor)),
    "video_llava": Row(pictures=pictures.video_llava),
}
