"""Measures a profile's speed on a model of the user's own, without data."""

from pathlib import Path
from typing import Any

from pruners import PruningProfile
from pruners.costs import ModelShape, decoder_ratio
from searchsvc.costing import counter_ratios, read_config
from searchsvc.locations import model_location
from searchsvc.speed import device_name, side_by_side
from searchsvc.trial_prompts import shown_name, trial_sample
from studies.models import load
from studies.prompts import count_tokens, encode_prompts
from studies.spec import Attention, Dtype, ModelSpec


def bench_profile(
    path: Path,
    *,
    model: str | None = None,
    image: Path | None = None,
    batch_size: int = 1,
    rounds: int = 15,
    dtype: Dtype = "float32",
    attention: Attention = "sdpa",
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Return prefill, decode and memory under the profile and without, their ratios, and the FLOPs ratios.

    Args:
        path: the profile.
        model: the model to measure; default: the profile's own.
        image: what every prompt of the batch asks about; default: a synthetic one.
        batch_size: prompts that run together.
        rounds: interleaved pairs of runs.
        dtype: of the weights.
        attention: transformers' attention implementation.
        trust_remote_code: run code that the model's folder brings.

    Raises:
        ProfileError, ModelError, DataError: the profile, the model or the image is of no use.
    """
    profile = PruningProfile.load(path)
    name = profile.model.id if model is None else model
    profile.check_model(read_config(name, trust_remote_code))
    source = ModelSpec(
        id=model_location(name), dtype=dtype, attention=attention, trust_remote_code=trust_remote_code
    )
    with trial_sample(image) as sample:
        loaded, processor, _ = load(source, device=_device())
        inputs = encode_prompts(processor, [sample] * batch_size)
    tokens = count_tokens(processor, inputs["input_ids"], inputs["attention_mask"])[0]
    inputs = inputs.to(device=loaded.device, dtype=loaded.dtype)
    shape, counts = ModelShape.from_config(loaded.config), [(tokens.visual, tokens.text)]
    exact = counter_ratios(shape, profile.schedule, counts).get("exact")
    return {
        "profile": profile.name,
        "model": name,
        "image": shown_name(image),
        "visual_tokens": tokens.visual,
        "text_tokens": tokens.text,
        "dtype": dtype,
        "attention": attention,
        "device_name": device_name(loaded.device),
        "flops": {
            "decoder_ratio": decoder_ratio(shape, profile.schedule, counts),
            "exact_ratio": exact,
        },
        "speed": side_by_side(loaded, inputs, profile, rounds),
    }


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
