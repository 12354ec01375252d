"""What pruning saves: prefill FLOPs by two named counters, KV-cache bytes, and ratios to no pruning."""

from pruners.costs.counters import decoder_flops, kv_bytes, paper_flops
from pruners.costs.prefill import Cost, ExactCost, PaperCost, prefill_cost
from pruners.costs.ratios import decoder_ratio, kv_ratio, vision_token_ratio
from pruners.costs.shape import Experts, ModelShape
from pruners.costs.vision import VisionShape

__all__ = [
    "Cost",
    "ExactCost",
    "Experts",
    "ModelShape",
    "PaperCost",
    "VisionShape",
    "decoder_flops",
    "decoder_ratio",
    "kv_bytes",
    "kv_ratio",
    "paper_flops",
    "prefill_cost",
    "vision_token_ratio",
]
