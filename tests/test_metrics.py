import math

import pytest

from studies.errors import MetricError
from studies.metrics import METRICS, make_metric, normalise


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("  The Red\tCar. ", "red car"),
        ("red-blue!", "red blue"),
        ("It's", "its"),
        ("A", "a"),
        ("the", "the"),
        ("an apple", "apple"),
        ("3.50", "3.50"),
        ("1,000", "1,000"),
        ("12:30.", "12:30"),
        ("-1", "-1"),
        ("$ .5", ".5"),
        ("3-5", "3 5"),
        ("ｒｅｄ", "red"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("?", "?"),
        ("कि", "कि"),
        ("", ""),
    ],
)
def test_normalise(text, meaning):
    assert normalise(text) == meaning
    assert normalise(meaning) == meaning


@pytest.mark.parametrize(
    ("name", "prediction", "answers", "kl", "score"),
    [
        ("exact_match", "The red.", ("blue", "RED"), 0.0, 1.0),
        ("exact_match", "", ("A",), 0.0, 0.0),
        ("exact_match", "35", ("3.5",), 0.0, 0.0),
        ("exact_match", "red car", ("red",), 0.0, 0.0),
        ("choice", "red", ("red", "crimson"), 0.0, 1.0),
        ("choice", "Red", ("red",), 0.0, 0.0),
        ("anls", "Hello  World", ("hello world",), 0.0, 1.0),
        ("anls", "helo world", ("nothing", "hello world"), 0.0, 10 / 11),
        ("anls", "kitten", ("sitting",), 0.0, 4 / 7),
        ("anls", "ab", ("ac",), 0.0, 0.0),
        ("anls", "", ("a",), 0.0, 0.0),
        ("relaxed", "95", ("100",), 0.0, 1.0),
        ("relaxed", "94.9", ("100",), 0.0, 0.0),
        ("relaxed", "1,050%", ("x", "1000"), 0.0, 1.0),
        ("relaxed", "-100", ("100",), 0.0, 0.0),
        ("relaxed", "inf", ("inf",), 0.0, 1.0),
        ("relaxed", "inf", ("5",), 0.0, 0.0),
        ("relaxed", "Red.", ("red",), 0.0, 1.0),
        ("fidelity", "anything", (), 0.0, 1.0),
        ("fidelity", "anything", (), math.log(2), 0.5),
        ("fidelity", "anything", (), 5000.0, 0.0),
    ],
)
def test_scores(name, prediction, answers, kl, score):
    assert make_metric(name).score(prediction, answers, kl) == pytest.approx(score)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_has_its_name_and_aggregates_to_the_mean(name):
    metric = make_metric(name)
    assert metric.name == name
    assert metric.reads in ("text", "choices", "reference")
    assert metric.aggregate([1.0, 0.0, 0.0, 1.0]) == 0.5
    with pytest.raises(MetricError, match="of no samples is undefined"):
        metric.aggregate([])


def test_an_unknown_metric_suggests_the_nearest():
    with pytest.raises(MetricError, match=r"unknown metric 'exactmatch' \(did you mean 'exact_match'\?\)"):
        make_metric("exactmatch")
    with pytest.raises(MetricError, match="known: anls, choice, exact_match, fidelity, relaxed"):
        make_metric("zzz")
