"""A random LLaVA of a few thousand weights in an ordinary Hugging Face folder, and samples that fit it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from studies.data import Sample
from studies.images import check_image

TEXT = "what digit colour is red blue green one two three four yes no how many left of the"
WORDS = TEXT.split()
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
TEMPLATE = (
    "{{ '<s>' }}{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)
IMAGE = SPECIAL.index("<image>")
SIDE, PATCH = 32, 8
VISUAL_TOKENS = (SIDE // PATCH) ** 2


def _tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
    )


def _config(layers: int, width: int) -> LlavaConfig:
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=PATCH,
    )
    text = LlamaConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE, vision_feature_layer=-1
    )


def save_tiny_vlm(folder: Path, layers: int = 5, width: int = 32, seed: int = 0) -> Path:
    """Writes config, safetensors, tokenizer, image processor and chat template; returns `folder`."""
    images = CLIPImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    processor = LlavaProcessor(
        image_processor=images,
        tokenizer=_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(_config(layers, width))
    torch.set_rng_state(state)
    with torch.no_grad():
        # Its logit is half another's and so never the greatest: like a real model, it writes no image tokens.
        model.lm_head.weight[IMAGE] = 0.5 * model.lm_head.weight[IMAGE + 1]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def write_images(folder: Path, count: int, seed: int = 0) -> list[Path]:
    """`count` PNG files of coloured noise; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    paths = [folder / f"{number}.png" for number in range(count)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)
    return paths


def tiny_samples(folder: Path, count: int = 6, **fields: Any) -> list[Sample]:
    """`count` samples whose questions have different lengths."""
    values: dict[str, Any] = {"answers": ("red",), "choices": ("red", "blue green", "one"), **fields}
    return [
        Sample(
            id=f"s{number}",
            images=(path,),
            image_sha256=(check_image(path),),
            question=" ".join(["what", *WORDS[1 : 2 + number % 3], "red"]),
            **values,
        )
        for number, path in enumerate(write_images(folder, count))
    ]
