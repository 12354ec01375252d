"""Measures a trained model folder on held-out scenes: accuracy by kind, the same with the image blanked, and
the same with every visual token withdrawn before layer l.

Letters: B questions, T tokens, V visual tokens, D width.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration

from searchsvc.demo.data import samples
from searchsvc.demo.questions import KINDS, Question
from searchsvc.demo.scenes import Scene

Sample = tuple[Scene, Question]
Accuracy = dict[str, float]
BATCH = 100


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Accuracy by kind and under "all": plain, blind, by the layer before which the image is withdrawn."""

    plain: Accuracy
    blind: Accuracy
    withdrawn: dict[int, Accuracy]


def prompt(processor: AutoProcessor, question: str) -> str:
    """The chat template's text for one image and this question."""
    parts = [{"type": "image"}, {"type": "text", "text": question}]
    text: str = processor.apply_chat_template([{"role": "user", "content": parts}])
    return text


def _batches(chosen: Sequence[Sample]) -> Iterator[list[int]]:
    """Numbers of samples whose questions are equally long, so that none is padded."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, (_, question) in enumerate(chosen):
        by_length[len(question.text.split())].append(number)
    for numbers in by_length.values():
        for start in range(0, len(numbers), BATCH):
            yield numbers[start : start + BATCH]


def _embedded(model: LlavaForConditionalGeneration, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Decoder inputs (B, T, D), and which positions are visual, (T,)."""
    ids = inputs["input_ids"]
    visual = ids == model.config.image_token_id
    features = torch.cat(list(model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output))
    words = model.get_input_embeddings()(ids)
    return words.masked_scatter(visual.unsqueeze(-1), features.to(words.dtype)), visual[0]


def _through(
    model: LlavaForConditionalGeneration, hidden: Tensor, places: Tensor, first: int, last: int
) -> Tensor:
    """Hidden states (B, T, D) at positions `places` (T,) after decoder layers `first` to `last - 1`."""
    language = model.model.language_model
    rotary = language.rotary_emb(hidden, position_ids=places[None])
    for block in language.layers[first:last]:
        hidden = block(hidden, attention_mask=None, position_embeddings=rotary)
    return hidden


def _withdrawn(
    model: LlavaForConditionalGeneration, hidden: Tensor, visual: Tensor, cuts: Sequence[int]
) -> dict[int, Tensor]:
    """For each cut the first answer token, (B,), when all visual positions are dropped before that layer."""
    language = model.model.language_model
    places = torch.arange(hidden.shape[1])
    found: dict[int, Tensor] = {}
    done = 0
    for cut in sorted(cuts):
        hidden, done = _through(model, hidden, places, done, cut), cut
        rest = _through(model, hidden[:, ~visual], places[~visual], cut, len(language.layers))
        found[cut] = model.lm_head(language.norm(rest[:, -1])).argmax(-1)
    return found


def _tally(chosen: Sequence[Sample], right: Sequence[bool]) -> Accuracy:
    by_kind: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    for (_, question), hit in zip(chosen, right, strict=True):
        by_kind[question.kind].append(hit)
    return {"all": float(np.mean(right))} | {k: float(np.mean(v)) for k, v in by_kind.items() if v}


@torch.no_grad()
def measure(folder: Path, count: int = 2000, layers: Sequence[int] | None = None) -> Measured:
    """Every number of the card, on `count` samples of the test split."""
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, use_safetensors=True).eval()
    chosen = samples("test", count)
    depth = model.config.text_config.num_hidden_layers
    cuts = list(layers) if layers is not None else list(range(depth))
    right = {key: [False] * count for key in ("plain", "blind", *cuts)}
    for numbers in _batches(chosen):
        texts = [prompt(processor, chosen[n][1].text) for n in numbers]
        inputs = processor(images=[chosen[n][0].pixels for n in numbers], text=texts, return_tensors="pt")
        wanted = [chosen[n][1].answer for n in numbers]
        embedded, visual = _embedded(model, inputs)
        blank = dict(inputs) | {"pixel_values": torch.zeros_like(inputs["pixel_values"])}
        found = {
            "plain": model(**inputs).logits[:, -1].argmax(-1),
            "blind": model(**blank).logits[:, -1].argmax(-1),
        } | _withdrawn(model, embedded, visual, cuts)
        for key, tokens in found.items():
            for n, got, want in zip(
                numbers, processor.tokenizer.convert_ids_to_tokens(tokens), wanted, strict=True
            ):
                right[key][n] = got == want
    tallied = {key: _tally(chosen, hits) for key, hits in right.items()}
    return Measured(
        plain=tallied["plain"], blind=tallied["blind"], withdrawn={cut: tallied[cut] for cut in cuts}
    )
