"""Scenes of real handwritten digits: 96 x 96 pixels, each digit with its own colour, size and place.

The 1,797 digit images of scikit-learn are split by image (train, search, test), so that no stroke of a
held-out scene was ever seen in training. Sizes are multiples of the model's 8-pixel patch; a scene has
3 x 3 cells of 32 pixels and at most one digit per cell.
"""

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Split = Literal["train", "search", "test"]
Pixels = NDArray[np.uint8]

SIDE = 96
PATCH = 8
CELL = 32
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (230, 40, 40),
    "green": (40, 190, 60),
    "blue": (70, 90, 250),
    "yellow": (240, 230, 50),
    "orange": (250, 135, 20),
    "purple": (165, 50, 215),
    "cyan": (70, 225, 235),
    "white": (245, 245, 245),
}
SIZES: dict[str, int] = {"smallest": 16, "medium": 24, "largest": 32}
PLACES = ("northwest", "north", "northeast", "west", "centre", "east", "southwest", "south", "southeast")
#: Share of each class's images that goes to train; of the rest a third goes to search, two thirds to test.
TRAIN_SHARE = 0.7


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One digit of a scene; `top` and `left` are in patches, `cell` counts the places row by row."""

    digit: int
    source: int
    colour: str
    size: str
    cell: int
    top: int
    left: int


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What is drawn, and the drawing: `pixels` is (96, 96, 3)."""

    things: tuple[Thing, ...]
    pixels: Pixels


@functools.cache
def digit_images() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The images of scikit-learn, (1797, 8, 8) in 0..1, and their classes, (1797,)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return (data.images / 16).astype(np.float32), data.target.astype(np.int64)


@functools.cache
def split_indices(split: Split) -> tuple[int, ...]:
    """Indices of the digit images of one split: stratified by class, fixed for good."""
    _, classes = digit_images()
    rng = np.random.default_rng(1797)
    chosen: list[int] = []
    for digit in range(10):
        order = rng.permutation(np.flatnonzero(classes == digit))
        first = round(len(order) * TRAIN_SHARE)
        second = first + (len(order) - first) // 3
        part = {"train": order[:first], "search": order[first:second], "test": order[second:]}[split]
        chosen += part.tolist()
    return tuple(sorted(chosen))


class Sprites:
    """Opacity masks of a split's digits in the three sizes; `variants` > 1 adds slight turns and zooms."""

    def __init__(self, split: Split, *, variants: int = 1, seed: int = 0) -> None:
        images, classes = digit_images()
        rng = np.random.default_rng([seed, 7])
        self.sources: dict[int, list[int]] = {d: [] for d in range(10)}
        self._masks: dict[tuple[int, int], list[Pixels]] = {}
        for index in split_indices(split):
            self.sources[int(classes[index])].append(index)
            picture = Image.fromarray((images[index] * 255).astype(np.uint8)).resize(
                (32, 32), Image.Resampling.BICUBIC
            )
            turned = [picture] + [_turn(picture, rng) for _ in range(variants - 1)]
            for side in SIZES.values():
                smaller = [t.resize((side, side), Image.Resampling.BILINEAR) for t in turned]
                self._masks[index, side] = [np.asarray(s) for s in smaller]

    def mask(self, source: int, side: int, rng: np.random.Generator) -> Pixels:
        """One opacity mask, (side, side)."""
        masks = self._masks[source, side]
        return masks[int(rng.integers(len(masks)))] if len(masks) > 1 else masks[0]


def _turn(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The picture turned, sheared and zoomed a little about its centre."""
    angle, shear, zoom = rng.uniform(-0.2, 0.2), rng.uniform(-0.15, 0.15), rng.uniform(0.9, 1.12)
    cos, sin = np.cos(angle) * zoom, np.sin(angle) * zoom
    a, b, c, d = cos, sin + shear, -sin, cos
    move = (16 - 16 * (a + b), 16 - 16 * (c + d))
    return picture.transform(
        (32, 32), Image.Transform.AFFINE, (a, b, move[0], c, d, move[1]), Image.Resampling.BILINEAR
    )


def _pick_digits(count: int, rng: np.random.Generator) -> list[int]:
    """Different digits, but in 55 of 100 scenes one of them comes twice."""
    digits: list[int] = rng.permutation(10)[:count].tolist()
    if rng.random() < 0.55:
        digits[1] = digits[0]
    return digits


def arrange(sprites: Sprites, rng: np.random.Generator) -> tuple[Thing, ...]:
    """Three to five digits: one is the largest, one the smallest, the others are between."""
    count = int(rng.integers(3, 6))
    digits = _pick_digits(count, rng)
    sizes = rng.permutation(["largest", "smallest"] + ["medium"] * (count - 2)).tolist()
    colours = rng.permutation(list(COLOURS))[:count].tolist()
    cells = rng.permutation(9)[:count].tolist()
    things = []
    for digit, size, colour, cell in zip(digits, sizes, colours, cells, strict=True):
        free = (CELL - SIZES[size]) // PATCH + 1
        top, left = rng.integers(free, size=2).tolist()
        rows = CELL // PATCH
        source = int(rng.choice(sprites.sources[digit]))
        things.append(
            Thing(
                digit=digit,
                source=source,
                colour=colour,
                size=size,
                cell=cell,
                top=cell // 3 * rows + top,
                left=cell % 3 * rows + left,
            )
        )
    return tuple(things)


def _background(rng: np.random.Generator) -> NDArray[np.float32]:
    """A dim, cloudy, grainy texture, (96, 96, 3)."""
    coarse = rng.integers(15, 100, size=(9, 9, 1)) + rng.integers(-12, 13, size=(9, 9, 3))
    cloud = Image.fromarray(coarse.clip(0, 255).astype(np.uint8)).resize(
        (SIDE, SIDE), Image.Resampling.BICUBIC
    )
    grain = rng.integers(-10, 11, size=(SIDE, SIDE, 1))
    return (np.asarray(cloud) + grain).astype(np.float32)


def paint(things: tuple[Thing, ...], sprites: Sprites, rng: np.random.Generator) -> Pixels:
    """The things on a background, (96, 96, 3)."""
    canvas = _background(rng)
    for thing in things:
        side = SIZES[thing.size]
        y, x = thing.top * PATCH, thing.left * PATCH
        opacity = sprites.mask(thing.source, side, rng)[..., None].astype(np.float32) / 255
        colour = np.array(COLOURS[thing.colour]) + rng.integers(-14, 15, size=3)
        canvas[y : y + side, x : x + side] *= 1 - opacity
        canvas[y : y + side, x : x + side] += opacity * colour
    return canvas.clip(0, 255).astype(np.uint8)


def draw(sprites: Sprites, rng: np.random.Generator) -> Scene:
    """One scene of the split whose sprites these are."""
    things = arrange(sprites, rng)
    return Scene(things=things, pixels=paint(things, sprites, rng))
