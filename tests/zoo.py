"""Every architecture that is promised, as a random model of a few thousand weights, with batches for it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import zoo_models as models
from remote_models import internvl_chat
from torch import Generator, Tensor, nn
from zoo_media import (
    Tensors,
    a_dozen,
    a_tile,
    asked,
    asked_of_frames,
    feature_count,
    frames,
    merged,
    moments,
    patches,
    pixels,
    sized,
    stack,
    tiles,
    two_dozen,
)
from zoo_models import END, IMAGE, LAYERS, PAD, STAMP, START, VIDEO, VOCABULARY, WIDTH

__all__ = [
    "ADJACENT",
    "ARCHITECTURES",
    "IMAGE",
    "LAYERS",
    "MIXED",
    "ONE",
    "SINGLE",
    "VOCABULARY",
    "Question",
    "answered",
    "batch",
    "collated",
    "model_for",
    "single",
]


@dataclass(frozen=True)
class Question:
    """Text tokens before, between and after the images of one sample."""

    texts: tuple[int, ...]
    images: int = 1


ONE = (Question((3, 5)),)
#: one image, two, and none
MIXED = (Question((2, 7)), Question((4, 2, 3), images=2), Question((6,), images=0))
#: two images without text between them, and an instruction of another length
ADJACENT = (Question((3, 0, 5), images=2), Question((1, 0, 2), images=2))
#: for models that take one image per sample
SINGLE = (Question((2, 7)), Question((4, 3)), Question((6,), images=0))


@dataclass(frozen=True)
class Architecture:
    """How to build a model, and what it takes."""

    build: Callable[[], Any]
    #: tensors of one image or video; the number tells which of several sizes, where sizes may differ
    image: Callable[[Any, Generator, int], Tensors]
    #: visual tokens that these tensors become
    tokens: Callable[[Any, Tensors], int] = feature_count
    placeholder: int = IMAGE
    #: images of a sample are stacked in a dimension of their own, padded with zeros
    stacked: bool = False
    #: name of the argument that tells kinds of tokens, and its values for visual and for answer tokens
    token_types: tuple[str, int, int] | None = None
    #: runs of placeholders that an image or video is laid out in: a video may be told frame by frame
    runs: Callable[[Tensors], int] = lambda _: 1
    #: ids around every run
    around: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    mixed: tuple[Question, ...] = MIXED
    #: cannot be called with text alone
    needs_images: bool = False


@cache
def batch(name: str, questions: tuple[Question, ...], side: str = "left", first: int = 0) -> Tensors:
    """Inputs for a batch, padded on one side; sample i depends on `first` + i alone."""
    kind, model = ARCHITECTURES[name], model_for(name)
    rows, media = [], []
    for number, question in enumerate(questions, first):
        generator = torch.Generator().manual_seed(number)
        row, images = [torch.tensor([1])], []
        for place, length in enumerate(question.texts):
            row.append(torch.randint(2, 50, (length,), generator=generator))
            if place < question.images:
                images.append(kind.image(model, generator, number + place))
                runs = kind.runs(images[-1])
                count, (before, after) = kind.tokens(model, images[-1]) // runs, kind.around
                row.append(torch.tensor([*before, *[kind.placeholder] * count, *after] * runs))
        rows.append(torch.cat(row))
        media.append(images)
    return _padded(kind, rows, side) | collated(media, kind.stacked)


def single(name: str, questions: tuple[Question, ...], number: int) -> Tensors:
    """One sample of a batch, without padding."""
    return batch(name, questions[number : number + 1], first=number)


def answered(name: str, inputs: Tensors, answers: Tensor) -> Tensors:
    """The inputs with answer tokens (B, answers) behind them."""
    kind = ARCHITECTURES[name]
    longer = inputs | {
        "input_ids": torch.cat([inputs["input_ids"], answers], 1),
        "attention_mask": torch.cat([inputs["attention_mask"], torch.ones_like(answers)], 1),
    }
    if kind.token_types:
        argument, _, mark = kind.token_types
        longer[argument] = torch.cat([inputs[argument], torch.full_like(answers, mark)], 1)
    return longer


def _padded(kind: Architecture, rows: list[Tensor], side: str) -> Tensors:
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), PAD)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[number, place], mask[number, place] = row, 1
    inputs = {"input_ids": ids, "attention_mask": mask}
    if kind.token_types:
        argument, mark, _ = kind.token_types
        inputs[argument] = (ids == kind.placeholder).long() * mark
    return inputs


def collated(media: list[list[Tensors]], stacked: bool) -> Tensors:
    """The tensors of every sample's images as one batch."""
    everything = [image for images in media for image in images]
    found = {}
    for name in everything[0] if everything else ():
        if stacked:
            most = max(map(len, media))
            shape = everything[0][name].shape[2:]
            rows = [[image[name][0, 0] for image in images] for images in media]
            blank = torch.zeros(shape, dtype=everything[0][name].dtype)
            found[name] = torch.stack([torch.stack(row + [blank] * (most - len(row))) for row in rows])
        else:
            shape = _largest([image[name][0] for image in everything])
            found[name] = torch.cat([_grown(image[name], (len(image[name]), *shape)) for image in everything])
    return found


def _largest(tensors: list[Tensor]) -> tuple[int, ...]:
    return tuple(max(sizes) for sizes in zip(*(tensor.shape for tensor in tensors), strict=True))


def _grown(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    grown = tensor.new_zeros(shape)
    grown[tuple(slice(size) for size in tensor.shape)] = tensor
    return grown


@cache
def model_for(name: str) -> Any:
    """The model, in eval mode; made once. All weights outside norms are wide, so that attention is peaked."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ARCHITECTURES[name].build()
        for parameter_name, parameter in model.named_parameters():
            if parameter.ndim > 1 or "newline" in parameter_name:
                spread = 0.25 if parameter.shape[-1] == WIDTH else parameter[0].numel() ** -0.5
                nn.init.normal_(parameter, std=spread)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = PAD
    return model.eval()


QWEN: dict[str, Any] = {"tokens": merged, "around": ((START,), (END,))}
TYPES: dict[str, Any] = {"token_types": ("mm_token_type_ids", 1, 0)}
#: all frames of a video in one run, or each behind a time stamp of its own
CLIP: dict[str, Any] = QWEN | {"placeholder": VIDEO, "token_types": ("mm_token_type_ids", 2, 0)}
STAMPED: dict[str, Any] = CLIP | {"runs": moments, "around": ((STAMP, START), (END,))}

ARCHITECTURES: dict[str, Architecture] = {
    "llava-llama": Architecture(models.llava_llama, pixels(32)),
    "llava-mistral": Architecture(models.llava_mistral, pixels(32)),
    "llava-qwen2": Architecture(models.llava_qwen2, pixels(32)),
    "llava-average-pool": Architecture(models.llava_average_pool, pixels(64)),
    "llava-token-packer": Architecture(models.llava_token_packer, pixels(64)),
    "llava-next": Architecture(models.llava_next, tiles(16)),
    "llava-onevision": Architecture(models.llava_onevision, tiles(16)),
    "llava-onevision-video": Architecture(models.llava_onevision, frames(16, 4), placeholder=VIDEO),
    "llava-next-video": Architecture(models.llava_next_video, frames(32, 3), placeholder=VIDEO),
    "video-llava": Architecture(models.video_llava, frames(16, 3), placeholder=VIDEO),
    "instructblip": Architecture(models.instructblip, asked, a_dozen, mixed=SINGLE, needs_images=True),
    "instructblip-video": Architecture(
        models.instructblip_video, asked_of_frames, two_dozen, VIDEO, mixed=SINGLE, needs_images=True
    ),
    "blip-2": Architecture(models.blip2, pixels(32), a_dozen, mixed=SINGLE, needs_images=True),
    "internvl-qwen2": Architecture(models.internvl_qwen2, pixels(64)),
    "internvl-llama": Architecture(models.internvl_llama, pixels(64)),
    "internvl-chat": Architecture(internvl_chat, pixels(64), a_tile, needs_images=True),
    "internvl-chat-llama": Architecture(
        lambda: internvl_chat("llama"), pixels(64), a_tile, needs_images=True
    ),
    "qwen2-vl": Architecture(models.qwen2_vl, patches(), **QWEN, **TYPES),
    "qwen2.5-vl": Architecture(models.qwen2_5_vl, patches(), **QWEN, **TYPES),
    "qwen2-vl-video": Architecture(models.qwen2_vl, patches("_videos", 2), **CLIP),
    "qwen2.5-vl-video": Architecture(models.qwen2_5_vl, patches("_videos", 2), **CLIP),
    "qwen3-vl": Architecture(models.qwen3_vl, patches(), **QWEN, **TYPES),
    "qwen3-vl-video": Architecture(models.qwen3_vl, patches("_videos", 2), **STAMPED),
    "qwen3-vl-moe": Architecture(models.qwen3_vl_moe, patches(), **QWEN, **TYPES),
    "idefics3": Architecture(models.idefics3, stack(32), stacked=True),
    "smolvlm": Architecture(models.smolvlm, stack(64), stacked=True),
    "gemma3": Architecture(
        models.gemma3, pixels(32), token_types=("token_type_ids", 1, 0), around=((START,), (END,))
    ),
    "mistral3": Architecture(models.mistral3, sized),
    "paligemma": Architecture(models.paligemma, pixels(32), token_types=("token_type_ids", 0, 1)),
    "fast-vlm": Architecture(models.fast_vlm, pixels(32)),
    "glm4v": Architecture(models.glm4v, patches(), **QWEN, **TYPES),
    # frames are told from images by their type alone
    "glm4v-video": Architecture(models.glm4v, patches("_videos", 2), **STAMPED | {"placeholder": IMAGE}),
    "aya-vision": Architecture(models.aya_vision, pixels(64)),
    "perception-lm": Architecture(models.perception_lm, stack(64)),
    "ovis2": Architecture(models.ovis2, pixels(64)),
}
