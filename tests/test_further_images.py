"""A further image on a cache that holds one already, in every architecture: as if all had come in one call."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from masked_forward import masked_forward
from test_conformance import assert_near, is_clear_choice, kept_lists, pruning_for, voters_of
from torch import Tensor
from zoo import ARCHITECTURES, LAYERS, ONE, Question, batch, collated, model_for

from pruners import Pruning, pruned
from pruners.errors import UnsupportedCallError
from pruners.families import describe

#: BLIP's are called through an inner model, and PaliGemma's prompt sees itself in both directions
CALLED = [
    name
    for name, kind in ARCHITECTURES.items()
    if not kind.needs_images and kind.token_types != ("token_type_ids", 0, 1)
]
AXIAL = [name for name in CALLED if describe(model_for(name)).traits.axial_positions]
#: what is said about the first image, and asked about the next
ANSWER = torch.tensor([[9, 8, 7]])
NEXT = (Question((2, 4)),)
WHOLE = (1.0,) * LAYERS


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def conversation(name: str) -> dict[str, Tensor]:
    """Both turns, and the answer between them, as one call."""
    kind, one, two = ARCHITECTURES[name], batch(name, ONE), batch(name, NEXT, first=1)
    ids = torch.cat([one["input_ids"], ANSWER, two["input_ids"]], 1)
    both = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if kind.token_types:
        argument, _, mark = kind.token_types
        both[argument] = torch.cat([one[argument], torch.full_like(ANSWER, mark), two[argument]], 1)
    media = [{key: turn[key] for key in turn if key not in both} for turn in (one, two)]
    return both | collated([media], kind.stacked)


def second_call(name: str) -> dict[str, Tensor]:
    """The second turn alone, with what tells the model where in the conversation it is."""
    both, two = conversation(name), batch(name, NEXT, first=1)
    two = two | {"attention_mask": both["attention_mask"]}
    if "token_type_ids" in both:
        two["token_type_ids"] = both["token_type_ids"]
    if name in AXIAL:
        told = {key: value for key, value in both.items() if "pixel" not in key}
        positions, _ = model_for(name).model.get_rope_index(**told)
        two["position_ids"] = positions[:, :, -two["input_ids"].shape[1] :]
    return two


def two_turns(name: str, first: Pruning, second: Pruning) -> tuple[Tensor, list[list[list[int]]]]:
    """Logits of the second turn's kept tokens, and what each layer keeps of the conversation."""
    model = model_for(name)
    with pruned(model, first) as handle:
        cache = model(**batch(name, ONE)).past_key_values
        model(input_ids=ANSWER, past_key_values=cache)
        held = kept_lists(handle.trace)
    with pruned(model, second) as handle:
        logits = model(**second_call(name), past_key_values=cache).logits
    start = batch(name, ONE)["input_ids"].shape[1]
    said = list(range(start, start + ANSWER.shape[1]))
    new = [[place + said[-1] + 1 for place in layer[0]] for layer in kept_lists(handle.trace)]
    return logits[0], [[[*old[0], *said, *places]] for old, places in zip(held, new, strict=True)]


@pytest.mark.parametrize("first_is_pruned", [True, False])
@pytest.mark.parametrize("ranker", ["attention:queries=instruction", "attention:score_layer=next", "random"])
@pytest.mark.parametrize("name", CALLED)
def test_logits_equal_the_masked_conversation(name: str, ranker: str, first_is_pruned: bool) -> None:
    cut = pruning_for(name, ranker)
    logits, kept = two_turns(name, cut if first_is_pruned else pruning_for(name, ranker, WHOLE), cut)
    expected = masked_forward(model_for(name), conversation(name), kept).logits[0]
    assert len(kept[-1][0]) < expected.shape[0]
    assert_near(logits, expected[kept[-1][0][-len(logits) :]])


@pytest.mark.parametrize("first_is_pruned", [True, False])
@pytest.mark.parametrize("ranker", ["attention:queries=last", "attention:queries=instruction"])
@pytest.mark.parametrize("name", CALLED)
def test_the_further_image_is_ranked_over_all_that_the_cache_holds(
    name: str, ranker: str, first_is_pruned: bool
) -> None:
    cut, clear = pruning_for(name, ranker), 0
    _, kept = two_turns(name, cut if first_is_pruned else pruning_for(name, ranker, WHOLE), cut)
    start = batch(name, ONE)["input_ids"].shape[1] + ANSWER.shape[1]
    ids = conversation(name)["input_ids"][0]
    turn = range(start, len(ids))
    images = [place for place in turn if ids[place] == ARCHITECTURES[name].placeholder]
    for layer in range(1, LAYERS):
        # in the layer before, the first image is cut already as that layer's cache holds it
        so_far = kept[:layer] + [kept[layer - 1]] * (LAYERS - layer)
        eager = masked_forward(model_for(name), conversation(name), so_far)
        scores = eager.received(layer - 1, 0, voters_of(ranker, list(turn), images))
        clear += is_clear_choice(scores, kept[layer - 1][0], kept[layer][0], images)
    assert clear >= 1


@pytest.mark.parametrize("name", AXIAL)
def test_positions_of_several_axes_must_be_given(name: str) -> None:
    """The model would go on as if the image were text."""
    model, call = model_for(name), second_call(name)
    del call["position_ids"], call["attention_mask"]
    with pruned(model, pruning_for(name, "random")):
        cache = model(**batch(name, ONE)).past_key_values
        with pytest.raises(UnsupportedCallError, match="numbers a further image as if it were text"):
            model(**call, past_key_values=cache)


def refused(name: str, types: Any, message: str) -> None:
    model = model_for(name)
    with pruned(model, pruning_for(name, "random")):
        cache = model(**batch(name, ONE)).past_key_values
        both = torch.ones(1, 2 * batch(name, ONE)["input_ids"].shape[1], dtype=torch.long)
        with pytest.raises(UnsupportedCallError, match=message):
            model(
                **batch(name, ONE) | {"attention_mask": both, "token_type_ids": types(both)},
                past_key_values=cache,
            )


def test_kinds_of_tokens_are_told_for_the_cached_ones_too() -> None:
    width = batch("gemma3", ONE)["input_ids"].shape[1]
    refused(
        "gemma3", lambda both: both[:, :width], f"has {width} columns, the call {width} tokens after {width}"
    )


def test_a_prompt_that_sees_itself_in_both_directions_comes_in_one_call() -> None:
    refused("paligemma", torch.zeros_like, "give the whole conversation in one call")
