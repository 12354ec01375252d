"""Training batches: scenes, the words of each patch, and twelve questions per scene.

Letters: B scenes, V = 144 patches, S = 12 turns x 7 words.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from searchsvc.demo.architecture import VISUAL_TOKENS
from searchsvc.demo.questions import KINDS, Question, ask
from searchsvc.demo.scenes import (
    CELL,
    COLOURS,
    PATCH,
    PLACES,
    SIDE,
    SIZES,
    Scene,
    Sprites,
    Thing,
    arrange,
    paint,
)
from searchsvc.demo.vocabulary import EOS, PAD, WORDS

ROW = SIDE // PATCH
SLOT = 7
IGNORE = -100
#: The word groups of a patch: what a projected visual token must decode to.
GROUPS: tuple[tuple[int, ...], ...] = (
    (*(WORDS[str(d)] for d in range(10)), WORDS["nothing"]),
    tuple(WORDS[c] for c in COLOURS),
    tuple(WORDS[s] for s in SIZES),
    tuple(WORDS[p] for p in PLACES),
)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """`pixels` (B, 3, 96, 96) in -1..1; `labels` (B, V, 4) indices into GROUPS or IGNORE; `turns`, `targets`
    (B, S); `kinds` (B, 12) indices into KINDS."""

    pixels: Tensor
    labels: Tensor
    turns: Tensor
    targets: Tensor
    kinds: Tensor


def patch_labels(things: tuple[Thing, ...]) -> np.ndarray:
    """(V, 4): digit or nothing, colour, size, place of each patch."""
    grid = np.full((ROW, ROW, len(GROUPS)), IGNORE, dtype=np.int64)
    grid[..., 0] = 10
    rows, columns = np.indices((ROW, ROW)) // (CELL // PATCH)
    grid[..., 3] = rows * 3 + columns
    for thing in things:
        side = SIZES[thing.size] // PATCH
        spot = grid[thing.top : thing.top + side, thing.left : thing.left + side]
        spot[..., :3] = thing.digit, list(COLOURS).index(thing.colour), list(SIZES).index(thing.size)
    return grid.reshape(VISUAL_TOKENS, len(GROUPS))


def _questions(scene: Scene, kinds: tuple[str, ...], rng: np.random.Generator) -> list[Question]:
    """One question of each kind; where the scene has none, one of a kind drawn at random."""
    asked = []
    for kind in kinds:
        question = ask(scene, kind, rng)
        while question is None:
            question = ask(scene, str(rng.choice(kinds)), rng)
        asked.append(question)
    return asked


def _words(questions: list[Question]) -> tuple[np.ndarray, np.ndarray]:
    """The turns, (S,), and the next word wherever it belongs to the answer, (S,)."""
    turns = np.full((len(questions), SLOT), PAD, dtype=np.int64)
    targets = np.full((len(questions), SLOT), IGNORE, dtype=np.int64)
    for slot, question in enumerate(questions):
        ids = [WORDS[w] for w in question.text.split()]
        answer = WORDS[question.answer]
        turns[slot, : len(ids) + 1] = [*ids, answer]
        targets[slot, len(ids) - 1 : len(ids) + 1] = answer, EOS
    return turns.reshape(-1), targets.reshape(-1)


def make(
    sprites: Sprites, count: int, rng: np.random.Generator, *, kinds: tuple[str, ...], painted: bool = True
) -> Batch:
    """`count` scenes of this split; without pixels where only the symbols are wanted."""
    pixels = np.zeros((count, SIDE, SIDE, 3), dtype=np.uint8)
    labels, turns, targets, asked_kinds = [], [], [], []
    order = list(KINDS)
    for row in range(count):
        things = arrange(sprites, rng)
        if painted:
            pixels[row] = paint(things, sprites, rng)
        questions = _questions(Scene(things=things, pixels=pixels[row]), kinds, rng)
        words, wanted = _words(questions)
        labels.append(patch_labels(things))
        turns.append(words)
        targets.append(wanted)
        asked_kinds.append([order.index(q.kind) for q in questions])
    return Batch(
        pixels=torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1,
        labels=torch.from_numpy(np.stack(labels)),
        turns=torch.from_numpy(np.stack(turns)),
        targets=torch.from_numpy(np.stack(targets)),
        kinds=torch.tensor(asked_kinds),
    )
