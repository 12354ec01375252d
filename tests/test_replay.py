"""Replay: a prefill that goes on from another one's snapshot gives its numbers bit for bit."""

import gc
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_evaluator import SETTINGS, run_all
from test_evaluator import samples as samples
from test_evaluator import vlm as vlm
from zoo import ARCHITECTURES, LAYERS, ONE, batch, model_for

from pruners import Pruning, pruned
from pruners.families import describe
from pruners.pruning import KeepSchedule, Recovery
from pruners.rankers import parse_ranker
from pruners.replay import Snapshot, replayed
from studies.evaluator import PlainEvaluator, ReplayEvaluator
from studies.memory import snapshot_memory
from studies.replay import SnapshotStore

PLENTY = 2**30
RANKERS = (
    *("attention:queries=last", "attention:queries=instruction", "attention:queries=all"),
    *("attention:queries=last,score_layer=next", "topv", "knorm", "divprune", "dart", "random", "uniform"),
)
#: as searches ask: a curve, its tail changed, another ranker on it, the same again, one that begins later
SEQUENCE = (
    ("attention:queries=last", (1, 1, 0.75, 0.75, 0.5, 0.2)),
    ("attention:queries=last", (1, 1, 0.75, 0.75, 0.25, 0.25)),
    ("attention:queries=last", (1, 1, 0.75, 0.75, 0.25, 0)),
    ("topv", (1, 1, 0.75, 0.75, 0.25, 0)),
    ("topv", (1, 1, 0.75, 0.5, 0.25, 0)),
    ("knorm", (1, 1, 1, 0.5, 0.5, 0.25)),
    ("knorm", (1, 1, 1, 0.5, 0.25, 0.25)),
    ("attention:queries=instruction", (1, 1, 1, 0.5, 0.25, 0.25)),
    ("attention:queries=last,score_layer=next", (1, 1, 0.75, 0.5, 0.25, 0.25)),
    ("attention:queries=last", (1, 1, 0.75, 0.75, 0.5, 0.2)),
)


def cut(ranker: str, rates: tuple[float, ...], **options: Any) -> Pruning:
    return Pruning(ranker=parse_ranker(ranker), schedule=KeepSchedule(keep_rates=rates), **options)


@contextmanager
def layer_runs(model: Any) -> Iterator[Counter[int]]:
    """How often each decoder layer's attention ran on more than one token."""
    runs: Counter[int] = Counter()

    def count(number: int, hidden: Any) -> None:
        runs[number] += hidden.shape[1] > 1

    layers = describe(model).layers
    hooks = [
        layer.self_attn.register_forward_pre_hook(
            lambda _, args, kwargs, n=n: count(n, args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
        for n, layer in enumerate(layers)
    ]
    try:
        yield runs
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_replays_bit_for_bit(name: str) -> None:
    model, kind = model_for(name), ARCHITECTURES[name]
    first = describe(model).traits.first_prunable
    for inputs in (batch(name, ONE), batch(name, kind.mixed), batch(name, kind.mixed, "right")):
        snapshots = SnapshotStore(PLENTY).of(0)
        with layer_runs(model) as runs, torch.no_grad():
            for ranker, rates in SEQUENCE:
                pruning = cut(ranker, tuple(1 if n < first else rate for n, rate in enumerate(rates)))
                before = runs.total()
                with pruned(model, pruning) as handle:
                    expected, kept = model(**inputs).logits, handle.trace.kept
                whole = runs.total() - before
                with replayed(model, pruning, snapshots) as handle:
                    found, trace = model(**inputs).logits, handle.trace
                assert torch.equal(found, expected)
                assert all(map(torch.equal, sum(trace.kept, ()), sum(kept, ())))
                replay = runs.total() - before - whole
                assert replay <= whole
        assert "forward" not in vars(describe(model).layers[0])
        # the last pruning is the first one again: only its tail runs
        assert replay < whole


@pytest.mark.parametrize("name", ["llava-llama", "gemma3", "qwen2-vl", "qwen3-vl", "internvl-qwen2"])
def test_generation_goes_on_from_a_replayed_cache(name: str) -> None:
    model, inputs = model_for(name), batch(name, ONE)
    options = {"max_new_tokens": 4, "do_sample": False, "output_logits": True}
    options |= {"return_dict_in_generate": True, "eos_token_id": None}
    snapshots = SnapshotStore(PLENTY).of(0)
    for ranker, rates in SEQUENCE:
        pruning = cut(ranker, tuple(1 if n < 3 else rate for n, rate in enumerate(rates)))
        with pruned(model, pruning):
            expected = model.generate(**inputs, **options)
        with replayed(model, pruning, snapshots):
            found = model.generate(**inputs, **options)
        assert torch.equal(found.sequences, expected.sequences)
        assert all(map(torch.equal, found.logits, expected.logits))


PRUNINGS = st.builds(
    lambda ranker, falls, every: cut(
        ranker, (1, 1, *sorted(falls, reverse=True)), recovery=every and Recovery(every=every)
    ),
    st.sampled_from(RANKERS),
    st.lists(st.sampled_from((0, 0.25, 0.5, 0.75, 1)), min_size=LAYERS - 2, max_size=LAYERS - 2),
    st.sampled_from((None, 3)),
)


@given(st.lists(PRUNINGS, min_size=2, max_size=8), st.sampled_from((0, 20_000, 60_000, PLENTY)))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_sequence_replays_bit_for_bit(prunings: list[Pruning], limit: int) -> None:
    name = "llava-llama"
    model, inputs = model_for(name), batch(name, ARCHITECTURES[name].mixed)
    store = SnapshotStore(limit)
    for pruning in prunings:
        store.next_turn()
        with torch.no_grad():
            with pruned(model, pruning):
                expected = model(**inputs).logits
            with replayed(model, pruning, store.of(0)):
                found = model(**inputs).logits
        assert torch.equal(found, expected)
        assert store.held <= limit


@pytest.mark.parametrize("metric", ["exact_match", "choice", "fidelity"])
@pytest.mark.parametrize("limit", [0, 30_000, PLENTY])
def test_records_equal_the_plain_evaluators(vlm: Any, samples: Any, metric: str, limit: int) -> None:
    if metric == "choice":
        samples = [
            type(sample)(**{**vars(sample), "choices": ("red", "blue green", "one two three")})
            for sample in samples
        ]
    given = (vlm.model, vlm.processor, samples, metric, SETTINGS)
    plain, replay = PlainEvaluator(*given), ReplayEvaluator(*given, cache_memory=limit)
    for ranker, rates in (*SEQUENCE, *((each, SEQUENCE[1][1]) for each in RANKERS)):
        pruning = cut(ranker, rates[:5])
        expected, found = run_all(plain, pruning), run_all(replay, pruning)
        assert found == expected
        assert replay.snapshots.held <= limit
    assert run_all(replay, None) == run_all(plain, None)


def test_a_search_layer_by_layer_runs_what_changes(vlm: Any, samples: Any) -> None:
    """Trials of one layer run from that layer on; the first two of them bring the snapshot there."""
    made = ReplayEvaluator(vlm.model, vlm.processor, samples, "exact_match", SETTINGS, cache_memory=PLENTY)
    run_all(made, None)
    batches, depth, per_layer = len(made.batches), 5, 6
    fixed: tuple[float, ...] = (1, 1)
    for layer in range(2, depth):
        trials = [(*fixed, *[step / 16] * (depth - layer)) for step in range(16 - layer, 10 - layer, -1)]
        with layer_runs(vlm.model) as runs:
            for rates in trials:
                run_all(made, cut("attention:queries=last", rates))
        expected = {n: batches * (per_layer if n >= layer else 0) for n in range(depth)}
        # one more layer until it is known where the trials part; at first all layers before
        extra = batches * (1 if layer == 2 else 2)
        assert all(expected[n] <= runs[n] <= expected[n] + extra for n in range(depth)), runs
        assert all(runs[n] == 0 for n in range(layer - 1) if layer > 2)
        fixed = (*fixed, trials[0][layer])


def test_snapshots_that_are_not_used_make_room(vlm: Any, samples: Any) -> None:
    given = (vlm.model, vlm.processor, samples, "exact_match", SETTINGS)
    made = ReplayEvaluator(*given, cache_memory=PLENTY)
    run_all(made, cut("uniform", (1, 1, 1, 0.5, 0.5)))
    one = made.snapshots.held
    small = ReplayEvaluator(*given, cache_memory=one)
    for rates in ((1, 1, 1, 0.5, 0.5), (1, 1, 0.5, 0.5, 0.5), (1, 1, 0.5, 0.25, 0.25), (1, 1, 0.5, 0.25, 0)):
        run_all(small, cut("uniform", rates))
    assert 0 < small.snapshots.held <= one
    assert small.snapshots.declined
    with layer_runs(vlm.model) as runs:
        run_all(small, cut("uniform", (1, 1, 0.5, 0.25, 0.125)))
    assert runs[1] == 0


def test_running_out_of_memory_gives_snapshots_up(vlm: Any, samples: Any, monkeypatch: Any) -> None:
    given = (vlm.model, vlm.processor, samples, "exact_match", SETTINGS)
    plain, made = PlainEvaluator(*given), ReplayEvaluator(*given, cache_memory=PLENTY)
    first, second = (cut("knorm", (1, 1, 0.5, rate, rate)) for rate in (0.5, 0.25))
    run_all(made, first)
    assert made.snapshots.held
    generate, failures = type(vlm.model).generate, [torch.OutOfMemoryError("device")]

    def short_of_memory(model: Any, **arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return generate(model, **arguments)

    monkeypatch.setattr(type(vlm.model), "generate", short_of_memory)
    assert run_all(made, second) == run_all(plain, second)
    assert made.snapshots.limit == PLENTY // 2
    # also where it is the unpruned run that fails
    fresh = ReplayEvaluator(*given, cache_memory=PLENTY)
    fresh.run(0, first)
    failures.append(torch.OutOfMemoryError("device"))
    last = len(fresh.batches) - 1
    assert last > 0
    assert fresh.run(last, first) == plain.run(last, first)
    made.snapshots.clear()
    failures.append(torch.OutOfMemoryError("device"))
    with pytest.raises(torch.OutOfMemoryError):
        made.run(0, first)


def test_nothing_but_the_snapshots_outlives_a_call() -> None:
    """A cycle would hold the last call's cache until Python collects garbage, which may be late for a GPU."""
    model, inputs, snapshots = model_for("llava-llama"), batch("llava-llama", ONE), SnapshotStore(0).of(0)
    gc.collect()
    gc.disable()
    try:
        with replayed(model, cut("knorm", SEQUENCE[0][1]), snapshots) as handle:
            model.generate(**inputs, max_new_tokens=2)
        gone = weakref.ref(handle)
        del handle
        assert gone() is None
    finally:
        gc.enable()


def test_a_view_counts_what_it_keeps_from_being_freed() -> None:
    whole = torch.zeros(1, 100, 8)
    kept = Snapshot(1, None, whole[:, :10], (), (), {"again": whole[:, 10:20]})
    assert kept.nbytes == whole.nbytes


def test_default_memory_is_a_share_of_what_is_free() -> None:
    one, four = (snapshot_memory(torch.device("cpu"), workers) for workers in (1, 4))
    assert 0 < four < one < psutil.virtual_memory().total
