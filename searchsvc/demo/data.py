"""Writes the demo's held-out data: PNG files and one JSONL manifest, as users bring their own."""

import itertools
import json
from pathlib import Path

import numpy as np
from PIL import Image

from searchsvc.demo.questions import KINDS, Question, ask
from searchsvc.demo.scenes import Scene, Split, Sprites, draw


def samples(split: Split, count: int, seed: int = 0) -> list[tuple[Scene, Question]]:
    """`count` scenes with one question each, the kinds in turn; the same for the same seed."""
    sprites = Sprites(split)
    rng = np.random.default_rng([seed, ("train", "search", "test").index(split)])
    made: list[tuple[Scene, Question]] = []
    for kind in itertools.islice(itertools.cycle(KINDS), count):
        question = None
        while question is None:
            scene = draw(sprites, rng)
            question = ask(scene, kind, rng)
        made.append((scene, question))
    return made


def _row(split: Split, number: int, question: Question) -> dict[str, object]:
    name = f"{split}-{number:05d}"
    return {
        "id": name,
        "image": f"images/{name}.png",
        "question": question.text,
        "answers": [question.answer],
        "metric": "exact_match",
        "kind": question.kind,
        "split": split,
    }


def write(folder: Path, search: int = 512, test: int = 2000, seed: int = 0) -> Path:
    """Writes `folder/images/*.png` and `folder/manifest.jsonl`; returns the manifest's path."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    counts: dict[Split, int] = {"search": search, "test": test}
    rows = []
    for split, count in counts.items():
        for number, (scene, question) in enumerate(samples(split, count, seed), start=1):
            row = _row(split, number, question)
            Image.fromarray(scene.pixels).save(folder / str(row["image"]), compress_level=6)
            rows.append(json.dumps(row))
    manifest = folder / "manifest.jsonl"
    manifest.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return manifest
