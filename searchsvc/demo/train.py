"""Trains the embedded model on two CPU cores: `python -m searchsvc.demo.train --out DIR`.

Four stages: the vision tower on the words of each patch; the decoder on symbolic scenes; both together on
images; the same with nothing closed. Until the last stage the first layers' words cannot see the image, so
that looking happens at depth; the last stage and the shipped model are an ordinary LLaVA without any mask.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from searchsvc.demo.architecture import CLOSED, VISUAL_TOKENS, WIDTH, build
from searchsvc.demo.batches import Batch, make
from searchsvc.demo.questions import KINDS
from searchsvc.demo.scenes import Sprites
from searchsvc.demo.turns import answer_loss, imagine, patch_loss, read, see
from searchsvc.demo.vocabulary import processor

CHECKPOINT_EVERY_S = 600
LOG_EVERY = 20
#: Symbolic scenes keep this many of the 144 tokens, every digit's among them: twice as fast.
SYMBOLS_KEPT = 64


@dataclass(frozen=True, kw_only=True)
class Stage:
    """`source`: what the decoder sees, "patches" is the tower alone; `closed`: in how many first layers words
    cannot see the image; `hard`: half of the questions are of the kinds that take longest to learn;
    `end_rate`: the share of `rate` that is left at the end.
    """

    name: str
    source: Literal["patches", "symbols", "images"]
    steps: int
    scenes: int
    rate: float
    closed: int = 0
    hard: bool = False
    flat: float = 0.67
    end_rate: float = 1.0


STAGES = (
    Stage(name="sight", source="patches", steps=900, scenes=32, rate=8e-3, end_rate=0.2),
    Stage(name="symbols", source="symbols", steps=522, scenes=16, rate=4e-3, closed=CLOSED),
    Stage(
        name="harder",
        source="symbols",
        steps=400,
        scenes=16,
        rate=4e-3,
        closed=CLOSED,
        hard=True,
        end_rate=0.4,
    ),
    Stage(name="images", source="images", steps=441, scenes=24, rate=2e-3, closed=CLOSED, hard=True),
    Stage(name="open", source="images", steps=480, scenes=24, rate=2e-3, hard=True, flat=0.25, end_rate=0.02),
)
#: What a hard stage asks about every scene, beside as many kinds drawn at random.
HARD = ("presence", "presence", "presence", "equal", "equal", "sum")
WARM_UP = 30
#: AdamW's rate as a share of Muon's.
ADAM_SHARE = 0.3


@dataclass
class Run:
    """Everything that a checkpoint holds."""

    model: LlavaForConditionalGeneration
    optimisers: list[torch.optim.Optimizer]
    seed: int
    stage: int = 0
    step: int = 0
    seconds: float = 0.0

    def save(self, path: Path) -> None:
        """Written aside, then moved: a kill leaves the previous checkpoint."""
        state = {
            "model": self.model.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
            "at": (self.seed, self.stage, self.step, self.seconds),
        }
        torch.save(state, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def load(self, path: Path) -> None:
        """Goes back to where `save` was called."""
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.seed, self.stage, self.step, self.seconds = state["at"]


def optimisers(model: LlavaForConditionalGeneration) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for words, places, norms and biases."""
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, weight in model.named_parameters():
        inside = weight.ndim == 2 and "embed" not in name and "lm_head" not in name
        (matrices if inside else others).append(weight)
    return [
        torch.optim.Muon(matrices, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, weight_decay=0.0, betas=(0.9, 0.98)),
    ]


def rate_at(stage: Stage, step: int) -> float:
    """Warms up, stays for the `flat` share of the stage, and falls to `end_rate` of the stage's rate."""
    falling = max(0.0, step / stage.steps - stage.flat) / (1 - stage.flat)
    return stage.rate * min(1.0, (step + 1) / WARM_UP) * (1 - falling * (1 - stage.end_rate))


def _keep_digits(visual: Tensor, labels: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """SYMBOLS_KEPT of the visual tokens, digits first, and their positions."""
    order = (labels[..., 0] < 10).float() + torch.rand(labels.shape[:2], generator=draw)
    places = order.topk(SYMBOLS_KEPT, dim=1).indices.sort(dim=1).values
    return visual.gather(1, places.unsqueeze(-1).expand(-1, -1, WIDTH)), places


def loss_of(
    model: LlavaForConditionalGeneration, stage: Stage, batch: Batch, draw: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """The stage's loss and what to log of it."""
    places = torch.arange(VISUAL_TOKENS).expand(batch.labels.shape[0], -1)
    seen: dict[str, Tensor] = {}
    loss = torch.zeros(())
    if stage.source == "symbols":
        visual, places = _keep_digits(imagine(model, batch.labels), batch.labels, draw)
    else:
        visual = see(model, batch.pixels)
        loss, seen["patches"] = patch_loss(model, visual, batch.labels)
        seen["patch_loss"] = loss.detach()
        if stage.source == "patches":
            return loss, seen
    hidden = read(model, visual, places, batch.turns, stage.closed)
    answers, right = answer_loss(model, hidden, batch)
    for number, kind in enumerate(KINDS):
        seen[kind] = right[batch.kinds == number].float().mean()
    return answers + 0.3 * loss, seen | {"answers": answers.detach()}


def _step(run: Run, sprites: Sprites) -> dict[str, Tensor]:
    """One batch, one update. The batch depends on seed, stage and step alone."""
    stage = STAGES[run.stage]
    rng = np.random.default_rng([run.seed, run.stage, run.step])
    draw = torch.Generator().manual_seed(int(rng.integers(2**31)))
    kinds = (*HARD, *rng.permutation(list(KINDS))[: len(HARD)].tolist()) if stage.hard else tuple(KINDS)
    batch = make(sprites, stage.scenes, rng, kinds=kinds, painted=stage.source != "symbols")
    with torch.autocast("cpu", torch.bfloat16):
        loss, seen = loss_of(run.model, stage, batch, draw)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    if stage.source != "images":
        run.model.get_input_embeddings().weight.grad = None
    for optimiser, share in zip(run.optimisers, (1.0, ADAM_SHARE), strict=True):
        for group in optimiser.param_groups:
            group["lr"] = rate_at(stage, run.step) * share
        optimiser.step()
        optimiser.zero_grad()
    return seen | {"loss": loss.detach()}


def _places(run: Run) -> Iterator[Stage]:
    """Walks `run` through what is left of the stages, one step at a time."""
    while run.stage < len(STAGES):
        while run.step < STAGES[run.stage].steps:
            yield STAGES[run.stage]
            run.step += 1
        run.stage, run.step = run.stage + 1, 0


def train(out: Path, seed: int = 0, threads: int = 2) -> LlavaForConditionalGeneration:
    """Trains, or goes on from `out/checkpoint.pt`; appends to `out/log.jsonl`."""
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(threads)
    model = build(seed)
    run = Run(model=model, optimisers=optimisers(model), seed=seed)
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        run.load(checkpoint)
    sprites = Sprites("train", variants=6, seed=seed)
    model.train()
    saved, last = time.monotonic(), time.monotonic()
    recent: list[dict[str, Tensor]] = []
    for stage in _places(run):
        recent.append(_step(run, sprites))
        run.seconds += time.monotonic() - last
        last = time.monotonic()
        if (run.step + 1) % LOG_EVERY == 0:
            means = {
                k: round(float(np.nanmean([float(r.get(k, math.nan)) for r in recent])), 4)
                for k in recent[-1]
            }
            line = {"stage": stage.name, "step": run.step + 1, "seconds": round(run.seconds), **means}
            with (out / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
            recent.clear()
        if last - saved > CHECKPOINT_EVERY_S or run.step + 1 == stage.steps:
            run.step += 1
            run.save(checkpoint)
            run.step -= 1
            saved = last
    return model.eval()


def save(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """The ordinary Hugging Face folder: weights, configuration, processor, tokenizer, template."""
    model.save_pretrained(folder)
    processor().save_pretrained(folder)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint, log and model")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    save(train(arguments.out, arguments.seed), arguments.out / "model")


if __name__ == "__main__":
    main()
