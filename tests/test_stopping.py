"""Early stopping: where it decides, and what counts as lost."""

from concurrent.futures import Future

import numpy as np
import pytest
import synthetic_study
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from studies.dominance import SLACK, FrontJudge
from studies.front import hypervolume
from studies.searches.g_search import GSearchOptions
from studies.searches.p_sigmoid import PSigmoidOptions
from studies.searches.pareto import ParetoOptions
from studies.searches.topv import TopvOptions
from studies.stopping import LEAST, WilcoxonJudge, checkpoints
from studies.trial_log import values_of

N = 64


def scores(rate: float, seed: int) -> list[float]:
    return (np.random.default_rng(seed).random(N) < rate).astype(float).tolist()


def judged(judge, ours, seen=3 * N // 4) -> bool:
    return judge(dict(enumerate(ours[:seen])))


@given(st.integers(1, 300))
def test_checkpoints_take_every_batch_once_in_a_fixed_order(batches: int) -> None:
    groups = checkpoints(batches)
    assert sorted(number for group in groups for number in group) == list(range(batches))
    assert groups == checkpoints(batches)
    assert all(groups)
    assert len(groups) <= 8
    # both ends and the middle of all come first
    assert {0, batches - 1, (batches - 1) // 2} <= set(groups[0])


@pytest.mark.parametrize("group", range(7))
def test_at_every_checkpoint_no_run_of_batches_is_missing(group: int) -> None:
    """Batches are formed by length: a kind of question may fill a run of them, and no others."""
    seen = sorted(number for some in checkpoints(64)[: group + 1] for number in some)
    assert max(np.diff([-1, *seen, 64])) <= 2 * 64 / (len(seen) - 1) + 1


def against(*members, stopped=(), wanted=float("inf")) -> FrontJudge:
    """Of a trial at FLOPs ratio 0.6, with a front whose first member costs 0.5, its second one 0.3."""
    return FrontJudge(0.6, list(zip((0.5, 0.3), members, strict=False)), stopped, wanted)


GOOD, EQUAL, BAD = scores(0.9, 0), scores(0.9, 1), scores(0.4, 2)


@pytest.mark.parametrize(
    ("judge", "ours", "lost"),
    [
        (against(GOOD), BAD, True),
        (against(GOOD), EQUAL, False),
        (against(GOOD), GOOD, False),
        (against(BAD), GOOD, False),
        # what it may still be adds little to the front, but it would be chosen
        (against(GOOD, wanted=0.45), BAD, False),
        # cheaper than all but a member that is worse than it
        (against(GOOD, BAD), EQUAL, False),
        # what may be lost is used up, but this one would not add anything
        (against(GOOD, stopped=[(0.4, 0.7)]), BAD, True),
        (WilcoxonJudge(GOOD, 0), BAD, True),
        (WilcoxonJudge(GOOD, 0), EQUAL, False),
        (WilcoxonJudge(GOOD, 0), GOOD, False),
        (WilcoxonJudge(BAD, 0), GOOD, False),
        # a price that the rival does not pay, and one that it pays
        (WilcoxonJudge(GOOD, 0.9), EQUAL, True),
        (WilcoxonJudge(GOOD, -0.9), BAD, False),
    ],
)
def test_who_has_lost(judge, ours, lost) -> None:
    assert judged(judge, ours) is lost


def test_a_stopped_trial_counts_as_dominated() -> None:
    """Whatever is predicted of it: a sampler must not take it for a member of the front."""
    seen = dict(enumerate(GOOD[: N // 2]))
    assert against(BAD, GOOD).estimate(seen) == pytest.approx(np.mean(GOOD), abs=0.03)
    assert against(BAD).estimate(seen) == np.mean(BAD)


@given(st.integers(0, 1000))
def test_all_that_is_stopped_could_add_next_to_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rates = np.linspace(0.1, 0.9, 9)
    front = [(rate, scores(0.5 + 0.4 * rate, seed + n)) for n, rate in enumerate(rates)]
    points = [(ratio, float(np.mean(made))) for ratio, made in front]
    volume, stopped = hypervolume(points), []
    for number in range(40):
        ratio = rng.uniform(0.1, 1)
        judge = FrontJudge(ratio, front, stopped, float("inf"))
        seen = dict(enumerate(scores(rng.uniform(0.3, 0.7) + 0.2 * ratio, 100 + number)[: N // 2]))
        if judge(seen):
            stopped.append((ratio, judge.bound(seen)))
    assert stopped
    assert hypervolume([*points, *stopped]) <= (1 + SLACK) * volume


def test_a_small_price_makes_no_evidence_of_ties() -> None:
    """A dearer trial that answers as the rival does, but for two samples more, has not lost."""
    rival = [1.0] * 56 + [0.0] * 8
    ours = [1.0] * 58 + [0.0] * 6
    assert not judged(WilcoxonJudge(rival, 0.0025), ours)


@pytest.mark.parametrize("shift", [0.0, 0.25])
def test_the_estimate_does_not_depend_on_how_hard_the_first_samples_are(shift: float) -> None:
    rival = np.linspace(0, 1, N)
    ours = np.clip(rival - 0.1, 0, 1)
    start = int(shift * N) + 16
    seen = {n: float(ours[n]) for n in range(start, start + 16)}
    assert WilcoxonJudge(rival.tolist()).estimate(seen) == pytest.approx(rival.mean() - 0.1)


@pytest.mark.parametrize("judge", [against([1.0] * N), WilcoxonJudge([1.0] * N, 0)])
def test_few_samples_decide_nothing(judge) -> None:
    assert not judged(judge, [0.0] * N, LEAST - 1)
    assert judged(judge, [0.0] * N, LEAST + 1)


BATCH = 8


class Patient(synthetic_study.SyntheticEvaluator):
    """Evaluates batch by batch, as the workers do; counts the samples that it looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.samples = 0

    def __call__(self, pruning):
        before = self.calls
        made = super().__call__(pruning)
        self.samples += len(made.scores) * (self.calls - before)
        return made

    def until(self, pruning, judge):
        if synthetic_study.key_of(pruning) in self.memory:
            return self(pruning)
        scores = synthetic_study.evaluate(pruning).scores
        batches = [range(start, min(start + BATCH, len(scores))) for start in range(0, len(scores), BATCH)]
        seen: dict[int, float] = {}
        for group in checkpoints(len(batches)):
            seen.update({n: scores[n] for batch in group for n in batches[batch]})
            if judge(seen):
                break
        if len(seen) == len(scores):
            return self(pruning)
        self.samples += len(seen)
        return judge.stopped(seen, 1.0)


def at_once(evaluate, until):
    """What `Context.begin` is, without waiting for anybody."""

    def begin(pruning, judge):
        future = Future()
        future.set_result(evaluate(pruning) if judge is None else until(pruning, judge))
        return future

    return begin


def searched(options, early: bool, **changes):
    evaluator = Patient()
    options = options.model_copy(update={"early_stopping": early})
    given = {"evaluate": evaluator, "begin": at_once(evaluator, evaluator.until)}
    return synthetic_study.search(options, **given | changes), evaluator


@pytest.fixture
def many_samples(monkeypatch):
    monkeypatch.setattr(synthetic_study, "SAMPLES", [(synthetic_study.VISUAL, 7)] * 300 + [(16, 5)] * 100)


@pytest.mark.parametrize(
    "options",
    [
        GSearchOptions(trials=10, sampler="random"),
        PSigmoidOptions(trials=12, sampler="tpe"),
        TopvOptions(trials=12, sampler="tpe"),
    ],
    ids=lambda options: options.method,
)
@pytest.mark.usefixtures("many_samples")
def test_the_same_schedule_wins(options) -> None:
    (whole, everything), (early, less) = searched(options, False), searched(options, True)
    assert less.samples < everything.samples
    assert set(early.recommended) == set(whole.recommended)
    for label, found in early.recommended.items():
        assert found.accuracy == pytest.approx(whole.recommended[label].accuracy, abs=0.0051)
    if options.sampler == "random":
        # the proposals do not depend on what was told, so the winners are the very same
        assert {label: m.key for label, m in early.recommended.items()} == {
            label: m.key for label, m in whole.recommended.items()
        }


@pytest.mark.usefixtures("many_samples")
def test_a_front_is_as_good_for_less() -> None:
    options = ParetoOptions(trials=100, seed=1)
    (whole, everything), (early, less) = searched(options, False), searched(options, True)
    volumes = [hypervolume([measured.point for measured in made.main]) for made in (early, whole)]
    assert volumes[0] == pytest.approx(volumes[1], rel=0.005)
    assert less.samples < 0.7 * everything.samples
    stopped = [t for t in early.main.trials_of("pareto") if t.state == TrialState.PRUNED]
    assert len(stopped) > 20
    # a stopped trial has no values, counts as a trial, and is never proposed again
    keys = [trial.user_attrs["key"] for trial in early.main.trials_of("pareto")]
    assert len(keys) == len(set(keys)) == 100
    assert all(trial.values is None and 0 < trial.user_attrs["samples"] < 400 for trial in stopped)


@pytest.mark.usefixtures("many_samples")
def test_a_study_that_was_interrupted_goes_on_alike() -> None:
    options = ParetoOptions(trials=40, seed=3, early_stopping=True)
    whole, _ = searched(options, True)
    storage = InMemoryStorage()
    for _ in range(4):
        evaluator = Patient()
        patience = iter(range(11))

        def until(pruning, judge, evaluator=evaluator, patience=patience):
            if next(patience, None) is None:
                raise KeyboardInterrupt
            return evaluator.until(pruning, judge)

        try:
            context, _ = searched(
                options, True, storage=storage, evaluate=evaluator, begin=at_once(evaluator, until)
            )
            break
        except KeyboardInterrupt:
            continue

    def trials(context):
        return [(t.state, t.user_attrs["key"], values_of(t)) for t in context.main.trials_of("pareto")]

    assert trials(context) == trials(whole)


def test_nothing_is_stopped_unless_asked_for() -> None:
    def never(pruning, judge):
        raise AssertionError("asked to judge")

    synthetic_study.search(ParetoOptions(trials=12), begin=at_once(synthetic_study.evaluate, never))
