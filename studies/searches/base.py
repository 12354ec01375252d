"""What a search is: frozen options, and one function that measures and says what it recommends."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from pruners.errors import PruningError
from pruners.pruning import KeepSchedule, Pruning
from pruners.rankers import AnyRanker, parse_ranker
from pruners.schedules.p_sigmoid import STEEPEST
from studies.context import Context, Dimensions

#: The FLOPs ratio of keep rates, on the study's samples.
RatioOf = Callable[[Sequence[float]], float]

#: Seeds of the random ranking that every result is compared with.
RANDOM_SEEDS = (0, 1, 2, 3, 4)

Rate = Annotated[float, Field(ge=0, le=1)]
Budget = Annotated[float, Field(gt=0, le=1)]
#: `b`: mean keep rate over the prunable layers; `flops`: FLOPs ratio of the decoder
BudgetKind = Literal["b", "flops"]
SingleSampler = Literal["skopt-ei", "tpe", "gp", "random"]


def _in_order(bounds: tuple[float, float]) -> tuple[float, float]:
    if not 0 < bounds[0] <= bounds[1]:
        raise ValueError(f"must be two numbers above 0 in order, not {list(bounds)}")
    return bounds


#: Least and largest value of what is searched on a logarithmic scale.
LogRange = Annotated[tuple[float, float], Field(strict=False), AfterValidator(_in_order)]
#: Steepest curve that is searched; the schedule itself takes no steeper one.
Steepest = Annotated[float, Field(gt=0, le=STEEPEST)]


def _parse(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return parse_ranker(value)
    except PruningError as error:
        raise ValueError(str(error)) from None


#: A ranker, or the text that names one: `attention:queries=last`.
RankerOption = Annotated[AnyRanker, BeforeValidator(_parse)]


class SearchOptions(BaseModel):
    """What every search takes. Frozen; no unknown keys; no silent conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    method: str
    #: fixes every proposal
    seed: int = Field(default=0, ge=0)


class SampledOptions(SearchOptions):
    """Options of searches that a sampler leads. `initial` is resolved when it is not given."""

    #: distinct prunings that each of the search's optimisations tries
    trials: int = Field(default=25, ge=1)
    #: how many of them are drawn uniformly first; by default two fifths, at most 10
    initial: int = Field(default=10, ge=1)
    #: stop trials that have lost before they have seen every sample (`studies.stopping`)
    early_stopping: bool = False
    #: parameters to try before the sampler is asked, by sub-study (`layer-07`, `k@b=0.25`) or, for a whole
    #: front, method; those that do not fit are passed over
    try_first: Mapping[str, Sequence[Mapping[str, Any]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _resolve_initial(cls, data: Any) -> Any:
        if isinstance(data, dict) and "initial" not in data:
            trials = data.get("trials", cls.model_fields["trials"].default)
            if isinstance(trials, int):
                return {**data, "initial": min(10, max(1, trials * 2 // 5))}
        return data

    @model_validator(mode="after")
    def _initial_leaves_room(self) -> "SampledOptions":
        if self.initial > self.trials:
            raise ValueError(f"initial must not exceed trials: {self.initial} > {self.trials}")
        return self


O = TypeVar("O", bound=SearchOptions)  # noqa: E741


class Search(ABC, Generic[O]):
    """A method. Its options are a frozen value; what it found is in `context.recommended`."""

    #: as a spec's `search.method` names it
    name: ClassVar[str]
    #: the class of its options
    Options: ClassVar[type[SearchOptions]]

    def __init__(self, options: O) -> None:
        self.options = options

    def check(self, size: Dimensions, ratio_of: RatioOf) -> None:
        """Raise SpecError when the options cannot work on a model of this size and samples of these costs."""

    @abstractmethod
    def run(self, context: Context) -> None:
        """Measure prunings; put every result under its label into `context.recommended` as soon as it is
        known.

        May raise `LimitReachedError` from the context at any point: what was recommended until then stands.
        """

    @abstractmethod
    def estimate_evaluations(self, size: Dimensions) -> int:
        """At most so many evaluations, without those of no pruning and of the comparison at the end."""

    def results(self) -> int:
        """How many recommendations the search makes; each is compared with random and uniform ranking."""
        return 1


def with_rates(ranker: AnyRanker, keep_rates: Sequence[float]) -> Pruning:
    """Make a pruning of a ranker and rates, everything else at its default."""
    return Pruning(ranker=ranker, schedule=KeepSchedule(keep_rates=tuple(keep_rates)))


def full_until(first: int, rate: float, num_layers: int) -> tuple[float, ...]:
    """All tokens before layer `first`, `rate` of them from there on."""
    return (1.0,) * first + (rate,) * (num_layers - first)
