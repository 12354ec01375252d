"""What a schedule saves on a set of samples: a ratio of sums over the samples, never a mean of ratios."""

from collections import Counter
from collections.abc import Callable, Sequence

from pruners.costs.counters import decoder_flops, kv_bytes
from pruners.costs.shape import ModelShape
from pruners.pruning import KeepSchedule

#: a schedule, or keep rates alone (rounded to the nearest, no minimum)
Schedule = KeepSchedule | Sequence[float]
#: (visual tokens N, text tokens) of each sample, or how many samples have which: who asks often counts once
Samples = Sequence[tuple[int, int]] | Counter[tuple[int, int]]


def decoder_ratio(shape: ModelShape, schedule: Schedule, samples: Samples) -> float:
    """Exact FLOPs of the decoder layers over those of no pruning: the objective of every study."""
    return _ratio(shape, schedule, samples, lambda tokens: decoder_flops(shape, tokens))


def kv_ratio(shape: ModelShape, schedule: Schedule, samples: Samples) -> float:
    """Bytes of the KV cache after prefill, text included, over those of no pruning."""
    return _ratio(shape, schedule, samples, lambda tokens: kv_bytes(shape, tokens))


def vision_token_ratio(shape: ModelShape, schedule: Schedule, samples: Samples) -> float:
    """Mean over layers of n_l / N, visual tokens alone: the memory column of the papers."""
    visual_alone: Counter[tuple[int, int]] = Counter()
    for (visual, _), times in Counter(samples).items():
        visual_alone[visual, 0] += times
    return _ratio(shape, schedule, visual_alone, sum)


def _ratio(
    shape: ModelShape,
    schedule: Schedule,
    samples: Samples,
    cost: Callable[[Sequence[int]], int],
) -> float:
    keep = KeepSchedule.for_depth(shape.num_layers, schedule)
    lengths, pruned, whole = Counter(samples), 0, 0
    counts = {visual: keep.counts(visual) for visual in {visual for visual, _ in lengths}}
    for (visual, text), times in lengths.items():
        pruned += times * cost([count + text for count in counts[visual]])
        whole += times * cost([visual + text] * shape.num_layers)
    return pruned / whole if whole else 1.0
