"""Every architecture that is promised, as a random model of a few thousand weights, with inputs for it.

One function per architecture builds the model; one per kind of input makes an image's or a video's tensors.
Vision towers that need packages beyond transformers (timm) are replaced by small ones of transformers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import transformers as hf
from torch import Generator, Tensor, nn

PAD, IMAGE, VIDEO, START, END, VOCABULARY = 0, 60, 61, 62, 63, 64
WIDTH, LAYERS = 32, 6

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Question:
    """Text tokens before, between and after the images of one sample."""

    texts: tuple[int, ...]
    images: int = 1


ONE = (Question((3, 5)),)
#: one image, two adjacent and one apart, and none
MIXED = (Question((2, 7)), Question((4, 2, 3), images=2), Question((6,), images=0))
#: for models that take one image per sample
SINGLE = (Question((2, 7)), Question((4, 3)), Question((6,), images=0))


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How to build a model, and what it takes."""

    build: Callable[[], Any]
    #: tensors of one image or video; the number tells which of several sizes, where sizes may differ
    image: Callable[[Any, Generator, int], Tensors]
    #: visual tokens that these tensors become
    tokens: Callable[[Any, Tensors], int]
    placeholder: int = IMAGE
    #: images of a sample are stacked in a dimension of their own, padded with zeros
    stacked: bool = False
    #: name of the argument that tells kinds of tokens, and its values for visual and for answer tokens
    token_types: tuple[str, int, int] | None = None
    #: ids around every image
    around: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    mixed: tuple[Question, ...] = MIXED
    #: cannot be called with text alone
    needs_images: bool = False


def feature_count(model: Any, tensors: Tensors) -> int:
    """Tokens that the model itself makes of an image."""
    inner = getattr(model, "model", model)
    with torch.no_grad():
        find = inner.get_video_features if "pixel_values_videos" in tensors else inner.get_image_features
        features = find(**tensors).pooler_output
    parts = features if isinstance(features, tuple | list) else [features]
    return sum(part.numel() // part.shape[-1] for part in parts)


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
                count = kind.tokens(model, images[-1])
                before, after = kind.around
                row.append(torch.tensor([*before, *[kind.placeholder] * count, *after]))
        rows.append(torch.cat(row))
        media.append(images)
    return _padded(kind, rows, side) | _collated(media, kind.stacked)


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


def _collated(media: list[list[Tensors]], stacked: bool) -> Tensors:
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


TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": None,
}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
IDS = {"image_token_index": IMAGE, "pad_token_id": PAD}
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}


def clip(**options: Any) -> Any:
    return hf.CLIPVisionConfig(**VISION | options)


def siglip(**options: Any) -> Any:
    return hf.SiglipVisionConfig(**VISION | {"vision_use_head": False} | options)


def llama(**options: Any) -> Any:
    return hf.LlamaConfig(**TEXT | options)


def qwen2(**options: Any) -> Any:
    return hf.Qwen2Config(**TEXT | options)


def llava(text: Any) -> Any:
    config = hf.LlavaConfig(vision_config=clip(), text_config=text, vision_feature_layer=-1, **IDS)
    return hf.LlavaForConditionalGeneration(config)


def llava_llama() -> Any:
    return llava(llama())


def llava_mistral() -> Any:
    """Every layer has a window, shorter than a prompt."""
    return llava(hf.MistralConfig(**TEXT, sliding_window=12))


def llava_qwen2() -> Any:
    """Windows in the deeper layers alone."""
    return llava(qwen2(use_sliding_window=True, sliding_window=10, max_window_layers=3))


class AveragePool(nn.Module):
    """A projector that makes one token of four patches."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side, self.project = side, nn.Linear(16, WIDTH)

    def forward(self, features: Tensor) -> Tensor:
        """(images, patches, 16) -> (images, patches / 4, width), as DeCo does."""
        grid = features.transpose(1, 2).unflatten(2, (self.side, self.side))
        return self.project(nn.functional.avg_pool2d(grid, 2).flatten(2).transpose(1, 2))


class Packer(AveragePool):
    """Each pooled token asks its own four patches, as TokenPacker does."""

    def forward(self, features: Tensor) -> Tensor:
        """(images, patches, 16) -> (images, patches / 4, width)."""
        grid = features.unflatten(1, (self.side, self.side))
        cells = grid.unfold(1, 2, 2).unfold(2, 2, 2).flatten(1, 2).flatten(3).transpose(2, 3)
        weights = (cells.mean(2, keepdim=True) @ cells.transpose(2, 3)).softmax(-1)
        return self.project((weights @ cells)[:, :, 0])


def llava_reduced(projector: type[AveragePool]) -> Any:
    config = hf.LlavaConfig(
        vision_config=clip(image_size=64), text_config=llama(), vision_feature_layer=-1, **IDS
    )
    model = hf.LlavaForConditionalGeneration(config)
    model.model.multi_modal_projector = projector(side=8)
    return model


def llava_average_pool() -> Any:
    return llava_reduced(AveragePool)


def llava_token_packer() -> Any:
    return llava_reduced(Packer)


def llava_next() -> Any:
    config = hf.LlavaNextConfig(
        vision_config=clip(image_size=16),
        text_config=llama(),
        vision_feature_layer=-1,
        image_grid_pinpoints=[[16, 32], [32, 16], [32, 32]],
        **IDS,
    )
    return hf.LlavaNextForConditionalGeneration(config)


def llava_onevision() -> Any:
    config = hf.LlavaOnevisionConfig(
        vision_config=siglip(image_size=16),
        text_config=qwen2(),
        image_grid_pinpoints=[[16, 32], [32, 16], [32, 32]],
        video_token_index=VIDEO,
        **IDS,
    )
    return hf.LlavaOnevisionForConditionalGeneration(config)


def llava_next_video() -> Any:
    config = hf.LlavaNextVideoConfig(
        vision_config=clip(),
        text_config=llama(),
        vision_feature_layer=-1,
        image_grid_pinpoints=[[32, 64], [64, 32]],
        video_token_index=VIDEO,
        **IDS,
    )
    return hf.LlavaNextVideoForConditionalGeneration(config)


def video_llava() -> Any:
    config = hf.VideoLlavaConfig(
        vision_config=clip(image_size=16),
        text_config=llama(),
        vision_feature_layer=-1,
        video_token_index=VIDEO,
        **IDS,
    )
    return hf.VideoLlavaForConditionalGeneration(config)


def instructblip() -> Any:
    qformer = hf.InstructBlipQFormerConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        encoder_hidden_size=16,
    )
    config = hf.InstructBlipConfig(
        vision_config=hf.InstructBlipVisionConfig(**VISION),
        qformer_config=qformer,
        text_config=llama(),
        num_query_tokens=12,
        image_token_index=IMAGE,
    )
    return hf.InstructBlipForConditionalGeneration(config)


def internvl(text: Any) -> Any:
    vision = hf.InternVLVisionConfig(**VISION | {"image_size": [64, 64], "patch_size": [8, 8]})
    config = hf.InternVLConfig(vision_config=vision, text_config=text, image_token_id=IMAGE)
    return hf.InternVLForConditionalGeneration(config)


def internvl_qwen2() -> Any:
    return internvl(qwen2())


def internvl_llama() -> Any:
    return internvl(llama())


QWEN_VISION: dict[str, Any] = {"depth": 2, "num_heads": 2, "patch_size": 4, "hidden_size": 16}
QWEN_IDS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
}


def qwen2_vl() -> Any:
    config = hf.Qwen2VLConfig(
        vision_config=QWEN_VISION | {"embed_dim": 16, "hidden_size": WIDTH},
        text_config=TEXT | {"rope_parameters": MROPE},
        **QWEN_IDS,
    )
    return hf.Qwen2VLForConditionalGeneration(config)


def qwen2_5_vl() -> Any:
    vision = {"intermediate_size": 32, "out_hidden_size": WIDTH, "window_size": 16}
    config = hf.Qwen2_5_VLConfig(
        vision_config=QWEN_VISION | vision | {"fullatt_block_indexes": [1]},
        text_config=TEXT | {"rope_parameters": MROPE},
        **QWEN_IDS,
    )
    return hf.Qwen2_5_VLForConditionalGeneration(config)


#: three layers of the tower feed the first three decoder layers
QWEN3_VISION = QWEN_VISION | {
    "depth": 3,
    "intermediate_size": 32,
    "out_hidden_size": WIDTH,
    "num_position_embeddings": 64,
    "deepstack_visual_indexes": [0, 1, 2],
}


def qwen3_vl() -> Any:
    text = TEXT | {"head_dim": 8, "rope_parameters": MROPE | {"mrope_interleaved": True}}
    config = hf.Qwen3VLConfig(vision_config=QWEN3_VISION, text_config=text, **QWEN_IDS)
    return hf.Qwen3VLForConditionalGeneration(config)


def qwen3_vl_moe() -> Any:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    text = TEXT | experts | {"head_dim": 8, "rope_parameters": MROPE | {"mrope_interleaved": True}}
    config = hf.Qwen3VLMoeConfig(vision_config=QWEN3_VISION, text_config=text, **QWEN_IDS)
    return hf.Qwen3VLMoeForConditionalGeneration(config)


def idefics3() -> Any:
    config = hf.Idefics3Config(
        vision_config=VISION, text_config=llama(), image_token_id=IMAGE, scale_factor=1, pad_token_id=PAD
    )
    return hf.Idefics3ForConditionalGeneration(config)


def smolvlm() -> Any:
    config = hf.SmolVLMConfig(
        vision_config=VISION | {"image_size": 64},
        text_config=llama(),
        image_token_id=IMAGE,
        scale_factor=2,
        pad_token_id=PAD,
    )
    return hf.SmolVLMForConditionalGeneration(config)


def gemma3() -> Any:
    """Windows of 10 tokens in two layers of three, and images that see themselves in both directions."""
    text = TEXT | {
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": 10,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * (LAYERS // 3),
    }
    config = hf.Gemma3Config(
        vision_config=siglip(patch_size=4).to_dict(),
        text_config=text,
        mm_tokens_per_image=16,
        boi_token_index=START,
        eoi_token_index=END,
        image_token_index=IMAGE,
    )
    return hf.Gemma3ForConditionalGeneration(config)


def mistral3() -> Any:
    config = hf.Mistral3Config(
        vision_config=hf.PixtralVisionConfig(**VISION | {"image_size": 64}),
        text_config=hf.MistralConfig(**TEXT, sliding_window=None),
        image_token_index=IMAGE,
    )
    return hf.Mistral3ForConditionalGeneration(config)


def paligemma() -> Any:
    config = hf.PaliGemmaConfig(
        vision_config=siglip(),
        text_config=hf.GemmaConfig(**TEXT | {"head_dim": 8}),
        projection_dim=WIDTH,
        hidden_size=WIDTH,
        image_token_index=IMAGE,
    )
    return hf.PaliGemmaForConditionalGeneration(config)


def fast_vlm() -> Any:
    vision = hf.ConvNextConfig(hidden_sizes=[16, 16], depths=[1, 1], num_stages=2, patch_size=4)
    vision.hidden_size = 16
    config = hf.FastVlmConfig(vision_config=vision, text_config=qwen2(), **IDS)
    return hf.FastVlmForConditionalGeneration(config)


def glm4v() -> Any:
    vision = {"intermediate_size": 32, "out_hidden_size": WIDTH, "image_size": 32}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    config = hf.Glm4vConfig(
        vision_config=QWEN_VISION | vision,
        text_config=TEXT | {"rope_parameters": rope},
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        image_start_token_id=START,
        image_end_token_id=END,
    )
    return hf.Glm4vForConditionalGeneration(config)


def aya_vision() -> Any:
    """Cohere's text model: attention and MLP of a layer read the same norm."""
    config = hf.AyaVisionConfig(
        vision_config=siglip(image_size=64), text_config=hf.CohereConfig(**TEXT), image_token_index=IMAGE
    )
    return hf.AyaVisionForConditionalGeneration(config)


def perception_lm() -> Any:
    vision = clip(image_size=64)
    vision.model_args = {"embed_dim": 16}
    config = hf.PerceptionLMConfig(
        vision_config=vision,
        text_config=llama(),
        projector_pooling_ratio=2,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )
    return hf.PerceptionLMForConditionalGeneration(config)


def ovis2() -> Any:
    vision = hf.Ovis2VisionConfig(**VISION | {"image_size": 64, "vocab_size": 40, "hidden_stride": 2})
    config = hf.Ovis2Config(
        vision_config=vision,
        text_config=qwen2().to_dict(),
        image_token_id=IMAGE,
        visual_indicator_token_ids=[51, 52, 53, 54, 55],
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
    )
    return hf.Ovis2ForConditionalGeneration(config)


def pixels(side: int) -> Callable[[Any, Generator, int], Tensors]:
    """One square image."""
    return lambda _model, generator, _number: {
        "pixel_values": torch.randn(1, 3, side, side, generator=generator)
    }


def stack(side: int) -> Callable[[Any, Generator, int], Tensors]:
    """One square image of a sample's stack of images."""
    return lambda _model, generator, _number: {
        "pixel_values": torch.randn(1, 1, 3, side, side, generator=generator)
    }


def tiles(side: int) -> Callable[[Any, Generator, int], Tensors]:
    """An image of one of three shapes, as an overview and its tiles."""

    def image(_model: Any, generator: Generator, number: int) -> Tensors:
        height, width = ((side, 2 * side), (2 * side, 2 * side), (2 * side, side))[number % 3]
        count = 1 + height * width // side**2
        return {
            "pixel_values": torch.randn(1, count, 3, side, side, generator=generator),
            "image_sizes": torch.tensor([[height, width]]),
        }

    return image


def frames(side: int, count: int) -> Callable[[Any, Generator, int], Tensors]:
    """A video."""
    return lambda _model, generator, _number: {
        "pixel_values_videos": torch.randn(1, count, 3, side, side, generator=generator)
    }


def patches(suffix: str = "", times: int = 1) -> Callable[[Any, Generator, int], Tensors]:
    """An image of one of two resolutions, or a video, as the patches that Qwen's processors make."""

    def image(model: Any, generator: Generator, number: int) -> Tensors:
        grid = torch.tensor([[times, 4, 6 if number % 2 else 8]])
        vision = model.config.vision_config
        size = 3 * vision.temporal_patch_size * vision.patch_size**2
        values = torch.randn(int(grid.prod()), size, generator=generator)
        kind = "video" if suffix else "image"
        return {f"pixel_values{suffix}": values, f"{kind}_grid_thw": grid}

    return image


def merged(_model: Any, tensors: Tensors) -> int:
    """Tokens of an image of `patches`: one of four."""
    return sum(int(value.prod()) // 4 for name, value in tensors.items() if name.endswith("grid_thw"))


def sized(_model: Any, generator: Generator, number: int) -> Tensors:
    """An image of one of two shapes."""
    height, width = (32, 48) if number % 2 else (48, 48)
    return {
        "pixel_values": torch.randn(1, 3, height, width, generator=generator),
        "image_sizes": torch.tensor([[height, width]]),
    }


def asked(_model: Any, generator: Generator, _number: int) -> Tensors:
    """An image, and the question as the Q-Former reads it."""
    return {
        "pixel_values": torch.randn(1, 3, 32, 32, generator=generator),
        "qformer_input_ids": torch.randint(2, 50, (1, 5), generator=generator),
    }


def a_dozen(_model: Any, _tensors: Tensors) -> int:
    """The tokens of a Q-Former."""
    return 12


def architecture(
    build: Callable[[], Any], image: Any, tokens: Any = feature_count, **options: Any
) -> Architecture:
    return Architecture(build=build, image=image, tokens=tokens, **options)


QWEN: dict[str, Any] = {"tokens": merged, "around": ((START,), (END,))}
TYPES: dict[str, Any] = {"token_types": ("mm_token_type_ids", 1, 0)}

ARCHITECTURES: dict[str, Architecture] = {
    "llava-llama": architecture(llava_llama, pixels(32)),
    "llava-mistral": architecture(llava_mistral, pixels(32)),
    "llava-qwen2": architecture(llava_qwen2, pixels(32)),
    "llava-average-pool": architecture(llava_average_pool, pixels(64)),
    "llava-token-packer": architecture(llava_token_packer, pixels(64)),
    "llava-next": architecture(llava_next, tiles(16)),
    "llava-onevision": architecture(llava_onevision, tiles(16)),
    "llava-onevision-video": architecture(llava_onevision, frames(16, 4), placeholder=VIDEO),
    "llava-next-video": architecture(llava_next_video, frames(32, 3), placeholder=VIDEO),
    "video-llava": architecture(video_llava, frames(16, 3), placeholder=VIDEO),
    "instructblip": architecture(instructblip, asked, a_dozen, mixed=SINGLE, needs_images=True),
    "internvl-qwen2": architecture(internvl_qwen2, pixels(64)),
    "internvl-llama": architecture(internvl_llama, pixels(64)),
    "qwen2-vl": architecture(qwen2_vl, patches(), **QWEN, **TYPES),
    "qwen2.5-vl": architecture(qwen2_5_vl, patches(), **QWEN, **TYPES),
    "qwen2.5-vl-video": architecture(
        qwen2_5_vl, patches("_videos", 2), placeholder=VIDEO, token_types=("mm_token_type_ids", 2, 0), **QWEN
    ),
    "qwen3-vl": architecture(qwen3_vl, patches(), **QWEN, **TYPES),
    "qwen3-vl-moe": architecture(qwen3_vl_moe, patches(), **QWEN, **TYPES),
    "idefics3": architecture(idefics3, stack(32), stacked=True),
    "smolvlm": architecture(smolvlm, stack(64), stacked=True),
    "gemma3": architecture(
        gemma3, pixels(32), token_types=("token_type_ids", 1, 0), around=((START,), (END,))
    ),
    "mistral3": architecture(mistral3, sized),
    "paligemma": architecture(paligemma, pixels(32), token_types=("token_type_ids", 0, 1)),
    "fast-vlm": architecture(fast_vlm, pixels(32)),
    "glm4v": architecture(glm4v, patches(), **QWEN, **TYPES),
    "aya-vision": architecture(aya_vision, pixels(64)),
    "perception-lm": architecture(perception_lm, stack(64)),
    "ovis2": architecture(ovis2, pixels(64)),
}
