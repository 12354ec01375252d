"""Calls that go on where a pruned prefill ended: more text, another image, and what cannot be continued."""

from typing import Any

import pytest
import torch
from cases import pruning
from eager_oracle import Row, choose, embeds_of, masked_run
from tiny_models import IMAGE, MIXED, ONE, Question, batch, tiny_llava
from torch import Tensor
from transformers import DynamicCache

from pruners import Pruning, pruned
from pruners.errors import UnsupportedCallError

GREEDY = {"max_new_tokens": 4, "do_sample": False}


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llava()


@pytest.fixture(autouse=True)
def no_grad() -> Any:
    with torch.no_grad():
        yield


def continued(model: Any, inputs: dict[str, Tensor], more: Tensor) -> dict[str, Tensor]:
    """The whole row of a second turn: what was said, and what follows."""
    mask = torch.cat([inputs["attention_mask"], torch.ones_like(more)], 1)
    return {"input_ids": torch.cat([inputs["input_ids"], more], 1), "attention_mask": mask}


def assert_ranked(model: Any, cut: Pruning, inputs: dict[str, Tensor], kept: Any, row: Row) -> None:
    """Every reduction of one sample chose as an unpruned run over the whole row would."""
    for layer in range(1, len(kept)):
        so_far = kept[:layer] + [kept[layer - 1]] * (len(kept) - layer)
        before, after = ([place for place in kept[at][0] if place in row.visual] for at in (layer - 1, layer))
        if len(after) < len(before):
            run = masked_run(model, inputs, so_far)
            assert after == choose(cut, run, layer, row, before, len(after)).kept


def second_row(ids: Tensor, start: int) -> Row:
    """The turn that begins behind `start` tokens, with its own text and its own image."""
    visual = [start + place for place, token in enumerate(ids.tolist()) if token == IMAGE]
    text = [start + place for place, token in enumerate(ids.tolist()) if token != IMAGE]
    return Row(0, text, visual, (4, 4))


class TestSecondTurn:
    @pytest.mark.parametrize("schedule", ["pdrop", "vtw", "from the start"])
    @pytest.mark.parametrize("questions", [ONE, MIXED])
    def test_of_text_equals_recomputation(self, model: Any, schedule: str, questions: Any) -> None:
        inputs, cut = batch(model, questions), pruning("random", schedule)
        more = torch.randint(2, 50, (len(questions), 3), generator=torch.Generator().manual_seed(7))
        both = continued(model, inputs, more)
        with pruned(model, cut) as handle:
            cache = model(**inputs).past_key_values
            logits = model(
                input_ids=more, attention_mask=both["attention_mask"], past_key_values=cache
            ).logits
            token = logits[:, -1:].argmax(-1)
            longer = continued(model, both, token)
            last = model(
                input_ids=token, attention_mask=longer["attention_mask"], past_key_values=cache
            ).logits
        width = inputs["input_ids"].shape[1]
        seen = [
            [places.tolist() + list(range(width, width + 4)) for places in layer]
            for layer in handle.trace.kept
        ]
        run = masked_run(model, inputs | longer, seen)
        torch.testing.assert_close(logits, run.logits[:, -4:-1], atol=1e-4, rtol=0)
        torch.testing.assert_close(last, run.logits[:, -1:], atol=1e-4, rtol=0)

    @pytest.mark.parametrize("first_is_pruned", [True, False])
    @pytest.mark.parametrize(
        "ranker",
        [
            "attention",
            "attention:queries=last,score_layer=next",
            "topv",
            "divprune",
            "knorm",
            "dart:visual_pivots=2",
        ],
    )
    def test_with_another_image(self, model: Any, ranker: str, first_is_pruned: bool) -> None:
        """After an image and an answer: the next image is cut too, ranked over all that the cache holds."""
        cut, answer = pruning(ranker, "pdrop"), torch.tensor([[9, 8]])
        one, two = batch(model, ONE, seed=1), batch(model, (Question((2, 4)),), seed=2)
        said = continued(model, one, answer)
        both = continued(model, said, two["input_ids"])
        pixels = torch.cat([one["pixel_values"], two["pixel_values"]])
        with pruned(model, cut if first_is_pruned else pruning(ranker, "all")) as handle:
            cache = model(**one).past_key_values
            model(input_ids=answer, past_key_values=cache)
            first = handle.trace.kept
        with pruned(model, cut) as handle:
            logits = model(**two | {"attention_mask": both["attention_mask"]}, past_key_values=cache).logits[
                0
            ]
        width = said["input_ids"].shape[1]
        seen = [
            [torch.cat([old[0], torch.tensor([width - 2, width - 1]), new[0] + width]).tolist()]
            for old, new in zip(first, handle.trace.kept, strict=True)
        ]
        inputs = both | {"pixel_values": pixels}
        places = handle.trace.kept[-1][0] + width
        expected = masked_run(model, inputs, seen).logits[0, places]
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
        assert_ranked(model, cut, inputs, seen, second_row(two["input_ids"][0], width))

    def test_positions_are_counted_where_layer_0_is_pruned(self, model: Any) -> None:
        """The cache of layer 0 is short, and the model would number new tokens by it."""
        inputs = batch(model, ONE)
        token = torch.tensor([[9]])
        with pruned(model, pruning("uniform", "from the start")):
            cache = model(**inputs).past_key_values
            implied = model(input_ids=token, past_key_values=cache).logits
            cache = model(**inputs).past_key_values
            told = model(input_ids=token, past_key_values=cache, position_ids=torch.tensor([[25]])).logits
        assert cache.get_seq_length() < 25
        assert torch.equal(implied, told)

    def test_a_whole_conversation_on_a_short_layer_0_is_refused(self, model: Any) -> None:
        """generate would cut the new tokens out of the row by the length of layer 0."""
        inputs = batch(model, ONE)
        with pruned(model, pruning("uniform", "from the start")):
            cache = model(**inputs).past_key_values
            both = continued(model, inputs, torch.tensor([[9, 8]]))
            with pytest.raises(UnsupportedCallError, match="continued with the new tokens alone"):
                model.generate(**both, past_key_values=cache, **GREEDY)

    def test_tokens_decoded_since_are_counted_too(self, model: Any) -> None:
        with pruned(model, pruning("uniform", "from the start")):
            cache = model(**batch(model, ONE)).past_key_values
            model(input_ids=torch.tensor([[9]]), past_key_values=cache)
            with pytest.raises(UnsupportedCallError, match=r"go on at \[25\] after \[26\] tokens"):
                model(input_ids=torch.tensor([[8]]), past_key_values=cache, position_ids=torch.tensor([[25]]))

    def test_another_handle_goes_on(self, model: Any) -> None:
        inputs, token = batch(model, MIXED), torch.tensor([[9], [8], [7], [6]])
        mask = torch.cat([inputs["attention_mask"], torch.ones_like(token)], 1)
        cut = pruning("attention", "pdrop")
        results = []
        for apart in (False, True):
            with pruned(model, cut):
                cache = model(**inputs).past_key_values
                if not apart:
                    results.append(model(input_ids=token, attention_mask=mask, past_key_values=cache).logits)
            if apart:
                with pruned(model, cut):
                    results.append(model(input_ids=token, attention_mask=mask, past_key_values=cache).logits)
        assert torch.equal(*results)

    def test_a_prefill_that_splits_an_image_is_refused(self, model: Any) -> None:
        inputs = batch(model, ONE)
        embeds = embeds_of(model, inputs)
        with pruned(model, pruning("attention", "pdrop")) as handle:
            cache = DynamicCache()
            handle.input_ids = inputs["input_ids"][:, :12]
            model(inputs_embeds=embeds[:, :12], past_key_values=cache)
            handle.input_ids = inputs["input_ids"][:, 12:]
            with pytest.raises(UnsupportedCallError, match="must not split them"):
                model(inputs_embeds=embeds[:, 12:], past_key_values=cache)
