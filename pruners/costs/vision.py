"""FLOPs of what stands before a LLaVA's decoder: patch embedding, vision tower and projector."""

from dataclasses import dataclass
from typing import Any

#: vision towers whose blocks are four square attention matrices and a two-matrix MLP
_CLIP, _SIGLIP = "clip_vision_model", "siglip_vision_model"


@dataclass(frozen=True, kw_only=True)
class VisionShape:
    """A CLIP or SigLIP tower on square images, and LLaVA's two-layer projector.

    Every layer of the tower is counted, as transformers runs every layer even where the features come from
    the last but one. Resizing and normalisation of the image are not.
    """

    num_layers: int
    hidden_size: int
    intermediate_size: int
    image_size: int
    patch_size: int
    channels: int
    #: a class token goes through the tower beside the patches (CLIP)
    class_token: bool
    #: an attention-pooling head runs after the tower, although LLaVA does not use its output (SigLIP)
    pooling_head: bool
    #: whether the class token is handed to the decoder as well
    keeps_class_token: bool
    #: number of layers whose features are concatenated for the projector
    feature_layers: int
    projector_size: int

    @property
    def patches(self) -> int:
        """Patches of one image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def tokens_per_image(self) -> int:
        """Visual tokens that one image feeds to the decoder."""
        return self.patches + self.keeps_class_token

    @property
    def flops_per_image(self) -> int:
        """FLOPs (2 per multiply-accumulate) for one image; attention as the full square."""
        return 2 * (self._tower_macs() + self._head_macs() + self._projector_macs())

    def _tower_macs(self) -> int:
        n, d = self.patches + self.class_token, self.hidden_size
        embedding = self.patches * self.channels * self.patch_size**2 * d
        block = n * (4 * d * d + 2 * d * self.intermediate_size) + 2 * n * n * d
        return embedding + self.num_layers * block

    def _head_macs(self) -> int:
        n, d = self.patches, self.hidden_size
        one_query = 2 * d * d + 2 * n * d * d + 2 * n * d + 2 * d * self.intermediate_size
        return one_query if self.pooling_head else 0

    def _projector_macs(self) -> int:
        d = self.projector_size
        return self.tokens_per_image * (self.feature_layers * self.hidden_size * d + d * d)


def vision_shape(config: Any) -> VisionShape | None:
    """The vision part of a LLaVA configuration, or None where this module has no formula for it."""
    tower: Any = getattr(config, "vision_config", None)
    if config.model_type != "llava" or tower.model_type not in (_CLIP, _SIGLIP):
        return None
    layers = config.vision_feature_layer
    clip = tower.model_type == _CLIP
    return VisionShape(
        num_layers=tower.num_hidden_layers,
        hidden_size=tower.hidden_size,
        intermediate_size=tower.intermediate_size,
        image_size=tower.image_size,
        patch_size=tower.patch_size,
        channels=tower.num_channels,
        class_token=clip,
        pooling_head=not clip and getattr(tower, "vision_use_head", True),
        keeps_class_token=clip and config.vision_feature_select_strategy == "full",
        feature_layers=1 if isinstance(layers, int) else len(layers),
        projector_size=config.get_text_config().hidden_size,
    )
