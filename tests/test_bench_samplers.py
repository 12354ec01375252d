"""bench/samplers.py: the recorded problems say what they hold, and trials are counted right."""

import json

import pytest

from bench.problems import FILE, Problem, read
from bench.samplers import TOLERANCE, search

#: best n, and every n within the tolerance
KNOWN = {
    "attention:queries=instruction, layer 7": (54, [54]),
    "attention:queries=instruction, layer 8, every 3rd": (31, [31, 32, 33, 34, 35, 36]),
    "uniform, layer 2": (41, [41]),
    "uniform, layer 10": (21, [21]),
    "divprune, layer 6": (5, [5, 8, 9]),
}


def test_the_recorded_problems_hold_every_number_and_their_optimum() -> None:
    content, problems = json.loads(FILE.read_text()), read()
    assert (content["samples"], content["visual_tokens"], len(content["fingerprint"])) == (128, 144, 64)
    assert [problem.name for problem in problems] == list(KNOWN)
    for problem in problems:
        best, good = KNOWN[problem.name]
        assert len(problem.kept) == problem.layer
        assert problem.most == problem.kept[-1]
        assert max(problem.values) == problem.values[best]
        assert problem.good(TOLERANCE) == good


def made(correct: tuple[int, ...]) -> Problem:
    return Problem(
        ranker="uniform",
        stride=1,
        layer=2,
        kept=(len(correct) - 1,) * 2,
        correct=correct,
        samples=100,
        visual_tokens=len(correct) - 1,
        penalty=0.05,
    )


@pytest.mark.parametrize(("best", "trials"), [(20, 1), (0, 2)])
def test_both_ends_are_tried_first(best: int, trials: int) -> None:
    problem = made(tuple(90 if n == best else 10 for n in range(21)))
    assert search(problem, "random", seed=0).trials == trials


@pytest.mark.parametrize("sampler", ["random", "brute-force"])
def test_nothing_is_tried_twice_and_all_is_found_in_the_end(sampler: str) -> None:
    problem = made(tuple(90 if n == 13 else 10 for n in range(21)))
    runs = [search(problem, sampler, seed) for seed in range(8)]
    for run in runs:
        assert len(set(run.tried)) == len(run.tried)
        assert run.tried[-1] == 13
        assert 13 not in run.tried[:-1]
        assert run.trials == len(run.tried) <= 21
    assert len({run.tried for run in runs}) > 1


def test_what_nobody_can_find_is_never_found() -> None:
    problem = made(tuple(range(21)))
    run = search(problem, "random", seed=0, tolerance=-1)
    assert (len(run.tried), run.trials) == (21, float("inf"))
