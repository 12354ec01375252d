"""Stop a trial that has lost already. Only for metrics that are means over samples.

Decided at checkpoints that are the same for every trial, however many workers share its batches: after the
first few of all batches in one fixed order. What was seen until then is not remembered as an evaluation.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna

from studies.intervals import paired_interval

#: shares of the batches after which a trial may be stopped
CHECKPOINTS = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
#: fewer samples than this decide nothing
LEAST = 16
#: two-sided level of the interval whose upper end must lie below a rival
LEVEL = 0.8
#: of the Wilcoxon pruner: the probability of a difference as large as the one that stops a trial
P_THRESHOLD = 0.05


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """A trial that was given up."""

    #: what its accuracy would have been (`Judge.estimate`), and how many samples were seen
    accuracy: float
    samples: int
    seconds: float


def checkpoints(batches: int) -> list[tuple[int, ...]]:
    """The numbers of all batches in a fixed, mixed order, in groups: a trial may be stopped after each.

    Mixed, because batches are formed by length and the first ones would be no fair sample of all.
    """
    order = np.random.default_rng(0).permutation(batches).tolist()
    ends = sorted({max(1, round(share * batches)) for share in CHECKPOINTS} | {batches})
    return [tuple(order[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


class Judge:
    """Compares a trial with a finished rival, sample by sample.

    On its own it serves two objectives, where the rival costs no more: the trial has lost when its accuracy
    lies below the rival's with confidence.
    """

    def __init__(self, rival: Sequence[float], handicap: float = 0.0) -> None:
        #: the rival's score of every sample
        self.rival = rival
        #: accuracy by which the trial must be better than the rival: its price less the rival's
        self.handicap = handicap

    def __call__(self, seen: Mapping[int, float]) -> bool:
        """Whether the trial has lost, by the scores of the samples that were seen."""
        return len(seen) >= LEAST and self._lost(*self._pairs(seen))

    def estimate(self, seen: Mapping[int, float]) -> float:
        """The trial's accuracy on all samples: the rival's, and their mean difference on those seen.

        The mean of what was seen would be no estimate: the first checkpoints are the same samples for every
        trial, and may be easier or harder than all.
        """
        ours, theirs = self._pairs(seen)
        return float(np.clip(np.mean(self.rival) + np.mean(ours) - np.mean(theirs), 0, 1))

    def _pairs(self, seen: Mapping[int, float]) -> tuple[list[float], list[float]]:
        samples = sorted(seen)
        return [seen[n] for n in samples], [self.rival[n] for n in samples]

    def _lost(self, ours: Sequence[float], theirs: Sequence[float]) -> bool:
        """Whether the upper end of the paired difference's interval is below the handicap.

        What has been seen is certain: only the rest of a finite number of samples can surprise, which makes
        the interval narrower by the finite population correction.
        """
        found = paired_interval(ours, theirs, LEVEL)
        left = 1 - len(ours) / len(self.rival)
        return found.estimate + (found.high - found.estimate) * math.sqrt(left) < self.handicap


class WilcoxonJudge(Judge):
    """One objective, accuracy less a price: Optuna's Wilcoxon pruner against the best trial so far agrees.

    Alone it would not do: most samples are answered alike, and a handicap, however small, makes of every such
    tie a difference in the same direction, which a test of ranks takes for evidence.
    """

    def _lost(self, ours: Sequence[float], theirs: Sequence[float]) -> bool:
        """Whether the interval and the pruner both say so."""
        return super()._lost(ours, theirs) and self._pruned(ours, theirs)

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
