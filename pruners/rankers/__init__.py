"""The rankers by name, and the one-line text that names one."""

from typing import Annotated

from pydantic import Field, ValidationError

from pruners.errors import ProfileError, suggestion
from pruners.rankers.attention import AttentionRanker
from pruners.rankers.base import BEFORE_ANY_LAYER, Instruction, Ranker, RankingInputs
from pruners.rankers.dart import DartRanker
from pruners.rankers.divprune import DivPruneRanker
from pruners.rankers.knorm import KeyNormRanker
from pruners.rankers.random import RandomRanker
from pruners.rankers.topv import TopvRanker
from pruners.rankers.uniform import UniformRanker

#: Any ranker, told apart by its `type`.
AnyRanker = Annotated[
    AttentionRanker | TopvRanker | DivPruneRanker | KeyNormRanker | DartRanker | RandomRanker | UniformRanker,
    Field(discriminator="type"),
]

RANKERS: dict[str, type[Ranker]] = {
    "attention": AttentionRanker,
    "topv": TopvRanker,
    "divprune": DivPruneRanker,
    "knorm": KeyNormRanker,
    "dart": DartRanker,
    "random": RandomRanker,
    "uniform": UniformRanker,
}

__all__ = [
    "BEFORE_ANY_LAYER",
    "RANKERS",
    "AnyRanker",
    "AttentionRanker",
    "DartRanker",
    "DivPruneRanker",
    "Instruction",
    "KeyNormRanker",
    "RandomRanker",
    "Ranker",
    "RankingInputs",
    "TopvRanker",
    "UniformRanker",
    "parse_ranker",
]


def parse_ranker(spec: str) -> AnyRanker:
    """Read a ranker from text: its name, then its options, as in `attention:queries=last,score_layer=next`.

    Raises `ProfileError` on an unknown name or option, or a value that the option does not take.
    """
    name, _, rest = spec.partition(":")
    if name not in RANKERS:
        raise ProfileError(f"ranker '{name}' is not known{suggestion(name, RANKERS)}")
    kind = RANKERS[name]
    options: dict[str, str] = {}
    for item in filter(None, rest.split(",")):
        option, equals, value = item.partition("=")
        if not equals:
            raise ProfileError(f"ranker '{spec}': '{item}' must be written option=value")
        if option == "type" or option not in kind.model_fields:
            known = [field for field in kind.model_fields if field != "type"]
            raise ProfileError(f"ranker '{spec}': no option '{option}'{suggestion(option, known)}")
        options[option] = value
    return _build(kind, spec, options)  # type: ignore[return-value]  # RANKERS holds exactly the union


def _build(kind: type[Ranker], spec: str, options: dict[str, str]) -> Ranker:
    try:
        return kind.model_validate_strings(options)
    except ValidationError as error:
        first = error.errors()[0]
        where = f"option '{first['loc'][0]}': " if first["loc"] else ""
        raise ProfileError(f"ranker '{spec}': {where}{first['msg']}") from None
