"""From keep rates to whole tokens: one rounding rule for the runtime, the cost model and the searches.

Letters: L decoder layers, N visual tokens of one sample, n_l visual tokens that layer l processes.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Literal

Rounding = Literal["nearest", "floor"]


def token_counts(
    keep_rates: Sequence[float], visual_tokens: int, rounding: Rounding = "nearest", min_tokens: int = 0
) -> tuple[int, ...]:
    """n_l for every layer: floor(rate * N + 0.5) (`nearest`) or floor(rate * N) (`floor`), in float64.

    At least `min_tokens` and at most N are kept. Rates that do not rise give counts that do not rise.
    """
    half = 0.5 if rounding == "nearest" else 0.0
    counts = (math.floor(rate * visual_tokens + half) for rate in keep_rates)
    return tuple(min(visual_tokens, max(min_tokens, count)) for count in counts)


def describe_rise(keep_rates: Sequence[float]) -> str | None:
    """Where rates rise for the first time, for an error message; None where they never do."""
    for layer, (before, after) in enumerate(itertools.pairwise(keep_rates)):
        if after > before:
            return f"layer {layer} keeps {before}, layer {layer + 1} keeps {after}"
    return None
