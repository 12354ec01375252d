"""What the engines of bench/search.py work on: the embedded model on its scenes, or a random one on noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

from bench.models import PATCH, VOCABULARY, Shape, Tower, random_model
from pruners.costs import ModelShape
from searchsvc.demo.data import write
from searchsvc.locations import model_location
from studies.data import read_manifest, split
from studies.images import check_image
from studies.models import load
from studies.records import EvaluationSettings
from studies.samples import Sample
from studies.spec import ModelSpec

#: ids of the random model's words are their numbers; the last id stands for a visual token
_PAD, _IMAGE = "<pad>", "<image>"
_WORDS = [_PAD, *(f"w{number}" for number in range(1, VOCABULARY - 1)), _IMAGE]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One model, its samples, and how they are scored."""

    model: Any
    processor: Any
    samples: Sequence[Sample]
    metric: str
    settings: EvaluationSettings

    @cached_property
    def shape(self) -> ModelShape:
        """Sizes for costs."""
        return ModelShape.from_config(self.model.config)


def embedded_setting(folder: Path, count: int, settings: EvaluationSettings) -> Setting:
    """The embedded model on `count` of its scenes, which are written into `folder`."""
    chosen, _ = split(read_manifest(write(folder, search=count, test=1)), count, 1, seed=0)
    model, processor, _ = load(ModelSpec(id=model_location("demo")))
    return Setting(
        model=model, processor=processor, samples=chosen.samples, metric=chosen.metric, settings=settings
    )


def random_setting(
    folder: Path, count: int, settings: EvaluationSettings, shape: Shape, tower: Tower
) -> Setting:
    """A random LLaVA on noise and random words, scored by how near it stays to no pruning.

    All prompts are equally long, and so are its answers, for it has no end token.
    """
    return Setting(
        model=random_model(shape, "cpu", torch.float32, tower=tower),
        processor=_processor(shape),
        samples=_noise(folder, count, shape),
        metric="fidelity",
        settings=settings,
    )


def _processor(shape: Shape) -> LlavaProcessor:
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(_WORDS)}, unk_token=_PAD))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    side = shape.side * PATCH
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        ),
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=words, pad_token=_PAD, extra_special_tokens={"image_token": _IMAGE}
        ),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_template(shape.text[0]),
    )


def _template(before: int) -> str:
    """So many words, then a turn's images and its question."""
    opening = " ".join(_WORDS[1 : before + 1])
    return (
        f"{opening} "
        "{% for message in messages %}{% for part in message['content'] %}"
        f"{{% if part['type'] == 'image' %}}{_IMAGE}{{% else %}} {{{{ part['text'] }}}}{{% endif %}}"
        "{% endfor %}{% endfor %}"
    )


def _noise(folder: Path, count: int, shape: Shape) -> list[Sample]:
    rng, side = np.random.default_rng(0), shape.side * PATCH
    samples = []
    for number in range(count):
        path = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path, compress_level=1)
        words = rng.integers(1, len(_WORDS) - 1, shape.text[1])
        samples.append(
            Sample(
                id=path.stem,
                images=(path,),
                image_sha256=(check_image(path),),
                question=" ".join(_WORDS[word] for word in words),
                metric="fidelity",
            )
        )
    return samples
