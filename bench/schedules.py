"""The prunings that are measured, at any depth. Only costs matter here: the weights are random."""

from pruners import Pruning
from pruners.pruning import KeepSchedule
from pruners.rankers import parse_ranker
from pruners.schedules import parse_schedule

#: the G-Search paper searches every third layer; layers between inherit the rate
_STRIDE = 3


def prunings(layers: int) -> dict[str, Pruning]:
    """FastV at 50 %, PyramidDrop, a curve such as G-Search finds, and TopV at 50 %."""
    half = parse_schedule("fastv:k=2,r=0.5").keep_rates(layers)
    pdrop = parse_schedule("pdrop").keep_rates(layers)
    return {
        "FastV 50 %": _pruning("attention:queries=last", half),
        "PyramidDrop": Pruning(
            ranker=parse_ranker("attention:queries=last,score_layer=next"),
            schedule=KeepSchedule(keep_rates=pdrop, rounding="floor", position_ids="renumber"),
        ),
        "G-Search-like": _pruning("attention:queries=instruction", falling(layers)),
        "TopV 50 %": _pruning("topv", half),
    }


def falling(layers: int) -> tuple[float, ...]:
    """An S-curve from about 0.7 to 0 after layer 2, its rate renewed at every third layer."""
    curve = parse_schedule("p-sigmoid:b=0.35,k=0.3").keep_rates(layers)
    return tuple(curve[layer if layer < 2 else layer - (layer - 2) % _STRIDE] for layer in range(layers))


def _pruning(ranker: str, rates: tuple[float, ...]) -> Pruning:
    return Pruning(ranker=parse_ranker(ranker), schedule=KeepSchedule(keep_rates=rates))
