"""Pruned models against unpruned ones with masks: the logits, and the kept sets themselves."""

from typing import Any

import pytest
import torch
from cases import CASES, case
from cases import pruning as pruning_of
from eager_oracle import Choice, choose, masked_run, rows_of
from oracle_models import MODELS, inputs_for, model_for
from tiny_models import Question, batch
from torch import Tensor

from pruners import pruned
from pruners.pruning import Pruning
from pruners.trace import Trace

#: the cases in which scores decide; the cut of vtw leaves nothing to choose
RANKED = [
    name
    for name, values in CASES.items()
    if values["ranker"] not in ("random", "uniform") and values["schedule"] != "vtw"
]
#: a cut whose last chosen score is nearer than this to the first one left may fall either way
GAP = 1e-6


def run_pruned(model: Any, pruning: Pruning, inputs: dict[str, Tensor]) -> tuple[Tensor, Trace]:
    with torch.no_grad(), pruned(model, pruning) as handle:
        logits = model(**inputs).logits
    return logits, handle.trace


def renumbered(pruning: Pruning, inputs: dict[str, Tensor]) -> int:
    """How many places take positions without gaps."""
    return inputs["input_ids"].shape[1] if pruning.schedule.position_ids == "renumber" else 0


def kept_lists(trace: Trace) -> list[list[list[int]]]:
    return [[places.tolist() for places in layer] for layer in trace.kept]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("model_name", MODELS)
def test_logits_equal_a_masked_unpruned_model(model_name: str, name: str) -> None:
    model = model_for(model_name)
    pruning = case(name, len(model.get_decoder().layers))
    for inputs in inputs_for(model_name).values():
        logits, trace = run_pruned(model, pruning, inputs)
        oracle = masked_run(model, inputs, kept_lists(trace), renumbered(pruning, inputs))
        assert logits.shape[1] == max(len(places) for places in trace.kept[-1])
        for sample, places in enumerate(trace.kept[-1]):
            found = logits[sample, trace.rows(sample, places)]
            torch.testing.assert_close(found, oracle.logits[sample, places], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", RANKED)
@pytest.mark.parametrize("model_name", MODELS)
def test_kept_sets_are_the_best_by_scores_of_an_eager_run(model_name: str, name: str) -> None:
    model = model_for(model_name)
    pruning = case(name, len(model.get_decoder().layers))
    clear = 0
    for inputs in inputs_for(model_name).values():
        _, trace = run_pruned(model, pruning, inputs)
        for ours, choice in choices(model, pruning, inputs, kept_lists(trace)):
            if choice.gap >= GAP:
                assert ours == choice.kept
                clear += 1
            elif pruning.recovery is None and choice.margin >= GAP:
                assert_no_clear_mistake(ours, choice)
    assert clear >= 3


@pytest.mark.parametrize("queries", ["last", "instruction"])
def test_where_a_prompt_ends_with_its_image_the_last_token_that_is_left_votes(queries: str) -> None:
    model, pruning = model_for("gqa"), pruning_of(f"attention:queries={queries}", "pdrop")
    inputs = batch(model, (Question((3, 0)), Question((2, 1, 0), images=2)), seed=0)
    kept = kept_lists(run_pruned(model, pruning, inputs)[1])
    ends = [inputs["input_ids"].shape[1] - 1 in places for places in kept[1]]
    assert not all(ends)
    for ours, choice in choices(model, pruning, inputs, kept):
        assert choice.gap > GAP
        assert ours == choice.kept


def assert_no_clear_mistake(ours: list[int], choice: Choice) -> None:
    """Of a cut between equals, tokens that are clearly above it are kept, and clearly below it are not."""
    best_left = max(score for token, score in choice.scores.items() if token not in choice.kept)
    worst_kept = min(choice.scores[token] for token in choice.kept)
    assert all(choice.scores[token] > worst_kept - GAP for token in ours)
    assert all(token in ours for token, score in choice.scores.items() if score > best_left + GAP)


def choices(model: Any, pruning: Pruning, inputs: dict[str, Tensor], kept: list[list[list[int]]]) -> Any:
    """For every reduction of every sample: the visual tokens that were kept, and the oracle's choice."""
    renumber = renumbered(pruning, inputs)
    rows = rows_of(model, inputs)
    seen = [[row.prompt for row in rows], *kept]
    for layer in range(len(kept)):
        # before the reduction at this layer, deeper layers would see what the layer above sees
        so_far = kept[:layer] + [seen[layer]] * (len(kept) - layer)
        run = None
        for row in rows:
            before, after = (
                [place for place in seen[at][row.number] if place in set(row.visual)]
                for at in (layer, layer + 1)
            )
            assert sorted(after + row.text) == kept[layer][row.number]
            count = pruning.schedule.counts(len(row.visual))[layer]
            assert len(after) == count
            if 0 < count < len(before):
                run = run or masked_run(model, inputs, so_far, renumber)
                yield after, choose(pruning, run, layer, row, before, count)
