"""Early stopping for two objectives: stop a trial that the front dominates already, as good as surely.

A trial's FLOPs are known before it runs; its accuracy is predicted, with an upper bound, from the samples
seen so far. The trial has lost when a point at those FLOPs and that bound adds next to nothing to the front's
hypervolume. Next to nothing: all that was stopped, each at its bound, would together add at most `SLACK`. So
while the bounds hold, the hypervolume is within `SLACK` of what the same trials give when all are run to
their end.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from studies.front import Point, hypervolume
from studies.stopping import Judge

#: share of the hypervolume that all stopped trials may add together, and the share of what is left of it that
#: one trial may take: the first ones must not use it up
SLACK, PORTION = 0.005, 0.1
#: standard errors from a prediction to its bound: one-sided 90 %, and 99 % for what may win
BOUND, SURE = 1.2816, 2.3263
#: of the regression; small beside the number of samples that a member answers unlike the mean member
RIDGE = 3.0


class FrontJudge(Judge):
    """Compares a trial with all of the front."""

    def __init__(
        self,
        ratio: float,
        front: Sequence[tuple[float, Sequence[float]]],
        stopped: Sequence[Point],
        wanted: float,
    ) -> None:
        #: the trial's FLOPs ratio
        self._ratio = ratio
        #: every member's score of every sample
        self._scores = np.array([scores for _, scores in front], dtype=np.float64)
        accuracies = self._scores.mean(axis=1).tolist()
        self._front = list(zip((flops for flops, _ in front), accuracies, strict=True))
        #: what was stopped before, at its bound
        self._stopped = list(stopped)
        #: the accuracy with which the trial would be chosen; infinite where none would do
        self._wanted = wanted

    def estimate(self, seen: Mapping[int, float]) -> float:
        """What front and samples seen predict, but no better than the best that costs no more.

        A stopped trial counts as dominated, whatever is predicted: one that looked like a member of the front
        would draw the search to it, and nobody would see that it is none.
        """
        best = max(accuracy for flops, accuracy in self._front if flops <= self._ratio)
        return float(np.clip(self._predict(seen)[0], 0, best))

    def bound(self, seen: Mapping[int, float]) -> float:
        """The prediction's one-sided upper confidence bound."""
        predicted, error = self._predict(seen)
        return float(np.clip(predicted + BOUND * error, 0, 1))

    def _lost(self, seen: Mapping[int, float]) -> bool:
        predicted, error = self._predict(seen)
        if predicted + SURE * error >= self._wanted:
            return False
        volume = hypervolume(self._front)
        before = hypervolume([*self._front, *self._stopped])
        after = hypervolume([*self._front, *self._stopped, (self._ratio, self.bound(seen))])
        left = max(0.0, SLACK * volume - (before - volume))
        return after - before <= PORTION * left

    def _predict(self, seen: Mapping[int, float]) -> tuple[float, float]:
        """The accuracy on all samples, and its standard error.

        The generalised regression estimator of survey sampling (Sarndal, Swensson and Wretman, Model Assisted
        Survey Sampling, 1992, chapter 6): a ridge regression of the trial's scores on the members' predicts
        the samples that were not seen, and the mean residual of those that were corrects it. Residuals are
        leave-one-out, because the few samples that were fitted look better than the rest. Two pairs more, one
        won and one lost, keep the error from vanishing where no sample differs (Agresti and Min, Statistics
        in Medicine 24, 2005); the finite population correction has it vanish when all were seen.
        """
        places = np.array(sorted(seen))
        ours = np.array([seen[place] for place in places])
        middle = self._scores.mean(axis=0)
        known = (self._scores - middle).T
        x, y = known[places], ours - middle[places]
        solver = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T)
        weights = solver @ y
        residuals = (y - x @ weights) / (1 - np.einsum("ij,ji->i", x, solver))
        count = len(places) + 2
        correction = residuals.sum() / count
        variance = (residuals @ residuals + 1) / count - correction**2
        left = 1 - len(places) / len(middle)
        predicted = float((middle + known @ weights).mean() + correction)
        return predicted, math.sqrt(variance / count * left)
