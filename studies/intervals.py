"""How sure a measured accuracy is: intervals, paired differences, and the test that keeps a promise honest.

Scores are per sample, in [0, 1]. Nothing here draws unseeded random numbers.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq

Scores = Sequence[float]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate and its two-sided confidence interval."""

    low: float
    estimate: float
    high: float
    #: probability that the procedure covers the true value
    level: float


def interval(scores: Scores, level: float = 0.95, seed: int = 0) -> Interval:
    """Interval of the mean score: Wilson's when every score is 0 or 1, else a seeded BCa bootstrap.

    Raises ValueError without scores. One score that all samples share has no spread to resample: its
    Hoeffding interval is returned, which needs none.
    """
    values = _checked(scores)
    if _is_binary(values):
        hits = int(values.sum())
        wilson = stats.binomtest(hits, len(values)).proportion_ci(level, method="wilson")
        low, high = float(wilson.low), float(wilson.high)
        return Interval(low=low, estimate=hits / len(values), high=high, level=level)
    return _bootstrap(values, level, seed, bounds=(0.0, 1.0))


def paired_interval(a: Scores, b: Scores, level: float = 0.95, seed: int = 0) -> Interval:
    """Interval of mean(a) - mean(b) on the same samples in the same order.

    0/1 scores: Tango's score interval (Statistics in Medicine 17, 1998), which stays honest when few or no
    samples differ, where a resampled interval would shrink to a point. Other scores: a seeded BCa bootstrap
    of the differences. Raises ValueError without scores or for different lengths.
    """
    first, second = _checked(a), _checked(b)
    if len(first) != len(second):
        raise ValueError(f"paired scores must be of the same samples: {len(first)} and {len(second)} scores")
    differences = first - second
    if (_is_binary(first) and _is_binary(second)) or not differences.any():
        return _tango(int((differences > 0).sum()), int((differences < 0).sum()), len(first), level)
    return _bootstrap(differences, level, seed, bounds=(-1.0, 1.0))


def median_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """The median of independent values, with the interval of the sign test: two of the values themselves.

    It assumes nothing about how they are distributed. `Interval.level` is its exact level, at least `level`;
    fewer than six values cannot reach 95 %, and give their whole range at the level that it has. Raises
    ValueError without values.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = len(ordered)
    if n == 0:
        raise ValueError("a median needs at least one value")
    # one less than the smallest count of values below the median that is not too rare
    cut = max(int(stats.binom.ppf((1 - level) / 2, n, 0.5)) - 1, 0)
    return Interval(
        low=float(ordered[cut]),
        estimate=float(np.median(ordered)),
        high=float(ordered[n - 1 - cut]),
        level=float(1 - 2 * stats.binom.cdf(cut, n, 0.5)),
    )


@dataclass(frozen=True, kw_only=True)
class Tested(Generic[T]):
    """One front member's trial on `test`: how much accuracy it loses, at most, with one-sided confidence."""

    member: T
    drop: float
    upper: float
    passed: bool


def fixed_sequence_test(
    members: Iterable[T],
    scores_of: Callable[[T], Scores],
    baseline: Scores,
    max_drop: float,
    level: float = 0.95,
    seed: int = 0,
) -> list[Tested[T]]:
    """Test front members in the given order (dearest to cheapest) and stop at the first that fails.

    A member passes when the one-sided `level` upper bound of its drop, mean(baseline) - mean(member) on
    `test`, is at most `max_drop`. Because the order is fixed beforehand (on `search`) and the first failure
    ends it, every one of these tests may use the whole error rate: the chance that any member passes wrongly
    is at most 1 - level. Returns the members tested, the failed one last; `scores_of` is not called for those
    after it.
    """
    tested: list[Tested[T]] = []
    for member in members:
        # the upper end of a two-sided interval at 2 * level - 1 is the one-sided bound at level
        drop = paired_interval(baseline, scores_of(member), 2 * level - 1, seed)
        passed = drop.high <= max_drop
        tested.append(Tested(member=member, drop=drop.estimate, upper=drop.high, passed=passed))
        if not passed:
            break
    return tested


def _checked(scores: Scores) -> NDArray[np.float64]:
    values = np.asarray(scores, dtype=np.float64)
    if values.size == 0:
        raise ValueError("an interval needs at least one score")
    if not np.all((values >= 0) & (values <= 1)):
        raise ValueError("scores must lie in [0, 1]")
    return values


def _is_binary(values: NDArray[np.float64]) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _bootstrap(values: NDArray[np.float64], level: float, seed: int, bounds: tuple[float, float]) -> Interval:
    mean = float(values.mean())
    if np.ptp(values) == 0:
        width = (bounds[1] - bounds[0]) * math.sqrt(math.log(2 / (1 - level)) / (2 * len(values)))
        low, high = max(bounds[0], mean - width), min(bounds[1], mean + width)
        return Interval(low=low, estimate=mean, high=high, level=level)
    low, high = _resample(values, level, seed)
    return Interval(low=low, estimate=mean, high=high, level=level)


def _resample(values: NDArray[np.float64], level: float, seed: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    found = stats.bootstrap(
        (values,), np.mean, method="BCa", confidence_level=level, n_resamples=4999, batch=500, rng=rng
    ).confidence_interval
    return float(found.low), float(found.high)


def _tango(wins: int, losses: int, n: int, level: float) -> Interval:
    """Score interval of the paired difference of proportions: `wins` samples only a has, `losses` only b."""
    z = float(stats.norm.ppf((1 + level) / 2))
    estimate = (wins - losses) / n

    def score(delta: float) -> float:
        # q: maximum-likelihood rate of losses when the difference is delta
        linear = -wins - losses + (2 * n - wins + losses) * delta
        q = (math.sqrt(linear**2 + 8 * n * losses * delta * (1 - delta)) - linear) / (4 * n)
        return (wins - losses - n * delta) / math.sqrt(max(n * (2 * q + delta * (1 - delta)), 1e-300))

    edge = 1 - 1e-9
    low = -1.0 if score(-edge) < z else float(brentq(lambda d: score(d) - z, -edge, estimate))
    high = 1.0 if score(edge) > -z else float(brentq(lambda d: score(d) + z, estimate, edge))
    return Interval(low=low, estimate=estimate, high=high, level=level)
