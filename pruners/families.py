"""What differs between model families: where the decoder is, which input ids are visual, the token grid.

The structural default follows the conventions of transformers (`get_decoder().layers`, `image_token_id`);
`ADAPTERS` holds only what a family says otherwise.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from pruners.errors import UnsupportedModelError


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What a configuration alone tells."""

    #: ids of the placeholders in `input_ids` that visual features replace
    visual_token_ids: tuple[int, ...]
    #: layers below this one see every visual token in a search: max(2, layers that inject visual features)
    first_prunable: int = 2
    #: rows and columns of one image's tokens, where every image has the same
    grid: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """What the runtime needs to know about one model."""

    decoder: nn.Module
    layers: tuple[nn.Module, ...]
    text_config: Any
    traits: Traits


def traits(config: Any) -> Traits:
    """Read a model's configuration; raises `UnsupportedModelError` where it names no visual token."""
    names = ("image_token_id", "video_token_id")
    ids = tuple(getattr(config, name) for name in names if getattr(config, name, None) is not None)
    if not ids:
        raise UnsupportedModelError(
            f"a '{config.model_type}' configuration has no image_token_id: only models that take images "
            "as placeholder tokens can be pruned"
        )
    # layers that add visual features to the hidden states find them by the unpruned positions
    injected = getattr(getattr(config, "vision_config", None), "deepstack_visual_indexes", None) or ()
    default = Traits(visual_token_ids=ids, first_prunable=max(2, len(injected)))
    adapt = ADAPTERS.get(config.model_type)
    return adapt(config, default) if adapt else default


def describe(model: nn.Module) -> Family:
    """Find the decoder of a transformers model; `UnsupportedModelError` where the structure is another."""
    name = type(model).__name__
    find: Any = getattr(model, "get_decoder", None)
    decoder = find() if find is not None else None
    layers = getattr(decoder, "layers", None)
    if not isinstance(decoder, nn.Module) or not isinstance(layers, nn.ModuleList) or not len(layers):
        raise UnsupportedModelError(f"{name} has no get_decoder().layers: its decoder layers cannot be found")
    text_config: Any = decoder.config
    kinds = set(getattr(text_config, "layer_types", None) or ["full_attention"])
    windowed = getattr(text_config, "sliding_window", None) is not None
    if kinds != {"full_attention"} or (windowed and not hasattr(text_config, "layer_types")):
        found = ", ".join(sorted(kinds - {"full_attention"})) or "a sliding window"
        raise UnsupportedModelError(
            f"{name} has decoder layers with {found}: only full attention can be pruned"
        )
    return Family(decoder=decoder, layers=tuple(layers), text_config=text_config, traits=traits(model.config))


def _llava(config: Any, default: Traits) -> Traits:
    """LLaVA feeds the patches of its one fixed image size, row by row; `full` adds a class token."""
    if config.vision_feature_select_strategy != "default":
        return default
    side = config.vision_config.image_size // config.vision_config.patch_size
    return replace(default, grid=(side, side))


ADAPTERS: dict[str, Callable[[Any, Traits], Traits]] = {"llava": _llava}
