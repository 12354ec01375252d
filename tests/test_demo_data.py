"""The demo's data: same bytes for a seed, no digit image in two splits, every row answers its own picture."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from searchsvc.demo.data import samples, write
from searchsvc.demo.questions import KINDS, ask, vocabulary
from searchsvc.demo.scenes import (
    PATCH,
    SIDE,
    SIZES,
    Scene,
    Split,
    Sprites,
    Thing,
    digit_images,
    draw,
    split_indices,
)


def _digest(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write(tmp_path / name, search=13, test=14, seed=seed)
    assert _digest(tmp_path / "a") == _digest(tmp_path / "b")
    assert _digest(tmp_path / "a") != _digest(tmp_path / "c")


def test_splits_share_no_digit_image() -> None:
    parts = [set(split_indices(split)) for split in ("train", "search", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(digit_images()[0])
    for part in parts:
        assert set(digit_images()[1][sorted(part)]) == set(range(10))


@pytest.mark.parametrize("split", ["train", "search", "test"])
def test_scenes_draw_from_their_split_alone(split: Split) -> None:
    allowed = set(split_indices(split))
    sprites = Sprites(split)
    rng = np.random.default_rng(0)
    classes = digit_images()[1]
    for scene in (draw(sprites, rng) for _ in range(50)):
        assert {t.source for t in scene.things} <= allowed
        assert all(classes[t.source] == t.digit for t in scene.things)


def test_rows_are_valid(tmp_path: Path) -> None:
    manifest = write(tmp_path, search=20, test=30)
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert Counter(r["split"] for r in rows) == {"search": 20, "test": 30}
    assert len({r["id"] for r in rows}) == 50
    words = set(vocabulary())
    for row in rows:
        with Image.open(tmp_path / row["image"]) as picture:
            assert (picture.size, picture.mode) == ((SIDE, SIDE), "RGB")
        assert row["metric"] == "exact_match"
        assert row["kind"] in KINDS
        assert set(row["question"].split()) | set(row["answers"]) <= words
    assert len(set(Counter(r["kind"] for r in rows).values())) == 1


def test_things_lie_on_the_patch_grid_and_do_not_touch_cells_of_others() -> None:
    for scene, _ in samples("search", 48):
        cells = [t.cell for t in scene.things]
        assert len(set(cells)) == len(cells)
        for thing in scene.things:
            side = SIZES[thing.size] // PATCH
            for start, cell in ((thing.top, thing.cell // 3), (thing.left, thing.cell % 3)):
                assert cell * 4 <= start <= cell * 4 + 4 - side


def _scene() -> Scene:
    rows = [(7, "red", "largest", 3), (2, "blue", "smallest", 4), (7, "green", "medium", 1)]
    things = [
        Thing(digit=d, source=0, colour=c, size=s, cell=cell, top=cell // 3 * 4, left=cell % 3 * 4)
        for d, c, s, cell in rows
    ]
    return Scene(things=tuple(things), pixels=np.zeros((SIDE, SIDE, 3), dtype=np.uint8))


ANSWERS = {
    "what digit is red": "7",
    "what colour is 2": "blue",
    "how many digits": "3",
    "what digit is north": "7",
    "what colour is largest": "red",
    "what colour is smallest": "blue",
    "what colour is lowest": "blue",
    "what is red plus blue": "9",
    "what is greater red or blue": "7",
    "what is lesser red or blue": "2",
    "is red equal to green": "yes",
    "is red equal to blue": "no",
    "is there a 2": "yes",
    "is there a 5": "no",
}


@pytest.mark.parametrize("text", ANSWERS)
def test_answers_are_right(text: str) -> None:
    rng = np.random.default_rng(0)
    asked = [ask(_scene(), kind, rng) for kind in KINDS for _ in range(200)]
    assert {q.answer for q in asked if q and q.text == text} == {ANSWERS[text]}
    assert not any(q and q.text == "what colour is highest" for q in asked)
