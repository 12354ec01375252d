"""The tensors of one image or video, as each family's processor would make them, of noise."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

Tensors = dict[str, Tensor]


def feature_count(model: Any, tensors: Tensors) -> int:
    """Tokens that the model itself makes of an image."""
    inner = getattr(model, "model", model)
    with torch.no_grad():
        find = inner.get_video_features if "pixel_values_videos" in tensors else inner.get_image_features
        features = find(**tensors).pooler_output
    parts = features if isinstance(features, tuple | list) else [features]
    return sum(part.numel() // part.shape[-1] for part in parts)


def pixels(side: int) -> Callable[[Any, Generator, int], Tensors]:
    """One square image."""
    return lambda _model, generator, _number: {
        "pixel_values": torch.randn(1, 3, side, side, generator=generator)
    }


def stack(side: int) -> Callable[[Any, Generator, int], Tensors]:
    """One square image of a sample's stack of images."""
    return lambda _model, generator, _number: {
        "pixel_values": torch.randn(1, 1, 3, side, side, generator=generator)
    }


def tiles(side: int) -> Callable[[Any, Generator, int], Tensors]:
    """An image of one of three shapes, as an overview and its tiles."""

    def image(_model: Any, generator: Generator, number: int) -> Tensors:
        height, width = ((side, 2 * side), (2 * side, 2 * side), (2 * side, side))[number % 3]
        count = 1 + height * width // side**2
        return {
            "pixel_values": torch.randn(1, count, 3, side, side, generator=generator),
            "image_sizes": torch.tensor([[height, width]]),
        }

    return image


def frames(side: int, count: int) -> Callable[[Any, Generator, int], Tensors]:
    """A video."""
    return lambda _model, generator, _number: {
        "pixel_values_videos": torch.randn(1, count, 3, side, side, generator=generator)
    }


def patches(suffix: str = "", times: int = 1) -> Callable[[Any, Generator, int], Tensors]:
    """An image of one of two resolutions, or a video, as the patches that Qwen's processors make."""

    def image(model: Any, generator: Generator, number: int) -> Tensors:
        grid = torch.tensor([[times, 4, 6 if number % 2 else 8]])
        vision = model.config.vision_config
        size = 3 * vision.temporal_patch_size * vision.patch_size**2
        values = torch.randn(int(grid.prod()), size, generator=generator)
        kind = "video" if suffix else "image"
        return {f"pixel_values{suffix}": values, f"{kind}_grid_thw": grid}

    return image


def merged(_model: Any, tensors: Tensors) -> int:
    """Tokens of an image of `patches`: one of four."""
    return sum(int(value.prod()) // 4 for name, value in tensors.items() if name.endswith("grid_thw"))


def moments(tensors: Tensors) -> int:
    """Frames of a video of `patches`, after its tower has merged neighbours in time."""
    return int(tensors["video_grid_thw"][0, 0])


def sized(_model: Any, generator: Generator, number: int) -> Tensors:
    """An image of one of two shapes."""
    height, width = (32, 48) if number % 2 else (48, 48)
    return {
        "pixel_values": torch.randn(1, 3, height, width, generator=generator),
        "image_sizes": torch.tensor([[height, width]]),
    }


def asked(_model: Any, generator: Generator, _number: int) -> Tensors:
    """An image, and the question as the Q-Former reads it."""
    return {
        "pixel_values": torch.randn(1, 3, 32, 32, generator=generator),
        "qformer_input_ids": torch.randint(2, 50, (1, 5), generator=generator),
    }


def asked_of_frames(_model: Any, generator: Generator, _number: int) -> Tensors:
    """Two frames of a video, and the question as the Q-Former reads it with each."""
    return {
        "pixel_values": torch.randn(1, 2, 3, 32, 32, generator=generator),
        "qformer_input_ids": torch.randint(2, 50, (1, 5), generator=generator),
    }


def a_dozen(_model: Any, _tensors: Tensors) -> int:
    """The tokens of a Q-Former."""
    return 12


def a_tile(_model: Any, _tensors: Tensors) -> int:
    """The tokens of a tile of 64 by 64 pixels, where four patches of 8 by 8 become one."""
    return 16


def two_dozen(_model: Any, _tensors: Tensors) -> int:
    """The tokens of a Q-Former that is asked about two frames."""
    return 24
