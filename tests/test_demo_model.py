"""The embedded model: an ordinary folder that answers, needs the image, and needs it at depth."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

import searchsvc.demo
from searchsvc.demo.data import samples
from searchsvc.demo.measure import measure, prompt
from searchsvc.demo.questions import KINDS

FOLDER = Path(searchsvc.demo.__file__).parent / "model"
VISUAL = 144


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    return AutoProcessor.from_pretrained(FOLDER), AutoModelForImageTextToText.from_pretrained(FOLDER).eval()


def test_folder_is_small_and_plain() -> None:
    weights = list(FOLDER.glob("*.safetensors"))
    assert len(weights) == 1
    assert weights[0].stat().st_size <= 16_000_000
    assert not list(FOLDER.glob("*.py"))


def test_shape_of_the_model(loaded: tuple[Any, Any]) -> None:
    processor, model = loaded
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert model.config.text_config.num_hidden_layers >= 8
    scene, question = samples("test", 1)[0]
    inputs = processor(images=scene.pixels, text=prompt(processor, question.text), return_tensors="pt")
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == VISUAL
    words = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    assert words == ["<s>", *["<image>"] * VISUAL, *question.text.split()]


def test_generates_one_word_and_stops(loaded: tuple[Any, Any]) -> None:
    processor, model = loaded
    chosen = samples("search", 48)
    texts = [prompt(processor, question.text) for _, question in chosen]
    images = [scene.pixels for scene, _ in chosen]
    inputs = processor(images=images, text=texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        ids = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
    assert ids.shape[1] == 2
    assert (ids[:, 1] == processor.tokenizer.eos_token_id).all()
    answers = processor.batch_decode(ids, skip_special_tokens=True)
    right = [a == q.answer for a, (_, q) in zip(answers, chosen, strict=True)]
    assert sum(right) / len(right) >= 0.85


def test_accuracy_blindness_and_depth() -> None:
    """A quick sample; the model card has the same on all 2,000 questions of the test split."""
    measured = measure(FOLDER, count=240, layers=(2, 6))
    assert measured.plain["all"] >= 0.9
    assert measured.blind["all"] < 0.45
    lost = {
        layer: sorted(
            (measured.plain[kind] - measured.withdrawn[layer][kind] for kind in KINDS), reverse=True
        )
        for layer in (2, 6)
    }
    assert lost[2][len(KINDS) // 2 - 1] >= 0.2
    assert lost[6][1] >= 0.2
