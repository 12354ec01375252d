"""The sizes of a model that its cost depends on, read from its configuration alone: no weights are loaded."""

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from pruners.costs.vision import VisionShape, vision_shape
from pruners.errors import UnsupportedModelError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

#: by what transformers builds a model, the task of this package first; remote code names those that it serves
AUTO_CLASSES = ("AutoModelForImageTextToText", "AutoModelForCausalLM", "AutoModel")
#: where transformers puts the code that a model's folder brings
REMOTE_MODULES = "transformers_modules."
#: decoders whose MLP has two matrices (up, down) where the others have three (gate, up, down)
_PLAIN_MLP = frozenset({"gpt_neox", "opt", "phi", "starcoder2"})


@dataclass(frozen=True, kw_only=True)
class Experts:
    """A mixture-of-experts MLP: each token runs the router, `active` of `total` experts, and a shared one."""

    total: int
    active: int
    intermediate_size: int
    #: width of the expert that every token runs, 0 for none; it has a gate of one output
    shared_size: int = 0
    #: layers that have an ordinary MLP instead
    dense_layers: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Sizes of a model; in the formulas d = hidden_size, H = num_heads, m = intermediate_size."""

    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    #: the MLP has a gate: three matrices, not two
    gated: bool
    vocab_size: int
    experts: Experts | None = None
    #: bytes of one entry of the KV cache
    bytes_per_value: int
    #: all parameters of the model (vision tower, projector, embeddings; tied ones once)
    params: int
    #: None for a text-only model, and where there is no formula for the vision part
    vision: VisionShape | None = None
    #: model type of the vision part, None for a text-only model
    vision_type: str | None = None

    @classmethod
    def from_config(cls, config: "PretrainedConfig") -> Self:
        """The shape of a vision-language or a text-only model, from what `config.json` holds.

        KV bytes follow the configuration's dtype; float32 where it names none, as transformers then loads.
        Parameters are counted on a model built without memory (torch's meta device), and the weight matrices
        of its decoder layers must be exactly those of our formula.

        Raises:
            UnsupportedModelError: the model cannot be built, or its decoder layers are not of a known form.
        """
        model = build_without_memory(config)
        text = config.get_text_config()
        vision_config = getattr(config, "vision_config", None)
        shape = cls(
            num_layers=_first(text, "num_hidden_layers"),
            hidden_size=_first(text, "hidden_size"),
            num_heads=_first(text, "num_attention_heads"),
            num_kv_heads=getattr(text, "num_key_value_heads", None) or _first(text, "num_attention_heads"),
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
            intermediate_size=_first(text, "intermediate_size", "ffn_dim"),
            gated=text.model_type not in _PLAIN_MLP,
            vocab_size=_first(text, "vocab_size"),
            experts=_experts(text),
            bytes_per_value=_bytes_per_value(config, text),
            params=sum(weight.numel() for weight in model.parameters()),
            vision=vision_shape(config),
            vision_type=getattr(vision_config, "model_type", None),
        )
        _check_matrices(shape, model, text.model_type)
        return shape

    @property
    def attention_matrices(self) -> int:
        """Weights of the q, k, v and o matrices of one layer (grouped-query: k and v are narrower)."""
        return self.hidden_size * self.head_dim * (2 * self.num_heads + 2 * self.num_kv_heads)

    @cached_property
    def layer_matrices(self) -> tuple[int, ...]:
        """Weights of the matrices that one token meets in each layer; searches ask thousands of times."""
        return tuple(self.attention_matrices + self.mlp_matrices(layer) for layer in range(self.num_layers))

    def is_sparse(self, layer: int) -> bool:
        """Whether this layer's MLP is a mixture of experts."""
        return self.experts is not None and layer not in self.experts.dense_layers

    def mlp_width(self, layer: int) -> int:
        """m of this layer as one token sees it: of a mixture, the active and the shared experts together."""
        if self.experts is None or not self.is_sparse(layer):
            return self.intermediate_size
        return self.experts.active * self.experts.intermediate_size + self.experts.shared_size

    def mlp_matrices(self, layer: int, *, active_only: bool = True) -> int:
        """Weights of this layer's MLP matrices, router included: the active experts', or those of all."""
        width, router = self.mlp_width(layer), 0
        if self.experts is not None and self.is_sparse(layer):
            router = self.experts.total + bool(self.experts.shared_size)
            if not active_only:
                width += (self.experts.total - self.experts.active) * self.experts.intermediate_size
        return self.hidden_size * ((3 if self.gated else 2) * width + router)


def build_without_memory(config: "PretrainedConfig") -> "nn.Module":
    """The model of this configuration on torch's meta device: every parameter has a shape and no storage."""
    import torch
    import transformers

    # a configuration of remote code can only be here because its reader trusted that code
    trusted = type(config).__module__.startswith(REMOTE_MODULES)
    own = (getattr(config, "auto_map", None) or {}) if trusted else {}
    usual = AUTO_CLASSES[0] if hasattr(config, "vision_config") else AUTO_CLASSES[1]
    factory = getattr(transformers, next((name for name in AUTO_CLASSES if name in own), usual))
    try:
        with torch.device("meta"):
            model: nn.Module = factory.from_config(copy.deepcopy(config), trust_remote_code=trusted)
    except Exception as error:  # whatever a model's constructor may raise about its configuration
        reason = str(error).strip().split("\n")[0]
        raise UnsupportedModelError(
            f"cannot build a '{config.model_type}' model from its configuration: {reason}"
        ) from error
    return model


def _first(text: Any, *names: str) -> int:
    for name in names:
        value = getattr(text, name, None)
        if value is not None:
            return int(value)
    raise UnsupportedModelError(
        f"the configuration of '{text.model_type}' has none of the keys {', '.join(names)}"
    )


def _experts(text: Any) -> Experts | None:
    """Mixtral's and Qwen's names for a mixture of experts; other families fail the check of the matrices."""
    total = getattr(text, "num_local_experts", None) or getattr(text, "num_experts", None)
    if not total:
        return None
    every = getattr(text, "decoder_sparse_step", 1)
    never = getattr(text, "mlp_only_layers", ())
    layers = range(text.num_hidden_layers)
    return Experts(
        total=total,
        active=text.num_experts_per_tok,
        intermediate_size=getattr(text, "moe_intermediate_size", None) or text.intermediate_size,
        shared_size=getattr(text, "shared_expert_intermediate_size", 0),
        dense_layers=frozenset(layer for layer in layers if layer in never or (layer + 1) % every),
    )


def _bytes_per_value(config: Any, text: Any) -> int:
    import torch

    dtype = getattr(config, "dtype", None) or getattr(text, "dtype", None) or torch.float32
    return int(dtype.itemsize)


def _check_matrices(shape: ModelShape, model: Any, model_type: str) -> None:
    """Refuse a decoder whose weight matrices are not those that the formulas count."""
    layers = getattr(model.get_decoder(), "layers", None)
    if layers is None:
        raise UnsupportedModelError(f"no cost formula for '{model_type}': it has no list of decoder layers")
    found = sum(weight.numel() for weight in layers.parameters() if weight.dim() > 1)
    counted = sum(
        shape.attention_matrices + shape.mlp_matrices(layer, active_only=False)
        for layer in range(shape.num_layers)
    )
    if found != counted:
        raise UnsupportedModelError(
            f"no cost formula for the decoder of '{model_type}': its layers hold {found} weights in matrices,"
            f" the formula counts {counted}"
        )
