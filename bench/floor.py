"""What a search costs at least, and how fast this machine could do that."""

import time
from collections import Counter
from collections.abc import Hashable, Sequence

import torch

from bench.executed import layer_flops
from pruners import Pruning
from pruners.costs import ModelShape
from pruners.plan import Plan
from pruners.rankers import AttentionRanker
from studies.searches.base import with_rates

#: seconds for which the product is repeated
_PATIENCE = 2.0


def floor(
    shape: ModelShape, tried: Sequence[Pruning | None], samples: Sequence[tuple[int, int]], images: int
) -> int:
    """FLOPs of what no engine can leave out: every image's features, and every decoder layer once for each
    thing that it is asked.

    Two trials ask a layer the same of a sample where they are alike up to it; `samples` are (visual tokens,
    text tokens). Padding and answer tokens are left out.
    """
    if shape.vision is None:
        raise ValueError("there is no formula for the vision part")
    unpruned = with_rates(AttentionRanker(), (1.0,) * shape.num_layers)
    total = images * shape.vision.flops_per_image
    for (visual, text), alike in Counter(samples).items():
        asked: dict[Hashable, int] = {}
        for pruning in tried:
            plan = Plan(pruning or unpruned, [visual], [text])
            for layer in range(shape.num_layers):
                (tokens,) = plan.lengths(layer)
                asked[layer, plan.prefix(layer + 1)] = layer_flops(shape, tokens, tokens)
        total += alike * sum(asked.values())
    return total


def matmul_rate(shape: ModelShape) -> float:
    """FLOPs per second of the decoder's largest matrix product on a full batch: the best of many."""
    tokens = 2048
    left = torch.randn(tokens, shape.hidden_size)
    right = torch.randn(shape.hidden_size, shape.intermediate_size)
    best, begun = float("inf"), time.perf_counter()
    while time.perf_counter() < begun + _PATIENCE:
        start = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - start)
    return 2 * tokens * shape.hidden_size * shape.intermediate_size / best
