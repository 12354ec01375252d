"""Rows and columns of every picture that a call brings, from its arguments and the configuration.

A picture is what has a grid of its own: an image, a tile, a thumbnail, a frame of a video. A family whose
processor tells more than a configuration has one function here, named in `pruners.families.ROWS`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

#: the arguments of a call, by name
Arguments = Mapping[str, Any]


class Picture(NamedTuple):
    """Rows and columns of tokens, and whether a newline token follows every row."""

    rows: int
    columns: int
    newlines: bool = False

    @property
    def tokens(self) -> int:
        """Visual tokens, newlines included."""
        return self.rows * (self.columns + self.newlines)


#: per placeholder id the pictures of the whole call, in the order of their tokens
Pictures = dict[int, list[Picture]]
#: from a configuration and a call's arguments
FindPictures = Callable[[Any, Arguments], Pictures]

#: a token that is no patch: a class token, or the newline behind a video
_ALONE = Picture(1, 1)


def by_patch_grid(config: Any, arguments: Arguments) -> Pictures:
    """Frames, rows and columns of patches (images, 3), as Qwen's processors tell them; merged."""
    merge = getattr(getattr(config, "vision_config", None), "spatial_merge_size", None)
    found: Pictures = {}
    for kind in ("image", "video"):
        grids, number = arguments.get(f"{kind}_grid_thw"), getattr(config, f"{kind}_token_id", None)
        if merge and number is not None and grids is not None:
            found[number] = [
                Picture(rows // merge, columns // merge)
                for frames, rows, columns in _numbers(grids)
                for _ in range(frames)
            ]
    return found


def by_patch_grid_of_one_kind(config: Any, arguments: Arguments) -> Pictures:
    """GLM-4V: the frames of a video stand behind the placeholder of images. Nothing where a call has both."""
    found = list(by_patch_grid(config, arguments).values())
    return {config.image_token_id: found[0]} if len(found) == 1 else {}


def by_size(config: Any, arguments: Arguments) -> Pictures:
    """Heights and widths in pixels (images, 2), as Pixtral's processor tells them."""
    sizes = arguments.get("image_sizes")
    if sizes is None:
        return {}
    side = config.vision_config.patch_size * getattr(config, "spatial_merge_size", 1)
    pictures = [Picture(height // side, width // side) for height, width in _numbers(sizes)]
    return {config.image_token_id: pictures}


def llava(config: Any, arguments: Arguments) -> Pictures:
    """Pixtral's sizes; or an image of fixed size, which the class token precedes where it is selected."""
    if config.vision_config.model_type == "pixtral":
        return by_size(config, arguments)
    images = _leading(arguments, "pixel_values")
    return {} if images is None else {config.image_token_id: _chosen(config, arguments) * images[0]}


def video_llava(config: Any, arguments: Arguments) -> Pictures:
    """Images as in LLaVA; every frame of a video keeps its class token."""
    found = llava(config, arguments)
    if (shape := _leading(arguments, "pixel_values_videos")) is not None:
        found[config.video_token_id] = [_ALONE, _tile(config)] * math.prod(shape[:2])
    return found


def llava_next(config: Any, arguments: Arguments) -> Pictures:
    """An overview, and then the whole image without its padding."""
    sizes = arguments.get("image_sizes")
    if sizes is None:
        return {}
    whole = [Picture(*_unpadded(config, size), newlines=True) for size in _numbers(sizes)]
    return {config.image_token_id: [part for image in whole for part in (_tile(config), image)]}


def llava_next_video(config: Any, arguments: Arguments) -> Pictures:
    """Images as in LLaVA-NeXT; the frames of a video are pooled."""
    found = llava_next(config, arguments)
    if (shape := _leading(arguments, "pixel_values_videos")) is not None:
        side = _tile(config).rows // config.spatial_pool_stride
        found[config.video_token_id] = [Picture(side, side)] * math.prod(shape[:2])
    return found


def llava_onevision(config: Any, arguments: Arguments) -> Pictures:
    """A lone image as in LLaVA-NeXT, made smaller where it is large; several whole; frames pooled by two.

    One newline token follows each of several images, and each video.
    """
    found: Pictures = {}
    tile = _tile(config)
    if (sizes := arguments.get("image_sizes")) is not None:
        lone = [True] * len(sizes)
        if (numbers := arguments.get("batch_num_images")) is not None:
            lone = [number == 1 for number in _numbers(numbers) for _ in range(number)]
        ratio = arguments.get("vision_aspect_ratio") or config.vision_aspect_ratio
        most = int(ratio.removeprefix("anyres_max_")) * tile.tokens
        found[config.image_token_id] = [
            part
            for size, alone in zip(_numbers(sizes), lone, strict=True)
            for part in (tile, Picture(*_shrunk(*_unpadded(config, size), most), True) if alone else _ALONE)
        ]
    if (shape := _leading(arguments, "pixel_values_videos")) is not None:
        side = math.ceil(tile.rows / 2)
        found[config.video_token_id] = ([Picture(side, side)] * shape[1] + [_ALONE]) * shape[0]
    return found


def tiles(config: Any, arguments: Arguments) -> dict[int, int]:
    """Per placeholder id how many images, tiles or frames the call's pixels are; padding is counted too."""
    found = {}
    for kind, name in (("image", "pixel_values"), ("video", "pixel_values_videos")):
        shape, number = _leading(arguments, name), getattr(config, f"{kind}_token_id", None)
        if shape is not None and number is not None:
            found[number] = math.prod(shape)
    return found


def _chosen(config: Any, arguments: Arguments) -> list[Picture]:
    strategy = arguments.get("vision_feature_select_strategy") or config.vision_feature_select_strategy
    return [_tile(config)] if strategy == "default" else [_ALONE, _tile(config)]


def _tile(config: Any) -> Picture:
    side = config.vision_config.image_size // config.vision_config.patch_size
    return Picture(side, side)


def _unpadded(config: Any, size: list[int]) -> tuple[int, int]:
    """Rows and columns of an image of `size` pixels (height, width) on the tiles that fit it best."""
    # takes longer to import than torch
    from transformers.image_processing_utils import select_best_resolution

    height, width = size
    patch = config.vision_config.patch_size
    tall, wide = select_best_resolution((height, width), config.image_grid_pinpoints)
    # whole tiles first: their patches are counted, and not those of the canvas
    tile = config.vision_config.image_size
    rows, columns = tall // tile * (tile // patch), wide // tile * (tile // patch)
    if width / height > columns / rows:
        return rows - 2 * _margin(rows, height * columns / width), columns
    return rows, columns - 2 * _margin(columns, width * rows / height)


def _margin(there: int, filled: float) -> int:
    """Padding on one side of `there` patches, of which `filled` are image."""
    return (there - int(round(filled, 7))) // 2


def _shrunk(rows: int, columns: int, most: int) -> tuple[int, int]:
    """Rows and columns after they are made smaller, where they hold a fifth more than `most` tokens."""
    ratio = math.sqrt(rows * columns / most)
    return (int(rows // ratio), int(columns // ratio)) if ratio > 1.1 else (rows, columns)


def _leading(arguments: Arguments, name: str) -> tuple[int, ...] | None:
    """The dimensions of pixels (..., 3, height, width) before the last three."""
    pixels = arguments.get(name)
    return tuple(pixels.shape[:-3]) if isinstance(pixels, Tensor) and pixels.ndim > 3 else None


def _numbers(values: Any) -> list[Any]:
    return values.tolist() if isinstance(values, Tensor) else [list(value) for value in values]
