"""What there is to search, how a search may look for it, and what it finds."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from optuna.trial import FixedTrial, FrozenTrial

from studies.asking import Suggest
from studies.measured import Measured


class Dimensions(NamedTuple):
    """What of a model and its samples decides how much there is to search."""

    num_layers: int
    #: the first layer that the searches may reduce
    first_prunable: int
    #: N of the largest sample
    visual_tokens: int


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """How a search may look: which sampler, how many trials, what first."""

    suggest: Suggest
    #: distinct prunings to try
    trials: int
    sampler: str
    #: trials drawn uniformly first
    initial: int
    #: parameters to try before all others
    enqueue: Sequence[Mapping[str, Any]] = ()
    #: whether a trial that has lost may be stopped before it has seen every sample
    early_stopping: bool = False
    #: what is the same in all its trials, for the trials of the main study
    constants: Mapping[str, float | int] = field(default_factory=dict)

    def holds(self, params: Mapping[str, Any]) -> bool:
        """Whether parameters are in it: G-Search's space of a layer ends where the layer before does."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Optuna warns of values out of range, and takes them
            try:
                self.suggest(FixedTrial(dict(params)))
            except (ValueError, UserWarning):
                return False
        return True


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best trial of a sub-study; of equals the first."""

    trial: FrozenTrial
    measured: Measured
    #: all finished trials, in order
    told: Sequence[FrozenTrial]
