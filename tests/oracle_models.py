"""The models and inputs that the oracles are run on."""

from functools import cache
from pathlib import Path
from typing import Any

from tiny_models import MIXED, ONE, TWO_IMAGES, batch, tiny_llava
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

import searchsvc.demo
from searchsvc.demo.data import samples

EMBEDDED = Path(searchsvc.demo.__file__).parent / "model"
#: heads of their own for keys and values, or shared ones
TINY = {"mha": {"kv_heads": 4}, "gqa": {"kv_heads": 2}}
MODELS = (*TINY, "embedded")


@cache
def model_for(name: str) -> Any:
    """A random model, or the trained one, in eval mode; made once."""
    if name == "embedded":
        return AutoModelForImageTextToText.from_pretrained(EMBEDDED, attn_implementation="sdpa").eval()
    return tiny_llava(**TINY[name])


@cache
def inputs_for(name: str) -> dict[str, dict[str, Tensor]]:
    """One image; two images, adjacent and apart; different numbers of images and none, padded."""
    if name == "embedded":
        return {"one": scenes(1), "padded left": scenes(3), "padded right": scenes(3, "right")}
    model = model_for(name)
    return {
        "one": batch(model, ONE),
        "two images": batch(model, TWO_IMAGES),
        "padded left": batch(model, MIXED, "left"),
        "padded right": batch(model, MIXED, "right"),
    }


def scenes(count: int, side: str = "left") -> dict[str, Tensor]:
    """Held-out scenes of the demo with their questions, as its processor prepares them."""
    processor = AutoProcessor.from_pretrained(EMBEDDED)
    by_length = sorted(samples("test", 12, seed=5), key=lambda pair: len(pair[1].text.split()))
    drawn = [by_length[number * 11 // max(1, count - 1)] for number in range(count)]
    messages = [
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question.text}]}]
        for _, question in drawn
    ]
    texts = [processor.apply_chat_template(message, add_generation_prompt=True) for message in messages]
    images = [scene.pixels for scene, _ in drawn]
    processor.tokenizer.padding_side = side
    prepared = processor(images=images, text=texts, padding=True, return_tensors="pt")
    return {name: prepared[name] for name in ("input_ids", "attention_mask", "pixel_values")}
