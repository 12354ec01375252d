"""What a schedule cannot change: the prompt's tokens and the projected features of its images."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from studies.errors import ModelError
from studies.prompts import PromptLength, count_tokens, encode_prompts
from studies.samples import Sample

#: What the decoder reads of an image encoder's output.
_READ = ("pooler_output", "deepstack_features")


@dataclass(frozen=True, kw_only=True)
class PreparedBatch:
    """B samples, ready for the decoder; everything on the CPU."""

    #: The processor's tensors without pixels; input_ids and attention_mask (B, T), padded on the left.
    inputs: dict[str, Tensor]
    #: The projected image features, as the model's own `get_image_features` returns them.
    features: ModelOutput
    lengths: tuple[PromptLength, ...]


def check_encoder(model: Any) -> None:
    """ModelError unless the model takes pre-encoded image features (`mm_encoder_outputs`)."""
    takes = "mm_encoder_outputs" in inspect.signature(model.forward).parameters
    if not takes or not hasattr(model.base_model, "get_image_features"):
        raise ModelError(
            f"{type(model).__name__} takes no pre-encoded image features; use a model whose forward has them"
        )


def prepare(model: Any, processor: Any, samples: Sequence[Sample]) -> PreparedBatch:
    """Processes the samples and runs the vision tower and the projector once over all their images."""
    inputs = encode_prompts(processor, samples)
    lengths = count_tokens(processor, inputs["input_ids"], inputs["attention_mask"])
    features = _encode(model, inputs.to(device=model.device, dtype=model.dtype))
    kept = {name: value.cpu() for name, value in inputs.items() if not name.startswith("pixel")}
    return PreparedBatch(inputs=kept, features=place(features, torch.device("cpu")), lengths=lengths)


def _encode(model: Any, inputs: Any) -> ModelOutput:
    """What `generate` does with pixels before its first step."""
    encode = model.base_model.get_image_features
    taken = inspect.signature(encode).parameters
    output = encode(**{name: value for name, value in inputs.items() if name in taken}, return_dict=True)
    return type(output)(**{name: output[name] for name in _READ if output.get(name) is not None})


def place(features: ModelOutput, device: torch.device) -> ModelOutput:
    """A copy of an encoder's output on another device."""
    return type(features)(**{name: _place(value, device) for name, value in features.items()})


def _place(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    return type(value)(_place(part, device) for part in value) if isinstance(value, list | tuple) else value
