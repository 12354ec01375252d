import hashlib
import json
from dataclasses import fields, replace

import pytest

from pruners.pruning import KeepSchedule, Pruning, Recovery
from pruners.rankers import parse_ranker
from studies.keys import key_content, key_of_content
from studies.records import EvaluationSettings

SETTINGS = EvaluationSettings()
ATTENTION = parse_ranker("attention:queries=last")


def schedule(*rates: float, **options: object) -> KeepSchedule:
    return KeepSchedule(keep_rates=rates, **options)


def pruning(*rates, ranker=ATTENTION, recovery=None, **options):
    return Pruning(ranker=ranker, schedule=schedule(*rates, **options), recovery=recovery)


def key(value=None, sizes=(144,), settings=SETTINGS, **changes):
    named = {
        "model_fingerprint": "m",
        "dataset_sha256": "d",
        "split": "search",
        "metric": "exact_match",
        **changes,
    }
    return key_of_content(key_content(**named, settings=settings, pruning=value, visual_tokens=sizes))


def test_a_key_is_a_sha256_that_never_changes():
    assert key(pruning(1, 1, 0)) == "b3a7b5e811309053249c90496308f4079fd62748eddf82e63ca49c4ed14a28ad"


#: Keys that databases out there hold, made before the content had a function of its own.
FULL = pruning(
    1,
    1,
    0.5,
    0.25,
    ranker=parse_ranker("topv:rho=0,sigma=1"),
    recovery=Recovery(every=4),
    position_ids="renumber",
)
KNOWN = {
    "f4b3af9e81e23e97e8fa38131be0e54838b37b1b76d9ffbed00bcb6dca738a2a": (FULL, (576, 144, 1)),
    "11a6c0ad726c5af78d6873ec69ad652902476a53056c36135b79f7283c7c89b7": (None, ()),
}


@pytest.mark.parametrize("known", KNOWN)
def test_known_keys_stay(known):
    assert key(*KNOWN[known]) == known


@pytest.mark.parametrize("case", KNOWN.values(), ids=["pruned", "unpruned"])
def test_the_content_is_json_whose_hash_is_the_key(case):
    value, sizes = case
    content = key_content("m", "d", "search", "exact_match", SETTINGS, value, sizes)
    assert json.loads(json.dumps(content)) == content
    text = json.dumps(content, sort_keys=True).encode()
    assert hashlib.sha256(text).hexdigest() == key_of_content(content) == key(value, sizes)


def test_the_content_says_every_part():
    content = key_content("m", "d", "search", "exact_match", SETTINGS, FULL, (8, 4, 8))
    effect = content.pop("pruning")
    assert content == {
        "evaluator": 2,
        "model": "m",
        "dataset": "d",
        "split": "search",
        "metric": "exact_match",
        "settings": {field.name: getattr(SETTINGS, field.name) for field in fields(SETTINGS)},
    }
    ranker = effect.pop("ranker")
    assert (ranker["type"], ranker["rho"], ranker["sigma"]) == ("topv", 0.0, 1.0)
    assert effect == {
        "tokens": {"4": [4, 4, 2, 1], "8": [8, 8, 4, 2]},
        "position_ids": "renumber",
        "recovery": {"every": 4},
    }


EQUAL = {
    "rates that round alike": (pruning(1, 0.5), pruning(1, 0.501)),
    "nearest and floor where they agree": (pruning(1, 0.5), pruning(1, 0.5, rounding="floor")),
    "at least, where more are kept anyway": (pruning(1, 0.5), pruning(1, 0.5, min_tokens=3)),
    "unpruned and nothing removed": (None, pruning(1, 1)),
    "unpruned and rates that round to all": (None, pruning(1, 0.999)),
    "unpruned and at least all": (None, pruning(1, 0.2, min_tokens=200)),
    "nothing removed, numbered again": (None, pruning(1, 1, position_ids="renumber")),
    "all or nothing under any ranker": (pruning(1, 0), pruning(1, 0, ranker=parse_ranker("random"))),
    "all or nothing with recovery": (pruning(1, 0), pruning(1, 0, recovery=Recovery(every=4))),
}


@pytest.mark.parametrize("case", EQUAL)
def test_equal_work_has_one_key(case):
    first, second = EQUAL[case]
    assert key(first) == key(second)


DIFFERENT = {
    "unpruned": None,
    "another count": pruning(1, 0.25),
    "another layer": pruning(0.5, 0.5),
    "another ranker": pruning(1, 0.5, ranker=parse_ranker("uniform")),
    "another query": pruning(1, 0.5, ranker=parse_ranker("attention:queries=all")),
    "a seed": pruning(1, 0.5, ranker=parse_ranker("random:seed=1")),
    "another seed": pruning(1, 0.5, ranker=parse_ranker("random:seed=2")),
    "recovery": pruning(1, 0.5, recovery=Recovery(every=4)),
    "rarer recovery": pruning(1, 0.5, recovery=Recovery(every=6)),
    "numbered again": pruning(1, 0.5, position_ids="renumber"),
    "withdrawn": pruning(1, 0),
    "withdrawn and numbered again": pruning(1, 0, position_ids="renumber"),
}


def test_different_work_has_different_keys():
    keys = [key(pruning(1, 0.5)), *map(key, DIFFERENT.values())]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", ["model_fingerprint", "dataset_sha256", "split", "metric"])
def test_what_is_evaluated_is_part_of_the_key(name):
    assert key(**{name: "other"}) != key()


@pytest.mark.parametrize("name", [field.name for field in fields(EvaluationSettings)])
def test_every_setting_is_part_of_the_key(name):
    value = getattr(SETTINGS, name)
    other = value + 1 if isinstance(value, int) else "other"
    assert key(settings=replace(SETTINGS, **{name: other})) != key()


def test_sizes_count_once_and_in_any_order():
    cut = pruning(1, 0.5)
    assert key(cut, sizes=(576, 144, 144)) == key(cut, sizes=(144, 576))
    assert key(cut, sizes=(144, 576)) != key(cut, sizes=(144,))
    assert key(pruning(1, 0.9999), sizes=(144, 576)) == key(sizes=(144, 576))
    assert key(pruning(1, 0.9999), sizes=(144, 5760)) != key(sizes=(144, 5760))
    assert key(pruning(1, 0.5), sizes=(0,)) == key(sizes=(0,))
