"""The table of prunings that every contract of the runtime is tested with."""

from typing import Any

from pruners.pruning import KeepSchedule, Pruning, Recovery
from pruners.rankers import parse_ranker

#: a cut in the middle, several cuts, a cut to nothing, a cut in every layer; by sixths of the depth
SCHEDULES = {
    "fastv": (1, 1, 0.5, 0.5, 0.5, 0.5),
    "pdrop": (1, 0.5, 0.5, 0.25, 0.25, 0.125),
    "vtw": (1, 1, 1, 0, 0, 0),
    "sigmoid": (1, 1, 0.8, 0.6, 0.3, 0.0),
    "from the start": (0.75, 0.5, 0.3, 0.3, 0.3, 0.0),
    "all": (1, 1, 1, 1, 1, 1),
}
RANKERS = (
    "attention:queries=last",
    "attention:queries=instruction",
    "attention:queries=all",
    "attention:queries=last,score_layer=next",
    "attention:queries=instruction,score_layer=next",
    "attention:queries=all,score_layer=next",
    "topv",
    "topv:rho=0,sigma=1",
    "divprune",
    "knorm",
    "dart",
    "dart:visual_pivots=2,text_pivots=0",
    "random",
    "uniform",
)


def pruning(
    ranker: str, schedule: str, layers: int = 6, recovery: int | None = None, **options: Any
) -> Pruning:
    """A pruning from names of the table, stretched to a depth."""
    rates = tuple(SCHEDULES[schedule][layer * 6 // layers] for layer in range(layers))
    return Pruning(
        ranker=parse_ranker(ranker),
        schedule=KeepSchedule(keep_rates=rates, **options),
        recovery=Recovery(every=recovery) if recovery else None,
    )


#: every ranker with several cuts, every schedule with one ranker, and the options
CASES: dict[str, dict[str, Any]] = {ranker: {"ranker": ranker, "schedule": "pdrop"} for ranker in RANKERS}
CASES |= {
    f"attention, {name}": {"ranker": "attention", "schedule": name} for name in ("fastv", "vtw", "sigmoid")
}
CASES |= {
    "topv, recovery": {"ranker": "topv", "schedule": "fastv", "recovery": 4},
    "attention, recovery": {"ranker": "attention", "schedule": "sigmoid", "recovery": 3},
    "attention, renumber": {"ranker": "attention", "schedule": "pdrop", "position_ids": "renumber"},
    "attention, floor": {"ranker": "attention", "schedule": "sigmoid", "rounding": "floor", "min_tokens": 3},
    "divprune, recovery": {"ranker": "divprune", "schedule": "sigmoid", "recovery": 4},
    "divprune, layer 0": {"ranker": "divprune", "schedule": "from the start"},
    "random, layer 0": {"ranker": "random", "schedule": "from the start"},
    "uniform, layer 0": {"ranker": "uniform", "schedule": "from the start"},
}


def case(name: str, layers: int = 6) -> Pruning:
    """A pruning of the table for a model of this depth."""
    return pruning(**CASES[name], layers=layers)
