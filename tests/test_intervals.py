"""Intervals against independent computations, and the fixed-sequence test against its promise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from studies.intervals import fixed_sequence_test, interval, paired_interval


def test_wilson_for_binary_scores():
    # The textbook formula, written out: p = 0.9, n = 100.
    found, z, p, n = interval([1.0] * 90 + [0.0] * 10), stats.norm.ppf(0.975), 0.9, 100
    centre, half = p + z**2 / (2 * n), z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    assert found.estimate == 0.9
    assert found.low == pytest.approx((centre - half) / (1 + z**2 / n))
    assert found.high == pytest.approx((centre + half) / (1 + z**2 / n))


def test_fractional_scores_are_resampled_and_repeat():
    scores = np.random.default_rng(1).beta(5, 2, 300).tolist()
    found = interval(scores, seed=7)
    mean, error = np.mean(scores), np.std(scores, ddof=1) / 300**0.5
    assert found == interval(scores, seed=7)
    assert found != interval(scores, seed=8)
    assert found.low == pytest.approx(mean - 1.96 * error, abs=error / 3)
    assert found.high == pytest.approx(mean + 1.96 * error, abs=error / 3)


def test_equal_fractional_scores_do_not_pretend_certainty():
    found = interval([0.5] * 50)
    assert found.low < 0.4 < 0.6 < found.high


def test_nearly_equal_fractional_scores_have_an_interval():
    found = interval([0.5] * 199 + [0.6])
    assert 0.5 <= found.low <= found.estimate <= found.high < 0.51


def restricted_q(wins, losses, n, delta):
    """The likeliest rate of losses when wins' rate is delta more, by a numeric maximum likelihood."""

    def against(q):
        rates = q + delta, q, 1 - 2 * q - delta
        counts = wins, losses, n - wins - losses
        return -sum(c * np.log(max(rate, 1e-300)) for c, rate in zip(counts, rates, strict=True))

    low, high = max(0.0, -delta), (1 - delta) / 2
    return optimize.minimize_scalar(against, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x


@given(st.integers(0, 12), st.integers(0, 12), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_paired_ends_are_where_the_score_test_turns(wins, losses, same):
    n = wins + losses + same
    a = [1.0] * wins + [0.0] * losses + [1.0] * same
    b = [0.0] * wins + [1.0] * (losses + same)
    found = paired_interval(a, b)
    assert found.estimate == pytest.approx((wins - losses) / n)
    for end, z in ((found.low, 1.96), (found.high, -1.96)):
        q = restricted_q(wins, losses, n, end)
        score = (wins - losses - n * end) / (n * (2 * q + end * (1 - end))) ** 0.5
        assert score == pytest.approx(z, abs=0.01)


def test_pairing_counts():
    rng = np.random.default_rng(0)
    a = (rng.random(400) < 0.8).astype(float)
    b = a.copy()
    b[:8] = 0
    shuffled = rng.permutation(b)
    paired, crossed = paired_interval(a, b), paired_interval(a, shuffled)
    assert paired.high - paired.low < (crossed.high - crossed.low) / 3


def test_no_difference_is_still_not_certain():
    for scores in ([1.0] * 100, [0.3] * 100):
        found = paired_interval(scores, scores)
        assert found.estimate == 0
        assert found.high == pytest.approx(1.96**2 / (100 + 1.96**2), rel=1e-3)
        assert found.low == pytest.approx(-found.high)


def test_fractional_pairs_are_resampled():
    rng = np.random.default_rng(2)
    b = rng.random(300) * 0.8
    a = b + rng.random(300) * 0.2
    found = paired_interval(a, b)
    assert found.low < np.mean(a - b) < found.high
    assert found.high - found.low < 0.03


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interval([]), "at least one score"),
        (lambda: interval([0.5, 1.5]), r"in \[0, 1\]"),
        (lambda: interval([float("nan")]), r"in \[0, 1\]"),
        (lambda: paired_interval([1, 0], [1]), "2 and 1 scores"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def drop_of(share, n=2000):
    return [0.0] * round(share * n) + [1.0] * (n - round(share * n))


def test_sequence_stops_at_the_first_that_fails():
    asked = []

    def scores_of(share):
        asked.append(share)
        return drop_of(share)

    tested = fixed_sequence_test([0.0, 0.004, 0.009, 0.001], scores_of, drop_of(0.0), max_drop=0.01)
    assert [t.member for t in tested] == asked == [0.0, 0.004, 0.009]
    assert [t.passed for t in tested] == [True, True, False]
    assert all(t.drop == pytest.approx(t.member) and t.upper > t.drop for t in tested)


def test_bound_is_one_sided():
    tested = fixed_sequence_test([0.005], drop_of, drop_of(0.0), max_drop=0.01)
    assert tested[0].upper == pytest.approx(paired_interval(drop_of(0.0), drop_of(0.005), 0.90).high)


def test_promise_is_kept_in_19_of_20_sequences():
    # Every member truly loses exactly max_drop: passing any is wrong, and may happen in 1 of 20 runs.
    rng, wrong, runs, n = np.random.default_rng(3), 0, 400, 500
    for _ in range(runs):
        baseline = np.ones(n)
        members = [(rng.random(n) >= 0.05).astype(float) for _ in range(3)]
        wrong += fixed_sequence_test(members, lambda m: m, baseline, max_drop=0.05)[0].passed
    assert wrong / runs < 0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5
    assert wrong > 0
