"""Stop a trial that has lost already. Only for metrics that are means over samples.

Decided at checkpoints that are the same for every trial, however many workers share its batches: after the
first few of all batches in one fixed order. What was seen until then is not remembered as an evaluation.
`studies.dominance` has the judge for two objectives.
"""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna

from studies.intervals import paired_interval

#: shares of the batches after which a trial may be stopped
CHECKPOINTS = (3 / 32, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4)
#: fewer batches than these, both ends and the middle of all, or fewer samples decide nothing
LEAST_BATCHES, LEAST = 3, 16
#: two-sided level of the interval whose upper end must lie below a rival
LEVEL = 0.8
#: of the Wilcoxon pruner: the probability of a difference as large as the one that stops a trial
P_THRESHOLD = 0.05


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """A trial that was given up."""

    #: what its accuracy would have been (`Judge.estimate`), and the most that it may have been
    accuracy: float
    bound: float
    samples: int
    seconds: float


def checkpoints(batches: int) -> list[tuple[int, ...]]:
    """The numbers of all batches in a fixed order, in groups: a trial may be stopped after each."""
    order = spread(batches)
    tries = {min(max(LEAST_BATCHES, round(share * batches)), batches) for share in CHECKPOINTS}
    ends = sorted(tries | {batches})
    return [tuple(order[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def spread(count: int) -> list[int]:
    """The numbers below `count`: both ends, then the middle of all, the middles of the halves, and so on.

    The first few of them are spread over all, however few. Batches are formed by length, and what is asked
    often goes with the length: a kind of question may fill the last few batches and no others. In a random
    order it may be missing from the first half of all, and no interval would tell.
    """
    order = [0, count - 1][:count]
    gaps = [(0, count - 1)]
    for low, high in gaps:  # it grows meanwhile
        middle = (low + high) // 2
        if low < middle:
            order.append(middle)
            gaps += [(low, middle), (middle, high)]
    return order


class Judge(ABC):
    """Says of a trial, by the scores of the samples that were seen, whether it has lost."""

    def __call__(self, seen: Mapping[int, float]) -> bool:
        """Whether it has lost."""
        return len(seen) >= LEAST and self._lost(seen)

    def stopped(self, seen: Mapping[int, float], seconds: float) -> Stopped:
        """What is kept of a trial that has lost."""
        return Stopped(
            accuracy=self.estimate(seen), bound=self.bound(seen), samples=len(seen), seconds=seconds
        )

    @abstractmethod
    def estimate(self, seen: Mapping[int, float]) -> float:
        """The trial's accuracy on all samples, in [0, 1].

        The mean of what was seen would be no estimate: the first checkpoints are the same samples for every
        trial, and may be easier or harder than all.
        """

    def bound(self, seen: Mapping[int, float]) -> float:  # noqa: ARG002
        """The most that this accuracy may be, with confidence; 1 where nobody asks."""
        return 1.0

    @abstractmethod
    def _lost(self, seen: Mapping[int, float]) -> bool: ...


class WilcoxonJudge(Judge):
    """One objective, accuracy less a price: compares with the best trial so far, sample by sample.

    The trial has lost when the paired difference's interval lies below the handicap, and Optuna's Wilcoxon
    pruner agrees. The pruner alone would not do: most samples are answered alike, and a handicap, however
    small, makes of every such tie a difference in the same direction, which a test of ranks takes for
    evidence.
    """

    def __init__(self, rival: Sequence[float], handicap: float = 0.0) -> None:
        #: the rival's score of every sample
        self.rival = rival
        #: accuracy by which the trial must be better than the rival: its price less the rival's
        self.handicap = handicap

    def estimate(self, seen: Mapping[int, float]) -> float:
        """The rival's accuracy, and the mean difference from it on the samples seen."""
        ours, theirs = self._pairs(seen)
        return float(np.clip(np.mean(self.rival) + np.mean(ours) - np.mean(theirs), 0, 1))

    def _pairs(self, seen: Mapping[int, float]) -> tuple[list[float], list[float]]:
        samples = sorted(seen)
        return [seen[n] for n in samples], [self.rival[n] for n in samples]

    def _lost(self, seen: Mapping[int, float]) -> bool:
        """Whether the interval and the pruner both say so.

        What has been seen is certain: only the rest of a finite number of samples can surprise, which makes
        the interval narrower by the finite population correction.
        """
        ours, theirs = self._pairs(seen)
        found = paired_interval(ours, theirs, LEVEL)
        left = 1 - len(ours) / len(self.rival)
        upper = found.estimate + (found.high - found.estimate) * math.sqrt(left)
        return upper < self.handicap and self._pruned(ours, theirs)

    def _pruned(self, ours: Sequence[float], theirs: Sequence[float]) -> bool:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            pruner = optuna.pruners.WilcoxonPruner(p_threshold=P_THRESHOLD, n_startup_steps=LEAST)
        study = optuna.create_study(direction="maximize", pruner=pruner)
        best = dict(enumerate(theirs))
        study.add_trial(optuna.create_trial(value=float(np.mean(theirs)), intermediate_values=best))
        trial = study.ask()
        for step, score in enumerate(ours):
            trial.report(score - self.handicap, step)
        return bool(trial.should_prune())
