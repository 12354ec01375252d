"""Writes a trained folder's model card: `python -m searchsvc.demo.card FOLDER --log LOG`."""

import argparse
import json
from pathlib import Path

from safetensors import safe_open

from searchsvc.demo.data import samples
from searchsvc.demo.measure import Measured, measure
from searchsvc.demo.questions import KINDS
from searchsvc.demo.scenes import split_indices
from searchsvc.demo.train import STAGES

INTRODUCTION = """---
license: apache-2.0
pipeline_tag: image-text-to-text
---
# A small LLaVA that reads scenes of handwritten digits

`LlavaForConditionalGeneration`: CLIP vision tower (patch 8, 144 visual tokens, 4 layers), two-layer
projector, Llama decoder (12 layers, width 128, 4 heads, 2 key-value heads), word-level tokenizer,
{parameters:,} parameters in fp32. It answers questions of {kinds} kinds with one word. It knows nothing else.

    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
"""
DATA = """
## Data

Scenes of three to five digits out of the 1,797 handwritten digits of scikit-learn's `load_digits`, 96 x 96
pixels, made by `searchsvc.demo.scenes`. The digit images are split by image: {train} for training,
{search} for `search`, {test} for `test`; no image is in two splits. Training saw slightly turned variants of
its own images only.

| kind | a question |
|---|---|
{examples}
"""
TRAINING = """
## Training

`python -m searchsvc.demo.train --out DIR`, seed {seed}, {steps} steps, {minutes} minutes on 2 CPU cores:

| stage | decoder sees | steps | scenes per step | rate | closed layers |
|---|---|---|---|---|---|
{stages}

Every scene comes with twelve questions, the loss is on answers only, and projected visual tokens are also
asked for their digit, colour, size and place through the tied embedding. "patches" trains the vision tower
on that alone, "symbols" shows the decoder sums of words instead of images. **Closed layers**: until the last
stage the words could not see the image in the first layers, so that looking happens at depth; the last stage
and this model have no mask at all. Four decoder layers start with queries equal to keys ("like finds like").
"""
RESULTS = """
## Accuracy on `test`, {count} questions

`blind`: the image blanked. `before l`: every visual token dropped before decoder layer l (0-based).

{table}
"""


def table(measured: Measured) -> str:
    """The Markdown table: a row per kind, a column per layer before which the image is withdrawn."""
    cuts = sorted(measured.withdrawn)
    head = ["kind", "plain", "blind", *(f"before {c}" for c in cuts)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for kind in measured.plain:
        values = [measured.plain, measured.blind, *(measured.withdrawn[c] for c in cuts)]
        lines.append(f"| {kind} | " + " | ".join(f"{v[kind]:.3f}" for v in values) + " |")
    return "\n".join(lines)


def _examples() -> str:
    kinds = {question.kind: question.text for _, question in samples("test", len(KINDS))}
    return "\n".join(f"| {kind} | {text} |" for kind, text in kinds.items())


def _parameters(folder: Path) -> int:
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        return sum(weights.get_tensor(name).numel() for name in weights.keys())  # noqa: SIM118


def card(folder: Path, log: Path, count: int = 2000, seed: int = 0) -> str:
    """The whole card; measuring takes some minutes."""
    last = json.loads(log.read_text().splitlines()[-1])
    stages = "\n".join(
        f"| {s.name} | {s.source} | {s.steps} | {s.scenes} | {s.rate} | {s.closed} |" for s in STAGES
    )
    sizes = {split: len(split_indices(split)) for split in ("train", "search", "test")}
    return (
        INTRODUCTION.format(parameters=_parameters(folder), kinds=len(KINDS))
        + DATA.format(**sizes, examples=_examples())
        + TRAINING.format(
            seed=seed, steps=sum(s.steps for s in STAGES), minutes=round(last["seconds"] / 60), stages=stages
        )
        + RESULTS.format(count=count, table=table(measure(folder, count)))
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the trained model's folder; its README.md is written")
    parser.add_argument("--log", type=Path, required=True, help="log.jsonl of its training")
    parser.add_argument("--count", type=int, default=2000, help="questions of the test split")
    parser.add_argument("--seed", type=int, default=0, help="the training's seed, to be named")
    arguments = parser.parse_args()
    text = card(arguments.folder, arguments.log, arguments.count, arguments.seed)
    (arguments.folder / "README.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
