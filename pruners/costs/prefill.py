"""What one sample's prefill costs under a schedule, by both counters, beside the same without pruning."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pruners.costs.counters import decoder_flops, kv_bytes, lm_head_flops, paper_flops
from pruners.costs.shape import ModelShape
from pruners.errors import PruningError, UnsupportedModelError
from pruners.pruning import KeepSchedule


@dataclass(frozen=True, kw_only=True)
class PaperCost:
    """FastV's estimate (`pruners.costs.counters.paper_flops`)."""

    flops_per_layer_mean: float
    flops: int
    #: flops over those of no pruning, text tokens included
    ratio: float
    #: the same on visual tokens alone: FastV's eq. 5
    visual_ratio: float


@dataclass(frozen=True, kw_only=True)
class ExactCost:
    """FLOPs of the whole model: vision tower, projector, decoder layers, lm_head."""

    #: lm_head at every remaining position, as in a plain forward
    flops: int
    #: lm_head at the last position, as in `generate`
    flops_last: int
    #: multiply-accumulates: flops / 2
    macs: int
    #: flops over those of no pruning
    ratio: float
    #: of the decoder layers alone
    decoder_flops: int
    #: of the vision tower and the projector
    vision_flops: int


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of one prefill."""

    visual_tokens: int
    text_tokens: int
    #: mean over layers of n_l / N, visual tokens alone (the papers' memory column); 1 where there are none
    vision_token_ratio: float
    #: keys and values of all layers after prefill, text and visual, at the model's own dtype
    kv_bytes: int
    #: parameters of the whole model (G-Search's "# Params" leaves the vision tower out)
    params: int
    #: exact FLOPs of the decoder layers over those of no pruning: the objective of every study
    decoder_ratio: float
    paper: PaperCost
    exact: ExactCost

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON; the two counters stand under `counters`."""
        values = {name: value for name, value in vars(self).items() if name not in ("paper", "exact")}
        return values | {"counters": {"paper": dict(vars(self.paper)), "exact": dict(vars(self.exact))}}


def prefill_cost(
    shape: ModelShape,
    visual_tokens: int,
    text_tokens: int,
    schedule: KeepSchedule | Sequence[float] | None = None,
) -> Cost:
    """The cost of a prefill of one sample, under a schedule, keep rates alone, or (None) without pruning.

    Images are counted whole: as many as are needed for `visual_tokens`.

    Raises:
        PruningError: a negative number of tokens, or none at all.
        ProfileError: a schedule for another depth.
        UnsupportedModelError: no formula for the model's vision part.
    """
    _check(shape, visual_tokens, text_tokens)
    rates = (1.0,) * shape.num_layers if schedule is None else schedule
    counts = KeepSchedule.for_depth(shape.num_layers, rates).counts(visual_tokens)
    pruned = [count + text_tokens for count in counts]
    whole = [visual_tokens + text_tokens] * shape.num_layers
    return Cost(
        visual_tokens=visual_tokens,
        text_tokens=text_tokens,
        vision_token_ratio=_ratio(sum(counts), visual_tokens * shape.num_layers),
        kv_bytes=kv_bytes(shape, pruned),
        params=shape.params,
        decoder_ratio=_ratio(decoder_flops(shape, pruned), decoder_flops(shape, whole)),
        paper=_paper(shape, pruned, whole, counts, visual_tokens),
        exact=_exact(shape, pruned, whole, visual_tokens),
    )


def _paper(
    shape: ModelShape, pruned: Sequence[int], whole: Sequence[int], counts: Sequence[int], visual_tokens: int
) -> PaperCost:
    flops = paper_flops(shape, pruned)
    visual_whole = paper_flops(shape, [visual_tokens] * shape.num_layers)
    return PaperCost(
        flops_per_layer_mean=flops / shape.num_layers,
        flops=flops,
        ratio=_ratio(flops, paper_flops(shape, whole)),
        visual_ratio=_ratio(paper_flops(shape, counts), visual_whole),
    )


def _exact(shape: ModelShape, pruned: Sequence[int], whole: Sequence[int], visual_tokens: int) -> ExactCost:
    images = -(-visual_tokens // shape.vision.tokens_per_image) if shape.vision else 0
    vision = images * shape.vision.flops_per_image if shape.vision else 0
    decoder = decoder_flops(shape, pruned)
    flops = vision + decoder + lm_head_flops(shape, pruned[-1])
    unpruned = vision + decoder_flops(shape, whole) + lm_head_flops(shape, whole[-1])
    return ExactCost(
        flops=flops,
        flops_last=vision + decoder + lm_head_flops(shape, 1),
        macs=flops // 2,
        ratio=_ratio(flops, unpruned),
        decoder_flops=decoder,
        vision_flops=vision,
    )


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def _check(shape: ModelShape, visual: int, text: int) -> None:
    if visual < 0 or text < 0 or visual + text == 0:
        raise PruningError(
            f"cannot prefill {visual} visual and {text} text tokens: give at least one, none negative"
        )
    if shape.vision_type and shape.vision is None:
        raise UnsupportedModelError(
            f"no cost formula for the vision part of this model, '{shape.vision_type}'"
        )
