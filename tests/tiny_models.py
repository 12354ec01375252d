"""Random LLaVA models of a few thousand weights, made from a configuration, and inputs for them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

IMAGE, PAD, VOCABULARY = 60, 0, 64
PATCH = 8


def tiny_llava(
    kv_heads: int = 2, layers: int = 6, side: int = 32, seed: int = 0, attention: str = "sdpa"
) -> LlavaForConditionalGeneration:
    """A model whose images become (side / 8) ** 2 visual tokens; wide weights make attention peaked."""
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=side,
        patch_size=PATCH,
    )
    text = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        max_position_embeddings=512,
        initializer_range=0.25,
        pad_token_id=PAD,
        bos_token_id=1,
        eos_token_id=None,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        pad_token_id=PAD,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
        for parameter in model.model.multi_modal_projector.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    model.set_attn_implementation(attention)
    return model.eval()


@dataclass(frozen=True)
class Question:
    """Text tokens before, between and after the images of one sample."""

    texts: tuple[int, ...]
    images: int = 1


ONE = (Question((3, 5)),)
TWO_IMAGES = (Question((2, 0, 4), images=2), Question((1, 3, 6), images=2))
MIXED = (Question((2, 7)), Question((4, 2, 3), images=2), Question((1, 1)), Question((5,), images=0))


def batch(
    model: Any, questions: tuple[Question, ...], side: str = "left", seed: int = 0
) -> dict[str, Tensor]:
    """Inputs for a batch, padded on one side; a sample's content does not depend on its neighbours."""
    vision = model.config.vision_config
    tokens = (vision.image_size // vision.patch_size) ** 2
    rows, pixels = [], []
    for number, question in enumerate(questions):
        generator = torch.Generator().manual_seed(1000 * seed + number)
        words = [torch.randint(2, 50, (n,), generator=generator) for n in question.texts]
        row = [torch.tensor([1])]
        for place, text in enumerate(words):
            row += [text] + [torch.full((tokens,), model.config.image_token_id)] * (place < question.images)
        rows.append(torch.cat(row))
        shape = (question.images, 3, vision.image_size, vision.image_size)
        pixels.append(torch.randn(shape, generator=generator))
    return pad(rows, torch.cat(pixels), side)


def pad(rows: list[Tensor], pixels: Tensor, side: str) -> dict[str, Tensor]:
    """One batch of rows of ids."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), PAD)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[number, place], mask[number, place] = row, 1
    inputs = {"input_ids": ids, "attention_mask": mask}
    return inputs | ({"pixel_values": pixels} if len(pixels) else {})


def single(model: Any, inputs: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    """One sample of a batch, without padding."""
    mask = inputs["attention_mask"].bool()
    vision = model.config.vision_config
    tokens = (vision.image_size // vision.patch_size) ** 2
    images = (inputs["input_ids"] == model.config.image_token_id).sum(1) // tokens
    first = int(images[:number].sum())
    row = inputs["input_ids"][number][mask[number]]
    pixels = inputs["pixel_values"][first : first + int(images[number])]
    return pad([row], pixels, "left")
