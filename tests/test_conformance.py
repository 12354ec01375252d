"""One contract for every architecture and ranker: what a pruned model computes, and what it leaves alone."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from masked_forward import decoder_of, masked_forward
from model_state import same, state_of
from torch import Tensor
from zoo import (
    ADJACENT,
    ARCHITECTURES,
    IMAGE,
    LAYERS,
    ONE,
    SINGLE,
    VOCABULARY,
    answered,
    batch,
    model_for,
    single,
)

from pruners import Pruning, pruned
from pruners.families import describe
from pruners.pruning import KeepSchedule
from pruners.rankers import parse_ranker
from pruners.trace import Trace

RANKERS = ("attention:queries=last", "attention:queries=instruction", "topv", "random")
MORE_RANKERS = (*RANKERS, "attention:queries=all", "attention:queries=last,score_layer=next", "uniform")
RATES = (1, 1, 0.75, 0.5, 0.5, 0.2)
STEPS = 4
#: models that count positions, windows or directions in ways of their own
OWN_WAYS = ("llava-llama", "llava-mistral", "llava-qwen2", "gemma3", "paligemma", "qwen2-vl", "glm4v")
#: a cut whose last chosen score is nearer than this to the first one left may fall either way
GAP = 1e-6

FROM_LAYER_0 = Pruning(ranker=parse_ranker("random"), schedule=KeepSchedule(keep_rates=(0.75, *RATES[2:], 0)))


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def pruning_for(name: str, ranker: str, rates: tuple[float, ...] = RATES) -> Pruning:
    """Rates that leave the layers alone into which the model injects visual features."""
    whole = describe(model_for(name)).traits.first_prunable
    rates = tuple(1 if layer < whole else rate for layer, rate in enumerate(rates))
    return Pruning(ranker=parse_ranker(ranker), schedule=KeepSchedule(keep_rates=rates))


def inputs_for(name: str) -> dict[str, dict[str, Tensor]]:
    mixed = ARCHITECTURES[name].mixed
    inputs = {"one": batch(name, ONE), "left": batch(name, mixed), "right": batch(name, mixed, "right")}
    return inputs if mixed is SINGLE else inputs | {"adjacent": batch(name, ADJACENT)}


def kept_lists(trace: Trace) -> list[list[list[int]]]:
    return [[places.tolist() for places in layer] for layer in trace.kept]


def assert_near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def run(name: str, cut: Pruning, inputs: dict[str, Tensor]) -> tuple[Tensor, Trace]:
    model = model_for(name)
    with pruned(model, cut) as handle:
        return model(**inputs).logits, handle.trace


@pytest.mark.parametrize("ranker", MORE_RANKERS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logits_equal_the_masked_unpruned_model(name: str, ranker: str) -> None:
    cut = pruning_for(name, ranker)
    for inputs in inputs_for(name).values():
        logits, trace = run(name, cut, inputs)
        expected = masked_forward(model_for(name), inputs, kept_lists(trace)).logits
        assert logits.shape[1] == max(len(places) for places in trace.kept[-1])
        for sample, places in enumerate(trace.kept[-1]):
            assert_near(logits[sample, trace.rows(sample, places)], expected[sample, places])


@pytest.mark.parametrize("ranker", RANKERS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_counts_are_exact_and_text_stays(name: str, ranker: str) -> None:
    cut = pruning_for(name, ranker)
    for inputs in inputs_for(name).values():
        _, trace = run(name, cut, inputs)
        for sample, (ids, mask) in enumerate(
            zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True)
        ):
            visual = mask & (ids == ARCHITECTURES[name].placeholder)
            text = set((mask & ~visual).nonzero()[:, 0].tolist())
            counts = cut.schedule.counts(int(visual.sum()))
            for layer, count in enumerate(counts):
                places = trace.kept[layer][sample].tolist()
                assert places == sorted(places)
                assert text <= set(places)
                assert int(visual[places].sum()) == count == len(places) - len(text)


@pytest.mark.parametrize("ranker", ["attention:queries=last", "attention:queries=instruction"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_kept_tokens_have_the_highest_scores_of_an_eager_run(name: str, ranker: str) -> None:
    cut, clear = pruning_for(name, ranker), 0
    for inputs in inputs_for(name).values():
        kept = kept_lists(run(name, cut, inputs)[1])
        visual = inputs["input_ids"] == ARCHITECTURES[name].placeholder
        for layer in range(1, LAYERS):
            if kept[layer] == kept[layer - 1]:
                continue
            so_far = kept[:layer] + [kept[layer - 1]] * (LAYERS - layer)
            eager = masked_forward(model_for(name), inputs, so_far)
            for sample, row in enumerate(kept[0]):
                images = [place for place in row if visual[sample, place]]
                scores = eager.received(layer - 1, sample, voters_of(ranker, row, images))
                clear += is_clear_choice(scores, kept[layer - 1][sample], kept[layer][sample], images)
    assert clear >= 3


def is_clear_choice(scores: list[float], before: list[int], after: list[int], images: list[int]) -> bool:
    """Whether the worst image token that stays is above the best that leaves; never below it."""
    left = [scores[place] for place in images if place in before and place not in after]
    stay = [scores[place] for place in images if place in after]
    if not left or not stay:
        return False
    assert min(stay) >= max(left) - GAP
    return min(stay) > max(left) + GAP


def voters_of(ranker: str, row: list[int], images: list[int]) -> list[int]:
    """The text behind the last visual token, or the last token alone."""
    after = [place for place in row if images and place > images[-1]]
    return after if "instruction" in ranker and after else row[-1:]


@pytest.mark.parametrize("ranker", RANKERS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_keeping_all_changes_no_bit(name: str, ranker: str) -> None:
    model, cut = model_for(name), pruning_for(name, ranker, (1,) * LAYERS)
    for inputs in inputs_for(name).values():
        logits, _ = run(name, cut, inputs)
        assert torch.equal(logits, model(**inputs).logits)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("ranker", RANKERS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_padded_batch_equals_its_samples(name: str, ranker: str, side: str) -> None:
    kind, cut = ARCHITECTURES[name], pruning_for(name, ranker)
    questions = kind.mixed
    inputs = batch(name, questions, side)
    logits, trace = run(name, cut, inputs)
    for sample, question in enumerate(questions):
        alone = single(name, questions, sample)
        start = int(inputs["attention_mask"][sample].argmax())
        found = logits[sample, trace.rows(sample, trace.kept[-1][sample])]
        if not question.images and kind.needs_images:
            continue
        expected, apart = run(name, cut, alone)
        # a call of text alone is not traced
        for together, own in zip(trace.kept, apart.kept, strict=bool(question.images)):
            assert torch.equal(together[sample], own[0] + start)
        assert_near(found, expected[0])


@pytest.mark.parametrize("ranker", RANKERS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_generate_equals_recomputation_without_a_cache(name: str, ranker: str) -> None:
    for inputs in (batch(name, ONE), batch(name, ARCHITECTURES[name].mixed)):
        assert_generates(name, pruning_for(name, ranker), inputs)


@pytest.mark.parametrize("name", OWN_WAYS)
def test_generate_goes_on_behind_a_pruned_layer_0(name: str) -> None:
    assert_generates(name, FROM_LAYER_0, batch(name, ARCHITECTURES[name].mixed))


def assert_generates(name: str, cut: Pruning, inputs: dict[str, Tensor]) -> None:
    """Every step's logits are those of an unpruned, masked forward over the whole row."""
    model, width = model_for(name), inputs["input_ids"].shape[1]
    options = {"max_new_tokens": STEPS, "do_sample": False, "suppress_tokens": list(range(IMAGE, VOCABULARY))}
    with pruned(model, cut) as handle:
        found = model.generate(**inputs, **options, return_dict_in_generate=True, output_logits=True)
    answers = found.sequences[:, -STEPS:]
    longer, places = answered(name, inputs, answers), with_answers(handle.trace, width, STEPS)
    expected = masked_forward(model, longer, places, prompt=width).logits[:, width - 1 : -1]
    assert_near(torch.stack(found.logits, 1), expected)
    assert torch.equal(answers, expected[:, :, :IMAGE].argmax(-1))


def with_answers(trace: Trace, width: int, count: int) -> list[list[list[int]]]:
    """The kept places, and those of `count` tokens behind a row of `width`, which every layer keeps."""
    return [[[*row, *range(width, width + count)] for row in layer] for layer in kept_lists(trace)]


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("name", OWN_WAYS)
def test_a_turn_of_text_goes_on_with_a_pruned_cache(name: str, layer: int) -> None:
    model, inputs, more = model_for(name), batch(name, ONE), torch.tensor([[7, 9, 11, 13, 17]])
    if layer == 0 and describe(model).traits.axial_positions:
        pytest.skip("refused: the positions must be given")
    cut = pruning_for(name, "attention:queries=last") if layer else FROM_LAYER_0
    width = inputs["input_ids"].shape[1]
    with pruned(model, cut) as handle:
        cache = model(**inputs).past_key_values
        logits = model(input_ids=more, past_key_values=cache).logits
    longer, places = answered(name, inputs, more), with_answers(handle.trace, width, 5)
    assert_near(logits, masked_forward(model, longer, places, prompt=width).logits[:, width:])


@pytest.mark.parametrize("ranker", RANKERS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_nothing_is_left_behind(name: str, ranker: str) -> None:
    model, inputs = model_for(name), batch(name, ONE)
    unpruned = model(**inputs).logits
    before = state_of(model)
    with pruned(model, pruning_for(name, ranker)):
        model(**inputs)
    assert same(before, state_of(model))
    stumbles = decoder_of(model).layers[3].register_forward_pre_hook(_stumble)
    with pytest.raises(KeyError, match="amid"), pruned(model, pruning_for(name, ranker)):
        model(**inputs)
    stumbles.remove()
    assert same(before, state_of(model))
    assert torch.equal(model(**inputs).logits, unpruned)


def _stumble(*_: Any) -> None:
    raise KeyError("amid a forward")
