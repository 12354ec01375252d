"""The kinds of question: each looks at other places of the scene, in one step or in several.

The word that says where to look comes last, so that a model answers right after it has read it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from searchsvc.demo.scenes import COLOURS, PLACES, Scene, Thing


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question about a scene and the single word that answers it."""

    kind: str
    text: str
    answer: str


Ask = Callable[[Scene, np.random.Generator], tuple[str, str] | None]


def _any(things: tuple[Thing, ...] | list[Thing], rng: np.random.Generator) -> Thing:
    return things[int(rng.integers(len(things)))]


def _two(scene: Scene, rng: np.random.Generator) -> tuple[Thing, Thing]:
    first, second = rng.permutation(len(scene.things))[:2].tolist()
    return scene.things[first], scene.things[second]


def _alone(scene: Scene) -> list[Thing]:
    """Things whose digit no other thing of the scene shows."""
    digits = [t.digit for t in scene.things]
    return [t for t in scene.things if digits.count(t.digit) == 1]


def _digit_by_colour(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    thing = _any(scene.things, rng)
    return f"what digit is {thing.colour}", str(thing.digit)


def _colour_by_digit(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    alone = _alone(scene)
    if not alone:
        return None
    thing = _any(alone, rng)
    return f"what colour is {thing.digit}", thing.colour


def _presence(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    there = sorted({t.digit for t in scene.things})
    absent = [d for d in range(10) if d not in there]
    yes = rng.random() < 0.5
    return f"is there a {rng.choice(there if yes else absent)}", "yes" if yes else "no"


def _count(scene: Scene, _: np.random.Generator) -> tuple[str, str]:
    return "how many digits", str(len(scene.things))


def _digit_by_place(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    thing = _any(scene.things, rng)
    return f"what digit is {PLACES[thing.cell]}", str(thing.digit)


def _colour_by_size(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    thing = _any([t for t in scene.things if t.size != "medium"], rng)
    return f"what colour is {thing.size}", thing.colour


def _colour_by_rank(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    ordered = sorted(scene.things, key=lambda t: t.digit)
    if rng.random() < 0.5:
        return (
            ("what colour is highest", ordered[-1].colour) if ordered[-1].digit > ordered[-2].digit else None
        )
    return ("what colour is lowest", ordered[0].colour) if ordered[0].digit < ordered[1].digit else None


def _sum(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    one, two = _two(scene, rng)
    return f"what is {one.colour} plus {two.colour}", str(one.digit + two.digit)


def _greater(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    one, two = _two(scene, rng)
    if rng.random() < 0.5:
        return f"what is greater {one.colour} or {two.colour}", str(max(one.digit, two.digit))
    return f"what is lesser {one.colour} or {two.colour}", str(min(one.digit, two.digit))


def _equal(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    pairs = [(a, b) for a in scene.things for b in scene.things if a is not b and a.digit == b.digit]
    if pairs and rng.random() < 0.9:
        one, two = pairs[int(rng.integers(len(pairs)))]
        return f"is {one.colour} equal to {two.colour}", "yes"
    one, two = _two(scene, rng)
    return f"is {one.colour} equal to {two.colour}", "yes" if one.digit == two.digit else "no"


KINDS: dict[str, Ask] = {
    "digit-by-colour": _digit_by_colour,
    "colour-by-digit": _colour_by_digit,
    "presence": _presence,
    "count": _count,
    "digit-by-place": _digit_by_place,
    "colour-by-size": _colour_by_size,
    "colour-by-rank": _colour_by_rank,
    "sum": _sum,
    "greater": _greater,
    "equal": _equal,
}
#: Words that answers and questions are made of, beyond colours, sizes and places.
# fmt: off
GLUE = (
    "what", "digit", "digits", "colour", "is", "there", "a", "how", "many", "above", "below",
    "left", "right", "of", "plus", "or", "to", "equal", "greater", "lesser", "exceed", "highest",
    "lowest", "yes", "no", "nothing",
)
# fmt: on
NUMBERS = tuple(str(n) for n in range(19))


def vocabulary() -> tuple[str, ...]:
    """Every word of any question or answer, in a fixed order."""
    return (*NUMBERS, *COLOURS, "smallest", "medium", "largest", *PLACES, *GLUE)


def ask(scene: Scene, kind: str, rng: np.random.Generator) -> Question | None:
    """A question of this kind, or None where the scene has no clear answer to it."""
    made = KINDS[kind](scene, rng)
    return Question(kind=kind, text=made[0], answer=made[1]) if made else None
