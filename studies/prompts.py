"""Prompts: samples as the model's own chat template writes them, their lengths, and which run together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from studies.errors import DataError, ModelError
from studies.images import open_images
from studies.samples import Sample

if TYPE_CHECKING:
    from transformers import BatchFeature


@dataclass(frozen=True, order=True)
class PromptLength:
    """Tokens of one prompt, without padding: visual placeholders, and all the others."""

    visual: int
    text: int

    @property
    def total(self) -> int:
        return self.visual + self.text


def encode_prompts(processor: Any, samples: Sequence[Sample]) -> "BatchFeature":
    """One user turn per sample, its images before its question, padded on the left: what `generate` takes.

    Opens the images. DataError when an image is gone, or when the processor refuses a sample.
    """
    turns = [[{"role": "user", "content": _content(sample)}] for sample in samples]
    try:
        return processor.apply_chat_template(
            turns,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
            processor_kwargs={"padding": True, "padding_side": "left"},
        )
    except ValueError as error:
        names = ", ".join(repr(sample.id) for sample in samples)
        raise DataError(f"the model's processor refuses {names}: {str(error).splitlines()[0]}") from error


def _content(sample: Sample) -> list[dict[str, Any]]:
    images = [{"type": "image", "image": image} for image in open_images(sample.images)]
    return [*images, {"type": "text", "text": sample.question}]


def visual_token_ids(processor: Any) -> tuple[int, ...]:
    """The ids that stand for visual tokens in a prompt; ModelError when the processor names none."""
    ids = [getattr(processor, name, None) for name in ("image_token_id", "video_token_id")]
    known = tuple(number for number in ids if number is not None)
    if not known:
        raise ModelError(f"{type(processor).__name__} names no image token; use a model that takes images")
    return known


def count_tokens(processor: Any, input_ids: Tensor, attention_mask: Tensor) -> tuple[PromptLength, ...]:
    """Lengths of the rows of a padded batch; input_ids and attention_mask are (B, T)."""
    ids = input_ids.new_tensor(visual_token_ids(processor))
    visual = torch.isin(input_ids, ids).sum(dim=1)
    text = attention_mask.sum(dim=1) - visual
    return tuple(map(PromptLength, visual.tolist(), text.tolist()))


def prompt_lengths(processor: Any, samples: Sequence[Sample]) -> tuple[PromptLength, ...]:
    """The lengths of the samples' prompts, each made alone; needs no model, opens every image once."""
    lengths: list[PromptLength] = []
    for sample in samples:
        prompt = encode_prompts(processor, [sample])
        lengths += count_tokens(processor, prompt["input_ids"], prompt["attention_mask"])
    return tuple(lengths)


def form_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices of samples in batches of equal size (the last may be smaller), longest first, ties by index.

    Formed once over all samples, wherever they will run: a batch is the unit of sharding, so that no number
    depends on how many workers share the work. The longest come first so that a lack of memory shows at once.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
