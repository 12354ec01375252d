"""What is timed, in which order, and what the ratios mean."""

from contextlib import contextmanager
from typing import Any

import pytest
import torch
from cases import pruning
from tiny_models import ONE, batch, tiny_llava

from searchsvc import speed
from searchsvc.speed import DECODED, Run, measure, ratios, side_by_side, take_turns, unpruned
from studies.intervals import median_interval


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llava()


def test_a_run_is_one_prefill_and_the_decoding_after_it(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock moves by one second per forward, so the run says which forwards it counted."""
    seconds = [0.0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: seconds[0])

    def tick(*_: Any) -> None:
        seconds[0] += 1.0

    with model.register_forward_hook(tick):
        run = measure(model, batch(model, ONE), unpruned)
    assert run == Run(prefill=1.0, decode=1.0)
    assert seconds[0] == 1 + DECODED


def test_ways_take_turns_in_changing_order(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def way(name: str) -> Any:
        return lambda: order.append(name)

    monkeypatch.setattr(speed, "measure", lambda _model, _inputs, way: way())
    runs = take_turns(None, {}, {"a": way("a"), "b": way("b")}, 3)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert {name: len(taken) for name, taken in runs.items()} == {"a": 3, "b": 3}


def test_ratios_are_taken_round_by_round() -> None:
    """Rounds differ tenfold in how busy the machine is; each one's ratio is the same."""
    others = [Run(prefill=1.0 * busy, decode=2.0 * busy) for busy in (1, 10, 2, 7, 3, 5)]
    ours = [Run(prefill=run.prefill / 2, decode=run.decode / 4) for run in others]
    found = ratios(ours, others)
    assert found == {
        "prefill_ratio": 0.5, "prefill_interval_95": [0.5, 0.5], "decode_ratio": 0.25, "decode_interval_95": [0.25, 0.25],
    }  # fmt: skip


def test_side_by_side_undoes_the_pruning(model: Any) -> None:
    inputs = batch(model, ONE)
    with torch.no_grad():
        before = model(**inputs).logits
        found = side_by_side(model, inputs, pruning("attention", "pdrop"), rounds=2)
        assert torch.equal(model(**inputs).logits, before)
    assert found["batch_size"] == 1
    assert found["pruned"]["prefill_ms"] > 0
    assert found["prefill_interval_95"][0] <= found["prefill_ratio"] <= found["prefill_interval_95"][1]


def test_the_way_is_entered_before_the_clock_starts(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [0.0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: seconds[0])

    @contextmanager
    def slow_to_enter() -> Any:
        seconds[0] += 100
        yield
        seconds[0] += 100

    assert measure(model, batch(model, ONE), slow_to_enter) == Run(prefill=0.0, decode=0.0)


@pytest.mark.parametrize(
    ("n", "low", "high", "level"),
    [(1, 0, 0, 0.0), (5, 0, 4, 0.9375), (6, 0, 5, 0.96875), (15, 3, 11, 0.9648)],
)
def test_the_median_lies_between_two_of_the_values(n: int, low: int, high: int, level: float) -> None:
    """The tabled ranks of the sign test: 4th and 12th of 15."""
    found = median_interval(list(reversed(range(n))))
    assert (found.low, found.high) == (low, high)
    assert found.level == pytest.approx(level, abs=1e-4)
    assert found.estimate == (n - 1) / 2


def test_no_values_have_no_median() -> None:
    with pytest.raises(ValueError, match="at least one"):
        median_interval([])
