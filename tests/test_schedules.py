"""Keep rates of every schedule, their short text, and the rounding to whole tokens."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruners.errors import ProfileError
from pruners.schedules import SCHEDULES, VTW, FastV, PSigmoid, PyramidDrop, Schedule, Table, parse_schedule
from pruners.schedules.counts import token_counts
from pruners.schedules.p_sigmoid import solve_budget

share = st.floats(0, 1)
depth = st.integers(3, 48)
falling = st.lists(share, min_size=1, max_size=48).map(lambda rates: tuple(sorted(rates, reverse=True)))
SCHEDULE = {
    "fastv": st.builds(FastV, k=st.integers(0, 3), r=share),
    "vtw": st.builds(VTW, k=st.integers(0, 3)),
    "pdrop": st.builds(PyramidDrop, ratios=falling)
    | st.just(PyramidDrop(stages=(0, 1, 3), ratios=(0.5, 0.5, 0.125))),
    "p-sigmoid": st.builds(PSigmoid, b=share, k=st.floats(0, 100), first=st.integers(0, 2)),
}
some_schedule = st.one_of(*SCHEDULE.values())
patient = settings(deadline=None, max_examples=200)


def test_every_registered_schedule_is_in_the_property_tests():
    assert SCHEDULE.keys() | {"table"} == SCHEDULES.keys()
    assert all(name == schedule.name for name, schedule in SCHEDULES.items())


@patient
@given(some_schedule, depth)
def test_rates_are_shares_that_never_rise(schedule: Schedule, layers: int):
    rates = schedule.keep_rates(layers)
    assert len(rates) == layers
    assert all(0 <= rate <= 1 for rate in rates)
    assert all(after <= before for before, after in itertools.pairwise(rates))
    assert Table(rates).keep_rates(layers) == rates


@patient
@given(some_schedule | st.builds(Table, rates=falling))
def test_spec_reads_back_to_an_equal_schedule(schedule: Schedule):
    assert parse_schedule(schedule.spec()) == schedule


@pytest.mark.parametrize(
    ("spec", "layers", "rates"),
    [
        ("fastv:k=2,r=0.5", 4, (1, 1, 0.5, 0.5)),
        ("fastv:k=0,r=0.75", 3, (0.25, 0.25, 0.25)),
        ("fastv:k=4,r=0.5", 4, (1, 1, 1, 1)),
        ("vtw:k=1", 3, (1, 0, 0)),
        ("pdrop", 8, (1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125)),
        ("pdrop", 10, (1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.125)),
        ("pdrop:ratios=0.5", 4, (1, 1, 0.5, 0.5)),
        ("pdrop:stages=1/3,ratios=0.6/0.2", 4, (1, 0.6, 0.6, 0.2)),
        ("table:rates=1/0.5/0", 3, (1, 0.5, 0)),
        ("p-sigmoid:b=0.25,k=0", 4, (1, 1, 0.25, 0.25)),
        ("p-sigmoid:b=0.25,k=0,first=3", 4, (1, 1, 1, 0.25)),
        (" p-sigmoid : b = 0.3 , k = 0 ", 3, (1, 1, 0.3)),
    ],
)
def test_keep_rates_of(spec: str, layers: int, rates: tuple[float, ...]):
    assert parse_schedule(spec).keep_rates(layers) == rates


@pytest.mark.parametrize(
    ("layers", "first_layers"), [(32, (8, 16, 24)), (40, (10, 20, 30)), (28, (7, 14, 21))]
)
def test_pdrop_scales_its_stages_by_depth(layers: int, first_layers: tuple[int, ...]):
    rates = PyramidDrop().keep_rates(layers)
    assert tuple(rates.index(ratio) for ratio in (0.5, 0.25, 0.125)) == first_layers
    assert PyramidDrop(stages=first_layers).keep_rates(layers) == rates


@patient
@given(b=share, k=st.floats(0, 4) | st.floats(0, 100), first=st.integers(0, 3), layers=st.integers(4, 80))
def test_p_sigmoid_keeps_its_budget_exactly(b: float, k: float, first: int, layers: int):
    rates = PSigmoid(b=b, k=k, first=first).keep_rates(layers)
    assert rates[:first] == (1,) * first
    assert math.fsum(rates[first:]) / (layers - first) == pytest.approx(b, abs=1e-9)


def test_p_sigmoid_is_the_papers_formula_where_nothing_exceeds_1():
    rates = PSigmoid(b=0.4, k=0.3).keep_rates(32)
    # the paper counts layers from 1: its domain [3, 32] has its middle at 17.5
    assert rates[2:] == pytest.approx(
        [0.8 / (1 + math.exp(0.3 * (i - 17.5))) for i in range(3, 33)], rel=1e-12
    )


def test_p_sigmoid_moves_its_middle_where_clamping_would_break_the_budget():
    clamped = [min(1.0, 1.2 / (1 + math.exp(0.5 * (i - 16.5)))) for i in range(2, 32)]
    assert sum(clamped) / 30 == pytest.approx(0.536, abs=5e-4)
    rates = PSigmoid(b=0.6, k=0.5).keep_rates(32)
    assert sum(rates[2:]) / 30 == pytest.approx(0.6, abs=1e-12)
    assert rates[2] == 1
    assert all(ours >= theirs for ours, theirs in zip(rates[2:], clamped, strict=True))


@patient
@given(k=st.floats(0, 4), first=st.integers(0, 3), layers=st.integers(4, 40), target=share)
def test_solved_budget_is_the_largest_that_meets_the_target(k: float, first: int, layers: int, target: float):
    def ratio_of(rates: tuple[float, ...]) -> float:
        return sum((count + 20) ** 2 for count in token_counts(rates, 144)) / (164**2 * layers)

    at_none = ratio_of(PSigmoid(0.0, k, first).keep_rates(layers))
    if at_none > target:
        with pytest.raises(ProfileError, match="out of reach"):
            solve_budget(k, layers, first, target, ratio_of)
        return
    b = solve_budget(k, layers, first, target, ratio_of)
    assert ratio_of(PSigmoid(b, k, first).keep_rates(layers)) <= target
    if b < 1:
        assert ratio_of(PSigmoid(min(1.0, b + 1e-9), k, first).keep_rates(layers)) > target


@patient
@given(falling, st.integers(0, 3000), st.sampled_from(["nearest", "floor"]), st.integers(0, 50))
def test_counts_follow_the_rounding_rule(rates, visual_tokens, rounding, min_tokens):
    counts = token_counts(rates, visual_tokens, rounding, min_tokens)
    assert all(after <= before for before, after in itertools.pairwise(counts))
    for rate, count in zip(rates, counts, strict=True):
        whole = math.floor(rate * visual_tokens + (0.5 if rounding == "nearest" else 0))
        assert count == min(max(whole, min_tokens), visual_tokens)


@patient
@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_a_rate_made_of_a_count_gives_that_count(pair: tuple[int, int]):
    visual_tokens, count = pair
    assert token_counts([count / visual_tokens], visual_tokens) == (count,)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "fastw:k=2,r=0.5",
            "unknown schedule 'fastw'; did you mean 'fastv'? (known: fastv, p-sigmoid, pdrop, ",
        ),
        ("", "unknown schedule ''"),
        ("zzz", "unknown schedule 'zzz' (known: "),
        ("fastv", "fastv: k and r missing; write it like fastv:k=2,r=0.5"),
        ("fastv:k=2", "fastv: r missing; write it like"),
        ("fastv:k=2,r=1.5", "fastv: r must be between 0 and 1, not 1.5"),
        ("fastv:k=2,r=nan", "fastv: r must be between 0 and 1, not nan"),
        ("fastv:k=-1,r=0.5", "fastv: k must be at least 0, not -1"),
        ("fastv:k=2.5,r=0.5", "fastv: k must be a whole number, not '2.5'"),
        ("fastv:k=2,r=half", "fastv: r must be a number, not 'half'"),
        ("fastv:k=2,k=3,r=0.5", "fastv: k is given twice"),
        ("fastv:2,0.5", "fastv: '2' is not key=value; write it like fastv:k=2,r=0.5"),
        ("pdrop:stage=8", "pdrop: unknown key 'stage'; did you mean 'stages'? (known: ratios, stages)"),
        ("pdrop:stages=8/16", "pdrop: 2 stages and 3 ratios are given; they go in pairs"),
        ("pdrop:stages=8/8/9", "pdrop: stages must rise: 8/8/9"),
        ("pdrop:ratios=0.1/0.2", "pdrop: ratios must not rise: 0.1/0.2"),
        ("pdrop:ratios=2/1", "pdrop: ratios must be between 0 and 1, not 2"),
        ("pdrop:stages=-1/2/3", "pdrop: stages must be at least 0, not -1"),
        ("pdrop:ratios=", "pdrop: ratios must be numbers joined by '/', not ''"),
        ("vtw:k=-3", "vtw: k must be at least 0, not -3"),
        ("p-sigmoid:b=1.1,k=0", "p-sigmoid: b must be between 0 and 1, not 1.1"),
        ("p-sigmoid:b=0.1,k=inf", "p-sigmoid: k must be between 0 and 100, not inf"),
        ("table:rates=1/0.5/0.6", "table: rates must not rise: layer 1 keeps 0.5, layer 2 keeps 0.6"),
        ("table:rates=1/-0.5", "table: rates must be between 0 and 1, not -0.5"),
    ],
)
def test_a_wrong_spec_is_refused_in_one_line(spec: str, message: str):
    with pytest.raises(ProfileError) as caught:
        parse_schedule(spec)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (FastV(k=9, r=0.5), "fastv: k=9 is deeper than the model, which has 8 layers"),
        (VTW(k=9), "vtw: k=9 is deeper than the model, which has 8 layers"),
        (PyramidDrop(stages=(2, 4, 9)), "pdrop: stages=9 is deeper than the model, which has 8 layers"),
        (PSigmoid(b=0.5, k=1, first=8), "p-sigmoid: first=8 leaves no layer of the model's 8 to reduce"),
        (Table(rates=(1.0, 0.5)), "table: 2 rates are given, the model has 8 layers"),
    ],
)
def test_a_schedule_of_another_depth_is_refused(schedule: Schedule, message: str):
    with pytest.raises(ProfileError) as caught:
        schedule.keep_rates(8)
    assert str(caught.value) == message


@pytest.mark.parametrize("tokens", [5, 575, 576, 2885])
@pytest.mark.parametrize(("r", "b"), [(0.9, 0.1), (0.75, 0.25), (0.5, 0.5)])
def test_a_constant_p_sigmoid_is_fastv_to_the_token(r: float, b: float, tokens: int) -> None:
    ours, theirs = PSigmoid(b=b, k=0.0).keep_rates(12), FastV(k=2, r=r).keep_rates(12)
    assert token_counts(ours, tokens) == token_counts(theirs, tokens)
